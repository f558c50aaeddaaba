//! Apache Kafka as the log: its settings and their ranges.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ConfigError, in_topic};

/// Apache Kafka as the log.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaSettings {
    /// Brokers to begin with, `host:port`, separated by commas.
    pub brokers: String,
    /// The log's topic is `<prefix>.<realm>.log`.
    pub topic_prefix: String,
    /// Copies of a topic that is made.
    pub replication: i32,
    /// Copies that must have a block before it is acknowledged, at least.
    pub min_insync_replicas: i32,
    /// none, gzip, lz4 or snappy.
    pub compression: String,
    /// A block that no broker acknowledges for so long stops the engine.
    pub acknowledge_wait_ms: u64,
    /// How long a start waits for the brokers.
    pub open_wait_ms: u64,
    /// A leader gives a sign of life this often.
    pub heartbeat_ms: u64,
    /// A follower that has seen no sign for so long bids for the realm.
    pub lease_ms: u64,
    /// Commands are read from `<prefix>.<realm>.commands`.
    pub commands: bool,
    /// Events are published to `<prefix>.<realm>.events`.
    pub events: bool,
    /// plaintext, ssl, sasl_plaintext or sasl_ssl.
    pub security_protocol: String,
    /// How an engine says who it is, with sasl_*: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
    pub sasl_mechanism: String,
    /// Who it is.
    pub sasl_username: String,
    /// The file that holds the password; empty for none.
    pub sasl_password_file: PathBuf,
    /// The file with the certificates of those who may sign the brokers' ones; empty for the system's.
    pub ca_file: PathBuf,
    /// Further properties of librdkafka; a value `env:NAME` is read from the environment.
    pub properties: BTreeMap<String, String>,
}

impl Default for KafkaSettings {
    fn default() -> KafkaSettings {
        KafkaSettings {
            brokers: "127.0.0.1:9092".into(),
            topic_prefix: "karat".into(),
            replication: 1,
            min_insync_replicas: 1,
            compression: "none".into(),
            acknowledge_wait_ms: 300_000,
            open_wait_ms: 60_000,
            heartbeat_ms: 150,
            lease_ms: 600,
            commands: false,
            events: false,
            security_protocol: "plaintext".into(),
            sasl_mechanism: "PLAIN".into(),
            sasl_username: String::new(),
            sasl_password_file: PathBuf::new(),
            ca_file: PathBuf::new(),
            properties: BTreeMap::new(),
        }
    }
}

fn refuse(key: &'static str, found: &str, expected: &str) -> Result<(), ConfigError> {
    Err(ConfigError::OutOfRange {
        key,
        found: found.to_owned(),
        expected: expected.to_owned(),
    })
}

impl KafkaSettings {
    /// Checks what is no number.
    ///
    /// # Errors
    /// The first value that is out of its range.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        // Kafka takes names of at most 249 bytes; the longest suffix of a topic here has 13.
        if !in_topic(&self.topic_prefix) || self.topic_prefix.len() > 128 {
            let expected = "1 to 128 letters, digits, dots, hyphens and underscores";
            return refuse("log.kafka.topic_prefix", &self.topic_prefix, expected);
        }
        if !["none", "gzip", "lz4", "snappy"].contains(&self.compression.as_str()) {
            let expected = "none, gzip, lz4 or snappy";
            return refuse("log.kafka.compression", &self.compression, expected);
        }
        self.check_security(cfg!(feature = "kafka-tls"))
    }

    /// Checks how the brokers are reached, for a build that `has_tls` or not.
    fn check_security(&self, has_tls: bool) -> Result<(), ConfigError> {
        let protocol = self.security_protocol.as_str();
        if !["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"].contains(&protocol) {
            let expected = "plaintext, ssl, sasl_plaintext or sasl_ssl";
            return refuse("log.kafka.security_protocol", protocol, expected);
        }
        let (signs_in, encrypts) = (protocol.starts_with("sasl_"), protocol.ends_with("ssl"));
        if encrypts && !has_tls {
            let expected = "this build has no TLS: build with `--features kafka-tls`; plaintext and sasl_plaintext need none";
            return refuse("log.kafka.security_protocol", protocol, expected);
        }
        let mechanism = self.sasl_mechanism.as_str();
        if !["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].contains(&mechanism) {
            let expected = "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512";
            return refuse("log.kafka.sasl_mechanism", mechanism, expected);
        }
        if signs_in && mechanism != "PLAIN" && !has_tls {
            let expected = "this build has no SCRAM, which needs OpenSSL: build with `--features kafka-tls`; PLAIN needs none";
            return refuse("log.kafka.sasl_mechanism", mechanism, expected);
        }
        let password_file = self.sasl_password_file.display().to_string();
        for (key, property, found) in [
            (
                "log.kafka.sasl_username",
                "sasl.username",
                &self.sasl_username,
            ),
            (
                "log.kafka.sasl_password_file",
                "sasl.password",
                &password_file,
            ),
        ] {
            if !signs_in && !found.is_empty() {
                let expected = "it counts only where log.kafka.security_protocol is sasl_plaintext or sasl_ssl";
                return refuse(key, found, expected);
            }
            if signs_in && found.is_empty() && !self.properties.contains_key(property) {
                let expected =
                    format!("{protocol} needs it, or \"{property}\" under [log.kafka.properties]");
                return refuse(key, "empty", &expected);
            }
        }
        if !encrypts && !self.ca_file.as_os_str().is_empty() {
            let found = self.ca_file.display().to_string();
            let expected = "it counts only where log.kafka.security_protocol is ssl or sasl_ssl";
            return refuse("log.kafka.ca_file", &found, expected);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed_in(protocol: &str) -> KafkaSettings {
        KafkaSettings {
            security_protocol: protocol.into(),
            sasl_username: "karat".into(),
            sasl_password_file: "password".into(),
            ..KafkaSettings::default()
        }
    }

    fn refusal(settings: &KafkaSettings, has_tls: bool) -> String {
        settings.check_security(has_tls).unwrap_err().to_string()
    }

    #[test]
    fn every_way_to_the_brokers_is_taken_by_a_build_that_has_it() {
        let encrypted = |settings: KafkaSettings| KafkaSettings {
            ca_file: "ca.pem".into(),
            ..settings
        };
        let plain = KafkaSettings::default();
        plain.check_security(false).unwrap();
        signed_in("sasl_plaintext").check_security(false).unwrap();
        let ssl = KafkaSettings {
            security_protocol: "ssl".into(),
            ..plain
        };
        ssl.check_security(true).unwrap();
        encrypted(ssl).check_security(true).unwrap();
        for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let settings = KafkaSettings {
                sasl_mechanism: mechanism.into(),
                ..encrypted(signed_in("sasl_ssl"))
            };
            settings.check_security(true).unwrap();
        }
    }

    #[test]
    fn a_build_without_openssl_says_which_feature_has_what_was_asked_for() {
        let scram = KafkaSettings {
            sasl_mechanism: "SCRAM-SHA-512".into(),
            ..signed_in("sasl_plaintext")
        };
        for settings in [signed_in("sasl_ssl"), scram] {
            let told = refusal(&settings, false);
            assert!(told.contains("--features kafka-tls"), "{told}");
            settings.check_security(true).unwrap();
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused_by_its_key() {
        let with = |change: fn(&mut KafkaSettings)| {
            let mut settings = KafkaSettings::default();
            change(&mut settings);
            refusal(&settings, true)
        };
        type Change = fn(&mut KafkaSettings);
        for (key, change) in [
            (
                "security_protocol",
                (|one| one.security_protocol = "tls".into()) as Change,
            ),
            ("sasl_mechanism", |one| one.sasl_mechanism = "plain".into()),
            ("sasl_username", |one| one.sasl_username = "karat".into()),
            ("sasl_password_file", |one| {
                one.sasl_password_file = "password".into();
            }),
            ("ca_file", |one| one.ca_file = "ca.pem".into()),
            ("sasl_username", |one| {
                one.security_protocol = "sasl_plaintext".into();
            }),
            ("sasl_password_file", |one| {
                one.security_protocol = "sasl_plaintext".into();
                one.sasl_username = "karat".into();
            }),
        ] {
            let told = with(change);
            assert!(told.contains(&format!("log.kafka.{key} ")), "{told}");
        }
    }

    #[test]
    fn a_password_may_come_from_the_environment_instead_of_a_file() {
        let mut settings = signed_in("sasl_plaintext");
        settings.sasl_password_file = PathBuf::new();
        settings
            .properties
            .insert("sasl.password".into(), "env:PASSWORD".into());
        settings.check_security(false).unwrap();
    }
}
