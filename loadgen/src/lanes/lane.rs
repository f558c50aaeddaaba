//! Where a stream's commands go: messages of a Submit stream, calls of Execute, or assets of an edge node.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use karat_proto::v1;
use karat_proto::v1::command::Kind;
use tokio::sync::mpsc;

use crate::books::number_in;

/// Assets in one message of an edge node.
pub const EDGE_ASSETS_MAX: u64 = 64;

/// The sending side of one stream.
pub(crate) enum Lane {
    /// Messages of commands.
    Submit(mpsc::Sender<v1::SubmitRequest>),
    /// A call for each command.
    Execute(mpsc::Sender<v1::ExecuteRequest>),
    /// Assets, each against a credit.
    Edge(EdgeLane),
    /// Nowhere, until the stream is opened again: what is sent is kept by who sends it.
    Away,
    /// Messages of a Kafka producer.
    #[cfg(feature = "kafka")]
    Kafka(crate::kafka::KafkaLane),
}

/// An edge node's side: what it may send, and what waits for a credit.
pub(crate) struct EdgeLane {
    pub(crate) sender: mpsc::Sender<v1::EdgeRequest>,
    pub(crate) credits: u32,
    /// Bounded by the stream's window.
    pub(crate) waiting: VecDeque<v1::EdgeAsset>,
    /// Images, one after another: a command that is sent again brings the same one.
    pub(crate) images: Rc<[Bytes]>,
    /// Assets in one message.
    pub(crate) batch: usize,
}

/// The target takes no more.
pub(crate) struct Closed;

impl Lane {
    /// Hands commands to the transport.
    pub(crate) fn send(
        &mut self,
        ack: v1::AckLevel,
        commands: Vec<v1::Command>,
    ) -> Result<(), Closed> {
        match self {
            Lane::Submit(sender) => {
                let request = v1::SubmitRequest {
                    ack: ack.into(),
                    commands,
                };
                sender.try_send(request).map_err(|_| Closed)
            }
            Lane::Execute(sender) => commands.into_iter().try_for_each(|command| {
                let request = v1::ExecuteRequest {
                    ack: ack.into(),
                    command: Some(command),
                };
                sender.try_send(request).map_err(|_| Closed)
            }),
            Lane::Edge(edge) => {
                for command in commands {
                    edge.push(command);
                }
                edge.flush()
            }
            Lane::Away => Ok(()),
            #[cfg(feature = "kafka")]
            Lane::Kafka(lane) => lane.send(&commands).then_some(()).ok_or(Closed),
        }
    }
}

impl EdgeLane {
    fn push(&mut self, command: v1::Command) {
        // Only scenarios of mints come here.
        if let Some(Kind::Mint(mint)) = command.kind {
            let image = number_in(&command.id) % self.images.len() as u64;
            self.waiting.push_back(v1::EdgeAsset {
                id: command.id,
                collection: mint.collection,
                owner: mint.owner,
                traits: mint.traits,
                lineage: mint.lineage,
                content: self.images[image as usize].clone(),
            });
        }
    }

    /// Sends what the credits allow.
    pub(crate) fn flush(&mut self) -> Result<(), Closed> {
        while self.credits > 0 && !self.waiting.is_empty() {
            let count = self
                .batch
                .min(self.credits as usize)
                .min(self.waiting.len());
            let assets = self.waiting.drain(..count).collect();
            self.credits -= count as u32;
            let kind = v1::edge_request::Kind::Assets(v1::EdgeAssets { assets });
            self.sender
                .try_send(v1::EdgeRequest { kind: Some(kind) })
                .map_err(|_| Closed)?;
        }
        Ok(())
    }
}
