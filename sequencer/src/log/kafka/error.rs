//! Why a log on Kafka does not open.

use rdkafka::error::KafkaError as ClientError;

use crate::chain::ChainError;
use crate::log::{LogError, ReadError};

/// Why a log on Kafka does not open, or a leader does not begin.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// No client with these settings.
    #[error("Kafka client for {brokers}: {source}")]
    Client {
        /// The brokers.
        brokers: String,
        /// What is wrong with the settings.
        source: ClientError,
    },
    /// No broker answered in time.
    #[error(
        "no broker at {brokers} answered within {waited_ms} ms: {cause}; is it running, and does it advertise an address that can be reached from here?"
    )]
    Unreachable {
        /// The brokers.
        brokers: String,
        /// How long was waited.
        waited_ms: u64,
        /// The last answer.
        cause: String,
    },
    /// The brokers do not let this client in, or it does not believe them.
    #[error(
        "{brokers} and this client do not come together: {reason}; see security_protocol, sasl_mechanism, sasl_username, sasl_password_file and ca_file"
    )]
    Refused {
        /// The brokers.
        brokers: String,
        /// What was said, by the broker or by the client.
        reason: String,
    },
    /// The brokers answered, but not to this.
    #[error("{action} {target}: {reason}")]
    Broker {
        /// What was tried.
        action: &'static str,
        /// The topic.
        target: String,
        /// The broker's answer.
        reason: String,
    },
    /// The topic is there and not as a log needs it.
    #[error("{target} cannot hold a log: {differences}; change it, or name another topic")]
    Topic {
        /// The topic.
        target: String,
        /// Every setting that differs: what it is and what it must be.
        differences: String,
    },
    /// The topic is not there and was not to be made.
    #[error("{target} does not exist")]
    Missing {
        /// The topic.
        target: String,
    },
    /// A place from which the log was to be read on is not in it.
    #[error("{target} cannot be read on from offset {offset}: {reason}")]
    Place {
        /// The topic.
        target: String,
        /// The offset of the block before the place.
        offset: i64,
        /// What was found.
        reason: String,
    },
    /// Everything that the log held was deleted.
    #[error(
        "{target} goes on at offset {offset} and holds no block: everything before was deleted, so where the realm stands is not known; nothing was written, and a leader that runs goes on; start when it has written a block, or name a topic with a copy of the log (karat log copy)"
    )]
    Emptied {
        /// The topic.
        target: String,
        /// The offset of the next message.
        offset: i64,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log belongs to another realm.
    #[error("{target} is the log of realm \"{found}\", not of \"{realm}\"")]
    Realm {
        /// The topic.
        target: String,
        /// The realm wanted.
        realm: String,
        /// The log's realm.
        found: String,
    },
    /// Another leader began meanwhile, or the broker took no marker.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A thread could not start.
    #[error("start a thread for {target}: {source}")]
    Thread {
        /// The topic.
        target: String,
        /// The cause.
        source: std::io::Error,
    },
}

/// A block that does not continue its log, with its place.
pub(super) fn not_linked(target: &str, offset: i64, source: ChainError) -> ReadError {
    ReadError::NotLinked {
        target: target.to_owned(),
        offset: offset.unsigned_abs(),
        source,
    }
}
