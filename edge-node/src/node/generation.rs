//! The generating thread: seeds, traits, model, PNG, spool.

use std::time::{Duration, Instant};

use karat_proto::{Digest, v1};
use tokio::sync::oneshot;

use super::shared::Shared;
use super::spoil::spoil;
use super::{NodeConfig, NodeError};
use crate::generator::{GenerationRequest, Generator};
use crate::pixels::{Pixels, encode_png};
use crate::rarity::TraitSolver;
use crate::runtime::backend;

/// Longest wait without looking again.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// A node that could not keep its schedule catches up at most this much of it.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);

/// What was really loaded.
#[derive(Debug, Clone)]
pub struct LoadedModel {
    pub digest: Digest,
    /// Name and version.
    pub name: String,
}

/// Loads the model, says so, and generates until the end. A failure stops the whole node.
pub fn run(
    shared: &Shared,
    config: &NodeConfig,
    loaded: oneshot::Sender<LoadedModel>,
) -> Result<(), NodeError> {
    let _over = GenerationOver(shared);
    generate(shared, config, loaded).inspect_err(|_| shared.stop())
}

fn generate(
    shared: &Shared,
    config: &NodeConfig,
    loaded: oneshot::Sender<LoadedModel>,
) -> Result<(), NodeError> {
    let mut generator = Generator::load(&config.model_dir, config.variant.as_deref())?;
    generator.warm_up()?;
    let manifest = generator.manifest();
    let solver = TraitSolver::new(manifest.trait_rules())?;
    let model = LoadedModel {
        digest: manifest.digest,
        name: format!("{} {}", manifest.name, manifest.version),
    };
    shared.figures.runs(generator.variant(), backend()?.name());
    if loaded.send(model).is_err() {
        return Ok(());
    }
    let mut generation = Generation {
        shared,
        config,
        generator,
        solver,
    };
    let mut schedule = Schedule::new(config.assets_a_second, Instant::now());
    let mut left = config.assets_max.unwrap_or(u64::MAX);
    while let Some(count) = wait_for_work(shared, config, &schedule, left) {
        generation.micro_batch(count)?;
        schedule.take(count as u64, Instant::now());
        left -= count as u64;
    }
    Ok(())
}

/// Says that nothing more comes, also when the thread fails or panics.
struct GenerationOver<'a>(&'a Shared);

impl Drop for GenerationOver<'_> {
    fn drop(&mut self) {
        self.0.change(|state| {
            state.generation_over = true;
            state.stopping |= std::thread::panicking();
        });
    }
}

/// Waits until something is due and there is room; the size of the next micro-batch, or nothing at the end.
fn wait_for_work(
    shared: &Shared,
    config: &NodeConfig,
    schedule: &Schedule,
    left: u64,
) -> Option<usize> {
    let mut state = shared.look();
    loop {
        if left == 0 || state.stopping || state.ending.is_some() {
            return None;
        }
        let now = Instant::now();
        let due = schedule.due(now).min(left);
        let count = state.room().min(config.micro_batch_max).min(due as usize);
        if count > 0 {
            return Some(count);
        }
        // Without room, a change of the state wakes; without anything due, the schedule does.
        let most = if due == 0 {
            schedule.until_next(now).min(WAIT_MAX)
        } else {
            WAIT_MAX
        };
        state = shared.wait(state, most);
    }
}

struct Generation<'a> {
    shared: &'a Shared,
    config: &'a NodeConfig,
    generator: Generator,
    solver: TraitSolver,
}

impl Generation<'_> {
    fn micro_batch(&mut self, count: usize) -> Result<(), NodeError> {
        let first = self.shared.spool(|spool| spool.reserve(count))?;
        let start = Instant::now();
        let mut requests = Vec::with_capacity(count);
        for index in first..first + count as u64 {
            let seed = self.config.secret.seed(index);
            requests.push(GenerationRequest {
                seed,
                traits: self.solver.draw(&seed)?,
            });
        }
        let generated = self.generator.generate(&requests)?;
        let manifest = self.generator.manifest();
        let mut spoiled = 0;
        let mut assets = Vec::with_capacity(count);
        for ((index, request), asset) in (first..).zip(requests).zip(generated) {
            let mut content = asset.png;
            if self.config.spoil_ppm > 0 {
                let (width, height) = (manifest.image_width, manifest.image_height);
                let mut image = Pixels {
                    width,
                    height,
                    rgb: asset.pixels,
                };
                if spoil(&request.seed, self.config.spoil_ppm, &mut image) {
                    content = encode_png(width, height, &image.rgb)
                        .map_err(crate::generator::GeneratorError::from)?;
                    spoiled += 1;
                }
            }
            let lineage = v1::Lineage {
                model: manifest.digest.to_vec().into(),
                variant: self.generator.variant().to_owned(),
                seed: request.seed.to_vec().into(),
            };
            assets.push((
                index,
                v1::EdgeAsset {
                    // The spool derives it from collection, index and attempt.
                    id: Default::default(),
                    collection: self.config.collection,
                    // Open for claims.
                    owner: Default::default(),
                    traits: request.traits.into(),
                    lineage: Some(lineage),
                    content: content.into(),
                },
            ));
        }
        let us_an_asset = start.elapsed().as_micros() as u64 / count as u64;
        self.shared.spool(|spool| spool.append(&assets))?;
        self.shared
            .figures
            .count_generated(count, spoiled, us_an_asset);
        Ok(())
    }
}

/// When assets are due. A rate of 0 means always.
#[derive(Debug, Clone)]
struct Schedule {
    a_second: f64,
    start: Instant,
    taken: u64,
}

impl Schedule {
    fn new(a_second: f64, start: Instant) -> Schedule {
        Schedule {
            a_second,
            start,
            taken: 0,
        }
    }

    /// Assets due and not taken; the first one at once.
    fn due(&self, now: Instant) -> u64 {
        if self.a_second == 0.0 {
            return u64::MAX;
        }
        let elapsed = now.saturating_duration_since(self.start).as_secs_f64();
        ((elapsed * self.a_second) as u64 + 1).saturating_sub(self.taken)
    }

    /// How long until one more is due.
    fn until_next(&self, now: Instant) -> Duration {
        let at_seconds = self.taken as f64 / self.a_second;
        let at = Duration::try_from_secs_f64(at_seconds).unwrap_or(Duration::MAX);
        // Never 0, so that waiting for it cannot become a busy loop.
        at.saturating_sub(now.saturating_duration_since(self.start))
            .max(Duration::from_micros(50))
    }

    fn take(&mut self, count: u64, now: Instant) {
        self.taken = self.taken.saturating_add(count);
        let most = (self.a_second * CATCH_UP_MAX.as_secs_f64()).ceil() as u64;
        let due = self.due(now);
        if self.a_second > 0.0 && due > most {
            // The rest of what was missed is let go.
            self.taken += due - most;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_gives_exactly_the_rate() {
        let start = Instant::now();
        let mut schedule = Schedule::new(4.0, start);
        let mut times_ms = Vec::new();
        for ms in 0..1_000 {
            let now = start + Duration::from_millis(ms);
            while schedule.due(now) > 0 {
                schedule.take(1, now);
                times_ms.push(ms);
            }
        }
        assert_eq!(times_ms, [0, 250, 500, 750]);
        let wait = schedule.until_next(start + Duration::from_millis(900));
        assert_eq!(wait, Duration::from_millis(100));
    }

    #[test]
    fn a_long_stall_is_caught_up_by_one_second_only() {
        let start = Instant::now();
        let mut schedule = Schedule::new(10.0, start);
        schedule.take(1, start);
        let later = start + Duration::from_secs(60);
        schedule.take(1, later);
        assert_eq!(schedule.due(later), 10);
    }

    #[test]
    fn no_rate_means_always_due() {
        let schedule = Schedule::new(0.0, Instant::now());
        assert_eq!(schedule.due(Instant::now()), u64::MAX);
    }
}
