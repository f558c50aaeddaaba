//! Rows in ordered maps: for tests, and for runs that keep nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};

use bytes::Bytes;
use parking_lot::RwLock;

use crate::{
    Account, HistoryRow, ModelDigest, Order, Projection, Store, StoreError, Write, check_limit,
    news,
};

/// A store that forgets everything when it is dropped. Its size is that of its rows.
#[derive(Debug, Default)]
pub struct MemoryStore {
    rows: RwLock<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    projected_seq: u64,
    assets: BTreeMap<u64, Bytes>,
    history: BTreeMap<(u64, u64, u16), Bytes>,
    owned: BTreeSet<(Account, u64)>,
    collected: BTreeSet<(u32, u64)>,
    collections: BTreeMap<u32, Bytes>,
    batches: BTreeMap<u64, Bytes>,
    leaves: BTreeMap<(u64, u64), Bytes>,
    asset_batches: BTreeMap<u64, u64>,
    models: BTreeMap<ModelDigest, Bytes>,
    accounts: BTreeMap<Account, Bytes>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Rows {
    fn write(&mut self, write: &Write) {
        match write {
            Write::PutAsset { asset, row } => {
                self.assets.insert(*asset, row.clone());
            }
            Write::AddHistory {
                asset,
                sequence,
                index,
                row,
            } => {
                self.history
                    .insert((*asset, *sequence, *index), row.clone());
            }
            Write::SetOwner { asset, from, to } => {
                if let Some(from) = from {
                    self.owned.remove(&(*from, *asset));
                }
                if let Some(to) = to {
                    self.owned.insert((*to, *asset));
                }
            }
            Write::AddToCollection { collection, asset } => {
                self.collected.insert((*collection, *asset));
            }
            Write::PutCollection { collection, row } => {
                self.collections.insert(*collection, row.clone());
            }
            Write::PutBatch { batch, row } => {
                self.batches.insert(*batch, row.clone());
            }
            Write::AddBatchLeaf { batch, asset, row } => {
                self.leaves.insert((*batch, *asset), row.clone());
                self.asset_batches.insert(*asset, *batch);
            }
            Write::PutModel { digest, row } => {
                self.models.insert(*digest, row.clone());
            }
            Write::PutAccount { account, row } => {
                self.accounts.insert(*account, row.clone());
            }
        }
    }
}

/// Asset numbers of `set` under `key`, after `after`.
fn page_of<K: Ord + Copy>(
    set: &BTreeSet<(K, u64)>,
    key: K,
    after: Option<u64>,
    limit: usize,
) -> Vec<u64> {
    let from = match after {
        Some(after) => Excluded((key, after)),
        None => Included((key, 0)),
    };
    set.range((from, Included((key, u64::MAX))))
        .take(limit)
        .map(|(_, asset)| *asset)
        .collect()
}

impl Store for MemoryStore {
    fn projected_seq(&self) -> Result<u64, StoreError> {
        Ok(self.rows.read().projected_seq)
    }

    fn apply(&self, projections: &[Projection]) -> Result<(), StoreError> {
        let mut rows = self.rows.write();
        let news = news(projections, rows.projected_seq)?;
        for projection in news {
            projection.writes.iter().for_each(|write| rows.write(write));
            rows.projected_seq = projection.sequence;
        }
        Ok(())
    }

    fn asset(&self, asset: u64) -> Result<Option<Bytes>, StoreError> {
        Ok(self.rows.read().assets.get(&asset).cloned())
    }

    fn history(
        &self,
        asset: u64,
        after: Option<(u64, u16)>,
        limit: usize,
    ) -> Result<Vec<HistoryRow>, StoreError> {
        check_limit(limit)?;
        let from = match after {
            Some((sequence, index)) => Excluded((asset, sequence, index)),
            None => Included((asset, 0, 0)),
        };
        let rows = self.rows.read();
        let page = rows
            .history
            .range((from, Included((asset, u64::MAX, u16::MAX))));
        Ok(page
            .take(limit)
            .map(|((_, sequence, index), row)| HistoryRow {
                sequence: *sequence,
                index: *index,
                row: row.clone(),
            })
            .collect())
    }

    fn assets_of_owner(
        &self,
        owner: &Account,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<u64>, StoreError> {
        check_limit(limit)?;
        Ok(page_of(&self.rows.read().owned, *owner, after, limit))
    }

    fn assets_of_collection(
        &self,
        collection: u32,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<u64>, StoreError> {
        check_limit(limit)?;
        Ok(page_of(
            &self.rows.read().collected,
            collection,
            after,
            limit,
        ))
    }

    fn collection(&self, collection: u32) -> Result<Option<Bytes>, StoreError> {
        Ok(self.rows.read().collections.get(&collection).cloned())
    }

    fn collections(
        &self,
        after: Option<u32>,
        limit: usize,
    ) -> Result<Vec<(u32, Bytes)>, StoreError> {
        check_limit(limit)?;
        let rows = self.rows.read();
        let page = rows
            .collections
            .range((after.map_or(Unbounded, Excluded), Unbounded));
        Ok(page
            .take(limit)
            .map(|(number, row)| (*number, row.clone()))
            .collect())
    }

    fn batch(&self, batch: u64) -> Result<Option<Bytes>, StoreError> {
        Ok(self.rows.read().batches.get(&batch).cloned())
    }

    fn batches(
        &self,
        after: Option<u64>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<(u64, Bytes)>, StoreError> {
        check_limit(limit)?;
        let rows = self.rows.read();
        let after = after.map_or(Unbounded, Excluded);
        let owned = |(number, row): (&u64, &Bytes)| (*number, row.clone());
        Ok(match order {
            Order::OldestFirst => rows
                .batches
                .range((after, Unbounded))
                .take(limit)
                .map(owned)
                .collect(),
            Order::NewestFirst => rows
                .batches
                .range((Unbounded, after))
                .rev()
                .take(limit)
                .map(owned)
                .collect(),
        })
    }

    fn batch_leaves(
        &self,
        batch: u64,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, Bytes)>, StoreError> {
        check_limit(limit)?;
        let from = match after {
            Some(after) => Excluded((batch, after)),
            None => Included((batch, 0)),
        };
        let rows = self.rows.read();
        let page = rows.leaves.range((from, Included((batch, u64::MAX))));
        Ok(page
            .take(limit)
            .map(|((_, asset), row)| (*asset, row.clone()))
            .collect())
    }

    fn assets_batch(&self, asset: u64) -> Result<Option<u64>, StoreError> {
        Ok(self.rows.read().asset_batches.get(&asset).copied())
    }

    fn model(&self, digest: &ModelDigest) -> Result<Option<Bytes>, StoreError> {
        Ok(self.rows.read().models.get(digest).cloned())
    }

    fn models(
        &self,
        after: Option<ModelDigest>,
        limit: usize,
    ) -> Result<Vec<(ModelDigest, Bytes)>, StoreError> {
        check_limit(limit)?;
        let rows = self.rows.read();
        let page = rows
            .models
            .range((after.map_or(Unbounded, Excluded), Unbounded));
        Ok(page
            .take(limit)
            .map(|(digest, row)| (*digest, row.clone()))
            .collect())
    }

    fn account(&self, account: &Account) -> Result<Option<Bytes>, StoreError> {
        Ok(self.rows.read().accounts.get(account).cloned())
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn reset(&self) -> Result<(), StoreError> {
        *self.rows.write() = Rows::default();
        Ok(())
    }
}
