//! The Edge service: edge nodes attest their models, get credits, and stream assets in.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::Stream;
use karat_proto::convert::{self, Refused};
use karat_proto::event::{EventKind, Outcome};
use karat_proto::v1::command::Kind;
use karat_proto::v1::edge_request::Kind as Up;
use karat_proto::v1::edge_response::Kind as Down;
use karat_proto::v1::edge_server::Edge;
use karat_proto::v1::{AckLevel, DirectiveKind};
use karat_proto::{Account, Code, CommandId, Digest, limits, v1};
use karat_sequencer::{Ack, Answer, Reply, SubmitError};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::Gateway;
use super::admission::admit;
use crate::stage_counts::Way;

/// Most assets in one message.
const ASSETS_A_MESSAGE_MAX: usize = 64;

/// A directive may be this late.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves `karat.v1.Edge`.
pub struct EdgeService {
    pub(super) gateway: Arc<Gateway>,
}

type Answers = mpsc::UnboundedSender<Outgoing>;

/// One message on its way down.
enum Outgoing {
    Ready(Result<v1::EdgeResponse, Status>),
    /// Turned into a message where it is sent, so that the sequencer's threads are not kept.
    Answered {
        ids: Arc<[CommandId]>,
        outcomes: Vec<Outcome>,
        ack: AckLevel,
        way: Way,
    },
}

/// What goes down to one node.
pub struct Downlink {
    gateway: Arc<Gateway>,
    receiver: mpsc::UnboundedReceiver<Outgoing>,
}

impl Stream for Downlink {
    type Item = Result<v1::EdgeResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let outgoing = std::task::ready!(self.receiver.poll_recv(context));
        Poll::Ready(outgoing.map(|outgoing| match outgoing {
            Outgoing::Ready(message) => message,
            Outgoing::Answered {
                ids,
                outcomes,
                ack,
                way,
            } => {
                let stages = way.stages();
                if ack == AckLevel::Sequenced {
                    self.gateway.stages.record(&stages, true);
                }
                let outcomes = ids
                    .iter()
                    .zip(&outcomes)
                    .map(|(id, outcome)| convert::outcome_to_wire(id, outcome));
                message(Down::Outcomes(v1::EdgeOutcomes {
                    outcomes: outcomes.collect(),
                    ack: ack.into(),
                    stages: Some(stages),
                }))
            }
        }))
    }
}

#[tonic::async_trait]
impl Edge for EdgeService {
    type ConnectStream = Downlink;

    async fn connect(
        &self,
        request: Request<Streaming<v1::EdgeRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        self.gateway.verifier()?;
        let stream = self.gateway.take_stream()?;
        let mut requests = request.into_inner();
        let hello = match requests.message().await? {
            Some(v1::EdgeRequest {
                kind: Some(Up::Hello(hello)),
            }) => hello,
            _ => {
                return Err(Status::invalid_argument(
                    "the first message must be a Hello",
                ));
            }
        };
        let node = Node::from_hello(hello).map_err(|refused| super::refusal_status(&refused))?;
        // Unbounded in form only: what goes down is answers to what came up, and that is bounded by credits; directives
        // are as rare as changes of models.
        let (sender, receiver) = mpsc::unbounded_channel();
        let gateway = self.gateway.clone();
        tokio::spawn(async move {
            let _stream = stream;
            let directives = tokio::spawn(send_directives(
                gateway.clone(),
                sender.clone(),
                node.models.clone(),
            ));
            serve_node(&gateway, requests, &sender, &node).await;
            directives.abort();
        });
        let gateway = self.gateway.clone();
        Ok(Response::new(Downlink { gateway, receiver }))
    }
}

struct Node {
    name: String,
    account: Account,
    models: Vec<Digest>,
    /// It wants outcomes at SEQUENCED as well.
    sequenced: bool,
}

impl Node {
    fn from_hello(hello: v1::Hello) -> Result<Node, Refused> {
        if hello.node.is_empty() || hello.node.len() > limits::NAME_BYTES_MAX {
            return Err(Refused::new(
                Code::TextTooLong,
                "hello.node must have 1 to 64 bytes",
            ));
        }
        let account = convert::account(&hello.account, "hello.account")?;
        let models = hello
            .models
            .iter()
            .map(|model| convert::digest(&model.digest, "hello.models.digest"))
            .collect::<Result<_, _>>()?;
        Ok(Node {
            name: hello.node,
            account,
            models,
            sequenced: hello.sequenced,
        })
    }
}

fn message(kind: Down) -> Result<v1::EdgeResponse, Status> {
    Ok(v1::EdgeResponse { kind: Some(kind) })
}

fn down(kind: Down) -> Outgoing {
    Outgoing::Ready(message(kind))
}

fn directive(kind: DirectiveKind, model: &[u8], reason: &str) -> Outgoing {
    down(Down::Directive(v1::Directive {
        kind: kind.into(),
        model: Bytes::copy_from_slice(model),
        reason: reason.into(),
    }))
}

async fn serve_node(
    gateway: &Arc<Gateway>,
    mut requests: Streaming<v1::EdgeRequest>,
    sender: &Answers,
    node: &Node,
) {
    let credits_max = gateway.core.config.gateway.edge_credits_max;
    let approved = node
        .models
        .iter()
        .filter(|digest| gateway.core.view.is_approved(digest));
    let _ = sender.send(down(Down::Welcome(v1::Welcome {
        realm: gateway.core.config.realm.name.clone(),
        approved_models: approved
            .map(|digest| Bytes::copy_from_slice(digest))
            .collect(),
        credits_max,
    })));
    let _ = sender.send(down(Down::Credits(v1::Credits {
        amount: credits_max,
    })));
    tracing::info!(
        node = node.name,
        models = node.models.len(),
        "edge node connected"
    );
    // Credits that the node holds or has under way; a node that sends more than it was given is cut off.
    let open = Arc::new(AtomicU32::new(0));
    loop {
        match requests.message().await {
            Ok(Some(v1::EdgeRequest {
                kind: Some(Up::Assets(assets)),
            })) => {
                let count = assets.assets.len();
                let within = count <= ASSETS_A_MESSAGE_MAX
                    && open.fetch_add(count as u32, Ordering::AcqRel) + count as u32 <= credits_max;
                if !within {
                    let message = format!(
                        "{count} assets pass the bound of {ASSETS_A_MESSAGE_MAX} a message or the credits"
                    );
                    let cut_off = Err(Status::resource_exhausted(message));
                    let _ = sender.send(Outgoing::Ready(cut_off));
                    break;
                }
                take_assets(gateway, assets.assets, node, sender, &open);
            }
            Ok(Some(_)) => {
                let message = "after the Hello only assets may follow";
                let _ = sender.send(Outgoing::Ready(Err(Status::invalid_argument(message))));
                break;
            }
            // The node is gone; what it sent stands.
            Ok(None) | Err(_) => break,
        }
    }
    tracing::info!(node = node.name, "edge node disconnected");
}

fn take_assets(
    gateway: &Arc<Gateway>,
    assets: Vec<v1::EdgeAsset>,
    node: &Node,
    sender: &Answers,
    open: &Arc<AtomicU32>,
) {
    let received = Instant::now();
    let mut prepared = Vec::with_capacity(assets.len());
    let mut refused_outcomes = Vec::new();
    let mut digest = Duration::ZERO;
    for asset in assets {
        let id = asset.id.clone();
        let admitted = check_model(gateway, node, &asset)
            .and_then(|()| admit(&*gateway.core.content, mint_of(asset, node), &mut digest));
        match admitted {
            Ok(one) => prepared.push(one),
            Err(refused) => {
                gateway.count_door_refusal(refused.code);
                refused_outcomes.push(convert::refusal_to_wire(&id, &refused, 0));
            }
        }
    }
    let to_node = ToNode {
        gateway: gateway.clone(),
        sender: sender.clone(),
        open: open.clone(),
        ids: prepared.iter().map(|one| one.command.id).collect(),
        received,
        digest,
    };
    to_node.refuse(refused_outcomes);
    if prepared.is_empty() {
        return;
    }
    let last = to_node.clone();
    let durable: Reply<Outcome> = Box::new(move |answered| last.durable(answered));
    let submitted = if node.sequenced {
        let early = to_node.clone();
        let sequenced: Reply<Outcome> = Box::new(move |answered| early.sequenced(answered));
        gateway.core.submit_for_both(prepared, sequenced, durable)
    } else {
        gateway
            .core
            .submit_to_work_off(prepared, Ack::Durable, durable)
    };
    gateway.core.work_off();
    if let Err((error, _)) = submitted {
        let retry_after_ms = match error {
            SubmitError::Overloaded { retry_after_ms } => retry_after_ms as u32,
            _ => 1000,
        };
        to_node.refuse_all(&error, retry_after_ms);
    }
}

/// Answers the assets of one message.
#[derive(Clone)]
struct ToNode {
    gateway: Arc<Gateway>,
    sender: Answers,
    /// Credits that are out.
    open: Arc<AtomicU32>,
    /// Of the assets that were submitted.
    ids: Arc<[CommandId]>,
    received: Instant,
    /// Time spent hashing their content.
    digest: Duration,
}

impl ToNode {
    /// Their place in the order and their outcomes, which are final once they are durable: credits stay out.
    fn sequenced(&self, answered: Result<Answer<Outcome>, SubmitError>) {
        // A failed log is answered where the final outcomes would be.
        if let Ok(answered) = answered {
            self.send(answered, AckLevel::Sequenced);
        }
    }

    fn durable(&self, answered: Result<Answer<Outcome>, SubmitError>) {
        match answered {
            Ok(answered) => {
                let (gateway, since) = (&self.gateway, self.received);
                for outcome in &answered.outcomes {
                    if super::submit::has_more_to_wait_for(outcome) && !outcome.replayed {
                        gateway.acks.wait(outcome, AckLevel::Verified, since, None);
                        gateway.acks.wait(outcome, AckLevel::Settled, since, None);
                    }
                }
                self.send(answered, AckLevel::Durable);
                self.give_credits_back(self.ids.len());
            }
            Err(error) => self.refuse_all(&error, 1000),
        }
    }

    fn send(&self, answered: Answer<Outcome>, ack: AckLevel) {
        let count = self.ids.len() as u64;
        self.gateway
            .latencies
            .record(ack, self.received.elapsed(), count);
        let _ = self.sender.send(Outgoing::Answered {
            ids: self.ids.clone(),
            outcomes: answered.outcomes,
            ack,
            way: Way {
                received: self.received,
                digest: self.digest,
                times: answered.times,
            },
        });
    }

    fn refuse_all(&self, error: &SubmitError, retry_after_ms: u32) {
        let refused = crate::core::submit_refusal(error);
        let outcomes = self
            .ids
            .iter()
            .map(|id| convert::refusal_to_wire(&id.0, &refused, retry_after_ms));
        self.refuse(outcomes.collect());
    }

    /// Sends outcomes that have no place in the order.
    fn refuse(&self, outcomes: Vec<v1::Outcome>) {
        let count = outcomes.len();
        if count == 0 {
            return;
        }
        let _ = self.sender.send(down(Down::Outcomes(v1::EdgeOutcomes {
            outcomes,
            ack: AckLevel::Unspecified.into(),
            stages: None,
        })));
        self.give_credits_back(count);
    }

    fn give_credits_back(&self, count: usize) {
        let amount = count as u32;
        self.open.fetch_sub(amount, Ordering::AcqRel);
        let _ = self
            .sender
            .send(down(Down::Credits(v1::Credits { amount })));
    }
}

fn check_model(gateway: &Gateway, node: &Node, asset: &v1::EdgeAsset) -> Result<(), Refused> {
    let model = asset
        .lineage
        .as_ref()
        .map(|lineage| convert::digest(&lineage.model, "lineage.model"))
        .transpose()?
        .unwrap_or_default();
    if !node.models.contains(&model) {
        return Err(Refused::new(
            Code::ModelNotApproved,
            format!(
                "the node did not attest model {} when it connected",
                hex::encode(model)
            ),
        ));
    }
    // The ledger decides in the order; refusing here only saves the content store from bytes that cannot be minted.
    if !gateway.core.view.is_approved(&model) {
        return Err(Refused::new(
            Code::ModelNotApproved,
            format!("model {} may not mint", hex::encode(model)),
        ));
    }
    Ok(())
}

fn mint_of(asset: v1::EdgeAsset, node: &Node) -> v1::Command {
    v1::Command {
        id: asset.id,
        actor: Bytes::copy_from_slice(&node.account.0),
        format: limits::COMMAND_FORMAT,
        kind: Some(Kind::Mint(v1::Mint {
            collection: asset.collection,
            owner: asset.owner,
            digest: Bytes::new(),
            size: 0,
            traits: asset.traits,
            lineage: asset.lineage,
            content: asset.content,
        })),
    }
}

/// Tells a node about changes of its models and of the realm's pause, from now on.
async fn send_directives(gateway: Arc<Gateway>, sender: Answers, models: Vec<Digest>) {
    let core = &gateway.core;
    if core.view.paused() {
        let _ = sender.send(directive(DirectiveKind::Pause, &[], "the realm is paused"));
    }
    let mut reader = core.events(core.hub.written_seq() + 1, false, PAUSE);
    while let Ok(Some(blocks)) = reader.next(1024).await {
        for event in blocks.iter().flat_map(|block| &block.events) {
            let message = match &event.kind {
                EventKind::ModelPromoted { digest } if models.contains(digest) => directive(
                    DirectiveKind::ModelApproved,
                    digest,
                    "promoted by the operator",
                ),
                EventKind::ModelRetired { digest } if models.contains(digest) => directive(
                    DirectiveKind::ModelRetired,
                    digest,
                    "retired by the operator",
                ),
                EventKind::Paused { paused: true } => {
                    directive(DirectiveKind::Pause, &[], "the operator paused the realm")
                }
                EventKind::Paused { paused: false } => {
                    directive(DirectiveKind::Resume, &[], "the operator resumed the realm")
                }
                _ => continue,
            };
            if sender.send(message).is_err() {
                return;
            }
        }
    }
}
