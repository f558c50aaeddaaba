//! Thinks up the commands of one stream, as a scenario says, without end.
//!
//! A command follows from the seed, the stream, how many came before it and the part of the run that it is meant for, never
//! from when an outcome came: two runs with one seed send the same commands. (Only a refusal that a scenario does not
//! provoke, an overload say, makes them part: what builds on the refused command is then built on what is known.)

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use karat_proto::v1;
use karat_proto::v1::command::Kind;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::changes::{self, mix};
use super::file::ScenarioFile;
use super::popularity::{Weighted, Zipf};
use super::{Action, Draft, Effect, Holdings, MintForm, Part};

/// Prices are 1 to this, minor units; accounts begin with enough for 10 million of them.
const PRICE_MAX: u32 = 100;
/// More than all accounts together ever have, and less than the largest amount.
const TOO_MUCH: u64 = 1 << 60;
/// No asset has this number: they are counted up from 1.
const NO_ASSET: u64 = u64::MAX >> 1;
/// No asset of a run comes to this version.
const NO_VERSION: u32 = u32::MAX;
/// Rows looked at for each asset of an exchange.
const TRIES_A_PART: usize = 4;

/// What all streams of a run share.
#[derive(Clone)]
pub struct Stage {
    /// What is played.
    pub file: Rc<ScenarioFile>,
    /// How mints look.
    pub form: MintForm,
    /// An asset of the creator that nobody trades: what wrong commands are about.
    pub kept: u64,
    /// Assets that every stream may claim.
    pub contested: Rc<[u64]>,
    /// How many streams there are.
    pub streams: u64,
}

/// A phase of the run.
struct Phase {
    /// It ends at this share of the measured time.
    until: f64,
    actions: Weighted<Action>,
}

/// The player of one stream.
pub struct Player {
    stage: Stage,
    stream: u64,
    phases: Vec<Phase>,
    assets: Zipf,
    accounts: Zipf,
    contests: u64,
    random: ChaCha8Rng,
}

impl Player {
    /// For the stream with this number, which holds so many rows and accounts.
    pub fn new(stage: Stage, stream: u64, rows: usize, accounts: usize, seed: u64) -> Player {
        let file = stage.file.clone();
        let weighted = |mix: &BTreeMap<Action, u32>| {
            Weighted::new(mix.iter().map(|(action, weight)| (*action, *weight)))
        };
        let whole: f64 = file.phases.iter().map(|phase| phase.share).sum();
        let mut until = 0.0;
        let mut phases: Vec<Phase> = Vec::new();
        for phase in &file.phases {
            until += phase.share / whole;
            phases.push(Phase {
                until,
                actions: weighted(file.mix_of(phase)),
            });
        }
        if phases.is_empty() {
            phases.push(Phase {
                until: 1.0,
                actions: weighted(&file.mix),
            });
        }
        Player {
            assets: Zipf::new(rows, file.popularity.assets),
            accounts: Zipf::new(accounts, file.popularity.accounts),
            stage,
            stream,
            phases,
            contests: 0,
            random: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// The next command, meant for this share of the measured time, given what the stream believes it holds; the belief
    /// moves on with it.
    pub fn next(&mut self, holdings: &mut Holdings, at: f64) -> Draft {
        let phase = self.phases.iter().position(|phase| at < phase.until);
        let phase = phase.unwrap_or(self.phases.len() - 1);
        let action = self.phases[phase].actions.choose(&mut self.random);
        let (actor, command, effect, told) = match action {
            Action::Mint => self.mint(holdings),
            Action::Transfer => self.transfer(holdings),
            Action::Exchange => self.exchange(holdings),
            Action::Claim => self.claim(holdings),
            Action::Contest => self.contest(holdings),
            Action::Revise => self.revise(holdings),
            _ => self.wrong(action, holdings),
        };
        Draft {
            changes: changes::of_command(&actor, &command),
            digest: mix(action as u64, told),
            actor,
            command,
            effect,
        }
    }

    fn mint(&mut self, holdings: &Holdings) -> Thought {
        let owner = self.somebody(holdings);
        let form = &self.stage.form;
        let mint = form.mint(holdings.account(owner), Bytes::new(), &mut self.random);
        let actor = form.creator.clone();
        // The random stream moved on by the seed, so whatever comes after shows it.
        (
            actor,
            Kind::Mint(mint),
            Effect::Mint { owner },
            owner.into(),
        )
    }

    fn transfer(&mut self, holdings: &mut Holdings) -> Thought {
        let row = self.row(holdings);
        let owner = owner_of(holdings, row);
        let to = self.other(holdings, owner);
        holdings.believe(row, to);
        let command = Kind::Transfer(v1::Transfer {
            asset: holdings.row(row).asset,
            version: holdings.row(row).believed_version,
            to: holdings.account(to),
        });
        let told = mix(row.into(), to.into());
        (
            holdings.account(owner),
            command,
            Effect::Transfer { row, to },
            told,
        )
    }

    fn claim(&mut self, holdings: &mut Holdings) -> Thought {
        let to = self.somebody(holdings);
        let Some(row) = holdings.take_open(to) else {
            return self.transfer(holdings);
        };
        let command = Kind::Claim(v1::Claim {
            asset: holdings.row(row).asset,
            version: holdings.row(row).believed_version,
        });
        let told = mix(row.into(), to.into());
        (
            holdings.account(to),
            command,
            Effect::Claim { row, to },
            told,
        )
    }

    /// All streams run along the same row of assets: in step when they send at one rate, whoever is ahead of whom.
    fn contest(&mut self, holdings: &mut Holdings) -> Thought {
        let rules = &self.stage.file.contest;
        let claims = self.contests * self.stage.streams + self.stream;
        self.contests += 1;
        let group = claims / (rules.claims_an_asset * rules.at_once);
        let within = self.random.random_range(0..rules.at_once);
        let count = self.stage.contested.len() as u64;
        let place = ((group * rules.at_once + within) % count) as u32;
        let to = self.somebody(holdings);
        let command = Kind::Claim(v1::Claim {
            asset: self.stage.contested[place as usize],
            version: 1,
        });
        let told = mix(place.into(), to.into());
        (
            holdings.account(to),
            command,
            Effect::Contest { place, to },
            told,
        )
    }

    fn revise(&mut self, holdings: &mut Holdings) -> Thought {
        let row = self.row(holdings);
        let actor = holdings.account(owner_of(holdings, row));
        let seen = holdings.row(row).believed_version;
        let asset = holdings.row(row).asset;
        let version = holdings.believe_revised(row);
        let revise = self.stage.form.revise(asset, seen, &mut self.random);
        let told = mix(row.into(), version.into());
        (
            actor,
            Kind::Revise(revise),
            Effect::Revise { row, version },
            told,
        )
    }

    /// One asset is offered by its owner; several are asked for by their buyer.
    fn exchange(&mut self, holdings: &mut Holdings) -> Thought {
        let rules = &self.stage.file.exchange;
        let wanted = self
            .random
            .random_range(rules.assets_min..=rules.assets_max) as usize;
        let first = self.row(holdings);
        let seller = owner_of(holdings, first);
        let buyer = self.other(holdings, seller);
        let mut parts: Vec<Part> = Vec::with_capacity(wanted);
        let mut row = first;
        for _ in 0..TRIES_A_PART * wanted {
            let seller = owner_of(holdings, row);
            if seller != buyer && parts.iter().all(|part| part.row != row) {
                parts.push(Part {
                    row,
                    seller,
                    buyer,
                    amount: self.random.random_range(1..=PRICE_MAX),
                });
            }
            if parts.len() == wanted {
                break;
            }
            row = self.row(holdings);
        }
        let mut told = buyer.into();
        let mut legs = Vec::with_capacity(2 * parts.len());
        let mut consents: Vec<Bytes> = Vec::with_capacity(parts.len());
        for part in &parts {
            told = mix(mix(told, part.row.into()), part.amount.into());
            let (seller, buyer) = (holdings.account(part.seller), holdings.account(part.buyer));
            legs.push(asset_leg(holdings, part.row, seller.clone(), buyer.clone()));
            legs.push(currency_leg(buyer, seller.clone(), part.amount.into()));
            if !consents.contains(&seller) {
                consents.push(seller);
            }
        }
        let (actor, consents) = match parts.len() {
            1 => (holdings.account(seller), vec![holdings.account(buyer)]),
            _ => (holdings.account(buyer), consents),
        };
        let effect = holdings.keep_exchange(parts.into());
        (
            actor,
            Kind::Exchange(v1::Exchange { legs, consents }),
            effect,
            told,
        )
    }

    fn wrong(&mut self, action: Action, holdings: &Holdings) -> Thought {
        let one = self.somebody(holdings);
        let other = self.other(holdings, one);
        let (from, to) = (holdings.account(one), holdings.account(other));
        let told = mix(one.into(), other.into());
        let kept = self.stage.kept;
        let transfer = |asset, version, to| Kind::Transfer(v1::Transfer { asset, version, to });
        let exchange = |leg, consents| {
            Kind::Exchange(v1::Exchange {
                legs: vec![leg],
                consents,
            })
        };
        let command = match action {
            Action::StaleVersion => transfer(kept, NO_VERSION, to),
            Action::NotOwner => transfer(kept, 1, to),
            Action::UnknownAsset => transfer(NO_ASSET, 1, to),
            Action::AlreadyOwned => Kind::Claim(v1::Claim {
                asset: kept,
                version: 1,
            }),
            Action::NoFunds => exchange(currency_leg(from.clone(), to, TOO_MUCH), Vec::new()),
            Action::NoConsent => exchange(currency_leg(to, from.clone(), 1), Vec::new()),
            _ => transfer(kept, 1, Bytes::from_static(b"abc")),
        };
        let code = action.refused_with().map_or(0, |code| code as u16);
        (from, command, Effect::Wrong { code }, told)
    }

    fn row(&mut self, holdings: &Holdings) -> u32 {
        let start = self.assets.choose(&mut self.random);
        // When the ledger lets nothing be traded, its refusals are the result: send one more.
        holdings.tradable(start).unwrap_or(start as u32)
    }

    fn somebody(&mut self, holdings: &Holdings) -> u16 {
        (self.accounts.choose(&mut self.random) as u16).min(holdings.account_count() - 1)
    }

    /// An account other than `one`.
    fn other(&mut self, holdings: &Holdings, one: u16) -> u16 {
        match self.somebody(holdings) {
            same if same == one => (one + 1) % holdings.account_count(),
            other => other,
        }
    }
}

/// Actor, command, effect, and what tells it from others without naming anything of this run alone.
type Thought = (Bytes, Kind, Effect, u64);

fn owner_of(holdings: &Holdings, row: u32) -> u16 {
    holdings.row(row).believed.min(holdings.account_count() - 1)
}

fn asset_leg(holdings: &Holdings, row: u32, from: Bytes, to: Bytes) -> v1::Leg {
    v1::Leg {
        from,
        to,
        asset: holdings.row(row).asset,
        version: holdings.row(row).believed_version,
        amount: 0,
    }
}

fn currency_leg(from: Bytes, to: Bytes, amount: u64) -> v1::Leg {
    v1::Leg {
        from,
        to,
        asset: 0,
        version: 0,
        amount,
    }
}
