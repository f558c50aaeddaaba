//! What a run does, from its arguments.

use std::time::Duration;

use crate::args::{Ack, LoadArgs, Mode, Rate};
use crate::error::LoadError;
use crate::scenario::ScenarioFile;
use crate::schedule::{Arrivals, Shape};

/// A sender that is behind its schedule may go on for half of the run's time, and for so long at least.
const BEHIND_MIN: Duration = Duration::from_secs(2);

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Open or closed.
    pub rate: Rate,
    /// Shape of an open loop.
    pub arrivals: Arrivals,
    /// Shares of the measured time, and the rate in each over the rate.
    pub phases: Vec<(f64, f64)>,
    /// How commands travel.
    pub mode: Mode,
    /// Streams of each connection.
    pub streams: usize,
    /// Left out of the figures.
    pub warm_up: Duration,
    /// Measured.
    pub measured: Duration,
    /// Commands a message.
    pub batch: u64,
    /// Levels to ask for, in turn.
    pub acks: Vec<Ack>,
    /// Most commands in flight on one stream.
    pub window_a_stream: u64,
    /// Longest wait for outcomes at the end.
    pub drain: Duration,
    /// How long after its end a sender that is behind may go on.
    pub behind: Duration,
    /// For the arrivals.
    pub seed: u64,
    /// Commands kept for the check of events.
    pub records_max: usize,
    /// Against an echo, which accepts everything.
    pub echo: bool,
}

impl Plan {
    /// As the arguments say.
    ///
    /// # Errors
    /// When they contradict each other.
    pub fn new(args: &LoadArgs, scenario: &ScenarioFile, echo: bool) -> Result<Plan, LoadError> {
        let phases = scenario.phase_rates();
        let shaped = !matches!(args.arrivals, Arrivals::Constant | Arrivals::Poisson);
        if shaped && phases.iter().any(|(_, rate)| *rate != 1.0) {
            return Err(LoadError::Arguments(format!(
                "scenario {} has phases with rates of their own: say --arrivals constant or poisson",
                scenario.name
            )));
        }
        let whole = Duration::from_secs(args.warm_up_seconds + args.seconds);
        let behind = args.behind_seconds.map(Duration::from_secs);
        Ok(Plan {
            rate: args.rate,
            arrivals: args.arrivals,
            phases,
            mode: args.mode,
            streams: args.streams as usize,
            warm_up: Duration::from_secs(args.warm_up_seconds),
            measured: Duration::from_secs(args.seconds),
            batch: args.batch,
            acks: args.ack.clone(),
            window_a_stream: args.window_a_stream()?,
            drain: Duration::from_secs(args.drain()),
            behind: behind.unwrap_or((whole / 2).max(BEHIND_MIN)),
            seed: args.seed,
            records_max: if echo { 0 } else { args.records_max as usize },
            echo,
        })
    }

    /// The shape of the arrivals of messages, at this rate of commands.
    pub fn shape(&self, commands_a_second: f64) -> Shape<'_> {
        Shape {
            arrivals: self.arrivals,
            messages_a_second: commands_a_second / self.batch as f64,
            warm_up: self.warm_up,
            measured: self.measured,
            phases: &self.phases,
            seed: self.seed,
        }
    }
}
