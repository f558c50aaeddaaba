//! Commands as messages, and what the brokers say to them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::BytesMut;
use hdrhistogram::Histogram;
use karat_proto::v1;
use prost::Message as _;
use rdkafka::ClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer};

use super::Deliveries;
use super::outcomes::Open;
use super::topics::Stop;
use crate::recorder::{histogram, percentiles};
use crate::scenario::changes;

/// Says which form a command's message has: docs/kafka.md.
const SCHEMA_HEADER: Header<'_, &str> = Header {
    key: "karat-schema",
    value: Some("1"),
};

/// What came of the messages so far. Shared with the producers' own threads.
#[derive(Clone)]
pub(crate) struct DeliveryCounts {
    since: Instant,
    counts: Arc<Mutex<Counts>>,
}

struct Counts {
    latency: Histogram<u64>,
    failed: BTreeMap<String, u64>,
}

impl DeliveryCounts {
    pub(super) fn new() -> DeliveryCounts {
        let counts = Counts {
            latency: histogram(),
            failed: BTreeMap::new(),
        };
        DeliveryCounts {
            since: Instant::now(),
            counts: Arc::new(Mutex::new(counts)),
        }
    }

    /// Nanoseconds since these counts began: they travel with a message.
    fn now_ns(&self) -> usize {
        self.since.elapsed().as_nanos() as usize
    }

    /// What there is by now.
    pub(crate) fn report(&self) -> Deliveries {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        Deliveries {
            delivered: counts.latency.len(),
            failed: counts.failed.clone(),
            latency: percentiles(&counts.latency),
        }
    }
}

impl ClientContext for DeliveryCounts {}

impl ProducerContext for DeliveryCounts {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, handed_over_ns: usize) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(_) => {
                let latency_ns = self.now_ns().saturating_sub(handed_over_ns) as u64;
                counts.latency.saturating_record(latency_ns);
            }
            Err((error, _)) => {
                let reason = error
                    .rdkafka_error_code()
                    .map_or_else(|| error.to_string(), |code| code.to_string());
                *counts.failed.entry(reason).or_default() += 1;
            }
        }
    }
}

/// One connection's producer: streams of one connection share it.
pub(super) type Producer = Rc<ThreadedProducer<DeliveryCounts>>;

/// One stream: its commands go to one partition, in order.
pub(crate) struct KafkaLane {
    pub(super) producer: Producer,
    pub(super) topic: Rc<str>,
    pub(super) partition: i32,
    pub(super) open: Rc<RefCell<Open>>,
    pub(super) counts: DeliveryCounts,
    pub(super) bytes: BytesMut,
    /// With the last stream, the reading of the topics ends.
    pub(super) _stop: Rc<Stop>,
}

impl KafkaLane {
    /// Hands commands over, each as a message. False when the producer takes none any more.
    pub(crate) fn send(&mut self, commands: &[v1::Command]) -> bool {
        for command in commands {
            let changes = command.kind.as_ref().map_or(changes::NOTHING, |kind| {
                changes::of_command(&command.actor, kind)
            });
            self.open.borrow_mut().enter(changes, &command.id);
            self.bytes.clear();
            // A growing buffer takes any message.
            let _ = command.encode(&mut self.bytes);
            let record =
                BaseRecord::<(), [u8], usize>::with_opaque_to(&self.topic, self.counts.now_ns())
                    .partition(self.partition)
                    .payload(&self.bytes[..])
                    .headers(OwnedHeaders::new_with_capacity(1).insert(SCHEMA_HEADER));
            if self.producer.send(record).is_err() {
                return false;
            }
        }
        true
    }
}
