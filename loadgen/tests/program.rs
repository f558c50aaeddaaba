//! The program as a user meets it: exit codes, files, messages.

#![allow(clippy::unwrap_used)] // A helper that cannot go on fails the test that called it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use karat_loadgen::report::Report;

fn karat_load(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_karat-load"))
        .args(arguments)
        .output()
        .unwrap()
}

/// 3: they close, and this machine was too busy to generate the rate.
fn books_closed(status: &ExitStatus) -> bool {
    matches!(status.code(), Some(0 | 3))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_unreachable_target_is_named_and_exits_2() {
    // Bound, so that nobody else is given the port, and not listened at.
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let target = format!("http://{}", bound.local_addr().unwrap());
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
    assert!(books_closed(&output.status), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("the books close"));

    let output = karat_load(&["compare", file, file]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    assert!(table.contains("B/A") && table.contains("1.00x"), "{table}");
}

#[test]
fn a_folder_holds_the_result_in_every_form_and_the_page_needs_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new").join("result");
    let words = "floor --rate 500 --seconds 2 --behind-seconds 600 --warm-up-seconds 0 --scenario mixed-day --out";
    let words = words.split(' ').chain([out.to_str().unwrap()]);
    let output = karat_load(&words.collect::<Vec<_>>());
    assert!(books_closed(&output.status), "{}", text(&output.stdout));
    // Plain lines on a pipe.
    let lines = text(&output.stderr);
    assert!(
        lines.contains("1/2 s  sent") && !lines.contains('\x1b'),
        "{lines}"
    );
    let hgrm = std::fs::read_to_string(out.join("latency-sequenced.hgrm")).unwrap();
    assert!(
        hgrm.contains("1/(1-Percentile)") && hgrm.contains("#[Max"),
        "{hgrm}"
    );
    assert!(out.join("run.json").exists());
    let page = std::fs::read_to_string(out.join("run.html")).unwrap();
    for part in [
        "<svg",
        "Latency over percentiles",
        "Latency over time",
        "The books close",
        "mixed-day",
    ] {
        assert!(page.contains(part), "{part} is missing");
    }
    for asset in [
        "<script", "<link", "<img", "url(", "http://", "https://", "@import",
    ] {
        assert!(!page.contains(asset), "the page asks for {asset}");
    }
}

#[test]
fn a_bad_scenario_is_refused_with_its_place_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    std::fs::write(
        &file,
        "format = 1\nname = \"mine\"\nabout = \"x\"\n[mix]\nsteal = 3\n",
    )
    .unwrap();
    let output = karat_load(&["run", "--scenario", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    assert!(
        error.contains("mine.toml") && error.contains("line 5"),
        "{error}"
    );
    assert!(error.contains("unknown variant `steal`"), "{error}");

    let output = karat_load(&["floor", "--scenario", "trading"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("claim-stampede"));
}

#[test]
fn the_scenarios_are_listed() {
    let list = text(&karat_load(&["scenarios"]).stdout);
    assert_eq!(list.lines().count(), 9, "{list}");
    assert!(list.contains("dead-letter-flood"), "{list}");
}

#[test]
fn arguments_that_contradict_each_other_are_refused() {
    for (arguments, reason) in [
        ("--mode execute --batch 2", "one command a call"),
        ("--mode edge --scenario mint", "say --ack durable"),
        ("--mode edge --ack durable", "an edge node only mints"),
        ("--connections 256 --streams 256", "there may be 1024"),
        (
            "--scenario mixed-day --arrivals ramp",
            "phases with rates of their own",
        ),
        ("--arrivals sawtooth", "is not constant, poisson"),
    ] {
        let words: Vec<&str> = ["floor"].into_iter().chain(arguments.split(' ')).collect();
        let output = karat_load(&words);
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        assert!(
            text(&output.stderr).contains(reason),
            "{arguments}: {}",
            text(&output.stderr)
        );
    }
}

#[test]
fn a_kafka_target_that_cannot_be_is_refused_before_anything_is_asked_for() {
    for (arguments, reason) in [
        ("--target kafka://127.0.0.1", "brokers look like"),
        (
            "--target kafka://127.0.0.1:1 --mode execute",
            "leave --mode out",
        ),
        ("--target kafka://127.0.0.1:1", "say --ack durable"),
        (
            "--target kafka://127.0.0.1:1 --ack durable --kafka-property fast",
            "no NAME=VALUE",
        ),
        #[cfg(not(feature = "kafka"))]
        (
            "--target kafka://127.0.0.1:1 --ack durable",
            "--features kafka",
        ),
    ] {
        let words: Vec<&str> = ["run"].into_iter().chain(arguments.split(' ')).collect();
        let output = karat_load(&words);
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        let error = text(&output.stderr);
        assert!(error.contains(reason), "{arguments}: {error}");
    }
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(child: &Child, name: &str) {
    let command = format!("kill -{name} {}", child.id());
    assert!(
        Command::new("sh")
            .args(["-c", &command])
            .status()
            .unwrap()
            .success()
    );
}

/// Reads the line that says that the first second of a run is over, which has seconds left then.
fn first_second(load: &mut Child) -> BufReader<std::process::ChildStderr> {
    let mut lines = BufReader::new(load.stderr.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.contains(" 1/"), "{line}");
    lines
}

/// A sender that stands still until nobody waits for it any more has a rate that it cannot keep, on any machine.
#[test]
fn a_rate_that_was_not_generated_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("floor.json");
    let words = "floor --rate 500 --seconds 6 --behind-seconds 2 --warm-up-seconds 0 --drain-seconds 600 --json";
    let mut load = Running(
        Command::new(env!("CARGO_BIN_EXE_karat-load"))
            .args(words.split(' '))
            .arg(&json)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let mut lines = first_second(&mut load.0);
    signal(&load.0, "STOP");
    std::thread::sleep(Duration::from_millis(8_100));
    signal(&load.0, "CONT");
    lines.read_to_string(&mut String::new()).unwrap();
    load.0.wait().unwrap();
    let report = Report::read(&json).unwrap();
    let reason = report.rate_missed.clone().unwrap_or_default();
    assert!(reason.contains("behind its schedule"), "{reason}");
    assert!(report.counts.skipped > 0);
    assert_eq!(report.counts.sent + report.counts.skipped, 3_000);
    assert_eq!(report.counts.given_up, report.counts.skipped);
    let told = report.render();
    assert!(told.contains("THE RATE WAS NOT GENERATED"), "{told}");
    assert!(told.contains("the sender was too far behind"), "{told}");
}

/// Nothing here is a speed: a target that stands still for two seconds delays all that was due in them, however fast or
/// slow the machine is, because latency counts from when a command was due.
#[test]
fn a_target_that_was_stopped_for_two_seconds_shows_it_in_the_percentiles() {
    let program = env!("CARGO_BIN_EXE_karat-load");
    let mut echo = Running(
        Command::new(program)
            .arg("echo")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut address = String::new();
    BufReader::new(echo.0.stdout.take().unwrap())
        .read_line(&mut address)
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("floor.json");
    let words = "floor --rate 500 --seconds 8 --behind-seconds 600 --warm-up-seconds 0 --drain-seconds 600 --target";
    let mut load = Command::new(program)
        .args(words.split(' '))
        .args([address.trim(), "--json", json.to_str().unwrap()])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = first_second(&mut load);
    signal(&echo.0, "STOP");
    std::thread::sleep(Duration::from_millis(2_200));
    signal(&echo.0, "CONT");
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert!(books_closed(&load.wait().unwrap()), "{rest}");

    let report = Report::read(&json).unwrap();
    assert_eq!((report.counts.accepted, report.counts.skipped), (4_000, 0));
    let latency = &report.latency;
    assert!(latency.max_us >= 2_000_000.0, "{latency:?}");
    // p99.9 of 4,000 is the fourth largest: due 6 ms later than the largest.
    assert!(latency.p99_9_us >= 1_900_000.0, "{latency:?}");
    // A quarter of all commands was due while it stood still, and waited a second on average.
    assert!(latency.p90_us >= 600_000.0, "{latency:?}");
    let worst = report
        .seconds
        .iter()
        .map(|one| one.max_us)
        .fold(0.0, f64::max);
    assert!(worst >= 2_000_000.0, "{:?}", report.seconds);
}

#[test]
fn what_is_no_result_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("other.json");
    for (content, reason) in [
        ("{\"format\": 2}", "other.json: not a result of karat-load"),
        ("{\"format\": 99}", "its format is 99"),
        ("}", "not a result of karat-load"),
    ] {
        std::fs::write(&file, content).unwrap();
        let output = karat_load(&["compare", file.to_str().unwrap(), "nowhere.json"]);
        assert_eq!(output.status.code(), Some(2));
        let error = text(&output.stderr);
        assert!(error.contains(reason), "{error}");
    }
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

/// A device that is full stands for a disk that is.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named_file_by_file_and_what_could_be_kept_and_said_stays() {
    let floor = "floor --quiet --rate 100 --seconds 1 --warm-up-seconds 0";
    let words: Vec<&str> = floor.split(' ').chain(["--json", "/dev/full"]).collect();
    let output = karat_load(&words);
    assert_eq!(output.status.code(), Some(2));
    let (told, error) = (text(&output.stdout), text(&output.stderr));
    assert!(told.contains("the books close"), "{told}");
    assert!(error.contains("/dev/full: No space left"), "{error}");
    assert!(error.contains("could not be kept whole"), "{error}");

    let folder = tempfile::tempdir().unwrap();
    for file in ["run.html", "sent-late.hgrm"] {
        std::os::unix::fs::symlink("/dev/full", folder.path().join(file)).unwrap();
    }
    let out = folder.path().to_str().unwrap();
    let words: Vec<&str> = floor.split(' ').chain(["--out", out]).collect();
    let output = karat_load(&words);
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    for file in ["run.html", "sent-late.hgrm"] {
        assert!(error.contains(&format!("{file}: No space left")), "{error}");
    }
    assert_eq!(
        Report::read(&folder.path().join("run.json"))
            .unwrap()
            .books
            .sent,
        100
    );
}

#[test]
fn help_has_examples_and_exit_codes() {
    for arguments in [&["--help"][..], &["run", "--help"], &["floor", "--help"]] {
        let help = text(&karat_load(arguments).stdout);
        assert!(help.contains("Examples:"), "{help}");
        assert!(help.contains("Exit codes:"), "{help}");
    }
}
