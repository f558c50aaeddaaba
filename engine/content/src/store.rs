//! [`PackStore`]: content in a folder of pack files, written by one process.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::frame::{FrameHeader, HEADER_BYTES};
use crate::index_file::{self, PackIndex};
use crate::pack::{Location, PACK_HEADER_BYTES, Pack, sync_folder};
use crate::scan::{Damage, scan};
use crate::{
    Collected, ContentError, ContentStore, Digest, OBJECT_BYTES_MAX, PACK_BYTES_MAX, cid_of,
    digest_of, open,
};

/// Limits of a [`PackStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackConfig {
    /// Largest object, in bytes; at most [`OBJECT_BYTES_MAX`].
    pub object_bytes_max: usize,
    /// A pack file is closed before it grows above this many bytes; at most [`PACK_BYTES_MAX`]. A single object that is
    /// larger gets a pack of its own.
    pub pack_bytes_max: u64,
}

impl Default for PackConfig {
    fn default() -> Self {
        Self {
            object_bytes_max: OBJECT_BYTES_MAX,
            pack_bytes_max: PACK_BYTES_MAX,
        }
    }
}

/// What opening a folder found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Objects that are served.
    pub objects: u64,
    /// Their bytes, without framing.
    pub object_bytes: u64,
    /// Pack files.
    pub packs: u64,
    /// Bytes of pack files that were read because no index file covers them.
    pub scanned_bytes: u64,
    /// Bytes cut off the last pack: a frame that a killed process did not finish. No acknowledged object is among them
    /// unless the power failed before a flush.
    pub torn_bytes_cut: u64,
    /// Damage that is no torn tail. The objects around it are served; putting the lost bytes again heals it.
    pub damaged: Vec<Damage>,
}

/// Content in append-only pack files under one folder; one process at a time writes it.
///
/// Every object is in an index in memory (about 100 bytes an object), every pack file holds one descriptor open.
#[derive(Debug)]
pub struct PackStore {
    pub(crate) folder: PathBuf,
    pub(crate) config: PackConfig,
    pub(crate) index: RwLock<Index>,
    /// The one writer. Taken before `index`, never after it.
    pub(crate) append: Mutex<Append>,
    /// One flush at a time: who waits for it finds its own bytes flushed.
    flushing: Mutex<()>,
    pub(crate) collecting: Mutex<()>,
    poison: OnceLock<String>,
    /// Holds the folder's lock as long as the store lives.
    _lock: File,
}

/// Where everything lies.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub objects: HashMap<Digest, Location>,
    /// Objects that are stored nowhere whole any more, and where they lay.
    pub damaged: HashMap<Digest, Location>,
    pub damage: BTreeMap<u32, Vec<Damage>>,
    pub packs: BTreeMap<u32, Arc<Pack>>,
}

/// The state of the one writer.
#[derive(Debug)]
pub(crate) struct Append {
    pub pack: Arc<Pack>,
    /// Where the next frame goes in `pack`.
    pub end: u64,
    /// Bytes beyond `end` of a failed append that could not be cut yet.
    pub cut_needed: bool,
    /// Whether `pack` has bytes that no flush covers.
    pub dirty: bool,
    /// Full packs that no flush covers yet.
    pub sealed_dirty: Vec<Arc<Pack>>,
    /// Whether pack files were made that the folder does not name durably.
    pub names_dirty: bool,
    /// Digests put or asked for since a running collection began.
    pub put_while_collecting: Option<HashSet<Digest>>,
}

impl PackStore {
    /// Opens the folder, makes it if it is not there, and finds every object in it.
    ///
    /// # Errors
    /// [`ContentError::InUse`], [`ContentError::MissingPack`], [`ContentError::NewerFormat`], [`ContentError::Config`],
    /// [`ContentError::Full`], [`ContentError::Io`]. Damage inside pack files is no error: see [`OpenReport::damaged`].
    pub fn open(
        folder: impl AsRef<Path>,
        config: PackConfig,
    ) -> Result<(Self, OpenReport), ContentError> {
        let opened = open::open(folder.as_ref(), config)?;
        let store = Self {
            folder: folder.as_ref().to_path_buf(),
            config,
            index: RwLock::new(opened.index),
            append: Mutex::new(opened.append),
            flushing: Mutex::new(()),
            collecting: Mutex::new(()),
            poison: OnceLock::new(),
            _lock: opened.lock,
        };
        Ok((store, opened.report))
    }

    /// Reads every pack file and checks every object, beside normal work.
    ///
    /// # Errors
    /// [`ContentError::Io`]; damage is the answer, not an error.
    pub fn verify(&self) -> Result<Vec<Damage>, ContentError> {
        let (current, end) = {
            let append = self.append.lock();
            (append.pack.number, append.end)
        };
        let packs: Vec<_> = self.index.read().packs.values().cloned().collect();
        let mut damaged = Vec::new();
        for pack in packs {
            let to = match pack.number {
                number if number == current => end,
                number if number > current => continue,
                _ => pack.length()?,
            };
            let found = scan(&pack, PACK_HEADER_BYTES, to)?;
            damaged.extend(found.damaged);
            damaged.extend(found.tail);
        }
        Ok(damaged)
    }

    pub(crate) fn refuse_if_poisoned(&self) -> Result<(), ContentError> {
        match self.poison.get() {
            Some(cause) => Err(ContentError::Poisoned {
                cause: cause.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Appends a frame and makes it the place where `digest` is found. `frame` has room for the header in front.
    pub(crate) fn append_frame(
        &self,
        append: &mut Append,
        header: &FrameHeader,
        frame: &mut [u8],
    ) -> Result<(), ContentError> {
        if append.cut_needed {
            append.pack.cut(append.end)?;
            append.cut_needed = false;
        }
        if append.end > PACK_HEADER_BYTES
            && append.end + header.frame_bytes() > self.config.pack_bytes_max
        {
            self.start_pack(append)?;
        }
        frame[..HEADER_BYTES].copy_from_slice(&header.encode(append.pack.number, append.end));
        if let Err(error) = append.pack.append(frame, append.end) {
            append.cut_needed = append.pack.cut(append.end).is_err();
            return Err(error);
        }
        let location = Location {
            pack: append.pack.number,
            offset: append.end as u32,
            length: header.length,
        };
        append.end += header.frame_bytes();
        append.dirty = true;
        let mut index = self.index.write();
        index.objects.insert(header.digest, location);
        index.damaged.remove(&header.digest);
        Ok(())
    }

    /// Closes the current pack and goes on in a new one.
    pub(crate) fn start_pack(&self, append: &mut Append) -> Result<(), ContentError> {
        let pack = Arc::new(Pack::create(&self.folder, append.pack.number + 1)?);
        self.index.write().packs.insert(pack.number, pack.clone());
        let full = std::mem::replace(&mut append.pack, pack);
        append.sealed_dirty.push(full);
        append.end = PACK_HEADER_BYTES;
        append.cut_needed = false;
        append.dirty = true;
        append.names_dirty = true;
        Ok(())
    }

    /// Writes the index file of a pack whose first `covered` bytes are durable. Failing costs only time at the next start.
    fn write_index(&self, pack: &Pack, covered: u64) {
        let contents = {
            let index = self.index.read();
            let mut objects: Vec<_> = index
                .objects
                .iter()
                .filter(|(_, location)| {
                    location.pack == pack.number && u64::from(location.offset) < covered
                })
                .map(|(digest, location)| (*digest, *location))
                .collect();
            objects.sort_unstable_by_key(|(_, location)| location.offset);
            PackIndex {
                covered,
                objects,
                damaged: index.damage.get(&pack.number).cloned().unwrap_or_default(),
            }
        };
        if let Err(error) = index_file::write(&self.folder, pack.number, &contents) {
            tracing::warn!(%error, "index file not written; the next start reads the pack file");
        }
    }

    fn flush_taken(&self, taken: &Taken) -> Result<(), ContentError> {
        for pack in &taken.sealed {
            pack.sync()?;
        }
        taken.current.sync()?;
        if taken.names_dirty {
            sync_folder(&self.folder)?;
        }
        Ok(())
    }
}

/// What one flush covers.
struct Taken {
    sealed: Vec<Arc<Pack>>,
    current: Arc<Pack>,
    end: u64,
    names_dirty: bool,
}

impl ContentStore for PackStore {
    fn put(&self, bytes: &[u8]) -> Result<Digest, ContentError> {
        if bytes.len() > self.config.object_bytes_max {
            return Err(ContentError::TooLarge {
                bytes: bytes.len() as u64,
                max: self.config.object_bytes_max as u64,
            });
        }
        // Hashing and copying are done before the lock: the writer only writes.
        let digest = digest_of(bytes);
        let header = FrameHeader::of(&digest, bytes);
        let mut frame = Vec::with_capacity(HEADER_BYTES + bytes.len());
        frame.resize(HEADER_BYTES, 0);
        frame.extend_from_slice(bytes);

        let mut append = self.append.lock();
        self.refuse_if_poisoned()?;
        if let Some(put) = &mut append.put_while_collecting {
            put.insert(digest);
        }
        if self.index.read().objects.contains_key(&digest) {
            return Ok(digest);
        }
        self.append_frame(&mut append, &header, &mut frame)?;
        Ok(digest)
    }

    fn get(&self, digest: &Digest) -> Result<Option<Bytes>, ContentError> {
        let (location, pack) = {
            let index = self.index.read();
            if let Some(location) = index.damaged.get(digest) {
                return Err(ContentError::Altered {
                    cid: cid_of(digest),
                    file: Pack::path_in(&self.folder, location.pack),
                    offset: location.offset.into(),
                    reason: "its checksum did not hold when it was last read".into(),
                });
            }
            let Some(location) = index.objects.get(digest).copied() else {
                return Ok(None);
            };
            let Some(pack) = index.packs.get(&location.pack).cloned() else {
                return Ok(None);
            };
            (location, pack)
        };
        match pack.read_object(location, digest) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error @ ContentError::Altered { .. }) => {
                // From now on it counts as not stored, so that putting the same bytes again heals it.
                let mut index = self.index.write();
                if index.objects.get(digest) == Some(&location) {
                    index.objects.remove(digest);
                    index.damaged.insert(*digest, location);
                }
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    fn contains(&self, digest: &Digest) -> Result<bool, ContentError> {
        let mut append = self.append.lock();
        if let Some(put) = &mut append.put_while_collecting {
            put.insert(*digest);
        }
        Ok(self.index.read().objects.contains_key(digest))
    }

    fn flush(&self) -> Result<(), ContentError> {
        let _one_at_a_time = self.flushing.lock();
        self.refuse_if_poisoned()?;
        let taken = {
            let mut append = self.append.lock();
            if !append.dirty && append.sealed_dirty.is_empty() && !append.names_dirty {
                return Ok(());
            }
            append.dirty = false;
            Taken {
                sealed: std::mem::take(&mut append.sealed_dirty),
                current: append.pack.clone(),
                end: append.end,
                names_dirty: std::mem::take(&mut append.names_dirty),
            }
        };
        if let Err(error) = self.flush_taken(&taken) {
            // Under the writer's lock: no put that begins after this returns can be taken.
            let _append = self.append.lock();
            let _ = self.poison.set(error.to_string());
            return Err(error);
        }
        for pack in &taken.sealed {
            if let Ok(length) = pack.length() {
                self.write_index(pack, length);
            }
        }
        if taken.names_dirty {
            // Names the new pack as one that must be there.
            self.write_index(&taken.current, taken.end);
        }
        Ok(())
    }

    fn digests(&self) -> Result<Vec<Digest>, ContentError> {
        let mut digests: Vec<Digest> = self.index.read().objects.keys().copied().collect();
        digests.sort_unstable();
        Ok(digests)
    }

    fn collect(&self, keep: &dyn Fn(&Digest) -> bool) -> Result<Collected, ContentError> {
        crate::collect::collect(self, keep)
    }
}

impl Drop for PackStore {
    /// Flushes, and writes the index file of the current pack so that the next start need not read it.
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::error!(%error, "content store closed without a flush");
            return;
        }
        let (pack, end) = {
            let append = self.append.lock();
            (append.pack.clone(), append.end)
        };
        self.write_index(&pack, end);
    }
}
