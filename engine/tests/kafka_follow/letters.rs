//! Commands from a topic, and a leader that is killed in their midst.

use std::collections::BTreeSet;

use karat_proto::v1;
use karat_proto::v1::RealmRole::Leader;
use karat_proto::v1::command::Kind;
use prost::Message as _;

use super::LONG_LEASE_MS;
use super::broker::is_there;
use super::common::{command, eventually};
use super::engine::{Realm, deposit};
use super::topics::{ends, messages, send_together, until_there};

/// Every third one is refused by the ledger.
const COMMANDS: i64 = 6000;

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_killed_among_commands_of_a_topic_leaves_each_applied_once_and_one_letter_of_each_refusal()
 {
    if !is_there() {
        return;
    }
    let realm = Realm::new(LONG_LEASE_MS).taking_commands();
    let mut first = realm.start("first", &[]);
    first.until(Leader).await;
    let (topic, dead_letters) = (realm.topic("commands"), realm.topic("dead-letters"));
    until_there(&topic).await;
    until_there(&dead_letters).await;
    let commands: Vec<Vec<u8>> = (0..COMMANDS)
        .map(|offset| match offset % 3 {
            0 => command("player", Kind::Pause(v1::Pause { paused: true })),
            _ => deposit("player", 1),
        })
        .map(|command| command.encode_to_vec())
        .collect();
    let sent = topic.clone();
    let sending = tokio::task::spawn_blocking(move || send_together(&sent, &commands));
    eventually("the first letters", || async {
        ends(&dead_letters).filter(|(_, high)| *high > 100)
    })
    .await;
    first.kill();
    sending.await.unwrap();
    let second = realm.start("second", &[]);
    second.until(Leader).await;
    let accepted = (COMMANDS as u64) * 2 / 3;
    eventually("everything that was accepted", || async {
        (second.balance("player").await? == accepted).then_some(())
    })
    .await;
    let refused: BTreeSet<String> = (0..COMMANDS)
        .step_by(3)
        .map(|offset| format!("0:{offset}"))
        .collect();
    let count = eventually("the letter of every refusal", || async {
        let found = messages(&dead_letters);
        let sources = found.iter().map(|one| one.headers["karat-source"].clone());
        (sources.collect::<BTreeSet<_>>() == refused).then_some(found.len())
    })
    .await;
    // What the killed leader had written was there to be seen.
    assert_eq!(count, refused.len());
    assert_eq!(second.balance("player").await, Some(accepted));
}
