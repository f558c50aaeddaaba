//! Starting and stopping a realm's sequencer, and the bounded way in.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, TrySendError, bounded};
use parking_lot::Mutex;

use crate::block::{BODY_PREFIX_BYTES, BlockHeader, IngressOffset, header_bytes};
use crate::clock::Clock;
pub use crate::config::{SequencerConfig, SequencerError};
use crate::desk::Desk;
use crate::log::{BlockIterator, Log, LogError, LogReader, Progress, ReadError, Recovery};
use crate::machine::Machine;
use crate::releaser::Releaser;
use crate::submission::{Submission, SubmitError};
use crate::timing::{DurationCounts, DurationSnapshot};
use crate::writer::{Entry, Writer};

/// Positions of a realm: `durable_seq` and `applied_seq` never pass `appended_seq`, except that on a log which
/// acknowledges late a block may be applied while it is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequencerPositions {
    /// The last sequence in the log's order.
    pub appended_seq: u64,
    /// The last sequence that is flushed.
    pub durable_seq: u64,
    /// The last sequence the machine has applied.
    pub applied_seq: u64,
}

/// A copy of the sequencer's counters.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Submissions in the queue.
    pub queued_submissions: usize,
    /// Commands in the queue.
    pub queued_commands: usize,
    /// Bytes of bodies in the queue, prefixes included.
    pub queued_bytes: usize,
    /// Submissions refused because the queue was full, since start.
    pub overloaded: u64,
    /// Blocks appended since start.
    pub blocks: u64,
    /// Bytes of encoded blocks appended since start.
    pub bytes: u64,
    /// From the moment a block was taken from the queue to the return of `append`, a block.
    pub append_times: DurationSnapshot,
    /// Applying a block.
    pub apply_times: DurationSnapshot,
    /// Flushing the log.
    pub flush_times: DurationSnapshot,
}

/// What handles and writer share.
pub(crate) struct Shared {
    pub(crate) queued_submissions: AtomicUsize,
    queued_commands: AtomicUsize,
    queued_bytes: AtomicUsize,
    stopping: AtomicBool,
    /// The writer's thread sleeps, or is about to.
    pub(crate) is_writer_asleep: AtomicBool,
    /// Set once the writer's thread runs.
    pub(crate) writer: OnceLock<Thread>,
    overloaded: AtomicU64,
    pub(crate) applied_seq: AtomicU64,
    pub(crate) blocks: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) append_times: DurationCounts,
    pub(crate) apply_times: DurationCounts,
    /// Smoothed nanoseconds a command, for the retry hint.
    command_ns: AtomicU64,
}

impl Shared {
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// After something was put into the queue.
    pub(crate) fn wake_writer(&self) {
        fence(Ordering::SeqCst);
        // Swapped by one of several submitters, so that only one of them pays for the wake-up.
        let asleep = self.is_writer_asleep.load(Ordering::SeqCst)
            && self.is_writer_asleep.swap(false, Ordering::SeqCst);
        if asleep && let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    pub(crate) fn queued_commands(&self) -> usize {
        self.queued_commands.load(Ordering::SeqCst)
    }

    pub(crate) fn leave_queue(&self, submissions: usize, commands: usize, bytes: usize) {
        self.queued_commands.fetch_sub(commands, Ordering::SeqCst);
        self.queued_bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.queued_submissions
            .fetch_sub(submissions, Ordering::SeqCst);
    }

    /// That appending and applying so many commands took so long.
    pub(crate) fn note_rate(&self, commands: usize, took: Duration) {
        let now_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX) / commands.max(1) as u64;
        let before_ns = self.command_ns.load(Ordering::Relaxed);
        self.command_ns
            .store(before_ns - before_ns / 8 + now_ns / 8, Ordering::Relaxed);
    }

    /// When the queue that is there now will be gone at the rate of late: 1 ms to 1 s.
    fn retry_after_ms(&self) -> u64 {
        let waiting = self.queued_commands.load(Ordering::Relaxed) as u64;
        (waiting.saturating_mul(self.command_ns.load(Ordering::Relaxed)) / 1_000_000).clamp(1, 1000)
    }
}

/// Starts sequencers of a kind of machine.
pub struct Sequencer<M>(std::marker::PhantomData<M>);

struct Threads<M> {
    writer: JoinHandle<Result<M, LogError>>,
    releaser: JoinHandle<()>,
}

struct Inner<M: Machine> {
    config: SequencerConfig,
    shared: Arc<Shared>,
    progress: Arc<Progress>,
    reader: Arc<dyn LogReader>,
    releaser: Arc<Releaser<M::Outcome>>,
    sender: Sender<Entry<M>>,
    desk: Arc<Desk<M>>,
    threads: Mutex<Option<Threads<M>>>,
}

/// The way to a running sequencer. Clones are cheap; when the last one is dropped the sequencer stops by itself.
pub struct SequencerHandle<M: Machine> {
    inner: Arc<Inner<M>>,
}

impl<M: Machine> Clone for SequencerHandle<M> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<M: Machine> Sequencer<M> {
    /// Starts the realm's threads. `recovery` is what opening the log returned, and `machine` has applied everything
    /// up to its last sequence. If the log's epoch is lower than the configured one, an epoch marker is appended and
    /// flushed before this returns.
    pub fn start(
        config: SequencerConfig,
        log: Box<dyn Log>,
        recovery: &Recovery,
        machine: M,
        clock: Box<dyn Clock>,
    ) -> Result<SequencerHandle<M>, SequencerError> {
        config.check(log.as_ref())?;
        if let Some(found) = recovery
            .realm
            .as_ref()
            .filter(|found| **found != config.realm)
        {
            return Err(SequencerError::Realm {
                realm: config.realm,
                found: found.clone(),
            });
        }
        if recovery.epoch > config.epoch {
            return Err(SequencerError::EpochBehind {
                epoch: config.epoch,
                found: recovery.epoch,
            });
        }
        let progress = log.progress();
        let (log_seq, recovery_seq) = (progress.positions().appended_seq, recovery.last_sequence);
        if log_seq != recovery_seq {
            return Err(SequencerError::Recovery {
                log_seq,
                recovery_seq,
            });
        }
        let shared = Arc::new(Shared {
            queued_submissions: AtomicUsize::new(0),
            queued_commands: AtomicUsize::new(0),
            queued_bytes: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            is_writer_asleep: AtomicBool::new(false),
            writer: OnceLock::new(),
            overloaded: AtomicU64::new(0),
            applied_seq: AtomicU64::new(recovery.last_sequence),
            blocks: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            append_times: DurationCounts::default(),
            apply_times: DurationCounts::default(),
            command_ns: AtomicU64::new(1000),
        });
        let header = BlockHeader {
            realm: config.realm.clone(),
            epoch: config.epoch,
            first_sequence: recovery.last_sequence + 1,
            time_ms: recovery.last_time_ms,
            parent: recovery.last_hash,
            ingress: Vec::new(),
        };
        let reader = log.reader();
        let releaser = Releaser::new(Arc::clone(&progress));
        let (sender, receiver) = bounded(config.queue_submissions_max);
        let mut writer = Writer::new(
            config.clone(),
            Arc::clone(&shared),
            Arc::clone(&releaser),
            log,
            machine,
            clock,
            header,
        );
        if recovery.epoch < config.epoch {
            writer.append_marker(config.stop_wait_max)?;
        }
        let spawn_error = |source| SequencerError::Thread { source };
        let releasing = std::thread::Builder::new()
            .name("karat-releaser".to_owned())
            .spawn({
                let releaser = Arc::clone(&releaser);
                move || releaser.run()
            })
            .map_err(spawn_error)?;
        let desk = Desk::new(writer, receiver, Arc::clone(&shared));
        let writing = std::thread::Builder::new()
            .name("karat-writer".to_owned())
            .spawn({
                let desk = Arc::clone(&desk);
                move || desk.run()
            })
            .map_err(|source| {
                releaser.close();
                SequencerError::Thread { source }
            })?;
        let threads = Mutex::new(Some(Threads {
            writer: writing,
            releaser: releasing,
        }));
        let inner = Inner {
            config,
            shared,
            progress,
            reader,
            releaser,
            sender,
            desk,
            threads,
        };
        Ok(SequencerHandle {
            inner: Arc::new(inner),
        })
    }
}

impl<M: Machine> SequencerHandle<M> {
    /// Hands over commands. Never blocks: at a bound it refuses at once and gives the submission back.
    // The error is large because it returns what was submitted; that is its purpose.
    #[allow(clippy::result_large_err)]
    pub fn submit(&self, submission: Submission<M>) -> Result<(), (SubmitError, Submission<M>)> {
        self.submit_with_ingress(submission, Vec::new())
    }

    /// As [`submit`](Self::submit), without waking the thread that writes: the caller calls
    /// [`work_off`](Self::work_off) soon, after this or after several of these, and before it waits for anything.
    #[allow(clippy::result_large_err)]
    pub fn submit_to_work_off(
        &self,
        submission: Submission<M>,
    ) -> Result<(), (SubmitError, Submission<M>)> {
        self.enqueue(submission, Vec::new())
    }

    /// Writes and applies what is in the queue on this thread, if it is little and no other thread is at it; replies run
    /// in here. Else it is left to the thread that writes. For threads of a common priority: while one of a lower priority
    /// writes, all others wait for it.
    pub fn work_off(&self) {
        self.inner.desk.help();
    }

    /// As [`submit`](Self::submit), for commands read from Kafka: the block that holds them records these positions.
    #[allow(clippy::result_large_err)]
    pub fn submit_with_ingress(
        &self,
        submission: Submission<M>,
        ingress: Vec<IngressOffset>,
    ) -> Result<(), (SubmitError, Submission<M>)> {
        self.enqueue(submission, ingress)?;
        self.inner.shared.wake_writer();
        Ok(())
    }

    #[allow(clippy::result_large_err)]
    fn enqueue(
        &self,
        submission: Submission<M>,
        ingress: Vec<IngressOffset>,
    ) -> Result<(), (SubmitError, Submission<M>)> {
        let Inner {
            config,
            shared,
            progress,
            sender,
            ..
        } = &*self.inner;
        let commands = submission.commands.len();
        if commands == 0 {
            return Err((SubmitError::Empty, submission));
        }
        let bodies: usize = submission
            .commands
            .iter()
            .map(|prepared| BODY_PREFIX_BYTES + prepared.body.len())
            .sum();
        let bytes = bodies + header_bytes("", &ingress) - header_bytes("", &[]);
        let (commands_max, bytes_max) = (config.block_commands_max, config.block_body_bytes_max());
        if commands > commands_max
            || bytes > bytes_max
            || ingress.len() > crate::block::INGRESS_COUNT_MAX
        {
            return Err((
                SubmitError::TooLarge {
                    commands,
                    bytes,
                    commands_max,
                    bytes_max,
                },
                submission,
            ));
        }
        // Counted before the state is looked at: a writer that stops waits for whoever is counted.
        let submissions = shared.queued_submissions.fetch_add(1, Ordering::SeqCst) + 1;
        if shared.is_stopping() {
            shared.queued_submissions.fetch_sub(1, Ordering::SeqCst);
            return Err((self.refusal(), submission));
        }
        if progress.is_poisoned() {
            shared.queued_submissions.fetch_sub(1, Ordering::SeqCst);
            return Err((self.refusal(), submission));
        }
        let queued_commands =
            shared.queued_commands.fetch_add(commands, Ordering::SeqCst) + commands;
        let queued_bytes = shared.queued_bytes.fetch_add(bytes, Ordering::SeqCst) + bytes;
        let full = submissions > config.queue_submissions_max
            || queued_commands > config.queue_commands_max
            || queued_bytes > config.queue_bytes_max;
        if full {
            shared.leave_queue(1, commands, bytes);
            return Err((self.overloaded(), submission));
        }
        let (error, entry) = match sender.try_send(Entry {
            submission,
            ingress,
            bytes,
            submitted: Instant::now(),
        }) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(entry)) => (self.overloaded(), entry),
            Err(TrySendError::Disconnected(entry)) => (self.refusal(), entry),
        };
        shared.leave_queue(1, commands, bytes);
        Err((error, entry.submission))
    }

    fn overloaded(&self) -> SubmitError {
        self.inner.shared.overloaded.fetch_add(1, Ordering::Relaxed);
        SubmitError::Overloaded {
            retry_after_ms: self.inner.shared.retry_after_ms(),
        }
    }

    fn refusal(&self) -> SubmitError {
        match self.inner.progress.poisoned() {
            Some(LogError::Closed) | None => SubmitError::Stopped,
            Some(cause) => SubmitError::Poisoned {
                cause: cause.to_string().into(),
            },
        }
    }

    /// How far the realm has come.
    pub fn positions(&self) -> SequencerPositions {
        // Applied first: it only rises, so the appended position read after it is not behind it.
        let applied_seq = self.inner.shared.applied_seq.load(Ordering::SeqCst);
        let positions = self.inner.progress.positions();
        SequencerPositions {
            appended_seq: positions.appended_seq,
            durable_seq: positions.durable_seq,
            applied_seq,
        }
    }

    /// The first failure, if there was one.
    pub fn poisoned(&self) -> Option<LogError> {
        self.inner.progress.poisoned()
    }

    /// The epoch this leader writes with.
    pub fn epoch(&self) -> u64 {
        self.inner.config.epoch
    }

    /// The log's blocks from `from_sequence` on, as far as they are appended.
    pub fn read_blocks(&self, from_sequence: u64) -> Result<BlockIterator, ReadError> {
        self.inner.reader.read(from_sequence)
    }

    /// Blocks the thread until `sequence` is durable, at most `wait_max`: `Ok(false)` if it is not by then.
    pub fn wait_durable(&self, sequence: u64, wait_max: Duration) -> Result<bool, LogError> {
        self.inner
            .progress
            .wait_durable(sequence, Some(Instant::now() + wait_max))
    }

    /// Calls `hook` with the durable sequence after it rose, on the releasing thread; several rises may come as one.
    /// The hook must be short and must not block.
    pub fn on_durable(&self, hook: impl Fn(u64) + Send + Sync + 'static) {
        self.inner.releaser.add_hook(Box::new(hook));
    }

    /// A copy of the counters.
    pub fn metrics(&self) -> Metrics {
        let shared = &self.inner.shared;
        Metrics {
            queued_submissions: shared.queued_submissions.load(Ordering::Relaxed),
            queued_commands: shared.queued_commands.load(Ordering::Relaxed),
            queued_bytes: shared.queued_bytes.load(Ordering::Relaxed),
            overloaded: shared.overloaded.load(Ordering::Relaxed),
            blocks: shared.blocks.load(Ordering::Relaxed),
            bytes: shared.bytes.load(Ordering::Relaxed),
            append_times: shared.append_times.snapshot(),
            apply_times: shared.apply_times.snapshot(),
            flush_times: self.inner.progress.flush_times.snapshot(),
        }
    }

    /// Refuses new commands, writes and answers those that wait, flushes, ends the threads and gives the machine back.
    /// Waits for the flush at most the configured time. Not to be called from a reply: it would wait for itself. A failed log does not keep the machine from being returned:
    /// ask [`poisoned`](Self::poisoned) on a clone before trusting it for more than reading.
    pub fn stop(self) -> Result<M, SequencerError> {
        let threads = self
            .inner
            .threads
            .lock()
            .take()
            .ok_or(SequencerError::AlreadyStopped)?;
        self.inner.begin_stop();
        let written = threads.writer.join();
        self.inner.releaser.close();
        let released = threads.releaser.join();
        match (written, released) {
            (Ok(Ok(machine)), Ok(())) => Ok(machine),
            (Ok(Err(cause)), _) => Err(SequencerError::Panicked {
                reason: cause.to_string(),
            }),
            (Err(_), _) => Err(SequencerError::Panicked {
                reason: "the writer's thread panicked".to_owned(),
            }),
            (_, Err(_)) => Err(SequencerError::Panicked {
                reason: "a reply or hook panicked".to_owned(),
            }),
        }
    }
}

impl<M: Machine> Inner<M> {
    fn begin_stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.wake_writer();
    }
}

impl<M: Machine> Drop for Inner<M> {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.get_mut().take() {
            self.begin_stop();
            // The writer ends by itself; joining here could block a thread that must not, or be the writer's own.
            let releaser = Arc::clone(&self.releaser);
            let closer = std::thread::Builder::new()
                .name("karat-closer".to_owned())
                .spawn(move || {
                    let _ = threads.writer.join();
                    releaser.close();
                });
            if closer.is_err() {
                tracing::warn!("no thread to end the sequencer's releaser; it stays parked");
            }
        }
    }
}
