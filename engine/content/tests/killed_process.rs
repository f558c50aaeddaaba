//! A process that is killed (SIGKILL) while it puts and collects: what it was told is stored is there.
//!
//! This proves what a killed process leaves; it cannot prove what a power cut leaves, because the system keeps its pages.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use karat_content::{ContentStore, PackConfig, PackStore, cid_of, digest_from_cid};

const FOLDER: &str = "KARAT_CONTENT_TEST_FOLDER";

/// Small packs, so that kills hit the change from one to the next.
fn config() -> PackConfig {
    PackConfig {
        pack_bytes_max: 64 * 1024,
        ..PackConfig::default()
    }
}

/// Runs only as the child: puts objects for ever and prints the CID of each after it was stored.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let (store, _) = PackStore::open(folder, config()).unwrap();
    let mut out = std::io::stdout().lock();
    let start = store.digests().unwrap().len() as u64 * 1_000_000;
    for number in start.. {
        let bytes = number.to_le_bytes().repeat(1 + (number % 100) as usize);
        let digest = store.put(&bytes).unwrap();
        writeln!(out, "stored {}", cid_of(&digest)).unwrap();
        if number % 50 == 49 {
            store.flush().unwrap();
        }
        if number % 200 == 199 {
            store.collect(&|_| true).unwrap();
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_it_was_told_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let mut stored = Vec::new();
    for round in 0..25 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut left = 20 + round * 37;
        for line in lines {
            let Ok(line) = line else { break };
            let Some((_, cid)) = line.split_once("stored ") else {
                continue;
            };
            // The last line may be cut; a whole CID has 59 characters.
            if cid.len() == 59 {
                stored.push(digest_from_cid(cid).unwrap());
            }
            left -= 1;
            if left == 0 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let (store, report) = PackStore::open(folder.path(), config()).unwrap();
        assert!(report.damaged.is_empty(), "{:?}", report.damaged);
        for digest in &stored {
            assert!(store.get(digest).unwrap().is_some());
        }
        assert!(store.verify().unwrap().is_empty());
    }
    assert!(stored.len() > 10_000, "{} objects", stored.len());
}
