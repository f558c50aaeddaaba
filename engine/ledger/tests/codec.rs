//! Canonical bytes: whatever is written is read back, and whatever is damaged is refused without a panic.

#![allow(clippy::unwrap_used)]

mod common;

use common::spec;
use karat_ledger::RETRY_ENTRIES_MAX;
use karat_ledger::codec::{CodecError, decode_event, decode_outcome, encode_event, encode_outcome};
use karat_proto::command::*;
use karat_proto::event::*;
use karat_proto::{Account, Code, CommandId, Digest};
use proptest::prelude::*;

/// Values from a seed; different for each call.
struct Values(u64);

impl Values {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 ^ (self.0 >> 33)
    }
    fn short(&mut self) -> u32 {
        self.next() as u32
    }
    fn absent_or_short(&mut self) -> u32 {
        match self.flag() {
            true => self.short(),
            false => 0,
        }
    }
    fn flag(&mut self) -> bool {
        self.next().is_multiple_of(2)
    }
    fn digest(&mut self) -> Digest {
        std::array::from_fn(|_| self.next() as u8)
    }
    fn account(&mut self) -> Account {
        Account(std::array::from_fn(|_| self.next() as u8))
    }
    fn id(&mut self) -> CommandId {
        CommandId(std::array::from_fn(|_| self.next() as u8))
    }
    fn text(&mut self) -> String {
        let length = self.next() % 20;
        (0..length)
            .map(|_| char::from_u32(self.short() % 0xd000).unwrap_or('x'))
            .collect()
    }
    fn winner(&mut self) -> Option<Winner> {
        let winner = Winner {
            id: self.id(),
            sequence: self.next(),
        };
        self.flag().then_some(winner)
    }
    fn content(&mut self) -> Content {
        Content {
            digest: self.digest(),
            size: self.short(),
        }
    }
    fn traits(&mut self) -> Traits {
        let length = self.next() % 17;
        let values: Vec<u8> = (0..length).map(|_| self.next() as u8).collect();
        Traits::new(&values).unwrap()
    }
    fn lineage(&mut self) -> Lineage {
        Lineage {
            model: self.digest(),
            variant: self.text(),
            seed: self.digest(),
            hash: self.digest(),
        }
    }
    fn made(&mut self) -> Box<Made> {
        Box::new(Made {
            content: self.content(),
            traits: self.traits(),
            lineage: self.lineage(),
            metadata: self.digest(),
        })
    }
    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.next() as usize % all.len()]
    }
    fn decision(&mut self) -> Decision {
        self.one_of(&[Decision::Accept, Decision::Reject, Decision::Review])
    }
    fn state(&mut self) -> AssetState {
        self.one_of(&[
            AssetState::Pending,
            AssetState::Active,
            AssetState::Rejected,
            AssetState::InReview,
            AssetState::Frozen,
            AssetState::Redeemed,
            AssetState::Burned,
        ])
    }
    fn findings(&mut self) -> Vec<Finding> {
        let length = self.next() % 17;
        (0..length)
            .map(|_| Finding {
                agent: self.one_of(&[
                    AgentKind::Integrity,
                    AgentKind::Policy,
                    AgentKind::Parity,
                    AgentKind::ReExecution,
                    AgentKind::Similarity,
                ]),
                code: self.next() as u16,
                measure: self.short(),
            })
            .collect()
    }
    fn spec(&mut self) -> CollectionSpec {
        CollectionSpec {
            name: self.text(),
            supply_cap: self.next(),
            value_caps: vec![ValueCap {
                trait_index: self.next() as u8,
                value: self.next() as u8,
                most: self.short(),
            }],
            claim_rule: match self.flag() {
                true => ClaimRule::First,
                false => ClaimRule::Draw {
                    window_ms: self.next(),
                },
            },
            pending_rule: PendingRule {
                trade: self.flag(),
                settle: self.flag(),
                show: self.flag(),
            },
            ..spec()
        }
    }
    fn policy(&mut self) -> Policy {
        Policy {
            version: self.short(),
            accept_below_ppm: self.short(),
            reject_above_ppm: self.short(),
            reexecution_sample_ppm: self.short(),
            batch_changes_max: self.short(),
            batch_age_ms_max: self.next(),
            batch_base_fee_wei_max: self.next(),
            batch_deferral_ms_max: self.next(),
            // The ledger lets no larger window in.
            retry_window_commands: self.next() % RETRY_ENTRIES_MAX,
            near_duplicate_below_ppm: self.absent_or_short(),
            drift_review_above_ppm: self.absent_or_short(),
            model_keys: {
                let length = self.next() % 4;
                (0..length).map(|_| self.digest()).collect()
            },
            require_signed_models: self.flag(),
        }
    }

    /// One event kind of each.
    #[rustfmt::skip]
    fn kinds(&mut self) -> Vec<EventKind> {
        let v = self;
        let cause = v.one_of(&[TransferCause::Transfer, TransferCause::Claim, TransferCause::Exchange]);
        let leaf = v.one_of(&[LeafKind::Held, LeafKind::Burned, LeafKind::Redeemed]);
        let role = v.one_of(&[ModelRole::Generator, ModelRole::Auditor]);
        vec![
            EventKind::RealmOpened { opened: Box::new(RealmOpened { realm: v.text(), operator: v.account(), verifier: v.account(), settler: v.account() }) },
            EventKind::CollectionCreated { collection: v.short(), creator: v.account(), spec: Box::new(v.spec()) },
            EventKind::SeedRevealed { collection: v.short(), secret: v.digest() },
            EventKind::Minted { asset: v.next(), collection: v.short(), owner: v.account(), made: v.made() },
            EventKind::Revised { asset: v.next(), version: v.short(), made: v.made() },
            EventKind::Transferred { asset: v.next(), version: v.short(), from: v.account(), to: v.account(), cause },
            EventKind::ClaimEntered { asset: v.next(), account: v.account(), closes_ms: v.next() },
            EventKind::ClaimLost { asset: v.next(), account: v.account(), command: v.id(), winner: v.winner() },
            EventKind::CurrencyMoved { from: v.account(), to: v.account(), amount: v.next() },
            EventKind::Deposited { account: v.account(), amount: v.next() },
            EventKind::Withdrawn { account: v.account(), amount: v.next() },
            EventKind::Burned { asset: v.next() },
            EventKind::Redeemed { asset: v.next(), to: v.account() },
            EventKind::Verified { asset: v.next(), version: v.short(), decision: v.decision(), corruption_ppm: v.short(), findings: v.findings(), state: v.state() },
            EventKind::Reviewed { asset: v.next(), version: v.short(), accepted: v.flag(), reviewer: v.account(), reason: v.text() },
            EventKind::Frozen { asset: v.next(), reason: v.text() },
            EventKind::Unfrozen { asset: v.next(), state: v.state() },
            EventKind::ModelRegistered { digest: v.digest(), name: v.text(), role },
            EventKind::ModelSigned { digest: v.digest(), key: v.digest() },
            EventKind::ModelPromoted { digest: v.digest() },
            EventKind::ModelRetired { digest: v.digest() },
            EventKind::PolicySet { policy: Box::new(v.policy()) },
            EventKind::Paused { paused: v.flag() },
            EventKind::SettlementDue { asset: v.next(), collection: v.short(), owner: v.account(), version: v.short(), metadata: v.digest(), kind: leaf },
            EventKind::BatchCut { number: v.next(), first_sequence: v.next(), last_sequence: v.next(), changes: v.short() },
            EventKind::BatchSealed { number: v.next(), root: v.digest(), payload: v.digest(), leaves: v.short() },
            EventKind::BatchCommitted { number: v.next(), transaction: v.digest(), chain_block: v.next(), gas_used: v.next(), fee_wei: u128::from(v.next()) << 64 | u128::from(v.next()) },
            EventKind::BatchFinal { number: v.next(), settled_seq: v.next() },
        ]
    }

    fn events(&mut self) -> Vec<Event> {
        let kinds = self.kinds();
        let event = |kind| Event {
            sequence: self.next(),
            index: self.next() as u16,
            time_ms: self.next(),
            kind,
        };
        kinds.into_iter().map(event).collect()
    }

    fn outcome(&mut self) -> Outcome {
        Outcome {
            sequence: self.next(),
            code: self.one_of(Code::ALL),
            replayed: self.flag(),
            subject: self.next(),
            winner: self.winner(),
        }
    }
}

proptest! {
    #[test]
    fn every_event_is_read_back_and_no_prefix_of_it_is(seed in any::<u64>()) {
        for event in Values(seed).events() {
            let mut bytes = Vec::new();
            encode_event(&event, &mut bytes);
            for length in 0..bytes.len() {
                prop_assert!(decode_event(&bytes[..length]).is_err(), "{length} of {event:?}");
            }
            let length = bytes.len();
            bytes.extend([0xee; 9]);
            prop_assert_eq!(decode_event(&bytes), Ok((event, length)));
        }
    }

    #[test]
    fn every_outcome_is_read_back_and_no_prefix_of_it_is(seed in any::<u64>()) {
        let outcome = Values(seed).outcome();
        let mut bytes = Vec::new();
        encode_outcome(&outcome, &mut bytes);
        for length in 0..bytes.len() {
            prop_assert!(decode_outcome(&bytes[..length]).is_err());
        }
        prop_assert_eq!(decode_outcome(&bytes), Ok((outcome, bytes.len())));
    }

    #[test]
    fn bytes_that_are_read_at_all_are_the_canonical_ones(
        seed in any::<u64>(),
        at in any::<prop::sample::Index>(),
        with in any::<u8>(),
    ) {
        for event in Values(seed).events() {
            let mut bytes = Vec::new();
            encode_event(&event, &mut bytes);
            let place = at.index(bytes.len());
            bytes[place] = with;
            if let Ok((other, used)) = decode_event(&bytes) {
                let mut again = Vec::new();
                encode_event(&other, &mut again);
                prop_assert_eq!(&again[..], &bytes[..used]);
            }
        }
    }
}

/// The bytes of a policy from before it had later fields, and the same with one of them.
#[test]
fn a_policy_without_later_fields_is_written_as_ever() {
    let written = |policy: Policy| {
        let event = Event {
            sequence: 1,
            index: 0,
            time_ms: 0,
            kind: EventKind::PolicySet {
                policy: Box::new(policy),
            },
        };
        let mut bytes = Vec::new();
        encode_event(&event, &mut bytes);
        assert_eq!(decode_event(&bytes).unwrap().0, event);
        bytes
    };
    let window = 0x0123_4567;
    let plain = written(Policy {
        retry_window_commands: window,
        ..Policy::default()
    });
    assert_eq!(plain[plain.len() - 8..], window.to_le_bytes());
    let near = written(Policy {
        retry_window_commands: window,
        near_duplicate_below_ppm: 0x0a0b_0c0d,
        ..Policy::default()
    });
    let at = plain.len() - 8;
    assert_eq!(near[..at], plain[..at]);
    let mut end = (window | 1 << 63).to_le_bytes().to_vec();
    end.extend([1, 0x0d, 0x0c, 0x0b, 0x0a]);
    assert_eq!(near[at..], end);
    for damaged in [
        [0, 0x0d, 0x0c, 0x0b, 0x0a],
        [16, 0x0d, 0x0c, 0x0b, 0x0a],
        [1, 0, 0, 0, 0],
    ] {
        let mut bytes = near.clone();
        bytes[at + 8..].copy_from_slice(&damaged);
        assert!(matches!(
            decode_event(&bytes),
            Err(CodecError::Unknown { .. })
        ));
    }
}

#[test]
fn a_newer_format_and_an_unknown_kind_are_refused_by_name() {
    let event = Values(1).events().remove(11);
    let mut bytes = Vec::new();
    encode_event(&event, &mut bytes);
    let mut newer = bytes.clone();
    newer[0] = 2;
    assert_eq!(
        decode_event(&newer),
        Err(CodecError::UnknownFormat { found: 2 })
    );
    bytes[19] = 200;
    let error = decode_event(&bytes).unwrap_err();
    assert!(
        error.to_string().contains("200 is no event kind"),
        "{error}"
    );
}
