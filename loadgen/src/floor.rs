//! The floor: an echo service with the engine's messages and nothing behind it, on its own thread and runtime, over
//! loopback. What the same client measures here is what transport, encoding and the client itself cost.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{Stream, StreamExt as _};
use karat_proto::v1::edge_request::Kind as Up;
use karat_proto::v1::edge_response::Kind as Down;
use karat_proto::v1::edge_server::{Edge, EdgeServer};
use karat_proto::v1::ledger_server::{Ledger, LedgerServer};
use karat_proto::{limits, v1};
use tokio::sync::oneshot;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::client::WINDOW_BYTES;
use crate::error::LoadError;

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Assets that an edge node of the echo may have under way: the engine's default.
const EDGE_CREDITS: u32 = 256;

/// A running echo service; it ends with this value.
pub struct Floor {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Floor {
    /// Starts one on a free port of the loopback.
    ///
    /// # Errors
    /// When the machine gives no port or thread.
    pub fn start() -> Result<Floor, LoadError> {
        Floor::serve(LOOPBACK, Echo::default())
    }

    /// Starts one at this address.
    ///
    /// # Errors
    /// When the machine gives no port or thread.
    pub fn start_at(listen: SocketAddr) -> Result<Floor, LoadError> {
        Floor::serve(listen, Echo::default())
    }

    /// Serves until the program ends.
    pub fn wait(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// Starts one with faults, to show that they are found.
    ///
    /// # Errors
    /// When the machine gives no port or thread.
    pub fn start_faulty(faults: Faults) -> Result<Floor, LoadError> {
        let echo = Echo {
            faults,
            ..Echo::default()
        };
        Floor::serve(LOOPBACK, echo)
    }

    fn serve(listen: SocketAddr, echo: Echo) -> Result<Floor, LoadError> {
        let machine = |what| move |cause| LoadError::Machine { what, cause };
        let listener =
            std::net::TcpListener::bind(listen).map_err(machine("a port for the echo"))?;
        listener
            .set_nonblocking(true)
            .map_err(machine("a port for the echo"))?;
        let address = listener
            .local_addr()
            .map_err(machine("a port for the echo"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(machine("a runtime"))?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(machine("a port for the echo"))?
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("floor".into())
            .spawn(move || {
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                let serving = Server::builder()
                    .initial_stream_window_size(WINDOW_BYTES)
                    .initial_connection_window_size(WINDOW_BYTES)
                    .add_service(LedgerServer::new(echo.clone()))
                    .add_service(
                        EdgeServer::new(echo).max_decoding_message_size(limits::MESSAGE_BYTES_MAX),
                    )
                    .serve_with_incoming(incoming);
                runtime.block_on(async {
                    tokio::select! {
                        // The client sees a connection that ends, as with any target that dies.
                        _ = serving => {}
                        _ = stopped => {}
                    }
                });
            })
            .map_err(machine("a thread"))?;
        Ok(Floor {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens, as a target.
    pub fn target(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has shown itself as a broken stream here.
            let _ = thread.join();
        }
    }
}

/// What an echo does wrong on purpose; 0 for never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The outcome of every so many-th command is never sent.
    pub lose_every: u64,
    /// The outcome of every so many-th command is sent twice.
    pub double_every: u64,
    /// Ends the stream with an error after so many commands.
    pub die_after: u64,
}

#[derive(Clone, Default)]
struct Echo {
    faults: Faults,
    sequence: Arc<AtomicU64>,
    assets: Arc<AtomicU64>,
}

impl Echo {
    fn answer(&self, request: v1::SubmitRequest) -> Result<v1::SubmitResponse, Status> {
        let mut outcomes = Vec::with_capacity(request.commands.len());
        for command in request.commands {
            let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
            let hits = |every: u64| every != 0 && sequence.is_multiple_of(every);
            if hits(self.faults.die_after) {
                return Err(Status::unavailable("the echo dies on purpose"));
            }
            if hits(self.faults.lose_every) {
                continue;
            }
            let subject = match command.kind {
                Some(v1::command::Kind::Mint(_)) => self.assets.fetch_add(1, Ordering::Relaxed) + 1,
                Some(v1::command::Kind::Transfer(transfer)) => transfer.asset,
                Some(v1::command::Kind::Claim(claim)) => claim.asset,
                _ => 0,
            };
            let outcome = v1::Outcome {
                id: command.id,
                sequence,
                subject,
                ..v1::Outcome::default()
            };
            if hits(self.faults.double_every) {
                outcomes.push(outcome.clone());
            }
            outcomes.push(outcome);
        }
        Ok(v1::SubmitResponse {
            ack: request.ack,
            outcomes,
        })
    }
}

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented(
        "the floor only echoes Submit, Execute and Connect",
    ))
}

impl Echo {
    /// What an engine tells a node: first that it is welcome, then an outcome and a credit for each asset.
    fn answer_node(&self, request: v1::EdgeRequest) -> Vec<Result<v1::EdgeResponse, Status>> {
        let down = |kind| Ok(v1::EdgeResponse { kind: Some(kind) });
        match request.kind {
            Some(Up::Hello(hello)) => {
                let models = hello.models.into_iter().map(|model| model.digest);
                let welcome = v1::Welcome {
                    realm: "echo".into(),
                    approved_models: models.collect(),
                    credits_max: EDGE_CREDITS,
                };
                let amount = EDGE_CREDITS;
                vec![
                    down(Down::Welcome(welcome)),
                    down(Down::Credits(v1::Credits { amount })),
                ]
            }
            Some(Up::Assets(assets)) => {
                let amount = assets.assets.len() as u32;
                let outcomes = assets.assets.into_iter().map(|asset| v1::Outcome {
                    id: asset.id,
                    sequence: self.sequence.fetch_add(1, Ordering::Relaxed) + 1,
                    subject: self.assets.fetch_add(1, Ordering::Relaxed) + 1,
                    ..v1::Outcome::default()
                });
                let outcomes = outcomes.collect();
                vec![
                    down(Down::Outcomes(v1::EdgeOutcomes {
                        outcomes,
                        ack: v1::AckLevel::Durable.into(),
                        ..v1::EdgeOutcomes::default()
                    })),
                    down(Down::Credits(v1::Credits { amount })),
                ]
            }
            None => Vec::new(),
        }
    }
}

/// Answers a call as a message with one command, for services that treat both alike.
///
/// # Errors
/// When the message's answer is one.
pub async fn execute_by_submit<F>(
    request: Request<v1::ExecuteRequest>,
    submit: impl FnOnce(v1::SubmitRequest) -> F,
) -> Result<Response<v1::ExecuteResponse>, Status>
where
    F: Future<Output = Result<v1::SubmitResponse, Status>>,
{
    let request = request.into_inner();
    let answer = submit(v1::SubmitRequest {
        ack: request.ack,
        commands: request.command.into_iter().collect(),
    })
    .await?;
    Ok(Response::new(v1::ExecuteResponse {
        ack: answer.ack,
        outcome: answer.outcomes.into_iter().next(),
    }))
}

#[tonic::async_trait]
impl Edge for Echo {
    type ConnectStream = Responses<v1::EdgeResponse>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::EdgeRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let echo = self.clone();
        let answers = request.into_inner().flat_map(move |request| {
            futures::stream::iter(match request {
                Ok(request) => echo.answer_node(request),
                Err(status) => vec![Err(status)],
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

#[tonic::async_trait]
impl Ledger for Echo {
    type SubmitStream = Responses<v1::SubmitResponse>;
    type WatchStream = Responses<v1::WatchResponse>;

    async fn submit(
        &self,
        request: Request<Streaming<v1::SubmitRequest>>,
    ) -> Result<Response<Self::SubmitStream>, Status> {
        let echo = self.clone();
        let answers = request
            .into_inner()
            .map(move |request| request.and_then(|request| echo.answer(request)));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn execute(
        &self,
        request: Request<v1::ExecuteRequest>,
    ) -> Result<Response<v1::ExecuteResponse>, Status> {
        execute_by_submit(request, |message| std::future::ready(self.answer(message))).await
    }

    async fn get_asset(
        &self,
        _: Request<v1::GetAssetRequest>,
    ) -> Result<Response<v1::GetAssetResponse>, Status> {
        not_here()
    }

    async fn list_assets(
        &self,
        _: Request<v1::ListAssetsRequest>,
    ) -> Result<Response<v1::ListAssetsResponse>, Status> {
        not_here()
    }

    async fn get_history(
        &self,
        _: Request<v1::GetHistoryRequest>,
    ) -> Result<Response<v1::GetHistoryResponse>, Status> {
        not_here()
    }

    async fn get_content(
        &self,
        _: Request<v1::GetContentRequest>,
    ) -> Result<Response<v1::GetContentResponse>, Status> {
        not_here()
    }

    async fn get_account(
        &self,
        _: Request<v1::GetAccountRequest>,
    ) -> Result<Response<v1::GetAccountResponse>, Status> {
        not_here()
    }

    async fn get_collection(
        &self,
        _: Request<v1::GetCollectionRequest>,
    ) -> Result<Response<v1::GetCollectionResponse>, Status> {
        not_here()
    }

    async fn get_proof(
        &self,
        _: Request<v1::GetProofRequest>,
    ) -> Result<Response<v1::GetProofResponse>, Status> {
        not_here()
    }

    async fn get_batch(
        &self,
        _: Request<v1::GetBatchRequest>,
    ) -> Result<Response<v1::GetBatchResponse>, Status> {
        not_here()
    }

    async fn list_batches(
        &self,
        _: Request<v1::ListBatchesRequest>,
    ) -> Result<Response<v1::ListBatchesResponse>, Status> {
        not_here()
    }

    async fn watch(
        &self,
        _: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        not_here()
    }
}
