//! A folder of kept results as one table in Markdown: runs of the same name with their spread, and what benches measured.
//!
//! `NAME-1.json`, `NAME-2.json`, … are runs of one thing; `criterion.json` is what the benches took, as `benches/take.sh`
//! collects it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;

use crate::args::usual_window;
use crate::compare::Spread;
use crate::error::LoadError;
use crate::report::Report;
use crate::turns::{self, Runs};

/// What the benches measured, beside the runs.
const CRITERION: &str = "criterion.json";

/// How the mode of a run by another program than karat-load begins; the program's name follows.
pub const PEER: &str = "peer ";

/// The benches of one taking.
#[derive(Default, Deserialize)]
struct Benches {
    /// Facts of the machine, by their names.
    machine: BTreeMap<String, String>,
    /// What one iteration took, by the bench's name.
    nanoseconds: BTreeMap<String, f64>,
}

/// The table of a folder; with the name of a baseline, what the others are beside it too.
///
/// # Errors
/// When the folder cannot be read, holds nothing, holds a JSON file that is no result, or no baseline of that name.
pub fn table(folder: &Path, against: Option<&str>) -> Result<String, LoadError> {
    let failed = |cause: String| LoadError::file(folder, cause);
    let mut groups: BTreeMap<String, Runs> = BTreeMap::new();
    let mut benches = Benches::default();
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| failed(error.to_string()))? {
        paths.push(entry.map_err(|error| failed(error.to_string()))?.path());
    }
    paths.sort();
    for path in paths {
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        if path.file_name().is_some_and(|name| name == CRITERION) {
            benches = read_benches(&path)?;
            continue;
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let numbered = stem.rsplit_once('-');
        let numbered = numbered.and_then(|(name, number)| Some((name, number.parse().ok()?)));
        let (name, number) = numbered.unwrap_or((&stem, 0));
        let runs = groups.entry(name.to_owned()).or_default();
        runs.insert(number, Report::read(&path)?);
    }
    if groups.is_empty() && benches.nanoseconds.is_empty() {
        return Err(failed("no results in it".into()));
    }
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = write_runs(&mut out, &groups);
    let _ = write_benches(&mut out, &benches);
    if let Some(name) = against {
        let beside = turns::render(&groups, name);
        out.push_str(&beside.ok_or_else(|| failed(format!("no {name}-1.json in it")))?);
    }
    Ok(out)
}

fn read_benches(path: &Path) -> Result<Benches, LoadError> {
    let failed = |cause: String| LoadError::file(path, cause);
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    serde_json::from_str(&text)
        .map_err(|error| failed(format!("not what benches/take.sh collects: {error}")))
}

fn write_runs(out: &mut String, groups: &BTreeMap<String, Runs>) -> std::fmt::Result {
    let Some(machine) = groups
        .values()
        .flat_map(Runs::values)
        .map(|report| &report.machine)
        .next()
    else {
        return Ok(());
    };
    writeln!(
        out,
        "{} processors ({}), {}. Median (least-most) of the runs; latencies in microseconds from when a command was due.\n",
        machine.processors, machine.processor, machine.kernel
    )?;
    writeln!(
        out,
        "| what | runs | accepted a second | p50 | p99 | p99.9 | max | p99 over the floor's | refused a second, p99 | command |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )?;
    for (name, runs) in groups {
        let reports: Vec<&Report> = runs.values().collect();
        let spread = |of: &dyn Fn(&Report) -> f64| {
            let spread = Spread::of(reports.iter().copied().map(of));
            match reports.len() {
                1 => figure(spread.median),
                _ => format!(
                    "{} ({}-{})",
                    figure(spread.median),
                    figure(spread.least),
                    figure(spread.most)
                ),
            }
        };
        let floors: Vec<f64> = reports
            .iter()
            .filter_map(|report| {
                let floor = report.floor.as_ref()?.latency.p99_us;
                (floor > 0.0).then(|| report.latency.p99_us / floor)
            })
            .collect();
        let floor = match floors.is_empty() {
            true => "-".into(),
            false => format!("{:.1}x", Spread::of(floors.into_iter()).median),
        };
        // A claim that was lost is answered work too.
        let refused = match reports.iter().all(|report| report.counts.refused == 0) {
            true => "-".into(),
            false => format!(
                "{}, {}",
                spread(&|one| one.counts.refused as f64 / one.settings.seconds as f64),
                spread(&|one| one.refusal_latency.p99_us)
            ),
        };
        let note = match reports.iter().all(|report| report.passed()) {
            true => "",
            false => " **(books open)**",
        };
        writeln!(
            out,
            "| {name}{note} | {} | {} | {} | {} | {} | {} | {floor} | {refused} | `{}` |",
            reports.len(),
            spread(&|one| one.counts.accepted_a_second),
            spread(&|one| one.latency.p50_us),
            spread(&|one| one.latency.p99_us),
            spread(&|one| one.latency.p99_9_us),
            spread(&|one| one.latency.max_us),
            command(reports[0])
        )?;
    }
    Ok(())
}

/// What would give the figure again.
fn command(report: &Report) -> String {
    let settings = &report.settings;
    if let Some(program) = settings.mode.strip_prefix(PEER) {
        return format!(
            "{program} --rate {} --seconds {} --batch {} --window {} --accounts {}",
            settings.rate, settings.seconds, settings.batch, settings.window, settings.assets
        );
    }
    let mut out = format!(
        "karat-load {} --scenario {} --rate {} --seconds {} --batch {} --ack {}",
        report.kind,
        settings.scenario,
        settings.rate,
        settings.seconds,
        settings.batch,
        settings.ack
    );
    let mut add = |unusual: bool, text: String| {
        if unusual {
            out.push_str(&text);
        }
    };
    let arrivals = &settings.arrivals;
    let usual = arrivals == "constant" || settings.rate == "max";
    add(!usual, format!(" --arrivals {arrivals}"));
    add(
        settings.mode != "submit" && settings.mode != "kafka",
        format!(" --mode {}", settings.mode),
    );
    add(
        settings.mode == "kafka",
        format!(" --target {}", settings.target),
    );
    let (connections, streams) = (settings.connections, settings.streams);
    add(connections != 1, format!(" --connections {connections}"));
    add(streams != 1, format!(" --streams {streams}"));
    let lanes = connections * streams;
    let window = usual_window(settings.rate == "max", settings.batch, lanes) / lanes * lanes;
    add(
        settings.window != window,
        format!(" --window {}", settings.window),
    );
    add(
        settings.assets != 20_000,
        format!(" --assets {}", settings.assets),
    );
    add(settings.verdict == "review", " --verdict review".into());
    let watchers = settings.slow_watchers;
    add(watchers != 0, format!(" --slow-watchers {watchers}"));
    out
}

fn write_benches(out: &mut String, benches: &Benches) -> std::fmt::Result {
    if benches.nanoseconds.is_empty() {
        return Ok(());
    }
    let facts = benches.machine.iter();
    let facts: Vec<String> = facts
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    writeln!(
        out,
        "\nBenches: {}.\n\n| bench | one iteration |\n| --- | --- |",
        facts.join(", ")
    )?;
    for (name, nanoseconds) in &benches.nanoseconds {
        let time = match *nanoseconds {
            ns if ns >= 1e9 => format!("{:.2} s", ns / 1e9),
            ns if ns >= 1e6 => format!("{:.2} ms", ns / 1e6),
            ns if ns >= 1e3 => format!("{:.2} us", ns / 1e3),
            ns => format!("{ns:.1} ns"),
        };
        writeln!(out, "| {name} | {time} |")?;
    }
    Ok(())
}

fn figure(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::tests::report;

    #[test]
    fn runs_of_one_name_have_a_row_with_their_spread_and_the_command() {
        let folder = tempfile::tempdir().unwrap();
        for (name, us) in [
            ("slow-1", 300),
            ("slow-2", 500),
            ("slow-3", 400),
            ("alone", 7),
        ] {
            let path = folder.path().join(format!("{name}.json"));
            report("8", us, 100).write(&path).unwrap();
        }
        std::fs::write(folder.path().join("notes.txt"), "not looked at").unwrap();
        let benches = r#"{"machine": {"processors": "2"}, "nanoseconds": {"a/b": 1500.0}}"#;
        std::fs::write(folder.path().join(CRITERION), benches).unwrap();
        let table = table(folder.path(), Some("alone")).unwrap();
        assert!(
            table.contains("| slow | 3 | 10 (10-10) | 400 (300-500) |"),
            "{table}"
        );
        assert!(
            table.contains("| alone | 1 |") && table.contains("--batch 8"),
            "{table}"
        );
        // Its results have a window of one command.
        assert!(table.contains("--window 1"), "{table}");
        assert!(table.contains("Benches: processors 2."), "{table}");
        assert!(table.contains("| a/b | 1.50 us |"), "{table}");
        assert!(table.contains("Beside alone, turn by turn"), "{table}");
    }

    #[test]
    fn a_folder_without_results_and_a_file_that_is_none_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = table(folder.path(), None).unwrap_err().to_string();
        assert!(error.contains("no results"), "{error}");
        std::fs::write(folder.path().join("x-1.json"), "{}").unwrap();
        let error = table(folder.path(), None).unwrap_err().to_string();
        assert!(error.contains("x-1.json"), "{error}");
        assert!(table(&folder.path().join("nowhere"), None).is_err());
        let path = folder.path().join("x-1.json");
        report("1", 1, 1).write(&path).unwrap();
        let error = table(folder.path(), Some("y")).unwrap_err().to_string();
        assert!(error.contains("no y-1.json"), "{error}");
    }
}
