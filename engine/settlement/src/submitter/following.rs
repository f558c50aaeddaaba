//! What has become of batches that were sent: receipts, reorgs, nonces that are used up.

use super::Submitter;
use super::error::SubmitterError;
use super::held::{Held, Sent, State, committed};
use super::outbox::Signed;
use super::stage::Stage;
use crate::chain::client::{ChainError, Head};
use crate::chain::hexadecimal::data;
use crate::chain::transport::RpcError;

impl Submitter {
    /// Makes what is deep enough final, and takes back what a reorg removed.
    pub(super) async fn follow_mined(&mut self, head_block: u64) -> Result<(), SubmitterError> {
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
    pub(super) async fn follow_sent(
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

    /// Takes over what the chain says about a batch that it already has.
    pub(super) async fn adopt(&mut self, number: u64) -> Result<(), SubmitterError> {
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
}
