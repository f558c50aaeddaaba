//! The Submit stream: requests are read, checked and queued by one task; outcomes go out as their levels are reached.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, Stream};
use karat_proto::convert::{self, Refused};
use karat_proto::event::Outcome;
use karat_proto::served::{SubmitRequest, SubmitResponse};
use karat_proto::v1::AckLevel;
use karat_proto::{Code, CommandId, CommandKind, limits, v1};
use karat_sequencer::{Ack, Reply, SubmitError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::{Status, Streaming};

use super::Gateway;
use super::acks::Client;
use super::admission::{RateLimit, admit_encoded};
use crate::stage_counts::Way;

/// Most commands of a request that the stream's own task puts into the log. With more, the task reads on while the realm's
/// thread does it.
const WORKED_OFF_HERE_MAX: usize = 8;
/// Most bytes of a command that goes into the log as it came. The largest that can, an exchange of 64 legs and as many
/// consents, has some 5,100.
const SMALL_COMMAND_BYTES_MAX: usize = 8 * 1024;

/// One answer on its way out, and the commands that leave the stream's window with it.
pub(super) struct Outgoing {
    response: Response,
    commands: usize,
}

enum Response {
    Ready(SubmitResponse),
    /// Turned into a message where it is sent, so that the writer's thread is not kept.
    Answered {
        ids: Vec<CommandId>,
        outcomes: Vec<Outcome>,
        ack: AckLevel,
        way: Way,
    },
}

/// Outcomes of one stream. Taking one out makes room in the stream's window.
pub struct Outcomes {
    gateway: Arc<Gateway>,
    receiver: mpsc::UnboundedReceiver<Outgoing>,
    window: Arc<Semaphore>,
    _here: Arc<()>,
    _stream: OwnedSemaphorePermit,
}

impl Stream for Outcomes {
    type Item = Result<SubmitResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.receiver.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(outgoing)) => {
                self.window.add_permits(outgoing.commands);
                Poll::Ready(Some(Ok(match outgoing.response {
                    Response::Ready(response) => response,
                    Response::Answered {
                        ids,
                        outcomes,
                        ack,
                        way,
                    } => {
                        let at_sequenced = ack == AckLevel::Sequenced;
                        self.gateway.stages.record(&way.stages(), at_sequenced);
                        SubmitResponse::new(ack, &ids, &outcomes)
                    }
                })))
            }
        }
    }
}

/// The log's level behind a client's level.
pub(super) fn log_ack(level: AckLevel) -> Ack {
    match level {
        AckLevel::Sequenced => Ack::Sequenced,
        _ => Ack::Durable,
    }
}

/// The level asked for; an unspecified one is DURABLE.
pub(super) fn level_of(ack: i32) -> Result<AckLevel, Refused> {
    match AckLevel::try_from(ack) {
        Ok(AckLevel::Unspecified) => Ok(AckLevel::Durable),
        Ok(level) => Ok(level),
        Err(_) => Err(Refused::new(
            Code::Malformed,
            format!("ack {ack} is no ack level"),
        )),
    }
}

/// Opens a stream: starts its reading task and returns its outcomes.
pub(super) fn open(
    gateway: Arc<Gateway>,
    requests: Streaming<SubmitRequest>,
    stream: OwnedSemaphorePermit,
) -> Outcomes {
    let window = Arc::new(Semaphore::new(
        gateway.core.config.gateway.in_flight_a_stream_max,
    ));
    let here = Arc::new(());
    let (sender, receiver) = mpsc::unbounded_channel();
    let a_second = gateway.core.config.gateway.commands_a_second_max;
    let reader = StreamReader {
        rate: RateLimit::new(a_second, Instant::now()),
        gateway: gateway.clone(),
        sender,
        window: window.clone(),
        here: Arc::downgrade(&here),
    };
    tokio::spawn(reader.run(requests));
    // Unbounded in form only: every command in the channel holds a place in the window.
    Outcomes {
        gateway,
        receiver,
        window,
        _here: here,
        _stream: stream,
    }
}

/// Whatever ends it, nothing that it has submitted waits for it.
impl Drop for StreamReader {
    fn drop(&mut self) {
        self.gateway.core.work_off();
    }
}

struct StreamReader {
    gateway: Arc<Gateway>,
    sender: mpsc::UnboundedSender<Outgoing>,
    window: Arc<Semaphore>,
    /// Points to something that goes with the client's outcomes.
    here: Weak<()>,
    rate: RateLimit,
}

impl StreamReader {
    /// Serves small requests where the connection is served. From the first large one on the stream belongs to the threads
    /// that share their tasks, also where the connection has a thread of its own: there its requests are decoded and checked
    /// beside the connection's reading and answering.
    ///
    /// An error is the client gone or a message too large, which tonic has answered; what was taken stays taken.
    async fn run(mut self, mut requests: Streaming<SubmitRequest>) {
        while let Ok(Some(request)) = self.next(&mut requests).await {
            if request.commands.len() > WORKED_OFF_HERE_MAX {
                let shared = self.gateway.shared.clone();
                shared.spawn(self.run_shared(request, requests));
                return;
            }
            if !self.serve(request).await {
                return;
            }
        }
    }

    async fn run_shared(mut self, first: SubmitRequest, mut requests: Streaming<SubmitRequest>) {
        let mut next = Some(first);
        while let Some(request) = next {
            if !self.serve(request).await {
                return;
            }
            next = self.next(&mut requests).await.ok().flatten();
        }
    }

    /// One request; false when the client has gone.
    async fn serve(&mut self, request: SubmitRequest) -> bool {
        let now = Instant::now();
        let places = request
            .commands
            .len()
            .clamp(1, limits::REQUEST_COMMANDS_MAX) as u32;
        if !self.takes_place(places).await {
            return false;
        }
        self.take(request, now, places as usize);
        true
    }

    /// The next request. What came before is worked off as soon as none is there at once, so that requests that come
    /// together go into one block, and none waits for the next.
    async fn next(
        &self,
        requests: &mut Streaming<SubmitRequest>,
    ) -> Result<Option<SubmitRequest>, Status> {
        match requests.message().now_or_never() {
            Some(next) => next,
            None => {
                self.gateway.core.work_off();
                requests.message().await
            }
        }
    }

    /// Waits until the window has room; false when the client has gone. A client that reads no outcomes fills its window
    /// and is read no further.
    async fn takes_place(&self, places: u32) -> bool {
        let permit = match self.window.try_acquire_many(places) {
            Ok(permit) => permit,
            Err(_) => {
                self.gateway.core.work_off();
                tokio::select! {
                    permit = self.window.acquire_many(places) => match permit {
                        Ok(permit) => permit,
                        Err(_) => return false,
                    },
                    () = self.sender.closed() => return false,
                }
            }
        };
        permit.forget();
        true
    }

    fn take(&mut self, request: SubmitRequest, now: Instant, places: usize) {
        let count = request.commands.len();
        let ids = || request.commands.iter().map(id_in);
        let all_refused = |refused: &Refused, retry_after_ms: u32| {
            if count == 0 || count > limits::REQUEST_COMMANDS_MAX {
                vec![convert::refusal_to_wire(&[], refused, retry_after_ms)]
            } else {
                ids()
                    .map(|id| convert::refusal_to_wire(&id, refused, retry_after_ms))
                    .collect()
            }
        };
        if count == 0 {
            return self.send_ready(
                all_refused(
                    &Refused::new(Code::EmptyRequest, "the request holds no command"),
                    0,
                ),
                places,
            );
        }
        if count > limits::REQUEST_COMMANDS_MAX {
            let message = format!("the request holds {count} commands");
            return self.send_ready(
                all_refused(&Refused::new(Code::TooManyCommands, message), 0),
                places,
            );
        }
        let level = match level_of(request.ack) {
            Ok(level) => level,
            Err(refused) => return self.send_ready(all_refused(&refused, 0), places),
        };
        if let Err(retry_after_ms) = self.rate.take(count, now) {
            let message = format!("{} commands a second are allowed", rate_of(&self.gateway));
            return self.send_ready(
                all_refused(&Refused::new(Code::RateLimited, message), retry_after_ms),
                places,
            );
        }
        let waits = matches!(level, AckLevel::Verified | AckLevel::Settled);
        if waits && !self.gateway.acks.has_room(count) {
            let message = "too many outcomes wait for verdicts and settlement";
            return self.send_ready(
                all_refused(&Refused::new(Code::Overloaded, message), 1000),
                places,
            );
        }
        self.queue(request.commands, level, now);
    }

    fn queue(&self, commands: Vec<Bytes>, level: AckLevel, now: Instant) {
        let waits = matches!(level, AckLevel::Verified | AckLevel::Settled);
        let mut ids = Vec::with_capacity(commands.len());
        let mut about_assets = Vec::new();
        let mut prepared = Vec::with_capacity(commands.len());
        let mut refused_outcomes = Vec::new();
        let mut digest = Duration::ZERO;
        for command in own_memory(commands) {
            match admit_encoded(&*self.gateway.core.content, command, &mut digest) {
                Ok(one) => {
                    ids.push(one.command.id);
                    if waits {
                        about_assets.push(is_about_an_asset(&one.command.kind));
                    }
                    prepared.push(one);
                }
                Err((id, refused)) => {
                    self.gateway.count_door_refusal(refused.code);
                    refused_outcomes.push(convert::refusal_to_wire(&id, &refused, 0));
                }
            }
        }
        if !refused_outcomes.is_empty() {
            let count = refused_outcomes.len();
            self.send_ready(refused_outcomes, count);
        }
        if prepared.is_empty() {
            return;
        }
        let sender = self.sender.clone();
        let gateway = self.gateway.clone();
        let here = self.here.clone();
        let for_refusal = ids.clone();
        let reply: Reply<Outcome> = Box::new(move |answer| match answer {
            Ok(answer) => {
                let logged = if level == AckLevel::Sequenced {
                    level
                } else {
                    AckLevel::Durable
                };
                gateway
                    .latencies
                    .record(logged, now.elapsed(), ids.len() as u64);
                if waits {
                    let answered = about_assets.iter().zip(&ids).zip(&answer.outcomes);
                    wait_for_more(&gateway, (&sender, &here), level, now, answered);
                } else {
                    let commands = ids.len();
                    let response = Response::Answered {
                        ids,
                        outcomes: answer.outcomes,
                        ack: level,
                        way: Way {
                            received: now,
                            digest,
                            times: answer.times,
                        },
                    };
                    // The client may have gone; what it asked for stands.
                    let _ = sender.send(Outgoing { response, commands });
                }
            }
            Err(error) => {
                let refused = crate::core::submit_refusal(&error);
                let outcomes = ids
                    .iter()
                    .map(|id| convert::refusal_to_wire(&id.0, &refused, 0))
                    .collect();
                let _ = sender.send(Outgoing {
                    response: ready(AckLevel::Unspecified, outcomes),
                    commands: ids.len(),
                });
            }
        });
        let core = &self.gateway.core;
        let submitted = match prepared.len() {
            0..=WORKED_OFF_HERE_MAX => core.submit_to_work_off(prepared, log_ack(level), reply),
            _ => core.submit(prepared, log_ack(level), reply),
        };
        if let Err((error, _)) = submitted {
            let retry_after_ms = match error {
                SubmitError::Overloaded { retry_after_ms } => retry_after_ms as u32,
                _ => 0,
            };
            let refused = crate::core::submit_refusal(&error);
            for _ in &for_refusal {
                self.gateway.count_door_refusal(refused.code);
            }
            let outcomes: Vec<_> = for_refusal
                .iter()
                .map(|id| convert::refusal_to_wire(&id.0, &refused, retry_after_ms))
                .collect();
            let count = outcomes.len();
            self.send_ready(outcomes, count);
        }
    }

    fn send_ready(&self, outcomes: Vec<v1::Outcome>, commands: usize) {
        let _ = self.sender.send(Outgoing {
            response: ready(AckLevel::Unspecified, outcomes),
            commands,
        });
    }
}

fn ready(ack: AckLevel, outcomes: Vec<v1::Outcome>) -> Response {
    let ack = ack.into();
    Response::Ready(v1::SubmitResponse { ack, outcomes }.into())
}

/// The id in an encoded command that is not taken; nothing when the bytes are no command.
fn id_in(command: &Bytes) -> Bytes {
    convert::wire_command(command.clone()).map_or(Bytes::new(), |command| command.id)
}

/// Moves commands that may wait in the queue out of the memory of the message that they came in, which is as large as the
/// content in it and whatever else the client put there. Larger ones leave it anyway, when their content is stored.
fn own_memory(mut commands: Vec<Bytes>) -> Vec<Bytes> {
    let small = |command: &Bytes| command.len() <= SMALL_COMMAND_BYTES_MAX;
    if let [command] = &mut commands[..] {
        if small(command) {
            *command = Bytes::copy_from_slice(command);
        }
        return commands;
    }
    let bytes = commands.iter().filter(|one| small(one)).map(Bytes::len);
    let mut together = BytesMut::with_capacity(bytes.sum());
    for command in &mut commands {
        if small(command) {
            together.extend_from_slice(command);
            *command = together.split().freeze();
        }
    }
    commands
}

fn rate_of(gateway: &Gateway) -> u64 {
    gateway.core.config.gateway.commands_a_second_max
}

/// Whether there is a verdict or a settlement to wait for, of a command that [`is_about_an_asset`].
pub(super) fn has_more_to_wait_for(outcome: &Outcome) -> bool {
    outcome.code == Code::Accepted && outcome.subject != 0
}

/// Whether the outcome's subject is an asset; of other commands it may be the number of a collection.
pub(super) fn is_about_an_asset(kind: &CommandKind) -> bool {
    matches!(
        kind,
        CommandKind::Mint(_)
            | CommandKind::Revise(_)
            | CommandKind::Transfer { .. }
            | CommandKind::Claim { .. }
            | CommandKind::Burn { .. }
            | CommandKind::Redeem { .. }
            | CommandKind::ReviewDecision { .. }
            | CommandKind::Freeze { .. }
            | CommandKind::Unfreeze { .. }
    )
}

fn wait_for_more<'a>(
    gateway: &Arc<Gateway>,
    (sender, here): (&mpsc::UnboundedSender<Outgoing>, &Weak<()>),
    level: AckLevel,
    since: Instant,
    answered: impl Iterator<Item = ((&'a bool, &'a CommandId), &'a Outcome)>,
) {
    for ((about_an_asset, id), outcome) in answered {
        let send = {
            let sender = sender.clone();
            let mut wire = convert::outcome_to_wire(id, outcome);
            move |reached: AckLevel, why: &str| {
                if !why.is_empty() {
                    wire.message = why.to_owned();
                }
                let _ = sender.send(Outgoing {
                    response: ready(reached, vec![wire]),
                    commands: 1,
                });
            }
        };
        if *about_an_asset && has_more_to_wait_for(outcome) {
            let client = Client {
                done: Box::new(send),
                here: here.clone(),
            };
            gateway.acks.wait(outcome, level, since, Some(client));
        } else {
            send(AckLevel::Durable, "");
        }
    }
}
