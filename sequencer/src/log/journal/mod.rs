//! The embedded log: a folder of segment files, written by one process.
//!
//! An append writes to the page cache and is done: it survives a killed process. A thread flushes whatever is there,
//! one flush after the other. A segment is begun only when the one before is flushed, so a write that was torn by a
//! loss of power is always in the last one.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{IoSlice, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use self::ahead::Ahead;
use self::preparer::{Prepared, Preparer};
use self::reader::FolderReader;
use super::flusher::{FlushTarget, Flusher};
use super::{Log, LogError, LogReader, Progress, ReadError, Recovery, Waiting};
use crate::block::EncodedBlock;

mod ahead;
mod frame;
mod preparer;
mod reader;
mod recovery;
mod segment;

pub use reader::read_blocks;

/// Something that must be flushed before the journal is, so that `Durable` covers it too.
pub type PreFlush = Arc<dyn Fn() -> std::io::Result<()> + Send + Sync>;

/// Called before a step on the disk; an error counts as the disk's own. For tests and drills.
pub type Faults = Arc<dyn Fn(DiskStep) -> std::io::Result<()> + Send + Sync>;

/// The steps at which a disk can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskStep {
    /// A block is written.
    Append,
    /// The journal is flushed.
    Flush,
    /// The next segment is made.
    Prepare,
}

/// How much is read when a journal is opened. What is not read then is checked when it is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenCheck {
    /// All of it, about 1 s a GB from memory.
    EverySegment,
    /// The last segment that holds blocks.
    LastSegment,
}

/// Settings of a journal.
#[derive(Clone)]
pub struct JournalConfig {
    /// The size of a segment file; 64 MiB.
    pub segment_bytes: u64,
    /// The most bytes of an encoded block; 16 MiB. A segment must be able to hold one.
    pub block_bytes_max: usize,
    /// How much is checked on opening; everything.
    pub check: OpenCheck,
    /// Runs before each flush, after the flush's extent is settled: whatever was written before a block was appended
    /// is flushed before the block is. An error is a failed flush. None.
    pub pre_flush: Option<PreFlush>,
    /// Faults to inject. None.
    pub faults: Option<Faults>,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            block_bytes_max: 16 << 20,
            check: OpenCheck::EverySegment,
            pre_flush: None,
            faults: None,
        }
    }
}

impl std::fmt::Debug for JournalConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JournalConfig")
            .field("segment_bytes", &self.segment_bytes)
            .field("block_bytes_max", &self.block_bytes_max)
            .field("check", &self.check)
            .field("pre_flush", &self.pre_flush.is_some())
            .finish_non_exhaustive()
    }
}

/// Why a journal does not open.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process, or another part of this one, has it open.
    #[error("the folder {} is in use by another process; stop it first, or use another folder", dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder cannot be read as a journal: damage, a newer format, or the disk.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A setting is out of its bounds.
    #[error("journal configuration: {reason}")]
    Config {
        /// Which, and why.
        reason: String,
    },
    /// The system refused.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

impl JournalError {
    fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// What the flusher flushes.
struct Dirty {
    file: Arc<File>,
    path: PathBuf,
    /// A segment got its name since the last flush.
    folder: bool,
}

/// A journal that is open for appending.
pub struct Journal {
    dir: PathBuf,
    config: JournalConfig,
    file: Arc<File>,
    path: PathBuf,
    salt: u64,
    offset: u64,
    segment_bytes: u64,
    ahead: Ahead,
    next_sequence: u64,
    blocks: u64,
    closed: bool,
    progress: Arc<Progress>,
    dirty: Arc<Mutex<Dirty>>,
    // Order of fields is order of dropping: the threads end before the lock is given back.
    flusher: Flusher,
    preparer: Option<Preparer>,
    _lock: File,
}

impl Journal {
    /// Opens a folder, which is made if it is not there. Cuts a torn tail and says so in the [`Recovery`]; stops at
    /// damage before it. What it found is flushed before it returns.
    pub fn open(dir: &Path, config: JournalConfig) -> Result<(Self, Recovery), JournalError> {
        let least =
            segment::HEADER_BYTES + (frame::FRAME_HEADER_BYTES + config.block_bytes_max) as u64;
        if config.segment_bytes < least || config.block_bytes_max > reader::BLOCK_BYTES_LIMIT {
            let (segment, block) = (config.segment_bytes, config.block_bytes_max);
            let limit = reader::BLOCK_BYTES_LIMIT;
            let reason = format!(
                "segment_bytes is {segment} and block_bytes_max {block}: a segment needs at least {least} bytes, a block may have at most {limit}"
            );
            return Err(JournalError::Config { reason });
        }
        std::fs::create_dir_all(dir).map_err(|source| JournalError::io("create", dir, source))?;
        let lock = lock(dir)?;
        let temporary = preparer::temporary(dir);
        if temporary.exists() {
            std::fs::remove_file(&temporary)
                .map_err(|source| JournalError::io("remove", &temporary, source))?;
        }
        let (recovery, end) = recovery::recover(dir, config.check)?;
        let (file, path, salt, offset) = match end {
            Some(end) => {
                let file = reopen(&end.segment.path, end.offset, config.segment_bytes)?;
                (file, end.segment.path, end.salt, end.offset)
            }
            None => {
                let prepared =
                    preparer::prepare(dir, config.segment_bytes, config.faults.as_ref(), || true)
                        .map_err(|source| {
                        JournalError::io("prepare the first segment in", dir, source)
                    })?;
                let path = segment::path(dir, 1);
                std::fs::rename(&prepared.temporary, &path)
                    .map_err(|source| JournalError::io("name", &path, source))?;
                (prepared.file, path, prepared.salt, segment::HEADER_BYTES)
            }
        };
        // A process that was killed leaves appended blocks that were never flushed. They are durable from here on.
        file.sync_all()
            .map_err(|source| JournalError::io("flush", &path, source))?;
        sync_folder(dir).map_err(|source| JournalError::io("flush the folder", dir, source))?;
        let segment_bytes = file
            .metadata()
            .map_err(|source| JournalError::io("measure", &path, source))?
            .len();
        let file = Arc::new(file);
        let progress = Progress::new(recovery.last_sequence);
        let dirty = Arc::new(Mutex::new(Dirty {
            file: Arc::clone(&file),
            path: path.clone(),
            folder: false,
        }));
        let flusher = Flusher::start(
            Arc::clone(&progress),
            flush(dir.to_owned(), config.clone(), Arc::clone(&dirty)),
        )
        .map_err(|source| JournalError::io("start the flusher of", dir, source))?;
        let preparer = Preparer::start(dir.to_owned(), config.segment_bytes, config.faults.clone())
            .map_err(|source| JournalError::io("start the preparer of", dir, source))?;
        let mut journal = Self {
            dir: dir.to_owned(),
            config,
            file,
            path,
            salt,
            offset,
            segment_bytes,
            ahead: Ahead::new(offset, segment_bytes),
            next_sequence: recovery.last_sequence + 1,
            blocks: 0,
            closed: false,
            progress,
            dirty,
            flusher,
            preparer: Some(preparer),
            _lock: lock,
        };
        journal.ahead.keep(&journal.file, journal.offset);
        Ok((journal, recovery))
    }

    /// Begins the next segment. Waits until the last one is durable.
    fn rotate(&mut self, first_sequence: u64) -> Result<(), LogError> {
        let blocks = self.blocks;
        self.progress.wait_until(None, |progress| {
            progress.blocks().durable >= blocks || progress.is_poisoned()
        });
        self.progress.refuse_if_poisoned()?;
        let path = segment::path(&self.dir, first_sequence);
        let prepared = self.take_prepared(&path).map_err(|source| {
            let target = format!("journal segment {}", path.display());
            LogError::Prepare {
                target,
                source: Arc::new(source),
            }
        })?;
        self.file = Arc::new(prepared.file);
        self.salt = prepared.salt;
        self.offset = segment::HEADER_BYTES;
        self.segment_bytes = self.config.segment_bytes;
        self.ahead = Ahead::new(self.offset, self.segment_bytes);
        self.ahead.keep(&self.file, self.offset);
        *self.dirty.lock() = Dirty {
            file: Arc::clone(&self.file),
            path: path.clone(),
            folder: true,
        };
        self.path = path;
        Ok(())
    }

    fn take_prepared(&self, path: &Path) -> std::io::Result<Prepared> {
        let Some(preparer) = &self.preparer else {
            return Err(std::io::Error::other("the journal is closed"));
        };
        if path.exists() {
            return Err(std::io::Error::other("a file of that name exists"));
        }
        let prepared = preparer.take()?;
        std::fs::rename(&prepared.temporary, path)?;
        preparer.want();
        Ok(prepared)
    }

    fn write(&mut self, block: &EncodedBlock) -> std::io::Result<()> {
        if let Some(faults) = &self.config.faults {
            faults(DiskStep::Append)?;
        }
        let mark = self.progress.positions().durable_seq;
        let header = frame::header(self.salt, mark, block.bytes());
        // One call for both parts; only a disk that takes less than all of it needs more.
        let mut file = &*self.file;
        let written = loop {
            match file.write_vectored(&[IoSlice::new(&header), IoSlice::new(block.bytes())]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                written => break written?,
            }
        };
        if written < header.len() {
            file.write_all(&header[written..])?;
        }
        file.write_all(&block.bytes()[written.saturating_sub(header.len())..])
    }
}

impl Log for Journal {
    fn append(&mut self, block: &EncodedBlock) -> Result<(), LogError> {
        self.progress.refuse_if_poisoned()?;
        if self.closed {
            return Err(LogError::Closed);
        }
        let (first_sequence, bytes) = (block.first_sequence(), block.bytes().len());
        if first_sequence != self.next_sequence {
            return Err(LogError::OutOfOrder {
                expected: self.next_sequence,
                found: first_sequence,
            });
        }
        if bytes > self.config.block_bytes_max {
            return Err(LogError::TooLarge {
                first_sequence,
                bytes,
                bytes_max: self.config.block_bytes_max,
            });
        }
        let frame_bytes = (frame::FRAME_HEADER_BYTES + bytes) as u64;
        if self.offset + frame_bytes > self.segment_bytes {
            self.rotate(first_sequence)
                .map_err(|error| self.progress.poison(error))?;
        }
        self.write(block).map_err(|source| {
            let target = format!("journal segment {}", self.path.display());
            self.progress.poison(LogError::Append {
                first_sequence,
                target,
                source: Arc::new(source),
            })
        })?;
        self.offset += frame_bytes;
        self.next_sequence = block.last_sequence() + 1;
        self.blocks += 1;
        // The flusher first: its flush then runs while the block is applied.
        let sequence = block.last_sequence();
        self.flusher.kick(FlushTarget {
            sequence,
            blocks: self.blocks,
        });
        self.progress.publish_appended(sequence, self.blocks);
        self.ahead.keep(&self.file, self.offset);
        Ok(())
    }

    fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(FolderReader {
            dir: self.dir.clone(),
        })
    }

    fn waiting(&self) -> Waiting {
        Arc::new(|| None)
    }

    fn block_bytes_max(&self) -> usize {
        self.config.block_bytes_max
    }

    fn close(&mut self, wait_max: Duration) -> Result<(), LogError> {
        self.closed = true;
        let closed = self.flusher.close(wait_max);
        self.preparer = None;
        closed
    }
}

/// One flush: what must be durable before, then the segment, then its name.
fn flush(
    dir: PathBuf,
    config: JournalConfig,
    dirty: Arc<Mutex<Dirty>>,
) -> impl FnMut(FlushTarget) -> Result<(), LogError> + Send + 'static {
    move |_target| {
        let failed = |target: String| {
            move |source| LogError::Flush {
                target,
                source: Arc::new(source),
            }
        };
        if let Some(pre_flush) = &config.pre_flush {
            pre_flush().map_err(failed("what the journal's blocks refer to".to_owned()))?;
        }
        // A segment is only replaced when it is durable, so the one file here holds all that is not.
        let (file, path, folder) = {
            let mut dirty = dirty.lock();
            (
                Arc::clone(&dirty.file),
                dirty.path.clone(),
                std::mem::take(&mut dirty.folder),
            )
        };
        if let Some(faults) = &config.faults {
            faults(DiskStep::Flush)
                .map_err(failed(format!("journal segment {}", path.display())))?;
        }
        file.sync_data()
            .map_err(|source| failed(format!("journal segment {}", path.display()))(source))?;
        if folder {
            sync_folder(&dir).map_err(failed(format!("journal folder {}", dir.display())))?;
        }
        Ok(())
    }
}

fn lock(dir: &Path) -> Result<File, JournalError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|source| JournalError::io("open", &path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::Locked {
            dir: dir.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(JournalError::io("lock", &path, source)),
    }
}

/// Opens the last segment at its end; a file that was cut short gets its zeros back.
fn reopen(path: &Path, offset: u64, segment_bytes: u64) -> Result<File, JournalError> {
    let io = |source| JournalError::io("reopen", path, source);
    let mut file = OpenOptions::new().write(true).open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    if length < segment_bytes {
        file.seek(SeekFrom::Start(length)).map_err(io)?;
        std::io::copy(
            &mut std::io::Read::take(std::io::repeat(0), segment_bytes - length),
            &mut file,
        )
        .map_err(io)?;
    }
    file.seek(SeekFrom::Start(offset)).map_err(io)?;
    Ok(file)
}

fn sync_folder(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}
