//! One generation of rows: the key-value store below, with its memory and its waits bounded.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use fjall::{AbstractTree, Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::folder::{FORMAT_VERSION, Folder};
use crate::keys::Key;
use crate::{Projection, StoreError, Write};

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

/// An open generation.
pub(crate) struct Rows {
    // The order matters when this is dropped: handles before their database.
    pub keyspace: Keyspace,
    pub database: Database,
    pub generation: u32,
}

impl Rows {
    pub fn create(folder: &Folder, generation: u32) -> Result<Self, StoreError> {
        // Closed again before it gets its name: only whole generations have one.
        drop(Self::open_at(
            folder,
            &folder.preparation_path(generation),
            generation,
        )?);
        folder.commit(generation)?;
        Self::open(folder, generation)
    }

    pub fn open(folder: &Folder, generation: u32) -> Result<Self, StoreError> {
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

    pub fn read_position(&self, folder: &Folder) -> Result<u64, StoreError> {
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
    pub fn wait_for_room(&self, folder: &Folder) -> Result<(), StoreError> {
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
    pub fn hand_over_buffer(&self) -> Result<(), fjall::Error> {
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

pub(crate) fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// What the writes come to: the last value of every key, or its removal. Storage takes each key once in a batch.
pub(crate) fn changes(projections: &[Projection]) -> BTreeMap<Key, Option<Bytes>> {
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
