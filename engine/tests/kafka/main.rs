//! The engine with its log, commands and events on a real broker (`deploy/kafka/start.sh`, `KARAT_KAFKA`).
#![cfg(feature = "kafka")]
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../../../sequencer/tests/common/broker.rs"]
mod broker;
#[path = "../common/mod.rs"]
mod common;
mod input;
mod letters;
mod rate;
mod signs;
mod topics;

use std::process::{Command, Output};
use std::time::Duration;

use broker::{address, is_there};
use common::{Realm, account, command, eventually};
use karat_engine::config::Config;
use karat_engine::service::{Mode, Service};
use karat_proto::v1::command::Kind;
use karat_proto::{Code, v1};
use prost::Message as _;
use topics::{messages, send, until_there};

/// A realm that nobody else uses, with all of its topics.
fn on_kafka(config: &mut Config) {
    config.realm.name = format!("test-{:016x}", rand::random::<u64>());
    config.log.kind = "kafka".into();
    config.log.kafka.brokers = address();
    config.log.kafka.commands = true;
    config.log.kafka.events = true;
    // The embedded chain stays with its folder; these tests go on with another one.
    config.policy.batch_age_ms_max = 3_600_000;
}

fn karat(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_karat"))
        .args(arguments)
        .output()
        .unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn deposit(amount: u64) -> v1::Command {
    let deposit = v1::Deposit {
        account: account("player"),
        amount,
    };
    command("operator", Kind::Deposit(deposit))
}

async fn until_balance(realm: &mut Realm, amount: u64) {
    let ledger = realm.ledger.clone();
    eventually("the balance", || {
        let mut ledger = ledger.clone();
        async move {
            let request = v1::GetAccountRequest {
                account: account("player"),
            };
            let found = ledger.get_account(request).await.ok()?.into_inner().balance;
            (found == amount).then_some(())
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_realm_is_taken_over_from_an_empty_folder_and_its_log_verifies_and_moves_to_a_journal() {
    if !is_there() {
        return;
    }
    let mut realm = Realm::start_with(on_kafka).await;
    for amount in 1..=20 {
        realm.deposit("player", amount).await;
    }
    let before = realm.service.gateway.core.view.digest_mark();
    let mut config = realm.config.clone();
    // Another engine, another folder; the first one is still running.
    let other = tempfile::tempdir().unwrap();
    config.data.dir = other.path().join("data");
    let second = Service::start(config.clone(), Mode::Full).await.unwrap();
    assert!(second.opened.log.last_sequence >= 21);
    assert_eq!(second.opened.log.epoch, 2);
    let cause = tokio::time::timeout(Duration::from_secs(60), realm.service.failure())
        .await
        .unwrap();
    assert!(
        cause.contains("another leader has taken over") && cause.contains("epoch 2"),
        "{cause}"
    );
    assert!(before.sequence <= second.opened.log.last_sequence);
    second.stop().await.unwrap();
    // What the replaced one applied and never released does not outlive it.
    realm.service.stop().await.unwrap();
    assert!(
        !realm.config.data.dir.join("snapshots").exists()
            || std::fs::read_dir(realm.config.data.dir.join("snapshots"))
                .unwrap()
                .count()
                == 0
    );

    let topic = format!("kafka://{}/karat.{}.log", address(), config.realm.name);
    let on_topic = json(&karat(&["--json", "log", "verify", &topic]));
    let of_folder = json(&karat(&[
        "--json",
        "log",
        "verify",
        config.data.dir.to_str().unwrap(),
    ]));
    assert_eq!(on_topic["digest"], of_folder["digest"]);
    assert_eq!(of_folder["recorded_different"], 0);
    let copy = other.path().join("copy");
    let copied = json(&karat(&[
        "--json",
        "log",
        "copy",
        &topic,
        copy.to_str().unwrap(),
    ]));
    for what in ["digest", "state_digest", "log_head", "commands"] {
        assert_eq!(copied[what], on_topic[what], "{what}");
    }
    let back = format!("{topic}.copy");
    let again = json(&karat(&[
        "--json",
        "log",
        "copy",
        copy.to_str().unwrap(),
        &back,
    ]));
    assert_eq!(again["log_head"], on_topic["log_head"]);
    let occupied = karat(&["log", "copy", &topic, &back]);
    assert_eq!(occupied.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&occupied.stderr).contains("holds a log already"));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_from_a_topic_are_taken_once_over_restarts_and_the_rest_becomes_dead_letters() {
    if !is_there() {
        return;
    }
    let mut realm = Realm::start_with(on_kafka).await;
    let name = realm.config.realm.name.clone();
    let (commands, events) = (
        format!("karat.{name}.commands"),
        format!("karat.{name}.events"),
    );
    let once = deposit(100);
    let not_allowed = command("player", Kind::Pause(v1::Pause { paused: true }));
    let some = vec![
        once.encode_to_vec(),
        b"\xff\xff no protobuf".to_vec(),
        deposit(20).encode_to_vec(),
        // The same command twice: the second one is a retry.
        once.encode_to_vec(),
        not_allowed.encode_to_vec(),
        vec![0xff; 3 << 20],
        deposit(3).encode_to_vec(),
    ];
    until_there(&commands).await;
    send(&commands, &some);
    until_balance(&mut realm, 123).await;
    // Stopped and started again, twice: nothing is taken a second time.
    let realm = realm.stop().await.start().await;
    send(&commands, &[deposit(1_000).encode_to_vec()]);
    let mut realm = realm.close().await.start().await;
    until_balance(&mut realm, 1_123).await;

    let place = ["--log", &format!("kafka://{}", address()), "--realm", &name].map(str::to_owned);
    let dlq = |rest: &[&str]| {
        let mut arguments = vec!["--json", "dlq"];
        arguments.extend(rest);
        arguments.extend(place.iter().map(String::as_str));
        karat(&arguments)
    };
    let letters = eventually("the dead letters", || {
        let listed = json(&dlq(&["list"]));
        async move {
            let letters = listed["dead_letters"].as_array()?.clone();
            (letters.len() >= 3).then_some(letters)
        }
    })
    .await;
    let codes: Vec<u64> = letters
        .iter()
        .map(|letter| letter["code"].as_u64().unwrap())
        .collect();
    assert!(codes.contains(&(Code::Malformed as u64)), "{codes:?}");
    let sources: Vec<i64> = letters
        .iter()
        .map(|letter| letter["source_offset"].as_i64().unwrap())
        .collect();
    for wanted in [1, 4, 5] {
        assert!(sources.contains(&wanted), "{sources:?}");
    }
    let first = letters
        .iter()
        .find(|letter| letter["source_offset"] == 1)
        .unwrap();
    let number = first["number"].to_string();
    let shown = json(&dlq(&["show", &number]));
    assert_eq!(
        shown["bytes"],
        format!("0x{}", hex::encode(b"\xff\xff no protobuf"))
    );
    json(&dlq(&["retry", &number]));
    eventually("the letter again", || {
        let listed = json(&dlq(&["list"]));
        async move { (listed["dead_letters"].as_array()?.len() >= 4).then_some(()) }
    })
    .await;

    // Events: in order, none left out, none twice over three lives of the engine.
    let wanted: u64 = 4;
    let deposits = eventually("the events", || {
        let found = messages(&events);
        async move {
            let places: Vec<&Vec<u8>> = found.iter().map(|found| &found.key).collect();
            assert!(places.windows(2).all(|pair| pair[0] < pair[1]));
            let deposits = found
                .iter()
                .filter(|found| {
                    let event = v1::Event::decode(&found.payload[..]).unwrap();
                    matches!(event.kind, Some(v1::event::Kind::Deposited(_)))
                })
                .count() as u64;
            (deposits >= wanted).then_some(deposits)
        }
    })
    .await;
    assert_eq!(deposits, wanted);
    realm.stop().await;
}
