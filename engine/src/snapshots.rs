//! Snapshots of the ledger: made from the previous one plus the log, off the hot path; recovery is snapshot plus tail.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, BufWriter, ErrorKind};
use std::path::{Path, PathBuf};

use karat_ledger::{Ledger, SnapshotError};
use thiserror::Error;

use crate::pace::{Pace, PacedReader, PacedWriter};

/// A snapshot that is being written, and one that is being removed. What a killed process left under these names is removed
/// with the next snapshot.
const PARTIAL: &str = "snapshot.partial";
const OLD: &str = "snapshot.old";
/// A file is cut short by so much at a time before it is removed: to free 64 MB at once was seen to hold a disk for 16 ms,
/// steps of 4 MiB never for 2.
const CUT_BYTES: u64 = 4 << 20;
/// Copied at once where nothing is paced by it: frames pass by this buffer.
const BUFFER_BYTES: usize = 64 << 10;

/// Why a snapshot could not be made or read.
#[derive(Debug, Error)]
pub enum SnapshotsError {
    /// The system refused.
    #[error("snapshot {}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The ledger refused.
    #[error("snapshot {}: {source}", path.display())]
    Snapshot {
        /// File.
        path: PathBuf,
        /// Cause.
        source: SnapshotError,
    },
    /// The work was ended before it was done.
    #[error("the snapshot was given up: the engine stops")]
    Stopped,
}

fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> SnapshotsError + '_ {
    move |source| SnapshotsError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Snapshots in a folder as sequence and path, oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, SnapshotsError> {
    let mut found = Vec::new();
    if !dir.exists() {
        return Ok(found);
    }
    for entry in fs::read_dir(dir).map_err(io_error(dir))? {
        let path = entry.map_err(io_error(dir))?.path();
        let sequence = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| {
                name.strip_prefix("snapshot-")?
                    .strip_suffix(".krt")?
                    .parse()
                    .ok()
            });
        if let Some(sequence) = sequence {
            found.push((sequence, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The newest snapshot at or before `last_sequence` that can be read, and the ones that could not.
///
/// # Errors
/// When the folder cannot be read. A damaged snapshot is passed over: it is a projection.
pub fn newest(
    dir: &Path,
    last_sequence: u64,
) -> Result<(Option<Ledger>, Vec<SnapshotsError>), SnapshotsError> {
    newest_at(dir, last_sequence, &mut Pace::hurried())
}

/// As [`newest`], at a pace.
///
/// # Errors
/// As [`newest`], and when the pace ends.
pub fn newest_at(
    dir: &Path,
    last_sequence: u64,
    pace: &mut Pace,
) -> Result<(Option<Ledger>, Vec<SnapshotsError>), SnapshotsError> {
    let mut passed_over = Vec::new();
    for (sequence, path) in list(dir)?.into_iter().rev() {
        if sequence > last_sequence {
            continue;
        }
        match read(&path, pace) {
            Ok(ledger) => return Ok((Some(ledger), passed_over)),
            Err(_) if pace.is_stopped() => return Err(SnapshotsError::Stopped),
            Err(error) => passed_over.push(error),
        }
    }
    Ok((None, passed_over))
}

fn read(path: &Path, pace: &mut Pace) -> Result<Ledger, SnapshotsError> {
    let file = open(path).map_err(io_error(path))?;
    let mut input = BufReader::with_capacity(BUFFER_BYTES, PacedReader::new(file, pace));
    Ledger::read_snapshot(&mut input).map_err(|source| SnapshotsError::Snapshot {
        path: path.to_owned(),
        source,
    })
}

/// Opens a snapshot; its bytes stay as long as the file is open, also when it is removed meanwhile.
///
/// # Errors
/// When the system refuses, or the snapshot is just being removed.
pub fn open(path: &Path) -> std::io::Result<File> {
    let file = File::open(path)?;
    match file.try_lock_shared() {
        Err(fs::TryLockError::WouldBlock) => Err(ErrorKind::NotFound.into()),
        // Where files cannot be locked none is cut short either.
        Ok(()) | Err(fs::TryLockError::Error(_)) => Ok(file),
    }
}

/// Writes a snapshot, whole or not at all, and drops all but the newest `keep`.
///
/// # Errors
/// When the system refuses.
pub fn write(dir: &Path, ledger: &Ledger, keep: usize) -> Result<PathBuf, SnapshotsError> {
    write_at(dir, ledger, keep, &mut Pace::hurried())
}

/// As [`write`], at a pace.
///
/// # Errors
/// As [`write`], and when the pace ends; there is no new snapshot then.
pub fn write_at(
    dir: &Path,
    ledger: &Ledger,
    keep: usize,
    pace: &mut Pace,
) -> Result<PathBuf, SnapshotsError> {
    fs::create_dir_all(dir).map_err(io_error(dir))?;
    let path = dir.join(format!("snapshot-{:020}.krt", ledger.applied_seq()));
    let (partial, removed) = (dir.join(PARTIAL), dir.join(OLD));
    for left in [&partial, &removed] {
        remove(left, pace)?;
    }
    if let Err(error) = write_file(&partial, ledger, pace) {
        // On a full disk it would stand in the way of everything else.
        let _ = remove(&partial, pace);
        return Err(match pace.is_stopped() {
            true => SnapshotsError::Stopped,
            false => error,
        });
    }
    fs::rename(&partial, &path).map_err(io_error(&path))?;
    // The name must be durable before an older snapshot is dropped.
    File::open(dir)
        .and_then(|folder| folder.sync_all())
        .map_err(io_error(dir))?;
    let found = list(dir)?;
    for (_, old) in found.iter().take(found.len().saturating_sub(keep)) {
        // Under its own name it would be a damaged snapshot from the first cut on.
        fs::rename(old, &removed).map_err(io_error(old))?;
        remove(&removed, pace)?;
    }
    Ok(path)
}

fn write_file(path: &Path, ledger: &Ledger, pace: &mut Pace) -> Result<(), SnapshotsError> {
    let file = File::create(path).map_err(io_error(path))?;
    let mut output = BufWriter::with_capacity(BUFFER_BYTES, PacedWriter::new(file, pace));
    ledger
        .write_snapshot(&mut output)
        .map_err(|source| SnapshotsError::Snapshot {
            path: path.to_owned(),
            source,
        })?;
    let written = output.into_inner().map_err(|error| error.into_error());
    written
        .and_then(|written| written.into_inner().sync_all())
        .map_err(io_error(path))
}

/// Removes a file if it is there. With rests it is cut short before, unless somebody else has it, by another name or open.
fn remove(path: &Path, pace: &mut Pace) -> Result<(), SnapshotsError> {
    if pace.rests()
        && let Ok(file) = OpenOptions::new().write(true).open(path)
        && is_nobody_elses(&file)
    {
        let mut length = file.metadata().map_err(io_error(path))?.len();
        while length > 0 && pace.go_on() {
            length = length.saturating_sub(CUT_BYTES);
            file.set_len(length).map_err(io_error(path))?;
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error(path)(error)),
        _ => Ok(()),
    }
}

/// Whether a file has one name, and nobody reads it who opened it by [`open`].
fn is_nobody_elses(file: &File) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        file.metadata().is_ok_and(|facts| facts.nlink() == 1) && file.try_lock().is_ok()
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        false
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use karat_ledger::ApplyContext;
    use karat_proto::{Account, Command, CommandId, CommandKind};
    use tokio::sync::watch as signal;

    use super::*;

    /// A ledger that refused so many commands.
    fn ledger(commands: u64) -> Ledger {
        let mut ledger = Ledger::new();
        for sequence in 1..=commands {
            let context = ApplyContext {
                sequence,
                time_ms: 1,
                block_hash: &[0; 32],
            };
            let id = u128::from(sequence).to_le_bytes();
            let command = Command {
                id: CommandId(id),
                actor: Account::NOBODY,
                body_hash: id,
                kind: CommandKind::Tick { base_fee_wei: 0 },
            };
            ledger.apply(&context, &command, &mut Vec::new());
        }
        ledger
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<String> = entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn name(sequence: u64) -> String {
        format!("snapshot-{sequence:020}.krt")
    }

    #[test]
    fn a_snapshot_at_a_pace_has_the_bytes_of_a_hurried_one_and_the_newest_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (hurried, paced) = (folder.path().join("hurried"), folder.path().join("paced"));
        let (_stop, stopped) = signal::channel(false);
        let mut pace = Pace::resting(stopped);
        for commands in [10, 20, 30_000] {
            let ledger = ledger(commands);
            let one = write(&hurried, &ledger, 2).unwrap();
            let other = write_at(&paced, &ledger, 2, &mut pace).unwrap();
            assert!(fs::read(one).unwrap() == fs::read(&other).unwrap());
            let (read, passed_over) = newest_at(&paced, u64::MAX, &mut pace).unwrap();
            assert!(passed_over.is_empty());
            assert_eq!(read.unwrap().state_digest(), ledger.state_digest());
        }
        assert_eq!(names(&paced), [name(20), name(30_000)]);
        assert_eq!(names(&hurried), names(&paced));
    }

    #[test]
    fn a_snapshot_that_is_given_up_leaves_the_folder_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let (stop, stopped) = signal::channel(false);
        let mut pace = Pace::resting(stopped);
        write_at(dir, &ledger(1), 2, &mut pace).unwrap();
        stop.send(true).unwrap();
        // Longer than a piece, after which it is asked at the latest.
        let given_up = write_at(dir, &ledger(30_000), 2, &mut pace);
        assert!(
            matches!(given_up, Err(SnapshotsError::Stopped)),
            "{given_up:?}"
        );
        assert_eq!(names(dir), [name(1)]);
    }

    #[test]
    fn what_a_killed_process_left_goes_with_the_next_snapshot() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let (_stop, stopped) = signal::channel(false);
        for mut pace in [Pace::hurried(), Pace::resting(stopped)] {
            fs::write(dir.join(PARTIAL), b"KARAT").unwrap();
            fs::write(dir.join(OLD), vec![0; CUT_BYTES as usize + 1]).unwrap();
            assert!(
                list(dir)
                    .unwrap()
                    .iter()
                    .all(|(sequence, _)| *sequence == 1)
            );
            write_at(dir, &ledger(1), 2, &mut pace).unwrap();
            assert_eq!(names(dir), [name(1)]);
        }
    }

    #[test]
    fn an_old_snapshot_keeps_its_bytes_for_who_reads_it_and_under_other_names() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("snapshots");
        let (_stop, stopped) = signal::channel(false);
        let mut pace = Pace::resting(stopped);
        let (first, second) = (
            write_at(&dir, &ledger(1), 2, &mut pace).unwrap(),
            write_at(&dir, &ledger(2), 2, &mut pace).unwrap(),
        );
        let copy = folder.path().join("copy");
        fs::hard_link(&first, &copy).unwrap();
        let mut reading = open(&second).unwrap();
        let bytes = (fs::read(&first).unwrap(), fs::read(&second).unwrap());
        write_at(&dir, &ledger(3), 1, &mut pace).unwrap();
        assert_eq!(names(&dir), [name(3)]);
        assert_eq!(fs::read(&copy).unwrap(), bytes.0);
        let mut rest = Vec::new();
        reading.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, bytes.1);
    }
}
