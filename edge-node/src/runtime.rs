//! Inference behind one seam: ONNX Runtime where its library is configured, the pure-Rust backend (tract) otherwise.
//!
//! The backend is chosen once for the whole process. A library that is configured and cannot be loaded is an error,
//! never a silent change of backend. A model is taken only if its inputs and outputs are exactly what its role
//! demands, so that a wrong file fails when it is loaded and not at the first asset.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{Outlet, TensorElementType, TensorRef};
use thiserror::Error;

pub use crate::manifest::EMBEDDING_LENGTH;
use crate::manifest::{Manifest, ManifestError, Role};
use crate::onnx_shape::with_batch;

/// Environment variable with the full path of ONNX Runtime's shared library.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";
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

/// How the backend is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// ONNX Runtime's shared library. None means the built-in backend.
    pub library: Option<PathBuf>,
}

impl RuntimeConfig {
    /// Reads `ORT_DYLIB_PATH`; empty counts as unset.
    pub fn from_environment() -> Self {
        let library = std::env::var_os(LIBRARY_VARIABLE)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        Self { library }
    }
}

/// Which implementation runs the models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendKind {
    /// ONNX Runtime from this library.
    OnnxRuntime(PathBuf),
    /// The built-in pure-Rust backend.
    Tract,
}

/// The backend of this process.
#[derive(Debug, Clone)]
pub struct Backend {
    kind: BackendKind,
    environment: Environment,
}

impl Backend {
    /// Which one it is.
    pub fn kind(&self) -> &BackendKind {
        &self.kind
    }

    /// A short name for logs and reports.
    pub fn name(&self) -> &'static str {
        self.kind.name()
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.kind.fmt(formatter)
    }
}

impl BackendKind {
    fn name(&self) -> &'static str {
        match self {
            Self::OnnxRuntime(_) => "ONNX Runtime",
            Self::Tract => "tract",
        }
    }
}

impl std::fmt::Display for BackendKind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OnnxRuntime(path) => write!(formatter, "ONNX Runtime from {}", path.display()),
            Self::Tract => formatter.write_str("the built-in backend (tract)"),
        }
    }
}

/// Kept for the life of the process: the library allows one environment, and it must outlive every session.
static BACKEND: Mutex<Option<Backend>> = Mutex::new(None);

/// Starts the backend, once for the whole process. Asking again for the same gives the same; asking for another one
/// is an error. After a failure nothing is chosen, and the call can be repeated.
pub fn init_backend(config: &RuntimeConfig) -> Result<Backend, RuntimeError> {
    let kind = match &config.library {
        Some(path) => BackendKind::OnnxRuntime(path.clone()),
        None => BackendKind::Tract,
    };
    let mut chosen = BACKEND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(backend) = chosen.as_ref() {
        if backend.kind == kind {
            return Ok(backend.clone());
        }
        return Err(RuntimeError::AlreadyChosen {
            running: backend.kind.to_string(),
            asked: kind.to_string(),
        });
    }
    let builder = match &kind {
        BackendKind::OnnxRuntime(path) => {
            ort::init_from(path).map_err(|error| RuntimeError::Library {
                path: path.clone(),
                reason: error.to_string(),
            })?
        }
        BackendKind::Tract => {
            ort::set_api(ort_tract::api());
            ort::init()
        }
    };
    let environment = builder
        .with_name("karat")
        .with_telemetry(false)
        .build()
        .map_err(|error| RuntimeError::Start {
            reason: error.to_string(),
        })?;
    let backend = Backend { kind, environment };
    *chosen = Some(backend.clone());
    Ok(backend)
}

/// The backend of this process; started from the environment variable where nobody chose one yet.
pub fn backend() -> Result<Backend, RuntimeError> {
    if let Some(backend) = BACKEND
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .as_ref()
    {
        return Ok(backend.clone());
    }
    init_backend(&RuntimeConfig::from_environment())
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

/// A tensor that a role demands: name, type and shape.
type Demand = (&'static str, TensorElementType, Vec<i64>);

/// An open dimension in a shape.
const OPEN: i64 = -1;

impl Model {
    /// Loads a variant on the backend of this process. One thread; more throughput comes from more sessions.
    pub fn load(manifest: &Manifest, variant: &str) -> Result<Self, RuntimeError> {
        let bytes = manifest.read_variant(variant)?;
        let backend = backend()?;
        let label = format!("{} {} variant {variant}", manifest.name, manifest.version);
        let load_error = |reason: String| RuntimeError::Load {
            backend: backend.name(),
            model: label.clone(),
            reason,
        };
        // Checked on both backends, so that a file accepted on one is accepted on the other.
        let single = with_batch(&bytes, 1).map_err(|error| load_error(error.to_string()))?;
        let (bytes, batch, run_most) = match backend.kind {
            BackendKind::Tract => (single, 1, 1),
            BackendKind::OnnxRuntime(_) => (bytes, OPEN, BATCH_MOST),
        };
        let session = open_session(&backend, &bytes).map_err(load_error)?;
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
        check_batch(batch)?;
        check_input("traits", traits.len(), batch * self.one_hot_length, batch)?;
        check_input("latent", latent.len(), batch * self.latent_length, batch)?;
        let (image_bytes, label) = (self.pixel_bytes(), &self.label);
        let failed = |error: ort::Error| run_error(label, &error);
        let mut pixels = Vec::with_capacity(batch * image_bytes);
        for run in runs(batch, self.run_most) {
            let count = run.len();
            let traits = part(traits, &run, self.one_hot_length);
            let latent = part(latent, &run, self.latent_length);
            let traits = TensorRef::from_array_view(([count, self.one_hot_length], traits))
                .map_err(failed)?;
            let latent = TensorRef::from_array_view(([count, self.latent_length], latent))
                .map_err(failed)?;
            let inputs = ort::inputs!["traits" => traits, "latent" => latent];
            let outputs = self.session.run(inputs).map_err(failed)?;
            take(&outputs, label, "pixels", count * image_bytes, &mut pixels)?;
        }
        Ok(pixels)
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

fn open_session(backend: &Backend, bytes: &[u8]) -> Result<Session, String> {
    let mut builder = Session::builder(&backend.environment).map_err(|error| error.to_string())?;
    // The built-in backend optimises a graph only if told to.
    builder = builder
        .with_optimization_level(GraphOptimizationLevel::Level3)
        .map_err(|error| error.to_string())?;
    if backend.kind != BackendKind::Tract {
        // Two cores: a second thread or a spinning one would take its time from the sequencer. The built-in backend
        // has no threads and knows none of these options.
        builder = builder
            .with_intra_threads(1)
            .map_err(|error| error.to_string())?;
        builder = builder
            .with_inter_threads(1)
            .map_err(|error| error.to_string())?;
        builder = builder
            .with_intra_op_spinning(false)
            .map_err(|error| error.to_string())?;
        builder = builder
            .with_inter_op_spinning(false)
            .map_err(|error| error.to_string())?;
    }
    builder
        .commit_from_memory(bytes)
        .map_err(|error| error.to_string())
}

/// The inputs and outputs of a role.
fn demands(manifest: &Manifest, batch: i64) -> (Vec<Demand>, Vec<Demand>) {
    use TensorElementType::{Float32, Uint8};
    let row = |length: usize| vec![batch, length as i64];
    let [height, width] = [manifest.image_height, manifest.image_width].map(i64::from);
    let pixels = ("pixels", Uint8, vec![batch, height, width, 3]);
    match manifest.role {
        Role::Generator => (
            vec![
                ("traits", Float32, row(manifest.one_hot_length())),
                ("latent", Float32, row(manifest.latent_length)),
            ],
            vec![pixels],
        ),
        Role::Auditor => (
            vec![pixels],
            vec![
                ("trait_logits", Float32, row(manifest.one_hot_length())),
                ("corruption", Float32, row(1)),
                ("embedding", Float32, row(EMBEDDING_LENGTH)),
            ],
        ),
    }
}

fn check_tensors(kind: &str, demanded: &[Demand], found: &[Outlet]) -> Result<(), String> {
    let names: Vec<&str> = demanded.iter().map(|(name, ..)| *name).collect();
    if let Some(unknown) = found.iter().find(|outlet| !names.contains(&outlet.name())) {
        let (unknown, known) = (unknown.name(), names.join(", "));
        return Err(format!(
            "unknown {kind} {unknown:?}; its {kind}s must be {known}"
        ));
    }
    for (name, element, shape) in demanded {
        let Some(outlet) = found.iter().find(|outlet| outlet.name() == *name) else {
            return Err(format!("{kind} {name:?} is missing"));
        };
        let expected = format!("{element:?} of {}", shape_text(shape));
        match (outlet.dtype().tensor_type(), outlet.dtype().tensor_shape()) {
            (Some(found), Some(sizes)) if found == *element && sizes[..] == shape[..] => {}
            (Some(found), Some(sizes)) => {
                let sizes = shape_text(sizes);
                return Err(format!(
                    "{kind} {name:?} is {found:?} of {sizes}; must be {expected}"
                ));
            }
            _ => return Err(format!("{kind} {name:?} is no tensor; must be {expected}")),
        }
    }
    Ok(())
}

/// A shape as a person reads it: the first size is the batch.
fn shape_text(shape: &[i64]) -> String {
    let sizes = shape.iter().skip(1).map(i64::to_string);
    let all: Vec<String> = std::iter::once("batch".to_owned()).chain(sizes).collect();
    format!("[{}]", all.join(", "))
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
