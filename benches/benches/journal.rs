//! The journal on this disk: a block appended, and a block appended and flushed, with the machine's own write and flush
//! beside it in `floors`.
//!
//! In a new folder inside `KARAT_BENCH_DIR`, or in the system's folder for temporary files; a folder in memory gives a
//! meaningless figure for the flush.
#![allow(missing_docs, clippy::unwrap_used)] // A measurement that cannot go on should stop loudly.

use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use karat_benches::{Kind, Realm, sized};
use karat_sequencer::{BlockHeader, EncodedBlock, Journal, JournalConfig, Log, NO_PARENT};

/// Blocks of one command, as an unloaded engine writes, and of a busy one.
const COMMANDS: [usize; 2] = [1, 256];
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(60);

/// Makes blocks that continue each other.
struct Blocks {
    bodies: Vec<Bytes>,
    encoded: EncodedBlock,
    parent: [u8; 32],
    sequence: u64,
}

impl Blocks {
    fn new(bodies: Vec<Bytes>) -> Blocks {
        Blocks {
            bodies,
            encoded: EncodedBlock::new(),
            parent: NO_PARENT,
            sequence: 0,
        }
    }

    fn next(&mut self) -> &EncodedBlock {
        let header = BlockHeader {
            realm: "bench".into(),
            epoch: 1,
            first_sequence: self.sequence + 1,
            time_ms: 1,
            parent: self.parent,
            ingress: vec![],
        };
        self.encoded.begin(&header, self.bodies.len()).unwrap();
        for body in &self.bodies {
            self.encoded.push(body).unwrap();
        }
        self.encoded.finish().unwrap();
        self.parent = *self.encoded.hash();
        self.sequence = self.encoded.last_sequence();
        &self.encoded
    }
}

fn journal(criterion: &mut Criterion) {
    let parent = std::env::var_os("KARAT_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let mut realm = Realm::new(1_000, sized(20_000, 2_000));
    let mut group = criterion.benchmark_group("journal");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    for count in COMMANDS {
        let bodies: Vec<Bytes> = (0..count)
            .map(|_| realm.workload.make(Kind::Mixed).body)
            .collect();
        group.throughput(Throughput::Elements(count as u64));
        for flush in [false, true] {
            let folder = tempfile::tempdir_in(&parent).unwrap();
            let (mut journal, _) = Journal::open(folder.path(), JournalConfig::default()).unwrap();
            let progress = journal.progress();
            let mut blocks = Blocks::new(bodies.clone());
            let name = match flush {
                false => "append",
                true => "append_and_flush",
            };
            // Encoding and hashing are part of it: a block is written where it was made.
            group.bench_function(format!("{name}/{count}"), |bencher| {
                bencher.iter(|| {
                    let block = blocks.next();
                    journal.append(block).unwrap();
                    if flush {
                        progress.wait_durable(block.last_sequence(), None).unwrap();
                    }
                });
            });
            journal.close(CLOSE_WAIT_MAX).unwrap();
        }
    }
    group.finish();
}

criterion_group!(benches, journal);
criterion_main!(benches);
