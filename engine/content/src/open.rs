//! How a [`PackStore`](crate::PackStore) starts: lock, index files, and a scan of what they do not cover.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::Arc;

use crate::index_file::{self, PackIndex};
use crate::pack::{Location, PACK_HEADER_BYTES, Pack, PackHeader, sync_folder};
use crate::scan::{Damage, damage, scan};
use crate::store::{Append, Index, OpenReport, PackConfig};
use crate::{ContentError, OBJECT_BYTES_MAX, PACK_BYTES_MAX};

const LOCK_FILE: &str = "content.lock";

pub(crate) struct Opened {
    pub index: Index,
    pub append: Append,
    pub report: OpenReport,
    pub lock: File,
}

/// Numbers of the pack and index files in a folder.
pub(crate) struct Listing {
    pub packs: BTreeSet<u32>,
    pub indexes: BTreeSet<u32>,
}

/// What one pack file holds, from its index file and a scan of the rest.
pub(crate) struct Loaded {
    pub index: PackIndex,
    /// Bytes with no whole frame at the end of the file.
    pub tail: Option<Damage>,
    pub scanned_bytes: u64,
    /// Whether the index file covers the whole pack, or more than is left of it.
    pub fully_indexed: bool,
    /// Whether the file lost bytes that its index file covers.
    pub cut_off: bool,
    pub header: PackHeader,
}

pub(crate) fn open(folder: &Path, config: PackConfig) -> Result<Opened, ContentError> {
    check(config)?;
    fs::create_dir_all(folder)
        .map_err(|source| ContentError::io("make the folder", folder, source))?;
    let lock = lock(folder)?;
    let listing = list(folder, true)?;
    if let Some(number) = listing.indexes.difference(&listing.packs).next() {
        return Err(missing_pack(folder, *number));
    }

    let mut index = Index::default();
    let mut report = OpenReport::default();
    let mut last = None;
    let mut names_dirty = false;
    for &number in &listing.packs {
        let is_last = listing.packs.last() == Some(&number);
        let pack = Arc::new(Pack::open(folder, number, true)?);
        let mut loaded = load(folder, &pack)?;
        let mut end = loaded.index.covered;
        let mut usable = loaded.header == PackHeader::Good && !loaded.cut_off;
        if is_last && loaded.header == PackHeader::Torn {
            report.torn_bytes_cut += pack.length()?;
            pack.cut(0)?;
            pack.write_header()?;
            (end, usable) = (PACK_HEADER_BYTES, true);
            names_dirty = true;
        } else if let Some(tail) = loaded.tail.take() {
            if is_last && usable {
                report.torn_bytes_cut += tail.length;
                pack.cut(end)?;
            } else {
                // Only the pack that was written last can have a torn tail; here something else happened.
                usable = false;
                loaded.index.damaged.push(tail);
            }
        }
        if !is_last && !loaded.fully_indexed && loaded.header != PackHeader::Torn {
            // Durable before it is called so by an index file.
            pack.sync()?;
            let covered = pack.length()?;
            let contents = PackIndex {
                covered,
                ..loaded.index
            };
            index_file::write(folder, number, &contents)?;
            loaded.index = contents;
        }
        report.packs += 1;
        report.scanned_bytes += loaded.scanned_bytes;
        report.damaged.extend(loaded.index.damaged.iter().cloned());
        take_up(&mut index, &pack, loaded.index);
        if is_last {
            let dirty = !loaded.fully_indexed;
            last = Some((pack, end, usable, dirty));
        }
    }
    let append = first_append(folder, config, &mut index, last, names_dirty)?;
    // Copies of an object in an earlier pack are no damage when a later one is whole.
    let Index {
        objects, damaged, ..
    } = &mut index;
    damaged.retain(|digest, _| !objects.contains_key(digest));
    report.objects = index.objects.len() as u64;
    report.object_bytes = index
        .objects
        .values()
        .map(|location| u64::from(location.length))
        .sum();
    report.packs = index.packs.len() as u64;
    Ok(Opened {
        index,
        append,
        report,
        lock,
    })
}

fn check(config: PackConfig) -> Result<(), ContentError> {
    if config.object_bytes_max > OBJECT_BYTES_MAX {
        return Err(ContentError::Config(format!(
            "objects of {} bytes are above the limit of {OBJECT_BYTES_MAX}",
            config.object_bytes_max
        )));
    }
    if config.pack_bytes_max > PACK_BYTES_MAX || config.pack_bytes_max <= PACK_HEADER_BYTES {
        return Err(ContentError::Config(format!(
            "pack files of {} bytes; from {} to {PACK_BYTES_MAX} are possible",
            config.pack_bytes_max,
            PACK_HEADER_BYTES + 1
        )));
    }
    Ok(())
}

fn lock(folder: &Path) -> Result<File, ContentError> {
    let path = folder.join(LOCK_FILE);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| ContentError::io("open", &path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ContentError::InUse {
            path: folder.to_path_buf(),
        }),
        Err(TryLockError::Error(source)) => Err(ContentError::io("lock", &path, source)),
    }
}

/// Lists the folder. A writer also removes index files that were being written when a process died.
pub(crate) fn list(folder: &Path, writer: bool) -> Result<Listing, ContentError> {
    let list_error = |source| ContentError::io("list", folder, source);
    let mut listing = Listing {
        packs: BTreeSet::new(),
        indexes: BTreeSet::new(),
    };
    for entry in fs::read_dir(folder).map_err(list_error)? {
        let name = entry.map_err(list_error)?.file_name();
        let Some(name) = name.to_str() else { continue };
        let number = |prefix: &str, suffix: &str| -> Option<u32> {
            let digits = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
            digits.parse().ok().filter(|number| *number > 0)
        };
        if let Some(pack) = number("pack-", ".kpk") {
            listing.packs.insert(pack);
        } else if let Some(index) = number("index-", ".idx") {
            listing.indexes.insert(index);
        } else if writer && number("index-", ".tmp").is_some() {
            let path = folder.join(name);
            fs::remove_file(&path).map_err(|source| ContentError::io("remove", &path, source))?;
        }
    }
    Ok(listing)
}

pub(crate) fn missing_pack(folder: &Path, number: u32) -> ContentError {
    ContentError::MissingPack {
        pack: Pack::path_in(folder, number),
        index: index_file::path_in(folder, number),
        objects: index_file::objects_named(folder, number),
    }
}

/// Finds what `pack` holds. `index.covered` is where its whole frames end.
pub(crate) fn load(folder: &Path, pack: &Pack) -> Result<Loaded, ContentError> {
    let header = pack.read_header()?;
    let length = pack.length()?;
    if header == PackHeader::Torn {
        let tail = (length > 0).then(|| damage(pack, 0, length, None));
        return Ok(Loaded {
            index: PackIndex::default(),
            tail,
            scanned_bytes: 0,
            fully_indexed: false,
            cut_off: false,
            header,
        });
    }
    let mut index = index_file::read(folder, pack)?.unwrap_or_else(|| PackIndex {
        covered: PACK_HEADER_BYTES,
        ..PackIndex::default()
    });
    if header == PackHeader::Damaged && !index.damaged.iter().any(|damage| damage.offset == 0) {
        index.damaged.push(damage(pack, 0, PACK_HEADER_BYTES, None));
    }
    if index.covered > length {
        cut_off(pack, &mut index, length);
        return Ok(Loaded {
            index,
            tail: None,
            scanned_bytes: 0,
            fully_indexed: true,
            cut_off: true,
            header,
        });
    }
    let scanned_from = index.covered;
    let found = scan(pack, scanned_from, length)?;
    index.covered = found.end;
    index.objects.extend(found.objects);
    index.damaged.extend(found.damaged);
    Ok(Loaded {
        index,
        tail: found.tail,
        scanned_bytes: length - scanned_from,
        fully_indexed: scanned_from == length,
        cut_off: false,
        header,
    })
}

/// The pack is shorter than its index file says: what lay beyond its end is damaged.
fn cut_off(pack: &Pack, index: &mut PackIndex, length: u64) {
    let whole = |location: &Location| {
        u64::from(location.offset) + crate::frame::HEADER_BYTES as u64 + u64::from(location.length)
            <= length
    };
    let lost: Vec<_> = index
        .objects
        .extract_if(.., |(_, location)| !whole(location))
        .collect();
    if lost.is_empty() {
        index
            .damaged
            .push(damage(pack, length, index.covered - length, None));
    }
    index
        .damaged
        .extend(lost.into_iter().map(|(digest, location)| {
            let frame_bytes = crate::frame::HEADER_BYTES as u64 + u64::from(location.length);
            damage(pack, location.offset.into(), frame_bytes, Some(digest))
        }));
}

/// Adds what one pack holds to the index. Later packs win over earlier ones.
fn take_up(index: &mut Index, pack: &Arc<Pack>, contents: PackIndex) {
    for damage in &contents.damaged {
        if let Some(digest) = damage.digest {
            let location = Location {
                pack: pack.number,
                offset: damage.offset as u32,
                length: damage.length as u32,
            };
            index.damaged.insert(digest, location);
        }
    }
    if !contents.damaged.is_empty() {
        index.damage.insert(pack.number, contents.damaged);
    }
    index.objects.extend(contents.objects);
    index.packs.insert(pack.number, pack.clone());
}

/// The writer's state: it goes on in the last pack, or begins a new one when that pack is full or damaged at its end.
fn first_append(
    folder: &Path,
    config: PackConfig,
    index: &mut Index,
    last: Option<(Arc<Pack>, u64, bool, bool)>,
    names_dirty: bool,
) -> Result<Append, ContentError> {
    let next = last.as_ref().map_or(1, |(pack, ..)| pack.number + 1);
    let mut sealed_dirty = Vec::new();
    if let Some((pack, end, usable, dirty)) = last {
        if usable && end < config.pack_bytes_max {
            return Ok(Append {
                pack,
                end,
                cut_needed: false,
                dirty: dirty || names_dirty,
                sealed_dirty,
                names_dirty,
                put_while_collecting: None,
            });
        }
        if dirty {
            sealed_dirty.push(pack);
        }
    }
    let pack = Arc::new(Pack::create(folder, next)?);
    pack.sync()?;
    sync_folder(folder)?;
    index.packs.insert(next, pack.clone());
    Ok(Append {
        pack,
        end: PACK_HEADER_BYTES,
        cut_needed: false,
        dirty: true,
        sealed_dirty,
        names_dirty: true,
        put_while_collecting: None,
    })
}
