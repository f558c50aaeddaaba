//! Assets from seeds and traits, in micro-batches.

use std::path::Path;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::ladder::Rung;
use crate::manifest::{Manifest, Role};
use crate::pixels::{PixelsError, encode_png};
use crate::rarity::{RarityError, TraitRules};
use crate::runtime::{Model, RuntimeError};
use crate::seeds::latent_from_seed;

/// Most images of one micro-batch: its share of time is what one asset is said to cost.
pub const MICRO_BATCH_MOST: usize = 32;
/// Most requests of one call.
pub const REQUESTS_MOST: usize = 1_024;
/// Assets that one round of a probe makes.
const PROBE_BATCH: usize = 8;
/// Rounds of a probe that are never saved: one alone may have been the one in which other programs had the processor.
const PROBE_ROUNDS_LEAST: usize = 3;

/// Assets could not be generated.
#[derive(Debug, Error)]
pub enum GeneratorError {
    /// The model cannot be loaded or run.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Traits that the model does not know.
    #[error("request {index}: {source}")]
    Traits {
        /// Which request.
        index: usize,
        /// What is wrong.
        source: RarityError,
    },
    /// A latent of another length than the model's.
    #[error("request {index}: latent of {found} values; the model takes {expected}")]
    LatentLength {
        /// Which request.
        index: usize,
        /// Values found.
        found: usize,
        /// Values expected.
        expected: usize,
    },
    /// Too many requests at a time.
    #[error("{found} requests in one call; the most is {REQUESTS_MOST}")]
    TooMany {
        /// Requests found.
        found: usize,
    },
    /// The image could not be encoded.
    #[error(transparent)]
    Pixels(#[from] PixelsError),
}

/// One asset to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationRequest {
    /// Its seed; the latent follows from it.
    pub seed: [u8; 32],
    /// Value index of each trait, in the manifest's order.
    pub traits: Vec<u8>,
}

/// One asset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneratedAsset {
    /// RGB, rows from the top.
    pub pixels: Vec<u8>,
    /// The same as PNG; the same pixels give the same bytes.
    pub png: Vec<u8>,
    /// Its share of the time that its micro-batch took in the model, in nanoseconds.
    pub inference_ns: u64,
    /// Time to encode it, in nanoseconds.
    pub encode_ns: u64,
}

/// A loaded variant of a generator.
#[derive(Debug)]
pub struct Generator {
    manifest: Manifest,
    rules: TraitRules,
    variant: String,
    model: Model,
}

impl Generator {
    /// Opens a model folder and loads a variant, the manifest's default where none is named.
    pub fn load<'a>(
        folder: impl AsRef<Path>,
        variant: impl Into<Option<&'a str>>,
    ) -> Result<Self, GeneratorError> {
        let manifest = Manifest::load(folder).map_err(RuntimeError::from)?;
        let variant = variant
            .into()
            .unwrap_or(&manifest.default_variant)
            .to_owned();
        Self::from_manifest(manifest, &variant)
    }

    /// Loads a variant of a manifest that is open already.
    pub fn from_manifest(manifest: Manifest, variant: &str) -> Result<Self, GeneratorError> {
        if manifest.role != Role::Generator {
            let (found, needed) = ("an auditor", "a generator");
            return Err(RuntimeError::WrongRole {
                model: manifest.name,
                found,
                needed,
            }
            .into());
        }
        let model = Model::load(&manifest, variant)?;
        Ok(Self {
            rules: manifest.trait_rules(),
            variant: variant.to_owned(),
            model,
            manifest,
        })
    }

    /// The model's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The variant loaded.
    pub fn variant(&self) -> &str {
        &self.variant
    }

    /// Changes to another variant of the same model. Where that fails, the present one stays in use.
    pub fn switch_variant(&mut self, variant: &str) -> Result<(), GeneratorError> {
        if variant != self.variant {
            self.model = Model::load(&self.manifest, variant)?;
            variant.clone_into(&mut self.variant);
        }
        Ok(())
    }

    /// Makes all assets of the requests, in their order. Refuses the whole call if one request is wrong, before any
    /// work is done. Only the vocabulary is checked: which values go together is decided by [`crate::rarity`].
    pub fn generate(
        &mut self,
        requests: &[GenerationRequest],
    ) -> Result<Vec<GeneratedAsset>, GeneratorError> {
        let latents: Vec<Vec<f32>> = requests
            .iter()
            .map(|request| latent_from_seed(&request.seed, self.manifest.latent_length))
            .collect();
        let traits: Vec<&[u8]> = requests
            .iter()
            .map(|request| request.traits.as_slice())
            .collect();
        self.generate_from_latents(&traits, &latents)
    }

    /// Makes assets from explicit latents, for golden vectors and walks through the latent space.
    pub fn generate_from_latents(
        &mut self,
        traits: &[&[u8]],
        latents: &[Vec<f32>],
    ) -> Result<Vec<GeneratedAsset>, GeneratorError> {
        let count = traits.len().max(latents.len());
        if count > REQUESTS_MOST {
            return Err(GeneratorError::TooMany { found: count });
        }
        self.check(traits, latents)?;
        let mut assets = Vec::with_capacity(count);
        for (traits, latents) in traits
            .chunks(MICRO_BATCH_MOST)
            .zip(latents.chunks(MICRO_BATCH_MOST))
        {
            self.run(traits, latents, &mut assets)?;
        }
        Ok(assets)
    }

    /// Checks requests before any work is done on them.
    fn check(&self, traits: &[&[u8]], latents: &[Vec<f32>]) -> Result<(), GeneratorError> {
        for index in 0..traits.len().max(latents.len()) {
            let values = traits.get(index).copied().unwrap_or_default();
            self.rules
                .in_vocabulary(values)
                .map_err(|source| GeneratorError::Traits { index, source })?;
            let (found, expected) = (
                latents.get(index).map_or(0, Vec::len),
                self.manifest.latent_length,
            );
            if found != expected {
                return Err(GeneratorError::LatentLength {
                    index,
                    found,
                    expected,
                });
            }
        }
        Ok(())
    }

    /// Runs the model alone: the pixels of each request, [`Manifest::pixel_bytes`] of them, one image after another. For
    /// one micro-batch, at most [`MICRO_BATCH_MOST`] requests, checked as [`Generator::generate`] does.
    pub fn generate_pixels(
        &mut self,
        requests: &[GenerationRequest],
    ) -> Result<Vec<u8>, GeneratorError> {
        let found = requests.len();
        if found > MICRO_BATCH_MOST {
            return Err(GeneratorError::TooMany { found });
        }
        let latents: Vec<Vec<f32>> = requests
            .iter()
            .map(|request| latent_from_seed(&request.seed, self.manifest.latent_length))
            .collect();
        let traits: Vec<&[u8]> = requests
            .iter()
            .map(|request| request.traits.as_slice())
            .collect();
        self.check(&traits, &latents)?;
        self.infer(&traits, &latents)
    }

    /// Most images that the backend runs at once: more in a call take as long as one call after the other.
    pub fn run_most(&self) -> usize {
        self.model.run_most()
    }

    /// Runs a single image and, where the backend runs more than one at a time, a full micro-batch, so that the first
    /// asset does not pay for it.
    pub fn warm_up(&mut self) -> Result<(), GeneratorError> {
        self.run_blank(1)?;
        if self.model.run_most() > 1 {
            self.run_blank(MICRO_BATCH_MOST)?;
        }
        Ok(())
    }

    /// Measures this variant on this machine: the cost of one asset, model and encoding, as the least of `rounds`
    /// micro-batches (other programs only add to it) after one that is not counted. Ends early, but never with fewer than
    /// [`PROBE_ROUNDS_LEAST`] of them, once `budget` is spent.
    pub fn probe(&mut self, rounds: usize, budget: Duration) -> Result<Rung, GeneratorError> {
        self.run_blank(PROBE_BATCH)?;
        let least_ns = least_of(rounds, budget, || {
            let start = Instant::now();
            self.run_blank(PROBE_BATCH)?;
            Ok::<_, GeneratorError>(nanoseconds_since(start))
        })?;
        self.rung(least_ns / PROBE_BATCH as u64)
    }

    /// This variant as a rung of a ladder, at a measured cost of one asset in nanoseconds.
    pub fn rung(&self, cost_ns: u64) -> Result<Rung, GeneratorError> {
        let spec = self
            .manifest
            .variant(&self.variant)
            .map_err(RuntimeError::from)?;
        Ok(Rung {
            variant: spec.name.clone(),
            cost_ns,
            quality: spec.quality,
            distance: spec.distance,
        })
    }

    /// What this crate adds to bare session runs at this batch, over `rounds` rounds that take turns.
    pub fn serving_cost(
        &mut self,
        batch: usize,
        rounds: usize,
    ) -> Result<ServingCost, GeneratorError> {
        let batch = batch.clamp(1, MICRO_BATCH_MOST);
        let requests: Vec<GenerationRequest> = (0..batch)
            .map(|index| GenerationRequest {
                seed: [index as u8; 32],
                traits: vec![0; self.manifest.traits.len()],
            })
            .collect();
        let traits: Vec<&[u8]> = requests.iter().map(|one| one.traits.as_slice()).collect();
        let one_hot = self.one_hot(&traits);
        let latents: Vec<f32> = requests
            .iter()
            .flat_map(|one| latent_from_seed(&one.seed, self.manifest.latent_length))
            .collect();
        let (mut bare_ns, mut served_ns, mut encode_ns) = (u64::MAX, u64::MAX, u64::MAX);
        // The first round is not counted.
        for round in 0..=rounds.max(1) {
            let start = Instant::now();
            self.model.run_bare(batch, &one_hot, &latents)?;
            let bare = nanoseconds_since(start);
            let start = Instant::now();
            let pixels = self.generate_pixels(&requests)?;
            let served = nanoseconds_since(start);
            let start = Instant::now();
            for image in pixels.chunks_exact(self.manifest.pixel_bytes()) {
                encode_png(self.manifest.image_width, self.manifest.image_height, image)?;
            }
            let encoded = nanoseconds_since(start);
            if round > 0 {
                bare_ns = bare_ns.min(bare / batch as u64);
                served_ns = served_ns.min(served / batch as u64);
                encode_ns = encode_ns.min(encoded / batch as u64);
            }
        }
        Ok(ServingCost {
            batch,
            bare_ns,
            served_ns,
            encode_ns,
        })
    }

    fn run_blank(&mut self, size: usize) -> Result<(), GeneratorError> {
        let traits = vec![0; self.manifest.traits.len()];
        let latents: Vec<Vec<f32>> = (0..size)
            .map(|index| latent_from_seed(&[index as u8; 32], self.manifest.latent_length))
            .collect();
        self.run(&vec![traits.as_slice(); size], &latents, &mut Vec::new())
    }

    fn one_hot(&self, traits: &[&[u8]]) -> Vec<f32> {
        let mut one_hot = vec![0.0; traits.len() * self.manifest.one_hot_length()];
        let mut offset = 0;
        for values in traits {
            for (value, cardinality) in values.iter().zip(&self.rules.cardinalities) {
                one_hot[offset + usize::from(*value)] = 1.0;
                offset += usize::from(*cardinality);
            }
        }
        one_hot
    }

    /// One micro-batch. The requests were checked.
    fn run(
        &mut self,
        traits: &[&[u8]],
        latents: &[Vec<f32>],
        assets: &mut Vec<GeneratedAsset>,
    ) -> Result<(), GeneratorError> {
        let start = Instant::now();
        let pixels = self.infer(traits, latents)?;
        let inference_ns = nanoseconds_since(start) / traits.len() as u64;
        for image in pixels.chunks_exact(self.manifest.pixel_bytes()) {
            let start = Instant::now();
            let png = encode_png(self.manifest.image_width, self.manifest.image_height, image)?;
            assets.push(GeneratedAsset {
                pixels: image.to_vec(),
                png,
                inference_ns,
                encode_ns: nanoseconds_since(start),
            });
        }
        Ok(())
    }

    /// The pixels of one micro-batch. The requests were checked.
    fn infer(&mut self, traits: &[&[u8]], latents: &[Vec<f32>]) -> Result<Vec<u8>, GeneratorError> {
        let one_hot = self.one_hot(traits);
        Ok(self
            .model
            .generate(traits.len(), &one_hot, &latents.concat())?)
    }
}

/// Cost of one asset of a batch, nanoseconds: the least of the rounds, because other programs only add to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServingCost {
    /// Assets of the batch.
    pub batch: usize,
    /// Session runs alone, with inputs that lie ready and outputs that nobody reads.
    pub bare_ns: u64,
    /// From requests to pixels in memory of our own: checks, latents, one-hot traits, session runs, copies.
    pub served_ns: u64,
    /// PNG encoding, which comes on top.
    pub encode_ns: u64,
}

impl ServingCost {
    /// Served over bare.
    pub fn overhead(&self) -> f64 {
        self.served_ns as f64 / self.bare_ns.max(1) as f64
    }
}

/// Probes every variant of a model on this machine, exact ones and others that are no rungs, too.
pub fn probe_variants(manifest: &Manifest, rounds: usize) -> Result<Vec<Rung>, GeneratorError> {
    let names = manifest.variants.iter().map(|variant| &variant.name);
    names
        .map(|name| Generator::from_manifest(manifest.clone(), name)?.probe(rounds, Duration::MAX))
        .collect()
}

/// The least of `rounds` measured times, nanoseconds; of fewer, but not under [`PROBE_ROUNDS_LEAST`], once they took
/// `budget` together.
fn least_of<E>(
    rounds: usize,
    budget: Duration,
    mut measure_ns: impl FnMut() -> Result<u64, E>,
) -> Result<u64, E> {
    let budget_ns = u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX);
    let least_rounds = rounds.clamp(1, PROBE_ROUNDS_LEAST);
    let (mut measured, mut spent_ns, mut least_ns) = (0, 0_u64, u64::MAX);
    while measured < least_rounds || (measured < rounds && spent_ns < budget_ns) {
        let took_ns = measure_ns()?;
        least_ns = least_ns.min(took_ns);
        spent_ns = spent_ns.saturating_add(took_ns);
        measured += 1;
    }
    Ok(least_ns)
}

fn nanoseconds_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn a_probe_whose_budget_went_in_one_stall_does_not_take_the_stall_for_the_cost() {
        let times_ms = |times: &'static [u64], rounds, budget_ms| {
            let mut next = times.iter();
            let measure = || Ok::<_, Infallible>(next.next().unwrap() * 1_000_000);
            let least = least_of(rounds, Duration::from_millis(budget_ms), measure);
            (least.unwrap() / 1_000_000, next.len())
        };
        assert_eq!(times_ms(&[400, 390, 2, 1], 5, 100), (2, 1));
        assert_eq!(times_ms(&[30, 31, 29, 28, 1], 5, 100), (28, 1));
        assert_eq!(times_ms(&[4, 3, 5, 3, 4, 1], 5, 100), (3, 1));
        assert_eq!(times_ms(&[7, 1], 1, 100), (7, 1));
    }
}
