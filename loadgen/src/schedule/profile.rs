//! How the rate of arrivals changes over a run: pieces of time in each of which it is even, or rises or falls evenly.

use std::str::FromStr;
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// The shape of arrivals. What is written after the name are its numbers, each with a default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// `constant`: the same gap always.
    Constant,
    /// `poisson`: independent arrivals with exponential gaps, as from many clients that know nothing of each other.
    Poisson,
    /// `step:FACTOR`: Poisson, and from half of the measured time on this many times the rate.
    Step {
        /// Rate of the second half over the rate.
        factor: f64,
    },
    /// `ramp:FROM:TO`: Poisson, the rate changing evenly over the measured time.
    Ramp {
        /// First rate over the rate.
        from: f64,
        /// Last rate over the rate.
        to: f64,
    },
    /// `burst:FACTOR:EVERY_MS:LENGTH_MS`: Poisson, with one burst at a random moment of every period.
    Burst {
        /// Rate in a burst over the rate.
        factor: f64,
        /// A period, milliseconds.
        every_ms: u64,
        /// A burst, milliseconds.
        length_ms: u64,
    },
}

impl FromStr for Arrivals {
    type Err = String;

    fn from_str(text: &str) -> Result<Arrivals, String> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let numbers = parts
            .map(|part| part.parse::<f64>().map_err(|_| part))
            .collect::<Result<Vec<f64>, &str>>()
            .map_err(|part| format!("{part:?} in {text:?} is no number"))?;
        let factor = |place: usize, default: f64| match numbers.get(place) {
            None => Ok(default),
            Some(factor) if (0.01..=1_000.0).contains(factor) => Ok(*factor),
            Some(factor) => Err(format!("factor {factor} in {text:?} is not 0.01 to 1000")),
        };
        let milliseconds = |place: usize, default: u64| match numbers.get(place) {
            None => Ok(default),
            Some(value) if (1.0..=3_600_000.0).contains(value) => Ok(*value as u64),
            Some(value) => Err(format!("{value} ms in {text:?} is not 1 to 3600000")),
        };
        let (arrivals, most) = match name {
            "constant" => (Arrivals::Constant, 0),
            "poisson" => (Arrivals::Poisson, 0),
            "step" => (
                Arrivals::Step {
                    factor: factor(0, 2.0)?,
                },
                1,
            ),
            "ramp" => (
                Arrivals::Ramp {
                    from: factor(0, 0.1)?,
                    to: factor(1, 2.0)?,
                },
                2,
            ),
            "burst" => (
                Arrivals::Burst {
                    factor: factor(0, 10.0)?,
                    every_ms: milliseconds(1, 1_000)?,
                    length_ms: milliseconds(2, 100)?,
                },
                3,
            ),
            _ => {
                return Err(format!(
                    "{name:?} is not constant, poisson, step[:FACTOR], ramp[:FROM:TO] or burst[:FACTOR:EVERY_MS:LENGTH_MS]"
                ));
            }
        };
        if numbers.len() > most {
            return Err(format!("{text:?} has more than {most} numbers"));
        }
        if let Arrivals::Burst {
            every_ms,
            length_ms,
            ..
        } = arrivals
            && length_ms >= every_ms
        {
            return Err(format!(
                "a burst of {length_ms} ms does not end within its period of {every_ms} ms"
            ));
        }
        Ok(arrivals)
    }
}

impl std::fmt::Display for Arrivals {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Arrivals::Constant => out.write_str("constant"),
            Arrivals::Poisson => out.write_str("poisson"),
            Arrivals::Step { factor } => write!(out, "step:{factor}"),
            Arrivals::Ramp { from, to } => write!(out, "ramp:{from}:{to}"),
            Arrivals::Burst {
                factor,
                every_ms,
                length_ms,
            } => write!(out, "burst:{factor}:{every_ms}:{length_ms}"),
        }
    }
}

/// A time in which the rate goes evenly from one value to another, messages a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Piece {
    pub(super) length_ns: f64,
    pub(super) from: f64,
    pub(super) to: f64,
}

impl Piece {
    /// Messages in the whole piece.
    pub(super) fn messages(&self) -> f64 {
        (self.from + self.to) / 2.0 * (self.length_ns / 1e9)
    }

    /// When so many messages of the piece have come, nanoseconds since its beginning; `None` when it has fewer.
    pub(super) fn time_of(&self, messages: f64) -> Option<f64> {
        let growth = (self.to - self.from) / (self.length_ns / 1e9);
        let time = if growth == 0.0 {
            messages * (1e9 / self.from)
        } else {
            // The root of from * t + growth * t^2 / 2 = messages that lies in the piece. A falling rate that would reach
            // nothing before so many messages has no root: they do not come.
            let root = self.from * self.from + 2.0 * growth * messages;
            if root < 0.0 {
                return None;
            }
            (root.sqrt() - self.from) / growth * 1e9
        };
        (time < self.length_ns).then_some(time)
    }
}

/// What a run's rate is made of.
pub struct Shape<'a> {
    /// The shape within the measured time.
    pub arrivals: Arrivals,
    /// Messages a second.
    pub messages_a_second: f64,
    /// Before the measured time, at its first rate.
    pub warm_up: Duration,
    /// The measured time.
    pub measured: Duration,
    /// Shares of the measured time, and the rate in each over the rate; empty for one rate. Only for constant and Poisson.
    pub phases: &'a [(f64, f64)],
    /// For the moments of bursts.
    pub seed: u64,
}

impl Shape<'_> {
    pub(super) fn pieces(&self) -> Vec<Piece> {
        let rate = self.messages_a_second;
        let measured_ns = self.measured.as_nanos() as f64;
        let piece = |length_ns: f64, from: f64, to: f64| Piece {
            length_ns,
            from: from * rate,
            to: to * rate,
        };
        let measured = match self.arrivals {
            Arrivals::Constant | Arrivals::Poisson => {
                let whole: f64 = self.phases.iter().map(|(share, _)| share).sum();
                let phases = self.phases.iter();
                let mut pieces: Vec<_> = phases
                    .map(|(share, factor)| piece(measured_ns * share / whole, *factor, *factor))
                    .collect();
                if pieces.is_empty() {
                    pieces.push(piece(measured_ns, 1.0, 1.0));
                }
                pieces
            }
            Arrivals::Step { factor } => vec![
                piece(measured_ns / 2.0, 1.0, 1.0),
                piece(measured_ns / 2.0, factor, factor),
            ],
            Arrivals::Ramp { from, to } => vec![piece(measured_ns, from, to)],
            Arrivals::Burst {
                factor,
                every_ms,
                length_ms,
            } => {
                let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ 0x6275_7273_7473_2121);
                let (every_ns, burst_ns) = (every_ms as f64 * 1e6, length_ms as f64 * 1e6);
                let periods = (measured_ns / every_ns).ceil() as usize;
                let pieces = (0..periods).flat_map(|_| {
                    let before_ns = random.random_range(0.0..every_ns - burst_ns);
                    [
                        piece(before_ns, 1.0, 1.0),
                        piece(burst_ns, factor, factor),
                        piece(every_ns - burst_ns - before_ns, 1.0, 1.0),
                    ]
                });
                pieces.collect()
            }
        };
        let warm_up_ns = self.warm_up.as_nanos() as f64;
        let first = measured.first().map_or(rate, |first| first.from);
        let warm_up = Piece {
            length_ns: warm_up_ns,
            from: first,
            to: first,
        };
        let mut pieces: Vec<Piece> = Vec::with_capacity(measured.len() + 1);
        for piece in std::iter::once(warm_up).chain(measured) {
            if piece.length_ns <= 0.0 {
                continue;
            }
            // Even pieces of one rate are one piece, so that no rounding falls between them.
            match pieces.last_mut() {
                Some(last)
                    if last.from == last.to && last.to == piece.from && piece.from == piece.to =>
                {
                    last.length_ns += piece.length_ns;
                }
                _ => pieces.push(piece),
            }
        }
        pieces
    }
}
