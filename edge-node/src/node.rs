//! A running node: generates assets with a model and streams them to an engine, with no loss and no double.
//!
//! Two threads work on one spool. The first generates: it draws traits from seeds, runs the model in micro-batches and
//! puts assets into the spool. The second holds the connection: it sends what is in the spool, never more than the
//! engine gave credits for, and drops what has its final outcome. While the engine is away the first goes on until the
//! spool is full; when it is back, everything without an outcome is sent again under the same command ids.
//!
//! With a schedule to keep, generating steps down to a cheaper variant of the model under load and climbs back when there
//! is room; each asset's lineage names the variant that made it.

mod budget;
mod figures;
mod generation;
mod probes;
mod rungs;
mod shared;
mod spoil;
mod spool;
mod uplink;

#[cfg(test)]
mod spool_tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use karat_proto::realm::RealmName;
use karat_proto::{Account, CollectionId, limits};
use thiserror::Error;
use tokio::sync::{oneshot, watch};

use crate::generator::{GeneratorError, MICRO_BATCH_MOST};
use crate::ladder::LadderConfig;
use crate::rarity::RarityError;
use crate::runtime::RuntimeError;
use crate::seeds::Secret;
use crate::signature::{ModelTrust, SignatureError};

pub use budget::{Budget, BudgetSnapshot, Made, OnTheWay, STAGES, Spent, StageSnapshot};
pub use figures::{NodeFigures, NodeSnapshot};
pub use probes::{FRESH_FOR, PROBES_FILE, PROBES_MOST, ProbeKey, Probes};
pub use spool::{DEAD_BYTES_MAX, INDEXES_A_RESERVATION, Spool, SpoolError, SpooledAsset, mint_id};

use shared::Shared;

/// Most assets that a spool may be asked to hold: at the usual 6 KiB an asset, 6 GiB.
pub const SPOOL_ASSETS_MOST: usize = 1_000_000;
/// Highest rate that can be asked for, assets a second.
pub const RATE_MOST: f64 = 1_000_000.0;
/// Longest time that an asset can be asked to wait for company.
pub const MICRO_BATCH_WAIT_MOST: Duration = Duration::from_secs(1);

/// How a node runs.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Where the engine listens: `http://host:port`; of engines that share realms, any one.
    pub target: String,
    /// The realm to generate for, wherever among those engines it is; none for an engine with one realm.
    pub realm: Option<RealmName>,
    /// The node's name, 1 to 64 bytes.
    pub name: String,
    /// Account that mints: the collection's creator.
    pub account: Account,
    /// Collection to mint into.
    pub collection: CollectionId,
    /// The collection's secret, from which every seed follows.
    pub secret: Secret,
    /// The model's folder.
    pub model_dir: PathBuf,
    /// Whose signatures of models count, and whether the model must have one.
    pub model_trust: ModelTrust,
    /// The variant that makes every asset; none lets the ladder choose under load.
    pub variant: Option<String>,
    /// The best variant that the ladder may use, and the one it starts with; none takes the manifest's default.
    pub best_variant: Option<String>,
    /// When the ladder steps down and up. It is used where no variant is pinned and there is a rate.
    pub ladder: LadderConfig,
    /// Assets a second, by schedule; 0 for as fast as credits allow.
    pub assets_a_second: f64,
    /// The run ends after so many newly generated assets have their final outcome; none for no end.
    pub assets_max: Option<u64>,
    /// Folder of the spool. One node, one collection and one secret a folder.
    pub spool_dir: PathBuf,
    /// Most assets that wait in the spool, 1 to [`SPOOL_ASSETS_MOST`].
    pub spool_assets_max: usize,
    /// Most assets of one micro-batch, 1 to [`MICRO_BATCH_MOST`].
    pub micro_batch_max: usize,
    /// Longest time that an asset which is due is held back for more to fill its micro-batch, at most
    /// [`MICRO_BATCH_WAIT_MOST`]; 0 takes what is due at once.
    pub micro_batch_wait: Duration,
    /// Share of images spoiled on purpose, parts per million, so that a demonstration shows rejections; 0 for none.
    pub spoil_ppm: u32,
}

/// A node cannot start or go on.
#[derive(Debug, Error)]
pub enum NodeError {
    /// A setting makes no sense.
    #[error("{setting}: {reason}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// Why.
        reason: String,
    },
    /// The model cannot be loaded or run.
    #[error(transparent)]
    Generator(#[from] GeneratorError),
    /// The model is not signed as it must be.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Traits cannot be drawn.
    #[error("the model's trait rules: {0}")]
    Rarity(#[from] RarityError),
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The engine will not have this node, now or later.
    #[error("the engine at {target} refuses this node: {reason}")]
    Refused {
        /// The engine.
        target: String,
        /// What it said.
        reason: String,
    },
    /// A thread could not be started or died.
    #[error("the node's {part} thread {reason}")]
    Thread {
        /// Which.
        part: &'static str,
        /// What happened to it.
        reason: String,
    },
}

impl From<RuntimeError> for NodeError {
    fn from(error: RuntimeError) -> NodeError {
        GeneratorError::from(error).into()
    }
}

impl NodeConfig {
    fn check(&self) -> Result<(), NodeError> {
        let refuse = |setting, reason: String| Err(NodeError::Setting { setting, reason });
        let within = |value: usize, most: usize| (1..=most).contains(&value);
        if !within(self.name.len(), limits::NAME_BYTES_MAX) {
            return refuse("name", "must have 1 to 64 bytes".into());
        }
        if self.account.is_nobody() {
            return refuse(
                "account",
                "must be the collection's creator, not nobody".into(),
            );
        }
        if !self.assets_a_second.is_finite() || !(0.0..=RATE_MOST).contains(&self.assets_a_second) {
            let reason = format!(
                "{} is not 0 to {RATE_MOST} assets a second",
                self.assets_a_second
            );
            return refuse("assets_a_second", reason);
        }
        if !within(self.spool_assets_max, SPOOL_ASSETS_MOST) {
            return refuse(
                "spool_assets_max",
                format!("must be 1 to {SPOOL_ASSETS_MOST}"),
            );
        }
        if !within(self.micro_batch_max, MICRO_BATCH_MOST) {
            return refuse(
                "micro_batch_max",
                format!("must be 1 to {MICRO_BATCH_MOST}"),
            );
        }
        if self.micro_batch_wait > MICRO_BATCH_WAIT_MOST {
            let most_ms = MICRO_BATCH_WAIT_MOST.as_millis();
            return refuse("micro_batch_wait", format!("must be 0 to {most_ms} ms"));
        }
        if self.variant.is_some() && self.best_variant.is_some() {
            return refuse(
                "best_variant",
                "a pinned variant leaves nothing to choose; give one of the two".into(),
            );
        }
        if self.spoil_ppm > limits::PPM {
            return refuse("spoil_ppm", format!("must be 0 to {}", limits::PPM));
        }
        Ok(())
    }
}

/// Runs a node until `stop` is true (or its sender is gone), or until `assets_max` newly generated assets and what the
/// spool held before have their final outcomes. It also ends, cleanly, when the collection's supply is used up or the
/// model was retired, once all it generated is answered.
///
/// A lost connection is no error: it is opened again for as long as it takes, where the realm is by then. After a stop, outcomes under way are waited
/// for during [`STOP_GRACE`]; what has none by then stays in the spool for the next run.
///
/// # Errors
/// When a setting makes no sense, the model or the spool cannot be used, or the engine refuses the node for good.
pub async fn run(
    config: NodeConfig,
    figures: Arc<NodeFigures>,
    stop: watch::Receiver<bool>,
) -> Result<NodeSnapshot, NodeError> {
    config.check()?;
    uplink::check_target(&config.target)?;
    let commitment = config.secret.commitment();
    let spool_dir = config.spool_dir.clone();
    let (collection, assets_max) = (config.collection, config.spool_assets_max);
    // Opening may read and rewrite a large file.
    let spool = in_thread("spool", move || {
        Spool::open(&spool_dir, collection, &commitment, assets_max).map_err(NodeError::from)
    })?;
    let spool = finished("spool", spool).await?;
    let shared = Arc::new(Shared::new(spool, figures.clone()));
    // Whatever way this function is left, also by being dropped, the threads end.
    let _guard = shared::StopOnDrop(shared.clone());

    let (loaded_sender, loaded) = oneshot::channel();
    let generation = {
        let (shared, config) = (shared.clone(), config.clone());
        in_thread("generation", move || {
            generation::run(&shared, &config, loaded_sender)
        })?
    };
    let Ok(model) = loaded.await else {
        // It ended before it had a model: its own error says why.
        finished("generation", generation).await?;
        return Err(died("generation"));
    };
    let uplink = {
        let shared = shared.clone();
        in_thread("uplink", move || uplink::run(&shared, &config, model, stop))?
    };
    let uplinked = finished("uplink", uplink).await;
    shared.stop();
    finished("generation", generation).await?;
    uplinked?;
    shared.close_spool()?;
    Ok(figures.snapshot())
}

pub use uplink::STOP_GRACE;

fn in_thread<T: Send + 'static>(
    part: &'static str,
    work: impl FnOnce() -> Result<T, NodeError> + Send + 'static,
) -> Result<oneshot::Receiver<Result<T, NodeError>>, NodeError> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name(format!("karat-{part}"))
        .spawn(move || {
            let _ = sender.send(work());
        })
        .map_err(|error| NodeError::Thread {
            part,
            reason: format!("did not start: {error}"),
        })?;
    Ok(receiver)
}

async fn finished<T>(
    part: &'static str,
    receiver: oneshot::Receiver<Result<T, NodeError>>,
) -> Result<T, NodeError> {
    receiver.await.unwrap_or_else(|_| Err(died(part)))
}

fn died(part: &'static str) -> NodeError {
    NodeError::Thread {
        part,
        reason: "panicked; its message is in the log".into(),
    }
}
