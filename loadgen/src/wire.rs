//! What a run's commands travel over: connections to an engine's gRPC interface, or brokers with its topics.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::sync::Notify;
use tonic::transport::Channel;

use crate::args::Mode;
use crate::driver::Driver;
use crate::error::LoadError;
#[cfg(feature = "kafka")]
use crate::kafka;
use crate::lanes::{self, EdgeSide, Lane};
use crate::plan::Plan;

/// Connections, or brokers.
pub enum Wire {
    /// gRPC.
    Grpc(Vec<Channel>),
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
    Stream(lanes::Answers),
    /// Of all streams.
    #[cfg(feature = "kafka")]
    Topics(kafka::Answers),
    /// Acknowledgements of all streams.
    #[cfg(feature = "kafka")]
    Acks(kafka::floor::Acks),
}

impl Wire {
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
    channels: &[Channel],
    plan: &Plan,
    streams: usize,
    edge: &EdgeSide,
) -> Result<Opened, LoadError> {
    // The window is the bound: a message that fits into it always finds a place here.
    let places = (plan.window_a_stream / plan.batch + 1) as usize;
    let mut opened = Opened {
        lanes: Vec::with_capacity(streams),
        receivers: Vec::with_capacity(streams),
        #[cfg(feature = "kafka")]
        deliveries: None,
    };
    for stream in 0..streams {
        let channel = channels[stream / plan.streams % channels.len()].clone();
        let (lane, answers) = match plan.mode {
            Mode::Execute => lanes::open_execute(channel, places),
            Mode::Edge => lanes::open_edge(channel, places, edge, stream, plan.batch).await?,
            Mode::Submit | Mode::Kafka => lanes::open_submit(channel, places).await?,
        };
        opened.lanes.push(lane);
        opened.receivers.push(Receiver::Stream(answers));
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
            Receiver::Stream(answers) => lanes::receive(driver, stream, answers, progress).await,
            #[cfg(feature = "kafka")]
            Receiver::Topics(answers) => kafka::receive(driver, answers, progress).await,
            #[cfg(feature = "kafka")]
            Receiver::Acks(acks) => kafka::floor::receive(driver, acks, progress).await,
        }
    }
}
