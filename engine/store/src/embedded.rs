//! [`EmbeddedStore`]: rows in a folder, on an embedded log-structured key-value store.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fjall::{AbstractTree, Database, Guard, Keyspace, KeyspaceCreateOptions, PersistMode};
use parking_lot::{Mutex, RwLock};

use crate::folder::{FORMAT_VERSION, Folder};
use crate::keys::Key;
use crate::{
    Account, HistoryRow, ModelDigest, Order, Projection, Store, StoreError, Write, check_limit,
    news,
};

const MIB: u64 = 1024 * 1024;

/// Blocks read from files, shared by everything.
const CACHE_BYTES: u64 = 16 * MIB;
/// A write buffer is handed to the background thread when it is this large.
const WRITE_BUFFER_BYTES: u64 = 8 * MIB;
/// Write buffers that wait to be written; then [`Store::apply`] waits. Storage itself would wait at four, without end.
const WRITE_BUFFERS_WAITING_MAX: usize = 2;
/// Files of the first level that wait to be merged; then [`Store::apply`] waits.
const FIRST_LEVEL_FILES_MAX: usize = 16;
/// How long [`Store::apply`] waits for the background thread before it gives up.
const STALL_MS_MAX: u64 = 60_000;
const STALL_STEP_MS: u64 = 5;
/// Size of the files that make applied rows survive a killed process, on disk.
const JOURNAL_BYTES_MAX: u64 = 64 * MIB;
const OPEN_FILES_MAX: usize = 128;

/// What the embedded store holds in memory at most, beside the rows of the call that is being applied (96 MiB): 16 MiB
/// of cached blocks, four write buffers of 8 MiB (one filling, two waiting, one more because handing over takes a
/// moment) at up to twice their size in memory, and filters and index blocks, about 1 MiB for each million rows.
pub const MEMORY_BYTES_MAX: u64 = 96 * MIB;

/// Rows in a folder; one process at a time opens it. One background thread writes and merges its files.
pub struct EmbeddedStore {
    folder: Folder,
    /// Reads share it; only a reset replaces what is inside.
    rows: RwLock<Option<Rows>>,
    projected_seq: AtomicU64,
    applying: Mutex<()>,
}

struct Rows {
    // The order matters when this is dropped: handles before their database.
    keyspace: Keyspace,
    database: Database,
    generation: u32,
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

impl Rows {
    fn create(folder: &Folder, generation: u32) -> Result<Self, StoreError> {
        // Closed again before it gets its name: only whole generations have one.
        drop(Self::open_at(
            folder,
            &folder.preparation_path(generation),
            generation,
        )?);
        folder.commit(generation)?;
        Self::open(folder, generation)
    }

    fn open(folder: &Folder, generation: u32) -> Result<Self, StoreError> {
        Self::open_at(folder, &folder.generation_path(generation), generation)
    }

    fn open_at(folder: &Folder, path: &Path, generation: u32) -> Result<Self, StoreError> {
        let database = Database::builder(path)
            .cache_size(CACHE_BYTES)
            .max_cached_files(Some(OPEN_FILES_MAX))
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .worker_threads(1)
            .open()
            .map_err(|error| refused(folder, path, error))?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(WRITE_BUFFER_BYTES);
        let keyspace = database
            .keyspace("rows", options)
            .map_err(|error| refused(folder, path, error))?;
        Ok(Self {
            keyspace,
            database,
            generation,
        })
    }

    fn read_position(&self, folder: &Folder) -> Result<u64, StoreError> {
        let position = self
            .keyspace
            .get(Key::position())
            .map_err(|error| StoreError::storage("read", folder.path(), error))?;
        match position {
            None => Ok(0),
            Some(position) => number(&position).ok_or_else(|| StoreError::Damaged {
                path: folder.path().to_path_buf(),
                reason: format!("its position has {} bytes", position.len()),
            }),
        }
    }

    /// Waits until the background thread has caught up far enough to take another write.
    ///
    /// Storage waits as well, but for ever: if its thread has ended (a full disk), nobody would wake it.
    fn wait_for_room(&self, folder: &Folder) -> Result<(), StoreError> {
        let mut waited_ms = 0;
        while self.keyspace.tree.sealed_memtable_count() > WRITE_BUFFERS_WAITING_MAX
            || self.keyspace.l0_table_count() > FIRST_LEVEL_FILES_MAX
        {
            // Answers with an error once the background thread has failed.
            self.database
                .persist(PersistMode::Buffer)
                .map_err(|error| StoreError::storage("write to", folder.path(), error))?;
            if waited_ms >= STALL_MS_MAX {
                return Err(StoreError::Stalled {
                    path: folder.path().to_path_buf(),
                    waited_ms,
                });
            }
            std::thread::sleep(Duration::from_millis(STALL_STEP_MS));
            waited_ms += STALL_STEP_MS;
        }
        Ok(())
    }

    /// Hands a full write buffer to the background thread. Storage only asks that thread to do it, and while the thread
    /// merges files the buffer would grow without bound.
    fn hand_over_buffer(&self) -> Result<(), fjall::Error> {
        if self.keyspace.tree.active_memtable().size() > WRITE_BUFFER_BYTES {
            self.keyspace.rotate_memtable()?;
        }
        Ok(())
    }
}

fn refused(folder: &Folder, path: &Path, error: fjall::Error) -> StoreError {
    match error {
        fjall::Error::Locked => StoreError::InUse {
            path: folder.path().to_path_buf(),
        },
        fjall::Error::InvalidVersion(found) => StoreError::NewerFormat {
            path: path.to_path_buf(),
            found: format!("{found:?} of the key-value store"),
            supported: FORMAT_VERSION,
        },
        error => StoreError::storage("open", path, error),
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// What the writes come to: the last value of every key, or its removal. Storage takes each key once in a batch.
fn changes(projections: &[Projection]) -> BTreeMap<Key, Option<Bytes>> {
    let mut changes = BTreeMap::new();
    for write in projections.iter().flat_map(|projection| &projection.writes) {
        match write {
            Write::PutAsset { asset, row } => {
                changes.insert(Key::asset(*asset), Some(row.clone()));
            }
            Write::AddHistory {
                asset,
                sequence,
                index,
                row,
            } => {
                changes.insert(Key::history(*asset, *sequence, *index), Some(row.clone()));
            }
            Write::SetOwner { asset, from, to } => {
                if let Some(from) = from {
                    changes.insert(Key::owned(from, *asset), None);
                }
                if let Some(to) = to {
                    changes.insert(Key::owned(to, *asset), Some(Bytes::new()));
                }
            }
            Write::AddToCollection { collection, asset } => {
                changes.insert(Key::member(*collection, *asset), Some(Bytes::new()));
            }
            Write::PutCollection { collection, row } => {
                changes.insert(Key::collection(*collection), Some(row.clone()));
            }
            Write::PutBatch { batch, row } => {
                changes.insert(Key::batch(*batch), Some(row.clone()));
            }
            Write::AddBatchLeaf { batch, asset, row } => {
                changes.insert(Key::leaf(*batch, *asset), Some(row.clone()));
                let number = Bytes::copy_from_slice(&batch.to_be_bytes());
                changes.insert(Key::asset_batch(*asset), Some(number));
            }
            Write::PutModel { digest, row } => {
                changes.insert(Key::model(digest), Some(row.clone()));
            }
            Write::PutAccount { account, row } => {
                changes.insert(Key::account(account), Some(row.clone()));
            }
        }
    }
    changes
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
