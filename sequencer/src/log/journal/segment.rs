//! Segment files: their names and their header.
//!
//! ```text
//! magic 8 | format u32 | zero 4 | salt u64 | zero 36 | CRC32C of the 60 bytes before, u32
//! ```
//!
//! The header is written and flushed before the file gets its name, so a header that does not read is damage and
//! never a torn write. The salt goes into every frame's checksum: a command body cannot contain bytes that pass for
//! a frame, because its author does not know the salt.

use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::log::ReadError;

pub(super) const HEADER_BYTES: u64 = 64;
const MAGIC: [u8; 8] = *b"KARATJNL";
/// The newest format this code writes and reads.
pub(super) const FORMAT: u32 = 1;

/// A segment file in the folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Segment {
    pub(super) first_sequence: u64,
    pub(super) path: PathBuf,
}

pub(super) fn path(dir: &Path, first_sequence: u64) -> PathBuf {
    dir.join(format!("journal-{first_sequence:020}.log"))
}

/// The folder's segments in order. Files with other names are none of the journal's.
pub(super) fn list(dir: &Path) -> std::io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let digits = name
            .strip_prefix("journal-")
            .and_then(|rest| rest.strip_suffix(".log"));
        if let Some(digits) = digits.filter(|digits| digits.len() == 20)
            && let Ok(first_sequence) = digits.parse()
        {
            segments.push(Segment {
                first_sequence,
                path,
            });
        }
    }
    segments.sort();
    Ok(segments)
}

/// A header with a fresh salt.
pub(super) fn new_header() -> ([u8; HEADER_BYTES as usize], u64) {
    // Each `RandomState` is seeded by the system; its hash of nothing is a random number.
    let salt = std::hash::RandomState::new().build_hasher().finish();
    let mut header = [0; HEADER_BYTES as usize];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    header[16..24].copy_from_slice(&salt.to_le_bytes());
    let checksum = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&checksum.to_le_bytes());
    (header, salt)
}

/// Reads a header and gives the salt.
pub(super) fn read_header(file: &mut File, path: &Path) -> Result<u64, ReadError> {
    let target = || path.display().to_string();
    let damaged = |reason: &str| ReadError::Damaged {
        target: target(),
        offset: 0,
        reason: reason.to_owned(),
    };
    let mut header = [0; HEADER_BYTES as usize];
    if let Err(source) = file.read_exact(&mut header) {
        if source.kind() == std::io::ErrorKind::UnexpectedEof {
            return Err(damaged("the file is shorter than a segment's header"));
        }
        return Err(ReadError::Io {
            target: target(),
            source,
        });
    }
    if header[..8] != MAGIC {
        return Err(damaged("the file does not begin as a journal segment"));
    }
    let mut word = [0; 4];
    word.copy_from_slice(&header[8..12]);
    let format = u32::from_le_bytes(word);
    if format > FORMAT {
        return Err(ReadError::NewerFormat {
            target: target(),
            found: format,
            supported: FORMAT,
        });
    }
    word.copy_from_slice(&header[60..]);
    if crc32c::crc32c(&header[..60]) != u32::from_le_bytes(word) || format == 0 {
        return Err(damaged("the segment's header does not match its checksum"));
    }
    let mut salt = [0; 8];
    salt.copy_from_slice(&header[16..24]);
    Ok(u64::from_le_bytes(salt))
}
