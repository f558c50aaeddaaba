//! Bounds and identity of a sequencer, and why one does not start or stop.

use std::time::Duration;

use crate::block::{BODY_PREFIX_BYTES, REALM_BYTES_MAX, header_bytes};
use crate::log::{Log, LogError};

/// Bounds and identity of a sequencer.
#[derive(Debug, Clone)]
pub struct SequencerConfig {
    /// The realm's name, 1 to 64 bytes; must be the log's.
    pub realm: String,
    /// The leader's term; a log with a lower one gets an epoch marker, a log with a higher one is refused.
    pub epoch: u64,
    /// The most commands waiting for a block.
    pub queue_commands_max: usize,
    /// The most bytes of bodies waiting for a block.
    pub queue_bytes_max: usize,
    /// The most submissions waiting for a block.
    pub queue_submissions_max: usize,
    /// The most commands in a block.
    pub block_commands_max: usize,
    /// The most bytes of an encoded block.
    pub block_bytes_max: usize,
    /// Beyond so many commands that are appended and not durable the writer waits; so it bounds waiting answers.
    pub unflushed_commands_max: u64,
    /// Beyond so many bytes that are appended and not durable the writer waits.
    pub unflushed_bytes_max: usize,
    /// How long starting waits for its epoch marker and stopping for the last flush.
    pub stop_wait_max: Duration,
}

impl SequencerConfig {
    /// The defaults for a realm: epoch 1; 65,536 commands, 64 MiB and 65,536 submissions in the queue; 16,384
    /// commands and 4 MiB a block; 262,144 commands and 128 MiB not yet durable; 30 s to stop.
    pub fn new(realm: impl Into<String>) -> Self {
        Self {
            realm: realm.into(),
            epoch: 1,
            queue_commands_max: 65_536,
            queue_bytes_max: 64 << 20,
            queue_submissions_max: 65_536,
            block_commands_max: 16_384,
            block_bytes_max: 4 << 20,
            unflushed_commands_max: 262_144,
            unflushed_bytes_max: 128 << 20,
            stop_wait_max: Duration::from_secs(30),
        }
    }

    /// What a block leaves for bodies and ingress positions.
    pub(crate) fn block_body_bytes_max(&self) -> usize {
        self.block_bytes_max
            .saturating_sub(header_bytes(&self.realm, &[]))
    }

    pub(crate) fn check(&self, log: &dyn Log) -> Result<(), SequencerError> {
        let refuse = |reason: String| Err(SequencerError::Config { reason });
        if self.realm.is_empty() || self.realm.len() > REALM_BYTES_MAX {
            return refuse(format!(
                "realm must have 1 to {REALM_BYTES_MAX} bytes, it has {}",
                self.realm.len()
            ));
        }
        if self.epoch == 0 {
            return refuse("epoch must be at least 1".to_owned());
        }
        let counts = [
            (
                "queue_commands_max",
                self.queue_commands_max,
                self.block_commands_max,
            ),
            (
                "queue_bytes_max",
                self.queue_bytes_max,
                self.block_bytes_max,
            ),
            ("queue_submissions_max", self.queue_submissions_max, 1),
            ("block_commands_max", self.block_commands_max, 1),
            (
                "block_bytes_max",
                self.block_bytes_max,
                header_bytes(&self.realm, &[]) + BODY_PREFIX_BYTES + 1,
            ),
        ];
        for (name, value, least) in counts {
            if value < least {
                return refuse(format!("{name} must be at least {least}, it is {value}"));
            }
        }
        if self.block_bytes_max > log.block_bytes_max() {
            let (ours, logs) = (self.block_bytes_max, log.block_bytes_max());
            return refuse(format!(
                "block_bytes_max is {ours}, but the log takes blocks of at most {logs} bytes"
            ));
        }
        Ok(())
    }
}

/// Why a sequencer does not start or stop.
#[derive(Debug, thiserror::Error)]
pub enum SequencerError {
    /// A setting is out of its bounds.
    #[error("sequencer configuration: {reason}")]
    Config {
        /// Which, and why.
        reason: String,
    },
    /// The log belongs to another realm.
    #[error("the log is of realm \"{found}\", not \"{realm}\"")]
    Realm {
        /// The realm configured.
        realm: String,
        /// The log's realm.
        found: String,
    },
    /// The log has seen a later leader.
    #[error(
        "the log has epoch {found}, this leader has {epoch}: it has been replaced and must not write"
    )]
    EpochBehind {
        /// The epoch configured.
        epoch: u64,
        /// The log's epoch.
        found: u64,
    },
    /// The recovery is not of this log.
    #[error(
        "the log is at sequence {log_seq}, the recovery says {recovery_seq}; pass what opening the log returned"
    )]
    Recovery {
        /// Where the log is.
        log_seq: u64,
        /// What the recovery says.
        recovery_seq: u64,
    },
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A thread could not start.
    #[error("start the sequencer's thread: {source}")]
    Thread {
        /// The cause.
        source: std::io::Error,
    },
    /// Somebody else has stopped it.
    #[error("the sequencer was already stopped")]
    AlreadyStopped,
    /// The machine panicked; its state is lost and must be built again from the log.
    #[error("the writer ended early: {reason}")]
    Panicked {
        /// What is known.
        reason: String,
    },
}
