//! Where the time goes between an asset's pixels being ready and its outcome at SEQUENCED being in hand.
//!
//! | stage | begins | ends |
//! | --- | --- | --- |
//! | `batch` | the model has run | this asset's turn: those before it in the micro-batch are encoded and in the spool |
//! | `encode` | its turn | its PNG is there |
//! | `spool` | its PNG is there | the connection has taken it from the spool to send it |
//! | `uplink` | the rest: both ways between the two processes, with both ends' streams and sockets | |
//! | `digest` ... `ack` | as the engine reports them (`Stages` in `edge.proto`), by its own clock | |
//!
//! A node computes no digest of the content; the engine does. `uplink` is a difference, because the clocks of two machines
//! cannot be compared; so the stages always add up to the whole. An engine that reports no stages leaves its part in
//! `uplink`, and one that says nothing at SEQUENCED is measured to its final outcome: both are counted.

use std::collections::HashMap;
use std::fmt::Write;
use std::time::Instant;

use hdrhistogram::Histogram;
use karat_proto::v1;
use serde::Serialize;

/// The stages in the order of the way.
pub const STAGES: [&str; 10] = [
    "batch",
    "encode",
    "spool",
    "uplink",
    "digest",
    "admission",
    "queue",
    "append",
    "apply",
    "ack",
];
/// Where `uplink` stands among [`STAGES`]; the node's own are before it, the engine's after it.
const UPLINK: usize = 3;

/// Moments of one asset until it is in the spool.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    /// The model has run.
    pub ready: Instant,
    /// Its encoding began.
    pub began: Instant,
    /// Its PNG is there.
    pub encoded: Instant,
}

/// What one asset's way took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spent {
    /// Nanoseconds, as [`STAGES`]; they add up to `whole_ns`.
    pub stages_ns: [u64; STAGES.len()],
    /// Nanoseconds from pixels ready to the outcome in hand.
    pub whole_ns: u64,
    /// It was sent more than once, so its time says more about the connection than about the stages.
    pub resent: bool,
    /// The engine reported no stages.
    pub without_engine: bool,
    /// The outcome was already final.
    pub at_durable: bool,
    /// The engine reported more time than there was between sending and outcome; it is believed only so far.
    pub over_claimed: bool,
}

/// Assets of this run on their way; never more than the spool holds. What a run before left in the spool is not here:
/// nobody knows when its pixels were ready.
#[derive(Debug, Default)]
pub struct OnTheWay {
    assets: HashMap<u64, Asset>,
}

#[derive(Debug)]
struct Asset {
    made: Made,
    sent: Option<Instant>,
    sends: u32,
}

impl OnTheWay {
    /// An asset is in the spool.
    pub fn begin(&mut self, index: u64, made: Made) {
        let asset = Asset {
            made,
            sent: None,
            sends: 0,
        };
        self.assets.insert(index, asset);
    }

    /// It was taken from the spool to be sent.
    pub fn sent(&mut self, index: u64, now: Instant) {
        if let Some(asset) = self.assets.get_mut(&index) {
            asset.sent = Some(now);
            asset.sends = asset.sends.saturating_add(1);
        }
    }

    /// It was accepted; what its way took, once, if it began here.
    pub fn end(
        &mut self,
        index: u64,
        now: Instant,
        engine: Option<&v1::Stages>,
        at_durable: bool,
    ) -> Option<Spent> {
        let asset = self.assets.remove(&index)?;
        let sent = asset.sent?;
        let since = |later: Instant, earlier: Instant| {
            u64::try_from(later.saturating_duration_since(earlier).as_nanos()).unwrap_or(u64::MAX)
        };
        let Made {
            ready,
            began,
            encoded,
        } = asset.made;
        let mut stages_ns = [0; STAGES.len()];
        stages_ns[0] = since(began, ready);
        stages_ns[1] = since(encoded, began);
        stages_ns[2] = since(sent, encoded);
        let mut left = since(now, sent);
        let mut over_claimed = false;
        if let Some(engine) = engine {
            let claims = [
                engine.digest_ns,
                engine.admission_ns,
                engine.queue_ns,
                engine.append_ns,
                engine.apply_ns,
                engine.ack_ns,
            ];
            for (stage_ns, claim) in stages_ns[UPLINK + 1..].iter_mut().zip(claims) {
                *stage_ns = claim.min(left);
                over_claimed |= claim > left;
                left -= *stage_ns;
            }
        }
        stages_ns[UPLINK] = left;
        Some(Spent {
            stages_ns,
            whole_ns: stages_ns.iter().sum(),
            resent: asset.sends > 1,
            without_engine: engine.is_none(),
            at_durable,
            over_claimed,
        })
    }

    /// It has a final outcome that is not measured.
    pub fn forget(&mut self, index: u64) {
        self.assets.remove(&index);
    }
}

/// Durations of one stage: three digits in the histogram, the sum exact.
#[derive(Debug, Clone)]
struct Durations {
    histogram: Histogram<u32>,
    sum_ns: u64,
}

impl Default for Durations {
    fn default() -> Durations {
        Durations {
            // Three digits are allowed, so there is nothing to fail; the range grows with what is recorded.
            histogram: Histogram::new(3)
                .unwrap_or_else(|_| unreachable!("three digits are a valid precision")),
            sum_ns: 0,
        }
    }
}

impl Durations {
    fn record(&mut self, ns: u64) {
        // Fails only where the range cannot grow, and it can up to any number of 64 bits.
        let _ = self.histogram.record(ns);
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    fn merge(&mut self, other: &Durations) {
        // Fails only where the target cannot grow, and it can.
        let _ = self.histogram.add(&other.histogram);
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    fn snapshot(&self, stage: &'static str) -> StageSnapshot {
        let count = self.histogram.len();
        StageSnapshot {
            stage,
            count,
            sum_ns: self.sum_ns,
            mean_ns: self.sum_ns.checked_div(count).unwrap_or(0),
            p50_ns: self.histogram.value_at_quantile(0.5),
            p99_ns: self.histogram.value_at_quantile(0.99),
            p999_ns: self.histogram.value_at_quantile(0.999),
            max_ns: self.histogram.max(),
        }
    }
}

/// The histograms of a run.
#[derive(Debug, Clone, Default)]
pub struct Budget {
    stages: [Durations; STAGES.len()],
    whole: Durations,
    resent: Durations,
    without_engine: u64,
    at_durable: u64,
    over_claimed: u64,
}

impl Budget {
    /// Takes one asset. A resent one is kept apart: only its whole time, and in none of the other figures.
    pub fn record(&mut self, spent: &Spent) {
        if spent.resent {
            return self.resent.record(spent.whole_ns);
        }
        for (durations, ns) in self.stages.iter_mut().zip(spent.stages_ns) {
            durations.record(ns);
        }
        self.whole.record(spent.whole_ns);
        self.without_engine += u64::from(spent.without_engine);
        self.at_durable += u64::from(spent.at_durable);
        self.over_claimed += u64::from(spent.over_claimed);
    }

    /// Takes all of another one, as of another node.
    pub fn merge(&mut self, other: &Budget) {
        for (durations, more) in self.stages.iter_mut().zip(&other.stages) {
            durations.merge(more);
        }
        self.whole.merge(&other.whole);
        self.resent.merge(&other.resent);
        self.without_engine += other.without_engine;
        self.at_durable += other.at_durable;
        self.over_claimed += other.over_claimed;
    }

    /// The figures now.
    pub fn snapshot(&self) -> BudgetSnapshot {
        let stages = STAGES.iter().zip(&self.stages);
        BudgetSnapshot {
            stages: stages.map(|(name, one)| one.snapshot(name)).collect(),
            whole: self.whole.snapshot("whole"),
            resent: self.resent.snapshot("resent"),
            without_engine: self.without_engine,
            at_durable: self.at_durable,
            over_claimed: self.over_claimed,
        }
    }
}

/// Figures of one stage, nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StageSnapshot {
    /// One of [`STAGES`], `whole` or `resent`.
    pub stage: &'static str,
    /// Assets.
    pub count: u64,
    /// Their sum, exact.
    pub sum_ns: u64,
    /// Their mean, rounded down.
    pub mean_ns: u64,
    /// Median.
    pub p50_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// 99.9th percentile.
    pub p999_ns: u64,
    /// Largest.
    pub max_ns: u64,
}

/// The budget at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BudgetSnapshot {
    /// As [`STAGES`]; their sums add up to that of `whole`.
    pub stages: Vec<StageSnapshot>,
    /// Pixels ready to outcome in hand, of assets sent once.
    pub whole: StageSnapshot,
    /// The same of assets that were sent again, in none of the figures above.
    pub resent: StageSnapshot,
    /// Of `whole`, those for which the engine reported no stages: its part lies in `uplink`.
    pub without_engine: u64,
    /// Of `whole`, those that heard nothing before their final outcome.
    pub at_durable: u64,
    /// Of `whole`, those for which the engine reported more time than there was.
    pub over_claimed: u64,
}

impl BudgetSnapshot {
    /// One line: the whole, and the mean of each stage.
    pub fn line(&self) -> String {
        if self.whole.count == 0 {
            return "pixels to SEQUENCED: nothing yet".to_owned();
        }
        let means = self.stages.iter().map(|one| {
            let us = one.mean_ns.div_ceil(1000);
            format!("{} {us}", one.stage)
        });
        format!(
            "pixels to SEQUENCED p50 {} us p99 {} us; means: {}",
            microseconds(self.whole.p50_ns),
            microseconds(self.whole.p99_ns),
            means.collect::<Vec<_>>().join(", ")
        )
    }

    /// A table with a row for each stage, and remarks where something was not measured as it should be.
    pub fn table(&self) -> String {
        let mut text = format!(
            "  {:<22}{:>10}{:>10}{:>10}{:>10}   microseconds, {} assets\n",
            "pixels to SEQUENCED", "mean", "p50", "p99", "max", self.whole.count
        );
        for one in self.stages.iter().chain([&self.whole]) {
            let cells = [one.mean_ns, one.p50_ns, one.p99_ns, one.max_ns];
            let _ = write!(text, "  {:<22}", one.stage);
            for ns in cells {
                let _ = write!(text, "{:>10}", microseconds(ns));
            }
            text.push('\n');
        }
        let remarks = [
            (self.resent.count, "were sent again and are not in it"),
            (
                self.without_engine,
                "came without the engine's stages: its part is in uplink",
            ),
            (
                self.at_durable,
                "are measured to DURABLE: nothing came at SEQUENCED",
            ),
            (
                self.over_claimed,
                "came with more engine time than there was",
            ),
        ];
        for (count, remark) in remarks.iter().filter(|(count, _)| *count > 0) {
            let _ = writeln!(text, "  {count} {remark}");
        }
        text
    }
}

/// With one digit after the point, so that small stages do not vanish.
fn microseconds(ns: u64) -> String {
    format!("{}.{}", ns / 1000, ns % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn way(times_us: [u64; 5], engine: Option<v1::Stages>, sends: usize) -> Spent {
        let start = Instant::now();
        let mut at = start;
        let mut moments = times_us.map(|us| {
            at += Duration::from_micros(us);
            at
        });
        moments[0] = start;
        let mut on_the_way = OnTheWay::default();
        on_the_way.begin(
            7,
            Made {
                ready: moments[0],
                began: moments[1],
                encoded: moments[2],
            },
        );
        for _ in 0..sends {
            on_the_way.sent(7, moments[3]);
        }
        let spent = on_the_way
            .end(7, moments[4], engine.as_ref(), false)
            .unwrap();
        assert_eq!(on_the_way.end(7, moments[4], None, false), None);
        spent
    }

    fn engine(ns: [u64; 6]) -> v1::Stages {
        let [
            digest_ns,
            admission_ns,
            queue_ns,
            append_ns,
            apply_ns,
            ack_ns,
        ] = ns;
        v1::Stages {
            digest_ns,
            admission_ns,
            queue_ns,
            append_ns,
            apply_ns,
            ack_ns,
        }
    }

    #[test]
    fn each_stage_gets_its_time_and_uplink_the_rest() {
        let reported = engine([1_000, 2_000, 3_000, 4_000, 5_000, 6_000]);
        let spent = way([0, 10, 200, 30, 500], Some(reported), 1);
        assert_eq!(
            spent.stages_ns,
            [
                10_000, 200_000, 30_000, 479_000, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000
            ]
        );
        assert_eq!(spent.whole_ns, 740_000);
        assert!(!spent.resent && !spent.without_engine && !spent.over_claimed);
    }

    #[test]
    fn an_engine_that_reports_nothing_leaves_its_part_in_uplink() {
        let spent = way([0, 10, 200, 30, 500], None, 1);
        assert_eq!(spent.stages_ns[UPLINK], 500_000);
        assert!(spent.without_engine);
        let mut budget = Budget::default();
        budget.record(&spent);
        let snapshot = budget.snapshot();
        assert_eq!((snapshot.whole.count, snapshot.without_engine), (1, 1));
        assert!(snapshot.table().contains("its part is in uplink"));
    }

    #[test]
    fn a_resent_asset_is_counted_apart_and_one_of_another_run_not_at_all() {
        let mut budget = Budget::default();
        budget.record(&way([0, 1, 1, 1, 1], None, 2));
        let snapshot = budget.snapshot();
        assert_eq!((snapshot.whole.count, snapshot.resent.count), (0, 1));
        assert!(snapshot.stages.iter().all(|stage| stage.count == 0));
        let mut on_the_way = OnTheWay::default();
        on_the_way.sent(1, Instant::now());
        assert_eq!(on_the_way.end(1, Instant::now(), None, false), None);
    }

    proptest! {
        #[test]
        fn stages_add_up_to_the_whole_whatever_the_engine_claims(
            ways in prop::collection::vec(
                (
                    prop::array::uniform5(0..5_000_000_u64),
                    prop::array::uniform6(prop_oneof![0..2_000_000_u64, Just(u64::MAX)]),
                ),
                1..40,
            ),
        ) {
            let mut budget = Budget::default();
            let mut over_claimed = 0;
            for (times_us, claims) in ways {
                let spent = way(times_us, Some(engine(claims)), 1);
                prop_assert_eq!(spent.stages_ns.iter().sum::<u64>(), spent.whole_ns);
                let claimed = claims.iter().fold(0_u64, |sum, one| sum.saturating_add(*one));
                prop_assert_eq!(spent.over_claimed, claimed > times_us[4] * 1000);
                over_claimed += u64::from(spent.over_claimed);
                budget.record(&spent);
            }
            let snapshot = budget.snapshot();
            let sums: u64 = snapshot.stages.iter().map(|stage| stage.sum_ns).sum();
            prop_assert_eq!(sums, snapshot.whole.sum_ns);
            let means: u64 = snapshot.stages.iter().map(|stage| stage.mean_ns).sum();
            prop_assert!(snapshot.whole.mean_ns - means <= STAGES.len() as u64);
            prop_assert_eq!(snapshot.over_claimed, over_claimed);
        }

        #[test]
        fn merging_gives_what_recording_all_in_one_gives(
            first in prop::collection::vec((1..10_000_000_u64, 1..3_usize), 0..30),
            second in prop::collection::vec((1..10_000_000_u64, 1..3_usize), 0..30),
        ) {
            let (mut one, mut other, mut all) = <(Budget, Budget, Budget)>::default();
            for (ways, into) in [(&first, &mut one), (&second, &mut other)] {
                for (us, sends) in ways {
                    let spent = way([0, *us, 5, 6, us / 2], None, *sends);
                    into.record(&spent);
                    all.record(&spent);
                }
            }
            one.merge(&other);
            prop_assert_eq!(one.snapshot(), all.snapshot());
        }
    }
}
