//! What a run came to: as JSON here, for people in [`text`], as a page in [`html`], as histograms in [`histograms`].

pub mod histograms;
pub mod html;
mod picture;
mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use karat_proto::Code;
use serde::{Deserialize, Serialize};

use crate::args::{Ack, LoadArgs, Rate};
use crate::books::Problems;
use crate::driver::{Driven, Followed, ThreadShares};
use crate::error::LoadError;
use crate::kafka::Deliveries;
use crate::recorder::{Percentiles, Second, curve, percentiles};
use crate::scenario::Kind;
use crate::setup::World;
use crate::truth::Checked;
use crate::truth::events::EventsChecked;
use crate::watchers::Watched;

/// Version of the JSON form. A newer one is refused, never guessed at.
pub const FORMAT: u32 = 2;
/// A generator later than this at p99 has measured itself.
const SCHEDULING_ERROR_US_MAX: f64 = 1_000.0;
/// A thread that ran or wanted to run for more of the time than this had nothing left to give.
const BUSY_SHARE_MAX: f64 = 0.95;
/// A sender that is so far behind at the end of its schedule did not generate the rate, seconds.
const BEHIND_SECONDS_MAX: f64 = 0.5;

/// One run's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this form.
    pub format: u32,
    /// `run` or `floor`.
    pub kind: String,
    /// What was asked for.
    pub settings: Settings,
    /// Where it ran.
    pub machine: Machine,
    /// Counts and rates of the measured time.
    pub counts: Counts,
    /// Latency of accepted commands at their ack level, from their intended time.
    pub latency: Percentiles,
    /// The same for each ack level that was asked for.
    pub levels: BTreeMap<String, Percentiles>,
    /// The whole distribution of `latency`: shares of the commands, and what they took at most, microseconds.
    pub curve: Vec<(f64, f64)>,
    /// Latency of refusals.
    pub refusal_latency: Percentiles,
    /// Refusals of the measured time, by code name.
    pub refusals: BTreeMap<String, u64>,
    /// Second by second, warm-up and drain included.
    pub seconds: Vec<Second>,
    /// How late messages were handed to the transport.
    pub scheduling_error: Percentiles,
    /// What the generator's thread did while it sent.
    pub generator: Option<ThreadShares>,
    /// Why the figures say as much about the generator as about the target, if they do.
    pub generator_bottleneck: Option<String>,
    /// Why the rate that was asked for was not generated, if it was not.
    pub rate_missed: Option<String>,
    /// Fingerprint of the commands, equal for two runs with the same seed that sent as many on each stream.
    pub commands: String,
    /// What the brokers said to the messages of a run on Kafka.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliveries: Option<Deliveries>,
    /// What came of slow watchers beside the load, if there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watched: Option<Watched>,
    /// Every command of the run, warm-up included.
    pub books: BooksReport,
    /// The floor with the same settings, if it was asked for.
    pub floor: Option<Box<Report>>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Target's address; `echo` for the floor.
    pub target: String,
    /// Scenario.
    pub scenario: String,
    /// Commands a second, or `max`.
    pub rate: String,
    /// Spacing of arrivals; `closed window` for `max`.
    pub arrivals: String,
    /// Measured seconds.
    pub seconds: u64,
    /// Seconds before them.
    pub warm_up_seconds: u64,
    /// How commands travel.
    pub mode: String,
    /// Commands a message.
    pub batch: u64,
    /// Connections.
    pub connections: u64,
    /// Streams of each.
    pub streams: u64,
    /// Ack levels, with commas.
    pub ack: String,
    /// Most commands in flight, all streams together.
    pub window: u64,
    /// Assets before the run.
    pub assets: u64,
    /// What the target's agents should make of the assets; `none` for the floor.
    pub verdict: String,
    /// Watchers that hardly read, beside the load.
    #[serde(default, skip_serializing_if = "is_none")]
    pub slow_watchers: u64,
    /// The realm that every call named, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realm: Option<String>,
    /// Seed.
    pub seed: u64,
    /// Run id, 16 hex digits.
    pub run_id: String,
}

/// Where it ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub processors: u64,
    /// What they call themselves.
    pub processor: String,
    /// Kernel.
    pub kernel: String,
}

/// Counts and rates of the measured time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Commands meant for it and sent.
    pub sent: u64,
    /// Commands meant for it and not sent: the window was full at their time, or the sender never came to them.
    pub skipped: u64,
    /// Those of `skipped` that the sender never came to.
    #[serde(default)]
    pub given_up: u64,
    /// Commands meant for it and accepted, whenever.
    pub accepted: u64,
    /// Commands meant for it and refused, whenever.
    pub refused: u64,
    /// Accepted outcomes that came in during it, a second.
    pub accepted_a_second: f64,
}

/// Every command of the run, warm-up included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BooksReport {
    /// Why the run ended early, if it did.
    pub broken: Option<String>,
    /// Commands sent.
    pub sent: u64,
    /// Of them, by kind.
    pub sent_by_kind: BTreeMap<String, u64>,
    /// Accepted.
    pub accepted: u64,
    /// Refused.
    pub refused: u64,
    /// Without an outcome.
    pub unanswered: u64,
    /// What it took to follow a realm that moved.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub followed: Followed,
    /// What was compared with the target's state; nothing for a floor.
    pub checked: Option<Checked>,
    /// What was compared with the target's events; nothing for a floor.
    pub events: Option<EventsChecked>,
    /// What the run made before it began; nothing for a floor.
    pub world: Option<World>,
    /// What is wrong.
    pub problems: Problems,
}

impl Report {
    /// Puts a report together; what was compared is added by whoever compared it.
    pub fn new(kind: &str, settings: Settings, driven: &Driven, problems: Problems) -> Report {
        let recorder = &driven.recorder;
        let latency = recorder.accepted();
        let refusal_latency = percentiles(recorder.refused());
        let levels = settings.ack.split(',').enumerate();
        let levels = levels
            .map(|(place, name)| (name.to_owned(), percentiles(recorder.accepted_at(place))))
            .collect();
        let refusals = recorder.refusals.iter();
        let sent_by_kind = Kind::ALL.iter().zip(driven.sent_by_kind);
        let mut report = Report {
            format: FORMAT,
            kind: kind.into(),
            counts: Counts {
                sent: recorder.sent,
                skipped: recorder.skipped,
                given_up: recorder.skipped.min(driven.behind.1),
                accepted: latency.count,
                refused: refusal_latency.count,
                accepted_a_second: recorder.accepted_in_time as f64 / settings.seconds as f64,
            },
            settings,
            machine: Machine::here(),
            latency,
            levels,
            curve: curve(&recorder.accepted_histogram()),
            refusal_latency,
            refusals: refusals
                .map(|(code, count)| (code_name(*code), *count))
                .collect(),
            seconds: recorder.seconds.clone(),
            scheduling_error: recorder.scheduling_error(),
            generator: driven.thread,
            generator_bottleneck: None,
            rate_missed: rate_missed(driven.behind),
            commands: format!("{:016x}", driven.digest),
            deliveries: driven.deliveries.clone(),
            watched: None,
            books: BooksReport {
                broken: driven.broken.clone(),
                sent: driven.sent_by_kind.iter().sum(),
                sent_by_kind: sent_by_kind
                    .map(|(kind, count)| (kind.name().to_owned(), count))
                    .collect(),
                accepted: driven.accepted,
                refused: driven.refused,
                unanswered: driven.unanswered,
                followed: driven.followed,
                checked: None,
                events: None,
                world: None,
                problems,
            },
            floor: None,
        };
        report.generator_bottleneck = report.bottleneck();
        report
    }

    /// Whether the run ended as it should, and its books close.
    pub fn passed(&self) -> bool {
        self.books.closed()
    }

    /// Reads a report.
    ///
    /// # Errors
    /// When the file cannot be read, is no report, or one of a newer form.
    pub fn read(path: &Path) -> Result<Report, LoadError> {
        let failed = |cause: String| LoadError::file(path, cause);
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let no_result = |error| failed(format!("not a result of karat-load: {error}"));
        let value: serde_json::Value = serde_json::from_str(&text).map_err(no_result)?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format != u64::from(FORMAT) => Err(failed(format!(
                "its format is {format}, this build reads {FORMAT}"
            ))),
            _ => serde_json::from_value(value).map_err(no_result),
        }
    }

    /// Writes the report as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), LoadError> {
        let text = serde_json::to_string_pretty(self);
        let mut text = text.map_err(|error| LoadError::file(path, error))?;
        text.push('\n');
        std::fs::write(path, text).map_err(|error| LoadError::file(path, error))
    }

    /// What of the schedule was not sent, and why, if anything.
    fn not_sent(&self) -> Option<String> {
        let counts = &self.counts;
        if counts.skipped == 0 {
            return None;
        }
        let why = match (counts.given_up, counts.skipped - counts.given_up) {
            (0, _) => "because the window was full".into(),
            (_, 0) => "because the sender was too far behind".into(),
            (given_up, full) => format!(
                "{full} because the window was full, {given_up} because the sender was too far behind"
            ),
        };
        let share = 100.0 * counts.skipped as f64 / (counts.sent + counts.skipped) as f64;
        Some(format!(
            "{} commands ({share:.2} %) were not sent, {why}: the percentiles do not hold them",
            counts.skipped
        ))
    }

    fn bottleneck(&self) -> Option<String> {
        let late = self.scheduling_error.p99_us;
        if late > SCHEDULING_ERROR_US_MAX {
            return Some(format!(
                "messages were sent late (p99 {late:.0} us): this machine cannot generate this rate evenly beside its target, \
                 and the latencies hold that delay"
            ));
        }
        let thread = self.generator?;
        if thread.ran + thread.waited <= BUSY_SHARE_MAX {
            return None;
        }
        Some(format!(
            "its thread ran {:.0} % of the time and waited {:.0} % for a processor: the target may be able to do more than this",
            thread.ran * 100.0,
            thread.waited * 100.0
        ))
    }
}

impl BooksReport {
    /// Whether every command has one outcome and the target holds what the outcomes say.
    pub fn closed(&self) -> bool {
        self.problems.count == 0 && self.broken.is_none()
    }
}

/// Where the books of a run lie: beside its JSON.
pub fn books_path(json: &Path) -> PathBuf {
    json.with_extension("books")
}

fn rate_missed((behind_s, never_sent): (f64, u64)) -> Option<String> {
    if behind_s <= BEHIND_SECONDS_MAX && never_sent == 0 {
        return None;
    }
    Some(format!(
        "the sender was {behind_s:.1} s behind its schedule at the end, and {never_sent} commands were never sent: \
         lower --rate, or send more in a message (--batch)"
    ))
}

impl Settings {
    /// As the arguments say.
    pub fn new(target: &str, args: &LoadArgs, scenario: &str, window: u64, run: u64) -> Settings {
        let name = |value: &str| value.to_lowercase();
        Settings {
            target: target.into(),
            scenario: scenario.into(),
            rate: args.rate.to_string(),
            arrivals: match args.rate {
                Rate::Max => "closed window".into(),
                Rate::PerSecond(_) => args.arrivals.to_string(),
            },
            seconds: args.seconds,
            warm_up_seconds: args.warm_up_seconds,
            mode: name(&format!("{:?}", args.mode)),
            batch: args.batch,
            connections: args.connections,
            streams: args.streams,
            ack: ack_names(&args.ack),
            window,
            assets: args.assets,
            verdict: "none".into(),
            slow_watchers: 0,
            realm: None,
            seed: args.seed,
            run_id: format!("{run:016x}"),
        }
    }
}

impl Machine {
    /// This machine.
    pub fn here() -> Machine {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Machine {
            processors: std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
            processor: model
                .map_or(std::env::consts::ARCH, |(_, name)| name)
                .into(),
            kernel: format!(
                "{} {}",
                std::env::consts::OS,
                read("/proc/sys/kernel/osrelease").trim()
            ),
        }
    }
}

fn is_nothing(followed: &Followed) -> bool {
    *followed == Followed::default()
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

fn ack_names(acks: &[Ack]) -> String {
    let names: Vec<&str> = acks.iter().map(|ack| ack.name()).collect();
    names.join(",")
}

fn code_name(number: u32) -> String {
    let code = u16::try_from(number).ok().and_then(Code::from_number);
    format!("{number} {}", code.map_or("unknown", Code::name))
}
