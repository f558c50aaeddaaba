//! Starting the agents, and the handle by which the engine uses them.

use std::sync::{Arc, PoisonError, mpsc};
use std::time::{Duration, Instant};

use actix::prelude::*;
use karat_proto::{AssetId, CollectionId};
use tokio::sync::{Semaphore, watch};

use crate::config::{AgentsConfig, AgentsError};
use crate::dispatcher::{Dispatcher, Offer, Stop, Threads};
use crate::inspection::Surroundings;
use crate::models::ModelFolders;
use crate::oracle::{Oracle, OracleSource};
use crate::similarity::{Bounds, CollectionSimilarity, Similarity};
use crate::stats::{AgentsStats, Figures};
use crate::{AgentHost, Job};

/// How long stopping waits for workers to finish their batch. A stuck one does not hold the process up longer.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// The verification agents.
pub struct Agents;

impl Agents {
    /// Loads the auditor and checks the generators' folders, then starts the actor system on a thread of its own and
    /// each worker on another. Blocks for as long as the models take to load.
    ///
    /// # Errors
    /// [`AgentsError::Setting`] for a number out of its range, [`AgentsError::Models`] for a model that cannot be
    /// loaded, [`AgentsError::Thread`].
    pub fn start(
        config: AgentsConfig,
        host: Arc<dyn AgentHost>,
    ) -> Result<AgentsHandle, AgentsError> {
        let source = ModelFolders {
            auditor: config.auditor.clone(),
            generators: config.models.clone(),
            trust: config.trust.clone(),
        };
        Agents::start_with(config, host, Arc::new(source))
    }

    /// The same with models of one's own; the folders in `config` are not looked at.
    ///
    /// # Errors
    /// As [`Agents::start`].
    pub fn start_with(
        config: AgentsConfig,
        host: Arc<dyn AgentHost>,
        source: Arc<dyn OracleSource>,
    ) -> Result<AgentsHandle, AgentsError> {
        config.check()?;
        let loaded = source.open()?;
        let permits = Arc::new(Semaphore::new(config.permits));
        let figures = Arc::new(Figures::new());
        let bounds = Bounds {
            assets_max: config.similar_assets_max,
            collections_max: config.similar_collections_max,
        };
        let similarity = Arc::new(Similarity::open(
            loaded.reference().cloned(),
            bounds,
            config.similarity_folder.as_deref(),
            host.as_ref(),
        ));
        let around = Surroundings {
            host,
            source,
            rules: config.rules,
            figures: figures.clone(),
            similarity: similarity.clone(),
        };
        let permits_all = config.permits;
        let (ready, readiness) = mpsc::sync_channel(1);
        let (over, ended) = watch::channel(false);
        let parts = (config, around, permits.clone(), loaded);
        std::thread::Builder::new()
            .name("karat-agents".into())
            .spawn(move || {
                let threads = Threads::default();
                run(parts, threads.clone(), &ready);
                wait_for(&threads);
                let _ = over.send(true);
            })?;
        let dispatcher = readiness.recv().map_err(|_| AgentsError::NotReady)?;
        Ok(AgentsHandle {
            dispatcher,
            permits,
            permits_all,
            figures,
            similarity,
            ended,
        })
    }
}

/// The actor system, until it is stopped.
fn run(
    parts: (AgentsConfig, Surroundings, Arc<Semaphore>, Box<dyn Oracle>),
    threads: Threads,
    ready: &mpsc::SyncSender<Addr<Dispatcher>>,
) {
    let (config, around, permits, loaded) = parts;
    let system = System::new();
    let dispatcher = system
        .block_on(async { Dispatcher::new(config, around, permits, threads, loaded).start() });
    if ready.send(dispatcher).is_err() {
        return;
    }
    if let Err(error) = system.run() {
        tracing::error!(%error, "the agents' actor system ended");
    }
}

/// Waits for workers to finish their batch, for [`STOP_WAIT`] at most.
fn wait_for(threads: &Threads) {
    let deadline = Instant::now() + STOP_WAIT;
    while Instant::now() < deadline {
        let threads = threads.lock().unwrap_or_else(PoisonError::into_inner);
        if threads.iter().all(|thread| thread.strong_count() == 0) {
            return;
        }
        drop(threads);
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Offers jobs and reads figures. Clones are the same agents.
#[derive(Clone)]
pub struct AgentsHandle {
    dispatcher: Addr<Dispatcher>,
    permits: Arc<Semaphore>,
    permits_all: usize,
    figures: Arc<Figures>,
    similarity: Arc<Similarity>,
    ended: watch::Receiver<bool>,
}

impl AgentsHandle {
    /// Hands in a job, waiting for a permit: this is the only backpressure. Waiting jobs are taken in their order. After
    /// [`AgentsHandle::stop`] the job is dropped: its asset is open in the ledger and is offered again after a restart.
    pub async fn offer(&self, job: Job) {
        if let Ok(permit) = self.permits.clone().acquire_owned().await {
            self.dispatcher.do_send(Offer { job, permit });
        }
    }

    /// Hands in a job if a permit is free.
    ///
    /// # Errors
    /// Gives the job back when there is none, or when the agents are stopped.
    // The job comes back whole: the caller keeps it, so its size on this path is no cost.
    #[allow(clippy::result_large_err)]
    pub fn try_offer(&self, job: Job) -> Result<(), Job> {
        match self.permits.clone().try_acquire_owned() {
            Ok(permit) => {
                self.dispatcher.do_send(Offer { job, permit });
                Ok(())
            }
            Err(_) => Err(job),
        }
    }

    /// Figures since the start.
    pub fn stats(&self) -> AgentsStats {
        let in_flight = self.permits_all - self.permits.available_permits();
        self.figures.read(in_flight as u64)
    }

    /// What is known of the collections' looks: assets to compare with, and drift.
    pub fn similarity(&self) -> Vec<CollectionSimilarity> {
        self.similarity.figures()
    }

    /// Takes note that an asset ended or was rejected: nothing is found to be like it any more.
    pub fn forget(&self, collection: CollectionId, asset: AssetId) {
        self.similarity.forget(collection, asset);
    }

    /// Whether jobs are taken: false after [`AgentsHandle::stop`], or if the dispatcher itself broke down.
    pub fn is_running(&self) -> bool {
        !self.permits.is_closed()
    }

    /// Stops taking jobs, drops the open ones (they are open in the ledger) and waits until the workers have finished
    /// their batch, for two seconds at most.
    pub async fn stop(self) {
        self.permits.close();
        self.dispatcher.do_send(Stop);
        let mut ended = self.ended.clone();
        // An error means that the thread is gone, which is what is waited for.
        let _ = ended.wait_for(|over| *over).await;
    }
}
