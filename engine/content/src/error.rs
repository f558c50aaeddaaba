//! What can go wrong with content.

use std::io;
use std::path::{Path, PathBuf};

/// Why content could not be stored or read. The message says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The object is above the store's limit.
    #[error("object of {bytes} bytes is above the limit of {max} bytes")]
    TooLarge {
        /// Size of the object.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// Not a CID that this store uses.
    #[error("'{text}' is not a CID of this store: {reason}")]
    Cid {
        /// The text, cut when very long.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk, or the quota on it, is full. Nothing stored earlier is touched.
    #[error("content store is full at {}: {source}; free space and try again", path.display())]
    Full {
        /// The file that could not grow.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The system refused an operation on a file.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// The operation, as a verb.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The stored bytes are not the ones that were put.
    #[error("content {cid} is altered: {} at offset {offset}: {reason}; put the same bytes again or restore the file", file.display())]
    Altered {
        /// The CID that was asked for.
        cid: String,
        /// The pack file.
        file: PathBuf,
        /// Where the object's frame begins in it.
        offset: u64,
        /// What was seen.
        reason: String,
    },
    /// An index file names a pack file that is not there.
    #[error("pack file {} is missing, but {} names {objects} objects in it; restore the pack file, or remove the index file to go on without them", pack.display(), index.display())]
    MissingPack {
        /// The missing file.
        pack: PathBuf,
        /// The index file that names it.
        index: PathBuf,
        /// How many objects it held when the index file was written.
        objects: u64,
    },
    /// Written by a newer version of this program.
    #[error("{} has format version {found}, this program reads up to {supported}; use a newer program", file.display())]
    NewerFormat {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version known here.
        supported: u32,
    },
    /// Another process has the folder open for writing.
    #[error("content folder {} is in use by another process", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A limit of [`PackConfig`](crate::PackConfig) that cannot be.
    #[error("content configuration: {0}")]
    Config(String),
    /// An earlier flush failed; the store takes nothing more until it is opened again.
    #[error(
        "content store stopped after a failed flush ({cause}); restart to recover from what reached the disk"
    )]
    Poisoned {
        /// The first failure.
        cause: String,
    },
}

impl ContentError {
    /// Wraps the system's answer to an operation on `path`.
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::Full { path, source },
            _ => Self::Io { what, path, source },
        }
    }
}
