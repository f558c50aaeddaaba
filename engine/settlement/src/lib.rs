//! Settlement: from the ledger's batches to an EVM chain, with a proof for every asset.
//!
//! The way of a batch:
//!
//! 1. [`netting`]: its changes become at most one [`leaf`] an asset.
//! 2. [`merkle`]: the leaves become one root, in OpenZeppelin's standard layout.
//! 3. [`payload`]: its canonical bytes go to the content store under their CID.
//! 4. [`submitter`]: the root goes to the contract, in order, once, through crashes and reorgs.
//! 5. [`proof`]: anybody checks one asset against the root that the chain holds, and may redeem it.
//!
//! The chain is whatever answers JSON-RPC: [`chain::embedded`] runs a real EVM in this process,
//! [`chain::transport`] is the seam for a node elsewhere, and [`chain::client`] is used with both.

pub mod batch;
pub mod chain;
mod keccak;
pub mod leaf;
pub mod merkle;
pub mod netting;
pub mod payload;
pub mod proof;
pub mod submitter;

pub use batch::BatchToCommit;
pub use chain::client::ChainClient;
pub use chain::embedded::{EmbeddedChain, EmbeddedChainConfig};
pub use chain::transport::{RpcError, RpcTransport};
pub use leaf::{Leaf, LeafKind};
pub use merkle::MerkleTree;
pub use netting::{Change, net};
pub use payload::Payload;
pub use proof::ProofDocument;
pub use submitter::{Progress, Stage, Submitter, SubmitterConfig, SubmitterError};
