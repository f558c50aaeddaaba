//! Following a log on a real broker, and leading it (`deploy/kafka/start.sh`, `KARAT_KAFKA`).
#![cfg(feature = "kafka")]
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::kafka::{config, is_there};
use common::{Memory, PATIENCE, answer, body, start_with, submit};
use karat_sequencer::{
    Ack, Applier, Followed, KafkaConfig, KafkaFollower, KafkaLog, LogError, ManualClock, Sequencer,
    SequencerConfig, SequencerHandle, replay,
};

fn sequencer_config(epoch: u64) -> SequencerConfig {
    SequencerConfig {
        epoch,
        block_bytes_max: 64 << 10,
        ..SequencerConfig::new("test")
    }
}

fn lead(config: &KafkaConfig) -> SequencerHandle<Memory> {
    let (log, recovery) = KafkaLog::lead(config.clone(), "test", 5_000).unwrap();
    let sequencer = sequencer_config(recovery.epoch);
    start_with(sequencer, log, &recovery, ManualClock::new(5_000))
}

/// A follower, and the machine that has applied what it read.
struct Standby {
    follower: KafkaFollower,
    machine: Memory,
    applier: Applier<Memory>,
}

impl Standby {
    fn open(config: &KafkaConfig) -> Standby {
        let follower = KafkaFollower::open(config.clone(), "test").unwrap();
        let mut machine = Memory::default();
        replay(follower.opened_reader().read(1).unwrap(), 1, &mut machine).unwrap();
        Standby {
            follower,
            machine,
            applier: Applier::new(),
        }
    }

    /// Follows until something of this kind comes, and gives it back.
    fn until(&mut self, wanted: impl Fn(&Followed) -> bool) -> Followed {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let came = self.follower.next(Duration::from_millis(50)).unwrap();
            if let Some(Followed::Block { block, hash }) = &came {
                self.applier.apply(&mut self.machine, block, hash).unwrap();
            }
            match came {
                Some(came) if wanted(&came) => return came,
                _ => assert!(Instant::now() < deadline, "it never came"),
            }
        }
    }

    fn until_sequence(&mut self, sequence: u64) {
        self.until(|came| matches!(came, Followed::Block { block, .. } if block.last_sequence() == sequence));
    }

    /// Leads with what it has applied.
    fn lead(self) -> SequencerHandle<Memory> {
        let (log, recovery) = self.follower.into_log();
        let clock = Box::new(ManualClock::new(5_000));
        let sequencer = sequencer_config(recovery.epoch);
        Sequencer::start(sequencer, Box::new(log), &recovery, self.machine, clock).unwrap()
    }
}

fn until_overtaken(handle: &SequencerHandle<Memory>) {
    let deadline = Instant::now() + PATIENCE;
    while handle.poisoned().is_none() {
        assert!(Instant::now() < deadline, "it never noticed");
        std::thread::sleep(Duration::from_millis(20));
    }
    let cause = handle.poisoned().unwrap();
    assert!(matches!(cause, LogError::Overtaken { .. }), "{cause}");
}

#[test]
fn a_follower_applies_what_counts_and_leads_with_it_once_its_bid_is_read() {
    if !is_there() {
        return;
    }
    let config = config("followed");
    let first = lead(&config);
    answer(&submit(&first, &[body(1, 20), body(2, 20)], Ack::Durable)).unwrap();
    let mut standby = Standby::open(&config);
    assert_eq!(standby.follower.recovery().last_sequence, 2);
    assert_eq!(standby.machine.applied.len(), 2);
    answer(&submit(&first, &[body(3, 20)], Ack::Durable)).unwrap();
    standby.until_sequence(3);

    // Another leader, and a late block of the one before.
    let second = lead(&config);
    let epoch_2 = |came: &Followed| matches!(came, Followed::NewLeader { epoch: 2 });
    standby.until(epoch_2);
    let (late, _refused) = common::submission(&[body(99, 20)], Ack::Durable);
    // It may have noticed by itself before.
    let _ = first.submit(late);
    until_overtaken(&first);
    answer(&submit(&second, &[body(4, 20)], Ack::Durable)).unwrap();
    standby.until_sequence(4);

    // What is in the log before the bid belongs to the next leader's state, read or not.
    answer(&submit(&second, &[body(5, 20)], Ack::Durable)).unwrap();
    standby.follower.bid("test", 5_000).unwrap();
    standby.until(|came| matches!(came, Followed::Elected));
    let third = standby.lead();
    assert_eq!(third.epoch(), 3);
    let last = answer(&submit(&third, &[body(6, 20)], Ack::Durable)).unwrap();
    assert_eq!(last.first_sequence, 6);
    until_overtaken(&second);
    let machine = third.stop().unwrap();

    let (reader, _) = KafkaLog::read_only(config.clone()).unwrap();
    let mut replayed = Memory::default();
    replay(reader.read(1).unwrap(), 1, &mut replayed).unwrap();
    assert_eq!(replayed, machine);
    let bodies: Vec<_> = replayed
        .applied
        .into_iter()
        .map(|(.., body)| body)
        .collect();
    assert_eq!(
        bodies,
        (1..=6).map(|index| body(index, 20)).collect::<Vec<_>>()
    );
}

#[test]
fn of_two_bids_one_is_elected_and_the_other_one_goes_on_following() {
    if !is_there() {
        return;
    }
    let config = config("bids");
    // Nobody has led yet.
    let mut standbys = [Standby::open(&config), Standby::open(&config)];
    for standby in &standbys {
        assert!(standby.follower.is_at_end(PATIENCE).unwrap());
    }
    for standby in &mut standbys {
        standby.follower.bid("test", 5_000).unwrap();
    }
    let ended = standbys.each_mut().map(|standby| {
        let ends = |came: &Followed| matches!(came, Followed::Elected | Followed::Outbid);
        matches!(standby.until(ends), Followed::Elected)
    });
    assert_eq!(ended, [true, false]);
    let [elected, mut outbid] = standbys;
    let leader = elected.lead();
    answer(&submit(&leader, &[body(1, 20)], Ack::Durable)).unwrap();
    outbid.until_sequence(1);
    // And its next bid replaces the one that was elected.
    outbid.follower.bid("test", 5_000).unwrap();
    outbid.until(|came| matches!(came, Followed::Elected));
    let next = outbid.lead();
    answer(&submit(&next, &[body(2, 20)], Ack::Durable)).unwrap();
    until_overtaken(&leader);
    assert_eq!(next.stop().unwrap().applied.len(), 2);
}
