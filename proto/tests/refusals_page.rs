//! docs/refusals.md says what the code says. `KARAT_WRITE_DOCS=1 cargo test --release -p karat-proto` writes it.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::Path;

use karat_proto::Code;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/refusals.md");

const HEAD: &str = "# Refusal codes

<!-- Written by proto/tests/refusals_page.rs from proto/src/code.rs; do not edit. -->

A command that is not carried out is refused with a numbered code. A refusal is an answer, not an error, and nothing was
changed. Numbers are never reused.

Where a refusal is decided shows in how it arrives:

- At the door (form, size, content, rate, a full queue), before the log. On the `Submit` and `Connect` streams it is an
  outcome with sequence 0; `Execute` answers with the gRPC status below and the code's number in the metadata `karat-code`.
- In the ledger, after the command has its place in the log. It is an outcome with its sequence on every path. The ledger
  remembers it like any outcome: the same command under the same id gets the same refusal again, so a new attempt needs
  a fresh id (only `RetryMemoryFull` is not remembered).

Every refusal carries the number, a sentence that begins with the name, and for an overload or a rate the milliseconds
to wait (`retry_after_ms`). `NotLeader` and `RealmElsewhere` name the process to ask in the metadata `karat-leader`
(`HOST:PORT`) where it is known; without, `karat-retry-after-ms` says when to ask again. The CLI, edge nodes and the load
generator do so by themselves when they are given the realm's name (`--realm`).
";

/// Where a number belongs, by its hundred.
fn group(number: u16) -> &'static str {
    match number / 100 {
        0 => "Form",
        1 => "The door",
        2 => "Assets",
        3 => "Currency",
        4 => "Collections and models",
        5 => "Verification",
        6 => "Settlement",
        7 => "The realm",
        _ => panic!("code {number} belongs to no group: name one here and in code.rs"),
    }
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut last = "";
    for code in Code::ALL.iter().filter(|code| **code != Code::Accepted) {
        let number = *code as u16;
        if group(number) != last {
            last = group(number);
            let head = "| number | name | gRPC status | what to do |\n| --- | --- | --- | --- |";
            writeln!(page, "\n## {last}\n\n{head}").unwrap();
        }
        let hint = code.hint().replace('|', "\\|");
        let (name, status) = (code.name(), code.status());
        writeln!(page, "| {number} | `{name}` | `{status:?}` | {hint} |").unwrap();
    }
    page
}

#[test]
fn the_page_of_refusal_codes_says_what_the_code_says() {
    let wanted = page();
    if std::env::var_os("KARAT_WRITE_DOCS").is_some() {
        std::fs::write(PAGE, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(Path::new(PAGE)).unwrap_or_default();
    assert!(
        found == wanted,
        "docs/refusals.md is behind proto/src/code.rs: run KARAT_WRITE_DOCS=1 cargo test --release -p karat-proto"
    );
}
