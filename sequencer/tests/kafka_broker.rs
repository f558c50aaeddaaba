//! A broker that is restarted, killed and cut off under a leader. Each test starts a broker of its own with
//! `deploy/kafka/start.sh`; on a machine without Java or Maven they say that they were skipped.
#![cfg(feature = "kafka")]
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[allow(dead_code)] // Each test file uses its own part.
#[path = "common/own_broker.rs"]
mod own_broker;

use std::time::Duration;

use common::leader::{Leader, check_history, run_if_asked};
use common::{answer, body, start_with, submission, submit};
use karat_sequencer::{Ack, KafkaConfig, KafkaLog, ManualClock, SequencerConfig, SubmitError};
use own_broker::Broker;

/// Not a test by itself: a leader's process runs it.
#[test]
fn child() {
    run_if_asked();
}

/// How long the broker is away; `KARAT_TEST_PAUSE_S` names another time.
fn pause() -> Duration {
    let named = std::env::var("KARAT_TEST_PAUSE_S").ok();
    Duration::from_secs(named.and_then(|text| text.parse().ok()).unwrap_or(8))
}

fn config(broker: &Broker) -> KafkaConfig {
    KafkaConfig::new(broker.address(), "karat.test.log")
}

#[test]
fn a_leader_goes_on_by_itself_when_its_broker_is_restarted_or_killed() {
    let Some(broker) = Broker::start() else {
        return;
    };
    let config = config(&broker);
    let leader = Leader::start(&config);
    leader.wait_acknowledged(200);
    broker.restart(&[]);
    leader.wait_acknowledged(200);
    broker.restart(&["--now"]);
    leader.wait_acknowledged(200);
    check_history(&config, vec![leader]);
}

#[test]
fn while_the_broker_is_cut_off_nothing_accepted_is_lost_and_the_rest_is_refused_with_a_time_to_wait()
 {
    let Some(broker) = Broker::start() else {
        return;
    };
    let config = KafkaConfig {
        block_bytes_max: 64 << 10,
        ..config(&broker)
    };
    let (log, recovery) = KafkaLog::lead(config.clone(), "test", 0).unwrap();
    let sequencer = SequencerConfig {
        epoch: recovery.epoch,
        block_bytes_max: 32 << 10,
        block_commands_max: 100,
        queue_commands_max: 500,
        unflushed_commands_max: 500,
        ..SequencerConfig::new("test")
    };
    let handle = start_with(sequencer, log, &recovery, ManualClock::new(5_000));
    answer(&submit(&handle, &[body(0, 20)], Ack::Durable)).unwrap();
    broker.signal("STOP");
    let mut accepted = Vec::new();
    let refused = loop {
        let (one, received) = submission(&[body(accepted.len() as u64, 20)], Ack::Durable);
        match handle.submit(one) {
            Ok(()) => accepted.push(received),
            Err((error, _)) => break error,
        }
        assert!(accepted.len() < 10_000, "nothing bounds what waits");
        std::thread::sleep(Duration::from_micros(100));
    };
    assert!(
        matches!(refused, SubmitError::Overloaded { retry_after_ms } if retry_after_ms >= 1),
        "{refused}"
    );
    std::thread::sleep(pause());
    assert!(accepted.iter().all(|received| received.try_recv().is_err()));
    broker.signal("CONT");
    for (received, sequence) in accepted.iter().zip(2..) {
        assert_eq!(answer(received).unwrap().first_sequence, sequence);
    }
    handle.stop().unwrap();
}

#[test]
fn a_block_that_is_not_acknowledged_in_time_ends_the_leader_and_the_next_one_reads_what_became_of_it()
 {
    let Some(broker) = Broker::start() else {
        return;
    };
    let mut config = config(&broker);
    config.acknowledge_wait_max = Duration::from_millis(500);
    let lead = |config: &KafkaConfig| {
        let (log, recovery) = KafkaLog::lead(config.clone(), "test", 0).unwrap();
        let sequencer = SequencerConfig {
            epoch: recovery.epoch,
            ..SequencerConfig::new("test")
        };
        let handle = start_with(sequencer, log, &recovery, ManualClock::new(5_000));
        (handle, recovery)
    };
    let (handle, _) = lead(&config);
    // The first one may be slow on a busy machine; it is not what is looked at.
    config.acknowledge_wait_max = Duration::from_secs(300);
    let first = answer(&submit(&handle, &[body(1, 20)], Ack::Durable));
    broker.signal("STOP");
    let told = match first {
        Ok(_) => answer(&submit(&handle, &[body(2, 20)], Ack::Durable)),
        late => late,
    };
    let error = told.unwrap_err().to_string();
    assert!(error.contains("settled by reading it"), "{error}");
    broker.signal("CONT");
    let (handle, recovery) = lead(&config);
    // Perhaps it is there and perhaps it is not: the log says which, and goes on behind it.
    assert!((0..=2).contains(&recovery.last_sequence));
    let next = answer(&submit(&handle, &[body(3, 20)], Ack::Durable)).unwrap();
    assert_eq!(next.first_sequence, recovery.last_sequence + 1);
    handle.stop().unwrap();
}

#[test]
fn a_leader_whose_producer_id_the_broker_has_forgotten_goes_on_with_one_history() {
    // A producer that is quiet for a moment is forgotten; a broker of the usual settings does so after a day.
    let properties =
        "producer.id.expiration.ms=500\nproducer.id.expiration.check.interval.ms=100\n";
    let Some(broker) = Broker::start_with(properties) else {
        return;
    };
    let config = config(&broker);
    let (log, recovery) = KafkaLog::lead(config.clone(), "test", 0).unwrap();
    let sequencer = SequencerConfig {
        epoch: recovery.epoch,
        ..SequencerConfig::new("test")
    };
    let handle = start_with(sequencer, log, &recovery, ManualClock::new(5_000));
    for sequence in 1..=5 {
        let told = answer(&submit(&handle, &[body(sequence, 20)], Ack::Durable)).unwrap();
        assert_eq!(told.first_sequence, sequence);
        // Long enough on most machines; where it is not, this is an ordinary run.
        std::thread::sleep(Duration::from_secs(2));
    }
    handle.stop().unwrap();
    let (_, recovery) = KafkaLog::lead(config, "test", 0).unwrap();
    assert_eq!((recovery.last_sequence, recovery.epoch), (5, 2));
}
