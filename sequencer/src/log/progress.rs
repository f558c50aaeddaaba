//! How far a log has come, published by whoever writes and flushes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, RwLock};

use super::LogError;
use crate::timing::DurationCounts;

/// Positions of a log. `durable_seq` is never above `appended_seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Positions {
    /// The last sequence that is in the log's order.
    pub appended_seq: u64,
    /// The last sequence that is flushed.
    pub durable_seq: u64,
}

/// Blocks since the log was opened; they move for epoch markers too, which have no sequence of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCounts {
    /// Blocks appended.
    pub appended: u64,
    /// Blocks durable.
    pub durable: u64,
}

type Listener = Arc<dyn Fn(&Progress) + Send + Sync>;

/// The shared positions of one log, and its poison: the first failure, which stays.
pub struct Progress {
    appended_seq: AtomicU64,
    durable_seq: AtomicU64,
    appended_blocks: AtomicU64,
    durable_blocks: AtomicU64,
    is_poisoned: AtomicBool,
    cause: Mutex<Option<LogError>>,
    waiting: AtomicUsize,
    gate: Mutex<()>,
    changed: Condvar,
    listeners: RwLock<Vec<Listener>>,
    /// How long flushes took.
    pub flush_times: DurationCounts,
}

impl Progress {
    /// A log that is durable up to `last_sequence`.
    pub fn new(last_sequence: u64) -> Arc<Self> {
        Arc::new(Self {
            appended_seq: AtomicU64::new(last_sequence),
            durable_seq: AtomicU64::new(last_sequence),
            appended_blocks: AtomicU64::new(0),
            durable_blocks: AtomicU64::new(0),
            is_poisoned: AtomicBool::new(false),
            cause: Mutex::new(None),
            waiting: AtomicUsize::new(0),
            gate: Mutex::new(()),
            changed: Condvar::new(),
            listeners: RwLock::new(Vec::new()),
            flush_times: DurationCounts::default(),
        })
    }

    /// The positions now.
    pub fn positions(&self) -> Positions {
        // Durable first: it only rises, so the appended position read after it cannot be below it.
        let durable_seq = self.durable_seq.load(Ordering::SeqCst);
        Positions {
            appended_seq: self.appended_seq.load(Ordering::SeqCst),
            durable_seq,
        }
    }

    /// The counts of blocks now.
    pub fn blocks(&self) -> BlockCounts {
        let durable = self.durable_blocks.load(Ordering::SeqCst);
        BlockCounts {
            appended: self.appended_blocks.load(Ordering::SeqCst),
            durable,
        }
    }

    /// For a log: everything up to this sequence, and so many blocks since opening, is in order.
    pub fn publish_appended(&self, sequence: u64, blocks: u64) {
        self.appended_seq.fetch_max(sequence, Ordering::SeqCst);
        self.appended_blocks.fetch_max(blocks, Ordering::SeqCst);
        self.announce();
    }

    /// For a log: everything up to this sequence, and so many blocks since opening, is durable (and in order).
    pub fn publish_durable(&self, sequence: u64, blocks: u64) {
        self.appended_seq.fetch_max(sequence, Ordering::SeqCst);
        self.durable_seq.fetch_max(sequence, Ordering::SeqCst);
        self.appended_blocks.fetch_max(blocks, Ordering::SeqCst);
        self.durable_blocks.fetch_max(blocks, Ordering::SeqCst);
        self.announce();
    }

    /// Stops the log for good. The first cause stays; returns it.
    pub fn poison(&self, cause: LogError) -> LogError {
        let first = {
            let mut slot = self.cause.lock();
            let first = slot.get_or_insert(cause).clone();
            self.is_poisoned.store(true, Ordering::SeqCst);
            first
        };
        self.announce();
        first
    }

    /// Whether the log has failed.
    pub fn is_poisoned(&self) -> bool {
        self.is_poisoned.load(Ordering::SeqCst)
    }

    /// The first failure.
    pub fn poisoned(&self) -> Option<LogError> {
        if !self.is_poisoned() {
            return None;
        }
        self.cause.lock().clone()
    }

    /// The refusal that a poisoned log gives; `Ok` for a healthy one.
    pub fn refuse_if_poisoned(&self) -> Result<(), LogError> {
        match self.poisoned() {
            None => Ok(()),
            Some(cause) => Err(LogError::Poisoned {
                cause: Arc::new(cause),
            }),
        }
    }

    /// Waits until `done` says so or the deadline passes; returns what `done` says at the end.
    /// `done` is asked after every change, so it must also look at the poison.
    pub fn wait_until(
        &self,
        deadline: Option<Instant>,
        mut done: impl FnMut(&Self) -> bool,
    ) -> bool {
        if done(self) {
            return true;
        }
        // Announced before the positions are read again: a publisher either sees the waiter or is seen by it.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut gate = self.gate.lock();
        let reached = loop {
            if done(self) {
                break true;
            }
            match deadline {
                None => self.changed.wait(&mut gate),
                Some(deadline) => {
                    if self.changed.wait_until(&mut gate, deadline).timed_out() {
                        break done(self);
                    }
                }
            }
        };
        drop(gate);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        reached
    }

    /// Waits until `sequence` is durable: `Ok(false)` at the deadline, an error once the log has failed.
    pub fn wait_durable(&self, sequence: u64, deadline: Option<Instant>) -> Result<bool, LogError> {
        let reached = |progress: &Self| progress.durable_seq.load(Ordering::SeqCst) >= sequence;
        self.wait_until(deadline, |progress| {
            reached(progress) || progress.is_poisoned()
        });
        if reached(self) {
            return Ok(true);
        }
        self.refuse_if_poisoned()?;
        Ok(false)
    }

    /// Calls `listener` after every change, on the thread that made it: it must be short and must not block.
    pub fn subscribe(&self, listener: Listener) {
        self.listeners.write().push(listener);
    }

    fn announce(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            // Taking the gate orders this after a waiter that has looked but does not sleep yet.
            drop(self.gate.lock());
            self.changed.notify_all();
        }
        for listener in self.listeners.read().iter() {
            listener(self);
        }
    }
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress")
            .field("positions", &self.positions())
            .field("blocks", &self.blocks())
            .field("poisoned", &self.poisoned())
            .finish_non_exhaustive()
    }
}
