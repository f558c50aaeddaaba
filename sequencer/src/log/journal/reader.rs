//! Reading segments in order, on a folder that may be in use by a writer.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::frame::{self, FRAME_HEADER_BYTES, Tail};
use super::recovery::missing;
use super::segment::{self, HEADER_BYTES, Segment};
use crate::block::Block;
use crate::log::{BlockIterator, GoOn, LogReader, ReadError};

/// Read-ahead of a segment.
const BUFFER_BYTES: usize = 256 << 10;
/// No frame holds more, whatever the writer's settings were.
pub(super) const BLOCK_BYTES_LIMIT: usize = 64 << 20;

/// Reads the blocks that hold `from_sequence` and what follows, as far as they are appended at that moment.
///
/// It takes no lock and writes nothing, so it may run beside the writer. An incomplete last frame ends it quietly;
/// damage before that is an error, after which it ends. Hash chain and sequences are not checked here: [`crate::replay`]
/// and [`crate::Chain`] do that.
pub fn read_blocks(dir: &Path, from_sequence: u64) -> Result<BlockIterator, ReadError> {
    Ok(Box::new(JournalBlocks::open(
        dir,
        from_sequence,
        Care::Full,
        Box::new(|| true),
    )?))
}

/// The reader of a journal's folder.
pub(super) struct FolderReader {
    pub(super) dir: PathBuf,
}

impl LogReader for FolderReader {
    fn read(&self, from_sequence: u64) -> Result<BlockIterator, ReadError> {
        self.read_at_pace(from_sequence, Box::new(|| true))
    }

    fn read_at_pace(&self, from_sequence: u64, go_on: GoOn) -> Result<BlockIterator, ReadError> {
        Ok(Box::new(JournalBlocks::open(
            &self.dir,
            from_sequence,
            Care::Live,
            go_on,
        )?))
    }
}

/// How the end of the log is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Care {
    /// The whole rest of the last segment is searched for frames behind a hole.
    Full,
    /// Zeros are the end: for a reader that follows a writer whose opening judged the folder already.
    Live,
}

/// One frame as it was read.
pub(super) struct ReadFrame {
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

/// Reads one segment's frames.
pub(super) struct SegmentReader {
    pub(super) path: PathBuf,
    pub(super) salt: u64,
    file: BufReader<File>,
    /// Where the next frame begins.
    pub(super) offset: u64,
}

impl SegmentReader {
    pub(super) fn open(path: &Path) -> Result<Self, ReadError> {
        let io = |source| ReadError::Io {
            target: path.display().to_string(),
            source,
        };
        let mut file = File::open(path).map_err(io)?;
        let salt = segment::read_header(&mut file, path)?;
        let file = BufReader::with_capacity(BUFFER_BYTES, file);
        Ok(Self {
            path: path.to_owned(),
            salt,
            file,
            offset: HEADER_BYTES,
        })
    }

    /// The next frame; `None` where none reads, which [`judge`](Self::judge) then explains.
    pub(super) fn next(&mut self) -> Result<Option<ReadFrame>, ReadError> {
        let mut header = [0; FRAME_HEADER_BYTES];
        if !self.fill(&mut header)? {
            return Ok(None);
        }
        let Some(length) = frame::announced_length(&header, BLOCK_BYTES_LIMIT) else {
            return Ok(None);
        };
        // Grows as bytes arrive: a wrong length reserves no more than the file holds.
        let mut bytes = Vec::with_capacity(FRAME_HEADER_BYTES + length.min(BUFFER_BYTES));
        bytes.extend_from_slice(&header);
        let read = (&mut self.file)
            .take(length as u64)
            .read_to_end(&mut bytes)
            .map_err(|source| self.io(source))?;
        if read < length {
            return Ok(None);
        }
        if frame::parse(self.salt, &bytes, BLOCK_BYTES_LIMIT).is_none() {
            return Ok(None);
        }
        let offset = self.offset;
        self.offset += bytes.len() as u64;
        Ok(Some(ReadFrame {
            offset,
            bytes: Bytes::from(bytes).slice(FRAME_HEADER_BYTES..),
        }))
    }

    /// Goes to a frame's offset and forgets what was read ahead.
    pub(super) fn seek(&mut self, offset: u64) -> Result<(), ReadError> {
        self.file
            .seek(SeekFrom::Start(offset))
            .map_err(|source| self.io(source))?;
        self.offset = offset;
        Ok(())
    }

    /// Judges everything from the current offset, as it is on the disk now.
    pub(super) fn judge(&mut self, next_sequence: u64) -> Result<Tail, ReadError> {
        self.seek(self.offset)?;
        let mut rest = Vec::new();
        self.file
            .read_to_end(&mut rest)
            .map_err(|source| self.io(source))?;
        let offset = self.offset;
        self.seek(offset)?;
        Ok(frame::judge(
            self.salt,
            offset,
            &rest,
            next_sequence,
            BLOCK_BYTES_LIMIT,
        ))
    }

    pub(super) fn damaged(&self, reason: String) -> ReadError {
        ReadError::Damaged {
            target: self.path.display().to_string(),
            offset: self.offset,
            reason,
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool, ReadError> {
        match self.file.read_exact(buffer) {
            Ok(()) => Ok(true),
            Err(source) if source.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
            Err(source) => Err(self.io(source)),
        }
    }

    fn io(&self, source: std::io::Error) -> ReadError {
        ReadError::Io {
            target: self.path.display().to_string(),
            source,
        }
    }
}

struct JournalBlocks {
    dir: PathBuf,
    from_sequence: u64,
    care: Care,
    go_on: GoOn,
    /// `None` once ended.
    current: Option<SegmentReader>,
    /// The name of the current segment.
    segment_first: u64,
    /// What follows the last block read.
    next_sequence: u64,
}

impl JournalBlocks {
    fn open(dir: &Path, from_sequence: u64, care: Care, go_on: GoOn) -> Result<Self, ReadError> {
        let segments = segment::list(dir).map_err(|source| ReadError::Io {
            target: dir.display().to_string(),
            source,
        })?;
        let from_sequence = from_sequence.max(1);
        let mut blocks = Self {
            dir: dir.to_owned(),
            from_sequence,
            care,
            go_on,
            current: None,
            segment_first: 0,
            next_sequence: 0,
        };
        let Some(Segment { first_sequence, .. }) = segments.first().cloned() else {
            return Ok(blocks);
        };
        if first_sequence > from_sequence {
            return Err(ReadError::Gone {
                asked: from_sequence,
                first: first_sequence,
            });
        }
        // Strictly before: an epoch marker that names `from_sequence` may be the last frame of the segment before.
        let start = segments
            .iter()
            .rposition(|segment| segment.first_sequence < from_sequence)
            .unwrap_or(0);
        blocks.segment_first = segments[start].first_sequence;
        blocks.next_sequence = blocks.segment_first;
        blocks.current = Some(SegmentReader::open(&segments[start].path)?);
        Ok(blocks)
    }

    fn read(&mut self) -> Result<Option<Block>, ReadError> {
        loop {
            if !(self.go_on)() {
                self.current = None;
            }
            let Some(current) = &mut self.current else {
                return Ok(None);
            };
            if let Some(frame) = current.next()? {
                let block = Block::decode(&frame.bytes).map_err(|source| ReadError::NotABlock {
                    target: current.path.display().to_string(),
                    offset: frame.offset,
                    source,
                })?;
                self.next_sequence = block.last_sequence() + 1;
                if block.last_sequence().max(block.header.first_sequence) < self.from_sequence {
                    continue;
                }
                return Ok(Some(block));
            }
            if !self.go_on()? {
                self.current = None;
                return Ok(None);
            }
        }
    }

    /// No frame reads: finds out whether the log goes on, ends, or is damaged.
    fn go_on(&mut self) -> Result<bool, ReadError> {
        let Some(current) = &mut self.current else {
            return Ok(false);
        };
        // The next segment is looked for first: the writer begins it only when this one is complete, so with it
        // there whatever does not read here is not just being written.
        let next = segment::path(&self.dir, self.next_sequence);
        let next_exists = self.next_sequence > self.segment_first && next.exists();
        let offset = current.offset;
        // What was read ahead may be older than what is there now.
        current.seek(offset)?;
        if current.next()?.is_some() {
            current.seek(offset)?;
            return Ok(true);
        }
        if next_exists {
            // Complete and flushed before the next one was begun: nothing but zeros may follow.
            if self.care == Care::Full && current.judge(self.next_sequence)? != Tail::Clean {
                let reason = "no frame reads here, and a later segment follows".to_owned();
                return Err(current.damaged(reason));
            }
            let next = SegmentReader::open(&next)?;
            self.current = Some(next);
            self.segment_first = self.next_sequence;
            return Ok(true);
        }
        if self.care == Care::Live {
            current.seek(offset)?;
            let mut header = [0; FRAME_HEADER_BYTES];
            let complete = current.fill(&mut header)?;
            current.seek(offset)?;
            if !complete || header == [0; FRAME_HEADER_BYTES] {
                return Ok(false);
            }
        }
        let tail = current.judge(self.next_sequence)?;
        if let Tail::Damaged { reason } = tail {
            // A writer appends in order: if it was only at work, the frame is complete now that a later one is.
            if current.next()?.is_some() {
                current.seek(offset)?;
                return Ok(true);
            }
            return Err(current.damaged(reason));
        }
        let later = segment::list(&self.dir)
            .map_err(|source| ReadError::Io {
                target: self.dir.display().to_string(),
                source,
            })?
            .into_iter()
            .find(|segment| segment.first_sequence > self.segment_first);
        match later {
            // Begun by the writer since the look above.
            Some(later) if later.first_sequence == self.next_sequence => Ok(true),
            Some(later) => {
                let (at, found) = (self.next_sequence, later.first_sequence);
                let current_moved = current.next()?.is_some();
                current.seek(offset)?;
                if current_moved {
                    return Ok(true);
                }
                Err(current.damaged(missing(at, found)))
            }
            None => Ok(false),
        }
    }
}

impl Iterator for JournalBlocks {
    type Item = Result<Block, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read();
        if read.is_err() {
            self.current = None;
        }
        read.transpose()
    }
}
