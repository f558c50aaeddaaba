//! `karat-peer-tigerbeetle`: transfers through TigerBeetle's published client, sent and measured as karat-load sends and
//! measures commands, with a result that `karat-load table` and `compare` read.
//!
//! A transfer moves 1 between two of the run's own accounts, drawn evenly; the server answers when it is durable. At the end
//! every account is asked for and must be as the answers left it.

mod accounts;
mod load;

use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Parser;
use karat_loadgen::args::{self, Action, Cli, LoadArgs, Rate};
use karat_loadgen::plan::Plan;
use karat_loadgen::report::{Report, Settings};
use karat_loadgen::scenario::ScenarioFile;
use karat_loadgen::schedule::Arrivals;
use karat_loadgen::table::PEER;
use tigerbeetle as tb;

use crate::accounts::{Accounts, EVENTS_MAX};

/// How long the server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Every command of this scenario is one transfer; phases it has none.
const SCENARIO: &str = include_str!("../transfers.toml");

#[derive(Parser)]
#[command(
    about = "Transfers through TigerBeetle's published client, measured as karat-load measures",
    long_about = "Transfers through TigerBeetle's published client, measured as karat-load measures.\n\nExit codes, as of \
                  karat-load: 0 the books close; 1 they do not; 2 it could not begin; 3 they close, and this machine could \
                  not generate the rate."
)]
struct Options {
    /// The server's address, HOST:PORT with a numeric host; of a cluster all of them, with commas
    #[arg(long, env = "TIGERBEETLE_ADDRESS")]
    address: String,
    /// The cluster's id, as the server's data file was formatted with
    #[arg(long, default_value_t = 0)]
    cluster: u128,
    /// Transfers a second (open loop), or `max`: a closed window
    #[arg(long, default_value = "5000")]
    rate: Rate,
    /// How arrivals of an open loop are spaced, as of karat-load
    #[arg(long, default_value = "constant")]
    arrivals: Arrivals,
    /// How long is measured, seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Sent and checked like everything, but left out of the figures
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=600))]
    warm_up_seconds: u64,
    /// Transfers in one request; the client gathers requests by itself too
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=EVENTS_MAX))]
    batch: u64,
    /// Most transfers without an answer; as of karat-load unless given
    #[arg(long)]
    window: Option<u64>,
    /// Accounts of the run
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(16..=4_000_000))]
    accounts: u64,
    /// How long to wait for answers after the last arrival, seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    drain_seconds: u64,
    /// Fixes which accounts are drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the result here as JSON too
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let report = match run(&options) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("karat-peer-tigerbeetle: {error:#}");
            return ExitCode::from(2);
        }
    };
    print!("{}", report.render());
    if let Some(path) = &options.json
        && let Err(error) = report.write(path)
    {
        eprintln!("karat-peer-tigerbeetle: {error}");
        return ExitCode::from(2);
    }
    match (report.passed(), &report.rate_missed) {
        (false, _) => ExitCode::from(1),
        (true, Some(_)) => ExitCode::from(3),
        (true, None) => ExitCode::SUCCESS,
    }
}

fn run(options: &Options) -> Result<Report> {
    for address in options.address.split(',') {
        reach(address)?;
    }
    let client = tb::Client::new(options.cluster, &options.address)
        .with_context(|| format!("TigerBeetle at {}", options.address))?;
    let client = Rc::new(client);
    let run = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let (load, plan) = planned(options)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let accounts = Accounts::new(run, options.accounts, options.seed);
        accounts.make(&client).await?;
        let sending = client.clone();
        let create = move |transfers: &[tb::Transfer]| {
            let answer = sending.create_transfers(transfers);
            async move {
                let results = answer.await.map_err(|error| error.to_string())?;
                Ok(results.iter().map(|result| result.status).collect())
            }
        };
        let (driven, accounts) = load::drive(plan, accounts, create).await?;
        let mut problems = driven.problems.clone();
        let mut checked = None;
        if driven.broken.is_none() && driven.unanswered == 0 {
            checked = Some(accounts.check(&client, &mut problems).await?);
        }
        let mut report = Report::new("run", settings(options, &load, run)?, &driven, problems);
        report.books.checked = checked;
        Ok(report)
    })
}

/// Whether something listens there: the client itself would try for ever.
fn reach(address: &str) -> Result<()> {
    let found = address
        .to_socket_addrs()
        .with_context(|| format!("{address} is no HOST:PORT"))?
        .next();
    let Some(found) = found else {
        bail!("{address} is no HOST:PORT");
    };
    TcpStream::connect_timeout(&found, CONNECT)
        .with_context(|| format!("no TigerBeetle at {address}"))?;
    Ok(())
}

/// These options as karat-load has them, and what a run does by them.
fn planned(options: &Options) -> Result<(LoadArgs, Plan)> {
    let cli = Cli::try_parse_from(["karat-load", "floor", "--ack", "durable"])?;
    let Action::Floor(floor) = cli.action else {
        bail!("karat-load's floor has no arguments");
    };
    let load = LoadArgs {
        rate: options.rate,
        arrivals: options.arrivals,
        seconds: options.seconds,
        warm_up_seconds: options.warm_up_seconds,
        batch: options.batch,
        window: options.window,
        assets: options.accounts,
        drain_seconds: Some(options.drain_seconds),
        seed: options.seed,
        mode: args::Mode::Submit,
        ..floor.load
    };
    let scenario = ScenarioFile::parse("transfers.toml", SCENARIO)?;
    let plan = Plan::new(&load, &scenario, true)?;
    Ok((load, plan))
}

fn settings(options: &Options, load: &LoadArgs, run: u64) -> Result<Settings> {
    let window = load.window_a_stream()?;
    let mut settings = Settings::new(&options.address, load, "transfers", window, run);
    settings.mode = format!("{PEER}karat-peer-tigerbeetle");
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Answer;
    use tigerbeetle::CreateTransferStatus::{Created, ExceedsCredits};

    /// Drives a server that is not there: `answer` says what it makes of the request with this number.
    fn driven(words: &str, answer: fn(u64, usize) -> Answer) -> Report {
        let words = format!("peer --address 127.0.0.1:1 --warm-up-seconds 0 --accounts 64 {words}");
        let options = Options::parse_from(words.split_whitespace());
        let (load, plan) = planned(&options).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let requests = Rc::new(std::cell::Cell::new(0));
        let create = move |transfers: &[tb::Transfer]| {
            requests.set(requests.get() + 1);
            let answered = answer(requests.get(), transfers.len());
            async move {
                tokio::task::yield_now().await;
                answered
            }
        };
        let accounts = Accounts::new(1, options.accounts, options.seed);
        let driving = load::drive(plan, accounts, create);
        let local = tokio::task::LocalSet::new();
        let (driven, _) = local.block_on(&runtime, driving).unwrap();
        let problems = driven.problems.clone();
        Report::new(
            "run",
            settings(&options, &load, 1).unwrap(),
            &driven,
            problems,
        )
    }

    #[test]
    fn every_arrival_is_answered_and_the_result_is_one_that_karat_load_reads() {
        let report = driven("--rate 500 --seconds 1 --batch 5", |_, count| {
            Ok(vec![Created; count])
        });
        assert!(report.passed(), "{}", report.render());
        assert_eq!(report.books.sent, report.books.accepted);
        assert_eq!(report.counts.sent + report.counts.skipped, 500);
        let folder = tempfile::tempdir().unwrap();
        report.write(&folder.path().join("one-1.json")).unwrap();
        let table = karat_loadgen::table::table(folder.path(), None).unwrap();
        assert!(
            table.contains("`karat-peer-tigerbeetle --rate 500 --seconds 1 --batch 5"),
            "{table}"
        );
    }

    #[test]
    fn a_closed_window_sends_as_answers_come() {
        let report = driven(
            "--rate max --seconds 1 --batch 10 --window 40",
            |_, count| Ok(vec![Created; count]),
        );
        assert!(report.passed(), "{}", report.render());
        assert!(report.books.accepted > 40, "{}", report.render());
    }

    #[test]
    fn refusals_and_a_client_that_breaks_keep_the_books_open() {
        let refused = driven("--rate 100 --seconds 1", |number, _| match number {
            7 => Ok(vec![ExceedsCredits]),
            _ => Ok(vec![Created]),
        });
        assert!(!refused.passed());
        assert_eq!(
            (refused.books.refused, refused.books.problems.count),
            (1, 1)
        );
        let broken = driven("--rate 100 --seconds 60", |number, count| match number {
            7 => Err("the client was evicted".into()),
            _ => Ok(vec![Created; count]),
        });
        assert!(!broken.passed());
        let cause = broken.books.broken.clone().unwrap();
        assert!(cause.contains("evicted"), "{cause}");
    }

    #[test]
    fn an_address_where_nobody_listens_is_named_at_once() {
        // Bound, so that nobody else is given the port, and not listened at.
        let bound = tokio::net::TcpSocket::new_v4().unwrap();
        bound.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = bound.local_addr().unwrap().to_string();
        let error = format!("{:#}", reach(&address).unwrap_err());
        assert!(
            error.contains(&format!("no TigerBeetle at {address}")),
            "{error}"
        );
        assert!(reach("nowhere").is_err());
    }
}
