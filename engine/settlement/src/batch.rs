//! What the chain is told about a batch.

use crate::keccak::keccak256;

/// A sealed batch on its way to the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BatchToCommit {
    /// Its number; batches are dense from 1.
    pub number: u64,
    /// [`BatchToCommit::commitment`] of the batch before, zero for the first.
    pub parent: [u8; 32],
    /// Root of its Merkle tree.
    pub root: [u8; 32],
    /// sha2-256 digest of its payload.
    pub payload_digest: [u8; 32],
    /// Hash of the log's block that closes it.
    pub log_head: [u8; 32],
    /// First ledger sequence that it covers.
    pub first_sequence: u64,
    /// Last ledger sequence that it covers.
    pub last_sequence: u64,
}

impl BatchToCommit {
    /// The hash that the contract chains: `keccak256(abi.encode(number, parent, root, payload, log head,
    /// first sequence, last sequence))`. The next batch names it as its parent, so equal commitments mean
    /// equal histories.
    pub fn commitment(&self) -> [u8; 32] {
        let mut words = [0; 7 * 32];
        words[24..32].copy_from_slice(&self.number.to_be_bytes());
        words[32..64].copy_from_slice(&self.parent);
        words[64..96].copy_from_slice(&self.root);
        words[96..128].copy_from_slice(&self.payload_digest);
        words[128..160].copy_from_slice(&self.log_head);
        words[184..192].copy_from_slice(&self.first_sequence.to_be_bytes());
        words[216..224].copy_from_slice(&self.last_sequence.to_be_bytes());
        keccak256(&words)
    }
}
