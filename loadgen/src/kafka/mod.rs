//! Kafka producers as a way for commands to travel, and the topics of events and dead letters as their way back.
//!
//! An accepted command is known by its event, which has its sequence and what it changed, and not its id: see
//! `outcomes.rs` for how it leads back to the command. A refused one is known by its dead letter, which holds the command.
//! The feature `kafka` builds it; without, this module knows only how to say so.

#[cfg(feature = "kafka")]
pub(crate) mod floor;
#[cfg(feature = "kafka")]
mod outcomes;
#[cfg(feature = "kafka")]
mod producer;
#[cfg(feature = "kafka")]
mod topics;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::LoadError;
use crate::recorder::Percentiles;

#[cfg(feature = "kafka")]
pub(crate) use outcomes::receive;
#[cfg(feature = "kafka")]
pub(crate) use producer::{DeliveryCounts, KafkaLane};
#[cfg(feature = "kafka")]
pub use topics::Connection;
#[cfg(feature = "kafka")]
pub(crate) use topics::{Answers, Begun};

/// How the address of a broker begins.
pub const SCHEME: &str = "kafka://";

/// A realm's topics, and the brokers that have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaTarget {
    /// HOST:PORT, several with commas.
    pub brokers: String,
    /// Where the run's commands go.
    pub commands: String,
    /// Where accepted commands show.
    pub events: String,
    /// Where refused commands show.
    pub dead_letters: String,
    /// Properties of librdkafka.
    pub properties: Vec<(String, String)>,
}

/// What the brokers said to the run's messages, warm-up included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Deliveries {
    /// Messages that the brokers acknowledged.
    pub delivered: u64,
    /// Messages that were given up, by reason. Their commands may be in the topic all the same.
    pub failed: BTreeMap<String, u64>,
    /// From the handing over to the acknowledgement.
    pub latency: Percentiles,
}

impl KafkaTarget {
    /// The topics `PREFIX.REALM.…` of a `kafka://` address; `None` for an address of another kind.
    ///
    /// # Errors
    /// When the address names no broker, or a property is no NAME=VALUE, or names a variable that
    /// is not set.
    pub fn parse(
        target: &str,
        prefix: &str,
        realm: &str,
        properties: &[String],
    ) -> Result<Option<KafkaTarget>, LoadError> {
        let Some(brokers) = target.strip_prefix(SCHEME) else {
            return Ok(None);
        };
        let is_broker = |broker: &str| {
            let port = broker.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
            matches!(port, Some(Ok(_)))
        };
        if !brokers.split(',').all(is_broker) {
            return Err(LoadError::Arguments(format!(
                "--target {target}: brokers look like kafka://127.0.0.1:19092, several kafka://one:9092,two:9092"
            )));
        }
        let properties = properties.iter().map(|one| {
            let (name, value) = one.split_once('=').ok_or_else(|| {
                LoadError::Arguments(format!("--kafka-property {one}: it is no NAME=VALUE"))
            })?;
            let value = match value.strip_prefix("env:") {
                None => value.to_owned(),
                Some(variable) => std::env::var(variable).map_err(|error| {
                    LoadError::Arguments(format!("--kafka-property {one}: {variable}: {error}"))
                })?,
            };
            Ok((name.to_owned(), value))
        });
        let topic = |what: &str| format!("{prefix}.{realm}.{what}");
        Ok(Some(KafkaTarget {
            brokers: brokers.to_owned(),
            commands: topic("commands"),
            events: topic("events"),
            dead_letters: topic("dead-letters"),
            properties: properties.collect::<Result<_, LoadError>>()?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kafka_address_names_the_topics_of_its_realm_and_others_are_none() {
        let parse = |target: &str, properties: &[&str]| {
            let properties: Vec<String> = properties.iter().map(|one| (*one).into()).collect();
            KafkaTarget::parse(target, "karat", "main", &properties)
        };
        assert_eq!(parse("http://127.0.0.1:7400", &[]).unwrap(), None);
        let found = parse("kafka://a:9092,b:9093", &["linger.ms=5"]).unwrap();
        let found = found.unwrap();
        assert_eq!(found.brokers, "a:9092,b:9093");
        assert_eq!(found.dead_letters, "karat.main.dead-letters");
        assert_eq!(found.properties, [("linger.ms".into(), "5".into())]);
        for (target, property, reason) in [
            ("kafka://", "a=b", "brokers look like"),
            ("kafka://a", "a=b", "brokers look like"),
            ("kafka://a:9092,", "a=b", "brokers look like"),
            ("kafka://a:9092", "linger", "no NAME=VALUE"),
            (
                "kafka://a:9092",
                "x=env:KARAT_NOT_SET_ANYWHERE",
                "not found",
            ),
        ] {
            let error = parse(target, &[property]).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
