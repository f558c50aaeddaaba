//! Followers of a realm on a real broker (`deploy/kafka/start.sh`, `KARAT_KAFKA`), each engine a process of its own.
#![cfg(feature = "kafka")]
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../../../sequencer/tests/common/broker.rs"]
mod broker;
#[path = "../common/mod.rs"]
mod common;
mod engine;
mod head;
mod letters;
mod takeover;
#[allow(dead_code)] // Each test file uses its own part.
#[path = "../kafka/topics.rs"]
mod topics;

use std::process::Command;

use broker::is_there;
use bytes::Bytes;
use common::{MODEL, account, command, eventually, mint, trading_spec};
use engine::{Engine, Realm, deposit};
use karat_proto::v1::RealmRole::{Follower, Leader};
use karat_proto::v1::command::Kind;
use karat_proto::v1::operator_client::OperatorClient;
use karat_proto::{Code, v1};
use tonic::transport::Endpoint;

/// No leader is silent for so long, however slow the machine is.
const LONG_LEASE_MS: u64 = 600_000;
/// Long enough that a leader on a machine that others keep busy is hardly ever taken for dead; if it is, nothing here fails.
const SHORT_LEASE_MS: u64 = 6_000;

fn number_of(status: &tonic::Status) -> Option<Code> {
    let number = status.metadata().get("karat-code")?.to_str().ok()?;
    Code::from_number(number.parse().ok()?)
}

/// Both have a digest of the same sequence, at or behind `sequence`, and it is the same one.
async fn same_digest(one: &Engine, other: &Engine, sequence: u64) -> Option<()> {
    let mark = |status: &v1::GetStatusResponse| {
        status
            .figures
            .iter()
            .find(|figure| figure.name == "digest_sequence")
            .map(|figure| figure.value)
    };
    let (one, other) = (one.status().await?, other.status().await?);
    let at = mark(&one).filter(|at| *at >= sequence)?;
    if mark(&other) != Some(at) {
        return None;
    }
    assert_eq!(one.digest, other.digest, "at sequence {at}");
    Some(())
}

/// Lets the studio mint with the model of [`mint`].
async fn register_model(engine: &Engine) {
    let digest = Bytes::from_static(&MODEL);
    let register = v1::RegisterModel {
        digest: digest.clone(),
        name: "test model 1".into(),
        role: v1::ModelRole::Generator.into(),
        ..Default::default()
    };
    for kind in [
        Kind::RegisterModel(register),
        Kind::PromoteModel(v1::PromoteModel { digest }),
    ] {
        engine.accepted(&command("operator", kind)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_holds_the_same_state_answers_reads_and_refuses_commands_naming_the_leader() {
    if !is_there() {
        return;
    }
    let realm = Realm::new(LONG_LEASE_MS);
    let mut first = realm.start("first", &[]);
    first.until(Leader).await;
    let second = realm.start("second", &["--follow"]);
    second.until(Follower).await;

    register_model(&first).await;
    let create = Kind::CreateCollection(v1::CreateCollection {
        spec: Some(trading_spec()),
    });
    let collection = first.accepted(&command("studio", create)).await.subject as u32;
    let minting = command("studio", Kind::Mint(mint(collection, "player", 0)));
    let minted = first.accepted(&minting).await;

    // Reads, and how old they may be.
    let mut ledger = second.ledger().await.unwrap();
    let request = v1::GetAssetRequest {
        asset: minted.subject,
    };
    let answer = eventually("the asset on the follower", || {
        let mut ledger = ledger.clone();
        async move { ledger.get_asset(request).await.ok() }
    })
    .await;
    let header = |name: &str| -> u64 {
        let value = answer.metadata().get(name).unwrap();
        value.to_str().unwrap().parse().unwrap()
    };
    assert!(header("karat-applied-seq") >= minted.sequence);
    let _: u64 = header("karat-age-ms");
    let asset = answer.get_ref().asset.clone().unwrap();
    assert_eq!(asset.owner, account("player"));
    let history = v1::GetHistoryRequest {
        asset: minted.subject,
        ..Default::default()
    };
    eventually("the asset's history on the follower", || {
        let mut ledger = ledger.clone();
        async move {
            let found = ledger.get_history(history).await.ok()?.into_inner().events;
            (!found.is_empty()).then_some(())
        }
    })
    .await;
    let watch = v1::WatchRequest {
        from_sequence: 1,
        account: account("watched"),
        ..Default::default()
    };
    let mut watched = ledger.watch(watch).await.unwrap().into_inner();
    first.accepted(&deposit("watched", 7)).await;
    let seen = loop {
        let message = watched.message().await.unwrap().expect("the watch goes on");
        if let Some(event) = message.events.into_iter().next() {
            break event;
        }
    };
    assert!(matches!(&seen.kind, Some(v1::event::Kind::Deposited(one)) if one.amount == 7));
    assert_eq!(second.balance("watched").await, Some(7));
    eventually("the same digest", || async {
        // A digest is taken in the first block of a second.
        first.accepted(&deposit("other", 1)).await;
        same_digest(&first, &second, minted.sequence).await
    })
    .await;

    // Commands, each way in.
    let leader = first.address().unwrap();
    let status = eventually("the leader's address", || async {
        let status = second.status().await?;
        let known = status.following.as_ref()?.leader == leader;
        known.then_some(status)
    })
    .await;
    assert_eq!(status.epoch, 1);
    let request = v1::ExecuteRequest {
        command: Some(deposit("nobody", 1)),
        ..Default::default()
    };
    let refused = ledger.execute(request).await.unwrap_err();
    assert_eq!(number_of(&refused), Some(Code::NotLeader), "{refused:?}");
    assert!(refused.message().contains(&leader), "{refused:?}");
    assert!(
        refused.message().contains(Code::NotLeader.hint()),
        "{refused:?}"
    );
    let stream = futures::stream::iter([v1::SubmitRequest {
        commands: vec![deposit("nobody", 1)],
        ..Default::default()
    }]);
    let refused = ledger.submit(stream).await.unwrap_err();
    assert_eq!(number_of(&refused), Some(Code::NotLeader), "{refused:?}");
    let endpoint = format!("http://{}", second.address().unwrap());
    let channel = Endpoint::from_shared(endpoint).unwrap().connect().await;
    let mut operator = OperatorClient::new(channel.unwrap());
    let pause = v1::SetPausedRequest { paused: true };
    let refused = operator.set_paused(pause).await.unwrap_err();
    assert_eq!(number_of(&refused), Some(Code::NotLeader), "{refused:?}");

    // A leader that stops says so, and nobody waits for the lease.
    first.signal("TERM");
    assert!(first.until_ended().await.success(), "{}", first.said());
    let status = second.until(Leader).await;
    assert_eq!((status.epoch, status.following), (2, None));
    assert_eq!(second.balance("watched").await, Some(7));
    assert!(second.accepted(&minting).await.replayed);
    second.accepted(&deposit("watched", 3)).await;
    assert_eq!(second.balance("watched").await, Some(10));

    // What each folder recorded while it led or followed is what the log gives.
    second.signal("TERM");
    let mut second = second;
    assert!(second.until_ended().await.success(), "{}", second.said());
    for folder in [&first.data, &second.data] {
        let verified = Command::new(env!("CARGO_BIN_EXE_karat"))
            .args(["--json", "log", "verify"])
            .arg(folder)
            .output()
            .unwrap();
        let found: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
        assert_eq!(found["recorded_different"], 0, "{found}");
        assert_ne!(found["recorded_equal"], 0, "{found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_begin_at_once_one_leads_and_when_it_is_killed_all_that_was_acknowledged_is_there()
 {
    if !is_there() {
        return;
    }
    let realm = Realm::new(SHORT_LEASE_MS);
    let mut engines = vec![
        realm.start("first", &["--follow"]),
        realm.start("second", &["--follow"]),
    ];
    let leading = eventually("one leader and one follower", || async {
        let (first, second) = (engines[0].status().await?, engines[1].status().await?);
        match (first.role(), second.role()) {
            (Leader, Follower) => Some(0),
            (Follower, Leader) => Some(1),
            _ => None,
        }
    })
    .await;
    let mut leader = engines.swap_remove(leading);
    let follower = engines.remove(0);

    let commands: Vec<v1::Command> = (0..400u64)
        .map(|index| deposit(&format!("account {index}"), index + 1))
        .collect();
    let mut acknowledged = Vec::new();
    for (index, command) in commands.iter().enumerate() {
        if index == 200 {
            leader.kill();
        }
        // Behind the kill nobody answers there.
        if let Some(outcome) = leader.enter(command).await {
            assert_eq!(outcome.code, 0, "{}", outcome.message);
            acknowledged.push(index);
        } else if index > 210 {
            break;
        }
    }
    assert!(acknowledged.len() <= 200);
    follower.until(Leader).await;
    for index in &acknowledged {
        let found = follower.balance(&format!("account {index}")).await;
        assert_eq!(found, Some(*index as u64 + 1));
    }
    // All of them again: what was taken is not taken twice.
    for (index, command) in commands.iter().enumerate() {
        let outcome = follower.accepted(command).await;
        assert!(outcome.replayed || !acknowledged.contains(&index));
        let found = follower.balance(&format!("account {index}")).await;
        assert_eq!(found, Some(index as u64 + 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_stopped_past_its_lease_releases_nothing_says_why_and_follows() {
    if !is_there() {
        return;
    }
    let realm = Realm::new(SHORT_LEASE_MS);
    // Leads after the lease, because nobody else does.
    let first = realm.start("first", &["--follow"]);
    first.until(Leader).await;
    let second = realm.start("second", &["--follow"]);
    second.until(Follower).await;
    first.accepted(&deposit("before", 1)).await;
    let mut client = first.ledger().await.unwrap();

    first.signal("STOP");
    let status = second.until(Leader).await;
    let taken = second.accepted(&deposit("between", 2)).await;
    // On its way to the old leader while that one is not running.
    let late = v1::ExecuteRequest {
        command: Some(deposit("late", 3)),
        ..Default::default()
    };
    let late = tokio::spawn(async move { client.execute(late).await });
    first.signal("CONT");
    let answer = late.await.unwrap();
    assert!(answer.is_err(), "{answer:?}");
    let said = eventually("why it stepped down", || async {
        let said = first.said();
        said.contains("this engine follows now").then_some(said)
    })
    .await;
    assert!(said.contains("another leader has taken over"), "{said}");

    // It is the same process, with the new leader's state.
    eventually("the old leader as a follower", || async {
        let follower = first.status().await?;
        let known = follower.following?.leader == second.address()?;
        (known && follower.applied_seq >= taken.sequence).then_some(())
    })
    .await;
    assert!(status.epoch >= 2);
    for (name, amount) in [("before", 1), ("between", 2), ("late", 0)] {
        assert_eq!(first.balance(name).await, Some(amount), "{name}");
        assert_eq!(second.balance(name).await, Some(amount), "{name}");
    }
    eventually("the same digest", || async {
        second.accepted(&deposit("other", 1)).await;
        same_digest(&second, &first, taken.sequence).await
    })
    .await;
}
