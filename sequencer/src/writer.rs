//! Writing a block: drain, stamp, append, apply, release.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;

use crate::block::{BlockHeader, EncodedBlock, INGRESS_COUNT_MAX, IngressOffset};
use crate::clock::Clock;
use crate::config::SequencerConfig;
use crate::log::{Log, LogError, Progress};
use crate::machine::{BlockContext, Machine};
use crate::releaser::{Pending, Releaser};
use crate::sequencer::Shared;
use crate::submission::{Ack, Answer, Prepared, Reply, StageTimes, Submission, SubmitError};

/// What travels on the queue: commands, with the ingress positions that are consumed once they are in the log.
pub(crate) struct Entry<M: Machine> {
    pub(crate) submission: Submission<M>,
    pub(crate) ingress: Vec<IngressOffset>,
    pub(crate) bytes: usize,
    pub(crate) submitted: Instant,
}

/// What one look at the queue came to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Worked {
    /// A block of what was there; there may be more.
    Block,
    /// Nothing was there.
    Nothing,
}

/// A submission of the block that is being built, without its commands.
struct Taken<O> {
    count: usize,
    ack: Ack,
    reply: Reply<O>,
    sequenced: Option<Reply<O>>,
    submitted: Instant,
}

/// When the block in work passed from one stage to the next.
#[derive(Clone, Copy)]
struct BlockTimes {
    taken: Instant,
    appended: Instant,
    applied: Instant,
}

/// Owns the log and the machine.
pub(crate) struct Writer<M: Machine> {
    config: SequencerConfig,
    shared: Arc<Shared>,
    releaser: Arc<Releaser<M::Outcome>>,
    progress: Arc<Progress>,
    log: Box<dyn Log>,
    machine: M,
    /// Of the machine or of a reply; whoever stops the sequencer is told.
    panicked: Option<LogError>,
    clock: Box<dyn Clock>,
    header: BlockHeader,
    encoded: EncodedBlock,
    /// Did not fit into the block before.
    carried: Option<Entry<M>>,
    // Buffers of the block in work, used again for each.
    taken: Vec<Taken<M::Outcome>>,
    /// The commands of each that was taken.
    prepared: Vec<Vec<Prepared<M::Command>>>,
    commands: Vec<M::Command>,
    outcomes: Vec<M::Outcome>,
    at_once: VecDeque<Pending<M::Outcome>>,
    sequenced: Vec<Pending<M::Outcome>>,
    durable: Vec<Pending<M::Outcome>>,
    /// Last sequence and bytes of each block that is not durable.
    unflushed: VecDeque<(u64, usize)>,
    unflushed_bytes: usize,
}

impl<M: Machine> Writer<M> {
    #[allow(clippy::too_many_arguments)] // One caller, which has exactly these parts.
    pub(crate) fn new(
        config: SequencerConfig,
        shared: Arc<Shared>,
        releaser: Arc<Releaser<M::Outcome>>,
        log: Box<dyn Log>,
        machine: M,
        clock: Box<dyn Clock>,
        header: BlockHeader,
    ) -> Self {
        Self {
            config,
            shared,
            releaser,
            progress: log.progress(),
            log,
            machine,
            panicked: None,
            clock,
            header,
            encoded: EncodedBlock::new(),
            carried: None,
            taken: Vec::new(),
            prepared: Vec::new(),
            commands: Vec::new(),
            outcomes: Vec::new(),
            at_once: VecDeque::new(),
            sequenced: Vec::new(),
            durable: Vec::new(),
            unflushed: VecDeque::new(),
            unflushed_bytes: 0,
        }
    }

    /// Appends a block without commands that raises the epoch, and waits until it is durable.
    pub(crate) fn append_marker(&mut self, wait_max: Duration) -> Result<(), LogError> {
        self.stamp();
        self.encoded
            .begin(&self.header, 0)
            .and_then(|()| self.encoded.finish())
            .map_err(halted)?;
        // A marker moves no sequence, so blocks are counted. Nothing else is in flight yet.
        let marked = self.progress.blocks().appended + 1;
        self.log.append(&self.encoded)?;
        self.header.parent = *self.encoded.hash();
        let deadline = Instant::now() + wait_max;
        let durable = self.progress.wait_until(Some(deadline), |progress| {
            progress.blocks().durable >= marked || progress.is_poisoned()
        });
        self.progress.refuse_if_poisoned()?;
        if !durable {
            let waited_ms = u64::try_from(wait_max.as_millis()).unwrap_or(u64::MAX);
            return Err(self.progress.poison(LogError::CloseTimeout { waited_ms }));
        }
        Ok(())
    }

    /// Writes one block of what is in the queue.
    pub(crate) fn work(&mut self, queue: &Receiver<Entry<M>>) -> Worked {
        let Some(first) = self.carried.take().or_else(|| queue.try_recv().ok()) else {
            return Worked::Nothing;
        };
        // A panic of the machine or of a reply must not take the waiting answers with it.
        let step = catch_unwind(AssertUnwindSafe(|| self.step(first, queue)));
        if let Err(panic) = step {
            let reason = format!(
                "a panic in block {}: {}",
                self.header.first_sequence,
                panic_text(&*panic)
            );
            self.panicked = Some(self.progress.poison(LogError::Halted { reason }));
            self.refuse_taken();
        }
        Worked::Block
    }

    /// Whether something from the queue waits in here for the next block.
    pub(crate) fn carries(&self) -> bool {
        self.carried.is_some()
    }

    /// Closes the log; gives the machine back, or says that it panicked.
    pub(crate) fn close(mut self) -> Result<M, LogError> {
        let closed = self.log.close(self.config.stop_wait_max);
        if let Err(error) = closed {
            tracing::error!(realm = %self.config.realm, %error, "the log did not close cleanly");
        }
        match self.panicked {
            Some(cause) => Err(cause),
            None => Ok(self.machine),
        }
    }

    fn step(&mut self, first: Entry<M>, queue: &Receiver<Entry<M>>) {
        self.wait_for_room();
        let count = self.drain(first, queue);
        let taken = Instant::now();
        if let Err(error) = self.append(count) {
            if !matches!(error, LogError::Poisoned { .. }) {
                tracing::error!(realm = %self.config.realm, %error, "the sequencer stops taking commands");
            }
            self.progress.poison(error);
            self.refuse_taken();
            return;
        }
        let appended = Instant::now();
        self.shared.append_times.record(appended - taken);
        let context = BlockContext {
            header: &self.header,
            hash: self.encoded.hash(),
            replay: false,
        };
        // Exactly, because a block of one submission gives them away with its answer.
        self.outcomes.reserve_exact(count);
        self.machine
            .apply(&context, &mut self.commands, &mut self.outcomes);
        let applied = Instant::now();
        self.shared.apply_times.record(applied - appended);
        self.shared.note_rate(count, applied - taken);
        if self.outcomes.len() != count {
            let (first, given) = (self.header.first_sequence, self.outcomes.len());
            let reason = format!(
                "the machine gave {given} outcomes for the {count} commands of block {first}"
            );
            self.progress.poison(LogError::Halted { reason });
            self.refuse_taken();
            return;
        }
        self.release(BlockTimes {
            taken,
            appended,
            applied,
        });
    }

    /// Whether little enough is appended and not durable: what waits for a flush is bounded, too.
    pub(crate) fn has_room(&mut self) -> bool {
        let durable_seq = self.progress.positions().durable_seq;
        while let Some((_, bytes)) = self
            .unflushed
            .pop_front_if(|(last, _)| *last <= durable_seq)
        {
            self.unflushed_bytes -= bytes;
        }
        let commands = self.header.first_sequence - 1 - durable_seq;
        commands <= self.config.unflushed_commands_max
            && self.unflushed_bytes <= self.config.unflushed_bytes_max
    }

    /// Waits until there is room.
    fn wait_for_room(&mut self) {
        let mut stopping_since = None;
        while !self.has_room() {
            let Some(&(oldest, _)) = self.unflushed.front() else {
                return;
            };
            if self.progress.is_poisoned() {
                return;
            }
            // Looks up from the wait to see a stop; a stop waits for a flush only so long.
            let look_up = Instant::now() + Duration::from_millis(100);
            // Whatever it says, the loop looks again.
            let _ = self.progress.wait_durable(oldest, Some(look_up));
            if self.shared.is_stopping() {
                let since = *stopping_since.get_or_insert_with(Instant::now);
                if since.elapsed() > self.config.stop_wait_max {
                    let waited_ms =
                        u64::try_from(self.config.stop_wait_max.as_millis()).unwrap_or(u64::MAX);
                    self.progress.poison(LogError::CloseTimeout { waited_ms });
                }
            }
        }
    }

    /// Takes from the queue what is there and fits into one block; returns the count of commands. Taken apart before
    /// anything can fail, so that every reply is in `taken` and gets its answer.
    fn drain(&mut self, first: Entry<M>, queue: &Receiver<Entry<M>>) -> usize {
        self.header.ingress.clear();
        let mut next = Some(first);
        let (mut count, mut bytes, mut positions) = (0, 0, 0);
        while let Some(entry) = next.take() {
            let commands = entry.submission.commands.len();
            let fits = count + commands <= self.config.block_commands_max
                && bytes + entry.bytes <= self.config.block_body_bytes_max()
                && positions + entry.ingress.len() <= INGRESS_COUNT_MAX;
            if count > 0 && !fits {
                self.carried = Some(entry);
                break;
            }
            count += commands;
            bytes += entry.bytes;
            positions += entry.ingress.len();
            self.taken.push(Taken {
                count: commands,
                ack: entry.submission.ack,
                reply: entry.submission.reply,
                sequenced: entry.submission.sequenced,
                submitted: entry.submitted,
            });
            self.prepared.push(entry.submission.commands);
            for position in entry.ingress {
                consume(&mut self.header.ingress, position);
            }
            next = queue.try_recv().ok();
        }
        self.shared.leave_queue(self.taken.len(), count, bytes);
        count
    }

    /// Stamps and appends one block of all that was drained.
    fn append(&mut self, count: usize) -> Result<(), LogError> {
        self.stamp();
        self.encoded.begin(&self.header, count).map_err(halted)?;
        self.commands.reserve(count);
        for submission in self.prepared.drain(..) {
            for prepared in submission {
                self.encoded.push(&prepared.body).map_err(halted)?;
                self.commands.push(prepared.command);
            }
        }
        self.encoded.finish().map_err(halted)?;
        self.progress.refuse_if_poisoned()?;
        self.log.append(&self.encoded)?;
        let bytes = self.encoded.bytes().len();
        self.unflushed
            .push_back((self.encoded.last_sequence(), bytes));
        self.unflushed_bytes += bytes;
        self.shared.blocks.fetch_add(1, Ordering::Relaxed);
        self.shared.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    fn stamp(&mut self) {
        self.header.time_ms = self.header.time_ms.max(self.clock.now_ms());
    }

    /// Hands out the outcomes: at once where the level is reached, through the releaser where it is not.
    fn release(&mut self, times: BlockTimes) {
        let last_sequence = self.encoded.last_sequence();
        self.shared
            .applied_seq
            .store(last_sequence, Ordering::SeqCst);
        let poisoned = self.progress.is_poisoned();
        let appended = !poisoned && self.progress.positions().appended_seq >= last_sequence;
        let time_ms = self.header.time_ms;
        let mut first_sequence = self.header.first_sequence;
        // The next block continues this one, whatever a reply does.
        self.header.first_sequence = last_sequence + 1;
        self.header.parent = *self.encoded.hash();
        // One submission's outcomes are its answer's as they are, unless their memory is from a larger block. Those of several
        // are shared out.
        let is_whole = self.taken.len() == 1 && self.outcomes.capacity() <= 2 * self.outcomes.len();
        let mut whole = is_whole.then(|| std::mem::take(&mut self.outcomes));
        let mut outcomes = self.outcomes.drain(..);
        for taken in self.taken.drain(..) {
            let answer = Answer {
                first_sequence,
                time_ms,
                outcomes: whole
                    .take()
                    .unwrap_or_else(|| outcomes.by_ref().take(taken.count).collect()),
                times: StageTimes {
                    submitted: taken.submitted,
                    taken: times.taken,
                    appended: times.appended,
                    applied: times.applied,
                },
            };
            first_sequence += taken.count as u64;
            let early = taken.sequenced.map(|reply| Pending {
                due: last_sequence,
                reply,
                answer: answer.clone(),
            });
            let pending = Pending {
                due: last_sequence,
                reply: taken.reply,
                answer,
            };
            let mut at_sequenced = |pending| match appended {
                true => self.at_once.push_back(pending),
                false => self.sequenced.push(pending),
            };
            early.into_iter().for_each(&mut at_sequenced);
            match taken.ack {
                Ack::Sequenced => at_sequenced(pending),
                Ack::Durable => self.durable.push(pending),
            }
        }
        drop(outcomes);
        self.commands.clear();
        self.releaser.push(Ack::Durable, &mut self.durable);
        self.releaser.push(Ack::Sequenced, &mut self.sequenced);
        while let Some(pending) = self.at_once.pop_front() {
            (pending.reply)(Ok(pending.answer));
        }
    }

    /// Answers everything of the block in work with the failure.
    fn refuse_taken(&mut self) {
        let cause: Arc<str> = match self.progress.poisoned() {
            Some(cause) => cause.to_string().into(),
            None => "the block was refused".into(),
        };
        let refuse = |reply: Reply<M::Outcome>| {
            reply(Err(SubmitError::Poisoned {
                cause: Arc::clone(&cause),
            }));
        };
        // Left over when a reply panicked.
        for pending in self.at_once.drain(..) {
            refuse(pending.reply);
        }
        for taken in self.taken.drain(..) {
            taken.sequenced.into_iter().for_each(refuse);
            refuse(taken.reply);
        }
        self.prepared.clear();
        self.commands.clear();
        self.outcomes.clear();
    }
}

/// Notes the later of two positions of one partition.
fn consume(ingress: &mut Vec<IngressOffset>, position: IngressOffset) {
    let found = ingress.binary_search_by(|known| {
        (&known.topic, known.partition).cmp(&(&position.topic, position.partition))
    });
    match found {
        Ok(index) => ingress[index].offset = ingress[index].offset.max(position.offset),
        Err(index) => ingress.insert(index, position),
    }
}

fn halted(error: crate::block::BlockError) -> LogError {
    LogError::Halted {
        reason: error.to_string(),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "no message",
    }
}
