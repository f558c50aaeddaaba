//! Many realms in one process, and many such processes: `karat host`.
//!
//! A consumer group shares the realms among its members ([`crate::kafka::group`]): whoever is assigned a realm bids for
//! it. Who leads is decided by the realm's log alone, as for any engine; so a group that is wrong for a moment costs time
//! and no command.
//!
//! - `share.rs` says which realms the group is asked for, so that none falls to a process that has no room.
//! - `realm.rs` begins a realm, hands it on, and tries again.
//! - `places.rs` finds where it begins: a snapshot, and the place in the log behind it; `handing.rs` hands snapshots on.
//! - `door.rs` brings each request to its realm, or says where that is; `cut.rs` ends what is open when a realm moves.

mod cut;
pub mod door;
mod handing;
pub mod places;
pub mod realm;
mod share;
mod status;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use karat_proto::v1::host_server::HostServer;
use karat_sequencer::KafkaLog;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch as signal};
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;

use self::door::{Door, Rooms};
use self::realm::{Realm, Shared};
use self::share::Share;
use crate::config::Config;
use crate::core::CoreError;
use crate::gateway::{self, Gateway, GatewayError};
use crate::kafka::directory::Directory;
use crate::kafka::group::{Change, Member, Membership};
use crate::kafka::{self, KafkaPartError, lease};
use crate::{leading, realm_log};

/// How long open connections get to end when the process stops.
const LAST_CONNECTIONS: Duration = Duration::from_secs(2);
/// The file that says that a process has the data folder.
const LOCK: &str = "host.lock";

/// Why a host cannot run.
#[derive(Debug, Error)]
pub enum HostError {
    /// The configuration says nothing about a host, or what cannot be.
    #[error("config: {0}")]
    Config(String),
    /// The data folder.
    #[error("data folder {}: {reason}", path.display())]
    Folder {
        /// The folder.
        path: std::path::PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The port.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// Topics, or the group.
    #[error(transparent)]
    Kafka(#[from] KafkaPartError),
    /// A realm's log.
    #[error(transparent)]
    Log(#[from] karat_sequencer::KafkaError),
    /// Settings.
    #[error(transparent)]
    Settings(#[from] CoreError),
    /// A thread ended early.
    #[error("{0}")]
    Failed(String),
}

/// A running host.
pub struct Host {
    /// Where it listens.
    pub address: SocketAddr,
    /// What its door knows.
    rooms: Arc<Rooms>,
    member: Member,
    hand_over: Duration,
    keepers: Vec<JoinHandle<()>>,
    sharing: JoinHandle<()>,
    stop: signal::Sender<bool>,
    served: JoinHandle<Result<(), tonic::transport::Error>>,
    _lock: File,
}

impl Host {
    /// Opens the port, makes every realm's topics if they are not there, and joins the group. Realms begin as the group
    /// gives them; `say` tells people of it.
    ///
    /// # Errors
    /// Says which part cannot be opened, and what to do.
    pub async fn start(
        config: Config,
        say: impl Fn(String) + Send + Sync + 'static,
    ) -> Result<Host, HostError> {
        check(&config)?;
        let lock = lock(&config)?;
        let listener = Gateway::bind(config.gateway.listen).await?;
        let address = listener
            .local_addr()
            .map_err(|error| HostError::Failed(format!("read the port: {error}")))?;
        let advertised = leading::advertised(&config, address);
        let names = config.host.realms.clone();
        let making = config.clone();
        let directory = tokio::task::spawn_blocking(move || topics(&making, &names))
            .await
            .map_err(|error| HostError::Failed(error.to_string()))??;
        let realms: BTreeMap<String, Arc<Realm>> = config
            .host
            .realms
            .iter()
            .map(|name| (name.clone(), Arc::new(Realm::new(&config, name))))
            .collect();
        let rooms = Rooms::new(&config.host, realms, directory, advertised.clone());
        let rooms = Arc::new(rooms);
        let shared = Arc::new(Shared {
            address,
            advertised,
            room: Semaphore::new(config.host.realms_max),
            starts: Semaphore::new(config.host.starts_at_once),
            session: rooms.session,
            say: Box::new(say),
        });
        let keepers = rooms
            .realms
            .values()
            .map(|realm| tokio::spawn(realm.clone().keep(shared.clone())))
            .collect();
        let (stop, stopped) = signal::channel(false);
        let door = Door {
            process: process_routes(&config, &rooms).await?,
            rooms: rooms.clone(),
        };
        let streams_max = config.gateway.streams_a_connection_max;
        let served = tokio::spawn(serve(streams_max, listener, door, stopped));
        let hand_over = Duration::from_millis(config.host.hand_over_ms);
        let share = Share::begin(rooms.clone(), config.host.realms_max).await;
        let topics = share.topics(&config.log.kafka);
        let member = join(&config, &rooms, &shared, &topics, hand_over)?;
        let sharing = share.keep(config.log.kafka, member.asker(), shared);
        Ok(Host {
            address,
            rooms,
            member,
            hand_over,
            keepers,
            sharing: tokio::spawn(sharing),
            stop,
            served,
            _lock: lock,
        })
    }

    /// Finishes, flushes and hands on every realm, leaves the group, and closes the port.
    pub async fn stop(self) {
        // What is given up now must not be asked for again.
        self.sharing.abort();
        let realms: Vec<Arc<Realm>> = self.rooms.realms.values().cloned().collect();
        release(&realms, self.hand_over).await;
        let member = self.member;
        // Others begin when the group knows.
        if tokio::task::spawn_blocking(move || drop(member))
            .await
            .is_err()
        {
            tracing::error!("leaving the group panicked");
        }
        let _ = self.stop.send(true);
        if tokio::time::timeout(LAST_CONNECTIONS, self.served)
            .await
            .is_err()
        {
            tracing::debug!("connections are still open");
        }
        for keeper in self.keepers {
            keeper.abort();
        }
    }
}

fn check(config: &Config) -> Result<(), HostError> {
    let refuse = |text: &str| Err(HostError::Config(text.to_owned()));
    if config.log.kind != "kafka" {
        return refuse("log.kind must be kafka: a host shares its realms over Kafka");
    }
    if config.host.realms.is_empty() {
        return refuse("host.realms is empty: name the realms of the group");
    }
    Ok(())
}

/// Takes the data folder for this process.
fn lock(config: &Config) -> Result<File, HostError> {
    let path = config.data.dir.clone();
    let failed = |reason: String| HostError::Folder {
        path: path.clone(),
        reason,
    };
    std::fs::create_dir_all(&path).map_err(|error| failed(error.to_string()))?;
    let file = File::create(path.join(LOCK)).map_err(|error| failed(error.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(error) => Err(failed(format!(
            "another host has it ({error}); each needs a folder of its own"
        ))),
    }
}

/// Makes each realm's topics, or checks them, and begins to hear the leaders.
fn topics(config: &Config, realms: &[String]) -> Result<Directory, HostError> {
    let settings = &config.log.kafka;
    for realm in realms {
        let topic = realm_log::log_topic(settings, realm);
        KafkaLog::ensure_topic(&realm_log::kafka_config(settings, &topic)?)?;
        lease::ensure_topic(settings, realm)?;
    }
    Ok(Directory::open(settings, realms)?)
}

fn join(
    config: &Config,
    rooms: &Rooms,
    shared: &Arc<Shared>,
    topics: &[String],
    hand_over: Duration,
) -> Result<Member, HostError> {
    let settings = &config.log.kafka;
    let realm_of: BTreeMap<String, Arc<Realm>> = rooms
        .realms
        .iter()
        .map(|(name, realm)| (realm_log::log_topic(settings, name), realm.clone()))
        .collect();
    let runtime = tokio::runtime::Handle::current();
    let (shared, session_ms) = (shared.clone(), config.host.session_timeout_ms);
    let told = move |change: Change| {
        let realms = |topics: &[String]| -> Vec<Arc<Realm>> {
            let known = topics.iter().filter_map(|topic| realm_of.get(topic));
            known.cloned().collect()
        };
        match change {
            Change::Assigned(topics) => {
                for realm in realms(&topics) {
                    realm.want(true);
                }
            }
            // The group waits, so that the next engine finds everything flushed.
            Change::Revoked(topics) => runtime.block_on(release(&realms(&topics), hand_over)),
            Change::Lost(topics) => {
                let realms = realms(&topics);
                for realm in &realms {
                    (shared.say)(format!(
                        "realm {}: the group has not heard this process for {session_ms} ms and gives the realm to another; \
                         it steps down here",
                        realm.name()
                    ));
                }
                runtime.block_on(release(&realms, hand_over));
            }
        }
    };
    let first = config.host.realms.first().map_or("", String::as_str);
    let membership = Membership {
        client: kafka::topics(settings, first)?.client(),
        group: &config.host.group,
        session_timeout_ms: session_ms,
        topics,
    };
    Ok(Member::join(membership, told)?)
}

/// Gives realms up, all at once, and waits until nothing of them runs here, at most `wait_max`: what still runs then is
/// replaced by its next engine.
async fn release(realms: &[Arc<Realm>], wait_max: Duration) {
    for realm in realms {
        realm.want(false);
    }
    let deadline = tokio::time::Instant::now() + wait_max;
    for realm in realms {
        if tokio::time::timeout_at(deadline, realm.released())
            .await
            .is_err()
        {
            tracing::warn!(
                realm = realm.name(),
                "not handed on in time; its next engine takes over"
            );
        }
    }
}

/// What the process itself answers.
async fn process_routes(config: &Config, rooms: &Arc<Rooms>) -> Result<Routes, GatewayError> {
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;
    let host = HostServer::new(status::HostService::new(config, rooms));
    let routes = Routes::new(host)
        .add_service(health)
        .add_service(gateway::reflection()?);
    Ok(routes.prepare())
}

async fn serve(
    streams_a_connection_max: u32,
    listener: TcpListener,
    door: Door,
    mut stopped: signal::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    gateway::server(streams_a_connection_max)
        .serve_with_incoming_shutdown(
            door,
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            async move {
                let _ = stopped.wait_for(|stop| *stop).await;
            },
        )
        .await
}
