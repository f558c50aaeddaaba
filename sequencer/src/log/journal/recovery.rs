//! What opening a journal finds: the end of the chain, a torn tail to cut, or damage to stop at.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use super::frame::Tail;
use super::reader::SegmentReader;
use super::segment::{self, Segment};
use super::{JournalError, OpenCheck};
use crate::block::Block;
use crate::chain::{Chain, Standing};
use crate::log::{ReadError, Recovery, TornTail};

/// Where the writer goes on.
pub(super) struct End {
    pub(super) segment: Segment,
    pub(super) salt: u64,
    pub(super) offset: u64,
}

/// Reads the folder and cuts a torn tail. `None` for a folder without segments.
pub(super) fn recover(
    dir: &Path,
    check: OpenCheck,
) -> Result<(Recovery, Option<End>), JournalError> {
    let segments = segment::list(dir).map_err(|source| JournalError::io("list", dir, source))?;
    let Some(first) = segments.first() else {
        return Ok((Recovery::from_chain(&Chain::genesis(), 0, None), None));
    };
    if first.first_sequence != 1 {
        return Err(JournalError::Read(ReadError::Damaged {
            target: first.path.display().to_string(),
            offset: 0,
            reason: format!(
                "the journal begins at sequence {}, the segments before it are missing",
                first.first_sequence
            ),
        }));
    }
    let mut start = match check {
        OpenCheck::EverySegment => 0,
        OpenCheck::LastSegment => segments.len() - 1,
    };
    loop {
        let (recovery, end) = read_from(&segments, start)?;
        // A segment that was only just begun holds no block to continue: the one before it does.
        if recovery.blocks > 0 || start == 0 {
            if let Some(tail) = &recovery.torn_tail {
                cut(tail)?;
            }
            return Ok((recovery, Some(end)));
        }
        start -= 1;
    }
}

fn read_from(segments: &[Segment], start: usize) -> Result<(Recovery, End), JournalError> {
    let mut chain = if start == 0 {
        Chain::genesis()
    } else {
        Chain::unknown()
    };
    let mut blocks = 0;
    let mut torn_tail = None;
    let mut end = None;
    for (index, segment) in segments.iter().enumerate().skip(start) {
        let mut reader = SegmentReader::open(&segment.path)?;
        while let Some(frame) = reader.next()? {
            let target = || segment.path.display().to_string();
            let offset = frame.offset;
            let block = Block::decode(&frame.bytes).map_err(|source| ReadError::NotABlock {
                target: target(),
                offset,
                source,
            })?;
            let hash = *blake3::hash(&frame.bytes).as_bytes();
            let standing = chain
                .accept(&block.header, &hash, block.bodies.len())
                .map_err(|source| ReadError::NotLinked {
                    target: target(),
                    offset,
                    source,
                })?;
            if standing == Standing::Void {
                let reason =
                    "a block of a replaced leader; a journal has one writer at a time".to_owned();
                return Err(ReadError::Damaged {
                    target: target(),
                    offset,
                    reason,
                }
                .into());
            }
            blocks += 1;
        }
        let next_sequence = chain.next_sequence().unwrap_or(segment.first_sequence);
        let tail = reader.judge(next_sequence)?;
        let following = segments.get(index + 1);
        match tail {
            Tail::Clean => {}
            Tail::Torn { bytes } if following.is_none() => {
                torn_tail = Some(TornTail {
                    file: segment.path.clone(),
                    offset: reader.offset,
                    bytes,
                });
            }
            // The writer begins a segment only after flushing the one before.
            Tail::Torn { .. } => {
                return Err(reader
                    .damaged("no frame reads here, and a later segment follows".to_owned())
                    .into());
            }
            Tail::Damaged { reason } => return Err(reader.damaged(reason).into()),
        }
        if let Some(following) =
            following.filter(|following| following.first_sequence != next_sequence)
        {
            return Err(reader
                .damaged(missing(next_sequence, following.first_sequence))
                .into());
        }
        end = Some(End {
            segment: segment.clone(),
            salt: reader.salt,
            offset: reader.offset,
        });
    }
    let recovery = Recovery::from_chain(&chain, blocks, torn_tail);
    match end {
        Some(end) => Ok((recovery, end)),
        None => Err(JournalError::Config {
            reason: "no segment to read".to_owned(),
        }),
    }
}

/// What is said where a segment ends before the next one begins.
pub(super) fn missing(next_sequence: u64, later_sequence: u64) -> String {
    format!(
        "sequence {next_sequence} should be here, but no frame reads, and a later segment begins at sequence {later_sequence}"
    )
}

/// Writes zeros over the torn bytes and flushes them, so that they cannot be taken for anything later.
fn cut(tail: &TornTail) -> Result<(), JournalError> {
    let io = |source| JournalError::io("cut the torn tail of", &tail.file, source);
    let mut file = OpenOptions::new()
        .write(true)
        .open(&tail.file)
        .map_err(io)?;
    file.seek(SeekFrom::Start(tail.offset)).map_err(io)?;
    let zeros = vec![0; 64 << 10];
    let mut left = tail.bytes;
    while left > 0 {
        let count = left.min(zeros.len() as u64);
        file.write_all(&zeros[..count as usize]).map_err(io)?;
        left -= count;
    }
    file.sync_all().map_err(io)?;
    tracing::warn!(file = %tail.file.display(), offset = tail.offset, bytes = tail.bytes, "cut a torn tail");
    Ok(())
}
