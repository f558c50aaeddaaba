//! The spool: assets that were generated and that the engine has not answered yet, kept in a folder.
//!
//! | file | holds |
//! | --- | --- |
//! | `spool.lock` | the lock of the process that uses the folder |
//! | `index.json` | collection, commitment of the secret, and an index below which all may have been used |
//! | `spool.log` | frames: length, CRC32C, then an asset, the end of one, or a further attempt of one |
//!
//! A frame is in the file before its asset is sent, so a killed process loses nothing. The log is not flushed: what a lost
//! machine's power takes away was answered to nobody. Indexes are safe in both cases: they are reserved in the flushed
//! `index.json` before use, [`INDEXES_A_RESERVATION`] at a time; after an unclean end the rest of a reservation is
//! skipped, because nobody knows which of it was used.

mod error;
mod frames;
mod index_file;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use karat_proto::{CollectionId, CommandId, v1};
use prost::Message;

pub use self::error::SpoolError;
use self::error::io_error;
use self::frames::{
    Entry, FRAME_HEAD_BYTES, Frame, KIND_ATTEMPT, KIND_END, PAYLOAD_BYTES_MAX, asset_payload,
    frame_bytes, parse, push_frame, read_log,
};
use self::index_file::{IndexFile, flush_folder, read_index, take_lock, write_index};

/// Indexes that one flush of `index.json` reserves, and most that an unclean end skips.
pub const INDEXES_A_RESERVATION: u64 = 256;
/// Bytes of ended assets that may lie in the log beyond the bytes of open ones before it is rewritten.
pub const DEAD_BYTES_MAX: u64 = 8 * 1024 * 1024;
const LOG_FILE: &str = "spool.log";

/// An asset on its way: what [`Spool::take`] hands out.
#[derive(Debug, Clone, PartialEq)]
pub struct SpooledAsset {
    /// Its index.
    pub index: u64,
    /// Ready to be sent, with the command id of its present attempt.
    pub asset: v1::EdgeAsset,
}

/// A folder of assets that wait for their outcome. One process and one caller at a time.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    log: File,
    /// Length of the log's good part.
    length: u64,
    open_bytes: u64,
    open: BTreeMap<u64, Entry>,
    /// Those of `open` that are neither under way nor kept back by the caller.
    ready: BTreeSet<u64>,
    assets_max: usize,
    index: IndexFile,
    next_index: u64,
    cut_bytes: u64,
    _lock: File,
}

impl Spool {
    /// Opens a folder, made where it is not there, for one collection and secret (by its commitment). A torn tail is cut
    /// and said so; what is left open is ready to be sent again.
    ///
    /// # Errors
    /// When another process has it, it belongs to another collection or secret, or the files cannot be used.
    pub fn open(
        folder: &Path,
        collection: CollectionId,
        commitment: &[u8; 32],
        assets_max: usize,
    ) -> Result<Spool, SpoolError> {
        fs::create_dir_all(folder).map_err(|source| io_error("create", folder, source))?;
        let lock = take_lock(folder)?;
        let log_path = folder.join(LOG_FILE);
        let mut log = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&log_path)
            .map_err(|source| io_error("open", &log_path, source))?;
        let found = read_log(&mut log).map_err(|source| io_error("read", &log_path, source))?;
        let index = read_index(folder, collection, commitment, found.length > 0)?;
        let cut_bytes = found.file_bytes - found.length;
        if cut_bytes > 0 {
            tracing::warn!(
                file = %log_path.display(),
                offset = found.length,
                bytes = cut_bytes,
                "cut a torn tail off the spool"
            );
            log.set_len(found.length)
                .map_err(|source| io_error("cut", &log_path, source))?;
        }
        Ok(Spool {
            folder: folder.to_owned(),
            log,
            length: found.length,
            open_bytes: found.open.values().map(frame_bytes).sum(),
            ready: found.open.keys().copied().collect(),
            open: found.open,
            assets_max,
            next_index: index.used_below,
            index,
            cut_bytes,
            _lock: lock,
        })
    }

    /// Assets that wait for their outcome.
    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Assets that can be taken.
    pub fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// How many more assets fit.
    pub fn room(&self) -> usize {
        self.assets_max.saturating_sub(self.open.len())
    }

    /// Bytes that were cut off when the folder was opened.
    pub fn cut_bytes(&self) -> u64 {
        self.cut_bytes
    }

    /// The index that comes next.
    pub fn next_index(&self) -> u64 {
        self.next_index
    }

    /// Gives out `count` indexes that nobody ever had, and returns the first.
    ///
    /// # Errors
    /// When the reservation cannot be flushed; nothing was given out then.
    pub fn reserve(&mut self, count: usize) -> Result<u64, SpoolError> {
        let first = self.next_index;
        let next = first.saturating_add(count as u64);
        if next > self.index.used_below {
            let reserved = next.saturating_add(INDEXES_A_RESERVATION - 1);
            write_index(&self.folder, &mut self.index, reserved)?;
        }
        self.next_index = next;
        Ok(first)
    }

    /// Keeps assets under their reserved indexes; all of them or none.
    ///
    /// # Errors
    /// When there is no room, or the file cannot be written (a full disk, say).
    pub fn append(&mut self, assets: &[(u64, v1::EdgeAsset)]) -> Result<(), SpoolError> {
        if assets.len() > self.room() {
            return Err(SpoolError::Full {
                count: assets.len(),
                open: self.open.len(),
                most: self.assets_max,
            });
        }
        let mut bytes = Vec::new();
        let mut entries = Vec::with_capacity(assets.len());
        for (index, asset) in assets {
            let offset = self.length + bytes.len() as u64;
            let payload = asset_payload(*index, 0, &asset.encode_to_vec());
            if payload.len() > PAYLOAD_BYTES_MAX {
                return Err(SpoolError::TooLarge {
                    index: *index,
                    bytes: payload.len(),
                });
            }
            let payload_bytes = payload.len() as u32;
            push_frame(&mut bytes, &payload);
            entries.push((
                *index,
                Entry {
                    offset,
                    payload_bytes,
                    attempt: 0,
                },
            ));
        }
        self.write(&bytes)?;
        for (index, entry) in entries {
            self.open_bytes += frame_bytes(&entry);
            self.open.insert(index, entry);
            self.ready.insert(index);
        }
        Ok(())
    }

    /// Takes the oldest ready assets: at most `count`, and no more than `bytes_max` of content after the first.
    ///
    /// # Errors
    /// When a frame cannot be read back or is damaged.
    pub fn take(
        &mut self,
        count: usize,
        bytes_max: usize,
    ) -> Result<Vec<SpooledAsset>, SpoolError> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while taken.len() < count {
            let Some((index, entry)) = self
                .ready
                .first()
                .and_then(|index| Some((*index, *self.open.get(index)?)))
            else {
                break;
            };
            bytes += entry.payload_bytes as usize;
            if bytes > bytes_max && !taken.is_empty() {
                break;
            }
            let asset = self.read(index, &entry)?;
            self.ready.remove(&index);
            taken.push(SpooledAsset { index, asset });
        }
        Ok(taken)
    }

    /// Makes assets ready again that were taken and had no final outcome.
    pub fn give_back(&mut self, indexes: impl IntoIterator<Item = u64>) {
        let known = indexes
            .into_iter()
            .filter(|index| self.open.contains_key(index));
        self.ready.extend(known);
    }

    /// Makes everything open ready again, as after a lost connection.
    pub fn give_all_back(&mut self) {
        self.ready = self.open.keys().copied().collect();
    }

    /// Lets the next sending of an asset be a new command: its present one was refused in the realm's order, which
    /// answers for ever, and changed nothing.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn next_attempt(&mut self, index: u64) -> Result<(), SpoolError> {
        let Some(entry) = self.open.get(&index).copied() else {
            return Ok(());
        };
        let attempt = entry.attempt.saturating_add(1);
        let mut payload = vec![KIND_ATTEMPT];
        payload.extend(index.to_be_bytes());
        payload.extend(attempt.to_be_bytes());
        let mut bytes = Vec::new();
        push_frame(&mut bytes, &payload);
        self.write(&bytes)?;
        self.open.insert(index, Entry { attempt, ..entry });
        Ok(())
    }

    /// Drops assets that have their final outcome.
    ///
    /// # Errors
    /// When the file cannot be written; the assets would be sent again after a restart, which is harmless.
    pub fn end(&mut self, indexes: &[u64]) -> Result<(), SpoolError> {
        let mut bytes = Vec::new();
        for index in indexes {
            if let Some(entry) = self.open.remove(index) {
                self.open_bytes -= frame_bytes(&entry);
                self.ready.remove(index);
                let mut payload = vec![KIND_END];
                payload.extend(index.to_be_bytes());
                push_frame(&mut bytes, &payload);
            }
        }
        self.write(&bytes)?;
        if self.length > 2 * self.open_bytes + DEAD_BYTES_MAX {
            // Not flushed, as the log is not: the connection would wait for the disk meanwhile.
            self.rewrite(false)?;
        }
        Ok(())
    }

    /// Ends the use of the folder: flushes it and notes the exact next index, so that none is skipped.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn close(mut self) -> Result<(), SpoolError> {
        self.rewrite(true)?;
        let next = self.next_index;
        write_index(&self.folder, &mut self.index, next)
    }

    fn read(&self, index: u64, entry: &Entry) -> Result<v1::EdgeAsset, SpoolError> {
        let path = self.folder.join(LOG_FILE);
        let mut frame = vec![0; frame_bytes(entry) as usize];
        self.log
            .read_exact_at(&mut frame, entry.offset)
            .map_err(|source| io_error("read", &path, source))?;
        let offset = entry.offset;
        let (head, payload) = frame.split_at(FRAME_HEAD_BYTES as usize);
        let good = head[4..] == crc32c::crc32c(payload).to_be_bytes();
        let Some(Frame::Asset {
            index: found, body, ..
        }) = parse(payload).filter(|_| good)
        else {
            return Err(SpoolError::Damaged { path, offset });
        };
        let mut asset = match v1::EdgeAsset::decode(body) {
            Ok(asset) if found == index => asset,
            _ => return Err(SpoolError::Damaged { path, offset }),
        };
        let id = mint_id(self.index.collection, index, entry.attempt);
        asset.id = id.0.to_vec().into();
        Ok(asset)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        if let Err(source) = self.log.write_all(bytes) {
            // What was written of it would be a torn frame in the middle once the next one follows.
            let _ = self.log.set_len(self.length);
            return Err(io_error("write", &self.folder.join(LOG_FILE), source));
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Writes what is open into a new log that takes the old one's place in one step, and `flush`es it before.
    fn rewrite(&mut self, flush: bool) -> Result<(), SpoolError> {
        let (path, new_path) = (
            self.folder.join(LOG_FILE),
            self.folder.join("spool.log.new"),
        );
        let failed = |source| io_error("rewrite", &new_path, source);
        // A leftover of a killed process is worth nothing: the old log is whole.
        let mut new = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&new_path)
            .map_err(failed)?;
        let (mut length, mut open) = (0, BTreeMap::new());
        for (index, entry) in &self.open {
            let mut frame = Vec::new();
            let body = v1::EdgeAsset {
                id: Default::default(),
                ..self.read(*index, entry)?
            };
            let payload = asset_payload(*index, entry.attempt, &body.encode_to_vec());
            push_frame(&mut frame, &payload);
            new.write_all(&frame).map_err(failed)?;
            let payload_bytes = payload.len() as u32;
            open.insert(
                *index,
                Entry {
                    offset: length,
                    payload_bytes,
                    attempt: entry.attempt,
                },
            );
            length += frame.len() as u64;
        }
        if flush {
            new.sync_data().map_err(failed)?;
        }
        fs::rename(&new_path, &path).map_err(failed)?;
        if flush {
            flush_folder(&self.folder)?;
        }
        self.log = OpenOptions::new()
            .read(true)
            .append(true)
            .open(&path)
            .map_err(|source| io_error("open", &path, source))?;
        self.open_bytes = open.values().map(frame_bytes).sum();
        (self.length, self.open) = (length, open);
        Ok(())
    }
}

/// The id of the command that mints the asset at `index`: the first 16 bytes of blake3 over `karat.edge.mint`, collection
/// and index, big-endian. A resend is therefore a retry. Attempts after the first add their number.
pub fn mint_id(collection: CollectionId, index: u64, attempt: u32) -> CommandId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"karat.edge.mint");
    hasher.update(&collection.to_be_bytes());
    hasher.update(&index.to_be_bytes());
    if attempt > 0 {
        hasher.update(&attempt.to_be_bytes());
    }
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    CommandId(id)
}
