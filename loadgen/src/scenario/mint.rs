//! Mints: every one a new asset with its own seed, all of one stored image.

use bytes::Bytes;
use karat_proto::v1;
use rand::RngCore as _;
use rand_chacha::ChaCha8Rng;
use sha2::Digest as _;

/// The image that every minted asset has. The first mint carries it, later ones name its digest.
///
/// A relic that `karat-edge generate` made of the seed `07` x 32: agents look at what is minted, and a mere test picture
/// would be rejected, and its assets with it.
pub const CONTENT: &[u8] = include_bytes!("load.png");

/// What the image shows: names and values as the generator's manifest has them. Only what an auditor reads surely from it.
pub const TRAITS: [(&str, &[&str]); 2] = [
    (
        "kind",
        &["blade", "shield", "flask", "ring", "helm", "familiar"],
    ),
    (
        "palette",
        &["crimson", "azure", "emerald", "amber", "violet", "rose"],
    ),
];
/// A helm in crimson.
const SHOWN: &[u8] = &[4, 0];

/// sha2-256 of [`CONTENT`].
pub fn content_digest() -> [u8; 32] {
    sha2::Sha256::digest(CONTENT).into()
}

/// What all mints of a run share.
#[derive(Clone)]
pub struct MintForm {
    /// The collection's creator, who alone may mint.
    pub creator: Bytes,
    /// The collection.
    pub collection: u32,
    /// An approved generator's digest.
    pub model: Bytes,
    /// Digest of the stored image.
    pub digest: Bytes,
}

impl MintForm {
    /// One mint for `owner` (nobody when empty). `content` is for the first mint, which brings the bytes.
    pub fn mint(&self, owner: Bytes, content: Bytes, random: &mut ChaCha8Rng) -> v1::Mint {
        let mut seed = [0; 32];
        random.fill_bytes(&mut seed);
        v1::Mint {
            collection: self.collection,
            owner,
            digest: self.digest.clone(),
            size: CONTENT.len() as u32,
            traits: Bytes::from_static(SHOWN),
            lineage: Some(v1::Lineage {
                model: self.model.clone(),
                variant: "load".into(),
                seed: Bytes::copy_from_slice(&seed),
            }),
            content,
        }
    }
}

impl MintForm {
    /// A new version of an asset: another seed, the same image.
    pub fn revise(&self, asset: u64, version: u32, random: &mut ChaCha8Rng) -> v1::Revise {
        let mint = self.mint(Bytes::new(), Bytes::new(), random);
        v1::Revise {
            asset,
            version,
            collection: self.collection,
            digest: mint.digest,
            size: mint.size,
            traits: mint.traits,
            lineage: mint.lineage,
            content: Bytes::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CONTENT, SHOWN, TRAITS};

    #[test]
    fn the_image_is_a_png_and_its_traits_are_in_the_vocabulary() {
        assert!(CONTENT.starts_with(b"\x89PNG\r\n\x1a\n"));
        assert!(CONTENT.len() <= karat_proto::limits::CONTENT_BYTES_MAX);
        let shown = TRAITS.iter().zip(SHOWN);
        let names: Vec<&str> = shown
            .map(|((_, values), shown)| values[usize::from(*shown)])
            .collect();
        assert_eq!(names, ["helm", "crimson"]);
    }
}
