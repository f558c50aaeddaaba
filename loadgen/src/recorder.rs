//! Latencies, kept in histograms with 3 significant digits.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// An hour, in nanoseconds: whatever takes longer counts as an hour.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

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

/// What one run measured: only commands whose intended time lies after the warm-up.
pub struct Recorder {
    accepted: Histogram<u64>,
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
}

impl Recorder {
    /// An empty one.
    pub fn new() -> Recorder {
        Recorder {
            accepted: histogram(),
            refused: histogram(),
            scheduling: histogram(),
            refusals: BTreeMap::new(),
            skipped: 0,
            sent: 0,
            accepted_in_time: 0,
        }
    }

    /// An accepted outcome, so long after its command's intended time.
    pub fn accepted_after(&mut self, latency_ns: u64) {
        self.accepted.saturating_record(latency_ns);
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

    /// Latency of accepted commands.
    pub fn accepted(&self) -> Percentiles {
        percentiles(&self.accepted)
    }

    /// Latency of refusals.
    pub fn refused(&self) -> Percentiles {
        percentiles(&self.refused)
    }

    /// How late messages were sent: what the generator itself adds.
    pub fn scheduling_error(&self) -> Percentiles {
        percentiles(&self.scheduling)
    }
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder::new()
    }
}

fn histogram() -> Histogram<u64> {
    // The bounds are constants, and right ones.
    #[allow(clippy::unwrap_used)]
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).unwrap()
}

fn percentiles(histogram: &Histogram<u64>) -> Percentiles {
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

#[cfg(test)]
mod tests {
    use super::Recorder;

    #[test]
    fn percentiles_have_three_significant_digits() {
        let mut recorder = Recorder::new();
        for us in 1..=100_000u64 {
            recorder.accepted_after(us * 1_000);
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
    }

    #[test]
    fn refusals_are_counted_by_code_and_do_not_touch_the_latency_of_accepted_commands() {
        let mut recorder = Recorder::new();
        recorder.accepted_after(1_000_000);
        recorder.refused_after(103, 10);
        recorder.refused_after(103, 10);
        recorder.refused_after(202, 10);
        assert_eq!(recorder.refusals, [(103, 2), (202, 1)].into());
        assert_eq!(recorder.accepted().count, 1);
        assert!(recorder.accepted().p50_us > 990.0);
        assert_eq!(recorder.refused().count, 3);
    }

    #[test]
    fn what_takes_longer_than_an_hour_counts_as_an_hour() {
        let mut recorder = Recorder::new();
        recorder.accepted_after(u64::MAX);
        let longest = recorder.accepted().max_us;
        assert!((3.59e9..3.61e9).contains(&longest), "{longest} us");
    }
}
