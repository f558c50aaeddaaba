//! The one writer of a realm.
//!
//! The promise: every accepted command gets one sequence; sequences are dense from 1; time never falls; and an answer
//! leaves only when the ack level it was asked for is reached.
//!
//! The way of a command, file by file:
//!
//! ```text
//! submission.rs ──► sequencer.rs ──► writer.rs ──► log/ (append) ──► machine.rs (apply) ──► releaser.rs ──► reply
//!                   bounded queue    drain, stamp   journal, memory   while the flush runs   at its ack level
//! ```
//!
//! Group commit comes from load, not from timers: while a flush runs, the next block grows. A failed append or flush
//! is final: the log is poisoned with its first cause, and everything afterwards is refused with it.
//!
//! Command bodies are opaque here. [`replay`](replay::replay) builds a machine's state from a log again.

pub mod block;
pub mod chain;
pub mod clock;
mod config;
mod desk;
pub mod log;
pub mod machine;
mod releaser;
pub mod replay;
pub mod sequencer;
pub mod submission;
pub mod timing;
mod writer;

pub use block::{Block, BlockError, BlockHeader, EncodedBlock, Hash, IngressOffset, NO_PARENT};
pub use chain::{Chain, ChainError, Standing};
pub use clock::{Clock, ManualClock, SystemClock};
pub use log::journal::{Journal, JournalConfig, JournalError, read_blocks};
#[cfg(feature = "kafka")]
pub use log::kafka::{
    Followed, KafkaCandidate, KafkaConfig, KafkaError, KafkaFollower, KafkaLog, KafkaPlace,
};
pub use log::memory::{MemoryConfig, MemoryDisk, MemoryLog};
pub use log::{
    BlockIterator, GoOn, Log, LogError, LogReader, Positions, Progress, ReadError, Recovery,
    TornTail, Waiting,
};
pub use machine::{BlockContext, Machine};
pub use replay::{Applier, ReplayError, ReplaySummary, replay, replay_after};
pub use sequencer::{
    Metrics, Sequencer, SequencerConfig, SequencerError, SequencerHandle, SequencerPositions,
};
pub use submission::{Ack, Answer, Prepared, Reply, StageTimes, Submission, SubmitError};
