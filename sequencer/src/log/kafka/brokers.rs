//! Waiting for the brokers, and what stands between them and this client.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, NoCustomPartitioner, Producer, ProducerContext};

use super::config::{KafkaConfig, end_aside};
use super::error::KafkaError;

/// How long one question to a broker may take.
pub(super) const QUESTION: Duration = Duration::from_secs(5);
/// How often a wait for the brokers is spoken of.
const SPEAK: Duration = Duration::from_secs(5);
/// A client that is not let in tries again for so long: a user who was just made is known to every broker a moment later.
const REFUSED_WAIT: Duration = Duration::from_secs(2);
/// Questions of a client that is not let in are not answered; so long for each.
const REFUSED_QUESTION: Duration = Duration::from_secs(1);
/// What the client has to say is taken in steps; more than a few at a time are never there.
const SAYINGS_MAX: usize = 100;

/// What a client last said of its connections, and since when it is not let in.
#[derive(Default)]
pub(super) struct Complaints(Mutex<Said>);

#[derive(Default)]
struct Said {
    last: Option<String>,
    refused: Option<(Instant, String)>,
}

impl Complaints {
    /// Notes what the client said.
    pub(super) fn note(&self, error: &ClientError, reason: &str) {
        let code = error.rdkafka_error_code();
        // That all brokers are down only follows from what was said of each.
        if code == Some(RDKafkaErrorCode::AllBrokersDown) {
            return;
        }
        let mut said = self.0.lock();
        said.last = Some(reason.to_owned());
        let refused = matches!(
            code,
            Some(
                RDKafkaErrorCode::Authentication
                    | RDKafkaErrorCode::SaslAuthenticationFailed
                    | RDKafkaErrorCode::SSL
            )
        );
        if refused {
            said.refused
                .get_or_insert_with(|| (Instant::now(), reason.to_owned()));
        }
    }

    /// What was said last, behind an error.
    pub(super) fn beside(&self, error: impl std::fmt::Display) -> String {
        match &self.0.lock().last {
            None => error.to_string(),
            Some(last) => format!("{error}; the client's last word: {last}"),
        }
    }

    fn refused_for(&self, least: Duration) -> Option<String> {
        let said = self.0.lock();
        let (_, reason) = said
            .refused
            .as_ref()
            .filter(|one| one.0.elapsed() >= least)?;
        Some(reason.clone())
    }
}

/// A broker says nothing to who speaks another protocol: it hangs up.
fn with_guess(message: &str) -> String {
    match message.contains("Disconnected") {
        true => format!("{message}; perhaps this port wants TLS or a password (security_protocol)"),
        false => message.to_owned(),
    }
}

impl ClientContext for Complaints {
    /// A connection that failed is often a matter of information to the client, and only this says what it guesses.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "FAIL" {
            self.0.lock().last = Some(with_guess(message));
            return;
        }
        match level {
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {}
            _ => tracing::warn!(facility, message, "Kafka"),
        }
    }

    fn error(&self, error: ClientError, reason: &str) {
        self.note(&error, reason);
    }
}

impl ProducerContext<NoCustomPartitioner> for Complaints {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &rdkafka::producer::DeliveryResult<'_>, (): ()) {}
}

/// Brokers that are asked about a topic. Not an admin client: that one keeps what it is told to itself.
pub(super) struct Brokers<'a> {
    config: &'a KafkaConfig,
    client: BaseProducer<Complaints>,
}

impl<'a> Brokers<'a> {
    pub(super) fn new(config: &'a KafkaConfig) -> Result<Self, KafkaError> {
        let client = config
            .client()
            .set_log_level(RDKafkaLogLevel::Info)
            .create_with_context(Complaints::default())
            .map_err(|source| KafkaError::Client {
                brokers: config.brokers.clone(),
                source,
            })?;
        Ok(Self { config, client })
    }

    /// Ends the client.
    pub(super) fn end(self) {
        end_aside(self.client);
    }

    /// The count of the topic's partitions; `None` if there is no such topic. Waits for the brokers at most the configured
    /// time, and only a few seconds for some that do not let this client in.
    pub(super) fn partitions(&self) -> Result<Option<usize>, KafkaError> {
        let config = self.config;
        let complaints = self.client.context();
        let started = Instant::now();
        let mut spoken = started;
        loop {
            let left = config
                .open_wait_max
                .saturating_sub(started.elapsed())
                .max(Duration::from_millis(1));
            let question = match complaints.refused_for(Duration::ZERO) {
                None => QUESTION,
                Some(_) => REFUSED_QUESTION,
            };
            let cause = match self.ask(left.min(question)) {
                Ok(partitions) => return Ok(partitions),
                Err(cause) => cause,
            };
            for _ in 0..SAYINGS_MAX {
                self.client.poll(Duration::ZERO);
            }
            let code = cause.rdkafka_error_code();
            let refused = match code {
                Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                    let topic = &config.topic;
                    Some(format!("it may not describe topic {topic} ({cause})"))
                }
                _ => complaints.refused_for(REFUSED_WAIT.min(config.open_wait_max)),
            };
            if let Some(reason) = refused {
                return Err(KafkaError::Refused {
                    brokers: config.brokers.clone(),
                    reason,
                });
            }
            if started.elapsed() >= config.open_wait_max {
                let waited_ms = u64::try_from(config.open_wait_max.as_millis()).unwrap_or(u64::MAX);
                return Err(KafkaError::Unreachable {
                    brokers: config.brokers.clone(),
                    waited_ms,
                    cause: complaints.beside(cause),
                });
            }
            if spoken.elapsed() >= SPEAK {
                spoken = Instant::now();
                let cause = complaints.beside(cause);
                tracing::warn!(brokers = %config.brokers, cause, "waiting for Kafka");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn ask(&self, wait_max: Duration) -> Result<Option<usize>, ClientError> {
        let topic = &self.config.topic;
        let metadata = self.client.client().fetch_metadata(Some(topic), wait_max)?;
        let Some(found) = metadata.topics().iter().find(|one| one.name() == topic) else {
            return Ok(None);
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None => Ok(Some(found.partitions().len())),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                Ok(None)
            }
            // A leader is being elected, for instance.
            Some(code) => Err(ClientError::MetadataFetch(code)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_client_that_is_not_let_in_is_refused_and_the_last_word_is_kept() {
        let complaints = Complaints::default();
        let say = |code, reason| complaints.note(&ClientError::Global(code), reason);
        assert_eq!(complaints.beside("late"), "late");
        say(RDKafkaErrorCode::BrokerTransportFailure, "connect: refused");
        say(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down");
        assert_eq!(
            complaints.beside("late"),
            "late; the client's last word: connect: refused"
        );
        assert_eq!(complaints.refused_for(Duration::ZERO), None);
        say(RDKafkaErrorCode::Authentication, "wrong password");
        let refused = complaints.refused_for(Duration::ZERO);
        assert_eq!(refused.as_deref(), Some("wrong password"));
        assert_eq!(complaints.refused_for(Duration::from_secs(3600)), None);
    }
}
