//! The topic of a log: found, made, or refused with everything that differs.

use std::time::{Duration, Instant};

use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;

use super::brokers::{Brokers, QUESTION};
use super::config::{KafkaConfig, end_aside};
use super::error::KafkaError;

/// The longest that the client takes as the bound of a request.
const REQUEST_MAX: Duration = Duration::from_secs(3600);

/// Waits for the brokers, makes the topic if it is not there and `make` says so, and checks its settings.
pub(super) fn ensure(config: &KafkaConfig, make: bool) -> Result<(), KafkaError> {
    let brokers = Brokers::new(config)?;
    let mut partitions = brokers.partitions()?;
    let admin: AdminClient<DefaultClientContext> =
        config
            .client()
            .create()
            .map_err(|source| KafkaError::Client {
                brokers: config.brokers.clone(),
                source,
            })?;
    if partitions.is_none() {
        if !make {
            let target = config.target();
            return Err(KafkaError::Missing { target });
        }
        create(config, &admin)?;
        // The controller has made it; the broker that is asked may learn of it a moment later.
        let deadline = Instant::now() + config.open_wait_max;
        while partitions.is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            partitions = brokers.partitions()?;
        }
    }
    let Some(partitions) = partitions else {
        let target = config.target();
        return Err(KafkaError::Missing { target });
    };
    brokers.end();
    let checked = check(config, &admin, partitions);
    end_aside(admin);
    checked
}

/// Settings that a log needs: name, value for a topic that is made, and whether another value will do.
fn settings(config: &KafkaConfig) -> [(&'static str, String); 6] {
    [
        ("cleanup.policy", "delete".to_owned()),
        ("retention.ms", "-1".to_owned()),
        ("retention.bytes", "-1".to_owned()),
        (
            "min.insync.replicas",
            config.min_insync_replicas.to_string(),
        ),
        (
            "max.message.bytes",
            // Twice, so that blocks may grow a little without a change of the topic.
            (config.message_bytes_max() * 2).to_string(),
        ),
        // As the producer sends it: compressed again on the broker it would only cost.
        ("compression.type", "producer".to_owned()),
    ]
}

fn create(
    config: &KafkaConfig,
    admin: &AdminClient<DefaultClientContext>,
) -> Result<(), KafkaError> {
    let failed = |reason: String| KafkaError::Broker {
        action: "make",
        target: config.target(),
        reason,
    };
    let settings = settings(config);
    let mut topic = NewTopic::new(
        &config.topic,
        1,
        TopicReplication::Fixed(config.replication),
    );
    for (name, value) in &settings {
        topic = topic.set(name, value);
    }
    let options = AdminOptions::new()
        .request_timeout(Some(config.open_wait_max.min(REQUEST_MAX)))
        .operation_timeout(Some(QUESTION));
    let made = block_on(admin.create_topics([&topic], &options))
        .map_err(|error| failed(error.to_string()))?;
    for one in made {
        match one {
            // Another process was faster; its settings are checked like any others.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(failed(code.to_string())),
        }
    }
    Ok(())
}

fn check(
    config: &KafkaConfig,
    admin: &AdminClient<DefaultClientContext>,
    partitions: usize,
) -> Result<(), KafkaError> {
    let failed = |reason: String| KafkaError::Broker {
        action: "read the settings of",
        target: config.target(),
        reason,
    };
    let options = AdminOptions::new().request_timeout(Some(config.open_wait_max.min(REQUEST_MAX)));
    let described =
        block_on(admin.describe_configs([&ResourceSpecifier::Topic(&config.topic)], &options))
            .map_err(|error| failed(error.to_string()))?;
    let found = match described.into_iter().next() {
        Some(Ok(found)) => found,
        Some(Err(code)) => return Err(failed(code.to_string())),
        None => return Err(failed("the broker described nothing".to_owned())),
    };
    let value = |name: &str| {
        found
            .get(name)
            .and_then(|entry| entry.value.clone())
            .unwrap_or_default()
    };
    let mut differences = Vec::new();
    if partitions != 1 {
        differences.push(format!(
            "it has {partitions} partitions, and one order needs exactly 1"
        ));
    }
    for (name, reason) in [
        ("cleanup.policy", "delete: compaction takes blocks away"),
        ("retention.ms", "-1: a log keeps everything"),
        ("retention.bytes", "-1: a log keeps everything"),
    ] {
        let (found, wanted) = (value(name), reason.split(':').next().unwrap_or_default());
        if found != wanted {
            differences.push(format!("{name} is {found}, it must be {reason}"));
        }
    }
    for (name, least) in [
        (
            "min.insync.replicas",
            u64::try_from(config.min_insync_replicas).unwrap_or(1),
        ),
        ("max.message.bytes", config.message_bytes_max() as u64),
    ] {
        let found = value(name);
        if found.parse::<u64>().is_ok_and(|found| found < least) {
            differences.push(format!("{name} is {found}, it must be at least {least}"));
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(KafkaError::Topic {
        target: config.target(),
        differences: differences.join("; "),
    })
}
