//! Submitters that write in the place of the realm's thread.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::Duration;

use common::{Memory, answer, body, start, start_with, submission, submit};
use karat_sequencer::{
    Ack, ManualClock, MemoryConfig, MemoryDisk, MemoryLog, Recovery, SequencerConfig,
    SequencerHandle, SubmitError,
};

fn log(disk: &MemoryDisk) -> (MemoryLog, Recovery) {
    MemoryLog::open(disk, MemoryConfig::default()).unwrap()
}

/// Submits without waking the realm's thread.
fn put(handle: &SequencerHandle<Memory>, index: u64, ack: Ack) -> common::Received {
    let (submission, received) = submission(&[body(index, 20)], ack);
    handle
        .submit_to_work_off(submission)
        .map_err(|(error, _)| error)
        .unwrap();
    received
}

#[test]
fn what_is_put_together_goes_into_one_block_on_the_submitters_own_thread() {
    let disk = MemoryDisk::new();
    let (log, recovery) = log(&disk);
    let handle = start(log, &recovery);
    let (sender, answered_on) = mpsc::channel();
    for index in 0..5 {
        let (mut submission, _) = submission(&[body(index, 20)], Ack::Sequenced);
        let sender = sender.clone();
        submission.reply = Box::new(move |answer| {
            let _ = sender.send((thread::current().id(), answer.unwrap().first_sequence));
        });
        handle
            .submit_to_work_off(submission)
            .map_err(|(error, _)| error)
            .unwrap();
    }
    handle.work_off();
    let answers: Vec<_> = answered_on.try_iter().collect();
    let here = thread::current().id();
    assert_eq!(
        answers,
        (1..=5).map(|sequence| (here, sequence)).collect::<Vec<_>>()
    );
    // With nothing to do it does nothing.
    handle.work_off();
    let machine = handle.stop().unwrap();
    assert_eq!((machine.applied.len(), machine.hashes.len()), (5, 1));
}

#[test]
fn many_submitters_of_both_sorts_are_each_answered_once_in_one_order() {
    const EACH: u64 = 400;
    for round in 0..5 {
        let disk = MemoryDisk::new();
        let config = MemoryConfig {
            seed: round,
            flush_delay_max: Duration::from_micros(100),
            ..MemoryConfig::default()
        };
        let (log, recovery) = MemoryLog::open(&disk, config).unwrap();
        let small = SequencerConfig {
            block_commands_max: 3,
            ..SequencerConfig::new("test")
        };
        let handle = start_with(small, log, &recovery, ManualClock::new(1));
        let begin = Arc::new(Barrier::new(4));
        let submitters: Vec<_> = (0..4)
            .map(|number| {
                let (handle, begin) = (handle.clone(), begin.clone());
                thread::spawn(move || {
                    begin.wait();
                    let mut received = Vec::new();
                    for index in 0..EACH {
                        let ack = match index % 3 {
                            0 => Ack::Durable,
                            _ => Ack::Sequenced,
                        };
                        if number == 0 {
                            received.push(submit(&handle, &[body(index, 20)], ack));
                            continue;
                        }
                        received.push(put(&handle, index, ack));
                        // Some by themselves, some together.
                        if index % number == 0 {
                            handle.work_off();
                        }
                    }
                    handle.work_off();
                    received
                        .iter()
                        .map(|received| answer(received).unwrap().first_sequence)
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let mut sequences = Vec::new();
        for submitter in submitters {
            let own = submitter.join().unwrap();
            assert!(own.is_sorted(), "a submitter's commands keep their order");
            sequences.extend(own);
        }
        sequences.sort_unstable();
        assert_eq!(sequences, (1..=4 * EACH).collect::<Vec<_>>());
        let machine = handle.stop().unwrap();
        let applied: Vec<u64> = machine
            .applied
            .iter()
            .map(|(sequence, ..)| *sequence)
            .collect();
        assert_eq!(applied, sequences);
    }
}

#[test]
fn whoever_finds_the_place_taken_need_not_come_again() {
    let disk = MemoryDisk::new();
    let (log, recovery) = log(&disk);
    let handle = start(log, &recovery);
    let (entered, has_entered) = mpsc::channel();
    let (leave, may_leave) = mpsc::channel::<()>();
    let (mut first, _) = submission(&[body(1, 20)], Ack::Sequenced);
    first.reply = Box::new(move |_| {
        entered.send(()).unwrap();
        may_leave.recv().unwrap();
    });
    handle
        .submit_to_work_off(first)
        .map_err(|(error, _)| error)
        .unwrap();
    let other = {
        let handle = handle.clone();
        thread::spawn(move || handle.work_off())
    };
    has_entered.recv().unwrap();
    let second = put(&handle, 2, Ack::Sequenced);
    // The other thread is in the first one's reply: this returns at once.
    handle.work_off();
    leave.send(()).unwrap();
    assert_eq!(answer(&second).unwrap().first_sequence, 2);
    other.join().unwrap();
    handle.stop().unwrap();
}

#[test]
fn without_room_the_rest_is_left_to_the_realms_thread() {
    let disk = MemoryDisk::new();
    let (log, recovery) = log(&disk);
    let narrow = SequencerConfig {
        unflushed_commands_max: 2,
        ..SequencerConfig::new("test")
    };
    let handle = start_with(narrow, log, &recovery, ManualClock::new(1));
    disk.hold_flush();
    let mut received = Vec::new();
    for index in 0..6 {
        received.push(put(&handle, index, Ack::Sequenced));
        // Never waits for the flush that is held.
        handle.work_off();
    }
    disk.release_flush();
    for (received, sequence) in received.iter().zip(1..) {
        assert_eq!(answer(received).unwrap().first_sequence, sequence);
    }
    assert_eq!(handle.stop().unwrap().applied.len(), 6);
}

#[test]
fn a_panic_while_a_submitter_writes_answers_all_and_spares_the_submitter() {
    let disk = MemoryDisk::new();
    let (log, recovery) = log(&disk);
    let handle = start(log, &recovery);
    let good = put(&handle, 1, Ack::Sequenced);
    handle.work_off();
    assert_eq!(answer(&good).unwrap().first_sequence, 1);
    let (bad, received) = submission(&[bytes::Bytes::from_static(b"panic")], Ack::Sequenced);
    handle
        .submit_to_work_off(bad)
        .map_err(|(error, _)| error)
        .unwrap();
    let behind = put(&handle, 2, Ack::Durable);
    handle.work_off();
    for received in [received, behind] {
        let error = answer(&received).unwrap_err();
        assert!(matches!(error, SubmitError::Poisoned { .. }), "{error}");
    }
    assert!(handle.poisoned().is_some());
    handle.stop().unwrap_err();
}

#[test]
fn stopping_answers_what_nobody_has_worked_off() {
    let disk = MemoryDisk::new();
    let (log, recovery) = log(&disk);
    let handle = start(log, &recovery);
    let received: Vec<_> = (0..9)
        .map(|index| put(&handle, index, Ack::Durable))
        .collect();
    let other = handle.clone();
    let machine = handle.stop().unwrap();
    assert_eq!(machine.applied.len(), 9);
    for received in &received {
        answer(received).unwrap();
    }
    // After the stop there is nothing to work off.
    other.work_off();
}

#[test]
fn stopping_while_others_work_off_loses_no_answer() {
    for _ in 0..20 {
        let disk = MemoryDisk::new();
        let (log, recovery) = log(&disk);
        let handle = start(log, &recovery);
        let accepted = Arc::new(AtomicUsize::new(0));
        let submitters: Vec<_> = (0..3)
            .map(|number| {
                let (handle, accepted) = (handle.clone(), accepted.clone());
                thread::spawn(move || {
                    let mut received = Vec::new();
                    loop {
                        let (submission, answers) = submission(&[body(number, 20)], Ack::Sequenced);
                        match handle.submit_to_work_off(submission) {
                            Ok(()) => {
                                received.push(answers);
                                accepted.fetch_add(1, Ordering::SeqCst);
                            }
                            Err((SubmitError::Overloaded { .. }, _)) => thread::yield_now(),
                            Err(_) => return received,
                        }
                        handle.work_off();
                    }
                })
            })
            .collect();
        while accepted.load(Ordering::SeqCst) < 30 {
            thread::yield_now();
        }
        let machine = handle.stop().unwrap();
        let mut count = 0;
        for submitter in submitters {
            for received in submitter.join().unwrap() {
                answer(&received).unwrap();
                count += 1;
            }
        }
        assert_eq!(machine.applied.len(), count);
    }
}
