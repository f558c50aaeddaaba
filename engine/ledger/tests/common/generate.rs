//! Commands from a few numbers: mostly ones that can be accepted, so that a run gets somewhere, and often ones that cannot.

use super::*;
use karat_ledger::Ledger;

/// Five numbers that become a command; a failing run shrinks to few and small ones.
pub type Recipe = (u8, u8, u8, u8, u8);

/// A cheap stream of recipes from a seed.
pub fn recipes(seed: u64, count: usize) -> Vec<Recipe> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let bytes = (state >> 16).to_le_bytes();
            (bytes[0], bytes[1], bytes[2], bytes[3], bytes[4])
        })
        .collect()
}

/// A policy under which everything happens within a few hundred commands.
pub fn lively_policy() -> Policy {
    Policy {
        batch_changes_max: 7,
        batch_age_ms_max: 40,
        batch_base_fee_wei_max: 100,
        batch_deferral_ms_max: 30,
        retry_window_commands: 20,
        ..Policy::default()
    }
}

/// The commands that open a realm in which every other command can be accepted.
pub fn opening() -> Vec<(Account, CommandKind)> {
    let mut commands = vec![(
        OPERATOR,
        CommandKind::Genesis(Box::new(genesis(lively_policy()))),
    )];
    for digest in [GENERATOR, RETIRED] {
        let name = "model".into();
        let role = ModelRole::Generator;
        commands.push((OPERATOR, register_model(digest, name, role)));
        commands.push((OPERATOR, CommandKind::PromoteModel { digest }));
    }
    let scarce = CollectionSpec {
        supply_cap: 12,
        value_caps: vec![ValueCap {
            trait_index: 0,
            value: 1,
            most: 3,
        }],
        ..spec()
    };
    for spec in [
        scarce,
        free(ClaimRule::First),
        free(ClaimRule::Draw { window_ms: 150 }),
    ] {
        commands.push((CREATOR, create(spec)));
    }
    commands
}

/// Opens a world with [`opening`].
pub fn open_world() -> World {
    let mut world = World::empty();
    for (actor, kind) in opening() {
        world.accept(actor, kind);
    }
    world
}

const PEOPLE: [Account; 6] = [BOB, CAROL, DAVE, CREATOR, OPERATOR, NOBODY];

fn person(number: u8) -> Account {
    PEOPLE[usize::from(number) % PEOPLE.len()]
}

/// Makes the command that a recipe stands for in the ledger's present state; moves time on.
pub fn command(world: &mut World, recipe: Recipe) -> Command {
    let (kind, a, b, c, d) = recipe;
    world.time_ms += u64::from(d % 4) * 3;
    world.block_hash = [d; 32];
    // One in sixteen repeats an id that was used, half of those with another body.
    if kind >= 240 && world.next_id > 1 {
        let back = u64::from(a) % world.next_id.min(40);
        let number = (world.next_id - 1).saturating_sub(back).max(1);
        let mut again = Command {
            id: id(number),
            actor: BOB,
            body_hash: id(number).0,
            kind: CommandKind::Tick { base_fee_wei: 0 },
        };
        if b % 2 == 0 {
            again.body_hash[15] = 1;
        }
        return again;
    }
    let (actor, kind) = fresh(&world.ledger, (kind, a, b, c, d));
    // One in sixteen comes from somebody else.
    let actor = if b % 16 == 15 { person(c) } else { actor };
    world.command(actor, kind)
}

fn fresh(ledger: &Ledger, (kind, a, b, c, d): Recipe) -> (Account, CommandKind) {
    let assets = ledger.counts().assets.max(1);
    let id = u64::from(a) % (assets + 1) + u64::from(a % 16 != 0);
    let known = ledger.asset(id);
    let owner = known.map_or(BOB, |asset| asset.owner);
    let version = known.map_or(1, |asset| asset.version) + u32::from(c % 16 == 15);
    let collection = known.map_or(1, |asset| asset.collection);
    let amount = match c {
        255 => u64::MAX,
        254 => i64::MAX as u64,
        _ => u64::from(c % 40),
    };
    match kind % 32 {
        0..=4 => (
            CREATOR,
            mint(u32::from(b % 3) + 1, person(d), &[c % 4, (c >> 2) % 3]),
        ),
        5 | 6 => (
            owner,
            revise_of(id, version, collection, &[c % 3, d % 3], GENERATOR),
        ),
        7..=9 => (owner, transfer(id, version, person(d))),
        10 => (person(d), claim(id, version)),
        // Several claims on one asset before its draw: of those that can be claimed, one of the last two.
        11 | 12 => {
            let open: Vec<_> = (1..=assets)
                .filter_map(|id| ledger.asset(id))
                .filter(|asset| asset.owner.is_nobody() && asset.collection == 3)
                .collect();
            let chosen = open.iter().rev().nth(usize::from(b % 2));
            let (id, version) = chosen.map_or((id, version), |asset| (asset.id, asset.version));
            (person(d % 5), claim(id, version))
        }
        13..=15 => {
            let (other, third) = (person(d), person(b));
            let mut legs = vec![
                give(id, version, owner, other),
                pay(other, owner, amount.max(u64::from(c % 8))),
            ];
            if b % 4 == 0 {
                legs.push(pay(owner, third, u64::from(d % 16)));
            }
            if b % 16 == 1 {
                legs.push(give(id.max(2) - 1, 1, third, owner));
            }
            let consents = if b % 8 == 7 {
                vec![]
            } else {
                vec![other, third]
            };
            (owner, exchange(legs, consents))
        }
        16 => (owner, burn(id, version)),
        17 => (owner, redeem(id, version, person(d))),
        18 => {
            let account = person(d);
            (OPERATOR, CommandKind::Deposit { account, amount })
        }
        19 => {
            let account = person(d);
            (account, CommandKind::Withdraw { account, amount })
        }
        20..=23 => {
            let decision = [Decision::Accept, Decision::Reject, Decision::Review]
                [[0, 0, 0, 1, 2][usize::from(b % 5)]];
            (VERIFIER, verdict(id, version, decision))
        }
        24 => (OPERATOR, review(id, version, b % 2 == 0)),
        25..=27 if ledger.paused() || (kind % 32 == 27 && b % 8 == 0) => {
            let paused = !ledger.paused();
            (OPERATOR, CommandKind::Pause { paused })
        }
        25 => (OPERATOR, freeze(id)),
        26 => (OPERATOR, CommandKind::Unfreeze { asset: id }),
        27 | 28 => {
            let base_fee_wei = u64::from(b);
            (OPERATOR, CommandKind::Tick { base_fee_wei })
        }
        29..=31 => {
            let next = ledger.open_batches().find(|batch| match kind % 32 {
                29 => batch.seal.is_none(),
                30 => batch.commitment.is_none(),
                _ => true,
            });
            let number = next.map_or(1, |batch| batch.number) + u64::from(b % 16 == 14);
            let leaves = next.map_or(1, |batch| batch.changes) + u32::from(b % 16 == 13);
            let kind = match kind % 32 {
                29 => sealed(number, leaves),
                30 => committed(number),
                _ => CommandKind::BatchFinal { number },
            };
            (SETTLER, kind)
        }
        _ => unreachable!(),
    }
}
