//! `index.json`, which says whose the folder is and which indexes may have been used, and the folder's lock.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::Path;

use karat_proto::CollectionId;
use serde::{Deserialize, Serialize};

use super::error::{SpoolError, io_error};

const FORMAT: u32 = 1;
const INDEX_FILE: &str = "index.json";
const LOCK_FILE: &str = "spool.lock";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IndexFile {
    format: u32,
    pub(super) collection: CollectionId,
    commitment: String,
    /// Every index below may have been used.
    pub(super) used_below: u64,
}

pub(super) fn take_lock(folder: &Path) -> Result<File, SpoolError> {
    let path = folder.join(LOCK_FILE);
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|source| io_error("open", &path, source))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(SpoolError::InUse {
            folder: folder.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(io_error("lock", &path, source)),
    }
}

pub(super) fn read_index(
    folder: &Path,
    collection: CollectionId,
    commitment: &[u8; 32],
    log_has_frames: bool,
) -> Result<IndexFile, SpoolError> {
    let path = folder.join(INDEX_FILE);
    let bad = |reason: String| SpoolError::Index {
        path: path.clone(),
        reason,
    };
    let asked = IndexFile {
        format: FORMAT,
        collection,
        commitment: hex::encode(commitment),
        used_below: 0,
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !log_has_frames => {
            return Ok(asked);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(bad("the file is missing, and the log has assets".into()));
        }
        Err(source) => return Err(io_error("read", &path, source)),
    };
    let found: IndexFile = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    if found.format != FORMAT {
        return Err(bad(format!(
            "format {} is unknown to this build",
            found.format
        )));
    }
    let whose = |file: &IndexFile| {
        format!(
            "collection {} with the secret of commitment {}",
            file.collection, file.commitment
        )
    };
    if (found.collection, &found.commitment) != (collection, &asked.commitment) {
        return Err(SpoolError::Other {
            folder: folder.to_owned(),
            found: whose(&found),
            asked: whose(&asked),
        });
    }
    Ok(found)
}

/// Writes and flushes `index.json`; in memory it changes only if that went well.
pub(super) fn write_index(
    folder: &Path,
    index: &mut IndexFile,
    used_below: u64,
) -> Result<(), SpoolError> {
    let (path, new_path) = (folder.join(INDEX_FILE), folder.join("index.json.new"));
    let failed = |source| io_error("write", &path, source);
    let changed = IndexFile {
        used_below,
        commitment: index.commitment.clone(),
        ..*index
    };
    let text =
        serde_json::to_string_pretty(&changed).map_err(|error| failed(io::Error::other(error)))?;
    let mut file = File::create(&new_path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_data().map_err(failed)?;
    fs::rename(&new_path, &path).map_err(failed)?;
    flush_folder(folder)?;
    *index = changed;
    Ok(())
}

pub(super) fn flush_folder(folder: &Path) -> Result<(), SpoolError> {
    File::open(folder)
        .and_then(|opened| opened.sync_all())
        .map_err(|source| io_error("flush", folder, source))
}
