//! The thread that makes appended blocks durable: one flush after another, each for all that is there.
//!
//! Group commit comes from load: while a flush runs, the target of the next one grows.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{LogError, Progress};

/// What a flush must cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FlushTarget {
    pub(super) sequence: u64,
    pub(super) blocks: u64,
}

struct State {
    target: FlushTarget,
    closing: bool,
    idle: bool,
    ended: bool,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    ended: Condvar,
}

/// Owns the flushing thread. Dropping it waits for a flush of what was appended.
pub(super) struct Flusher {
    shared: Arc<Shared>,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    /// Starts the thread; `flush` makes durable all that was appended when it is called.
    pub(super) fn start(
        progress: Arc<Progress>,
        mut flush: impl FnMut(FlushTarget) -> Result<(), LogError> + Send + 'static,
    ) -> std::io::Result<Self> {
        let target = FlushTarget {
            sequence: progress.positions().durable_seq,
            blocks: 0,
        };
        let state = State {
            target,
            closing: false,
            idle: false,
            ended: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            ended: Condvar::new(),
        });
        let thread = std::thread::Builder::new()
            .name("karat-flusher".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                let progress = Arc::clone(&progress);
                move || {
                    let mut flushed_blocks = 0;
                    while let Some(target) = shared.next(flushed_blocks) {
                        let started = Instant::now();
                        if let Err(cause) = flush(target) {
                            progress.poison(cause);
                            break;
                        }
                        progress.flush_times.record(started.elapsed());
                        flushed_blocks = target.blocks;
                        progress.publish_durable(target.sequence, target.blocks);
                    }
                    shared.state.lock().ended = true;
                    shared.ended.notify_all();
                }
            })?;
        Ok(Self {
            shared,
            progress,
            thread: Some(thread),
        })
    }

    /// Says that more was appended.
    pub(super) fn kick(&self, target: FlushTarget) {
        let mut state = self.shared.state.lock();
        state.target = target;
        let idle = state.idle;
        drop(state);
        if idle {
            self.shared.work.notify_one();
        }
    }

    /// Waits for a flush of all that was appended, at most `wait_max`, and ends the thread.
    pub(super) fn close(&mut self, wait_max: Duration) -> Result<(), LogError> {
        let deadline = Instant::now() + wait_max;
        let mut state = self.shared.state.lock();
        state.closing = true;
        self.shared.work.notify_one();
        while !state.ended {
            if self
                .shared
                .ended
                .wait_until(&mut state, deadline)
                .timed_out()
            {
                break;
            }
        }
        let ended = state.ended;
        drop(state);
        if !ended {
            // The thread hangs in the system's flush; it is left behind and ends when that does.
            self.thread = None;
            let waited_ms = u64::try_from(wait_max.as_millis()).unwrap_or(u64::MAX);
            return Err(self.progress.poison(LogError::CloseTimeout { waited_ms }));
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            return Err(self.progress.poison(LogError::Halted {
                reason: "the flusher panicked".to_owned(),
            }));
        }
        self.progress.refuse_if_poisoned()
    }
}

impl Shared {
    fn next(&self, flushed_blocks: u64) -> Option<FlushTarget> {
        let mut state = self.state.lock();
        while state.target.blocks == flushed_blocks {
            if state.closing {
                return None;
            }
            state.idle = true;
            self.work.wait(&mut state);
            state.idle = false;
        }
        Some(state.target)
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.shared.state.lock().closing = true;
            self.shared.work.notify_one();
            // A panic of the flusher was its own report; there is nobody to hand it to here.
            let _ = thread.join();
        }
    }
}
