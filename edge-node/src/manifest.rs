//! A model folder and its manifest.
//!
//! `manifest.toml` names the model, its vocabulary of traits and its variants with the SHA-256 of each file. Nothing
//! is taken from the folder before it was compared with the manifest: a file that was altered, cut short or swapped
//! while the node runs is refused by name, with what was expected and what was found.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::rarity::{RarityError, TraitRules};
use written::Written;

mod written;

/// Name of the manifest in a model folder.
pub const MANIFEST_FILE: &str = "manifest.toml";
/// The format that this build reads.
pub const FORMAT: u32 = 2;
/// Largest manifest.
pub const MANIFEST_BYTES_MOST: u64 = 256 * 1024;
/// Largest model file.
pub const VARIANT_BYTES_MOST: u64 = 64 * 1024 * 1024;
/// Most variants of one model.
pub const VARIANTS_MOST: usize = 16;
/// Longest name of a model, version, trait, value, variant or file, in bytes.
pub const NAME_BYTES_MOST: usize = 64;
/// Widest and highest image.
pub const IMAGE_SIDE_MOST: u32 = 1_024;
/// Longest latent.
pub const LATENT_LENGTH_MOST: usize = 1_024;
/// Values of an auditor's embedding.
pub const EMBEDDING_LENGTH: usize = 32;

/// Domain of the model digest. A change of its encoding needs a new one.
const DIGEST_DOMAIN: &[u8] = b"karat model digest v2";

/// A model folder that is refused.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is over its bound.
    #[error("{path} has {found_bytes} bytes; the most is {most_bytes}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        found_bytes: u64,
        /// The bound.
        most_bytes: u64,
    },
    /// The manifest is no TOML, lacks a key, or has one that is not known.
    #[error("{path}: {reason}")]
    Parse {
        /// The manifest.
        path: PathBuf,
        /// What is wrong, with its line.
        reason: String,
    },
    /// The manifest was written for another build.
    #[error(
        "{path} has format {found}; this build reads format {FORMAT}: {}",
        what_to_do_about(*.found)
    )]
    Format {
        /// The manifest.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
    /// A value of the manifest is out of bounds or contradicts another one.
    #[error("{path}: {key}: {reason}")]
    Value {
        /// The manifest.
        path: PathBuf,
        /// Which key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A model file has another length than its manifest says.
    #[error(
        "{file} is not the file of its manifest: expected {expected_bytes} bytes, found {found_bytes}; restore the file or the manifest"
    )]
    Length {
        /// The file.
        file: PathBuf,
        /// Length that the manifest states.
        expected_bytes: u64,
        /// Length found.
        found_bytes: u64,
    },
    /// A model file has another content than its manifest says.
    #[error(
        "{file} is not the file of its manifest: expected sha256 {expected}, found {found}; restore the file or the manifest"
    )]
    Altered {
        /// The file.
        file: PathBuf,
        /// Digest that the manifest states.
        expected: String,
        /// Digest found.
        found: String,
    },
    /// The model has no variant of this name.
    #[error("model {model} has no variant {variant:?}; it has {known}")]
    UnknownVariant {
        /// The model.
        model: String,
        /// The variant asked for.
        variant: String,
        /// The variants there are.
        known: String,
    },
    /// The rules of rarity that follow from the manifest make no sense.
    #[error("{path}: {source}")]
    Rarity {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        source: RarityError,
    },
}

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Makes pixels from traits and a latent.
    Generator,
    /// Reads traits back from pixels and scores corruption.
    Auditor,
}

/// One visible property and the values it can take.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraitSpec {
    /// Name of the trait.
    pub name: String,
    /// Names of its values; a value's index is its place here.
    pub values: Vec<String>,
    /// Relative weight of each value.
    pub weights: Vec<u32>,
}

/// Two values that must not occur together, by name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExclusionSpec {
    /// First trait.
    #[serde(rename = "trait")]
    pub trait_name: String,
    /// Its value.
    pub value: String,
    /// Second trait.
    pub other_trait: String,
    /// Its value.
    pub other_value: String,
}

/// How a variant keeps its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floating point.
    Float32,
    /// 8-bit integers.
    Int8,
}

/// One ONNX file of the model.
#[derive(Debug, Clone, PartialEq)]
pub struct VariantSpec {
    /// Name of the variant.
    pub name: String,
    /// File name within the folder.
    pub file: String,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// Whether its arithmetic is exact: the same pixels on every backend and machine.
    pub exact: bool,
    /// Whether it is a rung of the quality ladder.
    pub ladder: bool,
    /// How it keeps its weights.
    pub precision: Precision,
    /// Cost of one asset in microseconds, where the model was made.
    pub cost_us: f64,
    /// Share of traits that the auditor reads back right, 0 to 1; higher is better.
    pub quality: f64,
    /// Perceptual distance to the best variant, as the model's report defines it; 0 is no distance.
    pub distance: f64,
    /// Largest mean difference of a sample between two backends that re-execution accepts, in steps of 255; 0 for an
    /// exact variant.
    pub backend_tolerance: f64,
    /// Length of the file.
    pub bytes: u64,
}

/// What an auditor's figures mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditorSpec {
    /// Below this, in parts per million, an asset is accepted.
    pub accept_below_ppm: u32,
    /// At or above this, in parts per million, an asset is rejected. Between the two, people decide.
    pub reject_above_ppm: u32,
    /// Embedding distance, in parts per million of one reference deviation, below which two assets of a collection
    /// are near-duplicates.
    pub near_duplicate_ppm: u32,
    /// Assets of one window of the drift figure.
    pub drift_window: u32,
    /// Drift figure of a window, in parts per million of one reference deviation, above which it alarms.
    pub drift_alarm_ppm: u32,
}

/// Where an auditor's embeddings of sound assets lie.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// Mean of each value.
    pub mean: [f32; EMBEDDING_LENGTH],
    /// Standard deviation of each value; above 0.
    pub deviation: [f32; EMBEDDING_LENGTH],
}

/// Where an auditor's embeddings of one generator's sound assets lie.
#[derive(Debug, Clone, PartialEq)]
pub struct DriftReference {
    /// Name of the generator's variant.
    pub variant: String,
    /// Where its assets' embeddings lie.
    pub reference: Reference,
}

/// A model folder whose files are what the manifest says.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Format of the manifest.
    pub format: u32,
    /// Name of the model.
    pub name: String,
    /// Version of the model.
    pub version: String,
    /// What it is for.
    pub role: Role,
    /// Licence of the model files.
    pub licence: String,
    /// Width of its images in pixels.
    pub image_width: u32,
    /// Height of its images in pixels.
    pub image_height: u32,
    /// Values of the latent that its images are made from.
    pub latent_length: usize,
    /// Seed of its training.
    pub seed: u64,
    /// Name of the variant to use where nothing else is asked for.
    pub default_variant: String,
    /// Its vocabulary. Two models speak of the same traits when these are equal.
    pub traits: Vec<TraitSpec>,
    /// Values that must not occur together.
    pub exclusions: Vec<ExclusionSpec>,
    /// Its files.
    pub variants: Vec<VariantSpec>,
    /// Thresholds, for an auditor.
    pub auditor: Option<AuditorSpec>,
    /// Where embeddings of sound assets lie, for an auditor.
    pub reference: Option<Reference>,
    /// The same of single variants of the generators, for the drift; none where the one above is of all.
    pub drift_references: Vec<DriftReference>,
    /// The model's identity: SHA-256 over everything above except measured cost, quality and distance, with every
    /// file's digest.
    pub digest: [u8; 32],
    /// The folder it was loaded from.
    pub folder: PathBuf,
}

/// Only the format, so that a manifest of another format is told apart from a broken one.
#[derive(Deserialize)]
struct WrittenFormat {
    format: u32,
}

impl Manifest {
    /// Reads the manifest of a model folder and compares every file with it.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self, ManifestError> {
        let folder = folder.as_ref();
        let path = folder.join(MANIFEST_FILE);
        let bytes = read_bounded(&path, MANIFEST_BYTES_MOST)?;
        let parse = |reason: String| ManifestError::Parse {
            path: path.clone(),
            reason,
        };
        let text = String::from_utf8(bytes).map_err(|_| parse("not UTF-8".to_owned()))?;
        let WrittenFormat { format } =
            toml::from_str(&text).map_err(|error| parse(error.to_string()))?;
        if format != FORMAT {
            return Err(ManifestError::Format {
                path,
                found: format,
            });
        }
        let written: Written = toml::from_str(&text).map_err(|error| parse(error.to_string()))?;
        let manifest = written.checked(&path, folder)?;
        for variant in &manifest.variants {
            manifest.read_variant(&variant.name)?;
        }
        Ok(manifest)
    }

    /// The variant of this name.
    pub fn variant(&self, name: &str) -> Result<&VariantSpec, ManifestError> {
        self.variants
            .iter()
            .find(|variant| variant.name == name)
            .ok_or_else(|| ManifestError::UnknownVariant {
                model: self.name.clone(),
                variant: name.to_owned(),
                known: self
                    .variants
                    .iter()
                    .map(|variant| variant.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }

    /// The bytes of a variant, compared with the manifest once more: the file may have been replaced since.
    pub fn read_variant(&self, name: &str) -> Result<Vec<u8>, ManifestError> {
        let variant = self.variant(name)?;
        let file = self.folder.join(&variant.file);
        let length = file_bytes(&file)?;
        if length != variant.bytes {
            return Err(ManifestError::Length {
                file,
                expected_bytes: variant.bytes,
                found_bytes: length,
            });
        }
        let bytes = read_bounded(&file, VARIANT_BYTES_MOST)?;
        let found: [u8; 32] = Sha256::digest(&bytes).into();
        if found != variant.sha256 {
            return Err(ManifestError::Altered {
                file,
                expected: hex::encode(variant.sha256),
                found: hex::encode(found),
            });
        }
        Ok(bytes)
    }

    /// Sum of the traits' cardinalities: the length of a one-hot encoding.
    pub fn one_hot_length(&self) -> usize {
        self.traits.iter().map(|spec| spec.values.len()).sum()
    }

    /// Bytes of one image: width times height times three.
    pub fn pixel_bytes(&self) -> usize {
        self.image_width as usize * self.image_height as usize * 3
    }

    /// Whether this is an exact variant; false where there is no such variant.
    pub fn is_exact(&self, variant: &str) -> bool {
        self.variant(variant).is_ok_and(|spec| spec.exact)
    }

    /// The rules of rarity that the model itself brings; caps are a collection's own.
    pub fn trait_rules(&self) -> TraitRules {
        let exclusions = self.exclusions.iter().filter_map(|spec| {
            Some((
                self.value_index(&spec.trait_name, &spec.value)?,
                self.value_index(&spec.other_trait, &spec.other_value)?,
            ))
        });
        TraitRules {
            cardinalities: self
                .traits
                .iter()
                .map(|spec| spec.values.len() as u8)
                .collect(),
            weights: self
                .traits
                .iter()
                .map(|spec| spec.weights.clone())
                .collect(),
            exclusions: exclusions.collect(),
            caps: Vec::new(),
        }
    }

    /// Indexes of a trait and one of its values.
    pub fn value_index(&self, trait_name: &str, value: &str) -> Option<(u8, u8)> {
        let trait_index = self
            .traits
            .iter()
            .position(|spec| spec.name == trait_name)?;
        let value_index = self.traits[trait_index]
            .values
            .iter()
            .position(|name| name == value)?;
        // Both fit: at most 64 traits of at most 64 values.
        Some((trait_index as u8, value_index as u8))
    }

    fn compute_digest(&self) -> [u8; 32] {
        let mut fields = Fields(Sha256::new());
        fields.bytes(DIGEST_DOMAIN);
        fields.number(u64::from(self.format));
        for text in [
            &self.name,
            &self.version,
            &self.licence,
            &self.default_variant,
        ] {
            fields.bytes(text.as_bytes());
        }
        fields.number(match self.role {
            Role::Generator => 1,
            Role::Auditor => 2,
        });
        fields.number(u64::from(self.image_width));
        fields.number(u64::from(self.image_height));
        fields.number(self.latent_length as u64);
        fields.number(self.seed);
        fields.number(self.traits.len() as u64);
        for spec in &self.traits {
            fields.bytes(spec.name.as_bytes());
            fields.number(spec.values.len() as u64);
            for (value, weight) in spec.values.iter().zip(&spec.weights) {
                fields.bytes(value.as_bytes());
                fields.number(u64::from(*weight));
            }
        }
        fields.number(self.exclusions.len() as u64);
        for spec in &self.exclusions {
            for text in [
                &spec.trait_name,
                &spec.value,
                &spec.other_trait,
                &spec.other_value,
            ] {
                fields.bytes(text.as_bytes());
            }
        }
        fields.number(self.variants.len() as u64);
        for variant in &self.variants {
            fields.bytes(variant.name.as_bytes());
            fields.bytes(variant.file.as_bytes());
            fields.bytes(&variant.sha256);
            fields.number(u64::from(variant.exact));
            fields.number(u64::from(variant.ladder));
            fields.number(match variant.precision {
                Precision::Float32 => 1,
                Precision::Int8 => 2,
            });
            fields.number(variant.backend_tolerance.to_bits());
            fields.number(variant.bytes);
        }
        fields.number(u64::from(self.auditor.is_some()));
        if let Some(auditor) = self.auditor {
            fields.number(u64::from(auditor.accept_below_ppm));
            fields.number(u64::from(auditor.reject_above_ppm));
            fields.number(u64::from(auditor.near_duplicate_ppm));
            fields.number(u64::from(auditor.drift_window));
            fields.number(u64::from(auditor.drift_alarm_ppm));
        }
        fields.number(u64::from(self.reference.is_some()));
        if let Some(reference) = &self.reference {
            fields.reference(reference);
            fields.number(self.drift_references.len() as u64);
            for of_one in &self.drift_references {
                fields.bytes(of_one.variant.as_bytes());
                fields.reference(&of_one.reference);
            }
        }
        fields.0.finalize().into()
    }
}

/// Hashes fields so that no two manifests share an encoding: numbers are 8 bytes, texts carry their length.
struct Fields(Sha256);

impl Fields {
    fn number(&mut self, number: u64) {
        self.0.update(number.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn reference(&mut self, reference: &Reference) {
        for value in reference.mean.iter().chain(&reference.deviation) {
            self.number(u64::from(value.to_bits()));
        }
    }
}

fn what_to_do_about(format: u32) -> &'static str {
    if format < FORMAT {
        "make the manifest again with the training scripts of this version"
    } else {
        "use a newer build"
    }
}

fn file_bytes(path: &Path) -> Result<u64, ManifestError> {
    let read = |source| ManifestError::Read {
        path: path.to_owned(),
        source,
    };
    std::fs::metadata(path)
        .map(|metadata| metadata.len())
        .map_err(read)
}

/// Reads a whole file, never more than the bound, even if the file grows meanwhile.
fn read_bounded(path: &Path, most_bytes: u64) -> Result<Vec<u8>, ManifestError> {
    let read = |source| ManifestError::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(read)?
        .take(most_bytes + 1)
        .read_to_end(&mut bytes)
        .map_err(read)?;
    if bytes.len() as u64 > most_bytes {
        return Err(ManifestError::TooLarge {
            path: path.to_owned(),
            found_bytes: bytes.len() as u64,
            most_bytes,
        });
    }
    Ok(bytes)
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
