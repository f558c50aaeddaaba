//! The whole state of a realm.

pub(crate) mod accounts;
pub(crate) mod asset;
pub(crate) mod index;
pub(crate) mod slab;

use crate::batches::Batches;
use crate::claims::Claims;
use crate::collections::Collection;
use crate::digest::RollingDigest;
use crate::exchange::NetPosition;
use crate::models::Models;
use crate::realm::Realm;
use crate::retries::{RETRY_ENTRIES_MAX, RETRY_ENTRIES_RESERVED, Retries};
use accounts::Accounts;
use asset::Asset;
use karat_proto::event::AssetState;
use karat_proto::{AssetId, CollectionId};
use slab::Slab;

/// The state machine of one realm. See the crate's description for the order of its steps.
#[derive(Clone, Debug)]
pub struct Ledger {
    pub(crate) applied_seq: u64,
    /// Time of the last command's block, milliseconds.
    pub(crate) time_ms: u64,
    /// Empty until genesis.
    pub(crate) realm: Option<Realm>,
    /// Asset `id` lies at `id - 1`.
    pub(crate) assets: Slab<Asset>,
    /// Assets by state, in the order of [`state_index`].
    pub(crate) assets_by_state: [u64; 7],
    pub(crate) accounts: Accounts,
    /// Sum of all balances.
    pub(crate) currency_total: u64,
    /// Collection `id` lies at `id - 1`.
    pub(crate) collections: Vec<Collection>,
    pub(crate) models: Models,
    pub(crate) claims: Claims,
    pub(crate) batches: Batches,
    pub(crate) retries: Retries,
    pub(crate) digest: RollingDigest,
    pub(crate) outcomes: OutcomeCounts,
    /// Used by one exchange at a time; kept to save its allocation.
    pub(crate) exchange_scratch: Vec<NetPosition>,
}

/// How commands ended. Their sum is the applied sequence: every command has exactly one outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutcomeCounts {
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) replayed: u64,
}

impl Ledger {
    /// An empty ledger that waits for genesis.
    pub fn new() -> Ledger {
        Ledger::with_retry_memory(RETRY_ENTRIES_MAX, RETRY_ENTRIES_RESERVED)
    }

    /// A ledger with a smaller retry memory, to test what happens when it is full. Two ledgers agree only when theirs are
    /// the same.
    #[doc(hidden)]
    pub fn with_retry_memory(entries_max: u64, entries_reserved: u64) -> Ledger {
        Ledger {
            applied_seq: 0,
            time_ms: 0,
            realm: None,
            assets: Slab::new(),
            assets_by_state: [0; 7],
            accounts: Accounts::new(),
            currency_total: 0,
            collections: Vec::new(),
            models: Models::new(),
            claims: Claims::new(),
            batches: Batches::new(),
            retries: Retries::new(entries_max, entries_reserved),
            digest: RollingDigest::new(),
            outcomes: OutcomeCounts::default(),
            exchange_scratch: Vec::new(),
        }
    }

    /// Frees the state in pieces of some hundred kilobytes, and calls `between` after each: to give back hundreds of megabytes
    /// at once keeps a processor busy for tens of milliseconds.
    pub fn free(self, between: &mut dyn FnMut()) {
        self.assets.free(between);
        self.accounts.free(between);
        self.retries.free(between);
    }

    #[inline]
    pub(crate) fn asset_record(&self, id: AssetId) -> Option<&Asset> {
        let place = usize::try_from(id.checked_sub(1)?).ok()?;
        self.assets.get(place)
    }

    #[inline]
    pub(crate) fn asset_record_mut(&mut self, id: AssetId) -> Option<&mut Asset> {
        asset_at(&mut self.assets, id)
    }

    #[inline]
    pub(crate) fn collection_record(&self, id: CollectionId) -> Option<&Collection> {
        collection_at(&self.collections, id)
    }

    #[inline]
    pub(crate) fn collection_record_mut(&mut self, id: CollectionId) -> Option<&mut Collection> {
        self.collections.get_mut(id.checked_sub(1)? as usize)
    }

    /// Moves an asset between the counts by state.
    pub(crate) fn count_state(&mut self, from: Option<AssetState>, to: AssetState) {
        if let Some(from) = from {
            self.assets_by_state[state_index(from)] -= 1;
        }
        self.assets_by_state[state_index(to)] += 1;
    }
}

/// An asset, where the rest of the ledger is needed beside it.
#[inline]
pub(crate) fn asset_at(assets: &mut Slab<Asset>, id: AssetId) -> Option<&mut Asset> {
    let place = usize::try_from(id.checked_sub(1)?).ok()?;
    assets.get_mut(place)
}

#[inline]
pub(crate) fn collection_at(collections: &[Collection], id: CollectionId) -> Option<&Collection> {
    collections.get(id.checked_sub(1)? as usize)
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger::new()
    }
}

/// A state's place in a table by state.
pub(crate) fn state_index(state: AssetState) -> usize {
    match state {
        AssetState::Pending => 0,
        AssetState::Active => 1,
        AssetState::Rejected => 2,
        AssetState::InReview => 3,
        AssetState::Frozen => 4,
        AssetState::Redeemed => 5,
        AssetState::Burned => 6,
    }
}
