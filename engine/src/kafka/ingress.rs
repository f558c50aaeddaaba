//! Commands from a topic. Each block records how far it has read, in the same message as the commands, so that after a
//! restart or a takeover the reading resumes exactly there: every message once, without transactions.
//!
//! Dead letters follow a moment after their block, so a leader that is killed may have left some unwritten. Up to where all
//! are kept is committed as the offset of the group `<prefix>.<realm>.dead-letters`: the next leader looks at the messages
//! from there to where the log's reading ends once more, and writes the letters of those that were not taken and have none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use karat_proto::convert::{self, Refused};
use karat_proto::event::Outcome;
use karat_proto::{Code, Command};
use karat_sequencer::log::kafka::is_final;
use karat_sequencer::{Ack, IngressOffset, Prepared, Reply, Submission, SubmitError};
use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::watch as signal;

use super::dead_letters::Writer;
use super::outcomes::{Before, Done, Places};
use super::topics::Topics;
use super::written::{Written, kept_up_to};
use super::{KafkaPartError, SCHEMA, SCHEMA_HEADER};
use crate::core::Core;
use crate::gateway::admit_encoded;

/// Commands that go to the sequencer together.
const BATCH_COMMANDS_MAX: usize = 1024;
/// Bytes of messages that are gathered before they go.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Batches whose outcomes are waited for, before no more are read.
const BATCHES_IN_FLIGHT_MAX: usize = 16;
/// How long the reading waits for a message before it looks whether it should end.
const LOOK: Duration = Duration::from_millis(100);
/// Partitions of a topic of commands that is made.
const PARTITIONS: i32 = 1;
/// How often it is committed up to where dead letters are kept.
const COMMIT_PAUSE: Duration = Duration::from_millis(250);
/// Also when nothing has changed, because brokers forget a group that is silent for a week.
const COMMIT_ANYWAY: Duration = Duration::from_secs(3600);
/// How long an engine that stops waits for outcomes on their way, and for their dead letters.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// A message as it was read.
struct Source {
    place: (i32, i64),
    bytes: Bytes,
}

#[derive(Default)]
struct Batch {
    commands: Vec<Prepared<Command>>,
    sources: Vec<Source>,
    bytes: usize,
    /// The next offset to read of each partition, once this batch is in the log.
    next: Places,
}

struct Ingress<'a> {
    core: &'a Core,
    topics: Topics,
    dead_letters: Arc<Writer>,
    in_flight: Arc<AtomicUsize>,
    done: Arc<Mutex<Done>>,
    /// Where the log's reading resumes: what comes before was taken by a leader before.
    resumed: Places,
    before: Before,
    /// Letters that a leader before has written of messages that are looked at once more.
    written: Written,
    /// Places to be committed when so many dead letters are kept.
    pending: Option<(Places, u64)>,
    committed: Option<(Places, Instant)>,
    stop: &'a signal::Receiver<bool>,
}

pub(super) fn run(
    core: &Core,
    consumed: &[IngressOffset],
    stop: &signal::Receiver<bool>,
) -> Result<(), KafkaPartError> {
    let topics = super::topics(&core.config.log.kafka, &core.config.realm.name)?;
    topics.ensure(&topics.commands, PARTITIONS)?;
    topics.ensure(&topics.dead_letters, 1)?;
    let consumer = topics.consumer_of(&topics.dead_letters)?;
    let mut resumed = Places::new();
    let mut lows = Places::new();
    for (partition, low, _) in topics.partitions(&consumer, &topics.commands)? {
        let from = consumed
            .iter()
            .find(|one| one.topic == topics.commands && one.partition == partition)
            .map_or(low, |one| one.offset);
        if from < low {
            tracing::error!(topic = %topics.commands, partition, from, to = low, "retention deleted commands before they were read; they are lost");
        }
        resumed.insert(partition, from.max(low));
        lows.insert(partition, low);
    }
    let before = std::mem::take(&mut *core.before.lock());
    let kept = kept_up_to(&topics, &consumer, &resumed, &lows);
    let written = Written::read(&topics, &kept, &resumed);
    consumer
        .assign(&list(&topics, &kept)?)
        .map_err(|error| unread(&topics, &error))?;
    let mut ingress = Ingress {
        core,
        dead_letters: Arc::new(Writer::new(&topics)?),
        topics,
        in_flight: Arc::new(AtomicUsize::new(0)),
        before: match kept == resumed {
            true => Before::default(),
            false => before,
        },
        done: Arc::new(Mutex::new(Done::behind(kept))),
        written,
        resumed,
        pending: None,
        committed: None,
        stop,
    };
    let ended = ingress.read(&consumer);
    ingress.settle(&consumer);
    ended
}

fn unread(topics: &Topics, error: &KafkaError) -> KafkaPartError {
    KafkaPartError::Read {
        topic: topics.commands.clone(),
        reason: error.to_string(),
    }
}

fn list(topics: &Topics, places: &Places) -> Result<TopicPartitionList, KafkaPartError> {
    let mut list = TopicPartitionList::with_capacity(places.len());
    for (partition, offset) in places {
        list.add_partition_offset(&topics.commands, *partition, Offset::Offset(*offset))
            .map_err(|error| unread(topics, &error))?;
    }
    Ok(list)
}

impl Ingress<'_> {
    fn stopping(&self) -> bool {
        // The sender goes with the engine.
        *self.stop.borrow() || self.stop.has_changed().is_err()
    }

    fn read(&mut self, consumer: &BaseConsumer) -> Result<(), KafkaPartError> {
        let mut batch = Batch::default();
        let mut committed = Instant::now();
        while !self.stopping() {
            let mut wait = LOOK;
            while batch.commands.len() < BATCH_COMMANDS_MAX && batch.bytes < BATCH_BYTES_MAX {
                match consumer.poll(wait) {
                    None => break,
                    Some(Ok(message)) => self.take(&message, &mut batch),
                    Some(Err(error)) if is_final(&error) => {
                        return Err(unread(&self.topics, &error));
                    }
                    Some(Err(error)) => {
                        tracing::warn!(topic = %self.topics.commands, %error, "Kafka");
                    }
                }
                wait = Duration::ZERO;
            }
            self.dead_letters.poll();
            // Positions of messages that were not taken wait for the next block; read again after a crash, they make
            // the same dead letters again.
            if !batch.commands.is_empty() {
                let next = std::mem::take(&mut batch);
                self.hand_over(next)?;
            }
            if committed.elapsed() >= COMMIT_PAUSE {
                committed = Instant::now();
                self.commit(consumer, CommitMode::Async);
            }
        }
        Ok(())
    }

    /// Waits for the outcomes on their way, and keeps their dead letters.
    fn settle(&mut self, consumer: &BaseConsumer) {
        let deadline = Instant::now() + STOP_WAIT;
        while self.in_flight.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.dead_letters.flush(STOP_WAIT);
        self.pending = None;
        self.commit(consumer, CommitMode::Sync);
    }

    /// Commits up to where dead letters are kept. A commit that is lost costs the next leader a second look.
    fn commit(&mut self, consumer: &BaseConsumer, mode: CommitMode) {
        if self.pending.is_none() {
            // In this order: the letters of every outcome up to there are written by now.
            let upto = self.done.lock().upto().clone();
            let is_new = self
                .committed
                .as_ref()
                .is_none_or(|(places, at)| *places != upto || at.elapsed() >= COMMIT_ANYWAY);
            self.pending = is_new.then(|| (upto, self.dead_letters.written()));
        }
        let is_kept = |pending: &mut (Places, u64)| self.dead_letters.are_kept(pending.1);
        let Some((upto, _)) = self.pending.take_if(is_kept) else {
            return;
        };
        let committed = list(&self.topics, &upto)
            .map_err(|error| error.to_string())
            .and_then(|places| {
                let committed = consumer.commit(&places, mode);
                committed.map_err(|error| error.to_string())
            });
        match committed {
            Ok(()) => self.committed = Some((upto, Instant::now())),
            Err(error) => {
                tracing::warn!(topic = %self.topics.dead_letters, error, "up to where dead letters are kept could not be committed");
            }
        }
    }

    fn take<M: Message>(&self, message: &M, batch: &mut Batch) {
        let place = (message.partition(), message.offset());
        let payload = message.payload().unwrap_or_default();
        let resumed = self.resumed.get(&place.0).copied().unwrap_or(0);
        let taken_before = place.1 < resumed;
        if !taken_before {
            batch.next.insert(place.0, place.1 + 1);
        }
        let bytes = Bytes::copy_from_slice(payload);
        match self.admitted(message, bytes.clone()) {
            // Commands that no leader took have no letter yet.
            Err(_) if self.written.has(place, payload) => {}
            Ok(_) if taken_before && self.written.has(place, payload) => {}
            Ok(prepared) if taken_before => self.look_again(place, &prepared.command, payload),
            Ok(prepared) => {
                batch.bytes += bytes.len();
                batch.commands.push(prepared);
                batch.sources.push(Source { place, bytes });
            }
            Err(refused) => {
                let reason = format!("{}: {}", refused.code.name(), refused.message);
                self.dead_letters
                    .write(place, refused.code as u32, &reason, 0, payload);
            }
        }
        if taken_before {
            self.done.lock().pass(place);
        }
    }

    fn admitted<M: Message>(
        &self,
        message: &M,
        payload: Bytes,
    ) -> Result<Prepared<Command>, Refused> {
        let schema = message.headers().and_then(|headers| {
            let found = headers.iter().find(|header| header.key == SCHEMA_HEADER)?;
            Some(String::from_utf8_lossy(found.value.unwrap_or_default()).into_owned())
        });
        if let Some(schema) = schema.filter(|schema| schema != SCHEMA) {
            let message = format!("{SCHEMA_HEADER} {schema} is not known here, only {SCHEMA}");
            return Err(Refused::new(Code::Malformed, message));
        }
        admit_encoded(&*self.core.content, payload, &mut Duration::default())
            .map_err(|(_, refused)| refused)
    }

    /// A command that a leader before took: its dead letter, if it was refused.
    fn look_again(&self, place: (i32, i64), command: &Command, payload: &[u8]) {
        let (code, reason, sequence) = match self.before.outcome(command) {
            Ok(outcome) if outcome.code == Code::Accepted => return,
            Ok(outcome) => {
                let told = convert::outcome_to_wire(&command.id, &outcome);
                (told.code, told.message, outcome.sequence)
            }
            Err(Code::IdReused) => {
                let code = Code::IdReused;
                let reason = format!("{}: {}", code.name(), code.hint());
                (code as u32, reason, 0)
            }
            Err(code) => {
                let reason = format!(
                    "{}: the leader before took it and is gone, and its outcome is not remembered; {}",
                    code.name(),
                    code.hint()
                );
                (code as u32, reason, 0)
            }
        };
        self.dead_letters
            .write(place, code, &reason, sequence, payload);
    }

    /// Submits a batch, again and again while the queue is full.
    fn hand_over(&self, batch: Batch) -> Result<(), KafkaPartError> {
        while self.in_flight.load(Ordering::SeqCst) >= BATCHES_IN_FLIGHT_MAX {
            if self.stopping() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let positions: Vec<IngressOffset> = batch
            .next
            .iter()
            .map(|(partition, offset)| IngressOffset {
                topic: self.topics.commands.clone(),
                partition: *partition,
                offset: *offset,
            })
            .collect();
        let mut submission = Submission {
            commands: batch.commands,
            ack: Ack::Durable,
            reply: self.reply(batch.sources, batch.next),
            sequenced: None,
        };
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let not_taken = || {
            self.in_flight.fetch_sub(1, Ordering::SeqCst);
        };
        loop {
            let Some(sequencer) = self.core.sequencer() else {
                not_taken();
                return Ok(());
            };
            let refused = match sequencer.submit_with_ingress(submission, positions.clone()) {
                Ok(()) => return Ok(()),
                Err(refused) => refused,
            };
            match refused {
                (SubmitError::Overloaded { retry_after_ms }, back) => {
                    if self.stopping() {
                        not_taken();
                        return Ok(());
                    }
                    submission = back;
                    std::thread::sleep(Duration::from_millis(retry_after_ms.min(100)));
                }
                (SubmitError::Stopped, _) => {
                    not_taken();
                    return Ok(());
                }
                (error, _) => {
                    not_taken();
                    return Err(KafkaPartError::Closed(error.to_string()));
                }
            }
        }
    }

    fn reply(&self, sources: Vec<Source>, next: BTreeMap<i32, i64>) -> Reply<Outcome> {
        let dead_letters = Arc::clone(&self.dead_letters);
        let in_flight = Arc::clone(&self.in_flight);
        let done = Arc::clone(&self.done);
        let number = done.lock().begin();
        Box::new(move |answer| {
            // Without an answer the log has failed: whoever leads next reads the messages again, or finds them done.
            if let Ok(answer) = answer {
                for (source, outcome) in sources.iter().zip(&answer.outcomes) {
                    if outcome.code == Code::Accepted {
                        continue;
                    }
                    let id = karat_proto::CommandId([0; 16]);
                    let told = convert::outcome_to_wire(&id, outcome);
                    dead_letters.write(
                        source.place,
                        told.code,
                        &told.message,
                        outcome.sequence,
                        &source.bytes,
                    );
                }
                done.lock().end(number, next);
            }
            in_flight.fetch_sub(1, Ordering::SeqCst);
        })
    }
}
