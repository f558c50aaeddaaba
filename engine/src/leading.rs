//! What only the leader of a realm runs: agents, settlement, ticks, and the topics around the log.

use std::net::SocketAddr;
use std::sync::Arc;

use karat_sequencer::IngressOffset;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch as signal;
use tokio::task::JoinHandle;

use crate::core::Core;
use crate::role::Role;
use crate::service::{Failure, ServiceError, genesis, report};
use crate::settlement::{Chain, Driver, Settlement};
use crate::ticker;
use crate::verifier::{ModelFolders, Verifier};

/// Tasks of a running engine by their names.
pub(crate) type Tasks = Arc<Mutex<Vec<(&'static str, JoinHandle<()>)>>>;

/// Everything that leading needs, ready before it begins: models are loaded and the chain is open.
pub(crate) struct Leading {
    pub(crate) core: Arc<Core>,
    pub(crate) folders: ModelFolders,
    pub(crate) chain: Chain,
    pub(crate) settlement: Arc<Settlement>,
    pub(crate) verifier: Arc<Verifier>,
    /// Runs what is behind the log.
    pub(crate) behind: Handle,
    pub(crate) tasks: Tasks,
    pub(crate) fail: Failure,
    pub(crate) stop: signal::Receiver<bool>,
}

impl Leading {
    /// Opens the realm if it is new, takes commands, and starts what a leader runs. `consumed` is how far the log says that
    /// topics of commands were read.
    /// `anywhere` says that the realm may have been led from another folder, as where a follower becomes the leader or a
    /// realm moves.
    ///
    /// # Errors
    /// When the realm's first command is refused, or settlement cannot begin. Who may lead anywhere goes on without
    /// settlement then, because its chain may lie in the folder of the leader before it.
    pub(crate) async fn begin(
        self,
        consumed: Vec<IngressOffset>,
        anywhere: bool,
    ) -> Result<(), ServiceError> {
        let Leading {
            core,
            folders,
            chain,
            settlement,
            verifier,
            behind,
            tasks,
            fail,
            stop,
        } = self;
        if core.view.applied_seq() == 0 {
            genesis(&core, &folders).await?;
        }
        let client = chain.client.clone();
        // Opened first where a failure ends the start, and last where clients wait for a new leader.
        let opening = Driver::open(core.clone(), settlement, chain);
        let (mut driver, mut opening) = (None, Some(opening));
        if !anywhere && let Some(opening) = opening.take() {
            driver = Some(opening.await?);
        }
        core.role.set(Role::Leader);
        let start = |name, task: JoinHandle<()>| tasks.lock().push((name, task));
        let reporting = fail.clone();
        let feed = async move { report("the agents' feed", &reporting, verifier.run().await) };
        start("agents", behind.spawn(feed));
        start(
            "ticker",
            tokio::spawn(ticker::run(core.clone(), client, stop.clone())),
        );
        #[cfg(feature = "kafka")]
        topics(&core, consumed, &fail, &stop, start);
        #[cfg(not(feature = "kafka"))]
        drop(consumed);
        if let Some(opening) = opening {
            match opening.await {
                Ok(opened) => driver = Some(opened),
                Err(error) => {
                    tracing::error!(%error, "this engine leads without settling: batches wait for an engine that has the chain");
                }
            }
        }
        let Some(driver) = driver else {
            return Ok(());
        };
        let reporting = fail.clone();
        let settle = async move { report("settlement", &reporting, driver.run(stop).await) };
        start("settlement", behind.spawn(settle));
        Ok(())
    }
}

/// Starts reading the topic of commands and publishing events, where they are configured.
#[cfg(feature = "kafka")]
fn topics(
    core: &Arc<Core>,
    consumed: Vec<IngressOffset>,
    fail: &Failure,
    stop: &signal::Receiver<bool>,
    start: impl Fn(&'static str, JoinHandle<()>),
) {
    if core.config.log.kind != "kafka" {
        return;
    }
    if core.config.log.kafka.commands {
        let (reporting, taking, stops) = (fail.clone(), core.clone(), stop.clone());
        let take = async move {
            let ended = crate::kafka::take_commands(taking, consumed, stops).await;
            report("the topic of commands", &reporting, ended);
        };
        start("commands", tokio::spawn(take));
    }
    if core.config.log.kafka.events {
        let (reporting, publishing) = (fail.clone(), core.clone());
        let publish = async move {
            let ended = crate::kafka::publish_events(publishing).await;
            report("the topic of events", &reporting, ended);
        };
        start("events", tokio::spawn(publish));
    }
}

/// Where others reach this engine.
pub(crate) fn advertised(core_config: &crate::config::Config, address: SocketAddr) -> String {
    match core_config.gateway.advertise.as_str() {
        "" => address.to_string(),
        advertised => advertised.to_owned(),
    }
}

/// Follows until this engine stops or leads, and then begins to lead.
#[cfg(feature = "kafka")]
pub(crate) fn follow(
    leading: Leading,
    following: crate::kafka::follower::Following,
    address: String,
) -> Result<std::thread::JoinHandle<Option<crate::machine::LedgerMachine>>, ServiceError> {
    use crate::kafka::follower::{self, Ended};
    let (promoted, promotion) = tokio::sync::oneshot::channel();
    let (core, stop) = (leading.core.clone(), leading.stop.clone());
    let (tasks, fail) = (leading.tasks.clone(), leading.fail.clone());
    core.role.set(Role::Follower);
    let reporting = fail.clone();
    let thread = std::thread::Builder::new()
        .name("karat-follower".to_owned())
        .spawn(
            move || match follower::run(&core, following, &address, &stop) {
                Ok(Ended::Stopped(machine)) => Some(*machine),
                Ok(Ended::Leads(recovery)) => {
                    // Nobody waits for it when the engine stops at this moment.
                    let _ = promoted.send(recovery.ingress);
                    None
                }
                Err(error) => {
                    report("following the log", &reporting, Err(error));
                    None
                }
            },
        )
        .map_err(|source| ServiceError::Io {
            what: "start a thread",
            source,
        })?;
    let begin = async move {
        if let Ok(consumed) = promotion.await {
            report(
                "leading the realm",
                &fail,
                leading.begin(consumed, true).await,
            );
        }
    };
    tasks.lock().push(("promotion", tokio::spawn(begin)));
    Ok(thread)
}
