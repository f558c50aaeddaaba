//! What the ledger keeps of an asset: 216 bytes. Model, variant and seed are in the events; their hash is here.

use super::accounts::AccountIndex;
use karat_proto::command::{Content, Decision, Traits};
use karat_proto::event::{AssetState, Winner};
use karat_proto::{Account, AssetId, CollectionId, CommandId, Digest};

/// The last verdict that counted for an asset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerdictSummary {
    /// Version that was judged.
    pub version: u32,
    /// Policy under which it was judged.
    pub policy_version: u32,
    /// The auditor's corruption score, parts per million.
    pub corruption_ppm: u32,
    /// The conclusion. What a person decided after `Review` shows in the asset's state.
    pub decision: Decision,
}

/// One asset, as a reader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssetView {
    /// Its number.
    pub id: AssetId,
    /// Its collection.
    pub collection: CollectionId,
    /// Its owner; nobody when it is open for claims or burned.
    pub owner: Account,
    /// Its version, from 1.
    pub version: u32,
    /// Its place in its life.
    pub state: AssetState,
    /// For a frozen asset, the state it returns to.
    pub frozen_from: Option<AssetState>,
    /// Its content.
    pub content: Content,
    /// Its traits.
    pub traits: Traits,
    /// Hash of its provenance.
    pub lineage_hash: Digest,
    /// Digest of its metadata.
    pub metadata: Digest,
    /// Sequence of the mint.
    pub minted_sequence: u64,
    /// Sequence of the last change.
    pub last_sequence: u64,
    /// Command of the last change.
    pub last_command: CommandId,
    /// Sequence at which its settled form last changed; 0 when nothing was ever due.
    pub settle_sequence: u64,
    /// The last verdict that counted.
    pub last_verdict: Option<VerdictSummary>,
}

const _: () = assert!(size_of::<AssetView>() <= 256);
const _: () = assert!(size_of::<Asset>() <= 216);

/// The record. What most commands touch comes first, so that it shares cache lines.
#[derive(Clone, Debug)]
#[repr(C)]
pub(crate) struct Asset {
    /// Sequence at which the settled form last changed; 0 when nothing was ever due.
    pub(crate) settle_sequence: u64,
    /// The last command that changed anything.
    pub(crate) last: Winner,
    /// The last command that changed the owner after the mint; its sequence is 0 when there is none.
    pub(crate) owner_change: Winner,
    pub(crate) owner: AccountIndex,
    pub(crate) version: u32,
    pub(crate) collection: CollectionId,
    pub(crate) state: AssetState,
    pub(crate) frozen_from: Option<AssetState>,
    pub(crate) metadata: Digest,
    pub(crate) traits: Traits,
    pub(crate) last_verdict: Option<VerdictSummary>,
    pub(crate) content: Content,
    pub(crate) lineage_hash: Digest,
    pub(crate) minted_sequence: u64,
}

impl Asset {
    /// The command that took the asset from the one who asks, when there is one.
    pub(crate) fn owner_winner(&self) -> Option<Winner> {
        (self.owner_change.sequence != 0).then_some(self.owner_change)
    }
}

/// Whether nothing more can happen to an asset in this state.
pub(crate) fn is_ended(state: AssetState) -> bool {
    matches!(
        state,
        AssetState::Rejected | AssetState::Redeemed | AssetState::Burned
    )
}
