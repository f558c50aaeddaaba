//! Where answers spend their time in the engine, by stage of the way to SEQUENCED.

use std::time::{Duration, Instant};

use karat_proto::v1::{StageTime, Stages};
use karat_sequencer::StageTimes;
use karat_sequencer::timing::DurationCounts;

/// The stages in the order of the way.
const NAMES: [&str; 6] = ["digest", "admission", "queue", "append", "apply", "ack"];

/// The way of one submission up to its outcomes. The answer's own stage comes when it leaves.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// Its message was read.
    pub received: Instant,
    /// Of the time until it was submitted, this was spent hashing content.
    pub digest: Duration,
    /// From the sequencer.
    pub times: StageTimes,
}

impl Way {
    /// As it is sent to who asked, at the moment of sending.
    pub fn stages(&self) -> Stages {
        let admitted = self.times.submitted.duration_since(self.received);
        Stages {
            digest_ns: nanoseconds(self.digest),
            admission_ns: nanoseconds(admitted.saturating_sub(self.digest)),
            queue_ns: nanoseconds(self.times.queue()),
            append_ns: nanoseconds(self.times.append()),
            apply_ns: nanoseconds(self.times.apply()),
            ack_ns: nanoseconds(self.times.applied.elapsed()),
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Counts of durations by stage, one for each submission. Recording takes no lock.
#[derive(Debug, Default)]
pub struct StageCounts {
    counts: [DurationCounts; NAMES.len()],
}

impl StageCounts {
    /// Counts one submission. The answer's own stage counts only where it left at SEQUENCED: later levels wait for more
    /// than the engine's threads.
    pub fn record(&self, stages: &Stages, left_at_sequenced: bool) {
        let all = [
            stages.digest_ns,
            stages.admission_ns,
            stages.queue_ns,
            stages.append_ns,
            stages.apply_ns,
            stages.ack_ns,
        ];
        let counted = if left_at_sequenced {
            all.len()
        } else {
            all.len() - 1
        };
        for (counts, ns) in self.counts.iter().zip(&all[..counted]) {
            counts.record(Duration::from_nanos(*ns));
        }
    }

    /// The figures of every stage that has any.
    pub fn figures(&self) -> Vec<StageTime> {
        NAMES
            .iter()
            .zip(&self.counts)
            .map(|(name, counts)| (name, counts.snapshot()))
            .filter(|(_, counts)| counts.count > 0)
            .map(|(name, counts)| StageTime {
                stage: (*name).to_owned(),
                count: counts.count,
                mean_ns: counts.sum_ns / counts.count,
                p50_ns: counts.quantile_ns(500),
                p99_ns: counts.quantile_ns(990),
                p999_ns: counts.quantile_ns(999),
                max_ns: counts.max_ns,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stages_of_a_way_cover_it_without_a_gap() {
        let received = Instant::now();
        let at = |us| received + Duration::from_micros(us);
        let way = Way {
            received,
            digest: Duration::from_micros(10),
            times: StageTimes {
                submitted: at(30),
                taken: at(70),
                appended: at(150),
                applied: at(310),
            },
        };
        let stages = way.stages();
        let before_the_answer = stages.digest_ns
            + stages.admission_ns
            + stages.queue_ns
            + stages.append_ns
            + stages.apply_ns;
        assert_eq!(before_the_answer, 310_000);
        assert_eq!((stages.digest_ns, stages.admission_ns), (10_000, 20_000));
        assert_eq!(
            (stages.queue_ns, stages.append_ns, stages.apply_ns),
            (40_000, 80_000, 160_000)
        );
    }

    #[test]
    fn later_levels_do_not_count_as_ways_of_the_answer() {
        let counts = StageCounts::default();
        let stages = Stages {
            queue_ns: 5,
            ack_ns: 7,
            ..Default::default()
        };
        counts.record(&stages, true);
        counts.record(&stages, false);
        let figures = counts.figures();
        let counted: Vec<_> = figures.iter().map(|one| (&*one.stage, one.count)).collect();
        assert_eq!(
            counted,
            [
                ("digest", 2),
                ("admission", 2),
                ("queue", 2),
                ("append", 2),
                ("apply", 2),
                ("ack", 1)
            ]
        );
        assert_eq!(figures[2].mean_ns, 5);
    }
}
