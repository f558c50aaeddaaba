//! The actor that holds the open jobs, feeds the workers, submits verdicts and replaces stuck workers.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use actix::prelude::*;
use karat_proto::Code;
use karat_proto::command::{AgentKind, Decision, Policy, Verdict};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::AgentsConfig;
use crate::decision::{Report, verdict};
use crate::findings::FindingCode;
use crate::inspection::{End, Progress, Surroundings};
use crate::inspector::{Batch, BatchDone, Inspector, InspectorSeed};
use crate::open_jobs::{OpenJobs, Phase, Ticket};
use crate::oracle::Oracle;
use crate::{AgentHost, Job};

/// The supervisor looks this often within the time that makes a worker stuck.
const LOOKS_A_STALL: u64 = 4;
/// ... and at least this often, milliseconds.
const LOOK_MS_MAX: u64 = 1_000;
const MINUTE: Duration = Duration::from_secs(60);

/// A job with its permit.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Offer {
    pub(crate) job: Job,
    pub(crate) permit: OwnedSemaphorePermit,
}

/// The ledger's answer to a verdict.
#[derive(Message)]
#[rtype(result = "()")]
struct Answered {
    ticket: Ticket,
    issue: u64,
    code: Code,
}

/// Ends the actor system.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Stop;

/// Threads that were started; a dead entry is one that ended.
pub(crate) type Threads = Arc<Mutex<Vec<Weak<()>>>>;

/// One worker's place. Each has a thread of its own, so that a stuck one is replaced without touching the others.
struct Seat {
    worker: Addr<Inspector>,
    generation: u64,
    alive: Weak<()>,
    progress: Arc<Progress>,
    /// What it works on; empty when it is idle.
    tickets: Vec<Ticket>,
    steps_seen: u64,
    /// How long it did not get on.
    still: Duration,
    /// That it cannot be replaced now was said.
    said: bool,
}

pub(crate) struct Dispatcher {
    pub(crate) config: AgentsConfig,
    pub(crate) around: Surroundings,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) threads: Threads,
    loaded: Arc<Mutex<Option<Box<dyn Oracle>>>>,
    jobs: OpenJobs<OwnedSemaphorePermit>,
    seats: Vec<Seat>,
    replaced: VecDeque<Instant>,
    last_look: Instant,
    abandoned: Vec<Weak<()>>,
    /// The host gave none, and a timer runs.
    asks_for_policy: bool,
}

impl Dispatcher {
    /// `loaded`: models for the first worker.
    pub(crate) fn new(
        config: AgentsConfig,
        around: Surroundings,
        permits: Arc<Semaphore>,
        threads: Threads,
        loaded: Box<dyn Oracle>,
    ) -> Dispatcher {
        Dispatcher {
            config,
            around,
            permits,
            threads,
            loaded: Arc::new(Mutex::new(Some(loaded))),
            jobs: OpenJobs::new(),
            seats: Vec::new(),
            replaced: VecDeque::new(),
            last_look: Instant::now(),
            abandoned: Vec::new(),
            asks_for_policy: false,
        }
    }

    fn host(&self) -> &dyn AgentHost {
        self.around.host.as_ref()
    }

    /// The policy in force; `None` when the host broke down.
    fn policy(&self) -> Option<Arc<Policy>> {
        catch_unwind(AssertUnwindSafe(|| self.host().policy())).ok()
    }

    fn start_worker(&self, seat: usize, generation: u64, dispatcher: Addr<Dispatcher>) -> Seat {
        let progress = Arc::new(Progress::default());
        let alive = Arc::new(());
        let weak = Arc::downgrade(&alive);
        let seed = InspectorSeed {
            around: self.around.clone(),
            dispatcher,
            seat,
            generation,
            progress: progress.clone(),
            loaded: self.loaded.clone(),
            _alive: alive,
        };
        let name = || std::thread::Builder::new().name(format!("karat-agent-{seat}"));
        let worker = SyncArbiter::start_with_thread_builder(1, name, move || seed.inspector());
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| thread.strong_count() > 0);
        threads.push(weak.clone());
        Seat {
            worker,
            generation,
            alive: weak,
            progress,
            tickets: Vec::new(),
            steps_seen: 0,
            still: Duration::ZERO,
            said: false,
        }
    }

    /// Gives every idle worker what waits: an even share, at most a batch. No timer: what is there is taken.
    fn feed(&mut self, context: &mut Context<Self>) {
        let idle: Vec<usize> = (0..self.seats.len())
            .filter(|seat| self.seats[*seat].tickets.is_empty())
            .collect();
        for (done, seat) in idle.iter().enumerate() {
            if self.jobs.waiting() == 0 {
                return;
            }
            let Some(policy) = self.policy() else {
                self.ask_for_policy_later(context);
                return;
            };
            let share = self.jobs.waiting().div_ceil(idle.len() - done);
            let jobs = self.jobs.next_batch(share.min(self.config.batch_max));
            let seat = &mut self.seats[*seat];
            seat.tickets = jobs.iter().map(|(ticket, _)| *ticket).collect();
            seat.steps_seen = seat.progress.steps.load(Relaxed);
            seat.still = Duration::ZERO;
            seat.worker.do_send(Batch { policy, jobs });
        }
    }

    fn ask_for_policy_later(&mut self, context: &mut Context<Self>) {
        if self.asks_for_policy {
            return;
        }
        self.asks_for_policy = true;
        tracing::error!("the host gives no policy; asking again");
        let wait = Duration::from_millis(self.config.look_again_ms);
        context.run_later(wait, |dispatcher, context| {
            dispatcher.asks_for_policy = false;
            dispatcher.feed(context);
        });
    }

    fn ended(&mut self, ticket: Ticket, end: End, policy: &Policy, context: &mut Context<Self>) {
        match end {
            End::Report(report) => self.conclude(ticket, report, policy, context),
            End::Again => self.reissue(ticket),
            End::BrokeDown(agent) => {
                self.broke_down(ticket, agent, FindingCode::AgentPanicked, context);
            }
            End::LookAgain(agent, code) => {
                let Some(open) = self.jobs.get_mut(ticket) else {
                    return;
                };
                open.looks += 1;
                let looks = open.looks;
                if looks >= self.config.looks_max {
                    self.conclude_with(ticket, agent, code, looks, context);
                    return;
                }
                let wait_ms = self.config.look_again_ms << (looks - 1).min(16);
                let Some(issue) = self.jobs.enter(ticket, Phase::Delayed) else {
                    return;
                };
                let wait = Duration::from_millis(wait_ms);
                context.run_later(wait, move |dispatcher, context| {
                    if dispatcher.jobs.at_issue(ticket, issue).is_some() {
                        dispatcher.reissue(ticket);
                        dispatcher.feed(context);
                    }
                });
            }
        }
    }

    fn reissue(&mut self, ticket: Ticket) {
        if self.jobs.enter(ticket, Phase::Waiting).is_some() {
            self.around.figures.reissued.fetch_add(1, Relaxed);
        }
    }

    /// A job that was on a worker when it panicked or stalled: alone from now on, and to people in the end.
    fn broke_down(
        &mut self,
        ticket: Ticket,
        agent: AgentKind,
        code: FindingCode,
        context: &mut Context<Self>,
    ) {
        let Some(open) = self.jobs.get_mut(ticket) else {
            return;
        };
        open.alone = true;
        open.breakdowns += 1;
        let breakdowns = open.breakdowns;
        if breakdowns >= self.config.breakdowns_max {
            let asset = open.job.asset;
            tracing::error!(
                asset,
                breakdowns,
                "an asset breaks its agent; it goes to people"
            );
            self.conclude_with(ticket, agent, code, breakdowns, context);
        } else {
            self.reissue(ticket);
        }
    }

    fn conclude_with(
        &mut self,
        ticket: Ticket,
        agent: AgentKind,
        code: FindingCode,
        measure: u32,
        context: &mut Context<Self>,
    ) {
        let report = Report {
            findings: vec![code.by(agent, measure)],
            corruption_ppm: 0,
        };
        match self.policy() {
            Some(policy) => self.conclude(ticket, report, &policy, context),
            // Without a policy there is no verdict; the job is inspected again when there is one.
            None => self.reissue(ticket),
        }
    }

    fn conclude(
        &mut self,
        ticket: Ticket,
        report: Report,
        policy: &Policy,
        context: &mut Context<Self>,
    ) {
        if let Some(open) = self.jobs.get_mut(ticket) {
            let verdict = verdict(&open.job, policy, report);
            self.submit(ticket, verdict, context);
        }
    }

    fn submit(&mut self, ticket: Ticket, verdict: Verdict, context: &mut Context<Self>) {
        let phase = Phase::Submitted {
            verdict: verdict.clone(),
            since: Instant::now(),
        };
        let Some(issue) = self.jobs.enter(ticket, phase) else {
            return;
        };
        let mut reply = Reply {
            dispatcher: context.address(),
            ticket,
            issue,
            code: Code::Unavailable,
        };
        let done = Box::new(move |code| {
            reply.code = code;
            drop(reply);
        });
        // A host that panics drops `done`, which answers for it.
        let _ = catch_unwind(AssertUnwindSafe(|| self.host().submit(verdict, done)));
    }

    fn answered(&mut self, answer: Answered, context: &mut Context<Self>) {
        let Answered {
            ticket,
            issue,
            code,
        } = answer;
        let Some(open) = self.jobs.at_issue(ticket, issue) else {
            return;
        };
        let Phase::Submitted { verdict, .. } = &open.phase else {
            return;
        };
        let verdict = verdict.clone();
        let figures = self.around.figures.clone();
        match code {
            Code::Accepted => {
                figures.answered(open.job.born.elapsed());
                let counter = match verdict.decision {
                    Decision::Accept => &figures.verified,
                    Decision::Reject => &figures.rejected,
                    Decision::Review => &figures.in_review,
                };
                counter.fetch_add(1, Relaxed);
                self.close(ticket);
            }
            Code::StalePolicy => {
                let changed = self
                    .policy()
                    .is_some_and(|policy| policy.version != verdict.policy_version);
                if changed {
                    self.reissue(ticket);
                } else {
                    // The host has not seen the new policy yet.
                    self.hold(ticket, verdict, context);
                }
            }
            Code::VerdictVoid
            | Code::UnknownAsset
            | Code::StaleVersion
            | Code::NotActive
            | Code::AssetEnded
            | Code::AssetFrozen => {
                figures.void.fetch_add(1, Relaxed);
                self.close(ticket);
            }
            Code::Overloaded
            | Code::Unavailable
            | Code::RateLimited
            | Code::Paused
            | Code::RetryMemoryFull => self.hold(ticket, verdict, context),
            other => {
                let (asset, code) = (verdict.asset, other.name());
                tracing::error!(asset, code, hint = other.hint(), "a verdict was refused");
                figures.refused.fetch_add(1, Relaxed);
                self.close(ticket);
            }
        }
    }

    /// Keeps a verdict that was turned away, and submits it again after a wait that doubles up to its bound.
    fn hold(&mut self, ticket: Ticket, verdict: Verdict, context: &mut Context<Self>) {
        let Some(open) = self.jobs.get_mut(ticket) else {
            return;
        };
        open.turned_away += 1;
        if open.turned_away == self.config.submissions_until_parked {
            self.around.figures.parked.fetch_add(1, Relaxed);
        }
        let doubled = self
            .config
            .submit_again_ms
            .saturating_mul(1 << (open.turned_away - 1).min(20));
        let wait = Duration::from_millis(doubled.min(self.config.submit_again_ms_max));
        let Some(issue) = self.jobs.enter(ticket, Phase::Held { verdict }) else {
            return;
        };
        context.run_later(wait, move |dispatcher, context| {
            dispatcher.submit_again(ticket, issue, context);
        });
    }

    fn submit_again(&mut self, ticket: Ticket, issue: u64, context: &mut Context<Self>) {
        let Some(open) = self.jobs.at_issue(ticket, issue) else {
            return;
        };
        let Phase::Held { verdict } = &open.phase else {
            return;
        };
        let verdict = verdict.clone();
        match self.policy() {
            Some(policy) if policy.version != verdict.policy_version => {
                self.reissue(ticket);
                self.feed(context);
            }
            _ => {
                self.around.figures.resubmitted.fetch_add(1, Relaxed);
                self.submit(ticket, verdict, context);
            }
        }
    }

    fn close(&mut self, ticket: Ticket) {
        if let Some(open) = self.jobs.close(ticket) {
            if open.turned_away >= self.config.submissions_until_parked {
                self.around.figures.parked.fetch_sub(1, Relaxed);
            }
            drop(open.into_permit());
        }
    }

    /// Looks for workers that stopped getting on, and for verdicts that nobody answers.
    fn supervise(&mut self, context: &mut Context<Self>) {
        let now = Instant::now();
        self.abandoned.retain(|thread| thread.strong_count() > 0);
        while self.replaced.front().is_some_and(|at| now - *at >= MINUTE) {
            self.replaced.pop_front();
        }
        // A machine that stood still (suspended, or far too busy) stops workers and supervisor alike: what passed since
        // the last look counts as two looks at most, so that it takes several looks to find a worker stuck.
        let passed = (now - self.last_look).min(self.look_every() * 2);
        self.last_look = now;
        for seat in 0..self.seats.len() {
            if self.is_stuck(seat, passed) {
                self.replace(seat, now, context);
            }
        }
        let stuck = self.abandoned.len() as u64;
        self.around.figures.stuck_threads.store(stuck, Relaxed);
        let longest = Duration::from_millis(self.config.answer_ms_max);
        if let Some(before) = now.checked_sub(longest) {
            for (ticket, issue) in self.jobs.unanswered_since(before) {
                let code = Code::Unavailable;
                self.answered(
                    Answered {
                        ticket,
                        issue,
                        code,
                    },
                    context,
                );
            }
        }
        self.feed(context);
    }

    fn is_stuck(&mut self, seat: usize, passed: Duration) -> bool {
        let seat = &mut self.seats[seat];
        let steps = seat.progress.steps.load(Relaxed);
        if seat.tickets.is_empty() || steps != seat.steps_seen {
            seat.steps_seen = steps;
            seat.still = Duration::ZERO;
            return false;
        }
        seat.still += passed;
        seat.still >= Duration::from_millis(self.config.stall_ms)
    }

    fn look_every(&self) -> Duration {
        Duration::from_millis((self.config.stall_ms / LOOKS_A_STALL).clamp(1, LOOK_MS_MAX))
    }

    /// Puts a new worker in the place of a stuck one. Its thread cannot be ended, but what it answers later is ignored.
    fn replace(&mut self, index: usize, now: Instant, context: &mut Context<Self>) {
        if self.replaced.len() >= self.config.replacements_a_minute_max
            || self.abandoned.len() >= self.config.stuck_threads_max
        {
            if !self.seats[index].said {
                self.seats[index].said = true;
                let (replaced, stuck) = (self.replaced.len(), self.abandoned.len());
                tracing::error!(
                    replaced,
                    stuck,
                    "a worker is stuck and no more may be replaced"
                );
            }
            return;
        }
        let generation = self.seats[index].generation + 1;
        let address = context.address();
        // Starting a thread can fail; the next look tries again.
        let Ok(seat) = catch_unwind(AssertUnwindSafe(|| {
            self.start_worker(index, generation, address)
        })) else {
            return;
        };
        self.replaced.push_back(now);
        let old = std::mem::replace(&mut self.seats[index], seat);
        let agent = old.progress.stage();
        tracing::error!(
            agent = crate::findings::agent_name(agent),
            jobs = old.tickets.len(),
            "a worker is stuck; replaced"
        );
        self.abandoned.push(old.alive);
        self.around.figures.stalls.fetch_add(1, Relaxed);
        self.around.figures.restarts.fetch_add(1, Relaxed);
        // Last first, so that they wait again in their order.
        for ticket in old.tickets.into_iter().rev() {
            self.broke_down(ticket, agent, FindingCode::AgentStalled, context);
        }
    }
}

impl Actor for Dispatcher {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let address = context.address();
        self.seats = (0..self.config.workers)
            .map(|seat| self.start_worker(seat, 0, address.clone()))
            .collect();
        context.run_interval(self.look_every(), |dispatcher, context| {
            dispatcher.supervise(context);
        });
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        // Whoever waits for a permit must not wait for ever.
        self.permits.close();
    }
}

impl Handler<Offer> for Dispatcher {
    type Result = ();

    fn handle(&mut self, offer: Offer, context: &mut Self::Context) {
        if self.jobs.add(offer.job, offer.permit) {
            self.feed(context);
        } else {
            self.around.figures.duplicates.fetch_add(1, Relaxed);
        }
    }
}

impl Handler<BatchDone> for Dispatcher {
    type Result = ();

    fn handle(&mut self, done: BatchDone, context: &mut Self::Context) {
        let Some(seat) = self.seats.get_mut(done.seat) else {
            return;
        };
        if seat.generation != done.generation {
            return;
        }
        seat.tickets.clear();
        seat.said = false;
        if done.panics > 0 {
            self.around.figures.panics.fetch_add(done.panics, Relaxed);
            self.around.figures.restarts.fetch_add(1, Relaxed);
        }
        for (ticket, end) in done.ends {
            self.ended(ticket, end, &done.policy, context);
        }
        self.feed(context);
    }
}

impl Handler<Answered> for Dispatcher {
    type Result = ();

    fn handle(&mut self, answer: Answered, context: &mut Self::Context) {
        self.answered(answer, context);
        self.feed(context);
    }
}

impl Handler<Stop> for Dispatcher {
    type Result = ();

    fn handle(&mut self, _: Stop, _: &mut Self::Context) {
        System::current().stop();
    }
}

/// Answers exactly once: with the ledger's code, or `Unavailable` when it is dropped without one.
struct Reply {
    dispatcher: Addr<Dispatcher>,
    ticket: Ticket,
    issue: u64,
    code: Code,
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.dispatcher.do_send(Answered {
            ticket: self.ticket,
            issue: self.issue,
            code: self.code,
        });
    }
}
