//! Frames: how blocks lie in a segment, and what to make of one that does not read.
//!
//! ```text
//! magic u32 | length u32 | mark u64 | CRC32C u32 | encoded block
//! ```
//!
//! The checksum covers the segment's salt, the frame's length, mark and block. The mark is the sequence up to
//! which the log was durable when the frame was written. It tells a torn tail from damage: a power loss keeps an
//! arbitrary choice of the pages that were not flushed, so whole frames may follow a hole; but none of them can say
//! that what was in the hole had been flushed.

pub(super) const FRAME_HEADER_BYTES: usize = 20;
const MAGIC: [u8; 4] = *b"KFRM";
/// Disks write sectors whole; what was not written still holds the zeros that were written ahead.
const SECTOR_BYTES: u64 = 512;

/// A frame that reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) mark: u64,
    pub(super) block: &'a [u8],
}

/// The header of a frame.
pub(super) fn header(salt: u64, mark: u64, block: &[u8]) -> [u8; FRAME_HEADER_BYTES] {
    let mut header = [0; FRAME_HEADER_BYTES];
    header[..4].copy_from_slice(&MAGIC);
    header[4..8].copy_from_slice(&(block.len() as u32).to_le_bytes()); // at most `block_bytes_max`, checked
    header[8..16].copy_from_slice(&mark.to_le_bytes());
    let checksum = checksum(salt, &header[4..16], block);
    header[16..].copy_from_slice(&checksum.to_le_bytes());
    header
}

fn checksum(salt: u64, length_and_mark: &[u8], block: &[u8]) -> u32 {
    let checksum = crc32c::crc32c(&salt.to_le_bytes());
    let checksum = crc32c::crc32c_append(checksum, length_and_mark);
    crc32c::crc32c_append(checksum, block)
}

/// The length of the block that a header announces, if it is one and within the bound: one flipped bit must not ask
/// for gigabytes.
pub(super) fn announced_length(header: &[u8], block_bytes_max: usize) -> Option<usize> {
    if header.len() < FRAME_HEADER_BYTES || header[..4] != MAGIC {
        return None;
    }
    let mut word = [0; 4];
    word.copy_from_slice(&header[4..8]);
    let length = u32::from_le_bytes(word) as usize;
    (1..=block_bytes_max).contains(&length).then_some(length)
}

/// The frame at the beginning of `bytes`.
pub(super) fn parse(salt: u64, bytes: &[u8], block_bytes_max: usize) -> Option<Frame<'_>> {
    let length = announced_length(bytes, block_bytes_max)?;
    let block = bytes.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + length)?;
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[16..20]);
    if checksum(salt, &bytes[4..16], block) != u32::from_le_bytes(word) {
        return None;
    }
    let mut mark = [0; 8];
    mark.copy_from_slice(&bytes[8..16]);
    Some(Frame {
        mark: u64::from_le_bytes(mark),
        block,
    })
}

/// What lies where a frame was expected and none reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tail {
    /// Only zeros: the log ends here.
    Clean,
    /// A write that was never flushed; this many bytes up to the last one that is not zero.
    Torn { bytes: u64 },
    /// Something that had been written is damaged.
    Damaged { reason: String },
}

/// Judges the rest of a segment, from `offset` where no frame reads; `next_sequence` is what should be there.
pub(super) fn judge(
    salt: u64,
    offset: u64,
    rest: &[u8],
    next_sequence: u64,
    block_bytes_max: usize,
) -> Tail {
    let Some(last) = rest.iter().rposition(|byte| *byte != 0) else {
        return Tail::Clean;
    };
    let torn = Tail::Torn {
        bytes: last as u64 + 1,
    };
    let mut hole_end = None;
    let mut at = 0;
    while let Some(found) = find_magic(&rest[at..]) {
        at += found;
        match parse(salt, &rest[at..], block_bytes_max) {
            Some(frame) => {
                hole_end.get_or_insert(at);
                if frame.mark >= next_sequence {
                    let (mark, place) = (frame.mark, offset + at as u64);
                    return Tail::Damaged {
                        reason: format!(
                            "no frame reads here, but the frame at offset {place} says that everything up to sequence {mark} had been flushed"
                        ),
                    };
                }
                at += FRAME_HEADER_BYTES + frame.block.len();
            }
            None => at += 1,
        }
    }
    match hole_end {
        None => torn,
        Some(end) if has_unwritten_sector(offset, &rest[..end]) => torn,
        Some(end) => Tail::Damaged {
            reason: format!(
                "no frame reads here, but a valid one follows at offset {}, and nothing in between was left unwritten",
                offset + end as u64
            ),
        },
    }
}

fn find_magic(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(found) = bytes[at..].iter().position(|byte| *byte == MAGIC[0]) {
        at += found;
        if bytes[at..].starts_with(&MAGIC) {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// Whether a sector's part of the hole is all zeros, as a write that was lost leaves it. The hole ends where a valid
/// frame begins, so the sector that holds its end was written and proves nothing.
fn has_unwritten_sector(offset: u64, hole: &[u8]) -> bool {
    let end = offset + hole.len() as u64;
    let mut start = offset;
    while start < end {
        let next = (start / SECTOR_BYTES + 1) * SECTOR_BYTES;
        if next > end {
            return false;
        }
        if hole[(start - offset) as usize..(next - offset) as usize]
            .iter()
            .all(|byte| *byte == 0)
        {
            return true;
        }
        start = next;
    }
    false
}
