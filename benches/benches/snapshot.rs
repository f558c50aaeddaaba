//! A whole ledger to bytes and back, in memory: what a snapshot costs without its disk.
#![allow(missing_docs, clippy::unwrap_used)] // A measurement that cannot go on should stop loudly.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use karat_benches::{Realm, sized};
use karat_ledger::Ledger;

fn snapshot(criterion: &mut Criterion) {
    let assets = sized(1_000_000, 5_000);
    let realm = Realm::new(sized(100_000, 500), assets);
    let mut bytes = Vec::new();
    realm.ledger.write_snapshot(&mut bytes).unwrap();
    let mut group = criterion.benchmark_group("snapshot");
    group
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(3))
        .throughput(Throughput::Elements(assets as u64));
    let mut out = Vec::with_capacity(bytes.len());
    group.bench_function(format!("write/{assets}"), |bencher| {
        bencher.iter(|| {
            out.clear();
            realm.ledger.write_snapshot(&mut out).unwrap();
            black_box(&out);
        });
    });
    group.bench_function(format!("read/{assets}"), |bencher| {
        bencher.iter(|| black_box(Ledger::read_snapshot(&mut bytes.as_slice()).unwrap()));
    });
    group.finish();
}

criterion_group!(benches, snapshot);
criterion_main!(benches);
