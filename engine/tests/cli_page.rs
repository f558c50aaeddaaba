//! docs/cli.md holds the program's own help. `KARAT_WRITE_DOCS=1 cargo test --release -p karat-engine --test cli_page`
//! writes it.

#![allow(clippy::unwrap_used)]

use std::process::Command;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");

const HEAD: &str = "# The commands of `karat`

<!-- Written by engine/tests/cli_page.rs from the program's own help; do not edit. To write it again:
     KARAT_WRITE_DOCS=1 cargo test --release -p karat-engine --test cli_page -->

Exit codes and what they ask of you: [operating.md](operating.md#exit-codes).
";

/// What `karat COMMAND --help` prints.
fn help(command: &[String]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_karat"))
        .args(command)
        .arg("--help")
        .env_remove("KARAT_SERVER")
        .env_remove("KARAT_DATA")
        .env_remove("KARAT_REALM")
        .output()
        .unwrap();
    assert!(output.status.success(), "karat {command:?} --help failed");
    String::from_utf8(output.stdout).unwrap()
}

/// Names of the commands below, as the help lists them.
fn commands_below(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// A command and everything below it.
fn write(command: &[String], page: &mut String) {
    let text = help(command);
    let title = ["karat".to_owned()]
        .iter()
        .chain(command)
        .cloned()
        .collect::<Vec<_>>();
    let level = if command.len() < 2 { "##" } else { "###" };
    let trimmed: Vec<&str> = text.lines().map(str::trim_end).collect();
    page.push_str(&format!(
        "\n{level} {}\n\n```\n{}\n```\n",
        title.join(" "),
        trimmed.join("\n").trim_end()
    ));
    for name in commands_below(&text) {
        let mut below = command.to_vec();
        below.push(name);
        write(&below, page);
    }
}

#[test]
fn the_page_of_commands_is_the_programs_own_help() {
    let mut wanted = HEAD.to_owned();
    write(&[], &mut wanted);
    assert!(wanted.contains("## karat dev\n") && wanted.contains("### karat asset show\n"));
    if std::env::var_os("KARAT_WRITE_DOCS").is_some() {
        std::fs::write(PAGE, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        found == wanted,
        "docs/cli.md is behind the program: run KARAT_WRITE_DOCS=1 cargo test --release -p karat-engine --test cli_page"
    );
}
