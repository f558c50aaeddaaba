//! Floors of the sequencer alone: commands a second, and latencies at a fixed rate, on memory and on a journal.
//!
//! `cargo run --release -p karat-sequencer --example throughput [-- FOLDER [SECONDS]]`; the journal lies in a new
//! folder inside FOLDER, or in the system's folder for temporary files. Each of the twelve runs takes SECONDS, or 3.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)] // A measurement that cannot go on should stop loudly.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use karat_sequencer::{
    Ack, BlockContext, Journal, JournalConfig, Log, Machine, MemoryConfig, MemoryDisk, MemoryLog,
    Prepared, Recovery, Sequencer, SequencerConfig, SequencerHandle, Submission, SubmitError,
    SystemClock, read_blocks, replay,
};

const BODY_BYTES: usize = 200;
/// Submissions in flight in a throughput run, in commands.
const IN_FLIGHT_COMMANDS: u64 = 32_768;

/// Adds up first bytes: the least a machine can do with a command.
#[derive(Default)]
struct Sum(u64);

impl Machine for Sum {
    type Command = u64;
    type Outcome = u64;

    fn decode(&self, body: &Bytes) -> Result<u64, String> {
        Ok(u64::from(body[0]))
    }

    fn apply(&mut self, _: &BlockContext<'_>, commands: &mut Vec<u64>, outcomes: &mut Vec<u64>) {
        for command in commands.drain(..) {
            self.0 = self.0.wrapping_add(command);
            outcomes.push(self.0);
        }
    }
}

fn start(log: Box<dyn Log>, recovery: &Recovery) -> SequencerHandle<Sum> {
    Sequencer::start(
        SequencerConfig::new("floors"),
        log,
        recovery,
        Sum::default(),
        Box::new(SystemClock),
    )
    .unwrap()
}

fn commands(count: usize) -> Vec<Prepared<u64>> {
    // Bodies of one message share its memory, as they do when they come from a socket.
    let message = Bytes::from(vec![7; BODY_BYTES * count]);
    (0..count)
        .map(|index| Prepared {
            body: message.slice(index * BODY_BYTES..(index + 1) * BODY_BYTES),
            command: 7,
        })
        .collect()
}

/// Submits as fast as the answers allow, with a bounded number in flight.
fn throughput(
    run: Duration,
    handle: &SequencerHandle<Sum>,
    per_submission: usize,
    ack: Ack,
) -> f64 {
    let answered = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut submitted = 0;
    while started.elapsed() < run {
        if submitted - answered.load(Ordering::Relaxed) > IN_FLIGHT_COMMANDS {
            std::thread::sleep(Duration::from_micros(50));
            continue;
        }
        let count = per_submission as u64;
        let answered = Arc::clone(&answered);
        let reply = Box::new(move |answer: Result<_, SubmitError>| {
            answer.unwrap();
            answered.fetch_add(count, Ordering::Relaxed);
        });
        let submission = Submission {
            commands: commands(per_submission),
            ack,
            reply,
            sequenced: None,
        };
        match handle.submit(submission) {
            Ok(()) => submitted += count,
            Err((SubmitError::Overloaded { .. }, _)) => {
                std::thread::sleep(Duration::from_micros(50))
            }
            Err((error, _)) => panic!("{error}"),
        }
    }
    while answered.load(Ordering::Relaxed) < submitted {
        std::thread::sleep(Duration::from_micros(50));
    }
    submitted as f64 / started.elapsed().as_secs_f64()
}

/// One command a submission at 5,000/s, open loop: measured from the time it should have been sent.
fn latencies(run: Duration, handle: &SequencerHandle<Sum>, ack: Ack) -> [Duration; 4] {
    const PERIOD: Duration = Duration::from_micros(200);
    let (sender, receiver) = mpsc::channel();
    let started = Instant::now();
    let count = (run.as_nanos() / PERIOD.as_nanos()) as u32;
    for index in 0..count {
        let intended = started + PERIOD * index;
        while let Some(left) = intended.checked_duration_since(Instant::now()) {
            // Timers are late by tens of microseconds; the last of them are waited for awake.
            if left > Duration::from_micros(120) {
                std::thread::sleep(left - Duration::from_micros(100));
            } else {
                std::hint::spin_loop();
            }
        }
        let sender = sender.clone();
        let reply = Box::new(move |answer: Result<_, SubmitError>| {
            answer.unwrap();
            let _ = sender.send(intended.elapsed());
        });
        handle
            .submit(Submission {
                commands: commands(1),
                ack,
                reply,
                sequenced: None,
            })
            .map_err(|(error, _)| error)
            .unwrap();
    }
    drop(sender);
    let mut all: Vec<Duration> = receiver.iter().collect();
    assert_eq!(all.len() as u32, count);
    all.sort_unstable();
    [500, 990, 999, 1000].map(|per_mille| all[(all.len() * per_mille / 1000).min(all.len() - 1)])
}

fn measure(name: &str, run: Duration, handle: &SequencerHandle<Sum>) {
    for ack in [Ack::Sequenced, Ack::Durable] {
        for per_submission in [256, 1] {
            let rate = throughput(run, handle, per_submission, ack);
            println!("{name:8} {ack:9?} {per_submission:4} a submission: {rate:>10.0} commands/s");
        }
    }
    for ack in [Ack::Sequenced, Ack::Durable] {
        let [p50, p99, p999, max] = latencies(run, handle, ack);
        println!(
            "{name:8} {ack:9?} 1 at 5,000/s: p50 {p50:?} p99 {p99:?} p99.9 {p999:?} max {max:?}"
        );
    }
    let metrics = handle.metrics();
    let flushes = &metrics.flush_times;
    println!(
        "{name:8} {} blocks, {} MB; {} flushes: p50 {:?} p99 {:?}; append p50 {:?} p99 {:?}",
        metrics.blocks,
        metrics.bytes >> 20,
        flushes.count,
        Duration::from_nanos(flushes.quantile_ns(500)),
        Duration::from_nanos(flushes.quantile_ns(990)),
        Duration::from_nanos(metrics.append_times.quantile_ns(500)),
        Duration::from_nanos(metrics.append_times.quantile_ns(990)),
    );
}

fn main() {
    let seconds = std::env::args().nth(2).map_or(3, |seconds| {
        seconds.parse().expect("SECONDS is a whole number")
    });
    let run = Duration::from_secs(seconds);
    let disk = MemoryDisk::new();
    let config = MemoryConfig {
        kept_bytes_max: 256 << 20,
        ..MemoryConfig::default()
    };
    let (log, recovery) = MemoryLog::open(&disk, config).unwrap();
    let handle = start(Box::new(log), &recovery);
    measure("memory", run, &handle);
    handle.stop().unwrap();

    let parent = std::env::args()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = parent.join(format!("karat-throughput-{}", std::process::id()));
    let (log, recovery) = Journal::open(&dir, JournalConfig::default()).unwrap();
    let handle = start(Box::new(log), &recovery);
    measure("journal", run, &handle);
    handle.stop().unwrap();

    let started = Instant::now();
    let (log, recovery) = Journal::open(&dir, JournalConfig::default()).unwrap();
    let opened = started.elapsed();
    drop(log);
    let started = Instant::now();
    let summary = replay(read_blocks(&dir, 1).unwrap(), 1, &mut Sum::default()).unwrap();
    let replayed = started.elapsed();
    assert_eq!(summary.commands, recovery.last_sequence);
    println!(
        "journal  {} commands: opened and checked in {opened:?}, replayed in {replayed:?}",
        summary.commands
    );
    std::fs::remove_dir_all(&dir).unwrap();
}
