//! Dropping content that nobody names: kept objects move to the current pack, then the old pack file goes.
//!
//! A crash at any point loses nothing: a pack is removed only after the copies of its kept objects are durable, and what
//! was dropped but not yet removed is found again by the next start.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;

use crate::frame::{FrameHeader, HEADER_BYTES};
use crate::pack::{Location, PACK_HEADER_BYTES, Pack, sync_folder};
use crate::store::PackStore;
use crate::{Collected, ContentError, ContentStore, Digest, index_file};

pub(crate) fn collect(
    store: &PackStore,
    keep: &dyn Fn(&Digest) -> bool,
) -> Result<Collected, ContentError> {
    let _one_at_a_time = store.collecting.lock();
    store.refuse_if_poisoned()?;
    let last = begin(store)?;
    let result = collect_packs(store, keep, last);
    store.append.lock().put_while_collecting = None;
    result
}

/// Sends new puts to a fresh pack and returns the number of the last pack that may be removed.
fn begin(store: &PackStore) -> Result<u32, ContentError> {
    let mut append = store.append.lock();
    append.put_while_collecting = Some(HashSet::new());
    if append.end == PACK_HEADER_BYTES {
        return Ok(append.pack.number.saturating_sub(1));
    }
    let last = append.pack.number;
    store
        .start_pack(&mut append)
        .inspect_err(|_| append.put_while_collecting = None)?;
    Ok(last)
}

fn collect_packs(
    store: &PackStore,
    keep: &dyn Fn(&Digest) -> bool,
    last: u32,
) -> Result<Collected, ContentError> {
    let packs: Vec<Arc<Pack>> = store
        .index
        .read()
        .packs
        .range(..=last)
        .map(|(_, pack)| pack.clone())
        .collect();
    let mut collected = Collected::default();
    for pack in packs {
        collect_pack(store, keep, &pack, &mut collected)?;
    }
    Ok(collected)
}

fn collect_pack(
    store: &PackStore,
    keep: &dyn Fn(&Digest) -> bool,
    pack: &Arc<Pack>,
    collected: &mut Collected,
) -> Result<(), ContentError> {
    let (mut objects, lost) = contents(store, pack.number);
    objects.sort_unstable_by_key(|(_, location)| location.offset);
    let kept: Vec<bool> = objects.iter().map(|(digest, _)| keep(digest)).collect();
    let kept_bytes: u64 = objects
        .iter()
        .zip(&kept)
        .filter(|(_, kept)| **kept)
        .map(|((_, location), _)| HEADER_BYTES as u64 + u64::from(location.length))
        .sum();
    if PACK_HEADER_BYTES + kept_bytes == pack.length()? {
        return Ok(());
    }
    // A kept object that cannot be read may still be rescued from the file by hand.
    let mut removable = !lost.iter().any(keep);
    for ((digest, location), kept) in objects.into_iter().zip(kept) {
        match settle(store, kept, &digest, location, pack) {
            Ok(Settled::Dropped) => {
                collected.objects_dropped += 1;
                collected.bytes_dropped += u64::from(location.length);
            }
            Ok(Settled::Rewritten) => collected.objects_rewritten += 1,
            Ok(Settled::Elsewhere) => {}
            Err(error @ ContentError::Altered { .. }) => {
                tracing::error!(%error, "kept content cannot be rewritten; its pack file stays");
                removable = false;
            }
            Err(error) => return Err(error),
        }
    }
    store.flush()?;
    if !removable {
        collected.packs_left_damaged += 1;
        return Ok(());
    }
    remove(store, pack)?;
    collected.packs_removed += 1;
    Ok(())
}

/// The objects that are served from pack `number`, and the damaged ones that lay in it.
fn contents(store: &PackStore, number: u32) -> (Vec<(Digest, Location)>, Vec<Digest>) {
    let index = store.index.read();
    let here = |location: &Location| location.pack == number;
    let objects = index.objects.iter().filter(|(_, location)| here(location));
    let lost = index.damaged.iter().filter(|(_, location)| here(location));
    (
        objects
            .map(|(digest, location)| (*digest, *location))
            .collect(),
        lost.map(|(digest, _)| *digest).collect(),
    )
}

enum Settled {
    Dropped,
    Rewritten,
    Elsewhere,
}

/// Rewrites or drops one object. Which of the two is decided under the writer's lock, so that a put of the same bytes
/// comes wholly before (and keeps the object) or wholly after (and stores it anew).
fn settle(
    store: &PackStore,
    kept: bool,
    digest: &Digest,
    location: Location,
    pack: &Pack,
) -> Result<Settled, ContentError> {
    // Kept objects are read before the lock; one that was put again meanwhile is rare enough to be read under it.
    let mut bytes = kept
        .then(|| pack.read_object(location, digest))
        .transpose()?;
    let mut append = store.append.lock();
    if store.index.read().objects.get(digest) != Some(&location) {
        return Ok(Settled::Elsewhere);
    }
    let put_again = append
        .put_while_collecting
        .as_ref()
        .is_some_and(|put| put.contains(digest));
    if put_again && bytes.is_none() {
        bytes = Some(pack.read_object(location, digest)?);
    }
    let Some(bytes) = bytes else {
        store.index.write().objects.remove(digest);
        return Ok(Settled::Dropped);
    };
    let mut frame = vec![0; HEADER_BYTES];
    frame.extend_from_slice(&bytes);
    store.append_frame(&mut append, &FrameHeader::of(digest, &bytes), &mut frame)?;
    Ok(Settled::Rewritten)
}

/// Removes a pack nobody needs. Its index file goes first, so that no start finds an index without its pack.
fn remove(store: &PackStore, pack: &Pack) -> Result<(), ContentError> {
    {
        let mut index = store.index.write();
        index.packs.remove(&pack.number);
        index.damage.remove(&pack.number);
        index
            .damaged
            .retain(|_, location| location.pack != pack.number);
    }
    let index_path = index_file::path_in(&store.folder, pack.number);
    if index_path.exists() {
        fs::remove_file(&index_path)
            .map_err(|source| ContentError::io("remove", &index_path, source))?;
        sync_folder(&store.folder)?;
    }
    fs::remove_file(&pack.path).map_err(|source| ContentError::io("remove", &pack.path, source))?;
    sync_folder(&store.folder)
}
