//! The auditor: reads traits back from pixels and scores corruption.
//!
//! Its numbers are an opinion, not a proof: they differ slightly between backends and enter the ledger as part of a
//! verdict.

use std::path::Path;

use thiserror::Error;

use crate::generator::{MICRO_BATCH_MOST, REQUESTS_MOST};
use crate::manifest::{AuditorSpec, Manifest, Role};
use crate::runtime::{AuditTensors, EMBEDDING_LENGTH, Model, RuntimeError};

/// Images could not be audited.
#[derive(Debug, Error)]
pub enum AuditorError {
    /// The model cannot be loaded or run.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// An image of another size.
    #[error("image {index} has {found} bytes of pixels; the auditor takes {expected}")]
    ImageBytes {
        /// Which image.
        index: usize,
        /// Bytes found.
        found: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// Too many images at a time.
    #[error("{found} images in one call; the most is {REQUESTS_MOST}")]
    TooMany {
        /// Images found.
        found: usize,
    },
    /// The model returned something that is no number.
    #[error("image {index}: the auditor returned {what} that is no finite number")]
    NotANumber {
        /// Which image.
        index: usize,
        /// Which output.
        what: &'static str,
    },
}

/// What the auditor found in one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Audit {
    /// The likeliest value of each trait, in the manifest's order.
    pub traits: Vec<u8>,
    /// How sure it is of each, in parts per million.
    pub trait_confidence_ppm: Vec<u32>,
    /// Probability that the image is corrupt, in parts per million.
    pub corruption_ppm: u32,
    /// A point that is near to those of similar images.
    pub embedding: [f32; EMBEDDING_LENGTH],
}

/// A loaded auditor.
#[derive(Debug)]
pub struct Auditor {
    manifest: Manifest,
    thresholds: AuditorSpec,
    model: Model,
}

impl Auditor {
    /// Opens a model folder and loads its default variant.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self, AuditorError> {
        Self::from_manifest(Manifest::load(folder).map_err(RuntimeError::from)?)
    }

    /// Loads the default variant of a manifest that is open already.
    pub fn from_manifest(manifest: Manifest) -> Result<Self, AuditorError> {
        let (Role::Auditor, Some(thresholds)) = (manifest.role, manifest.auditor) else {
            let (found, needed) = ("a generator", "an auditor");
            return Err(RuntimeError::WrongRole {
                model: manifest.name,
                found,
                needed,
            }
            .into());
        };
        let model = Model::load(&manifest, &manifest.default_variant)?;
        Ok(Self {
            manifest,
            thresholds,
            model,
        })
    }

    /// The model's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What its corruption score means.
    pub fn thresholds(&self) -> AuditorSpec {
        self.thresholds
    }

    /// Audits images of RGB pixels, in their order. Refuses the whole call if one has the wrong size.
    pub fn audit(&mut self, images: &[&[u8]]) -> Result<Vec<Audit>, AuditorError> {
        if images.len() > REQUESTS_MOST {
            return Err(AuditorError::TooMany {
                found: images.len(),
            });
        }
        let expected = self.manifest.pixel_bytes();
        if let Some(index) = images.iter().position(|image| image.len() != expected) {
            return Err(AuditorError::ImageBytes {
                index,
                found: images[index].len(),
                expected,
            });
        }
        let mut audits = Vec::with_capacity(images.len());
        for images in images.chunks(MICRO_BATCH_MOST) {
            let tensors = self.model.audit(images.len(), &images.concat())?;
            for place in 0..images.len() {
                audits.push(self.read(&tensors, place, audits.len())?);
            }
        }
        Ok(audits)
    }

    /// Runs a single image and as much of a micro-batch as the backend runs at once, so that the first audit does not
    /// pay for it.
    pub fn warm_up(&mut self) -> Result<(), AuditorError> {
        for count in [1, MICRO_BATCH_MOST.min(self.model.run_most())] {
            let blank = vec![0; count * self.manifest.pixel_bytes()];
            self.model.audit(count, &blank)?;
        }
        Ok(())
    }

    fn read(
        &self,
        tensors: &AuditTensors,
        place: usize,
        index: usize,
    ) -> Result<Audit, AuditorError> {
        let length = self.manifest.one_hot_length();
        let mut logits = &tensors.trait_logits[place * length..(place + 1) * length];
        let (mut traits, mut trait_confidence_ppm) = (Vec::new(), Vec::new());
        for spec in &self.manifest.traits {
            let (own, rest) = logits.split_at(spec.values.len());
            logits = rest;
            let (value, confidence) = likeliest(own).ok_or(AuditorError::NotANumber {
                index,
                what: "a trait logit",
            })?;
            traits.push(value);
            trait_confidence_ppm.push(parts_per_million(confidence));
        }
        let corruption = tensors.corruption[place];
        if !corruption.is_finite() {
            return Err(AuditorError::NotANumber {
                index,
                what: "a corruption score",
            });
        }
        let mut embedding = [0.0; EMBEDDING_LENGTH];
        embedding.copy_from_slice(
            &tensors.embedding[place * EMBEDDING_LENGTH..(place + 1) * EMBEDDING_LENGTH],
        );
        if embedding.iter().any(|value| !value.is_finite()) {
            return Err(AuditorError::NotANumber {
                index,
                what: "an embedding",
            });
        }
        let corruption_ppm = parts_per_million(f64::from(corruption));
        Ok(Audit {
            traits,
            trait_confidence_ppm,
            corruption_ppm,
            embedding,
        })
    }
}

/// The index of the largest logit (the first of equals) and its softmax; nothing if one is not finite.
fn likeliest(logits: &[f32]) -> Option<(u8, f64)> {
    if logits.iter().any(|logit| !logit.is_finite()) {
        return None;
    }
    let (index, largest) =
        logits
            .iter()
            .enumerate()
            .fold((0, f32::NEG_INFINITY), |best, (i, x)| {
                if *x > best.1 { (i, *x) } else { best }
            });
    let sum: f64 = logits
        .iter()
        .map(|logit| f64::from(logit - largest).exp())
        .sum();
    Some((u8::try_from(index).ok()?, 1.0 / sum))
}

fn parts_per_million(share: f64) -> u32 {
    (share.clamp(0.0, 1.0) * 1_000_000.0).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_value_is_the_first_of_the_largest_with_its_softmax() {
        assert_eq!(likeliest(&[1.0, 1.0]), Some((0, 0.5)));
        let (value, confidence) = likeliest(&[-1000.0, 1000.0, 0.0]).unwrap();
        assert_eq!((value, parts_per_million(confidence)), (1, 1_000_000));
        assert_eq!(likeliest(&[0.0, f32::NAN]), None);
        assert_eq!(likeliest(&[0.0, f32::INFINITY]), None);
    }
}
