//! The broker's acknowledgements: they move the log's positions, and show whether another leader has begun.
//!
//! One producer alone on a partition gets dense offsets. An offset that is not the next one, or none at all, is never
//! interpreted: the topic is read there, and what is found decides. A late block of a replaced leader, which is void for
//! every reader, changes nothing; a higher epoch before one of our blocks ends this leader.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::Message;
use rdkafka::producer::{DeliveryResult, ProducerContext};

use super::brokers::Complaints;
use super::config::KafkaStep;
use super::reading::{Topic, decode};
use crate::block::Hash;
use crate::log::flusher::{FlushTarget, Flusher};
use crate::log::{LogError, Progress, ReadError};

/// How long a question for the end of the topic may take while nothing is in flight.
const QUIET_QUESTION: Duration = Duration::from_millis(500);
/// So long after an answer, or after it last looked, a leader looks whether another one has begun.
const QUIET_LOOK: Duration = Duration::from_secs(1);

/// A block that the broker has not acknowledged.
pub(super) struct InFlight {
    pub(super) number: u64,
    pub(super) first_sequence: u64,
    pub(super) last_sequence: u64,
    pub(super) epoch: u64,
    pub(super) hash: Hash,
    pub(super) sent: Instant,
}

/// What a marker's writer is told: its offset, if the broker named one.
pub(super) type MarkerAnswer = Result<Option<i64>, String>;

pub(super) struct State {
    /// The offset that the next acknowledgement should name.
    pub(super) expected: i64,
    /// The oldest blocks in flight; those behind them are in [`Deliveries::handed`].
    in_flight: VecDeque<InFlight>,
    acknowledged: u64,
    /// The epoch of the last block acknowledged; 0 before this leader wrote anything.
    pub(super) epoch: u64,
    /// When an answer, or a look at the topic, last showed that nobody else leads.
    alone: Instant,
    /// The message in flight is a new leader's marker, and this is who waits for it.
    pub(super) marker: Option<Sender<MarkerAnswer>>,
    pub(super) flusher: Option<Flusher>,
}

/// Takes the acknowledgements, on the thread that polls the producer.
pub(super) struct Deliveries {
    pub(super) topic: Arc<Topic>,
    pub(super) progress: Arc<Progress>,
    pub(super) state: Mutex<State>,
    /// Blocks in flight behind those in `state`. Apart, because `state` is held over the work on an answer, which may be a
    /// read of the topic: who appends waits for none of that. Where both are taken, `state` comes first.
    handed: Mutex<VecDeque<InFlight>>,
    /// Held while a block is handed to the client, and while the client is told to forget what it has.
    pub(super) handing: Mutex<()>,
    /// What the client says of its connections.
    pub(super) complaints: Complaints,
}

impl Deliveries {
    pub(super) fn new(
        topic: Arc<Topic>,
        progress: Arc<Progress>,
        expected: i64,
        flusher: Option<Flusher>,
    ) -> Self {
        let state = State {
            expected,
            in_flight: VecDeque::new(),
            acknowledged: 0,
            epoch: 0,
            alone: Instant::now(),
            marker: None,
            flusher,
        };
        Self {
            topic,
            progress,
            state: Mutex::new(state),
            handed: Mutex::new(VecDeque::new()),
            handing: Mutex::new(()),
            complaints: Complaints::default(),
        }
    }

    /// Notes a block before it is handed to the client, so that the answer finds it.
    pub(super) fn hand(&self, block: InFlight) {
        self.handed.lock().push_back(block);
    }

    /// Forgets a block that the client did not take.
    pub(super) fn take_back(&self, number: u64) {
        let mut state = self.state.lock();
        state.in_flight.retain(|block| block.number != number);
        self.handed.lock().retain(|block| block.number != number);
    }

    /// Brings the oldest block in flight to the front of `state`.
    fn look_at_handed(&self, state: &mut State) {
        if state.in_flight.is_empty() {
            std::mem::swap(&mut state.in_flight, &mut *self.handed.lock());
        }
    }

    /// Whether an answer is awaited.
    fn is_awaited(&self, state: &State) -> bool {
        state.marker.is_some() || !state.in_flight.is_empty() || !self.handed.lock().is_empty()
    }

    /// The broker's answer to the message with this number: its offset, `None` if it named none.
    fn answered(&self, number: u64, answer: Result<Option<i64>, String>) {
        let mut state = self.state.lock();
        if let Some(waiting) = state.marker.take() {
            let _ = waiting.send(answer);
            return;
        }
        self.look_at_handed(&mut state);
        if self.progress.is_poisoned() {
            state.in_flight.pop_front();
            return;
        }
        if let Err(cause) = self.take(&mut state, number, answer) {
            self.step_down(&mut state, cause);
        }
    }

    fn take(
        &self,
        state: &mut State,
        number: u64,
        answer: Result<Option<i64>, String>,
    ) -> Result<(), LogError> {
        let Some(front) = state.in_flight.front() else {
            return Ok(());
        };
        let first_sequence = front.first_sequence;
        let unsettled = |reason: String| self.unsettled(first_sequence, &reason);
        if front.number != number {
            let expected = front.number;
            return Err(unsettled(format!(
                "the broker answered block {number} before block {expected}"
            )));
        }
        let offset = match answer.map_err(unsettled)? {
            Some(offset) if offset == state.expected => offset,
            other => self.settle(state, other)?,
        };
        if let Some(faults) = &self.topic.config.faults {
            faults(KafkaStep::Acknowledged).map_err(|source| LogError::Flush {
                target: self.topic.config.target(),
                source: Arc::new(source),
            })?;
        }
        state.expected = offset + 1;
        let Some(block) = state.in_flight.pop_front() else {
            return Ok(());
        };
        let now = Instant::now();
        state.alone = now;
        state.epoch = block.epoch;
        state.acknowledged += 1;
        if block.last_sequence >= block.first_sequence {
            self.topic
                .index
                .note(block.first_sequence, block.epoch, offset);
        } else {
            self.topic.index.note_epoch(block.epoch, offset);
        }
        let (sequence, blocks) = (block.last_sequence, state.acknowledged);
        match &state.flusher {
            // What the block refers to has to be durable as well.
            Some(flusher) => {
                flusher.kick(FlushTarget { sequence, blocks });
                self.progress.publish_appended(sequence, blocks);
            }
            None => {
                self.progress
                    .flush_times
                    .record(now.saturating_duration_since(block.sent));
                self.progress.publish_durable(sequence, blocks);
            }
        }
        Ok(())
    }

    /// A block of which only the log says what became of it.
    pub(super) fn unsettled(&self, first_sequence: u64, reason: &str) -> LogError {
        LogError::Append {
            first_sequence,
            target: self.topic.config.target(),
            source: Arc::new(std::io::Error::other(format!(
                "{reason}; whether the block is in the log is settled by reading it at the next start"
            ))),
        }
    }

    /// Reads what lies between the offset that was expected and the oldest block in flight; returns the block's offset.
    fn settle(&self, state: &State, named: Option<i64>) -> Result<i64, LogError> {
        let config = &self.topic.config;
        let expected = state.expected;
        if let Some(offset) = named
            && offset < expected
        {
            return Err(LogError::Overtaken {
                reason: format!(
                    "{} acknowledged offset {offset} where {expected} was next: it was cut or made again under this leader",
                    config.target()
                ),
            });
        }
        let end = match named {
            Some(offset) => offset + 1,
            None => {
                self.topic
                    .watermarks(config.read_wait_max)
                    .map_err(|error| self.unread(error))?
                    .1
            }
        };
        let Some(front) = state.in_flight.front() else {
            return Ok(expected);
        };
        match self.read_foreign(expected, end, front.epoch, Some(&front.hash))? {
            Some(offset) => Ok(offset),
            None => Err(LogError::Overtaken {
                reason: format!(
                    "{} acknowledged a block and does not have it between offsets {expected} and {end}",
                    config.target()
                ),
            }),
        }
    }

    /// Looks for `wanted` from `from` on; what comes before it must be void, or this leader has been overtaken.
    fn read_foreign(
        &self,
        from: i64,
        end: i64,
        epoch: u64,
        wanted: Option<&Hash>,
    ) -> Result<Option<i64>, LogError> {
        let config = &self.topic.config;
        for found in self
            .topic
            .messages(from, end)
            .map_err(|error| self.unread(error))?
        {
            let found = found.map_err(|error| self.unread(error))?;
            let offset = found.offset;
            let Some(bytes) = found.bytes else {
                tracing::warn!(topic = %config.topic, offset, "a message that is no block lies in the log's topic; it is passed over");
                continue;
            };
            if wanted.is_some_and(|wanted| blake3::hash(&bytes).as_bytes() == wanted) {
                return Ok(Some(offset));
            }
            let block =
                decode(&config.target(), offset, &bytes).map_err(|error| self.unread(error))?;
            let found_epoch = block.header.epoch;
            let fences = found_epoch > epoch || (found_epoch == epoch && !block.bodies.is_empty());
            if fences {
                return Err(LogError::Overtaken {
                    reason: format!(
                        "a leader with epoch {found_epoch} wrote at offset {offset} of {}, this one has epoch {epoch}; nothing after that offset counts, and nothing more is released",
                        config.target()
                    ),
                });
            }
            tracing::warn!(topic = %config.topic, offset, epoch = found_epoch, "a replaced leader wrote a block; it is void");
        }
        Ok(None)
    }

    fn unread(&self, error: ReadError) -> LogError {
        LogError::Flush {
            target: self.topic.config.target(),
            source: Arc::new(std::io::Error::other(format!(
                "what was acknowledged could not be settled by reading: {error}"
            ))),
        }
    }

    /// While nothing is in flight, and no answer has come for a while: whether somebody else wrote. Called often, by the
    /// polling thread. While answers come, their offsets say the same.
    pub(super) fn look_for_another_leader(&self) {
        let (from, epoch) = {
            let mut state = self.state.lock();
            let looks = state.epoch > 0 && state.alone.elapsed() >= QUIET_LOOK;
            if !looks || self.is_awaited(&state) {
                return;
            }
            state.alone = Instant::now();
            (state.expected, state.epoch)
        };
        // An unreachable broker is noticed by whoever appends.
        let Ok((_, end)) = self.topic.watermarks(QUIET_QUESTION) else {
            return;
        };
        if end == from || self.has_moved(&self.state.lock(), from) {
            return;
        }
        let looked = if end < from {
            Err(LogError::Overtaken {
                reason: format!(
                    "{} ends at offset {end}, this leader has written up to {from}: it was cut or made again",
                    self.topic.config.target()
                ),
            })
        } else {
            self.read_foreign(from, end, epoch, None)
        };
        let mut state = self.state.lock();
        if self.has_moved(&state, from) {
            return;
        }
        match looked {
            Ok(_) => state.expected = end,
            Err(cause) => self.step_down(&mut state, cause),
        }
    }

    /// Whether something was sent since `expected` was read.
    fn has_moved(&self, state: &State, expected: i64) -> bool {
        state.expected != expected || self.is_awaited(state)
    }

    /// The age of the oldest block in flight.
    pub(super) fn oldest(&self) -> Option<Duration> {
        let mut state = self.state.lock();
        self.look_at_handed(&mut state);
        state.in_flight.front().map(|block| block.sent.elapsed())
    }

    /// The client has given up for good, and answers nothing that it was handed: it got no producer id, for instance,
    /// because this user may not write.
    fn give_up(&self, reason: &str) {
        let reason = format!("the client has given up: {reason}");
        let mut state = self.state.lock();
        if let Some(waiting) = state.marker.take() {
            let _ = waiting.send(Err(reason));
        } else if !self.progress.is_poisoned() {
            let cause = self.unsettled(self.progress.positions().appended_seq + 1, &reason);
            self.step_down(&mut state, cause);
        }
    }

    /// Ends this leader: nothing more is acknowledged, released or sent.
    pub(super) fn step_down(&self, state: &mut State, cause: LogError) {
        tracing::error!(topic = %self.topic.config.topic, %cause, "this leader stops");
        state.in_flight.clear();
        self.handed.lock().clear();
        self.progress.poison(cause);
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
        // The client goes on by itself; what it gives up comes as the answer to a block, unless it gives up for good.
        tracing::warn!(topic = %self.topic.config.topic, %error, reason, "Kafka");
        self.complaints.note(&error, reason);
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.give_up(reason);
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let answer = match result {
            Ok(message) => Ok(Some(message.offset()).filter(|offset| *offset >= 0)),
            Err((error, _)) => Err(error.to_string()),
        };
        self.answered(number as u64, answer);
    }
}
