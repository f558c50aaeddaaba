//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use karat_proto::{limits, v1};

use crate::error::LoadError;
use crate::schedule::Arrivals;

const EXAMPLES: &str = "\
Examples:
  The transport's floor on this machine, then the engine beside it:
    karat-load run --target http://127.0.0.1:7400 --scenario trade --rate 5000 --seconds 30 --with-floor
  As fast as outcomes come back, 256 commands a message, flushed to disk:
    karat-load run --scenario trade --rate max --batch 256 --ack durable --seconds 60 --json run.json
  The floor alone:
    karat-load floor --rate 5000 --seconds 10 --json floor.json
  Two results side by side:
    karat-load compare floor.json run.json

Exit codes:
  0  the run ended and its books close
  1  the books do not close, or the target died during the run (what is known is still reported)
  2  the run could not begin: bad arguments, target not reachable, setup refused, file not readable or writable";

/// Loads Karat through its public gRPC interface, in an open loop that hides no stall, and checks every answer.
#[derive(Debug, Parser)]
#[command(name = "karat-load", version, after_long_help = EXAMPLES, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What this program does.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Load an engine, then reconcile every command with its outcome and with the ledger.
    #[command(after_help = EXAMPLES)]
    Run(RunArgs),
    /// Load an echo service in this process with the same client and messages: what the transport alone costs.
    #[command(after_help = EXAMPLES)]
    Floor(FloorArgs),
    /// Print the ratios of two JSON results, B over A.
    Compare(CompareArgs),
}

/// What is sent, and how.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// What the commands do.
    #[arg(long, value_enum, default_value_t = ScenarioName::Trade)]
    pub scenario: ScenarioName,
    /// Commands a second (open loop), or `max`: a closed window, as fast as outcomes come back.
    #[arg(long, default_value = "5000")]
    pub rate: Rate,
    /// How arrivals of an open loop are spaced.
    #[arg(long, value_enum, default_value_t = Arrivals::Constant)]
    pub arrivals: Arrivals,
    /// How long is measured, seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Sent and checked like everything, but left out of the figures: the first so many seconds.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub warm_up_seconds: u64,
    /// Commands in one message; an open loop schedules messages.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=limits::REQUEST_COMMANDS_MAX as u64))]
    pub batch: u64,
    /// Streams over one connection; messages go round them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub streams: u64,
    /// Ack level to ask for.
    #[arg(long, value_enum, default_value_t = Ack::Sequenced)]
    pub ack: Ack,
    /// Most commands without an outcome, all streams together. At it an open loop skips an arrival and counts it.
    /// Default: 65536 for an open loop, 32 messages a stream for `max`.
    #[arg(long)]
    pub window: Option<u64>,
    /// Assets minted before the run, for scenarios that trade.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(16..=4_000_000))]
    pub assets: u64,
    /// Fixes every random choice: two runs with one seed do the same in the same order.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How long to wait for outcomes after the last arrival, seconds. Default: 10, and 120 for `verified` and `settled`.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub drain_seconds: Option<u64>,
    /// Write the result here as JSON too.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// Arguments of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The engine's gRPC address.
    #[arg(long, default_value = "http://127.0.0.1:7400")]
    pub target: String,
    /// What is sent, and how.
    #[command(flatten)]
    pub load: LoadArgs,
    /// The operator's account, which deposits currency: a name, or 0x and 40 hex digits.
    #[arg(long, default_value = "operator")]
    pub operator: String,
    /// What the target's agents should make of the assets.
    #[arg(long, value_enum, default_value_t = Verdict::Accept)]
    pub verdict: Verdict,
    /// Part of every command id and account name, 16 hex digits; fresh for each run unless given. With a given one and
    /// the same seed, two fresh engines receive the same bytes.
    #[arg(long, value_parser = run_id)]
    pub run_id: Option<u64>,
    /// Measure the floor with the same settings first (at most 10 s), and print the ratio to it.
    #[arg(long)]
    pub with_floor: bool,
}

/// Arguments of `floor`.
#[derive(Clone, Debug, Args)]
pub struct FloorArgs {
    /// What is sent, and how.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// Arguments of `compare`.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// The result to compare with.
    pub a: PathBuf,
    /// The result that is compared.
    pub b: PathBuf,
}

/// Which scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScenarioName {
    /// Transfers (7 of 10), exchanges of an asset for currency (2) and claims (1, while unowned assets last).
    Trade,
    /// Mints only.
    Mint,
    /// One mint to nine trades; what is minted is traded too.
    Mixed,
}

/// What the agents make of the assets of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Verdict {
    /// They accept them, so that the whole system works beside the load: what is traded is due for settlement too.
    Accept,
    /// They know none of the traits and leave the assets to people: tradable, but nothing settles. The way from command to
    /// outcome alone.
    Review,
}

/// Ack levels by their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ack {
    /// In the log's order and applied.
    Sequenced,
    /// Flushed to the disk.
    Durable,
    /// Accepted by a verdict.
    Verified,
    /// Final on chain.
    Settled,
}

impl Ack {
    /// On the wire.
    pub fn to_wire(self) -> v1::AckLevel {
        match self {
            Ack::Sequenced => v1::AckLevel::Sequenced,
            Ack::Durable => v1::AckLevel::Durable,
            Ack::Verified => v1::AckLevel::Verified,
            Ack::Settled => v1::AckLevel::Settled,
        }
    }
}

/// How fast commands are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Open loop, commands a second.
    PerSecond(f64),
    /// Closed window.
    Max,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        if text == "max" {
            return Ok(Rate::Max);
        }
        match text.parse::<f64>() {
            Ok(rate) if (0.1..=10_000_000.0).contains(&rate) => Ok(Rate::PerSecond(rate)),
            _ => Err("a rate is 0.1 to 10000000 commands a second, or max".into()),
        }
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Rate::PerSecond(rate) => write!(out, "{rate}"),
            Rate::Max => out.write_str("max"),
        }
    }
}

fn run_id(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text, 16).map_err(|_| "a run id is 1 to 16 hex digits".into())
}

impl LoadArgs {
    /// Most commands in flight on one stream.
    ///
    /// # Errors
    /// When the window is smaller than one message a stream.
    pub fn window_a_stream(&self) -> Result<u64, LoadError> {
        let window = self.window.unwrap_or(match self.rate {
            Rate::Max => 32 * self.batch * self.streams,
            // At least eight messages a stream, however large these are.
            Rate::PerSecond(_) => (8 * self.batch * self.streams).max(65_536),
        });
        let a_stream = window / self.streams;
        if a_stream < self.batch {
            return Err(LoadError::Arguments(format!(
                "--window {window} is less than one message of {} commands on each of {} streams: give at least {}",
                self.batch,
                self.streams,
                self.batch * self.streams
            )));
        }
        Ok(a_stream)
    }

    /// How long to wait for outcomes at the end, seconds.
    pub fn drain(&self) -> u64 {
        self.drain_seconds.unwrap_or(match self.ack {
            Ack::Sequenced | Ack::Durable => 10,
            Ack::Verified | Ack::Settled => 120,
        })
    }
}
