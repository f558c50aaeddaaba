//! The door: messages decoded, commands admitted, outcomes encoded, as the gateway does it between the transport and the
//! queue.
#![allow(missing_docs, clippy::unwrap_used)] // A measurement that cannot go on should stop loudly.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use karat_benches::{Kind, Realm, sized};
use karat_content::MemoryContent;
use karat_engine::gateway::admission::admit_encoded;
use karat_proto::served::{SubmitRequest, SubmitResponse};
use karat_proto::v1::AckLevel;
use prost::Message as _;

/// Commands in one message.
const BATCHES: [usize; 2] = [1, 256];

fn requests(realm: &mut Realm, kind: Kind, commands: usize, count: usize) -> Vec<SubmitRequest> {
    let request = |realm: &mut Realm| SubmitRequest {
        ack: AckLevel::Sequenced.into(),
        commands: (0..commands)
            .map(|_| realm.workload.make(kind).body)
            .collect(),
    };
    (0..count).map(|_| request(realm)).collect()
}

fn gateway(criterion: &mut Criterion) {
    let mut realm = Realm::new(1_000, sized(50_000, 5_000));
    let content = MemoryContent::default();
    let mut hashing = Duration::ZERO;
    let mut group = criterion.benchmark_group("gateway");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    for commands in BATCHES {
        // As many messages as make a thousand commands, so that none is known by heart.
        let requests = requests(&mut realm, Kind::Transfer, commands, 1024 / commands);
        let whole = requests.len() * commands;
        group.throughput(Throughput::Elements(whole as u64));
        let encoded: Vec<bytes::Bytes> = requests
            .iter()
            .map(|request| request.encode_to_vec().into())
            .collect();
        group.bench_function(format!("decode_request/{commands}"), |bencher| {
            bencher.iter(|| {
                for bytes in &encoded {
                    black_box(SubmitRequest::decode(bytes.clone()).unwrap());
                }
            });
        });
        group.bench_function(format!("admit/{commands}"), |bencher| {
            bencher.iter_batched(
                || requests.clone(),
                |requests| {
                    for command in requests.into_iter().flat_map(|request| request.commands) {
                        black_box(admit_encoded(&content, command, &mut hashing).unwrap());
                    }
                },
                BatchSize::SmallInput,
            );
        });
        let (ids, outcomes) = karat_benches::accepted(commands);
        group.throughput(Throughput::Elements(commands as u64));
        let mut buffer = Vec::with_capacity(64 * commands);
        group.bench_function(format!("encode_response/{commands}"), |bencher| {
            bencher.iter(|| {
                buffer.clear();
                let response = SubmitResponse::new(AckLevel::Sequenced, &ids, black_box(&outcomes));
                response.encode(&mut buffer).unwrap();
                black_box(&buffer);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, gateway);
criterion_main!(benches);
