//! Snapshots of the ledger: made from the previous one plus the log, off the hot path; recovery is snapshot plus tail.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use karat_ledger::{Ledger, SnapshotError};
use thiserror::Error;

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
    let mut passed_over = Vec::new();
    for (sequence, path) in list(dir)?.into_iter().rev() {
        if sequence > last_sequence {
            continue;
        }
        match read(&path) {
            Ok(ledger) => return Ok((Some(ledger), passed_over)),
            Err(error) => passed_over.push(error),
        }
    }
    Ok((None, passed_over))
}

/// Reads one snapshot.
///
/// # Errors
/// When it cannot be read, is damaged, or of a newer format.
pub fn read(path: &Path) -> Result<Ledger, SnapshotsError> {
    let file = File::open(path).map_err(io_error(path))?;
    Ledger::read_snapshot(&mut BufReader::with_capacity(1 << 20, file)).map_err(|source| {
        SnapshotsError::Snapshot {
            path: path.to_owned(),
            source,
        }
    })
}

/// Writes a snapshot, whole or not at all, and drops all but the newest `keep`.
///
/// # Errors
/// When the system refuses.
pub fn write(dir: &Path, ledger: &Ledger, keep: usize) -> Result<PathBuf, SnapshotsError> {
    fs::create_dir_all(dir).map_err(io_error(dir))?;
    let path = dir.join(format!("snapshot-{:020}.krt", ledger.applied_seq()));
    let partial = dir.join("snapshot.partial");
    let file = File::create(&partial).map_err(io_error(&partial))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    ledger
        .write_snapshot(&mut out)
        .map_err(|source| SnapshotsError::Snapshot {
            path: partial.clone(),
            source,
        })?;
    out.flush().map_err(io_error(&partial))?;
    out.get_ref().sync_all().map_err(io_error(&partial))?;
    fs::rename(&partial, &path).map_err(io_error(&path))?;
    // The name must be durable before an older snapshot is dropped.
    File::open(dir)
        .and_then(|folder| folder.sync_all())
        .map_err(io_error(dir))?;
    let found = list(dir)?;
    for (_, old) in found.iter().take(found.len().saturating_sub(keep)) {
        fs::remove_file(old).map_err(io_error(old))?;
    }
    Ok(path)
}
