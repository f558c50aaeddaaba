//! `karat-load`: see `karat-load --help`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;
use karat_loadgen::args::{Action, Cli, LoadArgs};
use karat_loadgen::check;
use karat_loadgen::error::LoadError;
use karat_loadgen::report::{books_path, html};
use karat_loadgen::run::{self, Outcome};
use karat_loadgen::scenario::{ScenarioFile, file};
use karat_loadgen::table;

const BOOKS_OPEN: u8 = 1;
const COULD_NOT_BEGIN: u8 = 2;
const RATE_MISSED: u8 = 3;

fn main() -> ExitCode {
    let result = match Cli::parse().action {
        Action::Run(args) => {
            check_files(&args.load).and_then(|()| finish(&run::run(&args)?, &args.load))
        }
        Action::Floor(args) => {
            check_files(&args.load).and_then(|()| finish(&run::floor(&args)?, &args.load))
        }
        Action::Check(args) => check::check(&args).map(|found| {
            print!("{}", found.render());
            match found.passed() {
                true => ExitCode::SUCCESS,
                false => ExitCode::from(BOOKS_OPEN),
            }
        }),
        Action::Compare(args) => run::compare(&args).map(|table| {
            print!("{table}");
            ExitCode::SUCCESS
        }),
        Action::Echo(args) => run::echo(&args).map(|()| ExitCode::SUCCESS),
        Action::Table(args) => table::table(&args.folder, args.against.as_deref()).map(|table| {
            print!("{table}");
            ExitCode::SUCCESS
        }),
        Action::Scenarios => list_scenarios().map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("karat-load: {error}");
        ExitCode::from(COULD_NOT_BEGIN)
    })
}

fn list_scenarios() -> Result<(), LoadError> {
    for (name, _) in file::BUILT_IN {
        println!("{name:<18} {}", ScenarioFile::load(name)?.about);
    }
    Ok(())
}

/// Where a result goes.
fn json_paths(args: &LoadArgs) -> Vec<PathBuf> {
    let in_folder = args.out.as_ref().map(|folder| folder.join("run.json"));
    args.json.iter().cloned().chain(in_folder).collect()
}

/// A result that cannot be kept is known before the run, not after it.
fn check_files(args: &LoadArgs) -> Result<(), LoadError> {
    if let Some(folder) = &args.out {
        std::fs::create_dir_all(folder).map_err(|error| LoadError::file(folder, error))?;
    }
    for path in json_paths(args) {
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|error| LoadError::file(&path, error))?;
    }
    Ok(())
}

fn finish(outcome: &Outcome, args: &LoadArgs) -> Result<ExitCode, LoadError> {
    let report = &outcome.report;
    // Before anything is written: a disk that is full takes files, and not what was said here.
    print!("{}", report.render());
    let mut failures = Vec::new();
    for path in json_paths(args) {
        failures.extend(report.write(&path).err());
        if report.kind == "run" {
            failures.extend(outcome.records.write(&books_path(&path)).err());
        }
    }
    if let Some(folder) = &args.out {
        failures.extend(html::write(report, &folder.join("run.html")).err());
        failures.extend(outcome.histograms.write(folder));
    }
    // What could be written stays.
    if let Some(last) = failures.pop() {
        eprintln!(
            "karat-load: the result could not be kept whole; what stands above is what it was"
        );
        for error in failures {
            eprintln!("karat-load: {error}");
        }
        return Err(last);
    }
    Ok(match (report.passed(), &report.rate_missed) {
        (false, _) => ExitCode::from(BOOKS_OPEN),
        (true, Some(_)) => ExitCode::from(RATE_MISSED),
        (true, None) => ExitCode::SUCCESS,
    })
}
