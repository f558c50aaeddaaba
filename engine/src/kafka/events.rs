//! Events to a topic: every durable one, in order, each with its place. What the topic's last message says is where the
//! publishing resumes, so that nothing is left out; a consumer that keeps the last place it saw takes nothing twice.

use std::sync::Arc;
use std::time::Duration;

use karat_proto::convert;
use prost::Message as _;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use super::failure::Failure;
use super::topics::{Topics, TopicsError};
use super::{KafkaPartError, SCHEMA, SCHEMA_HEADER};
use crate::core::Core;
use crate::events::BlockEvents;

/// Events looked at together.
const EVENTS_A_STEP: usize = 4096;
/// An event may be published this much later.
const PAUSE: Duration = Duration::from_millis(5);
/// How long the last message of the topic may take to come.
const TAIL_WAIT: Duration = Duration::from_secs(30);

pub(super) async fn run(core: Arc<Core>) -> Result<(), KafkaPartError> {
    let topics = super::topics(&core.config.log.kafka, &core.config.realm.name)?;
    let opening = topics.clone();
    let opened = tokio::task::spawn_blocking(move || open(&opening)).await;
    let (producer, last) = opened.unwrap_or(Err(KafkaPartError::Thread("events")))?;
    let from_sequence = last.map_or(1, |(sequence, _)| sequence);
    let mut reader = core.events(from_sequence, true, PAUSE);
    while let Some(blocks) = reader.next(EVENTS_A_STEP).await? {
        for block in &blocks {
            publish(&producer, &topics, block, last).await?;
        }
    }
    Ok(())
}

async fn publish(
    producer: &BaseProducer<Failure>,
    topics: &Topics,
    block: &BlockEvents,
    last: Option<(u64, u16)>,
) -> Result<(), KafkaPartError> {
    let failed = |reason: String| KafkaPartError::Write {
        topic: topics.events.clone(),
        reason,
    };
    for event in &block.events {
        if last.is_some_and(|last| (event.sequence, event.index) <= last) {
            continue;
        }
        let key = place(event.sequence, event.index);
        let payload = convert::event_to_wire(event).encode_to_vec();
        loop {
            let headers = OwnedHeaders::new_with_capacity(1).insert(Header {
                key: SCHEMA_HEADER,
                value: Some(SCHEMA),
            });
            let record = BaseRecord::to(&topics.events)
                .partition(0)
                .key(&key)
                .payload(&payload)
                .headers(headers);
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    producer.poll(Duration::ZERO);
                    tokio::time::sleep(PAUSE).await;
                }
                Err((error, _)) => return Err(failed(error.to_string())),
            }
        }
    }
    producer.poll(Duration::ZERO);
    match producer.context().take() {
        None => Ok(()),
        Some(reason) => Err(failed(reason)),
    }
}

/// A place as a key: rises as text, too.
fn place(sequence: u64, index: u16) -> String {
    format!("{sequence:020}.{index:05}")
}

fn read_place(key: &[u8]) -> Option<(u64, u16)> {
    let (sequence, index) = std::str::from_utf8(key).ok()?.split_once('.')?;
    Some((sequence.parse().ok()?, index.parse().ok()?))
}

type Opened = (BaseProducer<Failure>, Option<(u64, u16)>);

fn open(topics: &Topics) -> Result<Opened, KafkaPartError> {
    topics.ensure(&topics.events, 1)?;
    let last = last_place(topics)?;
    let producer = topics
        .producer()
        .create_with_context(Failure::default())
        .map_err(TopicsError::Client)?;
    Ok((producer, last))
}

/// The place of the topic's last message; `None` for an empty topic.
fn last_place(topics: &Topics) -> Result<Option<(u64, u16)>, KafkaPartError> {
    let failed = |reason: String| KafkaPartError::Read {
        topic: topics.events.clone(),
        reason,
    };
    let consumer = topics.consumer()?;
    let partitions = topics.partitions(&consumer, &topics.events)?;
    let [(_, low, high)] = partitions[..] else {
        return Err(failed(format!(
            "it has {} partitions, and an order needs exactly 1",
            partitions.len()
        )));
    };
    if high == 0 {
        return Ok(None);
    }
    if low == high {
        return Err(failed(
            "it had messages and retention took all of them, so it cannot be said where to go on; delete the topic to \
             publish everything again"
                .to_owned(),
        ));
    }
    let mut place = TopicPartitionList::with_capacity(1);
    place
        .add_partition_offset(&topics.events, 0, Offset::Offset(high - 1))
        .and_then(|()| consumer.assign(&place))
        .map_err(|error| failed(error.to_string()))?;
    match consumer.poll(TAIL_WAIT) {
        Some(Ok(message)) => message
            .key()
            .and_then(read_place)
            .map(Some)
            .ok_or_else(|| failed("its last message is not one of this engine's".to_owned())),
        Some(Err(error)) => Err(failed(error.to_string())),
        None => Err(failed("its last message did not come in time".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_its_key_and_sorts_as_text() {
        for at in [(1, 0), (9, 65_535), (10, 3), (u64::MAX, 1)] {
            assert_eq!(read_place(place(at.0, at.1).as_bytes()), Some(at));
        }
        assert!(place(9, 65_535) < place(10, 0));
        assert_eq!(read_place(b"karat"), None);
    }
}
