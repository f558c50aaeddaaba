//! Verification agents: they look at assets beside the main stream and conclude.
//!
//! An agent's opinion is no part of the ledger's rules. It enters as a command like everything that could differ
//! between two runs, so a replay needs no model and no agent. Until its verdict an asset is pending; what is open here
//! is open in the ledger too, so nothing is lost when this process dies: the engine offers it again.
//!
//! The way of a job:
//!
//! ```text
//! offer ──permit──► dispatcher ──batch──► inspector (a thread each) ──reports──► dispatcher ──verdict──► ledger
//!                      ▲ waits, counts,     integrity, policy, parity,             │
//!                      │ supervises         re-execution, similarity               │
//!                      └──────────── answer: done, look again, submit again ◄──────┘
//! ```
//!
//! Permits are the only bound and the only backpressure: actors on threads have mailboxes without a limit, so nothing
//! enters one without a permit, and a worker is sent one batch at a time. While it works on that, the next batch grows.
//!
//! - [`findings`]: what can be found, by number; `decision`: from findings to a verdict
//! - `integrity`, `policy`, `parity`, [`re_execution`], [`similarity`]: the agents
//! - [`oracle`]: the seam before the models; [`models`]: the real ones
//! - `inspection`: one batch through all agents, panics contained; `inspector`: the actor that does it
//! - `open_jobs`: the open jobs' phases; `dispatcher`: the actor that moves them on; `answers`: its dealings with the
//!   ledger; `supervision`: its watch over the workers; `run_queue`: whether a worker got a processor at all
//! - [`review_desk`]: assets that wait for people

pub mod findings;
pub mod models;
pub mod oracle;
pub mod re_execution;
pub mod review_desk;
pub mod similarity;

mod config;
mod decision;
mod dispatcher;
mod handle;
mod inspection;
mod inspector;
mod integrity;
mod open_jobs;
mod parity;
mod policy;
mod run_queue;
mod stats;

pub use config::{AgentsConfig, AgentsError, Rules};
pub use decision::{Report, decide, verdict};
pub use handle::{Agents, AgentsHandle};
pub use similarity::CollectionSimilarity;
pub use stats::{AgentFigures, AgentsStats};

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use karat_proto::command::{CollectionSpec, Content, Lineage, Policy, Traits, Verdict};
use karat_proto::{AssetId, Code, CollectionId, Digest};

/// What the engine gives the agents. A method that panics counts as one that has nothing to give.
pub trait AgentHost: Send + Sync + 'static {
    /// The bytes under a digest, or `None` when they are not (yet) stored. Called on a worker's thread; may read files.
    ///
    /// # Errors
    /// When the store cannot read what it has.
    fn content(&self, digest: &Digest) -> Result<Option<Bytes>, String>;

    /// A collection, or `None` when it is not known here (yet).
    fn collection(&self, id: CollectionId) -> Option<Arc<CollectionSpec>>;

    /// Whether the ledger has this version of this asset in this collection, or a later one, and it did not end. Asked
    /// when the agents start, about what they remember.
    fn still_has(&self, collection: CollectionId, asset: AssetId, version: u32) -> bool;

    /// The sequenced policy in force.
    fn policy(&self) -> Arc<Policy>;

    /// Enters the verdict as a command, without waiting. `done` is called once with the ledger's answer, or with
    /// `Unavailable` or `Overloaded`; dropping it counts as `Unavailable`. The same verdict can be submitted again, so
    /// its command id should follow from asset, version and policy version.
    fn submit(&self, verdict: Verdict, done: Box<dyn FnOnce(Code) + Send>);
}

/// One version of an asset that waits for its verdict.
#[derive(Clone, Debug)]
pub struct Job {
    /// Which asset.
    pub asset: AssetId,
    /// Which version.
    pub version: u32,
    /// Its collection.
    pub collection: CollectionId,
    /// Its content.
    pub content: Content,
    /// Its traits.
    pub traits: Traits,
    /// Its provenance.
    pub lineage: Lineage,
    /// The version that it revises; 0 for a mint.
    pub parent_version: u32,
    /// Sequence of the command that made this version.
    pub sequence: u64,
    /// When it began to wait: verdict latency counts from here.
    pub born: Instant,
}
