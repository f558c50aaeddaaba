//! What only a shared log has: a topic that is not as it must be, leaders that replace each other, foreign messages, a
//! broker that goes away. Against a real broker (`deploy/kafka/start.sh`, `KARAT_KAFKA`).
#![cfg(feature = "kafka")]
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::kafka::{address, config, is_there};
use common::{Memory, PATIENCE, answer, body, folder, start_with, submit};
use futures::executor::block_on;
use karat_sequencer::log::kafka::{KafkaFaults, KafkaStep};
use karat_sequencer::{
    Ack, Journal, JournalConfig, KafkaCandidate, KafkaConfig, KafkaError, KafkaFollower, KafkaLog,
    KafkaPlace, Log, LogError, ManualClock, ReadError, Recovery, SequencerConfig, SequencerHandle,
    SubmitError, read_blocks, replay,
};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

fn lead(config: &KafkaConfig) -> (SequencerHandle<Memory>, Recovery) {
    let (log, recovery) = KafkaLog::lead(config.clone(), "test", 5_000).unwrap();
    let sequencer = SequencerConfig {
        epoch: recovery.epoch,
        block_bytes_max: 64 << 10,
        ..SequencerConfig::new("test")
    };
    let handle = start_with(sequencer, log, &recovery, ManualClock::new(5_000));
    (handle, recovery)
}

/// Everything that counts, from nothing.
fn history(config: &KafkaConfig) -> (Memory, karat_sequencer::ReplaySummary) {
    let (reader, _) = KafkaLog::read_only(config.clone()).unwrap();
    let mut machine = Memory::default();
    let summary = replay(reader.read(1).unwrap(), 1, &mut machine).unwrap();
    (machine, summary)
}

fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new()
        .set("bootstrap.servers", address())
        .create()
        .unwrap()
}

fn make_topic(name: &str, partitions: i32, settings: &[(&str, &str)]) {
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    for (name, value) in settings {
        topic = topic.set(name, value);
    }
    let made = block_on(admin().create_topics([&topic], &AdminOptions::new())).unwrap();
    made.into_iter().next().unwrap().unwrap();
}

fn delete_topic(name: &str) {
    let gone = block_on(admin().delete_topics(&[name], &AdminOptions::new())).unwrap();
    gone.into_iter().next().unwrap().unwrap();
}

fn foreign_message(config: &KafkaConfig, payload: &[u8]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", address())
        .create()
        .unwrap();
    let record: BaseRecord<'_, (), [u8]> =
        BaseRecord::to(&config.topic).partition(0).payload(payload);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(PATIENCE).unwrap();
}

fn overtaken(error: &SubmitError) -> bool {
    matches!(error, SubmitError::Poisoned { cause } if cause.contains("another leader has taken over"))
}

#[test]
fn the_same_commands_on_journal_and_kafka_give_the_same_state_and_chain() {
    if !is_there() {
        return;
    }
    let config = config("same");
    let dir = folder();
    let (kafka, recovery) = KafkaLog::open(config.clone()).unwrap();
    let on_kafka = start_with(
        SequencerConfig::new("test"),
        kafka,
        &recovery,
        ManualClock::new(5_000),
    );
    let (journal, recovery) = Journal::open(dir.path(), JournalConfig::default()).unwrap();
    let on_journal = start_with(
        SequencerConfig::new("test"),
        journal,
        &recovery,
        ManualClock::new(5_000),
    );
    for handle in [&on_kafka, &on_journal] {
        for index in 0..300 {
            let bodies: Vec<Bytes> = (0..index % 5 + 1)
                .map(|inner| body(index * 10 + inner, 30))
                .collect();
            // One block a submission on both, so that the blocks are the same.
            answer(&submit(handle, &bodies, Ack::Durable)).unwrap();
        }
    }
    let (on_kafka, on_journal) = (on_kafka.stop().unwrap(), on_journal.stop().unwrap());
    assert_eq!(on_kafka, on_journal);
    let (from_topic, summary) = history(&config);
    assert_eq!(from_topic, on_journal);
    let mut from_folder = Memory::default();
    let other = replay(read_blocks(dir.path(), 1).unwrap(), 1, &mut from_folder).unwrap();
    assert_eq!(summary, other);
}

#[test]
fn a_new_leader_replaces_the_old_one_which_releases_nothing_more_and_says_why() {
    if !is_there() {
        return;
    }
    let config = config("replaced");
    let (old, recovery) = lead(&config);
    assert_eq!((recovery.epoch, recovery.last_sequence), (1, 0));
    answer(&submit(&old, &[body(1, 20), body(2, 20)], Ack::Durable)).unwrap();
    let (new, recovery) = lead(&config);
    assert_eq!((recovery.epoch, recovery.last_sequence), (2, 2));
    answer(&submit(&new, &[body(3, 20)], Ack::Durable)).unwrap();
    // The old leader has not noticed yet, or has by looking: either way this is never acknowledged.
    let (submission, received) = common::submission(&[body(99, 20)], Ack::Sequenced);
    let refused = match old.submit(submission) {
        Ok(()) => answer(&received).unwrap_err(),
        Err((error, _)) => error,
    };
    assert!(overtaken(&refused), "{refused}");
    // Its late block changes nothing for the new one.
    let last = answer(&submit(&new, &[body(4, 20)], Ack::Durable)).unwrap();
    assert_eq!(last.first_sequence, 4);
    assert!(new.poisoned().is_none());
    let machine = new.stop().unwrap();
    let (replayed, summary) = history(&config);
    assert_eq!(replayed.applied, machine_after(&[1, 2, 3, 4]));
    assert_eq!(replayed.applied.len(), machine.applied.len() + 2);
    assert_eq!(summary.chain.epoch(), 2);
    drop(old);
}

fn machine_after(bodies: &[u64]) -> Vec<(u64, u64, Bytes)> {
    (1..)
        .zip(bodies)
        .map(|(sequence, index)| (sequence, 5_000, body(*index, 20)))
        .collect()
}

#[test]
fn a_quiet_leader_notices_that_it_was_replaced() {
    if !is_there() {
        return;
    }
    let config = config("quiet");
    let (old, _) = lead(&config);
    let (new, _) = lead(&config);
    let deadline = Instant::now() + PATIENCE;
    while old.poisoned().is_none() {
        assert!(Instant::now() < deadline, "it never noticed");
        std::thread::sleep(Duration::from_millis(20));
    }
    let cause = old.poisoned().unwrap();
    assert!(matches!(cause, LogError::Overtaken { .. }), "{cause}");
    assert!(new.poisoned().is_none());
}

#[test]
fn of_many_that_begin_at_once_every_one_either_leads_or_says_who_does_and_there_is_one_history() {
    if !is_there() {
        return;
    }
    let config = config("at-once");
    let acknowledged = Arc::new(Acknowledged::default());
    let threads: Vec<_> = (0..4_u64)
        .map(|me| {
            let (config, acknowledged) = (config.clone(), Arc::clone(&acknowledged));
            std::thread::spawn(move || {
                let (log, recovery) = match KafkaLog::lead(config, "test", 5_000) {
                    Ok(opened) => opened,
                    Err(KafkaError::Log(LogError::Overtaken { .. })) => return 0,
                    Err(error) => panic!("{error}"),
                };
                let sequencer = SequencerConfig {
                    epoch: recovery.epoch,
                    block_bytes_max: 64 << 10,
                    ..SequencerConfig::new("test")
                };
                let handle = start_with(sequencer, log, &recovery, ManualClock::new(5_000));
                for index in 0..200 {
                    let command = body(me * 1_000 + index, 20);
                    let (submission, received) =
                        common::submission(std::slice::from_ref(&command), Ack::Durable);
                    if handle.submit(submission).is_err() {
                        break;
                    }
                    match answer(&received) {
                        Ok(answer) => acknowledged.add(answer.first_sequence, command),
                        Err(error) => {
                            assert!(overtaken(&error), "{error}");
                            break;
                        }
                    }
                }
                1
            })
        })
        .collect();
    let led: u32 = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .sum();
    assert!(led >= 1);
    let (machine, _) = history(&config);
    for (sequence, command) in acknowledged.take() {
        let (found, _, body) = &machine.applied[sequence as usize - 1];
        assert_eq!((*found, body), (sequence, &command));
    }
}

/// What was acknowledged, over threads.
#[derive(Default)]
struct Acknowledged(Mutex<Vec<(u64, Bytes)>>);

impl Acknowledged {
    fn add(&self, sequence: u64, command: Bytes) {
        self.0.lock().unwrap().push((sequence, command));
    }

    fn take(&self) -> Vec<(u64, Bytes)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

#[test]
fn acknowledgements_that_come_late_release_nothing_early_and_keep_the_order() {
    if !is_there() {
        return;
    }
    let held = Arc::new(AtomicBool::new(true));
    let seen = Arc::new(AtomicU64::new(0));
    let faults: KafkaFaults = {
        let (held, seen) = (Arc::clone(&held), Arc::clone(&seen));
        Arc::new(move |step| {
            if step == KafkaStep::Acknowledged {
                seen.fetch_add(1, Ordering::SeqCst);
                while held.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Ok(())
        })
    };
    let mut config = config("late");
    config.faults = Some(faults);
    let (handle, _) = lead(&config);
    let received: Vec<_> = (0..50)
        .map(|index| submit(&handle, &[body(index, 20)], Ack::Sequenced))
        .collect();
    let deadline = Instant::now() + PATIENCE;
    while seen.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    // The broker has it, the leader has not been told: nobody else is.
    assert!(received.iter().all(|one| one.try_recv().is_err()));
    assert_eq!(handle.positions().appended_seq, 0);
    held.store(false, Ordering::SeqCst);
    for (received, sequence) in received.iter().zip(1..) {
        assert_eq!(answer(received).unwrap().first_sequence, sequence);
    }
    assert_eq!(handle.positions().durable_seq, 50);
}

#[test]
fn messages_of_others_in_the_topic_are_passed_over_by_leader_and_readers_alike() {
    if !is_there() {
        return;
    }
    let config = config("foreign");
    let (handle, _) = lead(&config);
    answer(&submit(&handle, &[body(1, 20)], Ack::Durable)).unwrap();
    foreign_message(&config, b"who put this here?");
    answer(&submit(&handle, &[body(2, 20)], Ack::Durable)).unwrap();
    foreign_message(&config, b"");
    answer(&submit(&handle, &[body(3, 20)], Ack::Durable)).unwrap();
    assert!(handle.poisoned().is_none());
    handle.stop().unwrap();
    let (_, recovery) = KafkaLog::lead(config.clone(), "test", 0).unwrap();
    assert_eq!((recovery.last_sequence, recovery.epoch), (3, 2));
    assert_eq!(history(&config).0.applied, machine_after(&[1, 2, 3]));
}

#[test]
fn a_topic_that_cannot_hold_a_log_is_refused_with_everything_that_differs() {
    if !is_there() {
        return;
    }
    let config = config("wrong");
    make_topic(
        &config.topic,
        2,
        &[
            ("cleanup.policy", "compact"),
            ("max.message.bytes", "1000"),
            ("retention.ms", "60000"),
        ],
    );
    let error = KafkaLog::open(config).err().unwrap().to_string();
    for wanted in [
        "it has 2 partitions",
        "cleanup.policy is compact",
        "retention.ms is 60000",
        "max.message.bytes is 1000, it must be at least",
    ] {
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
}

#[test]
fn a_block_that_the_broker_takes_no_more_ends_the_leader_and_the_topic_is_refused_until_it_is_changed()
 {
    if !is_there() {
        return;
    }
    let config = config("too-large");
    let bytes_max = |bytes: &str| {
        let change = AlterConfig::new(ResourceSpecifier::Topic(&config.topic))
            .set("cleanup.policy", "delete")
            .set("retention.ms", "-1")
            .set("retention.bytes", "-1")
            .set("max.message.bytes", bytes);
        let changed = block_on(admin().alter_configs([&change], &AdminOptions::new())).unwrap();
        changed.into_iter().next().unwrap().unwrap();
    };
    let (handle, _) = lead(&config);
    answer(&submit(&handle, &[body(1, 20)], Ack::Durable)).unwrap();
    bytes_max("1000");
    // The broker knows of the change a moment later; until then it takes blocks.
    let deadline = Instant::now() + PATIENCE;
    let mut taken = vec![body(1, 20)];
    let error = loop {
        assert!(Instant::now() < deadline, "the broker takes everything");
        let large = body(taken.len() as u64 + 1, 5000);
        match answer(&submit(&handle, std::slice::from_ref(&large), Ack::Durable)) {
            Ok(_) => taken.push(large),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.to_lowercase().contains("too large"), "{error}");
    assert!(error.contains("settled by reading"), "{error}");
    drop(handle);
    let error = KafkaLog::open(config.clone()).err().unwrap().to_string();
    assert!(error.contains("max.message.bytes is 1000"), "{error}");
    bytes_max("20000000");
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = KafkaLog::read_only(config.clone()) {
        assert!(Instant::now() < deadline, "{error}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (handle, recovery) = lead(&config);
    assert_eq!(recovery.last_sequence, taken.len() as u64);
    answer(&submit(&handle, &[body(0, 5000)], Ack::Durable)).unwrap();
    handle.stop().unwrap();
    let bodies = history(&config).0.applied.into_iter().map(|one| one.2);
    taken.push(body(0, 5000));
    assert_eq!(bodies.collect::<Vec<_>>(), taken);
}

#[test]
fn a_topic_of_another_realm_is_refused() {
    if !is_there() {
        return;
    }
    let config = config("realm");
    drop(lead(&config));
    let error = KafkaLog::lead(config, "other", 0).err().unwrap();
    assert!(matches!(error, KafkaError::Realm { .. }), "{error}");
}

#[test]
fn brokers_that_do_not_answer_are_waited_for_and_then_named() {
    if !is_there() {
        return;
    }
    let mut config = config("nobody");
    // Port 1 of this machine: nobody listens there.
    config.brokers = "127.0.0.1:1".to_owned();
    config.open_wait_max = Duration::from_millis(500);
    let error = KafkaLog::open(config).err().unwrap();
    assert!(
        matches!(error, KafkaError::Unreachable { waited_ms: 500, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

#[test]
fn a_property_that_the_client_does_not_know_is_named() {
    if !is_there() {
        return;
    }
    let mut config = config("property");
    config
        .properties
        .insert("no.such.thing".to_owned(), "1".to_owned());
    let error = KafkaLog::open(config).err().unwrap().to_string();
    assert!(error.contains("no.such.thing"), "{error}");
}

#[test]
fn a_head_that_retention_took_is_said_and_the_rest_can_be_read() {
    if !is_there() {
        return;
    }
    let config = config("cut");
    let (handle, _) = lead(&config);
    for index in 1..=5 {
        answer(&submit(&handle, &[body(index, 20)], Ack::Durable)).unwrap();
    }
    handle.stop().unwrap();
    // Offsets 0 to 3: the marker and the first three blocks.
    let mut cut = rdkafka::TopicPartitionList::new();
    cut.add_partition_offset(&config.topic, 0, rdkafka::Offset::Offset(4))
        .unwrap();
    block_on(admin().delete_records(&cut, &AdminOptions::new())).unwrap();
    let (reader, recovery) = KafkaLog::read_only(config.clone()).unwrap();
    assert_eq!(recovery.last_sequence, 5);
    let error = reader.read(1).err().unwrap();
    assert!(
        matches!(error, ReadError::Gone { asked: 1, first: 4 }),
        "{error}"
    );
    assert_eq!(reader.read(4).unwrap().count(), 2);
}

#[test]
fn a_log_of_which_nothing_is_left_is_not_begun_anew_and_its_leader_goes_on() {
    if !is_there() {
        return;
    }
    let config = config("emptied");
    let (handle, _) = lead(&config);
    answer(&submit(&handle, &[body(1, 20)], Ack::Durable)).unwrap();
    // Offsets 0 and 1: the marker and the block.
    let mut cut = rdkafka::TopicPartitionList::new();
    cut.add_partition_offset(&config.topic, 0, rdkafka::Offset::Offset(2))
        .unwrap();
    block_on(admin().delete_records(&cut, &AdminOptions::new())).unwrap();
    let leading = KafkaLog::lead(config.clone(), "test", 0).err().unwrap();
    let following = KafkaFollower::open(config.clone(), "test").err().unwrap();
    for refused in [leading, following] {
        assert!(
            matches!(refused, KafkaError::Emptied { offset: 2, .. }),
            "{refused}"
        );
    }
    // The next block shows where the realm stands; who has the state before it may lead.
    answer(&submit(&handle, &[body(2, 20)], Ack::Durable)).unwrap();
    handle.stop().unwrap();
    let candidate = KafkaCandidate::open(config, None, "test").unwrap();
    assert_eq!(candidate.recovery().last_sequence, 2);
    let gone = candidate.reader().read(1).err().unwrap();
    assert!(
        matches!(gone, ReadError::Gone { asked: 1, first: 2 }),
        "{gone}"
    );
    let (_, recovery) = candidate.lead(0).unwrap();
    assert_eq!((recovery.last_sequence, recovery.epoch), (2, 2));
}

#[test]
fn a_topic_made_again_under_a_leader_ends_it_and_nothing_is_acknowledged_into_it() {
    if !is_there() {
        return;
    }
    let config = config("made-again");
    let (handle, _) = lead(&config);
    answer(&submit(&handle, &[body(1, 20), body(2, 20)], Ack::Durable)).unwrap();
    delete_topic(&config.topic);
    make_topic(
        &config.topic,
        1,
        &[("retention.ms", "-1"), ("retention.bytes", "-1")],
    );
    let deadline = Instant::now() + PATIENCE;
    while handle.poisoned().is_none() {
        assert!(Instant::now() < deadline, "it never noticed");
        let (submission, received) = common::submission(&[body(3, 20)], Ack::Durable);
        if handle.submit(submission).is_ok() {
            assert!(answer(&received).is_err());
        }
    }
}

#[test]
fn who_knows_a_place_reads_only_what_lies_behind_it_and_leads_the_same_log() {
    if !is_there() {
        return;
    }
    let config = config("place");
    let (first, _) = lead(&config);
    for index in 0..20 {
        answer(&submit(&first, &[body(index, 20)], Ack::Durable)).unwrap();
    }
    first.stop().unwrap();
    let (second, _) = lead(&config);
    foreign_message(&config, b"foreign");
    for index in 20..30 {
        answer(&submit(&second, &[body(index, 20)], Ack::Durable)).unwrap();
    }
    second.stop().unwrap();

    // One place from the head, the next from there; none inside a block or behind the end.
    let tenth = KafkaPlace::find(config.clone(), None, 10).unwrap().unwrap();
    let place = KafkaPlace::find(config.clone(), Some(&tenth), 25).unwrap();
    let place = place.unwrap();
    assert_eq!(
        KafkaPlace::find(config.clone(), None, 25).unwrap(),
        Some(place.clone())
    );
    assert_eq!((tenth.epoch, place.epoch, place.sequence), (1, 2, 25));
    assert_eq!(
        KafkaPlace::find(config.clone(), Some(&place), 31).unwrap(),
        None
    );

    let (log, recovery) = KafkaLog::lead_from(config.clone(), Some(&place), "test", 5_000).unwrap();
    // Five blocks and the marker.
    assert_eq!(
        (recovery.blocks, recovery.last_sequence, recovery.epoch),
        (6, 30, 3)
    );
    let reader = log.reader();
    let behind: Vec<u64> = reader
        .read(26)
        .unwrap()
        .map(|block| block.unwrap())
        .filter(|block| !block.is_epoch_marker())
        .map(|block| block.header.first_sequence)
        .collect();
    assert_eq!(behind, [26, 27, 28, 29, 30]);
    assert_eq!(
        reader.read(1).unwrap().filter(|one| one.is_ok()).count(),
        33
    );
    let sequencer = SequencerConfig {
        epoch: recovery.epoch,
        ..SequencerConfig::new("test")
    };
    let third = start_with(sequencer, log, &recovery, ManualClock::new(5_000));
    answer(&submit(&third, &[body(30, 20)], Ack::Durable)).unwrap();
    third.stop().unwrap();
    assert_eq!(history(&config).1.commands, 31);

    // A place of another log, and one behind the end, are refused before anything is written.
    let other = common::kafka::config("other-place");
    let (short, _) = lead(&other);
    answer(&submit(&short, &[body(1, 20)], Ack::Durable)).unwrap();
    short.stop().unwrap();
    let elsewhere = KafkaPlace {
        block_offset: 1,
        ..place.clone()
    };
    for wrong in [&elsewhere, &place] {
        let refused = KafkaLog::lead_from(other.clone(), Some(wrong), "test", 5_000);
        assert!(matches!(refused.err(), Some(KafkaError::Place { .. })));
    }
    assert_eq!(history(&other).1.markers, 1);
}
