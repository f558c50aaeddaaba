//! When messages are meant to be sent, decided before anything is sent.
//!
//! A sender that falls behind still takes every arrival with the time it was meant for, so what a stall delayed is
//! measured from then, and not from when the sender came round to it.

use std::time::Duration;

use clap::ValueEnum;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// How arrivals are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arrivals {
    /// The same gap always.
    Constant,
    /// Independent arrivals: exponential gaps, as from many clients that know nothing of each other.
    Poisson,
}

/// The arrivals of one run, nanoseconds since its start, in order.
pub struct Schedule {
    arrivals: Arrivals,
    gap_ns: f64,
    random: ChaCha8Rng,
    taken: u64,
    next_ns: f64,
    end_ns: u64,
}

impl Schedule {
    /// `messages_a_second` arrivals on average, for `duration`.
    pub fn new(
        arrivals: Arrivals,
        messages_a_second: f64,
        duration: Duration,
        seed: u64,
    ) -> Schedule {
        let mut schedule = Schedule {
            arrivals,
            gap_ns: 1e9 / messages_a_second,
            random: ChaCha8Rng::seed_from_u64(seed),
            taken: 0,
            next_ns: 0.0,
            end_ns: duration.as_nanos() as u64,
        };
        if arrivals == Arrivals::Poisson {
            schedule.next_ns = schedule.gap();
        }
        schedule
    }

    /// When the next message is meant to be sent; `None` at the end.
    pub fn next_ns(&self) -> Option<u64> {
        let next = self.next_ns as u64;
        (next < self.end_ns).then_some(next)
    }

    /// Takes the next arrival if its time has come, however late.
    pub fn take_due(&mut self, now_ns: u64) -> Option<u64> {
        let due = self.next_ns().filter(|next| *next <= now_ns)?;
        self.taken += 1;
        match self.arrivals {
            // From the count, so that no error adds up over an hour.
            Arrivals::Constant => self.next_ns = self.taken as f64 * self.gap_ns,
            Arrivals::Poisson => self.next_ns += self.gap(),
        }
        Some(due)
    }

    fn gap(&mut self) -> f64 {
        let uniform: f64 = self.random.random();
        -(1.0 - uniform).ln() * self.gap_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::Recorder;

    const MS: u64 = 1_000_000;

    fn all(mut schedule: Schedule) -> Vec<u64> {
        std::iter::from_fn(|| schedule.take_due(u64::MAX)).collect()
    }

    #[test]
    fn constant_arrivals_keep_their_gap_to_the_end() {
        let second = Duration::from_secs(1);
        let times = all(Schedule::new(Arrivals::Constant, 5_000.0, second, 1));
        assert_eq!(times.len(), 5_000);
        assert_eq!(times[0], 0);
        assert_eq!(times[4_999], 4_999 * 200_000);
    }

    #[test]
    fn poisson_arrivals_have_the_rate_asked_for_and_repeat_with_their_seed() {
        let hundred = Duration::from_secs(100);
        let times = all(Schedule::new(Arrivals::Poisson, 1_000.0, hundred, 7));
        // 100,000 expected with a deviation of 316: ten of them.
        assert!(
            (96_800..=103_200).contains(&times.len()),
            "{} arrivals",
            times.len()
        );
        assert_eq!(
            times,
            all(Schedule::new(Arrivals::Poisson, 1_000.0, hundred, 7))
        );
        // Gaps vary: a third of them (1 - 1/e = 63 % below the mean) would not, were they constant.
        let short = times
            .windows(2)
            .filter(|pair| pair[1] - pair[0] < MS)
            .count();
        let share = short as f64 / times.len() as f64;
        assert!((0.60..0.66).contains(&share), "{share} below the mean gap");
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let second = Duration::from_secs(1);
        let mut schedule = Schedule::new(Arrivals::Constant, 1_000.0, second, 1);
        assert_eq!(schedule.take_due(0), Some(0));
        assert_eq!(schedule.take_due(MS - 1), None);
        assert_eq!(schedule.take_due(MS), Some(MS));
    }

    #[test]
    fn a_stall_of_the_sender_shows_in_latency_from_the_intended_time() {
        let second = Duration::from_secs(1);
        let mut schedule = Schedule::new(Arrivals::Constant, 1_000.0, second, 1);
        let mut recorder = Recorder::new();
        // The target answers in no time; the sender sleeps through the 100 ms from 400 ms on.
        for now_ms in (0..400).chain(500..1_000) {
            while let Some(intended) = schedule.take_due(now_ms * MS) {
                recorder.sent_late_by(now_ms * MS - intended);
                recorder.accepted_after(now_ms * MS - intended);
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
