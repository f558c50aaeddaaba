//! The load: what clients believe of the world, and the next command that they make of it. Beliefs may be behind, so races
//! and refusals come by themselves.

use bytes::Bytes;
use karat_edge_node::generator::{GenerationRequest, Generator};
use karat_edge_node::pixels::{Pixels, PngLimits, decode_png, encode_png};
use karat_proto::v1::command::Kind;
use karat_proto::{Account, limits, v1};

use super::book::Told;
use super::engine::models_dir;
use super::random::Random;

/// A generator that the ledger approves and this machine does not have.
pub const MODEL: [u8; 32] = [7; 32];
pub const TRADERS: u64 = 16;
/// Claims go to the first in order.
pub const FIRST_COME: u32 = 1;
/// Claims are drawn.
pub const DRAWN: u32 = 2;
/// Images that a model made; every asset has a variation of one of them.
const IMAGES: u8 = 16;

pub fn account(name: &str) -> Bytes {
    Bytes::copy_from_slice(&Account::from_name(name).0)
}

pub fn trader(number: u64) -> Bytes {
    account(&format!("trader {number}"))
}

pub fn command(id: [u8; 16], actor: Bytes, kind: Kind) -> v1::Command {
    v1::Command {
        id: Bytes::copy_from_slice(&id),
        actor,
        format: limits::COMMAND_FORMAT,
        kind: Some(kind),
    }
}

fn lineage() -> v1::Lineage {
    v1::Lineage {
        model: Bytes::from_static(&MODEL),
        variant: "full".into(),
        seed: Bytes::from_static(&[3; 32]),
    }
}

/// What must be there before the load: a model, two collections, money. Always the same commands, so they can be sent at
/// every start.
pub fn setup() -> Vec<v1::Command> {
    let mut kinds = vec![
        (
            account("operator"),
            Kind::RegisterModel(v1::RegisterModel {
                digest: Bytes::from_static(&MODEL),
                name: "test model 1".into(),
                role: v1::ModelRole::Generator.into(),
                ..Default::default()
            }),
        ),
        (
            account("operator"),
            Kind::PromoteModel(v1::PromoteModel {
                digest: Bytes::from_static(&MODEL),
            }),
        ),
    ];
    for (name, claim_window_ms) in [("first come", 0), ("drawn", 40)] {
        let spec = v1::CollectionSpec {
            name: name.into(),
            supply_cap: 10_000_000,
            traits: vec![v1::TraitSpec {
                name: "shape".into(),
                values: vec!["round".into(), "square".into()],
                weights: vec![1, 1],
            }],
            claim_window_ms,
            pending_rule: Some(v1::PendingRule {
                trade: true,
                settle: true,
                show: true,
            }),
            seed_commitment: Bytes::from_static(&[9; 32]),
            ..Default::default()
        };
        let kind = Kind::CreateCollection(v1::CreateCollection { spec: Some(spec) });
        kinds.push((account("studio"), kind));
    }
    for number in 0..TRADERS {
        let kind = Kind::Deposit(v1::Deposit {
            account: trader(number),
            amount: 100_000,
        });
        kinds.push((account("operator"), kind));
    }
    let ids = (1..).map(|number: u128| number.to_be_bytes());
    ids.zip(kinds)
        .map(|(id, (actor, kind))| command(id, actor, kind))
        .collect()
}

/// An asset as clients believe it to be.
#[derive(Debug, Clone)]
struct Believed {
    asset: u64,
    collection: u32,
    version: u32,
    owner: Bytes,
}

pub struct Scene {
    /// Assets that are alive; some are left alone after a while, so that the load stays in motion.
    alive: Vec<Believed>,
    originals: Vec<Pixels>,
    images: u32,
    /// The image that was refused last: stored, and named by nothing.
    orphan: Option<Bytes>,
}

const ALIVE_MAX: usize = 3000;

/// What no auditor is sure to be corrupt, so that assets live on in review.
fn originals() -> Vec<Pixels> {
    let folder = models_dir().join("relics");
    let mut generator = Generator::load(&folder, None).unwrap();
    let traits = vec![0; generator.manifest().traits.len()];
    let requests: Vec<GenerationRequest> = (0..IMAGES)
        .map(|seed| GenerationRequest {
            seed: [seed; 32],
            traits: traits.clone(),
        })
        .collect();
    let limits = PngLimits {
        max_bytes: limits::CONTENT_BYTES_MAX,
        max_width: limits::IMAGE_SIDE_MAX,
        max_height: limits::IMAGE_SIDE_MAX,
    };
    let made = requests.chunks(8).flat_map(|some| {
        let made = generator.generate(some).unwrap();
        made.into_iter()
            .map(|one| decode_png(&one.png, limits).unwrap())
    });
    made.collect()
}

impl Default for Scene {
    fn default() -> Scene {
        Scene {
            alive: Vec::new(),
            originals: originals(),
            images: 0,
            orphan: None,
        }
    }
}

impl Scene {
    /// A PNG that no other asset has.
    fn image(&mut self) -> Bytes {
        self.images += 1;
        let original = &self.originals[self.images as usize % self.originals.len()];
        let mut rgb = original.rgb.clone();
        rgb[..4].copy_from_slice(&self.images.to_le_bytes());
        encode_png(original.width, original.height, &rgb)
            .unwrap()
            .into()
    }

    fn made(&mut self, random: &mut Random) -> (Bytes, Bytes, Option<v1::Lineage>) {
        let refused = random.once_in(16);
        let image = match self.orphan.take() {
            // Named after all, perhaps while orphans are collected.
            Some(orphan) if !refused && random.once_in(2) => orphan,
            _ => self.image(),
        };
        if refused {
            self.orphan = Some(image.clone());
        }
        // A value that no trait has: refused by the ledger when the bytes are stored already.
        let value = if refused { 9 } else { 0 };
        (image, Bytes::copy_from_slice(&[value]), Some(lineage()))
    }

    /// A mint that the ledger refuses when its bytes, which nothing else names, are stored already.
    pub fn refused_mint(&mut self, random: &mut Random) -> v1::Command {
        let mint = v1::Mint {
            collection: FIRST_COME,
            traits: Bytes::from_static(&[9]),
            lineage: Some(lineage()),
            content: self.image(),
            ..Default::default()
        };
        command(random.id(), account("studio"), Kind::Mint(mint))
    }

    pub fn next_command(&mut self, random: &mut Random) -> v1::Command {
        let id = random.id();
        let someone = trader(random.between(0, TRADERS - 1));
        let choice = random.between(0, 99);
        if self.alive.is_empty() || choice < 12 {
            let (content, traits, lineage) = self.made(random);
            let owner = if random.once_in(2) {
                someone
            } else {
                Bytes::new()
            };
            let mint = v1::Mint {
                collection: if random.once_in(4) { DRAWN } else { FIRST_COME },
                owner,
                traits,
                lineage,
                content,
                ..Default::default()
            };
            return command(id, account("studio"), Kind::Mint(mint));
        }
        let newest = self.alive.len() as u64;
        let at = random.between(0, newest - 1) as usize;
        let mut one = self.alive[at].clone();
        if random.once_in(20) {
            // What nobody can have seen.
            one.version += 1;
        }
        let owner = if one.owner.is_empty() || random.once_in(20) {
            someone.clone()
        } else {
            one.owner.clone()
        };
        let receiver = loop {
            let receiver = trader(random.between(0, TRADERS - 1));
            if receiver != owner {
                break receiver;
            }
        };
        let (asset, version) = (one.asset, one.version);
        let (actor, kind) = match choice {
            12..=31 if one.owner.is_empty() => (someone, Kind::Claim(v1::Claim { asset, version })),
            12..=34 => {
                let to = receiver;
                (owner, Kind::Transfer(v1::Transfer { asset, version, to }))
            }
            35..=54 => {
                let sale = sale(random, &one, &owner, receiver);
                (owner, Kind::Exchange(sale))
            }
            55..=64 => (someone, Kind::Claim(v1::Claim { asset, version })),
            65..=72 => {
                let (content, traits, lineage) = self.made(random);
                let revise = v1::Revise {
                    asset,
                    version,
                    collection: one.collection,
                    traits,
                    lineage,
                    content,
                    ..Default::default()
                };
                (account("studio"), Kind::Revise(revise))
            }
            73..=80 => {
                let decision = v1::ReviewDecision {
                    asset,
                    version,
                    accepted: !random.once_in(8),
                    reason: "looks right".into(),
                };
                (account("operator"), Kind::ReviewDecision(decision))
            }
            81..=85 => {
                let to = account("chain address");
                (owner, Kind::Redeem(v1::Redeem { asset, version, to }))
            }
            86 => (owner, Kind::Burn(v1::Burn { asset, version })),
            87..=94 => {
                let deposit = v1::Deposit {
                    account: someone,
                    amount: random.between(1, 1000),
                };
                (account("operator"), Kind::Deposit(deposit))
            }
            _ => {
                let withdraw = v1::Withdraw {
                    account: someone.clone(),
                    amount: random.between(1, 1000),
                };
                (someone, Kind::Withdraw(withdraw))
            }
        };
        command(id, actor, kind)
    }

    /// Takes an accepted command into the beliefs.
    pub fn accepted(&mut self, command: &v1::Command, told: &Told) {
        let Some(kind) = &command.kind else { return };
        match kind {
            Kind::Mint(mint) => {
                if self.alive.len() >= ALIVE_MAX {
                    self.alive.swap_remove(0);
                }
                self.alive.push(Believed {
                    asset: told.subject,
                    collection: mint.collection,
                    version: 1,
                    owner: mint.owner.clone(),
                });
            }
            Kind::Revise(revise) => self.change(revise.asset, |one| one.version += 1),
            Kind::Transfer(transfer) => {
                self.change(transfer.asset, |one| one.owner = transfer.to.clone());
            }
            Kind::Claim(claim) => self.change(claim.asset, |one| {
                if one.collection == FIRST_COME {
                    one.owner = command.actor.clone();
                }
            }),
            Kind::Exchange(exchange) => {
                for leg in exchange.legs.iter().filter(|leg| leg.asset != 0) {
                    self.change(leg.asset, |one| one.owner = leg.to.clone());
                }
            }
            Kind::Burn(v1::Burn { asset, .. })
            | Kind::Redeem(v1::Redeem { asset, .. })
            | Kind::ReviewDecision(v1::ReviewDecision {
                asset,
                accepted: false,
                ..
            }) => self.ended(*asset),
            _ => {}
        }
    }

    /// A draw gave an asset to somebody.
    pub fn drawn(&mut self, asset: u64, to: &Bytes) {
        self.change(asset, |one| one.owner = to.clone());
    }

    /// Nothing can happen to an asset any more.
    pub fn ended(&mut self, asset: u64) {
        self.alive.retain(|one| one.asset != asset);
    }

    fn change(&mut self, asset: u64, change: impl FnOnce(&mut Believed)) {
        if let Some(one) = self.alive.iter_mut().rev().find(|one| one.asset == asset) {
            change(one);
        }
    }
}

/// An asset for currency, and sometimes a third leg.
fn sale(random: &mut Random, one: &Believed, owner: &Bytes, buyer: Bytes) -> v1::Exchange {
    let mut legs = vec![
        v1::Leg {
            from: owner.clone(),
            to: buyer.clone(),
            asset: one.asset,
            version: one.version,
            amount: 0,
        },
        v1::Leg {
            from: buyer.clone(),
            to: owner.clone(),
            amount: random.between(1, 50),
            ..Default::default()
        },
    ];
    if random.once_in(3) {
        legs.push(v1::Leg {
            from: buyer.clone(),
            to: account("fees"),
            amount: 1,
            ..Default::default()
        });
    }
    v1::Exchange {
        legs,
        consents: vec![buyer],
    }
}
