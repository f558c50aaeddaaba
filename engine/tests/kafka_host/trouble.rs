//! A host that is paused, and brokers that go away while the group shares its realms anew.

use std::time::Duration;

use super::broker::is_there;
use super::common::eventually;
use super::group::{Group, deposit, execute, spread};
use super::load::Load;
use super::own_broker::Broker;
use super::{ended, same_digests};

/// How long the brokers are away; `KARAT_TEST_PAUSE_S` names another time.
fn pause() -> Duration {
    let named = std::env::var("KARAT_TEST_PAUSE_S").ok();
    Duration::from_secs(named.and_then(|text| text.parse().ok()).unwrap_or(8))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_paused_past_its_session_loses_its_realms_and_woken_releases_nothing_and_says_why() {
    if !is_there() {
        return;
    }
    let mut group = Group::new(2);
    // The least that brokers take. A host that is taken for dead because the machine is busy makes this longer, not wrong.
    group.config.host.session_timeout_ms = 6_000;
    let first = group.start("first").await;
    let second = group.start("second").await;
    let leads = spread(&group, &[&first, &second], 1).await;
    let realm = leads[0][0].as_str();
    let load = Load::start(&group, &[&first, &second]);
    load.goes_on(20).await;

    first.signal("STOP");
    eventually("every realm on the other host", || async {
        (second.leads().await == group.realms).then_some(())
    })
    .await;
    load.goes_on(20).await;
    // On its way to the old leader while that one is not running.
    let (channel, late) = (first.channel.clone(), deposit("late", 1));
    let asked = realm.to_owned();
    let late = tokio::spawn(async move { execute(&channel, &asked, &late).await });
    first.signal("CONT");
    let answer = late.await.unwrap();
    assert!(answer.is_err(), "{answer:?}");
    eventually("why it stepped down", || async {
        let said = first.said();
        let why = [
            "another leader has taken over",
            "the group has not heard this process for 6000 ms",
        ];
        let of_realm = |line: &&str| line.starts_with(&format!("realm {realm}: "));
        let mut lines = said.lines().filter(of_realm);
        lines
            .any(|line| why.iter().any(|why| line.contains(why)))
            .then_some(())
    })
    .await;

    // It takes its share again.
    let leads = spread(&group, &[&first, &second], 1).await;
    load.goes_on(20).await;
    load.end_with_every_command_once(&[&first, &second]).await;
    let found = eventually("a host that leads the realm", || async {
        match first.balance(realm, "late").await {
            None => second.balance(realm, "late").await,
            found => found,
        }
    })
    .await;
    assert_eq!(found, 0);
    let (first, second) = (ended(first).await, ended(second).await);
    for (host, leads) in [(&first, &leads[0]), (&second, &leads[1])] {
        for realm in leads {
            same_digests(&host.data.join(realm));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_go_away_while_a_host_joins_leave_every_realm_with_one_leader_and_each_command_once()
 {
    let Some(broker) = Broker::start() else {
        return;
    };
    let group = Group::at(broker.address(), 4);
    let first = group.start("first").await;
    let second = group.start("second").await;
    spread(&group, &[&first, &second], 1).await;
    let load = Load::start(&group, &[&first, &second]);
    load.goes_on(20).await;

    // It has asked to join, and the others learn of that with their next heartbeats.
    let third = group.start("third").await;
    load.add(&third);
    broker.stop(&["--now"]);
    tokio::time::sleep(pause()).await;
    broker.start_again();
    spread(&group, &[&first, &second, &third], 1).await;
    load.goes_on(20).await;
    load.end_with_every_command_once(&[&first, &second, &third])
        .await;
    for host in [first, second, third] {
        ended(host).await;
    }
}
