//! The seam behind which the models run, so that the agents can be tried with a small renderer in their place.

use karat_proto::command::{CollectionSpec, Lineage};
use thiserror::Error;

use crate::similarity::embedding::{Embedding, Reference};

/// The models cannot be opened or run.
#[derive(Debug, Clone, Error)]
#[error("{0}")]
pub struct OracleError(pub String);

/// Opens an [`Oracle`] for each worker, and again after a worker broke down.
pub trait OracleSource: Send + Sync + 'static {
    /// Opens it; takes as long as loading the models takes.
    ///
    /// # Errors
    /// Says which model cannot be loaded and why.
    fn open(&self) -> Result<Box<dyn Oracle>, OracleError>;
}

/// Reads images and generates again. Used by one worker at a time.
pub trait Oracle: Send {
    /// What it can read: its images' size and traits.
    fn vocabulary(&self) -> &Vocabulary;

    /// What the embeddings of its readings are measured against; `None` when it has none, and nothing is compared then.
    fn reference(&self) -> Option<&Reference> {
        None
    }

    /// Reads images of RGB pixels of the vocabulary's size, in their order.
    ///
    /// # Errors
    /// When one of the images cannot be scored; the caller tries them one by one.
    fn read(&mut self, images: &[&[u8]]) -> Result<Vec<Reading>, OracleError>;

    /// Runs the generator of a lineage again.
    ///
    /// # Errors
    /// When the model is at hand but refuses the lineage or fails to run.
    fn regenerate(
        &mut self,
        lineage: &Lineage,
        traits: &[u8],
        collection: &CollectionSpec,
    ) -> Result<Regenerated, OracleError>;
}

/// What was read from one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The likeliest value of each trait, in the vocabulary's order.
    pub traits: Vec<u8>,
    /// How sure that is for each, parts per million.
    pub confidence_ppm: Vec<u32>,
    /// Corruption score, parts per million.
    pub corruption_ppm: u32,
    /// A point that is near to those of similar images; `None` from an oracle without a reference.
    pub embedding: Option<Embedding>,
}

/// What running a lineage again gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Regenerated {
    /// An image.
    Image {
        /// Whether the variant promises the same pixels on every backend.
        exact: bool,
        /// For a variant that does not: the largest mean difference of a sample that its manifest allows, thousandths
        /// of a step of 255.
        tolerance_milli: u32,
        /// Width, pixels.
        width: u32,
        /// Height, pixels.
        height: u32,
        /// RGB, rows from the top.
        rgb: Vec<u8>,
        /// The file.
        png: Vec<u8>,
    },
    /// The model is not at hand.
    ModelAbsent,
    /// The model has no such variant.
    VariantUnknown,
    /// The collection's traits are not the model's.
    TraitsUnmapped,
}

/// The size of a model's images and the names of its traits and their values, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vocabulary {
    /// Width, pixels.
    pub width: u32,
    /// Height, pixels.
    pub height: u32,
    /// Name of each trait and the names of its values.
    pub traits: Vec<(String, Vec<String>)>,
}

impl Vocabulary {
    /// Where a collection's trait value stands in this vocabulary: trait and value index, found by their names, since
    /// a collection may have its traits in another order or only some of a model's.
    pub fn place(
        &self,
        collection: &CollectionSpec,
        trait_index: usize,
        value: u8,
    ) -> Option<(usize, u8)> {
        let wanted = collection.traits.get(trait_index)?;
        let value_name = wanted.values.get(usize::from(value))?;
        let place = self
            .traits
            .iter()
            .position(|(name, _)| *name == wanted.name)?;
        let value = self.traits[place]
            .1
            .iter()
            .position(|name| name == value_name)?;
        Some((place, u8::try_from(value).ok()?))
    }

    /// A collection's trait values as this vocabulary has them; `None` unless they give every trait its value.
    pub fn translate(&self, collection: &CollectionSpec, values: &[u8]) -> Option<Vec<u8>> {
        let mut translated = vec![None; self.traits.len()];
        for (trait_index, value) in values.iter().enumerate() {
            let (place, value) = self.place(collection, trait_index, *value)?;
            translated[place] = Some(value);
        }
        translated.into_iter().collect()
    }
}
