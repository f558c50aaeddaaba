//! The file behind the embedded chain: what was mined, in order, and nothing derived.
//!
//! A frame is a header of 12 bytes (length u32, CRC32C of the record u32, CRC32C of those 8 bytes u32,
//! little-endian) and a record. A frame counts once it is whole; every append is flushed before the
//! answer leaves, so at most the end of the file can be torn, and it is cut at open. Damage with whole
//! frames behind it cannot come from a crash: it stops the opening with its offset.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Name of the file in the chain's folder.
pub(super) const FILE_NAME: &str = "chain.log";
const MAGIC: &[u8; 8] = b"KARATEVM";
const FORMAT: u16 = 1;
const HEADER_BYTES: usize = 12;
/// Far above any record; a length beyond it is damage.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system refused.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// A frame before the end does not match its checksum.
    #[error(
        "{path} is damaged at byte {offset} and has whole frames behind it; restore the file from a copy"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damaged frame begins.
        offset: u64,
    },
    /// A frame is whole but its record cannot be read.
    #[error("{path}: record at byte {offset}: {reason}")]
    BadRecord {
        /// The file.
        path: PathBuf,
        /// Where its frame begins.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// An append failed earlier; what the disk holds since is unknown.
    #[error("{path}: an earlier write failed ({reason}); restart to read what was written")]
    Poisoned {
        /// The file.
        path: PathBuf,
        /// The first failure.
        reason: String,
    },
}

/// What happened on the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// The first record: what the chain began with.
    Genesis {
        chain_id: u64,
        base_fee: u64,
        base_fee_min: u64,
        timestamp: u64,
        /// Address and wei.
        funded: Vec<([u8; 20], u128)>,
    },
    /// One block with one transaction.
    Block {
        timestamp: u64,
        base_fee: u64,
        /// The block's hash, so that a replay that comes out otherwise is noticed.
        hash: [u8; 32],
        sender: [u8; 20],
        raw: Vec<u8>,
    },
    /// Blocks without transactions, a second apart.
    Empty {
        count: u32,
        timestamp: u64,
        base_fee: u64,
    },
    /// All blocks above this one were taken back.
    SetHead { number: u64 },
}

/// The open file.
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    poisoned: Option<String>,
}

/// What opening found.
pub(super) struct Opened {
    pub journal: Journal,
    pub records: Vec<Record>,
    /// Bytes of a torn tail that were cut.
    pub cut_bytes: u64,
}

impl Journal {
    /// Opens or creates the file, reads every record and cuts a torn tail.
    pub fn open(folder: &Path) -> Result<Opened, JournalError> {
        let path = folder.join(FILE_NAME);
        let io = |action| {
            let path = path.clone();
            move |source| JournalError::Io {
                action,
                path,
                source,
            }
        };
        std::fs::create_dir_all(folder).map_err(io("create folder of"))?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io("open"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io("read"))?;

        let mut records = Vec::new();
        let mut offset = 0;
        while let Some(record) = frame_at(&bytes, offset) {
            records.push(
                Record::decode(record).map_err(|reason| JournalError::BadRecord {
                    path: path.clone(),
                    offset: offset as u64,
                    reason,
                })?,
            );
            offset += HEADER_BYTES + record.len();
        }
        let cut_bytes = (bytes.len() - offset) as u64;
        if cut_bytes > 0 {
            let whole_frame_behind =
                (offset + 1..bytes.len()).any(|start| frame_at(&bytes, start).is_some());
            if whole_frame_behind {
                return Err(JournalError::Damaged {
                    path,
                    offset: offset as u64,
                });
            }
            file.set_len(offset as u64)
                .map_err(io("cut torn tail of"))?;
            file.sync_all().map_err(io("flush"))?;
        }
        file.seek(SeekFrom::Start(offset as u64))
            .map_err(io("seek in"))?;
        // The file's name must survive as well as its bytes.
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(io("flush folder of"))?;
        Ok(Opened {
            journal: Self {
                file,
                path,
                poisoned: None,
            },
            records,
            cut_bytes,
        })
    }

    /// Writes and flushes one record. After a failure every further append is refused: a flush that
    /// failed once says nothing about what the disk holds when it succeeds the next time.
    pub fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        if let Some(reason) = &self.poisoned {
            return Err(JournalError::Poisoned {
                path: self.path.clone(),
                reason: reason.clone(),
            });
        }
        let frame = frame(&record.encode());
        let written = self
            .file
            .write_all(&frame)
            .and_then(|()| self.file.sync_data());
        written.map_err(|source| {
            self.poisoned = Some(source.to_string());
            JournalError::Io {
                action: "append to",
                path: self.path.clone(),
                source,
            }
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn frame(record: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_BYTES + record.len());
    frame.extend_from_slice(&(record.len() as u32).to_le_bytes());
    frame.extend_from_slice(&crc32c::crc32c(record).to_le_bytes());
    let header_crc = crc32c::crc32c(&frame);
    frame.extend_from_slice(&header_crc.to_le_bytes());
    frame.extend_from_slice(record);
    frame
}

/// The record of the whole frame that begins at `offset`, if one does.
fn frame_at(bytes: &[u8], offset: usize) -> Option<&[u8]> {
    let word = |at: usize| {
        let bytes = bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let length = word(offset)? as usize;
    let record_crc = word(offset + 4)?;
    let header_crc = word(offset + 8)?;
    if length == 0
        || length > RECORD_BYTES_MAX
        || crc32c::crc32c(&bytes[offset..offset + 8]) != header_crc
    {
        return None;
    }
    let record = bytes.get(offset + HEADER_BYTES..offset + HEADER_BYTES + length)?;
    (crc32c::crc32c(record) == record_crc).then_some(record)
}

impl Record {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Genesis {
                chain_id,
                base_fee,
                base_fee_min,
                timestamp,
                funded,
            } => {
                bytes.push(0);
                bytes.extend_from_slice(MAGIC);
                bytes.extend_from_slice(&FORMAT.to_le_bytes());
                for number in [chain_id, base_fee, base_fee_min, timestamp] {
                    bytes.extend_from_slice(&number.to_le_bytes());
                }
                for (address, wei) in funded {
                    bytes.extend_from_slice(address);
                    bytes.extend_from_slice(&wei.to_le_bytes());
                }
            }
            Self::Block {
                timestamp,
                base_fee,
                hash,
                sender,
                raw,
            } => {
                bytes.push(1);
                bytes.extend_from_slice(&timestamp.to_le_bytes());
                bytes.extend_from_slice(&base_fee.to_le_bytes());
                bytes.extend_from_slice(hash);
                bytes.extend_from_slice(sender);
                bytes.extend_from_slice(raw);
            }
            Self::Empty {
                count,
                timestamp,
                base_fee,
            } => {
                bytes.push(2);
                bytes.extend_from_slice(&count.to_le_bytes());
                bytes.extend_from_slice(&timestamp.to_le_bytes());
                bytes.extend_from_slice(&base_fee.to_le_bytes());
            }
            Self::SetHead { number } => {
                bytes.push(3);
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader { rest: bytes };
        let record = match reader.take::<1>()?[0] {
            0 => {
                if &reader.take::<8>()? != MAGIC {
                    return Err("not an embedded chain's file".to_owned());
                }
                let format = u16::from_le_bytes(reader.take()?);
                if format != FORMAT {
                    return Err(format!(
                        "format {format}, this program reads format {FORMAT}"
                    ));
                }
                Self::Genesis {
                    chain_id: reader.u64()?,
                    base_fee: reader.u64()?,
                    base_fee_min: reader.u64()?,
                    timestamp: reader.u64()?,
                    funded: {
                        let mut funded = Vec::new();
                        while !reader.rest.is_empty() {
                            funded.push((reader.take()?, u128::from_le_bytes(reader.take()?)));
                        }
                        funded
                    },
                }
            }
            1 => Self::Block {
                timestamp: reader.u64()?,
                base_fee: reader.u64()?,
                hash: reader.take()?,
                sender: reader.take()?,
                raw: std::mem::take(&mut reader.rest).to_vec(),
            },
            2 => Self::Empty {
                count: u32::from_le_bytes(reader.take()?),
                timestamp: reader.u64()?,
                base_fee: reader.u64()?,
            },
            3 => Self::SetHead {
                number: reader.u64()?,
            },
            kind => return Err(format!("unknown kind {kind}")),
        };
        if reader.rest.is_empty() {
            Ok(record)
        } else {
            Err(format!("{} bytes too many", reader.rest.len()))
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (piece, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or_else(|| "too short".to_owned())?;
        self.rest = rest;
        Ok(*piece)
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.take()?))
    }
}
