//! Disks that are full, and flushes that fail.

use std::path::Path;
use std::sync::atomic::Ordering;

use crate::{ContentError, ContentStore, PackConfig, PackStore};

fn open(folder: &Path) -> PackStore {
    let (store, report) = PackStore::open(folder, PackConfig::default()).unwrap();
    assert_eq!(report.torn_bytes_cut, 0);
    assert!(report.damaged.is_empty());
    store
}

fn set_disk_full(store: &PackStore, full: bool) {
    store
        .append
        .lock()
        .pack
        .faults
        .disk_full
        .store(full, Ordering::SeqCst);
}

fn set_cut_fails(store: &PackStore, fails: bool) {
    store
        .append
        .lock()
        .pack
        .faults
        .cut_fails
        .store(fails, Ordering::SeqCst);
}

#[test]
fn a_full_disk_is_told_loses_nothing_and_is_forgotten_when_there_is_space() {
    for cut_fails in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let before = store.put(b"before").unwrap();
        set_disk_full(&store, true);
        set_cut_fails(&store, cut_fails);
        for _ in 0..3 {
            let error = store.put(&[7; 10_000]).unwrap_err();
            if cut_fails {
                continue;
            }
            assert!(matches!(error, ContentError::Full { .. }), "{error}");
        }
        assert_eq!(store.digests().unwrap(), [before]);
        set_disk_full(&store, false);
        if cut_fails {
            // Half a frame is still in the way.
            assert!(store.put(b"not yet").is_err());
            set_cut_fails(&store, false);
        }
        let after = store.put(b"after").unwrap();
        store.flush().unwrap();
        drop(store);
        std::fs::remove_file(folder.path().join("index-000001.idx")).unwrap();
        let store = open(folder.path());
        assert_eq!(store.get(&before).unwrap().unwrap(), &b"before"[..]);
        assert_eq!(store.get(&after).unwrap().unwrap(), &b"after"[..]);
    }
}

#[test]
fn a_disk_that_is_full_while_collecting_loses_no_kept_object() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let kept = store.put(b"kept").unwrap();
    store.put(b"dropped").unwrap();
    // The collection starts a new pack on its own: filling that one needs a first collection that finds it.
    store.collect(&|_| true).unwrap();
    set_disk_full(&store, true);
    let error = store.collect(&|digest| *digest == kept).unwrap_err();
    assert!(matches!(error, ContentError::Full { .. }), "{error}");
    assert_eq!(store.get(&kept).unwrap().unwrap(), &b"kept"[..]);
    set_disk_full(&store, false);
    store.collect(&|digest| *digest == kept).unwrap();
    drop(store);
    assert_eq!(open(folder.path()).digests().unwrap(), [kept]);
}

#[test]
fn a_failed_flush_stops_the_store_for_good_and_keeps_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let digest = store.put(b"pixels").unwrap();
    store
        .append
        .lock()
        .pack
        .faults
        .sync_fails
        .store(true, Ordering::SeqCst);
    store.flush().unwrap_err();
    store
        .append
        .lock()
        .pack
        .faults
        .sync_fails
        .store(false, Ordering::SeqCst);
    for error in [
        store.flush().unwrap_err(),
        store.put(b"more").unwrap_err(),
        store.put(b"pixels").unwrap_err(),
        store.collect(&|_| true).unwrap_err(),
    ] {
        assert!(matches!(error, ContentError::Poisoned { .. }), "{error}");
        assert!(error.to_string().contains("injected"), "{error}");
    }
    assert!(store.get(&digest).unwrap().is_some());
    drop(store);
    let store = open(folder.path());
    store.put(b"more").unwrap();
    store.flush().unwrap();
}

#[test]
fn an_idle_flush_does_not_reach_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.put(b"pixels").unwrap();
    store.flush().unwrap();
    store
        .append
        .lock()
        .pack
        .faults
        .sync_fails
        .store(true, Ordering::SeqCst);
    store.flush().unwrap();
    store.put(b"pixels").unwrap();
    store.flush().unwrap();
    store
        .append
        .lock()
        .pack
        .faults
        .sync_fails
        .store(false, Ordering::SeqCst);
}
