//! Commands, events and blocks: encoding, decoding, hashing. Each figure is over 1,024 different values, so that neither the
//! branch predictor nor the cache knows them by heart.
#![allow(missing_docs, clippy::unwrap_used)] // A measurement that cannot go on should stop loudly.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use karat_benches::{Kind, Made, Realm, sized};
use karat_ledger::codec;
use karat_proto::{Event, convert, v1};
use karat_sequencer::{Block, BlockHeader, EncodedBlock};
use prost::Message as _;

const VALUES: usize = 1024;
const KINDS: [Kind; 6] = [
    Kind::Transfer,
    Kind::Claim,
    Kind::Exchange,
    Kind::ExchangeOfEightLegs,
    Kind::MintOwned,
    Kind::Mixed,
];

fn realm() -> Realm {
    Realm::new(1_000, sized(100_000, 10_000))
}

fn made(realm: &mut Realm, kind: Kind, count: usize) -> Vec<Made> {
    (0..count).map(|_| realm.workload.make(kind)).collect()
}

fn commands(criterion: &mut Criterion) {
    let mut realm = realm();
    for kind in KINDS {
        let made = made(&mut realm, kind, VALUES);
        let wire: Vec<v1::Command> = made
            .iter()
            .map(|made| v1::Command::decode(made.body.clone()).unwrap())
            .collect();
        let mut group = group(criterion, "command_decode", VALUES);
        group.bench_function(kind.name(), |bencher| {
            bencher.iter(|| {
                for made in &made {
                    black_box(convert::decode_command(black_box(&made.body)).unwrap());
                }
            });
        });
        group.finish();
        // As the gateway does it: from the wire's message to the log's bytes and the typed command.
        let mut group = self::group(criterion, "command_encode", VALUES);
        group.bench_function(kind.name(), |bencher| {
            bencher.iter_batched(
                || wire.clone(),
                |wire| {
                    for command in wire {
                        black_box(convert::encode_command(command).unwrap());
                    }
                },
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

fn events(criterion: &mut Criterion) {
    let mut realm = realm();
    let mut events: Vec<Event> = Vec::new();
    let commands = realm.make(Kind::Mixed, VALUES);
    realm.apply_for_events(&commands, &mut events);
    let mut encoded = Vec::new();
    for event in &events {
        codec::encode_event(event, &mut encoded);
    }
    let mut group = group(criterion, "event", events.len());
    let mut buffer = Vec::with_capacity(encoded.len());
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            buffer.clear();
            for event in black_box(&events) {
                codec::encode_event(event, &mut buffer);
            }
            black_box(&buffer);
        });
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            let mut rest = black_box(encoded.as_slice());
            while !rest.is_empty() {
                let (event, used) = codec::decode_event(rest).unwrap();
                black_box(event);
                rest = &rest[used..];
            }
        });
    });
    // What a watcher is sent.
    group.bench_function("to_wire_and_encode", |bencher| {
        bencher.iter(|| {
            buffer.clear();
            for event in black_box(&events) {
                convert::event_to_wire(event).encode(&mut buffer).unwrap();
            }
            black_box(&buffer);
        });
    });
    group.finish();
}

fn blocks(criterion: &mut Criterion) {
    let mut realm = realm();
    for count in [1, 256, 4096] {
        let bodies: Vec<Bytes> = made(&mut realm, Kind::Mixed, count)
            .into_iter()
            .map(|made| made.body)
            .collect();
        let header = BlockHeader {
            realm: "bench".into(),
            epoch: 1,
            first_sequence: 1,
            time_ms: 1,
            parent: [1; 32],
            ingress: vec![],
        };
        let block = Block { header, bodies };
        let bytes = block.encode().unwrap();
        let mut group = group(criterion, "block", count);
        let mut encoded = EncodedBlock::new();
        group.bench_function(format!("encode_and_hash/{count}"), |bencher| {
            bencher.iter(|| {
                black_box(&block).encode_into(&mut encoded).unwrap();
                black_box(encoded.hash());
            });
        });
        group.bench_function(format!("decode/{count}"), |bencher| {
            bencher.iter(|| black_box(Block::decode(black_box(&bytes)).unwrap()));
        });
        group.finish();
    }
}

fn group<'a>(
    criterion: &'a mut Criterion,
    name: &str,
    elements: usize,
) -> criterion::BenchmarkGroup<'a, criterion::measurement::WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .throughput(Throughput::Elements(elements as u64))
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    group
}

criterion_group!(benches, commands, events, blocks);
criterion_main!(benches);
