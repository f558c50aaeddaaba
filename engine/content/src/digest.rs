//! sha2-256 digests and their CIDs (version 1, raw codec).

use cid::Cid;
use cid::multihash::Multihash;
use sha2::{Digest as _, Sha256};

use crate::ContentError;

/// sha2-256 of an object's bytes.
pub type Digest = [u8; 32];

const CODEC_RAW: u64 = 0x55;
const HASH_SHA2_256: u64 = 0x12;

/// A CID of ours has 59 characters in base32 and fewer than 100 in any base that is not binary.
const CID_CHARACTERS_MAX: usize = 128;

/// sha2-256 of `bytes`.
pub fn digest_of(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

/// The CID of `digest`: version 1, raw codec, base32 in lower case (`bafkrei…`, 59 characters).
pub fn cid_of(digest: &Digest) -> String {
    // Wrapping fails only for digests above 64 bytes; this one has 32.
    let hash = Multihash::<64>::wrap(HASH_SHA2_256, digest).unwrap_or_default();
    Cid::new_v1(CODEC_RAW, hash).to_string()
}

/// The digest that `text` names. Any multibase text form is taken.
///
/// # Errors
/// [`ContentError::Cid`] when `text` is no CID, or one of another version, codec or hash.
pub fn digest_from_cid(text: &str) -> Result<Digest, ContentError> {
    let refuse = |reason: String| ContentError::Cid {
        text: text.chars().take(CID_CHARACTERS_MAX).collect(),
        reason,
    };
    if text.len() > CID_CHARACTERS_MAX {
        return Err(refuse(format!("longer than {CID_CHARACTERS_MAX} bytes")));
    }
    let cid = Cid::try_from(text).map_err(|error| refuse(error.to_string()))?;
    if cid.version() != cid::Version::V1 || cid.codec() != CODEC_RAW {
        return Err(refuse(
            "only version 1 with the raw codec is used here".into(),
        ));
    }
    if cid.hash().code() != HASH_SHA2_256 {
        return Err(refuse(format!(
            "hash function 0x{:x}; only sha2-256 is used here",
            cid.hash().code()
        )));
    }
    Digest::try_from(cid.hash().digest())
        .map_err(|_| refuse("a sha2-256 digest has 32 bytes".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cid_of_known_bytes_is_the_one_other_tools_print() {
        // Base32 of 0x01 0x55 0x12 0x20 and the output of `printf 'hello world' | sha256sum`.
        let cid = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
        assert_eq!(cid_of(&digest_of(b"hello world")), cid);
        assert_eq!(digest_from_cid(cid).unwrap(), digest_of(b"hello world"));
    }

    #[test]
    fn cids_of_other_kinds_are_refused_with_the_reason() {
        for (text, reason) in [
            ("", "short"),
            ("bafkrei", ""),
            (
                "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR",
                "version 1",
            ),
            // dag-pb instead of raw
            (
                "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",
                "raw codec",
            ),
        ] {
            let error = digest_from_cid(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(digest_from_cid(&"b".repeat(100_000)).is_err());
    }
}
