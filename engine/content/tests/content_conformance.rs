//! The promises of `ContentStore`, checked on every implementation.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use karat_content::{
    ContentError, ContentStore, Digest, MemoryContent, OBJECT_BYTES_MAX, PackConfig, PackStore,
    digest_of,
};
use proptest::prelude::*;

/// Runs `check` on an empty store of every kind; packs are small, so that there are several.
fn on_every_store(check: impl Fn(&dyn ContentStore)) {
    check(&MemoryContent::new());
    let folder = tempfile::tempdir().unwrap();
    check(
        &PackStore::open(folder.path(), PackConfig::default())
            .unwrap()
            .0,
    );
    let folder = tempfile::tempdir().unwrap();
    let small = PackConfig {
        pack_bytes_max: 4096,
        ..PackConfig::default()
    };
    check(&PackStore::open(folder.path(), small).unwrap().0);
}

fn object(number: u32, length: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().repeat(length / 4 + 1);
    bytes.truncate(length);
    bytes
}

fn get(store: &dyn ContentStore, digest: &Digest) -> Option<Vec<u8>> {
    store.get(digest).unwrap().map(|bytes| bytes.to_vec())
}

#[test]
fn what_was_put_is_read_back_under_its_digest() {
    on_every_store(|store| {
        let lengths = [0, 1, 31, 44, 4095, 4096, 100_000, OBJECT_BYTES_MAX];
        for (number, length) in lengths.into_iter().enumerate() {
            let bytes = object(number as u32, length);
            let digest = store.put(&bytes).unwrap();
            assert_eq!(digest, digest_of(&bytes));
            assert!(store.contains(&digest).unwrap());
            assert_eq!(get(store, &digest), Some(bytes));
        }
        store.flush().unwrap();
        assert_eq!(store.digests().unwrap().len(), lengths.len());
    });
}

#[test]
fn what_was_never_put_is_not_there() {
    on_every_store(|store| {
        let digest = digest_of(b"never");
        assert!(!store.contains(&digest).unwrap());
        assert_eq!(get(store, &digest), None);
        assert!(store.digests().unwrap().is_empty());
        store.flush().unwrap();
    });
}

#[test]
fn putting_the_same_bytes_again_changes_nothing() {
    on_every_store(|store| {
        let first = store.put(b"pixels").unwrap();
        store.flush().unwrap();
        assert_eq!(store.put(b"pixels").unwrap(), first);
        assert_eq!(store.digests().unwrap(), [first]);
    });
}

#[test]
fn an_object_over_the_limit_is_refused_and_nothing_is_stored() {
    on_every_store(|store| {
        let error = store.put(&vec![7; OBJECT_BYTES_MAX + 1]).unwrap_err();
        assert!(matches!(error, ContentError::TooLarge { .. }), "{error}");
        assert!(store.digests().unwrap().is_empty());
    });
}

#[test]
fn digests_come_in_ascending_order() {
    on_every_store(|store| {
        let expected: BTreeSet<Digest> = (0..200)
            .map(|number| store.put(&object(number, 100)).unwrap())
            .collect();
        assert_eq!(
            store.digests().unwrap(),
            expected.into_iter().collect::<Vec<_>>()
        );
    });
}

#[test]
fn collecting_drops_exactly_what_is_not_kept() {
    on_every_store(|store| {
        let objects: Vec<_> = (0..100).map(|number| object(number, 200)).collect();
        let digests: Vec<_> = objects
            .iter()
            .map(|bytes| store.put(bytes).unwrap())
            .collect();
        let kept: BTreeSet<_> = digests.iter().step_by(3).copied().collect();
        let collected = store.collect(&|digest| kept.contains(digest)).unwrap();
        assert_eq!(
            collected.objects_dropped,
            (digests.len() - kept.len()) as u64
        );
        assert_eq!(collected.bytes_dropped, collected.objects_dropped * 200);
        for (bytes, digest) in objects.iter().zip(&digests) {
            let expected = kept.contains(digest).then(|| bytes.clone());
            assert_eq!(get(store, digest), expected);
            assert_eq!(store.contains(digest).unwrap(), kept.contains(digest));
        }
        // What was dropped can be put again.
        assert_eq!(store.put(&objects[1]).unwrap(), digests[1]);
        assert_eq!(get(store, &digests[1]), Some(objects[1].clone()));
    });
}

#[test]
fn collecting_when_everything_is_kept_drops_nothing() {
    on_every_store(|store| {
        let digest = store.put(b"kept").unwrap();
        let collected = store.collect(&|_| true).unwrap();
        assert_eq!((collected.objects_dropped, collected.bytes_dropped), (0, 0));
        assert_eq!(get(store, &digest), Some(b"kept".to_vec()));
    });
}

#[test]
fn what_is_put_again_while_collecting_is_kept() {
    on_every_store(|store| {
        let first = store.put(b"named in a moment").unwrap();
        let other = store.put(b"named never").unwrap();
        let put_again = AtomicBool::new(false);
        // The command that names the first object is on its way: whoever sent it puts the bytes before it appends.
        let collected = store
            .collect(&|_| {
                if !put_again.swap(true, Ordering::SeqCst) {
                    store.put(b"named in a moment").unwrap();
                    store.put(b"wholly new").unwrap();
                }
                false
            })
            .unwrap();
        assert_eq!(collected.objects_dropped, 1);
        assert!(get(store, &first).is_some());
        assert!(get(store, &digest_of(b"wholly new")).is_some());
        assert_eq!(get(store, &other), None);
    });
}

#[test]
fn what_is_found_while_collecting_is_kept() {
    on_every_store(|store| {
        let asked_for = store.put(b"named by its digest in a moment").unwrap();
        let other = store.put(b"named never").unwrap();
        let collected = store
            .collect(&|_| {
                // The command that names it comes without bytes, because the store has them.
                assert!(store.contains(&asked_for).unwrap());
                false
            })
            .unwrap();
        assert_eq!(collected.objects_dropped, 1);
        assert!(get(store, &asked_for).is_some());
        assert_eq!(get(store, &other), None);
    });
}

#[test]
fn several_threads_put_read_flush_and_collect_at_once() {
    on_every_store(|store| {
        std::thread::scope(|scope| {
            for thread in 0..4u32 {
                scope.spawn(move || {
                    for number in 0..100 {
                        // Half of the objects are put by every thread.
                        let number = if number % 2 == 0 {
                            number
                        } else {
                            number + thread * 1000
                        };
                        let bytes = object(number, 300);
                        let digest = store.put(&bytes).unwrap();
                        assert_eq!(get(store, &digest), Some(bytes));
                        if number % 16 == 0 {
                            store.flush().unwrap();
                        }
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..5 {
                    store.collect(&|_| true).unwrap();
                }
            });
        });
        assert_eq!(store.digests().unwrap().len(), 50 + 4 * 50);
    });
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, usize),
    Get(u8, usize),
    Flush,
    /// Keeps objects whose digest's first byte is below this.
    Collect(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![0usize..64, 900usize..1100];
    prop_oneof![
        6 => (0u8..20, length.clone()).prop_map(|(fill, length)| Step::Put(fill, length)),
        3 => (0u8..20, length).prop_map(|(fill, length)| Step::Get(fill, length)),
        1 => Just(Step::Flush),
        1 => any::<u8>().prop_map(Step::Collect),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn packs_behave_like_a_map_across_reopening(steps in prop::collection::vec(step(), 1..60)) {
        let folder = tempfile::tempdir().unwrap();
        let config = PackConfig { pack_bytes_max: 3000, ..PackConfig::default() };
        let mut store = PackStore::open(folder.path(), config).unwrap().0;
        let mut model: BTreeMap<Digest, Vec<u8>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(fill, length) => {
                    let bytes = vec![fill; length];
                    model.insert(store.put(&bytes).unwrap(), bytes);
                }
                Step::Get(fill, length) => {
                    let digest = digest_of(&vec![fill; length]);
                    prop_assert_eq!(get(&store, &digest), model.get(&digest).cloned());
                }
                Step::Flush => store.flush().unwrap(),
                Step::Collect(below) => {
                    let before = model.len();
                    model.retain(|digest, _| digest[0] < below);
                    let collected = store.collect(&|digest| digest[0] < below).unwrap();
                    prop_assert_eq!(collected.objects_dropped as usize, before - model.len());
                }
                Step::Reopen => {
                    drop(store);
                    let (reopened, report) = PackStore::open(folder.path(), config).unwrap();
                    prop_assert_eq!(report.objects as usize, model.len());
                    prop_assert_eq!(report.torn_bytes_cut, 0);
                    prop_assert!(report.damaged.is_empty());
                    store = reopened;
                }
            }
            prop_assert_eq!(store.digests().unwrap(), model.keys().copied().collect::<Vec<_>>());
        }
        prop_assert!(store.verify().unwrap().is_empty());
    }
}
