//! The tree equals OpenZeppelin's, and its proofs prove exactly what is in it.
#![allow(clippy::unwrap_used)]

use karat_settlement::chain::hexadecimal::parse_bytes;
use karat_settlement::merkle::{LEAVES_MAX, MerkleError, verify};
use karat_settlement::{Leaf, LeafKind, MerkleTree};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

/// The leaf that `deploy/contracts/golden-roots.mjs` derives for the same size and index.
fn golden_leaf(size: usize, index: usize) -> Leaf {
    let seed: [u8; 32] = Sha256::digest(format!("karat leaf {size} {index}")).into();
    let number = |at: usize| u32::from_be_bytes(seed[at..at + 4].try_into().unwrap());
    Leaf {
        asset: index as u64 + 1,
        owner: seed[..20].try_into().unwrap(),
        version: number(20),
        metadata: Sha256::digest(seed).into(),
        collection: number(24),
        kind: LeafKind::from_number(seed[28] % 3).unwrap(),
    }
}

fn leaves(count: usize) -> Vec<Leaf> {
    (0..count).map(|index| golden_leaf(count, index)).collect()
}

#[test]
fn roots_and_proofs_equal_those_of_openzeppelin() {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("golden/standard_tree.json")).unwrap();
    let encoding: Vec<String> = serde_json::from_value(golden["leafEncoding"].clone()).unwrap();
    assert_eq!(encoding, karat_settlement::leaf::LEAF_ENCODING);
    let trees = golden["trees"].as_array().unwrap();
    assert_eq!(trees.len(), 7);
    for tree in trees {
        let size = tree["size"].as_u64().unwrap() as usize;
        let ours = MerkleTree::new(&leaves(size)).unwrap();
        let root: [u8; 32] = parse_bytes(&tree["root"]).unwrap();
        assert_eq!(ours.root(), root, "root of {size} leaves");
        for proof in tree["proofs"].as_array().unwrap() {
            let index = proof["index"].as_u64().unwrap() as usize;
            let siblings: Vec<[u8; 32]> = proof["proof"]
                .as_array()
                .unwrap()
                .iter()
                .map(|sibling| parse_bytes(sibling).unwrap())
                .collect();
            assert_eq!(
                ours.proof(index).unwrap(),
                siblings,
                "leaf {index} of {size}"
            );
        }
    }
}

#[test]
fn no_tree_without_leaves_or_with_more_than_a_batch_holds() {
    assert_eq!(MerkleTree::new(&[]), Err(MerkleError::Empty));
    let hashes = vec![[7; 32]; LEAVES_MAX + 1];
    assert_eq!(
        MerkleTree::from_leaf_hashes(&hashes, 1),
        Err(MerkleError::TooManyLeaves {
            count: LEAVES_MAX + 1
        })
    );
    let one = MerkleTree::new(&leaves(1)).unwrap();
    assert_eq!(one.proof(0), Ok(Vec::new()));
    assert_eq!(
        one.proof(1),
        Err(MerkleError::NoSuchLeaf { index: 1, count: 1 })
    );
}

#[test]
fn threads_change_nothing() {
    for count in [1, 2, 4_095, 4_097, 10_000] {
        let leaves = leaves(count);
        let one = MerkleTree::new(&leaves).unwrap();
        for threads in [2, 3] {
            assert_eq!(
                MerkleTree::with_threads(&leaves, threads).unwrap(),
                one,
                "{count} leaves"
            );
        }
    }
}

#[test]
fn the_largest_batch_has_a_proof_of_sixteen_hashes() {
    let leaves = leaves(LEAVES_MAX);
    let tree = MerkleTree::with_threads(&leaves, 2).unwrap();
    for index in [0, 1, 40_000, LEAVES_MAX - 1] {
        let proof = tree.proof(index).unwrap();
        assert_eq!(proof.len(), 16);
        assert!(verify(&tree.root(), &leaves[index].hash(), &proof));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_leaf_is_proved_and_nothing_else(count in 1usize..300, other in 0usize..300, bit in 0usize..256) {
        let leaves = leaves(count);
        let tree = MerkleTree::new(&leaves).unwrap();
        for (index, leaf) in leaves.iter().enumerate() {
            prop_assert!(verify(&tree.root(), &leaf.hash(), &tree.proof(index).unwrap()));
        }
        let index = other % count;
        let proof = tree.proof(index).unwrap();
        // A leaf that differs in anything is not under the root.
        let changed = Leaf { version: leaves[index].version ^ 1, ..leaves[index] };
        prop_assert!(!verify(&tree.root(), &changed.hash(), &proof));
        // Nor is the right leaf with a flipped bit anywhere in its proof, or with a shorter proof.
        for position in 0..proof.len() {
            let mut tampered = proof.clone();
            tampered[position][bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!verify(&tree.root(), &leaves[index].hash(), &tampered));
        }
        if !proof.is_empty() {
            prop_assert!(!verify(&tree.root(), &leaves[index].hash(), &proof[1..]));
        }
    }

    #[test]
    fn the_root_does_not_depend_on_the_order_of_leaves(count in 2usize..100, shift in 1usize..100) {
        let leaves = leaves(count);
        let mut rotated = leaves.clone();
        rotated.rotate_left(shift % count);
        prop_assert_eq!(MerkleTree::new(&leaves).unwrap().root(), MerkleTree::new(&rotated).unwrap().root());
    }
}
