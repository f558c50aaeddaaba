//! Figures of the agents.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hdrhistogram::Histogram;
use karat_proto::command::{AgentKind, Finding};

use crate::findings::FindingCode;

/// Longest verdict latency that is told apart: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// What one agent did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentFigures {
    /// Assets looked at, again ones included.
    pub inspected: u64,
    /// Findings, notes included.
    pub findings: u64,
    /// Time spent, microseconds.
    pub busy_us: u64,
}

/// Figures since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentsStats {
    /// Jobs that hold a permit now.
    pub in_flight: u64,
    /// Of these, jobs whose verdict was turned away so often that they only wait for the ledger to come back.
    pub parked: u64,
    /// Verdicts that the ledger took: accepting ones.
    pub verified: u64,
    /// Rejecting ones.
    pub rejected: u64,
    /// Ones that ask for people.
    pub in_review: u64,
    /// Jobs dropped because their asset changed or ended meanwhile.
    pub void: u64,
    /// Jobs dropped because the ledger refused the verdict for another reason, which is a fault.
    pub refused: u64,
    /// Jobs offered while the same version of the same asset was open.
    pub duplicates: u64,
    /// Panics contained.
    pub panics: u64,
    /// Workers started again after a panic or a stall.
    pub restarts: u64,
    /// Workers replaced for being stuck (also counted in `restarts`).
    pub stalls: u64,
    /// Stuck threads that have not ended yet.
    pub stuck_threads: u64,
    /// Jobs issued again: after a panic, a stall, missing content or a changed policy.
    pub reissued: u64,
    /// Verdicts submitted again because the ledger had no room or was away.
    pub resubmitted: u64,
    /// Assets found to look almost like another of their collection.
    pub near_duplicates: u64,
    /// Assets found to have another's very content.
    pub content_doubles: u64,
    /// Assets sent to people because their collection had drifted.
    pub drifted: u64,
    /// From the job's birth to the ledger's answer, median, microseconds; 0 before the first verdict.
    pub latency_p50_us: u64,
    /// The same, 99th percentile.
    pub latency_p99_us: u64,
    /// Integrity, policy, parity, re-execution, similarity.
    pub agents: [(&'static str, AgentFigures); 5],
}

#[derive(Default)]
struct AgentCounters {
    inspected: AtomicU64,
    findings: AtomicU64,
    busy_us: AtomicU64,
}

/// The counters behind [`AgentsStats`], shared by all threads.
pub(crate) struct Figures {
    pub(crate) parked: AtomicU64,
    pub(crate) verified: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) in_review: AtomicU64,
    pub(crate) void: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) panics: AtomicU64,
    pub(crate) restarts: AtomicU64,
    pub(crate) stalls: AtomicU64,
    pub(crate) stuck_threads: AtomicU64,
    pub(crate) reissued: AtomicU64,
    pub(crate) resubmitted: AtomicU64,
    near_duplicates: AtomicU64,
    content_doubles: AtomicU64,
    drifted: AtomicU64,
    agents: [AgentCounters; 5],
    /// `None` only if the bounds above were out of the histogram's range.
    latency_us: Mutex<Option<Histogram<u64>>>,
}

impl Figures {
    pub(crate) fn new() -> Figures {
        Figures {
            parked: AtomicU64::new(0),
            verified: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            in_review: AtomicU64::new(0),
            void: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
            stuck_threads: AtomicU64::new(0),
            reissued: AtomicU64::new(0),
            resubmitted: AtomicU64::new(0),
            near_duplicates: AtomicU64::new(0),
            content_doubles: AtomicU64::new(0),
            drifted: AtomicU64::new(0),
            agents: Default::default(),
            latency_us: Mutex::new(Histogram::new_with_bounds(1, LATENCY_US_MAX, 2).ok()),
        }
    }

    pub(crate) fn worked(&self, agent: AgentKind, inspected: usize, found: usize, time: Duration) {
        let counters = &self.agents[index(agent)];
        counters.inspected.fetch_add(inspected as u64, Relaxed);
        counters.findings.fetch_add(found as u64, Relaxed);
        counters.busy_us.fetch_add(time.as_micros() as u64, Relaxed);
    }

    /// Counts what the similarity agent found in one asset.
    pub(crate) fn found_similar(&self, findings: &[Finding]) {
        for finding in findings {
            let counter = match FindingCode::from_number(finding.code) {
                Some(FindingCode::NearDuplicate) => &self.near_duplicates,
                Some(FindingCode::ContentDouble) => &self.content_doubles,
                Some(FindingCode::CollectionDrifted) => &self.drifted,
                _ => continue,
            };
            counter.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn answered(&self, latency: Duration) {
        let mut histogram = self
            .latency_us
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(histogram) = histogram.as_mut() {
            histogram.saturating_record((latency.as_micros() as u64).clamp(1, LATENCY_US_MAX));
        }
    }

    pub(crate) fn read(&self, in_flight: u64) -> AgentsStats {
        let quantile = |share| {
            let histogram = self
                .latency_us
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            histogram
                .as_ref()
                .map_or(0, |histogram| histogram.value_at_quantile(share))
        };
        let agent = |kind: AgentKind| {
            let counters = &self.agents[index(kind)];
            let figures = AgentFigures {
                inspected: counters.inspected.load(Relaxed),
                findings: counters.findings.load(Relaxed),
                busy_us: counters.busy_us.load(Relaxed),
            };
            (crate::findings::agent_name(kind), figures)
        };
        AgentsStats {
            in_flight,
            parked: self.parked.load(Relaxed),
            verified: self.verified.load(Relaxed),
            rejected: self.rejected.load(Relaxed),
            in_review: self.in_review.load(Relaxed),
            void: self.void.load(Relaxed),
            refused: self.refused.load(Relaxed),
            duplicates: self.duplicates.load(Relaxed),
            panics: self.panics.load(Relaxed),
            restarts: self.restarts.load(Relaxed),
            stalls: self.stalls.load(Relaxed),
            stuck_threads: self.stuck_threads.load(Relaxed),
            reissued: self.reissued.load(Relaxed),
            resubmitted: self.resubmitted.load(Relaxed),
            near_duplicates: self.near_duplicates.load(Relaxed),
            content_doubles: self.content_doubles.load(Relaxed),
            drifted: self.drifted.load(Relaxed),
            latency_p50_us: quantile(0.5),
            latency_p99_us: quantile(0.99),
            agents: [
                agent(AgentKind::Integrity),
                agent(AgentKind::Policy),
                agent(AgentKind::Parity),
                agent(AgentKind::ReExecution),
                agent(AgentKind::Similarity),
            ],
        }
    }
}

fn index(agent: AgentKind) -> usize {
    match agent {
        AgentKind::Integrity => 0,
        AgentKind::Policy => 1,
        AgentKind::Parity => 2,
        AgentKind::ReExecution => 3,
        AgentKind::Similarity => 4,
    }
}
