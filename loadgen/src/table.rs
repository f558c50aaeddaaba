//! A folder of kept results as one table in Markdown: runs of the same name with their spread, and what benches measured.
//!
//! `NAME-1.json`, `NAME-2.json`, … are runs of one thing; `criterion.json` is a map from a bench's name to nanoseconds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::compare::Spread;
use crate::error::LoadError;
use crate::report::Report;

/// What the benches measured, beside the runs.
const CRITERION: &str = "criterion.json";

/// The table of a folder.
///
/// # Errors
/// When the folder cannot be read, holds nothing, or holds a JSON file that is no result.
pub fn table(folder: &Path) -> Result<String, LoadError> {
    let failed = |cause: String| LoadError::File {
        path: folder.display().to_string(),
        cause,
    };
    let mut groups: BTreeMap<String, Vec<Report>> = BTreeMap::new();
    let mut benches: BTreeMap<String, f64> = BTreeMap::new();
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
        let name = match stem.rsplit_once('-') {
            Some((name, number)) if number.parse::<u32>().is_ok() => name.to_owned(),
            _ => stem.into_owned(),
        };
        groups.entry(name).or_default().push(Report::read(&path)?);
    }
    if groups.is_empty() && benches.is_empty() {
        return Err(failed("no results in it".into()));
    }
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = write_runs(&mut out, &groups);
    let _ = write_benches(&mut out, &benches);
    Ok(out)
}

fn read_benches(path: &Path) -> Result<BTreeMap<String, f64>, LoadError> {
    let failed = |cause: String| LoadError::File {
        path: path.display().to_string(),
        cause,
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    serde_json::from_str(&text)
        .map_err(|error| failed(format!("not a map from names to nanoseconds: {error}")))
}

fn write_runs(out: &mut String, groups: &BTreeMap<String, Vec<Report>>) -> std::fmt::Result {
    let Some(machine) = groups
        .values()
        .flatten()
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
        "| what | runs | accepted a second | p50 | p99 | p99.9 | max | p99 over the floor's | command |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )?;
    for (name, reports) in groups {
        let spread = |of: &dyn Fn(&Report) -> f64| {
            let spread = Spread::of(reports.iter().map(of));
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
        let note = match reports.iter().all(Report::passed) {
            true => "",
            false => " **(books open)**",
        };
        writeln!(
            out,
            "| {name}{note} | {} | {} | {} | {} | {} | {} | {floor} | `{}` |",
            reports.len(),
            spread(&|one| one.counts.accepted_a_second),
            spread(&|one| one.latency.p50_us),
            spread(&|one| one.latency.p99_us),
            spread(&|one| one.latency.p99_9_us),
            spread(&|one| one.latency.max_us),
            command(&reports[0])
        )?;
    }
    Ok(())
}

/// What would give the figure again.
fn command(report: &Report) -> String {
    let settings = &report.settings;
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
        settings.mode != "submit",
        format!(" --mode {}", settings.mode),
    );
    let (connections, streams) = (settings.connections, settings.streams);
    add(connections != 1, format!(" --connections {connections}"));
    add(streams != 1, format!(" --streams {streams}"));
    add(
        settings.assets != 20_000,
        format!(" --assets {}", settings.assets),
    );
    add(settings.verdict == "review", " --verdict review".into());
    out
}

fn write_benches(out: &mut String, benches: &BTreeMap<String, f64>) -> std::fmt::Result {
    if benches.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n| bench | one iteration |\n| --- | --- |")?;
    for (name, nanoseconds) in benches {
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
        std::fs::write(folder.path().join(CRITERION), "{\"a/b\": 1500.0}").unwrap();
        let table = table(folder.path()).unwrap();
        assert!(
            table.contains("| slow | 3 | 10 (10-10) | 400 (300-500) |"),
            "{table}"
        );
        assert!(
            table.contains("| alone | 1 |") && table.contains("--batch 8"),
            "{table}"
        );
        assert!(table.contains("| a/b | 1.50 us |"), "{table}");
    }

    #[test]
    fn a_folder_without_results_and_a_file_that_is_none_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = table(folder.path()).unwrap_err().to_string();
        assert!(error.contains("no results"), "{error}");
        std::fs::write(folder.path().join("x-1.json"), "{}").unwrap();
        let error = table(folder.path()).unwrap_err().to_string();
        assert!(error.contains("x-1.json"), "{error}");
        assert!(table(&folder.path().join("nowhere")).is_err());
    }
}
