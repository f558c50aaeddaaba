//! The block's encoding and the rules by which every reader agrees on a log.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::{Memory, body};
use karat_sequencer::{
    Block, BlockError, BlockHeader, Chain, ChainError, IngressOffset, NO_PARENT, ReadError,
    ReplayError, replay, replay_after,
};
use proptest::prelude::*;

fn block(epoch: u64, first_sequence: u64, parent: &[u8; 32], time_ms: u64, count: u64) -> Block {
    let header = BlockHeader {
        realm: "test".to_owned(),
        epoch,
        first_sequence,
        time_ms,
        parent: *parent,
        ingress: Vec::new(),
    };
    Block {
        header,
        bodies: (0..count)
            .map(|index| body(first_sequence + index, 12))
            .collect(),
    }
}

fn run(
    blocks: &[Block],
    from_sequence: u64,
) -> (Memory, Result<karat_sequencer::ReplaySummary, ReplayError>) {
    let mut machine = Memory::default();
    let summary = replay(
        blocks.iter().cloned().map(Ok::<_, ReadError>),
        from_sequence,
        &mut machine,
    );
    (machine, summary)
}

/// A marker, then blocks of 2, 3 and 4 commands.
fn healthy() -> Vec<Block> {
    let marker = block(1, 1, &NO_PARENT, 10, 0);
    let first = block(1, 1, &marker.hash().unwrap(), 10, 2);
    let second = block(1, 3, &first.hash().unwrap(), 11, 3);
    let third = block(1, 6, &second.hash().unwrap(), 11, 4);
    vec![marker, first, second, third]
}

#[test]
fn a_golden_block_keeps_its_bytes() {
    let golden = Block {
        header: BlockHeader {
            realm: "gold".to_owned(),
            epoch: 2,
            first_sequence: 258,
            time_ms: 1_700_000_000_123,
            parent: [0xAB; 32],
            ingress: vec![IngressOffset {
                topic: "in".to_owned(),
                partition: 3,
                offset: -1,
            }],
        },
        bodies: vec![Bytes::from_static(b"mint"), Bytes::new()],
    };
    let mut expected = vec![1, 4];
    expected.extend(b"gold");
    expected.extend([2, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([2, 1, 0, 0, 0, 0, 0, 0]);
    expected.extend([0x7B, 0x68, 0xE5, 0xCF, 0x8B, 0x01, 0, 0]);
    expected.extend([0xAB; 32]);
    expected.extend([1, 0, 2, 0]);
    expected.extend(b"in");
    expected.extend([3, 0, 0, 0]);
    expected.extend([0xFF; 8]);
    expected.extend([2, 0, 0, 0, 4, 0, 0, 0]);
    expected.extend(b"mint");
    expected.extend([0, 0, 0, 0]);
    assert_eq!(golden.encode().unwrap(), expected);
    assert_eq!(Block::decode(&Bytes::from(expected)).unwrap(), golden);
}

#[test]
fn a_healthy_log_is_applied_whole() {
    let (machine, summary) = run(&healthy(), 1);
    let summary = summary.unwrap();
    assert_eq!(
        (summary.blocks, summary.commands, summary.markers),
        (3, 9, 1)
    );
    assert_eq!(
        machine
            .applied
            .iter()
            .map(|(sequence, ..)| *sequence)
            .collect::<Vec<_>>(),
        (1..=9).collect::<Vec<_>>()
    );
}

#[test]
fn a_replay_from_the_middle_applies_only_the_rest() {
    let (machine, summary) = run(&healthy()[1..], 6);
    assert_eq!(
        machine
            .applied
            .iter()
            .map(|(sequence, ..)| *sequence)
            .collect::<Vec<_>>(),
        [6, 7, 8, 9]
    );
    assert_eq!(summary.unwrap().skipped, 2);
    let (machine, error) = run(&healthy()[1..], 7);
    assert!(matches!(
        error,
        Err(ReplayError::Straddles {
            from_sequence: 7,
            first_sequence: 6
        })
    ));
    assert!(machine.applied.is_empty());
    let (_, error) = run(&healthy()[3..], 5);
    assert!(matches!(
        error,
        Err(ReplayError::Missing {
            from_sequence: 5,
            first_sequence: 6
        })
    ));
}

#[test]
fn a_replay_after_a_snapshot_must_link_to_it() {
    let blocks = healthy();
    let head = blocks[2].hash().unwrap();
    let rest = || blocks[3..].iter().cloned().map(Ok::<_, ReadError>);
    let mut machine = Memory::default();
    let summary = replay_after(Chain::after(5, head, 11, 1), rest(), 6, &mut machine).unwrap();
    assert_eq!((summary.commands, summary.chain.last_sequence()), (4, 9));
    let error = replay_after(
        Chain::after(5, [9; 32], 11, 1),
        rest(),
        6,
        &mut Memory::default(),
    );
    assert!(matches!(
        error,
        Err(ReplayError::Chain(ChainError::Parent { first_sequence: 6 }))
    ));
}

#[test]
fn a_gap_a_wrong_parent_and_falling_time_stop_a_replay() {
    let break_one = |change: &dyn Fn(&mut Block)| {
        let mut blocks = healthy();
        change(&mut blocks[2]);
        let (machine, summary) = run(&blocks, 1);
        assert_eq!(
            machine.applied.len(),
            2,
            "nothing after the break is applied"
        );
        summary.unwrap_err()
    };
    let error = break_one(&|block| block.header.first_sequence = 4);
    assert!(
        matches!(
            error,
            ReplayError::Chain(ChainError::Sequence {
                expected: 3,
                found: 4
            })
        ),
        "{error}"
    );
    let error = break_one(&|block| block.header.parent[0] ^= 1);
    assert!(
        matches!(
            error,
            ReplayError::Chain(ChainError::Parent { first_sequence: 3 })
        ),
        "{error}"
    );
    let error = break_one(&|block| block.header.time_ms = 9);
    assert!(
        matches!(
            error,
            ReplayError::Chain(ChainError::Time {
                last_ms: 10,
                found_ms: 9,
                ..
            })
        ),
        "{error}"
    );
    let error = break_one(&|block| block.header.realm = "other".to_owned());
    assert!(
        matches!(error, ReplayError::Chain(ChainError::Realm { .. })),
        "{error}"
    );
    let error = break_one(&|block| block.bodies.clear());
    assert!(
        matches!(
            error,
            ReplayError::Chain(ChainError::Sequence {
                expected: 3,
                found: 6
            })
        ),
        "{error}"
    );
    let error = break_one(&|block| block.bodies[1] = Bytes::from_static(b"undecodable"));
    assert!(
        matches!(error, ReplayError::Undecodable { sequence: 4, .. }),
        "{error}"
    );
}

#[test]
fn a_changed_body_breaks_the_chain_behind_it() {
    let mut blocks = healthy();
    blocks[1].bodies[0] = body(77, 12);
    assert!(matches!(
        run(&blocks, 1).1,
        Err(ReplayError::Chain(ChainError::Parent { first_sequence: 3 }))
    ));
}

#[test]
fn of_two_markers_with_one_epoch_the_first_has_it_whether_the_second_links_or_not() {
    let mut blocks = healthy();
    let head = blocks[3].hash().unwrap();
    // This one has not read the last block, the next one has: only its place in the log decides.
    let first = block(2, 6, &blocks[2].hash().unwrap(), 11, 0);
    let second = block(2, 10, &head, 12, 0);
    let own = block(2, 10, &head, 12, 1);
    blocks.extend([first, second, own]);
    let (machine, summary) = run(&blocks, 1);
    let summary = summary.unwrap();
    assert_eq!((summary.markers, summary.void), (2, 1));
    assert_eq!(machine.applied.len(), 10);
}

#[test]
fn blocks_of_a_replaced_leader_are_void_for_every_reader() {
    let mut blocks = healthy();
    // The new leader's marker was appended before it had read the old leader's last block: it fences all the same,
    // and the chain goes on from that last block.
    let fence = block(2, 6, &blocks[2].hash().unwrap(), 11, 0);
    let late = block(1, 10, &blocks[3].hash().unwrap(), 12, 5);
    let marker = block(3, 10, &blocks[3].hash().unwrap(), 12, 0);
    let own = block(3, 10, &marker.hash().unwrap(), 12, 1);
    blocks.extend([fence, late.clone(), marker, late, own]);
    let (machine, summary) = run(&blocks, 1);
    let summary = summary.unwrap();
    assert_eq!(
        (summary.void, summary.markers, summary.commands),
        (2, 3, 10)
    );
    assert_eq!(summary.chain.epoch(), 3);
    assert_eq!(machine.applied.len(), 10);
}

fn blocks() -> impl Strategy<Value = Block> {
    let ingress = prop::collection::btree_map(("[a-z]{0,9}", any::<i32>()), any::<i64>(), 0..4);
    let bodies = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6);
    (
        "[a-z]{0,64}",
        any::<u64>(),
        1..u64::MAX - 10,
        any::<u64>(),
        any::<[u8; 32]>(),
        ingress,
        bodies,
    )
        .prop_map(
            |(realm, epoch, first_sequence, time_ms, parent, ingress, bodies)| {
                let ingress = ingress
                    .into_iter()
                    .map(|((topic, partition), offset)| IngressOffset {
                        topic,
                        partition,
                        offset,
                    })
                    .collect();
                let header = BlockHeader {
                    realm,
                    epoch,
                    first_sequence,
                    time_ms,
                    parent,
                    ingress,
                };
                Block {
                    header,
                    bodies: bodies.into_iter().map(Bytes::from).collect(),
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_block_survives_its_encoding(block in blocks()) {
        let encoded = block.encode().unwrap();
        prop_assert_eq!(Block::decode(&encoded).unwrap(), block.clone());
        prop_assert_eq!(*blake3::hash(&encoded).as_bytes(), block.hash().unwrap());
    }

    /// Bytes that decode are the only bytes of what they decode to.
    #[test]
    fn changed_bytes_are_refused_or_are_another_block(block in blocks(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let encoded = block.encode().unwrap();
        let at = at.index(encoded.len());
        let mut changed = encoded.to_vec();
        changed[at] ^= 1_u8 << bit;
        let changed = Bytes::from(changed);
        if let Ok(other) = Block::decode(&changed) {
            prop_assert_ne!(&other, &block);
            prop_assert_eq!(other.encode().unwrap(), changed);
        }
        prop_assert!(Block::decode(&encoded.slice(..at)).is_err());
        let mut longer = encoded.to_vec();
        longer.push(0);
        let longer = Block::decode(&Bytes::from(longer));
        prop_assert_eq!(longer, Err(BlockError::TrailingBytes { count: 1 }));
    }
}
