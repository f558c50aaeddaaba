//! Draws: who can win, who loses and how, and what bounds them.

mod common;

use common::*;
use karat_ledger::DRAWN_CLAIMS_A_TICK_MAX;
use karat_proto::command::*;
use karat_proto::event::{AssetState, EventKind, TransferCause};
use karat_proto::{Account, Code, CommandId, limits};

fn account(number: u32) -> Account {
    let mut account = [0xcc; 20];
    account[..4].copy_from_slice(&number.to_be_bytes());
    Account(account)
}

fn enter(world: &mut World, asset: u64, count: u32) {
    for number in 0..count {
        world.accept(account(number), claim(asset, 1));
    }
}

fn lost(world: &World) -> Vec<(Account, Option<CommandId>)> {
    let lost = |kind| match kind {
        EventKind::ClaimLost {
            account, winner, ..
        } => Some((account, winner.map(|winner| winner.id))),
        _ => None,
    };
    world.kinds().into_iter().filter_map(lost).collect()
}

#[test]
fn the_first_claim_opens_a_window_that_later_ones_join_until_it_closes() {
    let mut world = world();
    world.time_ms = 10_000;
    world.accept(CAROL, claim(DRAWN, 1));
    let entered = |account| EventKind::ClaimEntered {
        asset: DRAWN,
        account,
        closes_ms: 10_500,
    };
    assert_eq!(world.kinds(), vec![entered(CAROL)]);
    assert_eq!(world.ledger.next_deadline_ms(), Some(3000), "a batch's age");
    world.tick(10_499);
    assert_eq!(world.ledger.next_deadline_ms(), Some(10_500));
    world.accept(DAVE, claim(DRAWN, 1));
    assert_eq!(world.kinds(), vec![entered(DAVE)]);
    assert_eq!(world.send(DAVE, claim(DRAWN, 1)).code, Code::AlreadyClaimed);
    world.time_ms = 10_500;
    assert_eq!(world.send(BOB, claim(DRAWN, 1)).code, Code::ClaimWindowFull);
    assert!(world.ledger.asset(DRAWN).unwrap().owner.is_nobody());
}

#[test]
fn the_tick_at_the_close_draws_one_winner_and_tells_every_loser() {
    let mut world = world();
    enter(&mut world, DRAWN, 20);
    world.tick(1499);
    assert!(world.ledger.asset(DRAWN).unwrap().owner.is_nobody());
    world.tick(1500);
    let owner = world.ledger.asset(DRAWN).unwrap().owner;
    assert!(matches!(
        world.kinds()[0],
        EventKind::Transferred { asset: DRAWN, version: 1, from: Account::NOBODY, to, cause: TransferCause::Claim }
            if to == owner
    ));
    let losers = lost(&world);
    assert_eq!(losers.len(), 19);
    let winner = losers[0].1.unwrap();
    assert!(losers.iter().all(|(_, named)| *named == Some(winner)));
    assert!(losers.iter().all(|(account, _)| *account != owner));
    let late = world.send(DAVE, claim(DRAWN, 1));
    assert_eq!(late.code, Code::AlreadyOwned);
    assert_eq!(late.winner.map(|winner| winner.id), Some(winner));
    assert_eq!(world.ledger.counts().claim_windows, 0);
}

#[test]
fn the_block_that_draws_decides_and_not_the_order_of_claims() {
    let mut world = world();
    enter(&mut world, DRAWN, 8);
    let winners: std::collections::BTreeSet<Account> = (0..64)
        .map(|hash| {
            let mut copy = world.clone();
            copy.block_hash = [hash; 32];
            copy.tick(2000);
            copy.ledger.asset(DRAWN).unwrap().owner
        })
        .collect();
    assert_eq!(winners.len(), 8, "each of 8 wins some of 64 draws");
}

#[test]
fn claims_on_a_version_that_was_revised_lose_to_one_on_the_new() {
    let mut world = world();
    enter(&mut world, DRAWN, 3);
    let new = revise_of(DRAWN, 1, 3, &[1, 1], GENERATOR);
    world.accept(CREATOR, new);
    world.accept(account(1), claim(DRAWN, 2));
    world.tick(2000);
    assert_eq!(world.ledger.asset(DRAWN).unwrap().owner, account(1));
    assert_eq!(lost(&world).len(), 3);
}

#[test]
fn nobody_wins_an_asset_that_cannot_be_had_any_more() {
    let mut revised = world();
    enter(&mut revised, DRAWN, 3);
    let mut frozen = revised.clone();
    let mut rejected = revised.clone();
    revised.accept(CREATOR, revise_of(DRAWN, 1, 3, &[1, 1], GENERATOR));
    frozen.accept(OPERATOR, freeze(DRAWN));
    rejected.judge(DRAWN, Decision::Reject);
    for mut world in [revised, frozen, rejected] {
        world.tick(2000);
        assert!(world.ledger.asset(DRAWN).unwrap().owner.is_nobody());
        assert_eq!(
            lost(&world),
            (0..3).map(|n| (account(n), None)).collect::<Vec<_>>()
        );
    }
}

#[test]
fn an_accepted_asset_is_drawn_and_settles() {
    let mut world = world();
    enter(&mut world, DRAWN, 3);
    world.judge(DRAWN, Decision::Accept);
    world.tick(2000);
    let view = world.ledger.asset(DRAWN).unwrap();
    assert_eq!(view.state, AssetState::Active);
    assert_eq!(view.settle_sequence, world.ledger.applied_seq());
}

#[test]
fn a_window_and_a_tick_have_their_bounds() {
    let mut world = world();
    let first = DRAWN;
    let others = [world.mint(3, NOBODY), world.mint(3, NOBODY)];
    let full = limits::CLAIMS_A_WINDOW_MAX as u32;
    for asset in [first, others[0], others[1]] {
        for number in 0..full {
            let code = world.send_unchecked(account(number), claim(asset, 1));
            assert_eq!(code, Code::Accepted);
        }
        let code = world.send_unchecked(account(full), claim(asset, 1));
        assert_eq!(code, Code::ClaimWindowFull);
    }
    assert_eq!(2 * limits::CLAIMS_A_WINDOW_MAX, DRAWN_CLAIMS_A_TICK_MAX);
    world.tick(2000);
    assert_eq!(world.ledger.counts().claim_windows, 1);
    assert_eq!(
        world.ledger.next_deadline_ms(),
        Some(1500),
        "a tick is due now"
    );
    world.tick(2000);
    assert_eq!(world.ledger.counts().claim_windows, 0);
}
