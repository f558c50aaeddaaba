//! More realms than the hosts of a group have room for.

use karat_proto::Code;

use super::broker::is_there;
use super::common::eventually;
use super::group::{Group, Host, deposit, execute, spread};
use super::{number_of, told};

/// Until these hosts lead so many realms each, and never more.
async fn until_full(hosts: &[(&Host, usize)]) -> Vec<String> {
    eventually("hosts that are full", || async {
        let mut found = Vec::new();
        for (host, most) in hosts {
            let leads = host.leads().await;
            assert!(leads.len() <= *most, "{leads:?}: {}", host.said());
            found.extend(leads);
        }
        let all: usize = hosts.iter().map(|(_, most)| most).sum();
        (found.len() == all).then_some(found)
    })
    .await
}

/// Until this host says of so many realms that nobody has them.
async fn until_without_host(host: &Host, count: u32) {
    eventually(&format!("{count} realms without a host"), || async {
        (host.list().await?.without_host == count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_realm_beyond_what_a_host_may_hold_falls_to_the_others_and_without_room_anywhere_all_say_so()
 {
    if !is_there() {
        return;
    }
    let group = Group::new(4);
    let first = group
        .start_with("first", |config| config.host.realms_max = 2)
        .await;
    let mine = until_full(&[(&first, 2)]).await;
    for realm in &mine {
        first.accepted(realm, &deposit("player", 3)).await;
    }
    let second = group
        .start_with("second", |config| config.host.realms_max = 1)
        .await;
    let led = until_full(&[(&first, 2), (&second, 1)]).await;
    let left = group.realms.iter().find(|realm| !led.contains(realm));
    let left = left.unwrap().as_str();

    for host in [&first, &second] {
        until_without_host(host, 1).await;
        let said = eventually("what a full host says", || async {
            let said = host.said();
            said.contains(&format!("realm {left}: nobody has it"))
                .then_some(said)
        })
        .await;
        assert!(said.contains("host.realms_max"), "{said}");
        let server = format!("http://{}", host.address);
        let shown = told(&["--server", &server, "status"]);
        assert_eq!(shown["without_host"], 1, "{shown}");
        let note = shown["realms"][left]["note"].as_str().unwrap();
        assert!(note.contains("nobody leads it"), "{shown}");
        let refused = execute(&host.channel, left, &deposit("player", 1)).await;
        let refused = refused.unwrap_err();
        assert_eq!(number_of(&refused), Some(Code::RealmElsewhere));
        assert!(refused.message().contains("nobody has"), "{refused:?}");
    }

    let third = group.start("third").await;
    spread(&group, &[&first, &second, &third], 1).await;
    third.accepted(left, &deposit("player", 1)).await;
    for host in [&first, &second, &third] {
        until_without_host(host, 0).await;
    }
    for realm in &mine {
        let found = eventually("a host that leads the realm", || async {
            for host in [&first, &second, &third] {
                if let Some(balance) = host.balance(realm, "player").await {
                    return Some(balance);
                }
            }
            None
        })
        .await;
        assert_eq!(found, 3, "{realm}");
    }
}
