//! Commands from a topic. Each block records how far it has read, in the same message as the commands, so that after a
//! restart or a takeover the reading resumes exactly there: every message once, without transactions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use karat_proto::convert::{self, Refused};
use karat_proto::event::Outcome;
use karat_proto::{Code, Command, v1};
use karat_sequencer::{Ack, IngressOffset, Prepared, Reply, Submission, SubmitError};
use prost::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::watch as signal;

use super::dead_letters::Writer;
use super::topics::Topics;
use super::{KafkaPartError, SCHEMA, SCHEMA_HEADER};
use crate::core::Core;
use crate::gateway::admit;

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
    next: BTreeMap<i32, i64>,
}

struct Ingress<'a> {
    core: &'a Core,
    topics: Topics,
    dead_letters: Arc<Writer>,
    in_flight: Arc<AtomicUsize>,
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
    let consumer = topics.consumer()?;
    let mut places = TopicPartitionList::new();
    for (partition, low, _) in topics.partitions(&consumer, &topics.commands)? {
        let resumed = consumed
            .iter()
            .find(|one| one.topic == topics.commands && one.partition == partition)
            .map_or(low, |one| one.offset);
        if resumed < low {
            tracing::error!(topic = %topics.commands, partition, from = resumed, to = low, "retention deleted commands before they were read; they are lost");
        }
        places
            .add_partition_offset(
                &topics.commands,
                partition,
                Offset::Offset(resumed.max(low)),
            )
            .map_err(|error| unread(&topics, &error))?;
    }
    consumer
        .assign(&places)
        .map_err(|error| unread(&topics, &error))?;
    let ingress = Ingress {
        core,
        dead_letters: Arc::new(Writer::new(&topics)?),
        topics,
        in_flight: Arc::new(AtomicUsize::new(0)),
        stop,
    };
    let ended = ingress.read(&consumer);
    ingress.dead_letters.flush();
    ended
}

fn unread(topics: &Topics, error: &KafkaError) -> KafkaPartError {
    KafkaPartError::Read {
        topic: topics.commands.clone(),
        reason: error.to_string(),
    }
}

impl Ingress<'_> {
    fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    fn read(&self, consumer: &BaseConsumer) -> Result<(), KafkaPartError> {
        let mut batch = Batch::default();
        while !self.stopping() {
            let mut wait = LOOK;
            while batch.commands.len() < BATCH_COMMANDS_MAX && batch.bytes < BATCH_BYTES_MAX {
                match consumer.poll(wait) {
                    None => break,
                    Some(Ok(message)) => self.take(&message, &mut batch),
                    Some(Err(
                        error @ (KafkaError::MessageConsumptionFatal(_)
                        | KafkaError::MessageConsumption(
                            RDKafkaErrorCode::AutoOffsetReset
                            | RDKafkaErrorCode::OffsetOutOfRange
                            | RDKafkaErrorCode::TopicAuthorizationFailed
                            | RDKafkaErrorCode::UnknownTopicOrPartition,
                        )),
                    )) => return Err(unread(&self.topics, &error)),
                    // The client tries again by itself.
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
        }
        Ok(())
    }

    fn take<M: Message>(&self, message: &M, batch: &mut Batch) {
        let place = (message.partition(), message.offset());
        let payload = message.payload().unwrap_or_default();
        batch.next.insert(place.0, place.1 + 1);
        let schema = message.headers().and_then(|headers| {
            let found = headers.iter().find(|header| header.key == SCHEMA_HEADER)?;
            Some(String::from_utf8_lossy(found.value.unwrap_or_default()).into_owned())
        });
        let admitted = match schema {
            Some(schema) if schema != SCHEMA => Err(Refused::new(
                Code::Malformed,
                format!("{SCHEMA_HEADER} {schema} is not known here, only {SCHEMA}"),
            )),
            _ => v1::Command::decode(payload)
                .map_err(|error| {
                    Refused::new(Code::Malformed, format!("no karat.v1.Command: {error}"))
                })
                .and_then(|wire| admit(&*self.core.content, wire, &mut Duration::default())),
        };
        match admitted {
            Ok(prepared) => {
                let bytes = Bytes::copy_from_slice(payload);
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
            reply: self.reply(batch.sources),
            sequenced: None,
        };
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        loop {
            let Some(sequencer) = self.core.sequencer() else {
                return Ok(());
            };
            let refused = match sequencer.submit_with_ingress(submission, positions.clone()) {
                Ok(()) => return Ok(()),
                Err(refused) => refused,
            };
            match refused {
                (SubmitError::Overloaded { retry_after_ms }, back) => {
                    if self.stopping() {
                        return Ok(());
                    }
                    submission = back;
                    std::thread::sleep(Duration::from_millis(retry_after_ms.min(100)));
                }
                (SubmitError::Stopped, _) => return Ok(()),
                (error, _) => return Err(KafkaPartError::Closed(error.to_string())),
            }
        }
    }

    fn reply(&self, sources: Vec<Source>) -> Reply<Outcome> {
        let dead_letters = Arc::clone(&self.dead_letters);
        let in_flight = Arc::clone(&self.in_flight);
        Box::new(move |answer| {
            in_flight.fetch_sub(1, Ordering::SeqCst);
            // Without an answer the log has failed: whoever leads next reads the messages again, or finds them done.
            let Ok(answer) = answer else { return };
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
        })
    }
}
