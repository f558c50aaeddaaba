//! Signing, saving and broadcasting, again and dearer where a batch waits too long.

use super::error::SubmitterError;
use super::held::{Held, Sent, State};
use super::node_answer::NodeAnswer;
use super::outbox::{Attempt, Signed};
use super::stage::Stage;
use super::{Submitter, fees};
use crate::batch::BatchToCommit;
use crate::chain::client::{ChainClient, ChainError, Fees, Head};
use crate::chain::transport::RpcError;

/// A replaced transaction is replaced at most this often. An eighth each time is a factor of 1,880, so
/// the bound on the fee is met first.
const ATTEMPTS_MAX: usize = 64;

impl Submitter {
    /// Broadcasts a batch's newest attempt if it is due, or a dearer one.
    pub(super) async fn push(&mut self, number: u64, now_ms: u64) -> Result<(), SubmitterError> {
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
    pub(super) async fn send_sealed(
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
}
