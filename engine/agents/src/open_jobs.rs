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

#[cfg(test)]
mod tests {
    use karat_proto::command::{Content, Decision, Lineage, Traits};
    use proptest::prelude::*;

    use super::*;

    fn job(asset: AssetId) -> Job {
        Job {
            asset,
            version: 1,
            collection: 1,
            content: Content {
                digest: [0; 32],
                size: 0,
            },
            traits: Traits::default(),
            lineage: Lineage {
                model: [0; 32],
                variant: String::new(),
                seed: [0; 32],
                hash: [0; 32],
            },
            parent_version: 0,
            sequence: asset,
            born: Instant::now(),
        }
    }

    fn verdict() -> Verdict {
        Verdict {
            asset: 1,
            version: 1,
            policy_version: 1,
            decision: Decision::Accept,
            corruption_ppm: 0,
            findings: vec![],
        }
    }

    fn assets(batch: &[(Ticket, Arc<Job>)]) -> Vec<AssetId> {
        batch.iter().map(|(_, job)| job.asset).collect()
    }

    #[test]
    fn a_job_that_must_be_alone_is_and_waits_before_later_ones() {
        let mut jobs = OpenJobs::new();
        for asset in 1..=4 {
            assert!(jobs.add(job(asset), ()));
        }
        let batch = jobs.next_batch(2);
        assert_eq!(assets(&batch), [1, 2]);
        jobs.get_mut(batch[1].0).unwrap().alone = true;
        jobs.enter(batch[1].0, Phase::Waiting);
        jobs.enter(batch[0].0, Phase::Waiting);
        assert_eq!(assets(&jobs.next_batch(9)), [1]);
        assert_eq!(assets(&jobs.next_batch(9)), [2]);
        assert_eq!(assets(&jobs.next_batch(9)), [3, 4]);
        assert!(jobs.next_batch(9).is_empty());
    }

    #[test]
    fn an_old_issue_finds_nothing() {
        let mut jobs = OpenJobs::new();
        jobs.add(job(1), ());
        let ticket = jobs.next_batch(1)[0].0;
        let issue = jobs.enter(ticket, Phase::Delayed).unwrap();
        assert!(jobs.at_issue(ticket, issue).is_some());
        jobs.enter(ticket, Phase::Waiting);
        assert!(jobs.at_issue(ticket, issue).is_none());
        assert!(!jobs.add(job(1), ()));
        assert!(jobs.close(ticket).is_some());
        assert!(jobs.close(ticket).is_none());
        assert!(jobs.enter(ticket, Phase::Waiting).is_none());
        assert!(jobs.add(job(1), ()));
    }

    proptest! {
        /// Whatever happens in whatever order: what waits is queued once, what does not is not queued.
        #[test]
        fn the_queue_holds_exactly_the_waiting_jobs(steps in prop::collection::vec((0u8..6, 1u64..12), 1..150)) {
            let mut jobs = OpenJobs::new();
            for (step, number) in steps {
                match step {
                    0 => drop(jobs.add(job(number), ())),
                    1 => drop(jobs.next_batch(number as usize)),
                    2 => drop(jobs.enter(number, Phase::Waiting)),
                    3 => drop(jobs.enter(number, Phase::Delayed)),
                    4 => drop(jobs.enter(number, Phase::Submitted { verdict: verdict(), since: Instant::now() })),
                    _ => drop(jobs.close(number)),
                }
                let mut queued: Vec<Ticket> = jobs.waiting.iter().copied().collect();
                let mut waiting: Vec<Ticket> = jobs.jobs.iter()
                    .filter(|(_, open)| matches!(open.phase, Phase::Waiting))
                    .map(|(ticket, _)| *ticket)
                    .collect();
                queued.sort_unstable();
                waiting.sort_unstable();
                prop_assert_eq!(queued, waiting);
                prop_assert_eq!(jobs.versions.len(), jobs.jobs.len());
            }
        }
    }
}
