//! What the embedded store survives: killed processes, half-done resets, other processes, newer formats.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use karat_store::{EmbeddedStore, Projection, Store, StoreError, Write};

const FOLDER: &str = "KARAT_STORE_TEST_FOLDER";

/// Twenty rows that all name the sequence, so that a half-applied change would show.
fn projection(sequence: u64) -> Projection {
    let row = Bytes::from(sequence.to_string().repeat(40));
    let mut writes: Vec<_> = (0..10)
        .map(|asset| Write::PutAsset {
            asset,
            row: row.clone(),
        })
        .collect();
    writes.extend((0..10).map(|asset| Write::AddHistory {
        asset,
        sequence,
        index: 0,
        row: row.clone(),
    }));
    Projection { sequence, writes }
}

/// The rows are exactly those of the position.
fn check(store: &EmbeddedStore) -> u64 {
    let position = store.projected_seq().unwrap();
    for asset in 0..10 {
        let expected = (position > 0).then(|| Bytes::from(position.to_string().repeat(40)));
        assert_eq!(store.asset(asset).unwrap(), expected);
        assert!(
            store
                .history(asset, Some((position, 0)), 1)
                .unwrap()
                .is_empty()
        );
    }
    let mut rows = 0;
    let mut after = None;
    loop {
        let page = store.history(9, after, 10_000).unwrap();
        rows += page.len() as u64;
        match page.last() {
            Some(last) => after = Some((last.sequence, last.index)),
            None => break,
        }
    }
    assert_eq!(rows, position);
    position
}

/// Runs only as the child: applies for ever and prints each position after it was applied.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let store = EmbeddedStore::open(folder).unwrap();
    let mut out = std::io::stdout().lock();
    for sequence in store.projected_seq().unwrap() + 1.. {
        store.apply(&[projection(sequence)]).unwrap();
        writeln!(out, "applied {sequence}.").unwrap();
        if sequence % 100 == 0 {
            store.flush().unwrap();
        }
    }
}

#[test]
fn a_killed_process_leaves_rows_and_position_together() {
    let folder = tempfile::tempdir().unwrap();
    let mut applied = 0;
    for round in 0..15 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut left = 1 + round * 150;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let Ok(line) = line else { break };
            let Some((_, text)) = line.split_once("applied ") else {
                continue;
            };
            // A line that was cut has no full stop.
            if let Some(sequence) = text.strip_suffix('.') {
                applied = sequence.parse().unwrap();
            }
            left -= 1;
            if left == 0 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let store = EmbeddedStore::open(folder.path()).unwrap();
        let position = check(&store);
        assert!(position >= applied, "told {applied}, found {position}");
    }
    assert!(applied > 10_000);
}

#[test]
fn rows_survive_reopening_with_and_without_a_flush() {
    let folder = tempfile::tempdir().unwrap();
    let mut sequence = 0;
    for flush in [true, false, true] {
        let store = EmbeddedStore::open(folder.path()).unwrap();
        assert_eq!(check(&store), sequence);
        for _ in 0..50 {
            sequence += 1;
            store.apply(&[projection(sequence)]).unwrap();
        }
        if flush {
            store.flush().unwrap();
        }
    }
    assert_eq!(check(&EmbeddedStore::open(folder.path()).unwrap()), 150);
}

#[test]
fn a_second_process_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    let error = EmbeddedStore::open(folder.path()).err().unwrap();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    drop(store);
    EmbeddedStore::open(folder.path()).unwrap();
}

#[test]
fn a_folder_of_a_newer_format_is_refused_and_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("FORMAT"), "karat-store 2\n").unwrap();
    fs::create_dir(folder.path().join("rows-000009.new")).unwrap();
    let error = EmbeddedStore::open(folder.path()).err().unwrap();
    assert!(matches!(error, StoreError::NewerFormat { .. }), "{error}");
    assert!(error.to_string().contains("format 2"), "{error}");
    assert!(folder.path().join("rows-000009.new").exists());
}

#[test]
fn a_format_file_that_says_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for text in ["", "karat-store", "karat-store 0", "something else"] {
        fs::write(folder.path().join("FORMAT"), text).unwrap();
        let error = EmbeddedStore::open(folder.path()).err().unwrap();
        assert!(
            matches!(error, StoreError::Damaged { .. }),
            "'{text}': {error}"
        );
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_reset_cut_short_leaves_the_rows_from_before_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    store.apply(&[projection(1)]).unwrap();
    drop(store);
    let rows = folder.path().join("rows-000001");

    // Died while the next generation was being made.
    fs::create_dir(folder.path().join("rows-000002.new")).unwrap();
    fs::write(folder.path().join("rows-000002.new").join("0.jnl"), "half").unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    assert_eq!(check(&store), 1);
    drop(store);
    assert!(!folder.path().join("rows-000002.new").exists());

    // Died before, and while, the generation before was removed.
    let saved = tempfile::tempdir().unwrap();
    copy(&rows, saved.path());
    EmbeddedStore::open(folder.path()).unwrap().reset().unwrap();
    copy(saved.path(), &rows);
    fs::create_dir(folder.path().join("rows-000001.old")).unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    assert_eq!(check(&store), 0);
    assert!(!rows.exists() && !folder.path().join("rows-000001.old").exists());
}

#[test]
fn a_journal_cut_anywhere_leaves_rows_and_position_together() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    for sequence in 1..=30 {
        store.apply(&[projection(sequence)]).unwrap();
    }
    drop(store);
    let journal = fs::read_dir(folder.path().join("rows-000001"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "jnl"))
        .unwrap();
    let whole = fs::read(&journal).unwrap();
    for part in 1..20 {
        let crashed = tempfile::tempdir().unwrap();
        copy(folder.path(), crashed.path());
        let journal = crashed
            .path()
            .join("rows-000001")
            .join(journal.file_name().unwrap());
        fs::write(&journal, &whole[..whole.len() * part / 20]).unwrap();
        // A cut journal is what a power cut leaves: fewer whole changes, never half of one.
        match EmbeddedStore::open(crashed.path()) {
            Ok(store) => assert!(check(&store) <= 30),
            Err(error) => panic!("cut to {part}/20: {error}"),
        }
    }
}
