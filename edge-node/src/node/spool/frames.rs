//! Frames of `spool.log`: length, CRC32C, then an asset, the end of one, or a further attempt of one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};

use karat_proto::limits;

/// Most bytes of a frame's payload: one asset's content, and room for the rest of it.
pub(super) const PAYLOAD_BYTES_MAX: usize = limits::CONTENT_BYTES_MAX + limits::COMMAND_BYTES_MAX;
/// Length and checksum before each payload.
pub(super) const FRAME_HEAD_BYTES: u64 = 8;

const KIND_ASSET: u8 = 1;
pub(super) const KIND_END: u8 = 2;
pub(super) const KIND_ATTEMPT: u8 = 3;

/// Where an open asset lies in the log, and which attempt of it is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) payload_bytes: u32,
    pub(super) attempt: u32,
}

pub(super) enum Frame<'a> {
    Asset {
        index: u64,
        attempt: u32,
        body: &'a [u8],
    },
    End {
        index: u64,
    },
    Attempt {
        index: u64,
        attempt: u32,
    },
}

pub(super) fn parse(payload: &[u8]) -> Option<Frame<'_>> {
    let (kind, rest) = payload.split_first()?;
    let (index, rest) = rest.split_first_chunk()?;
    let index = u64::from_be_bytes(*index);
    if *kind == KIND_END {
        return rest.is_empty().then_some(Frame::End { index });
    }
    let (attempt, body) = rest.split_first_chunk()?;
    let attempt = u32::from_be_bytes(*attempt);
    match *kind {
        KIND_ASSET => Some(Frame::Asset {
            index,
            attempt,
            body,
        }),
        KIND_ATTEMPT if body.is_empty() => Some(Frame::Attempt { index, attempt }),
        _ => None,
    }
}

pub(super) fn asset_payload(index: u64, attempt: u32, body: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(13 + body.len());
    payload.push(KIND_ASSET);
    payload.extend(index.to_be_bytes());
    payload.extend(attempt.to_be_bytes());
    payload.extend(body);
    payload
}

pub(super) fn push_frame(bytes: &mut Vec<u8>, payload: &[u8]) {
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(crc32c::crc32c(payload).to_be_bytes());
    bytes.extend(payload);
}

pub(super) fn frame_bytes(entry: &Entry) -> u64 {
    FRAME_HEAD_BYTES + u64::from(entry.payload_bytes)
}

pub(super) struct Found {
    pub(super) open: BTreeMap<u64, Entry>,
    pub(super) length: u64,
    pub(super) file_bytes: u64,
}

/// Reads frames up to the first that is not whole.
pub(super) fn read_log(log: &mut File) -> io::Result<Found> {
    let file_bytes = log.metadata()?.len();
    let mut reader = BufReader::with_capacity(1 << 20, log);
    let (mut open, mut length) = (BTreeMap::<u64, Entry>::new(), 0);
    while let Some(payload) = read_frame(&mut reader)? {
        let payload_bytes = payload.len() as u32;
        match parse(&payload) {
            Some(Frame::Asset { index, attempt, .. }) => {
                open.insert(
                    index,
                    Entry {
                        offset: length,
                        payload_bytes,
                        attempt,
                    },
                );
            }
            Some(Frame::End { index }) => {
                open.remove(&index);
            }
            Some(Frame::Attempt { index, attempt }) => {
                if let Some(entry) = open.get_mut(&index) {
                    entry.attempt = attempt;
                }
            }
            None => break,
        }
        length += FRAME_HEAD_BYTES + u64::from(payload_bytes);
    }
    Ok(Found {
        open,
        length,
        file_bytes,
    })
}

/// The next frame's payload, or nothing where the log ends or stops making sense.
fn read_frame(reader: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; FRAME_HEAD_BYTES as usize];
    if !read_whole(reader, &mut head)? {
        return Ok(None);
    }
    let [a, b, c, d, crc @ ..] = head;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length == 0 || length > PAYLOAD_BYTES_MAX {
        return Ok(None);
    }
    let mut payload = vec![0; length];
    if !read_whole(reader, &mut payload)? || crc32c::crc32c(&payload).to_be_bytes() != crc {
        return Ok(None);
    }
    Ok(Some(payload))
}

fn read_whole(reader: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
