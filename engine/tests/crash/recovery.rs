//! What is done and looked at after every restart, while the next kill may come.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use karat_proto::v1;
use karat_proto::v1::AckLevel;
use tonic::transport::Channel;

use super::client::{Clients, Lost, ledger, operator};
use super::model::Model;
use super::random::Random;
use super::scene::{self, TRADERS, account, trader};

/// Acknowledged commands that are sent again: of the newest ones, and of all.
const NEWEST_AGAIN: usize = 48;
const ANY_AGAIN: usize = 16;
/// Every command that was sent has an outcome by then, however slow the machine is.
const KNOWN_AFTER: Duration = Duration::from_secs(300);
/// Commands that are sent after the last start. A scene without assets mints with each of them, and one of 16 is refused.
const FEW_MORE: u64 = 32;
/// Assets that are compared with the model.
const ASSETS_LOOKED_AT: u64 = 24;

/// Sends the setup, everything whose outcome is not known, and a sample of what is known; then compares what the engine
/// says with the model.
pub async fn recover(
    clients: &Clients,
    channel: &Channel,
    model: &mut Model,
    random: &mut Random,
) -> Result<(), Lost> {
    set_up(clients, channel).await?;
    resend_unknown(clients, channel).await?;
    resend_told(clients, channel, random).await?;
    catch_up(clients, channel, model, 0).await?;
    look_at_settlement(clients, channel).await?;
    compare_balances(channel, model).await?;
    let most = model.things.len() as u64;
    if most > 0 {
        let assets = (0..ASSETS_LOOKED_AT).map(|_| random.between(1, most));
        compare_assets(channel, model, assets.collect(), true).await?;
    }
    Ok(())
}

async fn set_up(clients: &Clients, channel: &Channel) -> Result<(), Lost> {
    let done = {
        let mut book = clients.book.lock();
        let setup = scene::setup();
        if book.ids.is_empty() {
            setup.iter().for_each(|command| book.sending(command));
        }
        setup
            .iter()
            .all(|command| book.sent[&command.id[..]].told.is_some())
    };
    if !done {
        // One after another: a collection needs its number, a model its registration.
        clients
            .send_again(channel, scene::setup(), AckLevel::Durable)
            .await?;
        let book = clients.book.lock();
        for command in scene::setup() {
            let told = book.sent[&command.id[..]].told.unwrap();
            assert_eq!(told.code, 0, "the setup was refused: {command:?}");
        }
    }
    Ok(())
}

/// Until there is nothing whose outcome is unknown.
async fn resend_unknown(clients: &Clients, channel: &Channel) -> Result<(), Lost> {
    let started = Instant::now();
    loop {
        let unknown = clients.book.lock().unknown();
        if unknown.is_empty() {
            return Ok(());
        }
        clients.book.lock().resent_unknown += unknown.len() as u64;
        assert!(
            started.elapsed() < KNOWN_AFTER,
            "{} commands are refused again and again",
            unknown.len()
        );
        clients
            .send_again(channel, unknown, AckLevel::Durable)
            .await?;
    }
}

/// A few commands more and one whose bytes no command names, whatever the kills left of the load.
pub async fn send_some_more(
    clients: &Clients,
    channel: &Channel,
    model: &mut Model,
    random: &mut Random,
) -> Result<(), Lost> {
    let commands = clients.make_with_orphan(random, FEW_MORE);
    clients
        .send_again(channel, commands, AckLevel::Durable)
        .await?;
    resend_unknown(clients, channel).await?;
    catch_up(clients, channel, model, 0).await
}

/// What was told stays told: the same outcome, marked as replayed.
async fn resend_told(
    clients: &Clients,
    channel: &Channel,
    random: &mut Random,
) -> Result<(), Lost> {
    let again: Vec<v1::Command> = {
        let book = clients.book.lock();
        let newest = book.by_sequence.values().rev().take(NEWEST_AGAIN);
        let mut chosen: BTreeSet<_> = newest.copied().collect();
        for _ in 0..ANY_AGAIN {
            let at = random.between(0, book.ids.len() as u64 - 1);
            chosen.insert(book.ids[at as usize]);
        }
        chosen
            .iter()
            .map(|id| book.sent[id].command.clone())
            .collect()
    };
    clients
        .send_again(channel, again, AckLevel::Sequenced)
        .await
}

/// Brings the model up to everything that a client was told, and to `to_sequence` at least.
pub async fn catch_up(
    clients: &Clients,
    channel: &Channel,
    model: &mut Model,
    to_sequence: u64,
) -> Result<(), Lost> {
    let last_sequence = clients.book.lock().last_sequence();
    clients
        .watch_until(channel, last_sequence.max(to_sequence))
        .await?;
    let (draws, seen_sequence) = {
        let mut watched = clients.watched.lock();
        (std::mem::take(&mut watched.draws), watched.seen_sequence)
    };
    model.advance(&mut clients.book.lock(), draws, seen_sequence);
    Ok(())
}

async fn look_at_settlement(clients: &Clients, channel: &Channel) -> Result<(), Lost> {
    let status = operator(channel)
        .get_status(v1::GetStatusRequest {})
        .await?
        .into_inner();
    let told = clients.book.lock().settled_told;
    assert!(
        status.settled_seq >= told,
        "a client was told that {told} is settled, now it is {}",
        status.settled_seq
    );
    Ok(())
}

/// All balances. Nothing but the clients moves currency.
pub async fn compare_balances(channel: &Channel, model: &Model) -> Result<(), Lost> {
    let mut ledger = ledger(channel);
    let everyone = (0..TRADERS).map(trader).chain([account("fees")]);
    for account in everyone {
        let request = v1::GetAccountRequest {
            account: account.clone(),
        };
        let found = ledger.get_account(request).await?.into_inner().balance;
        let expected = model.balances.get(&account).copied().unwrap_or(0);
        assert_eq!(i128::from(found), expected, "balance of {account:?}");
    }
    Ok(())
}

/// These assets, and with `contents` their bytes, as the model has them, except that a draw may have come since.
pub async fn compare_assets(
    channel: &Channel,
    model: &Model,
    assets: Vec<u64>,
    contents: bool,
) -> Result<(), Lost> {
    let mut ledger = ledger(channel);
    for asset in assets {
        let request = v1::GetAssetRequest { asset };
        let answer = ledger.get_asset(request).await?.into_inner();
        let found = answer.asset.unwrap();
        let expected = &model.things[&asset];
        assert_eq!(found.version, expected.version, "version of {found:?}");
        assert_eq!(found.digest, expected.digest, "content of {found:?}");
        assert_eq!(found.collection, expected.collection);
        if contents {
            let request = v1::GetContentRequest { asset };
            let content = ledger.get_content(request).await?.into_inner();
            let digest = karat_content::digest_of(&content.content);
            assert_eq!(content.cid, karat_content::cid_of(&digest), "{found:?}");
            assert_eq!(digest[..], expected.digest, "{found:?}");
        }
        if found.last_sequence <= model.sequence {
            assert_eq!(found.owner, expected.owner, "owner of {found:?}");
        }
    }
    Ok(())
}
