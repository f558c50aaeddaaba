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
use tokio::sync::mpsc;

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

/// Of what travels with a message, so many bits are its time: 104 days of nanoseconds. The stream is above them.
const TIME_BITS: u32 = 53;

/// What the brokers said to one message.
pub(crate) struct Acked {
    pub(crate) stream: usize,
    /// Why it was given up, if it was.
    pub(crate) failed: Option<String>,
}

/// What came of the messages so far. Shared with the producers' own threads.
#[derive(Clone)]
pub(crate) struct DeliveryCounts {
    since: Instant,
    counts: Arc<Mutex<Counts>>,
    /// Who is told of each message.
    told: Option<mpsc::UnboundedSender<Acked>>,
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
            told: None,
        }
    }

    /// Counts that tell somebody of each message too.
    pub(super) fn telling(told: mpsc::UnboundedSender<Acked>) -> DeliveryCounts {
        DeliveryCounts {
            told: Some(told),
            ..DeliveryCounts::new()
        }
    }

    /// Nanoseconds since these counts began.
    fn now_ns(&self) -> usize {
        self.since.elapsed().as_nanos() as usize & ((1 << TIME_BITS) - 1)
    }

    /// What travels with a message that is handed over now.
    fn mark(&self, stream: usize) -> usize {
        stream << TIME_BITS | self.now_ns()
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

    fn delivery(&self, result: &DeliveryResult<'_>, mark: usize) {
        let (stream, handed_over_ns) = (mark >> TIME_BITS, mark & ((1 << TIME_BITS) - 1));
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = match result {
            Ok(_) => {
                let latency_ns = self.now_ns().saturating_sub(handed_over_ns) as u64;
                counts.latency.saturating_record(latency_ns);
                None
            }
            Err((error, _)) => {
                let reason = error
                    .rdkafka_error_code()
                    .map_or_else(|| error.to_string(), |code| code.to_string());
                *counts.failed.entry(reason.clone()).or_default() += 1;
                Some(reason)
            }
        };
        if let Some(told) = &self.told {
            // Nobody listens any more once the run is over.
            let _ = told.send(Acked { stream, failed });
        }
    }
}

/// One connection's producer: streams of one connection share it.
pub(super) type Producer = Rc<ThreadedProducer<DeliveryCounts>>;

/// What leads outcomes on the topics back to the commands of all streams.
#[derive(Clone)]
pub(super) struct Return {
    pub(super) open: Rc<RefCell<Open>>,
    /// With the last stream, the reading of the topics ends.
    pub(super) _stop: Rc<Stop>,
}

/// One stream: its commands go to one partition, in order.
pub(crate) struct KafkaLane {
    pub(super) stream: usize,
    pub(super) producer: Producer,
    pub(super) topic: Rc<str>,
    pub(super) partition: i32,
    /// Nothing for a floor, whose outcomes are the acknowledgements.
    pub(super) back: Option<Return>,
    pub(super) counts: DeliveryCounts,
    pub(super) bytes: BytesMut,
}

impl KafkaLane {
    /// Hands commands over, each as a message. False when the producer takes none any more.
    pub(crate) fn send(&mut self, commands: &[v1::Command]) -> bool {
        for command in commands {
            if let Some(back) = &self.back {
                let changes = command.kind.as_ref().map_or(changes::NOTHING, |kind| {
                    changes::of_command(&command.actor, kind)
                });
                back.open.borrow_mut().enter(changes, &command.id);
            }
            self.bytes.clear();
            // A growing buffer takes any message.
            let _ = command.encode(&mut self.bytes);
            let mark = self.counts.mark(self.stream);
            let record = BaseRecord::<(), [u8], usize>::with_opaque_to(&self.topic, mark)
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
