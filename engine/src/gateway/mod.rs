//! The gateway: one port, gRPC. It checks what comes in, hands it to the log, and answers at the level that was asked for.

mod acks;
pub mod admission;
mod connections;
mod edge_service;
mod ledger_service;
mod operator_service;
mod submit;
mod watch;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use karat_proto::code;
use karat_proto::convert::Refused;
use karat_proto::realm::{CODE_HEADER, LEADER_HEADER};
use karat_proto::served::ledger_server::LedgerServer;
use karat_proto::v1::edge_server::EdgeServer;
use karat_proto::v1::operator_server::OperatorServer;
use karat_proto::{Code, limits, v1};
use karat_store::Store;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch as signal};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Response, Status};
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

use self::connections::ConnectionThreads;
pub use acks::AckTracker;
#[cfg(feature = "kafka")]
pub(crate) use admission::admit_encoded;
pub use admission::png_limits;

use crate::core::Core;
use crate::latency::Latencies;
use crate::settlement::Settlement;
use crate::stage_counts::StageCounts;
use crate::verifier::Verifier;

/// Flow-control windows of a connection and its streams: enough for a full pipe of batches on loopback.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Why the gateway cannot serve.
#[derive(Debug, Error)]
pub enum GatewayError {
    /// The address is taken or not ours.
    #[error("listen on {address}: {source}; choose another with --port, or stop what uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Cause.
        source: std::io::Error,
    },
    /// The server failed.
    #[error("gateway: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// A thread that serves connections could not start.
    #[error("gateway: start a thread: {0}; fewer of them are set by gateway.threads")]
    Thread(std::io::Error),
    /// A thread that serves connections panicked.
    #[error("gateway: a thread that served connections panicked")]
    Panicked,
    /// Reflection could not be built.
    #[error("gateway: reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// What the services share.
pub struct Gateway {
    /// The realm.
    pub core: Arc<Core>,
    /// The store.
    pub store: Arc<dyn Store>,
    /// Settlement.
    pub settlement: Arc<Settlement>,
    /// Agents and the review desk; none where a folder is only read.
    pub verifier: Option<Arc<Verifier>>,
    /// Answers that wait for verdicts and settlement.
    pub acks: Arc<AckTracker>,
    /// Latency by ack level.
    pub latencies: Arc<Latencies>,
    /// Where answers spend their time.
    pub stages: StageCounts,
    /// The threads that share their tasks; those of the connections too, unless they have threads of their own.
    shared: Handle,
    streams: Arc<Semaphore>,
    door_refusals: Vec<AtomicU64>,
}

impl Gateway {
    /// Puts the parts together. Called within the runtime that serves large requests, and panics outside of one.
    pub fn new(
        core: Arc<Core>,
        store: Arc<dyn Store>,
        settlement: Arc<Settlement>,
        verifier: Option<Arc<Verifier>>,
        acks: Arc<AckTracker>,
        latencies: Arc<Latencies>,
    ) -> Arc<Gateway> {
        let streams = Arc::new(Semaphore::new(core.config.gateway.streams_max));
        let door_refusals = Code::ALL.iter().map(|_| AtomicU64::new(0)).collect();
        Arc::new(Gateway {
            core,
            store,
            settlement,
            verifier,
            acks,
            latencies,
            stages: StageCounts::default(),
            shared: Handle::current(),
            streams,
            door_refusals,
        })
    }

    /// The agents and the review desk, where they run: in an engine that leads its realm.
    fn verifier(&self) -> Result<&Verifier, Status> {
        if let Err(refused) = self.core.role.refuse_unless_leading() {
            self.count_door_refusal(refused.code);
            let mut status = refusal_status(&refused);
            let leader = self.core.role.followed().map(|followed| followed.leader);
            let leader = leader.filter(|leader| !leader.is_empty());
            if let Some(leader) = leader.and_then(|leader| leader.parse().ok()) {
                status.metadata_mut().insert(LEADER_HEADER, leader);
            }
            return Err(status);
        }
        self.verifier.as_deref().ok_or_else(|| {
            Status::failed_precondition("this process only reads the folder; ask a running engine")
        })
    }

    /// How old a follower's state is now; `None` where it is the leader's. Taken before an answer is read, which then shows
    /// at least as much.
    fn age(&self) -> Option<Age> {
        let followed = self.core.role.followed()?;
        Some(Age {
            applied_seq: self.core.view.applied_seq(),
            age_ms: followed.age_ms,
        })
    }

    fn take_stream(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.streams.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{} streams are open; close some, or use one stream for many commands",
                self.core.config.gateway.streams_max
            ))
        })
    }

    fn count_door_refusal(&self, code: Code) {
        if let Some(at) = Code::ALL.iter().position(|one| *one == code) {
            self.door_refusals[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Refusals at the door by code, those that occurred.
    pub fn door_refusals(&self) -> Vec<(Code, u64)> {
        Code::ALL
            .iter()
            .zip(&self.door_refusals)
            .map(|(code, count)| (*code, count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Binds the configured address.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub async fn bind(address: SocketAddr) -> Result<TcpListener, GatewayError> {
        TcpListener::bind(address)
            .await
            .map_err(|source| GatewayError::Listen { address, source })
    }

    /// What answers the realm's requests.
    pub fn routes(self: &Arc<Self>) -> Routes {
        let ledger = LedgerServer::new(ledger_service::LedgerService {
            gateway: self.clone(),
        })
        .max_decoding_message_size(limits::MESSAGE_BYTES_MAX);
        let edge = EdgeServer::new(edge_service::EdgeService {
            gateway: self.clone(),
        })
        .max_decoding_message_size(limits::MESSAGE_BYTES_MAX);
        let operator = OperatorServer::new(operator_service::OperatorService {
            gateway: self.clone(),
        });
        Routes::new(ledger).add_service(edge).add_service(operator)
    }

    /// Serves until `stop` is set; then no new stream is taken, and open ones get two seconds to end.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn serve(
        self: Arc<Gateway>,
        listener: TcpListener,
        stop: signal::Receiver<bool>,
    ) -> Result<(), GatewayError> {
        let (health_reporter, health) = tonic_health::server::health_reporter();
        health_reporter
            .set_serving::<LedgerServer<ledger_service::LedgerService>>()
            .await;
        health_reporter
            .set_serving::<EdgeServer<edge_service::EdgeService>>()
            .await;
        health_reporter
            .set_serving::<OperatorServer<operator_service::OperatorService>>()
            .await;
        let reflection = reflection()?;
        let router = server(self.core.config.gateway.streams_a_connection_max)
            .add_routes(self.routes().add_service(health).add_service(reflection));
        match self.core.config.gateway.threads {
            0 => {
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                connections::serve(router, incoming, stop).await
            }
            threads => {
                ConnectionThreads::start(threads, &router, &stop)?
                    .accept(listener, stop)
                    .await
            }
        }
    }
}

/// The server of a port, as every port here is served; whoever accepts its connections sets their delay off.
pub(crate) fn server(streams_a_connection_max: u32) -> Server {
    Server::builder()
        .initial_connection_window_size(WINDOW_BYTES)
        .initial_stream_window_size(WINDOW_BYTES)
        .max_concurrent_streams(streams_a_connection_max)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
}

/// Answers what this program's services are.
pub(crate) fn reflection() -> Result<ServerReflectionServer<impl ServerReflection>, GatewayError> {
    Ok(tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?)
}

/// How old what a follower shows may be.
#[derive(Debug, Clone, Copy)]
struct Age {
    applied_seq: u64,
    age_ms: u64,
}

/// What was read, as an answer. A follower's says how old it may be: `karat-applied-seq` is a sequence up to which it shows
/// everything, and `karat-age-ms` how long ago something was read from the leader.
fn read_answer<T>(age: Option<Age>, message: T) -> Response<T> {
    let mut response = Response::new(message);
    if let Some(age) = age {
        let metadata = response.metadata_mut();
        metadata.insert("karat-applied-seq", age.applied_seq.into());
        metadata.insert("karat-age-ms", age.age_ms.into());
    }
    response
}

/// A refusal as the status of a unary call.
pub(crate) fn refusal_status(refused: &Refused) -> Status {
    let status = match refused.code.status() {
        code::Status::Ok => tonic::Code::Ok,
        code::Status::InvalidArgument => tonic::Code::InvalidArgument,
        code::Status::NotFound => tonic::Code::NotFound,
        code::Status::AlreadyExists => tonic::Code::AlreadyExists,
        code::Status::PermissionDenied => tonic::Code::PermissionDenied,
        code::Status::ResourceExhausted => tonic::Code::ResourceExhausted,
        code::Status::FailedPrecondition => tonic::Code::FailedPrecondition,
        code::Status::Aborted => tonic::Code::Aborted,
        code::Status::Unavailable => tonic::Code::Unavailable,
    };
    let message = format!(
        "{}: {}; {}",
        refused.code.name(),
        refused.message,
        refused.code.hint()
    );
    let mut answer = Status::new(status, message);
    if let Ok(number) = (refused.code as u16).to_string().parse() {
        answer.metadata_mut().insert(CODE_HEADER, number);
    }
    answer
}
