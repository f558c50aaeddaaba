//! Settlement: changes are netted into batches, batches are sealed and sent, and what the chain says becomes commands.
//!
//! Which changes make a batch is the ledger's decision (`BatchCut`), so it replays. This module only turns a cut range into
//! leaves, root and payload, carries the batch to the chain, and reports each stage as a command. All of it can be done
//! again from the events after a crash: ids are derived from the batch, the payload is content-addressed, the contract
//! refuses a number twice.

mod builder;
mod chain;
mod driver;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use karat_content::ContentStore;
use karat_proto::v1;
use karat_settlement::{ChainClient, MerkleTree, Payload};
use thiserror::Error;

pub use builder::BatchBuilder;
pub use chain::{Chain, ChainSetupError};
pub use driver::{Driver, DriverError};

use crate::core::Core;

/// Figures of settlement.
#[derive(Debug, Default)]
pub struct SettlementFigures {
    /// Batches sealed by this process.
    pub sealed: AtomicU64,
    /// Batches final.
    pub final_batches: AtomicU64,
    /// Leaves in final batches.
    pub final_leaves: AtomicU64,
    /// Gas used by committed batches.
    pub gas_used: AtomicU64,
    /// Leaves in committed batches.
    pub committed_leaves: AtomicU64,
    /// Steps that failed and are tried again.
    pub failures: AtomicU64,
}

/// Settlement's handle for the gateway.
pub struct Settlement {
    core: Arc<Core>,
    client: ChainClient,
    /// Figures.
    pub figures: SettlementFigures,
}

/// Why there is no proof.
#[derive(Debug, Error)]
pub enum ProofError {
    /// The batch has no payload yet.
    #[error("batch {0} is not sealed yet; try again after it is")]
    NotSealed(u64),
    /// The payload is missing or damaged.
    #[error("payload of batch {number}: {reason}")]
    Payload {
        /// Batch.
        number: u64,
        /// What is wrong.
        reason: String,
    },
    /// The asset has no leaf in the batch.
    #[error("asset {asset} has no leaf in batch {number}")]
    NoLeaf {
        /// Asset.
        asset: u64,
        /// Batch.
        number: u64,
    },
    /// The chain could not be asked.
    #[error("chain: {0}")]
    Chain(String),
}

impl Settlement {
    /// Over an open realm and a connected chain.
    pub fn new(core: Arc<Core>, client: ChainClient) -> Arc<Settlement> {
        Arc::new(Settlement {
            core,
            client,
            figures: SettlementFigures::default(),
        })
    }

    /// The chain client.
    pub fn client(&self) -> &ChainClient {
        &self.client
    }

    /// Proof of an asset's leaf in a sealed batch, with the root that the chain returns for it now.
    ///
    /// # Errors
    /// When the batch is not sealed, its payload is damaged, or the chain cannot be asked.
    pub async fn proof(
        &self,
        batch: &v1::Batch,
        asset: u64,
    ) -> Result<v1::GetProofResponse, ProofError> {
        let number = batch.number;
        if batch.payload_cid.is_empty() {
            return Err(ProofError::NotSealed(number));
        }
        let damaged = |reason: String| ProofError::Payload { number, reason };
        let digest = karat_content::digest_from_cid(&batch.payload_cid)
            .map_err(|error| damaged(error.to_string()))?;
        let content = self.core.content.clone();
        let (payload, tree) = tokio::task::spawn_blocking(move || {
            let bytes = content
                .get(&digest)
                .map_err(|error| error.to_string())?
                .ok_or_else(|| "it is not stored".to_owned())?;
            let payload = Payload::decode(&bytes).map_err(|error| error.to_string())?;
            let tree = MerkleTree::new(&payload.leaves).map_err(|error| error.to_string())?;
            Ok::<_, String>((payload, tree))
        })
        .await
        .map_err(|error| damaged(error.to_string()))?
        .map_err(damaged)?;
        // Leaves are sorted by asset.
        let at = payload
            .leaves
            .binary_search_by_key(&asset, |leaf| leaf.asset)
            .map_err(|_| ProofError::NoLeaf { asset, number })?;
        let leaf = &payload.leaves[at];
        let proof = tree.proof(at).map_err(|error| damaged(error.to_string()))?;
        let root = self
            .client
            .root_of(number)
            .await
            .map_err(|error| ProofError::Chain(error.to_string()))?;
        Ok(v1::GetProofResponse {
            batch: Some(batch.clone()),
            asset,
            owner: Bytes::copy_from_slice(&leaf.owner),
            version: leaf.version,
            metadata: Bytes::copy_from_slice(&leaf.metadata),
            collection: leaf.collection,
            kind: leaf.kind as i32,
            proof: proof
                .iter()
                .map(|hash| Bytes::copy_from_slice(hash))
                .collect(),
            contract: Bytes::copy_from_slice(&self.client.contract()),
            chain_id: self.client.chain_id(),
            parent: Bytes::copy_from_slice(&payload.parent),
            log_head: Bytes::copy_from_slice(&payload.log_head),
            chain_root: root.map_or(Bytes::new(), |root| Bytes::copy_from_slice(&root)),
        })
    }

    /// Gas of committed batches divided by their leaves; `None` before the first.
    pub fn gas_an_asset(&self) -> Option<f64> {
        let leaves = self.figures.committed_leaves.load(Ordering::Relaxed);
        let gas = self.figures.gas_used.load(Ordering::Relaxed);
        (leaves > 0).then(|| gas as f64 / leaves as f64)
    }
}
