//! Runs that were taken in turns, each beside the baseline's run of the same turn: what a machine does differently from
//! one minute to the next is in both.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::compare::Spread;
use crate::report::Report;

/// Runs of one thing, by their number.
pub type Runs = BTreeMap<u32, Report>;

/// The table of all groups beside the one that is called `baseline`. `None` when there is none of that name.
pub fn render(groups: &BTreeMap<String, Runs>, baseline: &str) -> Option<String> {
    let beside = groups.get(baseline)?;
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = write_table(&mut out, groups, baseline, beside);
    Some(out)
}

fn write_table(
    out: &mut String,
    groups: &BTreeMap<String, Runs>,
    baseline: &str,
    beside: &Runs,
) -> std::fmt::Result {
    writeln!(
        out,
        "\nBeside {baseline}, turn by turn. Median (least-most) of the turns.\n\n\
         | what | turns | p50 over {baseline}'s | p99 over {baseline}'s | p99.9 more than {baseline}'s, ms |\n\
         | --- | --- | --- | --- | --- |"
    )?;
    for (name, runs) in groups {
        let turns: Vec<(&Report, &Report)> = runs
            .iter()
            .filter_map(|(number, run)| Some((run, beside.get(number)?)))
            .collect();
        if name == baseline || turns.is_empty() {
            continue;
        }
        let over = |of: fn(&Report) -> f64| {
            // A run without one accepted command has no latency to be compared with.
            let pairs = turns.iter().filter(|(_, base)| of(base) > 0.0);
            let spread = Spread::of(pairs.map(|(run, base)| of(run) / of(base)));
            format!(
                "{:.2}x ({:.2}-{:.2})",
                spread.median, spread.least, spread.most
            )
        };
        let p99_9_ms = |report: &Report| report.latency.p99_9_us / 1_000.0;
        let more = Spread::of(
            turns
                .iter()
                .map(|(run, base)| p99_9_ms(run) - p99_9_ms(base)),
        );
        writeln!(
            out,
            "| {name} | {} | {} | {} | {:+.1} ({:+.1} to {:+.1}) |",
            turns.len(),
            over(|one| one.latency.p50_us),
            over(|one| one.latency.p99_us),
            more.median,
            more.least,
            more.most
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::tests::report;

    fn runs(us: &[(u32, u64)]) -> Runs {
        us.iter()
            .map(|(number, us)| (*number, report("1", *us, 10)))
            .collect()
    }

    #[test]
    fn each_run_is_set_beside_the_baselines_run_of_its_own_turn() {
        // The machine was slower in each turn; what is compared was not.
        let groups = BTreeMap::from([
            (
                "base".to_owned(),
                runs(&[(1, 1_000), (2, 2_000), (3, 4_000)]),
            ),
            (
                "same".to_owned(),
                runs(&[(1, 1_000), (2, 2_000), (3, 4_000)]),
            ),
            ("more".to_owned(), runs(&[(1, 2_000), (3, 6_000), (9, 1)])),
        ]);
        let table = render(&groups, "base").unwrap();
        assert!(
            table.contains(
                "| same | 3 | 1.00x (1.00-1.00) | 1.00x (1.00-1.00) | +0.0 (+0.0 to +0.0) |"
            ),
            "{table}"
        );
        // Of two, the lower; the ninth turn has no baseline.
        assert!(
            table.contains(
                "| more | 2 | 1.50x (1.50-2.00) | 1.50x (1.50-2.00) | +1.0 (+1.0 to +2.0) |"
            ),
            "{table}"
        );
        assert!(!table.contains("| base |"), "{table}");
    }

    #[test]
    fn a_baseline_that_is_not_there_is_none() {
        assert_eq!(render(&BTreeMap::new(), "base"), None);
    }
}
