//! Prints a proof as `karat proof` does, of one leaf in a tree of a thousand, for checking it with other
//! tools:
//!
//! `cargo run --release -p karat-settlement --example proof_document | node deploy/contracts/check-proof.mjs -`

use karat_settlement::{BatchToCommit, Leaf, LeafKind, MerkleTree, ProofDocument};

const LEAVES: u64 = 1_000;
const PROVED: usize = 417;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let leaves: Vec<Leaf> = (1..=LEAVES)
        .map(|asset| Leaf {
            asset,
            owner: [asset as u8; 20],
            version: 3,
            metadata: [0x5a; 32],
            collection: 2,
            kind: LeafKind::Redeemed,
        })
        .collect();
    let tree = MerkleTree::new(&leaves)?;
    let batch = BatchToCommit {
        number: 1,
        parent: [0; 32],
        root: tree.root(),
        payload_digest: [1; 32],
        log_head: [2; 32],
        first_sequence: 1,
        last_sequence: LEAVES,
    };
    let proof = tree.proof(PROVED)?;
    let document = ProofDocument::new(&leaves[PROVED], &proof, &batch, None, [7; 20], 31_337);
    println!("{}", serde_json::to_string_pretty(&document)?);
    Ok(())
}
