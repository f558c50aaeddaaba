//! Inference behind one seam: ONNX Runtime where its library is configured, the pure-Rust backend (tract) otherwise.
//!
//! The backend is chosen once for the whole process. A library that is configured and cannot be loaded is an error,
//! never a silent change of backend. A model is taken only if its inputs and outputs are exactly what its role
//! demands, so that a wrong file fails when it is loaded and not at the first asset.

use std::path::PathBuf;

use ort::session::{Session, SessionOutputs};
use ort::value::TensorRef;
use thiserror::Error;

pub use crate::manifest::EMBEDDING_LENGTH;
use crate::manifest::{Manifest, ManifestError};
use crate::onnx::check::{OnnxError, check_model};
use crate::onnx::shape::with_batch;

mod backend;
mod interface;
mod trial;

pub use backend::{
    Backend, BackendKind, Device, LIBRARY_VARIABLE, RuntimeConfig, THREADS_MOST, backend,
    init_backend,
};
use interface::{check_tensors, demands};

/// Most images of one run. Larger requests are split by the callers.
pub const BATCH_MOST: usize = 256;

/// A model that cannot be run.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The configured library cannot be used.
    #[error(
        "cannot use ONNX Runtime from {path}: {reason}; give the full path of libonnxruntime.so of version 1.24 or later in {LIBRARY_VARIABLE}, or unset it to use the built-in backend"
    )]
    Library {
        /// The path configured.
        path: PathBuf,
        /// What the loader says.
        reason: String,
    },
    /// Another backend runs already.
    #[error(
        "this process runs {running} already; it cannot change to {asked} (start a new process)"
    )]
    AlreadyChosen {
        /// What runs.
        running: String,
        /// What was asked for.
        asked: String,
    },
    /// The backend did not start.
    #[error("the inference backend did not start: {reason}")]
    Start {
        /// What it says.
        reason: String,
    },
    /// CUDA was asked for and cannot be used.
    #[error(
        "cannot use CUDA: {reason}; name an ONNX Runtime with CUDA in {LIBRARY_VARIABLE} and its libraries where the loader finds them, or choose the device auto or cpu"
    )]
    Cuda {
        /// What stands against it.
        reason: String,
    },
    /// A setting that cannot be followed.
    #[error("inference: {reason}")]
    Setting {
        /// Which one and why.
        reason: String,
    },
    /// The model folder is refused.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The model is for something else.
    #[error("model {model} is {found}; needed is {needed}")]
    WrongRole {
        /// Name of the model.
        model: String,
        /// Its role.
        found: &'static str,
        /// The role needed.
        needed: &'static str,
    },
    /// The file is nothing that a backend should see.
    #[error("{model}: {source}")]
    Unsound {
        /// Model and variant.
        model: String,
        /// What is wrong with it.
        source: OnnxError,
    },
    /// The backend cannot read the model.
    #[error(
        "{backend} cannot load {model}: {reason}; export the model with operators of opset 17 or earlier, or use another backend"
    )]
    Load {
        /// The backend.
        backend: &'static str,
        /// Model and variant.
        model: String,
        /// What it says.
        reason: String,
    },
    /// The model has other inputs or outputs.
    #[error("{model} does not fit its role: {reason}")]
    Interface {
        /// Model and variant.
        model: String,
        /// What differs.
        reason: String,
    },
    /// What was handed in has the wrong size.
    #[error("{what}: {found} values for a batch of {batch}; expected {expected}")]
    InputLength {
        /// Which input.
        what: &'static str,
        /// Values found.
        found: usize,
        /// Values expected.
        expected: usize,
        /// Images asked for.
        batch: usize,
    },
    /// A batch of no images or of too many.
    #[error("a batch of {found}; must be 1 to {BATCH_MOST}")]
    Batch {
        /// Images asked for.
        found: usize,
    },
    /// The run failed.
    #[error("{model} failed: {reason}")]
    Run {
        /// Model and variant.
        model: String,
        /// What the backend says.
        reason: String,
    },
    /// The result is not what the role demands.
    #[error("{model} returned {reason}")]
    Result {
        /// Model and variant.
        model: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// One loaded variant of a model.
#[derive(Debug)]
pub struct Model {
    session: Session,
    /// Model and variant, for errors.
    label: String,
    /// Most images of one run of the session.
    run_most: usize,
    one_hot_length: usize,
    latent_length: usize,
    /// Height and width in pixels.
    image: [usize; 2],
}

/// What an auditor returns for a batch, image after image.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AuditTensors {
    /// One value for each value of each trait.
    pub trait_logits: Vec<f32>,
    /// Probability that the image is corrupt.
    pub corruption: Vec<f32>,
    /// 32 values an image.
    pub embedding: Vec<f32>,
}

/// An open dimension in a shape.
const OPEN: i64 = -1;

impl Model {
    /// Loads a variant on the backend of this process. More throughput comes from more sessions.
    pub fn load(manifest: &Manifest, variant: &str) -> Result<Self, RuntimeError> {
        let bytes = manifest.read_variant(variant)?;
        let backend = backend()?;
        let label = format!("{} {} variant {variant}", manifest.name, manifest.version);
        // Checked on both backends, so that a file accepted on one is accepted on the other.
        check_model(&bytes).map_err(|source| RuntimeError::Unsound {
            model: label.clone(),
            source,
        })?;
        let load_error = |reason: String| RuntimeError::Load {
            backend: backend.name(),
            model: label.clone(),
            reason,
        };
        let single = with_batch(&bytes, 1).map_err(|error| load_error(error.to_string()))?;
        let (bytes, batch, run_most) = match backend.kind() {
            BackendKind::Tract => (single, 1, 1),
            BackendKind::OnnxRuntime(_) => (bytes, OPEN, BATCH_MOST),
        };
        let session = backend
            .open(&bytes, manifest.is_exact(variant))
            .map_err(load_error)?;
        let (inputs, outputs) = demands(manifest, batch);
        check_tensors("input", &inputs, session.inputs())
            .and_then(|()| check_tensors("output", &outputs, session.outputs()))
            .map_err(|reason| RuntimeError::Interface {
                model: label.clone(),
                reason,
            })?;
        Ok(Self {
            session,
            label,
            run_most,
            one_hot_length: manifest.one_hot_length(),
            latent_length: manifest.latent_length,
            image: [
                manifest.image_height as usize,
                manifest.image_width as usize,
            ],
        })
    }

    /// Most images that the backend runs at once; larger batches are cut.
    pub fn run_most(&self) -> usize {
        self.run_most
    }

    /// Runs a generator: one-hot traits and latents of `batch` assets in, their pixels out, image after image.
    pub fn generate(
        &mut self,
        batch: usize,
        traits: &[f32],
        latent: &[f32],
    ) -> Result<Vec<u8>, RuntimeError> {
        let image_bytes = self.pixel_bytes();
        let mut pixels = Vec::with_capacity(batch.min(BATCH_MOST) * image_bytes);
        self.run_generator(batch, traits, latent, |outputs, label, count| {
            take(outputs, label, "pixels", count * image_bytes, &mut pixels)
        })?;
        Ok(pixels)
    }

    /// As [`Model::generate`], and leaves the pixels where they are: what the sessions alone cost, for measuring.
    pub fn run_bare(
        &mut self,
        batch: usize,
        traits: &[f32],
        latent: &[f32],
    ) -> Result<(), RuntimeError> {
        self.run_generator(batch, traits, latent, |_, _, _| Ok(()))
    }

    fn run_generator(
        &mut self,
        batch: usize,
        traits: &[f32],
        latent: &[f32],
        mut each: impl FnMut(&SessionOutputs<'_>, &str, usize) -> Result<(), RuntimeError>,
    ) -> Result<(), RuntimeError> {
        check_batch(batch)?;
        check_input("traits", traits.len(), batch * self.one_hot_length, batch)?;
        check_input("latent", latent.len(), batch * self.latent_length, batch)?;
        let label = &self.label;
        let failed = |error: ort::Error| run_error(label, &error);
        for run in runs(batch, self.run_most) {
            let count = run.len();
            let traits = part(traits, &run, self.one_hot_length);
            let latent = part(latent, &run, self.latent_length);
            let traits = TensorRef::from_array_view(([count, self.one_hot_length], traits))
                .map_err(failed)?;
            let latent = TensorRef::from_array_view(([count, self.latent_length], latent))
                .map_err(failed)?;
            let inputs = ort::inputs!["traits" => traits, "latent" => latent];
            each(&self.session.run(inputs).map_err(failed)?, label, count)?;
        }
        Ok(())
    }

    /// Runs an auditor over the RGB pixels of `batch` images.
    pub fn audit(&mut self, batch: usize, pixels: &[u8]) -> Result<AuditTensors, RuntimeError> {
        check_batch(batch)?;
        let image_bytes = self.pixel_bytes();
        check_input("pixels", pixels.len(), batch * image_bytes, batch)?;
        let ([height, width], label) = (self.image, &self.label);
        let failed = |error: ort::Error| run_error(label, &error);
        let mut found = AuditTensors::default();
        for run in runs(batch, self.run_most) {
            let count = run.len();
            let pixels = part(pixels, &run, image_bytes);
            let pixels =
                TensorRef::from_array_view(([count, height, width, 3], pixels)).map_err(failed)?;
            let inputs = ort::inputs!["pixels" => pixels];
            let outputs = self.session.run(inputs).map_err(failed)?;
            let logits = count * self.one_hot_length;
            take(
                &outputs,
                label,
                "trait_logits",
                logits,
                &mut found.trait_logits,
            )?;
            take(&outputs, label, "corruption", count, &mut found.corruption)?;
            let values = count * EMBEDDING_LENGTH;
            take(&outputs, label, "embedding", values, &mut found.embedding)?;
        }
        Ok(found)
    }

    fn pixel_bytes(&self) -> usize {
        self.image[0] * self.image[1] * 3
    }
}

/// Cuts a batch into the runs that the session is planned for.
fn runs(batch: usize, most: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..batch)
        .step_by(most)
        .map(move |from| from..batch.min(from + most))
}

/// The values of a run's images, `size` values each.
fn part<'a, T>(values: &'a [T], run: &std::ops::Range<usize>, size: usize) -> &'a [T] {
    &values[run.start * size..run.end * size]
}

fn run_error(label: &str, error: &ort::Error) -> RuntimeError {
    RuntimeError::Run {
        model: label.to_owned(),
        reason: error.to_string(),
    }
}

fn check_batch(batch: usize) -> Result<(), RuntimeError> {
    if batch == 0 || batch > BATCH_MOST {
        Err(RuntimeError::Batch { found: batch })
    } else {
        Ok(())
    }
}

fn check_input(
    what: &'static str,
    found: usize,
    expected: usize,
    batch: usize,
) -> Result<(), RuntimeError> {
    if found == expected {
        Ok(())
    } else {
        Err(RuntimeError::InputLength {
            what,
            found,
            expected,
            batch,
        })
    }
}

fn take<T: ort::value::PrimitiveTensorElementType + Copy>(
    outputs: &ort::session::SessionOutputs<'_>,
    label: &str,
    name: &str,
    expected: usize,
    into: &mut Vec<T>,
) -> Result<(), RuntimeError> {
    let refuse = |reason: String| RuntimeError::Result {
        model: label.to_owned(),
        reason,
    };
    let value = outputs
        .get(name)
        .ok_or_else(|| refuse(format!("no output {name:?}")))?;
    let (_, values) = value
        .try_extract_tensor::<T>()
        .map_err(|error| refuse(format!("{name:?}: {error}")))?;
    if values.len() != expected {
        let found = values.len();
        return Err(refuse(format!(
            "{found} values in {name:?}; expected {expected}"
        )));
    }
    into.extend_from_slice(values);
    Ok(())
}
