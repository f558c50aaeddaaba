//! A table for each kind of command: who sends what to a realm with one of everything, and the code that comes back.

mod common;

use common::*;
use karat_proto::Code::{self, *};
use karat_proto::command::*;
use karat_proto::event::{AssetState, EventKind, LeafKind, TransferCause};
use karat_proto::lineage::seed_commitment;
use karat_proto::{Account, limits};

type Row = (&'static str, Account, CommandKind, Code);

/// Sends each row's command to a fresh copy of the realm; a refusal must change nothing that can be read.
fn check(world: &World, rows: Vec<Row>) {
    for (what, actor, kind, code) in rows {
        let mut copy = world.clone();
        let outcome = copy.send(actor, kind);
        assert_eq!(outcome.code, code, "{what}");
        assert_eq!(outcome.sequence, world.ledger.applied_seq() + 1, "{what}");
        if code != Accepted {
            assert_eq!(copy.events, vec![], "{what}");
            let (before, after) = (world.ledger.counts(), copy.ledger.counts());
            assert_eq!(after.refused, before.refused + 1, "{what}");
            assert_eq!(
                (after.assets, after.accounts, after.currency_total),
                (before.assets, before.accounts, before.currency_total),
                "{what}"
            );
            for asset in 1..=before.assets {
                assert_eq!(
                    copy.ledger.asset(asset),
                    world.ledger.asset(asset),
                    "{what}"
                );
            }
            for account in [BOB, CAROL, DAVE] {
                let balance = world.ledger.balance(&account);
                assert_eq!(copy.ledger.balance(&account), balance, "{what}");
            }
        }
    }
}

fn long(bytes: usize) -> String {
    "x".repeat(bytes)
}

#[test]
fn genesis_is_first_and_once() {
    let whole = || genesis(policy());
    let opens = |genesis: Genesis| CommandKind::Genesis(Box::new(genesis));
    let with = |policy: Policy| opens(genesis(policy));
    #[rustfmt::skip]
    check(&World::empty(), vec![
        ("first", DAVE, opens(whole()), Accepted),
        ("something else first", OPERATOR, CommandKind::Tick { base_fee_wei: 0 }, BadGenesis),
        ("a mint first", CREATOR, mint(1, BOB, &[0, 0]), BadGenesis),
        ("by nobody", NOBODY, opens(whole()), NotAllowed),
        ("nobody as operator", DAVE, opens(Genesis { operator: NOBODY, ..whole() }), BadGenesis),
        ("nobody as settler", DAVE, opens(Genesis { settler: NOBODY, ..whole() }), BadGenesis),
        ("no name", DAVE, opens(Genesis { realm: "".into(), ..whole() }), BadGenesis),
        ("a long name", DAVE, opens(Genesis { realm: long(65), ..whole() }), BadGenesis),
        ("policy version 2", DAVE, with(Policy { version: 2, ..policy() }), BadPolicy),
        ("no changes in a batch", DAVE, with(Policy { batch_changes_max: 0, ..policy() }), BadPolicy),
    ]);
    check(
        &world(),
        vec![("again", OPERATOR, opens(whole()), BadGenesis)],
    );
}

#[test]
fn roles_keep_their_commands() {
    let digest = [99; 32];
    let name = || "m".to_owned();
    let role = ModelRole::Generator;
    let amount = 1;
    #[rustfmt::skip]
    check(&world(), vec![
        ("nobody mints", NOBODY, mint(1, BOB, &[0, 0]), NotAllowed),
        ("deposit", BOB, CommandKind::Deposit { account: BOB, amount }, NotAllowed),
        ("verdict by the operator", OPERATOR, verdict(PENDING, 1, Decision::Accept), NotAllowed),
        ("review by the verifier", VERIFIER, review(IN_REVIEW, 1, true), NotAllowed),
        ("register", CREATOR, register_model(digest, name(), role), NotAllowed),
        ("promote", CREATOR, CommandKind::PromoteModel { digest: REGISTERED }, NotAllowed),
        ("retire", CREATOR, CommandKind::RetireModel { digest: GENERATOR }, NotAllowed),
        ("policy", SETTLER, CommandKind::SetPolicy(Box::new(Policy { version: 2, ..policy() })), NotAllowed),
        ("freeze", BOB, freeze(ACTIVE), NotAllowed),
        ("unfreeze", BOB, CommandKind::Unfreeze { asset: FROZEN }, NotAllowed),
        ("pause", BOB, CommandKind::Pause { paused: true }, NotAllowed),
        ("sealed", OPERATOR, sealed(1, 1), NotAllowed),
        ("committed", OPERATOR, committed(1), NotAllowed),
        ("final", OPERATOR, CommandKind::BatchFinal { number: 1 }, NotAllowed),
        ("tick", BOB, CommandKind::Tick { base_fee_wei: 0 }, NotAllowed),
    ]);
}

#[test]
fn a_paused_realm_refuses_players_and_nobody_else() {
    let mut paused = world();
    paused.accept(OPERATOR, CommandKind::Pause { paused: true });
    let amount = 10;
    #[rustfmt::skip]
    check(&paused, vec![
        ("create", CREATOR, create(spec()), Paused),
        ("reveal", CREATOR, CommandKind::RevealSeed { collection: 1, secret: Box::new(SECRET) }, Paused),
        ("mint", CREATOR, mint(1, BOB, &[0, 0]), Paused),
        ("revise", BOB, revise(ACTIVE, 1, &[0, 1]), Paused),
        ("transfer", BOB, transfer(ACTIVE, 1, CAROL), Paused),
        ("claim", CAROL, claim(UNOWNED, 1), Paused),
        ("exchange", BOB, exchange(vec![pay(BOB, CAROL, 1)], vec![]), Paused),
        ("burn", BOB, burn(ACTIVE, 1), Paused),
        ("redeem", BOB, redeem(ACTIVE, 1, BOB), Paused),
        ("withdraw", BOB, CommandKind::Withdraw { account: BOB, amount }, Paused),
        ("withdraw by the operator", OPERATOR, CommandKind::Withdraw { account: BOB, amount }, Accepted),
        ("deposit", OPERATOR, CommandKind::Deposit { account: BOB, amount }, Accepted),
        ("verdict", VERIFIER, verdict(PENDING, 1, Decision::Accept), Accepted),
        ("review", OPERATOR, review(IN_REVIEW, 1, true), Accepted),
        ("freeze", OPERATOR, freeze(ACTIVE), Accepted),
        ("tick", OPERATOR, CommandKind::Tick { base_fee_wei: 0 }, Accepted),
        ("settler", SETTLER, sealed(1, 1), BatchOutOfOrder),
        ("pause again", OPERATOR, CommandKind::Pause { paused: true }, Accepted),
        ("resume", OPERATOR, CommandKind::Pause { paused: false }, Accepted),
    ]);
    paused.accept(OPERATOR, CommandKind::Pause { paused: true });
    assert_eq!(paused.kinds(), vec![], "pausing again changes nothing");
    paused.accept(OPERATOR, CommandKind::Pause { paused: false });
    paused.accept(BOB, transfer(ACTIVE, 1, CAROL));
}

#[test]
fn create_collection() {
    let with = |change: &dyn Fn(&mut CollectionSpec)| {
        let mut spec = spec();
        change(&mut spec);
        create(spec)
    };
    let cap = |trait_index, value, most| ValueCap {
        trait_index,
        value,
        most,
    };
    let pair = |first, second| Exclusion { first, second };
    #[rustfmt::skip]
    check(&world(), vec![
        ("whole", DAVE, create(spec()), Accepted),
        ("no traits", DAVE, with(&|spec| { spec.traits.clear(); spec.exclusions.clear() }), Accepted),
        ("no name", DAVE, with(&|spec| spec.name.clear()), BadCollection),
        ("long name", DAVE, with(&|spec| spec.name = long(65)), BadCollection),
        ("no supply", DAVE, with(&|spec| spec.supply_cap = 0), BadCollection),
        ("17 traits", DAVE, with(&|spec| spec.traits = (0..17).map(|n| TraitSpec { name: n.to_string(), ..spec.traits[0].clone() }).collect()), BadCollection),
        ("65 values", DAVE, with(&|spec| { spec.traits[0].values = (0..65).map(|n| n.to_string()).collect(); spec.traits[0].weights = vec![1; 65] }), BadCollection),
        ("no values", DAVE, with(&|spec| { spec.exclusions.clear(); spec.traits[0].values.clear(); spec.traits[0].weights.clear() }), BadCollection),
        ("two traits of a name", DAVE, with(&|spec| spec.traits[1].name = "eyes".into()), BadCollection),
        ("two values of a name", DAVE, with(&|spec| spec.traits[0].values[1] = "red".into()), BadCollection),
        ("a value without a name", DAVE, with(&|spec| spec.traits[0].values[1].clear()), BadCollection),
        ("too few weights", DAVE, with(&|spec| spec.traits[0].weights = vec![1, 1]), BadCollection),
        ("all weights 0", DAVE, with(&|spec| spec.traits[0].weights = vec![0, 0, 0]), BadCollection),
        ("one weight above 0", DAVE, with(&|spec| spec.traits[0].weights = vec![0, 1, 0]), Accepted),
        ("exclusion of an unknown trait", DAVE, with(&|spec| spec.exclusions = vec![pair((2, 0), (0, 0))]), BadCollection),
        ("exclusion of an unknown value", DAVE, with(&|spec| spec.exclusions = vec![pair((0, 0), (1, 3))]), BadCollection),
        ("exclusion within a trait", DAVE, with(&|spec| spec.exclusions = vec![pair((0, 0), (0, 1))]), BadCollection),
        ("257 exclusions", DAVE, with(&|spec| spec.exclusions = vec![pair((0, 0), (1, 1)); 257]), BadCollection),
        ("every value of a trait excluded", DAVE, with(&|spec| spec.exclusions = (0..9).map(|n| pair((0, n / 3), (1, n % 3))).collect()), BadCollection),
        ("impossible by weight and exclusion", DAVE, with(&|spec| { spec.traits[0].weights = vec![1, 0, 0]; spec.exclusions = (0..3).map(|n| pair((1, n), (0, 0))).collect() }), BadCollection),
        ("one value left", DAVE, with(&|spec| spec.exclusions = (0..8).map(|n| pair((0, n / 3), (1, n % 3))).collect()), Accepted),
        ("cap of an unknown value", DAVE, with(&|spec| spec.value_caps = vec![cap(0, 3, 1)]), BadCollection),
        ("two caps of a value", DAVE, with(&|spec| spec.value_caps = vec![cap(0, 1, 1), cap(0, 1, 2)]), BadCollection),
        ("caps of 0 on every value", DAVE, with(&|spec| spec.value_caps = (0..3).map(|n| cap(0, n, 0)).collect()), BadCollection),
        ("caps of 0 on two values", DAVE, with(&|spec| spec.value_caps = (0..2).map(|n| cap(0, n, 0)).collect()), Accepted),
        ("draw in a window of 0", DAVE, with(&|spec| spec.claim_rule = ClaimRule::Draw { window_ms: 0 }), BadCollection),
        ("draw in a window of two days", DAVE, with(&|spec| spec.claim_rule = ClaimRule::Draw { window_ms: 2 * limits::CLAIM_WINDOW_MS_MAX }), BadCollection),
        ("royalty above the whole", DAVE, with(&|spec| spec.royalty_basis_points = 10_001), BadCollection),
        ("royalty to nobody", DAVE, with(&|spec| spec.royalty_receiver = NOBODY), BadCollection),
        ("no royalty, to nobody", DAVE, with(&|spec| { spec.royalty_receiver = NOBODY; spec.royalty_basis_points = 0 }), Accepted),
    ]);
}

#[test]
fn reveal_seed() {
    let reveal = |collection, secret| CommandKind::RevealSeed {
        collection,
        secret: Box::new(secret),
    };
    let mut revealed = world();
    #[rustfmt::skip]
    check(&revealed, vec![
        ("the secret", CREATOR, reveal(1, SECRET), Accepted),
        ("another one", CREATOR, reveal(1, [1; 32]), SeedMismatch),
        ("by another", DAVE, reveal(1, SECRET), NotCreator),
        ("of no collection", CREATOR, reveal(9, SECRET), UnknownCollection),
        ("of collection 0", CREATOR, reveal(0, SECRET), UnknownCollection),
    ]);
    revealed.accept(CREATOR, reveal(1, SECRET));
    assert_eq!(seed_commitment(&SECRET), spec().seed_commitment);
    assert_eq!(revealed.ledger.collection(1).unwrap().secret, Some(SECRET));
    let rows = vec![("again", CREATOR, reveal(1, SECRET), SeedRevealed)];
    check(&revealed, rows);
}

#[test]
fn mint_command() {
    #[rustfmt::skip]
    check(&world(), vec![
        ("owned", CREATOR, mint(1, BOB, &[0, 0]), Accepted),
        ("open for claims", CREATOR, mint(1, NOBODY, &[2, 1]), Accepted),
        ("into no collection", CREATOR, mint(9, BOB, &[0, 0]), UnknownCollection),
        ("by another", DAVE, mint(1, BOB, &[0, 0]), NotCreator),
        ("by an unknown model", CREATOR, mint_of(1, BOB, &[0, 0], [0; 32]), UnknownModel),
        ("by a model not promoted", CREATOR, mint_of(1, BOB, &[0, 0], REGISTERED), ModelNotApproved),
        ("by a retired model", CREATOR, mint_of(1, BOB, &[0, 0], RETIRED), ModelRetired),
        ("by an auditor", CREATOR, mint_of(1, BOB, &[0, 0], AUDITOR), ModelNotApproved),
        ("too few traits", CREATOR, mint(1, BOB, &[0]), TraitsRefused),
        ("too many traits", CREATOR, mint(1, BOB, &[0, 0, 0]), TraitsRefused),
        ("unknown value", CREATOR, mint(1, BOB, &[0, 3]), TraitsRefused),
        ("excluded pair", CREATOR, mint(1, BOB, &[2, 2]), TraitsRefused),
    ]);
}

#[test]
fn revise_command() {
    #[rustfmt::skip]
    check(&world(), vec![
        ("by the owner", BOB, revise(ACTIVE, 1, &[0, 1]), Accepted),
        ("by the creator", CREATOR, revise(ACTIVE, 1, &[0, 1]), Accepted),
        ("while pending", BOB, revise(PENDING, 1, &[0, 1]), Accepted),
        ("while in review", BOB, revise(IN_REVIEW, 1, &[0, 1]), Accepted),
        ("what nobody owns, by the creator", CREATOR, revise(UNOWNED, 1, &[0, 1]), Accepted),
        ("a later version", BOB, revise(REVISED, 2, &[0, 1]), Accepted),
        ("unknown", BOB, revise(NO_ASSET, 1, &[0, 1]), UnknownAsset),
        ("number 0", BOB, revise(0, 1, &[0, 1]), UnknownAsset),
        ("stale", BOB, revise(REVISED, 1, &[0, 1]), StaleVersion),
        ("from the future", BOB, revise(ACTIVE, 2, &[0, 1]), StaleVersion),
        ("by another", DAVE, revise(ACTIVE, 1, &[0, 1]), NotOwner),
        ("frozen", BOB, revise(FROZEN, 1, &[0, 1]), AssetFrozen),
        ("burned", BOB, revise(BURNED, 1, &[0, 1]), AssetEnded),
        ("rejected", BOB, revise(REJECTED, 1, &[0, 1]), AssetEnded),
        ("redeemed", CAROL, revise(REDEEMED, 1, &[0, 1]), AssetEnded),
        ("other collection", BOB, revise_of(ACTIVE, 1, 2, &[0, 1], GENERATOR), UnknownCollection),
        ("retired model", BOB, revise_of(ACTIVE, 1, 1, &[0, 1], RETIRED), ModelRetired),
        ("excluded pair", BOB, revise(ACTIVE, 1, &[2, 2]), TraitsRefused),
    ]);
}

#[test]
fn transfer_command() {
    #[rustfmt::skip]
    check(&world(), vec![
        ("active", BOB, transfer(ACTIVE, 1, CAROL), Accepted),
        ("pending, free to trade", BOB, transfer(FREE, 1, CAROL), Accepted),
        ("pending", BOB, transfer(PENDING, 1, CAROL), NotActive),
        ("in review", BOB, transfer(IN_REVIEW, 1, CAROL), NotActive),
        ("unknown", BOB, transfer(NO_ASSET, 1, CAROL), UnknownAsset),
        ("stale", BOB, transfer(REVISED, 1, CAROL), StaleVersion),
        ("not the owner", CAROL, transfer(ACTIVE, 1, DAVE), NotOwner),
        ("what nobody owns", BOB, transfer(UNOWNED, 1, CAROL), NotOwner),
        ("to nobody", BOB, transfer(ACTIVE, 1, NOBODY), BadReceiver),
        ("to oneself", BOB, transfer(ACTIVE, 1, BOB), BadReceiver),
        ("frozen", BOB, transfer(FROZEN, 1, CAROL), AssetFrozen),
        ("burned", BOB, transfer(BURNED, 1, CAROL), AssetEnded),
        ("redeemed", CAROL, transfer(REDEEMED, 1, BOB), AssetEnded),
    ]);
}

#[test]
fn claim_command() {
    #[rustfmt::skip]
    check(&world(), vec![
        ("active", CAROL, claim(UNOWNED, 1), Accepted),
        ("pending, free to trade", CAROL, claim(FREE_UNOWNED, 1), Accepted),
        ("into a draw", CAROL, claim(DRAWN, 1), Accepted),
        ("owned", CAROL, claim(ACTIVE, 1), AlreadyOwned),
        ("stale", CAROL, claim(UNOWNED, 2), StaleVersion),
        ("unknown", CAROL, claim(NO_ASSET, 1), UnknownAsset),
        ("frozen", CAROL, claim(FROZEN, 1), AssetFrozen),
        ("burned", CAROL, claim(BURNED, 1), AssetEnded),
    ]);
    let mut pending = world();
    let asset = pending.mint(1, NOBODY);
    let rows = vec![("pending", CAROL, claim(asset, 1), NotActive)];
    check(&pending, rows);
}

#[test]
fn exchange_command() {
    let both = || vec![give(ACTIVE, 1, BOB, CAROL), pay(CAROL, BOB, 50)];
    let max = i64::MAX as u64;
    #[rustfmt::skip]
    check(&world(), vec![
        ("asset for currency", BOB, exchange(both(), vec![CAROL]), Accepted),
        ("by a third with both consents", DAVE, exchange(both(), vec![BOB, CAROL]), Accepted),
        ("what is received pays", BOB, exchange(vec![pay(BOB, DAVE, 60), pay(DAVE, CAROL, 60), pay(CAROL, BOB, 60)], vec![CAROL, DAVE]), Accepted),
        ("a gift of everything", BOB, exchange(vec![pay(BOB, DAVE, 100)], vec![]), Accepted),
        ("one short", BOB, exchange(vec![give(ACTIVE, 1, BOB, CAROL), pay(CAROL, BOB, 51)], vec![CAROL]), InsufficientFunds),
        ("in two payments one short", BOB, exchange(vec![pay(CAROL, BOB, 25), pay(CAROL, DAVE, 26)], vec![CAROL]), InsufficientFunds),
        ("from an account that is not known", DAVE, exchange(vec![pay(DAVE, BOB, 1)], vec![]), InsufficientFunds),
        ("no consent", BOB, exchange(both(), vec![]), ConsentMissing),
        ("somebody else's consent", BOB, exchange(both(), vec![DAVE]), ConsentMissing),
        ("nobody consents", BOB, exchange(vec![give(UNOWNED, 1, NOBODY, BOB)], vec![NOBODY]), ConsentMissing),
        ("no legs", BOB, exchange(vec![], vec![]), BadExchange),
        ("65 legs", BOB, exchange(vec![pay(BOB, CAROL, 1); 65], vec![]), BadExchange),
        ("64 legs", BOB, exchange(vec![pay(BOB, CAROL, 1); 64], vec![]), Accepted),
        ("65 consents", BOB, exchange(both(), vec![CAROL; 65]), BadExchange),
        ("an asset twice", BOB, exchange(vec![give(ACTIVE, 1, BOB, CAROL), give(ACTIVE, 1, CAROL, BOB)], vec![CAROL]), BadExchange),
        ("to the giver", BOB, exchange(vec![pay(BOB, BOB, 1)], vec![]), BadExchange),
        ("to nobody", BOB, exchange(vec![pay(BOB, NOBODY, 1)], vec![]), BadReceiver),
        ("nothing paid", BOB, exchange(vec![pay(BOB, CAROL, 0)], vec![]), BadAmount),
        ("an amount past 2^63-1", BOB, exchange(vec![pay(BOB, CAROL, max + 1)], vec![]), BadAmount),
        ("a sum past 2^63-1", BOB, exchange(vec![pay(BOB, CAROL, max), pay(CAROL, BOB, max)], vec![CAROL]), BadAmount),
        ("amounts that would wrap", BOB, exchange(vec![pay(BOB, CAROL, max), pay(BOB, CAROL, max), pay(BOB, CAROL, 3)], vec![]), BadAmount),
        ("not the owner's", CAROL, exchange(vec![give(ACTIVE, 1, CAROL, BOB)], vec![]), NotOwner),
        ("stale", BOB, exchange(vec![give(REVISED, 1, BOB, CAROL)], vec![]), StaleVersion),
        ("pending", BOB, exchange(vec![give(PENDING, 1, BOB, CAROL)], vec![]), NotActive),
        ("pending, free to trade", BOB, exchange(vec![give(FREE, 1, BOB, CAROL)], vec![]), Accepted),
        ("frozen", BOB, exchange(vec![give(FROZEN, 1, BOB, CAROL)], vec![]), AssetFrozen),
        ("ended", BOB, exchange(vec![give(BURNED, 1, BOB, CAROL)], vec![]), AssetEnded),
        ("unknown", BOB, exchange(vec![give(NO_ASSET, 1, BOB, CAROL)], vec![]), UnknownAsset),
        ("a bad leg after good ones", BOB, exchange(vec![give(ACTIVE, 1, BOB, CAROL), pay(CAROL, BOB, 50), give(PENDING, 1, BOB, CAROL)], vec![CAROL]), NotActive),
    ]);
}

#[test]
fn burn_command() {
    #[rustfmt::skip]
    check(&world(), vec![
        ("active", BOB, burn(ACTIVE, 1), Accepted),
        ("pending", BOB, burn(PENDING, 1), Accepted),
        ("in review", BOB, burn(IN_REVIEW, 1), Accepted),
        ("stale", BOB, burn(REVISED, 1), StaleVersion),
        ("not the owner", CREATOR, burn(ACTIVE, 1), NotOwner),
        ("what nobody owns", CREATOR, burn(UNOWNED, 1), NotOwner),
        ("frozen", BOB, burn(FROZEN, 1), AssetFrozen),
        ("again", BOB, burn(BURNED, 1), AssetEnded),
        ("unknown", BOB, burn(NO_ASSET, 1), UnknownAsset),
    ]);
}

#[test]
fn redeem_command() {
    #[rustfmt::skip]
    check(&world(), vec![
        ("to oneself", BOB, redeem(ACTIVE, 1, BOB), Accepted),
        ("to another address", BOB, redeem(ACTIVE, 1, DAVE), Accepted),
        ("to nobody", BOB, redeem(ACTIVE, 1, NOBODY), BadReceiver),
        ("pending", BOB, redeem(PENDING, 1, BOB), NotActive),
        ("pending, free to trade", BOB, redeem(FREE, 1, BOB), NotActive),
        ("in review", BOB, redeem(IN_REVIEW, 1, BOB), NotActive),
        ("stale", BOB, redeem(REVISED, 1, BOB), StaleVersion),
        ("not the owner", DAVE, redeem(ACTIVE, 1, DAVE), NotOwner),
        ("frozen", BOB, redeem(FROZEN, 1, BOB), AssetFrozen),
        ("again", CAROL, redeem(REDEEMED, 1, CAROL), AssetEnded),
        ("unknown", BOB, redeem(NO_ASSET, 1, BOB), UnknownAsset),
    ]);
}

#[test]
fn deposit_and_withdraw() {
    let deposit = |account, amount| CommandKind::Deposit { account, amount };
    let withdraw = |account, amount| CommandKind::Withdraw { account, amount };
    let max = i64::MAX as u64;
    #[rustfmt::skip]
    check(&world(), vec![
        ("deposit", OPERATOR, deposit(DAVE, 1), Accepted),
        ("deposit to the limit", OPERATOR, deposit(DAVE, max - 150), Accepted),
        ("deposit past the limit", OPERATOR, deposit(DAVE, max - 149), BadAmount),
        ("deposit that wraps", OPERATOR, deposit(BOB, u64::MAX), BadAmount),
        ("deposit nothing", OPERATOR, deposit(BOB, 0), BadAmount),
        ("deposit to nobody", OPERATOR, deposit(NOBODY, 1), BadReceiver),
        ("withdraw everything", BOB, withdraw(BOB, 100), Accepted),
        ("withdraw more", BOB, withdraw(BOB, 101), InsufficientFunds),
        ("withdraw nothing", BOB, withdraw(BOB, 0), BadAmount),
        ("withdraw past the limit", BOB, withdraw(BOB, u64::MAX), BadAmount),
        ("withdraw from another", CAROL, withdraw(BOB, 1), NotAllowed),
        ("the operator withdraws", OPERATOR, withdraw(BOB, 1), Accepted),
        ("from an account that is not known", DAVE, withdraw(DAVE, 1), InsufficientFunds),
    ]);
}

#[test]
fn verdict_command() {
    let with = |change: &dyn Fn(&mut Verdict)| {
        let CommandKind::Verdict(mut verdict) = verdict(PENDING, 1, Decision::Accept) else {
            unreachable!()
        };
        change(&mut verdict);
        CommandKind::Verdict(verdict)
    };
    #[rustfmt::skip]
    check(&world(), vec![
        ("accept", VERIFIER, verdict(PENDING, 1, Decision::Accept), Accepted),
        ("reject", VERIFIER, verdict(PENDING, 1, Decision::Reject), Accepted),
        ("review", VERIFIER, verdict(PENDING, 1, Decision::Review), Accepted),
        ("unknown", VERIFIER, verdict(NO_ASSET, 1, Decision::Accept), UnknownAsset),
        ("another version", VERIFIER, verdict(PENDING, 2, Decision::Accept), VerdictVoid),
        ("judged before", VERIFIER, verdict(ACTIVE, 1, Decision::Accept), VerdictVoid),
        ("in review", VERIFIER, verdict(IN_REVIEW, 1, Decision::Accept), VerdictVoid),
        ("burned", VERIFIER, verdict(BURNED, 1, Decision::Accept), VerdictVoid),
        ("frozen", VERIFIER, verdict(FROZEN, 1, Decision::Accept), AssetFrozen),
        ("older policy", VERIFIER, with(&|verdict| verdict.policy_version = 0), StalePolicy),
        ("newer policy", VERIFIER, with(&|verdict| verdict.policy_version = 2), StalePolicy),
        ("score past the whole", VERIFIER, with(&|verdict| verdict.corruption_ppm = 1_000_001), BadVerdict),
        ("17 findings", VERIFIER, with(&|verdict| verdict.findings = vec![verdict.findings[0]; 17]), BadVerdict),
        ("16 findings", VERIFIER, with(&|verdict| verdict.findings = vec![verdict.findings[0]; 16]), Accepted),
    ]);
}

#[test]
fn review_decision_command() {
    let talkative = CommandKind::ReviewDecision {
        asset: IN_REVIEW,
        version: 1,
        accepted: true,
        reason: long(257),
    };
    #[rustfmt::skip]
    check(&world(), vec![
        ("accept", OPERATOR, review(IN_REVIEW, 1, true), Accepted),
        ("reject", OPERATOR, review(IN_REVIEW, 1, false), Accepted),
        ("a long reason", OPERATOR, talkative, TextTooLong),
        ("another version", OPERATOR, review(IN_REVIEW, 2, true), StaleVersion),
        ("not in review", OPERATOR, review(PENDING, 1, true), NotInReview),
        ("frozen", OPERATOR, review(FROZEN, 1, true), AssetFrozen),
        ("ended", OPERATOR, review(REJECTED, 1, true), AssetEnded),
        ("unknown", OPERATOR, review(NO_ASSET, 1, true), UnknownAsset),
    ]);
}

#[test]
fn model_commands() {
    let register = |digest, name: &str| register_model(digest, name.into(), ModelRole::Generator);
    let promote = |digest| CommandKind::PromoteModel { digest };
    let retire = |digest| CommandKind::RetireModel { digest };
    #[rustfmt::skip]
    check(&world(), vec![
        ("register", OPERATOR, register([99; 32], "new"), Accepted),
        ("register again", OPERATOR, register(GENERATOR, "new"), ModelExists),
        ("register a retired one", OPERATOR, register(RETIRED, "new"), ModelExists),
        ("a long name", OPERATOR, register([99; 32], &long(65)), TextTooLong),
        ("promote", OPERATOR, promote(REGISTERED), Accepted),
        ("promote again", OPERATOR, promote(GENERATOR), ModelExists),
        ("promote a retired one", OPERATOR, promote(RETIRED), ModelRetired),
        ("promote an unknown one", OPERATOR, promote([99; 32]), UnknownModel),
        ("retire", OPERATOR, retire(GENERATOR), Accepted),
        ("retire before promotion", OPERATOR, retire(REGISTERED), Accepted),
        ("retire again", OPERATOR, retire(RETIRED), ModelRetired),
        ("retire an unknown one", OPERATOR, retire([99; 32]), UnknownModel),
    ]);
}

#[test]
fn set_policy_command() {
    let with = |change: &dyn Fn(&mut Policy)| {
        let mut policy = Policy {
            version: 2,
            ..policy()
        };
        change(&mut policy);
        CommandKind::SetPolicy(Box::new(policy))
    };
    #[rustfmt::skip]
    check(&world(), vec![
        ("next version", OPERATOR, with(&|_| ()), Accepted),
        ("the same version", OPERATOR, with(&|policy| policy.version = 1), BadPolicy),
        ("a version left out", OPERATOR, with(&|policy| policy.version = 3), BadPolicy),
        ("thresholds crossed", OPERATOR, with(&|policy| policy.accept_below_ppm = 700_001), BadPolicy),
        ("thresholds equal", OPERATOR, with(&|policy| policy.accept_below_ppm = 700_000), Accepted),
        ("threshold past the whole", OPERATOR, with(&|policy| policy.reject_above_ppm = 1_000_001), BadPolicy),
        ("sample past the whole", OPERATOR, with(&|policy| policy.reexecution_sample_ppm = 1_000_001), BadPolicy),
        ("batches of nothing", OPERATOR, with(&|policy| policy.batch_changes_max = 0), BadPolicy),
        ("batches past the limit", OPERATOR, with(&|policy| policy.batch_changes_max = 65_537), BadPolicy),
        ("nearness and drift at their largest", OPERATOR, with(&|policy| {
            policy.near_duplicate_below_ppm = 16_000_000;
            policy.drift_review_above_ppm = 16_000_000;
        }), Accepted),
        ("nearness past the largest", OPERATOR, with(&|policy| policy.near_duplicate_below_ppm = 16_000_001), BadPolicy),
        ("drift past the largest", OPERATOR, with(&|policy| policy.drift_review_above_ppm = 16_000_001), BadPolicy),
        ("a window past the memory", OPERATOR, with(&|policy| policy.retry_window_commands = 8_000_001), BadPolicy),
    ]);
}

#[test]
fn freeze_and_unfreeze() {
    let unfreeze = |asset| CommandKind::Unfreeze { asset };
    let reason = long(257);
    #[rustfmt::skip]
    check(&world(), vec![
        ("freeze", OPERATOR, freeze(ACTIVE), Accepted),
        ("freeze a pending one", OPERATOR, freeze(PENDING), Accepted),
        ("freeze again", OPERATOR, freeze(FROZEN), AssetFrozen),
        ("freeze what ended", OPERATOR, freeze(BURNED), AssetEnded),
        ("freeze the unknown", OPERATOR, freeze(NO_ASSET), UnknownAsset),
        ("freeze at length", OPERATOR, CommandKind::Freeze { asset: ACTIVE, reason }, TextTooLong),
        ("unfreeze", OPERATOR, unfreeze(FROZEN), Accepted),
        ("unfreeze what is not", OPERATOR, unfreeze(ACTIVE), NotFrozen),
        ("unfreeze what ended", OPERATOR, unfreeze(BURNED), AssetEnded),
        ("unfreeze the unknown", OPERATOR, unfreeze(NO_ASSET), UnknownAsset),
    ]);
}

#[test]
fn freezing_keeps_the_state_beneath() {
    let mut world = world();
    for (asset, state) in [
        (PENDING, AssetState::Pending),
        (IN_REVIEW, AssetState::InReview),
        (ACTIVE, AssetState::Active),
    ] {
        world.accept(OPERATOR, freeze(asset));
        let view = world.ledger.asset(asset).unwrap();
        assert_eq!(
            (view.state, view.frozen_from),
            (AssetState::Frozen, Some(state))
        );
        world.accept(OPERATOR, CommandKind::Unfreeze { asset });
        assert_eq!(world.kinds(), vec![EventKind::Unfrozen { asset, state }]);
        assert_eq!(world.ledger.asset(asset).unwrap().state, state);
    }
}

/// What is due for settlement, as the last command's events say.
fn due(world: &World) -> Vec<(u64, Account, u32, LeafKind)> {
    let as_due = |kind: EventKind| match kind {
        EventKind::SettlementDue {
            asset,
            owner,
            version,
            kind,
            ..
        } => Some((asset, owner, version, kind)),
        _ => None,
    };
    world.kinds().into_iter().filter_map(as_due).collect()
}

#[test]
fn a_settled_form_is_due_when_what_a_leaf_says_changes() {
    let mut world = world();
    let id = world.mint(1, BOB);
    assert_eq!(due(&world), vec![], "pending assets of it do not settle");
    world.judge(id, Decision::Accept);
    assert_eq!(due(&world), vec![(id, BOB, 1, LeafKind::Held)]);
    world.accept(BOB, transfer(id, 1, CAROL));
    assert_eq!(due(&world), vec![(id, CAROL, 1, LeafKind::Held)]);
    world.accept(CREATOR, revise(id, 1, &[0, 1]));
    assert_eq!(due(&world), vec![], "until a verdict accepts the version");
    world.judge(id, Decision::Review);
    assert_eq!(due(&world), vec![]);
    world.accept(OPERATOR, review(id, 2, true));
    assert_eq!(due(&world), vec![(id, CAROL, 2, LeafKind::Held)]);
    world.accept(CAROL, redeem(id, 2, DAVE));
    assert_eq!(due(&world), vec![(id, DAVE, 2, LeafKind::Redeemed)]);

    let free = world.mint(2, BOB);
    assert_eq!(due(&world), vec![(free, BOB, 1, LeafKind::Held)]);
    world.accept(BOB, transfer(free, 1, CAROL));
    assert_eq!(due(&world), vec![(free, CAROL, 1, LeafKind::Held)]);
    world.judge(free, Decision::Accept);
    assert_eq!(due(&world), vec![], "a leaf says nothing of a verdict");
    world.accept(CREATOR, revise_of(free, 1, 2, &[0, 1], GENERATOR));
    assert_eq!(due(&world), vec![(free, CAROL, 2, LeafKind::Held)]);
    world.judge(free, Decision::Reject);
    assert_eq!(due(&world), vec![(free, NOBODY, 2, LeafKind::Burned)]);

    world.accept(BOB, burn(PENDING, 1));
    assert_eq!(due(&world), vec![], "no leaf ever named it");
    world.accept(BOB, burn(ACTIVE, 1));
    assert_eq!(due(&world), vec![(ACTIVE, NOBODY, 1, LeafKind::Burned)]);
}

#[test]
fn an_exchange_moves_everything_in_the_order_of_its_legs() {
    let mut world = world();
    let legs = vec![
        pay(CAROL, BOB, 50),
        give(ACTIVE, 1, BOB, CAROL),
        give(REVISED, 2, BOB, DAVE),
    ];
    world.accept(BOB, exchange(legs, vec![CAROL]));
    let moved: Vec<EventKind> = world
        .kinds()
        .into_iter()
        .filter(|kind| !matches!(kind, EventKind::SettlementDue { .. }))
        .collect();
    let transferred = |asset, version, to| EventKind::Transferred {
        asset,
        version,
        from: BOB,
        to,
        cause: TransferCause::Exchange,
    };
    assert_eq!(
        moved,
        vec![
            EventKind::CurrencyMoved {
                from: CAROL,
                to: BOB,
                amount: 50
            },
            transferred(ACTIVE, 1, CAROL),
            transferred(REVISED, 2, DAVE),
        ]
    );
    assert_eq!(world.ledger.balance(&BOB), 150);
    assert_eq!(world.ledger.balance(&CAROL), 0);
    assert_eq!(world.ledger.asset(ACTIVE).unwrap().owner, CAROL);
    assert_eq!(world.ledger.asset(REVISED).unwrap().owner, DAVE);
}

#[test]
fn a_value_cap_holds_for_mints_and_revisions_and_burning_frees_nothing() {
    let mut world = world();
    let capped = CollectionSpec {
        supply_cap: 3,
        value_caps: vec![ValueCap {
            trait_index: 0,
            value: 1,
            most: 1,
        }],
        ..free(ClaimRule::First)
    };
    let collection = world.accept(CREATOR, create(capped)) as u32;
    let rare = world.accept(CREATOR, mint(collection, BOB, &[1, 0]));
    let refused = world.send(CREATOR, mint(collection, BOB, &[1, 0]));
    assert_eq!(refused.code, ValueCapReached);
    let plain = world.accept(CREATOR, mint(collection, BOB, &[0, 0]));
    let to_rare = |version| revise_of(plain, version, collection, &[1, 0], GENERATOR);
    assert_eq!(world.send(BOB, to_rare(1)).code, ValueCapReached);
    // The rare one keeps its value through a revision, gives it up by another, and the plain one may have it.
    world.accept(BOB, revise_of(rare, 1, collection, &[1, 1], GENERATOR));
    world.accept(BOB, revise_of(rare, 2, collection, &[0, 1], GENERATOR));
    world.accept(BOB, to_rare(1));
    let view = world.ledger.collection(collection).unwrap();
    assert_eq!([0, 1, 2].map(|value| view.value_count(0, value)), [1, 1, 0]);
    world.accept(BOB, burn(plain, 2));
    assert_eq!(
        world.send(CREATOR, mint(collection, BOB, &[1, 0])).code,
        ValueCapReached
    );
    world.accept(CREATOR, mint(collection, BOB, &[0, 0]));
    assert_eq!(
        world.send(CREATOR, mint(collection, BOB, &[0, 0])).code,
        SupplyCapReached
    );
}
