//! The projection that serves queries: rows derived from the log, and the sequence up to which they are.
//!
//! The store knows nothing of the ledger's types. Rows are opaque bytes under declared keys; whoever projects events
//! encodes them. Rows and [`Store::projected_seq`] advance together: after any crash the store holds exactly the rows of
//! the sequences up to its position, and the projector goes on from there. The log stays the truth: a store that is lost
//! or behind is filled again from it.
//!
//! - [`EmbeddedStore`]: in a folder, on an embedded key-value store (`embedded`, `rows`, `keys`, `folder`)
//! - [`MemoryStore`]: in ordered maps, for tests and for runs that keep nothing

mod embedded;
mod error;
mod folder;
mod keys;
mod memory;
mod rows;

pub use embedded::EmbeddedStore;
pub use error::StoreError;
pub use memory::MemoryStore;
pub use rows::MEMORY_BYTES_MAX;

use bytes::Bytes;

/// An account's address.
pub type Account = [u8; 20];

/// sha2-256 of a model, its name in the log.
pub type ModelDigest = [u8; 32];

/// Most rows one query answers with; ask for the next page with `after`.
pub const PAGE_ROWS_MAX: usize = 10_000;

/// Most bytes of rows and keys in one [`Store::apply`] (64 MiB): a settled batch of 65,536 leaves of 1,000 bytes fits.
pub const APPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The rows that one stretch of the log changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// The last sequence that it covers.
    pub sequence: u64,
    /// What changes, in order: a later write to the same key wins.
    pub writes: Vec<Write>,
}

/// One change of the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets the row of an asset.
    PutAsset {
        /// The asset.
        asset: u64,
        /// Its row.
        row: Bytes,
    },
    /// Adds a row to the history of an asset.
    AddHistory {
        /// The asset.
        asset: u64,
        /// Sequence of the command that caused it.
        sequence: u64,
        /// Position among the events of that command.
        index: u16,
        /// The row.
        row: Bytes,
    },
    /// Moves an asset between the lists of owners.
    SetOwner {
        /// The asset.
        asset: u64,
        /// The owner before, if it had one.
        from: Option<Account>,
        /// The owner from now on, if it has one.
        to: Option<Account>,
    },
    /// Adds an asset to the list of a collection.
    AddToCollection {
        /// The collection.
        collection: u32,
        /// The asset.
        asset: u64,
    },
    /// Sets the row of a collection.
    PutCollection {
        /// The collection.
        collection: u32,
        /// Its row.
        row: Bytes,
    },
    /// Sets the row of a batch.
    PutBatch {
        /// The batch.
        batch: u64,
        /// Its row.
        row: Bytes,
    },
    /// Adds a leaf to a batch, which becomes the latest batch that holds the asset.
    AddBatchLeaf {
        /// The batch.
        batch: u64,
        /// The asset.
        asset: u64,
        /// The leaf's row.
        row: Bytes,
    },
    /// Sets the row of a model.
    PutModel {
        /// The model.
        digest: ModelDigest,
        /// Its row.
        row: Bytes,
    },
    /// Sets the row of an account.
    PutAccount {
        /// The account.
        account: Account,
        /// Its row.
        row: Bytes,
    },
}

/// One row of an asset's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRow {
    /// Sequence of the command that caused it.
    pub sequence: u64,
    /// Position among the events of that command.
    pub index: u16,
    /// The row.
    pub row: Bytes,
}

/// In which order a list is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Ascending; `after` asks for greater numbers.
    OldestFirst,
    /// Descending; `after` asks for smaller numbers.
    NewestFirst,
}

/// Rows and the position they are at. One thread applies; any number reads.
///
/// Lists are paged: at most `limit` entries after `after`, in ascending order of their key where nothing else is said. A
/// page shorter than `limit` is the last one. `limit` is at most [`PAGE_ROWS_MAX`].
///
/// Every method may answer [`StoreError::Storage`] when the storage below fails.
pub trait Store: Send + Sync {
    /// The last sequence whose rows are here; 0 when there are none.
    fn projected_seq(&self) -> Result<u64, StoreError>;

    /// Applies projections, given in ascending order of their sequences, as one change: a crash leaves all of it or
    /// nothing. Projections at or before [`projected_seq`](Self::projected_seq) are skipped, so applying again is safe; a
    /// gap after it is allowed.
    ///
    /// It survives a killed process when it returns, and a power cut after [`flush`](Self::flush); what is lost goes
    /// from the end, and the position goes back with it.
    ///
    /// # Errors
    /// [`StoreError::OutOfOrder`], [`StoreError::TooLarge`]; nothing is changed then.
    fn apply(&self, projections: &[Projection]) -> Result<(), StoreError>;

    /// The row of an asset.
    fn asset(&self, asset: u64) -> Result<Option<Bytes>, StoreError>;

    /// The history of an asset in the order it happened, after the given sequence and index.
    fn history(
        &self,
        asset: u64,
        after: Option<(u64, u16)>,
        limit: usize,
    ) -> Result<Vec<HistoryRow>, StoreError>;

    /// The assets of an owner.
    fn assets_of_owner(
        &self,
        owner: &Account,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<u64>, StoreError>;

    /// The assets of a collection.
    fn assets_of_collection(
        &self,
        collection: u32,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<u64>, StoreError>;

    /// The row of a collection.
    fn collection(&self, collection: u32) -> Result<Option<Bytes>, StoreError>;

    /// Collections with their rows.
    fn collections(
        &self,
        after: Option<u32>,
        limit: usize,
    ) -> Result<Vec<(u32, Bytes)>, StoreError>;

    /// The row of a batch.
    fn batch(&self, batch: u64) -> Result<Option<Bytes>, StoreError>;

    /// Batches with their rows, in the order asked for.
    fn batches(
        &self,
        after: Option<u64>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<(u64, Bytes)>, StoreError>;

    /// The leaves of a batch by asset.
    fn batch_leaves(
        &self,
        batch: u64,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, Bytes)>, StoreError>;

    /// The latest batch that holds an asset.
    fn assets_batch(&self, asset: u64) -> Result<Option<u64>, StoreError>;

    /// The row of a model.
    fn model(&self, digest: &ModelDigest) -> Result<Option<Bytes>, StoreError>;

    /// Models with their rows.
    fn models(
        &self,
        after: Option<ModelDigest>,
        limit: usize,
    ) -> Result<Vec<(ModelDigest, Bytes)>, StoreError>;

    /// The row of an account.
    fn account(&self, account: &Account) -> Result<Option<Bytes>, StoreError>;

    /// Makes everything applied so far survive a power cut.
    fn flush(&self) -> Result<(), StoreError>;

    /// Removes every row and goes back to position 0, to be filled again from the log. A crash leaves the rows from
    /// before or none.
    fn reset(&self) -> Result<(), StoreError>;
}

/// Refuses a page above the bound.
pub(crate) fn check_limit(limit: usize) -> Result<(), StoreError> {
    if limit > PAGE_ROWS_MAX {
        return Err(StoreError::Limit {
            limit,
            max: PAGE_ROWS_MAX,
        });
    }
    Ok(())
}

/// The projections that are news to a store at `projected_seq`.
pub(crate) fn news(
    projections: &[Projection],
    projected_seq: u64,
) -> Result<&[Projection], StoreError> {
    if let Some(pair) = projections
        .windows(2)
        .find(|pair| pair[0].sequence >= pair[1].sequence)
    {
        return Err(StoreError::OutOfOrder {
            before: pair[0].sequence,
            after: pair[1].sequence,
        });
    }
    let known = projections.partition_point(|projection| projection.sequence <= projected_seq);
    let news = &projections[known..];
    let bytes: usize = news
        .iter()
        .flat_map(|projection| &projection.writes)
        .map(Write::bytes)
        .sum();
    if bytes > APPLY_BYTES_MAX {
        return Err(StoreError::TooLarge {
            bytes,
            max: APPLY_BYTES_MAX,
        });
    }
    Ok(news)
}

impl Write {
    /// Bytes that it adds at most, keys included.
    fn bytes(&self) -> usize {
        // The longest key has 33 bytes; a leaf and a change of owner write two.
        const KEYS_BYTES: usize = 66;
        let row = match self {
            Self::PutAsset { row, .. }
            | Self::AddHistory { row, .. }
            | Self::PutCollection { row, .. }
            | Self::PutBatch { row, .. }
            | Self::AddBatchLeaf { row, .. }
            | Self::PutModel { row, .. }
            | Self::PutAccount { row, .. } => row.len(),
            Self::SetOwner { .. } | Self::AddToCollection { .. } => 0,
        };
        row + KEYS_BYTES
    }
}
