//! The realm's log, of whichever kind is configured; and places of logs as a person names them.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use karat_sequencer::{
    BlockIterator, Journal, JournalConfig, Log, LogReader, Recovery, read_blocks,
};

use crate::config::{Config, KafkaSettings};
use crate::core::CoreError;
use crate::data_folder::DataFolder;

/// Why a log is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// To write it: on a shared log, [`Opened::take_over`] then replaces whoever wrote before.
    Lead,
    /// To read it as its leader writes it, and to lead it when nobody does. Only a log that others can reach.
    Follow,
    /// To read it; nothing is written.
    Read,
}

/// A log that somebody else leads.
#[cfg(feature = "kafka")]
pub type Follower = karat_sequencer::KafkaFollower;
/// A log that somebody else leads; this build has none.
#[cfg(not(feature = "kafka"))]
pub type Follower = std::convert::Infallible;

/// A log that this engine could lead.
#[cfg(feature = "kafka")]
pub type Candidate = karat_sequencer::KafkaCandidate;
/// A log that this engine could lead; this build has none.
#[cfg(not(feature = "kafka"))]
pub type Candidate = std::convert::Infallible;

/// A place in a log from which it is read on, so that what lies before is not read.
#[cfg(feature = "kafka")]
pub type Place = karat_sequencer::KafkaPlace;
/// A place in a log; this build has none.
#[cfg(not(feature = "kafka"))]
pub type Place = std::convert::Infallible;

/// A log as it was opened. On one that others can reach nothing was written yet.
pub enum Opened {
    /// To write it; nobody else can.
    Own(Box<dyn Log>),
    /// To write it, once whoever leads it was replaced.
    Candidate(Box<Candidate>),
    /// To follow it.
    Followed(Box<Follower>),
}

/// A log that this engine writes or follows.
pub enum Held {
    /// It writes.
    Led(Box<dyn Log>),
    /// It follows.
    Followed(Box<Follower>),
}

impl Opened {
    /// Reads what opening found: the whole log, and of one that is followed only what is not behind it.
    pub fn history(&self) -> Arc<dyn LogReader> {
        match self {
            Opened::Own(log) => log.reader(),
            #[cfg(feature = "kafka")]
            Opened::Candidate(candidate) => candidate.reader(),
            #[cfg(feature = "kafka")]
            Opened::Followed(follower) => follower.opened_reader(),
            #[cfg(not(feature = "kafka"))]
            Opened::Candidate(never) | Opened::Followed(never) => match **never {},
        }
    }

    /// Takes over a log that others can reach and this engine is to write: whoever wrote it writes nothing more that counts.
    /// With what the log holds then; `found` is what opening it found.
    ///
    /// # Errors
    /// When the brokers do not answer, or another engine was faster.
    pub fn take_over(self, found: Recovery) -> Result<(Held, Recovery), CoreError> {
        match self {
            Opened::Own(log) => Ok((Held::Led(log), found)),
            Opened::Followed(follower) => Ok((Held::Followed(follower), found)),
            #[cfg(feature = "kafka")]
            Opened::Candidate(candidate) => {
                use karat_sequencer::{Clock, SystemClock};
                let (log, recovery) = candidate.lead(SystemClock.now_ms())?;
                Ok((Held::Led(Box::new(log)), recovery))
            }
            #[cfg(not(feature = "kafka"))]
            Opened::Candidate(never) => match *never {},
        }
    }
}

impl Held {
    /// Reads what opening and taking over found: the whole log, and of one that is followed only what is not behind it.
    pub fn history(&self) -> Arc<dyn LogReader> {
        match self {
            Held::Led(log) => log.reader(),
            #[cfg(feature = "kafka")]
            Held::Followed(follower) => follower.opened_reader(),
            #[cfg(not(feature = "kafka"))]
            Held::Followed(never) => match **never {},
        }
    }

    /// Reads the log as it grows.
    pub fn reader(&self) -> Arc<dyn LogReader> {
        match self {
            Held::Led(log) => log.reader(),
            #[cfg(feature = "kafka")]
            Held::Followed(follower) => follower.reader(),
            #[cfg(not(feature = "kafka"))]
            Held::Followed(never) => match **never {},
        }
    }
}

/// Opens the configured log. `flush_content` runs before anything counts as durable, because a durable command must have
/// durable bytes. Who is to lead a log on Kafka and knows a place in it reads only what lies behind it.
///
/// # Errors
/// Says what is damaged, in use, unreachable, or not as a log needs it.
pub fn open(
    config: &Config,
    folder: &DataFolder,
    opening: Opening,
    place: Option<&Place>,
    flush_content: impl Fn() -> std::io::Result<()> + Send + Sync + 'static,
) -> Result<(Opened, Recovery), CoreError> {
    if config.log.kind == "kafka" {
        return open_kafka(config, opening, place, Arc::new(flush_content));
    }
    let journal_config = JournalConfig {
        segment_bytes: config.log.segment_bytes,
        pre_flush: Some(Arc::new(flush_content)),
        ..JournalConfig::default()
    };
    let (journal, recovery) = Journal::open(&folder.journal(), journal_config)?;
    Ok((Opened::Own(Box::new(journal)), recovery))
}

#[cfg(feature = "kafka")]
fn open_kafka(
    config: &Config,
    opening: Opening,
    place: Option<&Place>,
    flush_content: karat_sequencer::log::journal::PreFlush,
) -> Result<(Opened, Recovery), CoreError> {
    use karat_sequencer::{KafkaCandidate, KafkaConfig, KafkaFollower, KafkaLog};
    let realm = &config.realm.name;
    let kafka_config = KafkaConfig {
        pre_flush: Some(flush_content),
        ..kafka_config(&config.log.kafka, &log_topic(&config.log.kafka, realm))?
    };
    Ok(match opening {
        Opening::Lead => {
            let candidate = KafkaCandidate::open(kafka_config, place, realm)?;
            let recovery = candidate.recovery();
            (Opened::Candidate(Box::new(candidate)), recovery)
        }
        Opening::Follow => {
            let follower = KafkaFollower::open(kafka_config, realm)?;
            let recovery = follower.recovery();
            (Opened::Followed(Box::new(follower)), recovery)
        }
        Opening::Read => {
            let (log, recovery) = KafkaLog::open(kafka_config)?;
            (Opened::Own(Box::new(log)), recovery)
        }
    })
}

#[cfg(not(feature = "kafka"))]
fn open_kafka(
    config: &Config,
    _opening: Opening,
    _place: Option<&Place>,
    _flush_content: karat_sequencer::log::journal::PreFlush,
) -> Result<(Opened, Recovery), CoreError> {
    Err(CoreError::LogKind(config.log.kind.clone()))
}

/// The topic of a realm's log.
pub fn log_topic(settings: &KafkaSettings, realm: &str) -> String {
    format!("{}.{realm}.log", settings.topic_prefix)
}

/// The properties of librdkafka, with what is read from the environment and from the file of the password.
///
/// # Errors
/// When a variable is not set, or a file cannot be read.
#[cfg(feature = "kafka")]
fn properties(
    settings: &KafkaSettings,
) -> Result<std::collections::BTreeMap<String, String>, CoreError> {
    let read = |(name, value): (&String, &String)| {
        let value = match value.strip_prefix("env:") {
            None => value.clone(),
            Some(variable) => std::env::var(variable).map_err(|_| {
                CoreError::Role(format!(
                    "log.kafka.properties.\"{name}\" is read from the environment, and {variable} is not set"
                ))
            })?,
        };
        Ok((name.clone(), value))
    };
    let further = settings.properties.iter().map(read);
    let mut properties =
        further.collect::<Result<std::collections::BTreeMap<_, _>, CoreError>>()?;
    // What is plaintext here may be something else among the further ones.
    if settings.security_protocol == "plaintext" {
        return Ok(properties);
    }
    let mut set = |name: &str, value: String| properties.insert(name.to_owned(), value);
    set("security.protocol", settings.security_protocol.clone());
    if settings.security_protocol.starts_with("sasl_") {
        set("sasl.mechanism", settings.sasl_mechanism.clone());
        if !settings.sasl_username.is_empty() {
            set("sasl.username", settings.sasl_username.clone());
        }
        if !settings.sasl_password_file.as_os_str().is_empty() {
            set("sasl.password", password(&settings.sasl_password_file)?);
        }
    }
    let authorities = &settings.ca_file;
    if !authorities.as_os_str().is_empty() {
        std::fs::metadata(authorities).map_err(|error| {
            CoreError::Role(format!(
                "log.kafka.ca_file {}: {error}",
                authorities.display()
            ))
        })?;
        set("ssl.ca.location", authorities.display().to_string());
    }
    Ok(properties)
}

/// The password in a file, without the line break at its end.
#[cfg(feature = "kafka")]
fn password(file: &std::path::Path) -> Result<String, CoreError> {
    let refused = |reason: String| {
        let file = file.display();
        CoreError::Role(format!("log.kafka.sasl_password_file {file}: {reason}"))
    };
    let text = std::fs::read_to_string(file).map_err(|error| refused(error.to_string()))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(refused("it is empty".to_owned())),
        password => Ok(password.to_owned()),
    }
}

/// What the sequencer needs to know of the settings.
///
/// # Errors
/// When a property names a variable that is not set, or a file cannot be read.
#[cfg(feature = "kafka")]
pub fn kafka_config(
    settings: &KafkaSettings,
    topic: &str,
) -> Result<karat_sequencer::KafkaConfig, CoreError> {
    use std::time::Duration;
    Ok(karat_sequencer::KafkaConfig {
        properties: properties(settings)?,
        compression: settings.compression.clone(),
        replication: settings.replication,
        min_insync_replicas: settings.min_insync_replicas,
        open_wait_max: Duration::from_millis(settings.open_wait_ms),
        acknowledge_wait_max: Duration::from_millis(settings.acknowledge_wait_ms),
        ..karat_sequencer::KafkaConfig::new(settings.brokers.clone(), topic)
    })
}

/// Where a log is, as a person names it: a data folder, or `kafka://BROKERS/TOPIC`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPlace {
    /// A data folder.
    Folder(PathBuf),
    /// A topic.
    Topic {
        /// Brokers to begin with.
        brokers: String,
        /// The topic; `None` where it follows from the realm.
        topic: Option<String>,
    },
}

impl LogPlace {
    /// Reads a place: whatever does not begin with `kafka://` is a folder.
    ///
    /// # Errors
    /// When no broker is named.
    pub fn parse(text: &str) -> Result<LogPlace, String> {
        let Some(rest) = text.strip_prefix("kafka://") else {
            return Ok(LogPlace::Folder(text.into()));
        };
        let (brokers, topic) = match rest.split_once('/') {
            Some((brokers, topic)) => (brokers, Some(topic.to_owned())),
            None => (rest, None),
        };
        if brokers.is_empty() || !brokers.contains(':') {
            return Err(format!(
                "{text} names no broker; it must look like kafka://HOST:PORT or kafka://HOST:PORT/TOPIC"
            ));
        }
        Ok(LogPlace::Topic {
            brokers: brokers.to_owned(),
            topic: topic.filter(|topic| !topic.is_empty()),
        })
    }
}

impl fmt::Display for LogPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogPlace::Folder(dir) => write!(f, "{}", dir.display()),
            LogPlace::Topic { brokers, topic } => {
                write!(f, "kafka://{brokers}/{}", topic.as_deref().unwrap_or(""))
            }
        }
    }
}

/// All blocks of the log that a data folder's engine wrote, from the first on.
///
/// # Errors
/// When it cannot be read.
pub fn blocks_of_folder(folder: &DataFolder, config: &Config) -> Result<BlockIterator, CoreError> {
    if config.log.kind != "kafka" {
        return Ok(Box::new(read_blocks(&folder.journal(), 1)?));
    }
    blocks_of_topic(
        &config.log.kafka,
        &log_topic(&config.log.kafka, &config.realm.name),
    )
}

/// All blocks of a topic, from the first on.
///
/// # Errors
/// When it cannot be read, or this build has no Kafka.
#[cfg(feature = "kafka")]
pub fn blocks_of_topic(settings: &KafkaSettings, topic: &str) -> Result<BlockIterator, CoreError> {
    let config = kafka_config(settings, topic)?;
    let (reader, _) = karat_sequencer::KafkaLog::read_only(config)?;
    Ok(reader.read(1)?)
}

/// As above.
///
/// # Errors
/// Always: this build has no Kafka.
#[cfg(not(feature = "kafka"))]
pub fn blocks_of_topic(
    _settings: &KafkaSettings,
    _topic: &str,
) -> Result<BlockIterator, CoreError> {
    Err(CoreError::LogKind("kafka".into()))
}

/// A new, empty log at a place, to copy another one into; `settings` say how brokers are reached.
///
/// # Errors
/// When there is one already, or it cannot be made.
pub fn create(place: &LogPlace, settings: &KafkaSettings) -> Result<Box<dyn Log>, CoreError> {
    let (log, recovery): (Box<dyn Log>, Recovery) = match place {
        LogPlace::Folder(dir) => {
            let folder = DataFolder::open_or_create(dir)?;
            let (journal, recovery) = Journal::open(&folder.journal(), JournalConfig::default())?;
            (Box::new(journal), recovery)
        }
        LogPlace::Topic { brokers, topic } => {
            let settings = KafkaSettings {
                brokers: brokers.clone(),
                ..settings.clone()
            };
            create_topic(&settings, topic.as_deref())?
        }
    };
    if recovery.blocks > 0 {
        return Err(CoreError::Occupied {
            place: place.to_string(),
            blocks: recovery.blocks,
        });
    }
    Ok(log)
}

#[cfg(feature = "kafka")]
fn create_topic(
    settings: &KafkaSettings,
    topic: Option<&str>,
) -> Result<(Box<dyn Log>, Recovery), CoreError> {
    let nameless = || CoreError::Role(format!("kafka://{} names no topic", settings.brokers));
    let topic = topic.ok_or_else(nameless)?;
    let (log, recovery) = karat_sequencer::KafkaLog::open(kafka_config(settings, topic)?)?;
    Ok((Box::new(log), recovery))
}

#[cfg(not(feature = "kafka"))]
fn create_topic(
    _settings: &KafkaSettings,
    _topic: Option<&str>,
) -> Result<(Box<dyn Log>, Recovery), CoreError> {
    Err(CoreError::LogKind("kafka".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_folder_unless_it_says_kafka() {
        let topic = |brokers: &str, topic: Option<&str>| LogPlace::Topic {
            brokers: brokers.into(),
            topic: topic.map(Into::into),
        };
        assert_eq!(
            LogPlace::parse("karat-data"),
            Ok(LogPlace::Folder("karat-data".into()))
        );
        assert_eq!(LogPlace::parse("kafka://a:1"), Ok(topic("a:1", None)));
        assert_eq!(LogPlace::parse("kafka://a:1/"), Ok(topic("a:1", None)));
        assert_eq!(
            LogPlace::parse("kafka://a:1,b:2/x.y.log"),
            Ok(topic("a:1,b:2", Some("x.y.log")))
        );
        assert!(LogPlace::parse("kafka://").is_err());
        assert!(LogPlace::parse("kafka://host").is_err());
    }
}
