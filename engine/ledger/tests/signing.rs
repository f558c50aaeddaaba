//! Signed models: what is refused, what a demand for signatures holds back, and that all of it replays.

#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use karat_ledger::codec::{decode_event, encode_event};
use karat_ledger::{Ledger, ModelState};
use karat_proto::Code::{self, *};
use karat_proto::Digest;
use karat_proto::command::*;
use karat_proto::event::EventKind;
use karat_proto::signing::{ModelKey, ModelSignature, SigningKey};
use proptest::prelude::*;
use std::collections::BTreeMap;

const MODEL: Digest = [70; 32];
const NAME: &str = "relics 1.0.0";
const ROLE: ModelRole = ModelRole::Generator;

fn secret(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn key(number: u8) -> ModelKey {
    secret(number).verifying_key().to_bytes()
}

fn signed(number: u8) -> Option<ModelSignature> {
    Some(ModelSignature::make(&secret(number), &MODEL, ROLE, NAME))
}

fn register(signature: Option<ModelSignature>) -> CommandKind {
    CommandKind::RegisterModel(Box::new(RegisterModel {
        digest: MODEL,
        name: NAME.into(),
        role: ROLE,
        signature,
    }))
}

fn promote(digest: Digest) -> CommandKind {
    CommandKind::PromoteModel { digest }
}

/// The next policy, with these keys and this demand.
fn keys(ledger: &Ledger, model_keys: Vec<ModelKey>, require_signed_models: bool) -> CommandKind {
    let now = ledger.policy().unwrap();
    CommandKind::SetPolicy(Box::new(Policy {
        version: now.version + 1,
        model_keys,
        require_signed_models,
        ..now.clone()
    }))
}

/// A world whose policy takes the signatures of keys 1 and 2.
fn demanding(require: bool) -> World {
    let mut world = world();
    let kind = keys(&world.ledger, vec![key(1), key(2)], require);
    world.accept(OPERATOR, kind);
    world
}

fn codes(world: &World, kinds: Vec<(&str, CommandKind, Code)>) {
    for (what, kind, expected) in kinds {
        let mut world = world.clone();
        let before = world.ledger.counts().models;
        let outcome = world.send(OPERATOR, kind);
        assert_eq!(outcome.code, expected, "{what}");
        if expected != Accepted {
            assert_eq!(world.ledger.counts().models, before, "{what}");
            assert!(world.events.is_empty(), "{what}");
        }
    }
}

#[test]
fn a_demand_refuses_what_is_unsigned_and_what_strangers_signed() {
    let mut forged = signed(1).unwrap();
    forged.signature[3] ^= 1;
    codes(
        &demanding(true),
        vec![
            ("unsigned", register(None), ModelUnsigned),
            ("a stranger's", register(signed(3)), ModelKeyUnknown),
            ("forged", register(Some(forged)), ModelSignatureBad),
            ("by the first key", register(signed(1)), Accepted),
            ("by the second key", register(signed(2)), Accepted),
            ("promote unsigned", promote(REGISTERED), ModelUnsigned),
            (
                "retire",
                CommandKind::RetireModel { digest: REGISTERED },
                Accepted,
            ),
        ],
    );
}

#[test]
fn a_signature_that_is_given_is_checked_without_a_demand_too() {
    let mut forged = signed(1).unwrap();
    forged.signature[3] ^= 1;
    codes(
        &demanding(false),
        vec![
            ("unsigned", register(None), Accepted),
            ("a stranger's", register(signed(3)), ModelKeyUnknown),
            ("forged", register(Some(forged)), ModelSignatureBad),
            ("signed", register(signed(1)), Accepted),
            ("promote unsigned", promote(REGISTERED), Accepted),
        ],
    );
    // While nobody said whose word counts, any right signature is taken and remembered.
    codes(
        &world(),
        vec![
            ("anybody's", register(signed(3)), Accepted),
            ("forged", register(Some(forged)), ModelSignatureBad),
        ],
    );
}

#[test]
fn the_model_remembers_who_signed_it_and_events_say_so() {
    let mut world = demanding(true);
    world.accept(OPERATOR, register(signed(2)));
    assert_eq!(
        world.kinds(),
        vec![
            EventKind::ModelRegistered {
                digest: MODEL,
                name: NAME.into(),
                role: ROLE
            },
            EventKind::ModelSigned {
                digest: MODEL,
                key: key(2)
            },
        ]
    );
    assert_eq!(world.ledger.model(&MODEL).unwrap().signed_by, Some(key(2)));
    world.accept(OPERATOR, promote(MODEL));
}

#[test]
fn a_key_that_is_no_longer_listed_promotes_nothing() {
    let mut world = demanding(true);
    world.accept(OPERATOR, register(signed(2)));
    let kind = keys(&world.ledger, vec![key(1)], true);
    world.accept(OPERATOR, kind);
    assert_eq!(world.send(OPERATOR, promote(MODEL)).code, ModelKeyUnknown);
    // Signed again by a key that is listed, it can be.
    world.accept(OPERATOR, register(signed(1)));
    assert_eq!(
        world.kinds(),
        vec![EventKind::ModelSigned {
            digest: MODEL,
            key: key(1)
        }]
    );
    assert_eq!(world.send(OPERATOR, register(signed(1))).code, ModelExists);
    world.accept(OPERATOR, promote(MODEL));
}

#[test]
fn a_model_registered_before_the_demand_can_be_signed_after_it() {
    let mut world = world();
    world.accept(OPERATOR, register(None));
    let kind = keys(&world.ledger, vec![key(1)], true);
    world.accept(OPERATOR, kind);
    assert_eq!(world.send(OPERATOR, promote(MODEL)).code, ModelUnsigned);
    let renamed = ModelSignature::make(&secret(1), &MODEL, ROLE, "other 1");
    let other_name = CommandKind::RegisterModel(Box::new(RegisterModel {
        digest: MODEL,
        name: "other 1".into(),
        role: ROLE,
        signature: Some(renamed),
    }));
    assert_eq!(world.send(OPERATOR, other_name).code, ModelExists);
    world.accept(OPERATOR, register(signed(1)));
    world.accept(OPERATOR, promote(MODEL));
    // What was approved before the demand goes on minting until it is retired.
    world.accept(CREATOR, mint(1, BOB, &[0, 0]));
}

#[test]
fn a_retired_model_gains_no_signature() {
    let mut world = demanding(false);
    world.accept(OPERATOR, register(None));
    world.accept(OPERATOR, CommandKind::RetireModel { digest: MODEL });
    assert_eq!(world.send(OPERATOR, register(signed(1))).code, ModelExists);
}

#[test]
fn a_policy_lists_only_keys_that_can_sign() {
    let world = demanding(false);
    let ledger = &world.ledger;
    let many = |count: u8| (1..=count).map(key).collect::<Vec<_>>();
    let (mut identity, mut no_point) = ([0; 32], [0; 32]);
    (identity[0], no_point[0]) = (1, 2);
    codes(
        &world,
        vec![
            ("none", keys(ledger, vec![], false), Accepted),
            ("sixteen", keys(ledger, many(16), true), Accepted),
            ("seventeen", keys(ledger, many(17), true), BadModelKeys),
            (
                "twice",
                keys(ledger, vec![key(1), key(2), key(1)], true),
                BadModelKeys,
            ),
            ("weak", keys(ledger, vec![identity], false), BadModelKeys),
            (
                "no point",
                keys(ledger, vec![no_point], false),
                BadModelKeys,
            ),
            (
                "a demand nobody can meet",
                keys(ledger, vec![], true),
                BadModelKeys,
            ),
        ],
    );
    let opened = Genesis {
        policy: Policy {
            require_signed_models: true,
            ..policy()
        },
        ..genesis(policy())
    };
    let mut empty = World::empty();
    let outcome = empty.send(OPERATOR, CommandKind::Genesis(Box::new(opened)));
    assert_eq!(outcome.code, BadModelKeys);
}

/// What is altered of a signed registration before it is sent.
#[derive(Clone, Copy, Debug)]
enum Altered {
    Nothing,
    Bit(usize),
    Role,
    Name,
}

#[derive(Clone, Debug)]
enum Step {
    Register {
        model: u8,
        name: bool,
        signer: Option<u8>,
        altered: Altered,
    },
    Promote(u8),
    Retire(u8),
    Policy {
        keys: u8,
        require: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let altered = prop_oneof![
        6 => Just(Altered::Nothing),
        2 => (0..(32 + 32 + 64) * 8_usize).prop_map(Altered::Bit),
        1 => Just(Altered::Role),
        1 => Just(Altered::Name),
    ];
    prop_oneof![
        6 => (0..3_u8, prop::bool::weighted(0.9), prop::option::weighted(0.8, 1..4_u8), altered)
            .prop_map(|(model, name, signer, altered)| Step::Register { model, name, signer, altered }),
        3 => (0..3_u8).prop_map(Step::Promote),
        1 => (0..3_u8).prop_map(Step::Retire),
        2 => (0..8_u8, any::<bool>()).prop_map(|(keys, require)| Step::Policy { keys, require }),
    ]
}

fn name_of(first: bool) -> &'static str {
    if first { "first 1" } else { "second 1" }
}

/// The command of a step, and whether its signature, if it has one, is right.
fn command(ledger: &Ledger, step: &Step) -> (CommandKind, bool) {
    match step {
        Step::Promote(model) => (promote([*model; 32]), false),
        Step::Retire(model) => {
            let digest = [*model; 32];
            (CommandKind::RetireModel { digest }, false)
        }
        Step::Policy {
            keys: listed,
            require,
        } => {
            let listed = (1..4).filter(|number| listed >> (number - 1) & 1 == 1);
            (keys(ledger, listed.map(key).collect(), *require), false)
        }
        Step::Register {
            model,
            name,
            signer,
            altered,
        } => {
            let (mut digest, mut role) = ([*model; 32], ROLE);
            let mut name = name_of(*name).to_owned();
            let mut signature =
                signer.map(|number| ModelSignature::make(&secret(number), &digest, role, &name));
            match (*altered, &mut signature) {
                (Altered::Nothing, _) => {}
                (Altered::Role, _) => role = ModelRole::Auditor,
                (Altered::Name, _) => name.push('0'),
                (Altered::Bit(place), signature) => {
                    let bit = 1 << (place % 8);
                    match (place / 8, signature) {
                        (byte @ 0..32, _) => digest[byte] ^= bit,
                        (byte @ 32..64, Some(signature)) => signature.key[byte - 32] ^= bit,
                        (byte, Some(signature)) => signature.signature[byte - 64] ^= bit,
                        _ => {}
                    }
                }
            }
            let right = matches!(altered, Altered::Nothing);
            let kind = CommandKind::RegisterModel(Box::new(RegisterModel {
                digest,
                name,
                role,
                signature,
            }));
            (kind, right)
        }
    }
}

/// The rules once more, as sentences over plain maps.
#[derive(Clone, Default)]
struct Plain {
    keys: Vec<ModelKey>,
    require: bool,
    models: BTreeMap<Digest, (String, ModelRole, ModelState, Option<ModelKey>)>,
}

impl Plain {
    fn counts(&self, signer: &Option<ModelKey>) -> Code {
        match signer {
            None => ModelUnsigned,
            Some(key) if self.keys.is_empty() || self.keys.contains(key) => Accepted,
            Some(_) => ModelKeyUnknown,
        }
    }

    fn apply(&mut self, kind: &CommandKind, right: bool) -> Code {
        match kind {
            CommandKind::SetPolicy(policy) => {
                if policy.require_signed_models && policy.model_keys.is_empty() {
                    return BadModelKeys;
                }
                self.keys = policy.model_keys.clone();
                self.require = policy.require_signed_models;
                Accepted
            }
            CommandKind::RegisterModel(model) => {
                let RegisterModel {
                    digest,
                    name,
                    role,
                    signature,
                } = &**model;
                let signer = signature.map(|signature| signature.key);
                match self.counts(&signer) {
                    ModelUnsigned if !self.require => {}
                    Accepted if right => {}
                    Accepted => return ModelSignatureBad,
                    code => return code,
                }
                let Some(known) = self.models.get(digest).cloned() else {
                    let model = (name.clone(), *role, ModelState::Registered, signer);
                    self.models.insert(*digest, model);
                    return Accepted;
                };
                let (known_name, known_role, state, known_signer) = known;
                let adds = signer.is_some() && self.counts(&known_signer) != Accepted;
                if !adds
                    || known_name != *name
                    || known_role != *role
                    || state == ModelState::Retired
                {
                    return ModelExists;
                }
                self.models
                    .insert(*digest, (known_name, *role, state, signer));
                Accepted
            }
            CommandKind::PromoteModel { digest } => {
                let Some((_, _, state, signer)) = self.models.get(digest).cloned() else {
                    return UnknownModel;
                };
                match state {
                    ModelState::Approved => return ModelExists,
                    ModelState::Retired => return ModelRetired,
                    ModelState::Registered => {}
                }
                if self.require && self.counts(&signer) != Accepted {
                    return self.counts(&signer);
                }
                self.models.get_mut(digest).unwrap().2 = ModelState::Approved;
                Accepted
            }
            CommandKind::RetireModel { digest } => match self.models.get_mut(digest) {
                None => UnknownModel,
                Some((_, _, ModelState::Retired, _)) => ModelRetired,
                Some((_, _, state, _)) => {
                    *state = ModelState::Retired;
                    Accepted
                }
            },
            other => panic!("{other:?} is no step"),
        }
    }
}

fn snapshot(ledger: &Ledger) -> Vec<u8> {
    let mut bytes = Vec::new();
    ledger.write_snapshot(&mut bytes).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_registry_does_what_its_rules_say_and_replays_from_any_snapshot(
        steps in prop::collection::vec(step(), 1..60),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut world = World::with_policy(policy());
        let mut plain = Plain::default();
        let mut resumed = None;
        let cut = cut.index(steps.len());
        for (place, step) in steps.iter().enumerate() {
            if place == cut {
                let bytes = snapshot(&world.ledger);
                let read = Ledger::read_snapshot(&mut bytes.as_slice()).unwrap();
                prop_assert_eq!(snapshot(&read), bytes);
                resumed = Some(World { ledger: read, ..world.clone() });
            }
            let (kind, right) = command(&world.ledger, step);
            let expected = plain.apply(&kind, right);
            let outcome = world.send(OPERATOR, kind.clone());
            prop_assert_eq!(outcome.code, expected, "{:?}", step);
            for event in &world.events {
                let mut bytes = Vec::new();
                encode_event(event, &mut bytes);
                prop_assert_eq!(decode_event(&bytes), Ok((event.clone(), bytes.len())));
            }
            if let Some(resumed) = &mut resumed {
                prop_assert_eq!(resumed.send(OPERATOR, kind), outcome);
            }
            for (digest, (name, role, state, signer)) in &plain.models {
                let model = world.ledger.model(digest).unwrap();
                prop_assert_eq!((&model.name, model.role, model.state), (name, *role, *state));
                prop_assert_eq!(&model.signed_by, signer);
            }
            prop_assert_eq!(world.ledger.counts().models as usize, plain.models.len());
        }
        let resumed = resumed.unwrap();
        prop_assert_eq!(resumed.ledger.digest(), world.ledger.digest());
        prop_assert_eq!(resumed.ledger.state_digest(), world.ledger.state_digest());
        // Only a state that needs the newer format has it.
        let policy = world.ledger.policy().unwrap();
        let newer = policy.require_signed_models
            || !policy.model_keys.is_empty()
            || world.ledger.models().any(|model| model.signed_by.is_some());
        prop_assert_eq!(snapshot(&world.ledger)[8], if newer { 2 } else { 1 });
    }

    #[test]
    fn a_flipped_bit_of_a_registration_is_refused(place in 0..(32 + 32 + 64) * 8_usize) {
        let mut world = demanding(true);
        let step = Step::Register { model: 70, name: true, signer: Some(1), altered: Altered::Bit(place) };
        let (kind, _) = command(&world.ledger, &step);
        let code = world.send(OPERATOR, kind).code;
        prop_assert!(matches!(code, ModelKeyUnknown | ModelSignatureBad), "{code:?}");
    }
}

/// The digests of a fixed list of signed registrations. A change here means that such logs replay differently: the message
/// that is signed, the format of events or snapshots, or a rule, changed. Debug and release builds must both give these.
#[test]
fn a_fixed_list_of_signed_registrations_gives_the_digests_of_old() {
    let mut world = demanding(true);
    world.accept(OPERATOR, register(signed(1)));
    world.accept(OPERATOR, promote(MODEL));
    world.send(OPERATOR, register(signed(3)));
    let kind = keys(&world.ledger, vec![key(2)], true);
    world.accept(OPERATOR, kind);
    world.accept(OPERATOR, register(signed(2)));
    let hex =
        |digest: Digest| -> String { digest.iter().map(|byte| format!("{byte:02x}")).collect() };
    let found = format!(
        "events {}\nstate {}\n",
        hex(world.ledger.digest()),
        hex(world.ledger.state_digest())
    );
    assert_eq!(found, include_str!("golden/signed_digests.txt"));
}
