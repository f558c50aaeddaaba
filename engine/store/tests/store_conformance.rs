//! The promises of `Store`, checked on every implementation.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use bytes::Bytes;
use karat_store::{
    Account, EmbeddedStore, HistoryRow, MemoryStore, Order, PAGE_ROWS_MAX, Projection, Store,
    StoreError, Write,
};

fn on_every_store(check: impl Fn(&dyn Store)) {
    check(&MemoryStore::new());
    let folder = tempfile::tempdir().unwrap();
    check(&EmbeddedStore::open(folder.path()).unwrap());
}

fn row(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn projection(sequence: u64, writes: impl Into<Vec<Write>>) -> Projection {
    Projection {
        sequence,
        writes: writes.into(),
    }
}

fn apply(store: &dyn Store, sequence: u64, writes: impl Into<Vec<Write>>) {
    store.apply(&[projection(sequence, writes)]).unwrap();
}

const ALICE: Account = [0xa1; 20];
const BOB: Account = [0xb0; 20];

#[test]
fn an_empty_store_is_at_zero_and_has_no_rows() {
    on_every_store(|store| {
        assert_eq!(store.projected_seq().unwrap(), 0);
        assert_eq!(store.asset(1).unwrap(), None);
        assert_eq!(store.history(1, None, 10).unwrap(), []);
        assert_eq!(store.assets_of_owner(&ALICE, None, 10).unwrap(), []);
        assert_eq!(store.assets_of_collection(1, None, 10).unwrap(), []);
        assert_eq!(store.collection(1).unwrap(), None);
        assert_eq!(store.collections(None, 10).unwrap(), []);
        assert_eq!(store.batch(1).unwrap(), None);
        assert_eq!(store.batches(None, Order::NewestFirst, 10).unwrap(), []);
        assert_eq!(store.batch_leaves(1, None, 10).unwrap(), []);
        assert_eq!(store.assets_batch(1).unwrap(), None);
        assert_eq!(store.model(&[1; 32]).unwrap(), None);
        assert_eq!(store.models(None, 10).unwrap(), []);
        assert_eq!(store.account(&ALICE).unwrap(), None);
        store.flush().unwrap();
    });
}

#[test]
fn rows_are_read_back_and_later_ones_replace_them() {
    on_every_store(|store| {
        let all = |text: &str| {
            vec![
                Write::PutAsset {
                    asset: 7,
                    row: row(text),
                },
                Write::PutCollection {
                    collection: 7,
                    row: row(text),
                },
                Write::PutBatch {
                    batch: 7,
                    row: row(text),
                },
                Write::PutModel {
                    digest: [7; 32],
                    row: row(text),
                },
                Write::PutAccount {
                    account: ALICE,
                    row: row(text),
                },
                Write::AddHistory {
                    asset: 7,
                    sequence: 3,
                    index: 1,
                    row: row(text),
                },
                Write::AddBatchLeaf {
                    batch: 7,
                    asset: 7,
                    row: row(text),
                },
            ]
        };
        let check = |text: &str| {
            assert_eq!(store.asset(7).unwrap(), Some(row(text)));
            assert_eq!(store.collection(7).unwrap(), Some(row(text)));
            assert_eq!(store.batch(7).unwrap(), Some(row(text)));
            assert_eq!(store.model(&[7; 32]).unwrap(), Some(row(text)));
            assert_eq!(store.account(&ALICE).unwrap(), Some(row(text)));
            let history = HistoryRow {
                sequence: 3,
                index: 1,
                row: row(text),
            };
            assert_eq!(store.history(7, None, 10).unwrap(), [history]);
            assert_eq!(store.batch_leaves(7, None, 10).unwrap(), [(7, row(text))]);
        };
        apply(store, 1, all("first"));
        check("first");
        apply(store, 2, all("second"));
        check("second");
        // Also within one projection the later write wins.
        apply(store, 3, [all("third"), all("fourth")].concat());
        check("fourth");
        apply(store, 4, all(""));
        check("");
    });
}

#[test]
fn the_position_advances_with_the_rows_and_gaps_go_forward() {
    on_every_store(|store| {
        let write = |text: &str| {
            [Write::PutAsset {
                asset: 1,
                row: row(text),
            }]
        };
        store
            .apply(&[
                projection(3, write("a")),
                projection(9, write("b")),
                projection(10, []),
            ])
            .unwrap();
        assert_eq!(store.projected_seq().unwrap(), 10);
        assert_eq!(store.asset(1).unwrap(), Some(row("b")));
        apply(store, 500, []);
        assert_eq!(store.projected_seq().unwrap(), 500);
        store.apply(&[]).unwrap();
        assert_eq!(store.projected_seq().unwrap(), 500);
    });
}

#[test]
fn projections_that_are_not_news_are_skipped() {
    on_every_store(|store| {
        let write = |text: &str| {
            [Write::PutAsset {
                asset: 1,
                row: row(text),
            }]
        };
        let moved = [Write::SetOwner {
            asset: 1,
            from: None,
            to: Some(ALICE),
        }];
        apply(store, 4, moved.clone());
        apply(
            store,
            5,
            [Write::SetOwner {
                asset: 1,
                from: Some(ALICE),
                to: Some(BOB),
            }],
        );
        apply(store, 6, write("six"));
        apply(store, 6, write("six again"));
        apply(store, 4, moved);
        assert_eq!(store.asset(1).unwrap(), Some(row("six")));
        assert!(store.assets_of_owner(&ALICE, None, 10).unwrap().is_empty());
        // Of a call that overlaps, only what is news counts.
        store
            .apply(&[
                projection(5, write("five")),
                projection(6, write("six")),
                projection(7, write("seven")),
            ])
            .unwrap();
        assert_eq!(store.asset(1).unwrap(), Some(row("seven")));
        assert_eq!(store.projected_seq().unwrap(), 7);
    });
}

#[test]
fn projections_out_of_order_are_refused_and_change_nothing() {
    on_every_store(|store| {
        let write = [Write::PutAsset {
            asset: 1,
            row: row("x"),
        }];
        for (before, after) in [(5, 3), (5, 5)] {
            let error = store
                .apply(&[
                    projection(before, write.clone()),
                    projection(after, write.clone()),
                ])
                .unwrap_err();
            assert!(matches!(error, StoreError::OutOfOrder { .. }), "{error}");
        }
        assert_eq!(store.projected_seq().unwrap(), 0);
        assert_eq!(store.asset(1).unwrap(), None);
    });
}

#[test]
fn a_call_over_its_size_is_refused_and_changes_nothing() {
    on_every_store(|store| {
        let large = Bytes::from(vec![1; 40 * 1024 * 1024]);
        let write = |asset| Write::PutAsset {
            asset,
            row: large.clone(),
        };
        let error = store
            .apply(&[projection(1, [write(1)]), projection(2, [write(2)])])
            .unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
        assert_eq!(store.projected_seq().unwrap(), 0);
        assert_eq!(store.asset(1).unwrap(), None);
    });
}

#[test]
fn an_asset_is_listed_under_its_present_owner_only() {
    on_every_store(|store| {
        let mut sequence = 0;
        let mut set = |writes: Vec<Write>| {
            sequence += 1;
            apply(store, sequence, writes);
        };
        let owner = |from, to| Write::SetOwner { asset: 9, from, to };
        let owned = |account: &Account| store.assets_of_owner(account, None, 10).unwrap();
        set(vec![owner(None, Some(ALICE))]);
        assert_eq!((owned(&ALICE), owned(&BOB)), (vec![9], vec![]));
        set(vec![owner(Some(ALICE), Some(BOB))]);
        assert_eq!((owned(&ALICE), owned(&BOB)), (vec![], vec![9]));
        // There and back in one projection.
        set(vec![
            owner(Some(BOB), Some(ALICE)),
            owner(Some(ALICE), Some(BOB)),
        ]);
        assert_eq!((owned(&ALICE), owned(&BOB)), (vec![], vec![9]));
        set(vec![owner(Some(BOB), Some(BOB))]);
        assert_eq!(owned(&BOB), [9]);
        set(vec![owner(Some(BOB), None)]);
        assert_eq!((owned(&ALICE), owned(&BOB)), (vec![], vec![]));
    });
}

#[test]
fn the_latest_batch_of_an_asset_is_the_last_one_it_became_a_leaf_of() {
    on_every_store(|store| {
        let leaf = |batch, asset| Write::AddBatchLeaf {
            batch,
            asset,
            row: row("leaf"),
        };
        apply(store, 1, [leaf(1, 10), leaf(1, 11)]);
        apply(store, 2, [leaf(2, 10)]);
        assert_eq!(store.assets_batch(10).unwrap(), Some(2));
        assert_eq!(store.assets_batch(11).unwrap(), Some(1));
        assert_eq!(store.assets_batch(12).unwrap(), None);
        assert_eq!(store.batch_leaves(1, None, 10).unwrap().len(), 2);
    });
}

/// Reads every page of `limit` entries and checks that only the last is short.
fn pages<T: Clone, K>(
    limit: usize,
    key: impl Fn(&T) -> K,
    read: impl Fn(Option<K>, usize) -> Vec<T>,
) -> Vec<T> {
    let mut all: Vec<T> = Vec::new();
    loop {
        let page = read(all.last().map(&key), limit);
        assert!(page.len() <= limit);
        let last = page.len() < limit;
        all.extend(page);
        if last {
            return all;
        }
    }
}

#[test]
fn pages_of_every_list_join_to_the_whole_list_in_order() {
    on_every_store(|store| {
        // Neighbours on both sides of each list, and numbers whose order differs in other encodings.
        let numbers = [
            0,
            1,
            2,
            127,
            128,
            255,
            256,
            65_535,
            65_536,
            1 << 32,
            u64::MAX - 1,
            u64::MAX,
        ];
        let mut writes = Vec::new();
        for asset in numbers {
            for owner in [[0; 20], ALICE, [0xff; 20]] {
                writes.push(Write::SetOwner {
                    asset,
                    from: None,
                    to: Some(owner),
                });
            }
            for collection in [4, 5, 6, u32::MAX] {
                writes.push(Write::AddToCollection { collection, asset });
            }
            for batch in [0, 5, u64::MAX] {
                writes.push(Write::AddBatchLeaf {
                    batch,
                    asset,
                    row: row("leaf"),
                });
            }
            for of in [6, 7, u64::MAX] {
                for index in [0, 1, u16::MAX] {
                    writes.push(Write::AddHistory {
                        asset: of,
                        sequence: asset,
                        index,
                        row: row("history"),
                    });
                }
            }
            writes.push(Write::PutBatch {
                batch: asset,
                row: row("batch"),
            });
            writes.push(Write::PutCollection {
                collection: asset as u32,
                row: row("collection"),
            });
            let mut digest = [0xff; 32];
            digest[..8].copy_from_slice(&asset.to_be_bytes());
            writes.push(Write::PutModel {
                digest,
                row: row("model"),
            });
        }
        apply(store, 1, writes);
        for limit in [1, 2, 5, 12, 13, 100] {
            for owner in [[0; 20], ALICE, [0xff; 20]] {
                let read = |after, limit| store.assets_of_owner(&owner, after, limit).unwrap();
                assert_eq!(pages(limit, |asset| *asset, read), numbers);
            }
            for collection in [5, u32::MAX] {
                let read = |after, limit| {
                    store
                        .assets_of_collection(collection, after, limit)
                        .unwrap()
                };
                assert_eq!(pages(limit, |asset| *asset, read), numbers);
            }
            for batch in [0, 5, u64::MAX] {
                let read = |after, limit| store.batch_leaves(batch, after, limit).unwrap();
                let leaves = pages(limit, |(asset, _)| *asset, read);
                assert_eq!(
                    leaves
                        .into_iter()
                        .map(|(asset, _)| asset)
                        .collect::<Vec<_>>(),
                    numbers
                );
            }
            for asset in [7, u64::MAX] {
                let read = |after, limit| store.history(asset, after, limit).unwrap();
                let history = pages(limit, |row: &HistoryRow| (row.sequence, row.index), read);
                let found: Vec<_> = history
                    .iter()
                    .map(|row| (row.sequence, row.index))
                    .collect();
                let expected: Vec<_> = numbers
                    .iter()
                    .flat_map(|sequence| [0, 1, u16::MAX].map(|index| (*sequence, index)))
                    .collect();
                assert_eq!(found, expected);
            }
            let read = |after, limit| store.batches(after, Order::OldestFirst, limit).unwrap();
            let batches: Vec<_> = pages(limit, |(batch, _)| *batch, read)
                .into_iter()
                .map(|(batch, _)| batch)
                .collect();
            assert_eq!(batches, numbers);
            let read = |after, limit| store.batches(after, Order::NewestFirst, limit).unwrap();
            let batches: Vec<_> = pages(limit, |(batch, _)| *batch, read)
                .into_iter()
                .map(|(batch, _)| batch)
                .collect();
            assert_eq!(batches, numbers.into_iter().rev().collect::<Vec<_>>());
            let read = |after, limit| store.collections(after, limit).unwrap();
            let collections = pages(limit, |(collection, _)| *collection, read);
            assert!(collections.is_sorted_by(|a, b| a.0 < b.0));
            // Two of the numbers are the same in 32 bits.
            assert_eq!(collections.len(), numbers.len() - 1);
            let read = |after, limit| store.models(after, limit).unwrap();
            let models = pages(limit, |(digest, _)| *digest, read);
            assert!(models.is_sorted_by(|a, b| a.0 < b.0));
            assert_eq!(models.len(), numbers.len());
        }
        assert!(store.assets_of_owner(&BOB, None, 10).unwrap().is_empty());
        assert!(store.assets_of_collection(7, None, 10).unwrap().is_empty());
    });
}

#[test]
fn a_page_over_the_bound_is_refused_and_an_empty_one_is_empty() {
    on_every_store(|store| {
        apply(
            store,
            1,
            [Write::AddToCollection {
                collection: 1,
                asset: 1,
            }],
        );
        let above = PAGE_ROWS_MAX + 1;
        let refusals = [
            store.assets_of_collection(1, None, above).unwrap_err(),
            store.assets_of_owner(&ALICE, None, above).unwrap_err(),
            store.history(1, None, above).unwrap_err(),
            store.collections(None, above).unwrap_err(),
            store.batches(None, Order::OldestFirst, above).unwrap_err(),
            store.batch_leaves(1, None, above).unwrap_err(),
            store.models(None, above).unwrap_err(),
        ];
        assert!(
            refusals
                .iter()
                .all(|error| matches!(error, StoreError::Limit { .. }))
        );
        assert!(store.assets_of_collection(1, None, 0).unwrap().is_empty());
        assert_eq!(
            store.assets_of_collection(1, None, PAGE_ROWS_MAX).unwrap(),
            [1]
        );
    });
}

#[test]
fn a_reset_leaves_an_empty_store_that_fills_again() {
    on_every_store(|store| {
        let write = [
            Write::PutAsset {
                asset: 1,
                row: row("x"),
            },
            Write::AddToCollection {
                collection: 1,
                asset: 1,
            },
        ];
        for _ in 0..3 {
            apply(store, 8, write.clone());
            assert_eq!(store.asset(1).unwrap(), Some(row("x")));
            store.reset().unwrap();
            assert_eq!(store.projected_seq().unwrap(), 0);
            assert_eq!(store.asset(1).unwrap(), None);
            assert!(store.assets_of_collection(1, None, 10).unwrap().is_empty());
        }
        apply(store, 1, write.clone());
        assert_eq!(store.projected_seq().unwrap(), 1);
        store.flush().unwrap();
    });
}

#[test]
fn whoever_sees_the_position_sees_its_rows() {
    on_every_store(|store| {
        let last = 2_000;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for sequence in 1..=last {
                    let text = sequence.to_string();
                    apply(
                        store,
                        sequence,
                        [
                            Write::PutAsset {
                                asset: 1,
                                row: row(&text),
                            },
                            Write::AddHistory {
                                asset: 1,
                                sequence,
                                index: 0,
                                row: row(&text),
                            },
                        ],
                    );
                }
            });
            loop {
                let position = store.projected_seq().unwrap();
                if position > 0 {
                    let text = store.asset(1).unwrap().unwrap();
                    let seen: u64 = std::str::from_utf8(&text).unwrap().parse().unwrap();
                    assert!(seen >= position);
                    let page = store.history(1, Some((position - 1, 0)), 1).unwrap();
                    assert_eq!(page[0].sequence, position);
                }
                if position == last {
                    break;
                }
            }
        });
    });
}
