//! The client against the echo service: what it sends, and that it finds what an echo does wrong.

#![allow(clippy::unwrap_used)] // A helper that cannot go on fails the test that called it.

use clap::Parser as _;
use karat_loadgen::args::{Action, Cli, LoadArgs};
use karat_loadgen::floor::{Faults, Floor};
use karat_loadgen::report::Report;
use karat_loadgen::run;

fn load(arguments: &str) -> LoadArgs {
    let words = [
        "karat-load",
        "floor",
        "--warm-up-seconds",
        "0",
        "--seconds",
        "1",
    ];
    let cli = Cli::parse_from(words.into_iter().chain(arguments.split_whitespace()));
    match cli.action {
        Action::Floor(args) => args.load,
        other => panic!("{other:?} is not floor"),
    }
}

fn against(faults: Faults, arguments: &str) -> Report {
    let echo = Floor::start_faulty(faults).unwrap();
    run::against_echo(&load(arguments), &echo).unwrap()
}

#[test]
fn every_arrival_of_an_open_loop_is_sent_and_answered_once() {
    let arguments = "--rate 3000 --batch 3 --streams 4 --scenario mixed --drain-seconds 30";
    let report = against(Faults::default(), arguments);
    assert!(report.passed(), "{}", report.render());
    assert_eq!(report.counts.sent + report.counts.skipped, 3_000);
    assert_eq!(report.counts.skipped, 0, "the window holds 65,536");
    assert_eq!(report.counts.accepted, 3_000);
    assert_eq!(report.latency.count, 3_000);
    assert_eq!(report.scheduling_error.count, 1_000, "one a message");
    assert_eq!(
        report.books.sent_by_kind["mint"], 300,
        "one of ten is a mint"
    );
}

#[test]
fn latency_is_never_less_than_the_delay_of_sending() {
    let report = against(Faults::default(), "--rate 500 --arrivals poisson");
    assert!(report.passed(), "{}", report.render());
    assert!(report.latency.p50_us >= report.scheduling_error.p50_us);
    assert!(report.latency.max_us >= report.scheduling_error.max_us);
}

#[test]
fn a_closed_window_sends_as_outcomes_return() {
    let arguments = "--rate max --batch 16 --window 64 --streams 2 --scenario mint";
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
    let report = against(faults, "--rate 1000 --drain-seconds 1");
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
    let report = against(faults, "--rate 1000 --drain-seconds 30");
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
