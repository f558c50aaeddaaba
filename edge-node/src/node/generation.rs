//! The generating thread: seeds, traits, model, PNG, spool.

use std::ops::Range;
use std::time::{Duration, Instant};

use karat_proto::{Digest, v1};
use tokio::sync::oneshot;

use super::budget::Made;
use super::rungs;
use super::shared::Shared;
use super::spoil::spoil;
use super::spool::SpoolError;
use super::{NodeConfig, NodeError};
use crate::generator::{GenerationRequest, Generator};
use crate::pixels::{Pixels, encode_png};
use crate::rarity::TraitSolver;
use crate::runtime::backend;
use crate::turns;

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
    // A picture takes milliseconds; what sends the one before must not wait for it.
    turns::common();
    generate(shared, config, loaded).inspect_err(|_| shared.stop())
}

fn generate(
    shared: &Shared,
    config: &NodeConfig,
    loaded: oneshot::Sender<LoadedModel>,
) -> Result<(), NodeError> {
    let (generator, mut rungs) = rungs::open(config)?;
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
    loop {
        let look_after = if rungs.is_below_the_best() {
            rungs::OBSERVED
        } else {
            WAIT_MAX
        };
        let look_at = Instant::now() + look_after;
        let count = match next_work(shared, config, &schedule, left, look_at) {
            Next::Make(count) => count,
            Next::Look => 0,
            Next::End => return Ok(()),
        };
        let mut now = Instant::now();
        if count > 0 {
            let start = now;
            generation.micro_batch(count)?;
            now = Instant::now();
            schedule.take(count as u64, now);
            left -= count as u64;
            rungs.worked(now - start);
            let variant = generation.generator.variant();
            shared.figures.count_made_by(variant, count);
        }
        // A micro-batch that is not full was bounded by room or by what was due: then it is not generating that is late.
        let late = count == config.micro_batch_max && schedule.due(now) >= count as u64;
        if let Some(step) = rungs.observe(now, late, &mut generation.generator) {
            tracing::info!(
                from = step.from,
                to = step.to,
                "the variant changes with the load"
            );
            shared.figures.count_step(&step);
        }
    }
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

/// What the generating thread does next.
enum Next {
    /// A micro-batch of so many.
    Make(usize),
    /// Nothing is due, or there is no room for it: look at the load.
    Look,
    /// Nothing, ever.
    End,
}

/// Waits until a micro-batch is due and there is room for it, or until it is time to look at the load.
fn next_work(
    shared: &Shared,
    config: &NodeConfig,
    schedule: &Schedule,
    left: u64,
    look_at: Instant,
) -> Next {
    let mut state = shared.look();
    loop {
        if left == 0 || state.stopping || state.ending.is_some() {
            return Next::End;
        }
        let now = Instant::now();
        let wait = match schedule.next(config, state.room(), left, now) {
            Due::Take(count) => return Next::Make(count),
            Due::Wait(wait) => wait,
        };
        if now >= look_at {
            return Next::Look;
        }
        state = shared.wait(state, wait.min(look_at - now));
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
        // Where the backend runs one image after the other, each is on its way before the next one is begun.
        let at_once = count.min(self.generator.run_most());
        for begin in (first..first + count as u64).step_by(at_once) {
            let end = (begin + at_once as u64).min(first + count as u64);
            self.run(begin..end)?;
        }
        Ok(())
    }

    /// One run of the model.
    fn run(&mut self, indexes: Range<u64>) -> Result<(), NodeError> {
        let start = Instant::now();
        let mut requests = Vec::new();
        for index in indexes.clone() {
            let seed = self.config.secret.seed(index);
            requests.push(GenerationRequest {
                seed,
                traits: self.solver.draw(&seed)?,
            });
        }
        let pixels = self.generator.generate_pixels(&requests)?;
        let ready = Instant::now();
        let model_share = (ready - start) / requests.len().max(1) as u32;
        let images = pixels.chunks_exact(self.generator.manifest().pixel_bytes());
        for ((index, request), image) in indexes.zip(requests).zip(images) {
            self.encode_and_spool(index, request, image, ready, model_share)?;
        }
        Ok(())
    }

    /// Each asset goes into the spool, and so on its way, before the next one of its micro-batch is encoded.
    fn encode_and_spool(
        &self,
        index: u64,
        request: GenerationRequest,
        image: &[u8],
        ready: Instant,
        model_share: Duration,
    ) -> Result<(), NodeError> {
        let began = Instant::now();
        let manifest = self.generator.manifest();
        let mut image = Pixels {
            width: manifest.image_width,
            height: manifest.image_height,
            rgb: image.to_vec(),
        };
        let spoiled =
            self.config.spoil_ppm > 0 && spoil(&request.seed, self.config.spoil_ppm, &mut image);
        let content = encode_png(image.width, image.height, &image.rgb)
            .map_err(crate::generator::GeneratorError::from)?;
        let encoded = Instant::now();
        let lineage = v1::Lineage {
            model: manifest.digest.to_vec().into(),
            variant: self.generator.variant().to_owned(),
            seed: request.seed.to_vec().into(),
        };
        let asset = v1::EdgeAsset {
            // The spool derives it from collection, index and attempt.
            id: Default::default(),
            collection: self.config.collection,
            // Open for claims.
            owner: Default::default(),
            traits: request.traits.into(),
            lineage: Some(lineage),
            content: content.into(),
        };
        let made = Made {
            ready,
            began,
            encoded,
        };
        self.shared.change(|state| {
            let Some(spool) = state.spool.as_mut() else {
                return Ok(());
            };
            spool.append(&[(index, asset)])?;
            state.on_the_way.begin(index, made);
            Ok::<_, SpoolError>(())
        })?;
        let us_an_asset = (model_share + (encoded - began)).as_micros() as u64;
        self.shared.figures.count_generated(spoiled, us_an_asset);
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

/// What a schedule says at one moment.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    /// Make so many.
    Take(usize),
    /// Look again after this long.
    Wait(Duration),
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

    /// The next micro-batch: what is due, as far as there is room, `left` to make, and no more than its size. A few assets
    /// are held back for company, as long as the configuration says and only if some can come.
    fn next(&self, config: &NodeConfig, room: usize, left: u64, now: Instant) -> Due {
        let due = self.due(now).min(left);
        let most = config.micro_batch_max.min(room);
        if most == 0 {
            // A change of the state wakes.
            return Due::Wait(WAIT_MAX);
        }
        if due == 0 {
            return Due::Wait(self.until(0, now));
        }
        let count = most.min(usize::try_from(due).unwrap_or(usize::MAX));
        let held = config.micro_batch_wait.saturating_sub(self.waited(now));
        if count == most || due == left || held.is_zero() {
            Due::Take(count)
        } else {
            Due::Wait(held.min(self.until(due, now)))
        }
    }

    /// How long the oldest asset that is due has waited.
    fn waited(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
            .saturating_sub(self.time_of(self.taken))
    }

    /// How long until more than `due` assets are due.
    fn until(&self, due: u64, now: Instant) -> Duration {
        // Never 0, so that waiting for it cannot become a busy loop.
        self.time_of(self.taken.saturating_add(due))
            .saturating_sub(now.saturating_duration_since(self.start))
            .max(Duration::from_micros(50))
    }

    /// When the asset of this number is due, after the start.
    fn time_of(&self, number: u64) -> Duration {
        Duration::try_from_secs_f64(number as f64 / self.a_second).unwrap_or(Duration::MAX)
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
        let wait = schedule.until(0, start + Duration::from_millis(900));
        assert_eq!(wait, Duration::from_millis(100));
    }

    #[test]
    fn the_oldest_due_asset_tells_how_long_company_was_waited_for() {
        let start = Instant::now();
        let mut schedule = Schedule::new(4.0, start);
        assert_eq!(
            schedule.waited(start + Duration::from_millis(3)),
            Duration::from_millis(3)
        );
        schedule.take(1, start);
        let now = start + Duration::from_millis(510);
        assert_eq!(schedule.due(now), 2);
        assert_eq!(schedule.waited(now), Duration::from_millis(260));
        assert_eq!(schedule.until(2, now), Duration::from_millis(240));
        // Nothing is due: nothing waits.
        schedule.take(2, now);
        assert_eq!(schedule.waited(now), Duration::ZERO);
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
    fn a_lone_asset_waits_for_company_no_longer_than_the_bound() {
        let ms = Duration::from_millis;
        let config = NodeConfig {
            target: String::new(),
            realm: None,
            name: String::new(),
            account: karat_proto::Account::NOBODY,
            collection: 1,
            secret: crate::seeds::Secret::from_bytes([1; 32]),
            model_dir: Default::default(),
            model_trust: Default::default(),
            variant: None,
            best_variant: None,
            ladder: Default::default(),
            assets_a_second: 100.0,
            assets_max: None,
            spool_dir: Default::default(),
            spool_assets_max: 1,
            micro_batch_max: 4,
            micro_batch_wait: ms(15),
            spoil_ppm: 0,
        };
        let start = Instant::now();
        // One is due at 0, 10, 20, 30 ms.
        let schedule = Schedule::new(100.0, start);
        let next = |at_ms, room, left| schedule.next(&config, room, left, start + ms(at_ms));
        assert_eq!(next(0, 9, 99), Due::Wait(ms(10)));
        assert_eq!(next(12, 9, 99), Due::Wait(ms(3)));
        assert_eq!(next(15, 9, 99), Due::Take(2));
        assert_eq!(next(35, 9, 99), Due::Take(4));
        // Nothing more can come: no reason to wait.
        assert_eq!(next(0, 9, 1), Due::Take(1));
        assert_eq!(next(12, 2, 99), Due::Take(2));
        assert_eq!(next(35, 0, 99), Due::Wait(WAIT_MAX));
        let at_once = NodeConfig {
            micro_batch_wait: Duration::ZERO,
            ..config
        };
        assert_eq!(schedule.next(&at_once, 9, 99, start), Due::Take(1));
    }

    #[test]
    fn no_rate_means_always_due() {
        let schedule = Schedule::new(0.0, Instant::now());
        assert_eq!(schedule.due(Instant::now()), u64::MAX);
    }
}
