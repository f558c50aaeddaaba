//! Two results side by side.

use std::fmt::Write as _;

use crate::report::{Report, Settings};

/// One figure of both.
#[derive(Clone, Debug, PartialEq)]
pub struct Ratio {
    /// What it is, with its unit.
    pub name: &'static str,
    /// In the first.
    pub a: f64,
    /// In the second.
    pub b: f64,
    /// The second over the first; `None` when the first is 0.
    pub ratio: Option<f64>,
}

/// Every figure that can be compared. Throughput: more is better; latency: less is.
pub fn ratios(a: &Report, b: &Report) -> Vec<Ratio> {
    let figures = |report: &Report| {
        let latency = &report.latency;
        [
            report.counts.accepted_a_second,
            latency.mean_us,
            latency.p50_us,
            latency.p90_us,
            latency.p99_us,
            latency.p99_9_us,
            latency.p99_99_us,
            latency.max_us,
        ]
    };
    const NAMES: [&str; 8] = [
        "accepted a second",
        "mean us",
        "p50 us",
        "p90 us",
        "p99 us",
        "p99.9 us",
        "p99.99 us",
        "max us",
    ];
    NAMES
        .into_iter()
        .zip(figures(a).into_iter().zip(figures(b)))
        .map(|(name, (a, b))| Ratio {
            name,
            a,
            b,
            ratio: (a != 0.0).then(|| b / a),
        })
        .collect()
}

/// Settings in which the two differ, so that no ratio is read for more than it says.
pub fn differences(a: &Settings, b: &Settings) -> Vec<String> {
    let pairs = [
        ("scenario", a.scenario.clone(), b.scenario.clone()),
        ("rate", a.rate.clone(), b.rate.clone()),
        ("arrivals", a.arrivals.clone(), b.arrivals.clone()),
        ("batch", a.batch.to_string(), b.batch.to_string()),
        ("streams", a.streams.to_string(), b.streams.to_string()),
        ("ack", a.ack.clone(), b.ack.clone()),
        ("window", a.window.to_string(), b.window.to_string()),
        ("assets", a.assets.to_string(), b.assets.to_string()),
        ("seed", a.seed.to_string(), b.seed.to_string()),
        ("verdict", a.verdict.clone(), b.verdict.clone()),
    ];
    pairs
        .into_iter()
        // A floor has no verdicts to differ in.
        .filter(|(_, a, b)| a != b && a != "none" && b != "none")
        .map(|(name, a, b)| format!("{name} {a} / {b}"))
        .collect()
}

/// The table for people, headed by the names of both.
pub fn render(name_a: &str, a: &Report, name_b: &str, b: &Report) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = write_table(&mut out, (name_a, a), (name_b, b));
    out
}

fn write_table(out: &mut String, a: (&str, &Report), b: (&str, &Report)) -> std::fmt::Result {
    let ((name_a, a), (name_b, b)) = (a, b);
    writeln!(
        out,
        "  {:<18} {name_a:>14} {name_b:>14} {:>14}",
        "",
        format!("{name_b}/{name_a}")
    )?;
    for one in ratios(a, b) {
        let ratio = one.ratio.map_or("-".into(), |ratio| format!("{ratio:.2}x"));
        writeln!(
            out,
            "  {:<18} {:>14.1} {:>14.1} {ratio:>14}",
            one.name, one.a, one.b
        )?;
    }
    let differences = differences(&a.settings, &b.settings);
    if !differences.is_empty() {
        writeln!(out, "  settings differ: {}", differences.join(", "))?;
    }
    if a.machine != b.machine {
        writeln!(out, "  the two ran on different machines")?;
    }
    for (name, report) in [(name_a, a), (name_b, b)] {
        if !report.passed() {
            writeln!(out, "  the books of {name} do not close")?;
        }
        if report.generator_bottleneck.is_some() {
            writeln!(out, "  in {name} the generator was a bottleneck")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Action, Cli};
    use crate::books::Problems;
    use crate::driver::Driven;
    use crate::recorder::Recorder;
    use clap::Parser as _;

    fn report(batch: &str, latency_us: u64, accepted: u64) -> Report {
        let cli = Cli::parse_from(["karat-load", "floor", "--seconds", "10", "--batch", batch]);
        let Action::Floor(args) = cli.action else {
            panic!("floor was asked for");
        };
        let mut recorder = Recorder::new();
        recorder.accepted_after(latency_us * 1_000);
        recorder.accepted_in_time = accepted;
        let driven = Driven {
            recorder,
            problems: Problems::default(),
            broken: None,
            holdings: Vec::new(),
            sent_by_kind: [0; 4],
            accepted,
            refused: 0,
            unanswered: 0,
            thread: None,
        };
        let settings = Settings::new("echo", &args.load, 1, 7);
        Report::new("floor", settings, &driven, Problems::default(), None)
    }

    #[test]
    fn ratios_are_of_the_second_over_the_first() {
        let ratios = ratios(&report("1", 100, 5_000), &report("1", 250, 20_000));
        let of = |name| {
            let one = ratios.iter().find(|one| one.name == name).unwrap();
            one.ratio.unwrap()
        };
        assert_eq!(of("accepted a second"), 4.0);
        assert!((of("p99 us") - 2.5).abs() < 0.01);
        assert!((of("max us") - 2.5).abs() < 0.01);
    }

    #[test]
    fn what_was_not_measured_has_no_ratio() {
        let ratios = ratios(&report("1", 100, 0), &report("1", 100, 1));
        assert_eq!(ratios[0].ratio, None);
    }

    #[test]
    fn the_table_says_in_what_the_two_runs_differ() {
        let (a, b) = (report("1", 100, 1), report("256", 100, 1));
        assert!(render("A", &a, "B", &b).contains("settings differ: batch 1 / 256"));
        assert!(!render("A", &a, "B", &a).contains("differ"));
    }
}
