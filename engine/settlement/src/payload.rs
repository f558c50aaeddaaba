//! The payload of a batch: the bytes from which anybody can rebuild its tree, stored under their CID
//! before the root goes to the chain.
//!
//! Canonical: one batch has exactly one encoding, so its digest can be committed. All numbers are
//! little-endian.
//!
//! ```text
//! "KARATBAT" | format u16 = 1 | number u64 | parent 32 | first sequence u64 | last sequence u64
//! | log head 32 | leaf count u32 | leaves, 69 bytes each, by rising asset id
//! leaf: asset u64 | owner 20 | version u32 | metadata 32 | collection u32 | kind u8
//! ```

use sha2::{Digest, Sha256};

use crate::leaf::{Leaf, LeafKind};
use crate::merkle::LEAVES_MAX;

const MAGIC: &[u8; 8] = b"KARATBAT";
const FORMAT: u16 = 1;
const HEADER_BYTES: usize = 8 + 2 + 8 + 32 + 8 + 8 + 32 + 4;
const LEAF_BYTES: usize = 8 + 20 + 4 + 32 + 4 + 1;

/// Multicodec `raw`: the payload is bytes, not a graph.
const CODEC_RAW: u64 = 0x55;
/// Multihash `sha2-256`.
const HASH_SHA2_256: u64 = 0x12;

/// Why bytes are not a payload, or a batch cannot be one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PayloadError {
    /// The bytes do not begin as a payload does.
    #[error("decode batch payload: these bytes are not a batch payload")]
    NotAPayload,
    /// Written by a newer program.
    #[error("decode batch payload: format {found}, this program reads format {FORMAT}")]
    UnknownFormat {
        /// The format found.
        found: u16,
    },
    /// Too short or too long for the leaves it announces.
    #[error("decode batch payload: {actual} bytes, {expected} expected")]
    WrongLength {
        /// Bytes that its header announces.
        expected: usize,
        /// Bytes given.
        actual: usize,
    },
    /// More leaves than a batch may hold.
    #[error("batch payload: {count} leaves, at most {LEAVES_MAX}")]
    TooManyLeaves {
        /// How many.
        count: usize,
    },
    /// Leaves are not sorted by asset, or an asset is there twice.
    #[error("batch payload: leaf {index} is not above the one before it; net the changes first")]
    NotSorted {
        /// Index of the offending leaf.
        index: usize,
    },
    /// A leaf has a kind that does not exist.
    #[error("decode batch payload: leaf {index} is of unknown kind {kind}")]
    UnknownKind {
        /// Index of the offending leaf.
        index: usize,
        /// The kind's number.
        kind: u8,
    },
}

/// Everything that a batch settles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The batch's number, from 1.
    pub number: u64,
    /// Commitment of the batch before (see `BatchToCommit::commitment`), zero for the first.
    pub parent: [u8; 32],
    /// First ledger sequence that the batch covers.
    pub first_sequence: u64,
    /// Last ledger sequence that the batch covers.
    pub last_sequence: u64,
    /// Hash of the log's block that closes the batch.
    pub log_head: [u8; 32],
    /// The netted leaves, by rising asset id.
    pub leaves: Vec<Leaf>,
}

impl Payload {
    /// The canonical bytes.
    ///
    /// Errors: more than `LEAVES_MAX` leaves, or leaves that are not netted.
    pub fn encode(&self) -> Result<Vec<u8>, PayloadError> {
        check_leaves(&self.leaves)?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + LEAF_BYTES * self.leaves.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.parent);
        bytes.extend_from_slice(&self.first_sequence.to_le_bytes());
        bytes.extend_from_slice(&self.last_sequence.to_le_bytes());
        bytes.extend_from_slice(&self.log_head);
        // At most LEAVES_MAX, checked above.
        bytes.extend_from_slice(&(self.leaves.len() as u32).to_le_bytes());
        for leaf in &self.leaves {
            bytes.extend_from_slice(&leaf.asset.to_le_bytes());
            bytes.extend_from_slice(&leaf.owner);
            bytes.extend_from_slice(&leaf.version.to_le_bytes());
            bytes.extend_from_slice(&leaf.metadata);
            bytes.extend_from_slice(&leaf.collection.to_le_bytes());
            bytes.push(leaf.kind as u8);
        }
        Ok(bytes)
    }

    /// Reads canonical bytes; anything that `encode` would not have written is refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, PayloadError> {
        if !bytes.starts_with(MAGIC) || bytes.len() < HEADER_BYTES {
            return Err(PayloadError::NotAPayload);
        }
        let mut header = Reader { rest: &bytes[8..] };
        let format = u16::from_le_bytes(header.take());
        if format != FORMAT {
            return Err(PayloadError::UnknownFormat { found: format });
        }
        let number = u64::from_le_bytes(header.take());
        let parent = header.take();
        let first_sequence = u64::from_le_bytes(header.take());
        let last_sequence = u64::from_le_bytes(header.take());
        let log_head = header.take();
        let count = u32::from_le_bytes(header.take()) as usize;
        if count > LEAVES_MAX {
            return Err(PayloadError::TooManyLeaves { count });
        }
        let expected = HEADER_BYTES + LEAF_BYTES * count;
        if bytes.len() != expected {
            return Err(PayloadError::WrongLength {
                expected,
                actual: bytes.len(),
            });
        }
        let mut leaves = Vec::with_capacity(count);
        for (index, record) in header.rest.chunks_exact(LEAF_BYTES).enumerate() {
            let mut record = Reader { rest: record };
            leaves.push(Leaf {
                asset: u64::from_le_bytes(record.take()),
                owner: record.take(),
                version: u32::from_le_bytes(record.take()),
                metadata: record.take(),
                collection: u32::from_le_bytes(record.take()),
                kind: {
                    let [kind] = record.take();
                    LeafKind::from_number(kind).ok_or(PayloadError::UnknownKind { index, kind })?
                },
            });
        }
        check_leaves(&leaves)?;
        Ok(Self {
            number,
            parent,
            first_sequence,
            last_sequence,
            log_head,
            leaves,
        })
    }
}

/// The sha2-256 digest of a payload's bytes: what the chain stores, and what its CID holds.
pub fn payload_digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The CIDv1 (raw, sha2-256, base32) of bytes with this sha2-256 digest.
pub fn cid_of_digest(digest: &[u8; 32]) -> String {
    let hash = cid::multihash::Multihash::<64>::wrap(HASH_SHA2_256, digest)
        .expect("32 bytes fit in a multihash of 64");
    cid::Cid::new_v1(CODEC_RAW, hash).to_string()
}

fn check_leaves(leaves: &[Leaf]) -> Result<(), PayloadError> {
    if leaves.len() > LEAVES_MAX {
        return Err(PayloadError::TooManyLeaves {
            count: leaves.len(),
        });
    }
    match leaves
        .windows(2)
        .position(|pair| pair[0].asset >= pair[1].asset)
    {
        Some(before) => Err(PayloadError::NotSorted { index: before + 1 }),
        None => Ok(()),
    }
}

/// Takes fixed pieces off bytes whose total length was checked before.
struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut piece = [0; N];
        let (head, tail) = self.rest.split_at(N);
        piece.copy_from_slice(head);
        self.rest = tail;
        piece
    }
}
