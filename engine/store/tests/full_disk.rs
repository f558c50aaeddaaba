//! A disk that is really full. Needs a small file system: `mount -t tmpfs -o size=24m tmpfs DIR`, then
//! `KARAT_SMALL_DISK=DIR`. Without it this says so and checks nothing.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use bytes::Bytes;
use karat_store::{EmbeddedStore, Projection, Store, StoreError, Write};

fn projection(sequence: u64) -> Projection {
    // Rows that do not compress.
    let mut state = sequence;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(5_000)
    .collect();
    Projection {
        sequence,
        writes: vec![
            Write::PutAsset {
                asset: sequence,
                row: Bytes::from(noise),
            },
            Write::PutAccount {
                account: [1; 20],
                row: Bytes::from(sequence.to_string()),
            },
        ],
    }
}

#[test]
fn a_full_disk_is_told_and_the_rows_match_the_position_after_a_restart() {
    let Some(disk) = std::env::var_os("KARAT_SMALL_DISK") else {
        println!("not checked: KARAT_SMALL_DISK names no small file system");
        return;
    };
    let folder = tempfile::tempdir_in(disk).unwrap();
    let ballast = folder.path().join("ballast");
    std::fs::write(&ballast, vec![1; 4 << 20]).unwrap();
    let rows = folder.path().join("rows");
    let store = EmbeddedStore::open(&rows).unwrap();
    let mut sequence = 0;
    let error = loop {
        match store.apply(&[projection(sequence + 1)]) {
            Ok(()) => sequence += 1,
            Err(error) => break error,
        }
        assert!(sequence < 100_000, "the file system is not small");
    };
    assert!(matches!(error, StoreError::Storage { .. }), "{error}");
    // It takes nothing more, and says so at once.
    assert!(store.apply(&[projection(sequence + 1)]).is_err());
    assert!(store.asset(1).unwrap().is_some());
    drop(store);
    std::fs::remove_file(&ballast).unwrap();
    let store = EmbeddedStore::open(&rows).unwrap();
    let position = store.projected_seq().unwrap();
    assert!(position >= sequence, "told {sequence}, found {position}");
    assert_eq!(
        store.account(&[1; 20]).unwrap(),
        Some(Bytes::from(position.to_string()))
    );
    assert!(store.asset(position).unwrap().is_some());
    assert!(store.asset(position + 1).unwrap().is_none());
    store.apply(&[projection(position + 1)]).unwrap();
}
