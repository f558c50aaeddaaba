//! A killed process (SIGKILL) loses nothing that was acknowledged. It shows that answers follow the write to the page
//! cache; it cannot show what a loss of power takes, as the page cache survives.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use common::{Memory, answer, body, folder, start_with, submit};
use karat_sequencer::{
    Ack, Journal, JournalConfig, ManualClock, SequencerConfig, read_blocks, replay,
};

const CHILD: &str = "KARAT_TEST_KILLED_FOLDER";

fn config() -> JournalConfig {
    // Small segments, so that kills hit the change from one to the next.
    JournalConfig {
        segment_bytes: 64 << 10,
        block_bytes_max: 32 << 10,
        ..JournalConfig::default()
    }
}

/// Not a test by itself: the process that gets killed runs it with a folder in its environment.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD) else {
        return;
    };
    let (log, recovery) = Journal::open(dir.as_ref(), config()).unwrap();
    let sequencer = SequencerConfig {
        block_bytes_max: 16 << 10,
        ..SequencerConfig::new("test")
    };
    let handle = start_with(sequencer, log, &recovery, ManualClock::new(1));
    let mut out = std::io::stdout().lock();
    for index in 0.. {
        let received: Vec<_> = (0..5)
            .map(|inner| submit(&handle, &[body(index + inner, 300)], Ack::Sequenced))
            .collect();
        for received in &received {
            let sequence = answer(received).unwrap().first_sequence;
            writeln!(out, "acknowledged {sequence}").unwrap();
        }
        out.flush().unwrap();
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let dir = folder();
    let mut acknowledged = 0;
    for round in 0..25_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (answered, first_answer) = mpsc::channel();
        let reading = std::thread::spawn(move || {
            let numbers = out.lines().map_while(Result::ok).filter_map(|line| {
                line.split_once("acknowledged ")
                    .and_then(|(_, number)| number.parse::<u64>().ok())
            });
            numbers
                .inspect(|_| {
                    let _ = answered.send(());
                })
                .max()
        });
        // Spread over opening, the first blocks and full speed. Where a start takes long, only every other round gets beyond
        // the opening.
        if round % 2 == 1 {
            first_answer.recv().expect("a child that lives answers");
        }
        std::thread::sleep(Duration::from_millis(3 + round * 7 % 60));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged = acknowledged.max(reading.join().unwrap().unwrap_or(0));
        let mut machine = Memory::default();
        let summary = replay(read_blocks(dir.path(), 1).unwrap(), 1, &mut machine).unwrap();
        let (_, recovery) = Journal::open(dir.path(), config()).unwrap();
        assert_eq!(recovery.last_sequence, summary.chain.last_sequence());
        assert!(
            recovery.last_sequence >= acknowledged,
            "round {round}: {acknowledged} was acknowledged"
        );
    }
    assert!(acknowledged > 0, "no round got as far as an answer");
}
