//! A small realm with one of everything, and ways to send it commands.
#![allow(dead_code, clippy::unwrap_used)]

pub mod generate;

use karat_ledger::{ApplyContext, Ledger, invariants};
use karat_proto::command::*;
use karat_proto::event::{Event, EventKind, Outcome};
use karat_proto::lineage::{lineage_hash, metadata_digest, seed_commitment};
use karat_proto::{Account, AssetId, Code, CollectionId, CommandId, Digest};

pub const OPERATOR: Account = Account([1; 20]);
pub const VERIFIER: Account = Account([2; 20]);
pub const SETTLER: Account = Account([3; 20]);
pub const CREATOR: Account = Account([4; 20]);
pub const BOB: Account = Account([5; 20]);
pub const CAROL: Account = Account([6; 20]);
pub const DAVE: Account = Account([7; 20]);
pub const NOBODY: Account = Account::NOBODY;

pub const GENERATOR: Digest = [11; 32];
pub const REGISTERED: Digest = [12; 32];
pub const RETIRED: Digest = [13; 32];
pub const AUDITOR: Digest = [14; 32];
pub const SECRET: Digest = [77; 32];

/// A ledger under a caller that stamps commands and checks every invariant after each.
#[derive(Clone)]
pub struct World {
    pub ledger: Ledger,
    pub events: Vec<Event>,
    pub time_ms: u64,
    pub block_hash: Digest,
    pub next_id: u64,
}

impl World {
    /// Nothing applied yet.
    pub fn empty() -> World {
        World {
            ledger: Ledger::new(),
            events: Vec::new(),
            time_ms: 1000,
            block_hash: [9; 32],
            next_id: 1,
        }
    }

    /// A realm that is open, with this policy.
    pub fn with_policy(policy: Policy) -> World {
        let mut world = World::empty();
        world.accept(OPERATOR, CommandKind::Genesis(Box::new(genesis(policy))));
        world
    }

    /// Sends a command without checking invariants, which look at everything: for tests of large numbers.
    pub fn send_unchecked(&mut self, actor: Account, kind: CommandKind) -> Code {
        let command = self.command(actor, kind);
        let context = ApplyContext {
            sequence: self.ledger.applied_seq() + 1,
            time_ms: self.time_ms,
            block_hash: &self.block_hash,
        };
        self.events.clear();
        self.ledger.apply(&context, &command, &mut self.events).code
    }

    /// A command under a fresh id.
    pub fn command(&mut self, actor: Account, kind: CommandKind) -> Command {
        let id = id(self.next_id);
        self.next_id += 1;
        Command {
            id,
            actor,
            body_hash: id.0,
            kind,
        }
    }

    /// Applies a command as it is; `events` are those of this command alone.
    pub fn apply(&mut self, command: &Command) -> Outcome {
        self.events.clear();
        let outcome = self.ledger.apply(
            &ApplyContext {
                sequence: self.ledger.applied_seq() + 1,
                time_ms: self.time_ms,
                block_hash: &self.block_hash,
            },
            command,
            &mut self.events,
        );
        assert_eq!(
            invariants::check_all(&self.ledger),
            Ok(()),
            "after {command:?}"
        );
        for (index, event) in self.events.iter().enumerate() {
            assert_eq!(
                (event.sequence, usize::from(event.index), event.time_ms),
                (self.ledger.applied_seq(), index, self.time_ms)
            );
        }
        outcome
    }

    pub fn send(&mut self, actor: Account, kind: CommandKind) -> Outcome {
        let command = self.command(actor, kind);
        self.apply(&command)
    }

    /// Sends a command that must be accepted; gives its subject.
    pub fn accept(&mut self, actor: Account, kind: CommandKind) -> u64 {
        let outcome = self.send(actor, kind.clone());
        assert_eq!(outcome.code, Code::Accepted, "{kind:?}");
        outcome.subject
    }

    pub fn kinds(&self) -> Vec<EventKind> {
        self.events.iter().map(|event| event.kind.clone()).collect()
    }

    pub fn mint(&mut self, collection: CollectionId, owner: Account) -> AssetId {
        self.accept(CREATOR, mint(collection, owner, &[0, 0]))
    }

    pub fn judge(&mut self, asset: AssetId, decision: Decision) {
        let version = self.ledger.asset(asset).unwrap().version;
        let kind = verdict(asset, version, decision);
        self.accept(VERIFIER, kind);
    }

    pub fn tick(&mut self, time_ms: u64) -> Outcome {
        self.time_ms = time_ms;
        self.send(OPERATOR, CommandKind::Tick { base_fee_wei: 0 })
    }

    /// Seals, commits and finalises every open batch.
    pub fn settle(&mut self) {
        let open: Vec<(u64, u32)> = self
            .ledger
            .open_batches()
            .map(|batch| (batch.number, batch.changes))
            .collect();
        for (number, leaves) in open {
            self.accept(SETTLER, sealed(number, leaves));
            self.accept(SETTLER, committed(number));
            self.accept(SETTLER, CommandKind::BatchFinal { number });
        }
    }
}

pub fn id(number: u64) -> CommandId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    CommandId(id)
}

pub fn policy() -> Policy {
    Policy {
        batch_changes_max: 1000,
        ..Policy::default()
    }
}

pub fn genesis(policy: Policy) -> Genesis {
    Genesis {
        realm: "test".into(),
        operator: OPERATOR,
        verifier: VERIFIER,
        settler: SETTLER,
        policy,
    }
}

pub fn spec() -> CollectionSpec {
    let trait_spec = |name: &str| TraitSpec {
        name: name.into(),
        values: vec!["red".into(), "green".into(), "blue".into()],
        weights: vec![1, 2, 3],
    };
    CollectionSpec {
        name: "cats".into(),
        supply_cap: 100_000,
        traits: vec![trait_spec("eyes"), trait_spec("hat")],
        exclusions: vec![Exclusion {
            first: (0, 2),
            second: (1, 2),
        }],
        value_caps: vec![],
        claim_rule: ClaimRule::First,
        pending_rule: PendingRule::default(),
        seed_commitment: seed_commitment(&SECRET),
        royalty_basis_points: 250,
        royalty_receiver: CREATOR,
    }
}

pub fn register_model(digest: Digest, name: String, role: ModelRole) -> CommandKind {
    CommandKind::RegisterModel(Box::new(RegisterModel {
        digest,
        name,
        role,
        signature: None,
    }))
}

pub fn create(spec: CollectionSpec) -> CommandKind {
    CommandKind::CreateCollection(Box::new(spec))
}

pub fn lineage(model: Digest, values: &[u8], parent_version: u32) -> Lineage {
    let seed = [33; 32];
    Lineage {
        model,
        variant: "full".into(),
        seed,
        hash: lineage_hash(&model, "full", &seed, values, parent_version),
    }
}

pub fn mint_of(
    collection: CollectionId,
    owner: Account,
    values: &[u8],
    model: Digest,
) -> CommandKind {
    let content = Content {
        digest: [44; 32],
        size: 100,
    };
    let lineage = lineage(model, values, 0);
    CommandKind::Mint(Box::new(Mint {
        collection,
        owner,
        content,
        traits: Traits::new(values).unwrap(),
        metadata: metadata_digest(collection, &content.digest, values, &lineage.hash),
        lineage,
    }))
}

pub fn mint(collection: CollectionId, owner: Account, values: &[u8]) -> CommandKind {
    mint_of(collection, owner, values, GENERATOR)
}

pub fn revise_of(
    asset: AssetId,
    version: u32,
    collection: CollectionId,
    values: &[u8],
    model: Digest,
) -> CommandKind {
    let content = Content {
        digest: [version as u8; 32],
        size: 101,
    };
    let lineage = lineage(model, values, version);
    CommandKind::Revise(Box::new(Revise {
        asset,
        version,
        collection,
        content,
        traits: Traits::new(values).unwrap(),
        metadata: metadata_digest(collection, &content.digest, values, &lineage.hash),
        lineage,
    }))
}

pub fn revise(asset: AssetId, version: u32, values: &[u8]) -> CommandKind {
    revise_of(asset, version, 1, values, GENERATOR)
}

pub fn verdict(asset: AssetId, version: u32, decision: Decision) -> CommandKind {
    CommandKind::Verdict(Box::new(Verdict {
        asset,
        version,
        policy_version: 1,
        decision,
        corruption_ppm: 1000,
        findings: vec![Finding {
            agent: AgentKind::Parity,
            code: 3,
            measure: 9,
        }],
    }))
}

pub fn transfer(asset: AssetId, version: u32, to: Account) -> CommandKind {
    CommandKind::Transfer { asset, version, to }
}

pub fn claim(asset: AssetId, version: u32) -> CommandKind {
    CommandKind::Claim { asset, version }
}

pub fn burn(asset: AssetId, version: u32) -> CommandKind {
    CommandKind::Burn { asset, version }
}

pub fn redeem(asset: AssetId, version: u32, to: Account) -> CommandKind {
    CommandKind::Redeem { asset, version, to }
}

pub fn give(asset: AssetId, version: u32, from: Account, to: Account) -> Leg {
    Leg::Asset {
        asset,
        version,
        from,
        to,
    }
}

pub fn pay(from: Account, to: Account, amount: u64) -> Leg {
    Leg::Currency { from, to, amount }
}

pub fn exchange(legs: Vec<Leg>, consents: Vec<Account>) -> CommandKind {
    CommandKind::Exchange(Exchange {
        legs: legs.into(),
        consents: consents.into(),
    })
}

pub fn freeze(asset: AssetId) -> CommandKind {
    let reason = "odd".into();
    CommandKind::Freeze { asset, reason }
}

pub fn review(asset: AssetId, version: u32, accepted: bool) -> CommandKind {
    CommandKind::ReviewDecision {
        asset,
        version,
        accepted,
        reason: "looked at it".into(),
    }
}

pub fn sealed(number: u64, leaves: u32) -> CommandKind {
    CommandKind::BatchSealed(Box::new(BatchSealed {
        number,
        root: [21; 32],
        payload: [22; 32],
        leaves,
    }))
}

pub fn committed(number: u64) -> CommandKind {
    CommandKind::BatchCommitted(Box::new(BatchCommitted {
        number,
        transaction: [23; 32],
        chain_block: 17,
        gas_used: 80_000,
        fee_wei: 1 << 70,
    }))
}

/// Assets of [`world`], by what they are. All but the last three belong to collection 1, and those that are owned to Bob.
pub const ACTIVE: AssetId = 1;
pub const PENDING: AssetId = 2;
pub const FROZEN: AssetId = 3;
pub const BURNED: AssetId = 4;
pub const IN_REVIEW: AssetId = 5;
pub const REJECTED: AssetId = 6;
pub const UNOWNED: AssetId = 7;
pub const REDEEMED: AssetId = 8;
/// Version 2, accepted.
pub const REVISED: AssetId = 9;
/// Collection 2: pending, free to trade and settle, first claim wins.
pub const FREE_UNOWNED: AssetId = 10;
/// Collection 3: pending, free to trade, claims are drawn in windows of 500 ms.
pub const DRAWN: AssetId = 11;
pub const FREE: AssetId = 12;
pub const NO_ASSET: AssetId = 99;

/// A realm with one of everything. Bob has 100, Carol 50.
pub fn world() -> World {
    let mut world = World::with_policy(policy());
    for (digest, role) in [
        (GENERATOR, ModelRole::Generator),
        (REGISTERED, ModelRole::Generator),
        (RETIRED, ModelRole::Generator),
        (AUDITOR, ModelRole::Auditor),
    ] {
        let name = "model".into();
        world.accept(OPERATOR, register_model(digest, name, role));
        if digest != REGISTERED {
            world.accept(OPERATOR, CommandKind::PromoteModel { digest });
        }
    }
    world.accept(OPERATOR, CommandKind::RetireModel { digest: RETIRED });
    for spec in [
        spec(),
        free(ClaimRule::First),
        CollectionSpec {
            pending_rule: PendingRule {
                trade: true,
                settle: false,
                show: true,
            },
            ..free(ClaimRule::Draw { window_ms: 500 })
        },
    ] {
        world.accept(CREATOR, create(spec));
    }
    for (account, amount) in [(BOB, 100), (CAROL, 50)] {
        world.accept(OPERATOR, CommandKind::Deposit { account, amount });
    }
    for asset in 1..=9 {
        let owner = if asset == UNOWNED { NOBODY } else { BOB };
        assert_eq!(world.mint(1, owner), asset);
    }
    for (asset, decision) in [
        (ACTIVE, Decision::Accept),
        (FROZEN, Decision::Accept),
        (BURNED, Decision::Accept),
        (IN_REVIEW, Decision::Review),
        (REJECTED, Decision::Reject),
        (UNOWNED, Decision::Accept),
        (REDEEMED, Decision::Accept),
        (REVISED, Decision::Accept),
    ] {
        world.judge(asset, decision);
    }
    world.accept(OPERATOR, freeze(FROZEN));
    world.accept(BOB, burn(BURNED, 1));
    world.accept(BOB, redeem(REDEEMED, 1, CAROL));
    world.accept(BOB, revise(REVISED, 1, &[1, 1]));
    world.judge(REVISED, Decision::Accept);
    assert_eq!(world.mint(2, NOBODY), FREE_UNOWNED);
    assert_eq!(world.mint(3, NOBODY), DRAWN);
    assert_eq!(world.mint(2, BOB), FREE);
    world
}

/// A collection whose pending assets may do everything.
pub fn free(claim_rule: ClaimRule) -> CollectionSpec {
    CollectionSpec {
        claim_rule,
        pending_rule: PendingRule {
            trade: true,
            settle: true,
            show: true,
        },
        ..spec()
    }
}
