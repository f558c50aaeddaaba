//! Lineage: where an asset came from, as one hash.
//!
//! The hash itself stands beside the types that the engine checks it with; here it is used and pinned.

pub use karat_proto::lineage::lineage_hash;

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
