//! Who may get in: passwords, certificates and rights, on a real broker that `deploy/kafka/start.sh --sasl --tls` started.
//! `KARAT_KAFKA` says where it is, `KARAT_KAFKA_SECURITY` names the folder `security` in its own. A build without
//! `kafka-tls` tries what it has.
#![cfg(feature = "kafka")]
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../../sequencer/tests/common/broker.rs"]
mod broker;
mod common;

use std::path::PathBuf;
use std::time::Duration;

use broker::{address, is_there};
use common::{Realm, account, eventually};
use karat_engine::config::{Config, KafkaSettings};
use karat_engine::realm_log::{kafka_config, log_topic};
use karat_proto::v1;
use karat_sequencer::{KafkaError, KafkaLog};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

const TLS: bool = cfg!(feature = "kafka-tls");

/// The ways in, by the distance of their ports from the plain one.
const SASL: u16 = 2;
const SSL: u16 = 3;
const SASL_SSL: u16 = 4;

/// The folder with passwords and certificates; without one the test says that it was skipped.
fn security() -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("KARAT_KAFKA_SECURITY") else {
        println!(
            "skipped: KARAT_KAFKA_SECURITY names no broker's folder with passwords and certificates"
        );
        return None;
    };
    is_there().then(|| folder.into())
}

/// Settings for a realm of its own, by one of the ways in.
fn by(way: u16) -> KafkaSettings {
    let plain = address();
    let (host, port) = plain.rsplit_once(':').unwrap();
    let port: u16 = port.parse().unwrap();
    KafkaSettings {
        brokers: format!("{host}:{}", port + way),
        ..KafkaSettings::default()
    }
}

/// The user karat, who may do everything.
fn signed_in(way: u16, mechanism: &str) -> KafkaSettings {
    let protocol = if way == SASL {
        "sasl_plaintext"
    } else {
        "sasl_ssl"
    };
    let settings = KafkaSettings {
        security_protocol: protocol.into(),
        sasl_mechanism: mechanism.into(),
        sasl_username: "karat".into(),
        sasl_password_file: security().unwrap().join("password"),
        ..by(way)
    };
    if way == SASL {
        settings
    } else {
        trusting(settings)
    }
}

/// Believes who signed the broker's certificate.
fn trusting(settings: KafkaSettings) -> KafkaSettings {
    KafkaSettings {
        ca_file: security().unwrap().join("ca.pem"),
        ..settings
    }
}

fn encrypted() -> KafkaSettings {
    trusting(KafkaSettings {
        security_protocol: "ssl".into(),
        ..by(SSL)
    })
}

/// A realm that nobody else uses.
fn realm() -> String {
    format!("test-{:016x}", rand::random::<u64>())
}

fn lead(settings: &KafkaSettings) -> Result<KafkaLog, KafkaError> {
    let realm = realm();
    let checked = Config {
        log: karat_engine::config::LogConfig {
            kind: "kafka".into(),
            kafka: settings.clone(),
            ..Default::default()
        },
        ..Config::default()
    };
    checked.check().unwrap();
    let config = kafka_config(settings, &log_topic(settings, &realm)).unwrap();
    KafkaLog::lead(config, &realm, 1).map(|(log, _)| log)
}

/// Refused by whom it may concern, and not because the wait was over.
fn refused(settings: &KafkaSettings) -> String {
    // Longer than any test would wait.
    let patient = KafkaSettings {
        open_wait_ms: 86_400_000,
        ..settings.clone()
    };
    let error = lead(&patient).err().unwrap();
    assert!(matches!(error, KafkaError::Refused { .. }), "{error}");
    error.to_string()
}

#[test]
fn every_way_in_that_this_build_has_leads_to_a_log() {
    if security().is_none() {
        return;
    }
    let mut ways = vec![by(0), signed_in(SASL, "PLAIN")];
    if TLS {
        ways.push(encrypted());
        for way in [SASL, SASL_SSL] {
            for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
                ways.push(signed_in(way, mechanism));
            }
        }
    }
    for settings in ways {
        let way = format!("{} {}", settings.security_protocol, settings.sasl_mechanism);
        lead(&settings).unwrap_or_else(|error| panic!("{way}: {error}"));
    }
}

#[test]
fn a_wrong_password_and_an_unknown_user_are_refused_with_what_the_broker_said() {
    let Some(folder) = security() else { return };
    let mut ways = vec![(SASL, "PLAIN")];
    if TLS {
        ways.extend([(SASL, "SCRAM-SHA-256"), (SASL_SSL, "SCRAM-SHA-512")]);
    }
    for (way, mechanism) in ways {
        let wrong = KafkaSettings {
            // Somebody else's.
            sasl_password_file: folder.join("guest-password"),
            ..signed_in(way, mechanism)
        };
        let told = refused(&wrong).to_lowercase();
        assert!(
            told.contains("authentication failed"),
            "{mechanism}: {told}"
        );
    }
    let unknown = KafkaSettings {
        sasl_username: "nobody".into(),
        ..signed_in(SASL, "PLAIN")
    };
    let told = refused(&unknown).to_lowercase();
    assert!(told.contains("authentication failed"), "{told}");
}

#[test]
fn a_broker_whose_certificate_nobody_vouches_for_is_not_believed() {
    let Some(folder) = security().filter(|_| TLS) else {
        return;
    };
    let told = refused(&KafkaSettings {
        ca_file: folder.join("other-ca.pem"),
        ..encrypted()
    });
    assert!(told.contains("certificate verify failed"), "{told}");
}

#[test]
fn a_port_that_speaks_something_else_is_named_with_the_clients_guess_within_the_bound() {
    if security().is_none() {
        return;
    }
    // In the clear to a port that wants TLS: the broker hangs up and says nothing.
    let settings = KafkaSettings {
        open_wait_ms: 3000,
        ..by(SSL)
    };
    let error = lead(&settings).err().unwrap();
    assert!(
        matches!(
            error,
            KafkaError::Unreachable {
                waited_ms: 3000,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("wants TLS"), "{error}");
    if TLS {
        // And the other way round.
        let settings = KafkaSettings {
            brokers: by(0).brokers,
            open_wait_ms: 3000,
            ..encrypted()
        };
        let told = lead(&settings).err().unwrap().to_string();
        assert!(told.contains("SSL handshake failed"), "{told}");
    }
}

#[test]
fn a_user_without_rights_is_told_which_topic_it_may_not_see() {
    let Some(folder) = security() else { return };
    let told = refused(&KafkaSettings {
        sasl_username: "guest".into(),
        sasl_password_file: folder.join("guest-password"),
        ..signed_in(SASL, "PLAIN")
    });
    assert!(told.contains("may not describe topic"), "{told}");
}

/// Lets the user guest do so much with a topic, and nothing else.
fn allow_guest(topic: &str, operations: &[&str]) {
    let jars = std::env::var("KARAT_KAFKA_JARS")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../.parts/kafka-jars").into());
    let mut java = std::process::Command::new("java");
    java.args(["-cp", &format!("{jars}/*")])
        .arg("org.apache.kafka.tools.AclCommand")
        .args(["--bootstrap-server", &address()])
        .args(["--add", "--allow-principal", "User:guest", "--topic", topic]);
    for operation in operations {
        java.args(["--operation", operation]);
    }
    let output = java.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn brokers_that_give_no_producer_id_for_idempotence_are_named_and_nothing_leads() {
    let Some(folder) = security() else { return };
    let realm = realm();
    let plain = by(0);
    let topic = log_topic(&plain, &realm);
    let config = |settings: &KafkaSettings| kafka_config(settings, &topic).unwrap();
    let (_, before) = KafkaLog::lead(config(&plain), &realm, 1).unwrap();
    // May read all of it and write nothing, so that it gets no producer id.
    allow_guest(&topic, &["Read", "Describe", "DescribeConfigs"]);
    let guest = KafkaSettings {
        sasl_username: "guest".into(),
        sasl_password_file: folder.join("guest-password"),
        // Longer than any test would wait.
        open_wait_ms: 86_400_000,
        ..signed_in(SASL, "PLAIN")
    };
    let error = KafkaLog::lead(config(&guest), &realm, 1)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("the client has given up"), "{error}");
    assert!(error.contains("idempotence"), "{error}");
    let (_, after) = KafkaLog::read_only(config(&guest)).unwrap();
    assert_eq!((after.epoch, after.blocks), (before.epoch, before.blocks));
}

#[test]
fn a_password_file_that_is_empty_or_absent_is_named_before_anybody_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    let settings = KafkaSettings {
        security_protocol: "sasl_plaintext".into(),
        sasl_username: "karat".into(),
        sasl_password_file: file.clone(),
        ..KafkaSettings::default()
    };
    let told = || match kafka_config(&settings, "topic") {
        Ok(_) => panic!("taken"),
        Err(error) => error.to_string(),
    };
    assert!(told().contains(file.to_str().unwrap()), "{}", told());
    std::fs::write(&file, "\n").unwrap();
    assert!(told().contains("it is empty"), "{}", told());
    std::fs::write(&file, "secret\r\n").unwrap();
    let config = kafka_config(&settings, "topic").unwrap();
    assert_eq!(config.properties["sasl.password"], "secret");
    assert!(!format!("{config:?}").contains("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_realm_and_all_its_topics_are_reached_by_the_configured_way() {
    if security().is_none() {
        return;
    }
    let settings = match TLS {
        true => signed_in(SASL_SSL, "SCRAM-SHA-512"),
        false => signed_in(SASL, "PLAIN"),
    };
    let change = |config: &mut Config| {
        config.realm.name = realm();
        config.log.kind = "kafka".into();
        config.log.kafka = KafkaSettings {
            commands: true,
            events: true,
            ..settings.clone()
        };
    };
    let mut realm = Realm::start_with(change).await;
    realm.deposit("player", 7).await;
    let name = realm.config.realm.name.clone();
    // Looked at by the plain way: the broker is the same.
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address())
        .create()
        .unwrap();
    for topic in ["log", "leader", "commands", "dead-letters", "events"] {
        let topic = format!("karat.{name}.{topic}");
        eventually("the topic", || {
            let found = consumer.fetch_metadata(Some(&topic), Duration::from_secs(30));
            async move { found.ok()?.topics()[0].error().is_none().then_some(()) }
        })
        .await;
    }
    let request = v1::GetAccountRequest {
        account: account("player"),
    };
    let found = realm.ledger.get_account(request).await.unwrap();
    assert_eq!(found.into_inner().balance, 7);
    let stopped = realm.stop().await;

    // Tools take the way from the same configuration.
    let file = stopped.data().join("../way.toml");
    std::fs::write(&file, toml::to_string(&stopped.config).unwrap()).unwrap();
    let karat = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_karat"))
            .args(arguments)
            .arg("--config")
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
    };
    let topic = format!("kafka://{}/karat.{name}.log", settings.brokers);
    karat(&["log", "verify", &topic]);
    karat(&["dlq", "list"]);
}
