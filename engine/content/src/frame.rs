//! How one object lies in a pack file.
//!
//! ```text
//! length u32 | crc32c of the bytes u32 | crc32c of this header u32 | digest 32 | bytes
//! ```
//! All numbers are little-endian. The header has a checksum of its own, which also covers the pack's number and the
//! frame's offset: a flipped length cannot send the reader astray, and after damage the next frame is found by trying
//! offsets without hashing objects. Bytes of an object that look like a frame do not pass, because they lie elsewhere.

use crate::{Digest, OBJECT_BYTES_MAX};

/// Bytes of a frame before its object.
pub(crate) const HEADER_BYTES: usize = 44;

/// A frame's header, read and checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub length: u32,
    pub bytes_crc: u32,
    pub digest: Digest,
}

impl FrameHeader {
    /// The header of `bytes`, whose digest is `digest`. The caller has checked the size.
    pub fn of(digest: &Digest, bytes: &[u8]) -> Self {
        Self {
            length: bytes.len() as u32,
            bytes_crc: crc32c::crc32c(bytes),
            digest: *digest,
        }
    }

    /// Header and object together.
    pub fn frame_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.length)
    }

    /// The header as it lies at `offset` of pack `pack`.
    pub fn encode(&self, pack: u32, offset: u64) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&self.length.to_le_bytes());
        out[4..8].copy_from_slice(&self.bytes_crc.to_le_bytes());
        out[8..12].copy_from_slice(&self.header_crc(pack, offset).to_le_bytes());
        out[12..44].copy_from_slice(&self.digest);
        out
    }

    /// The header that `raw` holds, or `None` when it is none of pack `pack` at `offset`.
    pub fn decode(raw: &[u8; HEADER_BYTES], pack: u32, offset: u64) -> Option<Self> {
        let number =
            |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let length = number(0);
        // Cheap and first: of random bytes only one offset in 512 gets past it.
        if length as usize > OBJECT_BYTES_MAX {
            return None;
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(&raw[12..44]);
        let header = Self {
            length,
            bytes_crc: number(4),
            digest,
        };
        (header.header_crc(pack, offset) == number(8)).then_some(header)
    }

    fn header_crc(&self, pack: u32, offset: u64) -> u32 {
        let mut covered = [0; 52];
        covered[0..4].copy_from_slice(&pack.to_le_bytes());
        covered[4..12].copy_from_slice(&offset.to_le_bytes());
        covered[12..16].copy_from_slice(&self.length.to_le_bytes());
        covered[16..20].copy_from_slice(&self.bytes_crc.to_le_bytes());
        covered[20..52].copy_from_slice(&self.digest);
        crc32c::crc32c(&covered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest_of;

    #[test]
    fn a_header_is_read_only_where_it_was_written_and_unaltered() {
        let header = FrameHeader::of(&digest_of(b"pixels"), b"pixels");
        let raw = header.encode(3, 4096);
        assert_eq!(FrameHeader::decode(&raw, 3, 4096), Some(header));
        assert_eq!(FrameHeader::decode(&raw, 4, 4096), None);
        assert_eq!(FrameHeader::decode(&raw, 3, 4097), None);
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = raw;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FrameHeader::decode(&flipped, 3, 4096), None, "bit {bit}");
        }
        assert_eq!(FrameHeader::decode(&[0; HEADER_BYTES], 3, 4096), None);
    }
}
