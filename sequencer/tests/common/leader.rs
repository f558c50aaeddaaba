//! A leader in a process of its own, so that it can be killed and paused. It writes commands for as long as it leads and
//! says on its output what was acknowledged, and why it stopped.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use karat_sequencer::{
    Ack, KafkaConfig, KafkaLog, ManualClock, SequencerConfig, SubmitError, replay,
};

use super::{Memory, PATIENCE, answer, start_with, submission};

const BROKERS: &str = "KARAT_TEST_LEADER_BROKERS";
const TOPIC: &str = "KARAT_TEST_LEADER_TOPIC";
const TAG: &str = "KARAT_TEST_LEADER_TAG";

/// Commands that are submitted before the first of them is waited for.
const WINDOW: usize = 16;
const BLOCK_BYTES_MAX: usize = 64 << 10;

fn command(tag: u64, index: u64) -> Bytes {
    let mut bytes = tag.to_le_bytes().to_vec();
    bytes.extend_from_slice(&index.to_le_bytes());
    bytes.resize(100, 7);
    Bytes::from(bytes)
}

fn identity(command: &[u8]) -> (u64, u64) {
    let number = |at: usize| u64::from_le_bytes(command[at..at + 8].try_into().unwrap());
    (number(0), number(8))
}

/// The process: does nothing unless it was started as a leader.
pub fn run_if_asked() {
    let Ok(brokers) = std::env::var(BROKERS) else {
        return;
    };
    let tag: u64 = std::env::var(TAG).unwrap().parse().unwrap();
    let config = KafkaConfig {
        block_bytes_max: BLOCK_BYTES_MAX,
        ..KafkaConfig::new(brokers, std::env::var(TOPIC).unwrap())
    };
    let mut out = std::io::stdout().lock();
    let (log, recovery) = match KafkaLog::lead(config, "test", 5_000) {
        Ok(opened) => opened,
        Err(error) => {
            writeln!(out, "\nstopped {error}").unwrap();
            out.flush().unwrap();
            std::process::exit(0);
        }
    };
    let sequencer = SequencerConfig {
        epoch: recovery.epoch,
        block_bytes_max: 32 << 10,
        // Small, so that a broker that is away makes the writer wait and the queue refuse.
        queue_commands_max: 16_384,
        unflushed_commands_max: 1_000,
        ..SequencerConfig::new("test")
    };
    let handle = start_with(sequencer, log, &recovery, ManualClock::new(5_000));
    writeln!(
        out,
        "\nleads epoch {} after {}",
        recovery.epoch, recovery.last_sequence
    )
    .unwrap();
    out.flush().unwrap();
    let mut index = 0;
    loop {
        let mut waiting = Vec::new();
        for _ in 0..WINDOW {
            let (one, received) = submission(&[command(tag, index)], Ack::Durable);
            match handle.submit(one) {
                Ok(()) => waiting.push((index, received)),
                Err((SubmitError::Overloaded { .. }, _)) => break,
                Err((error, _)) => {
                    writeln!(out, "stopped {error}").unwrap();
                    out.flush().unwrap();
                    std::process::exit(0);
                }
            }
            index += 1;
        }
        for (index, received) in waiting {
            match received.recv_timeout(Duration::from_secs(600)).unwrap() {
                Ok(answer) => {
                    writeln!(out, "acknowledged {} {index}", answer.first_sequence).unwrap();
                }
                Err(error) => {
                    writeln!(out, "stopped {error}").unwrap();
                    out.flush().unwrap();
                    std::process::exit(0);
                }
            }
        }
        out.flush().unwrap();
    }
}

#[derive(Default)]
struct Said {
    acknowledged: Vec<(u64, u64)>,
    epoch: Option<u64>,
    stopped: Option<String>,
}

/// A leader's process, and what it said.
pub struct Leader {
    pub tag: u64,
    child: Child,
    said: Arc<(Mutex<Said>, Condvar)>,
    reading: Option<std::thread::JoinHandle<()>>,
}

impl Leader {
    /// Starts one. The test file must have a test `child` that calls [`run_if_asked`].
    pub fn start(config: &KafkaConfig) -> Self {
        let tag = rand::random::<u64>();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(BROKERS, &config.brokers)
            .env(TOPIC, &config.topic)
            .env(TAG, tag.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let said = Arc::new((Mutex::new(Said::default()), Condvar::new()));
        let reading = std::thread::spawn({
            let said = Arc::clone(&said);
            move || {
                for line in out.lines().map_while(Result::ok) {
                    let mut now = said.0.lock().unwrap();
                    let words: Vec<&str> = line.split(' ').collect();
                    match words[..] {
                        ["acknowledged", sequence, index] => now
                            .acknowledged
                            .push((sequence.parse().unwrap(), index.parse().unwrap())),
                        ["leads", "epoch", epoch, ..] => now.epoch = Some(epoch.parse().unwrap()),
                        ["stopped", ..] => now.stopped = Some(line),
                        _ => {}
                    }
                    said.1.notify_all();
                }
                // The process has ended, in whatever way.
                said.0.lock().unwrap().stopped.get_or_insert_default();
                said.1.notify_all();
            }
        });
        Self {
            tag,
            child,
            said,
            reading: Some(reading),
        }
    }

    fn wait<T>(&self, what: &str, mut done: impl FnMut(&Said) -> Option<T>) -> T {
        let deadline = Instant::now() + 2 * PATIENCE;
        let mut said = self.said.0.lock().unwrap();
        loop {
            if let Some(found) = done(&said) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "a leader never {what}");
            said = self.said.1.wait_timeout(said, left).unwrap().0;
        }
    }

    /// Waits for `count` more acknowledgements.
    pub fn wait_acknowledged(&self, count: usize) {
        let from = self.count();
        self.wait("went on", |said| {
            assert!(said.stopped.is_none(), "it stopped: {:?}", said.stopped);
            (said.acknowledged.len() >= from + count).then_some(())
        });
    }

    /// Waits until it leads or says that it does not; whether it does.
    pub fn wait_decided(&self) -> bool {
        self.wait("began", |said| {
            (said.epoch.is_some() || said.stopped.is_some()).then_some(said.epoch.is_some())
        })
    }

    /// Waits until it stops by itself, and returns why.
    pub fn wait_stopped(&self) -> String {
        self.wait("stopped", |said| said.stopped.clone())
    }

    pub fn count(&self) -> usize {
        self.said.0.lock().unwrap().acknowledged.len()
    }

    /// STOP, CONT or KILL.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill")
            .args([format!("-{name}").as_str(), &id])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Kills it, and returns all that it said was acknowledged: sequence and index.
    pub fn end(mut self) -> (u64, Vec<(u64, u64)>) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
        self.reading.take().unwrap().join().unwrap();
        let acknowledged = std::mem::take(&mut self.said.0.lock().unwrap().acknowledged);
        (self.tag, acknowledged)
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends the leaders and checks the history: one, with everything that was acknowledged at its sequence and nothing twice.
/// Returns how many commands there are.
pub fn check_history(config: &KafkaConfig, leaders: Vec<Leader>) -> u64 {
    let said: Vec<_> = leaders.into_iter().map(Leader::end).collect();
    let config = &KafkaConfig {
        block_bytes_max: BLOCK_BYTES_MAX,
        ..config.clone()
    };
    let (reader, recovery) = KafkaLog::read_only(config.clone()).unwrap();
    let mut machine = Memory::default();
    let summary = replay(reader.read(1).unwrap(), 1, &mut machine).unwrap();
    assert_eq!(summary.chain.last_sequence(), recovery.last_sequence);
    let mut places = HashMap::new();
    for (sequence, _, command) in &machine.applied {
        let before = places.insert(identity(command), *sequence);
        assert!(before.is_none(), "a command was applied twice");
    }
    for (tag, acknowledged) in said {
        for (sequence, index) in acknowledged {
            assert_eq!(
                places.get(&(tag, index)),
                Some(&sequence),
                "acknowledged and not in the history"
            );
        }
    }
    // What a new leader finds is what a reader from nothing finds.
    let (log, again) = KafkaLog::lead(config.clone(), "test", 0).unwrap();
    assert_eq!(again.last_sequence, recovery.last_sequence);
    let sequencer = SequencerConfig {
        epoch: again.epoch,
        block_bytes_max: 32 << 10,
        ..SequencerConfig::new("test")
    };
    let handle = start_with(sequencer, log, &again, ManualClock::new(5_000));
    answer(&super::submit(&handle, &[command(0, 0)], Ack::Durable)).unwrap();
    handle.stop().unwrap();
    recovery.last_sequence
}
