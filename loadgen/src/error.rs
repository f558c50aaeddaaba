//! Why a run could not be made, or its result not be kept.

use std::path::Path;

use karat_proto::Code;
use thiserror::Error;
use tonic::Status;

use crate::client::chain;
use crate::lanes::refusal;

/// What stops this program. Books that do not close are no error but a result: see [`crate::report::Report::passed`].
#[derive(Debug, Error)]
pub enum LoadError {
    /// Nothing answers at the target's address.
    #[error(
        "cannot reach {target}: {cause}\nIs the engine running there? `karat serve --config karat.toml` starts one."
    )]
    Unreachable {
        /// The address as it was given.
        target: String,
        /// What the connection said.
        cause: String,
    },
    /// No broker answers.
    #[error(
        "cannot reach Kafka at {brokers}: {cause}\nIs a broker running there? `deploy/kafka/start.sh` starts one."
    )]
    Broker {
        /// The addresses as they were given.
        brokers: String,
        /// What the client said.
        cause: String,
    },
    /// The target does not do what a run needs before it can begin.
    #[error("setup failed at {step}: {cause}")]
    Setup {
        /// What was tried.
        step: &'static str,
        /// What came back, and what to do.
        cause: String,
    },
    /// The target follows another engine.
    #[error(
        "setup failed at {step}: {said}\nA realm takes commands from its leader alone: name that engine as --target (as --engine for a kafka:// target)."
    )]
    NotLeader {
        /// What was tried.
        step: &'static str,
        /// What the target said; it names the leader if it knows it.
        said: String,
    },
    /// Arguments that contradict each other.
    #[error("{0}")]
    Arguments(String),
    /// A scenario that cannot be played.
    #[error("scenario {path}: {cause}")]
    Scenario {
        /// Its file or name.
        path: String,
        /// What is wrong, with the place where the file says it.
        cause: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {cause}")]
    File {
        /// Which.
        path: String,
        /// Why.
        cause: String,
    },
    /// This machine gave no thread, socket or timer.
    #[error("{what}: {cause}")]
    Machine {
        /// What was asked for.
        what: &'static str,
        /// Why not.
        cause: std::io::Error,
    },
}

impl LoadError {
    /// A file that could not be read or written.
    pub fn file(path: &Path, cause: impl std::fmt::Display) -> LoadError {
        LoadError::File {
            path: path.display().to_string(),
            cause: cause.to_string(),
        }
    }

    /// A step of setup that the target answered with this status.
    pub(crate) fn in_setup(step: &'static str, status: &Status) -> LoadError {
        match refusal(status) {
            Some(code) if code == Code::NotLeader as u32 => LoadError::NotLeader {
                step,
                said: status.message().to_owned(),
            },
            _ => LoadError::Setup {
                step,
                cause: chain(status),
            },
        }
    }
}
