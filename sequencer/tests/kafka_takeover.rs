//! Leaders in processes of their own that are killed, paused and started at once, on a real broker. After each: one
//! history, nothing acknowledged is lost, nothing is applied twice.
#![cfg(feature = "kafka")]
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::kafka::{config, is_there};
use common::leader::{Leader, check_history, run_if_asked};

/// How long a paused leader sleeps; `KARAT_TEST_PAUSE_S` names another time.
fn pause() -> Duration {
    let named = std::env::var("KARAT_TEST_PAUSE_S").ok();
    Duration::from_secs(named.and_then(|text| text.parse().ok()).unwrap_or(5))
}

/// Not a test by itself: a leader's process runs it.
#[test]
fn child() {
    run_if_asked();
}

#[test]
fn a_killed_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    if !is_there() {
        return;
    }
    let config = config("killed");
    let mut leaders = Vec::new();
    for round in 0..5 {
        let leader = Leader::start(&config);
        assert!(leader.wait_decided());
        leader.wait_acknowledged(100 + round * 50);
        leader.signal("KILL");
        leaders.push(leader);
    }
    assert!(check_history(&config, leaders) >= 5 * 100);
}

#[test]
fn a_leader_that_is_replaced_while_it_runs_steps_down_and_says_why() {
    if !is_there() {
        return;
    }
    let config = config("running");
    let first = Leader::start(&config);
    first.wait_acknowledged(100);
    let second = Leader::start(&config);
    second.wait_acknowledged(100);
    let cause = first.wait_stopped();
    assert!(
        cause.contains("another leader has taken over") && cause.contains("epoch 2"),
        "{cause}"
    );
    second.wait_acknowledged(100);
    check_history(&config, vec![first, second]);
}

#[test]
fn a_paused_leader_that_wakes_after_a_takeover_releases_nothing_and_the_new_one_goes_on() {
    if !is_there() {
        return;
    }
    let config = config("paused");
    let first = Leader::start(&config);
    first.wait_acknowledged(200);
    first.signal("STOP");
    let second = Leader::start(&config);
    second.wait_acknowledged(200);
    std::thread::sleep(pause());
    first.signal("CONT");
    let cause = first.wait_stopped();
    assert!(cause.contains("another leader has taken over"), "{cause}");
    // Its late blocks are void; they do not disturb the one that leads.
    second.wait_acknowledged(200);
    check_history(&config, vec![first, second]);
}

#[test]
fn of_processes_started_at_once_one_leads_in_the_end() {
    if !is_there() {
        return;
    }
    let config = config("together");
    let leaders: Vec<Leader> = (0..3).map(|_| Leader::start(&config)).collect();
    let led = leaders
        .iter()
        .filter(|leader| leader.wait_decided())
        .count();
    assert!(led >= 1);
    // A later one replaces an earlier one; whoever is not replaced goes on.
    std::thread::sleep(Duration::from_secs(3));
    check_history(&config, leaders);
}
