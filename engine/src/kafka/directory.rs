//! Where each realm is: the newest signs of life of all leaders, read by one consumer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::KafkaPartError;
use super::lease::Sign;
use super::topics::{Topics, TopicsError};
use crate::config::KafkaSettings;

/// How long one look for a sign takes, before it is looked whether to stop.
const LOOK: Duration = Duration::from_millis(100);

/// What is known of a realm's leader.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its last sign.
    pub sign: Sign,
    heard: Instant,
}

impl Known {
    /// Whether the leader can be taken for alive: it has not left, and was heard within this time.
    pub fn is_alive(&self, within: Duration) -> bool {
        !self.sign.leaving && self.heard.elapsed() <= within
    }
}

/// A leader that was not heard for so long may have begun anew, on topics that were made again.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Reads what comes; what retention took is passed over.
fn reader_of(topics: &Topics) -> Result<BaseConsumer, KafkaPartError> {
    let mut client = topics.client();
    let reader = client
        .set("group.id", "karat")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "latest")
        .set("fetch.wait.max.ms", "500")
        .set("queued.max.messages.kbytes", "4096")
        .create();
    Ok(reader.map_err(TopicsError::Client)?)
}

/// Reads the signs until it is dropped.
pub struct Directory {
    known: Arc<Mutex<HashMap<String, Known>>>,
    /// Realms whose topic of signs held one at the beginning.
    spoken: usize,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Directory {
    /// Begins with the last sign of each realm; their topics of signs must be there.
    ///
    /// # Errors
    /// When the topics cannot be read, or no thread be started.
    pub fn open(settings: &KafkaSettings, realms: &[String]) -> Result<Directory, KafkaPartError> {
        let mut place = TopicPartitionList::with_capacity(realms.len());
        let mut realm_of = HashMap::new();
        let mut spoken = 0;
        let mut consumer: Option<BaseConsumer> = None;
        for realm in realms {
            let topics = super::topics(settings, realm)?;
            let reader = match consumer.take() {
                Some(reader) => reader,
                None => reader_of(&topics)?,
            };
            for (partition, low, high) in topics.partitions(&reader, &topics.leader)? {
                let last = Offset::Offset((high - 1).max(low));
                spoken += usize::from(high > low);
                place
                    .add_partition_offset(&topics.leader, partition, last)
                    .map_err(TopicsError::Client)?;
            }
            realm_of.insert(topics.leader, realm.clone());
            consumer = Some(reader);
        }
        let known = Arc::new(Mutex::new(HashMap::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut thread = None;
        if let Some(consumer) = consumer {
            consumer.assign(&place).map_err(TopicsError::Client)?;
            let reading = Reading {
                consumer,
                realm_of,
                known: known.clone(),
                stop: stop.clone(),
            };
            let started = std::thread::Builder::new()
                .name("karat-directory".to_owned())
                .spawn(move || reading.run())
                .map_err(|_| KafkaPartError::Thread("the directory"))?;
            thread = Some(started);
        }
        Ok(Directory {
            known,
            spoken,
            stop,
            thread,
        })
    }

    /// Whether every leader was heard that had spoken when this began.
    pub fn has_heard_all(&self) -> bool {
        self.known.lock().len() >= self.spoken
    }

    /// What is known of a realm's leader.
    pub fn leader(&self, realm: &str) -> Option<Known> {
        self.known.lock().get(realm).cloned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // Its panic was its own report.
            let _ = thread.join();
        }
    }
}

struct Reading {
    consumer: BaseConsumer,
    realm_of: HashMap<String, String>,
    known: Arc<Mutex<HashMap<String, Known>>>,
    stop: Arc<AtomicBool>,
}

impl Reading {
    fn run(self) {
        while !self.stop.load(Ordering::SeqCst) {
            match self.consumer.poll(LOOK) {
                None => {}
                Some(Ok(message)) => {
                    let payload = message.payload().unwrap_or_default();
                    // What is no sign is passed over; the topic's own reader says so.
                    if let (Some(realm), Ok(sign)) = (
                        self.realm_of.get(message.topic()),
                        serde_json::from_slice::<Sign>(payload),
                    ) {
                        self.note(realm, sign);
                    }
                }
                Some(Err(error)) => tracing::debug!(%error, "reading signs of life is interrupted"),
            }
        }
    }

    fn note(&self, realm: &str, sign: Sign) {
        let mut known = self.known.lock();
        let is_replaced = known
            .get(realm)
            .is_some_and(|one| one.sign.epoch > sign.epoch && one.heard.elapsed() < FORGOTTEN);
        if is_replaced {
            return;
        }
        let heard = Instant::now();
        known.insert(realm.to_owned(), Known { sign, heard });
    }
}
