//! An engine's Edge service in memory: an order with a retry memory, credits, directives, and connections that break.

#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use karat_proto::realm::{CODE_HEADER, LEADER_HEADER, REALM_HEADER};
use karat_proto::v1::edge_request::Kind as Up;
use karat_proto::v1::edge_response::Kind as Down;
use karat_proto::v1::edge_server::{Edge, EdgeServer};
use karat_proto::v1::{self, DirectiveKind};
use karat_proto::{Code, limits};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tokio::net::TcpSocket;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// Nothing here takes so long unless it hangs.
pub const HANGS_AFTER: Duration = Duration::from_secs(180);

type Answers = mpsc::UnboundedSender<Result<v1::EdgeResponse, Status>>;

/// What the order remembers and how the service behaves.
pub struct World {
    /// First outcome and body by id, as the ledger keeps them.
    pub outcomes: HashMap<Bytes, (v1::Outcome, v1::EdgeAsset)>,
    pub accepted: Vec<v1::EdgeAsset>,
    /// Seeds in the order in which they first arrived.
    pub arrived: Vec<Bytes>,
    pub approved: bool,
    pub paused: bool,
    /// Pauses once so many are accepted.
    pub pause_at: Option<usize>,
    /// How often the door refused an asset because of its model.
    pub not_approved: u64,
    pub supply: u64,
    /// Says Overloaded at the door to one in so many; 0 for never.
    pub overloaded_every: u64,
    /// Breaks the connection at one message in so many; 0 for never.
    pub break_every: u64,
    pub answer_after: Duration,
    pub refuse_hello: Option<Status>,
    pub credits_max: u32,
    /// Where the engine's time goes, as it says; an old engine says nothing, and nothing at SEQUENCED either.
    pub stages: Option<v1::Stages>,
    pub violations: Vec<String>,
    pub hellos: Vec<v1::Hello>,
    /// The realms that those who came in named.
    pub realms_named: Vec<String>,
    random: ChaCha8Rng,
}

impl World {
    fn one_in(&mut self, every: u64) -> bool {
        every > 0 && self.random.next_u64().is_multiple_of(every)
    }

    /// At the door, then in the order.
    fn decide(&mut self, asset: &v1::EdgeAsset) -> v1::Outcome {
        let seed = asset.lineage.as_ref().unwrap().seed.clone();
        if !self.arrived.contains(&seed) {
            self.arrived.push(seed);
        }
        let outcome = |code: Code, sequence: u64| v1::Outcome {
            id: asset.id.clone(),
            code: code as u32,
            sequence,
            ..Default::default()
        };
        if self.one_in(self.overloaded_every) {
            return v1::Outcome {
                retry_after_ms: 20,
                ..outcome(Code::Overloaded, 0)
            };
        }
        if !self.approved {
            self.not_approved += 1;
            return outcome(Code::ModelNotApproved, 0);
        }
        let sequence = self.outcomes.len() as u64 + 1;
        if let Some((first, body)) = self.outcomes.get(&asset.id) {
            if body != asset {
                self.violations
                    .push(format!("id {:?} with another body", asset.id));
                return outcome(Code::IdReused, sequence);
            }
            return v1::Outcome {
                replayed: true,
                ..first.clone()
            };
        }
        let code = if self.paused {
            Code::Paused
        } else if self.accepted.len() as u64 >= self.supply {
            Code::SupplyCapReached
        } else {
            self.accepted.push(asset.clone());
            self.paused |= self.pause_at == Some(self.accepted.len());
            Code::Accepted
        };
        let decided = outcome(code, sequence);
        self.outcomes
            .insert(asset.id.clone(), (decided.clone(), asset.clone()));
        decided
    }

    /// How often each seed was accepted.
    pub fn accepted_by_seed(&self) -> BTreeMap<Bytes, usize> {
        let mut counts = BTreeMap::new();
        for asset in &self.accepted {
            *counts
                .entry(asset.lineage.as_ref().unwrap().seed.clone())
                .or_default() += 1;
        }
        counts
    }
}

/// The service and the switch that ends its listener.
pub struct FakeEdge {
    pub world: Arc<Mutex<World>>,
    pub address: SocketAddr,
    /// Keeps the port while nobody listens: it is bound, and a connection to it is refused.
    _reserved: TcpSocket,
    /// Answers wait while this is true.
    held: watch::Sender<bool>,
    directives: broadcast::Sender<v1::Directive>,
    stop: Option<watch::Sender<bool>>,
    most_open: Arc<AtomicU64>,
    /// Who has the realm, where it is somebody else.
    leader: Arc<Mutex<Option<SocketAddr>>>,
}

struct Service {
    world: Arc<Mutex<World>>,
    directives: broadcast::Sender<v1::Directive>,
    stop: watch::Receiver<bool>,
    held: watch::Receiver<bool>,
    most_open: Arc<AtomicU64>,
    leader: Arc<Mutex<Option<SocketAddr>>>,
}

impl FakeEdge {
    /// Listens on a free port of the loopback.
    pub async fn start(seed: u64) -> FakeEdge {
        let mut fake = FakeEdge::down(seed);
        fake.listen().await;
        fake
    }

    /// Knows its port and does not listen there yet.
    pub fn down(seed: u64) -> FakeEdge {
        let reserved = reusable_socket(([127, 0, 0, 1], 0).into()).unwrap();
        let world = World {
            outcomes: HashMap::new(),
            accepted: Vec::new(),
            arrived: Vec::new(),
            approved: true,
            paused: false,
            pause_at: None,
            not_approved: 0,
            supply: u64::MAX,
            overloaded_every: 0,
            break_every: 0,
            answer_after: Duration::ZERO,
            refuse_hello: None,
            credits_max: 32,
            stages: None,
            violations: Vec::new(),
            hellos: Vec::new(),
            realms_named: Vec::new(),
            random: ChaCha8Rng::seed_from_u64(seed),
        };
        FakeEdge {
            world: Arc::new(Mutex::new(world)),
            address: reserved.local_addr().unwrap(),
            _reserved: reserved,
            held: watch::channel(false).0,
            directives: broadcast::channel(64).0,
            stop: None,
            most_open: Arc::default(),
            leader: Arc::default(),
        }
    }

    pub async fn listen(&mut self) {
        // The listener before this one is closed by its task, some time after it was told to go.
        let began = Instant::now();
        let listener = loop {
            match reusable_socket(self.address).and_then(|socket| socket.listen(1024)) {
                Ok(listener) => break listener,
                Err(error) => {
                    assert!(began.elapsed() < HANGS_AFTER, "{error}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        };
        let (stop, mut stopped) = watch::channel(false);
        let service = Service {
            world: self.world.clone(),
            directives: self.directives.clone(),
            stop: stopped.clone(),
            held: self.held.subscribe(),
            most_open: self.most_open.clone(),
            leader: self.leader.clone(),
        };
        self.stop = Some(stop);
        let edge = EdgeServer::new(service).max_decoding_message_size(limits::MESSAGE_BYTES_MAX);
        tokio::spawn(async move {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let until = async move {
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            Server::builder()
                .add_service(edge)
                .serve_with_incoming_shutdown(incoming, until)
                .await
                .unwrap();
        });
    }

    /// Stops listening and breaks every connection.
    pub fn go_away(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(true).unwrap();
        }
    }

    /// Keeps every answer back, or lets all go.
    pub fn hold_answers(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// From now on the realm is here, or with another one.
    pub fn realm_is_at(&self, other: Option<&FakeEdge>) {
        *self.leader.lock().unwrap() = other.map(|other| other.address);
    }

    pub fn most_open(&self) -> u64 {
        self.most_open.load(Ordering::SeqCst)
    }

    pub fn target(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn direct(&self, kind: DirectiveKind, model: &[u8]) {
        let directive = v1::Directive {
            kind: kind.into(),
            model: Bytes::copy_from_slice(model),
            reason: "the test says so".into(),
        };
        // An error means that no node is connected.
        let _ = self.directives.send(directive);
    }

    pub fn accepted(&self) -> usize {
        self.world.lock().unwrap().accepted.len()
    }
}

/// Bound to an address that several sockets of this process may share, as long as one of them listens. Nobody else is
/// given its port.
fn reusable_socket(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn down(kind: Down) -> Result<v1::EdgeResponse, Status> {
    Ok(v1::EdgeResponse { kind: Some(kind) })
}

#[tonic::async_trait]
impl Edge for Service {
    type ConnectStream = UnboundedReceiverStream<Result<v1::EdgeResponse, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::EdgeRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let leader = *self.leader.lock().unwrap();
        if let Some(leader) = leader {
            let mut refused = Status::failed_precondition("the realm is elsewhere");
            let metadata = refused.metadata_mut();
            let code = (Code::RealmElsewhere as u16).to_string();
            metadata.insert(CODE_HEADER, code.parse().unwrap());
            metadata.insert(LEADER_HEADER, leader.to_string().parse().unwrap());
            return Err(refused);
        }
        if let Some(realm) = request.metadata().get(REALM_HEADER) {
            let realm = realm.to_str().unwrap().to_owned();
            self.world.lock().unwrap().realms_named.push(realm);
        }
        let mut requests = request.into_inner();
        let Some(v1::EdgeRequest {
            kind: Some(Up::Hello(hello)),
        }) = requests.message().await?
        else {
            return Err(Status::invalid_argument(
                "the first message must be a Hello",
            ));
        };
        let (sender, receiver) = mpsc::unbounded_channel();
        let (credits_max, approved, paused) = {
            let mut world = self.world.lock().unwrap();
            world.hellos.push(hello.clone());
            if let Some(status) = &world.refuse_hello {
                return Err(status.clone());
            }
            (world.credits_max, world.approved, world.paused)
        };
        let models = hello.models.iter().map(|model| model.digest.clone());
        let approved_models = models.filter(|_| approved).collect();
        let welcome = v1::Welcome {
            realm: "test".into(),
            approved_models,
            credits_max,
        };
        sender.send(down(Down::Welcome(welcome))).unwrap();
        sender
            .send(down(Down::Credits(v1::Credits {
                amount: credits_max,
            })))
            .unwrap();
        if paused {
            let kind = DirectiveKind::Pause.into();
            let directive = v1::Directive {
                kind,
                ..Default::default()
            };
            sender.send(down(Down::Directive(directive))).unwrap();
        }
        let mut directives = self.directives.subscribe();
        let (world, mut stop) = (self.world.clone(), self.stop.clone());
        let (most_open, held) = (self.most_open.clone(), self.held.clone());
        tokio::spawn(async move {
            let open = Arc::new(AtomicU64::new(0));
            loop {
                tokio::select! {
                    message = requests.message() => {
                        let Ok(Some(v1::EdgeRequest { kind: Some(Up::Assets(assets)) })) = message else { break };
                        let count = assets.assets.len() as u64;
                        let now_open = open.fetch_add(count, Ordering::SeqCst) + count;
                        most_open.fetch_max(now_open, Ordering::SeqCst);
                        if now_open > u64::from(credits_max) || count == 0 || count > 64 {
                            world.lock().unwrap().violations.push(format!("{now_open} open, {count} sent"));
                        }
                        if take(&world, assets.assets, &sender, &open, &held).await.is_err() {
                            let _ = sender.send(Err(Status::unavailable("broken on purpose")));
                            break;
                        }
                    }
                    directive = directives.recv() => {
                        if let Ok(directive) = directive {
                            let _ = sender.send(down(Down::Directive(directive)));
                        }
                    }
                    () = async { drop(stop.wait_for(|stop| *stop).await) } => {
                        let _ = sender.send(Err(Status::unavailable("going away")));
                        break;
                    }
                }
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(receiver)))
    }
}

/// Decides over one message. A break comes before, within or after the deciding, and before any answer.
async fn take(
    world: &Arc<Mutex<World>>,
    assets: Vec<v1::EdgeAsset>,
    sender: &Answers,
    open: &Arc<AtomicU64>,
    held: &watch::Receiver<bool>,
) -> Result<(), ()> {
    let (outcomes, breaks, answer_after, stages) = {
        let mut world = world.lock().unwrap();
        let every = world.break_every;
        let breaks = world.one_in(every);
        let known = match breaks {
            true => world.random.next_u64() as usize % (assets.len() + 1),
            false => assets.len(),
        };
        let outcomes: Vec<_> = assets[..known]
            .iter()
            .map(|asset| world.decide(asset))
            .collect();
        (outcomes, breaks, world.answer_after, world.stages)
    };
    if breaks {
        return Err(());
    }
    let (sender, open, mut held) = (sender.clone(), open.clone(), held.clone());
    let answers_at_once = answer_after.is_zero() && !*held.borrow();
    let in_order: Vec<_> = outcomes
        .iter()
        .filter(|outcome| outcome.sequence > 0)
        .cloned()
        .collect();
    if stages.is_some() && !in_order.is_empty() {
        let _ = sender.send(down(Down::Outcomes(v1::EdgeOutcomes {
            outcomes: in_order,
            ack: v1::AckLevel::Sequenced.into(),
            stages,
        })));
    }
    let answer = async move {
        // An error means that the test is over.
        let _ = held.wait_for(|held| !held).await;
        tokio::time::sleep(answer_after).await;
        let amount = outcomes.len() as u32;
        open.fetch_sub(u64::from(amount), Ordering::SeqCst);
        let _ = sender.send(down(Down::Outcomes(v1::EdgeOutcomes {
            outcomes,
            ack: v1::AckLevel::Durable.into(),
            stages,
        })));
        let _ = sender.send(down(Down::Credits(v1::Credits { amount })));
    };
    match answers_at_once {
        true => answer.await,
        false => drop(tokio::spawn(answer)),
    }
    Ok(())
}
