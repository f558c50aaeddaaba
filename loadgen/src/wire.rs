//! What a run's commands travel over: connections to an engine's gRPC interface, or brokers with its topics.

use std::cell::RefCell;
use std::rc::Rc;

use karat_proto::realm::RealmChannel;
use tokio::sync::Notify;

use crate::driver::Driver;
use crate::error::LoadError;
#[cfg(feature = "kafka")]
use crate::kafka;
use crate::lanes::{self, EdgeSide, Lane, Opening};
use crate::plan::Plan;

/// Connections, or brokers.
pub enum Wire {
    /// gRPC.
    Grpc(Vec<RealmChannel>),
    /// A realm's topics.
    #[cfg(feature = "kafka")]
    Kafka(kafka::Connection),
    /// A topic that nobody reads.
    #[cfg(feature = "kafka")]
    KafkaFloor(kafka::floor::FloorTopic),
}

/// The streams of a run, opened.
pub(crate) struct Opened {
    pub(crate) lanes: Vec<Lane>,
    pub(crate) receivers: Vec<Receiver>,
    #[cfg(feature = "kafka")]
    deliveries: Option<kafka::DeliveryCounts>,
}

/// Takes outcomes.
pub(crate) enum Receiver {
    /// Of one stream.
    Stream(Opening, lanes::Answers),
    /// Of all streams.
    #[cfg(feature = "kafka")]
    Topics(kafka::Answers),
    /// Acknowledgements of all streams.
    #[cfg(feature = "kafka")]
    Acks(kafka::floor::Acks),
}

impl Wire {
    /// Whether its streams go where their realm goes.
    pub(crate) fn follows(&self) -> bool {
        matches!(self, Wire::Grpc(channels) if channels.iter().any(RealmChannel::names_realm))
    }

    /// Opens so many streams.
    pub(crate) async fn open(
        &self,
        plan: &Plan,
        streams: usize,
        edge: &EdgeSide,
    ) -> Result<Opened, LoadError> {
        match self {
            Wire::Grpc(channels) => open_grpc(channels, plan, streams, edge).await,
            #[cfg(feature = "kafka")]
            Wire::Kafka(connection) => {
                let kafka::Begun {
                    lanes,
                    answers,
                    deliveries,
                } = connection.begin(plan, streams)?;
                Ok(Opened {
                    lanes: lanes.into_iter().map(Lane::Kafka).collect(),
                    receivers: vec![Receiver::Topics(answers)],
                    deliveries: Some(deliveries),
                })
            }
            #[cfg(feature = "kafka")]
            Wire::KafkaFloor(topic) => {
                let (lanes, acks) = topic.begin(plan, streams)?;
                Ok(Opened {
                    lanes: lanes.into_iter().map(Lane::Kafka).collect(),
                    receivers: vec![Receiver::Acks(acks)],
                    deliveries: None,
                })
            }
        }
    }
}

async fn open_grpc(
    channels: &[RealmChannel],
    plan: &Plan,
    streams: usize,
    edge: &EdgeSide,
) -> Result<Opened, LoadError> {
    // The window is the bound: a message that fits into it always finds a place here. What is sent again may be single
    // commands of many messages.
    let messages = match channels.iter().any(RealmChannel::names_realm) {
        true => plan.window_a_stream,
        false => plan.window_a_stream / plan.batch,
    };
    let edge = Rc::new(edge.clone());
    let mut opened = Opened {
        lanes: Vec::with_capacity(streams),
        receivers: Vec::with_capacity(streams),
        #[cfg(feature = "kafka")]
        deliveries: None,
    };
    for stream in 0..streams {
        let opening = Opening {
            channel: channels[stream / plan.streams % channels.len()].clone(),
            mode: plan.mode,
            places: messages as usize + 1,
            edge: edge.clone(),
            number: stream,
            batch: plan.batch,
        };
        let (lane, answers) = opening.open().await?;
        opened.lanes.push(lane);
        opened.receivers.push(Receiver::Stream(opening, answers));
    }
    Ok(opened)
}

impl Opened {
    /// What tells later how the messages of a run on Kafka were delivered; nothing for gRPC.
    #[cfg(feature = "kafka")]
    pub(crate) fn take_deliveries(&mut self) -> impl FnOnce() -> Option<kafka::Deliveries> + use<> {
        let counts = self.deliveries.take();
        move || counts.map(|counts| counts.report())
    }

    /// Nothing: this build knows gRPC alone.
    #[cfg(not(feature = "kafka"))]
    pub(crate) fn take_deliveries(
        &mut self,
    ) -> impl FnOnce() -> Option<crate::kafka::Deliveries> + use<> {
        || None
    }
}

impl Receiver {
    /// Takes outcomes until there are no more: those of `stream`, or of all of them.
    pub(crate) async fn run(
        self,
        driver: Rc<RefCell<Driver>>,
        stream: usize,
        progress: Rc<Notify>,
    ) {
        match self {
            Receiver::Stream(opening, answers) => {
                lanes::receive(driver, stream, opening, answers, progress).await;
            }
            #[cfg(feature = "kafka")]
            Receiver::Topics(answers) => kafka::receive(driver, answers, progress).await,
            #[cfg(feature = "kafka")]
            Receiver::Acks(acks) => kafka::floor::receive(driver, acks, progress).await,
        }
    }
}
