//! Books, figures and beliefs of a run while it goes on: what is sent here, what its outcomes change in [`outcomes`], what
//! is sent again when the realm moved in [`again`]. No waiting here.

mod again;
mod outcomes;

use std::time::Instant;

use karat_proto::{limits, v1};
use serde::{Deserialize, Serialize};

use crate::books::{Books, Entry, Numbers, Problems};
use crate::contests::{Contests, Won};
use crate::kafka::Deliveries;
use crate::lanes::Lane;
use crate::live::Live;
use crate::plan::Plan;
use crate::recorder::Recorder;
use crate::records::{Record, Records};
use crate::scenario::changes::mix;
use crate::scenario::{Holdings, Kind, Player};

pub(crate) use again::Unanswered;

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
    /// Contested assets and who won them.
    pub contested: Vec<(u64, Option<Won>)>,
    /// Every acknowledged command.
    pub records: Records,
    /// Commands sent by kind, warm-up included.
    pub sent_by_kind: [u64; Kind::ALL.len()],
    /// Commands accepted, warm-up included.
    pub accepted: u64,
    /// Commands refused, warm-up included.
    pub refused: u64,
    /// Commands without an outcome.
    pub unanswered: u64,
    /// What it took to follow a realm that moved.
    pub followed: Followed,
    /// Fingerprint of everything that was thought up, stream by stream.
    pub digest: u64,
    /// What this thread did while it sent; `None` where the system does not say.
    pub thread: Option<ThreadShares>,
    /// How far behind the schedule the sender was at its end, seconds, and commands that it never came to.
    pub behind: (f64, u64),
    /// What the brokers said, of a run on Kafka.
    pub deliveries: Option<Deliveries>,
}

/// What it took to follow a realm that moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Followed {
    /// Streams that were opened again.
    pub streams: u64,
    /// Commands without an outcome that were sent again on them.
    pub commands: u64,
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
    /// `None` once it is closed.
    pub(crate) lane: Option<Lane>,
    pub(crate) books: Books,
    pub(crate) holdings: Holdings,
    pub(crate) player: Player,
    pub(crate) digest: u64,
    /// Where the realm may move.
    pub(crate) unanswered: Option<Unanswered>,
}

/// The run.
pub(crate) struct Driver {
    pub(crate) plan: Plan,
    start: Instant,
    warm_up_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) streams: Vec<LoadStream>,
    turn: usize,
    messages: u64,
    pub(crate) recorder: Recorder,
    problems: Problems,
    sequences: Numbers,
    minted: Numbers,
    contests: Contests,
    records: Records,
    sent_by_kind: [u64; Kind::ALL.len()],
    accepted: u64,
    refused: u64,
    followed: Followed,
    pub(crate) broken: Option<String>,
    /// What is noted there says only that a stream is closed.
    cause_unknown: bool,
    pub(crate) behind: (f64, u64),
    live: Option<Live>,
    /// Nothing more will be sent.
    pub(crate) ending: bool,
}

impl Driver {
    pub(crate) fn new(
        plan: Plan,
        streams: Vec<LoadStream>,
        contests: Contests,
        live: Option<Live>,
    ) -> Driver {
        Driver {
            start: Instant::now(),
            warm_up_ns: plan.warm_up.as_nanos() as u64,
            end_ns: (plan.warm_up + plan.measured).as_nanos() as u64,
            recorder: Recorder::new(plan.acks.len()),
            records: Records::new(plan.records_max),
            plan,
            streams,
            turn: 0,
            messages: 0,
            problems: Problems::default(),
            sequences: Numbers::default(),
            minted: Numbers::default(),
            contests,
            sent_by_kind: [0; Kind::ALL.len()],
            accepted: 0,
            refused: 0,
            followed: Followed::default(),
            broken: None,
            cause_unknown: false,
            behind: (0.0, 0),
            live,
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

    /// The first cause counts; one that says why takes the place of one that does not.
    pub(crate) fn broke(&mut self, stream: usize, cause: String) {
        if std::mem::take(&mut self.cause_unknown) {
            self.broken = None;
        }
        self.broken
            .get_or_insert_with(|| format!("stream {stream} broke: {cause}"));
    }

    /// A stream that takes nothing more, whose receiving side has not told why yet.
    pub(crate) fn closed(&mut self, stream: usize, what: &str) {
        if self.broken.is_none() {
            self.broke(stream, what.into());
            self.cause_unknown = true;
        }
    }

    /// Ends every second that is over, and shows it.
    pub(crate) fn roll(&mut self) {
        let now_ns = self.now_ns();
        if !self.recorder.is_second_over(now_ns) {
            return;
        }
        let waiting = self.waiting();
        if self.recorder.roll(now_ns, waiting)
            && let (Some(live), Some(second)) = (&mut self.live, self.recorder.seconds.last())
        {
            live.show(second);
        }
    }

    /// An arrival of the open loop: sent on the stream whose turn it is, or skipped when that stream's window is full.
    pub(crate) fn send_on_next_stream(&mut self, intended_ns: u64) {
        let stream = self.turn;
        self.turn = (self.turn + 1) % self.streams.len();
        if self.has_room(stream) {
            self.send(stream, intended_ns);
        } else {
            self.skip(intended_ns, 1);
        }
    }

    /// Arrivals that are not sent.
    pub(crate) fn skip(&mut self, intended_ns: u64, messages: u64) {
        let commands = messages * self.plan.batch;
        self.recorder.skipped_now(commands);
        if self.is_measured(intended_ns) {
            self.recorder.skipped += commands;
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
        let level = (self.messages % self.plan.acks.len() as u64) as u8;
        self.messages += 1;
        let measured_ns = (self.end_ns - self.warm_up_ns) as f64;
        let at = intended_ns.saturating_sub(self.warm_up_ns) as f64 / measured_ns;
        let stream = &mut self.streams[number];
        let Some(lane) = &mut stream.lane else {
            self.broke(number, "it is closed".into());
            return;
        };
        let first = stream.books.entered();
        let ids = stream.books.next_ids(batch);
        let mut commands = Vec::with_capacity(batch as usize);
        for index in 0..batch as usize {
            let draft = stream.player.next(&mut stream.holdings, at);
            stream.digest = mix(stream.digest, draft.digest);
            stream.books.enter(Entry {
                intended_ns,
                effect: draft.effect,
                changes: draft.changes,
                level,
            });
            self.sent_by_kind[draft.effect.kind() as usize] += 1;
            commands.push(v1::Command {
                id: ids.slice(16 * index..16 * (index + 1)),
                actor: draft.actor,
                format: limits::COMMAND_FORMAT,
                kind: Some(draft.command),
            });
        }
        if let Some(unanswered) = &mut stream.unanswered {
            unanswered.keep(first, level, &commands);
        }
        let ack = self.plan.acks[usize::from(level)].to_wire();
        if lane.send(ack, commands).is_err() {
            if stream.unanswered.is_none() {
                self.closed(number, "the target takes no more messages");
                return;
            }
            // Its receiving side opens it again.
            *lane = Lane::Away;
        }
        self.recorder.sent_now(batch);
        if self.is_measured(intended_ns) {
            let late_ns = self.now_ns().saturating_sub(intended_ns);
            self.recorder.sent_late_by(late_ns);
            self.recorder.sent += batch;
        }
    }

    pub(crate) fn finish(&mut self, thread: Option<ThreadShares>) -> Driven {
        let mut problems = std::mem::take(&mut self.problems);
        let mut records = std::mem::take(&mut self.records);
        let unanswered = self.waiting();
        let mut holdings = Vec::new();
        let mut digest = 0;
        for stream in self.streams.drain(..) {
            for (place, entry) in stream.books.close(&mut problems) {
                records.push(Record {
                    place,
                    sequence: 0,
                    changes: entry.changes,
                    code: Record::UNANSWERED,
                });
            }
            digest = mix(digest, stream.digest);
            holdings.push(stream.holdings);
        }
        let contested = std::mem::take(&mut self.contests).close(&mut problems);
        let recorder = std::mem::replace(&mut self.recorder, Recorder::new(0));
        Driven {
            recorder,
            problems,
            broken: self.broken.take(),
            holdings,
            contested,
            records,
            sent_by_kind: self.sent_by_kind,
            accepted: self.accepted,
            refused: self.refused,
            unanswered,
            followed: self.followed,
            digest,
            thread,
            behind: self.behind,
            deliveries: None,
        }
    }
}
