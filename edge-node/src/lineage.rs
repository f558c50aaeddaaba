//! Lineage: where an asset came from, as one hash.
//!
//! BLAKE3 over a domain name and the parts of the origin. Every part has a fixed length or is preceded by its length,
//! so no two different origins share one encoding.

/// Names this hash and its version. A change of the encoding needs a new one.
const DOMAIN: &[u8] = b"karat.lineage.v1";

/// The lineage of an asset. The same arguments give the same hash on every machine.
///
/// `variant` and `traits` have at most 64 bytes, as a manifest bounds them. `traits` are the value indexes in the
/// manifest's order. `parent_version` is the version of the asset that this one revises, 0 for a first version.
pub fn lineage_hash(
    model_digest: &[u8; 32],
    variant: &str,
    seed: &[u8; 32],
    traits: &[u8],
    parent_version: u32,
) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(DOMAIN);
    hasher.update(model_digest);
    hasher.update(&[variant.len() as u8]);
    hasher.update(variant.as_bytes());
    hasher.update(seed);
    hasher.update(&[traits.len() as u8]);
    hasher.update(traits);
    hasher.update(&parent_version.to_be_bytes());
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_changes_the_hash() {
        let base = lineage_hash(&[1; 32], "exact", &[2; 32], &[0, 1, 2], 0);
        let others = [
            lineage_hash(&[0; 32], "exact", &[2; 32], &[0, 1, 2], 0),
            lineage_hash(&[1; 32], "small", &[2; 32], &[0, 1, 2], 0),
            lineage_hash(&[1; 32], "exact", &[3; 32], &[0, 1, 2], 0),
            lineage_hash(&[1; 32], "exact", &[2; 32], &[0, 1, 3], 0),
            lineage_hash(&[1; 32], "exact", &[2; 32], &[0, 1], 0),
            lineage_hash(&[1; 32], "exact", &[2; 32], &[0, 1, 2], 1),
        ];
        for other in others {
            assert_ne!(base, other);
        }
        assert_eq!(
            base,
            lineage_hash(&[1; 32], "exact", &[2; 32], &[0, 1, 2], 0)
        );
    }

    #[test]
    fn the_hash_of_a_fixed_origin_never_changes() {
        let hash = lineage_hash(&[1; 32], "exact", &[2; 32], &[0, 1, 2], 0);
        assert_eq!(
            hex::encode(hash),
            "431cbb6b667f88590527ef7f6972ebe8688bc93eb60f2c7a81c31f0652b84f9c"
        );
    }
}
