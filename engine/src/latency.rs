//! How long answers take, by ack level.

use std::time::Duration;

use hdrhistogram::Histogram;
use karat_proto::v1::{AckLatency, AckLevel};
use parking_lot::Mutex;

/// Ack levels in order.
pub const LEVELS: [AckLevel; 4] = [
    AckLevel::Sequenced,
    AckLevel::Durable,
    AckLevel::Verified,
    AckLevel::Settled,
];

/// One histogram a level, microseconds, three significant digits, up to one hour.
#[derive(Debug)]
pub struct Latencies {
    histograms: [Mutex<Histogram<u64>>; 4],
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies {
            histograms: std::array::from_fn(|_| Mutex::new(histogram())),
        }
    }
}

fn histogram() -> Histogram<u64> {
    // 1 us to 1 h with 3 digits: constant arguments that the constructor accepts.
    Histogram::new_with_bounds(1, 3_600_000_000, 3)
        .unwrap_or_else(|_| unreachable!("constant bounds are valid"))
}

impl Latencies {
    /// Records `count` answers at a level.
    pub fn record(&self, level: AckLevel, latency: Duration, count: u64) {
        if let Some(at) = LEVELS.iter().position(|one| *one == level) {
            let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
            self.histograms[at]
                .lock()
                .saturating_record_n(us.max(1), count);
        }
    }

    /// The figures of every level that has any.
    pub fn figures(&self) -> Vec<AckLatency> {
        LEVELS
            .iter()
            .zip(&self.histograms)
            .filter_map(|(level, histogram)| {
                // Copied: quantiles take longer than an answer on its way should wait for the lock.
                let histogram = histogram.lock().clone();
                (!histogram.is_empty()).then(|| AckLatency {
                    ack: (*level).into(),
                    count: histogram.len(),
                    p50_us: histogram.value_at_quantile(0.5),
                    p99_us: histogram.value_at_quantile(0.99),
                    p999_us: histogram.value_at_quantile(0.999),
                    max_us: histogram.max(),
                })
            })
            .collect()
    }
}
