//! Which variant of a model to use: down under load, up again when there is room.
//!
//! A pure state machine. Costs come from a probe on this machine, load and time are passed in, so every decision can
//! be tested and replayed. A variant that the probe does not find cheaper is never stepped down to, whatever the
//! manifest says.

use thiserror::Error;

/// Parts per million in one whole.
pub const PPM: u64 = 1_000_000;

/// How often the wait before a step up is doubled, at most: from 5 seconds to 80.
pub const PATIENCE_MOST: u32 = 4;

/// A ladder could not be built.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LadderError {
    /// No rungs.
    #[error("a ladder needs at least one variant")]
    Empty,
    /// The start is not among the rungs.
    #[error("variant {variant:?} is not on the ladder; it has {known}")]
    UnknownVariant {
        /// The variant asked for.
        variant: String,
        /// The variants there are.
        known: String,
    },
    /// The settings contradict each other.
    #[error("ladder settings: {reason}")]
    Settings {
        /// Which ones and why.
        reason: &'static str,
    },
}

/// When to step. Loads are parts per million of what one asset's share of time allows: 1,000,000 means that
/// generation takes all the time there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LadderConfig {
    /// At or above this load the ladder wants to step down.
    pub high_load_ppm: u64,
    /// A step up is taken only if the load it would cause stays at or below this.
    pub low_load_ppm: u64,
    /// How long the load must stay high before a step down.
    pub down_after_ms: u64,
    /// How long there must be room before a step up. Longer than the way down, so that it does not swing. After a climb
    /// that load undid soon, twice as long, at most [`PATIENCE_MOST`] times doubled.
    pub up_after_ms: u64,
    /// A rung is kept only if it costs at most this share of the rung above.
    pub worth_it_ppm: u64,
}

impl Default for LadderConfig {
    fn default() -> Self {
        Self {
            high_load_ppm: 850_000,
            low_load_ppm: 600_000,
            down_after_ms: 500,
            up_after_ms: 5_000,
            worth_it_ppm: 900_000,
        }
    }
}

/// A variant with what the probe measured on this machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Rung {
    /// Name of the variant.
    pub variant: String,
    /// Measured cost of one asset in nanoseconds.
    pub cost_ns: u64,
    /// Quality from the manifest; higher is better.
    pub quality: f64,
    /// Perceptual distance to the best variant, from the manifest; lower is better.
    pub distance: f64,
}

/// Which way a step goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To a cheaper variant.
    Down,
    /// To a better one.
    Up,
}

/// A change of variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which way.
    pub direction: Direction,
    /// The variant left.
    pub from: String,
    /// The variant taken.
    pub to: String,
}

/// The variants in use, best first, and where we are.
#[derive(Debug, Clone)]
pub struct Ladder {
    rungs: Vec<Rung>,
    left_out: Vec<Rung>,
    current: usize,
    config: LadderConfig,
    high_since_ms: Option<u64>,
    room_since_ms: Option<u64>,
    climbed_at_ms: Option<u64>,
    /// Climbs in a row that load undid soon.
    patience: u32,
    last_ms: u64,
}

impl Ladder {
    /// Orders the rungs by distance, then quality, and leaves out those better than `best`, and each one that is not
    /// clearly cheaper than the one above it. Starts at `best`, and never climbs above it.
    pub fn new(
        mut rungs: Vec<Rung>,
        best: &str,
        config: LadderConfig,
    ) -> Result<Self, LadderError> {
        if config.low_load_ppm >= config.high_load_ppm {
            return Err(LadderError::Settings {
                reason: "the low load must be below the high load",
            });
        }
        if config.worth_it_ppm >= PPM {
            return Err(LadderError::Settings {
                reason: "a cheaper rung must cost less than the one above it",
            });
        }
        if rungs.is_empty() {
            return Err(LadderError::Empty);
        }
        // Name last, so that equal rungs have one order on every machine.
        rungs.sort_by(|a, b| {
            a.distance
                .total_cmp(&b.distance)
                .then(b.quality.total_cmp(&a.quality))
                .then(a.cost_ns.cmp(&b.cost_ns))
                .then_with(|| a.variant.cmp(&b.variant))
        });
        let best_at = rungs
            .iter()
            .position(|rung| rung.variant == best)
            .ok_or_else(|| LadderError::UnknownVariant {
                variant: best.to_owned(),
                known: rungs
                    .iter()
                    .map(|rung| rung.variant.as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
            })?;
        let mut left_out: Vec<Rung> = rungs.drain(..best_at).collect();
        let mut kept: Vec<Rung> = Vec::new();
        for rung in rungs {
            let worth_it = kept.last().is_none_or(|above| {
                u128::from(rung.cost_ns) * u128::from(PPM)
                    <= u128::from(above.cost_ns) * u128::from(config.worth_it_ppm)
            });
            if worth_it {
                kept.push(rung)
            } else {
                left_out.push(rung)
            }
        }
        Ok(Self {
            rungs: kept,
            left_out,
            current: 0,
            config,
            high_since_ms: None,
            room_since_ms: None,
            climbed_at_ms: None,
            patience: 0,
            last_ms: 0,
        })
    }

    /// The variant in use.
    pub fn current(&self) -> &Rung {
        &self.rungs[self.current]
    }

    /// The rungs in use, best first.
    pub fn rungs(&self) -> &[Rung] {
        &self.rungs
    }

    /// Variants better than the best one wanted, and those that the probe found not worth stepping down to.
    pub fn left_out(&self) -> &[Rung] {
        &self.left_out
    }

    /// Takes one observation of the load and says whether to change. Time never goes back: an earlier time counts as
    /// the latest one seen.
    pub fn observe(&mut self, now_ms: u64, load_ppm: u64) -> Option<Step> {
        let now_ms = now_ms.max(self.last_ms);
        self.last_ms = now_ms;
        let high = load_ppm >= self.config.high_load_ppm;
        let room = self
            .load_after_climb_ppm(load_ppm)
            .is_some_and(|load| load <= u128::from(self.config.low_load_ppm));
        self.high_since_ms = if high {
            self.high_since_ms.or(Some(now_ms))
        } else {
            None
        };
        self.room_since_ms = if room {
            self.room_since_ms.or(Some(now_ms))
        } else {
            None
        };
        if self.current + 1 < self.rungs.len()
            && lasted(self.high_since_ms, now_ms, self.config.down_after_ms)
        {
            let soon_ms = 4 * self.config.up_after_ms.max(self.config.down_after_ms);
            let undone = self
                .climbed_at_ms
                .is_some_and(|climbed_ms| now_ms - climbed_ms <= soon_ms);
            self.patience = if undone {
                (self.patience + 1).min(PATIENCE_MOST)
            } else {
                0
            };
            return Some(self.step_to(self.current + 1));
        }
        let up_after_ms = self.config.up_after_ms << self.patience;
        if self.current > 0 && lasted(self.room_since_ms, now_ms, up_after_ms) {
            self.climbed_at_ms = Some(now_ms);
            return Some(self.step_to(self.current - 1));
        }
        None
    }

    /// The load that the rung above would cause, from the ratio of the probed costs; nothing at the top.
    fn load_after_climb_ppm(&self, load_ppm: u64) -> Option<u128> {
        let above = self.rungs.get(self.current.checked_sub(1)?)?;
        Some(
            u128::from(load_ppm) * u128::from(above.cost_ns)
                / u128::from(self.current().cost_ns.max(1)),
        )
    }

    fn step_to(&mut self, rung: usize) -> Step {
        let from = self.current().variant.clone();
        let direction = if rung > self.current {
            Direction::Down
        } else {
            Direction::Up
        };
        self.current = rung;
        // The next step waits its full time again, on load seen with the new variant.
        self.high_since_ms = None;
        self.room_since_ms = None;
        Step {
            direction,
            from,
            to: self.current().variant.clone(),
        }
    }
}

fn lasted(since_ms: Option<u64>, now_ms: u64, needed_ms: u64) -> bool {
    since_ms.is_some_and(|since| now_ms - since >= needed_ms)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rung(variant: &str, cost_ns: u64, quality: f64) -> Rung {
        Rung {
            variant: variant.to_owned(),
            cost_ns,
            quality,
            distance: 1.0 - quality,
        }
    }

    fn three() -> Ladder {
        let rungs = vec![
            rung("smaller", 100_000, 0.90),
            rung("teacher", 2_000_000, 0.99),
            rung("small", 400_000, 0.97),
        ];
        Ladder::new(rungs, "teacher", LadderConfig::default()).unwrap()
    }

    #[test]
    fn a_variant_that_is_not_cheaper_here_is_never_stepped_down_to() {
        let rungs = vec![
            rung("full", 400_000, 0.97),
            rung("int8", 1_200_000, 0.96),
            rung("tiny", 100_000, 0.9),
        ];
        let mut ladder = Ladder::new(rungs, "full", LadderConfig::default()).unwrap();
        assert_eq!(ladder.left_out()[0].variant, "int8");
        ladder.observe(0, 2_000_000);
        let step = ladder.observe(500, 2_000_000).unwrap();
        assert_eq!(step.to, "tiny");
    }

    #[test]
    fn nothing_better_than_the_best_one_wanted_is_used() {
        let rungs = three().rungs().to_vec();
        let mut ladder = Ladder::new(rungs, "small", LadderConfig::default()).unwrap();
        assert_eq!(ladder.left_out()[0].variant, "teacher");
        assert!((0..500).all(|tick| ladder.observe(tick * 100, 0).is_none()));
        assert_eq!(ladder.current().variant, "small");
    }

    #[test]
    fn distance_decides_the_order_before_quality() {
        let mut worse_read = rung("teacher", 900, 0.90);
        worse_read.distance = 0.0;
        let rungs = vec![rung("small", 400, 0.95), worse_read];
        let ladder = Ladder::new(rungs, "teacher", LadderConfig::default()).unwrap();
        assert_eq!(ladder.rungs()[1].variant, "small");
    }

    /// A probe that was wrong, or a neighbour that only shows under load: each climb is undone.
    #[test]
    fn climbs_that_are_undone_become_rarer_and_never_stop() {
        let mut ladder = three();
        let mut climbs_ms = Vec::new();
        for now_ms in (0..600_000).step_by(100) {
            let load_ppm = if ladder.current().variant == "teacher" {
                2_000_000
            } else {
                10_000
            };
            if let Some(step) = ladder.observe(now_ms, load_ppm)
                && step.to == "teacher"
            {
                climbs_ms.push(now_ms);
            }
        }
        let pauses: Vec<u64> = climbs_ms.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(pauses.windows(2).all(|two| two[0] <= two[1]), "{pauses:?}");
        assert!(pauses.len() > 6 && pauses.len() < 15, "{pauses:?}");
        // Two rungs down from time to time, 80 s each, and what it takes to notice.
        assert!(pauses.iter().all(|pause| *pause < 100_000), "{pauses:?}");
    }

    #[test]
    fn a_short_burst_changes_nothing() {
        let mut ladder = three();
        assert_eq!(ladder.observe(0, 1_500_000), None);
        assert_eq!(ladder.observe(499, 1_500_000), None);
        assert_eq!(ladder.observe(499, 100_000), None);
        assert_eq!(ladder.observe(999, 1_500_000), None);
    }

    #[test]
    fn it_steps_down_one_rung_at_a_time_and_stops_at_the_last() {
        let mut ladder = three();
        let steps: Vec<Step> = (0..40)
            .filter_map(|tick| ladder.observe(tick * 100, 3_000_000))
            .collect();
        let names: Vec<&str> = steps.iter().map(|step| step.to.as_str()).collect();
        assert_eq!(names, ["small", "smaller"]);
    }

    #[test]
    fn it_climbs_only_when_the_better_variant_would_fit() {
        let mut ladder = three();
        ladder.observe(0, 3_000_000);
        ladder.observe(500, 3_000_000);
        assert_eq!(ladder.current().variant, "small");
        // The teacher costs five times as much: 20 % load would become 100 %.
        assert!((0..200).all(|tick| ladder.observe(1_000 + tick * 100, 200_000).is_none()));
        // 10 % would become 50 %, which is below the low mark.
        let climbed = (0..200)
            .filter_map(|tick| ladder.observe(30_000 + tick * 100, 100_000))
            .count();
        assert_eq!((climbed, ladder.current().variant.as_str()), (1, "teacher"));
    }

    #[test]
    fn settings_and_names_that_make_no_sense_are_refused() {
        assert_eq!(
            Ladder::new(vec![], "a", LadderConfig::default()).unwrap_err(),
            LadderError::Empty
        );
        let unknown =
            Ladder::new(vec![rung("a", 1, 1.0)], "b", LadderConfig::default()).unwrap_err();
        assert!(matches!(unknown, LadderError::UnknownVariant { .. }));
        let config = LadderConfig {
            low_load_ppm: 900_000,
            ..LadderConfig::default()
        };
        assert!(matches!(
            Ladder::new(vec![rung("a", 1, 1.0)], "a", config),
            Err(LadderError::Settings { .. })
        ));
    }

    proptest! {
        /// Under a demand that never changes, the ladder comes to rest: it does not swing for ever.
        #[test]
        fn a_steady_demand_ends_in_one_place(
            costs in prop::collection::vec(1_000u64..10_000_000, 1..5),
            assets_a_second in 1u64..2_000,
        ) {
            let rungs = costs.iter().enumerate().map(|(i, cost)| rung(&format!("v{i}"), *cost, 1.0 - i as f64 / 10.0)).collect();
            let mut ladder = Ladder::new(rungs, "v0", LadderConfig::default()).unwrap();
            let mut last_change_ms = 0;
            for tick in 0..3_000u64 {
                let load_ppm = ladder.current().cost_ns * assets_a_second / 1_000;
                if ladder.observe(tick * 100, load_ppm).is_some() {
                    last_change_ms = tick * 100;
                }
            }
            prop_assert!(last_change_ms < 60_000);
        }
    }
}
