//! What a run came to, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use karat_proto::Code;
use serde::{Deserialize, Serialize};

use crate::args::{Ack, LoadArgs, Rate};
use crate::books::Problems;
use crate::driver::{Driven, ThreadShares};
use crate::error::LoadError;
use crate::recorder::Percentiles;
use crate::scenario::Kind;
use crate::truth::Checked;

/// Version of the JSON form. A newer one is refused, never guessed at.
pub const FORMAT: u32 = 1;
/// A generator later than this at p99 has measured itself.
const SCHEDULING_ERROR_US_MAX: f64 = 1_000.0;
/// A thread that ran or wanted to run for more of the time than this had nothing left to give.
const BUSY_SHARE_MAX: f64 = 0.95;

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
    /// Latency of accepted commands at the ack level, from their intended time.
    pub latency: Percentiles,
    /// Latency of refusals.
    pub refusal_latency: Percentiles,
    /// Refusals of the measured time, by code name.
    pub refusals: BTreeMap<String, u64>,
    /// How late messages were handed to the transport.
    pub scheduling_error: Percentiles,
    /// What the generator's thread did while it sent.
    pub generator: Option<ThreadShares>,
    /// Why the figures say as much about the generator as about the target, if they do.
    pub generator_bottleneck: Option<String>,
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
    /// Commands a message.
    pub batch: u64,
    /// Streams.
    pub streams: u64,
    /// Ack level.
    pub ack: String,
    /// Most commands in flight, all streams together.
    pub window: u64,
    /// Assets before the run.
    pub assets: u64,
    /// What the target's agents should make of the assets; `none` for the floor.
    pub verdict: String,
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
    /// Commands meant for it and not sent, because the window was full.
    pub skipped: u64,
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
    /// Whether every command has one outcome and the target holds what the outcomes say.
    pub closed: bool,
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
    /// What was compared with the target; nothing for a floor.
    pub checked: Option<Checked>,
    /// What is wrong.
    pub problems: Problems,
}

impl Report {
    /// Puts a report together.
    pub fn new(
        kind: &str,
        settings: Settings,
        driven: &Driven,
        problems: Problems,
        checked: Option<Checked>,
    ) -> Report {
        let recorder = &driven.recorder;
        let latency = recorder.accepted();
        let refusal_latency = recorder.refused();
        let refusals = recorder.refusals.iter();
        let sent_by_kind = Kind::ALL.iter().zip(driven.sent_by_kind);
        let mut report = Report {
            format: FORMAT,
            kind: kind.into(),
            counts: Counts {
                sent: recorder.sent,
                skipped: recorder.skipped,
                accepted: latency.count,
                refused: refusal_latency.count,
                accepted_a_second: recorder.accepted_in_time as f64 / settings.seconds as f64,
            },
            settings,
            machine: Machine::here(),
            latency,
            refusal_latency,
            refusals: refusals
                .map(|(code, count)| (code_name(*code), *count))
                .collect(),
            scheduling_error: recorder.scheduling_error(),
            generator: driven.thread,
            generator_bottleneck: None,
            books: BooksReport {
                closed: problems.count == 0 && driven.broken.is_none(),
                broken: driven.broken.clone(),
                sent: driven.sent_by_kind.iter().sum(),
                sent_by_kind: sent_by_kind
                    .map(|(kind, count)| (kind.name().to_owned(), count))
                    .collect(),
                accepted: driven.accepted,
                refused: driven.refused,
                unanswered: driven.unanswered,
                checked,
                problems,
            },
            floor: None,
        };
        report.generator_bottleneck = report.bottleneck();
        report
    }

    /// Whether the run ended as it should, and its books close.
    pub fn passed(&self) -> bool {
        self.books.closed
    }

    /// Reads a report.
    ///
    /// # Errors
    /// When the file cannot be read, is no report, or one of a newer form.
    pub fn read(path: &Path) -> Result<Report, LoadError> {
        let failed = |cause: String| LoadError::File {
            path: path.display().to_string(),
            cause,
        };
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let report: Report = serde_json::from_str(&text)
            .map_err(|error| failed(format!("not a result of karat-load: {error}")))?;
        if report.format > FORMAT {
            return Err(failed(format!(
                "format {} is newer than {FORMAT}, which this build reads",
                report.format
            )));
        }
        Ok(report)
    }

    /// Writes the report as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), LoadError> {
        let failed = |cause: String| LoadError::File {
            path: path.display().to_string(),
            cause,
        };
        let mut text =
            serde_json::to_string_pretty(self).map_err(|error| failed(error.to_string()))?;
        text.push('\n');
        std::fs::write(path, text).map_err(|error| failed(error.to_string()))
    }

    /// The report for people.
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing into a String cannot fail.
        let _ = self.write_text(&mut out);
        out
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

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let settings = &self.settings;
        writeln!(
            out,
            "{} {}  scenario {}  rate {} ({})  batch {}  streams {}  ack {}  window {}  {} s after {} s of warm-up  seed {}",
            self.kind,
            settings.target,
            settings.scenario,
            settings.rate,
            settings.arrivals,
            settings.batch,
            settings.streams,
            settings.ack,
            settings.window,
            settings.seconds,
            settings.warm_up_seconds,
            settings.seed
        )?;
        let counts = &self.counts;
        writeln!(
            out,
            "  accepted     {:.0} a second ({} sent, {} accepted, {} refused, {} skipped)",
            counts.accepted_a_second, counts.sent, counts.accepted, counts.refused, counts.skipped
        )?;
        write_percentiles(out, "latency", &self.latency)?;
        if counts.refused > 0 {
            write_percentiles(out, "refusals", &self.refusal_latency)?;
            for (code, count) in &self.refusals {
                writeln!(out, "    {code}: {count}")?;
            }
        }
        if settings.rate == "max" {
            writeln!(
                out,
                "  closed window: latency from the sending, so a stall hides what it kept from being sent"
            )?;
        } else {
            write_percentiles(out, "sent late by", &self.scheduling_error)?;
        }
        if counts.skipped > 0 {
            writeln!(
                out,
                "  {} commands ({:.2} %) were not sent because the window was full: the percentiles do not hold them",
                counts.skipped,
                100.0 * counts.skipped as f64 / (counts.sent + counts.skipped) as f64
            )?;
        }
        if let Some(thread) = &self.generator {
            writeln!(
                out,
                "  generator    ran {:.0} % of the time, waited {:.0} % for a processor",
                thread.ran * 100.0,
                thread.waited * 100.0
            )?;
        }
        if let Some(reason) = &self.generator_bottleneck {
            writeln!(out, "  THE GENERATOR WAS A BOTTLENECK: {reason}")?;
        }
        self.write_books(out)?;
        if let Some(floor) = &self.floor {
            writeln!(out)?;
            out.push_str(&floor.render());
            out.push_str(&crate::compare::render("floor", floor, "run", self));
        }
        Ok(())
    }

    fn write_books(&self, out: &mut String) -> std::fmt::Result {
        let books = &self.books;
        let kinds: Vec<String> = books
            .sent_by_kind
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        writeln!(
            out,
            "  books        {} sent ({}) = {} accepted + {} refused + {} without outcome",
            books.sent,
            kinds.join(", "),
            books.accepted,
            books.refused,
            books.unanswered
        )?;
        if let Some(checked) = &books.checked {
            writeln!(
                out,
                "  compared     owners of {} assets, balances of {} accounts (sum {} of {} deposited)",
                checked.assets, checked.accounts, checked.balance_sum, checked.deposit_sum
            )?;
        }
        if let Some(cause) = &books.broken {
            writeln!(out, "  THE RUN ENDED EARLY: {cause}")?;
        }
        if books.closed {
            return writeln!(out, "  the books close");
        }
        writeln!(
            out,
            "  THE BOOKS DO NOT CLOSE: {} problems",
            books.problems.count
        )?;
        for problem in &books.problems.named {
            writeln!(out, "    {problem}")?;
        }
        let unnamed = books.problems.count - books.problems.named.len() as u64;
        if unnamed > 0 {
            writeln!(out, "    and {unnamed} more")?;
        }
        Ok(())
    }
}

impl Settings {
    /// As the arguments say.
    pub fn new(target: &str, args: &LoadArgs, window: u64, run: u64) -> Settings {
        let name = |value: &str| value.to_lowercase();
        Settings {
            target: target.into(),
            scenario: name(&format!("{:?}", args.scenario)),
            rate: args.rate.to_string(),
            arrivals: match args.rate {
                Rate::Max => "closed window".into(),
                Rate::PerSecond(_) => name(&format!("{:?}", args.arrivals)),
            },
            seconds: args.seconds,
            warm_up_seconds: args.warm_up_seconds,
            batch: args.batch,
            streams: args.streams,
            ack: ack_name(args.ack).into(),
            window,
            assets: args.assets,
            verdict: "none".into(),
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

fn ack_name(ack: Ack) -> &'static str {
    match ack {
        Ack::Sequenced => "sequenced",
        Ack::Durable => "durable",
        Ack::Verified => "verified",
        Ack::Settled => "settled",
    }
}

fn code_name(number: u32) -> String {
    let code = u16::try_from(number).ok().and_then(Code::from_number);
    format!("{number} {}", code.map_or("unknown", Code::name))
}

fn write_percentiles(out: &mut String, name: &str, values: &Percentiles) -> std::fmt::Result {
    writeln!(
        out,
        "  {name:<12} p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  p99.99 {:.1}  max {:.1} us",
        values.p50_us,
        values.p90_us,
        values.p99_us,
        values.p99_9_us,
        values.p99_99_us,
        values.max_us
    )
}
