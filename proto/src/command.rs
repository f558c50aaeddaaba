//! Commands as typed values: what somebody asks the ledger for, after its form has been checked.

use crate::ids::{Account, AssetId, CollectionId, CommandId, Digest};
use crate::limits;
use crate::signing::{ModelKey, ModelSignature};

/// First 16 bytes of blake3 over the command's encoded bytes: tells a retry from another command under the same id.
pub type BodyHash = [u8; 16];

/// One command, checked in form; whether it is allowed is the ledger's decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// Client-chosen id.
    pub id: CommandId,
    /// Who asks. The gateway vouches for it.
    pub actor: Account,
    /// Hash of the encoded command.
    pub body_hash: BodyHash,
    /// What is asked for.
    pub kind: CommandKind,
}

/// Every kind of command.
///
/// A command is moved from the gateway into a submission, a block and the ledger, and most are trades: what is rare and larger
/// than a transfer is boxed.
#[derive(Clone, Debug, PartialEq)]
pub enum CommandKind {
    /// Opens the realm; must be the first command of a log and is refused ever after.
    Genesis(Box<Genesis>),
    /// Creates a collection; the actor becomes its creator, the only one who mints into it.
    CreateCollection(Box<CollectionSpec>),
    /// Publishes the secret behind a collection's committed seed. Creator only.
    RevealSeed {
        /// Which collection.
        collection: CollectionId,
        /// The secret; sha2-256 of it must equal the commitment.
        secret: Box<Digest>,
    },
    /// Makes a new asset.
    Mint(Box<Mint>),
    /// Gives an asset new content and traits. Owner or collection creator.
    Revise(Box<Revise>),
    /// Hands an asset to another account. Owner only.
    Transfer {
        /// Which asset.
        asset: AssetId,
        /// The version that the actor saw.
        version: u32,
        /// New owner; never nobody.
        to: Account,
    },
    /// Asks for an asset that nobody owns, by the collection's claim rule.
    Claim {
        /// Which asset.
        asset: AssetId,
        /// The version that the actor saw.
        version: u32,
    },
    /// Moves assets and currency between accounts, all or nothing.
    Exchange(Exchange),
    /// Ends an asset. Owner only.
    Burn {
        /// Which asset.
        asset: AssetId,
        /// The version that the actor saw.
        version: u32,
    },
    /// Takes an asset out of the realm, to be minted on chain by proof. Owner only.
    Redeem {
        /// Which asset.
        asset: AssetId,
        /// The version that the actor saw.
        version: u32,
        /// Chain address that receives the token; the asset's last owner in the realm becomes this.
        to: Account,
    },
    /// Adds currency from outside. Operator only.
    Deposit {
        /// Who receives it.
        account: Account,
        /// How much, minor units; at least 1.
        amount: u64,
    },
    /// Takes currency out. The account itself or the operator.
    Withdraw {
        /// Whose.
        account: Account,
        /// How much, minor units; at least 1.
        amount: u64,
    },
    /// An agent's opinion about one version of an asset. Verifier only.
    Verdict(Box<Verdict>),
    /// A person's decision about an asset in review. Operator or a reviewer named by the gateway.
    ReviewDecision {
        /// Which asset.
        asset: AssetId,
        /// The version that was looked at.
        version: u32,
        /// Accept or reject.
        accepted: bool,
        /// Why, at most [`limits::TEXT_BYTES_MAX`] bytes.
        reason: String,
    },
    /// Makes a model known. Operator only.
    RegisterModel(Box<RegisterModel>),
    /// Lets a registered model mint. Operator only.
    PromoteModel {
        /// Model digest.
        digest: Digest,
    },
    /// Ends a model: no asset made by it is accepted any more. Operator only.
    RetireModel {
        /// Model digest.
        digest: Digest,
    },
    /// Replaces the policy; its version must be the old one plus 1. Operator only.
    SetPolicy(Box<Policy>),
    /// Stops an asset from acting. Operator only.
    Freeze {
        /// Which asset.
        asset: AssetId,
        /// Why.
        reason: String,
    },
    /// Lets a frozen asset act again. Operator only.
    Unfreeze {
        /// Which asset.
        asset: AssetId,
    },
    /// Refuses (or takes again) everything that players ask for. Operator only.
    Pause {
        /// True to pause, false to resume.
        paused: bool,
    },
    /// The batch's Merkle root and payload exist. Settler only.
    BatchSealed(Box<BatchSealed>),
    /// The batch's transaction was mined. Settler only.
    BatchCommitted(Box<BatchCommitted>),
    /// The batch has its confirmations. Settler only.
    BatchFinal {
        /// Batch number, the next committed one.
        number: u64,
    },
    /// Time passes: deadlines that lie before the block's time are met. Operator only (the engine's own ticker).
    Tick {
        /// Base fee last seen on the chain, wei; 0 when unknown.
        base_fee_wei: u64,
    },
}

// 52 bytes of id, actor and hash, and a transfer's 33 in words of 8. Each of them is one line of memory and a half.
const _: () = assert!(size_of::<Command>() <= 96);

/// The realm's first command.
#[derive(Clone, Debug, PartialEq)]
pub struct Genesis {
    /// Realm name.
    pub realm: String,
    /// Who may do what operators do.
    pub operator: Account,
    /// Whose verdicts count.
    pub verifier: Account,
    /// Who reports batches.
    pub settler: Account,
    /// First policy, version 1.
    pub policy: Policy,
}

/// Rules that the operator can change; every change is a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Counts up by one with each change.
    pub version: u32,
    /// An auditor's corruption score below this accepts, parts per million.
    pub accept_below_ppm: u32,
    /// A score at or above this rejects; between the two an asset goes to people.
    pub reject_above_ppm: u32,
    /// Share of assets that are generated again and compared, parts per million.
    pub reexecution_sample_ppm: u32,
    /// A batch is cut when it holds this many changed assets.
    pub batch_changes_max: u32,
    /// A batch is cut when its oldest change is this old, milliseconds.
    pub batch_age_ms_max: u64,
    /// An age cut waits while the chain's base fee is above this, wei; 0 for no limit.
    pub batch_base_fee_wei_max: u64,
    /// ... but never longer than this, milliseconds.
    pub batch_deferral_ms_max: u64,
    /// A command's id is remembered for at least this many later commands (and until what it did is settled).
    pub retry_window_commands: u64,
    /// An asset nearer than this to another of its collection, or with another's very content, goes to people; distance
    /// of embeddings in deviations of the auditor's reference, times a million, at most [`limits::DISTANCE_PPM_MAX`];
    /// 0 for no such comparison.
    pub near_duplicate_below_ppm: u32,
    /// While the last window of a collection has drifted further than this, its assets go to people instead of being
    /// accepted; the window's figure times a million, at most [`limits::DISTANCE_PPM_MAX`]; 0 for never.
    pub drift_review_above_ppm: u32,
    /// Ed25519 public keys whose signatures of models count, at most [`limits::MODEL_KEYS_MAX`]. While empty, any key's do.
    pub model_keys: Vec<ModelKey>,
    /// Whether models must be signed by one of `model_keys` to be registered or promoted.
    pub require_signed_models: bool,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            version: 1,
            accept_below_ppm: 300_000,
            reject_above_ppm: 700_000,
            reexecution_sample_ppm: 20_000,
            batch_changes_max: 4096,
            batch_age_ms_max: 2_000,
            batch_base_fee_wei_max: 0,
            batch_deferral_ms_max: 60_000,
            retry_window_commands: 1_000_000,
            near_duplicate_below_ppm: 0,
            drift_review_above_ppm: 0,
            model_keys: Vec::new(),
            require_signed_models: false,
        }
    }
}

/// Who wins when several accounts claim one asset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimRule {
    /// The first in the realm's order.
    First,
    /// A fair draw among the claims of one window, which the first claim opens.
    Draw {
        /// Length of the window, milliseconds.
        window_ms: u64,
    },
}

/// What an asset may do before a verdict accepted it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PendingRule {
    /// It may change hands (transfer, claim, exchange).
    pub trade: bool,
    /// It may enter a settlement batch.
    pub settle: bool,
    /// Its image may be served.
    pub show: bool,
}

/// One pair of trait values that must not meet in an asset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exclusion {
    /// First trait and its value.
    pub first: (u8, u8),
    /// Second trait and its value.
    pub second: (u8, u8),
}

/// Most assets of a collection that may have one trait value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ValueCap {
    /// Which trait.
    pub trait_index: u8,
    /// Which value.
    pub value: u8,
    /// How many assets.
    pub most: u32,
}

/// One trait of a collection: its name and values, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraitSpec {
    /// Name, for people and metadata.
    pub name: String,
    /// Value names; an asset holds the index.
    pub values: Vec<String>,
    /// Rarity weight of each value (same length as `values`).
    pub weights: Vec<u32>,
}

/// What a collection is, fixed when it is created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionSpec {
    /// Name, for people.
    pub name: String,
    /// Most assets that may ever be minted into it.
    pub supply_cap: u64,
    /// Traits in order.
    pub traits: Vec<TraitSpec>,
    /// Pairs that must not meet.
    pub exclusions: Vec<Exclusion>,
    /// Caps on single values.
    pub value_caps: Vec<ValueCap>,
    /// Who wins claims.
    pub claim_rule: ClaimRule,
    /// What pending assets may do.
    pub pending_rule: PendingRule,
    /// sha2-256 of the secret from which seeds are derived.
    pub seed_commitment: Digest,
    /// Royalty on chain, basis points.
    pub royalty_basis_points: u32,
    /// Who receives it.
    pub royalty_receiver: Account,
}

/// The values of an asset's traits: index of a value for each trait of its collection.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Traits {
    length: u8,
    values: [u8; limits::TRAITS_MAX],
}

impl Traits {
    /// Takes the values; `None` when there are more than [`limits::TRAITS_MAX`].
    pub fn new(values: &[u8]) -> Option<Traits> {
        if values.len() > limits::TRAITS_MAX {
            return None;
        }
        let mut traits = Traits {
            length: values.len() as u8,
            values: [0; limits::TRAITS_MAX],
        };
        traits.values[..values.len()].copy_from_slice(values);
        Some(traits)
    }

    /// The values in order.
    pub fn as_slice(&self) -> &[u8] {
        &self.values[..self.length as usize]
    }
}

impl std::fmt::Debug for Traits {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_slice().fmt(out)
    }
}

/// Where an asset's content came from; together with its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// Digest of the model that made it.
    pub model: Digest,
    /// Variant of the model, by name.
    pub variant: String,
    /// Seed that it was made from.
    pub seed: Digest,
    /// Hash over all of it, see [`crate::lineage::lineage_hash`]; computed where the command is decoded.
    pub hash: Digest,
}

/// Content by reference: the bytes lie in the content store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// sha2-256 of the bytes: the CID's digest.
    pub digest: Digest,
    /// Length, bytes.
    pub size: u32,
}

/// Makes an asset. Creator of the collection only.
#[derive(Clone, Debug, PartialEq)]
pub struct Mint {
    /// Into which collection.
    pub collection: CollectionId,
    /// Owner, or nobody to open it for claims.
    pub owner: Account,
    /// Its content.
    pub content: Content,
    /// Its traits.
    pub traits: Traits,
    /// Its provenance.
    pub lineage: Lineage,
    /// blake3 over collection, content digest, traits and lineage hash, see [`crate::lineage::metadata_digest`].
    pub metadata: Digest,
}

/// Replaces an asset's content and traits, giving it the next version, pending again.
#[derive(Clone, Debug, PartialEq)]
pub struct Revise {
    /// Which asset.
    pub asset: AssetId,
    /// The version that the actor saw; the new one is this plus 1.
    pub version: u32,
    /// Its collection; must be right, since the metadata digest covers it.
    pub collection: CollectionId,
    /// New content.
    pub content: Content,
    /// New traits.
    pub traits: Traits,
    /// New provenance (its hash covers the parent version).
    pub lineage: Lineage,
    /// Metadata digest of the new version.
    pub metadata: Digest,
}

/// An atomic exchange.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// What moves.
    pub legs: Box<[Leg]>,
    /// Accounts that agreed, vouched for by the gateway's client; each giver must be among them or be the actor.
    pub consents: Box<[Account]>,
}

/// One movement of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// An asset changes hands.
    Asset {
        /// Which asset.
        asset: AssetId,
        /// The version that was seen.
        version: u32,
        /// Its owner.
        from: Account,
        /// Its new owner.
        to: Account,
    },
    /// Currency changes hands.
    Currency {
        /// Who pays.
        from: Account,
        /// Who is paid.
        to: Account,
        /// How much, minor units; at least 1.
        amount: u64,
    },
}

/// What an agent concludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The asset is what it says it is.
    Accept,
    /// It is not.
    Reject,
    /// People must look.
    Review,
}

/// The agents' joint conclusion about one version of an asset.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Which asset.
    pub asset: AssetId,
    /// Which version; a verdict for an older one is void.
    pub version: u32,
    /// Policy under which it was reached; under an older one it is void.
    pub policy_version: u32,
    /// The conclusion.
    pub decision: Decision,
    /// The auditor's corruption score, parts per million.
    pub corruption_ppm: u32,
    /// What was found.
    pub findings: Vec<Finding>,
}

/// Which agent found something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentKind {
    /// Pixels, size, format.
    Integrity,
    /// Traits and rules of the collection.
    Policy,
    /// The auditor's reading of the pixels.
    Parity,
    /// Generating again from lineage.
    ReExecution,
    /// Comparing with the other assets of the collection.
    Similarity,
}

/// One thing that an agent saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Who saw it.
    pub agent: AgentKind,
    /// What, by number; `karat-agents` lists them.
    pub code: u16,
    /// A measure that belongs to it (score, trait index, ...), meaning by code.
    pub measure: u32,
}

/// Makes a model known, or gives it a signature.
#[derive(Clone, Debug, PartialEq)]
pub struct RegisterModel {
    /// Model digest.
    pub digest: Digest,
    /// Name and version, for people.
    pub name: String,
    /// What it does.
    pub role: ModelRole,
    /// Who vouches for it; the policy may demand it. Also given to a known model that lacks a listed key's signature.
    pub signature: Option<ModelSignature>,
}

/// What a batch was sealed as.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchSealed {
    /// Batch number, the next one not yet sealed.
    pub number: u64,
    /// Merkle root over the leaves.
    pub root: Digest,
    /// sha2-256 of the payload, its CID's digest.
    pub payload: Digest,
    /// How many leaves; must equal the ledger's own count of changes.
    pub leaves: u32,
}

/// Where on the chain a batch is.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchCommitted {
    /// Batch number, the next sealed one.
    pub number: u64,
    /// Transaction hash.
    pub transaction: Digest,
    /// Block that holds it.
    pub chain_block: u64,
    /// Gas that it used.
    pub gas_used: u64,
    /// What was paid for the gas, wei.
    pub fee_wei: u128,
}

/// What a model does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelRole {
    /// Makes assets.
    Generator,
    /// Reads them back.
    Auditor,
}
