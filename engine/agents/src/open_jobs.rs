//! The open jobs and their phases. Pure: who moves them and when is the dispatcher's affair.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use karat_proto::AssetId;
use karat_proto::command::Verdict;

use crate::Job;

/// An open job's number in this process.
pub(crate) type Ticket = u64;

/// Where an open job stands.
#[derive(Debug)]
pub(crate) enum Phase {
    /// For a worker.
    Waiting,
    /// On a worker.
    Inspected,
    /// For a time to pass, before it waits again.
    Delayed,
    /// For the ledger's answer.
    Submitted { verdict: Verdict, since: Instant },
    /// For a time to pass, before its verdict is submitted again.
    Held { verdict: Verdict },
}

/// One open job. `P` is the permit that it holds.
pub(crate) struct OpenJob<P> {
    pub(crate) job: Arc<Job>,
    pub(crate) phase: Phase,
    /// Rises with every phase: a late answer or timer names an old one.
    pub(crate) issue: u64,
    /// It broke or stalled a worker, maybe, so it is inspected alone.
    pub(crate) alone: bool,
    /// How often that was.
    pub(crate) breakdowns: u32,
    /// How often something was not there.
    pub(crate) looks: u32,
    /// How often its verdict was turned away.
    pub(crate) turned_away: u32,
    permit: P,
}

/// All open jobs; as many as there are permits at most.
pub(crate) struct OpenJobs<P> {
    jobs: HashMap<Ticket, OpenJob<P>>,
    versions: HashSet<(AssetId, u32)>,
    waiting: VecDeque<Ticket>,
    last_ticket: Ticket,
}

impl<P> OpenJobs<P> {
    pub(crate) fn new() -> OpenJobs<P> {
        OpenJobs {
            jobs: HashMap::new(),
            versions: HashSet::new(),
            waiting: VecDeque::new(),
            last_ticket: 0,
        }
    }

    /// Takes a job in, waiting; false when the same version of the same asset is open already.
    pub(crate) fn add(&mut self, job: Job, permit: P) -> bool {
        if !self.versions.insert((job.asset, job.version)) {
            return false;
        }
        self.last_ticket += 1;
        let open = OpenJob {
            job: Arc::new(job),
            phase: Phase::Waiting,
            issue: 0,
            alone: false,
            breakdowns: 0,
            looks: 0,
            turned_away: 0,
            permit,
        };
        self.jobs.insert(self.last_ticket, open);
        self.waiting.push_back(self.last_ticket);
        true
    }

    /// How many wait for a worker.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The next jobs for one worker, at most `most`, in their order. One that must be alone is.
    pub(crate) fn next_batch(&mut self, most: usize) -> Vec<(Ticket, Arc<Job>)> {
        let mut batch = Vec::new();
        while batch.len() < most {
            let Some(open) = self
                .waiting
                .front()
                .and_then(|ticket| self.jobs.get_mut(ticket))
            else {
                break;
            };
            let alone = open.alone;
            if alone && !batch.is_empty() {
                break;
            }
            open.phase = Phase::Inspected;
            open.issue += 1;
            let job = open.job.clone();
            if let Some(ticket) = self.waiting.pop_front() {
                batch.push((ticket, job));
            }
            if alone {
                break;
            }
        }
        batch
    }

    /// Gives back the permit of a job that is over.
    pub(crate) fn close(&mut self, ticket: Ticket) -> Option<OpenJob<P>> {
        let open = self.jobs.remove(&ticket)?;
        self.versions.remove(&(open.job.asset, open.job.version));
        if matches!(open.phase, Phase::Waiting) {
            self.waiting.retain(|waiting| *waiting != ticket);
        }
        Some(open)
    }

    /// Moves a job to a phase and returns the issue that answers and timers must name. A job that waits again goes
    /// before those that came later.
    pub(crate) fn enter(&mut self, ticket: Ticket, phase: Phase) -> Option<u64> {
        let open = self.jobs.get_mut(&ticket)?;
        let waited = matches!(open.phase, Phase::Waiting);
        let waits = matches!(phase, Phase::Waiting);
        open.phase = phase;
        open.issue += 1;
        if waited && !waits {
            self.waiting.retain(|waiting| *waiting != ticket);
        } else if waits && !waited {
            self.waiting.push_front(ticket);
        }
        Some(open.issue)
    }

    pub(crate) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut OpenJob<P>> {
        self.jobs.get_mut(&ticket)
    }

    /// The job, if it is still in the phase that this issue stands for.
    pub(crate) fn at_issue(&mut self, ticket: Ticket, issue: u64) -> Option<&mut OpenJob<P>> {
        self.jobs
            .get_mut(&ticket)
            .filter(|open| open.issue == issue)
    }

    /// Jobs whose verdict was submitted before `before` and has no answer: ticket and issue.
    pub(crate) fn unanswered_since(&self, before: Instant) -> Vec<(Ticket, u64)> {
        self.jobs
            .iter()
            .filter(
                |(_, open)| matches!(open.phase, Phase::Submitted { since, .. } if since < before),
            )
            .map(|(ticket, open)| (*ticket, open.issue))
            .collect()
    }
}

impl<P> OpenJob<P> {
    /// Releases the permit by name, where the job itself is dropped.
    pub(crate) fn into_permit(self) -> P {
        self.permit
    }
}
