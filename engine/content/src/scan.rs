//! Finding the objects of a pack file from its bytes, with damage reported and stepped over.

use std::fmt;
use std::path::PathBuf;

use crate::frame::{FrameHeader, HEADER_BYTES};
use crate::pack::{Location, Pack};
use crate::{ContentError, Digest, OBJECT_BYTES_MAX, cid_of};

/// Bytes read at a time while looking for the next frame after damage.
const RESYNC_WINDOW_BYTES: usize = 1024 * 1024;

/// A stretch of a pack file that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The pack file.
    pub file: PathBuf,
    /// Where the stretch begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// The object that lay there, where that is still known.
    pub digest: Option<Digest>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} damaged bytes at offset {}",
            self.file.display(),
            self.length,
            self.offset
        )?;
        match &self.digest {
            Some(digest) => write!(f, ", content {}", cid_of(digest)),
            None => write!(f, ", content unknown"),
        }
    }
}

/// What a stretch of a pack file holds.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub objects: Vec<(Digest, Location)>,
    /// Damage with whole frames after it.
    pub damaged: Vec<Damage>,
    /// Where the whole frames end. What follows, if anything, is `tail`.
    pub end: u64,
    /// Bytes after `end` with no whole frame among them: torn by a killed process, or damaged.
    pub tail: Option<Damage>,
}

/// Reads the frames of `pack` between the offsets `from` and `to`, checking every object's checksum.
pub(crate) fn scan(pack: &Pack, from: u64, to: u64) -> Result<Scan, ContentError> {
    let mut found = Scan {
        end: from,
        ..Scan::default()
    };
    let mut bytes = Vec::new();
    let mut looked_again = None;
    while found.end < to {
        let at = found.end;
        match read_frame(pack, at, to, &mut bytes)? {
            Frame::Whole(header) => {
                let location = Location {
                    pack: pack.number,
                    offset: at as u32,
                    length: header.length,
                };
                found.objects.push((header.digest, location));
                found.end = at + header.frame_bytes();
            }
            // Another process may be writing this pack: a frame that was half there when it was read, before a whole one
            // that was read later, is whole by now, because frames are appended one after the other.
            Frame::BadBytes(header)
                if at + header.frame_bytes() < to && looked_again != Some(at) =>
            {
                looked_again = Some(at);
            }
            // A good header with bad bytes and something after it: its length is known, so go on there.
            Frame::BadBytes(header) if at + header.frame_bytes() < to => {
                found
                    .damaged
                    .push(damage(pack, at, header.frame_bytes(), Some(header.digest)));
                found.end = at + header.frame_bytes();
            }
            Frame::BadBytes(header) => {
                found.tail = Some(damage(pack, at, to - at, Some(header.digest)));
                return Ok(found);
            }
            Frame::BadHeader => match next_frame(pack, at + 1, to)? {
                Some(_) if looked_again != Some(at) => looked_again = Some(at),
                Some(next) => {
                    found.damaged.push(damage(pack, at, next - at, None));
                    found.end = next;
                }
                None => {
                    found.tail = Some(damage(pack, at, to - at, None));
                    return Ok(found);
                }
            },
        }
    }
    Ok(found)
}

pub(crate) fn damage(pack: &Pack, offset: u64, length: u64, digest: Option<Digest>) -> Damage {
    Damage {
        file: pack.path.clone(),
        offset,
        length,
        digest,
    }
}

enum Frame {
    Whole(FrameHeader),
    /// The header is good; the bytes are not, or end too early.
    BadBytes(FrameHeader),
    BadHeader,
}

fn read_frame(pack: &Pack, at: u64, to: u64, bytes: &mut Vec<u8>) -> Result<Frame, ContentError> {
    if to - at < HEADER_BYTES as u64 {
        return Ok(Frame::BadHeader);
    }
    let mut raw = [0; HEADER_BYTES];
    pack.read(&mut raw, at)?;
    let Some(header) = FrameHeader::decode(&raw, pack.number, at) else {
        return Ok(Frame::BadHeader);
    };
    if at + header.frame_bytes() > to {
        return Ok(Frame::BadBytes(header));
    }
    // The header's check bounds this by OBJECT_BYTES_MAX.
    debug_assert!(header.length as usize <= OBJECT_BYTES_MAX);
    bytes.resize(header.length as usize, 0);
    pack.read(bytes, at + HEADER_BYTES as u64)?;
    if crc32c::crc32c(bytes) == header.bytes_crc {
        Ok(Frame::Whole(header))
    } else {
        Ok(Frame::BadBytes(header))
    }
}

/// The first offset from `from` on where a frame's header is good.
fn next_frame(pack: &Pack, from: u64, to: u64) -> Result<Option<u64>, ContentError> {
    let mut window = vec![0; RESYNC_WINDOW_BYTES];
    let mut at = from;
    while at + HEADER_BYTES as u64 <= to {
        let length = (to - at).min(RESYNC_WINDOW_BYTES as u64) as usize;
        pack.read(&mut window[..length], at)?;
        for (offset, raw) in window[..length].windows(HEADER_BYTES).enumerate() {
            if let Ok(raw) = raw.try_into()
                && FrameHeader::decode(raw, pack.number, at + offset as u64).is_some()
            {
                return Ok(Some(at + offset as u64));
            }
        }
        // Windows overlap so that a header across the edge is seen.
        at += (length - HEADER_BYTES + 1) as u64;
    }
    Ok(None)
}
