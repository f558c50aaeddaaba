//! The bytes of assets, each stored under its CID.
//!
//! An asset's bytes never travel in the log. Whoever appends a command that names bytes puts them here first, so the log
//! never names something that is not there. The other way round can happen (a process dies between the two steps):
//! bytes without a command are found with [`ContentStore::digests`] and dropped with [`ContentStore::collect`].
//!
//! The way of the data: [`ContentStore::put`] hashes, appends one frame to the current pack and returns; the bytes then
//! survive a killed process. [`ContentStore::flush`] makes everything put so far survive a power cut; it is called by the
//! same group commit that flushes the log, so that a durable command has durable bytes.
//!
//! - `digest`: sha2-256 digests and their CIDs
//! - `frame`: how one object lies in a pack file
//! - `pack`: one pack file; `scan`: finding what is in it, damage included
//! - `index_file`: the index beside a pack, which only saves the scan
//! - `store`: [`PackStore`]; `open`: how it starts; `collect`: dropping what nobody names
//! - `reader`: [`PackReader`], for looking into a folder that another process writes
//! - `memory`: [`MemoryContent`], for tests

mod collect;
mod digest;
mod error;
#[cfg(test)]
mod fault_tests;
mod frame;
mod index_file;
mod memory;
mod open;
mod pack;
mod reader;
mod scan;
mod store;

pub use digest::{Digest, cid_of, digest_from_cid, digest_of};
pub use error::ContentError;
pub use memory::MemoryContent;
pub use reader::PackReader;
pub use scan::Damage;
pub use store::{OpenReport, PackConfig, PackStore};

use bytes::Bytes;

/// Largest object that any store of this crate takes, in bytes (8 MiB).
pub const OBJECT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Largest pack file, in bytes (256 MiB). Offsets in a pack therefore fit a `u32`.
pub const PACK_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Bytes under their digest. Implementations are shared between threads.
pub trait ContentStore: Send + Sync {
    /// Stores `bytes` and returns their digest. Storing the same bytes again changes nothing.
    ///
    /// When it returns, the bytes are readable and survive a killed process; they survive a power cut after the next
    /// [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`ContentError::TooLarge`], [`ContentError::Full`] (nothing stored earlier is touched, and the store is usable
    /// again when there is space), [`ContentError::Poisoned`] after a failed flush, [`ContentError::Io`].
    fn put(&self, bytes: &[u8]) -> Result<Digest, ContentError>;

    /// The bytes of `digest`, or `None` when they were never stored or were collected.
    ///
    /// # Errors
    /// [`ContentError::Altered`] with file and offset when what is stored is not what was put; storing the same bytes
    /// again heals it. [`ContentError::Io`].
    fn get(&self, digest: &Digest) -> Result<Option<Bytes>, ContentError>;

    /// Whether `digest` is stored; false for an object known to be damaged, so that it is put again.
    ///
    /// # Errors
    /// [`ContentError::Io`], for stores that have to ask.
    fn contains(&self, digest: &Digest) -> Result<bool, ContentError>;

    /// Makes everything put before this call durable. Costs nothing when nothing was put since the last one.
    ///
    /// # Errors
    /// A failed flush is final: the store takes no more bytes ([`ContentError::Poisoned`]) until it is opened again,
    /// because the system may have dropped the unwritten pages.
    fn flush(&self) -> Result<(), ContentError>;

    /// Every stored digest, in ascending order: for finding content that no command names.
    ///
    /// # Errors
    /// [`ContentError::Io`], for stores that have to ask.
    fn digests(&self) -> Result<Vec<Digest>, ContentError>;

    /// Drops every object for which `keep` answers false, and gives their space back.
    ///
    /// Objects put, put again, or found by `contains` while this runs are kept whatever `keep` says. For objects put
    /// before, `keep` must also answer true for those whose command is still on its way to the log.
    ///
    /// # Errors
    /// [`ContentError::Full`] or [`ContentError::Io`] when kept objects cannot be rewritten: no kept object is lost, and
    /// what was not dropped is dropped by the next call.
    fn collect(&self, keep: &dyn Fn(&Digest) -> bool) -> Result<Collected, ContentError>;
}

/// What one [`ContentStore::collect`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Objects dropped.
    pub objects_dropped: u64,
    /// Their bytes, without framing.
    pub bytes_dropped: u64,
    /// Kept objects that were rewritten because they shared a pack file with dropped ones.
    pub objects_rewritten: u64,
    /// Pack files removed.
    pub packs_removed: u64,
    /// Pack files left in place because a kept object in them cannot be read any more.
    pub packs_left_damaged: u64,
}
