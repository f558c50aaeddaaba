//! Dead letters over a change of leaders: those that are missing are written, and no others.

use std::collections::BTreeMap;

use karat_proto::v1::command::Kind;
use karat_proto::{Code, v1};
use prost::Message as _;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::{Offset, consumer::BaseConsumer};

use super::broker::is_there;
use super::common::{Realm, command, eventually};
use super::topics::{Found, consumer, delete_before, ends, messages, place, send, until_there};
use super::{deposit, on_kafka, until_balance};

/// The letters by their source's offset: how often, and the last one's code.
fn letters(found: &[Found]) -> BTreeMap<i64, (usize, u32)> {
    let mut letters = BTreeMap::new();
    for one in found {
        let (_, offset) = one.headers["karat-source"].split_once(':').unwrap();
        let letter = letters.entry(offset.parse().unwrap()).or_insert((0, 0));
        letter.0 += 1;
        letter.1 = one.headers["karat-code"].parse().unwrap();
    }
    letters
}

fn committed(consumer: &BaseConsumer, topic: &str) -> Option<i64> {
    let mut asked = TopicPartitionList::new();
    asked.add_partition(topic, 0);
    let found = consumer
        .committed_offsets(asked, std::time::Duration::from_secs(60))
        .unwrap();
    match found.elements()[0].offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_a_leader_left_unwritten_are_written_by_the_next_one_and_those_that_are_there_are_not()
 {
    if !is_there() {
        return;
    }
    let mut realm = Realm::start_with(on_kafka).await;
    let name = realm.config.realm.name.clone();
    let (commands, dead_letters) = (
        format!("karat.{name}.commands"),
        format!("karat.{name}.dead-letters"),
    );
    let once = deposit(100);
    let same_id = v1::Command {
        id: once.id.clone(),
        ..deposit(7)
    };
    let not_allowed = command("player", Kind::Pause(v1::Pause { paused: true }));
    until_there(&commands).await;
    send(
        &commands,
        &[
            once.encode_to_vec(),
            not_allowed.encode_to_vec(),
            b"\xff no command".to_vec(),
            same_id.encode_to_vec(),
            // A retry, which is accepted again.
            once.encode_to_vec(),
            deposit(20).encode_to_vec(),
        ],
    );
    until_balance(&mut realm, 120).await;
    let wanted: BTreeMap<i64, (usize, u32)> = [
        (1, Code::NotAllowed),
        (2, Code::Malformed),
        (3, Code::IdReused),
    ]
    .map(|(offset, code)| (offset, (1, code as u32)))
    .into();
    let until_letters = async || {
        eventually("the letters", || async {
            (letters(&messages(&dead_letters)) == wanted).then_some(())
        })
        .await;
    };
    until_letters().await;
    let mut stopped = realm.stop().await;
    // It stopped in order, so nothing is open.
    let group = consumer(&dead_letters);
    assert_eq!(committed(&group, &commands), Some(6));

    // As if it had been killed before anything was committed: once with all letters kept, and once with two of them not.
    for missing in [0, 2] {
        group
            .commit(&place(&commands, 0), CommitMode::Sync)
            .unwrap();
        let (low, high) = ends(&dead_letters).unwrap();
        delete_before(&dead_letters, low + missing);
        let realm = stopped.start().await;
        eventually("that they are known to be kept", || async {
            (committed(&group, &commands) == Some(6)).then_some(())
        })
        .await;
        until_letters().await;
        let (_, found) = ends(&dead_letters).unwrap();
        assert_eq!(found, high + missing);
        stopped = realm.stop().await;
    }
    let mut realm = stopped.start().await;
    // What was accepted is not taken a second time, and the reading goes on behind it.
    send(&commands, &[deposit(3).encode_to_vec()]);
    until_balance(&mut realm, 123).await;
    realm.stop().await;
    assert_eq!(letters(&messages(&dead_letters)), wanted);
}
