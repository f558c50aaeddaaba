//! The realm's core: content, log, ledger and the stream of events, opened in order and recovered; and the one way in.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use karat_content::{ContentError, ContentStore, OpenReport, PackConfig, PackStore};
use karat_proto::convert::{self, Refused};
use karat_proto::event::Outcome;
use karat_proto::{Code, Command, CommandId, v1};
use karat_sequencer::{
    Ack, Answer, JournalError, Log, LogReader, Prepared, Recovery, ReplayError, Reply, Sequencer,
    SequencerConfig, SequencerError, SequencerHandle, Submission, SubmitError, SystemClock,
};
use thiserror::Error;

use crate::accounts::Roles;
use crate::beginning::Beginning;
use crate::config::Config;
use crate::data_folder::{DataFolder, DataFolderError};
use crate::digests::{self, DigestRecorder};
use crate::events::{EventHub, EventLog, EventLogError, EventReader, HubConfig};
use crate::machine::LedgerMachine;
use crate::realm_log::{self, Follower, Held, Opening, Place};
use crate::role::RealmRole;
use crate::snapshots::{self, SnapshotsError};
use crate::view::{DigestMark, View};

/// Why a realm cannot be opened.
#[derive(Debug, Error)]
pub enum CoreError {
    /// The data folder.
    #[error(transparent)]
    DataFolder(#[from] DataFolderError),
    /// Content packs.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The log on Kafka.
    #[cfg(feature = "kafka")]
    #[error(transparent)]
    Kafka(#[from] karat_sequencer::KafkaError),
    /// The sign that this engine leads.
    #[cfg(feature = "kafka")]
    #[error("lead the realm: {0}")]
    Lease(#[source] Box<crate::kafka::KafkaPartError>),
    /// The log is of a kind that this build does not have.
    #[error("log.kind is {0}; build with `--features kafka`")]
    LogKind(String),
    /// The log's head is gone, and the folder does not make up for it.
    #[error(
        "the log begins at sequence {first}, what came before was deleted, and {} has no snapshot of this log that reaches to sequence {needed}; nothing was written, and a leader that runs goes on; start with the data folder of an engine that had the realm, or with a copy of it (snapshots and events)",
        folder.display()
    )]
    HeadGone {
        /// The first sequence there.
        first: u64,
        /// A snapshot of this sequence or of a later one would do.
        needed: u64,
        /// The folder.
        folder: PathBuf,
    },
    /// A log is copied only into an empty place.
    #[error("{place} holds a log already ({blocks} blocks); name an empty place")]
    Occupied {
        /// Where.
        place: String,
        /// What is there.
        blocks: u64,
    },
    /// The log gave fewer commands than it said it has.
    #[error("the log ends at sequence {expected}, but reading it ended at {found}; start again")]
    ReadShort {
        /// Where the log said that it ends.
        expected: u64,
        /// The last sequence that was read.
        found: u64,
    },
    /// Reading the journal.
    #[error(transparent)]
    Read(#[from] karat_sequencer::ReadError),
    /// The stream of events.
    #[error(transparent)]
    Events(#[from] EventLogError),
    /// Snapshots.
    #[error(transparent)]
    Snapshots(#[from] SnapshotsError),
    /// Replaying the log.
    #[error("replay the log: {0}")]
    Replay(#[from] ReplayError),
    /// The sequencer.
    #[error(transparent)]
    Sequencer(#[from] SequencerError),
    /// A configured role is no account.
    #[error("config: {0}")]
    Role(String),
    /// The log belongs to another realm.
    #[error("the log is of realm {found}, the configuration names {expected}")]
    OtherRealm {
        /// As configured.
        expected: String,
        /// As logged.
        found: String,
    },
    /// A thread could not be started.
    #[error("start a thread: {0}")]
    Thread(std::io::Error),
    /// The digests' file.
    #[error("record a digest: {0}")]
    Digests(std::io::Error),
}

/// What was found when a realm was opened.
#[derive(Debug, Clone)]
pub struct OpenSummary {
    /// What the journal held.
    pub log: Recovery,
    /// What the content packs held.
    pub content: OpenReport,
    /// Sequence of the snapshot that was used; 0 for none.
    pub snapshot_sequence: u64,
    /// Commands that were applied again.
    pub replayed: u64,
    /// How long reading the snapshot and replaying took.
    pub recovery: Duration,
    /// What was passed over, for people.
    pub notes: Vec<String>,
}

/// An open realm.
pub struct Core {
    /// Where it lies.
    pub folder: DataFolder,
    /// Configuration.
    pub config: Config,
    /// Accounts in which the engine acts.
    pub roles: Roles,
    /// What readers see.
    pub view: Arc<View>,
    /// The stream of events.
    pub hub: Arc<EventHub>,
    /// Content.
    pub content: Arc<PackStore>,
    /// Whether this engine leads the realm.
    pub role: Arc<RealmRole>,
    /// Reads the log.
    pub reader: Arc<dyn LogReader>,
    /// What became of the last commands before this engine led; for who reads the topic of commands.
    #[cfg(feature = "kafka")]
    pub(crate) before: parking_lot::Mutex<crate::kafka::outcomes::Before>,
    /// There from the moment this engine may write the log.
    sequencer: OnceLock<SequencerHandle<LedgerMachine>>,
}

/// A log that is followed, and the machine that has applied what opening it read.
pub(crate) struct FollowedLog {
    #[cfg_attr(not(feature = "kafka"), allow(dead_code))]
    pub(crate) follower: Box<Follower>,
    #[cfg_attr(not(feature = "kafka"), allow(dead_code))]
    pub(crate) machine: LedgerMachine,
}

/// What must be stopped last, in order.
pub struct CoreThreads {
    hub: JoinHandle<EventLog>,
    /// What is to be followed, until somebody does.
    pub(crate) followed: Option<FollowedLog>,
    /// The thread that follows; it gives the machine back unless this engine leads by then.
    pub(crate) follower: Option<JoinHandle<Option<LedgerMachine>>>,
}

impl Core {
    /// Opens the folder, recovers the ledger and, unless the log is to be followed, starts the sequencer. `opening` says
    /// whether a log that others can reach is taken over; `address` is where others reach this engine. With a `place` in the
    /// log, nothing before it is read where the folder has a snapshot of it or of later.
    ///
    /// # Errors
    /// Says which part is damaged, locked or missing, and where.
    pub fn open(
        config: &Config,
        opening: Opening,
        address: &str,
        place: Option<&Place>,
    ) -> Result<(Arc<Core>, CoreThreads, OpenSummary), CoreError> {
        let roles = Roles::from_config(&config.realm).map_err(CoreError::Role)?;
        let folder = DataFolder::open_or_create(&config.data.dir)?;
        let (content, content_report) = PackStore::open(folder.content(), PackConfig::default())?;
        let content = Arc::new(content);
        let flushed_first = content.clone();
        let (opened, found) = realm_log::open(config, &folder, opening, place, move || {
            flushed_first.flush().map_err(std::io::Error::other)
        })?;
        if let Some(realm) = &found.realm
            && *realm != config.realm.name
        {
            return Err(CoreError::OtherRealm {
                expected: config.realm.name.clone(),
                found: realm.clone(),
            });
        }
        let started = Instant::now();
        let beginning = Beginning::find(config, &folder, &opened.history(), &found, place)?;
        let found_in = started.elapsed();
        // From here on the state can be built, so whoever leads may be replaced.
        let (held, log) = opened.take_over(found)?;
        let role = Arc::new(RealmRole::new(log.epoch));
        give_signs(config, opening, &held, &role, address)?;
        let started = Instant::now();
        digests::forget_after(&folder.digests(), log.last_sequence).map_err(CoreError::Digests)?;
        let Beginning {
            events,
            ledger,
            mut notes,
        } = beginning;
        if let Some(torn) = &log.torn_tail {
            notes.push(format!(
                "{} bytes of a write that was never complete were cut from {} at offset {}",
                torn.bytes,
                torn.file.display(),
                torn.offset
            ));
        }
        let snapshot_sequence = ledger.applied_seq();
        let first_seq = match events.first_sequence()? {
            Some(first) => first,
            None => snapshot_sequence + 1,
        };
        let view = Arc::new(View::new(&ledger));
        let (hub, sender, hub_thread) = EventHub::start(
            &folder.events(),
            events,
            first_seq,
            log.last_sequence,
            &HubConfig::default(),
        )
        .map_err(CoreError::Thread)?;
        let mut machine = LedgerMachine::publishing(ledger, view.clone(), sender);
        let blocks = held.history().read(snapshot_sequence + 1)?;
        let replayed = karat_sequencer::replay(blocks, snapshot_sequence + 1, &mut machine)?;
        if machine.ledger().applied_seq() != log.last_sequence {
            return Err(CoreError::ReadShort {
                expected: log.last_sequence,
                found: machine.ledger().applied_seq(),
            });
        }
        let summary = OpenSummary {
            log: log.clone(),
            content: content_report,
            snapshot_sequence,
            replayed: replayed.commands,
            recovery: found_in + started.elapsed(),
            notes,
        };
        let core = Arc::new(Core {
            folder,
            config: config.clone(),
            roles,
            view,
            hub,
            content,
            role,
            reader: held.reader(),
            #[cfg(feature = "kafka")]
            before: parking_lot::Mutex::default(),
            sequencer: OnceLock::new(),
        });
        let followed = match held {
            Held::Led(led) => {
                core.lead(led, &log, machine)?;
                None
            }
            Held::Followed(follower) => Some(FollowedLog { follower, machine }),
        };
        let threads = CoreThreads {
            hub: hub_thread,
            followed,
            follower: None,
        };
        Ok((core, threads, summary))
    }

    /// Starts the sequencer on a log that this engine may write; `machine` has applied what `recovery` says. Commands are
    /// taken from clients once the role says so.
    ///
    /// # Errors
    /// When the log does not continue, or no thread can be started.
    pub(crate) fn lead(
        &self,
        log: Box<dyn Log>,
        recovery: &Recovery,
        machine: LedgerMachine,
    ) -> Result<(), CoreError> {
        let told = self.hub.clone();
        log.progress().subscribe(Arc::new(move |progress| {
            told.set_durable(progress.positions().durable_seq)
        }));
        self.role.set_epoch(recovery.epoch.max(1));
        let settings = &self.config.log;
        #[cfg(feature = "kafka")]
        if settings.kind == "kafka" && settings.kafka.commands {
            *self.before.lock() = crate::kafka::outcomes::Before::of(machine.ledger());
        }
        let sequencer_config = SequencerConfig {
            epoch: recovery.epoch.max(1),
            queue_commands_max: settings.queue_commands_max,
            queue_bytes_max: settings.queue_bytes_max,
            ..SequencerConfig::new(self.config.realm.name.clone())
        };
        let clock = Box::new(SystemClock);
        let sequencer = Sequencer::start(sequencer_config, log, recovery, machine, clock)?;
        // Set once: by opening, or by the one thread that follows.
        let _ = self.sequencer.set(sequencer);
        Ok(())
    }

    /// Hands prepared commands to the sequencer. `reply` runs on the sequencer's threads, or on one
    /// that works the queue off.
    ///
    /// # Errors
    /// When the queue is full or the sequencer has stopped; nothing was taken then.
    pub fn submit(
        &self,
        commands: Vec<Prepared<Command>>,
        ack: Ack,
        reply: Reply<Outcome>,
    ) -> Result<(), (SubmitError, Submission<LedgerMachine>)> {
        let submission = Submission {
            commands,
            ack,
            reply,
            sequenced: None,
        };
        match self.sequencer.get() {
            Some(sequencer) => sequencer.submit(submission),
            None => Err((SubmitError::Stopped, submission)),
        }
    }

    /// As [`Core::submit`], to be worked off by the caller: [`Core::work_off`] before it waits for anything.
    ///
    /// # Errors
    /// As [`Core::submit`].
    pub fn submit_to_work_off(
        &self,
        commands: Vec<Prepared<Command>>,
        ack: Ack,
        reply: Reply<Outcome>,
    ) -> Result<(), (SubmitError, Submission<LedgerMachine>)> {
        self.enter_to_work_off(Submission {
            commands,
            ack,
            reply,
            sequenced: None,
        })
    }

    #[allow(clippy::result_large_err)] // It gives back what was submitted.
    fn enter_to_work_off(
        &self,
        submission: Submission<LedgerMachine>,
    ) -> Result<(), (SubmitError, Submission<LedgerMachine>)> {
        match self.sequencer.get() {
            Some(sequencer) => sequencer.submit_to_work_off(submission),
            None => Err((SubmitError::Stopped, submission)),
        }
    }

    /// Puts into the log and applies what was submitted, on this thread if that is little and no other is at it.
    pub fn work_off(&self) {
        if let Some(sequencer) = self.sequencer.get() {
            sequencer.work_off();
        }
    }

    /// As [`Core::submit_to_work_off`] at DURABLE, for who wants the answer at SEQUENCED as well.
    ///
    /// # Errors
    /// As [`Core::submit`].
    pub fn submit_for_both(
        &self,
        commands: Vec<Prepared<Command>>,
        sequenced: Reply<Outcome>,
        durable: Reply<Outcome>,
    ) -> Result<(), (SubmitError, Submission<LedgerMachine>)> {
        self.enter_to_work_off(Submission {
            commands,
            ack: Ack::Durable,
            reply: durable,
            sequenced: Some(sequenced),
        })
    }

    /// Enters one command of the engine's own and waits for its outcome at `ack`.
    ///
    /// # Errors
    /// When it is malformed, the queue is full, or the log has failed.
    pub async fn execute(&self, wire: v1::Command, ack: Ack) -> Result<Outcome, Refused> {
        let (body, command) = convert::encode_command(wire)?;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let reply: Reply<Outcome> = Box::new(move |answer| {
            // The one who asked may have gone; the command stands all the same.
            let _ = sender.send(answer);
        });
        self.submit(vec![Prepared { body, command }], ack, reply)
            .map_err(|(error, _)| submit_refusal(&error))?;
        match receiver.await {
            Ok(Ok(answer)) => first_outcome(&answer),
            Ok(Err(error)) => Err(submit_refusal(&error)),
            Err(_) => Err(submit_refusal(&SubmitError::Stopped)),
        }
    }

    /// As [`Core::execute`], again after a pause while the queue is full, for commands that must get in. Gives up when the
    /// log has failed or the engine stops.
    ///
    /// # Errors
    /// As [`Core::execute`], but never for an overload.
    pub async fn execute_patiently(&self, wire: v1::Command, ack: Ack) -> Result<Outcome, Refused> {
        loop {
            match self.execute(wire.clone(), ack).await {
                Err(refused) if refused.code == Code::Overloaded => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                done => return done,
            }
        }
    }

    /// A command of the engine's own, whose id is derived from what it is about, so that a repeat is a retry.
    pub fn own_command(
        &self,
        actor: karat_proto::Account,
        about: &str,
        kind: v1::command::Kind,
    ) -> v1::Command {
        convert::new_command(derived_id(about), actor, kind)
    }

    /// A reader of events, see [`EventReader::new`].
    pub fn events(&self, from_sequence: u64, durable_only: bool, pause: Duration) -> EventReader {
        EventReader::new(self.hub.clone(), from_sequence, durable_only, pause)
    }

    /// The sequencer's handle, for positions and figures; `None` while this engine follows.
    pub fn sequencer(&self) -> Option<&SequencerHandle<LedgerMachine>> {
        self.sequencer.get()
    }

    /// Where the log's segments lie.
    pub fn journal_dir(&self) -> PathBuf {
        self.folder.journal()
    }
}

impl CoreThreads {
    /// Stops the sequencer (drained and flushed), ends the stream of events, and writes a snapshot if asked to.
    ///
    /// # Errors
    /// When the last flush or the snapshot fails; the log is whole all the same.
    pub fn stop(self, core: &Core, snapshot: bool) -> Result<(), CoreError> {
        let mut machine = None;
        if let Some(follower) = self.follower {
            match follower.join() {
                Ok(followed) => machine = followed,
                Err(_) => tracing::error!("the following thread panicked"),
            }
        }
        let mut snapshot = snapshot;
        if let Some(sequencer) = core.sequencer.get() {
            machine = Some(sequencer.clone().stop()?);
            core.role.leave();
            // A leader whose log failed has applied blocks that may not count; they must not outlive it in a snapshot.
            snapshot &= sequencer.poisoned().is_none();
        }
        drop(self.followed);
        // A follower that failed keeps its machine to itself.
        let snapshot = snapshot && machine.is_some();
        let ledger = machine.map(LedgerMachine::into_ledger).unwrap_or_default();
        if snapshot {
            let mark = DigestMark {
                sequence: ledger.applied_seq(),
                digest: ledger.digest(),
            };
            DigestRecorder::open(&core.folder.digests())
                .and_then(|mut recorder| recorder.record(mark))
                .map_err(CoreError::Digests)?;
        }
        // The machine's sender is gone with it, so the hub writes what it has and ends.
        if self.hub.join().is_err() {
            tracing::error!("the events thread panicked");
        }
        if snapshot && ledger.applied_seq() > 0 {
            snapshots::write(&core.folder.snapshots(), &ledger, core.config.snapshot.keep)?;
        }
        Ok(())
    }
}

/// A new leader on a log that others can reach tells them so at once, before it has recovered: its marker is in the log, and
/// the silence of a recovery must not look like the leader's end.
#[cfg(feature = "kafka")]
fn give_signs(
    config: &Config,
    opening: Opening,
    log: &Held,
    role: &Arc<RealmRole>,
    address: &str,
) -> Result<(), CoreError> {
    use crate::kafka::lease;
    if let (Opening::Lead, "kafka", Held::Led(log)) = (opening, config.log.kind.as_str(), log) {
        let leader = lease::Leader {
            epoch: role.epoch(),
            address: address.to_owned(),
            progress: log.progress(),
            waiting: log.waiting(),
        };
        lease::ensure_topic(&config.log.kafka, &config.realm.name)
            .and_then(|()| lease::give_signs(&config.log.kafka, &config.realm.name, role, leader))
            .map_err(|error| CoreError::Lease(Box::new(error)))?;
    }
    Ok(())
}

#[cfg(not(feature = "kafka"))]
fn give_signs(
    _config: &Config,
    _opening: Opening,
    _log: &Held,
    _role: &Arc<RealmRole>,
    _address: &str,
) -> Result<(), CoreError> {
    Ok(())
}

fn first_outcome(answer: &Answer<Outcome>) -> Result<Outcome, Refused> {
    answer
        .outcomes
        .first()
        .copied()
        .ok_or_else(|| Refused::new(Code::Unavailable, "the sequencer gave no outcome"))
}

/// What a client is told when the sequencer does not take a command.
pub fn submit_refusal(error: &SubmitError) -> Refused {
    let code = match error {
        SubmitError::Overloaded { .. } => Code::Overloaded,
        SubmitError::TooLarge { .. } => Code::CommandTooLarge,
        SubmitError::Empty => Code::EmptyRequest,
        SubmitError::Stopped | SubmitError::Poisoned { .. } => Code::Unavailable,
    };
    Refused::new(code, error.to_string())
}

/// An id made from what a command is about: the same for the same thing, different for everything else.
pub fn derived_id(about: &str) -> CommandId {
    let mut id = [0; 16];
    id.copy_from_slice(&blake3::hash(about.as_bytes()).as_bytes()[..16]);
    CommandId(id)
}

/// An id that nobody used before: 16 bytes from the system's randomness.
pub fn fresh_id() -> Bytes {
    Bytes::copy_from_slice(&rand::random::<[u8; 16]>())
}
