//! Events and outcomes as typed values: what applying a command answered and changed.

use crate::code::Code;
use crate::command::{
    CollectionSpec, Content, Decision, Finding, Lineage, ModelRole, Policy, Traits,
};
use crate::ids::{Account, AssetId, CollectionId, CommandId, Digest};
use crate::signing::ModelKey;

/// The ledger's answer to one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The command's place in the realm's order (of its first submission when replayed).
    pub sequence: u64,
    /// [`Code::Accepted`], or why it was refused.
    pub code: Code,
    /// True when this id was seen before with the same body, and this is the first outcome again.
    pub replayed: bool,
    /// What it was about: the asset's, collection's or batch's number; 0 where there is none.
    pub subject: u64,
    /// For a lost race: the command that won.
    pub winner: Option<Winner>,
}

/// The command that changed an asset first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Winner {
    /// Its id.
    pub id: CommandId,
    /// Its sequence.
    pub sequence: u64,
}

/// One change, with its place in the order.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Sequence of the command that caused it.
    pub sequence: u64,
    /// Number among that command's events, from 0.
    pub index: u16,
    /// Time of the block, milliseconds since the epoch.
    pub time_ms: u64,
    /// What changed.
    pub kind: EventKind,
}

/// An asset's place in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssetState {
    /// No verdict yet.
    Pending,
    /// A verdict accepted it.
    Active,
    /// A verdict or a person rejected it. Final.
    Rejected,
    /// People must look at it.
    InReview,
    /// The operator froze it (it returns to where it was).
    Frozen,
    /// It left for the chain. Final.
    Redeemed,
    /// Its owner ended it. Final.
    Burned,
}

/// Why an asset changed hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferCause {
    /// Its owner gave it.
    Transfer,
    /// A claim was won.
    Claim,
    /// A leg of an exchange.
    Exchange,
}

/// What a leaf says of an asset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafKind {
    /// Somebody (or nobody) holds it in the realm.
    Held,
    /// It is gone.
    Burned,
    /// It may be minted on chain.
    Redeemed,
}

/// What a version of an asset is.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// Its content.
    pub content: Content,
    /// Its traits.
    pub traits: Traits,
    /// Its provenance.
    pub lineage: Lineage,
    /// Its metadata digest.
    pub metadata: Digest,
}

/// How a realm began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealmOpened {
    /// Its name.
    pub realm: String,
    /// Operator.
    pub operator: Account,
    /// Verifier.
    pub verifier: Account,
    /// Settler.
    pub settler: Account,
}

/// Every kind of change.
///
/// A trade makes two events, so their size is memory that the writer touches for every command: what is rare and large is boxed.
#[derive(Clone, Debug, PartialEq)]
pub enum EventKind {
    /// The realm began.
    RealmOpened {
        /// Its name, and who may do what.
        opened: Box<RealmOpened>,
    },
    /// A collection exists.
    CollectionCreated {
        /// Its number.
        collection: CollectionId,
        /// Who mints into it.
        creator: Account,
        /// What it is.
        spec: Box<CollectionSpec>,
    },
    /// The secret behind the seeds is known.
    SeedRevealed {
        /// Which collection.
        collection: CollectionId,
        /// The secret.
        secret: Digest,
    },
    /// An asset exists, pending.
    Minted {
        /// Its number.
        asset: AssetId,
        /// Its collection.
        collection: CollectionId,
        /// Its owner, or nobody.
        owner: Account,
        /// What it is.
        made: Box<Made>,
    },
    /// An asset has a new version, pending.
    Revised {
        /// Which asset.
        asset: AssetId,
        /// The new version.
        version: u32,
        /// What it is.
        made: Box<Made>,
    },
    /// An asset changed hands; its version stays.
    Transferred {
        /// Which asset.
        asset: AssetId,
        /// Its version.
        version: u32,
        /// From whom (nobody for a claim).
        from: Account,
        /// To whom.
        to: Account,
        /// Why.
        cause: TransferCause,
    },
    /// A claim waits for the draw.
    ClaimEntered {
        /// Which asset.
        asset: AssetId,
        /// Whose claim.
        account: Account,
        /// When the window closes, milliseconds since the epoch.
        closes_ms: u64,
    },
    /// A claim lost the draw.
    ClaimLost {
        /// Which asset.
        asset: AssetId,
        /// Whose claim.
        account: Account,
        /// The claim command that lost.
        command: CommandId,
        /// The claim command that won; absent when nobody could win.
        winner: Option<Winner>,
    },
    /// Currency moved between accounts.
    CurrencyMoved {
        /// Who paid.
        from: Account,
        /// Who was paid.
        to: Account,
        /// Minor units.
        amount: u64,
    },
    /// Currency came in.
    Deposited {
        /// To whom.
        account: Account,
        /// Minor units.
        amount: u64,
    },
    /// Currency went out.
    Withdrawn {
        /// From whom.
        account: Account,
        /// Minor units.
        amount: u64,
    },
    /// An asset was ended.
    Burned {
        /// Which asset.
        asset: AssetId,
    },
    /// An asset left for the chain.
    Redeemed {
        /// Which asset.
        asset: AssetId,
        /// Address that receives the token.
        to: Account,
    },
    /// The agents concluded.
    Verified {
        /// Which asset.
        asset: AssetId,
        /// Which version.
        version: u32,
        /// The conclusion.
        decision: Decision,
        /// Corruption score, parts per million.
        corruption_ppm: u32,
        /// What was found.
        findings: Vec<Finding>,
        /// State that follows.
        state: AssetState,
    },
    /// A person decided.
    Reviewed {
        /// Which asset.
        asset: AssetId,
        /// Which version.
        version: u32,
        /// Accepted or rejected.
        accepted: bool,
        /// Who.
        reviewer: Account,
        /// Why.
        reason: String,
    },
    /// An asset cannot act.
    Frozen {
        /// Which asset.
        asset: AssetId,
        /// Why.
        reason: String,
    },
    /// It can again.
    Unfrozen {
        /// Which asset.
        asset: AssetId,
        /// State it returns to.
        state: AssetState,
    },
    /// A model is known.
    ModelRegistered {
        /// Its digest.
        digest: Digest,
        /// Its name.
        name: String,
        /// What it does.
        role: ModelRole,
    },
    /// A model's signature was checked: when it was registered, or later.
    ModelSigned {
        /// The model's digest.
        digest: Digest,
        /// The key that signed it.
        key: ModelKey,
    },
    /// A model may mint.
    ModelPromoted {
        /// Its digest.
        digest: Digest,
    },
    /// A model may not any more.
    ModelRetired {
        /// Its digest.
        digest: Digest,
    },
    /// The policy changed.
    PolicySet {
        /// The new one.
        policy: Box<Policy>,
    },
    /// Players' commands are refused, or taken again.
    Paused {
        /// Which of the two.
        paused: bool,
    },
    /// An asset's settled form changed: it belongs into the batch that is open now. Netting keeps the last one of each asset.
    SettlementDue {
        /// Which asset.
        asset: AssetId,
        /// Its collection.
        collection: CollectionId,
        /// Its owner.
        owner: Account,
        /// Its version.
        version: u32,
        /// Its metadata digest.
        metadata: Digest,
        /// What the leaf says.
        kind: LeafKind,
    },
    /// A batch took all changes of a range of sequences.
    BatchCut {
        /// Its number, from 1.
        number: u64,
        /// First sequence of the range.
        first_sequence: u64,
        /// Last sequence of the range.
        last_sequence: u64,
        /// How many assets changed in it.
        changes: u32,
    },
    /// Its root and payload exist.
    BatchSealed {
        /// Its number.
        number: u64,
        /// Merkle root.
        root: Digest,
        /// Payload's digest.
        payload: Digest,
        /// Leaves.
        leaves: u32,
    },
    /// Its transaction was mined.
    BatchCommitted {
        /// Its number.
        number: u64,
        /// Transaction hash.
        transaction: Digest,
        /// Chain block.
        chain_block: u64,
        /// Gas used.
        gas_used: u64,
        /// Paid for it, wei.
        fee_wei: u128,
    },
    /// It has its confirmations: everything up to its last sequence is settled.
    BatchFinal {
        /// Its number.
        number: u64,
        /// The realm's settled position.
        settled_seq: u64,
    },
}

const _: () = assert!(size_of::<Event>() <= 128);

impl EventKind {
    /// The asset that the event is about, if it is about one.
    pub fn asset(&self) -> Option<AssetId> {
        match self {
            EventKind::Minted { asset, .. }
            | EventKind::Revised { asset, .. }
            | EventKind::Transferred { asset, .. }
            | EventKind::ClaimEntered { asset, .. }
            | EventKind::ClaimLost { asset, .. }
            | EventKind::Burned { asset }
            | EventKind::Redeemed { asset, .. }
            | EventKind::Verified { asset, .. }
            | EventKind::Reviewed { asset, .. }
            | EventKind::Frozen { asset, .. }
            | EventKind::Unfrozen { asset, .. }
            | EventKind::SettlementDue { asset, .. } => Some(*asset),
            _ => None,
        }
    }
}
