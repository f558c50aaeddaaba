//! The lease: a leader gives signs of life, followers watch for them.
//!
//! Signs are on a topic of their own, `<prefix>.<realm>.leader`, which keeps an hour of them. In the log they would stay
//! for ever: at five a second about 50 MB a day of an idle realm, all of it read at every start. The lease only says when a
//! follower bids; who leads is decided by the log's epochs, so a lease that ends too early costs a change of leaders and
//! nothing else.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use karat_sequencer::{Progress, Waiting};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use super::topics::{Topics, TopicsError};
use super::{KafkaPartError, SCHEMA, SCHEMA_HEADER};
use crate::config::KafkaSettings;
use crate::role::RealmRole;

/// How long a leader that stops waits until its last sign is out.
const LAST_SIGN_WAIT: Duration = Duration::from_secs(1);
/// Followers bid at most so much apart when a leader has said goodbye; a bid takes a few milliseconds.
const GOODBYE_WAIT_MAX: Duration = Duration::from_millis(50);
/// Signs are kept this long, for people who look; a follower needs the last one only.
const KEPT: [(&str, &str); 2] = [("retention.ms", "3600000"), ("segment.ms", "600000")];

/// A sign of life, as JSON on the topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sign {
    /// The leader's epoch: signs of a leader that was replaced are passed over.
    pub epoch: u64,
    /// Where clients reach it, HOST:PORT.
    pub address: String,
    /// The last sequence that is in its log.
    pub sequence: u64,
    /// It has written its last block, and anybody may lead at once.
    pub leaving: bool,
}

/// A leader's side: what it says of itself.
pub struct Leader {
    /// Its epoch.
    pub epoch: u64,
    /// Where clients reach it.
    pub address: String,
    /// The progress of its log.
    pub progress: Arc<Progress>,
    /// How long a block has waited for the log.
    pub waiting: Waiting,
}

/// Makes the topic of signs if it is not there.
///
/// # Errors
/// When it cannot be made.
pub fn ensure_topic(settings: &KafkaSettings, realm: &str) -> Result<(), KafkaPartError> {
    let topics = super::topics(settings, realm)?;
    Ok(topics.ensure_with(&topics.leader, 1, &KEPT)?)
}

/// Starts giving signs of life, on a topic that is there, until the leader leaves, its log fails, or the role is gone.
///
/// # Errors
/// When no client can be made or no thread be started.
pub fn give_signs(
    settings: &KafkaSettings,
    realm: &str,
    role: &Arc<RealmRole>,
    leader: Leader,
) -> Result<(), KafkaPartError> {
    let topics = super::topics(settings, realm)?;
    let lease_ms = settings.lease_ms.max(1000);
    let producer: BaseProducer = topics
        .client()
        .set("acks", "1")
        .set("linger.ms", "0")
        // A sign that is late says nothing any more.
        .set("message.timeout.ms", lease_ms.to_string())
        .create()
        .map_err(TopicsError::Client)?;
    let giver = Giver {
        topics,
        producer,
        leader,
        lease: Duration::from_millis(settings.lease_ms),
        pause: Duration::from_millis(settings.heartbeat_ms),
    };
    let weak = Arc::downgrade(role);
    let thread = std::thread::Builder::new()
        .name("karat-lease".to_owned())
        .spawn(move || giver.run(&weak))
        .map_err(|_| KafkaPartError::Thread("the lease"))?;
    role.keep_lease(thread);
    Ok(())
}

struct Giver {
    topics: Topics,
    producer: BaseProducer,
    leader: Leader,
    lease: Duration,
    pause: Duration,
}

impl Giver {
    fn run(&self, role: &Weak<RealmRole>) {
        loop {
            let Some(leaving) = role.upgrade().map(|role| role.has_left()) else {
                return;
            };
            // A leader whose log has failed writes nothing any more, so nobody needs to wait for it. One that closes its
            // log poisons it as well, but says goodbye.
            if self.leader.progress.is_poisoned() && !leaving {
                return;
            }
            // One that can write signs and not its log leads nobody: it says nothing until its log takes blocks again.
            let is_stuck = (self.leader.waiting)().is_some_and(|age| age > self.lease);
            if leaving || !is_stuck {
                self.give(leaving);
            }
            if leaving {
                if self.producer.flush(LAST_SIGN_WAIT).is_err() {
                    tracing::debug!(
                        "the last sign of life is not out; followers wait for the lease"
                    );
                }
                return;
            }
            self.producer.poll(Duration::ZERO);
            std::thread::park_timeout(self.pause);
        }
    }

    fn give(&self, leaving: bool) {
        let sign = Sign {
            epoch: self.leader.epoch,
            address: self.leader.address.clone(),
            sequence: self.leader.progress.positions().appended_seq,
            leaving,
        };
        let Ok(payload) = serde_json::to_vec(&sign) else {
            return;
        };
        let headers = OwnedHeaders::new_with_capacity(1).insert(Header {
            key: SCHEMA_HEADER,
            value: Some(SCHEMA),
        });
        let record: BaseRecord<'_, (), [u8]> = BaseRecord::to(&self.topics.leader)
            .partition(0)
            .payload(payload.as_slice())
            .headers(headers);
        if let Err((error, _)) = self.producer.send(record) {
            // The next one comes soon; without any, a follower takes over, which is safe.
            tracing::debug!(%error, "a sign of life was not sent");
        }
    }
}

/// A follower's side: the signs that come.
pub struct Signs {
    topics: Topics,
    consumer: BaseConsumer,
    /// Asks where the topic ends: on the other one's connection a question waits as long as its open request.
    asker: BaseConsumer,
    next_offset: i64,
}

impl Signs {
    /// Begins with the last sign that is there.
    ///
    /// # Errors
    /// When the topic cannot be made or read.
    pub fn open(settings: &KafkaSettings, realm: &str) -> Result<Signs, KafkaPartError> {
        ensure_topic(settings, realm)?;
        let topics = super::topics(settings, realm)?;
        let mut signs = Signs {
            consumer: topics.tail_consumer()?,
            asker: topics.consumer()?,
            topics,
            next_offset: 0,
        };
        signs.begin_at_last()?;
        Ok(signs)
    }

    fn begin_at_last(&mut self) -> Result<(), KafkaPartError> {
        let partitions = self.topics.partitions(&self.asker, &self.topics.leader)?;
        let failed = |reason: String| KafkaPartError::Read {
            topic: self.topics.leader.clone(),
            reason,
        };
        let Some((_, low, high)) = partitions.first() else {
            return Err(failed("it has no partition".to_owned()));
        };
        let next_offset = (high - 1).max(*low);
        let mut place = TopicPartitionList::with_capacity(1);
        place
            .add_partition_offset(&self.topics.leader, 0, Offset::Offset(next_offset))
            .and_then(|()| self.consumer.assign(&place))
            .map_err(|error| failed(error.to_string()))?;
        self.next_offset = next_offset;
        Ok(())
    }

    /// The newest of the signs that came since the last call, of the newest leader among them; what is no sign is passed over.
    ///
    /// # Errors
    /// When the topic cannot be read any more.
    pub fn newest(&mut self) -> Result<Option<Sign>, KafkaPartError> {
        let mut newest: Option<Sign> = None;
        let mut failed = None;
        while let Some(polled) = self.consumer.poll(Duration::ZERO) {
            match polled {
                Ok(message) => {
                    self.next_offset = message.offset() + 1;
                    let payload = message.payload().unwrap_or_default();
                    match serde_json::from_slice::<Sign>(payload) {
                        Ok(sign) => {
                            let replaced =
                                newest.as_ref().is_some_and(|one| one.epoch > sign.epoch);
                            if !replaced {
                                newest = Some(sign);
                            }
                        }
                        Err(error) => {
                            tracing::warn!(topic = %self.topics.leader, %error, "a message that is no sign of life");
                        }
                    }
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        match failed {
            None => {}
            // Retention or a topic made again took the place that was next.
            Some(error) if super::topics::place_is_gone(&error) => self.begin_at_last()?,
            Some(error) => tracing::debug!(%error, "reading signs of life is interrupted"),
        }
        Ok(newest)
    }

    /// Asks the broker whether every sign was read. `None` when it did not answer in time.
    pub fn is_at_end(&self, wait_max: Duration) -> Option<bool> {
        let asked = self
            .asker
            .fetch_watermarks(&self.topics.leader, 0, wait_max);
        asked.ok().map(|(_, high)| high <= self.next_offset)
    }
}

/// How long a follower goes on waiting for a leader that gives no sign.
pub struct Patience {
    lease: Duration,
    wait: Duration,
    since: Instant,
}

impl Patience {
    /// Begins to wait.
    pub fn new(lease_ms: u64) -> Patience {
        let mut patience = Patience {
            lease: Duration::from_millis(lease_ms),
            wait: Duration::ZERO,
            since: Instant::now(),
        };
        patience.renew();
        patience
    }

    /// The leader lives: waits anew, the lease and up to an eighth of it, so that of many followers one bids first.
    pub fn renew(&mut self) {
        self.since = Instant::now();
        self.wait = self.lease + self.lease.mul_f64(rand::random::<f64>() / 8.0);
    }

    /// The leader has said goodbye: waits only so long that of many followers one bids first.
    pub fn end_soon(&mut self) {
        self.since = Instant::now();
        self.wait = (self.lease / 8)
            .min(GOODBYE_WAIT_MAX)
            .mul_f64(rand::random::<f64>());
    }

    /// Whether it has waited long enough.
    pub fn is_over(&self) -> bool {
        self.since.elapsed() >= self.wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_survives_its_message() {
        let sign = Sign {
            epoch: 3,
            address: "127.0.0.1:7400".into(),
            sequence: 17,
            leaving: true,
        };
        let message = serde_json::to_vec(&sign).unwrap();
        assert_eq!(serde_json::from_slice::<Sign>(&message).unwrap(), sign);
        assert!(serde_json::from_slice::<Sign>(b"karat").is_err());
    }

    #[test]
    fn patience_lasts_the_lease_and_at_most_an_eighth_more() {
        for _ in 0..1000 {
            let mut patience = Patience::new(800);
            let kept = |patience: &Patience| patience.wait.as_millis();
            assert!((800..=900).contains(&kept(&patience)));
            patience.end_soon();
            assert!(kept(&patience) <= 50);
        }
    }
}
