//! A small model of the ledger, fed only with what clients were told (and with who won a draw): owners, versions, balances.
//! It shares no code with the ledger. A command that was lost or applied twice shows as a difference.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use karat_proto::v1;
use karat_proto::v1::command::Kind;

use super::book::{Book, Told};
use super::scene::DRAWN;

/// Who won a claim, from the stream of events.
#[derive(Debug, Clone)]
pub struct Draw {
    pub sequence: u64,
    pub asset: u64,
    pub to: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    pub collection: u32,
    /// Empty for nobody.
    pub owner: Bytes,
    pub version: u32,
    /// sha2-256 of its content.
    pub digest: Bytes,
    /// Left for the chain, or burned.
    pub ended: bool,
    /// Who asked for it and waits for a draw.
    claimants: BTreeSet<Bytes>,
}

#[derive(Default)]
pub struct Model {
    pub things: BTreeMap<u64, Thing>,
    pub balances: HashMap<Bytes, i128>,
    /// Everything up to here is in.
    pub sequence: u64,
    draws: Vec<Draw>,
}

impl Model {
    /// Takes in what was told and drawn up to `to_sequence`; no command sent before may be without an outcome.
    pub fn advance(&mut self, book: &mut Book, draws: Vec<Draw>, to_sequence: u64) {
        self.draws.extend(draws);
        let mut told: Vec<(u64, &v1::Command, Told)> = Vec::new();
        let fresh = std::mem::take(&mut book.fresh);
        for id in &fresh {
            let sent = &book.sent[id];
            let outcome = sent.told.unwrap();
            assert!(
                outcome.sequence <= to_sequence,
                "told beyond what is looked at"
            );
            if outcome.code == 0 {
                told.push((outcome.sequence, &sent.command, outcome));
            }
        }
        told.sort_unstable_by_key(|(sequence, _, _)| *sequence);
        let later = self.draws.iter().position(|one| one.sequence > to_sequence);
        let later = self.draws.split_off(later.unwrap_or(self.draws.len()));
        let mut draws = std::mem::replace(&mut self.draws, later)
            .into_iter()
            .peekable();
        for (sequence, command, outcome) in told {
            assert!(
                sequence > self.sequence,
                "sequence {sequence} came after {} was looked at",
                self.sequence
            );
            while let Some(draw) = draws.next_if(|draw| draw.sequence < sequence) {
                self.drawn(draw);
            }
            self.apply(command, &outcome);
        }
        draws.for_each(|draw| self.drawn(draw));
        self.sequence = to_sequence;
    }

    fn thing(&mut self, asset: u64) -> &mut Thing {
        self.things
            .get_mut(&asset)
            .unwrap_or_else(|| panic!("asset {asset} was never minted"))
    }

    fn pay(&mut self, account: &Bytes, amount: i128) {
        let balance = self.balances.entry(account.clone()).or_default();
        *balance += amount;
        assert!(*balance >= 0, "an account is below zero");
    }

    fn hand_over(&mut self, asset: u64, version: u32, from: &Bytes, to: &Bytes, sequence: u64) {
        let thing = self.thing(asset);
        assert!(!thing.ended, "asset {asset} moved after its end");
        assert_eq!(
            (&thing.owner, thing.version),
            (from, version),
            "asset {asset} at sequence {sequence} was not what the accepted command saw"
        );
        thing.owner = to.clone();
    }

    fn drawn(&mut self, draw: Draw) {
        let thing = self.thing(draw.asset);
        if thing.collection != DRAWN {
            // The event of a claim that came first, whose outcome said the same.
            assert_eq!(thing.owner, draw.to, "asset {}", draw.asset);
            return;
        }
        assert!(thing.owner.is_empty(), "a draw of an owned asset");
        let claimed = thing.claimants.contains(&draw.to);
        assert!(claimed, "asset {} was drawn by a stranger", draw.asset);
        thing.owner = draw.to;
    }

    fn apply(&mut self, command: &v1::Command, told: &Told) {
        let actor = &command.actor;
        match command.kind.as_ref().unwrap() {
            Kind::Mint(mint) => {
                let thing = Thing {
                    collection: mint.collection,
                    owner: mint.owner.clone(),
                    version: 1,
                    digest: digest(&mint.content),
                    ended: false,
                    claimants: BTreeSet::new(),
                };
                let before = self.things.insert(told.subject, thing);
                assert!(before.is_none(), "asset {} was minted twice", told.subject);
                assert_eq!(
                    self.things.len() as u64,
                    told.subject,
                    "assets are numbered in their order"
                );
            }
            Kind::Revise(revise) => {
                let thing = self.thing(revise.asset);
                assert_eq!(thing.version, revise.version);
                thing.version += 1;
                thing.digest = digest(&revise.content);
            }
            Kind::Transfer(one) => {
                self.hand_over(one.asset, one.version, actor, &one.to, told.sequence);
            }
            Kind::Claim(one) => {
                let thing = self.thing(one.asset);
                assert!(
                    thing.owner.is_empty() && !thing.ended,
                    "asset {} was given twice",
                    one.asset
                );
                if thing.collection == DRAWN {
                    thing.claimants.insert(actor.clone());
                } else {
                    thing.owner = actor.clone();
                }
            }
            Kind::Exchange(exchange) => {
                for leg in &exchange.legs {
                    if leg.asset != 0 {
                        self.hand_over(leg.asset, leg.version, &leg.from, &leg.to, told.sequence);
                    } else {
                        self.pay(&leg.from, -i128::from(leg.amount));
                        self.pay(&leg.to, leg.amount.into());
                    }
                }
            }
            Kind::Burn(one) => {
                let thing = self.thing(one.asset);
                assert_eq!(&thing.owner, actor);
                thing.owner = Bytes::new();
                thing.ended = true;
            }
            Kind::Redeem(one) => {
                let thing = self.thing(one.asset);
                assert_eq!(&thing.owner, actor);
                thing.owner = one.to.clone();
                thing.ended = true;
            }
            Kind::Deposit(one) => self.pay(&one.account, one.amount.into()),
            Kind::Withdraw(one) => self.pay(&one.account, -i128::from(one.amount)),
            _ => {}
        }
    }
}

fn digest(content: &Bytes) -> Bytes {
    use sha2::Digest as _;
    Bytes::copy_from_slice(&sha2::Sha256::digest(content))
}
