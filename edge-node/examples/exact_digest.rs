//! One digest over the pixels of many seeds, for comparing an exact variant across backends and machines.
//!
//! `cargo run --release -p karat-edge-node --example exact_digest -- models/relics exact 10000`, then the same with
//! `ORT_DYLIB_PATH` set: the two digests must be equal.

use karat_edge_node::generator::{GenerationRequest, Generator};
use karat_edge_node::rarity::TraitSolver;
use karat_edge_node::runtime::backend;
use karat_edge_node::seeds::Secret;
use sha2::{Digest, Sha256};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, variant, count] = arguments.as_slice() else {
        return Err("usage: exact_digest FOLDER VARIANT COUNT".into());
    };
    let mut generator = Generator::load(folder, variant.as_str())?;
    let mut solver = TraitSolver::new(generator.manifest().trait_rules())?;
    let secret = Secret::from_bytes([1; 32]);
    let (mut hasher, mut requests, mut size) = (Sha256::new(), Vec::new(), 1);
    let count: u64 = count.parse()?;
    for index in 0..count {
        let seed = secret.seed(index);
        requests.push(GenerationRequest {
            seed,
            traits: solver.draw(&seed)?,
        });
        // Every batch size from 1 to 64 in turn, so that a dependence on it would show.
        if requests.len() == size || index + 1 == count {
            size = size % 64 + 1;
            for asset in generator.generate(&requests)? {
                hasher.update(&asset.pixels);
            }
            requests.clear();
        }
    }
    println!(
        "{} {variant}: {count} images, sha256 {}",
        backend()?.name(),
        hex::encode(hasher.finalize())
    );
    Ok(())
}
