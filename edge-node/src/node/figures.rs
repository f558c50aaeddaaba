//! What a node has done so far, for whoever watches it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::budget::{Budget, BudgetSnapshot, Spent};
use crate::ladder::{Direction, Step};

/// Longest time for one asset that the histogram tells apart, microseconds: ten minutes.
const GENERATE_US_MAX: u64 = 600_000_000;

/// Counts of a running node; shared, cheap to read at any time.
#[derive(Debug, Default)]
pub struct NodeFigures {
    generated: AtomicU64,
    spoiled: AtomicU64,
    sent: AtomicU64,
    acknowledged: AtomicU64,
    replayed: AtomicU64,
    spooled: AtomicU64,
    held: AtomicBool,
    reconnects: AtomicU64,
    slow: Mutex<Slow>,
    budget: Mutex<Budget>,
}

/// What changes rarely or not in one word.
#[derive(Debug, Default)]
struct Slow {
    refused: BTreeMap<u16, u64>,
    generate_us: Option<Histogram<u64>>,
    variant: String,
    backend: String,
    made_by: BTreeMap<String, u64>,
    steps_down: u64,
    steps_up: u64,
}

/// The figures at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NodeSnapshot {
    /// Assets made in this run.
    pub generated: u64,
    /// Of these, images spoiled on purpose.
    pub spoiled: u64,
    /// Assets put on the wire, each resend counted again.
    pub sent: u64,
    /// Assets accepted by the engine for the first time.
    pub acknowledged: u64,
    /// Assets that the engine had accepted before: a resend whose first answer was lost.
    pub replayed: u64,
    /// Assets finally refused, by code, in the order of the codes.
    pub refused: Vec<(u16, u64)>,
    /// Assets that wait for their outcome now.
    pub spooled: u64,
    /// Whether the node waits for a word of the engine: the realm is paused, or the model may not mint yet.
    pub held: bool,
    /// Connections opened after the first.
    pub reconnects: u64,
    /// Median time to make one asset (its share of a micro-batch: model, PNG), microseconds.
    pub generate_p50_us: u64,
    /// The same, 99th percentile.
    pub generate_p99_us: u64,
    /// Variant of the model in use.
    pub variant: String,
    /// What runs the model.
    pub backend: String,
    /// Assets made by each variant, by name.
    pub made_by: Vec<(String, u64)>,
    /// Changes to a cheaper variant.
    pub steps_down: u64,
    /// Changes back to a better one.
    pub steps_up: u64,
    /// Where the time goes between pixels and SEQUENCED.
    pub budget: BudgetSnapshot,
}

impl NodeSnapshot {
    /// Assets finally refused, of any code.
    pub fn refused_count(&self) -> u64 {
        self.refused.iter().map(|(_, count)| count).sum()
    }
}

impl NodeFigures {
    /// The figures now. Counts are read one after another, so a running node's may be apart by what happens meanwhile.
    pub fn snapshot(&self) -> NodeSnapshot {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        // Copied first: quantiles take longer than the connection should wait for the lock.
        let budget = self.budget().clone().snapshot();
        let slow = self.slow();
        let quantile = |share| {
            let histogram = slow.generate_us.as_ref();
            histogram.map_or(0, |histogram| histogram.value_at_quantile(share))
        };
        NodeSnapshot {
            generated: read(&self.generated),
            spoiled: read(&self.spoiled),
            sent: read(&self.sent),
            acknowledged: read(&self.acknowledged),
            replayed: read(&self.replayed),
            refused: slow
                .refused
                .iter()
                .map(|(code, count)| (*code, *count))
                .collect(),
            spooled: read(&self.spooled),
            held: self.held.load(Ordering::Relaxed),
            reconnects: read(&self.reconnects),
            generate_p50_us: quantile(0.5),
            generate_p99_us: quantile(0.99),
            variant: slow.variant.clone(),
            backend: slow.backend.clone(),
            made_by: slow
                .made_by
                .iter()
                .map(|(variant, count)| (variant.clone(), *count))
                .collect(),
            steps_down: slow.steps_down,
            steps_up: slow.steps_up,
            budget,
        }
    }

    pub(super) fn runs(&self, variant: &str, backend: &str) {
        let mut slow = self.slow();
        variant.clone_into(&mut slow.variant);
        backend.clone_into(&mut slow.backend);
    }

    pub(super) fn count_made_by(&self, variant: &str, count: usize) {
        let mut slow = self.slow();
        match slow.made_by.get_mut(variant) {
            Some(made) => *made += count as u64,
            None => drop(slow.made_by.insert(variant.to_owned(), count as u64)),
        }
    }

    /// Another variant is in use.
    pub(super) fn count_step(&self, step: &Step) {
        let mut slow = self.slow();
        step.to.clone_into(&mut slow.variant);
        match step.direction {
            Direction::Down => slow.steps_down += 1,
            Direction::Up => slow.steps_up += 1,
        }
    }

    /// An asset is in the spool.
    pub(super) fn count_generated(&self, spoiled: bool, us_an_asset: u64) {
        self.generated.fetch_add(1, Ordering::Relaxed);
        self.spoiled
            .fetch_add(u64::from(spoiled), Ordering::Relaxed);
        let mut slow = self.slow();
        if slow.generate_us.is_none() {
            // Three digits, 10 minutes: the arguments are in range, so this cannot fail; without it only quantiles lack.
            slow.generate_us = Histogram::new_with_bounds(1, GENERATE_US_MAX, 3).ok();
        }
        if let Some(histogram) = slow.generate_us.as_mut() {
            histogram.saturating_record(us_an_asset.clamp(1, GENERATE_US_MAX));
        }
    }

    pub(super) fn count_sent(&self, count: usize) {
        self.sent.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn count_accepted(&self, replayed: bool) {
        let count = if replayed {
            &self.replayed
        } else {
            &self.acknowledged
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_refused(&self, code: u16) {
        *self.slow().refused.entry(code).or_default() += 1;
    }

    pub(super) fn count_reconnect(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_spooled(&self, count: usize) {
        self.spooled.store(count as u64, Ordering::Relaxed);
    }

    pub(super) fn set_held(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    pub(super) fn record_budget(&self, spent: &[Spent]) {
        let mut budget = self.budget();
        spent.iter().for_each(|one| budget.record(one));
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slow(&self) -> MutexGuard<'_, Slow> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
