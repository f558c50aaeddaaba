//! Fetching what the next commands will look at, while the present one is applied.
//!
//! A command on a realm of a million assets looks at five or six places in memory that no cache holds: its id's slot, its
//! asset, the slots and balances of accounts. One after the other they cost more than everything else. A caller that has a
//! block's commands at hand announces them, and they are fetched side by side. Nothing changes but time.

use crate::state::Ledger;
use karat_proto::command::{Command, CommandKind, Leg};
use karat_proto::{Account, AssetId};

/// How far ahead slots and assets are fetched.
const FAR: usize = 8;
/// How far ahead what they point at is fetched: by then they have come.
const NEAR: usize = 4;
/// Commands that are fetched for at once. A fetch from a page that was not used for long holds the processor up until the
/// page is found: it goes on by some hundred instructions, fewer than a command takes. The pages of a group are looked for
/// side by side. On 1,000,000 assets a fourth of a command's time was such waiting.
const GROUP: usize = 4;
/// Legs of an exchange that are fetched; more would push each other out.
const LEGS: usize = 8;

/// What can be fetched of one command: the parts of the state that it names.
trait Fetch {
    fn asset(ledger: &Ledger, id: AssetId);
    fn account(ledger: &Ledger, account: &Account);

    #[inline]
    fn command(ledger: &Ledger, command: &Command) {
        match &command.kind {
            CommandKind::Mint(mint) => Self::account(ledger, &mint.owner),
            CommandKind::Transfer { asset, to, .. } | CommandKind::Redeem { asset, to, .. } => {
                Self::asset(ledger, *asset);
                Self::account(ledger, to);
            }
            CommandKind::Claim { asset, .. } => {
                Self::asset(ledger, *asset);
                Self::account(ledger, &command.actor);
            }
            CommandKind::Exchange(exchange) => Self::legs(ledger, &exchange.legs),
            CommandKind::Burn { asset, .. } => Self::asset(ledger, *asset),
            CommandKind::Revise(revise) => Self::asset(ledger, revise.asset),
            CommandKind::Verdict(verdict) => Self::asset(ledger, verdict.asset),
            CommandKind::Deposit { account, .. } | CommandKind::Withdraw { account, .. } => {
                Self::account(ledger, account);
            }
            _ => {}
        }
    }

    /// Apart from the others, which would pay for the loop's registers.
    #[inline(never)]
    fn legs(ledger: &Ledger, legs: &[Leg]) {
        for leg in legs.iter().take(LEGS) {
            match leg {
                Leg::Asset { asset, to, .. } => {
                    Self::asset(ledger, *asset);
                    Self::account(ledger, to);
                }
                Leg::Currency { from, to, .. } => {
                    Self::account(ledger, from);
                    Self::account(ledger, to);
                }
            }
        }
    }
}

/// Slots and assets.
struct Far;

impl Fetch for Far {
    #[inline(always)]
    fn asset(ledger: &Ledger, id: AssetId) {
        if let Some(asset) = ledger.asset_record(id) {
            // The part that most commands touch ends with the metadata; it lies in two cache lines or in three.
            prefetch(&asset.settle_sequence);
            prefetch(&asset.owner);
            prefetch(&asset.metadata[31]);
        }
    }

    #[inline(always)]
    fn account(ledger: &Ledger, account: &Account) {
        ledger.accounts.prefetch_slot(account);
    }
}

/// What slots and assets point at.
struct Near;

impl Fetch for Near {
    #[inline(always)]
    fn asset(ledger: &Ledger, id: AssetId) {
        if let Some(asset) = ledger.asset_record(id) {
            ledger.accounts.prefetch_record(asset.owner);
        }
    }

    #[inline(always)]
    fn account(ledger: &Ledger, account: &Account) {
        ledger.accounts.prefetch_found(account);
    }
}

impl Ledger {
    /// Announces that `commands[next]` is about to be applied and those behind it soon after. Call it before each `apply` of
    /// a block; leaving it out, or announcing commands that never come, costs time and nothing else.
    #[inline]
    pub fn look_ahead(&self, commands: &[Command], next: usize) {
        if next.is_multiple_of(GROUP) {
            self.fetch_group(commands, next);
        }
    }

    /// Fetches for a group; for the first commands of a block as well when it begins.
    fn fetch_group(&self, commands: &[Command], next: usize) {
        let from = |ahead: usize| {
            let begin = match next {
                0 => 0,
                _ => next.saturating_add(ahead),
            };
            let end = next.saturating_add(ahead + GROUP).min(commands.len());
            commands.get(begin..end).unwrap_or_default()
        };
        for command in from(FAR) {
            self.retries.prefetch(&command.id);
            Far::command(self, command);
        }
        for command in from(NEAR) {
            Near::command(self, command);
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
