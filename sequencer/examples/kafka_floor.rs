//! The log on Kafka beside bare librdkafka: the same bytes in the same blocks to the same broker, in turns.
//!
//!   KARAT_KAFKA=127.0.0.1:19092 cargo run --release -p karat-sequencer --features kafka --example kafka_floor
#![allow(clippy::unwrap_used)] // A measurement ends where something fails.

use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use karat_sequencer::{BlockHeader, EncodedBlock, KafkaConfig, KafkaLog, Log, NO_PARENT};
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};

const ROUNDS: usize = 5;
/// Block bytes and blocks of a round.
const SIZES: [(usize, usize); 3] = [(1 << 10, 20_000), (16 << 10, 8_000), (64 << 10, 2_000)];
/// Blocks sent one by one, each after the last was acknowledged.
const SINGLES: usize = 500;
const WAIT: Duration = Duration::from_secs(120);

fn main() {
    let brokers = std::env::var("KARAT_KAFKA").unwrap_or_else(|_| "127.0.0.1:19092".to_owned());
    println!("| bytes a block | what | MB/s, {ROUNDS} rounds | ack p50 us | ack p99 us |");
    println!("| --- | --- | --- | --- | --- |");
    for (bytes, blocks) in SIZES {
        let mut found = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
        for _ in 0..ROUNDS {
            for (kind, found) in found.iter_mut().enumerate() {
                let topic = format!("karat.floor-{:016x}.log", rand::random::<u64>());
                let (rate, mut singles) = if kind == 0 {
                    bare(&brokers, &topic, bytes, blocks)
                } else {
                    log(&brokers, &topic, bytes, blocks)
                };
                found.0.push(rate);
                found.1.append(&mut singles);
            }
        }
        for ((rates, singles), what) in found.iter_mut().zip(["librdkafka", "KafkaLog"]) {
            singles.sort_unstable();
            let at = |share: usize| singles[singles.len() * share / 100];
            let rates: Vec<String> = rates.iter().map(|rate| format!("{rate:.0}")).collect();
            println!(
                "| {bytes} | {what} | {} | {} | {} |",
                rates.join(" "),
                at(50),
                at(99)
            );
        }
    }
}

fn rate(bytes: usize, blocks: usize, took: Duration) -> f64 {
    (bytes * blocks) as f64 / 1e6 / took.as_secs_f64()
}

struct Blocks {
    header: BlockHeader,
    encoded: EncodedBlock,
    body: Bytes,
}

impl Blocks {
    fn new(bytes: usize) -> Self {
        let header = BlockHeader {
            realm: "floor".to_owned(),
            epoch: 1,
            first_sequence: 1,
            time_ms: 0,
            parent: NO_PARENT,
            ingress: Vec::new(),
        };
        // Not compressible, and nothing is compressed.
        let body = (0..bytes - 73).map(|_| rand::random::<u8>()).collect();
        Self {
            header,
            encoded: EncodedBlock::new(),
            body,
        }
    }

    fn next(&mut self) -> &EncodedBlock {
        self.encoded.begin(&self.header, 1).unwrap();
        self.encoded.push(&self.body).unwrap();
        self.encoded.finish().unwrap();
        self.header.first_sequence += 1;
        self.header.parent = *self.encoded.hash();
        &self.encoded
    }
}

fn log(brokers: &str, topic: &str, bytes: usize, blocks: usize) -> (f64, Vec<u128>) {
    let (mut log, _) = KafkaLog::open(KafkaConfig::new(brokers, topic)).unwrap();
    let progress = log.progress();
    let mut made = Blocks::new(bytes);
    let mut append = |log: &mut KafkaLog| {
        log.append(made.next()).unwrap();
        made.header.first_sequence - 1
    };
    let until = |sequence| {
        let deadline = Some(Instant::now() + WAIT);
        assert!(progress.wait_durable(sequence, deadline).unwrap());
    };
    until(append(&mut log));
    let singles = (0..SINGLES)
        .map(|_| {
            let began = Instant::now();
            until(append(&mut log));
            began.elapsed().as_micros()
        })
        .collect();
    let began = Instant::now();
    let mut last = 0;
    for _ in 0..blocks {
        last = append(&mut log);
    }
    until(last);
    (rate(bytes, blocks, began.elapsed()), singles)
}

struct Answers(Sender<()>);

impl ClientContext for Answers {}

impl ProducerContext for Answers {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        assert!(result.is_ok());
        let _ = self.0.send(());
    }
}

fn bare(brokers: &str, topic: &str, bytes: usize, blocks: usize) -> (f64, Vec<u128>) {
    // Made with the same settings.
    drop(KafkaLog::open(KafkaConfig::new(brokers, topic)).unwrap());
    let (sender, answers) = channel();
    let producer: ThreadedProducer<Answers> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "0")
        .set("socket.nagle.disable", "true")
        .set("queue.buffering.max.messages", "10000000")
        .set("queue.buffering.max.kbytes", "2000000")
        .create_with_context(Answers(sender))
        .unwrap();
    let payload: Vec<u8> = (0..bytes).map(|_| rand::random::<u8>()).collect();
    let send = || {
        let record: BaseRecord<'_, (), [u8]> = BaseRecord::to(topic).partition(0).payload(&payload);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    };
    let until = || answers.recv_timeout(WAIT).unwrap();
    send();
    until();
    let singles = (0..SINGLES)
        .map(|_| {
            let began = Instant::now();
            send();
            until();
            began.elapsed().as_micros()
        })
        .collect();
    let began = Instant::now();
    for _ in 0..blocks {
        send();
    }
    for _ in 0..blocks {
        until();
    }
    let found = rate(bytes, blocks, began.elapsed());
    producer.flush(WAIT).unwrap();
    (found, singles)
}
