//! The event log: segments of checksummed frames, one a block.
//!
//! It is written without flushing: after a loss of power its tail is cut and made again from the command log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::BlockEvents;
use super::block::HEADER_BYTES;

/// A segment is closed when it has this many bytes.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Longest frame: a block's events. A damaged length asks for no more memory than this.
const FRAME_BYTES_MAX: u32 = 256 * 1024 * 1024;
const MAGIC: &[u8; 8] = b"KARATEV1";

/// Why the event log cannot be used. It can always be deleted and is then made again.
#[derive(Debug, Error)]
pub enum EventLogError {
    /// The system refused.
    #[error("event log {}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A frame before the tail is damaged.
    #[error("event log {} is damaged at offset {offset}: {reason}; delete the folder, it is made again from the log", path.display())]
    Damaged {
        /// File.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What was found.
        reason: String,
    },
}

/// The open event log: one writer.
#[derive(Debug)]
pub struct EventLog {
    dir: PathBuf,
    file: Option<File>,
    path: PathBuf,
    bytes: u64,
    last_sequence: u64,
    last_hash: [u8; 32],
    buffer: Vec<u8>,
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> EventLogError + '_ {
    move |source| EventLogError::Io {
        path: path.to_owned(),
        source,
    }
}

fn segment_path(dir: &Path, first_sequence: u64) -> PathBuf {
    dir.join(format!("events-{first_sequence:020}.log"))
}

/// Segments in order, as first sequence and path.
fn segments(dir: &Path) -> Result<Vec<(u64, PathBuf)>, EventLogError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error(dir))? {
        let path = entry.map_err(io_error(dir))?.path();
        let first = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| {
                name.strip_prefix("events-")?
                    .strip_suffix(".log")?
                    .parse()
                    .ok()
            });
        if let Some(first) = first {
            found.push((first, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

impl EventLog {
    /// Opens the folder (made if absent), cutting everything after `last_in_command_log` and any torn tail.
    ///
    /// # Errors
    /// When the system refuses, or damage lies before the tail.
    pub fn open(dir: &Path, last_in_command_log: u64) -> Result<EventLog, EventLogError> {
        fs::create_dir_all(dir).map_err(io_error(dir))?;
        let mut log = EventLog {
            dir: dir.to_owned(),
            file: None,
            path: dir.to_owned(),
            bytes: 0,
            last_sequence: 0,
            last_hash: [0; 32],
            buffer: Vec::new(),
        };
        let mut found = segments(dir)?;
        // What begins behind the command log's end tells of commands that are gone.
        while let Some((first, path)) = found.last() {
            if *first <= last_in_command_log {
                break;
            }
            fs::remove_file(path).map_err(io_error(path))?;
            found.pop();
        }
        while let Some((_, path)) = found.last() {
            let mut frames = Frames::open(path)?;
            let mut good_bytes = MAGIC.len() as u64;
            let mut last = 0;
            loop {
                match frames.next_frame() {
                    Ok(Some(block)) if block.last_sequence <= last_in_command_log => {
                        last = block.last_sequence;
                        log.last_hash = block.hash;
                        good_bytes = frames.offset;
                    }
                    // A torn tail of the newest segment, or a block that the command log lost.
                    Ok(_) | Err(EventLogError::Damaged { .. }) => break,
                    Err(error) => return Err(error),
                }
            }
            if last == 0 {
                fs::remove_file(path).map_err(io_error(path))?;
                found.pop();
                continue;
            }
            let file = OpenOptions::new()
                .write(true)
                .open(path)
                .map_err(io_error(path))?;
            file.set_len(good_bytes).map_err(io_error(path))?;
            log.last_sequence = last;
            log.bytes = good_bytes;
            log.path = path.clone();
            log.file = Some(file);
            break;
        }
        Ok(log)
    }

    /// Last sequence that is in it; 0 when it is empty.
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// First sequence that is in it; `None` when it is empty. Above 1 where an engine began with a snapshot of others.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn first_sequence(&self) -> Result<Option<u64>, EventLogError> {
        Ok(segments(&self.dir)?.first().map(|(first, _)| *first))
    }

    /// Hash of the command log's block that the last one here tells of, as it was found when this was opened.
    pub fn opened_hash(&self) -> [u8; 32] {
        self.last_hash
    }

    /// Removes everything, so that it can be made again from the first block.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn reset(&mut self) -> Result<(), EventLogError> {
        self.file = None;
        self.bytes = 0;
        self.last_sequence = 0;
        for (_, path) in segments(&self.dir)? {
            fs::remove_file(&path).map_err(io_error(&path))?;
        }
        Ok(())
    }

    /// Appends blocks with one write. They must follow on.
    ///
    /// # Errors
    /// When the system refuses; what was there before stays readable.
    pub fn append<'a>(
        &mut self,
        blocks: impl IntoIterator<Item = &'a BlockEvents>,
    ) -> Result<(), EventLogError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut first_sequence = None;
        let mut last_sequence = self.last_sequence;
        for block in blocks {
            first_sequence.get_or_insert(block.first_sequence);
            last_sequence = block.last_sequence;
            let start = buffer.len();
            buffer.extend_from_slice(&[0; 8]);
            block.encode(&mut buffer);
            let length = (buffer.len() - start - 8) as u32;
            let checksum = crc32c::crc32c(&buffer[start + 8..]);
            buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
            buffer[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
        }
        if let Some(first_sequence) = first_sequence {
            if self.file.is_none() || self.bytes >= SEGMENT_BYTES {
                self.path = segment_path(&self.dir, first_sequence);
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .open(&self.path)
                    .map_err(io_error(&self.path))?;
                file.write_all(MAGIC).map_err(io_error(&self.path))?;
                self.bytes = MAGIC.len() as u64;
                self.file = Some(file);
            }
            if let Some(file) = self.file.as_mut() {
                file.seek(SeekFrom::Start(self.bytes))
                    .map_err(io_error(&self.path))?;
                file.write_all(&buffer).map_err(io_error(&self.path))?;
            }
            self.bytes += buffer.len() as u64;
            self.last_sequence = last_sequence;
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Moves the segments of another log of events, which ends where this folder's begins, in front of this folder's. Stopped
    /// half way it leaves a stream without gaps.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn put_before(self, dir: &Path) -> Result<(), EventLogError> {
        // The last one first, so that whatever is there follows on.
        for (first, path) in segments(&self.dir)?.into_iter().rev() {
            fs::rename(&path, segment_path(dir, first)).map_err(io_error(&path))?;
        }
        fs::remove_dir_all(&self.dir).map_err(io_error(&self.dir))
    }

    /// Makes what was appended durable.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn flush(&self) -> Result<(), EventLogError> {
        match &self.file {
            Some(file) => file.sync_data().map_err(io_error(&self.path)),
            None => Ok(()),
        }
    }
}

/// A place in the event log from which reading goes on without a search.
#[derive(Debug)]
pub struct Cursor {
    dir: PathBuf,
    frames: Option<Frames>,
    segment_first: u64,
}

impl Cursor {
    /// The segment that holds `sequence`.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn seek(dir: &Path, sequence: u64) -> Result<Cursor, EventLogError> {
        let found = segments(dir)?;
        let at = found
            .partition_point(|(first, _)| *first <= sequence)
            .saturating_sub(1);
        let (frames, segment_first) = match found.get(at) {
            Some((first, path)) => (Some(Frames::open(path)?), *first),
            None => (None, 0),
        };
        Ok(Cursor {
            dir: dir.to_owned(),
            frames,
            segment_first,
        })
    }

    /// The next block that ends at or after `from_sequence`; `None` where the log ends now (ask again later).
    ///
    /// # Errors
    /// When the system refuses or a frame is damaged.
    pub fn next_block(&mut self, from_sequence: u64) -> Result<Option<BlockEvents>, EventLogError> {
        loop {
            let Some(frames) = self.frames.as_mut() else {
                let again = Cursor::seek(&self.dir, from_sequence)?;
                if again.frames.is_none() {
                    return Ok(None);
                }
                *self = again;
                continue;
            };
            match frames.next_frame()? {
                Some(block) if block.last_sequence >= from_sequence => return Ok(Some(block)),
                Some(_) => {}
                None => {
                    let found = segments(&self.dir)?;
                    let next = found.iter().find(|(first, _)| *first > self.segment_first);
                    let Some((first, path)) = next else {
                        return Ok(None);
                    };
                    self.frames = Some(Frames::open(path)?);
                    self.segment_first = *first;
                }
            }
        }
    }
}

/// The frames of one segment, one after another.
#[derive(Debug)]
struct Frames {
    path: PathBuf,
    file: BufReader<File>,
    offset: u64,
    buffer: Vec<u8>,
}

impl Frames {
    fn open(path: &Path) -> Result<Frames, EventLogError> {
        let file = File::open(path).map_err(io_error(path))?;
        let mut frames = Frames {
            path: path.to_owned(),
            file: BufReader::with_capacity(256 * 1024, file),
            offset: MAGIC.len() as u64,
            buffer: Vec::new(),
        };
        let mut magic = [0; 8];
        match frames.file.read_exact(&mut magic) {
            Ok(()) if &magic == MAGIC => Ok(frames),
            Ok(()) => Err(frames.damaged("no event log, or one of another format")),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                frames.offset = 0;
                Ok(frames)
            }
            Err(source) => Err(EventLogError::Io {
                path: path.to_owned(),
                source,
            }),
        }
    }

    fn damaged(&self, reason: impl Into<String>) -> EventLogError {
        EventLogError::Damaged {
            path: self.path.clone(),
            offset: self.offset,
            reason: reason.into(),
        }
    }

    /// `None` at the end, which includes a frame that is still being written; the place stays before it.
    fn next_frame(&mut self) -> Result<Option<BlockEvents>, EventLogError> {
        let mut header = [0; 8];
        if self.offset == 0 {
            // The segment had no beginning yet when it was opened.
            if !self.read_or_rewind(&mut header)? {
                return Ok(None);
            }
            if &header != MAGIC {
                return Err(self.damaged("no event log, or one of another format"));
            }
            self.offset = MAGIC.len() as u64;
        }
        if !self.read_or_rewind(&mut header)? {
            return Ok(None);
        }
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let checksum = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        if !(HEADER_BYTES as u32..=FRAME_BYTES_MAX).contains(&length) {
            return Err(self.damaged(format!("a frame of {length} bytes")));
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(length as usize, 0);
        let whole = self.read_or_rewind(&mut buffer);
        let result = match whole {
            Err(error) => Err(error),
            Ok(false) => Ok(None),
            Ok(true) if crc32c::crc32c(&buffer) != checksum => {
                Err(self.damaged("the checksum does not match"))
            }
            Ok(true) => BlockEvents::decode(&buffer)
                .map(Some)
                .map_err(|reason| self.damaged(reason)),
        };
        self.buffer = buffer;
        if matches!(result, Ok(Some(_))) {
            self.offset += 8 + u64::from(length);
        }
        result
    }

    /// False when the file ends inside; the place is then where the frame began.
    fn read_or_rewind(&mut self, buffer: &mut [u8]) -> Result<bool, EventLogError> {
        match self.file.read_exact(buffer) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.file
                    .seek(SeekFrom::Start(self.offset))
                    .map_err(io_error(&self.path))?;
                Ok(false)
            }
            Err(source) => Err(EventLogError::Io {
                path: self.path.clone(),
                source,
            }),
        }
    }
}
