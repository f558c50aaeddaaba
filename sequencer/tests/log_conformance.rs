//! What every log promises, checked on each of them through one harness.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use common::{Chained, PATIENCE, body, folder};
use karat_sequencer::log::journal::{DiskStep, Faults};
use karat_sequencer::{
    Block, Chain, Journal, JournalConfig, Log, LogError, MemoryConfig, MemoryDisk, MemoryLog,
    Recovery,
};

/// Which step fails, from its `at`th time on.
#[derive(Clone, Copy)]
enum Failing {
    Nothing,
    Append { at: u64 },
    Flush { at: u64 },
}

/// A place for a log that outlives the process that writes it.
trait Harness {
    fn new() -> Self;
    /// Opens the log; an error is its message.
    fn open(&self, failing: Failing) -> Result<(Box<dyn Log>, Recovery), String>;
}

const BLOCK_BYTES_MAX: usize = 4096;

struct InMemory(MemoryDisk, bool);

impl InMemory {
    fn config(&self, failing: Failing) -> MemoryConfig {
        let mut config = MemoryConfig {
            block_bytes_max: BLOCK_BYTES_MAX,
            appended_when_durable: self.1,
            flush_delay_max: std::time::Duration::from_micros(50),
            ..MemoryConfig::default()
        };
        match failing {
            Failing::Nothing => {}
            Failing::Append { at } => config.fail_append = Some(at),
            Failing::Flush { at } => config.fail_flush = Some(at),
        }
        config
    }
}

impl Harness for InMemory {
    fn new() -> Self {
        Self(MemoryDisk::new(), false)
    }

    fn open(&self, failing: Failing) -> Result<(Box<dyn Log>, Recovery), String> {
        let (log, recovery) =
            MemoryLog::open(&self.0, self.config(failing)).map_err(|error| error.to_string())?;
        Ok((Box::new(log), recovery))
    }
}

/// As a broker does it: nothing is appended before it is durable.
struct LateInMemory(InMemory);

impl Harness for LateInMemory {
    fn new() -> Self {
        Self(InMemory(MemoryDisk::new(), true))
    }

    fn open(&self, failing: Failing) -> Result<(Box<dyn Log>, Recovery), String> {
        self.0.open(failing)
    }
}

struct OnDisk(tempfile::TempDir);

impl Harness for OnDisk {
    fn new() -> Self {
        Self(folder())
    }

    fn open(&self, failing: Failing) -> Result<(Box<dyn Log>, Recovery), String> {
        let steps = AtomicU64::new(0);
        let faults: Faults = Arc::new(move |step| {
            let at = match (step, failing) {
                (DiskStep::Append, Failing::Append { at })
                | (DiskStep::Flush, Failing::Flush { at }) => at,
                _ => return Ok(()),
            };
            if steps.fetch_add(1, Ordering::SeqCst) + 1 >= at {
                return Err(std::io::Error::other("injected failure"));
            }
            Ok(())
        });
        let config = JournalConfig {
            segment_bytes: 16 << 10,
            block_bytes_max: BLOCK_BYTES_MAX,
            faults: Some(faults),
            ..JournalConfig::default()
        };
        let (log, recovery) =
            Journal::open(self.0.path(), config).map_err(|error| error.to_string())?;
        Ok((Box::new(log), recovery))
    }
}

/// A topic of its own on a real broker. Two may have it open: who leads is decided in the log (`kafka.rs`).
#[cfg(feature = "kafka")]
struct OnKafka(karat_sequencer::KafkaConfig);

#[cfg(feature = "kafka")]
impl Harness for OnKafka {
    fn new() -> Self {
        Self(karat_sequencer::KafkaConfig {
            block_bytes_max: BLOCK_BYTES_MAX,
            ..common::kafka::config("conformance")
        })
    }

    fn open(&self, failing: Failing) -> Result<(Box<dyn Log>, Recovery), String> {
        use karat_sequencer::log::kafka::{KafkaFaults, KafkaStep};
        let steps = AtomicU64::new(0);
        let faults: KafkaFaults = Arc::new(move |step| {
            let at = match (step, failing) {
                (KafkaStep::Append, Failing::Append { at })
                | (KafkaStep::Acknowledged, Failing::Flush { at }) => at,
                _ => return Ok(()),
            };
            if steps.fetch_add(1, Ordering::SeqCst) + 1 >= at {
                return Err(std::io::Error::other("injected failure"));
            }
            Ok(())
        });
        let config = karat_sequencer::KafkaConfig {
            faults: Some(faults),
            ..self.0.clone()
        };
        let (log, recovery) =
            karat_sequencer::KafkaLog::open(config).map_err(|error| error.to_string())?;
        Ok((Box::new(log), recovery))
    }
}

fn append_all(log: &mut dyn Log, chained: &mut Chained, count: u64) -> Vec<Block> {
    let mut blocks = Vec::new();
    for index in 0..count {
        let bodies: Vec<Bytes> = (0..index % 4 + 1)
            .map(|inner| body(index * 10 + inner, 20 + index as usize % 300))
            .collect();
        let block = Block {
            header: chained.header.clone(),
            bodies,
        };
        log.append(chained.next(&block.bodies)).unwrap();
        blocks.push(block);
    }
    blocks
}

fn read(log: &dyn Log, from_sequence: u64) -> Vec<Block> {
    log.reader()
        .read(from_sequence)
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

fn wait_durable(log: &dyn Log, sequence: u64) {
    let deadline = std::time::Instant::now() + PATIENCE;
    assert!(
        log.progress()
            .wait_durable(sequence, Some(deadline))
            .unwrap()
    );
}

fn an_empty_log_recovers_to_nothing(harness: impl Harness) {
    let (log, recovery) = harness.open(Failing::Nothing).unwrap();
    assert_eq!(
        (recovery.last_sequence, recovery.epoch, recovery.blocks),
        (0, 0, 0)
    );
    assert_eq!(
        (recovery.realm.as_deref(), recovery.torn_tail.as_ref()),
        (None, None)
    );
    assert!(read(log.as_ref(), 1).is_empty());
}

fn blocks_read_back_from_any_sequence(harness: impl Harness) {
    let (mut log, _) = harness.open(Failing::Nothing).unwrap();
    let blocks = append_all(log.as_mut(), &mut Chained::new(), 200);
    let last = blocks.last().unwrap().last_sequence();
    wait_durable(log.as_ref(), last);
    for from_sequence in 1..=last + 2 {
        let expected: Vec<&Block> = blocks
            .iter()
            .filter(|block| block.last_sequence() >= from_sequence)
            .collect();
        assert_eq!(
            read(log.as_ref(), from_sequence).iter().collect::<Vec<_>>(),
            expected,
            "from {from_sequence}"
        );
    }
}

fn a_reader_at_a_pace_gives_the_same_blocks_until_it_is_told_to_end(harness: impl Harness) {
    let (mut log, _) = harness.open(Failing::Nothing).unwrap();
    let blocks = append_all(log.as_mut(), &mut Chained::new(), 50);
    let last = blocks.last().unwrap().last_sequence();
    wait_durable(log.as_ref(), last);
    let read_until = |from_sequence, asked_max: usize| -> Vec<Block> {
        let mut asked = 0;
        let go_on = move || {
            asked += 1;
            asked <= asked_max
        };
        let reader = log.reader();
        let read = reader.read_at_pace(from_sequence, Box::new(go_on)).unwrap();
        read.map(Result::unwrap).collect()
    };
    for from_sequence in [1, last / 2, last] {
        let whole = read(log.as_ref(), from_sequence);
        assert_eq!(read_until(from_sequence, usize::MAX), whole);
        for asked_max in [0, 1, 7] {
            let some = read_until(from_sequence, asked_max);
            assert!(some.len() <= asked_max);
            assert_eq!(some, whole[..some.len()]);
        }
    }
}

fn a_reopened_log_continues_where_it_ended(harness: impl Harness) {
    let mut expected = Vec::new();
    for round in 0..5 {
        let (mut log, recovery) = harness.open(Failing::Nothing).unwrap();
        assert_eq!(
            recovery.last_sequence,
            expected.last().map_or(0, Block::last_sequence)
        );
        assert_eq!(
            recovery.last_hash,
            expected
                .last()
                .map_or([0; 32], |block| block.hash().unwrap())
        );
        assert_eq!(recovery.blocks as usize, expected.len());
        assert_eq!(read(log.as_ref(), 1), expected);
        let mut chained = Chained::recovered(&recovery);
        expected.extend(append_all(log.as_mut(), &mut chained, 30 + round));
        if round % 2 == 0 {
            log.close(PATIENCE).unwrap();
        }
    }
    let mut chain = Chain::genesis();
    for block in &expected {
        chain
            .accept(&block.header, &block.hash().unwrap(), block.bodies.len())
            .unwrap();
    }
}

fn positions_rise_and_durable_never_passes_appended(harness: impl Harness) {
    let (mut log, _) = harness.open(Failing::Nothing).unwrap();
    let progress = log.progress();
    let calls = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&calls);
    let last_durable = AtomicU64::new(0);
    progress.subscribe(Arc::new(move |progress| {
        let positions = progress.positions();
        assert!(positions.durable_seq <= positions.appended_seq);
        last_durable.fetch_max(positions.durable_seq, Ordering::SeqCst);
        seen.fetch_add(1, Ordering::SeqCst);
    }));
    let blocks = append_all(log.as_mut(), &mut Chained::new(), 100);
    let last = blocks.last().unwrap().last_sequence();
    wait_durable(log.as_ref(), last);
    let positions = progress.positions();
    assert_eq!(
        (positions.appended_seq, positions.durable_seq),
        (last, last)
    );
    assert_eq!(
        (progress.blocks().appended, progress.blocks().durable),
        (100, 100)
    );
    // Who waits is woken first, who subscribed is told after.
    let deadline = std::time::Instant::now() + PATIENCE;
    while calls.load(Ordering::SeqCst) == 0 {
        assert!(
            std::time::Instant::now() < deadline,
            "no subscriber was told"
        );
        std::thread::yield_now();
    }
}

fn a_block_out_of_order_changes_nothing(harness: impl Harness) {
    let (mut log, _) = harness.open(Failing::Nothing).unwrap();
    let mut chained = Chained::new();
    let blocks = append_all(log.as_mut(), &mut chained, 3);
    let last = blocks.last().unwrap().last_sequence();
    for wrong in [last - 1, last + 1] {
        let error = log
            .append(Chained::after(wrong, [0; 32]).next(&[body(1, 9)]))
            .unwrap_err();
        assert!(matches!(error, LogError::OutOfOrder { .. }), "{error}");
    }
    append_all(log.as_mut(), &mut chained, 3);
    wait_durable(log.as_ref(), chained.header.first_sequence - 1);
}

fn a_block_that_is_too_large_changes_nothing(harness: impl Harness) {
    let (mut log, _) = harness.open(Failing::Nothing).unwrap();
    let mut chained = Chained::new();
    append_all(log.as_mut(), &mut chained, 3);
    let (next, parent) = (chained.header.first_sequence, chained.header.parent);
    let mut large = Chained::after(next - 1, parent);
    let error = log
        .append(large.next(&[body(1, BLOCK_BYTES_MAX)]))
        .unwrap_err();
    assert!(
        matches!(
            error,
            LogError::TooLarge {
                bytes_max: BLOCK_BYTES_MAX,
                ..
            }
        ),
        "{error}"
    );
    append_all(log.as_mut(), &mut chained, 3);
    wait_durable(log.as_ref(), chained.header.first_sequence - 1);
}

fn closing_makes_everything_durable_and_refuses_the_rest(harness: impl Harness) {
    let (mut log, _) = harness.open(Failing::Nothing).unwrap();
    let mut chained = Chained::new();
    append_all(log.as_mut(), &mut chained, 50);
    log.close(PATIENCE).unwrap();
    assert_eq!(
        log.progress().positions().durable_seq,
        chained.header.first_sequence - 1
    );
    let error = log.append(chained.next(&[body(1, 9)])).unwrap_err();
    assert!(matches!(error, LogError::Closed), "{error}");
}

fn only_one_at_a_time_may_have_it_open(harness: impl Harness) {
    let first = harness.open(Failing::Nothing).unwrap();
    let error = harness
        .open(Failing::Nothing)
        .err()
        .expect("the log is in use");
    assert!(error.contains("in use"), "{error}");
    drop(first);
    harness.open(Failing::Nothing).unwrap();
}

fn a_failed_flush_poisons_with_its_cause(harness: impl Harness) {
    let (mut log, _) = harness.open(Failing::Flush { at: 2 }).unwrap();
    let mut chained = Chained::new();
    let first = append_all(log.as_mut(), &mut chained, 1);
    let durable = first[0].last_sequence();
    wait_durable(log.as_ref(), durable);
    log.append(chained.next(&[body(1, 9)])).unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    let error = log
        .progress()
        .wait_durable(chained.header.first_sequence - 1, Some(deadline))
        .unwrap_err();
    assert!(error.to_string().contains("injected"), "{error}");
    for _ in 0..3 {
        let error = log.append(chained.next(&[body(2, 9)])).unwrap_err();
        let LogError::Poisoned { cause } = &error else {
            panic!("{error}")
        };
        assert!(matches!(**cause, LogError::Flush { .. }), "{error}");
        assert!(error.to_string().contains("injected"), "{error}");
    }
    assert_eq!(log.progress().positions().durable_seq, durable);
    assert!(log.close(PATIENCE).is_err());
}

fn a_failed_append_poisons_and_loses_nothing_durable(harness: impl Harness) {
    let (mut log, _) = harness.open(Failing::Append { at: 4 }).unwrap();
    let mut chained = Chained::new();
    let blocks = append_all(log.as_mut(), &mut chained, 3);
    let last = blocks.last().unwrap().last_sequence();
    wait_durable(log.as_ref(), last);
    let error = log.append(chained.next(&[body(1, 9)])).unwrap_err();
    assert!(matches!(error, LogError::Append { .. }), "{error}");
    let error = log.append(chained.next(&[body(1, 9)])).unwrap_err();
    assert!(matches!(error, LogError::Poisoned { .. }), "{error}");
    drop(log);
    let (log, recovery) = harness.open(Failing::Nothing).unwrap();
    assert_eq!(recovery.last_sequence, last);
    assert_eq!(read(log.as_ref(), 1), blocks);
}

fn an_epoch_marker_counts_as_a_block_and_reads_back(harness: impl Harness) {
    let (mut log, _) = harness.open(Failing::Nothing).unwrap();
    let mut chained = Chained::new();
    log.append(chained.next(&[])).unwrap();
    let deadline = Some(std::time::Instant::now() + PATIENCE);
    assert!(
        log.progress()
            .wait_until(deadline, |progress| progress.blocks().durable == 1)
    );
    append_all(log.as_mut(), &mut chained, 2);
    chained.header.epoch = 2;
    log.append(chained.next(&[])).unwrap();
    log.close(PATIENCE).unwrap();
    drop(log);
    let (log, recovery) = harness.open(Failing::Nothing).unwrap();
    assert_eq!((recovery.epoch, recovery.blocks), (2, 4));
    assert_eq!(recovery.last_hash, chained.header.parent);
    let blocks = read(log.as_ref(), 1);
    assert_eq!(
        blocks
            .iter()
            .map(Block::is_epoch_marker)
            .collect::<Vec<_>>(),
        [true, false, false, true]
    );
    assert_eq!(read(log.as_ref(), chained.header.first_sequence).len(), 1);
}

fn a_reader_beside_the_writer_sees_a_prefix(harness: impl Harness) {
    let (mut log, _) = harness.open(Failing::Nothing).unwrap();
    let reader = log.reader();
    let done = Arc::new(AtomicU64::new(0));
    let watching = std::thread::spawn({
        let done = Arc::clone(&done);
        move || {
            let mut next = 1;
            loop {
                let last = done.load(Ordering::SeqCst);
                for block in reader.read(next).unwrap() {
                    let block = block.unwrap();
                    assert_eq!(block.header.first_sequence, next);
                    next = block.last_sequence() + 1;
                }
                if last > 0 && next > last {
                    return next - 1;
                }
            }
        }
    });
    let blocks = append_all(log.as_mut(), &mut Chained::new(), 2_000);
    let last = blocks.last().unwrap().last_sequence();
    wait_durable(log.as_ref(), last);
    done.store(last, Ordering::SeqCst);
    assert_eq!(watching.join().unwrap(), last);
}

macro_rules! conformance {
    ($($name:ident),* ; $($exclusive:ident),* $(,)?) => {
        embedded!($($name,)* $($exclusive,)*);
        #[cfg(feature = "kafka")]
        mod kafka { $(#[test] fn $name() {
            if super::common::kafka::is_there() {
                super::$name(<super::OnKafka as super::Harness>::new());
            }
        })* }
    };
}

macro_rules! embedded {
    ($($name:ident),* $(,)?) => {
        mod memory { $(#[test] fn $name() { super::$name(<super::InMemory as super::Harness>::new()); })* }
        mod memory_acknowledging_late { $(#[test] fn $name() { super::$name(<super::LateInMemory as super::Harness>::new()); })* }
        mod journal { $(#[test] fn $name() { super::$name(<super::OnDisk as super::Harness>::new()); })* }
    };
}

conformance!(
    an_empty_log_recovers_to_nothing,
    blocks_read_back_from_any_sequence,
    a_reader_at_a_pace_gives_the_same_blocks_until_it_is_told_to_end,
    a_reopened_log_continues_where_it_ended,
    positions_rise_and_durable_never_passes_appended,
    a_block_out_of_order_changes_nothing,
    a_block_that_is_too_large_changes_nothing,
    closing_makes_everything_durable_and_refuses_the_rest,
    a_failed_flush_poisons_with_its_cause,
    a_failed_append_poisons_and_loses_nothing_durable,
    an_epoch_marker_counts_as_a_block_and_reads_back,
    a_reader_beside_the_writer_sees_a_prefix;
    only_one_at_a_time_may_have_it_open,
);
