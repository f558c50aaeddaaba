//! What the machine does without Karat, so that Karat's figures have their floors beside them: hashes, checksums, copying,
//! the disk's flush, and the transport with the same messages and nothing behind it.
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
use karat_benches::{Kind, Realm, sized};
use karat_loadgen::floor::Floor;
use karat_proto::v1;
use karat_proto::v1::ledger_client::LedgerClient;
use prost::Message as _;
use sha2::Digest;
use tokio_stream::wrappers::ReceiverStream;

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

/// One message to the echo and its answer back, over loopback: the shortest way that a command can take. Percentiles under
/// a rate are `karat-load floor`'s.
fn transport(criterion: &mut Criterion) {
    let floor = Floor::start().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let channel = runtime
        .block_on(karat_loadgen::client::connect(&floor.target(), None))
        .unwrap();
    let mut client = LedgerClient::new(channel);
    let mut realm = Realm::new(100, 1_000);
    let mut commands = |count: usize| -> Vec<v1::Command> {
        (0..count)
            .map(|_| v1::Command::decode(realm.workload.make(Kind::Transfer).body).unwrap())
            .collect()
    };
    let ack = v1::AckLevel::Sequenced.into();
    let mut group = group(criterion, "floor_tonic");
    group.throughput(Throughput::Elements(1));
    let request = v1::ExecuteRequest {
        ack,
        command: commands(1).pop(),
    };
    group.bench_function("execute", |bencher| {
        bencher.iter(|| {
            let answer = runtime.block_on(client.execute(request.clone()));
            black_box(answer.unwrap());
        });
    });
    for count in [1, 256] {
        let request = v1::SubmitRequest {
            ack,
            commands: commands(count),
        };
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let stream = runtime.block_on(client.submit(ReceiverStream::new(receiver)));
        let mut answers = stream.unwrap().into_inner();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("submit/{count}"), |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    sender.send(request.clone()).await.unwrap();
                    black_box(answers.message().await.unwrap());
                });
            });
        });
    }
    group.finish();
    // The echo ends when its connections do.
    drop(client);
    drop(runtime);
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

criterion_group!(benches, hashes, memory, disk, transport);
criterion_main!(benches);
