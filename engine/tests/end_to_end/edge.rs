//! The Edge stream at two ack levels, and the time that the engine reports.

use karat_proto::v1::edge_client::EdgeClient;
use karat_proto::v1::edge_request::Kind as Up;
use karat_proto::v1::edge_response::Kind as Down;

use super::*;

/// Sends assets in one message; every message of outcomes until each asset has its final one.
async fn outcomes_of(
    realm: &Realm,
    collection: u32,
    sequenced: bool,
    numbers: std::ops::Range<u32>,
) -> Vec<v1::EdgeOutcomes> {
    let mut edge = EdgeClient::new(common::connect(&realm.service).await);
    let hello = v1::Hello {
        node: "edge-1".into(),
        account: account("studio"),
        models: vec![v1::ModelAttestation {
            digest: Bytes::from_static(&MODEL),
            name: "test".into(),
            role: v1::ModelRole::Generator.into(),
        }],
        sequenced,
    };
    let count = numbers.len();
    let assets = numbers.map(|number| v1::EdgeAsset {
        id: karat_engine::core::fresh_id(),
        collection,
        owner: Bytes::new(),
        traits: Bytes::from_static(&[0]),
        lineage: Some(lineage()),
        content: png(number),
    });
    let assets = v1::EdgeAssets {
        assets: assets.collect(),
    };
    let (sender, receiver) = mpsc::channel(2);
    for kind in [Up::Hello(hello), Up::Assets(assets)] {
        sender
            .try_send(v1::EdgeRequest { kind: Some(kind) })
            .unwrap();
    }
    let stream = edge.connect(ReceiverStream::new(receiver)).await.unwrap();
    let mut stream = stream.into_inner();
    let (mut found, mut credits) = (Vec::new(), Vec::new());
    while credits.iter().skip(1).sum::<u32>() < count as u32 {
        match stream.message().await.unwrap().unwrap().kind.unwrap() {
            Down::Outcomes(outcomes) => found.push(outcomes),
            Down::Credits(more) => credits.push(more.amount),
            _ => {}
        }
    }
    // The two levels leave on two threads: the early one may come last.
    while sequenced && found.len() < 2 {
        if let Some(Down::Outcomes(outcomes)) = stream.message().await.unwrap().unwrap().kind {
            found.push(outcomes);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_node_hears_of_sequenced_only_if_it_asks_and_of_the_engines_stages_always() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(spec()).await;
    let plain = outcomes_of(&realm, collection, false, 0..3).await;
    assert_eq!(plain.len(), 1);
    assert_eq!(
        (plain[0].ack(), plain[0].outcomes.len()),
        (AckLevel::Durable, 3)
    );
    assert!(plain[0].stages.is_some_and(|stages| stages.digest_ns > 0));
    let mut both = outcomes_of(&realm, collection, true, 3..7).await;
    both.sort_by_key(|outcomes| outcomes.ack);
    let levels: Vec<_> = both.iter().map(|outcomes| outcomes.ack()).collect();
    assert_eq!(levels, [AckLevel::Sequenced, AckLevel::Durable]);
    // The same outcomes twice: the second time they are final.
    assert_eq!(both[0].outcomes, both[1].outcomes);
    assert!(both[0].outcomes.iter().all(|outcome| outcome.code == 0));
    let (early, last) = (both[0].stages.unwrap(), both[1].stages.unwrap());
    assert_eq!(
        (early.digest_ns, early.admission_ns, early.queue_ns),
        (last.digest_ns, last.admission_ns, last.queue_ns)
    );
    assert!(early.append_ns > 0 && early.apply_ns > 0);
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_shows_where_answers_spend_their_time() {
    let mut realm = Realm::start().await;
    let before = realm.status().await.stages;
    let ack_count = |stages: &[v1::StageTime]| {
        let ack = stages.iter().find(|one| one.stage == "ack");
        ack.map_or(0, |one| one.count)
    };
    realm.deposit("ann", 5).await;
    let deposit = Kind::Deposit(v1::Deposit {
        account: account("ann"),
        amount: 5,
    });
    realm
        .try_execute(command("operator", deposit), AckLevel::Sequenced)
        .await
        .unwrap();
    let after = realm.status().await.stages;
    let names: Vec<_> = after.iter().map(|one| one.stage.as_str()).collect();
    assert_eq!(
        names,
        ["digest", "admission", "queue", "append", "apply", "ack"]
    );
    assert_eq!(ack_count(&after), ack_count(&before) + 1);
    let queue = |stages: &[v1::StageTime]| stages.get(2).map_or(0, |one| one.count);
    assert_eq!(queue(&after), queue(&before) + 2);
    assert!(
        after
            .iter()
            .all(|one| one.p50_ns <= one.p99_ns && one.p99_ns <= one.max_ns)
    );
    realm.stop().await;
}
