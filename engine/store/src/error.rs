//! What can go wrong with the store.

use std::path::{Path, PathBuf};

/// Why rows could not be applied or read. The message says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A page of more rows than one query answers with.
    #[error(
        "a page of {limit} rows was asked for; at most {max} are given, ask for the rest with `after`"
    )]
    Limit {
        /// What was asked for.
        limit: usize,
        /// The bound.
        max: usize,
    },
    /// Projections of one call that do not ascend.
    #[error("projections out of order: sequence {after} comes after {before}")]
    OutOfOrder {
        /// The sequence before.
        before: u64,
        /// The one that is not greater.
        after: u64,
    },
    /// One call with too many bytes.
    #[error(
        "projections of {bytes} bytes in one call; at most {max} are taken, apply them in parts"
    )]
    TooLarge {
        /// Bytes of rows and keys.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// Written by a newer version of this program, or of the storage below.
    #[error("store {} has format {found}, this program reads {supported}; use a newer program, or remove the folder and rebuild it from the log", path.display())]
    NewerFormat {
        /// The folder.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What is known here.
        supported: u32,
    },
    /// Another process has the folder open.
    #[error("store {} is in use by another process", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds something that cannot be a store.
    #[error("store {} is damaged: {reason}; remove the folder and rebuild it from the log", path.display())]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What was seen.
        reason: String,
    },
    /// The background work did not keep up within the bound.
    #[error("store {} did not write its buffers within {waited_ms} ms; is the disk stuck?", path.display())]
    Stalled {
        /// The folder.
        path: PathBuf,
        /// How long was waited.
        waited_ms: u64,
    },
    /// The storage below failed. After a failed write it takes no more until it is opened again.
    #[error("store cannot {what} {}: {reason}; free space or mend the disk and restart, what is missing comes from the log", path.display())]
    Storage {
        /// The operation, as a verb.
        what: &'static str,
        /// The folder or file.
        path: PathBuf,
        /// The answer from below.
        reason: String,
    },
}

impl StoreError {
    pub(crate) fn storage(what: &'static str, path: &Path, error: impl std::fmt::Display) -> Self {
        Self::Storage {
            what,
            path: path.to_path_buf(),
            reason: error.to_string(),
        }
    }
}
