//! Whole runs against a small realm: setup, load, and a truth check that finds what the realm does wrong.

#![allow(clippy::unwrap_used)] // A helper that cannot go on fails the test that called it.

mod common;

use clap::Parser as _;
use common::{Faults, Realm};
use karat_loadgen::args::{Action, Cli};
use karat_loadgen::error::LoadError;
use karat_loadgen::report::Report;
use karat_loadgen::run;

fn try_run(faults: Faults, arguments: &str) -> Result<Report, LoadError> {
    let target = Realm::start(faults);
    let words = [
        "karat-load",
        "run",
        "--target",
        &target,
        "--warm-up-seconds",
        "0",
        "--seconds",
        "1",
        "--drain-seconds",
        "30",
    ];
    let cli = Cli::parse_from(words.into_iter().chain(arguments.split_whitespace()));
    match cli.action {
        Action::Run(args) => run::run(&args),
        other => panic!("{other:?} is not run"),
    }
}

fn run(faults: Faults, arguments: &str) -> Report {
    try_run(faults, arguments).unwrap()
}

#[test]
fn trades_are_all_accepted_and_owners_and_balances_agree() {
    let arguments = "--scenario trade --rate 2000 --batch 4 --streams 3 --assets 2000 --seed 9";
    let report = run(Faults::default(), arguments);
    assert!(report.passed(), "{}", report.render());
    assert_eq!((report.books.accepted, report.books.refused), (2_000, 0));
    for kind in ["transfer", "exchange", "claim"] {
        assert!(report.books.sent_by_kind[kind] > 0, "{}", report.render());
    }
    let checked = report.books.checked.unwrap();
    assert_eq!((checked.assets, checked.accounts), (1_000, 3 * 64));
    assert_eq!(checked.balance_sum, checked.deposit_sum);
}

#[test]
fn mints_and_a_mixed_load_are_all_accepted_and_their_owners_agree() {
    for scenario in ["mint", "mixed"] {
        let arguments = format!("--scenario {scenario} --rate max --batch 8 --assets 500");
        let report = run(Faults::default(), &arguments);
        assert!(report.passed(), "{scenario}: {}", report.render());
        assert_eq!(report.books.refused, 0);
        assert!(report.books.sent_by_kind["mint"] > 0);
        assert_eq!(report.books.checked.unwrap().assets, 1_000);
    }
}

#[test]
fn a_run_with_floor_holds_both_and_their_ratios() {
    let arguments = "--rate 500 --assets 100 --with-floor";
    let report = run(Faults::default(), arguments);
    assert!(report.passed(), "{}", report.render());
    assert_eq!(report.floor.as_ref().unwrap().counts.accepted, 500);
    assert!(report.render().contains("run/floor"));
}

#[test]
fn transfers_that_were_accepted_and_forgotten_are_found_by_asset() {
    let faults = Faults {
        forget_transfer_every: 50,
        ..Faults::default()
    };
    // Fewer assets than the sample: none can hide outside it.
    let report = run(faults, "--rate 1000 --assets 1000");
    assert!(!report.passed());
    let named = &report.books.problems.named;
    assert!(
        named
            .iter()
            .any(|one| one.starts_with("asset ") && one.contains("owner is")),
        "{named:?}"
    );
}

#[test]
fn a_price_that_lost_a_unit_is_found_by_account_and_in_the_sum() {
    let faults = Faults {
        short_change_every: 100,
        ..Faults::default()
    };
    let report = run(faults, "--rate 1000 --assets 1000");
    assert!(!report.passed());
    let named = &report.books.problems.named;
    for beginning in ["account 0x", "balances sum to"] {
        assert!(
            named.iter().any(|one| one.starts_with(beginning)),
            "{named:?}"
        );
    }
}

#[test]
fn overload_is_counted_by_code_and_the_books_still_close() {
    let faults = Faults {
        overload_every: 97,
        ..Faults::default()
    };
    let report = run(faults, "--rate 2000 --batch 2 --assets 1000");
    assert!(report.passed(), "{}", report.render());
    assert!(
        report.refusals["103 Overloaded"] >= 20,
        "{}",
        report.render()
    );
    assert_eq!(
        report.books.sent,
        report.books.accepted + report.books.refused
    );
}

#[test]
fn an_operator_that_is_none_is_refused_in_setup_with_what_to_do() {
    let error = try_run(Faults::default(), "--operator somebody --assets 100").unwrap_err();
    let text = error.to_string();
    assert!(text.contains("setup failed at Deposit"), "{text}");
    assert!(text.contains("--operator must name"), "{text}");
}

#[test]
fn assets_that_the_agents_reject_end_setup_with_where_to_look() {
    let faults = Faults {
        reject_all: true,
        ..Faults::default()
    };
    let error = try_run(faults, "--assets 100").unwrap_err().to_string();
    assert!(error.contains("rejected asset"), "{error}");
    assert!(error.contains("karat asset show"), "{error}");
}

#[test]
fn a_window_smaller_than_a_message_is_refused_before_anything_is_sent() {
    let error = try_run(Faults::default(), "--batch 256 --window 100").unwrap_err();
    assert!(error.to_string().contains("give at least 256"), "{error}");
}
