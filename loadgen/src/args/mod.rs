//! The command line.

mod values;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use karat_proto::limits;
use karat_proto::realm::RealmName;

use crate::error::LoadError;
use crate::lanes::EDGE_ASSETS_MAX;
use crate::schedule::Arrivals;

pub use values::{Ack, Mode, Rate, Verdict};

/// Most streams of a run.
const LANES_MAX: u64 = 1024;

const EXAMPLES: &str = "\
Examples:
  One command a message at 5,000 a second, and the transport's floor on this machine beside it:
    karat-load run --target http://127.0.0.1:7400 --scenario trade --rate 5000 --seconds 30
  As fast as outcomes come back, 256 commands a message, flushed to disk, everything kept in a folder:
    karat-load run --rate max --batch 256 --ack durable --seconds 60 --out results
  A game's day in five minutes, bursts of claims, and a scenario of one's own:
    karat-load run --scenario mixed-day --arrivals poisson --rate 3000 --seconds 300
    karat-load run --scenario claim-stampede --arrivals burst:20:2000:100 --rate 500
    karat-load run --scenario ./mine.toml
  Two ack levels in turn, over four connections of two streams; one call a command; images as an edge node sends them:
    karat-load run --ack sequenced,durable --connections 4 --streams 2
    karat-load run --mode execute --rate 1000
    karat-load run --mode edge --scenario mint --ack durable --rate 200
  A realm that several engines share, wherever it is and goes (any of them is the target):
    karat-load run --target http://127.0.0.1:7400 --realm north --rate 2000
  Kafka producers, four of them, and outcomes from the engine's topics (a build with --features kafka):
    karat-load run --target kafka://127.0.0.1:19092 --ack durable --connections 4 --rate 2000
  What a run was promised, asked again after the engine was killed and started again:
    karat-load check results/run.json --target http://127.0.0.1:7400
  Two results side by side, or three runs each with their spread:
    karat-load compare floor.json run.json
    karat-load compare a1.json,a2.json,a3.json b1.json,b2.json,b3.json

Exit codes:
  0  the run ended and its books close
  1  the books do not close, or the target died during the run (what is known is still reported)
  2  the run could not begin, or its result not be kept: bad arguments, a bad scenario, target not reachable, full disk
  3  the books close, but this machine could not generate the rate that was asked for";

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
    /// Load an engine, then reconcile every command with its outcome, its events and the ledger.
    #[command(after_help = EXAMPLES)]
    Run(RunArgs),
    /// Load an echo service with the same client and messages: what the transport alone costs.
    #[command(after_help = EXAMPLES)]
    Floor(FloorArgs),
    /// Ask a target whether it still holds what it acknowledged in a run: every command, and the state they left.
    Check(CheckArgs),
    /// Print the ratios of JSON results, B over A.
    Compare(CompareArgs),
    /// Serve the echo that floors are measured against, for a floor over a network or in another process.
    Echo(EchoArgs),
    /// List the built-in scenarios.
    Scenarios,
    /// Print a folder of kept results as one table in Markdown: NAME-1.json, NAME-2.json, … are runs of one thing.
    Table(TableArgs),
}

/// What is sent, and how.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// What the commands do: a built-in scenario (`karat-load scenarios`), or the path of a TOML file.
    #[arg(long, default_value = "trade")]
    pub scenario: String,
    /// How commands travel.
    #[arg(long, value_enum, default_value_t = Mode::Submit)]
    pub mode: Mode,
    /// Commands a second (open loop), or `max`: a closed window, as fast as outcomes come back.
    #[arg(long, default_value = "5000")]
    pub rate: Rate,
    /// How arrivals of an open loop are spaced: constant, poisson, step:FACTOR, ramp:FROM:TO, or
    /// burst:FACTOR:EVERY_MS:LENGTH_MS (factors of the rate).
    #[arg(long, default_value = "constant")]
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
    /// Connections; Kafka producers for a kafka:// target.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub connections: u64,
    /// Streams over each connection; messages go round all of them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub streams: u64,
    /// Ack level to ask for; several, with commas, take turns, message by message.
    #[arg(
        long,
        value_enum,
        default_value = "sequenced",
        value_delimiter = ',',
        num_args = 1
    )]
    pub ack: Vec<Ack>,
    /// Most commands without an outcome, all streams together. At it an open loop skips an arrival and counts it.
    /// Default: 65536 for an open loop, 32 messages a stream for `max`.
    #[arg(long)]
    pub window: Option<u64>,
    /// Assets minted before the run, for scenarios that do more than mint.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(16..=4_000_000))]
    pub assets: u64,
    /// Fixes every random choice: two runs with one seed do the same in the same order.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How long to wait for outcomes after the last arrival, seconds. Default: 10, and 120 for `verified` and `settled`.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub drain_seconds: Option<u64>,
    /// How long a sender that is behind its schedule may go on after the last arrival, seconds; what is left then is skipped
    /// and counted. Default: half as long as the run, and at least 2.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub behind_seconds: Option<u64>,
    /// Write the result here as JSON too, and beside it, with the ending `books`, what was acknowledged.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Write everything into this folder: run.json, run.books, run.html, and a .hgrm file for each histogram.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Commands that are kept to be found again in the target's events, at most; 32 bytes each. 0 leaves events alone.
    #[arg(long, default_value_t = 4_000_000, value_parser = clap::value_parser!(u64).range(0..=100_000_000))]
    pub records_max: u64,
    /// Show nothing while it runs.
    #[arg(long)]
    pub quiet: bool,
}

/// Arguments of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The engine's gRPC address, of engines that share realms any one; or kafka://HOST:PORT, whose topics the engine reads: then commands are produced to the
    /// topic of commands, outcomes are taken from the topics of events and dead letters, and --ack must be durable.
    #[arg(long, default_value = "http://127.0.0.1:7400")]
    pub target: String,
    /// For a kafka:// target: the engine's gRPC address, where the run is prepared and its books are checked.
    #[arg(long, default_value = "http://127.0.0.1:7400")]
    pub engine: String,
    /// The realm. Every call names it, and goes where it is among engines that share realms, also when it moves meanwhile.
    /// Without, the target is left when it does not lead; for a kafka:// target `main` is meant then.
    #[arg(long)]
    pub realm: Option<RealmName>,
    /// For a kafka:// target: what its topics begin with, as the engine's log.kafka.topic_prefix says.
    #[arg(long, default_value = "karat")]
    pub topic_prefix: String,
    /// For a kafka:// target: a property of librdkafka, NAME=VALUE; may be given several times. A value env:VARIABLE is
    /// read from the environment, so that no secret stands here.
    #[arg(long = "kafka-property", value_name = "NAME=VALUE")]
    pub kafka_properties: Vec<String>,
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
    /// Watchers beside the load, each on a connection of its own, that read a message of events a second and rest.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=256))]
    pub slow_watchers: u64,
    /// Measure the floor with the same settings first, for so many seconds at most, and print the ratio to it; 0 for none.
    /// The floor is an echo; for a kafka:// target the same producers on a topic that nobody reads, which is deleted afterwards.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub floor_seconds: u64,
    /// The same as `--floor-seconds 10`.
    #[arg(long, conflicts_with = "floor_seconds")]
    pub with_floor: bool,
}

/// Arguments of `floor`.
#[derive(Clone, Debug, Args)]
pub struct FloorArgs {
    /// An echo service that is there already (`karat-load echo`); without, one in this process.
    #[arg(long)]
    pub target: Option<String>,
    /// What is sent, and how.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// Arguments of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// The run's JSON; its books lie beside it.
    pub run: PathBuf,
    /// The engine's gRPC address.
    #[arg(long, alias = "server", default_value = "http://127.0.0.1:7400")]
    pub target: String,
    /// The realm, wherever among engines that share realms it is [default: the run's].
    #[arg(long)]
    pub realm: Option<RealmName>,
}

/// Arguments of `compare`.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// The results to compare with: one, or several runs of the same with commas.
    #[arg(value_delimiter = ',', num_args = 1, required = true)]
    pub a: Vec<PathBuf>,
    /// The results that are compared.
    #[arg(value_delimiter = ',', num_args = 1, required = true)]
    pub b: Vec<PathBuf>,
}

/// Arguments of `table`.
#[derive(Clone, Debug, Args)]
pub struct TableArgs {
    /// The folder, such as benches/results/2026-11-21-2.
    pub folder: PathBuf,
    /// Set everything beside the runs of this name too, each with the one of the same number: what was run in turns.
    #[arg(long, value_name = "NAME")]
    pub against: Option<String>,
}

/// Arguments of `echo`.
#[derive(Clone, Debug, Args)]
pub struct EchoArgs {
    /// Address and port; port 0 takes a free one. The address is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: std::net::SocketAddr,
}

/// The window of so many streams that is not chosen.
pub(crate) fn usual_window(closed: bool, batch: u64, lanes: u64) -> u64 {
    match closed {
        true => 32 * batch * lanes,
        // At least eight messages a stream, however large these are.
        false => (8 * batch * lanes).max(65_536),
    }
}

fn run_id(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text, 16).map_err(|_| "a run id is 1 to 16 hex digits".into())
}

impl LoadArgs {
    /// Streams of all connections together.
    ///
    /// # Errors
    /// When there are too many, or the arguments contradict each other.
    pub fn lanes(&self) -> Result<u64, LoadError> {
        let lanes = self.connections * self.streams;
        let refuse = |cause: String| Err(LoadError::Arguments(cause));
        if lanes > LANES_MAX {
            return refuse(format!(
                "{} connections of {} streams are {lanes}; there may be {LANES_MAX} together",
                self.connections, self.streams
            ));
        }
        match self.mode {
            Mode::Execute if self.batch != 1 => {
                refuse("--mode execute carries one command a call: leave --batch at 1".into())
            }
            Mode::Edge if self.batch > EDGE_ASSETS_MAX => refuse(format!(
                "--mode edge carries at most {EDGE_ASSETS_MAX} assets a message"
            )),
            Mode::Edge if self.ack.iter().any(|ack| *ack != Ack::Durable) => refuse(
                "an edge node is answered when its assets are durable: say --ack durable".into(),
            ),
            Mode::Kafka if self.ack.iter().any(|ack| *ack != Ack::Durable) => refuse(
                "on Kafka a command is answered by its durable event: say --ack durable".into(),
            ),
            _ => Ok(lanes),
        }
    }

    /// Most commands in flight on one stream.
    ///
    /// # Errors
    /// When the window is smaller than one message a stream.
    pub fn window_a_stream(&self) -> Result<u64, LoadError> {
        let lanes = self.lanes()?;
        let window = self
            .window
            .unwrap_or_else(|| usual_window(self.rate == Rate::Max, self.batch, lanes));
        let a_stream = window / lanes;
        if a_stream < self.batch {
            return Err(LoadError::Arguments(format!(
                "--window {window} is less than one message of {} commands on each of {lanes} streams: give at least {}",
                self.batch,
                self.batch * lanes
            )));
        }
        Ok(a_stream)
    }

    /// How long to wait for outcomes at the end, seconds.
    pub fn drain(&self) -> u64 {
        let slow = |ack: &Ack| matches!(ack, Ack::Verified | Ack::Settled);
        let default = match self.ack.iter().any(slow) {
            true => 120,
            false => 10,
        };
        self.drain_seconds.unwrap_or(default)
    }
}
