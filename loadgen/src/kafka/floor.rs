//! The floor of a run on Kafka: the same producers and messages, to the same brokers, on a topic that nobody reads. The
//! brokers' acknowledgement is the outcome, so this is what producers and brokers cost without an engine behind them.

use std::cell::RefCell;
use std::rc::Rc;

use karat_proto::v1;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::{Notify, mpsc};

use super::producer::{Acked, DeliveryCounts, KafkaLane};
use super::topics::{Connection, QUESTION};
use crate::args::Rate;
use crate::books::command_id;
use crate::driver::Driver;
use crate::error::LoadError;
use crate::plan::Plan;

/// Brokers with a topic of this floor's own.
pub struct FloorTopic {
    connection: Connection,
    admin: AdminClient<DefaultClientContext>,
}

/// What the brokers acknowledge, message by message.
pub(crate) struct Acks {
    run: u64,
    acked: mpsc::UnboundedReceiver<Acked>,
    /// Messages of each stream that are acknowledged. A stream keeps to one partition of one producer, whose messages are
    /// acknowledged in their order: the next one is always the oldest.
    answered: Vec<u64>,
}

impl FloorTopic {
    /// Makes the topic, with as many partitions and copies as the topic of commands has; `run` is part of the ids.
    ///
    /// # Errors
    /// When the brokers refuse it.
    pub async fn make(beside: &Connection, run: u64) -> Result<FloorTopic, LoadError> {
        let step = "a topic for the floor";
        let (connection, copies) = beside.for_floor(run)?;
        let failed = |error: &KafkaError| connection.failed(step, error);
        let admin: AdminClient<DefaultClientContext> = connection
            .client()
            .create()
            .map_err(|error| failed(&error))?;
        let name = connection.commands();
        let replication = TopicReplication::Fixed(copies);
        let topic = NewTopic::new(name, connection.partitions(), replication);
        let made = admin.create_topics([&topic], &options()).await;
        for one in made.map_err(|error| failed(&error))? {
            one.map_err(|(_, code)| failed(&KafkaError::AdminOp(code)))?;
        }
        connection.wait_for_commands()?;
        Ok(FloorTopic { connection, admin })
    }

    /// Makes the producers.
    pub(crate) fn begin(
        &self,
        plan: &Plan,
        streams: usize,
    ) -> Result<(Vec<KafkaLane>, Acks), LoadError> {
        // The run's window is its bound.
        let (sender, acked) = mpsc::unbounded_channel();
        let deliveries = DeliveryCounts::telling(sender);
        let lanes = self.connection.lanes(plan, streams, &deliveries, None)?;
        let acks = Acks {
            run: self.connection.run(),
            acked,
            answered: vec![0; streams],
        };
        Ok((lanes, acks))
    }

    /// Deletes the topic.
    ///
    /// # Errors
    /// When the brokers refuse that.
    pub async fn delete(self) -> Result<(), LoadError> {
        let step = "deleting the floor's topic";
        let failed = |error: &KafkaError| self.connection.failed(step, error);
        let name = self.connection.commands();
        let deleted = self.admin.delete_topics(&[name], &options()).await;
        for one in deleted.map_err(|error| failed(&error))? {
            match one {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err((_, code)) => return Err(failed(&KafkaError::AdminOp(code))),
            }
        }
        Ok(())
    }
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(QUESTION))
        .operation_timeout(Some(QUESTION))
}

/// Takes acknowledgements until every producer is gone.
pub(crate) async fn receive(driver: Rc<RefCell<Driver>>, mut acks: Acks, progress: Rc<Notify>) {
    let durable = v1::AckLevel::Durable.into();
    let mut sequence = 0;
    while let Some(first) = acks.acked.recv().await {
        let mut driver = driver.borrow_mut();
        let mut next = Some(first);
        while let Some(Acked { stream, failed }) = next {
            match failed {
                Some(reason) => {
                    driver.broke(stream, format!("the brokers took no message: {reason}"));
                }
                None => {
                    let number = acks.answered[stream];
                    acks.answered[stream] += 1;
                    sequence += 1;
                    let id = command_id(acks.run, stream as u16, number);
                    let outcome = v1::Outcome {
                        id: bytes::Bytes::copy_from_slice(&id),
                        sequence,
                        subject: sequence,
                        ..v1::Outcome::default()
                    };
                    driver.take(stream, durable, &[outcome]);
                }
            }
            next = acks.acked.try_recv().ok();
        }
        if driver.plan.rate == Rate::Max && !driver.ending {
            for stream in 0..driver.streams.len() {
                driver.fill(stream);
            }
        }
        if driver.ending {
            progress.notify_one();
        }
    }
    progress.notify_one();
}
