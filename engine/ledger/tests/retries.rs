//! Retry safety: what an id that was seen answers, how long it is remembered, and what happens when memory is full.

mod common;

use common::*;
use karat_ledger::Ledger;
use karat_proto::Code;
use karat_proto::command::*;

#[test]
fn a_retry_gets_the_first_outcome_and_changes_nothing() {
    let mut world = world();
    let command = world.command(BOB, transfer(ACTIVE, 1, CAROL));
    let first = world.apply(&command);
    let asset = world.ledger.asset(ACTIVE);
    world.accept(CAROL, transfer(ACTIVE, 1, DAVE));
    let later = world.ledger.asset(ACTIVE);
    let again = world.apply(&command);
    assert!(world.events.is_empty());
    assert_eq!((again.code, again.sequence), (first.code, first.sequence));
    assert!(again.replayed && !first.replayed);
    assert_eq!(world.ledger.asset(ACTIVE), later);
    assert_ne!(asset, later);
    assert_eq!(world.ledger.counts().replayed, 1);
    assert_eq!(
        world.send(DAVE, transfer(ACTIVE, 1, BOB)).sequence,
        first.sequence + 3,
        "the retry took a sequence of the log"
    );
}

#[test]
fn a_refusal_is_remembered_with_its_winner() {
    let mut world = world();
    world.accept(CAROL, claim(UNOWNED, 1));
    let command = world.command(DAVE, claim(UNOWNED, 1));
    let first = world.apply(&command);
    assert_eq!(first.code, Code::AlreadyOwned);
    assert!(first.winner.is_some());
    let again = world.apply(&command);
    assert_eq!(
        (again.code, again.winner, again.subject, again.replayed),
        (first.code, first.winner, first.subject, true)
    );
}

#[test]
fn outcomes_that_are_remembered_are_told_newest_first_as_they_were_given() {
    let mut world = world();
    let accepted = world.command(BOB, transfer(ACTIVE, 1, CAROL));
    let first = world.apply(&accepted);
    world.accept(CAROL, claim(UNOWNED, 1));
    let refused = world.command(DAVE, claim(UNOWNED, 1));
    let last = world.apply(&refused);
    assert!(last.winner.is_some());
    // A retry is answered, and is no outcome of its own.
    world.apply(&accepted);
    let told: Vec<_> = world.ledger.newest_outcomes().collect();
    assert_eq!(told[0], (refused.id, refused.body_hash, last));
    assert_eq!(told[2], (accepted.id, accepted.body_hash, first));
    assert_eq!(told.len() as u64, world.ledger.counts().retry_entries);
    assert!(
        told.windows(2)
            .all(|pair| pair[0].2.sequence > pair[1].2.sequence)
    );
}

#[test]
fn an_id_under_another_body_is_refused_and_the_first_stays() {
    let mut world = world();
    let command = world.command(BOB, transfer(ACTIVE, 1, CAROL));
    world.apply(&command);
    let other = Command {
        body_hash: [0; 16],
        ..command.clone()
    };
    let refused = world.apply(&other);
    assert_eq!(refused.code, Code::IdReused);
    assert_eq!(refused.sequence, world.ledger.applied_seq());
    assert!(world.events.is_empty() && !refused.replayed);
    assert!(world.apply(&command).replayed);
}

#[test]
fn a_retry_is_answered_while_the_realm_is_paused() {
    let mut world = world();
    let command = world.command(BOB, transfer(ACTIVE, 1, CAROL));
    world.apply(&command);
    world.accept(OPERATOR, CommandKind::Pause { paused: true });
    let again = world.apply(&command);
    assert_eq!((again.code, again.replayed), (Code::Accepted, true));
}

#[test]
fn an_id_is_forgotten_when_it_is_old_and_settled_and_not_before() {
    let policy = Policy {
        retry_window_commands: 10,
        ..policy()
    };
    let mut world = World::with_policy(policy);
    let digest = GENERATOR;
    let (name, role) = ("model".into(), ModelRole::Generator);
    world.accept(OPERATOR, register_model(digest, name, role));
    world.accept(OPERATOR, CommandKind::PromoteModel { digest });
    world.accept(CREATOR, create(free(ClaimRule::First)));
    let command = world.command(CREATOR, mint(1, BOB, &[0, 0]));
    let first = world.apply(&command);
    let unsettled = world.ledger.applied_seq() - 1;
    assert_eq!(world.ledger.settled_seq(), unsettled);
    for _ in 0..30 {
        world.tick(1500);
    }
    assert!(world.apply(&command).replayed, "old, but not settled");
    assert_eq!(world.ledger.settled_seq(), unsettled);
    world.tick(5000);
    world.settle();
    assert_eq!(world.ledger.settled_seq(), world.ledger.applied_seq());
    for _ in 0..20 {
        world.tick(5000);
    }
    assert_eq!(world.ledger.counts().retry_entries, 11);
    let anew = world.apply(&command);
    assert_eq!((anew.code, anew.replayed), (Code::Accepted, false));
    assert_ne!(anew.subject, first.subject);
}

#[test]
fn a_realm_with_nothing_to_settle_forgets_by_age_alone() {
    let policy = Policy {
        retry_window_commands: 100,
        ..policy()
    };
    let mut world = World::with_policy(policy);
    for _ in 0..500 {
        world.tick(1000);
    }
    let counts = world.ledger.counts();
    assert_eq!(counts.retry_entries, 101);
    assert_eq!(world.ledger.settled_seq(), world.ledger.applied_seq());
}

#[test]
fn ids_are_remembered_in_their_order_and_forgotten_from_the_oldest_on_over_many_chunks() {
    const WINDOW: u64 = 5000;
    let mut world = World::with_policy(Policy {
        retry_window_commands: WINDOW,
        ..policy()
    });
    let tick = CommandKind::Tick { base_fee_wei: 0 };
    for _ in 0..5 * WINDOW {
        assert_eq!(world.send_unchecked(OPERATOR, tick.clone()), Code::Accepted);
    }
    let told: Vec<u64> = world
        .ledger
        .newest_outcomes()
        .map(|(_, _, outcome)| outcome.sequence)
        .collect();
    let last = world.ledger.applied_seq();
    assert_eq!(told, (last - WINDOW..=last).rev().collect::<Vec<_>>());

    let mut bytes = Vec::new();
    world.ledger.write_snapshot(&mut bytes).unwrap();
    let restored = Ledger::read_snapshot(&mut bytes.as_slice()).unwrap();
    assert_eq!(restored.state_digest(), world.ledger.state_digest());
    for ledger in [world.ledger.clone(), restored] {
        let mut world = World {
            ledger,
            ..world.clone()
        };
        // Now the window begins one sequence later.
        world.tick(world.time_ms);
        // Ids are numbered as sequences are.
        for (sequence, remembered) in [(last - WINDOW + 1, true), (last - WINDOW, false)] {
            world.next_id = sequence;
            let outcome = world.tick(world.time_ms);
            assert_eq!(outcome.replayed, remembered, "{sequence} after {last}");
        }
    }
}

#[test]
fn a_memory_that_empties_after_every_command_goes_on_remembering() {
    let mut world = World::with_policy(Policy {
        retry_window_commands: 0,
        ..policy()
    });
    for _ in 0..10_000 {
        world.send_unchecked(OPERATOR, CommandKind::Tick { base_fee_wei: 0 });
        assert_eq!(world.ledger.counts().retry_entries, 1);
        world.next_id -= 1;
        let replayed = world.ledger.counts().replayed;
        world.send_unchecked(OPERATOR, CommandKind::Tick { base_fee_wei: 0 });
        assert_eq!(world.ledger.counts().replayed, replayed + 1);
        assert_eq!(world.ledger.counts().retry_entries, 0);
    }
}

#[test]
fn a_full_memory_refuses_players_first_and_settlement_never() {
    let mut world = World::empty();
    world.ledger = Ledger::with_retry_memory(12, 4);
    world.accept(OPERATOR, CommandKind::Genesis(Box::new(genesis(policy()))));
    let digest = GENERATOR;
    let (name, role) = ("model".into(), ModelRole::Generator);
    world.accept(OPERATOR, register_model(digest, name, role));
    world.accept(OPERATOR, CommandKind::PromoteModel { digest });
    world.accept(CREATOR, create(free(ClaimRule::First)));
    for _ in 0..8 {
        world.mint(1, BOB);
    }
    let player = world.command(BOB, transfer(1, 1, CAROL));
    assert_eq!(world.apply(&player).code, Code::RetryMemoryFull);
    let again = world.apply(&player);
    assert_eq!(
        (again.code, again.replayed),
        (Code::RetryMemoryFull, false),
        "a refusal for want of room is not remembered"
    );
    for asset in 1..=4 {
        world.judge(asset, Decision::Accept);
    }
    let refused = world.send(VERIFIER, verdict(5, 1, Decision::Accept));
    assert_eq!(refused.code, Code::RetryMemoryFull);
    assert_eq!(world.ledger.counts().retry_entries, 16);
    assert_eq!(world.tick(9000).code, Code::Accepted);
    world.settle();
    assert_eq!(world.ledger.counts().retry_entries, 16);
    assert_eq!(world.ledger.settled_seq(), world.ledger.applied_seq());
    // Settled, but the window of a million commands is not over: only a shorter one makes room.
    assert_eq!(world.apply(&player).code, Code::RetryMemoryFull);
}
