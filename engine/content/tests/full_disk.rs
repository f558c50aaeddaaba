//! A disk that is really full. Needs a small file system: `mount -t tmpfs -o size=24m tmpfs DIR`, then
//! `KARAT_SMALL_DISK=DIR`. Without it this says so and checks nothing; `fault_tests` checks the same with injected faults.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use karat_content::{ContentError, ContentStore, PackConfig, PackStore};

#[test]
fn a_full_disk_keeps_what_was_stored_and_takes_more_when_there_is_space() {
    let Some(disk) = std::env::var_os("KARAT_SMALL_DISK") else {
        println!("not checked: KARAT_SMALL_DISK names no small file system");
        return;
    };
    let folder = tempfile::tempdir_in(disk).unwrap();
    let ballast = folder.path().join("ballast");
    std::fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    let content = folder.path().join("content");
    let (store, _) = PackStore::open(&content, PackConfig::default()).unwrap();
    let mut digests = Vec::new();
    let object = |number: u64| number.to_le_bytes().repeat(1_200);
    let error = loop {
        match store.put(&object(digests.len() as u64)) {
            Ok(digest) => digests.push(digest),
            Err(error) => break error,
        }
        assert!(digests.len() < 100_000, "the file system is not small");
    };
    assert!(matches!(error, ContentError::Full { .. }), "{error}");
    assert!(
        digests
            .iter()
            .all(|digest| store.get(digest).unwrap().is_some())
    );
    std::fs::remove_file(&ballast).unwrap();
    digests.push(store.put(&object(digests.len() as u64)).unwrap());
    store.flush().unwrap();
    drop(store);
    let (store, report) = PackStore::open(&content, PackConfig::default()).unwrap();
    assert_eq!(
        (report.objects as usize, report.torn_bytes_cut),
        (digests.len(), 0)
    );
    assert!(store.verify().unwrap().is_empty());
}
