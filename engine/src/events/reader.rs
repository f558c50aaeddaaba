//! A consumer's place in the stream of events.

use std::sync::Arc;

use tokio::sync::watch;

use super::log::Cursor;
use super::{BlockEvents, EventHub, EventLogError};

/// Reads the stream from a sequence on, in order, without gaps.
#[derive(Debug)]
pub struct EventReader {
    hub: Arc<EventHub>,
    moved: watch::Receiver<()>,
    next_sequence: u64,
    durable_only: bool,
    cursor: Option<Cursor>,
}

impl EventReader {
    /// A reader that begins at `from_sequence`. With `durable_only` it never shows what a loss of power could take back.
    pub fn new(hub: Arc<EventHub>, from_sequence: u64, durable_only: bool) -> EventReader {
        let moved = hub.subscribe();
        EventReader {
            hub,
            moved,
            next_sequence: from_sequence.max(1),
            durable_only,
            cursor: None,
        }
    }

    /// The sequence that comes next.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Last sequence that could be read now.
    pub fn available_seq(&self) -> u64 {
        if self.durable_only {
            self.hub.durable_seq()
        } else {
            self.hub.written_seq()
        }
    }

    /// What is there now, about `events_max` events; empty when the reader is at the end. May read files.
    ///
    /// # Errors
    /// When the event log cannot be read.
    pub fn read(&mut self, events_max: usize) -> Result<Vec<Arc<BlockEvents>>, EventLogError> {
        let to_sequence = self.available_seq();
        if to_sequence < self.next_sequence {
            return Ok(Vec::new());
        }
        let blocks = match self
            .hub
            .from_memory(self.next_sequence, to_sequence, events_max)
        {
            Some(blocks) => {
                self.cursor = None;
                blocks
            }
            None => self.from_disk(to_sequence, events_max)?,
        };
        if let Some(last) = blocks.last() {
            self.next_sequence = last.last_sequence + 1;
        }
        Ok(blocks)
    }

    fn from_disk(
        &mut self,
        to_sequence: u64,
        events_max: usize,
    ) -> Result<Vec<Arc<BlockEvents>>, EventLogError> {
        let mut cursor = match self.cursor.take() {
            Some(cursor) => cursor,
            None => Cursor::seek(self.hub.dir(), self.next_sequence)?,
        };
        let mut blocks = Vec::new();
        let mut events = 0;
        let mut from_sequence = self.next_sequence;
        while events < events_max && from_sequence <= to_sequence {
            match cursor.next_block(from_sequence)? {
                Some(block) if block.last_sequence <= to_sequence => {
                    events += block.events.len().max(1);
                    from_sequence = block.last_sequence + 1;
                    blocks.push(Arc::new(block));
                }
                // A block that may not be shown yet: the cursor has passed it, so the next read searches again.
                Some(_) => return Ok(blocks),
                None => break,
            }
        }
        self.cursor = Some(cursor);
        Ok(blocks)
    }

    /// Waits until a position moved since the last call. False when the hub is gone or has failed.
    pub async fn wait(&mut self) -> bool {
        self.moved.changed().await.is_ok() && self.hub.failure().is_none()
    }

    /// The next blocks, waiting for them. `None` when the hub is gone or has failed.
    ///
    /// # Errors
    /// When the event log cannot be read.
    pub async fn next(
        &mut self,
        events_max: usize,
    ) -> Result<Option<Vec<Arc<BlockEvents>>>, EventLogError> {
        loop {
            self.moved.mark_unchanged();
            let blocks = self.read(events_max)?;
            if !blocks.is_empty() {
                return Ok(Some(blocks));
            }
            if !self.wait().await {
                return Ok(None);
            }
        }
    }
}
