//! Many realms over several processes on a real broker (`deploy/kafka/start.sh`, `KARAT_KAFKA`).
#![cfg(feature = "kafka")]
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../../../sequencer/tests/common/broker.rs"]
mod broker;
#[path = "../common/mod.rs"]
mod common;
mod follow;
mod group;
mod load;
mod moves;
#[allow(dead_code)] // Each test file uses its own part.
#[path = "../../../sequencer/tests/common/own_broker.rs"]
mod own_broker;
mod room;
mod snapshots;
mod trouble;

use std::path::Path;
use std::process::Command;

use broker::is_there;
use common::eventually;
use group::{Group, Host, deposit, execute, spread, to};
use karat_proto::v1::operator_client::OperatorClient;
use karat_proto::{Code, v1};
use load::Load;

fn number_of(status: &tonic::Status) -> Option<Code> {
    let number = status.metadata().get("karat-code")?.to_str().ok()?;
    Code::from_number(number.parse().ok()?)
}

/// What the program prints as JSON.
fn told(arguments: &[&str]) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_karat"))
        .arg("--json")
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(&text)
        .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// What a realm's folder recorded of its digests is what the log gives.
fn same_digests(folder: &Path) {
    let found = told(&["log", "verify", folder.to_str().unwrap()]);
    assert_eq!(found["recorded_different"], 0, "{found}");
    assert_ne!(found["recorded_equal"], 0, "{found}");
}

async fn ended(mut host: Host) -> Host {
    host.signal("TERM");
    assert!(host.until_ended().await.success(), "{}", host.said());
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn realms_spread_over_two_processes_and_who_asks_the_wrong_one_is_told_where() {
    if !is_there() {
        return;
    }
    let group = Group::new(4);
    let first = group.start("first").await;
    let second = group.start("second").await;
    let leads = spread(&group, &[&first, &second], 2).await;
    let (here, there) = (leads[0][0].as_str(), leads[1][0].as_str());

    // Each realm has its own accounts.
    first.accepted(here, &deposit("player", 3)).await;
    second.accepted(there, &deposit("player", 4)).await;
    assert_eq!(first.balance(here, "player").await, Some(3));
    assert_eq!(second.balance(there, "player").await, Some(4));

    // Elsewhere: commands, streams and reads are told where.
    let refused = eventually("who has the realm", || async {
        let refused = execute(&first.channel, there, &deposit("player", 1)).await;
        let refused = refused.unwrap_err();
        refused
            .metadata()
            .contains_key("karat-leader")
            .then_some(refused)
    })
    .await;
    let leader = refused.metadata().get("karat-leader").unwrap();
    assert_eq!(leader.to_str().unwrap(), second.address);
    assert!(refused.message().contains(&second.address), "{refused:?}");
    assert!(
        refused.message().contains(Code::RealmElsewhere.hint()),
        "{refused:?}"
    );
    assert_eq!(number_of(&refused), Some(Code::RealmElsewhere));
    let stream = futures::stream::iter([v1::SubmitRequest {
        commands: vec![deposit("player", 1)],
        ..Default::default()
    }]);
    let refused = first.ledger().submit(to(there, stream)).await.unwrap_err();
    assert_eq!(number_of(&refused), Some(Code::RealmElsewhere));
    let watch = to(there, v1::WatchRequest::default());
    let refused = first.ledger().watch(watch).await.unwrap_err();
    assert_eq!(number_of(&refused), Some(Code::RealmElsewhere));
    assert_eq!(second.balance(there, "player").await, Some(4));

    // No such realm, and none named.
    let refused = execute(&first.channel, "nowhere", &deposit("player", 1)).await;
    assert_eq!(number_of(&refused.unwrap_err()), Some(Code::UnknownRealm));
    let mut operator = OperatorClient::new(first.channel.clone());
    let refused = operator.get_status(v1::GetStatusRequest {}).await;
    assert_eq!(number_of(&refused.unwrap_err()), Some(Code::UnknownRealm));

    // What the program shows.
    let server = format!("http://{}", first.address);
    let shown = told(&["--server", &server, "status"]);
    assert_eq!(shown["host"], first.address.as_str());
    assert_eq!(shown["realms"][here]["state"], "leading");
    assert_eq!(shown["realms"][there]["state"], "elsewhere");
    assert_eq!(shown["realms"][there]["leader"], second.address.as_str());
    for realm in [here, there] {
        let shown = told(&["--server", &server, "--realm", realm, "status"]);
        assert_eq!(shown["realm"], realm);
        assert_eq!(shown["role"], "leader");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn realms_move_to_a_third_process_under_load_and_outlive_a_killed_one_with_every_command_once()
 {
    if !is_there() {
        return;
    }
    let group = Group::new(4);
    let mut first = group.start("first").await;
    let second = group.start("second").await;
    spread(&group, &[&first, &second], 1).await;
    let load = Load::start(&group, &[&first, &second]);
    load.goes_on(50).await;

    let third = group.start("third").await;
    load.add(&third);
    let leads = spread(&group, &[&first, &second, &third], 1).await;
    load.goes_on(50).await;
    // What moved began with the snapshot that was handed on.
    let moved = leads[2][0].as_str();
    let said = third.said();
    let begun = said
        .lines()
        .find(|line| line.starts_with(&format!("realm {moved} led here")))
        .unwrap();
    assert!(!begun.contains("(0 from a snapshot"), "{said}");

    first.kill();
    let leads = spread(&group, &[&second, &third], 1).await;
    load.goes_on(50).await;
    load.end_with_every_command_once(&[&second, &third]).await;
    let mut moved = 0;
    for (host, leads) in [(&second, &leads[0]), (&third, &leads[1])] {
        for realm in leads {
            moved += u64::from(host.status(realm).await.unwrap().epoch > 1);
        }
    }
    assert!(moved >= 2, "{moved} realms had more than one leader");

    // Both folders of a realm that moved, and that of the one that was killed.
    let (second, third) = (ended(second).await, ended(third).await);
    for (host, leads) in [(&second, &leads[0]), (&third, &leads[1])] {
        for realm in leads {
            same_digests(&host.data.join(realm));
        }
    }
}
