//! One connection: credits, outcomes and directives.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use karat_proto::realm::is_away;
use karat_proto::v1::edge_request::Kind as Up;
pub use karat_proto::v1::edge_response::Kind as Down;
use karat_proto::{Code, Digest, v1};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tonic::Streaming;

use super::super::NodeError;
use super::super::shared::{Ending, Shared, State};
use super::super::spool::SpoolError;
use super::{End, STOP_GRACE, describe, is_done, is_stopped, stopped};

/// Most assets of one message.
const ASSETS_A_MESSAGE_MAX: usize = 64;
/// Most bytes of content in one message after its first asset: with that one, well below what the engine takes.
const CONTENT_A_MESSAGE_MAX: usize = 4 * 1024 * 1024;
/// How long the engine may say nothing while it owes outcomes.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Shortest and longest wait before a resend, whatever the engine says.
const RESEND_MIN: Duration = Duration::from_millis(10);
const RESEND_MAX: Duration = Duration::from_secs(10);
/// Wait before a resend where the engine named none.
const RESEND_USUAL: Duration = Duration::from_secs(1);
/// While the realm is paused or the model not approved, one asset is sent this often, in case the word that this is over
/// was missed.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// What becomes of an asset with this outcome.
enum Fate {
    /// It is over: accepted or refused.
    Over,
    /// The same command again, after this long.
    Again(Duration),
    /// Again once the realm goes on or the model may mint; as a new command where the refusal has a place in the realm's order.
    Held,
}

/// One connection's view.
pub struct Session<'a> {
    shared: &'a Shared,
    target: &'a str,
    model: Digest,
    sender: mpsc::Sender<v1::EdgeRequest>,
    credits: u32,
    /// Index by command id; never more than the credits that the engine gave.
    in_flight: HashMap<Bytes, u64>,
    /// Assets to send again, by time.
    again: BTreeMap<(Instant, u64), ()>,
    /// The asset that was sent although nothing may be sent now.
    probe: Option<Bytes>,
    probe_at: Instant,
    /// When the engine last said something, or owed nothing.
    heard: Instant,
    warned: bool,
}

impl<'a> Session<'a> {
    pub fn new(
        shared: &'a Shared,
        target: &'a str,
        model: Digest,
        sender: mpsc::Sender<v1::EdgeRequest>,
    ) -> Session<'a> {
        let now = Instant::now();
        Session {
            shared,
            target,
            model,
            sender,
            credits: 0,
            in_flight: HashMap::new(),
            again: BTreeMap::new(),
            probe: None,
            probe_at: now + PROBE_INTERVAL,
            heard: now,
            warned: false,
        }
    }

    /// Sends and receives until the work is done or the connection is gone. Calls `works` for each message of outcomes.
    pub async fn stay(
        mut self,
        mut answers: Streaming<v1::EdgeResponse>,
        mut stop: watch::Receiver<bool>,
        mut works: impl FnMut(),
    ) -> Result<End, NodeError> {
        let mut grace: Option<Instant> = None;
        let sender = self.sender.clone();
        loop {
            let now = Instant::now();
            let is_over = is_stopped(&stop) || is_done(self.shared);
            if is_over {
                let until = *grace.get_or_insert(now + STOP_GRACE);
                if self.in_flight.is_empty() || now >= until {
                    return Ok(End::Finished);
                }
            }
            if self.in_flight.is_empty() {
                self.heard = now;
            } else if now >= self.heard + SILENCE_MAX {
                let reason = format!(
                    "{} outcomes are owed and nothing came for {} s",
                    self.in_flight.len(),
                    SILENCE_MAX.as_secs()
                );
                return Ok(End::Lost(reason));
            }
            self.release_due(now);
            let may_send = if is_over { 0 } else { self.may_send(now) };
            let wake = self.next_wake(grace);
            tokio::select! {
                message = answers.message() => match message {
                    Ok(Some(v1::EdgeResponse { kind: Some(message) })) => {
                        self.heard = Instant::now();
                        if matches!(message, Down::Outcomes(_)) {
                            works();
                        }
                        self.on_message(message)?;
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => return Ok(End::Lost("the engine closed the stream".into())),
                    Err(status) => return Ok(End::Lost(describe(&status))),
                },
                permit = sender.reserve(), if may_send > 0 => match permit {
                    Ok(permit) => {
                        if let Some(request) = self.next_request(may_send)? {
                            permit.send(request);
                        }
                    }
                    Err(_) => return Ok(End::Lost("the stream takes nothing more".into())),
                },
                () = sleep_until(wake) => {}
                () = self.shared.notice.notified() => {}
                () = stopped(&mut stop), if !is_over => {}
            }
        }
    }

    /// How many assets the next message may have.
    fn may_send(&self, now: Instant) -> usize {
        let state = self.shared.look();
        let ready = state.spool.as_ref().map_or(0, |spool| spool.ready_count());
        let most = ready.min(self.credits as usize).min(ASSETS_A_MESSAGE_MAX);
        if is_open(&state) {
            most
        } else if now >= self.probe_at && self.probe.is_none() {
            most.min(1)
        } else {
            0
        }
    }

    fn next_request(&mut self, most: usize) -> Result<Option<v1::EdgeRequest>, NodeError> {
        let taken = self.shared.change(|state| {
            let Some(spool) = state.spool.as_mut() else {
                return Ok(Vec::new());
            };
            let taken = spool.take(most, CONTENT_A_MESSAGE_MAX)?;
            let sent = std::time::Instant::now();
            for one in &taken {
                state.on_the_way.sent(one.index, sent);
            }
            Ok::<_, SpoolError>(taken)
        })?;
        if taken.is_empty() {
            return Ok(None);
        }
        let now = Instant::now();
        if self.in_flight.is_empty() {
            self.heard = now;
        }
        if !is_open(&self.shared.look()) {
            self.probe = taken.first().map(|one| one.asset.id.clone());
            self.probe_at = now + PROBE_INTERVAL;
        }
        self.credits -= taken.len() as u32;
        self.shared.figures.count_sent(taken.len());
        let mut assets = Vec::with_capacity(taken.len());
        for one in taken {
            self.in_flight.insert(one.asset.id.clone(), one.index);
            assets.push(one.asset);
        }
        Ok(Some(v1::EdgeRequest {
            kind: Some(Up::Assets(v1::EdgeAssets { assets })),
        }))
    }

    /// The next moment at which something changes by itself.
    fn next_wake(&self, grace: Option<Instant>) -> Instant {
        let again = self.again.keys().next().map(|(at, _)| *at);
        let probe =
            (!is_open(&self.shared.look()) && self.probe.is_none()).then_some(self.probe_at);
        // A probe whose time has come and that found nothing to send waits for the notice.
        let probe = probe.filter(|at| *at > Instant::now());
        let times = [again, probe, grace, Some(self.heard + SILENCE_MAX)];
        times
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.heard + SILENCE_MAX)
    }

    fn release_due(&mut self, now: Instant) {
        let later = self.again.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut self.again, later);
        self.release(due.into_keys().map(|(_, index)| index).collect());
    }

    fn release(&self, indexes: Vec<u64>) {
        if !indexes.is_empty() {
            self.shared.change(|state| {
                if let Some(spool) = state.spool.as_mut() {
                    spool.give_back(indexes);
                }
            });
        }
    }

    fn on_message(&mut self, message: Down) -> Result<(), NodeError> {
        match message {
            Down::Credits(credits) => self.credits = self.credits.saturating_add(credits.amount),
            Down::Outcomes(outcomes) => {
                let arrived = std::time::Instant::now();
                if outcomes.ack() == v1::AckLevel::Sequenced {
                    self.on_sequenced(&outcomes, arrived);
                } else {
                    self.on_final(outcomes, arrived)?;
                }
            }
            Down::Directive(directive) => self.on_directive(&directive),
            // A second one says nothing new.
            Down::Welcome(_) => {}
        }
        Ok(())
    }

    /// Outcomes that are in the order and not final yet: only their time is taken.
    fn on_sequenced(&self, outcomes: &v1::EdgeOutcomes, arrived: std::time::Instant) {
        let accepted = outcomes.outcomes.iter().filter(|one| is_accepted(one));
        let indexes: Vec<u64> = accepted
            .filter_map(|outcome| self.in_flight.get(&outcome.id).copied())
            .collect();
        self.end_ways(&indexes, outcomes.stages.as_ref(), arrived, false);
    }

    fn end_ways(
        &self,
        indexes: &[u64],
        stages: Option<&v1::Stages>,
        arrived: std::time::Instant,
        at_durable: bool,
    ) {
        let spent: Vec<_> = {
            let on_the_way = &mut self.shared.look().on_the_way;
            let ended = indexes
                .iter()
                .filter_map(|index| on_the_way.end(*index, arrived, stages, at_durable));
            ended.collect()
        };
        if !spent.is_empty() {
            self.shared.figures.record_budget(&spent);
        }
    }

    fn on_final(
        &mut self,
        outcomes: v1::EdgeOutcomes,
        arrived: std::time::Instant,
    ) -> Result<(), NodeError> {
        let v1::EdgeOutcomes {
            outcomes, stages, ..
        } = outcomes;
        let now = Instant::now();
        let mut accepted = Vec::with_capacity(outcomes.len());
        let mut over = Vec::with_capacity(outcomes.len());
        let (mut anew, mut back) = (Vec::new(), Vec::new());
        let mut probed_open = false;
        for outcome in outcomes {
            let Some(index) = self.in_flight.remove(&outcome.id) else {
                tracing::warn!(
                    id = hex::encode(&outcome.id),
                    "an outcome for an asset not under way"
                );
                continue;
            };
            let is_probe = self.probe.take_if(|probe| *probe == outcome.id).is_some();
            match self.fate(&outcome) {
                Fate::Over => {
                    self.count(&outcome);
                    over.push(index);
                    if is_accepted(&outcome) {
                        accepted.push(index);
                    }
                    // A replayed answer is an old one and says nothing about now.
                    probed_open |= is_probe && !outcome.replayed;
                }
                Fate::Again(wait) => {
                    self.again.insert((now + wait, index), ());
                }
                Fate::Held => {
                    if outcome.sequence > 0 {
                        anew.push(index);
                    }
                    if is_open(&self.shared.look()) {
                        // The word that it is over may have overtaken this answer: soon again.
                        self.again.insert((now + RESEND_USUAL, index), ());
                    } else {
                        back.push(index);
                    }
                }
            }
        }
        self.end_ways(&accepted, stages.as_ref(), arrived, true);
        self.shared.change(|state| {
            over.iter()
                .for_each(|index| state.on_the_way.forget(*index));
            let Some(spool) = state.spool.as_mut() else {
                return Ok(());
            };
            anew.iter()
                .try_for_each(|index| spool.next_attempt(*index))?;
            spool.give_back(back);
            spool.end(&over)
        })?;
        if probed_open {
            self.shared
                .change(|state| (state.paused, state.unapproved) = (false, false));
        }
        Ok(())
    }

    fn fate(&mut self, outcome: &v1::Outcome) -> Fate {
        let code = u16::try_from(outcome.code).ok().and_then(Code::from_number);
        let wait = match outcome.retry_after_ms {
            0 => RESEND_USUAL,
            ms => Duration::from_millis(ms.into()).clamp(RESEND_MIN, RESEND_MAX),
        };
        match code {
            Some(Code::Overloaded | Code::RateLimited | Code::RetryMemoryFull) => Fate::Again(wait),
            // The connection ends soon; until then it is worth a try.
            Some(code) if is_away(code) => Fate::Again(wait),
            Some(Code::Paused) => Fate::Held,
            Some(Code::ModelNotApproved)
                if self.shared.look().ending != Some(Ending::ModelRetired) =>
            {
                Fate::Held
            }
            Some(Code::SupplyCapReached) => {
                self.end(Ending::SupplyUsedUp, &outcome.message);
                Fate::Over
            }
            _ => Fate::Over,
        }
    }

    fn count(&mut self, outcome: &v1::Outcome) {
        if outcome.code == 0 {
            return self.shared.figures.count_accepted(outcome.replayed);
        }
        self.shared
            .figures
            .count_refused(u16::try_from(outcome.code).unwrap_or(u16::MAX));
        if !self.warned {
            self.warned = true;
            let (code, message) = (outcome.code, &outcome.message);
            tracing::warn!(
                code,
                message,
                "the engine refused an asset; further refusals are only counted"
            );
        }
    }

    fn on_directive(&mut self, directive: &v1::Directive) {
        let is_ours = directive.model[..] == self.model;
        let reason = &directive.reason;
        match directive.kind() {
            v1::DirectiveKind::Pause => {
                tracing::info!(reason, "the engine asks for a pause");
                self.close_gate(|state| state.paused = true);
            }
            v1::DirectiveKind::Resume => {
                tracing::info!(reason, "the engine lets the node go on");
                self.shared.change(|state| state.paused = false);
            }
            v1::DirectiveKind::ModelApproved if is_ours => {
                tracing::info!(reason, "the model may mint now");
                self.shared.change(|state| state.unapproved = false);
            }
            v1::DirectiveKind::ModelRetired if is_ours => {
                self.end(Ending::ModelRetired, reason);
                self.shared.change(|state| state.unapproved = false);
            }
            _ => {}
        }
    }

    fn close_gate(&mut self, close: impl FnOnce(&mut State)) {
        self.shared.change(close);
        self.probe_at = Instant::now() + PROBE_INTERVAL;
    }

    /// No more is generated; what is in the spool still gets its answers.
    fn end(&self, ending: Ending, reason: &str) {
        if self.shared.look().ending.is_none() {
            tracing::warn!(target = self.target, reason, "generating ends: {ending:?}");
            self.shared.change(|state| state.ending = Some(ending));
        }
    }
}

/// Accepted now, and not a repeat of an earlier answer.
fn is_accepted(outcome: &v1::Outcome) -> bool {
    outcome.code == 0 && !outcome.replayed
}

fn is_open(state: &State) -> bool {
    !state.paused && !state.unapproved
}
