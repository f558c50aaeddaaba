//! What the machine does without Karat, so that Karat's figures have their floors beside them: hashes, checksums, copying,
//! and the disk's flush.
//!
//! The flush is measured in a new folder inside `KARAT_BENCH_DIR`, or in the system's folder for temporary files; a folder in
//! memory gives a meaningless figure.
#![allow(missing_docs, clippy::unwrap_used)] // A measurement that cannot go on should stop loudly.

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use karat_benches::sized;
use sha2::Digest;

/// About a command of the log; it is hashed once to tell retries apart, and once more inside its block.
const COMMAND_BYTES: usize = 200;
/// A block of some 400 commands.
const BLOCK_BYTES: usize = 64 << 10;
/// More than processors keep in their caches.
const MEMORY_BYTES: usize = 256 << 20;
/// The file that is flushed: a segment of the journal.
const SEGMENT_BYTES: usize = 64 << 20;

fn hashes(criterion: &mut Criterion) {
    let block = vec![0x5a; BLOCK_BYTES];
    let mut group = group(criterion, "floor_hash");
    for length in [COMMAND_BYTES, BLOCK_BYTES] {
        let bytes = &block[..length];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(format!("blake3/{length}"), |bencher| {
            bencher.iter(|| blake3::hash(black_box(bytes)));
        });
        group.bench_function(format!("crc32c/{length}"), |bencher| {
            bencher.iter(|| crc32c::crc32c(black_box(bytes)));
        });
        group.bench_function(format!("sha256/{length}"), |bencher| {
            bencher.iter(|| sha2::Sha256::digest(black_box(bytes)));
        });
    }
    // An inner node of a Merkle tree, and the encoding of a leaf.
    for length in [64, 192] {
        let bytes = &block[..length];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(format!("keccak256/{length}"), |bencher| {
            bencher.iter(|| revm::primitives::keccak256(black_box(bytes)));
        });
    }
    group.finish();
}

fn memory(criterion: &mut Criterion) {
    let mut group = group(criterion, "floor_memcpy");
    for length in [BLOCK_BYTES, sized(MEMORY_BYTES, 1 << 20)] {
        // Written before the first copy, so that no page is made while it is timed.
        let from = vec![1_u8; length];
        let mut to = vec![2_u8; length];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(length.to_string(), |bencher| {
            bencher.iter(|| {
                to.copy_from_slice(black_box(&from));
                black_box(&mut to);
            });
        });
    }
    group.finish();
}

fn disk(criterion: &mut Criterion) {
    let parent = std::env::var_os("KARAT_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let folder = tempfile::tempdir_in(parent).unwrap();
    let mut file = File::create(folder.path().join("segment")).unwrap();
    let blocks = sized(SEGMENT_BYTES, 1 << 20) / BLOCK_BYTES;
    let block = vec![0x5a; BLOCK_BYTES];
    // As a segment of the journal: its blocks on the disk exist before they are written, so a flush changes no metadata.
    for _ in 0..blocks {
        file.write_all(&block).unwrap();
    }
    file.sync_all().unwrap();
    let mut next = 0;
    let mut group = group(criterion, "floor_disk");
    group.throughput(Throughput::Bytes(BLOCK_BYTES as u64));
    group.bench_function(format!("write_and_fdatasync/{BLOCK_BYTES}"), |bencher| {
        bencher.iter(|| {
            file.write_all_at(&block, (next % blocks * BLOCK_BYTES) as u64)
                .unwrap();
            file.sync_data().unwrap();
            next += 1;
        });
    });
    group.finish();
}

fn group<'a>(
    criterion: &'a mut Criterion,
    name: &str,
) -> criterion::BenchmarkGroup<'a, criterion::measurement::WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    group
}

criterion_group!(benches, hashes, memory, disk);
criterion_main!(benches);
