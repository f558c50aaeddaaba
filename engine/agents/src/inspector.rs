//! The actor that inspects, on a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use actix::prelude::*;
use karat_proto::command::Policy;

use crate::Job;
use crate::dispatcher::Dispatcher;
use crate::inspection::{Bench, End, Progress, Surroundings};
use crate::open_jobs::Ticket;
use crate::oracle::Oracle;
use crate::run_queue::RunQueue;

/// Jobs to inspect under one policy.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Batch {
    pub(crate) policy: Arc<Policy>,
    pub(crate) jobs: Vec<(Ticket, Arc<Job>)>,
}

/// How they ended.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct BatchDone {
    pub(crate) seat: usize,
    /// Which of the seat's workers; an answer of one that was replaced does not count.
    pub(crate) generation: u64,
    /// The policy that the jobs were inspected under.
    pub(crate) policy: Arc<Policy>,
    pub(crate) ends: Vec<(Ticket, End)>,
    pub(crate) panics: u64,
}

/// Everything needed to start an inspector, and to start it again.
#[derive(Clone)]
pub(crate) struct InspectorSeed {
    pub(crate) around: Surroundings,
    pub(crate) dispatcher: Addr<Dispatcher>,
    pub(crate) seat: usize,
    pub(crate) generation: u64,
    pub(crate) progress: Arc<Progress>,
    /// Models that are loaded already, for the first worker.
    pub(crate) loaded: Arc<Mutex<Option<Box<dyn Oracle>>>>,
    /// Lives as long as the thread.
    pub(crate) _alive: Arc<()>,
}

pub(crate) struct Inspector {
    seed: InspectorSeed,
    bench: Bench,
}

impl InspectorSeed {
    pub(crate) fn inspector(&self) -> Inspector {
        let loaded = self
            .loaded
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if let Some(run_queue) = RunQueue::of_this_thread() {
            // Set before by the actor that this one replaces on the same thread.
            let _ = self.progress.run_queue.set(run_queue);
        }
        Inspector {
            bench: Bench::new(self.around.clone(), self.progress.clone(), loaded),
            seed: self.clone(),
        }
    }
}

impl Actor for Inspector {
    type Context = SyncContext<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        // Load now, so that the first asset does not wait for it. What fails here is tried again, and reported, with
        // the first batch.
        let _ = catch_unwind(AssertUnwindSafe(|| self.bench.open()));
    }
}

impl Handler<Batch> for Inspector {
    type Result = ();

    fn handle(&mut self, batch: Batch, context: &mut Self::Context) {
        let (tickets, jobs): (Vec<Ticket>, Vec<Arc<Job>>) = batch.jobs.into_iter().unzip();
        let (ends, panics) = self.bench.inspect(&batch.policy, &jobs);
        if panics > 0 {
            // The context makes a new actor in place of one that stops.
            context.stop();
        }
        self.seed.dispatcher.do_send(BatchDone {
            seat: self.seed.seat,
            generation: self.seed.generation,
            policy: batch.policy,
            ends: tickets.into_iter().zip(ends).collect(),
            panics,
        });
    }
}
