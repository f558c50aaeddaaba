//! The hub: takes blocks of events from the writer, puts them on disk, keeps the newest in memory.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{BlockEvents, EventLog, EventLogError};

/// Pause between two rounds of the hub's thread: the most that an event is later than its outcome for it.
const GATHER: Duration = Duration::from_micros(500);

/// Bounds of the hub.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// Blocks that may wait for the hub's thread; beyond, the writer waits.
    pub channel_blocks: usize,
    /// Memory for the newest events, bytes.
    pub memory_bytes: usize,
}

impl Default for HubConfig {
    fn default() -> HubConfig {
        HubConfig {
            channel_blocks: 4096,
            memory_bytes: 64 * 1024 * 1024,
        }
    }
}

/// The writer's end.
#[derive(Debug, Clone)]
pub struct EventSender {
    sender: Sender<Arc<BlockEvents>>,
}

impl EventSender {
    /// Hands over a block's events; waits while the channel is full. False when the hub has stopped.
    pub fn send(&self, block: Arc<BlockEvents>) -> bool {
        self.sender.send(block).is_ok()
    }
}

#[derive(Debug, Default)]
struct Ring {
    blocks: VecDeque<Kept>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    block: Arc<BlockEvents>,
    /// The block's. Beside it, because there may be a hundred thousand blocks, and a search among them would wait for the
    /// memory of each that it looks at.
    last_sequence: u64,
    /// The block's bytes: to count them again when it goes would read it all once more.
    bytes: usize,
}

impl Ring {
    /// Place of the first block that ends at `sequence` or behind it. Whoever asks is nearly always near the end, so it is
    /// looked for from there, in steps that double, and then between the last two of them.
    fn place_of(&self, sequence: u64) -> usize {
        let blocks = &self.blocks;
        let length = blocks.len();
        let mut step = 1;
        while step < length && blocks[length - step].last_sequence >= sequence {
            step *= 2;
        }
        let (mut low, mut high) = (length.saturating_sub(step), length - step / 2);
        while low < high {
            let middle = low + (high - low) / 2;
            if blocks[middle].last_sequence < sequence {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// Where consumers read from.
#[derive(Debug)]
pub struct EventHub {
    dir: PathBuf,
    ring: Mutex<Ring>,
    /// First sequence of the stream that is here.
    first_seq: AtomicU64,
    written_seq: AtomicU64,
    durable_seq: AtomicU64,
    /// Moves whenever one of the two positions moves.
    moved: watch::Sender<()>,
    failure: Mutex<Option<String>>,
}

impl EventHub {
    /// Starts the hub's thread over an open event log whose stream begins at `first_seq`. The thread ends when every sender
    /// is gone.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        dir: &Path,
        log: EventLog,
        first_seq: u64,
        durable_seq: u64,
        config: &HubConfig,
    ) -> std::io::Result<(Arc<EventHub>, EventSender, JoinHandle<EventLog>)> {
        let (sender, receiver) = bounded(config.channel_blocks);
        let hub = Arc::new(EventHub {
            dir: dir.to_owned(),
            ring: Mutex::new(Ring::default()),
            first_seq: AtomicU64::new(first_seq),
            written_seq: AtomicU64::new(log.last_sequence().max(first_seq - 1)),
            durable_seq: AtomicU64::new(durable_seq),
            moved: watch::channel(()).0,
            failure: Mutex::new(None),
        });
        let for_thread = hub.clone();
        let memory_bytes = config.memory_bytes;
        let thread = std::thread::Builder::new()
            .name("karat-events".into())
            .spawn(move || for_thread.run(&receiver, log, memory_bytes))?;
        Ok((hub, EventSender { sender }, thread))
    }

    fn run(
        &self,
        receiver: &Receiver<Arc<BlockEvents>>,
        mut log: EventLog,
        memory_bytes: usize,
    ) -> EventLog {
        let mut waiting = Vec::new();
        // While the thread sleeps, blocks gather in the channel and the writer has nobody to wake.
        while let Ok(first) = receiver.recv() {
            waiting.push(first);
            waiting.extend(receiver.try_iter().take(1023));
            // Replay hands over blocks that are on disk already.
            waiting.retain(|block| block.first_sequence > log.last_sequence());
            if let Err(error) = log.append(waiting.iter().map(AsRef::as_ref)) {
                self.fail(&error);
                return log;
            }
            let mut ring = self.ring.lock();
            for block in waiting.drain(..) {
                let bytes = block.memory_bytes();
                ring.bytes += bytes;
                ring.blocks.push_back(Kept {
                    last_sequence: block.last_sequence,
                    bytes,
                    block,
                });
            }
            while ring.bytes > memory_bytes && ring.blocks.len() > 1 {
                if let Some(kept) = ring.blocks.pop_front() {
                    ring.bytes -= kept.bytes;
                }
            }
            drop(ring);
            self.written_seq
                .store(log.last_sequence(), Ordering::Release);
            self.moved.send_replace(());
            std::thread::sleep(GATHER);
        }
        if let Err(error) = log.flush() {
            self.fail(&error);
        }
        log
    }

    fn fail(&self, error: &EventLogError) {
        tracing::error!(%error, "the event log failed; the engine stops taking commands");
        *self.failure.lock() = Some(error.to_string());
        self.moved.send_replace(());
    }

    /// Why the hub stopped, if it failed.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Tells the hub how far the command log is durable.
    pub fn set_durable(&self, sequence: u64) {
        if self.durable_seq.fetch_max(sequence, Ordering::AcqRel) < sequence {
            self.moved.send_replace(());
        }
    }

    /// First sequence whose events can be read: above 1 while the history before a snapshot of others is made again.
    pub fn first_seq(&self) -> u64 {
        self.first_seq.load(Ordering::Acquire)
    }

    /// What came before is here now.
    pub fn set_first(&self, sequence: u64) {
        self.first_seq.store(sequence, Ordering::Release);
        self.moved.send_replace(());
    }

    /// Last sequence whose events can be read.
    pub fn written_seq(&self) -> u64 {
        self.written_seq.load(Ordering::Acquire)
    }

    /// Last sequence whose events can be read and whose command no loss of power can take back.
    pub fn durable_seq(&self) -> u64 {
        self.written_seq()
            .min(self.durable_seq.load(Ordering::Acquire))
    }

    /// Wakes when a position moved.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.moved.subscribe()
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Blocks from memory that hold `from_sequence` to `to_sequence`; `None` when memory does not reach back so far.
    pub(super) fn in_memory(
        &self,
        from_sequence: u64,
        to_sequence: u64,
        events_max: usize,
    ) -> Option<Vec<Arc<BlockEvents>>> {
        let ring = self.ring.lock();
        if ring.blocks.front()?.block.first_sequence > from_sequence {
            return None;
        }
        let start = ring.place_of(from_sequence);
        let mut found = Vec::new();
        let mut events = 0;
        for Kept { block, .. } in ring.blocks.range(start..) {
            if block.last_sequence > to_sequence || events >= events_max {
                break;
            }
            events += block.events.len().max(1);
            found.push(block.clone());
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_in_the_ring_finds_the_first_block_that_reaches_a_sequence() {
        let mut ring = Ring::default();
        assert_eq!(ring.place_of(1), 0);
        for length in 1..=70_u64 {
            // Blocks of three commands each: 1 to 3, 4 to 6, ...
            ring.blocks.push_back(Kept {
                block: Arc::new(BlockEvents {
                    first_sequence: 3 * length - 2,
                    last_sequence: 3 * length,
                    time_ms: 0,
                    hash: [0; 32],
                    events: Vec::new(),
                }),
                last_sequence: 3 * length,
                bytes: 0,
            });
            for sequence in 0..=3 * length + 4 {
                let place = sequence.saturating_sub(1).div_euclid(3).min(length);
                assert_eq!(
                    ring.place_of(sequence) as u64,
                    place,
                    "{sequence} of {length}"
                );
            }
        }
    }
}
