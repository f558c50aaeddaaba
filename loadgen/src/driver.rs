//! Books, figures and beliefs of a run while it goes on: what is sent, and what its outcomes change. No waiting here.

use std::time::Instant;

use karat_proto::{Code, limits, v1};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::args::Ack;
use crate::books::{Books, Entry, Numbers, Problems};
use crate::client::Plan;
use crate::recorder::Recorder;
use crate::scenario::{Holdings, Kind, Scenario};

/// What came of a run.
pub struct Driven {
    /// Figures.
    pub recorder: Recorder,
    /// What is wrong so far.
    pub problems: Problems,
    /// Why the run ended early, if it did.
    pub broken: Option<String>,
    /// What each stream's accounts hold by the outcomes.
    pub holdings: Vec<Holdings>,
    /// Commands sent by kind, warm-up included.
    pub sent_by_kind: [u64; Kind::ALL.len()],
    /// Commands accepted, warm-up included.
    pub accepted: u64,
    /// Commands refused, warm-up included.
    pub refused: u64,
    /// Commands without an outcome.
    pub unanswered: u64,
    /// What this thread did while it sent; `None` where the system does not say.
    pub thread: Option<ThreadShares>,
}

/// What the generator's thread did while it sent, as shares of the time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThreadShares {
    /// It ran.
    pub ran: f64,
    /// It could have run, but other threads had the processors.
    pub waited: f64,
}

/// One stream of the run.
pub(crate) struct LoadStream {
    pub(crate) sender: Option<mpsc::Sender<v1::SubmitRequest>>,
    pub(crate) books: Books,
    pub(crate) holdings: Holdings,
    pub(crate) scenario: Box<dyn Scenario>,
}

/// The run.
pub(crate) struct Driver {
    pub(crate) plan: Plan,
    start: Instant,
    warm_up_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) streams: Vec<LoadStream>,
    turn: usize,
    recorder: Recorder,
    problems: Problems,
    sequences: Numbers,
    minted: Numbers,
    sent_by_kind: [u64; Kind::ALL.len()],
    accepted: u64,
    refused: u64,
    pub(crate) broken: Option<String>,
    /// Nothing more will be sent.
    pub(crate) ending: bool,
}

impl Driver {
    pub(crate) fn new(plan: Plan, streams: Vec<LoadStream>) -> Driver {
        Driver {
            start: Instant::now(),
            warm_up_ns: plan.warm_up.as_nanos() as u64,
            end_ns: (plan.warm_up + plan.measured).as_nanos() as u64,
            plan,
            streams,
            turn: 0,
            recorder: Recorder::new(),
            problems: Problems::default(),
            sequences: Numbers::default(),
            minted: Numbers::default(),
            sent_by_kind: [0; Kind::ALL.len()],
            accepted: 0,
            refused: 0,
            broken: None,
            ending: false,
        }
    }

    /// Nanoseconds since the run's start: 584 years fit.
    pub(crate) fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn is_measured(&self, time_ns: u64) -> bool {
        (self.warm_up_ns..self.end_ns).contains(&time_ns)
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.streams.iter().map(|one| one.books.waiting()).sum()
    }

    pub(crate) fn broke(&mut self, stream: usize, cause: String) {
        self.broken
            .get_or_insert_with(|| format!("stream {stream} broke: {cause}"));
    }

    /// An arrival of the open loop: sent on the stream whose turn it is, or skipped when that stream's window is full.
    pub(crate) fn send_on_next_stream(&mut self, intended_ns: u64) {
        let stream = self.turn;
        self.turn = (self.turn + 1) % self.streams.len();
        if self.has_room(stream) {
            self.send(stream, intended_ns);
        } else if self.is_measured(intended_ns) {
            self.recorder.skipped += self.plan.batch;
        }
    }

    /// Closed window: sends as much as fits, each message meant for now.
    pub(crate) fn fill(&mut self, stream: usize) {
        while self.has_room(stream) && self.broken.is_none() {
            let now_ns = self.now_ns();
            if now_ns >= self.end_ns {
                return;
            }
            self.send(stream, now_ns);
        }
    }

    fn has_room(&self, stream: usize) -> bool {
        self.streams[stream].books.waiting() + self.plan.batch <= self.plan.window_a_stream
    }

    fn send(&mut self, number: usize, intended_ns: u64) {
        let batch = self.plan.batch;
        let stream = &mut self.streams[number];
        let Some(sender) = stream.sender.clone().filter(|one| !one.is_closed()) else {
            self.broke(number, "the target closed it".into());
            return;
        };
        let ids = stream.books.next_ids(batch);
        let mut commands = Vec::with_capacity(batch as usize);
        for index in 0..batch as usize {
            let draft = stream.scenario.next(&mut stream.holdings);
            stream.books.enter(Entry {
                intended_ns,
                effect: draft.effect,
            });
            self.sent_by_kind[draft.effect.kind() as usize] += 1;
            commands.push(v1::Command {
                id: ids.slice(16 * index..16 * (index + 1)),
                actor: draft.actor,
                format: limits::COMMAND_FORMAT,
                kind: Some(draft.command),
            });
        }
        let request = v1::SubmitRequest {
            ack: self.plan.ack.to_wire().into(),
            commands,
        };
        if sender.try_send(request).is_err() {
            self.broke(number, "it takes no more messages".into());
            return;
        }
        if self.is_measured(intended_ns) {
            let late_ns = self.now_ns().saturating_sub(intended_ns);
            self.recorder.sent_late_by(late_ns);
            self.recorder.sent += batch;
        }
    }

    pub(crate) fn take(&mut self, stream: usize, response: v1::SubmitResponse) {
        let now_ns = self.now_ns();
        for outcome in &response.outcomes {
            self.take_outcome(stream, outcome, response.ack, now_ns);
        }
    }

    fn take_outcome(&mut self, number: usize, outcome: &v1::Outcome, ack: i32, now_ns: u64) {
        let stream = &mut self.streams[number];
        let Some(entry) = stream.books.answer(&outcome.id, &mut self.problems) else {
            return;
        };
        let named = |what: String| format!("command {}: {what}", hex::encode(&outcome.id));
        if outcome.replayed {
            self.problems
                .note(|| named("answered as a retry, but it was sent once".into()));
        }
        if outcome.sequence != 0 && !self.sequences.insert(outcome.sequence) {
            self.problems
                .note(|| named(format!("sequence {} was given twice", outcome.sequence)));
        }
        let latency_ns = now_ns.saturating_sub(entry.intended_ns);
        let measured = (self.warm_up_ns..self.end_ns).contains(&entry.intended_ns);
        if outcome.code != Code::Accepted as u32 {
            self.refused += 1;
            stream.holdings.refused(entry.effect, outcome.code);
            if measured {
                self.recorder.refused_after(outcome.code, latency_ns);
            }
            return;
        }
        if outcome.sequence == 0 {
            self.problems
                .note(|| named("accepted without a sequence".into()));
        }
        // A verdict may still reject what was accepted, so only the levels that are the log's own can be checked here.
        let checkable = matches!(self.plan.ack, Ack::Sequenced | Ack::Durable);
        if checkable && ack < i32::from(self.plan.ack.to_wire()) {
            self.problems.note(|| {
                named(format!(
                    "answered at ack level {ack}, below the one asked for"
                ))
            });
        }
        if entry.effect.kind() == Kind::Mint && !self.minted.insert(outcome.subject) {
            self.problems
                .note(|| named(format!("asset number {} was given twice", outcome.subject)));
        }
        self.accepted += 1;
        stream
            .holdings
            .accepted(entry.effect, outcome.sequence, outcome.subject);
        if measured {
            self.recorder.accepted_after(latency_ns);
        }
        if (self.warm_up_ns..self.end_ns).contains(&now_ns) {
            self.recorder.accepted_in_time += 1;
        }
    }

    pub(crate) fn finish(&mut self, thread: Option<ThreadShares>) -> Driven {
        let mut problems = std::mem::take(&mut self.problems);
        let unanswered = self.waiting();
        let mut holdings = Vec::new();
        for stream in self.streams.drain(..) {
            stream.books.close(&mut problems);
            holdings.push(stream.holdings);
        }
        Driven {
            recorder: std::mem::take(&mut self.recorder),
            problems,
            broken: self.broken.take(),
            holdings,
            sent_by_kind: self.sent_by_kind,
            accepted: self.accepted,
            refused: self.refused,
            unanswered,
            thread,
        }
    }
}
