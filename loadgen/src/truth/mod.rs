//! What the outcomes promised against what the target says it holds.

pub mod events;

use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use karat_proto::realm::RealmChannel;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::{Account, v1};
use rand::SeedableRng as _;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tonic::Status;

use crate::books::Problems;
use crate::client::chain;
use crate::contests::Won;
use crate::scenario::Holdings;

/// Assets that are read back.
const SAMPLE: usize = 1_000;
/// Reads under way at a time.
const READS_AT_ONCE: usize = 16;
/// Reads may lag behind outcomes a little: what does not agree is read again, so often and with such a pause.
const ROUNDS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(30);

/// What was compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// Assets whose owner was compared.
    pub assets: u64,
    /// Accounts whose balance was compared.
    pub accounts: u64,
    /// Sum of the balances by the target, minor units.
    pub balance_sum: u64,
    /// Sum that was deposited, minor units.
    pub deposit_sum: u64,
}

/// An asset, and who must own it.
#[derive(Clone, Debug)]
pub struct ExpectedAsset {
    /// Its number.
    pub asset: u64,
    /// 20 bytes; none for nobody.
    pub owner: Bytes,
    /// Sequence of the command that gave it.
    pub sequence: u64,
}

/// What the outcomes promised: of each asset its owner, in no order.
pub fn promised(holdings: &[Holdings], contested: &[(u64, Option<Won>)]) -> Vec<ExpectedAsset> {
    let rows = holdings.iter().flat_map(|one| {
        one.all_rows().map(move |row| ExpectedAsset {
            asset: row.asset,
            owner: one.account(row.owner),
            sequence: row.sequence,
        })
    });
    let contested = contested.iter().map(|(asset, won)| {
        let owner = won.map_or(Bytes::new(), |won| {
            holdings[usize::from(won.place.stream())].account(won.account)
        });
        ExpectedAsset {
            asset: *asset,
            owner,
            sequence: won.map_or(0, |won| won.sequence),
        }
    });
    rows.chain(contested).collect()
}

/// Asks a target until it leaves one question without an answer.
#[derive(Default)]
pub(crate) struct Patience {
    at_an_end: Cell<bool>,
}

impl Patience {
    /// An answer, if it comes in time; else why there is none.
    pub(crate) async fn ask<T>(
        &self,
        asking: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, String> {
        let silent = format!("the target gave no answer within {} s", ANSWER.as_secs());
        if self.at_an_end.get() {
            return Err(silent);
        }
        match tokio::time::timeout(ANSWER, asking).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(chain(&status)),
            Err(_) => {
                self.at_an_end.set(true);
                Err(silent)
            }
        }
    }

    /// Whether what does not agree is asked again.
    fn lasts(&self, round: u32) -> bool {
        round < ROUNDS && !self.at_an_end.get()
    }
}

/// Compares a sample of assets and every balance; what does not agree is noted, by name. `changes` are what each account
/// of `accounts` has more or less than the deposit.
pub async fn check(
    channel: RealmChannel,
    assets: &[ExpectedAsset],
    balances: &[(Account, i128)],
    deposit: u64,
    seed: u64,
    problems: &mut Problems,
) -> Checked {
    let patience = Patience::default();
    let assets = check_assets(&channel, &patience, assets, seed, problems).await;
    let mut checked = Checked {
        assets,
        ..Checked::default()
    };
    if deposit == 0 {
        return checked;
    }
    let expected: Vec<_> = balances
        .iter()
        .map(|(account, change)| (*account, i128::from(deposit) + change))
        .collect();
    checked.accounts = expected.len() as u64;
    checked.deposit_sum = deposit * checked.accounts;
    checked.balance_sum = check_balances(&channel, &patience, &expected, problems).await;
    if checked.balance_sum != checked.deposit_sum {
        problems.note(|| {
            format!(
                "balances sum to {}, but {} was deposited and nothing withdrawn",
                checked.balance_sum, checked.deposit_sum
            )
        });
    }
    checked
}

async fn check_assets(
    channel: &RealmChannel,
    patience: &Patience,
    assets: &[ExpectedAsset],
    seed: u64,
    problems: &mut Problems,
) -> u64 {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut open: Vec<ExpectedAsset> = sample(&mut random, assets.len(), SAMPLE.min(assets.len()))
        .iter()
        .map(|place| assets[place].clone())
        .collect();
    let count = open.len() as u64;
    for round in 1..=ROUNDS {
        let reads = futures::stream::iter(open.drain(..).map(|expected| {
            let ledger = LedgerClient::new(channel.clone());
            async move {
                let request = v1::GetAssetRequest {
                    asset: expected.asset,
                };
                let asking = channel.ask(|| {
                    let mut ledger = ledger.clone();
                    async move { ledger.get_asset(request).await }
                });
                let wrong = match patience.ask(asking).await {
                    Ok(answer) => differs(&expected, &answer),
                    Err(cause) => Some(cause),
                };
                (expected, wrong)
            }
        }))
        .buffer_unordered(READS_AT_ONCE)
        .collect::<Vec<_>>()
        .await;
        for (expected, wrong) in reads {
            match wrong {
                None => {}
                Some(_) if patience.lasts(round) => open.push(expected),
                Some(wrong) => problems.note(|| format!("asset {}: {wrong}", expected.asset)),
            }
        }
        if open.is_empty() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    count
}

fn differs(expected: &ExpectedAsset, answer: &v1::GetAssetResponse) -> Option<String> {
    let asset = answer.asset.clone().unwrap_or_default();
    if asset.asset != expected.asset {
        return Some(format!("the target answered about asset {}", asset.asset));
    }
    if asset.owner != expected.owner {
        return Some(format!(
            "owner is {}, but the accepted command at sequence {} gave it to {} (read at sequence {})",
            name(&asset.owner),
            expected.sequence,
            name(&expected.owner),
            answer.applied_seq,
        ));
    }
    None
}

fn name(account: &[u8]) -> String {
    match account {
        [] => "nobody".into(),
        account => format!("0x{}", hex::encode(account)),
    }
}

async fn check_balances(
    channel: &RealmChannel,
    patience: &Patience,
    expected: &[(Account, i128)],
    problems: &mut Problems,
) -> u64 {
    let mut sum = 0u64;
    let mut open = expected.to_vec();
    for round in 1..=ROUNDS {
        let reads = futures::stream::iter(open.drain(..).map(|(account, balance)| {
            let ledger = LedgerClient::new(channel.clone());
            async move {
                let request = v1::GetAccountRequest {
                    account: crate::client::account_bytes(&account),
                };
                let asking = channel.ask(|| {
                    let (mut ledger, request) = (ledger.clone(), request.clone());
                    async move { ledger.get_account(request).await }
                });
                let answer = patience.ask(asking).await;
                (account, balance, answer.map(|answer| answer.balance))
            }
        }))
        .buffer_unordered(READS_AT_ONCE)
        .collect::<Vec<_>>()
        .await;
        for (account, balance, found) in reads {
            if let Ok(found) = found
                && (i128::from(found) == balance || !patience.lasts(round))
            {
                sum = sum.saturating_add(found);
            }
            match found {
                Ok(found) if i128::from(found) == balance => {}
                _ if patience.lasts(round) => open.push((account, balance)),
                Ok(found) => problems.note(|| {
                    format!("account {account}: balance is {found}, but the accepted exchanges leave {balance}")
                }),
                Err(cause) => problems.note(|| format!("account {account}: {cause}")),
            }
        }
        if open.is_empty() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    sum
}
