//! What the submitter is told and what it tells.

/// How the submitter behaves.
#[derive(Debug, Clone)]
pub struct SubmitterConfig {
    /// Batches that may be signed and not yet mined. The first of them decides for all behind it.
    pub in_flight_max: usize,
    /// Batches that may be held altogether; above it `enqueue` refuses.
    pub batches_max: usize,
    /// Blocks that must lie on top of a batch's own before it is final.
    pub confirmations: u64,
    /// The same bytes are broadcast again after this long without being mined, in milliseconds.
    pub resend_after_ms: u64,
    /// A transaction is replaced by a dearer one after this long without being mined, in milliseconds.
    pub bump_after_ms: u64,
    /// No transaction offers more than this, in wei a unit of gas.
    pub max_fee_bound_wei: u128,
    /// Gas that a commit may use. It costs the same for any batch, so it is stated and not estimated:
    /// the estimate of a batch whose parent is still in flight would fail.
    pub gas_limit: u64,
}

impl Default for SubmitterConfig {
    fn default() -> Self {
        Self {
            in_flight_max: 4,
            batches_max: 1_024,
            confirmations: 12,
            resend_after_ms: 10_000,
            bump_after_ms: 30_000,
            max_fee_bound_wei: 500_000_000_000,
            gas_limit: 120_000,
        }
    }
}

/// How far a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Taken over, nothing on its way. A batch whose transaction reverted is back here.
    Sealed,
    /// A transaction is signed, saved and broadcast.
    Sent {
        /// Its hash; another one after a replacement.
        tx: [u8; 32],
    },
    /// It is in a block.
    Committed {
        /// The transaction's hash.
        tx: [u8; 32],
        /// The chain's block.
        block: u64,
        /// Gas that it used.
        gas_used: u64,
    },
    /// Enough blocks lie on top. The batch is no longer held here.
    Final {
        /// The transaction's hash.
        tx: [u8; 32],
        /// The chain's block.
        block: u64,
        /// Gas that it used.
        gas_used: u64,
    },
}

/// A batch has reached a stage. After a restart stages are reported again; a reorg moves a batch back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The batch's number.
    pub number: u64,
    /// Where it is now.
    pub stage: Stage,
}
