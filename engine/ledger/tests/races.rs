//! Races are decided by the order; the loser is told which command won.

mod common;

use common::*;
use karat_proto::Code;
use karat_proto::command::*;
use karat_proto::event::{Outcome, Winner};

fn winner(outcome: &Outcome, command: &Command) -> Option<Winner> {
    Some(Winner {
        id: command.id,
        sequence: outcome.sequence,
    })
}

/// Sends two commands one after the other; the first must be accepted. Gives what names it, and the second's outcome.
fn race(
    world: &mut World,
    first: (karat_proto::Account, CommandKind),
    second: (karat_proto::Account, CommandKind),
) -> (Option<Winner>, Outcome) {
    let first = world.command(first.0, first.1);
    let won = world.apply(&first);
    assert_eq!(won.code, Code::Accepted);
    let lost = world.send(second.0, second.1);
    (winner(&won, &first), lost)
}

#[test]
fn of_two_mints_for_the_last_of_the_supply_one_wins() {
    let mut world = world();
    let collection = world.accept(
        CREATOR,
        create(CollectionSpec {
            supply_cap: 1,
            ..spec()
        }),
    ) as u32;
    let mint = || (CREATOR, mint(collection, BOB, &[0, 0]));
    let (_, lost) = race(&mut world, mint(), mint());
    assert_eq!(lost.code, Code::SupplyCapReached);
    assert_eq!(world.ledger.collection(collection).unwrap().minted, 1);
}

#[test]
fn of_two_claims_the_first_in_order_wins_and_is_named() {
    let mut world = world();
    let (won, lost) = race(
        &mut world,
        (CAROL, claim(UNOWNED, 1)),
        (DAVE, claim(UNOWNED, 1)),
    );
    assert_eq!((lost.code, lost.winner), (Code::AlreadyOwned, won));
    assert_eq!(lost.subject, UNOWNED);
    assert_eq!(world.ledger.asset(UNOWNED).unwrap().owner, CAROL);
}

#[test]
fn a_revision_that_comes_first_makes_a_transfer_stale() {
    let mut world = world();
    let (won, lost) = race(
        &mut world,
        (CREATOR, revise(ACTIVE, 1, &[1, 1])),
        (BOB, transfer(ACTIVE, 1, CAROL)),
    );
    assert_eq!((lost.code, lost.winner), (Code::StaleVersion, won));
}

#[test]
fn a_transfer_that_comes_first_leaves_the_revision_to_the_new_owner() {
    let mut world = world();
    let (won, lost) = race(
        &mut world,
        (BOB, transfer(ACTIVE, 1, CAROL)),
        (BOB, revise(ACTIVE, 1, &[1, 1])),
    );
    assert_eq!((lost.code, lost.winner), (Code::NotOwner, won));
    world.accept(CAROL, revise(ACTIVE, 1, &[1, 1]));
}

#[test]
fn the_winner_of_an_owner_is_who_took_it_even_after_other_changes() {
    let mut world = world();
    let first = world.command(BOB, transfer(FREE, 1, CAROL));
    let won = world.apply(&first);
    world.judge(FREE, Decision::Accept);
    let lost = world.send(BOB, transfer(FREE, 1, DAVE));
    assert_eq!(lost.winner, winner(&won, &first));
}

#[test]
fn a_stranger_lost_to_nobody() {
    let mut world = world();
    let lost = world.send(DAVE, transfer(ACTIVE, 1, DAVE));
    assert_eq!((lost.code, lost.winner), (Code::NotOwner, None));
    let lost = world.send(DAVE, claim(ACTIVE, 1));
    assert_eq!((lost.code, lost.winner), (Code::AlreadyOwned, None));
}

#[test]
fn a_burn_that_comes_first_is_named_to_every_later_command() {
    let mut world = world();
    let (won, lost) = race(
        &mut world,
        (BOB, burn(FREE, 1)),
        (VERIFIER, verdict(FREE, 1, Decision::Accept)),
    );
    assert_eq!((lost.code, lost.winner), (Code::VerdictVoid, won));
    let lost = world.send(BOB, transfer(FREE, 1, CAROL));
    assert_eq!((lost.code, lost.winner), (Code::AssetEnded, won));
}

#[test]
fn one_bad_leg_moves_nothing() {
    let mut world = world();
    world.accept(BOB, transfer(REVISED, 2, DAVE));
    let before = world.clone();
    let legs = vec![
        give(ACTIVE, 1, BOB, CAROL),
        pay(CAROL, BOB, 10),
        give(REVISED, 2, BOB, CAROL),
    ];
    let lost = world.send(BOB, exchange(legs, vec![CAROL]));
    assert_eq!((lost.code, lost.subject), (Code::NotOwner, REVISED));
    assert!(lost.winner.is_some());
    for asset in [ACTIVE, REVISED] {
        assert_eq!(world.ledger.asset(asset), before.ledger.asset(asset));
    }
    assert_eq!(world.ledger.balance(&CAROL), 50);
    assert!(world.events.is_empty());
}
