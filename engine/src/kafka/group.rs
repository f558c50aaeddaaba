//! A consumer group whose members share realms: who is assigned a realm's log bids for the realm.
//!
//! The topics subscribed to are the realms' logs, with one partition each. Nothing is read of them here: their partitions are
//! paused. The assignor is the cooperative sticky one: it counts partitions over all topics, so that topics with one
//! partition spread; what stays with a member is not touched when another one comes; and what moves is given up first
//! and assigned after that. Members may ask for different topics: each is given to somebody who asks for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaResult;

use super::KafkaPartError;
use super::topics::TopicsError;

/// How long one look for news of the group takes, before it is looked whether to leave.
const LOOK: Duration = Duration::from_millis(100);
/// How long the brokers may take to answer before a member joins again.
const QUESTION: Duration = Duration::from_secs(1);
/// Heartbeats in a session. A member learns from the answer to one that the others wait for it, so a realm that moves is away
/// up to the pause between two of them longer: 300 ms in the default session.
const HEARTBEATS: u64 = 20;
/// A member that is silent for so long while it gives something up is taken for hung and loses everything.
const GIVING_UP_MAX_MS: u64 = 300_000;

/// What the group says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// These topics are this member's as well.
    Assigned(Vec<String>),
    /// These are to be given up. The group waits until the call returns, then gives them to others.
    Revoked(Vec<String>),
    /// The group has not heard this member for a session and may have given these to others already.
    Lost(Vec<String>),
}

/// How to be a member.
pub struct Membership<'a> {
    /// The clients' settings.
    pub client: ClientConfig,
    /// The group.
    pub group: &'a str,
    /// A member that is not heard for so long is taken for dead.
    pub session_timeout_ms: u64,
    /// What this member asks for, of what the members share.
    pub topics: &'a [String],
}

/// Tells a member what to ask its group for.
#[derive(Clone, Default)]
pub struct Asker(Arc<Mutex<Option<Vec<String>>>>);

impl Asker {
    /// From a moment later on the member asks for these topics. What it has and does not ask for is taken from it.
    pub fn ask(&self, topics: Vec<String>) {
        *self.0.lock() = Some(topics);
    }
}

/// A member of a group. It leaves when it is dropped, which gives everything up first.
pub struct Member {
    stop: Arc<AtomicBool>,
    asker: Asker,
    thread: Option<JoinHandle<()>>,
}

impl Member {
    /// Tells the member what to ask for.
    pub fn asker(&self) -> Asker {
        self.asker.clone()
    }

    /// Joins; `told` runs on the member's thread with every change, one after the other.
    ///
    /// # Errors
    /// When no client can be made with these settings, or no thread be started.
    pub fn join(
        membership: Membership<'_>,
        told: impl Fn(Change) + Send + Sync + 'static,
    ) -> Result<Member, KafkaPartError> {
        let timeout_ms = membership.session_timeout_ms;
        let mut client = membership.client;
        client
            .set("group.id", membership.group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", timeout_ms.to_string())
            .set(
                "heartbeat.interval.ms",
                (timeout_ms / HEARTBEATS).to_string(),
            )
            .set(
                "max.poll.interval.ms",
                GIVING_UP_MAX_MS.max(timeout_ms).to_string(),
            )
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Until the pause takes hold nothing old is fetched.
            .set("auto.offset.reset", "latest")
            .set("queued.max.messages.kbytes", "1024")
            // Topics that are made later are seen this soon.
            .set("topic.metadata.refresh.interval.ms", "10000");
        let context = Context {
            told: Box::new(told),
            topic: membership.topics.first().cloned(),
        };
        let consumer: BaseConsumer<Context> = client
            .create_with_context(context)
            .map_err(TopicsError::Client)?;
        subscribe(&consumer, membership.topics).map_err(TopicsError::Client)?;
        let asker = Asker::default();
        let asked = asker.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("karat-group".to_owned())
            .spawn(move || {
                while !stopped.load(Ordering::SeqCst) {
                    let topics = asked.0.lock().take();
                    if let Some(topics) = topics
                        && let Err(error) = subscribe(&consumer, &topics)
                    {
                        tracing::error!(%error, "the group is not asked for other realms");
                    }
                    if let Some(Err(error)) = consumer.poll(LOOK) {
                        // It is tried again inside; meanwhile everybody keeps what they have.
                        tracing::warn!(%error, "the group of hosts");
                    }
                }
                // Leaving gives everything up, which `told` is told of.
                drop(consumer);
            })
            .map_err(|_| KafkaPartError::Thread("the group"))?;
        Ok(Member {
            stop,
            asker,
            thread: Some(thread),
        })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // Its panic was its own report.
            let _ = thread.join();
        }
    }
}

fn subscribe(consumer: &BaseConsumer<Context>, topics: &[String]) -> KafkaResult<()> {
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    consumer.subscribe(&topics)
}

struct Context {
    told: Box<dyn Fn(Change) + Send + Sync>,
    /// One that is there, to ask about.
    topic: Option<String>,
}

impl Context {
    /// Lets this member join again at once. By itself the client joins at most once a second, and a realm that moves takes two
    /// joins, one before it is given up and one after; an answer about a topic ends that wait (librdkafka, `rkcg_join_intvl`).
    /// Without one the move takes up to a second longer.
    fn may_join_at_once(&self, consumer: &BaseConsumer<Self>) {
        if let Some(topic) = &self.topic
            && let Err(error) = consumer.fetch_metadata(Some(topic), QUESTION)
        {
            tracing::debug!(%error, "the group of hosts");
        }
    }
}

fn topics_of(list: &rdkafka::TopicPartitionList) -> Vec<String> {
    let elements = list.elements();
    elements.iter().map(|one| one.topic().to_owned()).collect()
}

impl ClientContext for Context {}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, change: &Rebalance<'_>) {
        match change {
            Rebalance::Revoke(list) if consumer.assignment_lost() => {
                (self.told)(Change::Lost(topics_of(list)));
            }
            Rebalance::Revoke(list) => {
                (self.told)(Change::Revoked(topics_of(list)));
                self.may_join_at_once(consumer);
            }
            Rebalance::Assign(_) => {}
            Rebalance::Error(error) => tracing::warn!(%error, "the group of hosts"),
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, change: &Rebalance<'_>) {
        if let Rebalance::Assign(list) = change {
            if let Err(error) = consumer.pause(list) {
                // What comes is passed over, at the cost of reading it.
                tracing::warn!(%error, "the logs are not paused for the group");
            }
            (self.told)(Change::Assigned(topics_of(list)));
            self.may_join_at_once(consumer);
        }
    }
}
