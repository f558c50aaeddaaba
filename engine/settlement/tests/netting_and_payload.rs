//! Netting keeps the last state of each asset; a payload has one encoding and gives back what went in.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use karat_settlement::payload::{PayloadError, cid_of_digest, payload_digest};
use karat_settlement::{Change, Leaf, LeafKind, MerkleTree, Payload, ProofDocument, net};
use proptest::prelude::*;

use common::leaf;

fn kind() -> impl Strategy<Value = LeafKind> {
    prop_oneof![
        Just(LeafKind::Held),
        Just(LeafKind::Burned),
        Just(LeafKind::Redeemed)
    ]
}

fn any_leaf(assets: u64) -> impl Strategy<Value = Leaf> {
    (
        0..assets,
        any::<[u8; 20]>(),
        any::<u32>(),
        any::<[u8; 32]>(),
        any::<u32>(),
        kind(),
    )
        .prop_map(|(asset, owner, version, metadata, collection, kind)| Leaf {
            asset,
            owner,
            version,
            metadata,
            collection,
            kind,
        })
}

fn any_changes() -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec((0u64..200, any_leaf(30)), 0..200).prop_map(|changes| {
        changes
            .into_iter()
            .map(|(sequence, leaf)| Change { sequence, leaf })
            .collect()
    })
}

fn payload(leaves: Vec<Leaf>) -> Payload {
    Payload {
        number: 7,
        parent: [3; 32],
        first_sequence: 1_001,
        last_sequence: 2_000,
        log_head: [9; 32],
        leaves,
    }
}

proptest! {
    #[test]
    fn netting_keeps_the_last_leaf_of_each_asset_sorted_by_asset(changes in any_changes()) {
        let mut last: BTreeMap<u64, (u64, Leaf)> = BTreeMap::new();
        for change in &changes {
            let entry = last.entry(change.leaf.asset).or_insert((change.sequence, change.leaf));
            if change.sequence >= entry.0 {
                *entry = (change.sequence, change.leaf);
            }
        }
        let expected: Vec<Leaf> = last.into_values().map(|(_, leaf)| leaf).collect();
        prop_assert_eq!(net(&changes), expected);
    }

    #[test]
    fn netting_what_is_netted_changes_nothing(changes in any_changes()) {
        let once = net(&changes);
        let again: Vec<Change> = once.iter().map(|leaf| Change { sequence: 1, leaf: *leaf }).collect();
        prop_assert_eq!(net(&again), once);
    }

    #[test]
    fn a_payload_gives_back_what_went_in(changes in any_changes()) {
        let payload = payload(net(&changes));
        let bytes = payload.encode().unwrap();
        prop_assert_eq!(Payload::decode(&bytes).unwrap(), payload);
    }

    #[test]
    fn bytes_that_decode_are_the_one_encoding(changes in any_changes(), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let mut bytes = payload(net(&changes)).encode().unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(decoded) = Payload::decode(&bytes) {
            prop_assert_eq!(decoded.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn a_cut_or_longer_payload_is_refused(changes in any_changes(), cut in any::<prop::sample::Index>()) {
        let bytes = payload(net(&changes)).encode().unwrap();
        prop_assert!(Payload::decode(&bytes[..cut.index(bytes.len())]).is_err());
        let mut longer = bytes;
        longer.push(0);
        prop_assert!(Payload::decode(&longer).is_err());
    }

    #[test]
    fn a_proof_document_survives_json_and_proves_its_leaf(leaves in prop::collection::vec(any_leaf(1_000), 1..40), index in any::<prop::sample::Index>()) {
        let tree = MerkleTree::new(&leaves).unwrap();
        let index = index.index(leaves.len());
        let batch = common::first_batch(&tree);
        let document = ProofDocument::new(&leaves[index], &tree.proof(index).unwrap(), &batch, None, [5; 20], 1);
        let text = serde_json::to_string(&document).unwrap();
        let read: ProofDocument = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&read, &document);
        prop_assert_eq!(read.check(), Ok(leaves[index]));
        let mut lying = read;
        lying.value[2] = (u64::from(leaves[index].version ^ 1)).to_string();
        prop_assert!(lying.check().is_err());
    }
}

#[test]
fn the_payload_format_is_pinned() {
    let bytes = payload(vec![leaf(1, LeafKind::Held), leaf(2, LeafKind::Redeemed)])
        .encode()
        .unwrap();
    assert_eq!(bytes.len(), 102 + 2 * 69);
    assert_eq!(&bytes[..10], b"KARATBAT\x01\x00");
    assert_eq!(
        hex::encode(payload_digest(&bytes)),
        "0192dc3d32f53fe10d9c64361972ca5ba529ae567ac5a632c7067d1ab270ed59"
    );
}

#[test]
fn the_cid_of_a_digest_is_the_one_every_tool_gives() {
    // sha2-256 of "hello world", raw codec: `ipfs add --raw-leaves --cid-version 1` gives this.
    assert_eq!(
        cid_of_digest(&payload_digest(b"hello world")),
        "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
    );
}

#[test]
fn payloads_with_a_wrong_start_format_kind_or_order_are_refused() {
    let bytes = payload(vec![leaf(1, LeafKind::Held), leaf(2, LeafKind::Held)])
        .encode()
        .unwrap();
    let changed = |at: usize, to: u8| {
        let mut changed = bytes.clone();
        changed[at] = to;
        Payload::decode(&changed)
    };
    assert_eq!(changed(0, b'X'), Err(PayloadError::NotAPayload));
    assert_eq!(changed(8, 2), Err(PayloadError::UnknownFormat { found: 2 }));
    assert_eq!(
        changed(102 + 68, 3),
        Err(PayloadError::UnknownKind { index: 0, kind: 3 })
    );
    assert_eq!(changed(102, 2), Err(PayloadError::NotSorted { index: 1 }));
    let twice = payload(vec![leaf(1, LeafKind::Held), leaf(1, LeafKind::Held)]);
    assert_eq!(twice.encode(), Err(PayloadError::NotSorted { index: 1 }));
}
