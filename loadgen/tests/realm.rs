//! Whole runs against a small realm: setup, load, and a truth check that finds what the realm does wrong.

#![allow(clippy::unwrap_used)] // A helper that cannot go on fails the test that called it.

mod common;

use std::process::Command;

use clap::Parser as _;
use common::{Faults, NAME, Realm};
use karat_loadgen::args::{Action, CheckArgs, Cli};
use karat_loadgen::check::check;
use karat_loadgen::error::LoadError;
use karat_loadgen::report::Report;
use karat_loadgen::report::books_path;
use karat_loadgen::run::{self, Outcome};
use karat_loadgen::scenario::file::BUILT_IN;

fn try_run(faults: Faults, arguments: &str) -> Result<Report, LoadError> {
    try_against(&Realm::start(faults), arguments).map(|outcome| outcome.report)
}

fn try_against(target: &str, arguments: &str) -> Result<Outcome, LoadError> {
    let words = [
        "karat-load",
        "run",
        "--target",
        target,
        "--quiet",
        "--warm-up-seconds",
        "0",
        "--seconds",
        "1",
        "--drain-seconds",
        "600",
        // Nobody gives up because the machine is slow.
        "--behind-seconds",
        "600",
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
        let arguments = format!("--scenario {scenario} --rate 4000 --batch 8 --assets 500");
        let report = run(Faults::default(), &arguments);
        assert!(report.passed(), "{scenario}: {}", report.render());
        assert_eq!(report.books.refused, 0);
        assert!(report.books.sent_by_kind["mint"] > 0);
        assert!(report.books.checked.unwrap().assets > 800);
    }
}

#[test]
fn every_scenario_closes_its_books_with_outcomes_events_and_state() {
    for (scenario, _) in BUILT_IN {
        let arguments = format!(
            "--scenario {scenario} --rate 1500 --streams 2 --connections 2 --assets 1000 --floor-seconds 0"
        );
        let report = run(Faults::default(), &arguments);
        assert!(report.passed(), "{scenario}: {}", report.render());
        let (books, events) = (&report.books, report.books.events.as_ref().unwrap());
        assert_eq!(books.unanswered, 0);
        assert_eq!(events.found, books.accepted, "{scenario}");
        // Those that the door refused have no place in the order.
        assert!(events.refused <= books.refused, "{scenario}");
        match scenario {
            "claim-stampede" => {
                // 1,500 claims, fifty on each asset.
                assert_eq!(books.accepted, 32, "{}", report.render());
                assert_eq!(report.refusals["206 AlreadyOwned"], 1_500 - 32);
            }
            "dead-letter-flood" => {
                assert!(books.refused > 1_200, "{}", report.render());
                assert_eq!(report.refusals.len(), 7, "{}", report.render());
            }
            "mixed-day" => assert!(books.refused > 0),
            _ => assert_eq!(books.refused, 0, "{scenario}: {}", report.render()),
        }
    }
}

#[test]
fn calls_and_edge_nodes_close_their_books_too() {
    for arguments in [
        "--mode execute --scenario dead-letter-flood --rate 500 --assets 200",
        "--mode execute --connections 2 --scenario mixed --rate 500 --assets 2000",
        "--mode edge --scenario mint --ack durable --rate 300 --batch 5 --streams 2",
    ] {
        let report = run(Faults::default(), &format!("{arguments} --floor-seconds 0"));
        assert!(report.passed(), "{arguments}: {}", report.render());
        let events = report.books.events.as_ref().unwrap();
        assert_eq!(events.found, report.books.accepted, "{arguments}");
        assert!(report.books.accepted > 0, "{arguments}");
    }
}

#[test]
fn a_run_with_floor_holds_both_and_their_ratios() {
    let arguments = "--rate 500 --assets 100 --floor-seconds 1";
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

/// Runs until the books do not close, and returns what they name.
fn named(faults: Faults, arguments: &str) -> Vec<String> {
    let report = run(faults, &format!("{arguments} --floor-seconds 0"));
    assert!(!report.passed(), "{}", report.render());
    report.books.problems.named
}

#[test]
fn commands_that_did_nothing_too_much_or_something_else_are_named_by_their_events() {
    let forgotten = Faults {
        forget_transfer_every: 200,
        ..Faults::default()
    };
    let doubled = Faults {
        extra_transfer_every: 200,
        ..Faults::default()
    };
    let done_all_the_same = Faults {
        refuse_and_do_every: 50,
        ..Faults::default()
    };
    let flood = "--scenario dead-letter-flood --rate 1000 --assets 1000";
    for (faults, arguments, what) in [
        (
            forgotten,
            "--rate 1000 --assets 1000",
            "but nothing happened there",
        ),
        (
            doubled,
            "--rate 1000 --assets 1000",
            "is not what it asked for",
        ),
        (done_all_the_same, flood, "refused, but changed something"),
    ] {
        let named = named(faults, arguments);
        let one = named.iter().find(|one| one.contains(what));
        let one = one.unwrap_or_else(|| panic!("{what} is not in {named:?}"));
        assert!(one.starts_with("command "), "{one}");
    }
}

#[test]
fn a_loser_that_is_told_the_wrong_winner_is_named() {
    let faults = Faults {
        wrong_winner_every: 40,
        ..Faults::default()
    };
    let named = named(faults, "--scenario claim-stampede --rate 1000 --assets 100");
    assert!(
        named.iter().any(|one| one.contains("told that")),
        "{named:?}"
    );
}

#[test]
fn events_that_cannot_be_read_keep_the_books_open() {
    let faults = Faults {
        no_events: true,
        ..Faults::default()
    };
    let named = named(faults, "--rate 500 --assets 100");
    assert!(named[0].contains("could not be read"), "{named:?}");
}

#[test]
fn what_a_dying_target_acknowledged_is_found_after_it_came_back_and_what_it_lost_is_named() {
    let realm = Realm::with(Faults::default());
    let target = realm.serve();
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("run.json");
    // Setup has some 500 commands, the run 2,000.
    realm.set_faults(Faults {
        die_after: 1_500,
        ..Faults::default()
    });
    let arguments = "--rate 2000 --assets 300 --batch 3 --streams 2 --floor-seconds 0";
    let outcome = try_against(&target, arguments).unwrap();
    let report = &outcome.report;
    assert!(!report.passed());
    let broken = report.books.broken.clone().unwrap();
    assert!(broken.contains("dies on purpose"), "{broken}");
    assert!(report.books.accepted > 0 && report.books.unanswered > 0);
    report.write(&json).unwrap();
    outcome.records.write(&books_path(&json)).unwrap();

    // The same state, served again.
    realm.set_faults(Faults::default());
    let args = CheckArgs {
        run: json,
        target: realm.serve(),
        realm: None,
    };
    let found = check(&args).unwrap();
    assert!(found.passed(), "{}", found.render());
    assert_eq!(found.events.found, report.books.accepted);
    assert_eq!(found.unanswered, report.books.unanswered);
    // The last message was applied, and its answer lost.
    assert!(found.events.unanswered_applied > 0, "{}", found.render());
    assert!(found.checked.accounts > 0 && found.checked.assets > 0);

    realm.lose_events(20);
    let found = check(&args).unwrap();
    assert!(!found.passed());
    assert!(
        found.render().contains("nothing happened there"),
        "{}",
        found.render()
    );
}

/// The program with these words; its exit code, and what it said on both outputs.
fn program(words: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_karat-load"))
        .args(words)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.code(), said)
}

#[test]
fn the_program_ends_with_1_when_its_target_dies_keeps_everything_and_checks_it_after_a_restart() {
    let realm = Realm::with(Faults {
        die_after: 1_500,
        ..Faults::default()
    });
    let target = realm.serve();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let words = "run --quiet --rate 2000 --seconds 1 --warm-up-seconds 0 --behind-seconds 600 --drain-seconds 600 \
                 --assets 300 --floor-seconds 0";
    let mut words: Vec<&str> = words.split_whitespace().collect();
    words.extend(["--target", &target, "--out", out]);
    let (code, said) = program(&words);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("THE RUN ENDED EARLY"), "{said}");
    assert!(said.contains("dies on purpose"), "{said}");
    for file in [
        "run.json",
        "run.books",
        "run.html",
        "latency-sequenced.hgrm",
    ] {
        assert!(folder.path().join(file).exists(), "{file} is missing");
    }

    let json = folder.path().join("run.json");
    let json = json.to_str().unwrap();
    realm.set_faults(Faults::default());
    let again = realm.serve();
    let (code, said) = program(&["check", json, "--target", &again]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("everything that was acknowledged is there"),
        "{said}"
    );
    realm.lose_events(20);
    let (code, said) = program(&["check", json, "--target", &again]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("NOT EVERYTHING IS THERE"), "{said}");
    std::fs::remove_file(folder.path().join("run.books")).unwrap();
    let (code, said) = program(&["check", json, "--target", &again]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("run.books"), "{said}");
}

#[test]
fn a_target_that_follows_another_one_is_refused_in_setup_with_its_leader() {
    let faults = Faults {
        follows: true,
        ..Faults::default()
    };
    let error = try_run(faults, "--assets 100").unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:7499"), "{error}");
    assert!(error.contains("name that engine as --target"), "{error}");
}

#[test]
fn a_target_that_leads_no_longer_ends_the_run_with_its_leader_and_no_command_is_blamed() {
    for (mode, scenario) in [("submit", "trade"), ("execute", "dead-letter-flood")] {
        let faults = Faults {
            leads_for: 900,
            ..Faults::default()
        };
        let arguments = format!(
            "--mode {mode} --scenario {scenario} --rate 1000 --assets 300 --floor-seconds 0"
        );
        let report = run(faults, &arguments);
        let broken = report.books.broken.clone().unwrap();
        assert!(broken.contains("leads its realm no longer"), "{broken}");
        assert!(broken.contains("127.0.0.1:7499"), "{broken}");
        assert!(report.refusals["106 NotLeader"] > 0, "{}", report.render());
        // Those under way have no outcome; nobody says that a command should have been refused otherwise.
        let named = &report.books.problems.named;
        let only_open = named.iter().all(|one| one.contains("no outcome"));
        assert!(only_open, "{named:?}");
    }
}

#[test]
fn a_realm_that_moves_is_followed_by_every_stream_and_every_command_is_answered_once() {
    for (mode, scenario) in [("submit", "mixed"), ("execute", "mint"), ("edge", "mint")] {
        let realm = Realm::with(Faults {
            moves_every: 150,
            ..Faults::default()
        });
        let processes = realm.serve_group(3);
        let arguments = format!(
            "--realm {NAME} --mode {mode} --scenario {scenario} --ack durable --rate 1000 --assets 300 \
             --connections 2 --streams 2 --floor-seconds 0 --slow-watchers 1"
        );
        let outcome = try_against(&processes[1], &arguments).unwrap();
        let report = &outcome.report;
        assert!(report.passed(), "{mode}: {}", report.render());
        let books = &report.books;
        assert_eq!((books.sent, books.unanswered), (1_000, 0));
        assert_eq!(
            books.events.clone().unwrap().found,
            books.accepted,
            "{mode}"
        );
        // A message of the stream on whose command it moved was not answered.
        let followed = books.followed;
        assert!(
            followed.streams >= 5 && followed.commands > 0,
            "{followed:?}"
        );
        assert!(report.render().contains("the realm moved"));

        // What the run kept says which realm it was.
        let folder = tempfile::tempdir().unwrap();
        let json = folder.path().join("run.json");
        report.write(&json).unwrap();
        outcome.records.write(&books_path(&json)).unwrap();
        let args = CheckArgs {
            run: json,
            target: processes[0].clone(),
            realm: None,
        };
        let found = check(&args).unwrap();
        assert!(found.passed(), "{}", found.render());
    }
}

#[test]
fn a_realm_that_a_group_does_not_have_and_none_at_all_end_setup_with_the_reason() {
    let processes = Realm::with(Faults::default()).serve_group(2);
    let error = try_against(&processes[0], "--realm south --assets 100").err();
    let said = error.unwrap().to_string();
    assert!(said.contains("finding the realm"), "{said}");
    assert!(said.contains("UnknownRealm"), "{said}");
    let error = try_against(&processes[0], "--assets 100 --floor-seconds 0").err();
    let said = error.unwrap().to_string();
    assert!(said.contains("UnknownRealm"), "{said}");
}

#[test]
fn slow_watchers_are_open_beside_the_load_and_told_in_the_report() {
    let report = run(
        Faults::default(),
        "--rate 500 --assets 100 --floor-seconds 0 --slow-watchers 3",
    );
    assert!(report.passed(), "{}", report.render());
    let watched = report.watched.clone().unwrap();
    assert_eq!((watched.watchers, watched.ended.len()), (3, 0));
    assert!(report.render().contains("3 slow watchers"));
    let faults = Faults {
        no_events: true,
        ..Faults::default()
    };
    let error = try_run(faults, "--assets 100 --floor-seconds 0 --slow-watchers 1");
    let error = error.unwrap_err().to_string();
    assert!(error.contains("Ledger.Watch"), "{error}");
}

#[test]
fn more_commands_than_are_kept_are_said_and_the_rest_is_still_compared() {
    let arguments = "--rate 1000 --assets 500 --floor-seconds 0 --records-max 600";
    let report = run(Faults::default(), arguments);
    assert!(report.passed(), "{}", report.render());
    let events = report.books.events.clone().unwrap();
    assert_eq!((events.found, events.left_out), (600, 400));
    assert!(report.render().contains("400 not looked for"));
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
