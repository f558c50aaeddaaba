//! The index beside a pack file: what a scan of its first bytes would find.
//!
//! It only saves time. It is written after the pack's bytes are durable, replaced as a whole by renaming, and ignored
//! when it does not check. It also remembers which packs there must be: an index without its pack is an error.
//!
//! ```text
//! magic 4 | version u32 | pack u32 | covered u64 | objects u32 | damaged u32
//! objects: digest 32 | offset u32 | length u32
//! damaged: offset u32 | length u32 | digest is known u8 | digest 32
//! crc32c of all before u32
//! ```

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::pack::{Location, Pack};
use crate::scan::{Damage, damage};
use crate::{ContentError, Digest};

const MAGIC: [u8; 4] = *b"KIX\n";
const FORMAT_VERSION: u32 = 1;

/// What the first `covered` bytes of a pack hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PackIndex {
    pub covered: u64,
    pub objects: Vec<(Digest, Location)>,
    pub damaged: Vec<Damage>,
}

pub(crate) fn path_in(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("index-{number:06}.idx"))
}

/// Replaces the index file of `pack`. The caller has made the covered bytes durable.
pub(crate) fn write(folder: &Path, number: u32, index: &PackIndex) -> Result<(), ContentError> {
    let mut out = Vec::with_capacity(32 + index.objects.len() * 40 + index.damaged.len() * 41);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&index.covered.to_le_bytes());
    out.extend_from_slice(&(index.objects.len() as u32).to_le_bytes());
    out.extend_from_slice(&(index.damaged.len() as u32).to_le_bytes());
    for (digest, location) in &index.objects {
        out.extend_from_slice(digest);
        out.extend_from_slice(&location.offset.to_le_bytes());
        out.extend_from_slice(&location.length.to_le_bytes());
    }
    for damage in &index.damaged {
        out.extend_from_slice(&(damage.offset as u32).to_le_bytes());
        out.extend_from_slice(&(damage.length as u32).to_le_bytes());
        out.push(damage.digest.is_some().into());
        out.extend_from_slice(&damage.digest.unwrap_or_default());
    }
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());

    let path = path_in(folder, number);
    let temporary = path.with_extension("tmp");
    let written = fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(&out).and_then(|()| file.sync_data()))
        .and_then(|()| fs::rename(&temporary, &path));
    written.map_err(|source| {
        // Only a leftover: the next start removes it as well.
        let _ = fs::remove_file(&temporary);
        ContentError::io("write", &path, source)
    })
}

/// The index of `pack`, or `None` when there is none that checks.
pub(crate) fn read(folder: &Path, pack: &Pack) -> Result<Option<PackIndex>, ContentError> {
    let path = path_in(folder, pack.number);
    let raw = match fs::read(&path) {
        Ok(raw) => raw,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ContentError::io("read", &path, source)),
    };
    let index = decode(&raw, pack);
    if index.is_none() {
        tracing::warn!(file = %path.display(), "index file does not check; reading the pack file instead");
    }
    Ok(index)
}

/// How many objects the index file of pack `number` names, 0 when it does not check.
pub(crate) fn objects_named(folder: &Path, number: u32) -> u64 {
    let Ok(raw) = fs::read(path_in(folder, number)) else {
        return 0;
    };
    checked(&raw)
        .and_then(|mut fields| fields.skip(20).and_then(|()| fields.u32()))
        .map_or(0, u64::from)
}

fn decode(raw: &[u8], pack: &Pack) -> Option<PackIndex> {
    let mut fields = checked(raw)?;
    if fields.take(4)? != MAGIC || fields.u32()? != FORMAT_VERSION || fields.u32()? != pack.number {
        return None;
    }
    let covered = fields.u64()?;
    let (objects, damaged) = (fields.u32()?, fields.u32()?);
    let mut index = PackIndex {
        covered,
        ..PackIndex::default()
    };
    for _ in 0..objects {
        let digest = fields.digest()?;
        let location = Location {
            pack: pack.number,
            offset: fields.u32()?,
            length: fields.u32()?,
        };
        index.objects.push((digest, location));
    }
    for _ in 0..damaged {
        let (offset, length) = (fields.u32()?, fields.u32()?);
        let known = fields.take(1)? != [0];
        let digest = fields.digest()?;
        index.damaged.push(damage(
            pack,
            offset.into(),
            length.into(),
            known.then_some(digest),
        ));
    }
    fields.rest.is_empty().then_some(index)
}

/// The bytes before the checksum, if the checksum holds.
fn checked(raw: &[u8]) -> Option<Fields<'_>> {
    let (rest, checksum) = raw.split_last_chunk::<4>()?;
    (crc32c::crc32c(rest) == u32::from_le_bytes(*checksum)).then_some(Fields { rest })
}

struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn skip(&mut self, length: usize) -> Option<()> {
        self.take(length).map(|_| ())
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn digest(&mut self) -> Option<Digest> {
        self.take(32)?.try_into().ok()
    }
}
