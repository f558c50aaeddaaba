//! What is handed to the sequencer and what comes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::machine::Machine;

/// How far a command must have come before its answer is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ack {
    /// In the log's order and applied: survives a killed process.
    Sequenced,
    /// Flushed as well: survives the loss of power (journal) or of a broker (Kafka).
    Durable,
}

/// A command in both forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared<C> {
    /// The bytes that go into the log.
    pub body: Bytes,
    /// The same, decoded.
    pub command: C,
}

/// Takes the answer. It runs on the sequencer's own threads, or on one that works the queue off: it must be short, must not
/// block, and must need no lock that a caller of `work_off` holds.
pub type Reply<O> = Box<dyn FnOnce(Result<Answer<O>, SubmitError>) + Send>;

/// Commands that go into one block together, next to each other, and are answered together.
pub struct Submission<M: Machine> {
    /// At least one; at most what a block holds.
    pub commands: Vec<Prepared<M::Command>>,
    /// When the answer may leave.
    pub ack: Ack,
    /// Called exactly once when `submit` accepted the submission, never when it refused it.
    pub reply: Reply<M::Outcome>,
    /// For who waits for [`Ack::Durable`] and wants the same answer at [`Ack::Sequenced`] as well: called exactly once,
    /// as `reply` is, and usually before it. On a log that flushes at once the two may come in either order.
    pub sequenced: Option<Reply<M::Outcome>>,
}

/// The outcomes of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<O> {
    /// The sequence of the first command; the rest follow without gaps.
    pub first_sequence: u64,
    /// The block's time in milliseconds since 1970.
    pub time_ms: u64,
    /// One outcome a command, in order.
    pub outcomes: Vec<O>,
    /// When the submission passed from one stage to the next.
    pub times: StageTimes,
}

/// Moments of one submission on the way from the queue to its outcomes, by the monotonic clock. A block's submissions
/// share all but the first, so the clock is read once for each submission and three times for each block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageTimes {
    /// It was handed over.
    pub submitted: Instant,
    /// Its block was taken from the queue.
    pub taken: Instant,
    /// Its block was handed to the log: stamped, encoded, and written where the log writes at once.
    pub appended: Instant,
    /// Its block was applied: the outcomes are there.
    pub applied: Instant,
}

impl StageTimes {
    /// In the queue.
    pub fn queue(&self) -> Duration {
        self.taken.saturating_duration_since(self.submitted)
    }

    /// Being appended.
    pub fn append(&self) -> Duration {
        self.appended.saturating_duration_since(self.taken)
    }

    /// Being applied.
    pub fn apply(&self) -> Duration {
        self.applied.saturating_duration_since(self.appended)
    }
}

/// Why there is no answer.
///
/// From `submit` it means that nothing was taken. Through `reply`, `Poisoned` means that it is not known
/// whether the commands are in the log: send them again, with the same ids, to the restarted system.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue is at one of its bounds.
    #[error("the queue is full; try again in {retry_after_ms} ms")]
    Overloaded {
        /// An estimate of when there is room, in milliseconds; at least 1.
        retry_after_ms: u64,
    },
    /// The sequencer was stopped.
    #[error("the sequencer is stopped")]
    Stopped,
    /// The log or the machine failed; nothing more is taken until a restart.
    #[error("the sequencer has failed and takes nothing more until it is restarted: {cause}")]
    Poisoned {
        /// The first failure.
        cause: Arc<str>,
    },
    /// The submission can never fit into one block.
    #[error(
        "a submission of {commands} commands and {bytes} bytes does not fit into one block (at most {commands_max} commands, {bytes_max} bytes); split it"
    )]
    TooLarge {
        /// Commands in the submission.
        commands: usize,
        /// Their bytes, prefixes included.
        bytes: usize,
        /// The most commands a block takes.
        commands_max: usize,
        /// The most bytes of bodies a block takes, prefixes included.
        bytes_max: usize,
    },
    /// The submission holds no command.
    #[error("a submission must hold at least one command")]
    Empty,
}
