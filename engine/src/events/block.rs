//! The events of one block, and their bytes on disk.

use karat_ledger::codec;
use karat_proto::Event;
use karat_proto::event::{EventKind, Made};

/// Bytes before the first event: three u64, a hash, a u32.
pub(super) const HEADER_BYTES: usize = 60;

/// What one block changed.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockEvents {
    /// Sequence of the block's first command.
    pub first_sequence: u64,
    /// Sequence of its last one.
    pub last_sequence: u64,
    /// Its time, milliseconds since the epoch.
    pub time_ms: u64,
    /// Its hash: the log's head when it was appended.
    pub hash: [u8; 32],
    /// Its events, in order; may be empty.
    pub events: Vec<Event>,
}

impl BlockEvents {
    /// Appends the block's bytes: three little-endian u64, the hash, a u32 count, then the events as the ledger encodes them.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.first_sequence.to_le_bytes());
        out.extend_from_slice(&self.last_sequence.to_le_bytes());
        out.extend_from_slice(&self.time_ms.to_le_bytes());
        out.extend_from_slice(&self.hash);
        out.extend_from_slice(&(self.events.len() as u32).to_le_bytes());
        for event in &self.events {
            codec::encode_event(event, out);
        }
    }

    /// Reads what [`BlockEvents::encode`] wrote.
    ///
    /// # Errors
    /// Says what does not fit.
    pub fn decode(bytes: &[u8]) -> Result<BlockEvents, String> {
        let header = bytes
            .first_chunk::<HEADER_BYTES>()
            .ok_or("shorter than its header")?;
        let number = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&header[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let count = u32::from_le_bytes([header[56], header[57], header[58], header[59]]) as usize;
        let mut hash = [0; 32];
        hash.copy_from_slice(&header[24..56]);
        let mut rest = &bytes[HEADER_BYTES..];
        // An event has more than one byte, so a count beyond the bytes left is damage, not a reason to reserve memory.
        if count > rest.len() {
            return Err(format!("claims {count} events in {} bytes", rest.len()));
        }
        let mut events = Vec::with_capacity(count);
        for _ in 0..count {
            let (event, used) = codec::decode_event(rest).map_err(|error| error.to_string())?;
            events.push(event);
            rest = &rest[used..];
        }
        if !rest.is_empty() {
            return Err(format!("{} bytes follow the last event", rest.len()));
        }
        Ok(BlockEvents {
            first_sequence: number(0),
            last_sequence: number(8),
            time_ms: number(16),
            hash,
            events,
        })
    }

    /// Bytes that it takes in memory, roughly: what the hub's bound counts.
    pub fn memory_bytes(&self) -> usize {
        let made = self.events.iter().filter(|event| {
            matches!(
                event.kind,
                EventKind::Minted { .. } | EventKind::Revised { .. }
            )
        });
        size_of::<BlockEvents>()
            + self.events.capacity() * size_of::<Event>()
            + made.count() * size_of::<Made>()
    }
}
