//! The hashes that pin an asset's provenance, what a settlement leaf says of it, and a collection's secret.

use crate::ids::{CollectionId, Digest};

/// blake3 over model digest, variant, seed, trait values and parent version, with the domain `karat.lineage.v1`.
///
/// Every part has a fixed length or is preceded by its length, so no two different lineages share an encoding.
pub fn lineage_hash(
    model: &Digest,
    variant: &str,
    seed: &Digest,
    traits: &[u8],
    parent_version: u32,
) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"karat.lineage.v1");
    hasher.update(model);
    hasher.update(&[variant.len() as u8]);
    hasher.update(variant.as_bytes());
    hasher.update(seed);
    hasher.update(&[traits.len() as u8]);
    hasher.update(traits);
    hasher.update(&parent_version.to_be_bytes());
    *hasher.finalize().as_bytes()
}

/// blake3 over collection, content digest, trait values and lineage hash, with the domain `karat.metadata.v1`.
pub fn metadata_digest(
    collection: CollectionId,
    content: &Digest,
    traits: &[u8],
    lineage: &Digest,
) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"karat.metadata.v1");
    hasher.update(&collection.to_be_bytes());
    hasher.update(content);
    hasher.update(&[traits.len() as u8]);
    hasher.update(traits);
    hasher.update(lineage);
    *hasher.finalize().as_bytes()
}

/// sha2-256 of a collection's secret: what the collection commits to when it is created.
pub fn seed_commitment(secret: &Digest) -> Digest {
    use sha2::Digest as _;
    sha2::Sha256::digest(secret).into()
}
