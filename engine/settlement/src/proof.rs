//! A proof as `karat proof` prints it: one JSON document that holds everything needed to check one
//! asset against the root on chain, with OpenZeppelin's tools or with ours.

use serde::{Deserialize, Serialize};

use crate::batch::BatchToCommit;
use crate::chain::hexadecimal;
use crate::leaf::{LEAF_ENCODING, Leaf, LeafKind};
use crate::merkle;
use crate::payload::cid_of_digest;

/// The format's name.
pub const FORMAT: &str = "standard-v1-proof";

/// Why a document is not a valid proof.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProofError {
    /// Another format.
    #[error("read proof: format {found:?}, expected {FORMAT:?}")]
    UnknownFormat {
        /// The format found.
        found: String,
    },
    /// The leaf has other types than ours.
    #[error("read proof: leaf encoding {found:?} is not a settlement leaf's")]
    UnknownEncoding {
        /// The types found.
        found: Vec<String>,
    },
    /// A field does not hold what it should.
    #[error("read proof: {field}: {reason}")]
    BadField {
        /// The field.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The proof does not lead to the root.
    #[error("check proof: the leaf of asset {asset} is not under root {root}")]
    NotUnderRoot {
        /// The asset.
        asset: u64,
        /// The root in the document.
        root: String,
    },
}

/// The batch part of a proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofBatch {
    /// The batch's number.
    pub number: u64,
    /// Commitment of the batch before.
    pub parent: String,
    /// This batch's commitment.
    pub commitment: String,
    /// sha2-256 digest of the payload.
    pub payload: String,
    /// CIDv1 of the payload.
    pub payload_cid: String,
    /// Hash of the log's block that closed the batch.
    pub log_head: String,
    /// First ledger sequence covered.
    pub first_sequence: u64,
    /// Last ledger sequence covered.
    pub last_sequence: u64,
    /// Hash of the transaction that committed it, if known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub transaction: Option<String>,
    /// The chain's block that holds it, if known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub block: Option<u64>,
}

/// The whole document. `root`, `leafEncoding`, `value` and `proof` are the arguments of
/// `StandardMerkleTree.verify(root, leafEncoding, value, proof)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofDocument {
    /// Always [`FORMAT`].
    pub format: String,
    /// The batch's Merkle root.
    pub root: String,
    /// The ABI types of the leaf.
    #[serde(rename = "leafEncoding")]
    pub leaf_encoding: Vec<String>,
    /// The leaf's values; numbers in decimal, bytes in hexadecimal.
    pub value: Vec<String>,
    /// Sibling hashes from the leaf up.
    pub proof: Vec<String>,
    /// The batch that settled it.
    pub batch: ProofBatch,
    /// Address of the settlement contract.
    pub contract: String,
    /// The chain it stands on.
    pub chain_id: u64,
}

/// Where a batch was committed, if known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommittedAt {
    /// Hash of the transaction.
    pub transaction: [u8; 32],
    /// The chain's block.
    pub block: u64,
}

impl ProofDocument {
    /// Writes the document for one leaf of one batch.
    pub fn new(
        leaf: &Leaf,
        proof: &[[u8; 32]],
        batch: &BatchToCommit,
        committed_at: Option<CommittedAt>,
        contract: [u8; 20],
        chain_id: u64,
    ) -> Self {
        Self {
            format: FORMAT.to_owned(),
            root: hexadecimal::data(batch.root),
            leaf_encoding: LEAF_ENCODING.map(str::to_owned).to_vec(),
            value: vec![
                leaf.asset.to_string(),
                hexadecimal::data(leaf.owner),
                leaf.version.to_string(),
                hexadecimal::data(leaf.metadata),
                leaf.collection.to_string(),
                (leaf.kind as u8).to_string(),
            ],
            proof: proof.iter().map(hexadecimal::data).collect(),
            batch: ProofBatch {
                number: batch.number,
                parent: hexadecimal::data(batch.parent),
                commitment: hexadecimal::data(batch.commitment()),
                payload: hexadecimal::data(batch.payload_digest),
                payload_cid: cid_of_digest(&batch.payload_digest),
                log_head: hexadecimal::data(batch.log_head),
                first_sequence: batch.first_sequence,
                last_sequence: batch.last_sequence,
                transaction: committed_at.map(|at| hexadecimal::data(at.transaction)),
                block: committed_at.map(|at| at.block),
            },
            contract: hexadecimal::data(contract),
            chain_id,
        }
    }

    /// Checks the proof against the root in the document and returns the leaf that it proves. The root
    /// itself is worth what its source is: compare it with the chain's (`ChainClient::root_of`).
    pub fn check(&self) -> Result<Leaf, ProofError> {
        let leaf = self.leaf()?;
        let root = self.root()?;
        if merkle::verify(&root, &leaf.hash(), &self.siblings()?) {
            Ok(leaf)
        } else {
            Err(ProofError::NotUnderRoot {
                asset: leaf.asset,
                root: self.root.clone(),
            })
        }
    }

    /// The leaf, unchecked.
    pub fn leaf(&self) -> Result<Leaf, ProofError> {
        if self.format != FORMAT {
            return Err(ProofError::UnknownFormat {
                found: self.format.clone(),
            });
        }
        if self.leaf_encoding != LEAF_ENCODING {
            return Err(ProofError::UnknownEncoding {
                found: self.leaf_encoding.clone(),
            });
        }
        let [asset, owner, version, metadata, collection, kind] = self.value.as_slice() else {
            return Err(ProofError::BadField {
                field: "value",
                reason: format!("{} values where 6 are expected", self.value.len()),
            });
        };
        let kind: u8 = number("value[5]", kind)?;
        Ok(Leaf {
            asset: number("value[0]", asset)?,
            owner: bytes("value[1]", owner)?,
            version: number("value[2]", version)?,
            metadata: bytes("value[3]", metadata)?,
            collection: number("value[4]", collection)?,
            kind: LeafKind::from_number(kind).ok_or_else(|| ProofError::BadField {
                field: "value[5]",
                reason: format!("unknown kind {kind}"),
            })?,
        })
    }

    /// The root in the document.
    pub fn root(&self) -> Result<[u8; 32], ProofError> {
        bytes("root", &self.root)
    }

    /// The sibling hashes.
    pub fn siblings(&self) -> Result<Vec<[u8; 32]>, ProofError> {
        self.proof
            .iter()
            .map(|sibling| bytes("proof", sibling))
            .collect()
    }
}

fn number<T: std::str::FromStr>(field: &'static str, text: &str) -> Result<T, ProofError> {
    text.parse().map_err(|_| ProofError::BadField {
        field,
        reason: format!("not a number in range: {text:?}"),
    })
}

fn bytes<const N: usize>(field: &'static str, text: &str) -> Result<[u8; N], ProofError> {
    hexadecimal::parse_bytes(&serde_json::Value::from(text))
        .map_err(|reason| ProofError::BadField { field, reason })
}
