//! A batch of the largest size on its way to a root: netting, leaf hashes, the tree, a proof and its check.
#![allow(missing_docs, clippy::unwrap_used)] // A measurement that cannot go on should stop loudly.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use karat_benches::sized;
use karat_settlement::merkle::{LEAVES_MAX, verify};
use karat_settlement::{Change, Leaf, LeafKind, MerkleTree, net};

fn leaf(asset: u64, version: u32) -> Leaf {
    // Every leaf differs in more than its number, as real ones do.
    let spread = asset.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    let mut metadata = [version as u8; 32];
    metadata[..8].copy_from_slice(&spread);
    let mut owner = [7; 20];
    owner[..8].copy_from_slice(&spread);
    Leaf {
        asset,
        owner,
        version,
        metadata,
        collection: 1,
        kind: LeafKind::Held,
    }
}

/// `count` changes in the order of their sequences, of half as many assets in no order, so that netting sorts and drops.
fn changes(count: usize) -> Vec<Change> {
    let assets = count as u64 / 2;
    (0..count as u64)
        .map(|number| Change {
            sequence: number + 1,
            // Odd, so with a power of two of assets each of them comes exactly twice.
            leaf: leaf(number.wrapping_mul(0x9e37_79b1) % assets + 1, number as u32),
        })
        .collect()
}

fn settlement(criterion: &mut Criterion) {
    let count = sized(LEAVES_MAX, 1024);
    let leaves: Vec<Leaf> = (1..=count as u64).map(|asset| leaf(asset, 1)).collect();
    let tree = MerkleTree::new(&leaves).unwrap();
    let changes = changes(count);
    assert_eq!(net(&changes).len(), count / 2);

    let mut group = criterion.benchmark_group("settlement");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::Elements(1));
    group.bench_function("leaf_hash", |bencher| {
        bencher.iter(|| black_box(&leaves[0]).hash());
    });
    let mut index = 0;
    group.bench_function("proof", |bencher| {
        bencher.iter(|| {
            // Another leaf each time, far from the last one.
            index = (index + 40_503) % count;
            tree.proof(black_box(index)).unwrap()
        });
    });
    let (root, hash) = (tree.root(), leaves[1].hash());
    let proof = tree.proof(1).unwrap();
    group.bench_function("proof_check", |bencher| {
        bencher.iter(|| assert!(verify(black_box(&root), &hash, black_box(&proof))));
    });
    group.throughput(Throughput::Elements(count as u64));
    group.bench_function(format!("net/{count}"), |bencher| {
        bencher.iter(|| net(black_box(&changes)));
    });
    for threads in [1, 2] {
        group.bench_function(format!("tree/{count}/{threads}_threads"), |bencher| {
            bencher.iter(|| MerkleTree::with_threads(black_box(&leaves), threads).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, settlement);
criterion_main!(benches);
