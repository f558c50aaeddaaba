//! A small synthetic crowd: players who claim, trade, revise and redeem, as any client would, over gRPC.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use karat_edge_node::generator::{GenerationRequest, Generator};
use karat_proto::v1::command::Kind;
use karat_proto::v1::event::Kind as Happened;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::{Account, limits, v1};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::{mpsc, watch as signal};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::setup::{PLAYERS, Setup, bytes, player};

/// The crowd acts this often.
const PACE: Duration = Duration::from_millis(50);
/// Assets that the crowd keeps in mind; older ones are left alone.
const ASSETS_IN_MIND: usize = 4096;
/// One action in so many revises an asset: a revision costs a run of the generator.
const REVISE_ONE_IN: u32 = 60;

/// What the crowd did.
#[derive(Debug, Default)]
pub struct CrowdFigures {
    /// Commands sent.
    pub sent: AtomicU64,
    /// Commands accepted.
    pub accepted: AtomicU64,
    /// Commands refused: lost races, stale versions; part of the play.
    pub refused: AtomicU64,
}

#[derive(Debug, Clone)]
struct Known {
    owner: Option<Account>,
    version: u32,
    active: bool,
    traits: Bytes,
}

struct Crowd {
    setup: Setup,
    random: StdRng,
    assets: HashMap<u64, Known>,
    generator: Option<Generator>,
}

/// Plays until `stop` is set or the engine goes away.
///
/// # Errors
/// When the engine answers with an error.
pub async fn run(
    channel: Channel,
    setup: Setup,
    from_sequence: u64,
    figures: Arc<CrowdFigures>,
    mut stop: signal::Receiver<bool>,
) -> Result<(), tonic::Status> {
    let mut ledger = LedgerClient::new(channel);
    let mut events = ledger
        .watch(v1::WatchRequest {
            from_sequence,
            ..Default::default()
        })
        .await?
        .into_inner();
    let (sender, receiver) = mpsc::channel(16);
    let mut outcomes = ledger
        .submit(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    let counting = figures.clone();
    let counter = tokio::spawn(async move {
        while let Ok(Some(answer)) = outcomes.message().await {
            let accepted = answer.outcomes.iter().filter(|one| one.code == 0).count() as u64;
            counting.accepted.fetch_add(accepted, Ordering::Relaxed);
            let refused = answer.outcomes.len() as u64 - accepted;
            counting.refused.fetch_add(refused, Ordering::Relaxed);
        }
    });
    let mut crowd = Crowd {
        setup,
        random: StdRng::seed_from_u64(7),
        assets: HashMap::new(),
        generator: None,
    };
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = stop.changed() => break,
            seen = events.message() => match seen? {
                Some(seen) => seen.events.iter().for_each(|event| crowd.see(event)),
                None => break,
            },
            _ = pace.tick() => {
                let commands = crowd.act();
                if commands.is_empty() {
                    continue;
                }
                figures.sent.fetch_add(commands.len() as u64, Ordering::Relaxed);
                let request =
                    v1::SubmitRequest { ack: v1::AckLevel::Sequenced.into(), commands };
                if sender.send(request).await.is_err() {
                    break;
                }
            }
        }
    }
    drop(sender);
    counter.abort();
    Ok(())
}

fn account(bytes: &[u8]) -> Option<Account> {
    bytes.try_into().ok().map(Account)
}

impl Crowd {
    fn see(&mut self, event: &v1::Event) {
        match &event.kind {
            Some(Happened::Minted(made)) if made.collection == self.setup.collection => {
                if self.assets.len() >= ASSETS_IN_MIND
                    && let Some(forgotten) = self.assets.keys().next().copied()
                {
                    self.assets.remove(&forgotten);
                }
                let known = Known {
                    owner: account(&made.owner),
                    version: 1,
                    active: false,
                    traits: made.traits.clone(),
                };
                self.assets.insert(made.asset, known);
            }
            Some(Happened::Revised(made)) => {
                if let Some(known) = self.assets.get_mut(&made.asset) {
                    known.version = made.version;
                    known.active = false;
                }
            }
            Some(Happened::Verified(verified)) => {
                if verified.state == v1::AssetState::Active as i32 {
                    if let Some(known) = self.assets.get_mut(&verified.asset) {
                        known.active = true;
                    }
                } else {
                    self.assets.remove(&verified.asset);
                }
            }
            Some(Happened::Transferred(moved)) => {
                if let Some(known) = self.assets.get_mut(&moved.asset) {
                    known.owner = account(&moved.to);
                }
            }
            Some(Happened::Burned(ended) | Happened::Redeemed(ended)) => {
                self.assets.remove(&ended.asset);
            }
            _ => {}
        }
    }

    /// What the crowd does in one beat: a few claims on what is open, a trade or two, rarely something else.
    fn act(&mut self) -> Vec<v1::Command> {
        let open: Vec<u64> = self.ids(|known| known.active && known.owner.is_none());
        let owned: Vec<u64> = self.ids(|known| known.active && known.owner.is_some());
        let mut commands = Vec::new();
        for _ in 0..2 {
            if let Some(asset) = open.choose(&mut self.random).copied() {
                // Two players want the same asset: the draw decides.
                for _ in 0..2 {
                    let actor = self.someone();
                    let version = self.assets[&asset].version;
                    let claim = v1::Claim { asset, version };
                    commands.push(self.command(actor, Kind::Claim(claim)));
                }
            }
        }
        if let Some(asset) = owned.choose(&mut self.random).copied() {
            commands.extend(self.trade(asset));
        }
        commands
    }

    fn ids(&self, wanted: impl Fn(&Known) -> bool) -> Vec<u64> {
        let mut ids: Vec<u64> = self
            .assets
            .iter()
            .filter(|(_, known)| wanted(known))
            .map(|(id, _)| *id)
            .collect();
        ids.sort_unstable();
        ids
    }

    fn someone(&mut self) -> Account {
        player(self.random.random_range(0..PLAYERS))
    }

    fn trade(&mut self, asset: u64) -> Option<v1::Command> {
        let known = self.assets.get(&asset)?.clone();
        let owner = known.owner?;
        let other = self.someone();
        let version = known.version;
        if self.random.random_ratio(1, REVISE_ONE_IN) {
            return self.revise(asset, &known, owner);
        }
        match self.random.random_range(0..20) {
            0 => {
                let redeem = v1::Redeem {
                    asset,
                    version,
                    to: bytes(&owner),
                };
                Some(self.command(owner, Kind::Redeem(redeem)))
            }
            1..=9 if other != owner => {
                let transfer = v1::Transfer {
                    asset,
                    version,
                    to: bytes(&other),
                };
                Some(self.command(owner, Kind::Transfer(transfer)))
            }
            _ if other != owner => {
                let amount = self.random.random_range(1..100);
                let legs = vec![
                    v1::Leg {
                        from: bytes(&owner),
                        to: bytes(&other),
                        asset,
                        version,
                        amount: 0,
                    },
                    v1::Leg {
                        from: bytes(&other),
                        to: bytes(&owner),
                        amount,
                        ..Default::default()
                    },
                ];
                let exchange = v1::Exchange {
                    legs,
                    consents: vec![bytes(&other)],
                };
                Some(self.command(owner, Kind::Exchange(exchange)))
            }
            _ => None,
        }
    }

    fn revise(&mut self, asset: u64, known: &Known, owner: Account) -> Option<v1::Command> {
        if self.generator.is_none() {
            let variant = &self.setup.manifest.default_variant;
            match Generator::load(&self.setup.generator, variant.as_str()) {
                Ok(generator) => self.generator = Some(generator),
                Err(error) => {
                    tracing::warn!(%error, "the crowd cannot revise");
                    return None;
                }
            }
        }
        let seed: [u8; 32] = self.random.random();
        let generator = self.generator.as_mut()?;
        let request = GenerationRequest {
            seed,
            traits: known.traits.to_vec(),
        };
        // One image of a few milliseconds; the crowd's runtime has nothing more urgent.
        let made = generator.generate(&[request]).ok()?.pop()?;
        let lineage = v1::Lineage {
            model: Bytes::copy_from_slice(&self.setup.manifest.digest),
            variant: generator.variant().to_owned(),
            seed: Bytes::copy_from_slice(&seed),
        };
        let revise = v1::Revise {
            asset,
            version: known.version,
            collection: self.setup.collection,
            digest: Bytes::new(),
            size: 0,
            traits: known.traits.clone(),
            lineage: Some(lineage),
            content: made.png.into(),
        };
        Some(self.command(owner, Kind::Revise(revise)))
    }

    fn command(&mut self, actor: Account, kind: Kind) -> v1::Command {
        let id: [u8; 16] = rand::random();
        v1::Command {
            id: Bytes::copy_from_slice(&id),
            actor: bytes(&actor),
            format: limits::COMMAND_FORMAT,
            kind: Some(kind),
        }
    }
}
