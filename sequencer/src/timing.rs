//! Counts of durations in buckets that grow by an eighth: what metrics need, without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// 8 buckets for each power of two of nanoseconds; 40 powers reach 18 minutes.
const BUCKETS: usize = 40 * 8;

/// Counts durations. Recording is two relaxed atomic additions, and a third change when it is the longest so far.
#[derive(Debug)]
pub struct DurationCounts {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
    max_ns: AtomicU64,
}

impl Default for DurationCounts {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            sum_ns: AtomicU64::new(0),
            max_ns: AtomicU64::new(0),
        }
    }
}

/// A copy of the counts at one moment.
#[derive(Debug, Clone)]
pub struct DurationSnapshot {
    counts: Vec<u64>,
    /// How many durations were recorded.
    pub count: u64,
    /// Their sum in nanoseconds.
    pub sum_ns: u64,
    /// The longest in nanoseconds.
    pub max_ns: u64,
}

fn bucket_of(ns: u64) -> usize {
    if ns < 8 {
        return ns as usize;
    }
    let power = 63 - ns.leading_zeros() as usize; // at least 3
    let eighth = ((ns >> (power - 3)) & 7) as usize;
    ((power - 2) * 8 + eighth).min(BUCKETS - 1)
}

fn upper_bound_ns(bucket: usize) -> u64 {
    if bucket < 8 {
        return bucket as u64;
    }
    let power = bucket / 8 + 2;
    let eighth = (bucket % 8) as u64;
    ((8 + eighth + 1) << (power - 3)) - 1
}

impl DurationCounts {
    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(ns)].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
        // Looked at first: to find the maximum again is not worth taking the line from other threads.
        if ns > self.max_ns.load(Ordering::Relaxed) {
            self.max_ns.fetch_max(ns, Ordering::Relaxed);
        }
    }

    /// A copy of the counts.
    pub fn snapshot(&self) -> DurationSnapshot {
        let counts: Vec<u64> = self
            .buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed))
            .collect();
        DurationSnapshot {
            count: counts.iter().sum(),
            counts,
            sum_ns: self.sum_ns.load(Ordering::Relaxed),
            max_ns: self.max_ns.load(Ordering::Relaxed),
        }
    }
}

impl DurationSnapshot {
    /// The duration in nanoseconds that `per_mille` of all durations do not pass, at most an eighth too high.
    pub fn quantile_ns(&self, per_mille: u64) -> u64 {
        let rank = (self.count * per_mille).div_ceil(1000);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && *count > 0 {
                return upper_bound_ns(bucket).min(self.max_ns);
            }
        }
        self.max_ns
    }

    /// Upper bounds in nanoseconds with the count of durations up to each, for every bucket that is not empty.
    pub fn cumulative(&self) -> Vec<(u64, u64)> {
        let mut seen = 0;
        let mut rows = Vec::new();
        for (bucket, count) in self
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
        {
            seen += count;
            rows.push((upper_bound_ns(bucket), seen));
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_its_bound_says() {
        for ns in (0..10_000).chain((10..39).map(|power| (1u64 << power) + 3)) {
            let bound = upper_bound_ns(bucket_of(ns));
            assert!(
                bound >= ns && bound <= ns + ns / 8 + 1,
                "{ns} ns is in the bucket up to {bound} ns"
            );
        }
    }

    #[test]
    fn quantiles_come_from_the_counts() {
        let counts = DurationCounts::default();
        for us in 1..=1000 {
            counts.record(Duration::from_micros(us));
        }
        let snapshot = counts.snapshot();
        assert_eq!(snapshot.count, 1000);
        assert!((500_000..=563_000).contains(&snapshot.quantile_ns(500)));
        assert_eq!(snapshot.quantile_ns(1000), 1_000_000);
    }
}
