//! The variants that a running node may use, and when it changes between them.
//!
//! A node starts with the best variant wanted. Where it has a schedule to keep, the cheaper rungs of the manifest's
//! ladder are loaded beside it, and [`crate::ladder`] is told how busy generating is. A pinned variant stays; so does the
//! first one without a schedule (a rate of 0), because nothing can be missed then: the node makes what credits allow.

use std::time::{Duration, Instant, SystemTime};

use super::probes::{ProbeKey, Probes};
use super::{NodeConfig, NodeError};
use crate::generator::{Generator, GeneratorError};
use crate::ladder::{Ladder, PPM, Rung, Step};
use crate::manifest::{Manifest, Role};
use crate::runtime::{RuntimeError, backend};

/// Least time over which the load is taken.
pub const OBSERVED: Duration = Duration::from_millis(100);
/// Micro-batches that a first start measures of each variant, and the time after which it is content with fewer.
const PROBE_ROUNDS: usize = 5;
const PROBE_BUDGET: Duration = Duration::from_millis(100);

/// Loaded variants that are not in use, and what decides about changing to one of them.
#[derive(Debug)]
pub struct Rungs {
    parked: Vec<Generator>,
    pace: Option<Pace>,
}

/// The ladder, and the load that it is told. Time is passed in.
#[derive(Debug)]
struct Pace {
    ladder: Ladder,
    meter: Meter,
    start: Instant,
}

/// Loads what the configuration asks for, warm.
///
/// # Errors
/// When the folder is refused, a variant cannot be loaded or run, or the best variant wanted does not exist.
pub fn open(config: &NodeConfig) -> Result<(Generator, Rungs), NodeError> {
    let began = Instant::now();
    let manifest = Manifest::load(&config.model_dir).map_err(RuntimeError::from)?;
    config.model_trust.check(&manifest)?;
    let wanted = config.variant.as_ref().or(config.best_variant.as_ref());
    let wanted = wanted.unwrap_or(&manifest.default_variant).clone();
    let mut generator = Generator::from_manifest(manifest.clone(), &wanted)?;
    generator.warm_up()?;
    let loaded_ms = began.elapsed().as_millis() as u64;
    let mut parked = Vec::new();
    let others = match cheaper(&manifest, &wanted, config) {
        Ok(others) => others,
        Err(reason) => {
            tracing::info!(variant = wanted, loaded_ms, reason, "one variant is used");
            return Ok((generator, Rungs { parked, pace: None }));
        }
    };
    for name in others {
        let mut other = Generator::from_manifest(manifest.clone(), &name)?;
        other.warm_up()?;
        parked.push(other);
    }
    let rungs_loaded_ms = began.elapsed().as_millis() as u64;
    let measured = measure(&manifest, config, &mut generator, &mut parked)?;
    let ladder =
        Ladder::new(measured, &wanted, config.ladder).map_err(|error| NodeError::Setting {
            setting: "ladder",
            reason: error.to_string(),
        })?;
    let is_rung = |one: &Generator| {
        ladder
            .rungs()
            .iter()
            .any(|rung| rung.variant == one.variant())
    };
    parked.retain(is_rung);
    let names: Vec<&str> = ladder
        .rungs()
        .iter()
        .map(|rung| rung.variant.as_str())
        .collect();
    let ready_ms = began.elapsed().as_millis() as u64;
    tracing::info!(
        rungs = names.join(" > "),
        loaded_ms,
        rungs_loaded_ms,
        ready_ms,
        "the ladder of variants is ready"
    );
    let pace = Some(Pace::new(ladder, Instant::now()));
    Ok((generator, Rungs { parked, pace }))
}

/// The variants below the one wanted, or why there is no ladder.
fn cheaper(
    manifest: &Manifest,
    wanted: &str,
    config: &NodeConfig,
) -> Result<Vec<String>, &'static str> {
    if config.variant.is_some() {
        return Err("it is pinned");
    }
    if config.assets_a_second == 0.0 {
        return Err("without a rate there is no schedule to miss");
    }
    let wanted = manifest.variant(wanted).map_err(|_| "it is unknown")?;
    if !wanted.ladder || manifest.role != Role::Generator {
        return Err("it is no rung of the ladder");
    }
    let below = manifest.variants.iter().filter(|other| {
        other.ladder && other.name != wanted.name && other.distance >= wanted.distance
    });
    let names: Vec<String> = below.map(|other| other.name.clone()).collect();
    if names.is_empty() {
        return Err("no other rung is below it");
    }
    Ok(names)
}

/// What each variant costs here: kept results where they are fresh, measured and kept otherwise.
fn measure(
    manifest: &Manifest,
    config: &NodeConfig,
    generator: &mut Generator,
    parked: &mut [Generator],
) -> Result<Vec<Rung>, GeneratorError> {
    let key = ProbeKey::new(manifest, &backend()?);
    let mut probes = Probes::open(&config.spool_dir);
    let mut all: Vec<&mut Generator> = parked.iter_mut().collect();
    all.push(generator);
    let names: Vec<&str> = all.iter().map(|one| one.variant()).collect();
    if let Some(costs) = probes.costs(&key, &names, SystemTime::now()) {
        return all
            .iter()
            .zip(costs)
            .map(|(one, cost)| one.rung(cost))
            .collect();
    }
    let rungs = all
        .iter_mut()
        .map(|one| one.probe(PROBE_ROUNDS, PROBE_BUDGET))
        .collect::<Result<Vec<Rung>, _>>()?;
    for rung in &rungs {
        let us_an_asset = rung.cost_ns / 1_000;
        tracing::info!(
            variant = rung.variant,
            us_an_asset,
            "measured on this machine"
        );
    }
    if let Err(error) = probes.keep(key, &rungs, SystemTime::now()) {
        tracing::warn!(%error, "the measured costs cannot be kept; the next start measures again");
    }
    Ok(rungs)
}

impl Rungs {
    /// Whether the load has to be looked at although nothing is made: only then can there be a way up.
    pub fn is_below_the_best(&self) -> bool {
        let ladder = self.pace.as_ref().map(|pace| &pace.ladder);
        ladder.is_some_and(|ladder| ladder.current() != &ladder.rungs()[0])
    }

    /// Generating took so long just now.
    pub fn worked(&mut self, busy: Duration) {
        if let Some(pace) = &mut self.pace {
            pace.meter.busy += busy;
        }
    }

    /// Looks at the load and changes the variant where it is time; at most once in [`OBSERVED`]. `late`: more is due than
    /// the next micro-batch can take, and nothing but generating holds it up.
    pub fn observe(&mut self, now: Instant, late: bool, generator: &mut Generator) -> Option<Step> {
        let step = self.pace.as_mut()?.observe(now, late)?;
        // Every rung but the one in use is parked.
        let parked = self
            .parked
            .iter_mut()
            .find(|parked| parked.variant() == step.to)?;
        std::mem::swap(parked, generator);
        Some(step)
    }
}

impl Pace {
    fn new(ladder: Ladder, now: Instant) -> Pace {
        Pace {
            ladder,
            meter: Meter::new(now),
            start: now,
        }
    }

    fn observe(&mut self, now: Instant, late: bool) -> Option<Step> {
        let load_ppm = self.meter.read(now)?;
        let load_ppm = if late { load_ppm.max(PPM) } else { load_ppm };
        let now_ms = now.saturating_duration_since(self.start).as_millis() as u64;
        self.ladder.observe(now_ms, load_ppm)
    }
}

/// How busy generating is: its share of the time that passes.
#[derive(Debug)]
struct Meter {
    since: Instant,
    busy: Duration,
}

impl Meter {
    fn new(now: Instant) -> Meter {
        Meter {
            since: now,
            busy: Duration::ZERO,
        }
    }

    /// Parts per million since the last reading; nothing where that is too short ago.
    fn read(&mut self, now: Instant) -> Option<u64> {
        let passed = now.saturating_duration_since(self.since);
        if passed < OBSERVED {
            return None;
        }
        let share = self.busy.as_nanos() * u128::from(PPM) / passed.as_nanos();
        *self = Meter::new(now);
        Some(u64::try_from(share).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node with a clock of its own: assets are due at a rate, each costs what its variant costs. Gives the steps with
    /// their time, milliseconds.
    fn simulate(
        costs_us: [u64; 3],
        rate_at: impl Fn(u64) -> u64,
        seconds: u64,
    ) -> Vec<(u64, String)> {
        let names = ["teacher", "small", "smaller"];
        let rungs = names.iter().zip(costs_us).zip(0u8..);
        let rungs = rungs.map(|((name, us), place)| Rung {
            variant: (*name).to_owned(),
            cost_ns: us * 1_000,
            quality: 0.9,
            distance: f64::from(place),
        });
        let ladder = Ladder::new(rungs.collect(), "teacher", Default::default()).unwrap();
        let start = Instant::now();
        let mut pace = Pace::new(ladder, start);
        let (mut now_us, mut due_millionths, mut steps) = (0, 0, Vec::new());
        while now_us < seconds * 1_000_000 {
            let due = due_millionths / 1_000_000;
            let count = due.min(8);
            let spent_us = count * pace.ladder.current().cost_ns / 1_000;
            // Nothing to do: the time until something is due, or until the load is looked at.
            let passed_us = if count == 0 { 5_000 } else { spent_us };
            due_millionths += passed_us * rate_at(now_us / 1_000);
            due_millionths -= count * 1_000_000;
            now_us += passed_us;
            pace.meter.busy += Duration::from_micros(spent_us);
            let late = due_millionths / 1_000_000 >= 8;
            if let Some(step) = pace.observe(start + Duration::from_micros(now_us), late) {
                steps.push((now_us / 1_000, step.to));
            }
        }
        steps
    }

    #[test]
    fn a_schedule_that_the_best_variant_misses_is_kept_by_a_cheaper_one() {
        // 200 a second at 10 ms each is twice what there is; at 2 ms it is 40 %.
        let steps = simulate([10_000, 2_000, 500], |_| 200, 60);
        let [(at_ms, name)] = steps.as_slice() else {
            panic!("{steps:?}")
        };
        assert!(name == "small" && (500..1_500).contains(at_ms), "{steps:?}");
    }

    #[test]
    fn a_rush_is_gone_through_step_by_step_and_climbed_back_from() {
        // 600 a second for ten seconds, 20 before and after.
        let rush = |ms| {
            if (20_000..30_000).contains(&ms) {
                600
            } else {
                20
            }
        };
        let steps = simulate([10_000, 2_000, 500], rush, 60);
        let names: Vec<&str> = steps.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["small", "smaller", "small", "teacher"]);
        assert!(steps[1].0 < 22_500 && steps[2].0 > 30_000, "{steps:?}");
    }

    #[test]
    fn a_schedule_that_is_kept_changes_nothing() {
        assert_eq!(simulate([10_000, 2_000, 500], |_| 50, 60), []);
    }

    #[test]
    fn the_load_is_the_busy_share_of_at_least_the_observed_time() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        meter.busy += Duration::from_millis(30);
        assert_eq!(meter.read(start + Duration::from_millis(99)), None);
        meter.busy += Duration::from_millis(20);
        assert_eq!(
            meter.read(start + Duration::from_millis(200)),
            Some(250_000)
        );
        assert_eq!(meter.read(start + Duration::from_millis(250)), None);
        assert_eq!(meter.read(start + Duration::from_millis(300)), Some(0));
    }
}
