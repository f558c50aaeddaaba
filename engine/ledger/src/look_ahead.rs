//! Fetching what the next commands will look at, while the present one is applied.
//!
//! A command on a realm of a million assets looks at five or six places in memory that no cache holds: its id's slot, its
//! asset, the slots and balances of accounts. One after the other they cost more than everything else. A caller that has a
//! block's commands at hand announces them, and they are fetched side by side. Nothing changes but time.

use crate::state::Ledger;
use crate::state::index::KeyHash;
use karat_proto::command::{Command, CommandKind, Leg};
use karat_proto::{Account, AssetId};

/// How far ahead slots and assets are fetched.
const FAR: usize = 8;
/// How far ahead what they point at is fetched: by then they have come.
const NEAR: usize = 4;
/// Legs of an exchange that are fetched; more would push each other out.
const LEGS: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Distance {
    Far,
    Near,
}

impl Ledger {
    /// Announces that `commands[next]` is about to be applied and those behind it soon after. Call it before each `apply` of
    /// a block; leaving it out, or announcing commands that never come, costs time and nothing else.
    #[inline]
    pub fn look_ahead(&self, commands: &[Command], next: usize) {
        if let Some(command) = commands.get(next.saturating_add(FAR)) {
            self.retries.prefetch(KeyHash::of(&command.id.0));
            self.fetch_for(command, Distance::Far);
        }
        if let Some(command) = commands.get(next.saturating_add(NEAR)) {
            self.fetch_for(command, Distance::Near);
        }
    }

    fn fetch_for(&self, command: &Command, distance: Distance) {
        match &command.kind {
            CommandKind::Mint(mint) => self.fetch_account(&mint.owner, distance),
            CommandKind::Transfer { asset, to, .. } | CommandKind::Redeem { asset, to, .. } => {
                self.fetch_asset(*asset, distance);
                self.fetch_account(to, distance);
            }
            CommandKind::Claim { asset, .. } => {
                self.fetch_asset(*asset, distance);
                self.fetch_account(&command.actor, distance);
            }
            CommandKind::Exchange(exchange) => {
                for leg in exchange.legs.iter().take(LEGS) {
                    match leg {
                        Leg::Asset { asset, to, .. } => {
                            self.fetch_asset(*asset, distance);
                            self.fetch_account(to, distance);
                        }
                        Leg::Currency { from, to, .. } => {
                            self.fetch_account(from, distance);
                            self.fetch_account(to, distance);
                        }
                    }
                }
            }
            CommandKind::Burn { asset, .. } => self.fetch_asset(*asset, distance),
            CommandKind::Revise(revise) => self.fetch_asset(revise.asset, distance),
            CommandKind::Verdict(verdict) => self.fetch_asset(verdict.asset, distance),
            CommandKind::Deposit { account, .. } | CommandKind::Withdraw { account, .. } => {
                self.fetch_account(account, distance);
            }
            _ => {}
        }
    }

    #[inline]
    fn fetch_asset(&self, id: AssetId, distance: Distance) {
        let Some(asset) = self.asset_record(id) else {
            return;
        };
        match distance {
            Distance::Far => {
                // The part that most commands touch spans three cache lines at most.
                prefetch(&asset.settle_sequence);
                prefetch(&asset.owner);
                prefetch(&asset.traits);
            }
            Distance::Near => self.accounts.prefetch_record(asset.owner),
        }
    }

    #[inline]
    fn fetch_account(&self, account: &Account, distance: Distance) {
        match distance {
            Distance::Far => self.accounts.prefetch_slot(account),
            Distance::Near => self.accounts.prefetch_found(account),
        }
    }
}

/// Asks for the cache line of a value; does nothing on machines other than x86-64.
#[inline]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch changes nothing that a program can see and cannot fault at any address; this address is that
        // of a live reference besides.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
