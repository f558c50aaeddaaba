//! The floor: an echo service with the engine's messages and nothing behind it, on its own thread and runtime, over
//! loopback. What the same client measures here is what transport, encoding and the client itself cost.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{Stream, StreamExt as _};
use karat_proto::v1;
use karat_proto::v1::ledger_server::{Ledger, LedgerServer};
use tokio::sync::oneshot;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::client::WINDOW_BYTES;
use crate::error::LoadError;

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

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
        Floor::serve(Echo::default())
    }

    /// Starts one with faults, to show that they are found.
    ///
    /// # Errors
    /// When the machine gives no port or thread.
    pub fn start_faulty(faults: Faults) -> Result<Floor, LoadError> {
        Floor::serve(Echo {
            faults,
            ..Echo::default()
        })
    }

    fn serve(echo: Echo) -> Result<Floor, LoadError> {
        let machine = |what| move |cause| LoadError::Machine { what, cause };
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .map_err(machine("a loopback port"))?;
        listener
            .set_nonblocking(true)
            .map_err(machine("a loopback port"))?;
        let address = listener.local_addr().map_err(machine("a loopback port"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(machine("a runtime"))?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(machine("a loopback port"))?
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("floor".into())
            .spawn(move || {
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                let serving = Server::builder()
                    .initial_stream_window_size(WINDOW_BYTES)
                    .initial_connection_window_size(WINDOW_BYTES)
                    .add_service(LedgerServer::new(echo))
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
    Err(Status::unimplemented("the floor only echoes Submit"))
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
        _: Request<v1::ExecuteRequest>,
    ) -> Result<Response<v1::ExecuteResponse>, Status> {
        not_here()
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
