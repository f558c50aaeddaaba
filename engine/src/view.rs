//! What readers see: the ledger's state as the writer published it, in concurrent maps. Readers never touch the ledger.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use karat_ledger::{AssetView, Counts, Ledger};
use karat_proto::command::{CollectionSpec, ModelRole, Policy};
use karat_proto::event::{AssetState, Event, EventKind, Outcome};
use karat_proto::signing::ModelKey;
use karat_proto::{Account, AssetId, Code, CollectionId, Digest};
use parking_lot::{Mutex, RwLock};

use crate::batches::BatchBook;

/// A collection as readers see it.
#[derive(Debug)]
pub struct CollectionEntry {
    /// Who mints into it.
    pub creator: Account,
    /// What it is.
    pub spec: Arc<CollectionSpec>,
    /// Assets minted so far.
    pub minted: AtomicU64,
}

/// Where a model stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelStage {
    /// Known.
    Registered,
    /// May mint.
    Approved,
    /// May not any more.
    Retired,
}

/// A model as readers see it.
#[derive(Debug, Clone)]
pub struct ModelEntry {
    /// Its digest.
    pub digest: Digest,
    /// Its name.
    pub name: String,
    /// What it does.
    pub role: ModelRole,
    /// Where it stands.
    pub stage: ModelStage,
    /// The key whose signature of it was checked.
    pub signed_by: Option<ModelKey>,
}

/// A digest of the ledger, and where it was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DigestMark {
    /// Last sequence that it covers.
    pub sequence: u64,
    /// Rolling digest.
    pub digest: Digest,
}

/// The published state of a realm.
#[derive(Debug)]
pub struct View {
    assets: DashMap<AssetId, AssetView, foldhash::fast::RandomState>,
    balances: DashMap<Account, u64, foldhash::fast::RandomState>,
    collections: RwLock<BTreeMap<CollectionId, Arc<CollectionEntry>>>,
    models: RwLock<Vec<ModelEntry>>,
    policy: ArcSwap<Policy>,
    /// Batches, by number.
    pub batches: RwLock<BatchBook>,
    applied_seq: AtomicU64,
    settled_seq: AtomicU64,
    /// Block time at which a tick is needed; `u64::MAX` for none.
    deadline_ms: AtomicU64,
    paused: AtomicBool,
    outcomes_by_code: Vec<AtomicU64>,
    counts: Mutex<Counts>,
    mark: Mutex<DigestMark>,
}

fn code_index(code: Code) -> usize {
    Code::ALL
        .binary_search_by_key(&(code as u16), |one| *one as u16)
        .unwrap_or(0)
}

impl View {
    /// The state of a ledger that is at rest, as after a snapshot was read.
    pub fn new(ledger: &Ledger) -> View {
        let view = View {
            assets: DashMap::with_hasher(foldhash::fast::RandomState::default()),
            balances: DashMap::with_hasher(foldhash::fast::RandomState::default()),
            collections: RwLock::new(BTreeMap::new()),
            models: RwLock::new(Vec::new()),
            policy: ArcSwap::from_pointee(ledger.policy().cloned().unwrap_or_default()),
            batches: RwLock::new(BatchBook::new(ledger)),
            applied_seq: AtomicU64::new(ledger.applied_seq()),
            settled_seq: AtomicU64::new(ledger.settled_seq()),
            deadline_ms: AtomicU64::new(ledger.next_deadline_ms().unwrap_or(u64::MAX)),
            paused: AtomicBool::new(ledger.paused()),
            outcomes_by_code: Code::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            counts: Mutex::new(ledger.counts()),
            mark: Mutex::new(DigestMark {
                sequence: ledger.applied_seq(),
                digest: ledger.digest(),
            }),
        };
        view.load(ledger);
        view
    }

    fn load(&self, ledger: &Ledger) {
        for collection in ledger.collections() {
            self.collections.write().insert(
                collection.id,
                Arc::new(CollectionEntry {
                    creator: collection.creator,
                    spec: Arc::new(collection.spec.clone()),
                    minted: AtomicU64::new(collection.minted),
                }),
            );
        }
        for model in ledger.models() {
            self.models.write().push(ModelEntry {
                digest: model.digest,
                name: model.name.clone(),
                role: model.role,
                stage: match model.state {
                    karat_ledger::ModelState::Registered => ModelStage::Registered,
                    karat_ledger::ModelState::Approved => ModelStage::Approved,
                    karat_ledger::ModelState::Retired => ModelStage::Retired,
                },
                signed_by: model.signed_by,
            });
        }
        // Asset numbers are dense from 1.
        for id in 1.. {
            match ledger.asset(id) {
                Some(asset) => self.assets.insert(id, asset),
                None => break,
            };
        }
        for (account, balance) in ledger.balances().filter(|(_, balance)| *balance > 0) {
            self.balances.insert(account, balance);
        }
    }

    /// Publishes what one command changed. Called by the writer only, before the outcome leaves.
    pub fn publish(&self, ledger: &Ledger, events: &[Event]) {
        let mut last_asset = 0;
        for event in events {
            if let Some(id) = event.kind.asset() {
                // A command's events about one asset follow each other: one publication is enough.
                if id != last_asset {
                    if let Some(asset) = ledger.asset(id) {
                        self.assets.insert(id, asset);
                    }
                    last_asset = id;
                }
            }
            self.publish_event(ledger, &event.kind);
        }
    }

    fn publish_event(&self, ledger: &Ledger, kind: &EventKind) {
        match kind {
            EventKind::RealmOpened { .. } => {
                self.policy
                    .store(Arc::new(ledger.policy().cloned().unwrap_or_default()));
            }
            EventKind::CollectionCreated {
                collection,
                creator,
                spec,
            } => {
                let entry = CollectionEntry {
                    creator: *creator,
                    spec: Arc::new((**spec).clone()),
                    minted: AtomicU64::new(0),
                };
                self.collections
                    .write()
                    .insert(*collection, Arc::new(entry));
            }
            EventKind::Minted { collection, .. } => {
                if let Some(entry) = self.collections.read().get(collection) {
                    entry.minted.fetch_add(1, Ordering::Relaxed);
                }
            }
            EventKind::CurrencyMoved { from, to, .. } => {
                self.balances.insert(*from, ledger.balance(from));
                self.balances.insert(*to, ledger.balance(to));
            }
            EventKind::Deposited { account, .. } | EventKind::Withdrawn { account, .. } => {
                self.balances.insert(*account, ledger.balance(account));
            }
            EventKind::ModelRegistered { digest, name, role } => {
                self.models.write().push(ModelEntry {
                    digest: *digest,
                    name: name.clone(),
                    role: *role,
                    stage: ModelStage::Registered,
                    signed_by: None,
                })
            }
            EventKind::ModelSigned { digest, key } => {
                self.change_model(digest, |model| model.signed_by = Some(*key));
            }
            EventKind::ModelPromoted { digest } => {
                self.change_model(digest, |model| model.stage = ModelStage::Approved);
            }
            EventKind::ModelRetired { digest } => {
                self.change_model(digest, |model| model.stage = ModelStage::Retired);
            }
            EventKind::PolicySet { policy } => self.policy.store(Arc::new((**policy).clone())),
            EventKind::Paused { paused } => self.paused.store(*paused, Ordering::Release),
            EventKind::BatchCut { .. }
            | EventKind::BatchSealed { .. }
            | EventKind::BatchCommitted { .. }
            | EventKind::BatchFinal { .. } => self.batches.write().apply(kind),
            _ => {}
        }
    }

    fn change_model(&self, digest: &Digest, change: impl Fn(&mut ModelEntry)) {
        self.models
            .write()
            .iter_mut()
            .filter(|model| model.digest == *digest)
            .for_each(change);
    }

    /// Publishes the positions at the end of a block and counts its outcomes; takes a digest when `mark` is set.
    pub fn publish_block(&self, ledger: &Ledger, outcomes: &[Outcome], mark: bool) {
        for alike in outcomes.chunk_by(|one, next| one.code == next.code) {
            self.outcomes_by_code[code_index(alike[0].code)]
                .fetch_add(alike.len() as u64, Ordering::Relaxed);
        }
        self.settled_seq
            .store(ledger.settled_seq(), Ordering::Release);
        self.deadline_ms.store(
            ledger.next_deadline_ms().unwrap_or(u64::MAX),
            Ordering::Release,
        );
        self.applied_seq
            .store(ledger.applied_seq(), Ordering::Release);
        *self.counts.lock() = ledger.counts();
        if mark {
            *self.mark.lock() = DigestMark {
                sequence: ledger.applied_seq(),
                digest: ledger.digest(),
            };
        }
    }

    /// An asset.
    pub fn asset(&self, id: AssetId) -> Option<AssetView> {
        self.assets.get(&id).map(|asset| *asset)
    }

    /// An account's balance, minor units.
    pub fn balance(&self, account: &Account) -> u64 {
        self.balances.get(account).map_or(0, |balance| *balance)
    }

    /// A collection.
    pub fn collection(&self, id: CollectionId) -> Option<Arc<CollectionEntry>> {
        self.collections.read().get(&id).cloned()
    }

    /// All collections with their numbers.
    pub fn collections(&self) -> Vec<(CollectionId, Arc<CollectionEntry>)> {
        self.collections
            .read()
            .iter()
            .map(|(id, entry)| (*id, entry.clone()))
            .collect()
    }

    /// Models in the order of registration.
    pub fn models(&self) -> Vec<ModelEntry> {
        self.models.read().clone()
    }

    /// Whether a model may mint.
    pub fn is_approved(&self, digest: &Digest) -> bool {
        self.models
            .read()
            .iter()
            .any(|model| model.digest == *digest && model.stage == ModelStage::Approved)
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// Last sequence applied and published.
    pub fn applied_seq(&self) -> u64 {
        self.applied_seq.load(Ordering::Acquire)
    }

    /// Last sequence settled.
    pub fn settled_seq(&self) -> u64 {
        self.settled_seq.load(Ordering::Acquire)
    }

    /// Block time at which a tick is needed, milliseconds since the epoch; `u64::MAX` for none.
    pub fn deadline_ms(&self) -> u64 {
        self.deadline_ms.load(Ordering::Acquire)
    }

    /// Sequence of the oldest mint of an asset that waits for agents or people; `None` when none waits.
    pub fn oldest_unjudged(&self) -> Option<u64> {
        self.assets
            .iter()
            .filter(|asset| matches!(asset.state, AssetState::Pending | AssetState::InReview))
            .map(|asset| asset.minted_sequence)
            .min()
    }

    /// Whether players' commands are refused.
    pub fn paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// Outcomes by code since this process started, those that occurred.
    pub fn outcomes_by_code(&self) -> Vec<(Code, u64)> {
        Code::ALL
            .iter()
            .zip(&self.outcomes_by_code)
            .map(|(code, count)| (*code, count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// The ledger's counts at the end of the last block.
    pub fn counts(&self) -> Counts {
        *self.counts.lock()
    }

    /// The latest digest that was taken.
    pub fn digest_mark(&self) -> DigestMark {
        *self.mark.lock()
    }
}
