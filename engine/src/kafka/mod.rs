//! The realm's other topics: commands that producers write, events for consumers, and a topic for what could not be taken.
//!
//! | topic | who writes | what a message is |
//! | --- | --- | --- |
//! | `<prefix>.<realm>.commands` | producers | a protobuf `karat.v1.Command` |
//! | `<prefix>.<realm>.events` | this engine | a protobuf `karat.v1.Event`; its place is in the key and the headers |
//! | `<prefix>.<realm>.dead-letters` | this engine | the bytes of a message that was not taken or was refused; why is in the headers |
//! | `<prefix>.<realm>.leader` | the leader | a sign of life as JSON |
//! | `<prefix>.<realm>.snapshots` | the leader in a host | pieces of snapshots, and what they are pieces of as JSON |

pub mod dead_letters;
pub mod directory;
mod events;
mod failure;
pub mod follower;
pub mod group;
mod ingress;
pub mod lease;
pub(crate) mod outcomes;
pub mod place_mark;
pub mod snapshots;
mod topics;
mod written;

use std::sync::Arc;

use karat_sequencer::IngressOffset;
use thiserror::Error;
use tokio::sync::watch as signal;

use crate::config::KafkaSettings;
use crate::core::{Core, CoreError};

pub use dead_letters::{DeadLetter, DeadLetters};
pub use topics::{Topics, TopicsError};

/// The format of messages on the topics of commands and events.
pub const SCHEMA: &str = "1";
/// The header that names it; without it a command's message is taken for format 1, so that any client will do.
pub const SCHEMA_HEADER: &str = "karat-schema";

/// Why a part around the topics ends.
#[derive(Debug, Error)]
pub enum KafkaPartError {
    /// Topics or clients.
    #[error(transparent)]
    Topics(#[from] TopicsError),
    /// Settings.
    #[error(transparent)]
    Settings(#[from] Box<CoreError>),
    /// The stream of events cannot be read.
    #[error(transparent)]
    Events(#[from] crate::events::EventLogError),
    /// A message could not be written.
    #[error("write to {topic}: {reason}")]
    Write {
        /// Which topic.
        topic: String,
        /// The client's answer.
        reason: String,
    },
    /// A message could not be read.
    #[error("read {topic}: {reason}")]
    Read {
        /// Which topic.
        topic: String,
        /// The client's answer.
        reason: String,
    },
    /// The log cannot be followed.
    #[error(transparent)]
    Log(#[from] karat_sequencer::KafkaError),
    /// What was read cannot be applied.
    #[error("apply what the leader wrote: {0}")]
    Apply(#[from] karat_sequencer::ReplayError),
    /// The log takes nothing more.
    #[error("the log takes no more commands: {0}")]
    Closed(String),
    /// A snapshot that lies on a topic cannot be used.
    #[error("snapshot of sequence {sequence} on {topic}: {reason}")]
    Snapshot {
        /// Which topic.
        topic: String,
        /// Its sequence.
        sequence: u64,
        /// What is wrong.
        reason: String,
    },
    /// A file.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: std::path::PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A thread could not be started, or panicked.
    #[error("the thread of {0} ended early")]
    Thread(&'static str),
}

/// Reads the topic of commands until `stop` is set, from where the log says that it was read before.
///
/// # Errors
/// When the topic cannot be read, or the log has failed.
pub async fn take_commands(
    core: Arc<Core>,
    consumed: Vec<IngressOffset>,
    stop: signal::Receiver<bool>,
) -> Result<(), KafkaPartError> {
    tokio::task::spawn_blocking(move || ingress::run(&core, &consumed, &stop))
        .await
        .unwrap_or(Err(KafkaPartError::Thread("commands")))
}

/// Publishes events until the stream ends.
///
/// # Errors
/// When the topic cannot be written.
pub async fn publish_events(core: Arc<Core>) -> Result<(), KafkaPartError> {
    events::run(core).await
}

/// Names and clients for a realm's topics.
///
/// # Errors
/// When a property names a variable that is not set.
pub fn topics(settings: &KafkaSettings, realm: &str) -> Result<Topics, KafkaPartError> {
    Topics::new(settings, realm).map_err(|error| KafkaPartError::Settings(Box::new(error)))
}
