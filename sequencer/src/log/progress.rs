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
    /// How many look at every change.
    waiting: AtomicUsize,
    /// The least durable sequence that somebody waits for, `u64::MAX` for none: under load thousands of changes pass
    /// whoever waits for the last of them, and wake nobody.
    durable_wanted: AtomicU64,
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
            durable_wanted: AtomicU64::new(u64::MAX),
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
        let reached = || self.durable_seq.load(Ordering::SeqCst) >= sequence;
        if !reached() && !self.is_poisoned() {
            let mut gate = self.gate.lock();
            loop {
                // Said before the position is read again: a publisher either sees what is wanted or is seen.
                self.durable_wanted.fetch_min(sequence, Ordering::SeqCst);
                if reached() || self.is_poisoned() {
                    break;
                }
                match deadline {
                    None => self.changed.wait(&mut gate),
                    Some(deadline) => {
                        if self.changed.wait_until(&mut gate, deadline).timed_out() {
                            break;
                        }
                    }
                }
            }
        }
        if reached() {
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
        let wanted = self.durable_seq.load(Ordering::SeqCst)
            >= self.durable_wanted.load(Ordering::SeqCst)
            || self.is_poisoned();
        if wanted || self.waiting.load(Ordering::SeqCst) > 0 {
            // Taking the gate orders this after a waiter that has looked but does not sleep yet.
            let gate = self.gate.lock();
            // All are woken, and who waits on says again for what.
            self.durable_wanted.store(u64::MAX, Ordering::SeqCst);
            drop(gate);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SEQUENCES: u64 = 2_000;

    fn deadline() -> Option<Instant> {
        Some(Instant::now() + Duration::from_secs(120))
    }

    #[test]
    fn whoever_waits_for_a_sequence_is_woken_by_it_among_others_who_wait_for_theirs() {
        let progress = Progress::new(0);
        std::thread::scope(|scope| {
            for step in 1..=5 {
                let progress = &progress;
                scope.spawn(move || {
                    for sequence in (1..=SEQUENCES).filter(|sequence| sequence % step == 0) {
                        assert!(progress.wait_durable(sequence, deadline()).unwrap());
                    }
                });
            }
            for sequence in 1..=SEQUENCES {
                progress.publish_durable(sequence, sequence);
                if sequence % 7 == 0 {
                    std::thread::yield_now();
                }
            }
        });
    }

    #[test]
    fn two_that_wait_for_each_other_in_turn_never_miss_one() {
        let (here, there) = (Progress::new(0), Progress::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for sequence in 1..=SEQUENCES {
                    assert!(here.wait_durable(sequence, deadline()).unwrap());
                    there.publish_durable(sequence, sequence);
                }
            });
            for sequence in 1..=SEQUENCES {
                here.publish_durable(sequence, sequence);
                assert!(there.wait_durable(sequence, deadline()).unwrap());
            }
        });
    }

    #[test]
    fn a_failure_wakes_whoever_waits_for_what_never_comes() {
        let progress = Progress::new(0);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| progress.wait_durable(2, deadline()));
            progress.publish_durable(1, 1);
            progress.poison(LogError::Closed);
            let waited = waiting.join().unwrap();
            assert!(
                matches!(waited, Err(LogError::Poisoned { .. })),
                "{waited:?}"
            );
        });
        assert!(progress.wait_durable(1, deadline()).unwrap());
    }
}
