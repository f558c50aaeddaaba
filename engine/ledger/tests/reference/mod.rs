//! The naive reference: rules as sentences, state as plain maps, and a whole copy to undo what is refused.
#![allow(clippy::unwrap_used)]

use crate::common::{OPERATOR, SETTLER, VERIFIER};
use karat_ledger::AssetView;
use karat_proto::Code::{self, *};
use karat_proto::command::*;
use karat_proto::event::{AssetState, Outcome, Winner};
use karat_proto::{Account, CommandId};
use std::collections::{BTreeMap, BTreeSet};

/// What is compared of an asset.
#[derive(Clone, Debug, PartialEq)]
pub struct Asset {
    collection: u32,
    owner: Account,
    version: u32,
    state: AssetState,
    traits: Vec<u8>,
    metadata: [u8; 32],
    settle_sequence: u64,
    last: (CommandId, u64),
    judged: Option<u32>,
}

impl Asset {
    pub fn of(view: &AssetView) -> Asset {
        Asset {
            collection: view.collection,
            owner: view.owner,
            version: view.version,
            state: view.state,
            traits: view.traits.as_slice().to_vec(),
            metadata: view.metadata,
            settle_sequence: view.settle_sequence,
            last: (view.last_command, view.last_sequence),
            judged: view.last_verdict.map(|verdict| verdict.version),
        }
    }

    fn last_winner(&self) -> Option<Winner> {
        Some(Winner {
            id: self.last.0,
            sequence: self.last.1,
        })
    }
}

#[derive(Clone, Debug)]
pub struct Batch {
    changes: usize,
    /// Sequences at which something in it became due.
    due: Vec<u64>,
    sealed: bool,
    committed: bool,
    is_final: bool,
}

#[derive(Clone, Debug)]
struct Claim {
    account: Account,
    version: u32,
    winner: Winner,
}

#[derive(Clone, Default)]
pub struct Reference {
    sequence: u64,
    time_ms: u64,
    policy: Option<Policy>,
    pub paused: bool,
    pub assets: Vec<Asset>,
    /// By asset: who changed the owner last, and the state beneath a freeze.
    owner_changes: BTreeMap<u64, Winner>,
    beneath: BTreeMap<u64, AssetState>,
    pub balances: BTreeMap<Account, u64>,
    collections: Vec<(Account, CollectionSpec)>,
    /// Models by digest: promoted?
    models: BTreeMap<[u8; 32], bool>,
    windows: BTreeMap<u64, (u64, Vec<Claim>)>,
    pub batches: Vec<Batch>,
    pub changed: BTreeSet<u64>,
    /// Sequences at which something became due since the last cut, and the time of the first.
    due: Vec<u64>,
    first_due_ms: u64,
    /// First outcomes by sequence.
    pub remembered: BTreeMap<u64, (CommandId, BodyHash, Outcome)>,
    pub events: usize,
}

type Refused = (Code, u64, Option<Winner>);

fn plain(code: Code) -> Refused {
    (code, 0, None)
}

impl Reference {
    pub fn apply(&mut self, time_ms: u64, block_hash: &[u8; 32], command: &Command) -> Outcome {
        self.sequence += 1;
        self.time_ms = time_ms;
        self.events = 0;
        let seen = self
            .remembered
            .values()
            .find(|(id, _, _)| *id == command.id)
            .cloned();
        let outcome = match seen {
            Some((_, body, first)) if body == command.body_hash => Outcome {
                replayed: true,
                ..first
            },
            Some(_) => self.outcome(Err(plain(IdReused))),
            None => {
                let before = self.clone();
                let result = self.try_apply(block_hash, command);
                if result.is_err() {
                    *self = before;
                }
                let outcome = self.outcome(result);
                self.remembered
                    .insert(self.sequence, (command.id, command.body_hash, outcome));
                outcome
            }
        };
        let full = |policy: &Policy| self.changed.len() >= policy.batch_changes_max as usize;
        if self.policy.as_ref().is_some_and(full) {
            self.cut();
        }
        if let Some(policy) = &self.policy {
            let window = policy.retry_window_commands;
            for _ in 0..4 {
                let Some(oldest) = self.remembered.keys().next().copied() else {
                    break;
                };
                if self.sequence - oldest > window && oldest <= self.settled_seq() {
                    self.remembered.remove(&oldest);
                }
            }
        }
        outcome
    }

    fn outcome(&self, result: Result<u64, Refused>) -> Outcome {
        let (code, subject, winner) = match result {
            Ok(subject) => (Accepted, subject, None),
            Err(refused) => refused,
        };
        Outcome {
            sequence: self.sequence,
            code,
            replayed: false,
            subject,
            winner,
        }
    }

    /// Just before the first thing that became due and is not in a final batch; everything when there is none.
    pub fn settled_seq(&self) -> u64 {
        let open = self.batches.iter().filter(|batch| !batch.is_final);
        let first = open.flat_map(|batch| &batch.due).chain(&self.due).min();
        first.map_or(self.sequence, |first| first - 1)
    }

    fn cut(&mut self) {
        self.batches.push(Batch {
            changes: self.changed.len(),
            due: std::mem::take(&mut self.due),
            sealed: false,
            committed: false,
            is_final: false,
        });
        self.changed.clear();
        self.events += 1;
    }

    fn try_apply(&mut self, block_hash: &[u8; 32], command: &Command) -> Result<u64, Refused> {
        let actor = command.actor;
        let is_genesis = matches!(command.kind, CommandKind::Genesis(_));
        if is_genesis != self.policy.is_none() {
            return Err(plain(BadGenesis));
        }
        if actor.is_nobody() {
            return Err(plain(NotAllowed));
        }
        let role = match &command.kind {
            CommandKind::Verdict(_) => Some(VERIFIER),
            CommandKind::BatchSealed(_)
            | CommandKind::BatchCommitted(_)
            | CommandKind::BatchFinal { .. } => Some(SETTLER),
            CommandKind::Deposit { .. }
            | CommandKind::ReviewDecision { .. }
            | CommandKind::RegisterModel(_)
            | CommandKind::PromoteModel { .. }
            | CommandKind::Freeze { .. }
            | CommandKind::Unfreeze { .. }
            | CommandKind::Pause { .. }
            | CommandKind::Tick { .. } => Some(OPERATOR),
            _ => None,
        };
        if role.is_some_and(|role| role != actor) {
            return Err(plain(NotAllowed));
        }
        let operator_pays =
            matches!(command.kind, CommandKind::Withdraw { .. }) && actor == OPERATOR;
        if self.paused && role.is_none() && !operator_pays {
            return Err(plain(Paused));
        }
        let winner = Winner {
            id: command.id,
            sequence: self.sequence,
        };
        match command.kind.clone() {
            CommandKind::Genesis(genesis) => {
                self.policy = Some(genesis.policy);
                self.events += 2;
                Ok(0)
            }
            CommandKind::CreateCollection(spec) => {
                self.collections.push((actor, *spec));
                self.events += 1;
                Ok(self.collections.len() as u64)
            }
            CommandKind::RegisterModel(model) => {
                self.models.insert(model.digest, false);
                self.events += 1;
                Ok(0)
            }
            CommandKind::PromoteModel { digest } => {
                self.models.insert(digest, true);
                self.events += 1;
                Ok(0)
            }
            CommandKind::Mint(mint) => self.mint(actor, winner, *mint),
            CommandKind::Revise(revise) => self.revise(actor, winner, *revise),
            CommandKind::Transfer { asset, version, to } => {
                self.owned(asset, version, actor)?;
                self.tradable(asset)?;
                if to.is_nobody() || to == actor {
                    return Err((BadReceiver, asset, None));
                }
                self.give(asset, to, winner, winner);
                Ok(asset)
            }
            CommandKind::Claim { asset, version } => self.claim(actor, winner, asset, version),
            CommandKind::Exchange(exchange) => self.exchange(actor, winner, exchange),
            CommandKind::Burn { asset, version } => {
                self.owned(asset, version, actor)?;
                self.change(asset, winner, |asset| {
                    asset.state = AssetState::Burned;
                    asset.owner = Account::NOBODY;
                });
                self.owner_changes.insert(asset, winner);
                if self.get(asset)?.settle_sequence > 0 {
                    self.due(asset);
                }
                Ok(asset)
            }
            CommandKind::Redeem { asset, version, to } => {
                let owned = self.owned(asset, version, actor)?;
                if owned.state != AssetState::Active {
                    return Err((NotActive, asset, None));
                }
                if to.is_nobody() {
                    return Err((BadReceiver, asset, None));
                }
                self.change(asset, winner, |asset| {
                    asset.state = AssetState::Redeemed;
                    asset.owner = to;
                });
                self.due(asset);
                Ok(asset)
            }
            CommandKind::Deposit { account, amount } => {
                if account.is_nobody() {
                    return Err(plain(BadReceiver));
                }
                let total: u128 = self.balances.values().map(|each| u128::from(*each)).sum();
                if amount == 0 || total + u128::from(amount) > i64::MAX as u128 {
                    return Err(plain(BadAmount));
                }
                *self.balances.entry(account).or_default() += amount;
                self.events += 1;
                Ok(0)
            }
            CommandKind::Withdraw { account, amount } => {
                if actor != account && actor != OPERATOR {
                    return Err(plain(NotAllowed));
                }
                if amount == 0 || amount > i64::MAX as u64 {
                    return Err(plain(BadAmount));
                }
                let balance = self.balances.entry(account).or_default();
                if *balance < amount {
                    return Err(plain(InsufficientFunds));
                }
                *balance -= amount;
                self.events += 1;
                Ok(0)
            }
            CommandKind::Verdict(verdict) => {
                let asset = self.get(verdict.asset)?;
                if asset.state == AssetState::Frozen {
                    return Err((AssetFrozen, verdict.asset, None));
                }
                if asset.state != AssetState::Pending || asset.version != verdict.version {
                    return Err((VerdictVoid, verdict.asset, asset.last_winner()));
                }
                let state = match verdict.decision {
                    Decision::Accept => AssetState::Active,
                    Decision::Reject => AssetState::Rejected,
                    Decision::Review => AssetState::InReview,
                };
                self.change(verdict.asset, winner, |asset| {
                    asset.state = state;
                    asset.judged = Some(verdict.version);
                });
                self.judged(verdict.asset)
            }
            CommandKind::ReviewDecision {
                asset,
                version,
                accepted,
                ..
            } => {
                if self.living(asset, version)?.state != AssetState::InReview {
                    return Err((NotInReview, asset, None));
                }
                self.change(asset, winner, |asset| {
                    asset.state = match accepted {
                        true => AssetState::Active,
                        false => AssetState::Rejected,
                    };
                });
                self.judged(asset)
            }
            CommandKind::Freeze { asset, .. } => {
                let version = self.get(asset)?.version;
                let state = self.living(asset, version)?.state;
                self.beneath.insert(asset, state);
                self.change(asset, winner, |asset| asset.state = AssetState::Frozen);
                Ok(asset)
            }
            CommandKind::Unfreeze { asset } => {
                let found = self.get(asset)?;
                if ended(found.state) {
                    return Err((AssetEnded, asset, found.last_winner()));
                }
                let Some(state) = self.beneath.remove(&asset) else {
                    return Err((NotFrozen, asset, None));
                };
                self.change(asset, winner, |asset| asset.state = state);
                Ok(asset)
            }
            CommandKind::Pause { paused } => {
                self.events += usize::from(self.paused != paused);
                self.paused = paused;
                Ok(0)
            }
            CommandKind::BatchSealed(sealed) => {
                let (number, leaves) = (sealed.number, sealed.leaves);
                let next = self.batches.iter().position(|batch| !batch.sealed);
                let batch = self.next_batch(next, number)?;
                if batch.changes != leaves as usize {
                    return Err((BatchMismatch, number, None));
                }
                batch.sealed = true;
                Ok(number)
            }
            CommandKind::BatchCommitted(committed) => {
                let number = committed.number;
                let next = self.batches.iter().position(|batch| !batch.committed);
                let batch = self.next_batch(next, number)?;
                if !batch.sealed {
                    return Err((BatchOutOfOrder, number, None));
                }
                batch.committed = true;
                Ok(number)
            }
            CommandKind::BatchFinal { number } => {
                let next = self.batches.iter().position(|batch| !batch.is_final);
                let batch = self.next_batch(next, number)?;
                if !batch.committed {
                    return Err((BatchOutOfOrder, number, None));
                }
                batch.is_final = true;
                Ok(number)
            }
            CommandKind::Tick { base_fee_wei } => {
                self.tick(block_hash, base_fee_wei, winner);
                Ok(0)
            }
            other => unreachable!("the generator makes no {other:?}"),
        }
    }

    fn next_batch(&mut self, next: Option<usize>, number: u64) -> Result<&mut Batch, Refused> {
        match next {
            Some(place) if place as u64 + 1 == number => {
                self.events += 1;
                Ok(&mut self.batches[place])
            }
            _ => Err((BatchOutOfOrder, number, None)),
        }
    }

    fn tick(&mut self, block_hash: &[u8; 32], base_fee_wei: u64, tick: Winner) {
        let policy = self.policy.clone().unwrap();
        loop {
            let first = self
                .windows
                .iter()
                .map(|(asset, (closes_ms, _))| (*closes_ms, *asset))
                .min();
            let Some((closes_ms, asset)) = first else {
                break;
            };
            if closes_ms > self.time_ms || self.changed.len() >= policy.batch_changes_max as usize {
                break;
            }
            let (_, claims) = self.windows.remove(&asset).unwrap();
            self.draw(block_hash, asset, &claims, tick);
        }
        if !self.changed.is_empty() {
            let mut due_ms = self.first_due_ms + policy.batch_age_ms_max;
            if base_fee_wei > policy.batch_base_fee_wei_max {
                due_ms += policy.batch_deferral_ms_max;
            }
            if self.time_ms >= due_ms {
                self.cut();
            }
        }
    }

    fn draw(&mut self, block_hash: &[u8; 32], asset: u64, claims: &[Claim], tick: Winner) {
        let version = self.get(asset).unwrap().version;
        let open = self.living(asset, version).is_ok() && self.tradable(asset).is_ok();
        let mut drawn: Vec<([u8; 32], &Claim)> = claims
            .iter()
            .filter(|claim| open && claim.version == version)
            .map(|claim| {
                let mut bytes = b"karat.claim.v1".to_vec();
                bytes.extend(block_hash);
                bytes.extend(asset.to_be_bytes());
                bytes.extend(claim.account.0);
                bytes.extend(claim.winner.id.0);
                (*blake3::hash(&bytes).as_bytes(), claim)
            })
            .collect();
        drawn.sort_by_key(|(hash, _)| *hash);
        self.events += claims.len();
        if let Some((_, claim)) = drawn.first() {
            // The winner's transfer takes the place of the one loss that is missing.
            self.events -= 1;
            self.give(asset, claim.account, tick, claim.winner);
        }
    }

    fn mint(&mut self, actor: Account, winner: Winner, mint: Mint) -> Result<u64, Refused> {
        let Some((creator, spec)) = self.collections.get(mint.collection as usize - 1).cloned()
        else {
            return Err(plain(UnknownCollection));
        };
        if actor != creator {
            return Err(plain(NotCreator));
        }
        if self.models.get(&mint.lineage.model) != Some(&true) {
            return Err(plain(UnknownModel));
        }
        let traits = mint.traits.as_slice().to_vec();
        self.check_traits(&spec, &traits).map_err(plain)?;
        let minted = self
            .assets
            .iter()
            .filter(|asset| asset.collection == mint.collection)
            .count();
        if minted as u64 >= spec.supply_cap {
            return Err(plain(SupplyCapReached));
        }
        self.assets.push(Asset {
            collection: mint.collection,
            owner: mint.owner,
            version: 1,
            state: AssetState::Pending,
            traits,
            metadata: mint.metadata,
            settle_sequence: 0,
            last: (winner.id, winner.sequence),
            judged: None,
        });
        self.check_caps(&spec, mint.collection).map_err(plain)?;
        self.events += 1;
        let id = self.assets.len() as u64;
        if spec.pending_rule.settle {
            self.due(id);
        }
        Ok(id)
    }

    fn revise(&mut self, actor: Account, winner: Winner, revise: Revise) -> Result<u64, Refused> {
        let id = revise.asset;
        let asset = self.living(id, revise.version)?;
        let (creator, spec) = self.collections[asset.collection as usize - 1].clone();
        if actor != asset.owner && actor != creator {
            return Err((NotOwner, id, self.owner_changes.get(&id).copied()));
        }
        let traits = revise.traits.as_slice().to_vec();
        self.check_traits(&spec, &traits)
            .map_err(|code| (code, id, None))?;
        self.change(id, winner, |asset| {
            asset.version += 1;
            asset.state = AssetState::Pending;
            asset.traits = traits;
            asset.metadata = revise.metadata;
        });
        self.check_caps(&spec, revise.collection)
            .map_err(|code| (code, id, None))?;
        if spec.pending_rule.settle {
            self.due(id);
        }
        Ok(id)
    }

    fn claim(
        &mut self,
        actor: Account,
        winner: Winner,
        id: u64,
        version: u32,
    ) -> Result<u64, Refused> {
        let asset = self.living(id, version)?;
        if !asset.owner.is_nobody() {
            return Err((AlreadyOwned, id, self.owner_changes.get(&id).copied()));
        }
        self.tradable(id)?;
        let (_, spec) = &self.collections[asset.collection as usize - 1];
        let ClaimRule::Draw { window_ms } = spec.claim_rule else {
            self.give(id, actor, winner, winner);
            return Ok(id);
        };
        let time_ms = self.time_ms;
        let (closes_ms, claims) = self
            .windows
            .entry(id)
            .or_insert((time_ms + window_ms, vec![]));
        let waits = |claim: &Claim| claim.account == actor && claim.version == version;
        if claims.iter().any(waits) {
            return Err((AlreadyClaimed, id, None));
        }
        if time_ms >= *closes_ms {
            return Err((ClaimWindowFull, id, None));
        }
        claims.push(Claim {
            account: actor,
            version,
            winner,
        });
        self.events += 1;
        Ok(id)
    }

    fn exchange(
        &mut self,
        actor: Account,
        winner: Winner,
        exchange: Exchange,
    ) -> Result<u64, Refused> {
        let mut named = BTreeSet::new();
        let mut gross: u128 = 0;
        for leg in &exchange.legs {
            let (from, to) = match *leg {
                Leg::Asset {
                    asset, from, to, ..
                } => {
                    if !named.insert(asset) {
                        return Err((BadExchange, asset, None));
                    }
                    (from, to)
                }
                Leg::Currency { from, to, amount } => {
                    if amount == 0 || amount > i64::MAX as u64 {
                        return Err(plain(BadAmount));
                    }
                    gross += u128::from(amount);
                    (from, to)
                }
            };
            if from == to {
                return Err(plain(BadExchange));
            }
            if to.is_nobody() {
                return Err(plain(BadReceiver));
            }
            if from.is_nobody() || (from != actor && !exchange.consents.contains(&from)) {
                return Err(plain(ConsentMissing));
            }
        }
        // Who has what when everything has moved.
        let mut purses: BTreeMap<Account, i128> = self
            .balances
            .iter()
            .map(|(account, balance)| (*account, i128::from(*balance)))
            .collect();
        for leg in &exchange.legs {
            match *leg {
                Leg::Asset {
                    asset,
                    version,
                    from,
                    to,
                } => {
                    self.owned(asset, version, from)?;
                    self.tradable(asset)?;
                    self.give(asset, to, winner, winner);
                }
                Leg::Currency { from, to, amount } => {
                    *purses.entry(from).or_default() -= i128::from(amount);
                    *purses.entry(to).or_default() += i128::from(amount);
                    self.events += 1;
                }
            }
        }
        if gross > i64::MAX as u128 {
            return Err(plain(BadAmount));
        }
        if purses.values().any(|purse| *purse < 0) {
            return Err(plain(InsufficientFunds));
        }
        self.balances = purses
            .into_iter()
            .map(|(account, purse)| (account, purse as u64))
            .collect();
        Ok(0)
    }

    fn check_traits(&self, spec: &CollectionSpec, traits: &[u8]) -> Result<(), Code> {
        let known = traits.len() == spec.traits.len()
            && traits
                .iter()
                .zip(&spec.traits)
                .all(|(value, each)| (*value as usize) < each.values.len());
        let excluded = spec.exclusions.iter().any(|pair| {
            traits.get(pair.first.0 as usize) == Some(&pair.first.1)
                && traits.get(pair.second.0 as usize) == Some(&pair.second.1)
        });
        match known && !excluded {
            true => Ok(()),
            false => Err(TraitsRefused),
        }
    }

    /// After the change: does any capped value stand in too many assets?
    fn check_caps(&self, spec: &CollectionSpec, collection: u32) -> Result<(), Code> {
        let passed = spec.value_caps.iter().any(|cap| {
            let having = self.assets.iter().filter(|asset| {
                asset.collection == collection
                    && asset.traits[cap.trait_index as usize] == cap.value
            });
            having.count() > cap.most as usize
        });
        match passed {
            true => Err(ValueCapReached),
            false => Ok(()),
        }
    }

    fn get(&self, id: u64) -> Result<Asset, Refused> {
        let place = (id as usize).wrapping_sub(1);
        let found = self.assets.get(place).cloned();
        found.ok_or((UnknownAsset, id, None))
    }

    fn living(&self, id: u64, version: u32) -> Result<Asset, Refused> {
        let asset = self.get(id)?;
        if ended(asset.state) {
            return Err((AssetEnded, id, asset.last_winner()));
        }
        if asset.state == AssetState::Frozen {
            return Err((AssetFrozen, id, None));
        }
        if asset.version != version {
            return Err((StaleVersion, id, asset.last_winner()));
        }
        Ok(asset)
    }

    fn owned(&self, id: u64, version: u32, owner: Account) -> Result<Asset, Refused> {
        let asset = self.living(id, version)?;
        if asset.owner != owner {
            return Err((NotOwner, id, self.owner_changes.get(&id).copied()));
        }
        Ok(asset)
    }

    fn pending_rule(&self, id: u64) -> Result<PendingRule, Refused> {
        let asset = self.get(id)?;
        Ok(self.collections[asset.collection as usize - 1]
            .1
            .pending_rule)
    }

    fn tradable(&self, id: u64) -> Result<(), Refused> {
        let active = self.get(id)?.state == AssetState::Active;
        match active || self.pending_rule(id)?.trade {
            true => Ok(()),
            false => Err((NotActive, id, None)),
        }
    }

    /// Every change of an asset has one event of its own.
    fn change(&mut self, id: u64, command: Winner, change: impl FnOnce(&mut Asset)) {
        let asset = &mut self.assets[id as usize - 1];
        change(asset);
        asset.last = (command.id, command.sequence);
        self.events += 1;
    }

    fn give(&mut self, id: u64, to: Account, command: Winner, winner: Winner) {
        self.change(id, command, |asset| asset.owner = to);
        self.owner_changes.insert(id, winner);
        let active = self.get(id).unwrap().state == AssetState::Active;
        if active || self.pending_rule(id).unwrap().settle {
            self.due(id);
        }
    }

    fn judged(&mut self, id: u64) -> Result<u64, Refused> {
        let asset = self.get(id)?;
        let due = match asset.state {
            AssetState::Active => !self.pending_rule(id)?.settle,
            AssetState::Rejected => asset.settle_sequence > 0,
            _ => false,
        };
        if due {
            self.due(id);
        }
        Ok(id)
    }

    fn due(&mut self, id: u64) {
        self.assets[id as usize - 1].settle_sequence = self.sequence;
        if self.changed.is_empty() {
            self.first_due_ms = self.time_ms;
        }
        self.changed.insert(id);
        self.due.push(self.sequence);
        self.events += 1;
    }
}

fn ended(state: AssetState) -> bool {
    matches!(
        state,
        AssetState::Rejected | AssetState::Burned | AssetState::Redeemed
    )
}
