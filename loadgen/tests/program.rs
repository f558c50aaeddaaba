//! The program as a user meets it: exit codes, files, messages.

#![allow(clippy::unwrap_used)] // A helper that cannot go on fails the test that called it.

use std::path::Path;
use std::process::{Command, Output};

fn karat_load(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_karat-load"))
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_unreachable_target_is_named_and_exits_2() {
    // A port that was free a moment ago, and that nothing listens on.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let output = karat_load(&["run", "--target", &target]);
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    assert!(error.contains(&format!("cannot reach {target}")), "{error}");
    assert!(error.contains("Connection refused"), "{error}");
    assert!(error.contains("karat serve"), "{error}");
}

#[test]
fn a_target_without_a_scheme_is_refused_with_an_example() {
    let output = karat_load(&["run", "--target", "127.0.0.1:7400"]);
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    assert!(error.contains("an address looks like http://"), "{error}");
}

#[test]
fn a_floor_writes_a_result_that_compare_reads() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("floor.json");
    let file = file.to_str().unwrap();
    let floor = [
        "floor",
        "--rate",
        "200",
        "--seconds",
        "1",
        "--warm-up-seconds",
        "0",
    ];
    let output = karat_load(&[&floor[..], &["--json", file]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("the books close"));

    let output = karat_load(&["compare", file, file]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    assert!(table.contains("B/A") && table.contains("1.00x"), "{table}");
}

#[test]
fn what_is_no_result_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("other.json");
    std::fs::write(&file, "{\"format\": 1}").unwrap();
    let output = karat_load(&["compare", file.to_str().unwrap(), "nowhere.json"]);
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    assert!(
        error.contains("other.json: not a result of karat-load"),
        "{error}"
    );
}

#[test]
fn a_result_that_cannot_be_written_is_refused_before_the_run() {
    let output = karat_load(&[
        "floor",
        "--seconds",
        "3600",
        "--json",
        "/nowhere/at/all.json",
    ]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("/nowhere/at/all.json"));
    assert!(!Path::new("/nowhere").exists());
}

#[test]
fn help_has_examples_and_exit_codes() {
    for arguments in [&["--help"][..], &["run", "--help"], &["floor", "--help"]] {
        let help = text(&karat_load(arguments).stdout);
        assert!(help.contains("Examples:"), "{help}");
        assert!(help.contains("Exit codes:"), "{help}");
    }
}
