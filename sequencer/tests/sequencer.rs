//! The sequencer's promises: order, time, ack levels, bounds, failures and the end.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{
    Memory, PATIENCE, answer, body, folder, start, start_with, submission, submit, submit_for_both,
};
use karat_sequencer::log::journal::DiskStep;
use karat_sequencer::{
    Ack, Clock, IngressOffset, Journal, JournalConfig, Log, LogError, ManualClock, MemoryConfig,
    MemoryDisk, MemoryLog, Sequencer, SequencerConfig, SequencerError, SubmitError, read_blocks,
    replay,
};
use parking_lot::Mutex;

fn memory_log(disk: &MemoryDisk) -> (MemoryLog, karat_sequencer::Recovery) {
    MemoryLog::open(disk, MemoryConfig::default()).unwrap()
}

fn small_journal() -> JournalConfig {
    JournalConfig {
        segment_bytes: 256 << 10,
        block_bytes_max: 128 << 10,
        ..JournalConfig::default()
    }
}

fn small_blocks() -> SequencerConfig {
    SequencerConfig {
        block_bytes_max: 64 << 10,
        ..SequencerConfig::new("test")
    }
}

#[test]
fn sequences_are_dense_and_a_submission_is_never_split() {
    let disk = MemoryDisk::new();
    let (log, recovery) = memory_log(&disk);
    let config = SequencerConfig {
        block_commands_max: 7,
        ..SequencerConfig::new("test")
    };
    let handle = start_with(config, log, &recovery, ManualClock::new(5_000));
    let received: Vec<_> = (0..500_u64)
        .map(|index| {
            let bodies: Vec<Bytes> = (0..index % 7 + 1)
                .map(|inner| body(index * 10 + inner, 30))
                .collect();
            (bodies.len() as u64, submit(&handle, &bodies, Ack::Durable))
        })
        .collect();
    let mut next = 1;
    for (count, received) in &received {
        let answer = answer(received).unwrap();
        assert_eq!(answer.first_sequence, next);
        assert_eq!(answer.outcomes, (next..next + count).collect::<Vec<_>>());
        next += count;
    }
    let blocks: Vec<_> = handle.read_blocks(1).unwrap().map(Result::unwrap).collect();
    let mut starts = blocks
        .iter()
        .map(|block| block.header.first_sequence)
        .collect::<Vec<_>>();
    starts.retain(|start| *start < next);
    let mut first_of_submissions = 1;
    for (count, _) in &received {
        let inside = first_of_submissions + 1..first_of_submissions + count;
        assert!(
            !starts.iter().any(|start| inside.contains(start)),
            "a block begins inside a submission"
        );
        first_of_submissions += count;
    }
    assert!(blocks.iter().all(|block| block.bodies.len() <= 7));
    let machine = handle.stop().unwrap();
    assert_eq!(machine.applied.len() as u64, next - 1);
}

#[test]
fn sequenced_is_released_while_a_flush_is_held_and_durable_is_not() {
    let disk = MemoryDisk::new();
    let (log, recovery) = memory_log(&disk);
    let handle = start(log, &recovery);
    disk.hold_flush();
    let durable = submit(&handle, &[body(1, 10)], Ack::Durable);
    let sequenced = submit(&handle, &[body(2, 10)], Ack::Sequenced);
    assert_eq!(answer(&sequenced).unwrap().first_sequence, 2);
    assert_eq!(durable.try_recv(), Err(TryRecvError::Empty));
    let positions = handle.positions();
    assert_eq!(
        (
            positions.appended_seq,
            positions.applied_seq,
            positions.durable_seq
        ),
        (2, 2, 0)
    );
    assert!(!handle.wait_durable(1, Duration::from_millis(1)).unwrap());
    disk.release_flush();
    assert_eq!(answer(&durable).unwrap().first_sequence, 1);
    assert!(handle.wait_durable(2, PATIENCE).unwrap());
    handle.stop().unwrap();
}

#[test]
fn on_a_log_that_acknowledges_late_sequenced_waits_for_the_acknowledgement() {
    let disk = MemoryDisk::new();
    let config = MemoryConfig {
        appended_when_durable: true,
        ..MemoryConfig::default()
    };
    let (log, recovery) = MemoryLog::open(&disk, config).unwrap();
    let handle = start(log, &recovery);
    disk.hold_flush();
    let received: Vec<_> = (0..10)
        .map(|index| submit(&handle, &[body(index, 10)], Ack::Sequenced))
        .collect();
    assert_eq!(
        received[0].recv_timeout(Duration::from_millis(20)),
        Err(RecvTimeoutError::Timeout)
    );
    disk.release_flush();
    for (index, received) in received.iter().enumerate() {
        assert_eq!(answer(received).unwrap().first_sequence, index as u64 + 1);
    }
    handle.stop().unwrap();
}

#[test]
fn who_asks_for_both_levels_is_answered_at_each_with_the_same() {
    let disk = MemoryDisk::new();
    let (log, recovery) = memory_log(&disk);
    let handle = start(log, &recovery);
    disk.hold_flush();
    let (durable, sequenced) = submit_for_both(&handle, &[body(1, 10), body(2, 10)]);
    let early = answer(&sequenced).unwrap();
    assert_eq!(
        (early.first_sequence, &early.outcomes[..]),
        (1, &[1, 2][..])
    );
    assert_eq!(durable.try_recv(), Err(TryRecvError::Empty));
    disk.release_flush();
    assert_eq!(answer(&durable).unwrap(), early);
    assert_eq!(sequenced.try_recv(), Err(TryRecvError::Disconnected));
    handle.stop().unwrap();
}

#[test]
fn on_a_log_that_acknowledges_late_both_levels_wait_for_the_acknowledgement() {
    let disk = MemoryDisk::new();
    let config = MemoryConfig {
        appended_when_durable: true,
        ..MemoryConfig::default()
    };
    let (log, recovery) = MemoryLog::open(&disk, config).unwrap();
    let handle = start(log, &recovery);
    disk.hold_flush();
    let (durable, sequenced) = submit_for_both(&handle, &[body(1, 10)]);
    for received in [&durable, &sequenced] {
        assert_eq!(
            received.recv_timeout(Duration::from_millis(20)),
            Err(RecvTimeoutError::Timeout)
        );
    }
    disk.release_flush();
    assert_eq!(answer(&sequenced).unwrap(), answer(&durable).unwrap());
    handle.stop().unwrap();
}

#[test]
fn a_failed_append_answers_both_levels_and_a_failed_flush_only_the_one_that_needs_it() {
    let failing = |config| {
        let disk = MemoryDisk::new();
        let (log, recovery) = MemoryLog::open(&disk, config).unwrap();
        let handle = start(log, &recovery);
        let (durable, sequenced) = submit_for_both(&handle, &[body(1, 10)]);
        let answers = (answer(&sequenced), answer(&durable));
        let _ = handle.stop();
        answers
    };
    let poisoned =
        |answer: &Result<_, SubmitError>| matches!(answer, Err(SubmitError::Poisoned { .. }));
    let (sequenced, durable) = failing(MemoryConfig {
        fail_append: Some(2),
        ..MemoryConfig::default()
    });
    assert!(poisoned(&sequenced) && poisoned(&durable));
    let (_, durable) = failing(MemoryConfig {
        fail_flush: Some(2),
        ..MemoryConfig::default()
    });
    assert!(poisoned(&durable));
}

#[test]
fn the_moments_of_a_submission_follow_each_other() {
    let disk = MemoryDisk::new();
    let (log, recovery) = memory_log(&disk);
    let handle = start(log, &recovery);
    let before = Instant::now();
    let received: Vec<_> = (0..200)
        .map(|index| submit(&handle, &[body(index, 10)], Ack::Sequenced))
        .collect();
    for received in &received {
        let times = answer(received).unwrap().times;
        assert!(before <= times.submitted && times.submitted <= times.taken);
        assert!(times.taken <= times.appended && times.appended <= times.applied);
        let stages = times.queue() + times.append() + times.apply();
        assert_eq!(stages, times.applied - times.submitted);
    }
    handle.stop().unwrap();
}

#[test]
fn each_bound_of_the_queue_refuses_at_once_and_gives_the_submission_back() {
    let bounds = [
        SequencerConfig {
            queue_commands_max: 4,
            block_commands_max: 4,
            ..SequencerConfig::new("test")
        },
        SequencerConfig {
            queue_bytes_max: 400,
            block_bytes_max: 400,
            ..SequencerConfig::new("test")
        },
        SequencerConfig {
            queue_submissions_max: 2,
            ..SequencerConfig::new("test")
        },
    ];
    for mut config in bounds {
        // One block may be in flight; then the writer waits and the queue fills.
        config.unflushed_commands_max = 0;
        let disk = MemoryDisk::new();
        let (log, recovery) = memory_log(&disk);
        let handle = start_with(config, log, &recovery, ManualClock::new(1));
        disk.hold_flush();
        let mut accepted = Vec::new();
        let error = loop {
            let (submission, received) = submission(&[body(1, 100), body(2, 100)], Ack::Durable);
            match handle.submit(submission) {
                Ok(()) => accepted.push(received),
                Err((error, submission)) => {
                    assert_eq!(submission.commands.len(), 2);
                    break error;
                }
            }
            assert!(accepted.len() < 20, "no bound holds");
        };
        let SubmitError::Overloaded { retry_after_ms } = error else {
            panic!("{error}")
        };
        assert!((1..=1000).contains(&retry_after_ms));
        assert!(handle.metrics().overloaded >= 1);
        disk.release_flush();
        for received in &accepted {
            answer(received).unwrap();
        }
        // There is room again.
        answer(&submit(&handle, &[body(3, 10)], Ack::Durable)).unwrap();
        let metrics = handle.metrics();
        assert_eq!(
            (
                metrics.queued_submissions,
                metrics.queued_commands,
                metrics.queued_bytes
            ),
            (0, 0, 0)
        );
        handle.stop().unwrap();
    }
}

#[test]
fn what_can_never_fit_is_refused_for_good() {
    let disk = MemoryDisk::new();
    let (log, recovery) = memory_log(&disk);
    let config = SequencerConfig {
        block_commands_max: 3,
        block_bytes_max: 1_000,
        ..SequencerConfig::new("test")
    };
    let handle = start_with(config, log, &recovery, ManualClock::new(1));
    let refusal = |bodies: &[Bytes]| {
        handle
            .submit(submission(bodies, Ack::Sequenced).0)
            .map_err(|(error, _)| error)
    };
    assert_eq!(refusal(&[]), Err(SubmitError::Empty));
    assert!(matches!(
        refusal(&vec![body(1, 8); 4]),
        Err(SubmitError::TooLarge {
            commands: 4,
            commands_max: 3,
            ..
        })
    ));
    assert!(matches!(
        refusal(&[body(1, 1_000)]),
        Err(SubmitError::TooLarge { .. })
    ));
    // The largest that fits, to the byte: 64 fixed bytes, 4 of the realm, 4 before the body.
    answer(&submit(
        &handle,
        &[body(1, 1_000 - 64 - 4 - 4)],
        Ack::Durable,
    ))
    .unwrap();
    assert!(matches!(
        refusal(&[body(1, 1_000 - 64 - 4 - 3)]),
        Err(SubmitError::TooLarge { .. })
    ));
    handle.stop().unwrap();
}

#[test]
fn time_never_falls_when_the_clock_goes_back() {
    let dir = folder();
    let clock = ManualClock::new(5_000);
    let mut times = Vec::new();
    for set in [5_000, 4_000, 6_000, 10] {
        // Across restarts, too.
        let (log, recovery) = Journal::open(dir.path(), small_journal()).unwrap();
        let handle = start_with(small_blocks(), log, &recovery, clock.clone());
        for now in [set, set / 2, set + 1] {
            clock.set(now);
            times.push(
                answer(&submit(&handle, &[body(1, 10)], Ack::Sequenced))
                    .unwrap()
                    .time_ms,
            );
        }
        handle.stop().unwrap();
    }
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!((times[0], times[times.len() - 1]), (5_000, 6_001));
    assert_eq!(clock.now_ms(), 11);
}

#[test]
fn a_failed_flush_refuses_everything_with_the_first_cause() {
    let disk = MemoryDisk::new();
    let config = MemoryConfig {
        fail_flush: Some(2),
        ..MemoryConfig::default()
    };
    let (log, recovery) = MemoryLog::open(&disk, config).unwrap();
    // The first flush is the epoch marker's.
    let handle = start(log, &recovery);
    let error = answer(&submit(&handle, &[body(1, 10)], Ack::Durable)).unwrap_err();
    let SubmitError::Poisoned { cause } = &error else {
        panic!("{error}")
    };
    assert!(cause.contains("injected flush failure"), "{cause}");
    for _ in 0..3 {
        let (error, _) = handle
            .submit(submission(&[body(2, 10)], Ack::Sequenced).0)
            .unwrap_err();
        assert_eq!(
            error,
            SubmitError::Poisoned {
                cause: Arc::clone(cause)
            }
        );
    }
    assert!(handle.poisoned().is_some());
    assert_eq!(handle.positions().durable_seq, 0);
    handle.stop().unwrap();
}

#[test]
fn a_failed_append_answers_everyone_and_nothing_of_it_is_applied() {
    let disk = MemoryDisk::new();
    let config = MemoryConfig {
        fail_append: Some(3),
        ..MemoryConfig::default()
    };
    let (log, recovery) = MemoryLog::open(&disk, config).unwrap();
    let handle = start(log, &recovery);
    answer(&submit(&handle, &[body(1, 10)], Ack::Durable)).unwrap();
    disk.hold_flush();
    let mut received = Vec::new();
    for index in 0..50 {
        let (submission, answers) = submission(&[body(index, 10)], Ack::Sequenced);
        if handle.submit(submission).is_ok() {
            received.push(answers);
        }
    }
    for received in &received {
        let error = answer(received).unwrap_err();
        assert!(
            error.to_string().contains("injected append failure"),
            "{error}"
        );
    }
    disk.release_flush();
    let machine = handle.stop().unwrap();
    assert_eq!(machine.applied.len(), 1);
}

#[test]
fn a_full_disk_poisons_with_a_clear_message_and_loses_nothing_acknowledged() {
    let dir = folder();
    let full = |step: DiskStep, failing: DiskStep, left: &AtomicU64| {
        let gone = step == failing
            && left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                    left.checked_sub(1)
                })
                .is_err();
        if gone {
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
        } else {
            Ok(())
        }
    };
    let mut acknowledged = 0;
    // Appends fail after ten; new segments cannot be made after the second.
    for (failing, left) in [(DiskStep::Append, 10), (DiskStep::Prepare, 1)] {
        let left = AtomicU64::new(left);
        let config = JournalConfig {
            faults: Some(Arc::new(move |step| full(step, failing, &left))),
            ..small_journal()
        };
        let (log, recovery) = Journal::open(dir.path(), config).unwrap();
        assert_eq!(recovery.last_sequence, acknowledged);
        let handle = start_with(small_blocks(), log, &recovery, ManualClock::new(1));
        let error = loop {
            let (submission, received) = submission(&[body(1, 30_000)], Ack::Durable);
            match handle.submit(submission) {
                Err((error, _)) => break error,
                Ok(()) => match answer(&received) {
                    Ok(answer) => acknowledged = answer.first_sequence,
                    Err(error) => break error,
                },
            }
            assert!(acknowledged < 100, "the disk was never full");
        };
        assert!(matches!(error, SubmitError::Poisoned { .. }), "{error}");
        assert!(
            error.to_string().contains("no storage space") && error.to_string().contains("journal"),
            "{error}"
        );
        handle.stop().unwrap();
    }
    let (_, recovery) = Journal::open(dir.path(), small_journal()).unwrap();
    assert_eq!(recovery.last_sequence, acknowledged);
    assert!(acknowledged > 10);
}

#[test]
fn what_a_block_refers_to_is_flushed_before_the_block() {
    let dir = folder();
    let written = Arc::new(AtomicU64::new(0));
    let covered = Arc::new(AtomicU64::new(0));
    let order = Arc::new(Mutex::new(Vec::new()));
    let pre_flush = {
        let (written, covered, order) = (
            Arc::clone(&written),
            Arc::clone(&covered),
            Arc::clone(&order),
        );
        move || {
            covered.store(written.load(Ordering::SeqCst), Ordering::SeqCst);
            order.lock().push("content");
            Ok(())
        }
    };
    let faults = {
        let order = Arc::clone(&order);
        move |step| {
            if step == DiskStep::Flush {
                order.lock().push("journal");
            }
            Ok(())
        }
    };
    let config = JournalConfig {
        pre_flush: Some(Arc::new(pre_flush)),
        faults: Some(Arc::new(faults)),
        ..small_journal()
    };
    let (log, recovery) = Journal::open(dir.path(), config).unwrap();
    let handle = start_with(small_blocks(), log, &recovery, ManualClock::new(1));
    for index in 1..=200 {
        // The content is written first, then the command that names it is submitted.
        written.store(index, Ordering::SeqCst);
        let received = submit(&handle, &[body(index, 10)], Ack::Durable);
        if index % 3 == 0 {
            assert_eq!(answer(&received).unwrap().first_sequence, index);
            assert!(
                covered.load(Ordering::SeqCst) >= index,
                "acknowledged as durable without its content"
            );
        }
    }
    handle.stop().unwrap();
    let order = order.lock();
    assert!(
        order.chunks(2).all(|pair| pair == ["content", "journal"]),
        "{order:?}"
    );
}

#[test]
fn a_failed_pre_flush_is_a_failed_flush() {
    let dir = folder();
    let calls = AtomicU64::new(0);
    let pre_flush = move || {
        if calls.fetch_add(1, Ordering::SeqCst) == 0 {
            Ok(())
        } else {
            Err(std::io::Error::other("content is gone"))
        }
    };
    let config = JournalConfig {
        pre_flush: Some(Arc::new(pre_flush)),
        ..small_journal()
    };
    let (log, recovery) = Journal::open(dir.path(), config).unwrap();
    let handle = start_with(small_blocks(), log, &recovery, ManualClock::new(1));
    let error = answer(&submit(&handle, &[body(1, 10)], Ack::Durable)).unwrap_err();
    assert!(error.to_string().contains("content is gone"), "{error}");
    assert!(matches!(handle.poisoned(), Some(LogError::Flush { .. })));
    handle.stop().unwrap();
}

#[test]
fn stopping_answers_everything_that_was_accepted_and_refuses_the_rest() {
    for round in 0..20 {
        let disk = MemoryDisk::new();
        let config = MemoryConfig {
            seed: round,
            flush_delay_max: Duration::from_micros(200),
            ..MemoryConfig::default()
        };
        let (log, recovery) = MemoryLog::open(&disk, config).unwrap();
        let handle = start(log, &recovery);
        let submitters: Vec<_> = (0..3)
            .map(|thread| {
                let handle = handle.clone();
                std::thread::spawn(move || {
                    let mut accepted = Vec::new();
                    loop {
                        let ack = if accepted.len() % 2 == 0 {
                            Ack::Durable
                        } else {
                            Ack::Sequenced
                        };
                        let (submission, received) = submission(&[body(thread, 20)], ack);
                        match handle.submit(submission) {
                            Ok(()) => accepted.push(received),
                            Err((SubmitError::Overloaded { .. }, _)) => std::thread::yield_now(),
                            Err((error, _)) => {
                                assert_eq!(error, SubmitError::Stopped);
                                return accepted;
                            }
                        }
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(2));
        let other = handle.clone();
        let machine = handle.stop().unwrap();
        let mut sequences = Vec::new();
        for submitter in submitters {
            for received in submitter.join().unwrap() {
                sequences.push(answer(&received).unwrap().first_sequence);
            }
        }
        sequences.sort_unstable();
        assert_eq!(
            sequences,
            (1..=machine.applied.len() as u64).collect::<Vec<_>>()
        );
        assert_eq!(other.positions().durable_seq, machine.applied.len() as u64);
        assert!(matches!(other.stop(), Err(SequencerError::AlreadyStopped)));
    }
}

#[test]
fn stopping_with_a_flush_that_never_ends_is_bounded_and_says_so() {
    let disk = MemoryDisk::new();
    // The marker of the first start takes as long as it takes; the second start writes none.
    let (log, recovery) = memory_log(&disk);
    start(log, &recovery).stop().unwrap();
    let (log, recovery) = memory_log(&disk);
    let config = SequencerConfig {
        stop_wait_max: Duration::from_millis(500),
        ..SequencerConfig::new("test")
    };
    let handle = start_with(config, log, &recovery, ManualClock::new(1));
    disk.hold_flush();
    let received = submit(&handle, &[body(1, 10)], Ack::Durable);
    let machine = handle.stop().unwrap();
    assert_eq!(machine.applied.len(), 1);
    let error = answer(&received).unwrap_err();
    assert!(
        error.to_string().contains("not flushed within 500 ms"),
        "{error}"
    );
    disk.release_flush();
}

#[test]
fn dropping_the_last_handle_ends_the_sequencer_and_frees_the_folder() {
    let dir = folder();
    let (log, recovery) = Journal::open(dir.path(), small_journal()).unwrap();
    let handle = start_with(small_blocks(), log, &recovery, ManualClock::new(1));
    let received = submit(&handle, &[body(1, 10)], Ack::Durable);
    drop(handle);
    assert_eq!(answer(&received).unwrap().first_sequence, 1);
    let deadline = std::time::Instant::now() + PATIENCE;
    while Journal::open(dir.path(), small_journal()).is_err() {
        assert!(
            std::time::Instant::now() < deadline,
            "the folder stays locked"
        );
        std::thread::yield_now();
    }
}

#[test]
fn two_writers_on_one_folder_are_refused_by_its_name() {
    let dir = folder();
    let _first = Journal::open(dir.path(), small_journal()).unwrap();
    let error = Journal::open(dir.path(), small_journal())
        .err()
        .expect("the folder is locked")
        .to_string();
    assert!(
        error.contains(dir.path().to_str().unwrap()) && error.contains("in use by another process"),
        "{error}"
    );
}

#[test]
fn a_higher_epoch_is_marked_and_a_lower_one_is_refused() {
    let dir = folder();
    let open = |epoch| {
        let (log, recovery) = Journal::open(dir.path(), small_journal()).unwrap();
        let config = SequencerConfig {
            epoch,
            ..small_blocks()
        };
        let started = Sequencer::start(
            config,
            Box::new(log),
            &recovery,
            Memory::default(),
            Box::new(ManualClock::new(1)),
        );
        (recovery, started)
    };
    for (epoch, seen) in [(3, 0), (3, 3), (7, 3)] {
        let (recovery, started) = open(epoch);
        assert_eq!(recovery.epoch, seen);
        let handle = started.unwrap();
        answer(&submit(&handle, &[body(1, 10)], Ack::Durable)).unwrap();
        handle.stop().unwrap();
    }
    let (_, started) = open(6);
    assert!(matches!(
        started.err(),
        Some(SequencerError::EpochBehind { epoch: 6, found: 7 })
    ));
    let blocks: Vec<_> = read_blocks(dir.path(), 1)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let epochs: Vec<_> = blocks
        .iter()
        .map(|block| (block.header.epoch, block.bodies.len()))
        .collect();
    assert_eq!(epochs, [(3, 0), (3, 1), (3, 1), (7, 0), (7, 1)]);
}

#[test]
fn a_log_of_another_realm_is_refused() {
    let dir = folder();
    let (log, recovery) = Journal::open(dir.path(), small_journal()).unwrap();
    start_with(small_blocks(), log, &recovery, ManualClock::new(1))
        .stop()
        .unwrap();
    let (log, recovery) = Journal::open(dir.path(), small_journal()).unwrap();
    let config = SequencerConfig {
        realm: "other".to_owned(),
        ..small_blocks()
    };
    let started = Sequencer::start(
        config,
        Box::new(log),
        &recovery,
        Memory::default(),
        Box::new(ManualClock::new(1)),
    );
    assert!(matches!(started.err(), Some(SequencerError::Realm { .. })));
}

#[test]
fn settings_out_of_bounds_are_refused_by_name() {
    let wrong = [
        ("realm", SequencerConfig::new("")),
        ("realm", SequencerConfig::new("x".repeat(65))),
        (
            "epoch",
            SequencerConfig {
                epoch: 0,
                ..SequencerConfig::new("test")
            },
        ),
        (
            "queue_commands_max",
            SequencerConfig {
                queue_commands_max: 10,
                ..SequencerConfig::new("test")
            },
        ),
        (
            "block_commands_max",
            SequencerConfig {
                block_commands_max: 0,
                ..SequencerConfig::new("test")
            },
        ),
        (
            "block_bytes_max",
            SequencerConfig {
                block_bytes_max: 17 << 20,
                ..SequencerConfig::new("test")
            },
        ),
    ];
    for (name, config) in wrong {
        let (log, recovery) = memory_log(&MemoryDisk::new());
        let config = SequencerConfig {
            queue_bytes_max: 64 << 20,
            ..config
        };
        let started = Sequencer::start(
            config,
            Box::new(log),
            &recovery,
            Memory::default(),
            Box::new(ManualClock::new(1)),
        );
        let error = started.err().expect("the setting is wrong").to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn a_machine_that_panics_or_miscounts_is_contained() {
    for bad in ["panic", "short"] {
        let disk = MemoryDisk::new();
        let (log, recovery) = memory_log(&disk);
        let handle = start(log, &recovery);
        answer(&submit(&handle, &[body(1, 10)], Ack::Durable)).unwrap();
        let error = answer(&submit(&handle, &[Bytes::from(bad)], Ack::Sequenced)).unwrap_err();
        assert!(matches!(error, SubmitError::Poisoned { .. }), "{error}");
        let (error, _) = handle
            .submit(submission(&[body(2, 10)], Ack::Durable).0)
            .unwrap_err();
        assert!(matches!(error, SubmitError::Poisoned { .. }), "{error}");
        assert_eq!(handle.stop().is_err(), bad == "panic");
    }
}

#[test]
fn a_reply_that_panics_keeps_no_other_answer_back() {
    let disk = MemoryDisk::new();
    let (log, recovery) = memory_log(&disk);
    let handle = start(log, &recovery);
    disk.hold_flush();
    let (mut bad, _) = submission(&[body(1, 10)], Ack::Durable);
    bad.reply = Box::new(|_| panic!("a reply was told to panic"));
    handle.submit(bad).map_err(|(error, _)| error).unwrap();
    let received = submit(&handle, &[body(2, 10)], Ack::Durable);
    disk.release_flush();
    answer(&received).unwrap();
    handle.stop().unwrap();
}

#[test]
fn the_durable_hook_follows_the_durable_position() {
    let disk = MemoryDisk::new();
    let (log, recovery) = memory_log(&disk);
    let handle = start(log, &recovery);
    let (sender, receiver) = std::sync::mpsc::channel();
    let sender = Mutex::new(sender);
    handle.on_durable(move |sequence| {
        let _ = sender.lock().send(sequence);
    });
    for index in 0..20 {
        submit(&handle, &[body(index, 10)], Ack::Sequenced);
    }
    let mut last = 0;
    while last < 20 {
        let sequence = receiver.recv_timeout(PATIENCE).unwrap();
        assert!(sequence > last);
        last = sequence;
    }
    handle.stop().unwrap();
}

#[test]
fn a_block_records_the_ingress_positions_of_what_it_holds() {
    let dir = folder();
    let (log, recovery) = Journal::open(dir.path(), small_journal()).unwrap();
    let handle = start_with(small_blocks(), log, &recovery, ManualClock::new(1));
    let at = |partition, offset| IngressOffset {
        topic: "commands".to_owned(),
        partition,
        offset,
    };
    for (index, ingress) in [vec![at(1, 5)], vec![at(0, 9)], vec![at(1, 8)], vec![]]
        .into_iter()
        .enumerate()
    {
        let (submission, received) = submission(&[body(index as u64, 10)], Ack::Durable);
        handle
            .submit_with_ingress(submission, ingress)
            .map_err(|(error, _)| error)
            .unwrap();
        if index == 0 {
            answer(&received).unwrap();
        }
    }
    handle.stop().unwrap();
    let (_, recovery) = Journal::open(dir.path(), small_journal()).unwrap();
    assert_eq!(recovery.ingress, [at(0, 9), at(1, 8)]);
}

#[test]
fn replaying_the_log_gives_the_machine_that_wrote_it() {
    let dir = folder();
    let clock = ManualClock::new(1);
    let mut live = Memory::default();
    for _ in 0..3 {
        let (log, recovery) = Journal::open(dir.path(), small_journal()).unwrap();
        let handle = Sequencer::start(
            small_blocks(),
            Box::new(log),
            &recovery,
            live.clone(),
            Box::new(clock.clone()),
        )
        .unwrap();
        let received: Vec<_> = (0..300)
            .map(|index| {
                clock.advance(index % 3);
                submit(
                    &handle,
                    &[body(index, 100), body(index + 1, 200)],
                    Ack::Durable,
                )
            })
            .collect();
        for received in &received {
            answer(received).unwrap();
        }
        live = handle.stop().unwrap();
    }
    let mut replayed = Memory::default();
    let summary = replay(read_blocks(dir.path(), 1).unwrap(), 1, &mut replayed).unwrap();
    assert_eq!(replayed, live);
    assert_eq!(
        (summary.commands, summary.void, summary.markers),
        (1800, 0, 1)
    );
    // The chain after a replay is where the log goes on.
    let (_, recovery) = Journal::open(dir.path(), small_journal()).unwrap();
    assert_eq!(
        (summary.chain.head(), summary.chain.last_sequence()),
        (recovery.last_hash, recovery.last_sequence)
    );
}

#[test]
fn a_seeded_power_loss_keeps_what_was_acknowledged_as_durable() {
    for seed in 0..30 {
        let disk = MemoryDisk::new();
        let config = MemoryConfig {
            seed,
            append_delay_max: Duration::from_micros(20),
            flush_delay_max: Duration::from_micros(300),
            ..MemoryConfig::default()
        };
        let (log, recovery) = MemoryLog::open(&disk, config).unwrap();
        let handle = start(log, &recovery);
        let mut received = Vec::new();
        for index in 0..200 {
            let (submission, answers) = submission(&[body(index, 20)], Ack::Durable);
            if handle.submit(submission).is_ok() {
                received.push(answers);
            }
            if index == 100 + seed {
                disk.lose_power(seed);
            }
        }
        let acknowledged = received
            .iter()
            .filter_map(|received| answer(received).ok())
            .map(|answer| answer.first_sequence)
            .max();
        drop(handle);
        let (log, recovery) = MemoryLog::open(&disk, MemoryConfig::default()).unwrap();
        assert!(
            recovery.last_sequence >= acknowledged.unwrap_or(0),
            "seed {seed}"
        );
        assert_eq!(
            log.progress().positions().durable_seq,
            recovery.last_sequence
        );
    }
}

#[test]
fn a_sleeping_writer_misses_no_submission() {
    let disk = MemoryDisk::new();
    let (log, recovery) = memory_log(&disk);
    let handle = start(log, &recovery);
    std::thread::scope(|scope| {
        for submitter in 0..4_u64 {
            let handle = &handle;
            scope.spawn(move || {
                // Each waits for its answer, so that the queue is empty and the writer about to sleep time and again.
                for index in 0..2_000 {
                    let received =
                        submit(handle, &[body(submitter << 32 | index, 9)], Ack::Sequenced);
                    answer(&received).unwrap();
                }
            });
        }
    });
    assert_eq!(handle.stop().unwrap().applied.len(), 8_000);
}
