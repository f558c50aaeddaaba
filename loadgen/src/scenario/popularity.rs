//! Choosing one of many, some more often than others.

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

/// Zipf's law over places 0 to `count - 1`: place k has the weight 1 / (k + 1)^exponent.
pub struct Zipf {
    count: usize,
    /// Sums of the weights up to each place; empty when all weigh the same.
    sums: Vec<f64>,
}

impl Zipf {
    /// Over `count` places, at least 1. An exponent of 0 makes all the same. 8 bytes a place otherwise.
    pub fn new(count: usize, exponent: f64) -> Zipf {
        let mut sum = 0.0;
        let sums = match exponent == 0.0 {
            true => Vec::new(),
            false => (1..=count)
                .map(|place| {
                    sum += (place as f64).powf(-exponent);
                    sum
                })
                .collect(),
        };
        Zipf {
            count: count.max(1),
            sums,
        }
    }

    /// A place.
    pub fn choose(&self, random: &mut ChaCha8Rng) -> usize {
        match self.sums.last() {
            None => random.random_range(0..self.count),
            Some(whole) => {
                let point = random.random_range(0.0..*whole);
                self.sums
                    .partition_point(|sum| *sum <= point)
                    .min(self.count - 1)
            }
        }
    }
}

/// Weighted choice of a few things.
#[derive(Clone, Debug)]
pub struct Weighted<T> {
    things: Vec<(u64, T)>,
    whole: u64,
}

impl<T: Copy> Weighted<T> {
    /// Of things with their weights, of which one at least is above 0.
    pub fn new(things: impl IntoIterator<Item = (T, u32)>) -> Weighted<T> {
        let mut whole = 0;
        let mut summed = Vec::new();
        for (thing, weight) in things {
            whole += u64::from(weight);
            if weight > 0 {
                summed.push((whole, thing));
            }
        }
        Weighted {
            things: summed,
            whole,
        }
    }

    /// One of them.
    pub fn choose(&self, random: &mut ChaCha8Rng) -> T {
        let point = random.random_range(0..self.whole);
        let place = self.things.partition_point(|(sum, _)| *sum <= point);
        self.things[place].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    fn counts(zipf: &Zipf, count: usize) -> Vec<f64> {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let mut counts = vec![0.0; count];
        for _ in 0..200_000 {
            counts[zipf.choose(&mut random)] += 1.0;
        }
        counts
    }

    #[test]
    fn an_exponent_of_one_halves_thirds_and_quarters() {
        let counts = counts(&Zipf::new(100, 1.0), 100);
        for (place, divisor) in [(1, 2.0), (2, 3.0), (3, 4.0), (9, 10.0)] {
            let ratio = counts[0] / counts[place] / divisor;
            assert!((0.9..1.1).contains(&ratio), "place {place}: {ratio}");
        }
    }

    #[test]
    fn an_exponent_of_zero_is_even() {
        let counts = counts(&Zipf::new(10, 0.0), 10);
        assert!(
            counts
                .iter()
                .all(|count| (19_000.0..21_000.0).contains(count))
        );
    }

    #[test]
    fn weights_are_kept_and_what_weighs_nothing_never_comes() {
        let weighted = Weighted::new([('a', 1), ('b', 0), ('c', 3)]);
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..40_000 {
            *counts.entry(weighted.choose(&mut random)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 2);
        assert!((9_500..10_500).contains(&counts[&'a']), "{counts:?}");
    }
}
