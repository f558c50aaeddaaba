//! How long a takeover takes: a measurement, not a test.
//!
//! `KARAT_TEST_ASSETS=1000000 cargo test --release -p karat-engine --features kafka --test kafka_follow -- --ignored --nocapture`

use std::time::{Duration, Instant};

use bytes::Bytes;
use karat_proto::v1;
use karat_proto::v1::RealmRole::{Follower, Leader};
use karat_proto::v1::command::Kind;

use super::broker::is_there;
use super::common::{command, eventually, mint, png, trading_spec};
use super::engine::{Engine, Realm, deposit};
use super::register_model;

/// Commands in one request.
const REQUEST_COMMANDS: u64 = 1000;
/// The lease of the default configuration.
const LEASE_MS: u64 = 600;

async fn mint_many(engine: &Engine, collection: u32, count: u64) {
    let content = png(0);
    let whole = command("studio", Kind::Mint(mint(collection, "player", 0)));
    engine.accepted(&whole).await;
    let named = v1::Mint {
        content: Bytes::new(),
        digest: Bytes::copy_from_slice(&karat_content::digest_of(&content)),
        size: content.len() as u32,
        ..mint(collection, "player", 0)
    };
    let requests = (0..count / REQUEST_COMMANDS).map(move |_| v1::SubmitRequest {
        ack: v1::AckLevel::Durable.into(),
        commands: (0..REQUEST_COMMANDS)
            .map(|_| command("studio", Kind::Mint(named.clone())))
            .collect(),
    });
    let mut ledger = engine.ledger().await.unwrap();
    let stream = ledger.submit(futures::stream::iter(requests)).await;
    let mut outcomes = stream.unwrap().into_inner();
    while let Some(answer) = outcomes.message().await.unwrap() {
        for outcome in answer.outcomes {
            assert_eq!(outcome.code, 0, "{}", outcome.message);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn time_from_a_killed_leader_to_the_next_answer() {
    if !is_there() {
        return;
    }
    let assets: u64 = std::env::var("KARAT_TEST_ASSETS")
        .map_or(10_000, |text| text.parse().unwrap())
        .min(999_000);
    let realm = Realm::new(LEASE_MS);
    let mut leader = realm.start("first", &[]);
    leader.until(Leader).await;
    register_model(&leader).await;
    let create = Kind::CreateCollection(v1::CreateCollection {
        spec: Some(trading_spec()),
    });
    let collection = leader.accepted(&command("studio", create)).await.subject as u32;
    mint_many(&leader, collection, assets).await;
    for turn in 0..3 {
        let follower = realm.start(&format!("follower {turn}"), &["--follow"]);
        follower.until(Follower).await;
        let last = leader.accepted(&deposit("player", 1)).await.sequence;
        eventually("the follower at the leader's sequence", || async {
            (follower.status().await?.applied_seq >= last).then_some(())
        })
        .await;
        // Warm is also what it serves reads from: until then that work has the processors.
        while follower
            .status()
            .await
            .is_none_or(|status| status.projected_seq < last)
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // As clients that know both have it: connected before.
        let mut ledger = follower.ledger().await.unwrap();
        let killed = Instant::now();
        leader.kill();
        loop {
            let request = v1::ExecuteRequest {
                ack: v1::AckLevel::Durable.into(),
                command: Some(deposit("player", 1)),
            };
            if ledger.execute(request).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let took_ms = killed.elapsed().as_millis();
        println!("{assets} assets: killed to durable answer of the next leader {took_ms} ms");
        leader = follower;
    }
    // Cold: nobody followed, and the folder is empty.
    let killed = Instant::now();
    leader.kill();
    let cold = realm.start("cold", &[]);
    while cold.enter(&deposit("player", 1)).await.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let took_ms = killed.elapsed().as_millis();
    println!("{assets} assets: killed to durable answer of a new engine {took_ms} ms");
}
