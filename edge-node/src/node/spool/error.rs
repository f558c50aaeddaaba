//! Why a spool cannot be used.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::frames::PAYLOAD_BYTES_MAX;

/// The spool cannot be used.
#[derive(Debug, Error)]
pub enum SpoolError {
    /// A file could not be read or written.
    #[error("spool: cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process uses it.
    #[error("spool {folder} is in use by another process; stop that one, or name another folder")]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// `index.json` cannot be understood.
    #[error("spool: {path}: {reason}; restore the file, or name a new folder for a new collection")]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The folder belongs to another collection or secret.
    #[error("spool {folder} belongs to {found}, not to {asked}; name another folder")]
    Other {
        /// The folder.
        folder: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asked.
        asked: String,
    },
    /// A frame that was good when the folder was opened no longer is.
    #[error("spool: {path} is damaged at byte {offset}; what is open there cannot be sent")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the frame begins.
        offset: u64,
    },
    /// More assets than there is room for.
    #[error("spool: {count} assets do not fit beside {open}; it holds at most {most}")]
    Full {
        /// Assets given.
        count: usize,
        /// Assets open.
        open: usize,
        /// The bound.
        most: usize,
    },
    /// An asset that no engine would take.
    #[error("spool: asset {index} takes {bytes} bytes; at most {PAYLOAD_BYTES_MAX} are possible")]
    TooLarge {
        /// Its index.
        index: u64,
        /// Its size, bytes.
        bytes: usize,
    },
}

pub(super) fn io_error(what: &'static str, path: &Path, source: io::Error) -> SpoolError {
    SpoolError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}
