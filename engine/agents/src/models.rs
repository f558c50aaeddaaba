//! The real oracle: an ONNX auditor, and the generators whose folders are at hand.

use std::path::{Path, PathBuf};

use karat_edge_node::auditor::Auditor;
use karat_edge_node::generator::{GenerationRequest, Generator};
use karat_edge_node::manifest::{Manifest, Role};
use karat_edge_node::signature::ModelTrust;
use karat_proto::Digest;
use karat_proto::command::{CollectionSpec, Lineage, TraitSpec};

use crate::oracle::{Oracle, OracleError, OracleSource, Reading, Regenerated, Vocabulary};
use crate::similarity::embedding::{Reference, VariantReference};

/// Most variants of generators kept loaded by one worker; the one unused for longest makes room.
pub const GENERATORS_LOADED_MAX: usize = 4;

/// Model folders to open.
#[derive(Clone, Debug)]
pub struct ModelFolders {
    /// The auditor's folder.
    pub auditor: PathBuf,
    /// Generator folders.
    pub generators: Vec<PathBuf>,
    /// Whose signatures of models count.
    pub trust: ModelTrust,
}

impl OracleSource for ModelFolders {
    fn open(&self) -> Result<Box<dyn Oracle>, OracleError> {
        Ok(Box::new(Models::open(self)?))
    }
}

/// The thresholds that an auditor's own manifest states, accept below and reject from, parts per million: what the first
/// policy of a realm that uses this auditor should hold.
///
/// # Errors
/// When the folder holds no whole auditor.
pub fn auditor_thresholds(folder: &Path) -> Result<(u32, u32), OracleError> {
    let manifest = Manifest::load(folder).map_err(failed)?;
    let stated = manifest
        .auditor
        .ok_or_else(|| OracleError(format!("{} holds no auditor", folder.display())))?;
    Ok((stated.accept_below_ppm, stated.reject_above_ppm))
}

struct Loaded {
    model: Digest,
    variant: String,
    generator: Generator,
}

struct Models {
    auditor: Auditor,
    vocabulary: Vocabulary,
    reference: Option<Reference>,
    generators: Vec<Manifest>,
    /// The last used one stands last.
    loaded: Vec<Loaded>,
}

fn failed(error: impl std::fmt::Display) -> OracleError {
    OracleError(error.to_string())
}

impl Models {
    fn open(folders: &ModelFolders) -> Result<Models, OracleError> {
        let manifest = Manifest::load(&folders.auditor).map_err(failed)?;
        folders.trust.check(&manifest).map_err(failed)?;
        let mut auditor = Auditor::from_manifest(manifest).map_err(failed)?;
        auditor.warm_up().map_err(failed)?;
        let mut generators = Vec::new();
        for folder in &folders.generators {
            let manifest = Manifest::load(folder).map_err(failed)?;
            folders.trust.check(&manifest).map_err(failed)?;
            if manifest.role != Role::Generator {
                return Err(OracleError(format!(
                    "{} holds an auditor; re-execution needs generators",
                    folder.display()
                )));
            }
            generators.push(manifest);
        }
        let vocabulary = vocabulary_of(auditor.manifest());
        let reference = reference_of(auditor.manifest());
        Ok(Models {
            auditor,
            vocabulary,
            reference,
            generators,
            loaded: Vec::new(),
        })
    }

    fn generator(
        &mut self,
        manifest: &Manifest,
        variant: &str,
    ) -> Result<&mut Generator, OracleError> {
        let known = self
            .loaded
            .iter()
            .position(|loaded| loaded.model == manifest.digest && loaded.variant == variant);
        let loaded = match known {
            Some(place) => self.loaded.remove(place),
            None => Loaded {
                model: manifest.digest,
                variant: variant.to_owned(),
                generator: Generator::from_manifest(manifest.clone(), variant).map_err(failed)?,
            },
        };
        if self.loaded.len() == GENERATORS_LOADED_MAX {
            self.loaded.remove(0);
        }
        let last = self.loaded.len();
        self.loaded.push(loaded);
        Ok(&mut self.loaded[last].generator)
    }
}

impl Oracle for Models {
    fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    fn reference(&self) -> Option<&Reference> {
        self.reference.as_ref()
    }

    fn read(&mut self, images: &[&[u8]]) -> Result<Vec<Reading>, OracleError> {
        let audits = self.auditor.audit(images).map_err(failed)?;
        Ok(audits
            .into_iter()
            .map(|audit| Reading {
                traits: audit.traits,
                confidence_ppm: audit.trait_confidence_ppm,
                corruption_ppm: audit.corruption_ppm,
                embedding: Some(audit.embedding),
            })
            .collect())
    }

    fn regenerate(
        &mut self,
        lineage: &Lineage,
        traits: &[u8],
        collection: &CollectionSpec,
    ) -> Result<Regenerated, OracleError> {
        let Some(manifest) = self
            .generators
            .iter()
            .find(|manifest| manifest.digest == lineage.model)
            .cloned()
        else {
            return Ok(Regenerated::ModelAbsent);
        };
        let Ok(variant) = manifest.variant(&lineage.variant) else {
            return Ok(Regenerated::VariantUnknown);
        };
        let Some(traits) = vocabulary_of(&manifest).translate(collection, traits) else {
            return Ok(Regenerated::TraitsUnmapped);
        };
        let request = GenerationRequest {
            seed: lineage.seed,
            traits,
        };
        let made = self
            .generator(&manifest, &lineage.variant)?
            .generate(&[request])
            .map_err(failed)?;
        let Some(asset) = made.into_iter().next() else {
            return Err(failed("the generator returned nothing"));
        };
        Ok(Regenerated::Image {
            exact: variant.exact,
            // Between 0 and 127 steps, as the manifest was checked.
            tolerance_milli: (variant.backend_tolerance * 1_000.0).round() as u32,
            width: manifest.image_width,
            height: manifest.image_height,
            rgb: asset.pixels,
            png: asset.png,
        })
    }
}

fn reference_of(manifest: &Manifest) -> Option<Reference> {
    let (stated, limits) = (manifest.reference.as_ref()?, manifest.auditor?);
    let traits = manifest.traits.iter().map(|spec| TraitSpec {
        name: spec.name.clone(),
        values: spec.values.clone(),
        weights: spec.weights.clone(),
    });
    Some(Reference {
        model: manifest.digest,
        mean: stated.mean,
        deviation: stated.deviation,
        of_variants: manifest
            .drift_references
            .iter()
            .map(|of| VariantReference {
                variant: of.variant.clone(),
                mean: of.reference.mean,
                deviation: of.reference.deviation,
            })
            .collect(),
        traits: traits.collect(),
        drift_window: limits.drift_window,
        drift_alarm_ppm: limits.drift_alarm_ppm,
    })
}

fn vocabulary_of(manifest: &Manifest) -> Vocabulary {
    Vocabulary {
        width: manifest.image_width,
        height: manifest.image_height,
        traits: manifest
            .traits
            .iter()
            .map(|spec| (spec.name.clone(), spec.values.clone()))
            .collect(),
    }
}
