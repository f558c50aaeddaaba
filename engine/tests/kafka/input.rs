//! What a realm's topics may hold or lose that no engine of ours put there or took away.

use karat_proto::limits;
use prost::Message as _;

use super::broker::is_there;
use super::common::{Realm, eventually};
use super::topics::{delete_before, ends, make_topic, messages, send};
use super::{deposit, on_kafka, until_balance};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_10_mb_becomes_a_dead_letter_with_what_fits_and_the_next_command_is_taken() {
    if !is_there() {
        return;
    }
    let mut large = 0;
    let mut realm = Realm::start_with(|config| {
        on_kafka(config);
        let commands = format!("karat.{}.commands", config.realm.name);
        // A topic that somebody made, with room for more than the engine's own has.
        make_topic(&commands, &[("max.message.bytes", "20000000")]);
        let message = vec![0xff; 10_000_000];
        large = message.len();
        send(&commands, &[message, deposit(5).encode_to_vec()]);
    })
    .await;
    until_balance(&mut realm, 5).await;
    let name = realm.config.realm.name.clone();
    let letter = eventually("the letter", || async {
        let topic = format!("karat.{name}.dead-letters");
        ends(&topic).filter(|(low, high)| high > low)?;
        messages(&topic).into_iter().next()
    })
    .await;
    assert_eq!(letter.headers["karat-source"], "0:0");
    assert_eq!(letter.headers["karat-cut-from"], large.to_string());
    assert_eq!(letter.payload.len(), limits::MESSAGE_BYTES_MAX);
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_retention_took_the_logs_head_a_snapshot_is_enough_and_without_one_the_start_is_refused()
 {
    if !is_there() {
        return;
    }
    let mut realm = Realm::start_with(on_kafka).await;
    for amount in 1..=10 {
        realm.deposit("player", amount).await;
    }
    let topic = format!("karat.{}.log", realm.config.realm.name);
    let stopped = realm.stop().await;
    let (_, end) = ends(&topic).unwrap();
    // All but the last block.
    delete_before(&topic, end - 1);
    let nothing = tempfile::tempdir().unwrap();
    let mut config = stopped.config.clone();
    config.data.dir = nothing.path().join("data");
    let told = super::common::start_error(config).await.to_string();
    assert!(told.contains("what came before was deleted"), "{told}");
    let mut realm = stopped.start().await;
    until_balance(&mut realm, 55).await;
    realm.deposit("player", 1).await;
    until_balance(&mut realm, 56).await;
    realm.stop().await;
}
