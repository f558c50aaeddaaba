//! Threads of their own for connections (`gateway.threads`). Each connection belongs to one of them, which reads its requests,
//! puts them into the log and answers them alone.
//!
//! Threads that share their tasks do the same work dearer: whenever a task becomes ready on one of them it wakes another to
//! look for work, which finds none while commands come one by one. What those wake-ups buy is that the processors do not fall
//! asleep. On two processors, in turns: at 10,000 commands a second p50 225-273 us on threads of their own and 310-472 us on
//! shared ones, p99 alike; at 5,000 p50 259-298 and 175-181 us, p99 787-2,202 and 600-1,327 us. So shared ones are the default.

use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch as signal};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Router;

use super::GatewayError;

/// Most new connections that wait for a busy thread; beyond, a connection is closed.
const NEW_CONNECTIONS_MAX: usize = 1024;
/// How long open streams have to end once the gateway stops.
const STREAMS_END_WITHIN: Duration = Duration::from_secs(2);
/// How long a thread has to end after its streams: one that hangs in the disk's write is left behind.
const THREAD_ENDS_WITHIN: Duration = Duration::from_secs(1);
/// After a refused accept, as when no file handle is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The threads, and the way to hand them connections.
pub(super) struct ConnectionThreads {
    queues: Vec<mpsc::Sender<std::net::TcpStream>>,
    ended: FuturesUnordered<oneshot::Receiver<Result<(), GatewayError>>>,
}

impl ConnectionThreads {
    /// Starts so many threads.
    ///
    /// # Errors
    /// When the system gives no thread or no event queue.
    pub(super) fn start(
        threads: usize,
        router: &Router,
        stop: &signal::Receiver<bool>,
    ) -> Result<Self, GatewayError> {
        let mut queues = Vec::with_capacity(threads);
        let ended = FuturesUnordered::new();
        for _ in 0..threads {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(GatewayError::Thread)?;
            let (queue, connections) = mpsc::channel(NEW_CONNECTIONS_MAX);
            let (end, ending) = oneshot::channel();
            let serving = serve_queue(router.clone(), connections, stop.clone());
            std::thread::Builder::new()
                .name("karat-gateway".to_owned())
                .spawn(move || {
                    let served = runtime.block_on(serving);
                    // Nobody is told where the gateway was dropped first.
                    let _ = end.send(served);
                    runtime.shutdown_background();
                })
                .map_err(GatewayError::Thread)?;
            queues.push(queue);
            ended.push(ending);
        }
        Ok(Self { queues, ended })
    }

    /// Hands out what connects, in turns, until `stop` is set and the threads have ended.
    ///
    /// # Errors
    /// When a thread fails.
    pub(super) async fn accept(
        mut self,
        listener: TcpListener,
        mut stop: signal::Receiver<bool>,
    ) -> Result<(), GatewayError> {
        let mut turn = 0;
        loop {
            tokio::select! {
                () = stopped(&mut stop) => break,
                ended = self.ended.next() => return ended.map_or(Ok(()), outcome),
                accepted = listener.accept() => match accepted.and_then(|(one, _)| one.into_std()) {
                    Ok(connection) => {
                        turn = (turn + 1) % self.queues.len();
                        if self.queues[turn].try_send(connection).is_err() {
                            tracing::warn!(
                                "{NEW_CONNECTIONS_MAX} new connections wait for a thread of the gateway; another one was closed"
                            );
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        self.queues.clear();
        let all = async {
            while let Some(ended) = self.ended.next().await {
                outcome(ended)?;
            }
            Ok(())
        };
        tokio::time::timeout(STREAMS_END_WITHIN + THREAD_ENDS_WITHIN, all)
            .await
            .unwrap_or(Ok(()))
    }
}

fn outcome(
    ended: Result<Result<(), GatewayError>, oneshot::error::RecvError>,
) -> Result<(), GatewayError> {
    ended.unwrap_or(Err(GatewayError::Panicked))
}

async fn stopped(stop: &mut signal::Receiver<bool>) {
    // An error means that nobody is left who could say so, which is an end too.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn serve_queue(
    router: Router,
    connections: mpsc::Receiver<std::net::TcpStream>,
    stop: signal::Receiver<bool>,
) -> Result<(), GatewayError> {
    let registered = |connection: std::net::TcpStream| {
        connection.set_nodelay(true)?;
        TcpStream::from_std(connection)
    };
    let incoming = ReceiverStream::new(connections).map(registered);
    serve(router, incoming, stop).await
}

/// Serves what comes in; on `stop` no new stream is taken, and open ones get some time to end.
pub(super) async fn serve(
    router: Router,
    incoming: impl Stream<Item = std::io::Result<TcpStream>>,
    mut stop: signal::Receiver<bool>,
) -> Result<(), GatewayError> {
    let mut graceful = stop.clone();
    let serving =
        router.serve_with_incoming_shutdown(incoming, async move { stopped(&mut graceful).await });
    tokio::select! {
        served = serving => served.map_err(GatewayError::Serve),
        () = async {
            stopped(&mut stop).await;
            tokio::time::sleep(STREAMS_END_WITHIN).await;
        } => Ok(()),
    }
}
