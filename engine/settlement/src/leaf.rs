//! One asset's settled state, and its hash in the Merkle tree.

use crate::keccak::keccak256;

/// ABI types of a leaf, in order, as OpenZeppelin's `StandardMerkleTree` names them.
pub const LEAF_ENCODING: [&str; 6] = ["uint64", "address", "uint32", "bytes32", "uint32", "uint8"];

/// What a leaf says happened to its asset. The numbers are the contract's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum LeafKind {
    /// The asset lives on in the ledger.
    Held = 0,
    /// The asset no longer exists.
    Burned = 1,
    /// The asset left the ledger; its owner may mint it on chain.
    Redeemed = 2,
}

impl LeafKind {
    /// The kind with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Held),
            1 => Some(Self::Burned),
            2 => Some(Self::Redeemed),
            _ => None,
        }
    }
}

/// The state of one asset as a batch settles it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Leaf {
    /// The asset's id; also the token id if it is redeemed.
    pub asset: u64,
    /// The owner's address on the chain.
    pub owner: [u8; 20],
    /// The asset's version that this leaf pins.
    pub version: u32,
    /// Digest of the asset's metadata at that version.
    pub metadata: [u8; 32],
    /// The collection's id.
    pub collection: u32,
    /// What happened to the asset.
    pub kind: LeafKind,
}

impl Leaf {
    /// The leaf's hash in an OpenZeppelin standard tree:
    /// `keccak256(keccak256(abi.encode(asset, owner, version, metadata, collection, kind)))`.
    ///
    /// Hashed twice so that the 64 bytes of an inner node can never pass as a leaf.
    pub fn hash(&self) -> [u8; 32] {
        keccak256(&keccak256(&self.abi_encoded()))
    }

    /// Six static words of 32 bytes, each value right-aligned except the digest, which fills its word.
    pub fn abi_encoded(&self) -> [u8; 192] {
        let mut words = [0; 192];
        words[24..32].copy_from_slice(&self.asset.to_be_bytes());
        words[44..64].copy_from_slice(&self.owner);
        words[92..96].copy_from_slice(&self.version.to_be_bytes());
        words[96..128].copy_from_slice(&self.metadata);
        words[156..160].copy_from_slice(&self.collection.to_be_bytes());
        words[191] = self.kind as u8;
        words
    }
}
