//! The dispatcher's watch over its workers: supervision by progress, not only by crash.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use actix::prelude::*;
use karat_proto::Code;

use super::Dispatcher;
use super::answers::Answered;
use crate::findings::{FindingCode, agent_name};
use crate::run_queue::RunQueue;

/// The supervisor looks this often within the time that makes a worker stuck.
const LOOKS_A_STALL: u64 = 4;
/// ... and at least this often, milliseconds.
const LOOK_MS_MAX: u64 = 1_000;
const MINUTE: Duration = Duration::from_secs(60);

impl Dispatcher {
    /// Looks for workers that stopped getting on, and for verdicts that nobody answers.
    pub(super) fn supervise(&mut self, context: &mut Context<Self>) {
        let now = Instant::now();
        self.abandoned.retain(|thread| thread.strong_count() > 0);
        while self.replaced.front().is_some_and(|at| now - *at >= MINUTE) {
            self.replaced.pop_front();
        }
        let passed = now - self.last_look;
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

    /// Only time in which the worker's thread could have got on counts: no processor was given to others instead.
    fn is_stuck(&mut self, seat: usize, passed: Duration) -> bool {
        // A machine that stood still (suspended, or far too busy) stops workers and supervisor alike: what passed since
        // the last look counts as two looks at most, so that it takes several looks to find a worker stuck.
        let counted_max = self.look_every() * 2;
        let seat = &mut self.seats[seat];
        let run_queue = seat.progress.run_queue.get();
        let usable = match run_queue.and_then(RunQueue::read) {
            Some(fared) => {
                let usable = fared.could_use(&seat.fared, passed);
                seat.fared = fared;
                usable
            }
            None => passed,
        };
        let steps = seat.progress.steps.load(Relaxed);
        if seat.tickets.is_empty() || steps != seat.steps_seen {
            seat.steps_seen = steps;
            seat.still = Duration::ZERO;
            return false;
        }
        seat.still += usable.min(counted_max);
        seat.still >= Duration::from_millis(self.config.stall_ms)
    }

    pub(super) fn look_every(&self) -> Duration {
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
            agent = agent_name(agent),
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
