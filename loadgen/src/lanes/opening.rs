//! How a stream is opened, at first and where its realm went: one kind for every way that commands travel.

use std::rc::Rc;

use bytes::Bytes;
use karat_proto::realm::RealmChannel;
use karat_proto::v1::edge_client::EdgeClient;
use karat_proto::v1::edge_response::Kind as Down;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::{limits, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::lane::EdgeLane;
use super::{Answers, Lane};
use crate::args::Mode;
use crate::client::{CONNECT_TIMEOUT, chain};
use crate::error::LoadError;

/// What an edge node needs to be taken for one.
#[derive(Clone, Default)]
pub struct EdgeSide {
    /// Who mints.
    pub account: Bytes,
    /// The model that it attests.
    pub model: Bytes,
    /// Images, one after another.
    pub images: Vec<Bytes>,
}

/// What it takes to open one stream.
pub(crate) struct Opening {
    pub(crate) channel: RealmChannel,
    pub(crate) mode: Mode,
    /// Messages that find a place here.
    pub(crate) places: usize,
    pub(crate) edge: Rc<EdgeSide>,
    /// Of the stream.
    pub(crate) number: usize,
    /// Commands in one message.
    pub(crate) batch: u64,
}

impl Opening {
    /// Opens the stream.
    ///
    /// # Errors
    /// What the target said, or that it said nothing.
    pub(crate) async fn open(&self) -> Result<(Lane, Answers), LoadError> {
        match self.mode {
            Mode::Execute => Ok(self.open_execute()),
            Mode::Edge => self.open_edge().await,
            Mode::Submit | Mode::Kafka => self.open_submit().await,
        }
    }

    async fn open_submit(&self) -> Result<(Lane, Answers), LoadError> {
        let (sender, receiver) = mpsc::channel(self.places);
        let mut ledger = LedgerClient::new(self.channel.clone())
            .max_decoding_message_size(limits::MESSAGE_BYTES_MAX);
        let opening = ledger.submit(ReceiverStream::new(receiver));
        let answers = opened("Ledger.Submit", opening).await?;
        Ok((Lane::Submit(sender), Answers::Submit(answers)))
    }

    fn open_execute(&self) -> (Lane, Answers) {
        let (sender, receiver) = mpsc::channel(self.places);
        let ledger = LedgerClient::new(self.channel.clone());
        (Lane::Execute(sender), Answers::Execute(ledger, receiver))
    }

    async fn open_edge(&self) -> Result<(Lane, Answers), LoadError> {
        let step = "Edge.Connect";
        let refused = |cause: &str| LoadError::Setup {
            step,
            cause: cause.into(),
        };
        // One place more: for the Hello.
        let (sender, receiver) = mpsc::channel(self.places + 1);
        let hello = v1::Hello {
            node: format!("karat-load {}", self.number),
            account: self.edge.account.clone(),
            models: vec![v1::ModelAttestation {
                digest: self.edge.model.clone(),
                name: "karat-load".into(),
                role: v1::ModelRole::Generator.into(),
            }],
            ..v1::Hello::default()
        };
        let request = v1::EdgeRequest {
            kind: Some(v1::edge_request::Kind::Hello(hello)),
        };
        sender
            .try_send(request)
            .map_err(|_| refused("the channel is closed"))?;
        let mut edge = EdgeClient::new(self.channel.clone())
            .max_decoding_message_size(limits::MESSAGE_BYTES_MAX);
        let mut answers = opened(step, edge.connect(ReceiverStream::new(receiver))).await?;
        let first = tokio::time::timeout(CONNECT_TIMEOUT, answers.message()).await;
        match first {
            Ok(Ok(Some(v1::EdgeResponse {
                kind: Some(Down::Welcome(welcome)),
            }))) if welcome.approved_models.contains(&self.edge.model) => {}
            Ok(Ok(Some(v1::EdgeResponse {
                kind: Some(Down::Welcome(_)),
            }))) => {
                return Err(refused("the target does not let the node's model mint"));
            }
            Ok(Err(status)) => return Err(refused(&chain(&status))),
            _ => return Err(refused("the target did not welcome the node")),
        }
        let lane = EdgeLane {
            sender,
            credits: 0,
            waiting: Default::default(),
            images: self.edge.images.clone().into(),
            batch: self.batch as usize,
        };
        Ok((Lane::Edge(lane), Answers::Edge(answers)))
    }
}

/// Waits for a stream's headers.
pub(crate) async fn opened<T>(
    step: &'static str,
    opening: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, LoadError> {
    match tokio::time::timeout(CONNECT_TIMEOUT, opening).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(LoadError::in_setup(step, &status)),
        Err(_) => Err(LoadError::Setup {
            step,
            cause: format!(
                "the stream did not open within {} s",
                CONNECT_TIMEOUT.as_secs()
            ),
        }),
    }
}
