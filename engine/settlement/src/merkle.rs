//! The Merkle tree of a batch, in the layout of OpenZeppelin's `@openzeppelin/merkle-tree`, so that
//! their libraries and contracts verify our proofs and ours verify theirs.
//!
//! The tree is one array of `2n - 1` nodes with the root at 0 and the children of `i` at `2i + 1` and
//! `2i + 2`. Leaf hashes are sorted and lie at the end in reverse. A pair is hashed smaller side first,
//! which is why a proof needs no left-or-right marks.

use crate::keccak::keccak256;
use crate::leaf::Leaf;

/// Most leaves in one tree: the most changes that a batch may hold.
pub const LEAVES_MAX: usize = 65_536;

/// Below this many hashes a second thread costs more than it saves.
const HASHES_PER_THREAD_MIN: usize = 2_048;

/// Why a tree could not be built or a proof not be given.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MerkleError {
    /// A tree needs at least one leaf.
    #[error("build merkle tree: no leaves; a batch without changes is not settled")]
    Empty,
    /// More leaves than a batch may hold.
    #[error("build merkle tree: {count} leaves, at most {LEAVES_MAX} fit in one batch")]
    TooManyLeaves {
        /// How many were given.
        count: usize,
    },
    /// The tree has no such leaf.
    #[error("merkle proof: leaf {index} of a tree with {count} leaves")]
    NoSuchLeaf {
        /// The index asked for.
        index: usize,
        /// How many leaves there are.
        count: usize,
    },
}

/// A tree over the leaves of one batch. Leaves are named by their index in the slice it was built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MerkleTree {
    nodes: Vec<[u8; 32]>,
    /// `nodes` index of each leaf.
    node_of_leaf: Vec<u32>,
}

impl MerkleTree {
    /// Builds the tree on the calling thread.
    ///
    /// Errors: no leaves, or more than [`LEAVES_MAX`].
    pub fn new(leaves: &[Leaf]) -> Result<Self, MerkleError> {
        Self::with_threads(leaves, 1)
    }

    /// Builds the same tree with up to `threads` threads (at least one is used).
    pub fn with_threads(leaves: &[Leaf], threads: usize) -> Result<Self, MerkleError> {
        let count = leaves.len();
        if count > LEAVES_MAX {
            return Err(MerkleError::TooManyLeaves { count });
        }
        let mut hashes = vec![[0; 32]; count];
        in_chunks(threads, leaves, &mut hashes, |leaf| leaf.hash());
        Self::from_leaf_hashes(&hashes, threads)
    }

    /// Builds a tree over hashes that were made elsewhere.
    pub fn from_leaf_hashes(hashes: &[[u8; 32]], threads: usize) -> Result<Self, MerkleError> {
        let count = hashes.len();
        if count == 0 {
            return Err(MerkleError::Empty);
        }
        if count > LEAVES_MAX {
            return Err(MerkleError::TooManyLeaves { count });
        }
        let mut order: Vec<u32> = (0..count as u32).collect();
        order.sort_unstable_by_key(|&leaf| (hashes[leaf as usize], leaf));

        let last = 2 * count - 2;
        let mut nodes = vec![[0; 32]; 2 * count - 1];
        let mut node_of_leaf = vec![0; count];
        for (rank, &leaf) in order.iter().enumerate() {
            nodes[last - rank] = hashes[leaf as usize];
            node_of_leaf[leaf as usize] = (last - rank) as u32;
        }
        // Level by level from the deepest: the nodes of one level read only those below it.
        let mut end = count - 1;
        while end > 0 {
            let start = end / 2;
            let (parents, children) = nodes.split_at_mut(end);
            // The children of `start..end` are `2 start + 1 ..= 2 end`, which begin at or after `end`.
            let children = &children[2 * start + 1 - end..2 * end + 1 - end];
            let pairs: &[[[u8; 32]; 2]] = children.as_chunks().0;
            in_chunks(threads, pairs, &mut parents[start..], |pair| {
                hash_pair(&pair[0], &pair[1])
            });
            end = start;
        }
        Ok(Self {
            nodes,
            node_of_leaf,
        })
    }

    /// The root, which is what the chain stores.
    pub fn root(&self) -> [u8; 32] {
        self.nodes[0]
    }

    /// How many leaves the tree has; never 0.
    pub fn leaf_count(&self) -> usize {
        self.node_of_leaf.len()
    }

    /// The sibling hashes from leaf `index` up to below the root.
    ///
    /// Errors: there is no such leaf.
    pub fn proof(&self, index: usize) -> Result<Vec<[u8; 32]>, MerkleError> {
        let mut node = *self
            .node_of_leaf
            .get(index)
            .ok_or(MerkleError::NoSuchLeaf {
                index,
                count: self.leaf_count(),
            })? as usize;
        let mut proof = Vec::new();
        while node > 0 {
            // Left children are odd.
            let sibling = if node % 2 == 1 { node + 1 } else { node - 1 };
            proof.push(self.nodes[sibling]);
            node = (node - 1) / 2;
        }
        Ok(proof)
    }
}

/// Whether `proof` leads from `leaf_hash` to `root`.
pub fn verify(root: &[u8; 32], leaf_hash: &[u8; 32], proof: &[[u8; 32]]) -> bool {
    let reached = proof
        .iter()
        .fold(*leaf_hash, |node, sibling| hash_pair(&node, sibling));
    reached == *root
}

fn hash_pair(one: &[u8; 32], other: &[u8; 32]) -> [u8; 32] {
    let (first, second) = if one <= other {
        (one, other)
    } else {
        (other, one)
    };
    let mut pair = [0; 64];
    pair[..32].copy_from_slice(first);
    pair[32..].copy_from_slice(second);
    keccak256(&pair)
}

/// Fills `outputs[i]` with `hash(inputs[i])`, on up to `threads` threads.
fn in_chunks<T: Sync>(
    threads: usize,
    inputs: &[T],
    outputs: &mut [[u8; 32]],
    hash: impl Fn(&T) -> [u8; 32] + Sync,
) {
    let fill = |inputs: &[T], outputs: &mut [[u8; 32]]| {
        for (output, input) in outputs.iter_mut().zip(inputs) {
            *output = hash(input);
        }
    };
    let threads = threads.min(inputs.len() / HASHES_PER_THREAD_MIN).max(1);
    if threads == 1 {
        fill(inputs, outputs);
        return;
    }
    let chunk = inputs.len().div_ceil(threads);
    std::thread::scope(|scope| {
        for (inputs, outputs) in inputs.chunks(chunk).zip(outputs.chunks_mut(chunk)) {
            scope.spawn(move || fill(inputs, outputs));
        }
    });
}
