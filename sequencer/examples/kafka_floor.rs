//! The log on Kafka beside bare librdkafka: blocks of the same sizes to the same broker, in many short turns.
//!
//!   KARAT_KAFKA=127.0.0.1:19092 cargo run --release -p karat-sequencer --features kafka --example kafka_floor
//!
//! Three sides, each with one client and one topic for a size:
//!
//! - `librdkafka` sends sealed blocks and counts the answers;
//! - `KafkaLog` appends sealed blocks;
//! - `KafkaLog, sealing` encodes and hashes each block first, on the thread that appends, as the sequencer does.
//!
//! A turn is some blocks one by one, each after the last was acknowledged, and then many at once. The sides take turns there
//! and back (A B C, C B A, ...), because a broker's pauses and a machine's other work come and go within seconds. A ratio is
//! that of all turns together; behind it stands the middle half of the ratios of single turns, each to librdkafka's turn of
//! the same round.
#![allow(clippy::unwrap_used)] // A measurement ends where something fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::executor::block_on;
use karat_sequencer::{BlockHeader, EncodedBlock, KafkaConfig, KafkaLog, Log, NO_PARENT, Progress};
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};

/// Rounds that count; one more comes first and warms everybody up.
const ROUNDS: usize = 20;
/// Bytes of a block, and how many a turn sends at once.
const SIZES: [(usize, usize); 3] = [(1 << 10, 12_000), (16 << 10, 1_000), (64 << 10, 300)];
/// Blocks of a turn that are sent one by one.
const SINGLES: usize = 250;
const WAIT: Duration = Duration::from_secs(120);

fn main() {
    let brokers = std::env::var("KARAT_KAFKA").unwrap_or_else(|_| "127.0.0.1:19092".to_owned());
    println!("{ROUNDS} rounds; a turn is {SINGLES} blocks one by one, then many at once.\n");
    println!("| bytes a block | side | MB/s | ratio | ack p50 us | ratio | ack p99 us | ratio |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for (bytes, blocks) in SIZES {
        let configs: [KafkaConfig; 3] = std::array::from_fn(|_| {
            KafkaConfig::new(
                &brokers,
                format!("karat.floor-{:016x}.log", rand::random::<u64>()),
            )
        });
        let mut sides: [(&str, Box<dyn Side>); 3] = [
            ("librdkafka", Box::new(Bare::new(&configs[0], bytes))),
            ("KafkaLog", Box::new(Logged::new(&configs[1], bytes, false))),
            (
                "KafkaLog, sealing",
                Box::new(Logged::new(&configs[2], bytes, true)),
            ),
        ];
        let mut turns: [Vec<Turn>; 3] = Default::default();
        for round in 0..=ROUNDS {
            let mut order = [0, 1, 2];
            if round % 2 == 1 {
                order.reverse();
            }
            for side in order {
                let turn = Turn::take(sides[side].1.as_mut(), blocks);
                if round > 0 {
                    turns[side].push(turn);
                }
            }
        }
        for (found, (name, _)) in turns.iter().zip(&sides) {
            // Of seconds the ratio is turned over: twice the rate is half the time.
            let seconds = |turns: &[Turn]| turns.iter().map(|turn| turn.seconds).sum::<f64>();
            let rate = (bytes * blocks * ROUNDS) as f64 / 1e6 / seconds(found);
            let (p50, p99) = (Turn::latency_us(found, 50), Turn::latency_us(found, 99));
            println!(
                "| {bytes} | {name} | {rate:.0} | {} | {p50:.0} | {} | {p99:.0} | {} |",
                ratios(&turns[0], found, |bare, ours| seconds(bare) / seconds(ours)),
                ratios(&turns[0], found, |bare, ours| {
                    Turn::latency_us(ours, 50) / Turn::latency_us(bare, 50)
                }),
                ratios(&turns[0], found, |bare, ours| {
                    Turn::latency_us(ours, 99) / Turn::latency_us(bare, 99)
                }),
            );
        }
        drop(sides);
        delete(&configs);
    }
}

/// One side's turn.
struct Turn {
    /// From the first of many blocks at once to the last one's acknowledgement.
    seconds: f64,
    /// Of each block sent alone, from before it is handed over until its sender knows that it is acknowledged.
    singles_us: Vec<f64>,
}

impl Turn {
    fn take(side: &mut dyn Side, blocks: usize) -> Self {
        side.prepare(SINGLES + blocks);
        let singles_us = (0..SINGLES)
            .map(|_| {
                let began = Instant::now();
                side.send();
                side.wait();
                began.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        let began = Instant::now();
        for _ in 0..blocks {
            side.send();
        }
        side.wait();
        Self {
            seconds: began.elapsed().as_secs_f64(),
            singles_us,
        }
    }

    fn latency_us(turns: &[Self], percent: usize) -> f64 {
        let singles = turns.iter().flat_map(|turn| &turn.singles_us);
        at(singles.copied().collect(), percent)
    }
}

fn at(mut values: Vec<f64>, percent: usize) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() * percent / 100]
}

/// Of all turns together, and the quartiles of the rounds' own.
fn ratios(bare: &[Turn], ours: &[Turn], ratio: impl Fn(&[Turn], &[Turn]) -> f64) -> String {
    let rounds = || -> Vec<f64> {
        let rounds = bare.chunks(1).zip(ours.chunks(1));
        rounds.map(|(bare, ours)| ratio(bare, ours)).collect()
    };
    format!(
        "{:.2} ({:.2} to {:.2})",
        ratio(bare, ours),
        at(rounds(), 25),
        at(rounds(), 75)
    )
}

fn delete(configs: &[KafkaConfig]) {
    let admin: AdminClient<DefaultClientContext> = configs[0].client().create().unwrap();
    let topics: Vec<&str> = configs.iter().map(|config| config.topic.as_str()).collect();
    let deleted = admin.delete_topics(&topics, &AdminOptions::new());
    for topic in block_on(deleted).unwrap() {
        topic.unwrap();
    }
}

/// Who sends blocks.
trait Side {
    /// Makes ready what can be made before the clock runs.
    fn prepare(&mut self, blocks: usize);
    /// Sends the next block.
    fn send(&mut self);
    /// Waits until everything that was sent is acknowledged.
    fn wait(&self);
}

/// A chain of blocks of the same size.
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

/// Blocks of a turn that were sealed before it.
#[derive(Default)]
struct Sealed {
    blocks: Vec<EncodedBlock>,
    taken: usize,
}

impl Sealed {
    fn new(blocks: &mut Blocks, count: usize) -> Self {
        Self {
            blocks: (0..count).map(|_| blocks.next().clone()).collect(),
            taken: 0,
        }
    }

    fn next(&mut self) -> &EncodedBlock {
        self.taken += 1;
        &self.blocks[self.taken - 1]
    }
}

/// The log.
struct Logged {
    log: KafkaLog,
    progress: Arc<Progress>,
    blocks: Blocks,
    sealing: bool,
    sealed: Sealed,
    sent: u64,
}

impl Logged {
    fn new(config: &KafkaConfig, bytes: usize, sealing: bool) -> Self {
        let (log, _) = KafkaLog::open(config.clone()).unwrap();
        Self {
            progress: log.progress(),
            log,
            blocks: Blocks::new(bytes),
            sealing,
            sealed: Sealed::default(),
            sent: 0,
        }
    }
}

impl Side for Logged {
    fn prepare(&mut self, blocks: usize) {
        if !self.sealing {
            self.sealed = Sealed::new(&mut self.blocks, blocks);
        }
    }

    fn send(&mut self) {
        let block = match self.sealing {
            true => self.blocks.next(),
            false => self.sealed.next(),
        };
        self.log.append(block).unwrap();
        self.sent += 1;
    }

    fn wait(&self) {
        let deadline = Some(Instant::now() + WAIT);
        assert!(self.progress.wait_durable(self.sent, deadline).unwrap());
    }
}

/// The answers that came, and who waits for how many. Nothing wakes the waiting thread before that.
struct Answers {
    came: AtomicU64,
    wanted: AtomicU64,
    waiting: Thread,
}

impl ClientContext for Answers {}

impl ProducerContext for Answers {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        assert!(result.is_ok());
        let came = self.came.fetch_add(1, Ordering::SeqCst) + 1;
        if came == self.wanted.load(Ordering::SeqCst) {
            self.waiting.unpark();
        }
    }
}

/// librdkafka, with the settings of the log's producer that cost something.
struct Bare {
    producer: ThreadedProducer<Answers>,
    topic: String,
    blocks: Blocks,
    sealed: Sealed,
    sent: u64,
}

impl Bare {
    fn new(config: &KafkaConfig, bytes: usize) -> Self {
        KafkaLog::ensure_topic(config).unwrap();
        let answers = Answers {
            came: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            waiting: std::thread::current(),
        };
        let producer = config
            .client()
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "0")
            .set("compression.type", &config.compression)
            .set("queue.buffering.max.messages", "10000000")
            .set("queue.buffering.max.kbytes", "2000000")
            .create_with_context(answers)
            .unwrap();
        Self {
            producer,
            topic: config.topic.clone(),
            blocks: Blocks::new(bytes),
            sealed: Sealed::default(),
            sent: 0,
        }
    }
}

impl Side for Bare {
    fn prepare(&mut self, blocks: usize) {
        self.sealed = Sealed::new(&mut self.blocks, blocks);
    }

    fn send(&mut self) {
        let block = self.sealed.next();
        let record: BaseRecord<'_, (), [u8]> = BaseRecord::to(&self.topic)
            .partition(0)
            .payload(block.bytes());
        let sent = self.producer.send(record);
        sent.map_err(|(error, _)| error).unwrap();
        self.sent += 1;
    }

    fn wait(&self) {
        let answers = self.producer.context();
        answers.wanted.store(self.sent, Ordering::SeqCst);
        let deadline = Instant::now() + WAIT;
        while answers.came.load(Ordering::SeqCst) < self.sent {
            assert!(Instant::now() < deadline, "no answer within {WAIT:?}");
            std::thread::park_timeout(WAIT);
        }
    }
}
