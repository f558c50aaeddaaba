//! The realm's topics: that they are there, producers for one, and a reader of the others on a thread of its own.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use karat_proto::{limits, v1};
use karat_sequencer::log::kafka::is_final;
use prost::Message as _;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::producer::{Producer as _, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::KafkaTarget;
use super::outcomes::{Letter, Open, Outcomes, Seen};
use super::producer::{DeliveryCounts, KafkaLane, Return};
use crate::error::LoadError;
use crate::plan::Plan;

/// How long one question to the brokers may take.
pub(super) const QUESTION: Duration = Duration::from_secs(10);
/// How long a topic may take to be there: an engine makes its topics a moment after it answers.
const TOPIC_WAIT: Duration = Duration::from_secs(30);
/// How long the reading waits for a message before it looks whether it should end.
const LOOK: Duration = Duration::from_millis(100);
/// Messages that are handed to the run together.
const TOGETHER_MAX: usize = 512;
/// Of those, so many wait for the run; then the reading waits.
const WAITING_MAX: usize = 256;
/// A message that no broker acknowledges for so long is given up.
const DELIVERY_MS_MAX: &str = "30000";

/// Ends the reading when it is dropped.
pub(crate) struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What comes back on the topics.
pub(crate) struct Answers {
    pub(super) seen: mpsc::Receiver<Vec<Seen>>,
    pub(super) outcomes: Outcomes,
}

/// A run on Kafka, begun.
pub(crate) struct Begun {
    pub(crate) lanes: Vec<KafkaLane>,
    pub(crate) answers: Answers,
    pub(crate) deliveries: DeliveryCounts,
}

/// Brokers that answer and have the realm's topics.
pub struct Connection {
    target: KafkaTarget,
    /// Part of every command id.
    run: u64,
    client: ClientConfig,
    /// Of the topic of commands.
    partitions: i32,
}

impl Connection {
    /// Asks the brokers for the topics, for the run whose ids have this part.
    ///
    /// # Errors
    /// When none answers, or a topic is not there: the error says what an engine needs to have it.
    pub fn open(target: KafkaTarget, run: u64) -> Result<Connection, LoadError> {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &target.brokers)
            .set("client.id", "karat-load")
            .set("group.id", "karat-load")
            .set("reconnect.backoff.max.ms", "1000")
            .set("allow.auto.create.topics", "false")
            .set_log_level(RDKafkaLogLevel::Error);
        for (name, value) in &target.properties {
            client.set(name, value);
        }
        let mut connection = Connection {
            target,
            run,
            client,
            partitions: 0,
        };
        let consumer = connection.consumer()?;
        let KafkaTarget {
            commands,
            events,
            dead_letters,
            ..
        } = &connection.target;
        let partitions = connection.partitions_of(&consumer, commands, "commands = true")?;
        connection.partitions_of(&consumer, dead_letters, "commands = true")?;
        connection.partitions_of(&consumer, events, "events = true")?;
        connection.partitions = partitions;
        Ok(connection)
    }

    /// The same brokers for a floor of that run, whose commands go to a topic of its own; and how many copies the topic of
    /// commands has.
    pub(super) fn for_floor(&self, run: u64) -> Result<(Connection, i32), LoadError> {
        let step = "the copies of the topic of commands";
        let metadata = self
            .consumer()?
            .fetch_metadata(Some(&self.target.commands), QUESTION)
            .map_err(|error| self.failed(step, &error))?;
        let partitions = metadata.topics().iter().flat_map(|one| one.partitions());
        let copies = partitions.map(|one| one.replicas().len()).max();
        let connection = Connection {
            target: KafkaTarget {
                commands: format!("{}.load-floor.{run:016x}", self.target.commands),
                ..self.target.clone()
            },
            run,
            client: self.client.clone(),
            partitions: self.partitions,
        };
        Ok((connection, copies.unwrap_or(1) as i32))
    }

    /// Waits until the topic of commands has its partitions.
    pub(super) fn wait_for_commands(&self) -> Result<(), LoadError> {
        let consumer = self.consumer()?;
        self.partitions_of(&consumer, &self.target.commands, "commands = true")?;
        Ok(())
    }

    /// The topic of commands.
    pub(super) fn commands(&self) -> &str {
        &self.target.commands
    }

    /// Its partitions.
    pub(super) fn partitions(&self) -> i32 {
        self.partitions
    }

    /// Part of every command id.
    pub(super) fn run(&self) -> u64 {
        self.run
    }

    /// How a client of these brokers is made.
    pub(super) fn client(&self) -> &ClientConfig {
        &self.client
    }

    pub(super) fn failed(&self, step: &'static str, error: &KafkaError) -> LoadError {
        LoadError::Setup {
            step,
            cause: format!("{}: {error}", self.target.brokers),
        }
    }

    fn consumer(&self) -> Result<BaseConsumer, LoadError> {
        let mut client = self.client.clone();
        client
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("fetch.queue.backoff.ms", "20")
            .set("queued.max.messages.kbytes", "65536")
            .create()
            .map_err(|error| LoadError::Arguments(format!("--kafka-property: {error}")))
    }

    fn partitions_of(
        &self,
        consumer: &BaseConsumer,
        topic: &str,
        setting: &str,
    ) -> Result<i32, LoadError> {
        let since = Instant::now();
        loop {
            let metadata = consumer
                .fetch_metadata(Some(topic), QUESTION)
                .map_err(|error| LoadError::Broker {
                    brokers: self.target.brokers.clone(),
                    cause: error.to_string(),
                })?;
            let found = metadata
                .topics()
                .iter()
                .find(|one| one.name() == topic && one.error().is_none());
            match found.map_or(0, |found| found.partitions().len()) {
                0 if since.elapsed() < TOPIC_WAIT => std::thread::sleep(Duration::from_millis(50)),
                0 => {
                    return Err(LoadError::Setup {
                        step: "the realm's topics",
                        cause: format!(
                            "{} has no topic {topic}; an engine with `[log] kind = \"kafka\"` and `[log.kafka] {setting}` \
                             makes it (--realm and --topic-prefix say which is asked for)",
                            self.target.brokers
                        ),
                    });
                }
                count => return Ok(count as i32),
            }
        }
    }

    /// Begins to read what comes from now on, and makes the producers.
    pub(crate) fn begin(&self, plan: &Plan, streams: usize) -> Result<Begun, LoadError> {
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Rc::new(Stop(stopped.clone()));
        let consumer = self.reader()?;
        let (sender, seen) = mpsc::channel(WAITING_MAX);
        let dead_letters = self.target.dead_letters.clone();
        std::thread::Builder::new()
            .name("topics".into())
            .spawn(move || read(&consumer, &dead_letters, &sender, &stopped))
            .map_err(|cause| LoadError::Machine {
                what: "a thread",
                cause,
            })?;
        let open = Rc::new(RefCell::new(Open::default()));
        let deliveries = DeliveryCounts::new();
        let back = Return {
            open: open.clone(),
            _stop: stop,
        };
        Ok(Begun {
            lanes: self.lanes(plan, streams, &deliveries, Some(&back))?,
            answers: Answers {
                seen,
                outcomes: Outcomes::new(self.run, open),
            },
            deliveries,
        })
    }

    /// The producers' side of so many streams.
    pub(super) fn lanes(
        &self,
        plan: &Plan,
        streams: usize,
        deliveries: &DeliveryCounts,
        back: Option<&Return>,
    ) -> Result<Vec<KafkaLane>, LoadError> {
        let topic: Rc<str> = self.target.commands.as_str().into();
        let mut lanes = Vec::with_capacity(streams);
        let mut producer = Rc::new(self.producer(deliveries)?);
        for stream in 0..streams {
            if stream != 0 && stream % plan.streams == 0 {
                producer = Rc::new(self.producer(deliveries)?);
            }
            lanes.push(KafkaLane {
                stream,
                producer: producer.clone(),
                topic: topic.clone(),
                partition: stream as i32 % self.partitions,
                back: back.cloned(),
                counts: deliveries.clone(),
                bytes: BytesMut::new(),
            });
        }
        Ok(lanes)
    }

    fn producer(
        &self,
        deliveries: &DeliveryCounts,
    ) -> Result<ThreadedProducer<DeliveryCounts>, LoadError> {
        let mut client = ClientConfig::new();
        client
            .set("enable.idempotence", "true")
            .set("linger.ms", "0")
            .set("message.timeout.ms", DELIVERY_MS_MAX)
            // The window is the bound. Messages whose outcome is there already stand here until the client's own thread
            // comes to their acknowledgement, so this is far above any window.
            .set("queue.buffering.max.messages", "100000000")
            .set("queue.buffering.max.kbytes", "2097151")
            .set(
                "message.max.bytes",
                (limits::MESSAGE_BYTES_MAX + 65_536).to_string(),
            );
        // What the user says wins.
        for (name, value) in self.client.config_map() {
            if name != "group.id" {
                client.set(name, value);
            }
        }
        let producer: ThreadedProducer<DeliveryCounts> = client
            .set_log_level(RDKafkaLogLevel::Error)
            .create_with_context(deliveries.clone())
            .map_err(|error| LoadError::Arguments(format!("--kafka-property: {error}")))?;
        // Connected, and on the way to its producer id, before the first command is due.
        producer
            .client()
            .fetch_metadata(Some(&self.target.commands), QUESTION)
            .map_err(|error| self.failed("a producer's connection", &error))?;
        Ok(producer)
    }

    /// A consumer behind the last message of events and dead letters.
    fn reader(&self) -> Result<BaseConsumer, LoadError> {
        let step = "the end of the realm's topics";
        let consumer = self.consumer()?;
        let mut places = TopicPartitionList::new();
        let since = Instant::now();
        for topic in [&self.target.events, &self.target.dead_letters] {
            let end = loop {
                match consumer.fetch_watermarks(topic, 0, QUESTION) {
                    Ok((_, end)) => break end,
                    // A topic that was just made is known before its partition has a leader.
                    Err(_) if since.elapsed() < TOPIC_WAIT => {
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    Err(error) => return Err(self.failed(step, &error)),
                }
            };
            places
                .add_partition_offset(topic, 0, Offset::Offset(end))
                .map_err(|error| self.failed(step, &error))?;
        }
        consumer
            .assign(&places)
            .map_err(|error| self.failed(step, &error))?;
        Ok(consumer)
    }
}

/// Reads until `stop`, or until nobody listens.
fn read(
    consumer: &BaseConsumer,
    dead_letters: &str,
    sender: &mpsc::Sender<Vec<Seen>>,
    stop: &AtomicBool,
) {
    while !stop.load(Ordering::SeqCst) {
        let mut seen = Vec::new();
        let mut wait = LOOK;
        while seen.len() < TOGETHER_MAX {
            match consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => seen.extend(see(&message, dead_letters)),
                Some(Err(error)) if is_final(&error) => {
                    let cause = format!("the topics of outcomes cannot be read: {error}");
                    let _ = sender.blocking_send(vec![Seen::Broken(cause)]);
                    return;
                }
                // The client tries again by itself.
                Some(Err(_)) => {}
            }
            wait = Duration::ZERO;
        }
        if !seen.is_empty() && sender.blocking_send(seen).is_err() {
            return;
        }
    }
}

/// One message; nothing of what is not for a run: letters of messages that hold no command.
fn see(message: &BorrowedMessage<'_>, dead_letters: &str) -> Option<Seen> {
    let payload = message.payload().unwrap_or_default();
    if message.topic() != dead_letters {
        let event = v1::Event::decode(payload);
        return Some(match event {
            Ok(event) => Seen::Event(event),
            Err(error) => Seen::Broken(format!(
                "{} at {}: no event: {error}",
                message.topic(),
                message.offset()
            )),
        });
    }
    let header = |name: &str| {
        let headers = message.headers()?;
        let found = headers.iter().find(|header| header.key == name)?;
        std::str::from_utf8(found.value?).ok()
    };
    let (partition, offset) = header("karat-source")?.split_once(':')?;
    Some(Seen::Letter(Letter {
        source: (partition.parse().ok()?, offset.parse().ok()?),
        code: header("karat-code")?.parse().ok()?,
        sequence: header("karat-sequence")?.parse().ok()?,
        command: v1::Command::decode(payload).ok()?,
    }))
}
