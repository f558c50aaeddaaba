//! Every byte of a small journal, flipped, cut out, zeroed and truncated; and power losses that keep an arbitrary
//! choice of the sectors that were not flushed.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use common::{Chained, PATIENCE, body, folder};
use karat_sequencer::log::journal::OpenCheck;
use karat_sequencer::{
    Block, Journal, JournalConfig, JournalError, Log, ReadError, Recovery, read_blocks,
};
use parking_lot::{Condvar, Mutex};
use proptest::prelude::*;

const SEGMENT_BYTES: u64 = 1100;
const HEADER_BYTES: usize = 64;
const FRAME_HEADER_BYTES: usize = 20;

fn config() -> JournalConfig {
    JournalConfig {
        segment_bytes: SEGMENT_BYTES,
        block_bytes_max: 700,
        ..JournalConfig::default()
    }
}

fn open(dir: &Path) -> Result<(Journal, Recovery), JournalError> {
    Journal::open(dir, config())
}

/// A file of the small journal and where its frames lie.
struct Original {
    path: PathBuf,
    bytes: Vec<u8>,
    /// Start and end of each frame.
    frames: Vec<(usize, usize)>,
    /// Sequence before the file's first block.
    before: u64,
}

/// Two full segments and a third with a few blocks; each block holds one command.
fn small_journal(dir: &Path) -> (Vec<Original>, Vec<Block>) {
    let (mut journal, _) = open(dir).unwrap();
    let mut chained = Chained::new();
    let mut blocks = Vec::new();
    for index in 0..16 {
        let bodies = vec![body(index, 30 + 10 * (index as usize % 5))];
        blocks.push(Block {
            header: chained.header.clone(),
            bodies,
        });
        journal
            .append(chained.next(&blocks.last().unwrap().bodies))
            .unwrap();
    }
    journal.close(PATIENCE).unwrap();
    let mut files = Vec::new();
    let mut next = 0;
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths.sort();
    for path in paths {
        let bytes = std::fs::read(&path).unwrap();
        let before = next as u64;
        let mut frames = Vec::new();
        let mut at = HEADER_BYTES;
        while next < blocks.len() {
            let encoded = blocks[next].encode().unwrap();
            let end = at + FRAME_HEADER_BYTES + encoded.len();
            if end > bytes.len() || bytes[at + FRAME_HEADER_BYTES..end] != encoded[..] {
                break;
            }
            frames.push((at, end));
            at = end;
            next += 1;
        }
        files.push(Original {
            path,
            bytes,
            frames,
            before,
        });
    }
    assert_eq!((files.len(), next), (3, blocks.len()));
    assert!(files[2].frames.len() > 1);
    (files, blocks)
}

impl Original {
    fn used(&self) -> usize {
        self.frames.last().unwrap().1
    }

    fn frame_of(&self, byte: usize) -> Option<usize> {
        self.frames
            .iter()
            .position(|(start, end)| (*start..*end).contains(&byte))
    }

    fn write(&self, bytes: &[u8]) {
        std::fs::write(&self.path, bytes).unwrap();
    }
}

/// What opening and reading must say; both, as they judge by the same rules.
enum Expected {
    /// The first so many blocks, and whether something was cut.
    Blocks(u64, bool),
    /// Damage in this file, at this offset.
    Damage(usize),
}

fn check(dir: &Path, file: &Original, blocks: &[Block], expected: &Expected, what: &str) {
    let read: Result<Vec<Block>, ReadError> = read_blocks(dir, 1).and_then(Iterator::collect);
    let opened = open(dir);
    match expected {
        Expected::Blocks(count, torn) => {
            assert_eq!(read.unwrap(), blocks[..*count as usize], "{what}");
            let (mut journal, recovery) = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(recovery.last_sequence, *count, "{what}");
            assert_eq!(recovery.torn_tail.is_some(), *torn, "{what}");
            // What was cut stays cut, and the log goes on behind it.
            let mut chained = Chained::recovered(&recovery);
            journal
                .append(chained.next(&[Bytes::from_static(b"goes on")]))
                .unwrap();
            drop(journal);
            let (_, again) = open(dir).unwrap();
            assert_eq!(
                (again.last_sequence, again.torn_tail),
                (count + 1, None),
                "{what}"
            );
        }
        Expected::Damage(at) => {
            let error = opened.err().unwrap_or_else(|| panic!("{what}: opened"));
            let JournalError::Read(ReadError::Damaged { target, offset, .. }) = &error else {
                // A flipped version says that the format is newer; it stops all the same.
                assert!(
                    matches!(error, JournalError::Read(ReadError::NewerFormat { .. })),
                    "{what}: {error}"
                );
                return;
            };
            assert_eq!(Path::new(target), file.path, "{what}: {error}");
            assert_eq!(*offset as usize, *at, "{what}: {error}");
            assert!(read.is_err(), "{what}: reading said nothing");
        }
    }
}

fn restore(dir: &Path, files: &[Original]) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "log")
            && !files.iter().any(|file| file.path == path)
        {
            std::fs::remove_file(path).unwrap();
        }
    }
    for file in files {
        file.write(&file.bytes);
    }
}

fn each_byte(mut change: impl FnMut(&Original, usize, bool) -> (Vec<u8>, Expected), what: &str) {
    let dir = folder();
    let (files, blocks) = small_journal(dir.path());
    for (index, file) in files.iter().enumerate() {
        let is_last = index + 1 == files.len();
        for byte in 0..file.bytes.len() {
            let (bytes, expected) = change(file, byte, is_last);
            file.write(&bytes);
            check(
                dir.path(),
                file,
                &blocks,
                &expected,
                &format!("{what} byte {byte} of segment {index}"),
            );
            restore(dir.path(), &files);
        }
    }
}

#[test]
fn a_flip_of_any_byte_is_found_and_only_the_last_frame_is_cut() {
    each_byte(
        |file, byte, is_last| {
            let mut bytes = file.bytes.clone();
            bytes[byte] ^= 1 << (byte % 8);
            let last_frame = file.frames.len() - 1;
            let expected = match file.frame_of(byte) {
                None if byte < HEADER_BYTES => Expected::Damage(0),
                // Zeros written ahead: nothing is lost, and what is there is cleaned away.
                None if is_last => Expected::Blocks(file.before + file.frames.len() as u64, true),
                None => Expected::Damage(file.used()),
                Some(frame) if is_last && frame == last_frame => {
                    Expected::Blocks(file.before + frame as u64, true)
                }
                Some(frame) => Expected::Damage(file.frames[frame].0),
            };
            (bytes, expected)
        },
        "flipped",
    );
}

#[test]
fn a_file_truncated_at_any_byte_keeps_whole_blocks_or_stops() {
    each_byte(
        |file, byte, is_last| {
            let whole = file.frames.iter().filter(|(_, end)| *end <= byte).count();
            let start = file
                .frames
                .get(whole)
                .map_or(file.used(), |(start, _)| *start);
            let expected = if byte < HEADER_BYTES {
                Expected::Damage(0)
            } else if is_last {
                Expected::Blocks(
                    file.before + whole as u64,
                    byte > start && whole < file.frames.len(),
                )
            } else if whole == file.frames.len() {
                // Only zeros are missing; the next segment shows that nothing else is.
                return (file.bytes.clone(), Expected::Blocks(16, false));
            } else {
                Expected::Damage(start)
            };
            (file.bytes[..byte].to_vec(), expected)
        },
        "truncated at",
    );
}

#[test]
fn a_segment_zeroed_from_any_byte_keeps_whole_blocks_or_stops() {
    each_byte(
        |file, byte, is_last| {
            let mut bytes = file.bytes.clone();
            bytes[byte..].fill(0);
            if bytes == file.bytes {
                return (bytes, Expected::Blocks(16, false));
            }
            let whole = file
                .frames
                .iter()
                .filter(|(start, end)| bytes[*start..*end] == file.bytes[*start..*end])
                .count();
            let start = file.frames[whole.min(file.frames.len() - 1)].0;
            let expected = if bytes[..HEADER_BYTES] != file.bytes[..HEADER_BYTES] {
                Expected::Damage(0)
            } else if is_last {
                Expected::Blocks(file.before + whole as u64, byte > start)
            } else {
                Expected::Damage(start)
            };
            (bytes, expected)
        },
        "zeroed from",
    );
}

#[test]
fn a_byte_cut_out_anywhere_is_found() {
    each_byte(
        |file, byte, is_last| {
            let mut bytes = file.bytes.clone();
            bytes.remove(byte);
            if bytes[..file.used()] == file.bytes[..file.used()] {
                return (file.bytes.clone(), Expected::Blocks(16, false));
            }
            // Equal neighbours make a cut show only where they end.
            let first_changed = (0..bytes.len())
                .find(|at| bytes[*at] != file.bytes[*at])
                .unwrap();
            let last_frame = file.frames.len() - 1;
            let expected = match file.frame_of(first_changed) {
                None if first_changed < HEADER_BYTES => Expected::Damage(0),
                None => Expected::Blocks(16, false),
                Some(frame) if is_last && frame == last_frame => {
                    Expected::Blocks(file.before + frame as u64, true)
                }
                Some(frame) => Expected::Damage(file.frames[frame].0),
            };
            (bytes, expected)
        },
        "cut out",
    );
}

#[test]
fn a_missing_segment_stops_the_start() {
    for missing in 0..2 {
        let dir = folder();
        let (files, _) = small_journal(dir.path());
        std::fs::remove_file(&files[missing].path).unwrap();
        let error = open(dir.path()).err().expect("a segment is missing");
        assert!(
            matches!(error, JournalError::Read(ReadError::Damaged { .. })),
            "{error}"
        );
        assert!(
            read_blocks(dir.path(), 1)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .is_err()
        );
    }
}

#[test]
fn checking_only_the_last_segment_finds_the_same_end() {
    let quick = || JournalConfig {
        check: OpenCheck::LastSegment,
        ..config()
    };
    let dir = folder();
    let (files, _) = small_journal(dir.path());
    let whole = open(dir.path()).unwrap().1;
    let last = Journal::open(dir.path(), quick()).unwrap().1;
    assert!(last.blocks < whole.blocks);
    assert_eq!(
        Recovery {
            blocks: whole.blocks,
            ..last
        },
        whole
    );
    // Damage in an earlier segment is then found by whoever reads it.
    let mut bytes = files[0].bytes.clone();
    bytes[files[0].frames[2].0] ^= 1;
    files[0].write(&bytes);
    Journal::open(dir.path(), quick()).unwrap();
    let read: Vec<_> = read_blocks(dir.path(), 1).unwrap().collect();
    assert_eq!(read.len(), 3);
    assert!(matches!(read[2], Err(ReadError::Damaged { .. })));
}

#[test]
fn a_segment_that_was_only_begun_is_continued() {
    for check in [OpenCheck::EverySegment, OpenCheck::LastSegment] {
        let (dir, fresh) = (folder(), folder());
        let (_, blocks) = small_journal(dir.path());
        drop(open(fresh.path()).unwrap());
        let begun = dir.path().join("journal-00000000000000000017.log");
        std::fs::copy(
            fresh.path().join("journal-00000000000000000001.log"),
            &begun,
        )
        .unwrap();
        let (mut journal, recovery) =
            Journal::open(dir.path(), JournalConfig { check, ..config() }).unwrap();
        assert_eq!(recovery.last_sequence, 16);
        assert_eq!(recovery.last_hash, blocks[15].hash().unwrap());
        journal
            .append(Chained::recovered(&recovery).next(&[body(16, 20)]))
            .unwrap();
        drop(journal);
        assert_eq!(open(dir.path()).unwrap().1.last_sequence, 17);
        assert_eq!(read_blocks(dir.path(), 17).unwrap().count(), 1);
    }
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let dir = folder();
    let (files, _) = small_journal(dir.path());
    let mut bytes = files[2].bytes.clone();
    bytes[8] = 2;
    files[2].write(&bytes);
    let error = open(dir.path()).err().expect("the format is newer");
    assert!(
        error
            .to_string()
            .contains("format 2; this program reads up to format 1: use a newer program"),
        "{error}"
    );
}

#[test]
fn blocks_of_another_log_do_not_pass() {
    let (dir, other) = (folder(), folder());
    let (files, _) = small_journal(dir.path());
    let (others, _) = small_journal(other.path());
    // A frame moved from another journal, whole and well formed, has another salt.
    let (start, end) = files[0].frames[1];
    let mut bytes = files[0].bytes.clone();
    bytes[start..end].copy_from_slice(&others[0].bytes[start..end]);
    files[0].write(&bytes);
    let error = open(dir.path()).err().expect("the frame is foreign");
    assert!(error.to_string().contains("damaged"), "{error}");
}

/// Lets flushes through, or holds them.
#[derive(Default)]
struct Gate {
    held: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, held: bool) {
        *self.held.lock() = held;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut held = self.held.lock();
        while *held {
            self.changed.wait(&mut held);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Some blocks are flushed, some are only written; then each sector is as it was at the flush or as it was at the
    /// end, as a power loss may leave it. Nothing durable may be lost, and the journal must open.
    #[test]
    fn a_power_loss_keeps_every_durable_block(
        flushed in 1..12_u64,
        unflushed in 1..12_u64,
        lengths in prop::collection::vec(1..900_usize, 24),
        kept in prop::collection::vec(any::<bool>(), 64),
    ) {
        let dir = folder();
        let gate = Arc::new(Gate::default());
        let holder = Arc::clone(&gate);
        let config = JournalConfig {
            segment_bytes: 64 * 512,
            block_bytes_max: 2048,
            pre_flush: Some(Arc::new(move || { holder.pass(); Ok(()) })),
            ..JournalConfig::default()
        };
        let (mut journal, _) = Journal::open(dir.path(), config.clone()).unwrap();
        let mut chained = Chained::new();
        let mut blocks = Vec::new();
        let mut append = |journal: &mut Journal, index: u64| {
            let bodies = vec![body(index, lengths[index as usize])];
            blocks.push(Block { header: chained.header.clone(), bodies });
            journal.append(chained.next(&blocks.last().unwrap().bodies)).unwrap();
        };
        for index in 0..flushed {
            append(&mut journal, index);
        }
        let deadline = std::time::Instant::now() + PATIENCE;
        prop_assert!(journal.progress().wait_durable(flushed, Some(deadline)).unwrap());
        gate.set(true);
        let path = dir.path().join("journal-00000000000000000001.log");
        let old = std::fs::read(&path).unwrap();
        for index in flushed..flushed + unflushed {
            append(&mut journal, index);
        }
        prop_assert_eq!(journal.progress().positions().durable_seq, flushed);
        let mut after = std::fs::read(&path).unwrap();
        gate.set(false);
        drop(journal);
        for (sector, kept) in kept.iter().enumerate().filter(|(_, kept)| !**kept) {
            let range = sector * 512..(sector + 1) * 512;
            after[range.clone()].copy_from_slice(&old[range]);
            prop_assert!(!kept);
        }
        std::fs::write(&path, &after).unwrap();
        let read: Vec<Block> = read_blocks(dir.path(), 1).unwrap().map(Result::unwrap).collect();
        let (_, recovery) = Journal::open(dir.path(), config).unwrap();
        prop_assert!(recovery.last_sequence >= flushed);
        prop_assert_eq!(&read[..], &blocks[..recovery.last_sequence as usize]);
    }

    /// The same hole in what had been flushed is damage as soon as a later flush vouches for it.
    #[test]
    fn a_lost_sector_of_flushed_blocks_stops_the_start(sector in 0..6_usize) {
        let dir = folder();
        let config = JournalConfig { segment_bytes: 64 * 512, block_bytes_max: 2048, ..JournalConfig::default() };
        let (mut journal, _) = Journal::open(dir.path(), config.clone()).unwrap();
        let mut chained = Chained::new();
        for index in 0..10 {
            journal.append(chained.next(&[body(index, 400)])).unwrap();
            let deadline = std::time::Instant::now() + PATIENCE;
            prop_assert!(journal.progress().wait_durable(index + 1, Some(deadline)).unwrap());
        }
        drop(journal);
        let path = dir.path().join("journal-00000000000000000001.log");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[sector * 512..(sector + 1) * 512].fill(0);
        std::fs::write(&path, &bytes).unwrap();
        let error = Journal::open(dir.path(), config).err();
        let damaged = matches!(error, Some(JournalError::Read(ReadError::Damaged { .. })));
        prop_assert!(damaged);
    }
}
