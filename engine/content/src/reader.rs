//! [`PackReader`]: looking into a content folder that another process may be writing.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::open::{list, load, missing_pack};
use crate::pack::{Location, PACK_HEADER_BYTES, Pack, PackHeader};
use crate::scan::{Damage, scan};
use crate::{ContentError, Digest, index_file};

/// Reads a content folder without locking or changing it.
///
/// It looks at the folder again when it is asked for something it does not know, so it follows a running writer.
#[derive(Debug)]
pub struct PackReader {
    folder: PathBuf,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    objects: HashMap<Digest, Location>,
    packs: BTreeMap<u32, KnownPack>,
    damaged: BTreeMap<u32, Vec<Damage>>,
}

#[derive(Debug, Clone)]
struct KnownPack {
    pack: Arc<Pack>,
    /// Up to here its frames are known.
    end: u64,
}

impl PackReader {
    /// Opens a folder that a [`PackStore`](crate::PackStore) wrote or is writing.
    ///
    /// # Errors
    /// [`ContentError::Io`] when there is no such folder, [`ContentError::MissingPack`], [`ContentError::NewerFormat`].
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, ContentError> {
        let reader = Self {
            folder: folder.as_ref().to_path_buf(),
            known: RwLock::default(),
        };
        reader.refresh()?;
        Ok(reader)
    }

    /// The bytes of `digest`, with the digest checked; `None` when the folder does not hold it.
    ///
    /// # Errors
    /// [`ContentError::Altered`] with file and offset, [`ContentError::Io`].
    pub fn get(&self, digest: &Digest) -> Result<Option<Bytes>, ContentError> {
        let mut found = self.find(digest);
        if found.is_none() {
            self.refresh()?;
            found = self.find(digest);
        }
        found
            .map(|(pack, location)| pack.read_object(location, digest))
            .transpose()
    }

    /// Whether the folder holds `digest`.
    ///
    /// # Errors
    /// [`ContentError::Io`].
    pub fn contains(&self, digest: &Digest) -> Result<bool, ContentError> {
        if self.find(digest).is_none() {
            self.refresh()?;
        }
        Ok(self.find(digest).is_some())
    }

    /// Every digest in the folder now, in ascending order.
    ///
    /// # Errors
    /// [`ContentError::Io`].
    pub fn digests(&self) -> Result<Vec<Digest>, ContentError> {
        self.refresh()?;
        let mut digests: Vec<Digest> = self.known.read().objects.keys().copied().collect();
        digests.sort_unstable();
        Ok(digests)
    }

    /// Damage that was seen so far, without reading everything: see [`verify`](Self::verify).
    pub fn damaged(&self) -> Vec<Damage> {
        self.known
            .read()
            .damaged
            .values()
            .flatten()
            .cloned()
            .collect()
    }

    /// Reads every pack file and checks every object. A frame that a running writer has not finished is no damage.
    ///
    /// # Errors
    /// [`ContentError::Io`]; damage is the answer, not an error.
    pub fn verify(&self) -> Result<Vec<Damage>, ContentError> {
        self.refresh()?;
        let packs: Vec<KnownPack> = self.known.read().packs.values().cloned().collect();
        let mut damaged = Vec::new();
        for KnownPack { pack, end } in packs {
            if pack.read_header()? == PackHeader::Damaged {
                damaged.push(crate::scan::damage(&pack, 0, PACK_HEADER_BYTES, None));
            }
            let length = pack.length()?;
            let found = scan(&pack, PACK_HEADER_BYTES.min(length), end.min(length))?;
            damaged.extend(found.damaged);
            damaged.extend(found.tail);
            if end > length {
                damaged.push(crate::scan::damage(&pack, length, end - length, None));
            }
        }
        Ok(damaged)
    }

    fn find(&self, digest: &Digest) -> Option<(Arc<Pack>, Location)> {
        let known = self.known.read();
        let location = known.objects.get(digest)?;
        let pack = known.packs.get(&location.pack)?;
        Some((pack.pack.clone(), *location))
    }

    /// Takes up packs and frames that were added, and forgets packs that were removed.
    fn refresh(&self) -> Result<(), ContentError> {
        let mut known = self.known.write();
        let listing = list(&self.folder, false)?;
        for number in listing.indexes.difference(&listing.packs) {
            // A collection removes the index file first; one that is still there has lost its pack.
            if index_file::path_in(&self.folder, *number).exists()
                && !Pack::path_in(&self.folder, *number).exists()
            {
                return Err(missing_pack(&self.folder, *number));
            }
        }
        let Known {
            objects,
            packs,
            damaged,
        } = &mut *known;
        packs.retain(|number, _| listing.packs.contains(number));
        damaged.retain(|number, _| listing.packs.contains(number));
        objects.retain(|_, location| listing.packs.contains(&location.pack));
        for number in listing.packs {
            if let Some(before) = packs.get_mut(&number) {
                let length = before.pack.length()?;
                let found = scan(&before.pack, before.end.min(length), length)?;
                before.end = found.end.max(before.end);
                objects.extend(found.objects);
                damaged.entry(number).or_default().extend(found.damaged);
                continue;
            }
            let pack = match Pack::open(&self.folder, number, false) {
                Ok(pack) => pack,
                Err(ContentError::Io { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let loaded = load(&self.folder, &pack)?;
            if loaded.header == PackHeader::Torn {
                // Being made right now, or left by a killed process: nothing in it yet.
                continue;
            }
            objects.extend(loaded.index.objects);
            damaged.insert(number, loaded.index.damaged);
            let end = loaded.index.covered;
            packs.insert(
                number,
                KnownPack {
                    pack: Arc::new(pack),
                    end,
                },
            );
        }
        Ok(())
    }
}
