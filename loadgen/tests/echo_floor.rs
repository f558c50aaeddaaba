//! The client against the echo service: what it sends, and that it finds what an echo does wrong.

#![allow(clippy::unwrap_used)] // A helper that cannot go on fails the test that called it.

use clap::Parser as _;
use karat_loadgen::args::{Action, Cli, LoadArgs};
use karat_loadgen::floor::{Faults, Floor};
use karat_loadgen::report::Report;
use karat_loadgen::run;
use karat_loadgen::scenario::file::BUILT_IN;

fn load(arguments: &str) -> LoadArgs {
    let words = ["karat-load", "floor", "--warm-up-seconds", "0", "--quiet"];
    let seconds = match arguments.contains("--seconds") {
        true => "",
        false => "--seconds 1 ",
    };
    // Nobody gives up because the machine is slow.
    let arguments = format!("{seconds}--behind-seconds 600 {arguments}");
    let cli = Cli::parse_from(words.into_iter().chain(arguments.split_whitespace()));
    match cli.action {
        Action::Floor(args) => args.load,
        other => panic!("{other:?} is not floor"),
    }
}

fn against(faults: Faults, arguments: &str) -> Report {
    let echo = Floor::start_faulty(faults).unwrap();
    run::against_echo(&load(arguments), &echo).unwrap().report
}

#[test]
fn every_arrival_of_an_open_loop_is_sent_and_answered_once() {
    let arguments = "--rate 3000 --batch 3 --streams 4 --scenario mixed --drain-seconds 600";
    let report = against(Faults::default(), arguments);
    assert!(report.passed(), "{}", report.render());
    assert_eq!(report.counts.sent + report.counts.skipped, 3_000);
    assert_eq!(report.counts.skipped, 0, "the window holds 65,536");
    assert_eq!(report.counts.accepted, 3_000);
    assert_eq!(report.latency.count, 3_000);
    assert_eq!(report.scheduling_error.count, 1_000, "one a message");
    let mints = report.books.sent_by_kind["mint"];
    assert!((200..400).contains(&mints), "{mints}: one of ten is a mint");
}

#[test]
fn latency_is_never_less_than_the_delay_of_sending() {
    let report = against(Faults::default(), "--rate 500 --arrivals poisson");
    assert!(report.passed(), "{}", report.render());
    assert!(report.latency.p50_us >= report.scheduling_error.p50_us);
    assert!(report.latency.max_us >= report.scheduling_error.max_us);
}

#[test]
fn every_way_of_travelling_and_every_scenario_is_answered_once() {
    let ways = [
        "--mode submit --connections 2 --streams 3 --batch 2",
        "--mode execute --connections 2 --streams 2",
    ];
    for (way, (scenario, _)) in ways.iter().cycle().zip(BUILT_IN) {
        let arguments = format!("--rate 300 --drain-seconds 600 --scenario {scenario} {way}");
        let report = against(Faults::default(), &arguments);
        assert!(report.passed(), "{arguments}\n{}", report.render());
        assert_eq!(report.books.sent, report.books.accepted, "{arguments}");
    }
    let arguments = "--mode edge --scenario mint --ack durable --rate 200 --batch 4 --streams 2";
    let report = against(Faults::default(), arguments);
    assert!(report.passed(), "{}", report.render());
    assert_eq!(report.counts.accepted, 200);
}

#[test]
fn two_runs_with_one_seed_send_the_same_commands_and_another_seed_sends_others() {
    for (scenario, arrivals) in [
        ("trade", "constant"),
        ("mixed-day", "poisson"),
        ("claim-stampede", "burst:3:400:50"),
    ] {
        let commands = |seed: u64| {
            let arguments = format!(
                "--rate 1500 --streams 3 --scenario {scenario} --arrivals {arrivals} --seed {seed} --drain-seconds 600"
            );
            let report = against(Faults::default(), &arguments);
            assert!(report.passed(), "{arguments}\n{}", report.render());
            assert_eq!(report.counts.skipped, 0, "{arguments}");
            (report.commands, report.books.sent)
        };
        assert_eq!(commands(4), commands(4), "{scenario}");
        assert_ne!(commands(4).0, commands(5).0, "{scenario}");
    }
}

#[test]
fn several_ack_levels_have_latencies_of_their_own() {
    let report = against(
        Faults::default(),
        "--rate 1000 --ack sequenced,durable --drain-seconds 600",
    );
    assert!(report.passed(), "{}", report.render());
    for level in ["sequenced", "durable"] {
        assert_eq!(report.levels[level].count, 500, "every second message");
    }
    assert_eq!(report.latency.count, 1_000);
}

#[test]
fn the_seconds_of_a_run_add_up_to_it() {
    // Only whole seconds are told: one outcome that never comes keeps the run open for two of them after the last arrival.
    let faults = Faults {
        lose_every: 3_000,
        ..Faults::default()
    };
    let report = against(faults, "--rate 1000 --seconds 3 --drain-seconds 2");
    assert!(report.seconds.len() >= 4, "{:?}", report.seconds);
    let sent: u64 = report.seconds.iter().map(|second| second.sent).sum();
    assert_eq!((sent, report.counts.skipped), (3_000, 0));
    assert!(report.curve.len() > 10);
}

#[test]
fn a_closed_window_sends_as_outcomes_return() {
    let arguments = "--rate max --batch 16 --window 64 --streams 2 --scenario mint --seconds 4 --drain-seconds 600";
    let report = against(Faults::default(), arguments);
    assert!(report.passed(), "{}", report.render());
    assert_eq!(report.counts.skipped, 0);
    assert!(
        report.books.accepted > 64,
        "it went on after the first window: {}",
        report.render()
    );
}

#[test]
fn lost_outcomes_keep_the_books_open_and_are_named() {
    let faults = Faults {
        lose_every: 100,
        ..Faults::default()
    };
    // Those that are not lost must all come within the time that the lost ones are waited for.
    let report = against(faults, "--rate 1000 --drain-seconds 15");
    assert!(!report.passed());
    assert_eq!(
        (report.books.unanswered, report.books.problems.count),
        (10, 10)
    );
    let named = &report.books.problems.named;
    assert!(
        named.iter().all(|one| one.contains("no outcome")),
        "{named:?}"
    );
}

#[test]
fn doubled_outcomes_keep_the_books_open_and_are_named() {
    let faults = Faults {
        double_every: 250,
        ..Faults::default()
    };
    let report = against(faults, "--rate 1000 --drain-seconds 600");
    assert!(!report.passed());
    assert_eq!(
        (report.books.unanswered, report.books.problems.count),
        (0, 4)
    );
    let named = &report.books.problems.named;
    assert!(
        named.iter().all(|one| one.contains("second outcome")),
        "{named:?}"
    );
}

#[test]
fn arrivals_beyond_the_window_are_counted_as_skipped() {
    let faults = Faults {
        lose_every: 1,
        ..Faults::default()
    };
    let report = against(faults, "--rate 1000 --window 100 --drain-seconds 1");
    assert_eq!((report.counts.sent, report.counts.skipped), (100, 900));
    assert_eq!(report.books.unanswered, 100);
    assert!(
        report
            .render()
            .contains("900 commands (90.00 %) were not sent")
    );
}

#[test]
fn a_target_that_dies_during_the_run_leaves_a_report_of_what_is_known() {
    let faults = Faults {
        die_after: 500,
        ..Faults::default()
    };
    let report = against(faults, "--rate 1000");
    assert!(!report.passed());
    let broken = report.books.broken.as_deref().unwrap();
    assert!(broken.contains("the echo dies on purpose"), "{broken}");
    assert_eq!(report.books.accepted, 499);
    assert!(report.books.unanswered >= 1);
    assert_eq!(
        report.books.sent,
        report.books.accepted + report.books.unanswered
    );
}
