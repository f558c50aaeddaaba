//! How many leaves a second a batch's tree is built from: hashing of leaves, sorting, all inner nodes.
//!
//! `cargo run --release -p karat-settlement --example leaves_per_second`

use std::hint::black_box;
use std::time::Instant;

use karat_settlement::merkle::LEAVES_MAX;
use karat_settlement::{Leaf, LeafKind, MerkleTree};

const ROUNDS: usize = 9;

fn main() {
    let leaves: Vec<Leaf> = (0..LEAVES_MAX as u64)
        .map(|asset| Leaf {
            asset,
            owner: [asset as u8; 20],
            version: 1,
            metadata: [(asset >> 8) as u8; 32],
            collection: 1,
            kind: LeafKind::Held,
        })
        .collect();
    rates("1 thread, its CPU time", || {
        let before_ns = thread_cpu_ns()?;
        build(&leaves, 1);
        Some((thread_cpu_ns()? - before_ns) as f64 / 1e9)
    });
    for threads in [1, 2] {
        rates(&format!("{threads} thread(s), wall time"), || {
            let start = Instant::now();
            build(&leaves, threads);
            Some(start.elapsed().as_secs_f64())
        });
    }
}

fn build(leaves: &[Leaf], threads: usize) {
    let tree = MerkleTree::with_threads(black_box(leaves), threads);
    assert!(black_box(tree).is_ok());
}

fn rates(what: &str, mut seconds: impl FnMut() -> Option<f64>) {
    let rates: Option<Vec<f64>> = (0..ROUNDS)
        .map(|_| seconds().map(|seconds| LEAVES_MAX as f64 / seconds))
        .collect();
    let Some(mut rates) = rates else {
        println!("{what}: not measurable here");
        return;
    };
    rates.sort_by(f64::total_cmp);
    println!(
        "{what}, {LEAVES_MAX} leaves: {:.0}/{:.0}/{:.0} leaves/s (min/median/max of {ROUNDS})",
        rates[0],
        rates[ROUNDS / 2],
        rates[ROUNDS - 1]
    );
}

/// Time that this thread has run, which other work on the machine does not lengthen.
fn thread_cpu_ns() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok()
}
