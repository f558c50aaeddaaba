//! A consumer's place in the stream of events.

use std::sync::Arc;
use std::time::Duration;

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
    pause: Duration,
    cursor: Option<Cursor>,
}

impl EventReader {
    /// A reader that begins at `from_sequence` and, while it keeps up, is woken once in `pause` at most, so that many small
    /// blocks do not cost a wake-up each. With `durable_only` it never shows what a loss of power could take back.
    pub fn new(
        hub: Arc<EventHub>,
        from_sequence: u64,
        durable_only: bool,
        pause: Duration,
    ) -> EventReader {
        let moved = hub.subscribe();
        EventReader {
            hub,
            moved,
            next_sequence: from_sequence.max(1),
            durable_only,
            pause,
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
        // What is not made again yet is waited for: a stream has no gaps.
        if to_sequence < self.next_sequence || self.next_sequence < self.hub.first_seq() {
            return Ok(Vec::new());
        }
        let mut blocks = match self
            .hub
            .in_memory(self.next_sequence, to_sequence, events_max)
        {
            Some(blocks) => {
                self.cursor = None;
                blocks
            }
            None => self.read_disk(to_sequence, events_max)?,
        };
        // A block is read whole; who begins inside one must not see what came before.
        if let Some(first) = blocks.first_mut()
            && first.first_sequence < self.next_sequence
        {
            let mut rest = BlockEvents::clone(first);
            rest.first_sequence = self.next_sequence;
            rest.events
                .retain(|event| event.sequence >= self.next_sequence);
            *first = Arc::new(rest);
        }
        if let Some(last) = blocks.last() {
            self.next_sequence = last.last_sequence + 1;
        }
        Ok(blocks)
    }

    fn read_disk(
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
        tokio::time::sleep(self.pause).await;
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

#[cfg(test)]
mod tests {
    use karat_proto::Account;
    use karat_proto::event::{Event, EventKind};

    use super::super::{EventLog, HubConfig};
    use super::*;

    /// Blocks of three commands, each with one event whose amount is its sequence.
    fn block(first_sequence: u64) -> BlockEvents {
        let events = (first_sequence..first_sequence + 3)
            .map(|sequence| Event {
                sequence,
                index: 0,
                time_ms: 7,
                kind: EventKind::Deposited {
                    account: Account::from_name("ann"),
                    amount: sequence,
                },
            })
            .collect();
        BlockEvents {
            first_sequence,
            last_sequence: first_sequence + 2,
            time_ms: 7,
            hash: [9; 32],
            events,
        }
    }

    fn sequences(blocks: &[Arc<BlockEvents>]) -> Vec<u64> {
        blocks
            .iter()
            .flat_map(|block| &block.events)
            .map(|event| event.sequence)
            .collect()
    }

    fn read_all(reader: &mut EventReader) -> Vec<u64> {
        let mut all = Vec::new();
        loop {
            let blocks = reader.read(2).unwrap();
            if blocks.is_empty() {
                return all;
            }
            all.extend(sequences(&blocks));
        }
    }

    #[test]
    fn a_reader_that_begins_inside_a_block_sees_nothing_before_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let log = EventLog::open(folder.path(), 0).unwrap();
        // So little memory that old blocks come from disk and new ones from memory.
        let config = HubConfig {
            memory_bytes: 1,
            ..HubConfig::default()
        };
        let (hub, sender, thread) = EventHub::start(folder.path(), log, 1, 30, &config).unwrap();
        for first_sequence in (1..=28).step_by(3) {
            assert!(sender.send(Arc::new(block(first_sequence))));
        }
        drop(sender);
        thread.join().unwrap();
        for from in 1..=30 {
            let mut reader = EventReader::new(hub.clone(), from, true, Duration::ZERO);
            assert_eq!(
                read_all(&mut reader),
                (from..=30).collect::<Vec<_>>(),
                "from {from}"
            );
        }
    }

    #[test]
    fn only_what_is_durable_is_shown_to_who_asks_for_that() {
        let folder = tempfile::tempdir().unwrap();
        let log = EventLog::open(folder.path(), 0).unwrap();
        let (hub, sender, thread) =
            EventHub::start(folder.path(), log, 1, 0, &HubConfig::default()).unwrap();
        assert!(sender.send(Arc::new(block(1))));
        assert!(sender.send(Arc::new(block(4))));
        drop(sender);
        thread.join().unwrap();
        let mut durable = EventReader::new(hub.clone(), 1, true, Duration::ZERO);
        assert!(read_all(&mut durable).is_empty());
        hub.set_durable(3);
        assert_eq!(read_all(&mut durable), [1, 2, 3]);
        assert_eq!(
            read_all(&mut EventReader::new(hub, 1, false, Duration::ZERO)),
            [1, 2, 3, 4, 5, 6]
        );
    }

    #[test]
    fn a_torn_tail_and_blocks_that_the_log_lost_are_cut_and_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = EventLog::open(folder.path(), 0).unwrap();
        log.append([&block(1), &block(4), &block(7)]).unwrap();
        drop(log);
        let path = std::fs::read_dir(folder.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            // The command log ends at 6: the third block tells of commands that are gone.
            let mut log = EventLog::open(folder.path(), 6).unwrap();
            let last = log.last_sequence();
            assert!(matches!(last, 0 | 3 | 6), "cut at {length}: {last}");
            let rest: Vec<_> = [1, 4]
                .into_iter()
                .filter(|first| *first > last)
                .map(block)
                .collect();
            log.append(&rest).unwrap();
            drop(log);
            let mut cursor = Cursor::seek(folder.path(), 1).unwrap();
            assert_eq!(
                cursor.next_block(1).unwrap(),
                Some(block(1)),
                "cut at {length}"
            );
            assert_eq!(
                cursor.next_block(1).unwrap(),
                Some(block(4)),
                "cut at {length}"
            );
            assert_eq!(cursor.next_block(1).unwrap(), None, "cut at {length}");
            for left in std::fs::read_dir(folder.path()).unwrap() {
                std::fs::remove_file(left.unwrap().path()).unwrap();
            }
        }
    }
}
