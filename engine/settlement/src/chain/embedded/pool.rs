//! Transactions that wait for their nonce or for a lower base fee.
//!
//! Kept in memory only, as a node's pool is: whoever sends keeps the signed bytes and sends them again.

use std::collections::BTreeMap;

use super::rpc::Refusal;
use super::transaction::Transaction;

/// At this many waiting transactions new ones are refused.
const WAITING_MAX: usize = 1_024;
/// A replacement must raise both fees by this much, geth's rule.
const REPLACEMENT_BUMP_PERCENT: u128 = 10;

#[derive(Default)]
pub(super) struct Pool {
    waiting: BTreeMap<([u8; 20], u64), Transaction>,
}

impl Pool {
    /// Takes a transaction that was checked against the state, or says why not.
    pub fn insert(&mut self, transaction: Transaction) -> Result<(), Refusal> {
        let place = (transaction.sender, transaction.nonce);
        if let Some(held) = self.waiting.get(&place) {
            if held.hash == transaction.hash {
                return Err(Refusal::server("already known".to_owned()));
            }
            let enough = |old: u128, new: u128| {
                new >= old
                    .saturating_mul(100 + REPLACEMENT_BUMP_PERCENT)
                    .div_ceil(100)
            };
            if !enough(held.max_fee, transaction.max_fee)
                || !enough(held.max_priority_fee, transaction.max_priority_fee)
            {
                return Err(Refusal::server(
                    "replacement transaction underpriced".to_owned(),
                ));
            }
        } else if self.waiting.len() >= WAITING_MAX {
            return Err(Refusal::server("txpool is full".to_owned()));
        }
        self.waiting.insert(place, transaction);
        Ok(())
    }

    /// Takes out a transaction that could be mined now: the account's next nonce, at this base fee.
    pub fn take_ready(
        &mut self,
        base_fee: u64,
        next_nonce: impl Fn(&[u8; 20]) -> u64,
    ) -> Option<Transaction> {
        let place = self
            .waiting
            .values()
            .filter(|waiting| waiting.max_fee >= u128::from(base_fee))
            .find(|waiting| waiting.nonce == next_nonce(&waiting.sender))
            .map(|waiting| (waiting.sender, waiting.nonce))?;
        self.waiting.remove(&place)
    }

    /// The nonce after the last waiting one that follows on from `next_nonce` without a gap.
    pub fn pending_nonce(&self, sender: &[u8; 20], next_nonce: u64) -> u64 {
        let mut nonce = next_nonce;
        while self.waiting.contains_key(&(*sender, nonce)) {
            nonce += 1;
        }
        nonce
    }

    pub fn find(&self, hash: &[u8; 32]) -> Option<&Transaction> {
        self.waiting.values().find(|waiting| waiting.hash == *hash)
    }

    /// Forgets one waiting transaction; false if it is not here.
    pub fn drop_transaction(&mut self, hash: &[u8; 32]) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|_, waiting| waiting.hash != *hash);
        self.waiting.len() < before
    }

    pub fn clear(&mut self) {
        self.waiting.clear();
    }
}
