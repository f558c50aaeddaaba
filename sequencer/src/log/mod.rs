//! The log of a realm: what was ordered, in order. Memory, stores and snapshots can be rebuilt from it.

use std::sync::Arc;
use std::time::Duration;

use crate::block::{Block, BlockError, EncodedBlock, Hash, IngressOffset};
use crate::chain::{Chain, ChainError};

mod flusher;
pub mod journal;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod memory;
mod progress;

pub use progress::{BlockCounts, Positions, Progress};

/// How long the oldest block in flight has waited; see [`Log::waiting`].
pub type Waiting = Arc<dyn Fn() -> Option<Duration> + Send + Sync>;

/// Where blocks are appended, by one writer.
///
/// There are no default methods: an implementation that forgets one does not compile.
pub trait Log: Send {
    /// Begins to append a block. It must continue the last one without a gap in sequences.
    ///
    /// When it returns, the block has its place; [`Progress`] says when it is appended and when it is durable.
    /// The journal has appended it already, Kafka has handed it to its producer and may have several in flight.
    /// Except for `TooLarge` and `OutOfOrder`, which change nothing, an error poisons the log.
    fn append(&mut self, block: &EncodedBlock) -> Result<(), LogError>;

    /// How far the log has come; shared, and valid after the log is gone.
    fn progress(&self) -> Arc<Progress>;

    /// A reader of the same log that may be used from other threads and after the log is gone.
    fn reader(&self) -> Arc<dyn LogReader>;

    /// The most bytes of an encoded block that `append` takes.
    fn block_bytes_max(&self) -> usize;

    /// Says, whenever it is asked and from any thread, how long the oldest appended block has waited for its
    /// acknowledgement; `None` while none waits, and always where a block has its place when `append` returns.
    fn waiting(&self) -> Waiting;

    /// Makes everything appended durable and ends the log's threads. Waits at most `wait_max`; a log that cannot
    /// finish by then is poisoned with [`LogError::CloseTimeout`]. Everything afterwards is refused.
    fn close(&mut self, wait_max: Duration) -> Result<(), LogError>;
}

/// Blocks as they are read: it ends where the log ends at that moment, and after its first error.
pub type BlockIterator = Box<dyn Iterator<Item = Result<Block, ReadError>> + Send>;

/// Is asked again and again while blocks are read whether to go on, and may wait before it says so.
pub type GoOn = Box<dyn FnMut() -> bool + Send>;

/// Reads a log that may be growing.
pub trait LogReader: Send + Sync {
    /// The blocks that hold `from_sequence` and what follows, as far as they are appended, void ones included.
    fn read(&self, from_sequence: u64) -> Result<BlockIterator, ReadError>;

    /// As [`read`](Self::read), at the pace that `go_on` sets, also where blocks are passed over; where it says no the blocks
    /// end.
    fn read_at_pace(
        &self,
        from_sequence: u64,
        mut go_on: GoOn,
    ) -> Result<BlockIterator, ReadError> {
        let blocks = self.read(from_sequence)?;
        Ok(Box::new(blocks.take_while(move |_| go_on())))
    }
}

/// Why a log takes no block. Clones share the original cause.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// A block could not be written.
    #[error("append block {first_sequence} to {target}: {source}")]
    Append {
        /// The block's first sequence.
        first_sequence: u64,
        /// The file or topic.
        target: String,
        /// The cause.
        source: Arc<std::io::Error>,
    },
    /// What was written could not be made durable. Never retried: after a failed flush nobody knows what is on disk.
    #[error("flush {target}: {source}")]
    Flush {
        /// The file or topic.
        target: String,
        /// The cause.
        source: Arc<std::io::Error>,
    },
    /// Room for further blocks could not be made.
    #[error("prepare {target}: {source}")]
    Prepare {
        /// The file or topic.
        target: String,
        /// The cause.
        source: Arc<std::io::Error>,
    },
    /// The block is larger than the log takes.
    #[error("block {first_sequence} has {bytes} bytes, the log takes at most {bytes_max}")]
    TooLarge {
        /// The block's first sequence.
        first_sequence: u64,
        /// Its bytes.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// The block does not continue the last one.
    #[error("block begins at sequence {found}, the log continues at {expected}")]
    OutOfOrder {
        /// The sequence that comes next.
        expected: u64,
        /// The block's first sequence.
        found: u64,
    },
    /// Another leader has taken over: this one must step down.
    #[error("another leader has taken over: {reason}")]
    Overtaken {
        /// How it was noticed.
        reason: String,
    },
    /// Something outside the log failed so that it must not go on.
    #[error("{reason}")]
    Halted {
        /// What failed.
        reason: String,
    },
    /// The log could not finish in time when it was closed.
    #[error(
        "the log was not flushed within {waited_ms} ms of being closed; what is not durable is not known to survive"
    )]
    CloseTimeout {
        /// How long was waited.
        waited_ms: u64,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// The log failed earlier.
    #[error("the log has failed and takes nothing more until a restart: {cause}")]
    Poisoned {
        /// The first failure.
        cause: Arc<LogError>,
    },
}

/// Why a log cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refused to read.
    #[error("read {target}: {source}")]
    Io {
        /// The file or topic.
        target: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The log is damaged.
    #[error("{target} is damaged at offset {offset}: {reason}")]
    Damaged {
        /// The file or topic.
        target: String,
        /// Where the damage begins.
        offset: u64,
        /// What was found.
        reason: String,
    },
    /// A valid frame holds something that is no block.
    #[error("{target} holds no block at offset {offset}: {source}")]
    NotABlock {
        /// The file or topic.
        target: String,
        /// Where.
        offset: u64,
        /// Why.
        source: BlockError,
    },
    /// A block does not continue the one before it.
    #[error("{target} does not continue at offset {offset}: {source}")]
    NotLinked {
        /// The file or topic.
        target: String,
        /// Where.
        offset: u64,
        /// Why.
        source: ChainError,
    },
    /// The file was written by a newer program.
    #[error(
        "{target} has format {found}; this program reads up to format {supported}: use a newer program"
    )]
    NewerFormat {
        /// The file.
        target: String,
        /// The format found.
        found: u32,
        /// The newest known here.
        supported: u32,
    },
    /// The sequence asked for is no longer in the log.
    #[error(
        "sequence {asked} is not in the log any more, it begins at {first}; start from a snapshot"
    )]
    Gone {
        /// The sequence asked for.
        asked: u64,
        /// The first one there.
        first: u64,
    },
}

/// What was cut from the end of a log: bytes of a write that was never complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The file.
    pub file: std::path::PathBuf,
    /// Where the cut begins.
    pub offset: u64,
    /// From there to the last byte that was not zero.
    pub bytes: u64,
}

/// What was found when a log was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The last sequence; 0 for an empty log.
    pub last_sequence: u64,
    /// The hash that the next block names as its parent.
    pub last_hash: Hash,
    /// The last block's time in milliseconds since 1970; 0 for an empty log.
    pub last_time_ms: u64,
    /// The highest epoch; 0 for an empty log.
    pub epoch: u64,
    /// The realm; `None` for an empty log.
    pub realm: Option<String>,
    /// The latest ingress positions in the blocks that were read.
    pub ingress: Vec<IngressOffset>,
    /// How many blocks were read.
    pub blocks: u64,
    /// What was cut, if anything.
    pub torn_tail: Option<TornTail>,
}

impl Recovery {
    /// What a chain says after `blocks` blocks.
    pub fn from_chain(chain: &Chain, blocks: u64, torn_tail: Option<TornTail>) -> Self {
        Self {
            last_sequence: chain.last_sequence(),
            last_hash: chain.head(),
            last_time_ms: chain.time_ms(),
            epoch: chain.epoch(),
            realm: chain.realm().map(str::to_owned),
            ingress: chain.ingress().to_vec(),
            blocks,
            torn_tail,
        }
    }
}
