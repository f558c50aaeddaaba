//! Commands a second that the ledger applies on one core, by kind and mixed: digest kept, announced with `look_ahead` as the
//! engine does, on 1,000,000 live assets and 100,000 accounts.
//!
//! Commands are made before they are timed, in blocks, and the settler's reports between blocks are not timed. The realm
//! goes back to its saved state before it has grown by a quarter, so that a figure does not depend on how long is measured.
#![allow(missing_docs)] // Made by criterion's macros.

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use karat_benches::{Kind, Realm, sized};

/// Commands in a block: what is timed at once.
const BLOCK_COMMANDS: usize = 4096;

fn apply(criterion: &mut Criterion) {
    let accounts = sized(100_000, 1_000);
    let assets = sized(1_000_000, 20_000);
    let block = sized(BLOCK_COMMANDS, 256);
    // A claim takes an asset out of the quarter that is open for claims, so less than a quarter may be used up.
    let commands_max = assets / 5;

    let mut realm = Realm::new(accounts, assets);
    let saved = realm.save();
    let mut group = criterion.benchmark_group("ledger_apply");
    group
        .throughput(Throughput::Elements(block as u64))
        .sampling_mode(SamplingMode::Flat)
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    for kind in Kind::ALL {
        let mut used = commands_max;
        group.bench_function(kind.name(), |bencher| {
            bencher.iter_custom(|blocks| {
                let mut taken = Duration::ZERO;
                for _ in 0..blocks {
                    if used + block > commands_max {
                        realm = saved.restore();
                        used = 0;
                    }
                    let commands = realm.make(kind, block);
                    let clock = Instant::now();
                    realm.apply(&commands);
                    taken += clock.elapsed();
                    realm.settle();
                    used += block;
                }
                taken
            });
        });
    }
    group.finish();
}

criterion_group!(benches, apply);
criterion_main!(benches);
