//! Latencies, kept in histograms with 3 significant digits: over the whole run by ack level, and second by second.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// An hour, in nanoseconds: whatever takes longer counts as an hour.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;
/// Points of a curve lie so many to each halving of the distance to 100 %.
const CURVE_POINTS_A_HALVING: u32 = 4;

/// What a histogram says, microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Values recorded.
    pub count: u64,
    /// Mean.
    pub mean_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p99_9_us: f64,
    /// 99.99th percentile.
    pub p99_99_us: f64,
    /// Largest.
    pub max_us: f64,
}

/// One second of a run, by when outcomes came in; latencies are of accepted commands, from their intended time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Seconds since the run's start, warm-up included, at the end of this one.
    pub at_s: u64,
    /// Commands handed to the transport.
    pub sent: u64,
    /// Accepted outcomes.
    pub accepted: u64,
    /// Refusals.
    pub refused: u64,
    /// Commands that were not sent, because the window was full at their time.
    pub skipped: u64,
    /// Commands without an outcome at its end.
    pub waiting: u64,
    /// Median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// Largest.
    pub max_us: f64,
}

/// What one run measured: only commands whose intended time lies after the warm-up, except for the seconds, which show
/// everything.
pub struct Recorder {
    /// By the place of the ack level in the plan.
    accepted: Vec<Histogram<u64>>,
    refused: Histogram<u64>,
    scheduling: Histogram<u64>,
    /// Refusals by the number of their code.
    pub refusals: BTreeMap<u32, u64>,
    /// Commands that were not sent, because the window was full at their time.
    pub skipped: u64,
    /// Commands handed to the transport.
    pub sent: u64,
    /// Accepted outcomes that came in while the run was measured, whenever their command was sent: the throughput.
    pub accepted_in_time: u64,
    /// Every whole second so far.
    pub seconds: Vec<Second>,
    now: Second,
    now_latency: Histogram<u64>,
}

impl Recorder {
    /// An empty one, for so many ack levels.
    pub fn new(levels: usize) -> Recorder {
        Recorder {
            accepted: (0..levels).map(|_| histogram()).collect(),
            refused: histogram(),
            scheduling: histogram(),
            refusals: BTreeMap::new(),
            skipped: 0,
            sent: 0,
            accepted_in_time: 0,
            seconds: Vec::new(),
            now: Second::default(),
            now_latency: histogram(),
        }
    }

    /// An accepted outcome of a measured command, so long after its intended time.
    pub fn accepted_after(&mut self, level: usize, latency_ns: u64) {
        self.accepted[level].saturating_record(latency_ns);
    }

    /// A refusal, so long after its command's intended time. Kept apart: a fast refusal must not flatter the figures.
    pub fn refused_after(&mut self, code: u32, latency_ns: u64) {
        self.refused.saturating_record(latency_ns);
        *self.refusals.entry(code).or_default() += 1;
    }

    /// A message, handed to the transport so long after its intended time.
    pub fn sent_late_by(&mut self, late_ns: u64) {
        self.scheduling.saturating_record(late_ns);
    }

    /// Commands handed to the transport, measured or not.
    pub fn sent_now(&mut self, commands: u64) {
        self.now.sent += commands;
    }

    /// Commands skipped, measured or not.
    pub fn skipped_now(&mut self, commands: u64) {
        self.now.skipped += commands;
    }

    /// An outcome, measured or not.
    pub fn outcome_now(&mut self, accepted: bool, latency_ns: u64) {
        if accepted {
            self.now.accepted += 1;
            self.now_latency.saturating_record(latency_ns);
        } else {
            self.now.refused += 1;
        }
    }

    /// Whether there is a second to end.
    pub fn is_second_over(&self, now_ns: u64) -> bool {
        now_ns >= (self.seconds.len() as u64 + 1) * SECOND_NS
    }

    /// Ends every second that is over. True when one was.
    pub fn roll(&mut self, now_ns: u64, waiting: u64) -> bool {
        let mut rolled = false;
        while self.is_second_over(now_ns) {
            let latency = percentiles(&self.now_latency);
            let second = std::mem::take(&mut self.now);
            self.seconds.push(Second {
                at_s: self.seconds.len() as u64 + 1,
                waiting,
                p50_us: latency.p50_us,
                p99_us: latency.p99_us,
                max_us: latency.max_us,
                ..second
            });
            self.now_latency.reset();
            rolled = true;
        }
        rolled
    }

    /// Latency of accepted commands, all levels together.
    pub fn accepted(&self) -> Percentiles {
        percentiles(&self.accepted_histogram())
    }

    /// Latency of accepted commands at one level.
    pub fn accepted_at(&self, level: usize) -> &Histogram<u64> {
        &self.accepted[level]
    }

    /// Latency of accepted commands, all levels together.
    pub fn accepted_histogram(&self) -> Histogram<u64> {
        let mut all = histogram();
        for one in &self.accepted {
            // Of the same bounds: it cannot be refused.
            let _ = all.add(one);
        }
        all
    }

    /// Latency of refusals.
    pub fn refused(&self) -> &Histogram<u64> {
        &self.refused
    }

    /// How late messages were sent.
    pub fn scheduling(&self) -> &Histogram<u64> {
        &self.scheduling
    }

    /// How late messages were sent: what the generator itself adds.
    pub fn scheduling_error(&self) -> Percentiles {
        percentiles(&self.scheduling)
    }
}

pub(crate) fn histogram() -> Histogram<u64> {
    // The bounds are constants, and right ones.
    #[allow(clippy::unwrap_used)]
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).unwrap()
}

/// The usual percentiles of a histogram of nanoseconds.
pub fn percentiles(histogram: &Histogram<u64>) -> Percentiles {
    if histogram.is_empty() {
        return Percentiles::default();
    }
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
    Percentiles {
        count: histogram.len(),
        mean_us: histogram.mean() / 1_000.0,
        p50_us: at(0.5),
        p90_us: at(0.9),
        p99_us: at(0.99),
        p99_9_us: at(0.999),
        p99_99_us: at(0.9999),
        max_us: histogram.max() as f64 / 1_000.0,
    }
}

/// The whole distribution: shares of the commands, and what they took at most, microseconds.
pub fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = histogram
        .iter_quantiles(CURVE_POINTS_A_HALVING)
        .map(|point| {
            (
                point.quantile_iterated_to(),
                point.value_iterated_to() as f64 / 1_000.0,
            )
        })
        .collect();
    points.dedup();
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_have_three_significant_digits() {
        let mut recorder = Recorder::new(1);
        for us in 1..=100_000u64 {
            recorder.accepted_after(0, us * 1_000);
        }
        let latency = recorder.accepted();
        assert_eq!(latency.count, 100_000);
        for (measured, exact) in [
            (latency.mean_us, 50_000.5),
            (latency.p50_us, 50_000.0),
            (latency.p90_us, 90_000.0),
            (latency.p99_us, 99_000.0),
            (latency.p99_9_us, 99_900.0),
            (latency.p99_99_us, 99_990.0),
            (latency.max_us, 100_000.0),
        ] {
            let error = (measured - exact).abs() / exact;
            assert!(error < 0.001, "{measured} for {exact}");
        }
        let curve = curve(recorder.accepted_at(0));
        assert!(curve.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1));
        assert_eq!(curve.last().map(|point| point.0), Some(1.0));
    }

    #[test]
    fn each_ack_level_has_its_own_latencies() {
        let mut recorder = Recorder::new(2);
        recorder.accepted_after(0, 1_000_000);
        recorder.accepted_after(1, 9_000_000);
        assert!(percentiles(recorder.accepted_at(0)).max_us < 1_100.0);
        assert!(percentiles(recorder.accepted_at(1)).p50_us > 8_900.0);
        assert_eq!(recorder.accepted().count, 2);
    }

    #[test]
    fn refusals_are_counted_by_code_and_do_not_touch_the_latency_of_accepted_commands() {
        let mut recorder = Recorder::new(1);
        recorder.accepted_after(0, 1_000_000);
        recorder.refused_after(103, 10);
        recorder.refused_after(103, 10);
        recorder.refused_after(202, 10);
        assert_eq!(recorder.refusals, [(103, 2), (202, 1)].into());
        assert_eq!(recorder.accepted().count, 1);
        assert!(recorder.accepted().p50_us > 990.0);
        assert_eq!(recorder.refused().len(), 3);
    }

    #[test]
    fn what_takes_longer_than_an_hour_counts_as_an_hour() {
        let mut recorder = Recorder::new(1);
        recorder.accepted_after(0, u64::MAX);
        let longest = recorder.accepted().max_us;
        assert!((3.59e9..3.61e9).contains(&longest), "{longest} us");
    }

    #[test]
    fn seconds_hold_what_came_in_during_them_also_where_nothing_did() {
        let mut recorder = Recorder::new(1);
        recorder.sent_now(5);
        recorder.outcome_now(true, 2_000_000);
        assert!(!recorder.roll(SECOND_NS - 1, 4));
        // Two seconds without a turn of the loop.
        assert!(recorder.roll(3 * SECOND_NS, 4));
        recorder.outcome_now(false, 1);
        recorder.skipped_now(2);
        assert!(recorder.roll(4 * SECOND_NS, 3));
        let seconds = &recorder.seconds;
        assert_eq!(seconds.len(), 4);
        assert_eq!((seconds[0].sent, seconds[0].accepted), (5, 1));
        assert!(seconds[0].p99_us > 1_990.0);
        assert_eq!((seconds[1].accepted, seconds[1].max_us), (0, 0.0));
        assert_eq!((seconds[3].refused, seconds[3].skipped), (1, 2));
        assert_eq!((seconds[3].at_s, seconds[3].waiting), (4, 3));
    }
}
