//! Commands a second that the ledger applies on one core, by kind and mixed: digest kept, announced with `look_ahead` as the
//! engine does, on 1,000,000 live assets and 100,000 accounts, of which the processor's caches hold little, and on a tenth of
//! both, of which they hold much.
//!
//! Time is the thread's processor time: the ledger neither waits nor writes, so on an idle machine it is the clock's, and a
//! busy one lengthens it less. Commands are made before they are timed, in blocks, and the settler's reports between blocks
//! are not timed. The realm goes back to its saved state before it has grown by a quarter, so that a figure does not depend
//! on how long is measured.
#![allow(missing_docs)] // Made by criterion's macros.

use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use karat_benches::{Kind, Realm, processor_time, sized};

/// Assets for each account.
const ASSETS_AN_ACCOUNT: usize = 10;
/// Commands in a block, which are announced together.
const BLOCK_COMMANDS: usize = 4096;
/// Blocks in one iteration, so that a sample is more than one lucky block; fewer where they would use the realm up.
const BLOCKS: usize = 16;

fn apply(criterion: &mut Criterion) {
    apply_on(criterion, "ledger_apply", sized(1_000_000, 20_000));
    apply_on(criterion, "ledger_apply_100k", sized(100_000, 10_000));
}

fn apply_on(criterion: &mut Criterion, name: &str, assets: usize) {
    let accounts = assets / ASSETS_AN_ACCOUNT;
    let block = sized(BLOCK_COMMANDS, 256);
    // A claim takes an asset out of the quarter that is open for claims, so less than a quarter may be used up.
    let commands_max = assets / 5;
    // The first block is not timed.
    let blocks = sized(BLOCKS, 4).min(commands_max / block - 1);
    let iteration = block * blocks;

    let mut realm = Realm::new(accounts, assets);
    let saved = realm.save();
    let mut group = criterion.benchmark_group(name);
    group
        .throughput(Throughput::Elements(iteration as u64))
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        // Most of it goes into making commands and restoring; each sample has at least one iteration.
        .measurement_time(Duration::from_secs(6));
    for kind in Kind::ALL {
        let mut used = commands_max;
        group.bench_function(kind.name(), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut taken = Duration::ZERO;
                for _ in 0..iterations {
                    if used + iteration > commands_max {
                        realm = saved.restore();
                        // Not timed: it meets a ledger of which nothing is in the processor's caches.
                        let commands = realm.make(kind, block);
                        realm.apply(&commands);
                        used = block;
                    }
                    for _ in 0..blocks {
                        let commands = realm.make(kind, block);
                        let before = processor_time();
                        realm.apply(&commands);
                        taken += processor_time() - before;
                        realm.settle();
                    }
                    used += iteration;
                }
                taken
            });
        });
    }
    group.finish();
}

criterion_group!(benches, apply);
criterion_main!(benches);
