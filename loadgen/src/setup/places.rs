//! The accounts of a run, and where the assets are that exist before it.

use karat_proto::Account;

use crate::args::LoadArgs;
use crate::error::LoadError;
use crate::scenario::{Holdings, NOBODY, ScenarioFile};

/// Accounts of all streams together, unless each would have fewer than four: every balance is read at the end.
const ACCOUNTS_MAX: u64 = 4096;

/// The accounts of one stream of a run.
pub fn accounts_of_stream(run: u64, stream: u64, count: u64) -> Vec<Account> {
    let account = |number| Account::from_name(&format!("load-{run:016x}-{stream}-{number}"));
    (0..count).map(account).collect()
}

pub(super) fn accounts(
    args: &LoadArgs,
    file: &ScenarioFile,
    run: u64,
) -> Result<Vec<Vec<Account>>, LoadError> {
    let lanes = args.lanes()?;
    let a_stream = (ACCOUNTS_MAX / lanes).min(file.world.accounts).max(4);
    Ok((0..lanes)
        .map(|stream| accounts_of_stream(run, stream, a_stream))
        .collect())
}

pub(super) fn empty_holdings(accounts: &[Vec<Account>]) -> Vec<Holdings> {
    accounts
        .iter()
        .map(|of_stream| Holdings::new(of_stream))
        .collect()
}

/// Where an asset of the beginning goes.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Held { stream: usize, owner: u16 },
    Contested,
}

pub(super) fn put(
    holdings: &mut [Holdings],
    contested: &mut Vec<u64>,
    place: Place,
    asset: u64,
    sequence: u64,
) {
    match place {
        Place::Held { stream, owner } => holdings[stream].put(asset, owner, sequence),
        Place::Contested => contested.push(asset),
    }
}

/// The assets that are there before the run, in the order of minting: at least two for each stream.
pub(super) fn places(
    args: &LoadArgs,
    file: &ScenarioFile,
    accounts: &[Vec<Account>],
) -> Vec<Place> {
    let world = &file.world;
    let lanes = accounts.len() as u64;
    let contested =
        |number: u64| world.contested_one_in != 0 && number.is_multiple_of(world.contested_one_in);
    let mut places = Vec::new();
    let mut held = 0;
    let enough = |held: u64| held >= 2 * lanes || world.contested_one_in == 1;
    while (places.len() as u64) < args.assets || !enough(held) {
        if contested(places.len() as u64) {
            places.push(Place::Contested);
            continue;
        }
        let (stream, of_stream) = ((held % lanes) as usize, held / lanes);
        held += 1;
        let unowned = world.unowned_one_in;
        let owner = match unowned != 0 && of_stream % unowned == unowned - 1 {
            true => NOBODY,
            false => (of_stream % accounts[stream].len() as u64) as u16,
        };
        places.push(Place::Held { stream, owner });
    }
    places
}
