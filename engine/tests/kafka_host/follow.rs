//! The load generator on a realm that moves while it is loaded.

use clap::Parser as _;
use karat_loadgen::args::{Action, Cli};
use karat_loadgen::error::LoadError;
use karat_loadgen::report::Report;
use karat_loadgen::run;
use karat_loadgen::setup::DEPOSIT;

use super::broker::is_there;
use super::common::eventually;
use super::ended;
use super::group::{Group, spread};

/// Lengths of the runs, one after the other until a realm has moved while it was loaded: a busy machine takes its time to
/// start a process.
const SECONDS: [u64; 3] = [40, 120, 360];
/// Part of the names of the runs' accounts.
const RUN: u64 = 7;

/// `karat-load run` on a realm, from whichever process it is given.
fn load(target: &str, realm: &str, seconds: u64) -> Result<Report, LoadError> {
    // Trades alone: the image that a mint names lies with the process that stored it.
    let words = format!(
        "karat-load run --target http://{target} --realm {realm} --scenario trade --verdict review --ack durable --rate 100 \
         --run-id {RUN} --assets 32 --streams 2 --warm-up-seconds 0 --seconds {seconds} --behind-seconds 600 --drain-seconds 300 \
         --floor-seconds 0 --slow-watchers 1 --quiet"
    );
    match Cli::parse_from(words.split_whitespace()).action {
        Action::Run(args) => run::run(&args).map(|outcome| outcome.report),
        other => panic!("{other:?} is not run"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_load_generator_runs_through_while_realms_move_to_a_process_that_joins() {
    if !is_there() {
        return;
    }
    for seconds in SECONDS {
        if streams_that_followed(seconds).await > 0 {
            return;
        }
    }
    panic!("no realm moved while it was loaded");
}

/// Loads both realms of a process, starts another one that takes one of them, and counts the streams that followed it.
async fn streams_that_followed(seconds: u64) -> u64 {
    let group = Group::new(2);
    let first = group.start("first").await;
    spread(&group, &[&first], 2).await;
    let loads: Vec<_> = group
        .realms
        .iter()
        .map(|realm| {
            let (target, realm) = (first.address.clone(), realm.clone());
            tokio::task::spawn_blocking(move || load(&target, &realm, seconds))
        })
        .collect();
    for realm in &group.realms {
        eventually("a run that has begun", || async {
            // Something was bought for.
            for number in 0..8 {
                let name = format!("load-{RUN:016x}-0-{number}");
                let balance = first.balance(realm, &name).await?;
                if ![0, DEPOSIT].contains(&balance) {
                    return Some(());
                }
            }
            None
        })
        .await;
    }
    let second = group.start("second").await;
    spread(&group, &[&first, &second], 1).await;
    let mut streams = 0;
    for load in loads {
        let report = load.await.unwrap().unwrap();
        assert!(report.passed(), "{}", report.render());
        assert_eq!(report.books.unanswered, 0, "{}", report.render());
        let watched = report.watched.clone().unwrap();
        assert_eq!(watched.ended, Vec::<String>::new());
        streams += report.books.followed.streams;
    }
    ended(second).await;
    ended(first).await;
    streams
}
