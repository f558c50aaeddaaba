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

use crate::rarity::{RarityError, TRAITS_MOST, TraitRules, VALUES_MOST};

/// Name of the manifest in a model folder.
pub const MANIFEST_FILE: &str = "manifest.toml";
/// The format that this build reads.
pub const FORMAT: u32 = 1;
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
/// Largest cost that a manifest may state: one minute an asset.
const COST_US_MOST: f64 = 60_000_000.0;

/// Domain of the model digest. A change of its encoding needs a new one.
const DIGEST_DOMAIN: &[u8] = b"karat model digest v1";

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
    #[error("{path} has format {found}; this build reads format {FORMAT}")]
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
    /// Cost of one asset in microseconds, where the model was made.
    pub cost_us: f64,
    /// Quality, as the model's report defines it; higher is better.
    pub quality: f64,
    /// Length of the file.
    pub bytes: u64,
}

/// What an auditor's corruption score means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditorSpec {
    /// Below this, in parts per million, an asset is accepted.
    pub accept_below_ppm: u32,
    /// At or above this, in parts per million, an asset is rejected. Between the two, people decide.
    pub reject_above_ppm: u32,
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
    /// The model's identity: SHA-256 over everything above except measured cost and quality, with every file's digest.
    pub digest: [u8; 32],
    /// The folder it was loaded from.
    pub folder: PathBuf,
}

/// The manifest as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    name: String,
    version: String,
    role: Role,
    licence: String,
    image_width: u32,
    image_height: u32,
    #[serde(default)]
    latent_length: usize,
    #[serde(default)]
    seed: u64,
    default_variant: String,
    traits: Vec<TraitSpec>,
    #[serde(default)]
    exclusions: Vec<ExclusionSpec>,
    variants: Vec<WrittenVariant>,
    auditor: Option<AuditorSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenVariant {
    name: String,
    file: String,
    sha256: String,
    exact: bool,
    cost_us: f64,
    quality: f64,
    bytes: u64,
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
            fields.number(variant.bytes);
        }
        fields.number(u64::from(self.auditor.is_some()));
        if let Some(auditor) = self.auditor {
            fields.number(u64::from(auditor.accept_below_ppm));
            fields.number(u64::from(auditor.reject_above_ppm));
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
}

impl Written {
    fn checked(self, path: &Path, folder: &Path) -> Result<Manifest, ManifestError> {
        let refuse = |key: &str, reason: String| {
            Err(ManifestError::Value {
                path: path.to_owned(),
                key: key.to_owned(),
                reason,
            })
        };
        let name_of = |key: String, text: &str| match name_fault(text) {
            None => Ok(()),
            Some(reason) => Err(ManifestError::Value {
                path: path.to_owned(),
                key,
                reason: format!("{text:?} {reason}"),
            }),
        };
        name_of("name".into(), &self.name)?;
        name_of("version".into(), &self.version)?;
        name_of("default_variant".into(), &self.default_variant)?;
        if self.licence.is_empty() || self.licence.len() > 4 * NAME_BYTES_MOST {
            return refuse(
                "licence",
                format!("must be 1 to {} bytes", 4 * NAME_BYTES_MOST),
            );
        }
        for (key, side) in [
            ("image_width", self.image_width),
            ("image_height", self.image_height),
        ] {
            if side == 0 || side > IMAGE_SIDE_MOST {
                return refuse(
                    key,
                    format!("{side} pixels; must be 1 to {IMAGE_SIDE_MOST}"),
                );
            }
        }
        match self.role {
            _ if self.latent_length > LATENT_LENGTH_MOST => {
                return refuse(
                    "latent_length",
                    format!("{}; the most is {LATENT_LENGTH_MOST}", self.latent_length),
                );
            }
            Role::Generator if self.latent_length == 0 => {
                return refuse("latent_length", "a generator needs one".into());
            }
            Role::Generator if self.auditor.is_some() => {
                return refuse("auditor", "a generator has no thresholds".into());
            }
            Role::Auditor => match self.auditor {
                None => {
                    return refuse(
                        "auditor",
                        "an auditor needs accept_below_ppm and reject_above_ppm".into(),
                    );
                }
                Some(spec)
                    if spec.accept_below_ppm > spec.reject_above_ppm
                        || spec.reject_above_ppm > 1_000_000 =>
                {
                    return refuse(
                        "auditor",
                        "needs accept_below_ppm <= reject_above_ppm <= 1000000".into(),
                    );
                }
                Some(_) => {}
            },
            Role::Generator => {}
        }
        if self.traits.is_empty() || self.traits.len() > TRAITS_MOST {
            return refuse(
                "traits",
                format!("{} traits; must be 1 to {TRAITS_MOST}", self.traits.len()),
            );
        }
        for (index, spec) in self.traits.iter().enumerate() {
            let key = format!("traits[{index}]");
            name_of(key.clone(), &spec.name)?;
            if spec.values.is_empty()
                || spec.values.len() > VALUES_MOST
                || spec.values.len() != spec.weights.len()
            {
                let (values, weights) = (spec.values.len(), spec.weights.len());
                return refuse(
                    &key,
                    format!(
                        "{values} values and {weights} weights; needs 1 to {VALUES_MOST} values and a weight for each"
                    ),
                );
            }
            spec.values
                .iter()
                .try_for_each(|value| name_of(format!("{key}.values"), value))?;
            if let Some(twice) = repeated(spec.values.iter()) {
                return refuse(&key, format!("value {twice:?} occurs twice"));
            }
        }
        if let Some(twice) = repeated(self.traits.iter().map(|spec| &spec.name)) {
            return refuse("traits", format!("trait {twice:?} occurs twice"));
        }
        if self.variants.is_empty() || self.variants.len() > VARIANTS_MOST {
            return refuse(
                "variants",
                format!(
                    "{} variants; must be 1 to {VARIANTS_MOST}",
                    self.variants.len()
                ),
            );
        }
        let mut variants = Vec::with_capacity(self.variants.len());
        for (index, written) in self.variants.into_iter().enumerate() {
            let key = format!("variants[{index}]");
            name_of(key.clone(), &written.name)?;
            name_of(format!("{key}.file"), &written.file)?;
            let mut sha256 = [0; 32];
            if hex::decode_to_slice(&written.sha256, &mut sha256).is_err() {
                return refuse(
                    &format!("{key}.sha256"),
                    "must be 64 hexadecimal digits".into(),
                );
            }
            if !(0.0..=COST_US_MOST).contains(&written.cost_us) {
                return refuse(
                    &format!("{key}.cost_us"),
                    format!("{}; must be 0 to {COST_US_MOST}", written.cost_us),
                );
            }
            if !written.quality.is_finite() {
                return refuse(&format!("{key}.quality"), "must be a number".into());
            }
            if written.bytes == 0 || written.bytes > VARIANT_BYTES_MOST {
                return refuse(
                    &format!("{key}.bytes"),
                    format!("{}; must be 1 to {VARIANT_BYTES_MOST}", written.bytes),
                );
            }
            let WrittenVariant {
                name,
                file,
                exact,
                cost_us,
                quality,
                bytes,
                ..
            } = written;
            variants.push(VariantSpec {
                name,
                file,
                sha256,
                exact,
                cost_us,
                quality,
                bytes,
            });
        }
        if let Some(twice) = repeated(variants.iter().map(|variant| &variant.name)) {
            return refuse("variants", format!("variant {twice:?} occurs twice"));
        }
        let mut manifest = Manifest {
            format: self.format,
            name: self.name,
            version: self.version,
            role: self.role,
            licence: self.licence,
            image_width: self.image_width,
            image_height: self.image_height,
            latent_length: self.latent_length,
            seed: self.seed,
            default_variant: self.default_variant,
            traits: self.traits,
            exclusions: self.exclusions,
            variants,
            auditor: self.auditor,
            digest: [0; 32],
            folder: folder.to_owned(),
        };
        manifest.variant(&manifest.default_variant)?;
        for (index, spec) in manifest.exclusions.iter().enumerate() {
            for (trait_name, value) in [
                (&spec.trait_name, &spec.value),
                (&spec.other_trait, &spec.other_value),
            ] {
                if manifest.value_index(trait_name, value).is_none() {
                    return refuse(
                        &format!("exclusions[{index}]"),
                        format!("there is no trait {trait_name:?} with a value {value:?}"),
                    );
                }
            }
        }
        let rules = manifest.trait_rules().validate();
        rules.map_err(|source| ManifestError::Rarity {
            path: path.to_owned(),
            source,
        })?;
        manifest.digest = manifest.compute_digest();
        Ok(manifest)
    }
}

/// Why a text is no name. File names are names too, so that none can lead out of the folder.
fn name_fault(text: &str) -> Option<&'static str> {
    if text.is_empty() || text.len() > NAME_BYTES_MOST {
        return Some("must be 1 to 64 bytes");
    }
    if text.starts_with('.')
        || !text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.+ ".contains(&byte))
    {
        return Some("may hold letters, digits, blanks and -_.+ and must not start with a dot");
    }
    None
}

fn repeated<'a>(names: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let mut seen = std::collections::BTreeSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
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
