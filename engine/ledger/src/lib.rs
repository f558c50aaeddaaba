//! Karat's ledger: the one place where state changes. Commands in their order go in, outcomes and events come out.
//!
//! It takes no clock, no randomness, no IO, no floats and never lets a hash map's order show: whatever differs between two
//! runs is in the command or in the block around it. Replaying a log gives the same state, bit for bit, in every build.
//!
//! # The order of one command's steps
//!
//! [`Ledger::apply`] does these, and stops at the first that refuses:
//!
//! 1. **Retry** (`retries.rs`). An id that is remembered answers with its first outcome, or `IdReused` when the body
//!    differs; nothing changes, even for a command that would be refused by a later step. The command still takes its own
//!    sequence in the log.
//! 2. **Room** in the retry memory (`RetryMemoryFull`, the one refusal that is not remembered) and in the realm
//!    (`RealmFull`).
//! 3. **Genesis** first and once (`BadGenesis`), and an actor who is somebody (`NotAllowed`).
//! 4. **Role** (`NotAllowed`): operator's, verifier's and settler's commands.
//! 5. **Pause** (`Paused`): players' commands.
//! 6. **The command's own rules**, all of them before the first change, so that a refusal changes nothing. For an asset
//!    they run: known, ended, frozen, version, owner, state, receiver. A race's loser is told the winner.
//! 7. **The changes**, each with its event.
//! 8. **A batch is cut** when enough assets changed (`batches.rs`).
//! 9. **The retry memory** takes the outcome, and forgets a few that are settled and old.
//! 10. **The digest** takes the outcome and the events (`digest.rs`).
//!
//! A caller that has a block at hand announces its commands with [`Ledger::look_ahead`], which makes applying them about
//! twice as fast on a large realm and changes nothing else.
//!
//! # Positions
//!
//! `settled_seq <= applied_seq`. Everything at or below `settled_seq` that was due for settlement has its confirmations;
//! what was never due counts as settled.
//!
//! # Bounds
//!
//! Everything that grows has a bound, and players' commands are refused there: [`RETRY_ENTRIES_MAX`],
//! [`OPEN_BATCHES_MAX`], [`CLAIMS_WAITING_MAX`], [`ACCOUNTS_MAX`], [`COLLECTIONS_MAX`], [`MODELS_MAX`]. Assets are bounded by
//! the supply caps of collections, which only an operator can bound.

mod apply;
mod assets;
mod batches;
mod claims;
pub mod codec;
mod collections;
mod currency;
mod digest;
mod exchange;
pub mod invariants;
mod look_ahead;
mod models;
mod reads;
mod realm;
mod retries;
mod snapshot;
mod state;
mod verification;

pub use apply::ApplyContext;
pub use batches::{
    Batch, BatchCommitment, BatchSeal, BatchStage, KEPT_BATCHES_MAX, OPEN_BATCHES_MAX,
};
pub use claims::{CLAIMS_WAITING_MAX, DRAWN_CLAIMS_A_TICK_MAX};
pub use collections::{COLLECTIONS_MAX, CollectionView};
pub use currency::AMOUNT_MAX;
pub use models::{MODELS_MAX, Model, ModelState};
pub use reads::{Counts, SettlementState};
pub use realm::Roles;
pub use retries::{FORGOTTEN_A_COMMAND_MAX, RETRY_ENTRIES_MAX, RETRY_ENTRIES_RESERVED};
pub use snapshot::{SNAPSHOT_FORMAT, SnapshotError};
pub use state::Ledger;
pub use state::asset::{AssetView, VerdictSummary};

/// Accounts that a realm knows at most; about 200 GB of them. Leaves room for what one exchange can add.
pub const ACCOUNTS_MAX: usize = u32::MAX as usize - 1000;
