//! Frames of a snapshot: records gathered into pieces that are written, read and hashed at once.

use super::{SNAPSHOT_FORMAT, SnapshotError, damaged};
use crate::codec::bytes::Reader;
use karat_proto::Digest;
use std::io::{Read, Write};

const MAGIC: &[u8; 8] = b"KARATSNP";

/// A frame is closed once it has this many bytes.
const FRAME_BYTES_FULL: usize = 256 * 1024;
/// Longest frame: a full one but for a byte, and one record more. The longest record is a draw's window of 4,096 claims of
/// 32 bytes, or a collection's spec with its counts; both stay below 512 KiB.
pub(super) const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Pieces into which the digest's buffer is divided.
pub(super) const PIECE_BYTES: usize = 64 * 1024;

pub(super) struct FrameWriter<'a> {
    output: &'a mut dyn Write,
    hasher: blake3::Hasher,
    frame: Vec<u8>,
}

impl<'a> FrameWriter<'a> {
    pub(super) fn begin(
        output: &'a mut dyn Write,
        format: u32,
    ) -> Result<FrameWriter<'a>, SnapshotError> {
        let mut writer = FrameWriter {
            output,
            hasher: blake3::Hasher::new(),
            frame: Vec::with_capacity(FRAME_BYTES_FULL * 2),
        };
        writer.write(MAGIC)?;
        writer.write(&format.to_le_bytes())?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.hasher.update(bytes);
        self.output.write_all(bytes)?;
        Ok(())
    }

    /// Where the next record goes.
    pub(super) fn record(&mut self) -> Result<&mut Vec<u8>, SnapshotError> {
        if self.frame.len() >= FRAME_BYTES_FULL {
            self.flush()?;
        }
        Ok(&mut self.frame)
    }

    fn flush(&mut self) -> Result<(), SnapshotError> {
        debug_assert!(self.frame.len() <= FRAME_BYTES_MAX);
        let frame = std::mem::take(&mut self.frame);
        self.write(&(frame.len() as u32).to_le_bytes())?;
        self.write(&frame)?;
        self.frame = frame;
        self.frame.clear();
        Ok(())
    }

    /// Writes what is left and the checksum, and gives it.
    pub(super) fn end(mut self) -> Result<Digest, SnapshotError> {
        if !self.frame.is_empty() {
            self.flush()?;
        }
        self.write(&0_u32.to_le_bytes())?;
        let digest = *self.hasher.finalize().as_bytes();
        self.output.write_all(&digest)?;
        self.output.flush()?;
        Ok(digest)
    }
}

pub(super) struct FrameReader<'a> {
    input: &'a mut dyn Read,
    format: u32,
    hasher: blake3::Hasher,
    frame: Vec<u8>,
    at: usize,
}

impl<'a> FrameReader<'a> {
    pub(super) fn open(input: &'a mut dyn Read) -> Result<FrameReader<'a>, SnapshotError> {
        let mut reader = FrameReader {
            input,
            format: 0,
            hasher: blake3::Hasher::new(),
            frame: Vec::new(),
            at: 0,
        };
        let magic: [u8; 8] = reader.array()?;
        if magic != *MAGIC {
            return Err(SnapshotError::NotASnapshot);
        }
        match u32::from_le_bytes(reader.array()?) {
            format @ 1..=SNAPSHOT_FORMAT => {
                reader.format = format;
                Ok(reader)
            }
            found => Err(SnapshotError::UnknownFormat { found }),
        }
    }

    /// The format that the snapshot says it has.
    pub(super) fn format(&self) -> u32 {
        self.format
    }

    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], SnapshotError> {
        let mut array = [0; LENGTH];
        self.input.read_exact(&mut array).map_err(ended_early)?;
        self.hasher.update(&array);
        Ok(array)
    }

    fn next_frame(&mut self) -> Result<(), SnapshotError> {
        let length = u32::from_le_bytes(self.array()?) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(damaged("a frame's length"));
        }
        self.frame.resize(length, 0);
        self.at = 0;
        self.input
            .read_exact(&mut self.frame)
            .map_err(ended_early)?;
        self.hasher.update(&self.frame);
        Ok(())
    }

    /// Reads one record.
    pub(super) fn read<T>(
        &mut self,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, SnapshotError>,
    ) -> Result<T, SnapshotError> {
        if self.at == self.frame.len() {
            self.next_frame()?;
        }
        let mut reader = Reader::new(&self.frame[self.at..]);
        let value = read(&mut reader)?;
        self.at += reader.used();
        Ok(value)
    }

    /// Reads the end and compares the checksum.
    pub(super) fn close(mut self) -> Result<(), SnapshotError> {
        if self.at != self.frame.len() {
            return Err(damaged("more records than it counts"));
        }
        self.next_frame()?;
        if !self.frame.is_empty() {
            return Err(damaged("more frames than it counts"));
        }
        let expected = *self.hasher.finalize().as_bytes();
        let found: Digest = self.array()?;
        match found == expected {
            true => Ok(()),
            false => Err(SnapshotError::Checksum),
        }
    }
}

fn ended_early(error: std::io::Error) -> SnapshotError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => damaged("it ends too soon"),
        _ => SnapshotError::Io(error),
    }
}
