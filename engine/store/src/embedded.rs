//! [`EmbeddedStore`]: rows in a folder, on an embedded log-structured key-value store.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use fjall::{Guard, PersistMode};
use parking_lot::{Mutex, RwLock};

use crate::folder::Folder;
use crate::keys::Key;
use crate::rows::{Rows, changes, number};
use crate::{
    Account, HistoryRow, ModelDigest, Order, Projection, Store, StoreError, check_limit, news,
};

/// Rows in a folder; one process at a time opens it. One background thread writes and merges its files.
pub struct EmbeddedStore {
    folder: Folder,
    /// Reads share it; only a reset replaces what is inside.
    rows: RwLock<Option<Rows>>,
    projected_seq: AtomicU64,
    applying: Mutex<()>,
}

impl EmbeddedStore {
    /// Opens the store in `folder`, and makes it if there is none.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::NewerFormat`], [`StoreError::Damaged`], [`StoreError::Storage`].
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, StoreError> {
        let folder = Folder::open(folder.as_ref())?;
        let rows = match folder.settle()? {
            Some(generation) => Rows::open(&folder, generation)?,
            None => Rows::create(&folder, 1)?,
        };
        let projected_seq = rows.read_position(&folder)?;
        Ok(Self {
            folder,
            rows: RwLock::new(Some(rows)),
            projected_seq: AtomicU64::new(projected_seq),
            applying: Mutex::new(()),
        })
    }

    /// Bytes on disk.
    ///
    /// # Errors
    /// [`StoreError::Storage`].
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.with_rows(|rows| {
            rows.database
                .disk_space()
                .map_err(|error| self.failed("measure", error))
        })
    }

    fn failed(&self, what: &'static str, error: fjall::Error) -> StoreError {
        StoreError::storage(what, self.folder.path(), error)
    }

    fn with_rows<T>(
        &self,
        read: impl FnOnce(&Rows) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &*self.rows.read() {
            Some(rows) => read(rows),
            None => Err(StoreError::storage(
                "use",
                self.folder.path(),
                "an earlier reset failed half way",
            )),
        }
    }

    fn get(&self, key: Key) -> Result<Option<Bytes>, StoreError> {
        self.with_rows(|rows| {
            let found = rows
                .keyspace
                .get(key)
                .map_err(|error| self.failed("read", error))?;
            Ok(found.map(|row| Bytes::copy_from_slice(&row)))
        })
    }

    /// Reads a page; `entry` takes a key's bytes after `prefix`, and the row.
    fn page<T>(
        &self,
        prefix: Key,
        range: (std::ops::Bound<Key>, std::ops::Bound<Key>),
        order: Order,
        limit: usize,
        entry: impl Fn(&[u8], &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, StoreError> {
        check_limit(limit)?;
        let take = |guard: Guard| {
            let (key, row) = guard
                .into_inner()
                .map_err(|error| self.failed("read", error))?;
            let rest = key.get(prefix.as_ref().len()..).unwrap_or_default();
            entry(rest, &row).ok_or_else(|| StoreError::Damaged {
                path: self.folder.path().to_path_buf(),
                reason: format!(
                    "a key of {} bytes under '{}'",
                    key.len(),
                    char::from(key[0])
                ),
            })
        };
        self.with_rows(|rows| {
            let found = rows.keyspace.range(range);
            match order {
                Order::OldestFirst => found.take(limit).map(take).collect(),
                Order::NewestFirst => found.rev().take(limit).map(take).collect(),
            }
        })
    }

    /// Numbers of assets under `prefix`.
    fn page_of_assets(
        &self,
        prefix: Key,
        after: Option<Key>,
        limit: usize,
    ) -> Result<Vec<u64>, StoreError> {
        self.page(
            prefix,
            prefix.range_after(after),
            Order::OldestFirst,
            limit,
            |rest, _| number(rest),
        )
    }
}

impl Store for EmbeddedStore {
    fn projected_seq(&self) -> Result<u64, StoreError> {
        Ok(self.projected_seq.load(Ordering::Acquire))
    }

    fn apply(&self, projections: &[Projection]) -> Result<(), StoreError> {
        let _one_at_a_time = self.applying.lock();
        let news = news(projections, self.projected_seq.load(Ordering::Acquire))?;
        let Some(last) = news.last() else {
            return Ok(());
        };
        self.with_rows(|rows| {
            rows.wait_for_room(&self.folder)?;
            let mut batch = rows.database.batch();
            for (key, row) in changes(news) {
                match row {
                    Some(row) => batch.insert(&rows.keyspace, key.as_ref(), &row[..]),
                    None => batch.remove(&rows.keyspace, key.as_ref()),
                }
            }
            batch.insert(
                &rows.keyspace,
                Key::position().as_ref(),
                last.sequence.to_be_bytes(),
            );
            batch
                .commit()
                .map_err(|error| self.failed("write to", error))?;
            // After the rows: whoever sees the position sees them too.
            self.projected_seq.store(last.sequence, Ordering::Release);
            rows.hand_over_buffer()
                .map_err(|error| self.failed("write to", error))
        })
    }

    fn asset(&self, asset: u64) -> Result<Option<Bytes>, StoreError> {
        self.get(Key::asset(asset))
    }

    fn history(
        &self,
        asset: u64,
        after: Option<(u64, u16)>,
        limit: usize,
    ) -> Result<Vec<HistoryRow>, StoreError> {
        let prefix = Key::histories(asset);
        let after = after.map(|(sequence, index)| Key::history(asset, sequence, index));
        self.page(
            prefix,
            prefix.range_after(after),
            Order::OldestFirst,
            limit,
            |rest, row| {
                let (sequence, index) = rest.split_at_checked(8)?;
                Some(HistoryRow {
                    sequence: number(sequence)?,
                    index: u16::from_be_bytes(index.try_into().ok()?),
                    row: Bytes::copy_from_slice(row),
                })
            },
        )
    }

    fn assets_of_owner(
        &self,
        owner: &Account,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<u64>, StoreError> {
        let after = after.map(|asset| Key::owned(owner, asset));
        self.page_of_assets(Key::owned_by(owner), after, limit)
    }

    fn assets_of_collection(
        &self,
        collection: u32,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<u64>, StoreError> {
        let after = after.map(|asset| Key::member(collection, asset));
        self.page_of_assets(Key::members(collection), after, limit)
    }

    fn collection(&self, collection: u32) -> Result<Option<Bytes>, StoreError> {
        self.get(Key::collection(collection))
    }

    fn collections(
        &self,
        after: Option<u32>,
        limit: usize,
    ) -> Result<Vec<(u32, Bytes)>, StoreError> {
        let prefix = Key::collections();
        let range = prefix.range_after(after.map(Key::collection));
        self.page(prefix, range, Order::OldestFirst, limit, |rest, row| {
            let number = u32::from_be_bytes(rest.try_into().ok()?);
            Some((number, Bytes::copy_from_slice(row)))
        })
    }

    fn batch(&self, batch: u64) -> Result<Option<Bytes>, StoreError> {
        self.get(Key::batch(batch))
    }

    fn batches(
        &self,
        after: Option<u64>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let prefix = Key::batches();
        let after = after.map(Key::batch);
        let range = match order {
            Order::OldestFirst => prefix.range_after(after),
            Order::NewestFirst => prefix.range_before(after),
        };
        self.page(prefix, range, order, limit, |rest, row| {
            Some((number(rest)?, Bytes::copy_from_slice(row)))
        })
    }

    fn batch_leaves(
        &self,
        batch: u64,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let prefix = Key::leaves(batch);
        let range = prefix.range_after(after.map(|asset| Key::leaf(batch, asset)));
        self.page(prefix, range, Order::OldestFirst, limit, |rest, row| {
            Some((number(rest)?, Bytes::copy_from_slice(row)))
        })
    }

    fn assets_batch(&self, asset: u64) -> Result<Option<u64>, StoreError> {
        let Some(row) = self.get(Key::asset_batch(asset))? else {
            return Ok(None);
        };
        match number(&row) {
            Some(batch) => Ok(Some(batch)),
            None => Err(StoreError::Damaged {
                path: self.folder.path().to_path_buf(),
                reason: format!("the batch of asset {asset} has {} bytes", row.len()),
            }),
        }
    }

    fn model(&self, digest: &ModelDigest) -> Result<Option<Bytes>, StoreError> {
        self.get(Key::model(digest))
    }

    fn models(
        &self,
        after: Option<ModelDigest>,
        limit: usize,
    ) -> Result<Vec<(ModelDigest, Bytes)>, StoreError> {
        let prefix = Key::models();
        let range = prefix.range_after(after.map(|digest| Key::model(&digest)));
        self.page(prefix, range, Order::OldestFirst, limit, |rest, row| {
            Some((rest.try_into().ok()?, Bytes::copy_from_slice(row)))
        })
    }

    fn account(&self, account: &Account) -> Result<Option<Bytes>, StoreError> {
        self.get(Key::account(account))
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.with_rows(|rows| {
            rows.database
                .persist(PersistMode::SyncData)
                .map_err(|error| self.failed("flush", error))
        })
    }

    fn reset(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.applying.lock();
        let mut rows = self.rows.write();
        let Some(before) = rows.take() else {
            return Err(StoreError::storage(
                "reset",
                self.folder.path(),
                "an earlier reset failed half way",
            ));
        };
        let generation = before.generation;
        drop(before);
        let fresh = Rows::create(&self.folder, generation + 1)?;
        self.projected_seq.store(0, Ordering::Release);
        *rows = Some(fresh);
        self.folder.remove_generation(generation)
    }
}
