//! From events to batches: collects due changes, and nets them when the ledger cuts.

use karat_proto::event::{Event, EventKind, LeafKind};
use karat_settlement::{BatchToCommit, Change, Leaf, MerkleTree, Payload, net};
use thiserror::Error;

use crate::events::BlockEvents;

/// Why a batch cannot be built: the events contradict themselves, which must not happen.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The count is not the ledger's.
    #[error(
        "batch {number} nets to {leaves} leaves, the ledger counted {changes} changes; the event log is damaged: delete it, it is made again"
    )]
    Count {
        /// Batch.
        number: u64,
        /// Leaves found.
        leaves: usize,
        /// Changes counted.
        changes: u32,
    },
    /// The tree or the payload cannot be made.
    #[error("batch {number}: {reason}")]
    Tree {
        /// Batch.
        number: u64,
        /// What is wrong.
        reason: String,
    },
}

/// A batch ready to be sealed.
#[derive(Debug)]
pub struct BuiltBatch {
    /// What goes to the chain.
    pub batch: BatchToCommit,
    /// Payload bytes.
    pub payload: Vec<u8>,
    /// Number of leaves.
    pub leaves: u32,
}

/// Changes since the last cut.
#[derive(Debug)]
pub struct BatchBuilder {
    changes: Vec<Change>,
    parent: [u8; 32],
}

impl BatchBuilder {
    /// Begins behind a batch whose commitment is `parent` (zeros before the first one).
    pub fn new(parent: [u8; 32]) -> BatchBuilder {
        BatchBuilder {
            changes: Vec::new(),
            parent,
        }
    }

    /// Takes one block's event; returns a batch when it is a cut.
    ///
    /// # Errors
    /// When netting does not give what the ledger counted.
    pub fn take(
        &mut self,
        block: &BlockEvents,
        event: &Event,
    ) -> Result<Option<BuiltBatch>, BuildError> {
        match &event.kind {
            EventKind::SettlementDue {
                asset,
                collection,
                owner,
                version,
                metadata,
                kind,
            } => {
                let leaf = Leaf {
                    asset: *asset,
                    owner: owner.0,
                    version: *version,
                    metadata: *metadata,
                    collection: *collection,
                    kind: match kind {
                        LeafKind::Held => karat_settlement::LeafKind::Held,
                        LeafKind::Burned => karat_settlement::LeafKind::Burned,
                        LeafKind::Redeemed => karat_settlement::LeafKind::Redeemed,
                    },
                };
                self.changes.push(Change {
                    sequence: event.sequence,
                    leaf,
                });
                Ok(None)
            }
            EventKind::BatchCut {
                number,
                first_sequence,
                last_sequence,
                changes,
            } => {
                let built = self.cut(
                    *number,
                    *first_sequence,
                    *last_sequence,
                    *changes,
                    block.hash,
                )?;
                self.parent = built.batch.commitment();
                Ok(Some(built))
            }
            _ => Ok(None),
        }
    }

    fn cut(
        &mut self,
        number: u64,
        first_sequence: u64,
        last_sequence: u64,
        changes: u32,
        log_head: [u8; 32],
    ) -> Result<BuiltBatch, BuildError> {
        let in_range = self
            .changes
            .partition_point(|change| change.sequence <= last_sequence);
        let taken: Vec<Change> = self.changes.drain(..in_range).collect();
        let leaves = net(&taken);
        if leaves.len() != changes as usize {
            return Err(BuildError::Count {
                number,
                leaves: leaves.len(),
                changes,
            });
        }
        let failed = |reason: String| BuildError::Tree { number, reason };
        let tree = MerkleTree::new(&leaves).map_err(|error| failed(error.to_string()))?;
        let payload = Payload {
            number,
            parent: self.parent,
            first_sequence,
            last_sequence,
            log_head,
            leaves,
        };
        let bytes = payload
            .encode()
            .map_err(|error| failed(error.to_string()))?;
        let batch = BatchToCommit {
            number,
            parent: self.parent,
            root: tree.root(),
            payload_digest: karat_content::digest_of(&bytes),
            log_head,
            first_sequence,
            last_sequence,
        };
        Ok(BuiltBatch {
            batch,
            payload: bytes,
            leaves: changes,
        })
    }
}
