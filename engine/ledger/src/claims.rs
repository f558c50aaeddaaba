//! Claims on assets that nobody owns: the first in order, or a fair draw among the claims of one window.
//!
//! # The draw
//!
//! The first claim opens a window that closes `window_ms` after its block's time. Claims join until then; after it closed
//! and before it is drawn they are refused (`ClaimWindowFull`: try again after the draw). The first tick whose block's time
//! is at or past the close draws: the winner has the lowest
//! `blake3("karat.claim.v1" ‖ hash of the tick's block ‖ asset ‖ claimant ‖ claim's command id)`.
//!
//! Why this is fair: the block's hash is not known while claims can still join, and each claim's number is as good as
//! random, so each claim has the same chance, however early it came. One account has one claim on a version of an asset; a
//! player with many accounts has as many chances, as in every draw without identities.
//!
//! What a leader could do: the sequencer makes the block that draws, and knows the waiting claims. By trying other times or
//! other orders of commands in that block it can steer the draw. The log keeps what it did, but cannot prove intent: whoever
//! does not trust the leader should not let draws decide much.
//!
//! # When the asset changed meanwhile
//!
//! A claim is for the version it names. At the draw, claims on older versions lose. Nobody wins, and every claim is lost
//! without a winner, when the asset is frozen, ended, or pending in a collection whose pending assets do not trade.
//!
//! # Bounds
//!
//! A window holds [`limits::CLAIMS_A_WINDOW_MAX`] claims, all windows [`CLAIMS_WAITING_MAX`]. One tick draws windows until it
//! took [`DRAWN_CLAIMS_A_TICK_MAX`] claims or the open batch is full; the rest are drawn by the next tick, oldest close first.

use crate::apply::{Applied, Refusal, Step};
use crate::state::Ledger;
use crate::state::accounts::{AccountIndex, NOBODY};
use crate::state::asset::is_ended;
use foldhash::quality::FixedState;
use hashbrown::HashSet;
use karat_proto::command::ClaimRule;
use karat_proto::event::{AssetState, EventKind, TransferCause, Winner};
use karat_proto::{Account, AssetId, Code, CommandId, limits};
use std::collections::{BTreeMap, BTreeSet};

/// Claims that wait in all windows together at most.
pub const CLAIMS_WAITING_MAX: usize = 1_000_000;
/// Claims that one tick draws at most (one window more when its first alone is larger, which it cannot be).
pub const DRAWN_CLAIMS_A_TICK_MAX: usize = 8192;

const _: () = assert!(limits::CLAIMS_A_WINDOW_MAX <= DRAWN_CLAIMS_A_TICK_MAX);
// A draw has an event for each claim, and two more when somebody wins; a command's events are numbered in 16 bits.
const _: () = assert!(DRAWN_CLAIMS_A_TICK_MAX * 3 < u16::MAX as usize);

/// One claim that waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitingClaim {
    pub(crate) account: AccountIndex,
    pub(crate) version: u32,
    pub(crate) command: Winner,
}

/// The claims of one asset that wait for one draw.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) closes_ms: u64,
    pub(crate) claims: Vec<WaitingClaim>,
}

#[derive(Clone, Debug)]
pub(crate) struct Claims {
    pub(crate) windows: BTreeMap<AssetId, Window>,
    /// Closing time and asset of every window: the order in which they are drawn.
    pub(crate) deadlines: BTreeSet<(u64, AssetId)>,
    /// Asset, account and version of every claim that waits. Never iterated.
    claimed: HashSet<(AssetId, AccountIndex, u32), FixedState>,
}

impl Claims {
    pub(crate) fn new() -> Claims {
        Claims {
            windows: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            claimed: HashSet::with_hasher(FixedState::with_seed(0)),
        }
    }

    /// Claims that wait in all windows.
    pub(crate) fn waiting(&self) -> usize {
        self.claimed.len()
    }

    fn waits(&self, asset: AssetId, account: AccountIndex, version: u32) -> bool {
        self.claimed.contains(&(asset, account, version))
    }

    /// Adds a claim; opens the window when it is the first.
    pub(crate) fn enter(&mut self, asset: AssetId, closes_ms: u64, claim: WaitingClaim) {
        let deadlines = &mut self.deadlines;
        let window = self.windows.entry(asset).or_insert_with(|| {
            deadlines.insert((closes_ms, asset));
            Window {
                closes_ms,
                claims: Vec::new(),
            }
        });
        window.claims.push(claim);
        self.claimed.insert((asset, claim.account, claim.version));
    }

    /// Takes a window out.
    fn close(&mut self, closes_ms: u64, asset: AssetId) -> Option<Window> {
        self.deadlines.remove(&(closes_ms, asset));
        let window = self.windows.remove(&asset)?;
        for claim in &window.claims {
            self.claimed.remove(&(asset, claim.account, claim.version));
        }
        Some(window)
    }
}

impl Ledger {
    pub(crate) fn claim(&mut self, step: &mut Step<'_>, id: AssetId, version: u32) -> Applied {
        let asset = self.living_asset(id, version)?;
        if asset.owner != NOBODY {
            return Err(Refusal::lost_to(
                Code::AlreadyOwned,
                id,
                asset.owner_winner(),
            ));
        }
        self.check_tradable(id, asset)?;
        let collection = self
            .collection_record(asset.collection)
            .ok_or(Refusal::about(Code::UnknownCollection, id))?;
        match collection.spec.claim_rule {
            ClaimRule::First => {
                let winner = step.change();
                let to = step.actor;
                self.hand_over(
                    step,
                    id,
                    (&Account::NOBODY, &to),
                    TransferCause::Claim,
                    winner,
                );
            }
            ClaimRule::Draw { window_ms } => self.enter_draw(step, id, version, window_ms)?,
        }
        Ok(id)
    }

    fn enter_draw(
        &mut self,
        step: &mut Step<'_>,
        id: AssetId,
        version: u32,
        window_ms: u64,
    ) -> Result<(), Refusal> {
        if let Some(account) = self.accounts.find(&step.actor)
            && self.claims.waits(id, account, version)
        {
            return Err(Refusal::about(Code::AlreadyClaimed, id));
        }
        let closes_ms = match self.claims.windows.get(&id) {
            None => step.time_ms.saturating_add(window_ms),
            Some(window) => {
                let full = window.claims.len() >= limits::CLAIMS_A_WINDOW_MAX;
                if full || step.time_ms >= window.closes_ms {
                    return Err(Refusal::about(Code::ClaimWindowFull, id));
                }
                window.closes_ms
            }
        };
        if self.claims.waiting() >= CLAIMS_WAITING_MAX {
            return Err(Refusal::about(Code::ClaimWindowFull, id));
        }
        let account = self.accounts.intern(&step.actor);
        self.claims.enter(
            id,
            closes_ms,
            WaitingClaim {
                account,
                version,
                command: step.change(),
            },
        );
        let account = step.actor;
        step.emit_made(|| EventKind::ClaimEntered {
            asset: id,
            account,
            closes_ms,
        });
        Ok(())
    }

    /// Draws the windows that closed at or before this tick's time, within its bounds.
    pub(crate) fn draw_due_windows(&mut self, step: &mut Step<'_>) {
        let mut drawn = 0;
        while let Some(&(closes_ms, id)) = self.claims.deadlines.first() {
            if closes_ms > step.time_ms || self.batch_is_full() {
                return;
            }
            let claims = self
                .claims
                .windows
                .get(&id)
                .map_or(0, |window| window.claims.len());
            if drawn + claims > DRAWN_CLAIMS_A_TICK_MAX {
                return;
            }
            drawn += claims;
            if let Some(window) = self.claims.close(closes_ms, id) {
                self.draw(step, id, &window);
            }
        }
    }

    fn draw(&mut self, step: &mut Step<'_>, id: AssetId, window: &Window) {
        let version = self.asset_record(id).and_then(|asset| {
            let claimable = asset.owner == NOBODY
                && asset.state != AssetState::Frozen
                && !is_ended(asset.state)
                && self.may_trade(asset);
            claimable.then_some(asset.version)
        });
        let winner = window
            .claims
            .iter()
            .filter(|claim| Some(claim.version) == version)
            .min_by_key(|claim| {
                let account = self.accounts.account(claim.account);
                draw_number(step.block_hash, id, account, claim.command.id)
            });
        if let Some(winner) = winner {
            let to = self.accounts.account(winner.account);
            let parties = (&Account::NOBODY, &to);
            self.hand_over(step, id, parties, TransferCause::Claim, winner.command);
        }
        let won = winner.map(|winner| winner.command);
        for claim in &window.claims {
            if Some(claim.command) != won {
                step.emit_made(|| EventKind::ClaimLost {
                    asset: id,
                    account: self.accounts.account(claim.account),
                    command: claim.command.id,
                    winner: won,
                });
            }
        }
    }
}

/// A claim's number in the draw; the lowest wins.
pub(crate) fn draw_number(
    block_hash: &[u8; 32],
    asset: AssetId,
    account: Account,
    command: CommandId,
) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"karat.claim.v1");
    hasher.update(block_hash);
    hasher.update(&asset.to_be_bytes());
    hasher.update(&account.0);
    hasher.update(&command.0);
    *hasher.finalize().as_bytes()
}
