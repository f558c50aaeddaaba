//! `karat-load`: see `karat-load --help`.

use std::process::ExitCode;

use clap::Parser as _;
use karat_loadgen::args::{Action, Cli, LoadArgs};
use karat_loadgen::error::LoadError;
use karat_loadgen::report::Report;
use karat_loadgen::run;

const BOOKS_OPEN: u8 = 1;
const COULD_NOT_BEGIN: u8 = 2;

fn main() -> ExitCode {
    let result = match Cli::parse().action {
        Action::Run(args) => {
            check_json(&args.load).and_then(|()| finish(run::run(&args)?, &args.load))
        }
        Action::Floor(args) => {
            check_json(&args.load).and_then(|()| finish(run::floor(&args)?, &args.load))
        }
        Action::Compare(args) => run::compare(&args).map(|table| {
            print!("{table}");
            ExitCode::SUCCESS
        }),
    };
    result.unwrap_or_else(|error| {
        eprintln!("karat-load: {error}");
        ExitCode::from(COULD_NOT_BEGIN)
    })
}

/// A result that cannot be kept is known before the run, not after it.
fn check_json(args: &LoadArgs) -> Result<(), LoadError> {
    let Some(path) = &args.json else {
        return Ok(());
    };
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map(|_| ())
        .map_err(|error| LoadError::File {
            path: path.display().to_string(),
            cause: error.to_string(),
        })
}

fn finish(report: Report, args: &LoadArgs) -> Result<ExitCode, LoadError> {
    print!("{}", report.render());
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    Ok(match report.passed() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(BOOKS_OPEN),
    })
}
