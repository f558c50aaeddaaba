//! The commands of this program, from arguments to report.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use karat_proto::Account;
use tokio::task::LocalSet;

use crate::args::{CompareArgs, FloorArgs, LoadArgs, RunArgs};
use crate::client::{Plan, connect, drive};
use crate::error::LoadError;
use crate::floor::Floor;
use crate::report::{Report, Settings};
use crate::setup::{prepare, pretend};
use crate::{compare, truth};

/// A floor beside a run takes no longer than this.
const FLOOR_SECONDS_MAX: u64 = 10;

/// `karat-load run`.
///
/// # Errors
/// When the run could not begin.
pub fn run(args: &RunArgs) -> Result<Report, LoadError> {
    let operator = Account::parse(&args.operator)
        .map_err(|error| LoadError::Arguments(format!("--operator: {error}")))?;
    let plan = Plan::new(&args.load)?;
    let run = args.run_id.unwrap_or_else(fresh_run_id);
    on_one_thread(async {
        let channel = connect(&args.target).await?;
        let ready = prepare(channel.clone(), &args.load, operator, args.verdict, run).await?;
        // After setup, so that a target which cannot be loaded is known at once; before the run, on the same warm process.
        let floor = match args.with_floor {
            true => Some(Box::new(drive_floor(&short(&args.load), None).await?)),
            false => None,
        };
        let driven = drive(channel.clone(), plan, run, ready.streams).await?;
        let mut problems = driven.problems.clone();
        // A dead target cannot be asked; its commands without outcome are named already.
        let checked = match driven.broken {
            Some(_) => None,
            None => Some(
                truth::check(
                    channel,
                    &driven.holdings,
                    &ready.accounts,
                    ready.deposit,
                    args.load.seed,
                    &mut problems,
                )
                .await,
            ),
        };
        let mut settings = settings(&args.target, &args.load, run)?;
        settings.verdict = format!("{:?}", args.verdict).to_lowercase();
        let mut report = Report::new("run", settings, &driven, problems, checked);
        report.floor = floor;
        Ok(report)
    })
}

/// `karat-load floor`.
///
/// # Errors
/// When this machine gives no port, thread or timer.
pub fn floor(args: &FloorArgs) -> Result<Report, LoadError> {
    on_one_thread(drive_floor(&args.load, None))
}

/// The client against an echo that is there already.
///
/// # Errors
/// When it cannot be reached.
pub fn against_echo(args: &LoadArgs, echo: &Floor) -> Result<Report, LoadError> {
    on_one_thread(drive_floor(args, Some(echo)))
}

/// `karat-load compare`: the table.
///
/// # Errors
/// When a file is no result.
pub fn compare(args: &CompareArgs) -> Result<String, LoadError> {
    let (a, b) = (Report::read(&args.a)?, Report::read(&args.b)?);
    Ok(compare::render("A", &a, "B", &b))
}

async fn drive_floor(args: &LoadArgs, echo: Option<&Floor>) -> Result<Report, LoadError> {
    let own;
    let echo = match echo {
        Some(echo) => echo,
        None => {
            own = Floor::start()?;
            &own
        }
    };
    let run = fresh_run_id();
    let channel = connect(&echo.target()).await?;
    let ready = pretend(args, run);
    let driven = drive(channel, Plan::new(args)?, run, ready.streams).await?;
    let problems = driven.problems.clone();
    let settings = settings("echo", args, run)?;
    Ok(Report::new("floor", settings, &driven, problems, None))
}

fn short(args: &LoadArgs) -> LoadArgs {
    LoadArgs {
        seconds: args.seconds.min(FLOOR_SECONDS_MAX),
        ..args.clone()
    }
}

fn settings(target: &str, args: &LoadArgs, run: u64) -> Result<Settings, LoadError> {
    let window = args.window_a_stream()? * args.streams;
    Ok(Settings::new(target, args, window, run))
}

fn on_one_thread<T>(work: impl Future<Output = Result<T, LoadError>>) -> Result<T, LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| LoadError::Machine {
            what: "a runtime",
            cause,
        })?;
    let result = LocalSet::new().block_on(&runtime, work);
    // Connections that are still open must not hold the program.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

/// Nanoseconds since the epoch: two runs of one program never share them, and nothing secret hangs on it.
fn fresh_run_id() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}
