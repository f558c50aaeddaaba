//! Settings of a log on Kafka, and the clients they make.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

use super::super::ReadError;
use crate::log::journal::PreFlush;

/// What a message takes beside its block: a batch's and a record's headers, and the header of ours (61 + 21 + 21 bytes
/// today).
pub(super) const MESSAGE_OVERHEAD_BYTES: usize = 1024;

/// Called before a step with the broker; an error counts as the broker's own. For tests and drills.
pub type KafkaFaults = Arc<dyn Fn(KafkaStep) -> std::io::Result<()> + Send + Sync>;

/// The steps at which a broker can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KafkaStep {
    /// A block is handed to the producer.
    Append,
    /// The broker's acknowledgement of a block has come.
    Acknowledged,
}

/// Settings of a log on Kafka.
#[derive(Clone)]
pub struct KafkaConfig {
    /// Brokers to begin with, `host:port`, separated by commas.
    pub brokers: String,
    /// The topic. Made if it is not there; otherwise its settings must be the ones that a log needs.
    pub topic: String,
    /// Further properties of librdkafka, for instance `security.protocol`. What the log itself sets cannot be changed.
    pub properties: BTreeMap<String, String>,
    /// The most bytes of an encoded block; 4 MiB. The topic must take messages of it.
    pub block_bytes_max: usize,
    /// none, gzip, lz4 or snappy; none.
    pub compression: String,
    /// Copies of a topic that is made; 1.
    pub replication: i32,
    /// How many copies must have a block before it is acknowledged, at least; 1.
    pub min_insync_replicas: i32,
    /// How long opening waits for the brokers, and a new leader for its marker; 60 s.
    pub open_wait_max: Duration,
    /// A block that is not acknowledged within this stops the leader; 300 s. Whether it is in the log is then settled
    /// by reading the log.
    pub acknowledge_wait_max: Duration,
    /// How long a read waits for the next message; 30 s.
    pub read_wait_max: Duration,
    /// Runs after a block was acknowledged and before it counts as durable. None.
    pub pre_flush: Option<PreFlush>,
    /// Faults to inject. None.
    pub faults: Option<KafkaFaults>,
}

impl KafkaConfig {
    /// The defaults for a topic.
    pub fn new(brokers: impl Into<String>, topic: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            topic: topic.into(),
            properties: BTreeMap::new(),
            block_bytes_max: 4 << 20,
            compression: "none".to_owned(),
            replication: 1,
            min_insync_replicas: 1,
            open_wait_max: Duration::from_secs(60),
            acknowledge_wait_max: Duration::from_secs(300),
            read_wait_max: Duration::from_secs(30),
            pre_flush: None,
            faults: None,
        }
    }

    /// Where the log is, for messages.
    pub(super) fn target(&self) -> String {
        format!("topic {} at {}", self.topic, self.brokers)
    }

    /// The most bytes of a message.
    pub(super) fn message_bytes_max(&self) -> usize {
        self.block_bytes_max + MESSAGE_OVERHEAD_BYTES
    }

    /// What every client of these brokers is told, for the log and for other topics beside it.
    pub fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        for (name, value) in &self.properties {
            client.set(name, value);
        }
        client
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "karat")
            .set("socket.nagle.disable", "true")
            // 100 ms to 1 s between attempts to connect, so that a broker that is back is found soon.
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "1000")
            .set("allow.auto.create.topics", "false")
            .set_log_level(RDKafkaLogLevel::Warning);
        client
    }

    pub(super) fn producer(&self) -> ClientConfig {
        let mut client = self.client();
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // A failed block must stop those behind it: a log with a hole could not be read.
            .set("enable.gapless.guarantee", "true")
            // No block is given up by librdkafka, because a later one could then still be sent: the log's own bound
            // (`acknowledge_wait_max`) gives up all of them at once.
            .set("message.timeout.ms", "0")
            .set("linger.ms", "0")
            .set("compression.type", &self.compression)
            .set("message.max.bytes", self.message_bytes_max().to_string())
            // What is in flight is bounded by the sequencer, in commands and bytes; these only have to be above it.
            .set("queue.buffering.max.messages", "10000000")
            .set("queue.buffering.max.kbytes", "2000000");
        client
    }

    pub(super) fn consumer(&self) -> ClientConfig {
        let mut client = self.client();
        client
            // A name is needed to assign by hand; nothing is committed and no group is joined.
            .set("group.id", "karat-log-reader")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            // Nobody writes transactions here; a foreign one must not hold a reader up.
            .set("isolation.level", "read_uncommitted")
            .set("check.crcs", "true")
            // A request that waits at the end of the log delays the next read by so much.
            .set("fetch.wait.max.ms", "10")
            .set("fetch.error.backoff.ms", "50")
            .set("fetch.queue.backoff.ms", "10")
            .set(
                "fetch.message.max.bytes",
                self.message_bytes_max().max(8 << 20).to_string(),
            );
        client
    }

    pub(super) fn read_error(&self, cause: impl std::fmt::Display) -> ReadError {
        ReadError::Io {
            target: self.target(),
            source: std::io::Error::other(cause.to_string()),
        }
    }
}

impl std::fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Properties may hold a password.
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("topic", &self.topic)
            .field("block_bytes_max", &self.block_bytes_max)
            .finish_non_exhaustive()
    }
}

/// Ends a client on a thread of its own. It waits some 100 ms for its threads, which nobody else has to.
pub fn end_aside(client: impl Send + 'static) {
    let ending = std::thread::Builder::new().name("karat-ending".to_owned());
    if let Err(error) = ending.spawn(move || drop(client)) {
        tracing::warn!(%error, "a Kafka client is ended here, because no thread can be started");
    }
}
