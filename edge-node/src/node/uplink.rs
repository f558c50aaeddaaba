//! The connection to the engine that leads the realm: opened again, where the realm is by then, for as long as it takes; never
//! more under way than there are credits.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use karat_proto::realm::{self, RealmChannel};
use karat_proto::v1::edge_client::EdgeClient;
use karat_proto::v1::edge_request::Kind as Up;
use karat_proto::{Code, limits, v1};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint, Error as TransportError};
use tonic::{Code as StatusCode, Status, Streaming};

use super::generation::LoadedModel;
use super::shared::Shared;
use super::{NodeConfig, NodeError};

mod session;

use session::Session;

/// How long outcomes under way are waited for after a stop.
pub const STOP_GRACE: Duration = Duration::from_secs(1);
/// HTTP/2 windows, bytes: room for a whole window of credits at the usual size of an asset.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Shortest and longest pause between two attempts to connect.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the engine may take to answer a Hello.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an engine that stays away is mentioned.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);
/// Messages that wait between this thread and the socket.
const MESSAGES_WAITING_MAX: usize = 4;

/// Whether connections to this target can be tried.
pub fn check_target(target: &str) -> Result<(), NodeError> {
    if !target.starts_with("http://") {
        return Err(bad_target(format!("{target:?} must be http://host:port")));
    }
    let described = endpoint(target);
    described.map_err(|error| not_an_address(target, &error))?;
    Ok(())
}

fn bad_target(reason: String) -> NodeError {
    NodeError::Setting {
        setting: "target",
        reason,
    }
}

fn not_an_address(target: &str, error: &TransportError) -> NodeError {
    bad_target(format!("{target:?} is not http://host:port: {error}"))
}

fn endpoint(address: &str) -> Result<Endpoint, TransportError> {
    Ok(Endpoint::from_shared(address.to_owned())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5)))
}

/// How a session ended.
pub enum End {
    /// The node's work is done, or it was stopped.
    Finished,
    /// The connection is gone.
    Lost(String),
}

/// Holds the connection until the node's work is done. Blocks its thread, which it has for itself.
pub fn run(
    shared: &Shared,
    config: &NodeConfig,
    model: LoadedModel,
    stop: watch::Receiver<bool>,
) -> Result<(), NodeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| NodeError::Thread {
            part: "uplink",
            reason: format!("has no runtime: {error}"),
        })?;
    let result = runtime.block_on(async {
        let (realm, target) = (config.realm.clone(), &config.target);
        let channel = RealmChannel::new(realm, target, endpoint)
            .map_err(|error| not_an_address(target, &error))?;
        let uplink = Uplink {
            shared,
            config,
            channel,
            model,
            stop,
            sessions: 0,
        };
        uplink.run().await
    });
    // A name lookup that hangs must not hold the thread.
    runtime.shutdown_background();
    result
}

struct Uplink<'a> {
    shared: &'a Shared,
    config: &'a NodeConfig,
    channel: RealmChannel,
    model: LoadedModel,
    stop: watch::Receiver<bool>,
    sessions: u64,
}

impl Uplink<'_> {
    async fn run(mut self) -> Result<(), NodeError> {
        let mut backoff = Backoff::default();
        let mut warned: Option<Instant> = None;
        loop {
            if self.is_over() {
                return Ok(());
            }
            let reason = match self.connect_and_stay(&mut backoff).await? {
                End::Finished => return Ok(()),
                End::Lost(reason) => reason,
            };
            self.shared.change(|state| {
                state.credits_max = None;
                // The next connection says anew whether the realm is paused and the model approved.
                (state.paused, state.unapproved) = (false, false);
                if let Some(spool) = state.spool.as_mut() {
                    spool.give_all_back();
                }
            });
            let wait = backoff.next();
            let spooled = self.shared.look().open_count();
            if warned.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL) {
                warned = Some(Instant::now());
                let (node, target) = (&self.config.name, self.channel.address());
                tracing::warn!(
                    node,
                    target,
                    spooled,
                    reason,
                    "no connection to the engine; trying on"
                );
            }
            let until = Instant::now() + wait;
            while !self.is_over() && Instant::now() < until {
                tokio::select! {
                    () = sleep_until(until) => {}
                    () = self.shared.notice.notified() => {}
                    () = stopped(&mut self.stop) => {}
                }
            }
        }
    }

    /// Whether there is nothing left to do, or somebody said stop.
    fn is_over(&self) -> bool {
        is_stopped(&self.stop) || is_done(self.shared)
    }

    async fn connect_and_stay(&mut self, backoff: &mut Backoff) -> Result<End, NodeError> {
        let mut stop = self.stop.clone();
        let (hello, answers, sender) = tokio::select! {
            connected = self.connect() => match connected? {
                Ok(connected) => connected,
                Err(reason) => return Ok(End::Lost(reason)),
            },
            () = stopped(&mut stop) => return Ok(End::Finished),
        };
        self.sessions += 1;
        if self.sessions > 1 {
            self.shared.figures.count_reconnect();
        }
        let approved = hello
            .approved_models
            .iter()
            .any(|digest| digest[..] == self.model.digest);
        tracing::info!(
            node = self.config.name,
            realm = hello.realm,
            credits_max = hello.credits_max,
            approved,
            spooled = self.shared.look().open_count(),
            "connected to the engine"
        );
        if !approved {
            let model = hex::encode(self.model.digest);
            tracing::warn!(
                model,
                "the model may not mint yet; waiting for the operator to promote it"
            );
        }
        self.shared.change(|state| {
            state.credits_max = Some(hello.credits_max);
            (state.paused, state.unapproved) = (false, !approved);
            if let Some(spool) = state.spool.as_mut() {
                spool.give_all_back();
            }
        });
        let session = Session::new(self.shared, &self.config.target, self.model.digest, sender);
        session.stay(answers, stop, || backoff.reset()).await
    }

    /// Opens the stream and waits for the Welcome. The inner error is one that may pass.
    #[allow(clippy::type_complexity)]
    async fn connect(
        &self,
    ) -> Result<
        Result<
            (
                v1::Welcome,
                Streaming<v1::EdgeResponse>,
                mpsc::Sender<v1::EdgeRequest>,
            ),
            String,
        >,
        NodeError,
    > {
        if let Err(error) = self.channel.connect().await {
            return Ok(Err(with_causes(&error)));
        }
        let mut client = EdgeClient::new(self.channel.clone())
            .max_decoding_message_size(limits::MESSAGE_BYTES_MAX);
        let (sender, requests) = mpsc::channel(MESSAGES_WAITING_MAX);
        let hello = v1::Hello {
            node: self.config.name.clone(),
            account: self.config.account.0.to_vec().into(),
            models: vec![v1::ModelAttestation {
                digest: self.model.digest.to_vec().into(),
                name: self.model.name.clone(),
                role: v1::ModelRole::Generator.into(),
            }],
            sequenced: true,
        };
        if sender
            .try_send(v1::EdgeRequest {
                kind: Some(Up::Hello(hello)),
            })
            .is_err()
        {
            return Ok(Err("the new stream takes no message".into()));
        }
        let opened = timeout(WELCOME_TIMEOUT, async {
            let mut answers = client
                .connect(ReceiverStream::new(requests))
                .await?
                .into_inner();
            let first = answers.message().await?;
            Ok::<_, Status>((first, answers))
        });
        match opened.await {
            Err(_) => Ok(Err(format!(
                "no welcome within {} s",
                WELCOME_TIMEOUT.as_secs()
            ))),
            Ok(Ok((
                Some(v1::EdgeResponse {
                    kind: Some(session::Down::Welcome(hello)),
                }),
                answers,
            ))) => Ok(Ok((hello, answers, sender))),
            Ok(Ok(_)) => Ok(Err("the engine's first message was no welcome".into())),
            Ok(Err(status)) if is_for_good(&status) => Err(NodeError::Refused {
                target: self.config.target.clone(),
                reason: status.message().to_owned(),
            }),
            Ok(Err(status)) => Ok(Err(describe(&status))),
        }
    }
}

/// Whether trying again cannot help.
fn is_for_good(status: &Status) -> bool {
    matches!(
        status.code(),
        StatusCode::InvalidArgument
            | StatusCode::Unauthenticated
            | StatusCode::PermissionDenied
            | StatusCode::Unimplemented
    ) || realm::code_of(status) == Some(Code::UnknownRealm)
}

fn describe(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// A stop whose sender is gone counts: nobody could say it any more.
fn is_stopped(stop: &watch::Receiver<bool>) -> bool {
    *stop.borrow() || stop.has_changed().is_err()
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn is_done(shared: &Shared) -> bool {
    let state = shared.look();
    state.stopping || (state.generation_over && state.open_count() == 0)
}

/// Pauses that double from [`BACKOFF_MIN`] to [`BACKOFF_MAX`], half of each by chance, so that nodes that lost the same
/// engine do not come back together.
#[derive(Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    fn reset(&mut self) {
        self.failures = 0;
    }

    fn next(&mut self) -> Duration {
        let whole = BACKOFF_MIN
            .saturating_mul(1 << self.failures.min(10))
            .min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        // Keys of the standard library's hasher are random.
        let chance = RandomState::new().build_hasher().finish() % 1_000;
        whole / 2 + whole.mul_f64(chance as f64 / 2_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_begin_anew() {
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..20).map(|_| backoff.next()).collect();
        assert!(
            pauses
                .iter()
                .all(|pause| (BACKOFF_MIN / 2..=BACKOFF_MAX).contains(pause))
        );
        assert!(pauses[0] <= BACKOFF_MIN && pauses[19] >= BACKOFF_MAX / 2);
        backoff.reset();
        assert!(backoff.next() <= BACKOFF_MIN);
    }

    #[test]
    fn only_plain_http_targets_are_taken() {
        assert!(check_target("http://127.0.0.1:7000").is_ok());
        for target in ["", "127.0.0.1:7000", "https://a:1", "http://", "http://a b"] {
            assert!(check_target(target).is_err(), "{target}");
        }
    }
}
