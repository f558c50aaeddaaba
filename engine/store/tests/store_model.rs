//! Any course of changes, resets and reopenings: the embedded store answers as the one in memory does.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use bytes::Bytes;
use karat_store::{EmbeddedStore, MemoryStore, Order, Projection, Store, Write};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Apply(Vec<(u64, Vec<Write>)>),
    ApplyAgain(u64),
    Reopen,
    Reset,
    Flush,
}

fn row() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn account() -> impl Strategy<Value = [u8; 20]> {
    (0u8..4).prop_map(|fill| [fill; 20])
}

fn write() -> impl Strategy<Value = Write> {
    let number = 0u64..6;
    prop_oneof![
        (number.clone(), row()).prop_map(|(asset, row)| Write::PutAsset { asset, row }),
        (number.clone(), 0u64..6, 0u16..3, row()).prop_map(|(asset, sequence, index, row)| {
            Write::AddHistory {
                asset,
                sequence,
                index,
                row,
            }
        }),
        (
            number.clone(),
            prop::option::of(account()),
            prop::option::of(account())
        )
            .prop_map(|(asset, from, to)| Write::SetOwner { asset, from, to }),
        (0u32..4, number.clone())
            .prop_map(|(collection, asset)| Write::AddToCollection { collection, asset }),
        (0u32..4, row()).prop_map(|(collection, row)| Write::PutCollection { collection, row }),
        (number.clone(), row()).prop_map(|(batch, row)| Write::PutBatch { batch, row }),
        (number.clone(), number, row()).prop_map(|(batch, asset, row)| Write::AddBatchLeaf {
            batch,
            asset,
            row
        }),
        (0u8..4, row()).prop_map(|(fill, row)| Write::PutModel {
            digest: [fill; 32],
            row
        }),
        (account(), row()).prop_map(|(account, row)| Write::PutAccount { account, row }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let writes = prop::collection::vec(write(), 0..12);
    let projections = prop::collection::vec((1u64..4, writes), 1..5);
    prop_oneof![
        12 => projections.prop_map(Step::Apply),
        2 => (0u64..10).prop_map(Step::ApplyAgain),
        2 => Just(Step::Reopen),
        1 => Just(Step::Reset),
        1 => Just(Step::Flush),
    ]
}

/// Everything that can be asked, as text.
fn answers(store: &dyn Store, limit: usize) -> String {
    let mut all = vec![format!("{:?}", store.projected_seq().unwrap())];
    for number in 0..7u64 {
        all.push(format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            store.asset(number).unwrap(),
            store.history(number, None, limit).unwrap(),
            store.history(number, Some((number, 1)), limit).unwrap(),
            store.batch(number).unwrap(),
            store.batch_leaves(number, None, limit).unwrap(),
            store.batch_leaves(number, Some(2), limit).unwrap(),
            store.assets_batch(number).unwrap(),
        ));
        for order in [Order::OldestFirst, Order::NewestFirst] {
            all.push(format!(
                "{:?}",
                store.batches(Some(number), order, limit).unwrap()
            ));
            all.push(format!("{:?}", store.batches(None, order, limit).unwrap()));
        }
    }
    for fill in 0..5u8 {
        let account = [fill; 20];
        let number = u32::from(fill);
        all.push(format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            store.assets_of_owner(&account, None, limit).unwrap(),
            store.assets_of_owner(&account, Some(2), limit).unwrap(),
            store.account(&account).unwrap(),
            store.model(&[fill; 32]).unwrap(),
            store.models(Some([fill; 32]), limit).unwrap(),
            store.collection(number).unwrap(),
            store.collections(Some(number), limit).unwrap(),
            store.assets_of_collection(number, None, limit).unwrap(),
            store.assets_of_collection(number, Some(3), limit).unwrap(),
        ));
    }
    all.push(format!(
        "{:?} {:?}",
        store.models(None, limit).unwrap(),
        store.collections(None, limit).unwrap()
    ));
    all.join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_embedded_store_answers_as_the_one_in_memory(steps in prop::collection::vec(step(), 1..24)) {
        let folder = tempfile::tempdir().unwrap();
        let mut embedded = EmbeddedStore::open(folder.path()).unwrap();
        let memory = MemoryStore::new();
        let mut sequence = 0;
        for step in steps {
            match step {
                Step::Apply(parts) => {
                    let projections: Vec<_> = parts
                        .into_iter()
                        .map(|(gap, writes)| {
                            sequence += gap;
                            Projection { sequence, writes }
                        })
                        .collect();
                    embedded.apply(&projections).unwrap();
                    memory.apply(&projections).unwrap();
                }
                Step::ApplyAgain(back) => {
                    let old = Projection {
                        sequence: sequence.saturating_sub(back),
                        writes: vec![Write::PutAsset { asset: 1, row: Bytes::from_static(b"old") }],
                    };
                    embedded.apply(std::slice::from_ref(&old)).unwrap();
                    memory.apply(&[old]).unwrap();
                }
                Step::Reopen => {
                    drop(embedded);
                    embedded = EmbeddedStore::open(folder.path()).unwrap();
                }
                Step::Reset => {
                    embedded.reset().unwrap();
                    memory.reset().unwrap();
                    sequence = 0;
                }
                Step::Flush => embedded.flush().unwrap(),
            }
            prop_assert_eq!(answers(&embedded, 100), answers(&memory, 100));
            prop_assert_eq!(answers(&embedded, 2), answers(&memory, 2));
        }
    }
}
