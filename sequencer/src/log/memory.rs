//! A log in memory with faults on demand: for tests, and to measure what is not the disk.
//!
//! [`MemoryDisk`] stands for the disk, [`MemoryLog`] for a process that writes to it. Dropping the log is a killed
//! process: appended blocks stay. [`MemoryDisk::lose_power`] takes a part of what was not flushed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::flusher::{FlushTarget, Flusher};
use super::{BlockIterator, Log, LogError, LogReader, Progress, ReadError, Recovery, Waiting};
use crate::block::{Block, EncodedBlock};
use crate::chain::Chain;

/// Faults and bounds of a memory log.
#[derive(Debug, Clone)]
pub struct MemoryConfig {
    /// Seeds delays and what a loss of power takes.
    pub seed: u64,
    /// Each append takes up to this long.
    pub append_delay_max: Duration,
    /// Each flush takes up to this long.
    pub flush_delay_max: Duration,
    /// The append with this number (from 1, since opening) fails.
    pub fail_append: Option<u64>,
    /// The flush with this number (from 1, since opening) fails.
    pub fail_flush: Option<u64>,
    /// As Kafka: a block is appended only when it is durable.
    pub appended_when_durable: bool,
    /// The most bytes of a block.
    pub block_bytes_max: usize,
    /// Once more bytes than this are kept, the oldest durable blocks are forgotten.
    pub kept_bytes_max: usize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            append_delay_max: Duration::ZERO,
            flush_delay_max: Duration::ZERO,
            fail_append: None,
            fail_flush: None,
            appended_when_durable: false,
            block_bytes_max: 16 << 20,
            kept_bytes_max: 1 << 30,
        }
    }
}

struct Stored {
    first_sequence: u64,
    last_sequence: u64,
    bytes: Bytes,
}

#[derive(Default)]
struct Content {
    blocks: VecDeque<Stored>,
    /// Of `blocks`, how many are flushed.
    flushed: usize,
    bytes: usize,
    /// Blocks forgotten at the front.
    forgotten: u64,
    held: bool,
    open: bool,
    /// Rises with each loss of power: a log opened before one can do nothing any more.
    power: u64,
}

/// What outlives the process.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    content: Arc<Mutex<Content>>,
    released: Arc<Condvar>,
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// No flush ends until [`MemoryDisk::release_flush`].
    pub fn hold_flush(&self) {
        self.content.lock().held = true;
    }

    /// Lets flushes end again.
    pub fn release_flush(&self) {
        self.content.lock().held = false;
        self.released.notify_all();
    }

    /// Ends the log that is open, as the process that has it is gone, and takes a seeded number of the blocks that
    /// are not flushed, from the end. Returns how many were taken.
    pub fn lose_power(&self, seed: u64) -> usize {
        let mut content = self.content.lock();
        content.power += 1;
        content.open = false;
        content.held = false;
        self.released.notify_all();
        let unflushed = content.blocks.len() - content.flushed;
        let taken = (Random(seed).next() % (unflushed as u64 + 1)) as usize;
        for _ in 0..taken {
            if let Some(block) = content.blocks.pop_back() {
                content.bytes -= block.bytes.len();
            }
        }
        taken
    }
}

/// A log in memory.
pub struct MemoryLog {
    disk: MemoryDisk,
    power: u64,
    config: MemoryConfig,
    progress: Arc<Progress>,
    flusher: Flusher,
    next_sequence: u64,
    appends: u64,
    random: Random,
    closed: bool,
}

impl MemoryLog {
    /// Opens what is on the disk. As with a folder, only one log at a time may be open.
    pub fn open(disk: &MemoryDisk, config: MemoryConfig) -> Result<(Self, Recovery), MemoryError> {
        let (recovery, stored, power) = {
            let mut content = disk.content.lock();
            if content.open {
                return Err(MemoryError::InUse);
            }
            let mut chain = if content.forgotten == 0 {
                Chain::genesis()
            } else {
                Chain::unknown()
            };
            for (index, stored) in content.blocks.iter().enumerate() {
                let damaged = |reason: String| MemoryError::Damaged { index, reason };
                let block =
                    Block::decode(&stored.bytes).map_err(|error| damaged(error.to_string()))?;
                let hash = *blake3::hash(&stored.bytes).as_bytes();
                chain
                    .accept(&block.header, &hash, block.bodies.len())
                    .map_err(|error| damaged(error.to_string()))?;
            }
            content.open = true;
            // What a restarted process finds and continues counts as durable, as the journal flushes it on opening.
            content.flushed = content.blocks.len();
            let recovery = Recovery::from_chain(&chain, content.blocks.len() as u64, None);
            (
                recovery,
                content.flushed as u64 + content.forgotten,
                content.power,
            )
        };
        let progress = Progress::new(recovery.last_sequence);
        let flush = {
            let disk = disk.clone();
            let config = config.clone();
            let mut random = Random(config.seed ^ 0xF1);
            let mut flushes = 0;
            move |target: FlushTarget| {
                flushes += 1;
                random.sleep_up_to(config.flush_delay_max);
                let mut content = disk.content.lock();
                while content.held && content.power == power {
                    disk.released.wait(&mut content);
                }
                if content.power != power {
                    return Err(flush_error("the power was lost"));
                }
                if config.fail_flush == Some(flushes) {
                    return Err(flush_error("injected flush failure"));
                }
                content.flushed = (stored + target.blocks - content.forgotten) as usize;
                content.forget(config.kept_bytes_max);
                Ok(())
            }
        };
        let flusher = Flusher::start(Arc::clone(&progress), flush).map_err(|source| {
            disk.content.lock().open = false;
            MemoryError::Thread { source }
        })?;
        let random = Random(config.seed);
        let next_sequence = recovery.last_sequence + 1;
        let disk = disk.clone();
        Ok((
            Self {
                disk,
                power,
                config,
                progress,
                flusher,
                next_sequence,
                appends: 0,
                random,
                closed: false,
            },
            recovery,
        ))
    }

    fn append_error(&self, first_sequence: u64, reason: &'static str) -> LogError {
        let source = Arc::new(std::io::Error::other(reason));
        self.progress.poison(LogError::Append {
            first_sequence,
            target: TARGET.to_owned(),
            source,
        })
    }
}

const TARGET: &str = "the memory log";

fn flush_error(reason: &'static str) -> LogError {
    LogError::Flush {
        target: TARGET.to_owned(),
        source: Arc::new(std::io::Error::other(reason)),
    }
}

/// Why a memory log does not open.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Another log has the disk open.
    #[error("the memory disk is in use by another log")]
    InUse,
    /// The blocks do not make a log.
    #[error("block {index} of the memory disk is damaged: {reason}")]
    Damaged {
        /// Which block.
        index: usize,
        /// What was found.
        reason: String,
    },
    /// The flusher could not start.
    #[error("start the flusher's thread: {source}")]
    Thread {
        /// The cause.
        source: std::io::Error,
    },
}

impl Content {
    fn forget(&mut self, kept_bytes_max: usize) {
        while self.bytes > kept_bytes_max && self.flushed > 0 {
            let Some(block) = self.blocks.pop_front() else {
                return;
            };
            self.bytes -= block.bytes.len();
            self.flushed -= 1;
            self.forgotten += 1;
        }
    }
}

impl Log for MemoryLog {
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
        self.appends += 1;
        self.random.sleep_up_to(self.config.append_delay_max);
        if self.config.fail_append == Some(self.appends) {
            return Err(self.append_error(first_sequence, "injected append failure"));
        }
        let last_sequence = block.last_sequence();
        let stored = Stored {
            first_sequence,
            last_sequence,
            bytes: Bytes::copy_from_slice(block.bytes()),
        };
        {
            let mut content = self.disk.content.lock();
            if content.power != self.power {
                drop(content);
                return Err(self.append_error(first_sequence, "the power was lost"));
            }
            content.bytes += bytes;
            content.blocks.push_back(stored);
        }
        self.next_sequence = last_sequence + 1;
        if !self.config.appended_when_durable {
            self.progress.publish_appended(last_sequence, self.appends);
        }
        self.flusher.kick(FlushTarget {
            sequence: last_sequence,
            blocks: self.appends,
        });
        Ok(())
    }

    fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(self.disk.clone())
    }

    fn waiting(&self) -> Waiting {
        Arc::new(|| None)
    }

    fn block_bytes_max(&self) -> usize {
        self.config.block_bytes_max
    }

    fn close(&mut self, wait_max: Duration) -> Result<(), LogError> {
        self.closed = true;
        self.flusher.close(wait_max)
    }
}

impl Drop for MemoryLog {
    fn drop(&mut self) {
        let mut content = self.disk.content.lock();
        if content.power == self.power {
            content.open = false;
        }
    }
}

impl LogReader for MemoryDisk {
    fn read(&self, from_sequence: u64) -> Result<BlockIterator, ReadError> {
        let content = self.content.lock();
        if content.forgotten > 0
            && let Some(first) = content.blocks.front()
            && first.first_sequence > from_sequence
        {
            return Err(ReadError::Gone {
                asked: from_sequence,
                first: first.first_sequence,
            });
        }
        // A marker names the sequence that follows it, so it is found by its first sequence.
        let wanted =
            |stored: &&Stored| stored.last_sequence.max(stored.first_sequence) >= from_sequence;
        let blocks: Vec<Bytes> = content
            .blocks
            .iter()
            .filter(wanted)
            .map(|stored| stored.bytes.clone())
            .collect();
        Ok(Box::new(blocks.into_iter().enumerate().map(
            |(index, bytes)| {
                Block::decode(&bytes).map_err(|source| ReadError::NotABlock {
                    target: TARGET.to_owned(),
                    offset: index as u64,
                    source,
                })
            },
        )))
    }
}

/// splitmix64: small, seeded, good enough to vary delays.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn sleep_up_to(&mut self, delay_max: Duration) {
        let bound_ns = u64::try_from(delay_max.as_nanos()).unwrap_or(u64::MAX);
        if bound_ns > 0 {
            std::thread::sleep(Duration::from_nanos(self.next() % bound_ns));
        }
    }
}
