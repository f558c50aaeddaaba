//! The actor that holds the open jobs, feeds the workers, submits verdicts and replaces stuck workers.

mod answers;
mod supervision;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use actix::prelude::*;
use karat_proto::command::{AgentKind, Policy};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::AgentsConfig;
use crate::decision::{Report, verdict};
use crate::findings::FindingCode;
use crate::inspection::{End, Progress, Surroundings};
use crate::inspector::{Batch, BatchDone, Inspector, InspectorSeed};
use crate::open_jobs::{OpenJobs, Phase, Ticket};
use crate::oracle::Oracle;
use crate::run_queue::Fared;
use crate::{AgentHost, Job};

/// A job with its permit.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Offer {
    pub(crate) job: Job,
    pub(crate) permit: OwnedSemaphorePermit,
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
    /// What its thread had run and waited at the last look.
    fared: Fared,
    /// How long it did not get on although it could.
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
            fared: Fared::default(),
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

impl Handler<Stop> for Dispatcher {
    type Result = ();

    fn handle(&mut self, _: Stop, _: &mut Self::Context) {
        System::current().stop();
    }
}
