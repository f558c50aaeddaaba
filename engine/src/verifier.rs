//! Between the stream of events and the agents: gives them what waits for a verdict, enters their verdicts, keeps the review
//! desk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use karat_agents::review_desk::{DeskLimits, OpenReview, ReviewDesk};
use karat_agents::{AgentHost, Agents, AgentsConfig, AgentsError, AgentsHandle, Job};
use karat_content::ContentStore;
use karat_edge_node::manifest::{Manifest, Role};
use karat_edge_node::signature::ModelTrust;
use karat_proto::command::{CollectionSpec, Policy, Verdict};
use karat_proto::event::{AssetState, Event, EventKind, Outcome};
use karat_proto::v1::command::Kind;
use karat_proto::{Account, AssetId, Code, CollectionId, Digest, convert, v1};
use karat_sequencer::{Ack, Prepared, SubmitError};
use parking_lot::Mutex;

use crate::core::Core;
use crate::events::EventLogError;

/// Events looked at before waiting assets are offered.
const EVENTS_A_STEP: usize = 1024;

/// A new asset may wait this much longer for the agents.
const PAUSE: Duration = Duration::from_millis(1);

/// Folders of models by role.
#[derive(Debug, Clone, Default)]
pub struct ModelFolders {
    /// Folders whose manifest says generator.
    pub generators: Vec<PathBuf>,
    /// Folders whose manifest says auditor.
    pub auditors: Vec<PathBuf>,
}

impl ModelFolders {
    /// Looks through the folders below `dir`.
    ///
    /// # Errors
    /// When the folder cannot be read, a manifest does not match its files, or a model is not signed as `trust` demands.
    pub fn find(dir: &Path, trust: &ModelTrust) -> Result<ModelFolders, String> {
        let mut found = ModelFolders::default();
        let entries = std::fs::read_dir(dir)
            .map_err(|error| format!("models {}: {error}; set data.models_dir", dir.display()))?;
        let mut folders: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.join("manifest.toml").is_file())
            .collect();
        folders.sort();
        for folder in folders {
            let manifest = Manifest::load(&folder).map_err(|error| error.to_string())?;
            trust.check(&manifest).map_err(|error| error.to_string())?;
            match manifest.role {
                Role::Generator => found.generators.push(folder),
                Role::Auditor => found.auditors.push(folder),
            }
        }
        Ok(found)
    }
}

/// What a reviewer is shown of one asset.
pub struct ReviewRow {
    /// The asset.
    pub asset: AssetId,
    /// Its verdict.
    pub verdict: Option<v1::Verified>,
    /// When its lease ends; 0 without one.
    pub lease_until_ms: u64,
    /// Who holds it.
    pub reviewer: String,
}

/// Agents and the review desk of a realm.
pub struct Verifier {
    core: Arc<Core>,
    agents: AgentsHandle,
    desk: Mutex<ReviewDesk>,
    /// Names behind the accounts of reviewers, for people.
    reviewers: Mutex<std::collections::BTreeMap<Account, String>>,
}

impl Verifier {
    /// Loads the models and starts the agents.
    ///
    /// # Errors
    /// When a model cannot be loaded.
    pub fn start(core: Arc<Core>, folders: &ModelFolders) -> Result<Arc<Verifier>, AgentsError> {
        let settings = &core.config.agents;
        let config = AgentsConfig {
            permits: settings.permits,
            workers: settings.workers,
            batch_max: settings.batch_max,
            stall_ms: settings.stall_ms,
            models: folders.generators.clone(),
            auditor: folders.auditors.first().cloned().unwrap_or_default(),
            trust: core.config.models.trust(),
            similar_assets_max: settings.similar_assets_max,
            similar_collections_max: settings.similar_collections_max,
            similarity_folder: Some(core.folder.similarity()),
            ..AgentsConfig::default()
        };
        let agents = Agents::start(config, Arc::new(Host { core: core.clone() }))?;
        Ok(Arc::new(Verifier {
            core,
            agents,
            desk: Mutex::new(ReviewDesk::new(DeskLimits::default())),
            reviewers: Mutex::default(),
        }))
    }

    /// The agents' handle.
    pub fn agents(&self) -> &AgentsHandle {
        &self.agents
    }

    /// Feeds the agents from the stream of events, beginning with what waited when the realm was opened.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub async fn run(self: Arc<Verifier>) -> Result<(), EventLogError> {
        let view = &self.core.view;
        // Whatever a crash left without verdict is found again: it is pending in the ledger.
        let from = view.oldest_unjudged().unwrap_or(view.applied_seq() + 1);
        let mut reader = self.core.events(from, false, PAUSE);
        while let Some(blocks) = reader.next(EVENTS_A_STEP).await? {
            for event in blocks.iter().flat_map(|block| &block.events) {
                self.on_event(event).await;
            }
        }
        Ok(())
    }

    async fn on_event(&self, event: &Event) {
        match &event.kind {
            EventKind::Minted { .. } => self.offer_version(event).await,
            EventKind::Revised { asset, .. } => {
                self.desk.lock().closed(*asset);
                self.offer_version(event).await;
            }
            EventKind::Unfrozen {
                asset,
                state: AssetState::Pending | AssetState::InReview,
            } => {
                self.offer_again(*asset).await;
            }
            other => self.on_desk_event(event, other),
        }
    }

    /// Gives the agents the version that a mint or a revision made, if it still waits for its verdict.
    async fn offer_version(&self, event: &Event) {
        let (asset, version, made) = match &event.kind {
            EventKind::Minted { asset, made, .. } => (*asset, 1, made),
            EventKind::Revised {
                asset,
                version,
                made,
            } => (*asset, *version, made),
            _ => return,
        };
        let Some(now) = self.core.view.asset(asset) else {
            return;
        };
        if now.version != version || now.state != AssetState::Pending {
            return;
        }
        let job = Job {
            asset,
            version,
            collection: now.collection,
            content: made.content,
            traits: made.traits,
            lineage: made.lineage.clone(),
            parent_version: version - 1,
            sequence: event.sequence,
            born: Instant::now(),
        };
        // The permits are the bound: while none is free, this reader falls behind and reads from disk later.
        self.agents.offer(job).await;
    }

    /// An asset that was frozen while it waited for its verdict or for people: the agents dropped it, the desk may not know it,
    /// so it is offered again.
    async fn offer_again(&self, asset: AssetId) {
        let Some(now) = self.core.view.asset(asset) else {
            return;
        };
        let mut reader = self.core.events(now.minted_sequence, false, PAUSE);
        loop {
            let blocks = match reader.read(EVENTS_A_STEP) {
                Ok(blocks) if !blocks.is_empty() => blocks,
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(asset, %error, "an unfrozen asset is not offered to the agents before a restart");
                    return;
                }
            };
            for event in blocks.iter().flat_map(|block| &block.events) {
                if event.kind.asset() == Some(asset) {
                    match &event.kind {
                        EventKind::Minted { .. } | EventKind::Revised { .. } => {
                            self.offer_version(event).await;
                        }
                        judged @ EventKind::Verified { .. } => self.on_desk_event(event, judged),
                        _ => {}
                    }
                }
            }
        }
    }

    fn on_desk_event(&self, event: &Event, kind: &EventKind) {
        match kind {
            EventKind::Verified {
                asset,
                version,
                corruption_ppm,
                findings,
                state: AssetState::InReview,
                ..
            } => {
                let Some(now) = self.core.view.asset(*asset) else {
                    return;
                };
                if now.state != AssetState::InReview || now.version != *version {
                    return;
                }
                let review = OpenReview {
                    asset: *asset,
                    version: *version,
                    collection: now.collection,
                    sequence: event.sequence,
                    opened_ms: event.time_ms,
                    corruption_ppm: *corruption_ppm,
                    findings: findings.clone(),
                };
                if let Err(error) = self.desk.lock().open(review) {
                    tracing::warn!(asset, %error, "the review desk is full; the asset waits in the ledger");
                }
            }
            EventKind::Reviewed {
                asset, accepted, ..
            } => {
                self.desk.lock().closed(*asset);
                if !accepted {
                    self.forget_look(*asset);
                }
            }
            EventKind::Burned { asset } => {
                self.desk.lock().closed(*asset);
                self.forget_look(*asset);
            }
            EventKind::Redeemed { asset, .. } => {
                self.desk.lock().closed(*asset);
            }
            _ => {}
        }
    }

    /// An asset that is no more may be made again: nothing is found to be like it.
    fn forget_look(&self, asset: AssetId) {
        if let Some(now) = self.core.view.asset(asset) {
            self.agents.forget(now.collection, asset);
        }
    }

    /// Lends open reviews, or only shows them.
    ///
    /// # Errors
    /// When the reviewer may hold no more.
    pub fn lease_reviews(
        &self,
        reviewer: &str,
        limit: usize,
        peek: bool,
    ) -> Result<(Vec<ReviewRow>, u64), String> {
        let mut desk = self.desk.lock();
        let now_ms = now_ms();
        let rows = if peek {
            let reviews: Vec<OpenReview> = desk.peek(limit).into_iter().cloned().collect();
            reviews
                .iter()
                .map(|review| {
                    let (holder, until_ms) = match desk.holder(review.asset) {
                        Some((account, until_ms)) => (self.name_of(&account), until_ms),
                        None => (String::new(), 0),
                    };
                    row(review, until_ms, holder)
                })
                .collect()
        } else {
            let account = Account::from_name(reviewer);
            self.reviewers.lock().insert(account, reviewer.to_owned());
            let lease_ms = self.core.config.agents.review_lease_seconds * 1000;
            desk.lease(account, limit, now_ms, lease_ms)
                .map_err(|error| error.to_string())?
                .iter()
                .map(|lease| row(&lease.review, lease.until_ms, reviewer.to_owned()))
                .collect()
        };
        Ok((rows, desk.open_count() as u64))
    }

    fn name_of(&self, account: &Account) -> String {
        self.reviewers
            .lock()
            .get(account)
            .cloned()
            .unwrap_or_else(|| account.to_string())
    }

    /// Refuses a decision about an asset that somebody else holds.
    ///
    /// # Errors
    /// Names who holds it.
    pub fn check_lease(&self, reviewer: &str, asset: AssetId) -> Result<(), String> {
        if reviewer.is_empty() {
            return Err("reviewer: name who decides".into());
        }
        let account = Account::from_name(reviewer);
        let mut desk = self.desk.lock();
        desk.release_expired(now_ms());
        match desk.holder(asset) {
            Some((holder, until_ms)) if holder != account => Err(format!(
                "asset {asset} is leased to {} until {until_ms} ms",
                self.name_of(&holder)
            )),
            _ => Ok(()),
        }
    }

    /// Counts a decision that was entered.
    pub fn note_decision(&self, reviewer: &str, asset: AssetId, accepted: bool) {
        self.reviewers
            .lock()
            .insert(Account::from_name(reviewer), reviewer.to_owned());
        self.desk
            .lock()
            .decided(asset, Account::from_name(reviewer), accepted, now_ms());
    }

    /// Open reviews.
    pub fn open_reviews(&self) -> u64 {
        self.desk.lock().open_count() as u64
    }
}

fn row(review: &OpenReview, lease_until_ms: u64, reviewer: String) -> ReviewRow {
    let verdict = convert::verified_to_wire(
        review.asset,
        review.version,
        karat_proto::command::Decision::Review,
        review.corruption_ppm,
        &review.findings,
        AssetState::InReview,
    );
    ReviewRow {
        asset: review.asset,
        verdict: Some(verdict),
        lease_until_ms,
        reviewer,
    }
}

/// The system's time, milliseconds since the epoch. Leases and deadlines only; never the ledger's.
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| age.as_millis() as u64)
}

struct Host {
    core: Arc<Core>,
}

impl AgentHost for Host {
    fn content(&self, digest: &Digest) -> Result<Option<Bytes>, String> {
        self.core
            .content
            .get(digest)
            .map_err(|error| error.to_string())
    }

    fn collection(&self, id: CollectionId) -> Option<Arc<CollectionSpec>> {
        self.core
            .view
            .collection(id)
            .map(|entry| entry.spec.clone())
    }

    fn still_has(&self, collection: CollectionId, asset: AssetId, version: u32) -> bool {
        self.core.view.asset(asset).is_some_and(|now| {
            let ended = matches!(now.state, AssetState::Rejected | AssetState::Burned);
            now.collection == collection && now.version >= version && !ended
        })
    }

    fn policy(&self) -> Arc<Policy> {
        self.core.view.policy()
    }

    fn submit(&self, verdict: Verdict, done: Box<dyn FnOnce(Code) + Send>) {
        let realm = &self.core.config.realm.name;
        // A verdict that was refused because the asset was frozen must not be answered with that again once it is not: the
        // command that changed the asset last belongs to what the verdict is about.
        let changed = self
            .core
            .view
            .asset(verdict.asset)
            .map_or(0, |asset| asset.last_sequence);
        let about = format!(
            "{realm}: verdict on version {} of asset {} as of {changed} under policy {}",
            verdict.version, verdict.asset, verdict.policy_version
        );
        let wire = self.core.own_command(
            self.core.roles.verifier,
            &about,
            Kind::Verdict(convert::verdict_to_wire(&verdict)),
        );
        let (body, command) = match convert::encode_command(wire) {
            Ok(prepared) => prepared,
            Err(refused) => return done(refused.code),
        };
        let done = Arc::new(Mutex::new(Some(done)));
        let tell = {
            let done = done.clone();
            move |code| {
                if let Some(done) = done.lock().take() {
                    done(code);
                }
            }
        };
        let answered = tell.clone();
        let reply = Box::new(
            move |answer: Result<karat_sequencer::Answer<Outcome>, SubmitError>| {
                answered(match answer {
                    Ok(answer) => answer
                        .outcomes
                        .first()
                        .map_or(Code::Unavailable, |one| one.code),
                    Err(_) => Code::Unavailable,
                });
            },
        );
        let prepared = vec![Prepared { body, command }];
        if let Err((error, _)) = self.core.submit(prepared, Ack::Sequenced, reply) {
            tell(crate::core::submit_refusal(&error).code);
        }
    }
}
