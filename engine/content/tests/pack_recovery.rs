//! What a pack folder survives: killed processes, cut, flipped and missing files, and other processes.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::fs;
use std::path::{Path, PathBuf};

use karat_content::{
    ContentError, ContentStore, Digest, PackConfig, PackReader, PackStore, digest_of,
};

fn open(folder: &Path) -> (PackStore, karat_content::OpenReport) {
    PackStore::open(folder, PackConfig::default()).unwrap()
}

fn object(number: usize) -> Vec<u8> {
    format!("object {number} ").into_bytes().repeat(number + 1)
}

fn pack(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("pack-{number:06}.kpk"))
}

fn index(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("index-{number:06}.idx"))
}

/// A folder with `count` objects in one pack, as a killed process leaves it: the index file covers nothing.
fn killed(count: usize) -> (tempfile::TempDir, Vec<Digest>) {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let digests = (0..count)
        .map(|number| store.put(&object(number)).unwrap())
        .collect();
    drop(store);
    fs::remove_file(index(folder.path(), 1)).unwrap();
    (folder, digests)
}

fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn objects_are_found_again_with_and_without_the_index_file() {
    let (folder, digests) = killed(20);
    let (store, report) = open(folder.path());
    assert_eq!(
        (report.objects, report.packs, report.torn_bytes_cut),
        (20, 1, 0)
    );
    assert!(report.scanned_bytes > 0);
    drop(store);
    let (store, report) = open(folder.path());
    assert_eq!((report.objects, report.scanned_bytes), (20, 0));
    for (number, digest) in digests.iter().enumerate() {
        assert_eq!(store.get(digest).unwrap().unwrap(), object(number));
    }
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_keeps_every_object_before_it() {
    let (folder, digests) = killed(6);
    let whole = fs::read(pack(folder.path(), 1)).unwrap();
    let mut ends = vec![16];
    for number in 0..digests.len() {
        ends.push(ends[number] + 44 + object(number).len());
    }
    assert_eq!(*ends.last().unwrap(), whole.len());
    for length in 0..whole.len() {
        let _ = fs::remove_file(index(folder.path(), 1));
        fs::write(pack(folder.path(), 1), &whole[..length]).unwrap();
        let (store, report) = open(folder.path());
        let kept = ends
            .iter()
            .filter(|end| **end <= length)
            .count()
            .saturating_sub(1);
        assert_eq!(report.objects as usize, kept, "cut at {length}");
        assert!(
            report.damaged.is_empty(),
            "cut at {length}: {:?}",
            report.damaged
        );
        let torn = if length < 16 {
            length
        } else {
            length - ends[kept]
        };
        assert_eq!(report.torn_bytes_cut as usize, torn, "cut at {length}");
        // And it goes on: the next object lands after the last whole one.
        let next = store.put(b"the next one").unwrap();
        assert_eq!(store.get(&next).unwrap().unwrap(), &b"the next one"[..]);
        drop(store);
        assert_eq!(open(folder.path()).1.objects as usize, kept + 1);
    }
}

#[test]
fn a_flipped_bit_anywhere_never_yields_other_bytes_and_is_reported() {
    let (folder, digests) = killed(6);
    let whole = fs::read(pack(folder.path(), 1)).unwrap();
    let last_frame = whole.len() - 44 - object(5).len();
    for byte in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[byte] ^= 1 << (byte % 8);
        for entry in fs::read_dir(folder.path()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        fs::write(pack(folder.path(), 1), &flipped).unwrap();
        let (store, report) = open(folder.path());
        let readable = digests
            .iter()
            .filter(|digest| matches!(store.get(digest), Ok(Some(_))))
            .count();
        if byte < 16 {
            assert_eq!(readable, 6, "header byte {byte}");
        } else {
            assert_eq!(readable, 5, "byte {byte}");
        }
        if byte >= last_frame {
            // The last frame alone cannot be told from one that a killed process did not finish.
            assert_eq!(
                report.torn_bytes_cut as usize,
                whole.len() - last_frame,
                "byte {byte}"
            );
        } else {
            assert_eq!(report.damaged.len(), 1, "byte {byte}");
            assert_eq!(report.damaged[0].file, pack(folder.path(), 1));
            let damaged =
                report.damaged[0].offset..report.damaged[0].offset + report.damaged[0].length;
            assert!(
                damaged.contains(&(byte as u64)),
                "byte {byte} is not in {damaged:?}"
            );
        }
        // Putting the bytes again heals it.
        for number in 0..6 {
            store.put(&object(number)).unwrap();
        }
        assert!(
            digests
                .iter()
                .all(|digest| store.get(digest).unwrap().is_some())
        );
        drop(store);
        let (_, report) = open(folder.path());
        assert_eq!(report.objects, 6, "byte {byte}");
        assert_eq!(
            report.damaged.is_empty(),
            byte >= last_frame,
            "damage is still told"
        );
    }
}

#[test]
fn damage_under_the_index_file_is_found_when_read_and_named_with_file_and_offset() {
    let (folder, digests) = killed(3);
    drop(open(folder.path()));
    let mut bytes = fs::read(pack(folder.path(), 1)).unwrap();
    let offset = 16 + 44 + object(0).len();
    bytes[offset + 44] ^= 0x10;
    fs::write(pack(folder.path(), 1), &bytes).unwrap();

    let (store, report) = open(folder.path());
    assert_eq!((report.objects, report.scanned_bytes), (3, 0));
    let damaged = store.verify().unwrap();
    assert_eq!(damaged.len(), 1);
    assert_eq!(
        (damaged[0].offset, damaged[0].digest),
        (offset as u64, Some(digests[1]))
    );
    for _ in 0..2 {
        let error = store.get(&digests[1]).unwrap_err().to_string();
        assert!(error.contains("pack-000001.kpk"), "{error}");
        assert!(error.contains(&format!("offset {offset}")), "{error}");
        assert!(!store.contains(&digests[1]).unwrap());
    }
    assert!(store.get(&digests[2]).unwrap().is_some());
    // A pack whose kept object is lost stays for a rescue.
    let collected = store.collect(&|digest| *digest != digests[0]).unwrap();
    assert_eq!(
        (collected.objects_dropped, collected.packs_left_damaged),
        (1, 1)
    );
    assert!(pack(folder.path(), 1).exists());
    store.put(&object(1)).unwrap();
    assert_eq!(store.get(&digests[1]).unwrap().unwrap(), object(1));
}

#[test]
fn a_pack_shorter_than_its_index_file_names_the_lost_objects() {
    let (folder, digests) = killed(4);
    drop(open(folder.path()));
    let whole = fs::read(pack(folder.path(), 1)).unwrap();
    fs::write(pack(folder.path(), 1), &whole[..whole.len() - 1]).unwrap();
    for _ in 0..2 {
        let (store, report) = open(folder.path());
        assert_eq!((report.objects, report.torn_bytes_cut), (3, 0));
        assert_eq!(report.damaged.len(), 1);
        assert_eq!(report.damaged[0].digest, Some(digests[3]));
        assert!(matches!(
            store.get(&digests[3]),
            Err(ContentError::Altered { .. })
        ));
    }
    let (store, _) = open(folder.path());
    store.put(&object(3)).unwrap();
    assert_eq!(store.get(&digests[3]).unwrap().unwrap(), object(3));
    drop(store);
    let (store, _) = open(folder.path());
    assert_eq!(store.get(&digests[3]).unwrap().unwrap(), object(3));
}

#[test]
fn a_missing_pack_that_an_index_file_names_is_refused() {
    let (folder, _) = killed(4);
    drop(open(folder.path()));
    fs::remove_file(pack(folder.path(), 1)).unwrap();
    let error = PackStore::open(folder.path(), PackConfig::default()).unwrap_err();
    assert!(
        matches!(error, ContentError::MissingPack { objects: 4, .. }),
        "{error}"
    );
    assert!(matches!(
        PackReader::open(folder.path()),
        Err(ContentError::MissingPack { .. })
    ));
}

#[test]
fn an_index_file_altered_at_any_byte_is_not_believed() {
    let (folder, digests) = killed(3);
    drop(open(folder.path()));
    let whole = fs::read(index(folder.path(), 1)).unwrap();
    for byte in 0..whole.len() {
        let mut altered = whole.clone();
        altered[byte] ^= 0x41;
        fs::write(index(folder.path(), 1), &altered).unwrap();
        let (store, report) = open(folder.path());
        assert!(report.scanned_bytes > 0, "byte {byte}");
        assert!(
            digests
                .iter()
                .all(|digest| store.get(digest).unwrap().is_some())
        );
    }
    fs::write(index(folder.path(), 1), &whole[..whole.len() / 2]).unwrap();
    assert_eq!(open(folder.path()).1.objects, 3);
}

#[test]
fn a_pack_of_a_newer_format_is_refused_and_not_touched() {
    let (folder, _) = killed(1);
    let mut bytes = fs::read(pack(folder.path(), 1)).unwrap();
    bytes[4..8].copy_from_slice(&2u32.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..12]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    fs::write(pack(folder.path(), 1), &bytes).unwrap();
    let before = files(folder.path());
    let error = PackStore::open(folder.path(), PackConfig::default()).unwrap_err();
    assert!(
        matches!(
            error,
            ContentError::NewerFormat {
                found: 2,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(files(folder.path()), before);
}

#[test]
fn a_second_writer_is_refused_while_a_reader_follows() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let error = PackStore::open(folder.path(), PackConfig::default()).unwrap_err();
    assert!(matches!(error, ContentError::InUse { .. }), "{error}");
    let reader = PackReader::open(folder.path()).unwrap();
    for number in 0..50 {
        let digest = store.put(&object(number)).unwrap();
        assert_eq!(reader.get(&digest).unwrap().unwrap(), object(number));
    }
    store
        .collect(&|digest| *digest == digest_of(&object(7)))
        .unwrap();
    assert_eq!(reader.digests().unwrap(), [digest_of(&object(7))]);
    assert_eq!(
        reader.get(&digest_of(&object(7))).unwrap().unwrap(),
        object(7)
    );
    assert!(reader.verify().unwrap().is_empty());
}

#[test]
fn a_reader_changes_nothing_in_a_folder_with_a_torn_tail() {
    let (folder, digests) = killed(3);
    let whole = fs::read(pack(folder.path(), 1)).unwrap();
    fs::write(pack(folder.path(), 1), &whole[..whole.len() - 5]).unwrap();
    let before = files(folder.path());
    let reader = PackReader::open(folder.path()).unwrap();
    assert!(reader.contains(&digests[1]).unwrap());
    assert!(!reader.contains(&digests[2]).unwrap());
    assert!(reader.damaged().is_empty());
    assert_eq!(files(folder.path()), before);
}

#[test]
fn limits_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for config in [
        PackConfig {
            object_bytes_max: 9 * 1024 * 1024,
            ..PackConfig::default()
        },
        PackConfig {
            pack_bytes_max: 1 << 33,
            ..PackConfig::default()
        },
        PackConfig {
            pack_bytes_max: 16,
            ..PackConfig::default()
        },
    ] {
        assert!(matches!(
            PackStore::open(folder.path(), config),
            Err(ContentError::Config(_))
        ));
    }
}

#[test]
fn a_collection_that_was_killed_at_any_file_step_loses_no_kept_object() {
    let folder = tempfile::tempdir().unwrap();
    let config = PackConfig {
        pack_bytes_max: 600,
        ..PackConfig::default()
    };
    let (store, _) = PackStore::open(folder.path(), config).unwrap();
    let digests: Vec<_> = (0..12)
        .map(|number| store.put(&object(number)).unwrap())
        .collect();
    store.flush().unwrap();
    let before = files(folder.path());
    let keep = |digest: &Digest| {
        digests
            .iter()
            .position(|known| known == digest)
            .unwrap()
            .is_multiple_of(2)
    };
    store.collect(&keep).unwrap();
    drop(store);
    let after = files(folder.path());

    // The copies come first and the old files go one by one: every number of old files still there is a moment to die.
    let gone: Vec<_> = before
        .iter()
        .filter(|(path, _)| !after.iter().any(|(left, _)| left == path))
        .collect();
    assert!(gone.len() > 4);
    for removed in 0..=gone.len() {
        let crashed = tempfile::tempdir().unwrap();
        // Of each pack the index file goes first.
        let mut order = gone.clone();
        order.sort_by_key(|(path, _)| {
            let name = path.file_name().unwrap().to_str().unwrap();
            (
                name[name.len() - 10..name.len() - 4].to_owned(),
                !name.starts_with("index"),
            )
        });
        for (path, bytes) in after.iter().chain(order.into_iter().skip(removed)) {
            fs::write(crashed.path().join(path.file_name().unwrap()), bytes).unwrap();
        }
        let (store, report) = PackStore::open(crashed.path(), config).unwrap();
        assert!(
            report.damaged.is_empty(),
            "{removed} removed: {:?}",
            report.damaged
        );
        for (number, digest) in digests.iter().enumerate().step_by(2) {
            assert_eq!(
                store.get(digest).unwrap().unwrap(),
                object(number),
                "{removed} removed"
            );
        }
        store.collect(&keep).unwrap();
        assert_eq!(store.digests().unwrap().len(), 6);
    }
}
