//! The backend of this process: chosen once, said openly, never changed silently.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{CUDA, ExecutionProvider};
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;

use super::RuntimeError;
use super::trial::try_model;

/// Environment variable with the full path of ONNX Runtime's shared library.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";
/// Most threads of one session.
pub const THREADS_MOST: usize = 64;

/// Where models are asked to run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Device {
    /// On a GPU through CUDA where ONNX Runtime has it, on the processor otherwise.
    #[default]
    Auto,
    /// On the processor.
    Cpu,
    /// On a GPU through CUDA, or not at all.
    Cuda,
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Device, String> {
        match text {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda),
            _ => Err(format!("{text:?} is not auto, cpu or cuda")),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Device::Auto => "auto",
            Device::Cpu => "cpu",
            Device::Cuda => "cuda",
        })
    }
}

/// How the backend is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// ONNX Runtime's shared library. None means the built-in backend.
    pub library: Option<PathBuf>,
    /// Threads of each session, 1 to [`THREADS_MOST`]. The built-in backend has one.
    pub threads: usize,
    /// Where models run.
    pub device: Device,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            library: None,
            // Two cores: a second thread would take its time from the sequencer.
            threads: 1,
            device: Device::default(),
        }
    }
}

impl RuntimeConfig {
    /// Reads `ORT_DYLIB_PATH`; empty counts as unset.
    pub fn from_environment() -> Self {
        let library = std::env::var_os(LIBRARY_VARIABLE)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        Self {
            library,
            ..Self::default()
        }
    }

    fn check(&self) -> Result<(), RuntimeError> {
        let refuse = |reason: String| Err(RuntimeError::Setting { reason });
        if !(1..=THREADS_MOST).contains(&self.threads) {
            return refuse(format!(
                "{} threads; must be 1 to {THREADS_MOST}",
                self.threads
            ));
        }
        if self.library.is_none() && self.threads > 1 {
            return refuse(format!(
                "the built-in backend runs on one thread; leave the threads at 1, or name ONNX Runtime in {LIBRARY_VARIABLE}"
            ));
        }
        if self.library.is_none() && self.device == Device::Cuda {
            return refuse(format!(
                "the built-in backend has no CUDA; name an ONNX Runtime with CUDA in {LIBRARY_VARIABLE}"
            ));
        }
        Ok(())
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
    config: RuntimeConfig,
    kind: BackendKind,
    /// Whether models that are not exact run on a GPU.
    cuda: bool,
    environment: Environment,
}

impl Backend {
    /// Which one it is.
    pub fn kind(&self) -> &BackendKind {
        &self.kind
    }

    /// A short name for logs and reports.
    pub fn name(&self) -> &'static str {
        match (&self.kind, self.cuda) {
            (BackendKind::OnnxRuntime(_), false) => "ONNX Runtime",
            (BackendKind::OnnxRuntime(_), true) => "ONNX Runtime with CUDA",
            (BackendKind::Tract, _) => "tract",
        }
    }

    /// Opens a model. An exact one stays on the processor: a GPU's convolutions may take roads on which the order of
    /// summation is not all that differs.
    pub(super) fn open(&self, bytes: &[u8], exact: bool) -> Result<Session, String> {
        if self.kind == BackendKind::Tract {
            try_model(bytes)?;
        }
        self.try_open(bytes, self.cuda && !exact)
            .map_err(|error| error.to_string())
    }

    fn try_open(&self, bytes: &[u8], on_gpu: bool) -> ort::Result<Session> {
        let mut builder = Session::builder(&self.environment)?
            // The built-in backend optimises a graph only if told to.
            .with_optimization_level(GraphOptimizationLevel::Level3)?;
        if self.kind != BackendKind::Tract {
            // A spinning thread would take its time from the sequencer. The built-in backend has no threads and knows
            // none of these options.
            builder = builder
                .with_intra_threads(self.config.threads)?
                .with_inter_threads(1)?
                .with_intra_op_spinning(false)?
                .with_inter_op_spinning(false)?;
        }
        if on_gpu {
            builder = builder.with_execution_providers([cuda().build().error_on_failure()])?;
        }
        builder.commit_from_memory(bytes)
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let device = if self.cuda { "CUDA" } else { "the processor" };
        let threads = self.config.threads;
        write!(
            formatter,
            "{} on {device}, {threads} threads a session",
            self.kind
        )
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

/// Convolutions without transforms and sums in 32 bits, so that a GPU stays as near to a processor as it can.
fn cuda() -> CUDA {
    CUDA::default()
        .with_conv_algorithm_search(ConvAlgorithmSearch::Default)
        .with_tf32(false)
}

/// Whether CUDA can really be used, or why not.
fn try_cuda(environment: &Environment) -> Result<(), String> {
    let is_built_in = CUDA::is_available().map_err(|error| error.to_string())?;
    if !is_built_in {
        return Err("this ONNX Runtime was built without CUDA".into());
    }
    let mut builder = Session::builder(environment).map_err(|error| error.to_string())?;
    cuda()
        .register(&mut builder)
        .map_err(|error| error.to_string())
}

/// Kept for the life of the process: the library allows one environment, and it must outlive every session.
static BACKEND: Mutex<Option<Backend>> = Mutex::new(None);

/// Starts the backend, once for the whole process. Asking again for the same gives the same; asking for another one
/// is an error. After a failure nothing is chosen, and the call can be repeated.
pub fn init_backend(config: &RuntimeConfig) -> Result<Backend, RuntimeError> {
    config.check()?;
    let kind = match &config.library {
        Some(path) => BackendKind::OnnxRuntime(path.clone()),
        None => BackendKind::Tract,
    };
    let mut chosen = BACKEND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(backend) = chosen.as_ref() {
        if backend.config == *config {
            return Ok(backend.clone());
        }
        return Err(RuntimeError::AlreadyChosen {
            running: backend.to_string(),
            asked: format!(
                "{kind}, device {}, {} threads",
                config.device, config.threads
            ),
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
    let cuda = match (&kind, config.device) {
        (BackendKind::Tract, _) | (_, Device::Cpu) => Err("not asked for".to_owned()),
        (BackendKind::OnnxRuntime(_), _) => try_cuda(&environment),
    };
    if let (Err(reason), Device::Cuda) = (&cuda, config.device) {
        return Err(RuntimeError::Cuda {
            reason: reason.clone(),
        });
    }
    let backend = Backend {
        config: config.clone(),
        kind,
        cuda: cuda.is_ok(),
        environment,
    };
    match &cuda {
        Err(reason) if config.device == Device::Auto && backend.kind != BackendKind::Tract => {
            tracing::info!(%backend, cuda = reason, "inference runs");
        }
        _ => tracing::info!(%backend, "inference runs"),
    }
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
