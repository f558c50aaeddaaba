//! Opening streams and taking their answers: one kind of each for every way that commands travel.

mod lane;

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use karat_proto::v1::edge_client::EdgeClient;
use karat_proto::v1::edge_response::Kind as Down;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::{limits, v1};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::args::Rate;
use crate::client::{CONNECT_TIMEOUT, chain};
use crate::driver::Driver;
use crate::error::LoadError;

pub use lane::EDGE_ASSETS_MAX;
use lane::EdgeLane;
pub(crate) use lane::Lane;

/// Calls of Execute that are open at once on one stream; further ones wait here, and their latency counts.
const CALLS_MAX: usize = 200;
/// Metadata of a refusal at the door.
const CODE_METADATA: &str = "karat-code";

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

/// The receiving side of one stream.
pub(crate) enum Answers {
    Submit(Streaming<v1::SubmitResponse>),
    Execute(LedgerClient<Channel>, mpsc::Receiver<v1::ExecuteRequest>),
    Edge(Streaming<v1::EdgeResponse>),
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

pub(crate) async fn open_submit(
    channel: Channel,
    places: usize,
) -> Result<(Lane, Answers), LoadError> {
    let (sender, receiver) = mpsc::channel(places);
    let mut ledger =
        LedgerClient::new(channel).max_decoding_message_size(limits::MESSAGE_BYTES_MAX);
    let opening = ledger.submit(ReceiverStream::new(receiver));
    let answers = opened("Ledger.Submit", opening).await?;
    Ok((Lane::Submit(sender), Answers::Submit(answers)))
}

pub(crate) fn open_execute(channel: Channel, places: usize) -> (Lane, Answers) {
    let (sender, receiver) = mpsc::channel(places);
    let ledger = LedgerClient::new(channel);
    (Lane::Execute(sender), Answers::Execute(ledger, receiver))
}

pub(crate) async fn open_edge(
    channel: Channel,
    places: usize,
    side: &EdgeSide,
    number: usize,
    batch: u64,
) -> Result<(Lane, Answers), LoadError> {
    let step = "Edge.Connect";
    let refused = |cause: &str| LoadError::Setup {
        step,
        cause: cause.into(),
    };
    // One place more: for the Hello.
    let (sender, receiver) = mpsc::channel(places + 1);
    let hello = v1::Hello {
        node: format!("karat-load {number}"),
        account: side.account.clone(),
        models: vec![v1::ModelAttestation {
            digest: side.model.clone(),
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
    let mut edge = EdgeClient::new(channel).max_decoding_message_size(limits::MESSAGE_BYTES_MAX);
    let mut answers = opened(step, edge.connect(ReceiverStream::new(receiver))).await?;
    let first = tokio::time::timeout(CONNECT_TIMEOUT, answers.message()).await;
    match first {
        Ok(Ok(Some(v1::EdgeResponse {
            kind: Some(Down::Welcome(welcome)),
        }))) if welcome.approved_models.contains(&side.model) => {}
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
        images: side.images.clone().into(),
        next_image: 0,
        batch: batch as usize,
    };
    Ok((Lane::Edge(lane), Answers::Edge(answers)))
}

/// Takes one stream's outcomes until it ends.
pub(crate) async fn receive(
    driver: Rc<RefCell<Driver>>,
    stream: usize,
    answers: Answers,
    progress: Rc<Notify>,
) {
    let took = |ack: i32, outcomes: &[v1::Outcome]| {
        let mut driver = driver.borrow_mut();
        driver.take(stream, ack, outcomes);
        if driver.plan.rate == Rate::Max && !driver.ending {
            driver.fill(stream);
        }
        if driver.ending {
            progress.notify_one();
        }
    };
    let ended = match answers {
        Answers::Submit(mut answers) => loop {
            match answers.message().await {
                Ok(Some(response)) => took(response.ack, &response.outcomes),
                Ok(None) => break None,
                Err(status) => break Some(status),
            }
        },
        Answers::Execute(ledger, requests) => calls(ledger, requests, took).await,
        Answers::Edge(mut answers) => loop {
            match answers.message().await {
                Ok(Some(response)) => match response.kind {
                    // What is only sequenced is answered again when it is durable.
                    Some(Down::Outcomes(answer)) if answer.ack == SEQUENCED => {}
                    Some(Down::Outcomes(answer)) => {
                        took(v1::AckLevel::Durable.into(), &answer.outcomes);
                    }
                    Some(Down::Credits(more)) => credit(&driver, stream, more.amount),
                    Some(Down::Directive(order)) if order.kind == PAUSE => {
                        break Some(Status::unavailable("the engine told the node to pause"));
                    }
                    _ => {}
                },
                Ok(None) => break None,
                Err(status) => break Some(status),
            }
        },
    };
    let mut driver = driver.borrow_mut();
    match ended {
        Some(status) => driver.broke(stream, chain(&status)),
        None if driver.streams[stream].lane.is_some() => {
            driver.broke(stream, "the target ended it".into());
        }
        None => {}
    }
    progress.notify_one();
}

const SEQUENCED: i32 = v1::AckLevel::Sequenced as i32;
const PAUSE: i32 = v1::DirectiveKind::Pause as i32;

fn credit(driver: &Rc<RefCell<Driver>>, stream: usize, amount: u32) {
    let mut driver = driver.borrow_mut();
    if let Some(Lane::Edge(edge)) = &mut driver.streams[stream].lane {
        edge.credits += amount;
        if edge.flush().is_err() {
            driver.closed(stream, "the target takes no more assets");
        }
    }
}

/// Makes a call for each request, and reports its outcome; ends with the status of a call that failed.
async fn calls(
    ledger: LedgerClient<Channel>,
    mut requests: mpsc::Receiver<v1::ExecuteRequest>,
    took: impl Fn(i32, &[v1::Outcome]),
) -> Option<Status> {
    let mut open = FuturesUnordered::new();
    let mut more = true;
    while more || !open.is_empty() {
        tokio::select! {
            request = requests.recv(), if more && open.len() < CALLS_MAX => match request {
                None => more = false,
                Some(request) => {
                    let mut ledger = ledger.clone();
                    let id = request.command.as_ref().map_or(Bytes::new(), |one| one.id.clone());
                    open.push(async move { (id, ledger.execute(request).await) });
                }
            },
            Some((id, answer)) = open.next() => match answer {
                Ok(answer) => {
                    let answer = answer.into_inner();
                    took(answer.ack, answer.outcome.as_slice());
                }
                Err(status) => match refusal(&status) {
                    Some(code) => {
                        let message = status.message().to_owned();
                        let outcome = v1::Outcome { id, code, message, ..v1::Outcome::default() };
                        took(0, &[outcome]);
                    }
                    None => return Some(status),
                },
            },
        }
    }
    None
}

/// The code of a refusal at the door, which a call answers with a status; `None` for a failure.
pub(crate) fn refusal(status: &Status) -> Option<u32> {
    status
        .metadata()
        .get(CODE_METADATA)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}
