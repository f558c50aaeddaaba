//! What readers may know. Nothing here changes anything.

use crate::batches::Batch;
use crate::collections::CollectionView;
use crate::models::Model;
use crate::realm::Roles;
use crate::retries::Entry;
use crate::state::Ledger;
use crate::state::asset::AssetView;
use karat_proto::command::{BodyHash, Policy};
use karat_proto::event::{AssetState, Outcome};
use karat_proto::{Account, AssetId, CollectionId, CommandId, Digest};

/// Where an asset's settled form stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettlementState {
    /// Nothing about it was ever due.
    NotDue,
    /// It belongs into the batch that is open now.
    Unsettled,
    /// The batch with this number holds it.
    Batched(u64),
    /// It has its confirmations.
    Settled,
}

/// How much of everything there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All assets, ended ones included.
    pub assets: u64,
    /// Assets that wait for a verdict.
    pub pending: u64,
    /// Assets that were accepted.
    pub active: u64,
    /// Assets that were rejected.
    pub rejected: u64,
    /// Assets that people must look at.
    pub in_review: u64,
    /// Frozen assets.
    pub frozen: u64,
    /// Assets that left for the chain.
    pub redeemed: u64,
    /// Assets that their owners ended.
    pub burned: u64,
    /// Collections.
    pub collections: u64,
    /// Accounts that ever owned, claimed or received something.
    pub accounts: u64,
    /// Models, retired ones included.
    pub models: u64,
    /// Sum of all balances, minor units.
    pub currency_total: u64,
    /// Ids in the retry memory.
    pub retry_entries: u64,
    /// Claims that wait for a draw.
    pub claims_waiting: u64,
    /// Draws that are open.
    pub claim_windows: u64,
    /// Distinct assets changed since the last cut.
    pub open_changes: u64,
    /// Batches cut so far.
    pub batches_cut: u64,
    /// Batches final so far.
    pub batches_final: u64,
    /// Commands accepted.
    pub accepted: u64,
    /// Commands refused.
    pub refused: u64,
    /// Retries answered with their first outcome.
    pub replayed: u64,
}

impl Ledger {
    /// Sequence of the last command applied; 0 before the first.
    pub fn applied_seq(&self) -> u64 {
        self.applied_seq
    }

    /// Time of the last command's block, milliseconds since the epoch; 0 before the first.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// Digest over every outcome and event so far; the same however the commands were cut into blocks.
    pub fn digest(&self) -> Digest {
        self.digest.value()
    }

    /// The asset with this number.
    pub fn asset(&self, id: AssetId) -> Option<AssetView> {
        let asset = self.asset_record(id)?;
        Some(AssetView {
            id,
            collection: asset.collection,
            owner: self.accounts.account(asset.owner),
            version: asset.version,
            state: asset.state,
            frozen_from: asset.frozen_from,
            content: asset.content,
            traits: asset.traits,
            lineage_hash: asset.lineage_hash,
            metadata: asset.metadata,
            minted_sequence: asset.minted_sequence,
            last_sequence: asset.last.sequence,
            last_command: asset.last.id,
            settle_sequence: asset.settle_sequence,
            last_verdict: asset.last_verdict,
        })
    }

    /// Where the settled form of an asset stands.
    pub fn settlement_of(&self, asset: &AssetView) -> SettlementState {
        let due = asset.settle_sequence;
        if due == 0 {
            SettlementState::NotDue
        } else if due > self.batches.cut_seq {
            SettlementState::Unsettled
        } else if due <= self.settled_seq() {
            SettlementState::Settled
        } else {
            let kept = &self.batches.kept;
            let place = kept.partition_point(|batch| batch.last_sequence < due);
            match kept.get(place) {
                Some(batch) if !batch.is_final => SettlementState::Batched(batch.number),
                _ => SettlementState::Settled,
            }
        }
    }

    /// An account's balance, minor units; 0 for one that is not known.
    pub fn balance(&self, account: &Account) -> u64 {
        self.accounts
            .find(account)
            .map_or(0, |number| self.accounts.balance(number))
    }

    /// The collection with this number.
    pub fn collection(&self, id: CollectionId) -> Option<CollectionView<'_>> {
        self.collection_record(id)
            .map(|collection| collection.view(id))
    }

    /// All collections, in the order of their numbers.
    pub fn collections(&self) -> impl Iterator<Item = CollectionView<'_>> {
        (1..)
            .zip(&self.collections)
            .map(|(id, collection)| collection.view(id))
    }

    /// The model with this digest.
    pub fn model(&self, digest: &Digest) -> Option<&Model> {
        self.models.by_digest.get(digest)
    }

    /// All models, in the order of their digests.
    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.models.by_digest.values()
    }

    /// The policy; nothing before genesis.
    pub fn policy(&self) -> Option<&Policy> {
        self.realm.as_ref().map(|realm| &realm.policy)
    }

    /// Who holds which role; nothing before genesis.
    pub fn roles(&self) -> Option<Roles> {
        self.realm.as_ref().map(|realm| realm.roles)
    }

    /// The realm's name; nothing before genesis.
    pub fn realm_name(&self) -> Option<&str> {
        self.realm.as_ref().map(|realm| realm.name.as_str())
    }

    /// Whether players' commands are refused.
    pub fn paused(&self) -> bool {
        self.realm.as_ref().is_some_and(|realm| realm.paused)
    }

    /// A batch that is open or among the last [`crate::KEPT_BATCHES_MAX`] final ones.
    pub fn batch(&self, number: u64) -> Option<&Batch> {
        self.batches.get(number)
    }

    /// Batches that are cut and not final, in order.
    pub fn open_batches(&self) -> impl Iterator<Item = &Batch> {
        let finals = self.batches.finals;
        self.batches
            .kept
            .iter()
            .skip_while(move |batch| batch.number <= finals)
    }

    /// Every batch that [`Ledger::batch`] answers with, in order.
    pub fn kept_batches(&self) -> impl Iterator<Item = &Batch> {
        self.batches.kept.iter()
    }

    /// Every account that is known with its balance, minor units, in the order they were first named.
    pub fn balances(&self) -> impl Iterator<Item = (Account, u64)> {
        self.accounts
            .iter()
            .map(|record| (record.account, record.balance))
    }

    /// Number of the newest batch; 0 before the first.
    pub fn last_batch(&self) -> u64 {
        self.batches.cut
    }

    /// When a tick is needed next, block time in milliseconds: a draw is due, or the open batch gets too old. A time that
    /// has passed asks for a tick now. While a batch waits for a lower base fee this is the end of its deferral; a tick that
    /// reports a lower fee cuts it before.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let draw_ms = self
            .claims
            .deadlines
            .first()
            .map(|(closes_ms, _)| *closes_ms);
        let batch_ms = self.batch_deadline_ms();
        draw_ms.into_iter().chain(batch_ms).min()
    }

    /// Pending assets with numbers above `after`, in order, at most `limit`: what agents are given again after a restart.
    /// Looks through the assets, so one call costs up to a few nanoseconds for each asset that is not pending.
    pub fn pending_assets(&self, after: AssetId, limit: usize) -> Vec<AssetId> {
        self.assets_in(AssetState::Pending, after, limit)
    }

    /// Assets in review with numbers above `after`, in order, at most `limit`.
    pub fn in_review_assets(&self, after: AssetId, limit: usize) -> Vec<AssetId> {
        self.assets_in(AssetState::InReview, after, limit)
    }

    fn assets_in(&self, state: AssetState, after: AssetId, limit: usize) -> Vec<AssetId> {
        let mut found = Vec::new();
        let mut left = self.assets_by_state[crate::state::state_index(state)];
        let mut id = after;
        while found.len() < limit && left > 0 {
            id = id.saturating_add(1);
            let Some(asset) = self.asset_record(id) else {
                break;
            };
            if asset.state == state {
                found.push(id);
                left -= 1;
            }
        }
        found
    }

    /// The commands whose ids are remembered, the newest first: id, hash of the body, first outcome.
    pub fn newest_outcomes(&self) -> impl Iterator<Item = (CommandId, BodyHash, Outcome)> {
        let told = |entry: &Entry| (entry.id, entry.body_hash, self.retries.outcome(entry));
        self.retries.newest().map(told)
    }

    /// How much of everything there is.
    pub fn counts(&self) -> Counts {
        let in_state = |state| self.assets_by_state[crate::state::state_index(state)];
        Counts {
            assets: self.assets.len() as u64,
            pending: in_state(AssetState::Pending),
            active: in_state(AssetState::Active),
            rejected: in_state(AssetState::Rejected),
            in_review: in_state(AssetState::InReview),
            frozen: in_state(AssetState::Frozen),
            redeemed: in_state(AssetState::Redeemed),
            burned: in_state(AssetState::Burned),
            collections: self.collections.len() as u64,
            accounts: self.accounts.len() as u64 - 1,
            models: self.models.by_digest.len() as u64,
            currency_total: self.currency_total,
            retry_entries: self.retries.len(),
            claims_waiting: self.claims.waiting() as u64,
            claim_windows: self.claims.windows.len() as u64,
            open_changes: u64::from(self.batches.changes),
            batches_cut: self.batches.cut,
            batches_final: self.batches.finals,
            accepted: self.outcomes.accepted,
            refused: self.outcomes.refused,
            replayed: self.outcomes.replayed,
        }
    }
}
