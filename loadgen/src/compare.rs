//! Results side by side: one run each, or several of the same with their spread.

use std::fmt::Write as _;

use crate::report::{Report, Settings};

/// A figure over several runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Least.
    pub least: f64,
    /// Median; of an even number, the lower of the two in the middle.
    pub median: f64,
    /// Most.
    pub most: f64,
}

impl Spread {
    /// Of these values; all 0 without any.
    pub fn of(values: impl Iterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.collect();
        values.sort_unstable_by(f64::total_cmp);
        let at = |place: usize| values.get(place).copied().unwrap_or(0.0);
        Spread {
            least: at(0),
            median: at(values.len().saturating_sub(1) / 2),
            most: at(values.len().saturating_sub(1)),
        }
    }

    /// `self` over `other`: the ratio of the medians, and how small and how large it could be by choosing runs. `None`
    /// where nothing was measured.
    fn over(&self, other: &Spread) -> Option<Spread> {
        (other.least > 0.0).then(|| Spread {
            least: self.least / other.most,
            median: self.median / other.median,
            most: self.most / other.least,
        })
    }
}

/// One figure of both.
#[derive(Clone, Debug, PartialEq)]
pub struct Ratio {
    /// What it is, with its unit.
    pub name: &'static str,
    /// In the first.
    pub a: Spread,
    /// In the second.
    pub b: Spread,
    /// The second over the first; `None` when the first is 0.
    pub ratio: Option<Spread>,
}

/// Every figure that can be compared. Throughput: more is better; latency: less is.
pub fn ratios(a: &[&Report], b: &[&Report]) -> Vec<Ratio> {
    type Figure = fn(&Report) -> f64;
    const FIGURES: [(&str, Figure); 8] = [
        ("accepted a second", |one| one.counts.accepted_a_second),
        ("mean us", |one| one.latency.mean_us),
        ("p50 us", |one| one.latency.p50_us),
        ("p90 us", |one| one.latency.p90_us),
        ("p99 us", |one| one.latency.p99_us),
        ("p99.9 us", |one| one.latency.p99_9_us),
        ("p99.99 us", |one| one.latency.p99_99_us),
        ("max us", |one| one.latency.max_us),
    ];
    FIGURES
        .into_iter()
        .map(|(name, figure)| {
            let a = Spread::of(a.iter().map(|report| figure(report)));
            let b = Spread::of(b.iter().map(|report| figure(report)));
            let ratio = b.over(&a);
            Ratio { name, a, b, ratio }
        })
        .collect()
}

/// Settings in which two differ, so that no ratio is read for more than it says.
pub fn differences(a: &Settings, b: &Settings) -> Vec<String> {
    let pairs = [
        ("scenario", a.scenario.clone(), b.scenario.clone()),
        ("rate", a.rate.clone(), b.rate.clone()),
        ("arrivals", a.arrivals.clone(), b.arrivals.clone()),
        ("mode", a.mode.clone(), b.mode.clone()),
        ("batch", a.batch.to_string(), b.batch.to_string()),
        (
            "connections",
            a.connections.to_string(),
            b.connections.to_string(),
        ),
        ("streams", a.streams.to_string(), b.streams.to_string()),
        ("ack", a.ack.clone(), b.ack.clone()),
        ("window", a.window.to_string(), b.window.to_string()),
        ("assets", a.assets.to_string(), b.assets.to_string()),
        ("seed", a.seed.to_string(), b.seed.to_string()),
        ("verdict", a.verdict.clone(), b.verdict.clone()),
        (
            "slow watchers",
            a.slow_watchers.to_string(),
            b.slow_watchers.to_string(),
        ),
    ];
    pairs
        .into_iter()
        // A floor has no verdicts to differ in.
        .filter(|(_, a, b)| a != b && a != "none" && b != "none")
        .map(|(name, a, b)| format!("{name} {a} / {b}"))
        .collect()
}

/// The table of two results.
pub fn render_one(name_a: &str, a: &Report, name_b: &str, b: &Report) -> String {
    render_refs(name_a, &[a], name_b, &[b])
}

/// The table of two groups of results, none of them empty, headed by the names of both.
pub fn render(name_a: &str, a: &[Report], name_b: &str, b: &[Report]) -> String {
    let (a, b): (Vec<_>, Vec<_>) = (a.iter().collect(), b.iter().collect());
    render_refs(name_a, &a, name_b, &b)
}

fn render_refs(name_a: &str, a: &[&Report], name_b: &str, b: &[&Report]) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = write_table(&mut out, (name_a, a), (name_b, b));
    out
}

fn write_table(out: &mut String, a: (&str, &[&Report]), b: (&str, &[&Report])) -> std::fmt::Result {
    let ((name_a, a), (name_b, b)) = (a, b);
    let several = a.len() > 1 || b.len() > 1;
    let width = if several { 30 } else { 14 };
    let value = |spread: &Spread| match several {
        false => format!("{:.1}", spread.median),
        true => format!(
            "{:.1} ({:.1}-{:.1})",
            spread.median, spread.least, spread.most
        ),
    };
    let ratio = |spread: &Spread| match several {
        false => format!("{:.2}x", spread.median),
        true => format!(
            "{:.2}x ({:.2}-{:.2})",
            spread.median, spread.least, spread.most
        ),
    };
    if several {
        writeln!(
            out,
            "  median (least-most) of {} and {} runs; a ratio's ends are the most favourable and unfavourable pairs",
            a.len(),
            b.len()
        )?;
    }
    writeln!(
        out,
        "  {:<18} {name_a:>width$} {name_b:>width$} {:>width$}",
        "",
        format!("{name_b}/{name_a}")
    )?;
    for one in ratios(a, b) {
        writeln!(
            out,
            "  {:<18} {:>width$} {:>width$} {:>width$}",
            one.name,
            value(&one.a),
            value(&one.b),
            one.ratio.as_ref().map_or("-".into(), ratio)
        )?;
    }
    write_notes(out, (name_a, a), (name_b, b))
}

fn write_notes(out: &mut String, a: (&str, &[&Report]), b: (&str, &[&Report])) -> std::fmt::Result {
    let mut told: Vec<String> = Vec::new();
    let first = a.1[0];
    for other in a.1[1..].iter().chain(b.1) {
        let differences = differences(&first.settings, &other.settings);
        if !differences.is_empty() {
            told.push(format!("settings differ: {}", differences.join(", ")));
        }
        if first.machine != other.machine {
            told.push("they ran on different machines".into());
        }
    }
    for (name, reports) in [a, b] {
        for report in reports {
            if !report.passed() {
                told.push(format!("the books of {name} do not close"));
            }
            if report.generator_bottleneck.is_some() {
                told.push(format!("in {name} the generator was a bottleneck"));
            }
        }
    }
    told.sort();
    told.dedup();
    told.iter().try_for_each(|note| writeln!(out, "  {note}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::args::{Action, Cli};
    use crate::books::Problems;
    use crate::driver::Driven;
    use crate::recorder::Recorder;
    use crate::records::Records;
    use clap::Parser as _;

    pub(crate) fn report(batch: &str, latency_us: u64, accepted: u64) -> Report {
        let cli = Cli::parse_from(["karat-load", "floor", "--seconds", "10", "--batch", batch]);
        let Action::Floor(args) = cli.action else {
            panic!("floor was asked for");
        };
        let mut recorder = Recorder::new(1);
        recorder.accepted_after(0, latency_us * 1_000);
        recorder.accepted_in_time = accepted;
        let driven = Driven {
            recorder,
            problems: Problems::default(),
            broken: None,
            holdings: Vec::new(),
            contested: Vec::new(),
            records: Records::default(),
            sent_by_kind: [0; 7],
            accepted,
            refused: 0,
            unanswered: 0,
            followed: Default::default(),
            digest: 0,
            thread: None,
            behind: (0.0, 0),
            deliveries: None,
        };
        let settings = Settings::new("echo", &args.load, "trade", 1, 7);
        Report::new("floor", settings, &driven, Problems::default())
    }

    #[test]
    fn ratios_are_of_the_second_over_the_first() {
        let (a, b) = (report("1", 100, 5_000), report("1", 250, 20_000));
        let ratios = ratios(&[&a], &[&b]);
        let of = |name| {
            let one = ratios.iter().find(|one| one.name == name).unwrap();
            one.ratio.unwrap().median
        };
        assert_eq!(of("accepted a second"), 4.0);
        assert!((of("p99 us") - 2.5).abs() < 0.01);
        assert!((of("max us") - 2.5).abs() < 0.01);
    }

    #[test]
    fn several_runs_have_a_median_and_a_spread() {
        let a = [100, 200, 110].map(|us| report("1", us, us));
        let b = [300, 330, 900].map(|us| report("1", us, us));
        let refs = |all: &'static [Report]| all.iter().collect::<Vec<_>>();
        let (a, b) = (Box::leak(Box::new(a)), Box::leak(Box::new(b)));
        let accepted = &ratios(&refs(a), &refs(b))[0];
        // 10 seconds: a tenth of the counts.
        assert_eq!(
            (accepted.a.least, accepted.a.median, accepted.a.most),
            (10.0, 11.0, 20.0)
        );
        let ratio = accepted.ratio.unwrap();
        assert_eq!((ratio.least, ratio.median, ratio.most), (1.5, 3.0, 9.0));
        let table = render("A", a, "B", b);
        assert!(table.contains("3.00x (1.50-9.00)"), "{table}");
    }

    #[test]
    fn what_was_not_measured_has_no_ratio() {
        let (a, b) = (report("1", 100, 0), report("1", 100, 1));
        assert_eq!(ratios(&[&a], &[&b])[0].ratio, None);
    }

    #[test]
    fn the_table_says_in_what_the_runs_differ() {
        let (a, b) = (report("1", 100, 1), report("256", 100, 1));
        assert!(render_one("A", &a, "B", &b).contains("settings differ: batch 1 / 256"));
        assert!(!render_one("A", &a, "B", &a).contains("differ"));
    }
}
