//! When a batch is cut, what it counts, and the order of its steps.

mod common;

use common::*;
use karat_ledger::{BatchStage, KEPT_BATCHES_MAX, OPEN_BATCHES_MAX, SettlementState};
use karat_proto::command::*;
use karat_proto::event::EventKind;
use karat_proto::{Code, limits};

/// A realm whose pending assets settle, so that each mint is a change.
fn realm(policy: Policy) -> World {
    let mut world = World::with_policy(policy);
    let digest = GENERATOR;
    let (name, role) = ("model".into(), ModelRole::Generator);
    world.accept(OPERATOR, register_model(digest, name, role));
    world.accept(OPERATOR, CommandKind::PromoteModel { digest });
    world.accept(CREATOR, create(free(ClaimRule::First)));
    world
}

fn cut(world: &World) -> Option<(u64, u64, u64, u32)> {
    world.kinds().into_iter().find_map(|kind| match kind {
        EventKind::BatchCut {
            number,
            first_sequence,
            last_sequence,
            changes,
        } => Some((number, first_sequence, last_sequence, changes)),
        _ => None,
    })
}

fn small() -> Policy {
    Policy {
        batch_changes_max: 3,
        ..policy()
    }
}

#[test]
fn a_batch_is_cut_after_the_command_that_fills_it() {
    let mut world = realm(small());
    let opened = world.ledger.applied_seq();
    world.mint(1, BOB);
    world.mint(1, BOB);
    world.accept(BOB, transfer(1, 1, CAROL));
    assert_eq!(cut(&world), None, "a changed asset counts once");
    world.mint(1, BOB);
    assert_eq!(cut(&world), Some((1, 1, opened + 4, 3)));
    world.accept(CAROL, transfer(1, 1, BOB));
    world.accept(BOB, transfer(2, 1, CAROL));
    world.accept(BOB, transfer(3, 1, CAROL));
    assert_eq!(cut(&world), Some((2, opened + 5, opened + 7, 3)));
}

#[test]
fn an_exchange_is_never_split_between_batches() {
    let mut world = realm(small());
    for _ in 0..4 {
        world.mint(1, BOB);
    }
    assert_eq!(world.ledger.counts().open_changes, 1);
    let legs = (1..=4).map(|asset| give(asset, 1, BOB, CAROL)).collect();
    world.accept(BOB, exchange(legs, vec![]));
    let applied = world.ledger.applied_seq();
    assert_eq!(cut(&world), Some((2, applied - 1, applied, 4)));
}

#[test]
fn a_tick_cuts_a_batch_that_is_old_enough() {
    let mut world = realm(policy());
    world.time_ms = 5000;
    assert_eq!(world.ledger.next_deadline_ms(), None);
    world.mint(1, BOB);
    assert_eq!(world.ledger.next_deadline_ms(), Some(7000));
    world.tick(6999);
    assert_eq!(cut(&world), None);
    world.tick(7000);
    assert_eq!(cut(&world).map(|cut| cut.3), Some(1));
    assert_eq!(world.ledger.next_deadline_ms(), None);
    world.tick(9999);
    assert_eq!(cut(&world), None, "nothing changed since");
}

#[test]
fn a_high_base_fee_defers_a_cut_and_not_for_ever() {
    let policy = Policy {
        batch_base_fee_wei_max: 100,
        batch_deferral_ms_max: 1000,
        ..policy()
    };
    let tick = |world: &mut World, time_ms, base_fee_wei| {
        world.time_ms = time_ms;
        world.accept(OPERATOR, CommandKind::Tick { base_fee_wei });
        cut(world).is_some()
    };
    let mut world = realm(policy);
    world.time_ms = 0;
    world.mint(1, BOB);
    assert!(!tick(&mut world, 2000, 101));
    assert_eq!(world.ledger.next_deadline_ms(), Some(3000));
    let mut cheaper = world.clone();
    assert!(tick(&mut cheaper, 2001, 100));
    assert!(!tick(&mut world, 2999, 101));
    assert!(tick(&mut world, 3000, 101));
}

#[test]
fn a_batch_goes_through_its_steps_in_order() {
    let mut world = realm(small());
    for _ in 0..6 {
        world.mint(1, BOB);
    }
    let order = |world: &mut World, kind| world.send(SETTLER, kind).code;
    let finals = |number| CommandKind::BatchFinal { number };
    #[rustfmt::skip]
    let rows = [
        (committed(1), Code::BatchOutOfOrder),
        (finals(1), Code::BatchOutOfOrder),
        (sealed(0, 3), Code::BatchOutOfOrder),
        (sealed(2, 3), Code::BatchOutOfOrder),
        (sealed(1, 2), Code::BatchMismatch),
        (sealed(1, 3), Code::Accepted),
        (sealed(1, 3), Code::BatchOutOfOrder),
        (committed(2), Code::BatchOutOfOrder),
        (sealed(2, 3), Code::Accepted),
        (sealed(3, 3), Code::BatchOutOfOrder),
        (finals(1), Code::BatchOutOfOrder),
        (committed(1), Code::Accepted),
        (committed(1), Code::BatchOutOfOrder),
        (finals(2), Code::BatchOutOfOrder),
        (finals(1), Code::Accepted),
        (finals(1), Code::BatchOutOfOrder),
        (committed(2), Code::Accepted),
        (finals(u64::MAX), Code::BatchOutOfOrder),
        (finals(2), Code::Accepted),
    ];
    for (kind, code) in rows {
        assert_eq!(order(&mut world, kind.clone()), code, "{kind:?}");
    }
    let batch = world.ledger.batch(2).unwrap();
    assert_eq!(batch.stage(), BatchStage::Final);
    assert_eq!(batch.commitment.unwrap().fee_wei, 1 << 70);
}

#[test]
fn an_asset_is_unsettled_then_batched_then_settled() {
    let mut world = realm(small());
    let state = |world: &World, asset| {
        let view = world.ledger.asset(asset).unwrap();
        world.ledger.settlement_of(&view)
    };
    let first = world.mint(1, BOB);
    assert_eq!(state(&world, first), SettlementState::Unsettled);
    world.mint(1, BOB);
    world.mint(1, BOB);
    assert_eq!(state(&world, first), SettlementState::Batched(1));
    let settled_before = world.ledger.settled_seq();
    assert!(settled_before < world.ledger.asset(first).unwrap().settle_sequence);
    world.mint(1, BOB);
    world.settle();
    assert_eq!(state(&world, first), SettlementState::Settled);
    assert_eq!(state(&world, 4), SettlementState::Unsettled);
    world.accept(BOB, transfer(first, 1, CAROL));
    assert_eq!(state(&world, first), SettlementState::Unsettled);
}

#[test]
fn only_the_last_final_batches_stay_in_memory() {
    let mut world = realm(Policy {
        batch_changes_max: 1,
        ..policy()
    });
    for _ in 0..KEPT_BATCHES_MAX + 5 {
        world.send_unchecked(CREATOR, mint(1, BOB, &[0, 0]));
        if world.ledger.open_batches().count() == 200 {
            world.settle();
        }
    }
    world.settle();
    assert!(world.ledger.batch(5).is_none());
    assert!(world.ledger.batch(6).is_some());
    assert_eq!(world.ledger.open_batches().count(), 0);
    assert_eq!(world.ledger.last_batch(), KEPT_BATCHES_MAX + 5);
    let first = world.ledger.asset(1).unwrap();
    assert_eq!(world.ledger.settlement_of(&first), SettlementState::Settled);
}

#[test]
fn when_too_many_batches_are_open_players_wait_for_settlement() {
    let mut world = realm(Policy {
        batch_changes_max: 1,
        ..policy()
    });
    for _ in 0..OPEN_BATCHES_MAX {
        let code = world.send_unchecked(CREATOR, mint(1, BOB, &[0, 0]));
        assert_eq!(code, Code::Accepted);
    }
    let refused = world.send_unchecked(CREATOR, mint(1, BOB, &[0, 0]));
    assert_eq!(refused, Code::RetryMemoryFull);
    for kind in [
        sealed(1, 1),
        committed(1),
        CommandKind::BatchFinal { number: 1 },
    ] {
        assert_eq!(world.send_unchecked(SETTLER, kind), Code::Accepted);
    }
    let accepted = world.send_unchecked(CREATOR, mint(1, BOB, &[0, 0]));
    assert_eq!(accepted, Code::Accepted);
    assert_eq!(karat_ledger::invariants::check_all(&world.ledger), Ok(()));
}

#[test]
fn no_exchange_can_take_a_batch_past_the_hard_limit() {
    let mut world = realm(Policy {
        batch_changes_max: limits::BATCH_CHANGES_MAX,
        ..policy()
    });
    let legs = limits::EXCHANGE_LEGS_MAX as u32;
    for number in 1..limits::BATCH_CHANGES_MAX - legs + 1 {
        world.send_unchecked(CREATOR, mint(1, BOB, &[0, 0]));
        assert_eq!(cut(&world), None, "{number}");
    }
    let mut by_exchange = world.clone();
    world.mint(1, BOB);
    let most = limits::BATCH_CHANGES_MAX - legs + 1;
    assert_eq!(cut(&world).map(|cut| cut.3), Some(most));
    // The largest exchange of assets that this batch does not hold yet would fill it to the limit and not past it.
    assert!(most - 1 + legs <= limits::BATCH_CHANGES_MAX);
    by_exchange.accept(BOB, transfer(1, 1, CAROL));
    assert_eq!(cut(&by_exchange), None, "it held this asset already");
}
