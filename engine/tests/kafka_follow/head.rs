//! A log whose head was deleted, and engines that start on it with and without the state before its first block.

use karat_proto::v1::RealmRole::Leader;

use super::LONG_LEASE_MS;
use super::broker::is_there;
use super::common::eventually;
use super::engine::{Realm, deposit};
use super::topics::{delete_before, ends};

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_build_the_state_behind_a_deleted_head_replaces_no_leader_and_who_has_it_leads()
{
    if !is_there() {
        return;
    }
    let realm = Realm::new(LONG_LEASE_MS);
    let log = realm.topic("log");
    let mut first = realm.start("first", &[]);
    first.until(Leader).await;
    first.accepted(&deposit("player", 1)).await;
    first.signal("TERM");
    assert!(first.until_ended().await.success(), "{}", first.said());
    let (_, marker) = ends(&log).unwrap();

    let mut second = realm.start("second", &[]);
    second.until(Leader).await;
    second.accepted(&deposit("player", 2)).await;
    // What is left begins with the marker of the second leader.
    delete_before(&log, marker);
    for (name, arguments) in [("third", &[][..]), ("fourth", &["--follow"][..])] {
        let mut refused = realm.start(name, arguments);
        let ended = refused.until_ended().await;
        let said = refused.said();
        assert_eq!(ended.code(), Some(3), "{said}");
        for part in [
            "the log begins at sequence",
            "nothing was written",
            "start with the data folder",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    second.accepted(&deposit("player", 4)).await;
    let status = second.status().await.unwrap();
    assert_eq!((status.role(), status.epoch), (Leader, 2));

    // The first one's snapshot and events reach to the block before the marker.
    let first = realm.start("first", &[]);
    assert_eq!(first.until(Leader).await.epoch, 3);
    assert_eq!(first.balance("player").await, Some(7));
    let ended = second.until_ended().await;
    assert_eq!(ended.code(), Some(4), "{}", second.said());
    eventually("why it was replaced", || async {
        let said = second.said();
        said.contains("another leader has taken over").then_some(())
    })
    .await;
}
