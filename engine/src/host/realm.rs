//! One realm of the group in this process: begun when the group gives it, handed on when the group takes it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use karat_proto::v1;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch as signal};
use tokio::task::JoinHandle;
use tonic::service::Routes;

use super::handing::Handing;
use super::places;
use crate::config::Config;
use crate::core::CoreError;
use crate::gateway::Gateway;
use crate::service::{Service, ServiceError};

/// A realm whose start failed is tried again after this, and twice as long each time up to the bound.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(30);
/// What was answered gets so long to leave before streams are cut.
const LAST_ANSWERS: Duration = Duration::from_millis(200);

/// What a realm is to this process, as requests see it.
pub enum State {
    /// Somebody else's.
    Elsewhere,
    /// Ours, and not begun: for this reason.
    Waiting(String),
    /// It recovers.
    Starting,
    /// Led here.
    Leading(Arc<Leading>),
    /// It is finished, flushed and handed on.
    Stopping,
}

/// A realm that is led here.
pub struct Leading {
    /// Answers its requests.
    pub routes: Routes,
    /// What it is made of.
    pub gateway: Arc<Gateway>,
    /// Set when it is over: every request and answer ends.
    pub cut: signal::Receiver<bool>,
}

/// What the realms of a process share.
pub struct Shared {
    /// Where clients reach the process, and as others say it.
    pub address: SocketAddr,
    /// As others say it.
    pub advertised: String,
    /// Places for realms that are held.
    pub room: Semaphore,
    /// Places for realms that start.
    pub starts: Semaphore,
    /// How long the group's session lasts: so long a realm that another engine took is left alone.
    pub session: Duration,
    /// Speaks to people.
    pub say: Box<dyn Fn(String) + Send + Sync>,
}

/// A realm of the group.
pub struct Realm {
    /// Its own configuration: name, folder.
    pub config: Config,
    state: ArcSwap<State>,
    wanted: signal::Sender<bool>,
    held: signal::Sender<bool>,
    handing: Handing,
    /// Ends the streams of the realm's last time here.
    cutting: Mutex<Option<JoinHandle<()>>>,
    /// What came of the last attempt.
    note: Mutex<String>,
}

impl Realm {
    /// A realm that nobody wants here yet; `config` is the process's.
    pub fn new(config: &Config, name: &str) -> Realm {
        let mut config = config.clone();
        config.realm.name = name.to_owned();
        config.data.dir = config.data.dir.join(name);
        config.log.follow = false;
        Realm {
            config,
            state: ArcSwap::from_pointee(State::Elsewhere),
            wanted: signal::channel(false).0,
            held: signal::channel(false).0,
            handing: Handing::default(),
            cutting: Mutex::new(None),
            note: Mutex::new(String::new()),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.config.realm.name
    }

    /// What it is to this process now.
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// What came of the last attempt to hold it; empty when it succeeded.
    pub fn note(&self) -> String {
        self.note.lock().clone()
    }

    /// Whether the group has given it to this process.
    pub fn is_wanted(&self) -> bool {
        *self.wanted.borrow()
    }

    /// Whether it is to be held here from now on.
    pub fn want(&self, wanted: bool) {
        self.wanted.send_replace(wanted);
    }

    /// Waits until nothing of it runs here.
    pub async fn released(&self) {
        let mut held = self.held.subscribe();
        // The sender is this realm's own.
        let _ = held.wait_for(|held| !*held).await;
    }

    fn set(&self, state: State) {
        self.state.store(Arc::new(state));
    }

    /// Holds the realm whenever it is wanted, for ever.
    pub async fn keep(self: Arc<Realm>, shared: Arc<Shared>) {
        let mut wanted = self.wanted.subscribe();
        let mut pause = AGAIN;
        loop {
            if wanted.wait_for(|wanted| *wanted).await.is_err() {
                return;
            }
            let failed = self.hold(&shared, &mut wanted).await;
            self.held.send_replace(false);
            let Err(failure) = failed else {
                self.note.lock().clear();
                self.set(State::Elsewhere);
                pause = AGAIN;
                continue;
            };
            if failure.led {
                pause = AGAIN;
            }
            let wait = if failure.replaced {
                shared.session.max(pause)
            } else {
                pause
            };
            let note = format!("{}; tried again in {} ms", failure.cause, wait.as_millis());
            (shared.say)(format!("realm {}: {note}", self.name()));
            self.note.lock().clone_from(&note);
            self.set(State::Waiting(note));
            // Given up meanwhile, nothing is tried again.
            let _ = tokio::time::timeout(wait, until_given_up(&mut wanted)).await;
            if !*wanted.borrow() {
                self.set(State::Elsewhere);
            }
            pause = (pause * 2).min(AGAIN_MAX);
        }
    }

    /// Holds the realm until it is not wanted any more.
    async fn hold(
        &self,
        shared: &Shared,
        wanted: &mut signal::Receiver<bool>,
    ) -> Result<(), Failure> {
        self.set(State::Waiting(
            "this process holds as many realms as it may (host.realms_max)".to_owned(),
        ));
        let Some(_room) = permit(&shared.room, wanted).await else {
            return Ok(());
        };
        self.set(State::Waiting("others start first".to_owned()));
        let Some(starting) = permit(&shared.starts, wanted).await else {
            return Ok(());
        };
        // In this order: who gives it up and then looks finds it either held or not begun.
        self.held.send_replace(true);
        if !*wanted.borrow() {
            return Ok(());
        }
        self.set(State::Starting);
        // Its streams hold the folder open.
        let cutting = self.cutting.lock().take();
        if let Some(cutting) = cutting {
            // A panic was its own report.
            let _ = cutting.await;
        }
        let service = self.begin(shared).await?;
        drop(starting);
        self.note.lock().clear();
        let (cut, cuts) = signal::channel(false);
        self.set(State::Leading(Arc::new(Leading {
            routes: service.gateway.routes().prepare(),
            gateway: service.gateway.clone(),
            cut: cuts,
        })));
        let failure = tokio::select! {
            () = until_given_up(wanted) => None,
            cause = service.failure() => Some(cause),
            () = self.handing.again_and_again(&self.config) => None,
        };
        // From here on requests are refused at the door; what was taken is finished.
        self.set(State::Stopping);
        let replaced = service.begins_anew();
        let sequence = service.gateway.core.view.applied_seq();
        let is_near = self.handing.is_near(sequence);
        let stopped = match is_near && failure.is_none() {
            true => service.close().await,
            false => service.stop().await,
        };
        self.cut_soon(cut);
        if let Some(cause) = failure {
            return Err(Failure {
                cause,
                replaced,
                led: true,
            });
        }
        match stopped {
            Ok(()) => {
                if !is_near {
                    self.handing.once(&self.config).await;
                }
                (shared.say)(format!("realm {} left at sequence {sequence}", self.name()));
                Ok(())
            }
            Err(error) => {
                (shared.say)(format!("realm {}: stop: {error}", self.name()));
                Ok(())
            }
        }
    }

    /// Ends what is open of the realm, when what was answered has had a moment to leave. Who has it next need not wait for
    /// that.
    fn cut_soon(&self, cut: signal::Sender<bool>) {
        let cutting = tokio::spawn(async move {
            tokio::time::sleep(LAST_ANSWERS).await;
            let _ = cut.send(true);
        });
        *self.cutting.lock() = Some(cutting);
    }

    async fn begin(&self, shared: &Shared) -> Result<Service, Failure> {
        let failed = |cause: String| Failure {
            cause,
            replaced: false,
            led: false,
        };
        let mut from_topic = true;
        loop {
            let config = self.config.clone();
            let found =
                tokio::task::spawn_blocking(move || places::beginning(&config, from_topic)).await;
            let found = found
                .map_err(|error| failed(error.to_string()))?
                .map_err(|error| failed(error.to_string()))?;
            for note in &found.notes {
                (shared.say)(format!("realm {}: {note}", self.name()));
            }
            let (place, on_topic) = (found.place.clone(), found.on_topic);
            let (config, advertised) = (self.config.clone(), shared.advertised.clone());
            let started =
                Service::start_hosted(config, shared.address, advertised, found.place).await;
            match started {
                Ok(service) => {
                    self.handing.begin(place, on_topic);
                    (shared.say)(begun_text(&service));
                    return Ok(service);
                }
                // The snapshot is of another log, or the log was cut: what the log says counts.
                Err(ServiceError::Core(CoreError::Kafka(
                    error @ karat_sequencer::KafkaError::Place { .. },
                ))) if from_topic => {
                    (shared.say)(format!(
                        "realm {}: {error}; the log is read from its head",
                        self.name()
                    ));
                    places::forget(&self.config);
                    from_topic = false;
                }
                Err(error) => {
                    let replaced = error.to_string().contains("another leader");
                    return Err(Failure {
                        replaced,
                        ..failed(error.to_string())
                    });
                }
            }
        }
    }

    /// What this process knows of it, as clients see it.
    pub fn shown(&self) -> v1::HostedRealm {
        let state = self.state();
        let mut shown = v1::HostedRealm {
            realm: self.name().to_owned(),
            note: self.note(),
            ..Default::default()
        };
        let kind = match &*state {
            State::Elsewhere => v1::HostedState::Elsewhere,
            State::Waiting(why) => {
                shown.note.clone_from(why);
                v1::HostedState::Waiting
            }
            State::Starting => v1::HostedState::Starting,
            State::Leading(leading) => {
                let core = &leading.gateway.core;
                shown.epoch = core.role.epoch();
                shown.applied_seq = core.view.applied_seq();
                shown.snapshot_seq = self.handing.on_topic();
                v1::HostedState::Leading
            }
            State::Stopping => v1::HostedState::Stopping,
        };
        shown.state = kind.into();
        shown
    }
}

/// Why a realm is not held though it is wanted.
struct Failure {
    cause: String,
    /// Another engine has the realm's epoch.
    replaced: bool,
    /// It had begun.
    led: bool,
}

/// Until the realm is not wanted any more.
async fn until_given_up(wanted: &mut signal::Receiver<bool>) {
    // The sender is the realm's own.
    let _ = wanted.wait_for(|wanted| !*wanted).await;
}

/// A place; `None` when the realm is not wanted any more.
async fn permit<'a>(
    places: &'a Semaphore,
    wanted: &mut signal::Receiver<bool>,
) -> Option<tokio::sync::SemaphorePermit<'a>> {
    let place = tokio::select! {
        place = places.acquire() => place.ok(),
        () = until_given_up(wanted) => None,
    };
    place.filter(|_| *wanted.borrow())
}

fn begun_text(service: &Service) -> String {
    let opened = &service.opened;
    let core = &service.gateway.core;
    let mut text = format!(
        "realm {} led here: epoch {}, sequence {} in {} ms ({} from a snapshot, {} replayed, {} blocks read)",
        core.config.realm.name,
        core.role.epoch(),
        opened.log.last_sequence,
        opened.recovery.as_millis(),
        opened.snapshot_sequence,
        opened.replayed,
        opened.log.blocks,
    );
    for note in &opened.notes {
        text.push_str(&format!("\n  note: {note}"));
    }
    text
}
