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
mod node_answer;
mod outbox;
mod stage;

use std::collections::BTreeMap;
use std::path::Path;

pub use self::error::SubmitterError;
use self::node_answer::NodeAnswer;
pub use self::outbox::OutboxError;
use self::outbox::{Attempt, Outbox, Sender, Signed};
pub use self::stage::{Progress, Stage, SubmitterConfig};
pub use crate::batch::BatchToCommit;
use crate::chain::client::{ChainClient, ChainError, Fees, Head, Receipt};
use crate::chain::hexadecimal::data;
use crate::chain::signer::Signer;
use crate::chain::transport::RpcError;

/// A replaced transaction is replaced at most this often. An eighth each time is a factor of 1,880, so
/// the bound on the fee is met first.
const ATTEMPTS_MAX: usize = 64;

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

struct Held {
    batch: BatchToCommit,
    state: State,
}

enum State {
    Sealed,
    Sent(Sent),
    Mined {
        /// What to go back to if the receipt vanishes; none if the chain had it before we knew.
        signed: Option<Signed>,
        receipt: Receipt,
    },
}

struct Sent {
    signed: Signed,
    /// When it was last broadcast by this process.
    broadcast_ms: Option<u64>,
    /// When the last attempt was signed, or first seen by this process.
    signed_ms: Option<u64>,
    /// The nonce is used up, yet no attempt has a receipt, since then.
    lost_since_ms: Option<u64>,
    reported: bool,
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

    /// Makes what is deep enough final, and takes back what a reorg removed.
    async fn follow_mined(&mut self, head_block: u64) -> Result<(), SubmitterError> {
        for number in self.numbers(|state| matches!(state, State::Mined { .. })) {
            let Some(Held {
                state: State::Mined { signed, receipt },
                ..
            }) = self.batches.get(&number)
            else {
                continue;
            };
            let (signed, before) = (signed.clone(), *receipt);
            match self.client.receipt(&before.transaction).await? {
                Some(now) if now.success => {
                    if now.block_hash != before.block_hash {
                        self.set(
                            number,
                            State::Mined {
                                signed,
                                receipt: now,
                            },
                        );
                        self.report(number, committed(&now));
                    }
                    if head_block >= now.block.saturating_add(self.config.confirmations) {
                        self.outbox.remove(number)?;
                        self.batches.remove(&number);
                        self.report(
                            number,
                            Stage::Final {
                                tx: now.transaction,
                                block: now.block,
                                gas_used: now.gas_used,
                            },
                        );
                    }
                }
                // In the new history it was mined and refused.
                Some(_) => self.back_to_sealed(number)?,
                None => match signed {
                    Some(signed) => self.set(number, State::Sent(Sent::new(signed))),
                    None => self.back_to_sealed(number)?,
                },
            }
        }
        Ok(())
    }

    /// Looks for receipts of what is sent; resends and replaces what is not mined.
    async fn follow_sent(
        &mut self,
        now_ms: u64,
        next_nonce: u64,
        head: &Head,
    ) -> Result<(), SubmitterError> {
        self.close_nonce_gap(now_ms, next_nonce)?;
        for number in self.numbers(|state| matches!(state, State::Sent(_))) {
            let Some(sent) = self.sent(number) else {
                continue;
            };
            if sent.signed.nonce < next_nonce {
                self.resolve_used_nonce(number, now_ms, head).await?;
            } else if number <= head.number {
                // Committed by a transaction that this folder does not know.
                self.adopt(number).await?;
            } else {
                self.push(number, now_ms).await?;
            }
        }
        Ok(())
    }

    /// The nonce of a sent batch is used: one of its attempts was mined, or something else was.
    async fn resolve_used_nonce(
        &mut self,
        number: u64,
        now_ms: u64,
        head: &Head,
    ) -> Result<(), SubmitterError> {
        let Some(sent) = self.sent(number) else {
            return Ok(());
        };
        let signed = sent.signed.clone();
        for attempt in signed.attempts.iter().rev() {
            let Some(receipt) = self.client.receipt(&attempt.hash).await? else {
                continue;
            };
            if receipt.success {
                self.set(
                    number,
                    State::Mined {
                        signed: Some(signed),
                        receipt,
                    },
                );
                self.report(number, committed(&receipt));
            } else {
                tracing::warn!(
                    batch = number,
                    transaction = data(attempt.hash),
                    "the commit of a batch reverted; it is tried again when the contract takes it"
                );
                self.back_to_sealed(number)?;
            }
            return Ok(());
        }
        if number <= head.number {
            return self.adopt(number).await;
        }
        // Either the node has the nonce and not yet the receipt, or another transaction of this account
        // took the nonce. Waiting tells them apart; a new nonce is safe in both cases, since the contract
        // takes a batch once.
        let patience_ms = self.config.resend_after_ms;
        if let Some(sent) = self.sent_mut(number) {
            let since_ms = *sent.lost_since_ms.get_or_insert(now_ms);
            if now_ms.saturating_sub(since_ms) >= patience_ms {
                tracing::warn!(
                    batch = number,
                    nonce = signed.nonce,
                    "a nonce was used by an unknown transaction; is something else sending from this account?"
                );
                self.back_to_sealed(number)?;
            }
        }
        Ok(())
    }

    /// Broadcasts a batch's newest attempt if it is due, or a dearer one.
    async fn push(&mut self, number: u64, now_ms: u64) -> Result<(), SubmitterError> {
        let (resend_after_ms, bump_after_ms) =
            (self.config.resend_after_ms, self.config.bump_after_ms);
        let Some(sent) = self.sent_mut(number) else {
            return Ok(());
        };
        sent.lost_since_ms = None;
        let signed_ms = *sent.signed_ms.get_or_insert(now_ms);
        let broadcast_ms = sent.broadcast_ms;
        if broadcast_ms.is_some() && now_ms.saturating_sub(signed_ms) >= bump_after_ms {
            let suggested = self.client.fees().await?;
            self.bump(number, suggested, now_ms)?;
        }
        let newly_signed = self
            .sent(number)
            .is_some_and(|sent| sent.broadcast_ms.is_none());
        let due = broadcast_ms.is_none_or(|at| now_ms.saturating_sub(at) >= resend_after_ms);
        if newly_signed || due {
            self.broadcast(number, now_ms).await?;
        }
        Ok(())
    }

    /// Signs and saves a replacement, if the bound on the fee leaves room for one.
    fn bump(&mut self, number: u64, suggested: Fees, now_ms: u64) -> Result<(), SubmitterError> {
        let bound = self.config.max_fee_bound_wei;
        let Some(sent) = self.sent(number) else {
            return Ok(());
        };
        let mut signed = sent.signed.clone();
        let newest = signed.newest();
        let before = Fees {
            max_fee: newest.max_fee,
            max_priority_fee: newest.max_priority_fee,
        };
        let fees =
            fees::bumped(before, suggested, bound).filter(|_| signed.attempts.len() < ATTEMPTS_MAX);
        match fees {
            Some(fees) => {
                let attempt = self.sign(&signed.batch, signed.nonce, fees)?;
                signed.attempts.push(attempt);
                self.outbox.save(&signed)?;
                self.set(number, State::Sent(Sent::signed_now(signed, now_ms)));
            }
            None => {
                tracing::warn!(
                    batch = number,
                    max_fee_wei = before.max_fee.to_string(),
                    bound_wei = bound.to_string(),
                    "a batch waits for a lower fee: the bound leaves no room for a higher one"
                );
                if let Some(sent) = self.sent_mut(number) {
                    sent.signed_ms = Some(now_ms);
                }
            }
        }
        Ok(())
    }

    /// Signs, saves and broadcasts sealed batches, in order, as many as may be in flight.
    async fn send_sealed(
        &mut self,
        now_ms: u64,
        next_nonce: u64,
        head: &Head,
    ) -> Result<(), SubmitterError> {
        let mut suggested = None;
        for number in self.numbers(|state| matches!(state, State::Sealed)) {
            if number <= head.number {
                self.adopt(number).await?;
                continue;
            }
            if self.in_flight() >= self.config.in_flight_max {
                return Ok(());
            }
            let Some(batch) = self.batches.get(&number).map(|held| held.batch) else {
                continue;
            };
            if number == head.number + 1 {
                if batch.parent != head.commitment {
                    return Err(self.stop(number, head.commitment, batch.parent));
                }
                self.try_commit(&batch).await?;
            } else {
                // Everything between the chain's head and this batch must be on its way.
                match self.batches.get(&(number - 1)).map(|before| &before.state) {
                    Some(State::Sent(_)) => {}
                    // Mined after the head was read: the next step sees both.
                    Some(_) => return Ok(()),
                    None => {
                        return Err(SubmitterError::Gap {
                            on_chain: head.number,
                            number,
                        });
                    }
                }
            }
            let fees = match suggested {
                Some(fees) => fees,
                None => *suggested.insert(self.client.fees().await?),
            };
            let nonce = self.free_nonce(next_nonce);
            let fees = fees::first(fees, self.config.max_fee_bound_wei);
            let attempt = self.sign(&batch, nonce, fees)?;
            let signed = Signed {
                batch,
                nonce,
                attempts: vec![attempt],
            };
            self.outbox.save(&signed)?;
            self.set(number, State::Sent(Sent::signed_now(signed, now_ms)));
            self.broadcast(number, now_ms).await?;
        }
        Ok(())
    }

    /// Sends a batch's newest attempt to the node and sorts its answer.
    async fn broadcast(&mut self, number: u64, now_ms: u64) -> Result<(), SubmitterError> {
        let Some(sent) = self.sent(number) else {
            return Ok(());
        };
        let newest = sent.signed.newest();
        let (raw, tx) = (newest.raw.clone(), newest.hash);
        let answer = self.client.send_raw(&raw).await;
        let mut bump_at_once = false;
        if let Err(error) = answer {
            let ChainError::Rpc(RpcError::Node { message, .. }) = &error else {
                return Err(error.into());
            };
            match NodeAnswer::of(message) {
                NodeAnswer::Known | NodeAnswer::NonceUsed => {}
                NodeAnswer::TooCheap => bump_at_once = true,
                NodeAnswer::Funds => {
                    return Err(SubmitterError::Funds {
                        address: hex::encode(self.signer.address()),
                        number,
                        reason: message.clone(),
                    });
                }
                NodeAnswer::Other => return Err(error.into()),
            }
        }
        let bump_after_ms = self.config.bump_after_ms;
        let Some(sent) = self.sent_mut(number) else {
            return Ok(());
        };
        sent.broadcast_ms = Some(now_ms);
        if bump_at_once {
            sent.signed_ms = Some(now_ms.saturating_sub(bump_after_ms));
        }
        if !std::mem::replace(&mut sent.reported, true) {
            self.report(number, Stage::Sent { tx });
        }
        Ok(())
    }

    /// Takes over what the chain says about a batch that it already has.
    async fn adopt(&mut self, number: u64) -> Result<(), SubmitterError> {
        let Some(batch) = self.batches.get(&number).map(|held| held.batch) else {
            return Ok(());
        };
        let incomplete = |reason: &str| {
            SubmitterError::from(ChainError::from(RpcError::BadAnswer {
                method: "eth_getLogs".to_owned(),
                reason: format!("batch {number} is committed, but {reason}"),
            }))
        };
        let on_chain = self
            .client
            .committed_batch(number)
            .await?
            .ok_or_else(|| incomplete("its log is not there"))?;
        if on_chain.batch != batch {
            return Err(self.stop(number, on_chain.batch.commitment(), batch.commitment()));
        }
        let receipt = self
            .client
            .receipt(&on_chain.transaction)
            .await?
            .ok_or_else(|| incomplete("its receipt is not there"))?;
        let ours = |signed: &Signed| {
            let mut attempts = signed.attempts.iter();
            attempts.any(|attempt| attempt.hash == receipt.transaction)
        };
        let signed = self
            .sent(number)
            .map(|sent| sent.signed.clone())
            .filter(ours);
        if signed.is_none() {
            // What is saved here is not what the chain took; its nonce is free for the next batch.
            self.outbox.remove(number)?;
        }
        self.set(number, State::Mined { signed, receipt });
        self.report(number, committed(&receipt));
        Ok(())
    }

    /// Asks the contract whether it would take the batch, so that no gas is spent on a refusal.
    async fn try_commit(&self, batch: &BatchToCommit) -> Result<(), SubmitterError> {
        let call = ChainClient::commit_call(batch);
        match self
            .client
            .simulate("commit", self.signer.address(), &call)
            .await
        {
            Err(ChainError::Reverted { reason, .. }) => Err(SubmitterError::Refused {
                number: batch.number,
                reason,
            }),
            result => Ok(result?),
        }
    }

    /// A reorg can take back a transaction that is no longer held here, and with it a nonce that nothing
    /// fills again. Everything in flight then waits for ever, so it is signed anew.
    fn close_nonce_gap(&mut self, now_ms: u64, next_nonce: u64) -> Result<(), SubmitterError> {
        let patience_ms = self.config.bump_after_ms;
        let fills = |held: &Held| held.nonce() == Some(next_nonce);
        let filled = self.batches.values().any(fills)
            || self.saved.values().any(|signed| signed.nonce == next_nonce);
        if filled {
            return Ok(());
        }
        for number in self.numbers(|state| matches!(state, State::Sent(_))) {
            let stuck = self.sent(number).is_some_and(|sent| {
                sent.signed.nonce > next_nonce
                    && sent
                        .signed_ms
                        .is_some_and(|at| now_ms.saturating_sub(at) >= patience_ms)
            });
            if stuck {
                self.back_to_sealed(number)?;
            }
        }
        Ok(())
    }

    fn sign(
        &self,
        batch: &BatchToCommit,
        nonce: u64,
        fees: Fees,
    ) -> Result<Attempt, SubmitterError> {
        let call = ChainClient::commit_call(batch);
        let signed =
            self.client
                .sign_call(&self.signer, nonce, self.config.gas_limit, fees, call)?;
        Ok(Attempt {
            raw: signed.raw,
            hash: signed.hash,
            max_fee: fees.max_fee,
            max_priority_fee: fees.max_priority_fee,
        })
    }

    /// The first nonce that neither the chain nor anything held here has used.
    fn free_nonce(&self, next_nonce: u64) -> u64 {
        let held = self.batches.values().filter_map(Held::nonce);
        let saved = self.saved.values().map(|signed| signed.nonce);
        held.chain(saved)
            .map(|nonce| nonce + 1)
            .fold(next_nonce, u64::max)
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

impl Held {
    fn nonce(&self) -> Option<u64> {
        match &self.state {
            State::Sealed => None,
            State::Sent(sent) => Some(sent.signed.nonce),
            State::Mined { signed, .. } => signed.as_ref().map(|signed| signed.nonce),
        }
    }
}

impl Sent {
    /// Signed by an earlier process, or taken back by a reorg: to be broadcast at once.
    fn new(signed: Signed) -> Self {
        Self {
            signed,
            broadcast_ms: None,
            signed_ms: None,
            lost_since_ms: None,
            reported: false,
        }
    }

    fn signed_now(signed: Signed, now_ms: u64) -> Self {
        Self {
            signed_ms: Some(now_ms),
            ..Self::new(signed)
        }
    }
}

impl Signed {
    fn newest(&self) -> &Attempt {
        // `Outbox` reads no file without an attempt, and attempts are only added.
        &self.attempts[self.attempts.len() - 1]
    }
}

fn committed(receipt: &Receipt) -> Stage {
    Stage::Committed {
        tx: receipt.transaction,
        block: receipt.block,
        gas_used: receipt.gas_used,
    }
}
