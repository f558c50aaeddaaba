//! Whole histograms in the form that HdrHistogram's own tools read and draw (`.hgrm`), values in microseconds.

use std::fmt::Write as _;
use std::path::Path;

use hdrhistogram::Histogram;

use crate::args::Ack;
use crate::error::LoadError;
use crate::recorder::Recorder;

/// Rows for each halving of the distance to 100 %: what HdrHistogram's tools write.
const ROWS_A_HALVING: u32 = 5;

/// The histograms of a run, by the names of their files.
pub struct Histograms {
    named: Vec<(String, Histogram<u64>)>,
}

impl Histograms {
    /// Those of a recorder: one for each ack level, refusals, and how late messages were sent.
    pub fn of(recorder: &Recorder, acks: &[Ack]) -> Histograms {
        let levels = acks.iter().enumerate().map(|(place, ack)| {
            let histogram = recorder.accepted_at(place).clone();
            (format!("latency-{}.hgrm", ack.name()), histogram)
        });
        let mut named: Vec<_> = levels.collect();
        named.push(("refusals.hgrm".into(), recorder.refused().clone()));
        named.push(("sent-late.hgrm".into(), recorder.scheduling().clone()));
        Histograms { named }
    }

    /// Writes those that hold anything into a folder, and returns an error for each file that could not be written.
    pub fn write(&self, folder: &Path) -> Vec<LoadError> {
        let mut failures = Vec::new();
        for (name, histogram) in &self.named {
            if histogram.is_empty() {
                continue;
            }
            let path = folder.join(name);
            if let Err(error) = std::fs::write(&path, hgrm(histogram)) {
                failures.push(LoadError::file(&path, error));
            }
        }
        failures
    }
}

/// A histogram of nanoseconds as text.
pub fn hgrm(histogram: &Histogram<u64>) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = write_hgrm(&mut out, histogram);
    out
}

fn write_hgrm(out: &mut String, histogram: &Histogram<u64>) -> std::fmt::Result {
    let us = |ns: f64| ns / 1_000.0;
    writeln!(
        out,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    )?;
    let mut so_far = 0;
    for row in histogram.iter_quantiles(ROWS_A_HALVING) {
        so_far += row.count_since_last_iteration();
        let (value, quantile) = (
            us(row.value_iterated_to() as f64),
            row.quantile_iterated_to(),
        );
        match quantile < 1.0 {
            true => writeln!(
                out,
                "{value:>12.3} {quantile:>2.12} {so_far:>10} {:>14.2}",
                1.0 / (1.0 - quantile)
            )?,
            false => writeln!(out, "{value:>12.3} {quantile:>2.12} {so_far:>10}")?,
        }
    }
    writeln!(
        out,
        "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]",
        us(histogram.mean()),
        us(histogram.stdev())
    )?;
    writeln!(
        out,
        "#[Max     = {:>12.3}, Total count    = {:>12}]",
        us(histogram.max() as f64),
        histogram.len()
    )?;
    writeln!(
        out,
        "#[Buckets = {:>12}, SubBuckets     = {:>12}]",
        histogram.buckets(),
        histogram
            .distinct_values()
            .div_ceil(usize::from(histogram.buckets()).max(1))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_rise_to_the_largest_value_and_count_everything() {
        let mut recorder = Recorder::new(1);
        for us in 1..=1_000u64 {
            recorder.accepted_after(0, us * 1_000);
        }
        let text = hgrm(recorder.accepted_at(0));
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let fields = line.split_whitespace();
                fields.map(|field| field.parse().unwrap()).collect()
            })
            .collect();
        assert!(rows.len() > 20, "{text}");
        assert!(rows.is_sorted_by(|a, b| a[0] <= b[0] && a[1] <= b[1] && a[2] <= b[2]));
        let last = rows.last().unwrap();
        assert_eq!((last[1], last[2], last.len()), (1.0, 1_000.0, 3));
        assert!((last[0] - 1_000.0).abs() < 1.0);
        assert!(text.contains("Total count    =         1000"), "{text}");
    }

    #[test]
    fn a_folder_holds_a_file_for_each_level_that_was_asked_for() {
        let mut recorder = Recorder::new(2);
        recorder.accepted_after(0, 5_000);
        recorder.accepted_after(1, 9_000);
        recorder.sent_late_by(10);
        let folder = tempfile::tempdir().unwrap();
        let histograms = Histograms::of(&recorder, &[Ack::Sequenced, Ack::Durable]);
        assert!(histograms.write(folder.path()).is_empty());
        let mut names: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let expected = [
            "latency-durable.hgrm",
            "latency-sequenced.hgrm",
            "sent-late.hgrm",
        ];
        assert_eq!(names, expected);
    }
}
