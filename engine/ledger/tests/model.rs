//! The ledger against a naive reference that was written from its rules: plain maps, a copy of everything for each command,
//! nothing clever. Outcomes, assets, balances and positions must be the same after every command.

#![allow(clippy::unwrap_used)]

mod common;
mod reference;

use common::generate::{self, Recipe};
use common::*;
use proptest::prelude::*;
use reference::Reference;
use std::collections::BTreeSet;

/// Runs both; gives the codes and the kinds of events that came up.
fn compare(recipes: &[Recipe]) -> Result<BTreeSet<String>, TestCaseError> {
    let mut seen = BTreeSet::new();
    let mut world = World::empty();
    let mut reference = Reference::default();
    let mut commands = generate::opening().into_iter();
    let mut recipes = recipes.iter();
    loop {
        let command = match (commands.next(), recipes.as_slice()) {
            (Some((actor, kind)), _) => world.command(actor, kind),
            (None, []) => return Ok(seen),
            (None, _) => {
                let recipe = recipes.next().copied().unwrap_or_default();
                generate::command(&mut world, recipe)
            }
        };
        let outcome = world.apply(&command);
        let expected = reference.apply(world.time_ms, &world.block_hash, &command);
        prop_assert_eq!(outcome, expected, "{:?}", command);
        prop_assert_eq!(world.events.len(), reference.events, "{:?}", &command);
        seen.insert(outcome.code.name().to_owned());
        for kind in world.kinds() {
            let name = format!("{kind:?}");
            seen.extend(name.split(' ').next().map(|name| format!("event {name}")));
        }
        let ledger = &world.ledger;
        let counts = ledger.counts();
        prop_assert_eq!(counts.assets as usize, reference.assets.len());
        for (number, asset) in (1..).zip(&reference.assets) {
            let view = ledger.asset(number).unwrap();
            prop_assert_eq!(&reference::Asset::of(&view), asset, "asset {}", number);
        }
        for account in [BOB, CAROL, DAVE, CREATOR, OPERATOR] {
            let balance = reference.balances.get(&account).copied().unwrap_or(0);
            prop_assert_eq!(ledger.balance(&account), balance);
        }
        prop_assert_eq!(
            ledger.settled_seq(),
            reference.settled_seq(),
            "{:?}",
            command
        );
        prop_assert_eq!(counts.retry_entries as usize, reference.remembered.len());
        prop_assert_eq!(counts.batches_cut as usize, reference.batches.len());
        prop_assert_eq!(counts.open_changes as usize, reference.changed.len());
        prop_assert_eq!(ledger.paused(), reference.paused);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_ledger_does_what_the_reference_does(
        recipes in prop::collection::vec(any::<Recipe>(), 1..250)
    ) {
        compare(&recipes)?;
    }
}

#[test]
fn long_runs_stay_equal_to_the_reference_and_meet_everything() {
    let mut seen = BTreeSet::new();
    for seed in 0..12 {
        seen.extend(compare(&generate::recipes(seed, 1500)).unwrap());
    }
    // What the generator never makes: other tests have it.
    let missing: Vec<&str> = [
        "Accepted",
        "UnknownAsset",
        "StaleVersion",
        "NotOwner",
        "NotActive",
        "AssetFrozen",
        "AssetEnded",
        "AlreadyOwned",
        "BadReceiver",
        "AlreadyClaimed",
        "ClaimWindowFull",
        "NotFrozen",
        "NotInReview",
        "InsufficientFunds",
        "BadAmount",
        "BadExchange",
        "ConsentMissing",
        "NotCreator",
        "SupplyCapReached",
        "TraitsRefused",
        "ValueCapReached",
        "VerdictVoid",
        "BatchOutOfOrder",
        "BatchMismatch",
        "IdReused",
        "Paused",
        "NotAllowed",
        "event Minted",
        "event Revised",
        "event Transferred",
        "event ClaimEntered",
        "event ClaimLost",
        "event CurrencyMoved",
        "event Deposited",
        "event Withdrawn",
        "event Burned",
        "event Redeemed",
        "event Verified",
        "event Reviewed",
        "event Frozen",
        "event Unfrozen",
        "event Paused",
        "event SettlementDue",
        "event BatchCut",
        "event BatchSealed",
        "event BatchCommitted",
        "event BatchFinal",
    ]
    .into_iter()
    .filter(|name| !seen.contains(*name))
    .collect();
    assert_eq!(missing, Vec::<&str>::new());
}
