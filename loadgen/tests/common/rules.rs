//! The rules of the small realm, and what it does wrong on purpose.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use karat_proto::v1::command::Kind;
use karat_proto::v1::event::Kind as Told;
use karat_proto::{Account, Code, v1};
use sha2::Digest as _;

use super::Faults;

/// An asset.
pub struct Held {
    pub owner: Bytes,
    pub version: u32,
    /// Id and sequence of the command that gave it its owner.
    won_by: (Bytes, u64),
}

/// What it holds.
#[derive(Default)]
pub struct State {
    pub faults: Faults,
    pub sequence: u64,
    transfers: u64,
    exchanges: u64,
    lost_claims: u64,
    refusals: u64,
    pub commands: u64,
    collections: Vec<Bytes>,
    contents: HashSet<Bytes>,
    pub models: Vec<v1::Model>,
    pub assets: Vec<Held>,
    pub balances: HashMap<Bytes, u64>,
    pub events: Vec<v1::Event>,
    /// First outcomes, by id.
    outcomes: HashMap<Bytes, v1::Outcome>,
}

/// A refusal: its code, and the winner of a lost race.
struct No(Code, Option<(Bytes, u64)>);

impl From<Code> for No {
    fn from(code: Code) -> No {
        No(code, None)
    }
}

impl State {
    pub fn with(faults: Faults) -> State {
        State {
            faults,
            ..State::default()
        }
    }

    pub fn apply(&mut self, command: v1::Command) -> v1::Outcome {
        if let Some(first) = self.outcomes.get(&command.id) {
            return v1::Outcome {
                replayed: true,
                ..first.clone()
            };
        }
        self.commands += 1;
        let refused_at_the_door = |id: Bytes, code: Code| v1::Outcome {
            id,
            code: code as u32,
            retry_after_ms: 1,
            ..v1::Outcome::default()
        };
        if hits(self.faults.overload_every, self.commands) {
            return refused_at_the_door(command.id, Code::Overloaded);
        }
        if matches!(&command.kind, Some(Kind::Transfer(one)) if one.to.len() != 20) {
            return refused_at_the_door(command.id, Code::Malformed);
        }
        self.sequence += 1;
        let kind = command.kind.unwrap();
        let (code, subject, winner) = match self.change(&command.id, &command.actor, kind) {
            Ok(subject) => (Code::Accepted, subject, None),
            Err(No(code, winner)) => {
                self.refusals += 1;
                if hits(self.faults.refuse_and_do_every, self.refusals) {
                    self.currency_moved(&command.actor, &command.actor, 1);
                }
                (code, 0, winner)
            }
        };
        let (winner_id, winner_sequence) = winner.unwrap_or_default();
        let outcome = v1::Outcome {
            id: command.id,
            sequence: self.sequence,
            code: code as u32,
            subject,
            winner_id,
            winner_sequence,
            ..v1::Outcome::default()
        };
        self.outcomes.insert(outcome.id.clone(), outcome.clone());
        outcome
    }

    fn tell(&mut self, kind: Told) {
        self.events.push(v1::Event {
            sequence: self.sequence,
            kind: Some(kind),
            ..v1::Event::default()
        });
    }

    fn made(&mut self, asset: u64, version: u32, owner: Bytes, of: v1::Mint) -> v1::AssetMade {
        v1::AssetMade {
            asset,
            collection: of.collection,
            owner,
            version,
            lineage: of.lineage,
            ..v1::AssetMade::default()
        }
    }

    fn hand_over(&mut self, id: &Bytes, asset: u64, to: &Bytes, cause: v1::TransferCause) {
        let sequence = self.sequence;
        let held = &mut self.assets[asset as usize - 1];
        let from = std::mem::replace(&mut held.owner, to.clone());
        held.won_by = (id.clone(), sequence);
        let version = held.version;
        self.tell(Told::Transferred(v1::Transferred {
            asset,
            version,
            from,
            to: to.clone(),
            cause: cause.into(),
        }));
    }

    fn currency_moved(&mut self, from: &Bytes, to: &Bytes, amount: u64) {
        self.tell(Told::CurrencyMoved(v1::CurrencyMoved {
            from: from.clone(),
            to: to.clone(),
            amount,
        }));
    }

    fn change(&mut self, id: &Bytes, actor: &Bytes, kind: Kind) -> Result<u64, No> {
        match kind {
            Kind::CreateCollection(_) => {
                self.collections.push(actor.clone());
                Ok(self.collections.len() as u64)
            }
            Kind::Mint(mint) => self.mint(id, actor, mint),
            Kind::Deposit(deposit) => {
                if *actor != Account::from_name("operator").0[..] {
                    return Err(Code::NotAllowed.into());
                }
                *self.balances.entry(deposit.account).or_default() += deposit.amount;
                Ok(0)
            }
            Kind::Transfer(transfer) => {
                self.owned(transfer.asset, transfer.version, actor)?;
                self.transfers += 1;
                let cause = v1::TransferCause::Transfer;
                if !hits(self.faults.forget_transfer_every, self.transfers) {
                    self.hand_over(id, transfer.asset, &transfer.to, cause);
                }
                if hits(self.faults.extra_transfer_every, self.transfers) {
                    self.hand_over(id, transfer.asset, actor, cause);
                }
                Ok(transfer.asset)
            }
            Kind::Revise(revise) => {
                self.owned(revise.asset, revise.version, actor)?;
                let version = revise.version + 1;
                self.assets[revise.asset as usize - 1].version = version;
                let of = v1::Mint {
                    lineage: revise.lineage,
                    ..v1::Mint::default()
                };
                let made = self.made(revise.asset, version, Bytes::new(), of);
                self.tell(Told::Revised(made));
                Ok(revise.asset)
            }
            Kind::Claim(claim) => {
                let held = self.held(claim.asset, claim.version)?;
                if !held.owner.is_empty() {
                    let mut winner = held.won_by.clone();
                    self.lost_claims += 1;
                    if hits(self.faults.wrong_winner_every, self.lost_claims) {
                        winner.1 += 1;
                    }
                    return Err(No(Code::AlreadyOwned, Some(winner)));
                }
                self.hand_over(id, claim.asset, actor, v1::TransferCause::Claim);
                Ok(claim.asset)
            }
            Kind::Exchange(exchange) => self.exchange(id, actor, &exchange),
            other => panic!("{other:?} is not part of any scenario"),
        }
    }

    fn mint(&mut self, id: &Bytes, actor: &Bytes, mint: v1::Mint) -> Result<u64, No> {
        let creator = self.collections.get(mint.collection as usize - 1);
        if creator.ok_or(Code::UnknownCollection)? != actor {
            return Err(Code::NotCreator.into());
        }
        let model = &mint.lineage.as_ref().unwrap().model;
        let approved =
            |one: &v1::Model| one.digest == *model && one.stage() == v1::ModelStage::Approved;
        if !self.models.iter().any(approved) {
            return Err(Code::ModelNotApproved.into());
        }
        if !mint.content.is_empty() {
            let digest = Bytes::copy_from_slice(&sha2::Sha256::digest(&mint.content));
            assert!(mint.digest.is_empty() || mint.digest == digest);
            self.contents.insert(digest);
        } else if !self.contents.contains(&mint.digest) {
            return Err(Code::ContentMissing.into());
        }
        self.assets.push(Held {
            owner: mint.owner.clone(),
            version: 1,
            won_by: (id.clone(), self.sequence),
        });
        let asset = self.assets.len() as u64;
        let made = self.made(asset, 1, mint.owner.clone(), mint);
        self.tell(Told::Minted(made));
        Ok(asset)
    }

    fn exchange(&mut self, id: &Bytes, actor: &Bytes, exchange: &v1::Exchange) -> Result<u64, No> {
        for leg in &exchange.legs {
            if leg.from != *actor && !exchange.consents.contains(&leg.from) {
                return Err(Code::ConsentMissing.into());
            }
            if leg.asset != 0 {
                self.owned(leg.asset, leg.version, &leg.from)?;
            } else if self.balances.get(&leg.from).copied().unwrap_or(0) < leg.amount {
                return Err(Code::InsufficientFunds.into());
            }
        }
        self.exchanges += 1;
        let lost = u64::from(hits(self.faults.short_change_every, self.exchanges));
        for leg in &exchange.legs {
            if leg.asset != 0 {
                let cause = v1::TransferCause::Exchange;
                self.hand_over(id, leg.asset, &leg.to, cause);
                continue;
            }
            *self.balances.get_mut(&leg.from).unwrap() -= leg.amount;
            *self.balances.entry(leg.to.clone()).or_default() += leg.amount - lost;
            self.currency_moved(&leg.from, &leg.to, leg.amount);
        }
        Ok(0)
    }

    fn held(&mut self, asset: u64, version: u32) -> Result<&mut Held, No> {
        let place = (asset as usize).checked_sub(1).ok_or(Code::UnknownAsset)?;
        let held = self.assets.get_mut(place).ok_or(Code::UnknownAsset)?;
        match held.version == version {
            true => Ok(held),
            false => Err(Code::StaleVersion.into()),
        }
    }

    fn owned(&mut self, asset: u64, version: u32, by: &Bytes) -> Result<(), No> {
        match self.held(asset, version)?.owner == *by {
            true => Ok(()),
            false => Err(Code::NotOwner.into()),
        }
    }
}

fn hits(every: u64, count: u64) -> bool {
    every != 0 && count.is_multiple_of(every)
}
