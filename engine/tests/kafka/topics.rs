//! A realm's topics as others see them.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use super::broker::address;
use super::common::eventually;

/// How long a broker may take for one thing.
const WAIT: Duration = Duration::from_secs(60);

/// A message that was found.
pub struct Found {
    pub key: Vec<u8>,
    pub payload: Vec<u8>,
    pub headers: BTreeMap<String, String>,
}

/// For a group of consumers, which reads and commits only when told to.
pub fn consumer(group: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", address())
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .create()
        .unwrap()
}

pub fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new()
        .set("bootstrap.servers", address())
        .create()
        .unwrap()
}

/// Makes a topic with one partition.
pub fn make_topic(name: &str, settings: &[(&str, &str)]) {
    let mut topic = NewTopic::new(name, 1, TopicReplication::Fixed(1));
    for (name, value) in settings {
        topic = topic.set(name, value);
    }
    let made = block_on(admin().create_topics([&topic], &AdminOptions::new())).unwrap();
    made.into_iter().next().unwrap().unwrap();
}

/// A list of one place.
pub fn place(topic: &str, offset: i64) -> TopicPartitionList {
    let mut place = TopicPartitionList::new();
    place
        .add_partition_offset(topic, 0, Offset::Offset(offset))
        .unwrap();
    place
}

/// The first offset and the one after the last.
pub fn ends(topic: &str) -> Option<(i64, i64)> {
    consumer("test").fetch_watermarks(topic, 0, WAIT).ok()
}

/// Deletes what lies before an offset, as retention does.
pub fn delete_before(topic: &str, offset: i64) {
    block_on(admin().delete_records(&place(topic, offset), &AdminOptions::new())).unwrap();
}

/// Until an engine has made a topic.
pub async fn until_there(topic: &str) {
    eventually("the topic", || async { ends(topic) }).await;
}

/// Puts messages on a topic.
pub fn send(topic: &str, messages: &[Vec<u8>]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", address())
        // More than a message of commands may have, so that one can be too large.
        .set("message.max.bytes", "20000000")
        .create()
        .unwrap();
    for message in messages {
        let record: BaseRecord<'_, (), [u8]> = BaseRecord::to(topic).payload(message);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        // One by one, so that they keep their order also when one of them is slow.
        producer.flush(WAIT).unwrap();
    }
}

/// Puts messages on a topic in their order, many at a time.
pub fn send_together(topic: &str, messages: &[Vec<u8>]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", address())
        .set("enable.idempotence", "true")
        .set("queue.buffering.max.messages", "10000000")
        .create()
        .unwrap();
    for message in messages {
        let record: BaseRecord<'_, (), [u8]> = BaseRecord::to(topic).partition(0).payload(message);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.poll(Duration::ZERO);
    }
    producer.flush(WAIT).unwrap();
}

/// Every message that is on a topic now.
pub fn messages(topic: &str) -> Vec<Found> {
    let consumer = consumer("test");
    let (low, high) = consumer.fetch_watermarks(topic, 0, WAIT).unwrap();
    consumer.assign(&place(topic, low)).unwrap();
    let mut found = Vec::new();
    while (found.len() as i64) < high - low {
        let message = consumer.poll(WAIT).expect("a message comes").unwrap();
        let headers = message.headers().into_iter().flat_map(|all| all.iter());
        found.push(Found {
            key: message.key().unwrap_or_default().to_vec(),
            payload: message.payload().unwrap_or_default().to_vec(),
            headers: headers
                .map(|header| {
                    let value = String::from_utf8_lossy(header.value.unwrap_or_default());
                    (header.key.to_owned(), value.into_owned())
                })
                .collect(),
        });
    }
    found
}
