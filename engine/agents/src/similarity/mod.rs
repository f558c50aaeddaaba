//! The similarity agent: near-duplicates within a collection, and the drift of what a collection's assets look like.
//!
//! An auditor gives every image an embedding. The agent compares it with those of the collection's last assets, and with
//! where the collection's embeddings should lie. Both are its own memory, not the ledger's: a verdict carries what was
//! found, and no replay looks again.
//!
//! What follows from that:
//! - Assets are compared in the order in which they are inspected. Of two that look alike and are under way at once, the
//!   one that is inspected later is sent to people, whichever was minted first.
//! - An asset is compared with assets that were inspected here and not rejected, the last ones of its collection; which
//!   ones those are is bounded, and a lost memory only makes the agent miss likenesses.
//! - A version that is inspected twice (a changed policy, a restart) is neither its own duplicate nor counted twice for
//!   the drift, unless it was rejected the first time.
//!
//! One lock is around all of it, held for a look-up and an entry: tens of microseconds of an audit's hundreds.

pub mod drift;
pub mod embedding;
pub mod index;

mod files;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use karat_proto::command::{AgentKind, CollectionSpec, Decision, Finding, Policy};
use karat_proto::{AssetId, CollectionId, Digest};

use self::drift::{Drift, DriftMemory};
use self::embedding::{Code, Embedding, Reference};
use self::files::SimilarityFiles;
use self::index::{Entry, Likeness, NearIndex, ShortDigest};
use crate::findings::FindingCode;
use crate::{AgentHost, Job};

/// What is known of one collection, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectionSimilarity {
    /// Which one.
    pub collection: CollectionId,
    /// Assets that others are compared with.
    pub assets: u64,
    /// Whether the collection's own reference is still being learnt, because the auditor's is about other weights.
    pub learning: bool,
    /// Audited assets since the last window ended, or since learning began.
    pub counted: u32,
    /// Audited assets in one window.
    pub window: u32,
    /// Whole windows since the collection's first one.
    pub windows: u64,
    /// Drift of the last windows, parts per million, oldest first.
    pub drift_ppm: Vec<u32>,
    /// A window above this raises the alarm.
    pub drift_alarm_ppm: u32,
    /// Whether the last window did.
    pub alarm: bool,
}

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Assets of one collection.
    pub(crate) assets_max: usize,
    /// Collections; the one unused for longest makes room.
    pub(crate) collections_max: usize,
}

/// One inspected version on its way to a verdict.
pub(crate) struct Seen<'a> {
    pub(crate) job: &'a Job,
    pub(crate) embedding: &'a Embedding,
    pub(crate) collection: &'a CollectionSpec,
    pub(crate) policy: &'a Policy,
    /// What the other agents' findings lead to.
    pub(crate) so_far: Decision,
}

/// The agent's memory, shared by all workers.
pub(crate) struct Similarity {
    /// `None` where the auditor has none: nothing is compared then.
    reference: Option<Reference>,
    bounds: Bounds,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    collections: HashMap<CollectionId, Kept>,
    /// Counts uses, to find the collection unused for longest.
    uses: u64,
    files: Option<SimilarityFiles>,
}

struct Kept {
    index: NearIndex,
    drift: Drift,
    /// Whether the auditor's reference is about collections like this one.
    described: bool,
    used: u64,
}

impl Similarity {
    /// Begins with what the files in `folder` hold of assets that the ledger still has.
    pub(crate) fn open(
        reference: Option<Reference>,
        bounds: Bounds,
        folder: Option<&Path>,
        host: &dyn AgentHost,
    ) -> Similarity {
        let mut state = State::default();
        match (&reference, folder) {
            (None, _) => tracing::info!(
                "the auditor's manifest has no reference for its embeddings: no near-duplicates, no drift"
            ),
            (Some(reference), Some(folder)) => {
                state.load(reference, bounds, folder, host);
                let assets = state.live();
                tracing::info!(
                    assets,
                    collections = state.collections.len(),
                    "embeddings are there again"
                );
            }
            _ => {}
        }
        Similarity {
            reference,
            bounds,
            state: Mutex::new(state),
        }
    }

    /// The auditor whose embeddings are compared.
    pub(crate) fn model(&self) -> Option<&Digest> {
        self.reference.as_ref().map(|reference| &reference.model)
    }

    /// Compares an asset with the others of its collection, counts it, and takes it in unless it is rejected.
    pub(crate) fn judge(&self, seen: &Seen<'_>) -> Vec<Finding> {
        let Some(reference) = &self.reference else {
            return Vec::new();
        };
        let Seen { job, policy, .. } = seen;
        let standardised = reference.standardise(seen.embedding);
        let mut state = self.lock();
        let kept = state.kept(job.collection, seen.collection, reference, self.bounds);
        let counted_before = kept.index.version_of(job.asset) == Some(job.version);
        let placed = reference.standardise_for_drift(seen.embedding, &job.lineage.variant);
        let changed = !counted_before && kept.drift.count(&placed);
        let last_ppm = kept.drift.last_ppm();
        let mut findings = Vec::new();
        let mut taken_in = None;
        if seen.so_far != Decision::Reject {
            let mut entry = Entry {
                asset: job.asset,
                version: job.version,
                like: 0,
                content: short(&job.content.digest),
                code: Code::of(&standardised),
            };
            if policy.near_duplicate_below_ppm > 0
                && let Some(other) = kept.index.nearest(&entry, policy.near_duplicate_below_ppm)
            {
                findings = likeness(&other);
                entry.like = other.asset;
            }
            kept.index.put(&entry);
            taken_in = Some(entry);
        }
        if let (Some(entry), Some(files)) = (&taken_in, &mut state.files) {
            files.add(job.collection, entry);
        }
        if changed {
            state.window_ended(job.collection, reference);
        }
        let limit = policy.drift_review_above_ppm;
        if let Some(figure) = last_ppm.filter(|figure| limit > 0 && *figure > limit)
            && seen.so_far == Decision::Accept
            && findings.is_empty()
        {
            findings.push(FindingCode::CollectionDrifted.by(AgentKind::Similarity, figure));
        }
        findings
    }

    /// Writes what a batch changed.
    pub(crate) fn write(&self) {
        self.lock().write();
    }

    /// Takes an asset out that ended: nothing is like it any more.
    pub(crate) fn forget(&self, collection: CollectionId, asset: AssetId) {
        if let Some(kept) = self.lock().collections.get_mut(&collection) {
            kept.index.forget(asset);
        }
    }

    /// What is known of each collection, by number.
    pub(crate) fn figures(&self) -> Vec<CollectionSimilarity> {
        let Some(reference) = &self.reference else {
            return Vec::new();
        };
        let state = self.lock();
        let mut figures: Vec<_> = state
            .collections
            .iter()
            .map(|(collection, kept)| CollectionSimilarity {
                collection: *collection,
                assets: kept.index.len() as u64,
                learning: kept.drift.is_learning(),
                counted: kept.drift.counted(),
                window: reference.drift_window,
                windows: kept.drift.windows(),
                drift_ppm: kept.drift.figures_ppm().collect(),
                drift_alarm_ppm: reference.drift_alarm_ppm,
                alarm: kept.alarms(reference),
            })
            .collect();
        figures.sort_by_key(|figures| figures.collection);
        figures
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What a panic left half done is a projection still.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn alarms(&self, reference: &Reference) -> bool {
        let last = self.drift.last_ppm();
        last.is_some_and(|figure| figure > reference.drift_alarm_ppm)
    }
}

impl State {
    fn load(&mut self, reference: &Reference, bounds: Bounds, folder: &Path, host: &dyn AgentHost) {
        let mut files = SimilarityFiles::open(folder, &reference.model, |id, entry| {
            // A host that breaks down has nothing to say about it.
            let known = catch_unwind(AssertUnwindSafe(|| {
                let there = host.still_has(id, entry.asset, entry.version);
                there.then(|| host.collection(id)).flatten()
            }));
            if let Ok(Some(spec)) = known {
                self.kept(id, &spec, reference, bounds).index.put(&entry);
            }
        });
        for (id, memory) in files.read_drift() {
            if let Ok(Some(spec)) = catch_unwind(AssertUnwindSafe(|| host.collection(id))) {
                let kept = self.kept(id, &spec, reference, bounds);
                kept.drift.remember(&memory);
            }
        }
        if files.is_worn(self.live()) {
            files.renew(self.entries());
        }
        self.files = Some(files);
    }

    fn kept(
        &mut self,
        id: CollectionId,
        spec: &CollectionSpec,
        reference: &Reference,
        bounds: Bounds,
    ) -> &mut Kept {
        self.uses += 1;
        let full = self.collections.len() >= bounds.collections_max;
        if full && !self.collections.contains_key(&id) {
            let unused = self.collections.iter().min_by_key(|(_, kept)| kept.used);
            if let Some(unused) = unused.map(|(id, _)| *id) {
                self.collections.remove(&unused);
            }
        }
        let kept = self.collections.entry(id).or_insert_with(|| {
            let described = reference.describes(spec);
            Kept {
                index: NearIndex::new(bounds.assets_max),
                drift: Drift::new(reference.drift_window, described),
                described,
                used: 0,
            }
        });
        kept.used = self.uses;
        kept
    }

    fn window_ended(&mut self, id: CollectionId, reference: &Reference) {
        if let Some(kept) = self.collections.get(&id) {
            let (windows, last) = (kept.drift.windows(), kept.drift.last_ppm().unwrap_or(0));
            if kept.alarms(reference) {
                tracing::warn!(
                    collection = id,
                    window = windows,
                    drift_ppm = last,
                    alarm_ppm = reference.drift_alarm_ppm,
                    "what this collection's assets look like has drifted from the reference"
                );
            } else {
                tracing::debug!(collection = id, window = windows, drift_ppm = last, "drift");
            }
        }
        if let Some(files) = &self.files {
            let mut drifts: Vec<(CollectionId, DriftMemory)> = self
                .collections
                .iter()
                .map(|(id, kept)| (*id, kept.drift.memory(kept.described)))
                .collect();
            drifts.sort_by_key(|(id, _)| *id);
            files.write_drift(&drifts);
        }
    }

    fn write(&mut self) {
        let live = self.live();
        let Some(mut files) = self.files.take() else {
            return;
        };
        files.write();
        if files.is_worn(live) {
            files.renew(self.entries());
        }
        self.files = Some(files);
    }

    fn live(&self) -> u64 {
        self.collections
            .values()
            .map(|kept| kept.index.len() as u64)
            .sum()
    }

    /// Everything, the collections in the order of their last use.
    fn entries(&self) -> impl Iterator<Item = (CollectionId, Entry)> + '_ {
        let mut collections: Vec<_> = self.collections.iter().collect();
        collections.sort_by_key(|(_, kept)| kept.used);
        collections
            .into_iter()
            .flat_map(|(id, kept)| kept.index.entries().map(|entry| (*id, entry)))
    }
}

fn short(digest: &Digest) -> ShortDigest {
    let mut short = [0; 16];
    short.copy_from_slice(&digest[..16]);
    short
}

/// The other asset's number has 64 bits and a measure 32: assets are numbered densely, so what is cut off is 0 below four
/// billion assets.
fn likeness(other: &Likeness) -> Vec<Finding> {
    let by = |code: FindingCode, measure| code.by(AgentKind::Similarity, measure);
    let number = other.asset as u32;
    match other.same_content {
        true => vec![by(FindingCode::ContentDouble, number)],
        false => vec![
            by(FindingCode::NearDuplicate, other.distance_ppm),
            by(FindingCode::LikeAsset, number),
        ],
    }
}
