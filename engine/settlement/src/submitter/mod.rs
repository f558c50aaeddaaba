//! Carries sealed batches to the chain: in order, each once, to an end.
//!
//! ```text
//! enqueue ─► Sealed ─► sign, save, broadcast ─► Sent ─► receipt ─► Committed ─► deep enough ─► Final
//!               ▲                                ▲ │ resend, bump      │
//!               └── mined but reverted ──────────┼─┘                   │
//!                                                └──── receipt gone ◄──┘ (reorg)
//! ```
//!
//! The contract refuses a batch whose number and parent do not follow on, so nothing that is sent twice
//! can settle twice; what is saved before it is broadcast makes sure that nothing is forgotten. After a
//! restart the engine enqueues every batch that it does not know to be final, in order; what the chain
//! already has is found there and reported again.
//!
//! There is no clock and no task in here: the caller's loop calls [`Submitter::step`] with the time.

mod error;
mod fees;
mod following;
mod held;
mod node_answer;
mod outbox;
mod sending;
mod stage;

use std::collections::BTreeMap;
use std::path::Path;

pub use self::error::SubmitterError;
use self::held::{Held, Sent, State, committed};
pub use self::outbox::OutboxError;
use self::outbox::{Outbox, Sender, Signed};
pub use self::stage::{Progress, Stage, SubmitterConfig};
pub use crate::batch::BatchToCommit;
use crate::chain::client::ChainClient;
use crate::chain::signer::Signer;

/// Carries batches to one contract from one account, which nothing else may send from.
pub struct Submitter {
    client: ChainClient,
    signer: Signer,
    config: SubmitterConfig,
    outbox: Outbox,
    /// Read from the outbox at open and not yet enqueued again.
    saved: BTreeMap<u64, Signed>,
    /// Dense numbers.
    batches: BTreeMap<u64, Held>,
    /// What happened and was not yet returned; survives a step that fails.
    progress: Vec<Progress>,
    conflict: Option<(u64, [u8; 32], [u8; 32])>,
}

impl Submitter {
    /// Opens the folder that holds what was signed before.
    ///
    /// Errors: the folder is in use, belongs to another account or contract, or cannot be read.
    pub fn open(
        folder: &Path,
        client: ChainClient,
        signer: Signer,
        config: SubmitterConfig,
    ) -> Result<Self, SubmitterError> {
        let sender = Sender {
            chain_id: client.chain_id(),
            contract: client.contract(),
            address: signer.address(),
        };
        let (outbox, saved) = Outbox::open(folder, sender)?;
        Ok(Self {
            client,
            signer,
            config,
            outbox,
            saved,
            batches: BTreeMap::new(),
            progress: Vec::new(),
            conflict: None,
        })
    }

    /// Takes a batch over. The first after an open may have any number; each further one follows on.
    /// Enqueuing a batch that is held already changes nothing.
    pub fn enqueue(&mut self, batch: BatchToCommit) -> Result<(), SubmitterError> {
        let number = batch.number;
        if let Some(held) = self.batches.get(&number) {
            return if held.batch == batch {
                Ok(())
            } else {
                Err(SubmitterError::Different { number })
            };
        }
        if let Some((last, held)) = self.batches.last_key_value() {
            if number != last + 1 {
                return Err(SubmitterError::OutOfOrder {
                    expected: last + 1,
                    given: number,
                });
            }
            let expected = held.batch.commitment();
            if batch.parent != expected {
                return Err(SubmitterError::WrongParent {
                    number,
                    expected: hex::encode(expected),
                    given: hex::encode(batch.parent),
                });
            }
        }
        if self.batches.len() >= self.config.batches_max {
            return Err(SubmitterError::QueueFull {
                batches: self.batches.len(),
            });
        }
        if self
            .saved
            .get(&number)
            .is_some_and(|saved| saved.batch != batch)
        {
            return Err(SubmitterError::Different { number });
        }
        let state = self
            .saved
            .remove(&number)
            .map_or(State::Sealed, |signed| State::Sent(Sent::new(signed)));
        self.batches.insert(number, Held { batch, state });
        Ok(())
    }

    /// How far a held batch is; none if it is not held, because it was never enqueued or is final.
    pub fn stage(&self, number: u64) -> Option<Stage> {
        self.batches.get(&number).map(|held| match &held.state {
            State::Sealed => Stage::Sealed,
            State::Sent(sent) => Stage::Sent {
                tx: sent.signed.newest().hash,
            },
            State::Mined { receipt, .. } => committed(receipt),
        })
    }

    /// How many batches are held.
    pub fn batches_held(&self) -> usize {
        self.batches.len()
    }

    /// How many of them are signed and not mined.
    pub fn in_flight(&self) -> usize {
        let sent = |held: &&Held| matches!(held.state, State::Sent(_));
        self.batches.values().filter(sent).count()
    }

    /// Looks at the chain once and does what is due: notes receipts and reorgs, sends what may be sent,
    /// resends and replaces what waits too long. `now_ms` is any clock that does not go back.
    ///
    /// Returns what has changed since the last successful step. After an error the state is sound and
    /// nothing is lost: call again later.
    pub async fn step(&mut self, now_ms: u64) -> Result<Vec<Progress>, SubmitterError> {
        if let Some((number, on_chain, ours)) = self.conflict {
            return Err(SubmitterError::conflict(number, &on_chain, &ours));
        }
        if !self.batches.is_empty() {
            let block = self.client.block_number().await?;
            let next_nonce = self.client.nonce(self.signer.address()).await?;
            let head = self.client.head().await?;
            self.follow_mined(block).await?;
            self.follow_sent(now_ms, next_nonce, &head).await?;
            self.send_sealed(now_ms, next_nonce, &head).await?;
        }
        Ok(std::mem::take(&mut self.progress))
    }

    fn back_to_sealed(&mut self, number: u64) -> Result<(), SubmitterError> {
        self.outbox.remove(number)?;
        self.set(number, State::Sealed);
        self.report(number, Stage::Sealed);
        Ok(())
    }

    fn stop(&mut self, number: u64, on_chain: [u8; 32], ours: [u8; 32]) -> SubmitterError {
        self.conflict = Some((number, on_chain, ours));
        SubmitterError::conflict(number, &on_chain, &ours)
    }

    fn report(&mut self, number: u64, stage: Stage) {
        self.progress.push(Progress { number, stage });
    }

    fn set(&mut self, number: u64, state: State) {
        if let Some(held) = self.batches.get_mut(&number) {
            held.state = state;
        }
    }

    fn sent(&self, number: u64) -> Option<&Sent> {
        match &self.batches.get(&number)?.state {
            State::Sent(sent) => Some(sent),
            _ => None,
        }
    }

    fn sent_mut(&mut self, number: u64) -> Option<&mut Sent> {
        match &mut self.batches.get_mut(&number)?.state {
            State::Sent(sent) => Some(sent),
            _ => None,
        }
    }

    fn numbers(&self, wanted: impl Fn(&State) -> bool) -> Vec<u64> {
        let wanted = self.batches.iter().filter(|(_, held)| wanted(&held.state));
        wanted.map(|(number, _)| *number).collect()
    }
}
