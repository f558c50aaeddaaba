//! Snapshots that are handed on: a process without a folder begins with the last one, and without it at the log's head.

use bytes::Bytes;
use futures::executor::block_on;
use karat_engine::kafka::snapshots::SnapshotTopic;
use karat_proto::v1;
use karat_proto::v1::command::Kind;
use karat_sequencer::KafkaPlace;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use super::broker::{address, is_there};
use super::common::{MODEL, command, eventually, mint, trading_spec};
use super::ended;
use super::group::{Group, Host, deposit, spread, to};

fn place(sequence: u64) -> KafkaPlace {
    KafkaPlace {
        block_offset: 1,
        sequence,
        hash: [1; 32],
        time_ms: 1,
        epoch: 1,
        realm: "test".into(),
        ingress: Vec::new(),
    }
}

/// Takes every piece of every snapshot away.
fn delete_pieces(realm: &str) {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", address());
    let admin: AdminClient<DefaultClientContext> = client.create().unwrap();
    let mut all = TopicPartitionList::new();
    let topic = format!("karat.{realm}.snapshots");
    all.add_partition_offset(&topic, 0, Offset::End).unwrap();
    block_on(admin.delete_records(&all, &AdminOptions::new())).unwrap();
}

#[test]
fn a_snapshot_comes_back_as_it_was_and_only_the_newest_are_kept() {
    if !is_there() {
        return;
    }
    let group = Group::new(1);
    let realm = &group.realms[0];
    let topic = SnapshotTopic::open(&group.config.log.kafka, realm).unwrap();
    assert!(topic.manifests().unwrap().is_empty());
    let folder = tempfile::tempdir().unwrap();
    let (given, got) = (folder.path().join("given"), folder.path().join("got"));
    // Several pieces, one that is not full, and none at all.
    for (sequence, bytes) in [(1, 3_000_000), (2, 0), (3, 1_048_576), (4, 7)] {
        let content: Vec<u8> = (0..bytes).map(|at: u32| (at % 251) as u8).collect();
        std::fs::write(&given, &content).unwrap();
        topic.publish(&given, &place(sequence), 2).unwrap();
        let manifests = topic.manifests().unwrap();
        let newest = manifests.last().unwrap();
        assert_eq!(newest.place.place(), Some(place(sequence)));
        topic.fetch(newest, &got).unwrap();
        assert!(std::fs::read(&got).unwrap() == content);
    }
    let kept: Vec<u64> = topic
        .manifests()
        .unwrap()
        .iter()
        .map(|one| one.place.sequence)
        .collect();
    assert_eq!(kept, [3, 4]);

    // Somebody else's message is no manifest, and pieces that are gone are missed.
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", address());
    let producer: BaseProducer = client.create().unwrap();
    let name = format!("karat.{realm}.snapshots");
    let foreign = BaseRecord::<(), str>::to(&name)
        .partition(1)
        .payload("foreign");
    producer.send(foreign).map_err(|(error, _)| error).unwrap();
    producer.flush(std::time::Duration::from_secs(60)).unwrap();
    let manifests = topic.manifests().unwrap();
    assert_eq!(manifests.len(), 2);
    delete_pieces(realm);
    let lost = topic.fetch(&manifests[1], &got).unwrap_err().to_string();
    assert!(lost.contains("snapshot of sequence 4"), "{lost}");
}

async fn begun_with(host: &Host, group: &Group) -> u64 {
    spread(group, &[host], 1).await;
    let said = host.said();
    let (_, behind) = said.split_once(" ms (").unwrap();
    behind
        .split_once(" from a snapshot")
        .unwrap()
        .0
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_a_folder_begins_with_the_last_snapshot_and_without_its_pieces_at_the_head()
 {
    if !is_there() {
        return;
    }
    let group = Group::new(1);
    let realm = group.realms[0].as_str();
    let first = group.start("first").await;
    assert_eq!(begun_with(&first, &group).await, 0);
    // The only realm need not be named.
    let named: Option<u64> = first.figure(realm, "accounts").await;
    let mut ledger = first.ledger();
    let unnamed = ledger.get_account(v1::GetAccountRequest {
        account: super::common::account("nobody"),
    });
    assert!(named.is_some() && unnamed.await.is_ok());
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
        first.accepted(realm, &command("operator", kind)).await;
    }
    let create = Kind::CreateCollection(v1::CreateCollection {
        spec: Some(trading_spec()),
    });
    let created = first.accepted(realm, &command("studio", create)).await;
    let minting = command(
        "studio",
        Kind::Mint(mint(created.subject as u32, "player", 0)),
    );
    let minted = first.accepted(realm, &minting).await;
    first.accepted(realm, &deposit("player", 5)).await;
    ended(first).await;

    let second = group.start("second").await;
    assert!(begun_with(&second, &group).await >= minted.sequence);
    assert_eq!(second.balance(realm, "player").await, Some(5));
    assert!(second.accepted(realm, &minting).await.replayed);
    // What came before the snapshot is made again behind it.
    let history = v1::GetHistoryRequest {
        asset: minted.subject,
        ..Default::default()
    };
    eventually("the history before the snapshot", || async {
        let answer = second.ledger().get_history(to(realm, history)).await.ok()?;
        let events = answer.into_inner().events;
        (events.first()?.sequence == minted.sequence).then_some(())
    })
    .await;
    second.accepted(realm, &deposit("player", 2)).await;
    ended(second).await;

    delete_pieces(realm);
    let third = group.start("third").await;
    assert_eq!(begun_with(&third, &group).await, 0);
    assert!(third.said().contains("passed over"), "{}", third.said());
    assert_eq!(third.balance(realm, "player").await, Some(7));
    let third = ended(third).await;

    // Its own folder's snapshot serves it the next time.
    let again = group.start("third").await;
    assert!(begun_with(&again, &group).await > minted.sequence);
    assert_eq!(again.balance(realm, "player").await, Some(7));
    drop(third);
}
