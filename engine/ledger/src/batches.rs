//! Settlement batches: cut here, so that a replay cuts the same; sealed, committed and final as the settler reports.
//!
//! A batch takes all changes since the one before. It is cut right after the command that fills it, or by a tick when its
//! oldest change is old enough and the chain's base fee allows (or the deferral is used up). Cutting costs the same whatever
//! the batch's size: an asset's `settle_sequence` alone says which batch holds it.
//!
//! `changes` counts distinct assets. One command can change up to 64 assets at once (an exchange), and its changes cannot be
//! split, so a batch can pass `batch_changes_max` by 63; it never passes [`limits::BATCH_CHANGES_MAX`].

use crate::apply::{Applied, Refusal, Step};
use crate::state::Ledger;
use karat_proto::command::{BatchCommitted, BatchSealed};
use karat_proto::event::EventKind;
use karat_proto::{Code, Digest, limits};
use std::collections::VecDeque;

/// Final batches that stay in memory; older ones are in the events.
pub const KEPT_BATCHES_MAX: u64 = 1024;
/// Batches that may be cut and not final. At the bound players' commands are refused (`RetryMemoryFull`: settlement lags
/// behind) and ticks cut none by age.
pub const OPEN_BATCHES_MAX: u64 = 65_536;

/// Changes at which a batch is cut whatever the policy says, so that one more exchange cannot pass the hard limit.
const CHANGES_CUT_MAX: u32 = limits::BATCH_CHANGES_MAX - limits::EXCHANGE_LEGS_MAX as u32 + 1;

/// A batch's place in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BatchStage {
    /// Its range is fixed.
    Cut,
    /// Its root and payload exist.
    Sealed,
    /// Its transaction was mined.
    Committed,
    /// It has its confirmations.
    Final,
}

/// What sealing fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSeal {
    /// Merkle root over the leaves.
    pub root: Digest,
    /// sha2-256 of the payload.
    pub payload: Digest,
    /// How many leaves.
    pub leaves: u32,
}

/// The transaction that carried it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchCommitment {
    /// Transaction hash.
    pub transaction: Digest,
    /// Block that holds it.
    pub chain_block: u64,
    /// Gas that it used.
    pub gas_used: u64,
    /// What was paid for the gas, wei.
    pub fee_wei: u128,
}

/// One batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its number, from 1.
    pub number: u64,
    /// First sequence of its range.
    pub first_sequence: u64,
    /// Last sequence of its range.
    pub last_sequence: u64,
    /// Sequence of its oldest change.
    pub oldest_change_sequence: u64,
    /// How many assets changed in it.
    pub changes: u32,
    /// Block time of the cut, milliseconds.
    pub cut_ms: u64,
    /// Set from `Sealed` on.
    pub seal: Option<BatchSeal>,
    /// Set from `Committed` on.
    pub commitment: Option<BatchCommitment>,
    /// Whether it has its confirmations.
    pub is_final: bool,
}

impl Batch {
    /// Where it stands.
    pub fn stage(&self) -> BatchStage {
        match (self.is_final, &self.commitment, &self.seal) {
            (true, _, _) => BatchStage::Final,
            (false, Some(_), _) => BatchStage::Committed,
            (false, None, Some(_)) => BatchStage::Sealed,
            (false, None, None) => BatchStage::Cut,
        }
    }
}

/// The batch that is open now, and those that were cut.
#[derive(Clone, Debug)]
pub(crate) struct Batches {
    /// The open ones and the last final ones, in order of their numbers.
    pub(crate) kept: VecDeque<Batch>,
    /// Last sequence of the newest batch.
    pub(crate) cut_seq: u64,
    /// Batches cut so far: the newest one's number.
    pub(crate) cut: u64,
    /// Batches sealed so far.
    pub(crate) sealed: u64,
    /// Batches committed so far.
    pub(crate) committed: u64,
    /// Batches final so far.
    pub(crate) finals: u64,
    /// Distinct assets changed since the last cut.
    pub(crate) changes: u32,
    /// Sequence and block time of the first change since the last cut; they mean nothing while there is none.
    pub(crate) oldest_change_sequence: u64,
    pub(crate) oldest_change_ms: u64,
    /// Base fee that the latest tick reported, wei.
    pub(crate) base_fee_wei: u64,
}

impl Batches {
    pub(crate) fn new() -> Batches {
        Batches {
            kept: VecDeque::new(),
            cut_seq: 0,
            cut: 0,
            sealed: 0,
            committed: 0,
            finals: 0,
            changes: 0,
            oldest_change_sequence: 0,
            oldest_change_ms: 0,
            base_fee_wei: 0,
        }
    }

    /// Batches cut and not final.
    pub(crate) fn open(&self) -> u64 {
        self.cut - self.finals
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Batch> {
        let first = self.kept.front()?.number;
        self.kept
            .get(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Batch> {
        let first = self.kept.front()?.number;
        self.kept
            .get_mut(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    /// Counts an asset whose form changed at `sequence`, and changed before at `before` (0 for never).
    #[inline]
    pub(crate) fn count_change(&mut self, before: u64, sequence: u64, time_ms: u64) {
        if before > self.cut_seq {
            return;
        }
        if self.changes == 0 {
            self.oldest_change_sequence = sequence;
            self.oldest_change_ms = time_ms;
        }
        self.changes += 1;
    }
}

impl Ledger {
    /// Everything that was due for settlement at or below this sequence has its confirmations. Where nothing is due, that is
    /// everything applied: an idle realm is settled. It never goes back, and is at least the last sequence of the newest
    /// final batch.
    #[inline]
    pub fn settled_seq(&self) -> u64 {
        let batches = &self.batches;
        if batches.open() > 0
            && let Some(oldest_open) = batches.get(batches.finals + 1)
        {
            return oldest_open.oldest_change_sequence - 1;
        }
        match batches.changes {
            0 => self.applied_seq,
            _ => batches.oldest_change_sequence - 1,
        }
    }

    #[inline]
    fn changes_max(&self) -> u32 {
        let policy_max = self
            .realm
            .as_ref()
            .map_or(u32::MAX, |realm| realm.policy.batch_changes_max);
        policy_max.min(CHANGES_CUT_MAX)
    }

    #[inline]
    pub(crate) fn batch_is_full(&self) -> bool {
        self.batches.changes >= self.changes_max()
    }

    #[inline]
    pub(crate) fn cut_full_batch(&mut self, step: &mut Step<'_>) {
        if self.batch_is_full() {
            self.cut_batch(step);
        }
    }

    /// When a tick cuts the open batch at the latest, or may cut it at the earliest; nothing while it is empty.
    pub(crate) fn batch_deadline_ms(&self) -> Option<u64> {
        let policy = &self.realm.as_ref()?.policy;
        if self.batches.changes == 0 || self.batches.open() >= OPEN_BATCHES_MAX {
            return None;
        }
        let due_ms = self
            .batches
            .oldest_change_ms
            .saturating_add(policy.batch_age_ms_max);
        let fee_max = policy.batch_base_fee_wei_max;
        let deferred = fee_max != 0 && self.batches.base_fee_wei > fee_max;
        Some(match deferred {
            false => due_ms,
            true => due_ms.saturating_add(policy.batch_deferral_ms_max),
        })
    }

    pub(crate) fn cut_aged_batch(&mut self, step: &mut Step<'_>) {
        let due = self
            .batch_deadline_ms()
            .is_some_and(|deadline_ms| step.time_ms >= deadline_ms);
        if due {
            self.cut_batch(step);
        }
    }

    fn cut_batch(&mut self, step: &mut Step<'_>) {
        let batches = &mut self.batches;
        let batch = Batch {
            number: batches.cut + 1,
            first_sequence: batches.cut_seq + 1,
            last_sequence: step.sequence,
            oldest_change_sequence: batches.oldest_change_sequence,
            changes: batches.changes,
            cut_ms: step.time_ms,
            seal: None,
            commitment: None,
            is_final: false,
        };
        step.emit(EventKind::BatchCut {
            number: batch.number,
            first_sequence: batch.first_sequence,
            last_sequence: batch.last_sequence,
            changes: batch.changes,
        });
        batches.cut = batch.number;
        batches.cut_seq = batch.last_sequence;
        batches.changes = 0;
        batches.kept.push_back(batch);
    }

    pub(crate) fn batch_sealed(&mut self, step: &mut Step<'_>, command: &BatchSealed) -> Applied {
        let BatchSealed {
            number,
            root,
            payload,
            leaves,
        } = *command;
        let out_of_order = Refusal::about(Code::BatchOutOfOrder, number);
        if number != self.batches.sealed + 1 {
            return Err(out_of_order);
        }
        let batch = self.batches.get_mut(number).ok_or(out_of_order)?;
        if batch.changes != leaves {
            return Err(Refusal::about(Code::BatchMismatch, number));
        }
        batch.seal = Some(BatchSeal {
            root,
            payload,
            leaves,
        });
        self.batches.sealed = number;
        step.emit(EventKind::BatchSealed {
            number,
            root,
            payload,
            leaves,
        });
        Ok(number)
    }

    pub(crate) fn batch_committed(
        &mut self,
        step: &mut Step<'_>,
        command: &BatchCommitted,
    ) -> Applied {
        let BatchCommitted {
            number,
            transaction,
            chain_block,
            gas_used,
            fee_wei,
        } = *command;
        let out_of_order = Refusal::about(Code::BatchOutOfOrder, number);
        if number != self.batches.committed + 1 || number > self.batches.sealed {
            return Err(out_of_order);
        }
        let batch = self.batches.get_mut(number).ok_or(out_of_order)?;
        batch.commitment = Some(BatchCommitment {
            transaction,
            chain_block,
            gas_used,
            fee_wei,
        });
        self.batches.committed = number;
        step.emit(EventKind::BatchCommitted {
            number,
            transaction,
            chain_block,
            gas_used,
            fee_wei,
        });
        Ok(number)
    }

    pub(crate) fn batch_final(&mut self, step: &mut Step<'_>, number: u64) -> Applied {
        let out_of_order = Refusal::about(Code::BatchOutOfOrder, number);
        if number != self.batches.finals + 1 || number > self.batches.committed {
            return Err(out_of_order);
        }
        let batch = self.batches.get_mut(number).ok_or(out_of_order)?;
        batch.is_final = true;
        let settled_seq = batch.last_sequence;
        self.batches.finals = number;
        let kept_from = number.saturating_sub(KEPT_BATCHES_MAX) + 1;
        while self
            .batches
            .kept
            .front()
            .is_some_and(|batch| batch.number < kept_from)
        {
            self.batches.kept.pop_front();
        }
        step.emit(EventKind::BatchFinal {
            number,
            settled_seq,
        });
        Ok(number)
    }
}
