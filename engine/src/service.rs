//! The whole engine: its stages built last to first, stopped first to last.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use karat_agents::AgentsError;
use karat_edge_node::manifest::Manifest;
use karat_proto::v1::command::Kind;
use karat_proto::{Code, convert, limits, v1};
use karat_sequencer::{Ack, LogError};
use karat_store::{EmbeddedStore, Store, StoreError};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch as signal;
use tokio::task::JoinHandle;

use crate::background::{self, Background};
use crate::config::Config;
use crate::core::{Core, CoreError, CoreThreads, OpenSummary};
use crate::digests::DigestRecorder;
use crate::gateway::{AckTracker, Gateway, GatewayError};
use crate::history;
use crate::latency::Latencies;
use crate::leading::{self, Leading, Tasks};
use crate::projector::{Projector, ProjectorError};
use crate::realm_log::{Opening, Place};
use crate::settlement::{Chain, ChainSetupError, DriverError, Settlement};
use crate::snapshotter;
use crate::verifier::{ModelFolders, Verifier};

/// Where the first failure of a part is noted.
pub(crate) type Failure = Arc<signal::Sender<Option<String>>>;

/// How often the parts are asked whether they failed.
const HEALTH_LOOK: Duration = Duration::from_millis(200);
/// How long the tasks behind the ledger get to end when the engine stops.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// An answer that waits for a verdict or the chain may be this much later.
const ACKS_PAUSE: Duration = Duration::from_millis(1);

/// Why the engine cannot run.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// The realm.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// The data folder.
    #[error(transparent)]
    DataFolder(#[from] crate::data_folder::DataFolderError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Projecting into it.
    #[error(transparent)]
    Projector(#[from] ProjectorError),
    /// The chain.
    #[error(transparent)]
    Chain(#[from] ChainSetupError),
    /// Settlement.
    #[error(transparent)]
    Settlement(#[from] DriverError),
    /// The agents.
    #[error(transparent)]
    Agents(#[from] AgentsError),
    /// Models.
    #[error("{0}")]
    Models(String),
    /// The gateway.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// A file.
    #[error("{what}: {source}")]
    Io {
        /// Which.
        what: &'static str,
        /// Cause.
        source: std::io::Error,
    },
    /// The realm's first command was refused.
    #[error("open the realm: {0}")]
    Genesis(String),
    /// A part failed while running.
    #[error("{0}")]
    Failed(String),
}

/// What runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything.
    Full,
    /// Only what answers questions about a folder: no agents, no settlement, no ticks, and no command gets in.
    ReadOnly,
}

/// A running engine.
pub struct Service {
    /// What the gateway shares with everyone.
    pub gateway: Arc<Gateway>,
    /// Where it listens.
    pub address: SocketAddr,
    /// What was found when it was opened.
    pub opened: OpenSummary,
    core: Arc<Core>,
    threads: CoreThreads,
    stop: signal::Sender<bool>,
    failed: signal::Receiver<Option<String>>,
    tasks: Tasks,
    behind: Background,
}

/// How an engine's clients come to it.
enum Door {
    /// On a port of its own.
    Own(TcpListener),
    /// Through a process that holds several realms; the place in its log is where the engine begins, if one is known.
    #[cfg_attr(not(feature = "kafka"), allow(dead_code))]
    Shared(Option<Place>),
}

impl Service {
    /// Opens everything and begins to serve.
    ///
    /// # Errors
    /// Names the part that cannot be opened, and what to do.
    pub async fn start(config: Config, mode: Mode) -> Result<Service, ServiceError> {
        // The port first: a second engine on it should not touch anything else.
        let listener = Gateway::bind(config.gateway.listen).await?;
        let address = listener.local_addr().map_err(|source| ServiceError::Io {
            what: "read the port",
            source,
        })?;
        let advertised = leading::advertised(&config, address);
        Service::open(config, mode, Door::Own(listener), address, advertised).await
    }

    /// Opens everything in a process that holds several realms, whose clients reach it at `address` and, as others say it,
    /// at `advertised`; [`Gateway::routes`] answers them. It leads without settling where the chain is not here.
    ///
    /// # Errors
    /// Names the part that cannot be opened, and what to do.
    #[cfg(feature = "kafka")]
    pub async fn start_hosted(
        config: Config,
        address: SocketAddr,
        advertised: String,
        place: Option<Place>,
    ) -> Result<Service, ServiceError> {
        Service::open(config, Mode::Full, Door::Shared(place), address, advertised).await
    }

    async fn open(
        config: Config,
        mode: Mode,
        door: Door,
        address: SocketAddr,
        advertised: String,
    ) -> Result<Service, ServiceError> {
        let folders = match mode {
            Mode::Full => ModelFolders::find(&config.data.models_dir, &config.models.trust())
                .map_err(ServiceError::Models)?,
            Mode::ReadOnly => ModelFolders::default(),
        };
        if mode == Mode::Full && folders.auditors.is_empty() {
            let dir = config.data.models_dir.display();
            return Err(ServiceError::Models(format!(
                "models {dir}: no folder there holds an auditor, and nothing is verified without one; set data.models_dir"
            )));
        }
        let (listener, place) = match door {
            Door::Own(listener) => (Some(listener), None),
            Door::Shared(place) => (None, place),
        };
        let opening = config.clone();
        let how = match mode {
            Mode::Full if config.log.follow => Opening::Follow,
            Mode::Full => Opening::Lead,
            Mode::ReadOnly => Opening::Read,
        };
        let told = advertised.clone();
        let (core, mut threads, opened) =
            tokio::task::spawn_blocking(move || Core::open(&opening, how, &told, place.as_ref()))
                .await
                .map_err(|error| ServiceError::Failed(error.to_string()))??;
        if mode == Mode::Full {
            core.folder.note_config(&config)?;
        }
        if mode == Mode::ReadOnly && core.view.applied_seq() == 0 {
            return Err(ServiceError::Failed("the log is empty".into()));
        }
        let behind = background::runtime().map_err(|source| ServiceError::Io {
            what: "start background threads",
            source,
        })?;
        let store_folder = core.folder.store();
        let store = behind
            .spawn_blocking(move || EmbeddedStore::open(store_folder))
            .await
            .map_err(|error| ServiceError::Failed(error.to_string()))??;
        let store: Arc<dyn Store> = Arc::new(store);
        let chain = Chain::open(&core.folder, &config.settlement).await?;
        let settlement = Settlement::new(core.clone(), chain.client.clone());
        let mut verifier = None;
        if mode == Mode::Full {
            let (starting, with) = (core.clone(), folders.clone());
            let started = behind
                .spawn_blocking(move || Verifier::start(starting, &with))
                .await
                .map_err(|error| ServiceError::Failed(error.to_string()))??;
            verifier = Some(started);
        }
        let projector = {
            let (core, store) = (core.clone(), store.clone());
            let catches_up = mode == Mode::ReadOnly;
            let opening = behind.spawn_blocking(move || {
                let mut projector = Projector::open(core, store)?;
                if catches_up {
                    projector.catch_up()?;
                }
                Ok::<_, ProjectorError>(projector)
            });
            opening
                .await
                .map_err(|error| ServiceError::Failed(error.to_string()))??
        };
        let latencies = Arc::new(Latencies::default());
        let waiting_max = config.gateway.waiting_outcomes_max;
        let acks = Arc::new(AckTracker::new(
            core.view.clone(),
            latencies.clone(),
            waiting_max,
        ));
        let gateway = Gateway::new(
            core.clone(),
            store,
            settlement.clone(),
            verifier.clone(),
            acks.clone(),
            latencies,
        );
        let (stop, stopped) = signal::channel(false);
        let (fail, failed) = signal::channel(None);
        let fail = Arc::new(fail);
        let tasks = Tasks::default();
        let start = |name, task: JoinHandle<()>| tasks.lock().push((name, task));
        let (watched, reporting, stops) = (core.clone(), fail.clone(), stopped.clone());
        start(
            "ledger watch",
            tokio::spawn(watch_health(watched, reporting, stops)),
        );
        let (reporting, acks_core) = (fail.clone(), core.clone());
        start("acks", tokio::spawn(run_acks(acks_core, acks, reporting)));
        let reporting = fail.clone();
        start(
            "store",
            behind.spawn(async move { report("the store", &reporting, projector.run().await) }),
        );
        if let Some(verifier) = verifier {
            let recorder = DigestRecorder::open(&core.folder.digests()).map_err(|source| {
                ServiceError::Io {
                    what: "open digests.log",
                    source,
                }
            })?;
            let snapshots = snapshotter::run(core.clone(), recorder, stopped.clone());
            start("snapshots", behind.spawn(snapshots));
            let leading = Leading {
                core: core.clone(),
                folders,
                chain,
                settlement,
                verifier,
                behind: behind.clone(),
                tasks: tasks.clone(),
                fail: fail.clone(),
                stop: stopped.clone(),
            };
            match threads.followed.take() {
                None => {
                    let anywhere = listener.is_none();
                    let begun = leading.begin(opened.log.ingress.clone(), anywhere).await;
                    if let Err(error) = begun {
                        // They hold the folder open.
                        tasks.lock().drain(..).for_each(|(_, task)| task.abort());
                        return Err(error);
                    }
                }
                #[cfg(feature = "kafka")]
                Some(followed) => {
                    let following = crate::kafka::follower::Following {
                        follower: *followed.follower,
                        machine: followed.machine,
                    };
                    threads.follower = Some(leading::follow(leading, following, advertised)?);
                }
                #[cfg(not(feature = "kafka"))]
                Some(followed) => match *followed.follower {},
            }
        }
        if core.hub.first_seq() > 1 && mode == Mode::Full {
            let (filling, stops) = (core.clone(), stopped.clone());
            let fill = behind.spawn_blocking(move || {
                if let Err(error) = history::fill(&filling, &stops) {
                    tracing::error!(%error, "lists and histories stay behind until the next start");
                }
            });
            start("history", fill);
        }
        if let Some(listener) = listener {
            let serving = gateway.clone();
            let serve =
                async move { report("the gateway", &fail, serving.serve(listener, stopped).await) };
            start("gateway", tokio::spawn(serve));
        }
        if mode == Mode::Full {
            behind.step_back();
        }
        Ok(Service {
            gateway,
            address,
            opened,
            core,
            threads,
            stop,
            failed,
            tasks,
            behind,
        })
    }

    /// Waits until a part fails; says which and why.
    pub async fn failure(&self) -> String {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(cause) => cause.clone().unwrap_or_default(),
            Err(_) => "every part has ended".into(),
        }
    }

    /// Whether this engine was replaced as the leader, or does not know whether it leads: who follows begins anew then.
    pub fn begins_anew(&self) -> bool {
        let poison = self.core.sequencer().and_then(|one| one.poisoned());
        matches!(poison, Some(LogError::Overtaken { .. })) || self.core.role.is_unsettled()
    }

    /// Stops taking work, finishes what was taken, flushes, and writes a snapshot.
    ///
    /// # Errors
    /// When the last flush fails.
    pub async fn stop(self) -> Result<(), ServiceError> {
        self.end(true).await
    }

    /// As [`Service::stop`], without a snapshot: nothing new is left in the folder.
    ///
    /// # Errors
    /// When the last flush fails.
    pub async fn close(self) -> Result<(), ServiceError> {
        self.end(false).await
    }

    async fn end(self, snapshot: bool) -> Result<(), ServiceError> {
        let Service {
            gateway,
            core,
            threads,
            stop,
            tasks,
            behind,
            ..
        } = self;
        let _ = stop.send(true);
        let mut waiting = Vec::new();
        let tasks = std::mem::take(&mut *tasks.lock());
        for (name, task) in tasks {
            // These end with the stream of events or never by themselves.
            if matches!(
                name,
                "store" | "acks" | "agents" | "ledger watch" | "events"
            ) {
                task.abort();
            }
            waiting.push((name, task));
        }
        let deadline = tokio::time::Instant::now() + STOP_WAIT;
        for (name, task) in waiting {
            if tokio::time::timeout_at(deadline, task).await.is_err() {
                tracing::warn!(name, "did not end in time");
            }
        }
        if let Some(verifier) = &gateway.verifier {
            verifier.agents().clone().stop().await;
        }
        // Whatever is left behind the ledger holds no state of its own.
        drop(behind);
        gateway.store.flush()?;
        drop(gateway);
        tokio::task::spawn_blocking(move || threads.stop(&core, snapshot))
            .await
            .map_err(|error| ServiceError::Failed(error.to_string()))??;
        Ok(())
    }
}

pub(crate) fn report<E: std::fmt::Display>(
    part: &str,
    fail: &signal::Sender<Option<String>>,
    ended: Result<(), E>,
) {
    if let Err(error) = ended {
        tracing::error!(part, %error, "a part of the engine failed");
        fail.send_if_modified(|cause| {
            let first = cause.is_none();
            if first {
                *cause = Some(format!("{part}: {error}"));
            }
            first
        });
    }
}

async fn watch_health(core: Arc<Core>, fail: Failure, mut stop: signal::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(HEALTH_LOOK) => {}
            _ = stop.changed() => return,
        }
        if let Some(cause) = core.sequencer().and_then(|one| one.poisoned()) {
            return report("the log", &fail, Err(cause));
        }
        if let Some(cause) = core.hub.failure() {
            return report("the stream of events", &fail, Err(cause));
        }
    }
}

async fn run_acks(core: Arc<Core>, acks: Arc<AckTracker>, fail: Failure) {
    let mut reader = core.events(core.hub.written_seq() + 1, true, ACKS_PAUSE);
    loop {
        match reader.next(4096).await {
            Ok(Some(blocks)) => {
                for event in blocks.iter().flat_map(|block| &block.events) {
                    acks.on_event(event.sequence, &event.kind);
                }
            }
            Ok(None) => return,
            Err(error) => return report("waiting acks", &fail, Err(error)),
        }
    }
}

/// Enters the realm's first command.
pub(crate) async fn genesis(core: &Core, folders: &ModelFolders) -> Result<(), ServiceError> {
    let settings = &core.config.policy;
    let (mut accept_below_ppm, mut reject_above_ppm) =
        (settings.accept_below_ppm, settings.reject_above_ppm);
    let mut near_duplicate_below_ppm = u32::try_from(settings.near_duplicate_below_ppm).ok();
    let states_all = accept_below_ppm != 0 && reject_above_ppm != 0;
    if (!states_all || near_duplicate_below_ppm.is_none())
        && let Some(folder) = folders.auditors.first()
    {
        let manifest =
            Manifest::load(folder).map_err(|error| ServiceError::Models(error.to_string()))?;
        if let Some(auditor) = manifest.auditor {
            if !states_all {
                accept_below_ppm = auditor.accept_below_ppm;
                reject_above_ppm = auditor.reject_above_ppm;
            }
            let stated = auditor.near_duplicate_ppm.min(limits::DISTANCE_PPM_MAX);
            near_duplicate_below_ppm = near_duplicate_below_ppm.or(Some(stated));
        }
    }
    let policy = v1::Policy {
        version: 1,
        accept_below_ppm,
        reject_above_ppm,
        reexecution_sample_ppm: settings.reexecution_sample_ppm,
        batch_changes_max: settings.batch_changes_max,
        batch_age_ms_max: settings.batch_age_ms_max,
        batch_base_fee_wei_max: settings.batch_base_fee_wei_max,
        batch_deferral_ms_max: settings.batch_deferral_ms_max,
        retry_window_commands: settings.retry_window_commands,
        near_duplicate_below_ppm: near_duplicate_below_ppm.unwrap_or(0),
        drift_review_above_ppm: settings.drift_review_above_ppm,
        model_keys: core
            .config
            .models
            .trust()
            .keys
            .iter()
            .map(|key| Bytes::copy_from_slice(key))
            .collect(),
        require_signed_models: core.config.models.require_signed,
    };
    let account = |account: &karat_proto::Account| Bytes::copy_from_slice(&account.0);
    let roles = core.roles;
    let realm = core.config.realm.name.clone();
    let command = convert::new_command(
        crate::core::derived_id(&format!("{realm}: genesis")),
        roles.operator,
        Kind::Genesis(v1::Genesis {
            realm,
            operator: account(&roles.operator),
            verifier: account(&roles.verifier),
            settler: account(&roles.settler),
            policy: Some(policy),
        }),
    );
    let outcome = core
        .execute(command, Ack::Durable)
        .await
        .map_err(|refused| ServiceError::Genesis(refused.to_string()))?;
    match outcome.code {
        Code::Accepted => Ok(()),
        code => Err(ServiceError::Genesis(format!(
            "{}: {}",
            code.name(),
            code.hint()
        ))),
    }
}
