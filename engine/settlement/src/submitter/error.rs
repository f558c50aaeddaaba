//! Why the submitter could not do its work.

use super::outbox::OutboxError;
use crate::chain::client::ChainError;

/// Why a step or an enqueue did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum SubmitterError {
    /// The chain could not be asked or did not answer well. The next step tries again.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The folder failed. Nothing was broadcast that is not saved.
    #[error("settlement outbox: {0}")]
    Outbox(#[from] OutboxError),
    /// The account cannot pay. The next step tries again.
    #[error("settler 0x{address} cannot pay for batch {number}: {reason}; fund the account")]
    Funds {
        /// The account, in hexadecimal.
        address: String,
        /// The batch that waits.
        number: u64,
        /// The node's words.
        reason: String,
    },
    /// The contract would refuse the batch: paused, or the settler's role is missing. The next step tries
    /// again; nothing is sent until it would succeed.
    #[error("settlement contract would refuse batch {number}: {reason}")]
    Refused {
        /// The batch.
        number: u64,
        /// The contract's error.
        reason: String,
    },
    /// The chain holds another batch under this number or another history before it: two ledgers settle
    /// to one contract, or this one was rolled back. A person must decide; every further step says so.
    #[error(
        "batch {number} conflicts with the chain: the chain has 0x{on_chain}, this ledger has 0x{ours}"
    )]
    Conflict {
        /// The first batch that differs.
        number: u64,
        /// The chain's commitment, or its commitment of the batch before.
        on_chain: String,
        /// Ours.
        ours: String,
    },
    /// The chain has fewer batches than the ledger has seen settled: it was reset, or reorganised deeper
    /// than the configured confirmations.
    #[error(
        "batch {number} cannot follow: the chain's last batch is {on_chain}; \
         enqueue from batch {on_chain} on, or settle to the chain that has the rest"
    )]
    Gap {
        /// The chain's last batch.
        on_chain: u64,
        /// The first batch held here.
        number: u64,
    },
    /// Too many batches wait.
    #[error(
        "settlement queue is full: {batches} batches wait for the chain; try again when one is final"
    )]
    QueueFull {
        /// How many.
        batches: usize,
    },
    /// Batches must be enqueued in order.
    #[error("enqueue batch {given}: the next is batch {expected}")]
    OutOfOrder {
        /// The number that follows on.
        expected: u64,
        /// The number given.
        given: u64,
    },
    /// A batch names another parent than the commitment of the batch before.
    #[error(
        "enqueue batch {number}: parent 0x{given} is not the commitment 0x{expected} of the batch before"
    )]
    WrongParent {
        /// The batch.
        number: u64,
        /// The commitment before it.
        expected: String,
        /// Its parent.
        given: String,
    },
    /// The number is known with other content.
    #[error("enqueue batch {number}: another batch with this number was taken over before")]
    Different {
        /// The batch.
        number: u64,
    },
}

impl SubmitterError {
    pub(super) fn conflict(number: u64, on_chain: &[u8; 32], ours: &[u8; 32]) -> Self {
        Self::Conflict {
            number,
            on_chain: hex::encode(on_chain),
            ours: hex::encode(ours),
        }
    }
}
