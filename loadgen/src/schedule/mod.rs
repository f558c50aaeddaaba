//! When messages are meant to be sent, decided before anything is sent.
//!
//! A sender that falls behind still takes every arrival with the time it was meant for, so what a stall delayed is
//! measured from then, and not from when the sender came round to it.

mod profile;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use profile::Piece;
pub use profile::{Arrivals, Shape};

/// The arrivals of one run, nanoseconds since its start, in order.
pub struct Schedule {
    pieces: std::vec::IntoIter<Piece>,
    piece: Option<Piece>,
    /// When the piece began, and which message that was.
    piece_start_ns: f64,
    piece_first: f64,
    /// The message that comes next, counted from the start: whole numbers where gaps are even, so that no error adds up.
    message: f64,
    /// Exponential gaps instead of even ones.
    random: Option<ChaCha8Rng>,
    next_ns: Option<u64>,
    end_ns: u64,
}

impl Schedule {
    /// The arrivals of this shape.
    pub fn new(shape: &Shape<'_>) -> Schedule {
        let mut pieces = shape.pieces().into_iter();
        let mut schedule = Schedule {
            piece: pieces.next(),
            pieces,
            piece_start_ns: 0.0,
            piece_first: 0.0,
            message: 0.0,
            random: (shape.arrivals != Arrivals::Constant)
                .then(|| ChaCha8Rng::seed_from_u64(shape.seed)),
            next_ns: None,
            end_ns: (shape.warm_up + shape.measured).as_nanos() as u64,
        };
        if schedule.random.is_some() {
            schedule.message = schedule.gap();
        }
        schedule.find();
        schedule
    }

    /// When the next message is meant to be sent; `None` at the end.
    pub fn next_ns(&self) -> Option<u64> {
        self.next_ns
    }

    /// Takes the next arrival if its time has come, however late.
    pub fn take_due(&mut self, now_ns: u64) -> Option<u64> {
        let due = self.next_ns.filter(|next| *next <= now_ns)?;
        self.message += self.gap();
        self.find();
        Some(due)
    }

    /// About how many arrivals are still to be taken (of irregular ones, the mean).
    pub fn rest(&self) -> u64 {
        let here = self.piece.map_or(0.0, |piece| {
            piece.messages() - (self.message - self.piece_first)
        });
        let later: f64 = self.pieces.as_slice().iter().map(Piece::messages).sum();
        (here + later).max(0.0) as u64
    }

    /// Messages from one arrival to the next: 1, or with a mean of 1.
    fn gap(&mut self) -> f64 {
        match &mut self.random {
            None => 1.0,
            Some(random) => {
                let uniform: f64 = random.random();
                -(1.0 - uniform).ln()
            }
        }
    }

    /// Finds the time of `message`.
    fn find(&mut self) {
        self.next_ns = loop {
            let Some(piece) = self.piece else {
                break None;
            };
            if let Some(time) = piece.time_of(self.message - self.piece_first) {
                break Some((self.piece_start_ns + time) as u64);
            }
            self.piece_start_ns += piece.length_ns;
            self.piece_first += piece.messages();
            self.piece = self.pieces.next();
        }
        .filter(|next| *next < self.end_ns);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::recorder::Recorder;

    const MS: u64 = 1_000_000;

    fn shape(arrivals: &str, messages_a_second: f64, seconds: u64) -> Shape<'static> {
        Shape {
            arrivals: arrivals.parse().unwrap(),
            messages_a_second,
            warm_up: Duration::ZERO,
            measured: Duration::from_secs(seconds),
            phases: &[],
            seed: 7,
        }
    }

    fn all(shape: &Shape<'_>) -> Vec<u64> {
        let mut schedule = Schedule::new(shape);
        std::iter::from_fn(|| schedule.take_due(u64::MAX)).collect()
    }

    /// Arrivals between two moments, seconds.
    fn between(times: &[u64], from: f64, to: f64) -> f64 {
        let inside = |time: &&u64| (from * 1e9..to * 1e9).contains(&(**time as f64));
        times.iter().filter(inside).count() as f64
    }

    fn about(found: f64, expected: f64) {
        // Ten deviations of a Poisson count.
        let most = 10.0 * expected.sqrt();
        assert!(
            (found - expected).abs() <= most,
            "{found} arrivals, {expected} expected"
        );
    }

    #[test]
    fn constant_arrivals_keep_their_gap_to_the_end() {
        let times = all(&shape("constant", 5_000.0, 1));
        assert_eq!(times.len(), 5_000);
        assert_eq!(times[0], 0);
        assert_eq!(times[4_999], 4_999 * 200_000);
    }

    #[test]
    fn warm_up_and_measured_time_are_one_even_row() {
        let mut shape = shape("constant", 1_000.0, 2);
        shape.warm_up = Duration::from_secs(1);
        let times = all(&shape);
        assert_eq!(times.len(), 3_000);
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] == MS));
    }

    #[test]
    fn poisson_arrivals_have_the_rate_asked_for() {
        let times = all(&shape("poisson", 1_000.0, 100));
        about(times.len() as f64, 100_000.0);
        // Gaps vary: 1 - 1/e = 63 % of them are below the mean.
        let short = times
            .windows(2)
            .filter(|pair| pair[1] - pair[0] < MS)
            .count();
        let share = short as f64 / times.len() as f64;
        assert!((0.60..0.66).contains(&share), "{share} below the mean gap");
    }

    #[test]
    fn a_step_a_ramp_and_bursts_have_their_rates() {
        let step = all(&shape("step:4", 1_000.0, 20));
        about(between(&step, 0.0, 10.0), 10_000.0);
        about(between(&step, 10.0, 20.0), 40_000.0);

        let ramp = all(&shape("ramp:0.5:1.5", 1_000.0, 20));
        // The rate at 5 s is 0.75 of it, so the first half has 0.75 of 10,000.
        about(between(&ramp, 0.0, 10.0), 7_500.0);
        about(between(&ramp, 10.0, 20.0), 12_500.0);
        let falling = all(&shape("ramp:2:0.5", 1_000.0, 20));
        about(falling.len() as f64, 25_000.0);

        let burst = all(&shape("burst:10:1000:100", 1_000.0, 20));
        // 900 ms at 1,000/s and 100 ms at 10,000/s in each of 20 seconds.
        about(burst.len() as f64, 20.0 * 1_900.0);
        let fullest = (0..200).map(|tenth| {
            let from = f64::from(tenth) / 10.0;
            between(&burst, from, from + 0.1) as u64
        });
        assert!(
            fullest.max().unwrap() > 400,
            "a tenth of a second has 100 without a burst"
        );
    }

    #[test]
    fn phases_have_their_share_of_the_time_and_their_rate() {
        let mut shape = shape("constant", 1_000.0, 10);
        shape.phases = &[(1.0, 0.5), (3.0, 2.0)];
        let times = all(&shape);
        about(between(&times, 0.0, 2.5), 1_250.0);
        about(between(&times, 2.5, 10.0), 15_000.0);
    }

    #[test]
    fn arrivals_repeat_with_their_seed_and_are_in_order() {
        for arrivals in ["poisson", "step:3", "ramp:0.1:3", "burst:20:500:20"] {
            let mut shape = shape(arrivals, 2_000.0, 5);
            let times = all(&shape);
            assert_eq!(times, all(&shape), "{arrivals}");
            assert!(times.is_sorted(), "{arrivals}");
            shape.seed = 8;
            assert_ne!(times, all(&shape), "{arrivals}");
        }
    }

    #[test]
    fn what_is_no_shape_is_refused_with_the_reason() {
        for (text, reason) in [
            ("sawtooth", "is not constant, poisson"),
            ("constant:1", "more than 0 numbers"),
            ("step:0", "not 0.01 to 1000"),
            ("step:x", "no number"),
            ("ramp:1:2:3", "more than 2 numbers"),
            ("burst:10:100:100", "does not end within its period"),
        ] {
            let error = text.parse::<Arrivals>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        for text in [
            "constant",
            "poisson",
            "step:2",
            "ramp:0.1:2",
            "burst:10:1000:100",
        ] {
            assert_eq!(text.parse::<Arrivals>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let mut schedule = Schedule::new(&shape("constant", 1_000.0, 1));
        assert_eq!(schedule.take_due(0), Some(0));
        assert_eq!(schedule.take_due(MS - 1), None);
        assert_eq!(schedule.take_due(MS), Some(MS));
        assert_eq!(schedule.rest(), 998);
    }

    #[test]
    fn a_stall_of_the_sender_shows_in_latency_from_the_intended_time() {
        let mut schedule = Schedule::new(&shape("constant", 1_000.0, 1));
        let mut recorder = Recorder::new(1);
        // The target answers in no time; the sender sleeps through the 100 ms from 400 ms on.
        for now_ms in (0..400).chain(500..1_000) {
            while let Some(intended) = schedule.take_due(now_ms * MS) {
                recorder.sent_late_by(now_ms * MS - intended);
                recorder.accepted_after(0, now_ms * MS - intended);
            }
        }
        let latency = recorder.accepted();
        // Nobody was forgotten, and a tenth of all arrivals waited 1 to 100 ms.
        assert_eq!(latency.count, 1_000);
        assert_eq!(latency.p50_us, 0.0);
        assert!(latency.p99_us > 85_000.0, "p99 {} us", latency.p99_us);
        assert!(latency.max_us > 99_000.0, "max {} us", latency.max_us);
        assert_eq!(recorder.scheduling_error().max_us, latency.max_us);
    }
}
