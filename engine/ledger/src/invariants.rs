//! What is always true of a ledger, by number. Tests check all of it after every command, debug builds now and then.

use crate::KEPT_BATCHES_MAX;
use crate::claims::CLAIMS_WAITING_MAX;
use crate::currency::AMOUNT_MAX;
use crate::retries::Entry;
use crate::state::accounts::NOBODY;
use crate::state::{Ledger, state_index};
use karat_proto::event::AssetState;
use karat_proto::limits;
use std::collections::BTreeSet;

/// An invariant that does not hold: a bug in the ledger, or damaged state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invariant I{number} ({promise}) does not hold: {detail}")]
pub struct Violation {
    /// Its number.
    pub number: u8,
    /// What it promises.
    pub promise: &'static str,
    /// Where and how it fails.
    pub detail: String,
}

/// One invariant.
#[derive(Clone, Copy, Debug)]
pub struct Invariant {
    /// Its number; never reused.
    pub number: u8,
    /// What it promises.
    pub promise: &'static str,
    check: fn(&Ledger) -> Result<(), String>,
}

/// All invariants, in the order of their numbers.
pub const ALL: &[Invariant] = &[
    Invariant {
        number: 1,
        promise: "assets are conserved: each is in one state and was minted into one collection",
        check: assets_are_conserved,
    },
    Invariant {
        number: 2,
        promise: "no supply cap and no cap on a trait value is passed, and values are counted right",
        check: caps_hold,
    },
    Invariant {
        number: 3,
        promise: "currency is conserved: balances sum to what came in less what went out",
        check: currency_is_conserved,
    },
    Invariant {
        number: 4,
        promise: "nobody owns a burned asset, somebody owns a redeemed one",
        check: ends_are_owned_right,
    },
    Invariant {
        number: 5,
        promise: "an asset's positions are in order and in the past",
        check: positions_are_in_order,
    },
    Invariant {
        number: 6,
        promise: "a frozen asset, and no other, knows a living state to return to",
        check: frozen_assets_can_return,
    },
    Invariant {
        number: 7,
        promise: "batches follow each other without gap or overlap, in stages that are in order",
        check: batches_follow_each_other,
    },
    Invariant {
        number: 8,
        promise: "the open batch counts each asset changed since the last cut once",
        check: open_changes_are_counted,
    },
    Invariant {
        number: 9,
        promise: "settled_seq is not beyond applied_seq, and no asset in an open batch is settled",
        check: settled_is_applied,
    },
    Invariant {
        number: 10,
        promise: "every command has exactly one outcome, and an id is remembered once",
        check: outcomes_are_counted,
    },
    Invariant {
        number: 11,
        promise: "every claim that waits is in one window, and every window has its deadline",
        check: claims_wait_once,
    },
    Invariant {
        number: 12,
        promise: "accounts are known once, and nobody has no currency",
        check: accounts_are_known_once,
    },
];

impl Invariant {
    /// Checks this invariant.
    ///
    /// # Errors
    /// Where and how it fails.
    pub fn check(&self, ledger: &Ledger) -> Result<(), Violation> {
        (self.check)(ledger).map_err(|detail| Violation {
            number: self.number,
            promise: self.promise,
            detail,
        })
    }
}

/// Checks every invariant; takes time in proportion to the whole state.
///
/// # Errors
/// The first one that fails.
pub fn check_all(ledger: &Ledger) -> Result<(), Violation> {
    ALL.iter().try_for_each(|invariant| invariant.check(ledger))
}

impl Ledger {
    /// Called at folds of the digest in debug builds: always while the realm is small, else once in 1,048,576 commands, so
    /// that a debug build stays usable.
    pub(crate) fn assert_invariants_sometimes(&self) {
        let small = self.assets.len() + self.accounts.len() + self.retries.len() as usize <= 20_000;
        if small || self.applied_seq.is_multiple_of(1 << 20) {
            let checked = check_all(self);
            debug_assert_eq!(checked, Ok(()), "at sequence {}", self.applied_seq);
        }
    }
}

/// The condition, or what to say when it fails.
fn ensure(holds: bool, detail: impl FnOnce() -> String) -> Result<(), String> {
    match holds {
        true => Ok(()),
        false => Err(detail()),
    }
}

fn assets_are_conserved(ledger: &Ledger) -> Result<(), String> {
    let mut by_state = [0; 7];
    let mut by_collection = vec![0; ledger.collections.len()];
    for (place, asset) in ledger.assets.iter().enumerate() {
        by_state[state_index(asset.state)] += 1;
        let collection = (asset.collection as usize)
            .checked_sub(1)
            .and_then(|index| by_collection.get_mut(index));
        match collection {
            Some(count) => *count += 1,
            None => return Err(format!("asset {} is in no collection", place + 1)),
        }
    }
    ensure(by_state == ledger.assets_by_state, || {
        format!("counted {by_state:?}, kept {:?}", ledger.assets_by_state)
    })?;
    let minted: Vec<u64> = ledger.collections.iter().map(|each| each.minted).collect();
    ensure(by_collection == minted, || {
        format!("counted {by_collection:?} by collection, kept {minted:?}")
    })
}

fn caps_hold(ledger: &Ledger) -> Result<(), String> {
    let mut counts: Vec<Vec<u64>> = ledger
        .collections
        .iter()
        .map(|each| vec![0; each.counts.len()])
        .collect();
    for (place, asset) in ledger.assets.iter().enumerate() {
        let Some(collection) = ledger.collection_record(asset.collection) else {
            continue;
        };
        collection
            .check_traits(&asset.traits)
            .map_err(|_| format!("asset {}'s traits break its collection's rules", place + 1))?;
        for (index, value) in (0_u8..).zip(asset.traits.as_slice()) {
            if let Some(place) = collection.place(index, *value) {
                counts[asset.collection as usize - 1][place] += 1;
            }
        }
    }
    for (index, (collection, counted)) in ledger.collections.iter().zip(&counts).enumerate() {
        ensure(collection.minted <= collection.spec.supply_cap, || {
            format!("collection {} passed its supply cap", index + 1)
        })?;
        ensure(collection.counts == *counted, || {
            format!("collection {}'s values are counted wrong", index + 1)
        })?;
        let within =
            (0..counted.len()).all(|place| collection.counts[place] <= collection.cap(place));
        ensure(within, || {
            format!("collection {} passed the cap of a value", index + 1)
        })?;
    }
    Ok(())
}

fn currency_is_conserved(ledger: &Ledger) -> Result<(), String> {
    let sum: u128 = ledger
        .accounts
        .iter()
        .map(|each| u128::from(each.balance))
        .sum();
    ensure(
        sum == u128::from(ledger.currency_total) && ledger.currency_total <= AMOUNT_MAX,
        || format!("balances sum to {sum}, kept {}", ledger.currency_total),
    )
}

fn ends_are_owned_right(ledger: &Ledger) -> Result<(), String> {
    for (place, asset) in ledger.assets.iter().enumerate() {
        let right = match asset.state {
            AssetState::Burned => asset.owner == NOBODY,
            AssetState::Redeemed => asset.owner != NOBODY,
            _ => (asset.owner as usize) < ledger.accounts.len(),
        };
        ensure(right, || {
            format!(
                "asset {} is {:?} with owner {}",
                place + 1,
                asset.state,
                asset.owner
            )
        })?;
    }
    Ok(())
}

fn positions_are_in_order(ledger: &Ledger) -> Result<(), String> {
    let mut minted_before = 0;
    for (place, asset) in ledger.assets.iter().enumerate() {
        let in_order = asset.version >= 1
            && asset.minted_sequence > minted_before
            && asset.minted_sequence <= asset.last.sequence
            && asset.settle_sequence <= asset.last.sequence
            && asset.owner_change.sequence <= asset.last.sequence
            && asset.last.sequence <= ledger.applied_seq;
        ensure(in_order, || format!("asset {}: {asset:?}", place + 1))?;
        minted_before = asset.minted_sequence;
    }
    Ok(())
}

fn frozen_assets_can_return(ledger: &Ledger) -> Result<(), String> {
    for (place, asset) in ledger.assets.iter().enumerate() {
        let right = match (asset.state, asset.frozen_from) {
            (AssetState::Frozen, Some(from)) => matches!(
                from,
                AssetState::Pending | AssetState::Active | AssetState::InReview
            ),
            (AssetState::Frozen, None) => false,
            (_, from) => from.is_none(),
        };
        ensure(right, || {
            format!(
                "asset {} is {:?}, frozen from {:?}",
                place + 1,
                asset.state,
                asset.frozen_from
            )
        })?;
    }
    Ok(())
}

fn batches_follow_each_other(ledger: &Ledger) -> Result<(), String> {
    let batches = &ledger.batches;
    ensure(
        batches.finals <= batches.committed
            && batches.committed <= batches.sealed
            && batches.sealed <= batches.cut
            && batches.kept.len() as u64 <= batches.open() + KEPT_BATCHES_MAX,
        || format!("stages {batches:?}"),
    )?;
    let mut next: Option<(u64, u64)> = None;
    for batch in &batches.kept {
        let follows = next.is_none_or(|next| next == (batch.number, batch.first_sequence));
        let whole = batch.first_sequence <= batch.oldest_change_sequence
            && batch.oldest_change_sequence <= batch.last_sequence
            && (1..=limits::BATCH_CHANGES_MAX).contains(&batch.changes)
            && batch.is_final == (batch.number <= batches.finals)
            && batch.commitment.is_some() == (batch.number <= batches.committed)
            && batch.seal.is_some_and(|seal| seal.leaves == batch.changes)
                == (batch.number <= batches.sealed);
        ensure(follows && whole, || format!("batch {batch:?}"))?;
        next = Some((batch.number + 1, batch.last_sequence + 1));
    }
    let last = next.unwrap_or((1, 1));
    ensure(last == (batches.cut + 1, batches.cut_seq + 1), || {
        format!("the next batch is {last:?}, kept {}", batches.cut + 1)
    })
}

fn open_changes_are_counted(ledger: &Ledger) -> Result<(), String> {
    let batches = &ledger.batches;
    let changed = ledger
        .assets
        .iter()
        .filter(|asset| asset.settle_sequence > batches.cut_seq)
        .count();
    ensure(changed == batches.changes as usize, || {
        format!("{changed} assets changed, kept {}", batches.changes)
    })?;
    ensure(
        batches.changes == 0 || batches.oldest_change_sequence > batches.cut_seq,
        || format!("the oldest change lies before the cut: {batches:?}"),
    )
}

fn settled_is_applied(ledger: &Ledger) -> Result<(), String> {
    let settled = ledger.settled_seq();
    ensure(settled <= ledger.applied_seq, || {
        format!("settled {settled}, applied {}", ledger.applied_seq)
    })?;
    let last_final = ledger.batch(ledger.batches.finals);
    ensure(
        last_final.is_none_or(|batch| batch.last_sequence <= settled),
        || format!("settled {settled}, but {last_final:?}"),
    )?;
    let open = ledger
        .open_batches()
        .find(|batch| batch.oldest_change_sequence <= settled);
    ensure(open.is_none(), || {
        format!("settled {settled}, but {open:?}")
    })
}

fn outcomes_are_counted(ledger: &Ledger) -> Result<(), String> {
    let counts = &ledger.outcomes;
    let sum = counts.accepted + counts.refused + counts.replayed;
    ensure(sum == ledger.applied_seq, || {
        format!("{counts:?} for {} commands", ledger.applied_seq)
    })?;
    let entries: Vec<&Entry> = ledger.retries.iter().collect();
    let ids: BTreeSet<_> = entries.iter().map(|entry| entry.id).collect();
    let as_many = entries.len() as u64 == ledger.retries.len()
        && ids.len() == entries.len()
        && ledger.retries.indexed() == entries.len();
    ensure(as_many, || {
        format!(
            "{} entries, {} ids, {} indexed, {} counted",
            entries.len(),
            ids.len(),
            ledger.retries.indexed(),
            ledger.retries.len()
        )
    })?;
    let ordered = entries
        .windows(2)
        .all(|pair| pair[0].sequence < pair[1].sequence);
    ensure(ordered, || "entries are out of order".to_owned())
}

fn claims_wait_once(ledger: &Ledger) -> Result<(), String> {
    let claims = &ledger.claims;
    let mut waiting = 0;
    for (asset, window) in &claims.windows {
        waiting += window.claims.len();
        let kept = claims.deadlines.contains(&(window.closes_ms, *asset))
            && (1..=limits::CLAIMS_A_WINDOW_MAX).contains(&window.claims.len());
        ensure(kept, || format!("asset {asset}'s window {window:?}"))?;
        let who: BTreeSet<_> = window
            .claims
            .iter()
            .map(|claim| (claim.account, claim.version))
            .collect();
        ensure(who.len() == window.claims.len(), || {
            format!("an account claims asset {asset} twice")
        })?;
        let unowned = ledger
            .asset_record(*asset)
            .is_some_and(|asset| asset.owner == NOBODY);
        ensure(unowned, || format!("asset {asset} is owned and claimed"))?;
    }
    ensure(
        waiting == claims.waiting()
            && waiting <= CLAIMS_WAITING_MAX
            && claims.deadlines.len() == claims.windows.len(),
        || format!("{waiting} claims wait, kept {}", claims.waiting()),
    )
}

fn accounts_are_known_once(ledger: &Ledger) -> Result<(), String> {
    let known: BTreeSet<_> = ledger.accounts.iter().map(|each| each.account).collect();
    ensure(
        known.len() == ledger.accounts.len() && ledger.accounts.indexed() == known.len(),
        || {
            format!(
                "{} accounts, {} different",
                ledger.accounts.len(),
                known.len()
            )
        },
    )?;
    ensure(ledger.accounts.balance(NOBODY) == 0, || {
        "nobody has currency".to_owned()
    })
}
