//! Batches on their way, and how far each has come.

use super::outbox::{Attempt, Signed};
use super::stage::Stage;
use crate::batch::BatchToCommit;
use crate::chain::client::Receipt;

/// One batch on its way.
pub(super) struct Held {
    pub(super) batch: BatchToCommit,
    pub(super) state: State,
}

/// How far it has come.
pub(super) enum State {
    Sealed,
    Sent(Sent),
    Mined {
        /// What to go back to if the receipt vanishes; none if the chain had it before we knew.
        signed: Option<Signed>,
        receipt: Receipt,
    },
}

/// A transaction that is broadcast, or about to be.
pub(super) struct Sent {
    pub(super) signed: Signed,
    /// When it was last broadcast by this process.
    pub(super) broadcast_ms: Option<u64>,
    /// When the last attempt was signed, or first seen by this process.
    pub(super) signed_ms: Option<u64>,
    /// The nonce is used up, yet no attempt has a receipt, since then.
    pub(super) lost_since_ms: Option<u64>,
    pub(super) reported: bool,
}

impl Held {
    pub(super) fn nonce(&self) -> Option<u64> {
        match &self.state {
            State::Sealed => None,
            State::Sent(sent) => Some(sent.signed.nonce),
            State::Mined { signed, .. } => signed.as_ref().map(|signed| signed.nonce),
        }
    }
}

impl Sent {
    /// Signed by an earlier process, or taken back by a reorg: to be broadcast at once.
    pub(super) fn new(signed: Signed) -> Self {
        Self {
            signed,
            broadcast_ms: None,
            signed_ms: None,
            lost_since_ms: None,
            reported: false,
        }
    }

    pub(super) fn signed_now(signed: Signed, now_ms: u64) -> Self {
        Self {
            signed_ms: Some(now_ms),
            ..Self::new(signed)
        }
    }
}

impl Signed {
    pub(super) fn newest(&self) -> &Attempt {
        // `Outbox` reads no file without an attempt, and attempts are only added.
        &self.attempts[self.attempts.len() - 1]
    }
}

pub(super) fn committed(receipt: &Receipt) -> Stage {
    Stage::Committed {
        tx: receipt.transaction,
        block: receipt.block,
        gas_used: receipt.gas_used,
    }
}
