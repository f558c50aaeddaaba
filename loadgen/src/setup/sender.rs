//! Sends the commands of setup, a few messages at a time, and takes nothing but acceptance for an answer.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use karat_proto::realm::RealmChannel;
use karat_proto::v1::command::Kind;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::{Account, Code, convert, limits, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::books::command_id;
use crate::error::LoadError;

/// Commands of setup carry this stream number in their ids: runs have far fewer streams.
const SETUP_STREAM: u16 = u16::MAX;
/// Commands in one message of setup.
const BATCH: usize = 256;
/// Messages of setup in flight: small enough for any queue.
const MESSAGES_IN_FLIGHT: usize = 8;
/// Commands prepared at a time.
pub(super) const CHUNK: usize = 64 * BATCH;
/// How often an overloaded target is asked again.
const RETRIES_MAX: u32 = 100;
/// Longest wait for one answer of setup.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const NOT_ALL_ANSWERED: &str = "the target did not answer every command";

/// One client that prepares a run.
pub(super) struct Sender {
    channel: RealmChannel,
    ledger: LedgerClient<RealmChannel>,
    run: u64,
    number: u64,
    last_sequence: u64,
}

impl Sender {
    pub(super) fn new(channel: RealmChannel, run: u64) -> Sender {
        Sender {
            ledger: LedgerClient::new(channel.clone()),
            channel,
            run,
            number: 0,
            last_sequence: 0,
        }
    }

    /// The last sequence that was given to a command of setup.
    pub(super) fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    fn command(&mut self, actor: Account, kind: Kind) -> v1::Command {
        let id = command_id(self.run, SETUP_STREAM, self.number);
        self.number += 1;
        convert::new_command(karat_proto::CommandId(id), actor, kind)
    }

    /// Sends one command and returns its outcome, which is an acceptance.
    pub(super) async fn execute(
        &mut self,
        step: &'static str,
        actor: Account,
        kind: Kind,
    ) -> Result<v1::Outcome, LoadError> {
        let request = v1::ExecuteRequest {
            ack: v1::AckLevel::Durable.into(),
            command: Some(self.command(actor, kind)),
        };
        let asked = self.channel.ask(|| {
            let (mut ledger, request) = (self.ledger.clone(), request.clone());
            async move { in_time(ledger.execute(request)).await }
        });
        let answer = asked
            .await
            .map_err(|status| LoadError::in_setup(step, &status))?;
        let outcome = answer.into_inner().outcome.unwrap_or_default();
        check(step, &outcome)?;
        self.last_sequence = self.last_sequence.max(outcome.sequence);
        Ok(outcome)
    }

    /// Sends commands of one actor and returns their outcomes in the same order, all accepted.
    pub(super) async fn submit_all(
        &mut self,
        step: &'static str,
        actor: Account,
        kinds: Vec<Kind>,
    ) -> Result<Vec<v1::Outcome>, LoadError> {
        let mut outcomes = vec![None; kinds.len()];
        let mut places = HashMap::with_capacity(kinds.len());
        let mut open = Vec::with_capacity(kinds.len());
        for (place, kind) in kinds.into_iter().enumerate() {
            let command = self.command(actor, kind);
            places.insert(command.id.clone(), place);
            open.push(command);
        }
        let mut retries = 0;
        let mut search = self.channel.search();
        while !open.is_empty() {
            let mut refused_for_now = HashSet::new();
            let mut wait_ms = 0;
            let outcomes_now = match self.submit_once(&open).await {
                Ok(outcomes) => outcomes,
                // All of them again: their ids make that safe.
                Err(status) => {
                    let pause = search.again(status);
                    let pause = pause.map_err(|status| LoadError::in_setup(step, &status))?;
                    tokio::time::sleep(pause).await;
                    continue;
                }
            };
            search = self.channel.search();
            for outcome in outcomes_now {
                let place = places.get(&outcome.id).copied();
                let place = place.ok_or(LoadError::Setup {
                    step,
                    cause: format!(
                        "an outcome for {}, which was not sent",
                        hex::encode(&outcome.id)
                    ),
                })?;
                let for_now = [Code::Overloaded, Code::RateLimited]
                    .iter()
                    .any(|code| outcome.code == *code as u32);
                if for_now {
                    wait_ms = wait_ms.max(outcome.retry_after_ms).max(10);
                    refused_for_now.insert(outcome.id);
                } else {
                    check(step, &outcome)?;
                    self.last_sequence = self.last_sequence.max(outcome.sequence);
                    outcomes[place] = Some(outcome);
                }
            }
            open.retain(|command| refused_for_now.contains(&command.id));
            if !open.is_empty() {
                retries += 1;
                if retries > RETRIES_MAX {
                    return Err(LoadError::Setup {
                        step,
                        cause: format!(
                            "still overloaded after {RETRIES_MAX} retries; is something else loading it?"
                        ),
                    });
                }
                tokio::time::sleep(Duration::from_millis(u64::from(wait_ms.min(1_000)))).await;
            }
        }
        outcomes
            .into_iter()
            .map(|outcome| outcome.ok_or_else(|| no_answer(step)))
            .collect()
    }

    /// Sends each command once over one stream, a few messages at a time, and returns as many outcomes.
    async fn submit_once(&mut self, commands: &[v1::Command]) -> Result<Vec<v1::Outcome>, Status> {
        let (sender, receiver) = mpsc::channel(MESSAGES_IN_FLIGHT);
        let mut responses = self
            .ledger
            .submit(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        let mut outcomes = Vec::with_capacity(commands.len());
        let mut sent = 0;
        for message in commands.chunks(BATCH) {
            let request = v1::SubmitRequest {
                ack: v1::AckLevel::Durable.into(),
                commands: message.to_vec(),
            };
            // A closed channel shows below as a stream that ends too early.
            let _ = sender.send(request).await;
            sent += message.len();
            let all_sent = sent == commands.len();
            while outcomes.len() < sent
                && (all_sent || sent - outcomes.len() > MESSAGES_IN_FLIGHT * BATCH)
            {
                let response = in_time(responses.message())
                    .await?
                    .ok_or_else(|| Status::unavailable(NOT_ALL_ANSWERED))?;
                self.check_here(&response.outcomes)?;
                outcomes.extend(response.outcomes);
            }
        }
        Ok(outcomes)
    }

    /// Whether these outcomes say anything, where the realm may move.
    fn check_here(&self, outcomes: &[v1::Outcome]) -> Result<(), Status> {
        let moves = |outcome: &&v1::Outcome| {
            [Code::RealmElsewhere, Code::Unavailable]
                .iter()
                .any(|code| outcome.code == *code as u32)
        };
        match outcomes.iter().find(moves) {
            Some(outcome) if self.channel.names_realm() => {
                Err(Status::unavailable(outcome.message.clone()))
            }
            _ => Ok(()),
        }
    }
}

/// An answer, if it comes in time.
async fn in_time<T>(asking: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, asking).await;
    answer.unwrap_or_else(|_| Err(Status::deadline_exceeded(NOT_ALL_ANSWERED)))
}

fn no_answer(step: &'static str) -> LoadError {
    LoadError::Setup {
        step,
        cause: NOT_ALL_ANSWERED.into(),
    }
}

/// Names the step whose command was refused.
pub(super) fn check(step: &'static str, outcome: &v1::Outcome) -> Result<(), LoadError> {
    if outcome.code == Code::Accepted as u32 {
        return Ok(());
    }
    let known = u16::try_from(outcome.code).ok().and_then(Code::from_number);
    let (name, hint) = known.map_or(("unknown code", ""), |code| (code.name(), code.hint()));
    Err(LoadError::Setup {
        step,
        cause: format!(
            "refused with {} {name} ({hint}) {}{}",
            outcome.code,
            outcome.message,
            if outcome.code == Code::NotAllowed as u32 {
                "; --operator must name the realm's operator account"
            } else {
                ""
            }
        ),
    })
}

const _: () = assert!(BATCH <= limits::REQUEST_COMMANDS_MAX);
