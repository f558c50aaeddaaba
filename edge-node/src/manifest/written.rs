//! The manifest as it stands in its file, and what makes it sound.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

use super::{
    AuditorSpec, DriftReference, EMBEDDING_LENGTH, ExclusionSpec, IMAGE_SIDE_MOST,
    LATENT_LENGTH_MOST, Manifest, ManifestError, NAME_BYTES_MOST, Precision, Reference, Role,
    TraitSpec, VARIANT_BYTES_MOST, VARIANTS_MOST, VariantSpec,
};
use crate::rarity::{TRAITS_MOST, VALUES_MOST};

/// Largest cost that a manifest may state: one minute an asset.
const COST_US_MOST: f64 = 60_000_000.0;
/// Largest perceptual distance that a manifest may state, whatever its kind.
const DISTANCE_MOST: f64 = 1_000_000.0;
/// Largest tolerance between backends: half of the range; beyond it, any image would pass for any other.
const TOLERANCE_MOST: f64 = 127.0;
/// Largest embedding distance and drift figure, parts per million: 1,000 deviations.
const DISTANCE_PPM_MOST: u32 = 1_000_000_000;
/// Fewest and most assets of a window: a deviation needs two.
const DRIFT_WINDOW: std::ops::RangeInclusive<u32> = 2..=65_536;
/// Largest magnitude of a reference's value.
const REFERENCE_MOST: f64 = 1e9;
/// Smallest deviation: what is divided by it stays finite in 32 bits.
const DEVIATION_LEAST: f64 = 1e-9;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
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
    reference: Option<WrittenReference>,
    #[serde(default)]
    drift_references: Vec<WrittenDriftReference>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenVariant {
    name: String,
    file: String,
    sha256: String,
    bytes: u64,
    exact: bool,
    ladder: bool,
    precision: Precision,
    cost_us: f64,
    quality: f64,
    distance: f64,
    backend_tolerance: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenReference {
    mean: Vec<f64>,
    deviation: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenDriftReference {
    variant: String,
    mean: Vec<f64>,
    deviation: Vec<f64>,
}

/// A key and what is wrong with its value.
struct Fault {
    key: String,
    reason: String,
}

impl Fault {
    fn at<T>(key: impl Into<String>, reason: impl Into<String>) -> Result<T, Fault> {
        Err(Fault {
            key: key.into(),
            reason: reason.into(),
        })
    }
}

impl Written {
    /// The manifest, if every value is within its bounds and none contradicts another.
    pub(super) fn checked(self, path: &Path, folder: &Path) -> Result<Manifest, ManifestError> {
        let refused = |fault: Fault| ManifestError::Value {
            path: path.to_owned(),
            key: fault.key,
            reason: fault.reason,
        };
        self.check_head()
            .and_then(|()| self.check_role())
            .and_then(|()| self.check_traits())
            .map_err(refused)?;
        let variants = checked_variants(self.variants, self.role).map_err(refused)?;
        let reference = match self.reference {
            Some(reference) => Some(reference.checked("reference").map_err(refused)?),
            None => None,
        };
        let drift_references = checked_drift_references(self.drift_references).map_err(refused)?;
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
            reference,
            drift_references,
            digest: [0; 32],
            folder: folder.to_owned(),
        };
        let default = manifest.variant(&manifest.default_variant)?;
        if manifest.role == Role::Generator && !default.ladder && !default.exact {
            let key = format!("variants.{}.ladder", default.name);
            return Fault::at(key, "the default variant must be on the ladder, or exact")
                .map_err(refused);
        }
        check_exclusions(&manifest).map_err(refused)?;
        let rules = manifest.trait_rules().validate();
        rules.map_err(|source| ManifestError::Rarity {
            path: path.to_owned(),
            source,
        })?;
        manifest.digest = manifest.compute_digest();
        Ok(manifest)
    }

    fn check_head(&self) -> Result<(), Fault> {
        check_name("name", &self.name)?;
        check_name("version", &self.version)?;
        check_name("default_variant", &self.default_variant)?;
        if self.licence.is_empty() || self.licence.len() > 4 * NAME_BYTES_MOST {
            let reason = format!("must be 1 to {} bytes", 4 * NAME_BYTES_MOST);
            return Fault::at("licence", reason);
        }
        for (key, side) in [
            ("image_width", self.image_width),
            ("image_height", self.image_height),
        ] {
            if side == 0 || side > IMAGE_SIDE_MOST {
                let reason = format!("{side} pixels; must be 1 to {IMAGE_SIDE_MOST}");
                return Fault::at(key, reason);
            }
        }
        if self.latent_length > LATENT_LENGTH_MOST {
            let reason = format!("{}; the most is {LATENT_LENGTH_MOST}", self.latent_length);
            return Fault::at("latent_length", reason);
        }
        Ok(())
    }

    fn check_role(&self) -> Result<(), Fault> {
        if self.role == Role::Generator {
            if self.latent_length == 0 {
                return Fault::at("latent_length", "a generator needs one");
            }
            if self.auditor.is_some() {
                return Fault::at("auditor", "a generator has no thresholds");
            }
            if self.reference.is_some() {
                return Fault::at("reference", "a generator has no embedding");
            }
            if !self.drift_references.is_empty() {
                return Fault::at("drift_references", "a generator has no embedding");
            }
            return Ok(());
        }
        let Some(spec) = self.auditor else {
            let reason = "an auditor needs accept_below_ppm, reject_above_ppm, near_duplicate_ppm, drift_window and \
                          drift_alarm_ppm";
            return Fault::at("auditor", reason);
        };
        if self.reference.is_none() {
            let reason =
                format!("an auditor needs mean and deviation of {EMBEDDING_LENGTH} values each");
            return Fault::at("reference", reason);
        }
        if spec.accept_below_ppm > spec.reject_above_ppm || spec.reject_above_ppm > 1_000_000 {
            let reason = "needs accept_below_ppm <= reject_above_ppm <= 1000000";
            return Fault::at("auditor", reason);
        }
        for (key, found) in [
            ("auditor.near_duplicate_ppm", spec.near_duplicate_ppm),
            ("auditor.drift_alarm_ppm", spec.drift_alarm_ppm),
        ] {
            if found == 0 || found > DISTANCE_PPM_MOST {
                return Fault::at(key, format!("{found}; must be 1 to {DISTANCE_PPM_MOST}"));
            }
        }
        if !DRIFT_WINDOW.contains(&spec.drift_window) {
            let (least, most) = (DRIFT_WINDOW.start(), DRIFT_WINDOW.end());
            let reason = format!("{}; must be {least} to {most}", spec.drift_window);
            return Fault::at("auditor.drift_window", reason);
        }
        Ok(())
    }

    fn check_traits(&self) -> Result<(), Fault> {
        let count = self.traits.len();
        if count == 0 || count > TRAITS_MOST {
            return Fault::at(
                "traits",
                format!("{count} traits; must be 1 to {TRAITS_MOST}"),
            );
        }
        for (index, spec) in self.traits.iter().enumerate() {
            let key = format!("traits[{index}]");
            check_name(&key, &spec.name)?;
            let (values, weights) = (spec.values.len(), spec.weights.len());
            if values == 0 || values > VALUES_MOST || values != weights {
                let reason = format!(
                    "{values} values and {weights} weights; needs 1 to {VALUES_MOST} values and a weight for each"
                );
                return Fault::at(key, reason);
            }
            let key_of_values = format!("{key}.values");
            for value in &spec.values {
                check_name(&key_of_values, value)?;
            }
            if let Some(twice) = repeated(spec.values.iter()) {
                return Fault::at(key, format!("value {twice:?} occurs twice"));
            }
        }
        match repeated(self.traits.iter().map(|spec| &spec.name)) {
            Some(twice) => Fault::at("traits", format!("trait {twice:?} occurs twice")),
            None => Ok(()),
        }
    }
}

fn checked_variants(written: Vec<WrittenVariant>, role: Role) -> Result<Vec<VariantSpec>, Fault> {
    let count = written.len();
    if count == 0 || count > VARIANTS_MOST {
        let reason = format!("{count} variants; must be 1 to {VARIANTS_MOST}");
        return Fault::at("variants", reason);
    }
    let variants = written
        .into_iter()
        .enumerate()
        .map(|(index, one)| one.checked(&format!("variants[{index}]"), role))
        .collect::<Result<Vec<VariantSpec>, Fault>>()?;
    match repeated(variants.iter().map(|variant| &variant.name)) {
        Some(twice) => Fault::at("variants", format!("variant {twice:?} occurs twice")),
        None => Ok(variants),
    }
}

impl WrittenVariant {
    fn checked(self, key: &str, role: Role) -> Result<VariantSpec, Fault> {
        check_name(key, &self.name)?;
        check_name(&format!("{key}.file"), &self.file)?;
        let mut sha256 = [0; 32];
        if hex::decode_to_slice(&self.sha256, &mut sha256).is_err() {
            return Fault::at(format!("{key}.sha256"), "must be 64 hexadecimal digits");
        }
        if self.bytes == 0 || self.bytes > VARIANT_BYTES_MOST {
            let reason = format!("{}; must be 1 to {VARIANT_BYTES_MOST}", self.bytes);
            return Fault::at(format!("{key}.bytes"), reason);
        }
        for (name, found, most) in [
            ("cost_us", self.cost_us, COST_US_MOST),
            ("quality", self.quality, 1.0),
            ("distance", self.distance, DISTANCE_MOST),
            ("backend_tolerance", self.backend_tolerance, TOLERANCE_MOST),
        ] {
            // No number lies in no range.
            if !(0.0..=most).contains(&found) {
                let reason = format!("{found}; must be 0 to {most}");
                return Fault::at(format!("{key}.{name}"), reason);
            }
        }
        if self.exact && self.backend_tolerance != 0.0 {
            let reason = "must be 0: an exact variant gives the same pixels on every backend";
            return Fault::at(format!("{key}.backend_tolerance"), reason);
        }
        if self.ladder && role == Role::Auditor {
            return Fault::at(format!("{key}.ladder"), "an auditor has no ladder");
        }
        Ok(VariantSpec {
            name: self.name,
            file: self.file,
            sha256,
            exact: self.exact,
            ladder: self.ladder,
            precision: self.precision,
            cost_us: self.cost_us,
            quality: self.quality,
            distance: self.distance,
            // A sum with 0 has no sign that the digest would tell apart.
            backend_tolerance: self.backend_tolerance + 0.0,
            bytes: self.bytes,
        })
    }
}

impl WrittenReference {
    fn checked(self, key: &str) -> Result<Reference, Fault> {
        Ok(Reference {
            mean: numbers(&format!("{key}.mean"), &self.mean, -REFERENCE_MOST)?,
            deviation: numbers(
                &format!("{key}.deviation"),
                &self.deviation,
                DEVIATION_LEAST,
            )?,
        })
    }
}

fn checked_drift_references(
    written: Vec<WrittenDriftReference>,
) -> Result<Vec<DriftReference>, Fault> {
    if written.len() > VARIANTS_MOST {
        let reason = format!("{}; the most is {VARIANTS_MOST}", written.len());
        return Fault::at("drift_references", reason);
    }
    let mut checked: Vec<DriftReference> = Vec::with_capacity(written.len());
    for (place, one) in written.into_iter().enumerate() {
        let key = format!("drift_references[{place}]");
        check_name(&format!("{key}.variant"), &one.variant)?;
        if checked.iter().any(|other| other.variant == one.variant) {
            let reason = format!("{} has one already", one.variant);
            return Fault::at(format!("{key}.variant"), reason);
        }
        let reference = WrittenReference {
            mean: one.mean,
            deviation: one.deviation,
        };
        checked.push(DriftReference {
            variant: one.variant,
            reference: reference.checked(&key)?,
        });
    }
    Ok(checked)
}

fn numbers(key: &str, values: &[f64], least: f64) -> Result<[f32; EMBEDDING_LENGTH], Fault> {
    if let Some(place) = values
        .iter()
        .position(|value| !(least..=REFERENCE_MOST).contains(value))
    {
        let reason = format!("{}; must be {least} to {REFERENCE_MOST}", values[place]);
        return Fault::at(format!("{key}[{place}]"), reason);
    }
    let narrow: Vec<f32> = values.iter().map(|value| *value as f32).collect();
    narrow.try_into().or_else(|narrow: Vec<f32>| {
        let reason = format!("{} values; must be {EMBEDDING_LENGTH}", narrow.len());
        Fault::at(key, reason)
    })
}

fn check_exclusions(manifest: &Manifest) -> Result<(), Fault> {
    for (index, spec) in manifest.exclusions.iter().enumerate() {
        for (trait_name, value) in [
            (&spec.trait_name, &spec.value),
            (&spec.other_trait, &spec.other_value),
        ] {
            if manifest.value_index(trait_name, value).is_none() {
                let reason = format!("there is no trait {trait_name:?} with a value {value:?}");
                return Fault::at(format!("exclusions[{index}]"), reason);
            }
        }
    }
    Ok(())
}

/// Whether a text is a name. File names are names too, so that none can lead out of the folder.
fn check_name(key: &str, text: &str) -> Result<(), Fault> {
    if text.is_empty() || text.len() > NAME_BYTES_MOST {
        return Fault::at(
            key,
            format!("{text:?} must be 1 to {NAME_BYTES_MOST} bytes"),
        );
    }
    if text.starts_with('.')
        || !text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.+ ".contains(&byte))
    {
        let reason = "may hold letters, digits, blanks and -_.+ and must not start with a dot";
        return Fault::at(key, format!("{text:?} {reason}"));
    }
    Ok(())
}

fn repeated<'a>(names: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let mut seen = BTreeSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}
