//! Names of the topics, their making, and clients for them.

use std::time::{Duration, Instant};

use futures::executor::block_on;
use karat_proto::limits;
use karat_sequencer::log::kafka::end_aside;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use thiserror::Error;

use crate::config::KafkaSettings;
use crate::core::CoreError;
use crate::realm_log;

/// How long one question to a broker may take.
const QUESTION: Duration = Duration::from_secs(10);

/// The most bytes of a message: a command with its content, or a dead letter of one.
pub(super) const MESSAGE_BYTES_MAX: usize = limits::MESSAGE_BYTES_MAX;

/// Why a topic cannot be used.
#[derive(Debug, Error)]
pub enum TopicsError {
    /// No client with these settings.
    #[error("Kafka client: {0}")]
    Client(KafkaError),
    /// A topic cannot be made or asked about.
    #[error("{action} topic {topic}: {reason}")]
    Topic {
        /// What was tried.
        action: &'static str,
        /// Which.
        topic: String,
        /// The broker's answer.
        reason: String,
    },
}

/// Whether the place to be read next is not there any more.
pub(super) fn place_is_gone(error: &KafkaError) -> bool {
    matches!(
        error,
        KafkaError::MessageConsumption(
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange
        )
    )
}

/// The topics of a realm, and how to reach them.
#[derive(Clone)]
pub struct Topics {
    /// Where producers put commands.
    pub commands: String,
    /// Where events go.
    pub events: String,
    /// Where messages go that were not taken.
    pub dead_letters: String,
    /// Where the leader gives signs of life.
    pub leader: String,
    client: ClientConfig,
    replication: i32,
}

impl Topics {
    pub(super) fn new(settings: &KafkaSettings, realm: &str) -> Result<Topics, CoreError> {
        let name = |what: &str| format!("{}.{realm}.{what}", settings.topic_prefix);
        let log = realm_log::log_topic(settings, realm);
        let client = realm_log::kafka_config(settings, &log)?.client();
        Ok(Topics {
            commands: name("commands"),
            events: name("events"),
            dead_letters: name("dead-letters"),
            leader: name("leader"),
            client,
            replication: settings.replication,
        })
    }

    /// What every client of these topics is told.
    pub(crate) fn client(&self) -> ClientConfig {
        self.client.clone()
    }

    /// Settings for a producer whose messages are in order and there once.
    pub(super) fn producer(&self) -> ClientConfig {
        let mut client = self.client.clone();
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("enable.gapless.guarantee", "true")
            .set("linger.ms", "5")
            .set(
                "message.max.bytes",
                (MESSAGE_BYTES_MAX + 65_536).to_string(),
            );
        client
    }

    /// A consumer that is assigned by hand and commits nothing.
    pub(super) fn consumer(&self) -> Result<BaseConsumer, TopicsError> {
        self.consumer_that_waits("20", "karat")
    }

    /// A consumer that is assigned by hand and commits for a group, when it is told to.
    pub(super) fn consumer_of(&self, group: &str) -> Result<BaseConsumer, TopicsError> {
        self.consumer_that_waits("20", group)
    }

    /// As [`Topics::consumer`], for who waits at the end of a topic: a broker holds its requests until something comes.
    pub(super) fn tail_consumer(&self) -> Result<BaseConsumer, TopicsError> {
        self.consumer_that_waits("500", "karat")
    }

    fn consumer_that_waits(
        &self,
        fetch_wait_max_ms: &str,
        group: &str,
    ) -> Result<BaseConsumer, TopicsError> {
        let mut client = self.client.clone();
        client
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", fetch_wait_max_ms)
            .set("fetch.queue.backoff.ms", "20")
            .set("queued.max.messages.kbytes", "65536")
            .create()
            .map_err(TopicsError::Client)
    }

    /// Makes a topic with so many partitions if it is not there.
    pub(super) fn ensure(&self, topic: &str, partitions: i32) -> Result<(), TopicsError> {
        self.ensure_with(topic, partitions, &[])
    }

    /// As [`Topics::ensure`], with further settings for a topic that is made.
    pub(super) fn ensure_with(
        &self,
        topic: &str,
        partitions: i32,
        settings: &[(&str, &str)],
    ) -> Result<(), TopicsError> {
        let admin: AdminClient<DefaultClientContext> =
            self.client.create().map_err(TopicsError::Client)?;
        let failed = |reason: String| TopicsError::Topic {
            action: "make",
            topic: topic.to_owned(),
            reason,
        };
        let bytes_max = (MESSAGE_BYTES_MAX + 65_536).to_string();
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(self.replication))
            .set("max.message.bytes", &bytes_max);
        for (name, value) in settings {
            new = new.set(name, value);
        }
        let options = AdminOptions::new()
            .request_timeout(Some(QUESTION))
            .operation_timeout(Some(QUESTION));
        let made = block_on(admin.create_topics([&new], &options))
            .map_err(|error| failed(error.to_string()))?;
        end_aside(admin);
        match made.into_iter().next() {
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) | Some(Ok(_)) => Ok(()),
            Some(Err((_, code))) => Err(failed(code.to_string())),
            None => Err(failed("no answer".to_owned())),
        }
    }

    /// The topic's partitions, each with its first offset and the one after its last.
    pub(super) fn partitions(
        &self,
        consumer: &BaseConsumer,
        topic: &str,
    ) -> Result<Vec<(i32, i64, i64)>, TopicsError> {
        let failed = |reason: String| TopicsError::Topic {
            action: "ask about",
            topic: topic.to_owned(),
            reason,
        };
        let deadline = Instant::now() + QUESTION;
        loop {
            let metadata = consumer
                .fetch_metadata(Some(topic), QUESTION)
                .map_err(|error| failed(error.to_string()))?;
            let found = metadata
                .topics()
                .iter()
                .find(|one| one.name() == topic && one.error().is_none());
            if let Some(found) = found.filter(|found| !found.partitions().is_empty()) {
                let mut partitions = Vec::new();
                for partition in found.partitions() {
                    let (low, high) = consumer
                        .fetch_watermarks(topic, partition.id(), QUESTION)
                        .map_err(|error| failed(error.to_string()))?;
                    partitions.push((partition.id(), low, high));
                }
                return Ok(partitions);
            }
            // A topic that was just made is known to every broker a moment later.
            if Instant::now() >= deadline {
                return Err(failed("there is no such topic".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
