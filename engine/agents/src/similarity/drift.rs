//! How far a collection's output has moved from where it should be: a figure per window of audited assets.
//!
//! With mean `m` and standard deviation `s` of a window's embeddings, value by value, and `mean` and `deviation` of the
//! reference of the variant that made each, the figure is `sqrt(mean(((m - mean) / deviation)² + (s / deviation - 1)²))`: 0 where the window lies as the
//! reference does, 1 where it is off by one deviation, or where all its images are one and the same. A sound window of
//! `n` is off by chance alone by about `sqrt(1.5 / n)`, 0.077 of 256.

use std::collections::VecDeque;

use karat_edge_node::runtime::EMBEDDING_LENGTH;

use super::embedding::Embedding;

/// Audited assets that a collection's own reference is learnt from.
pub const LEARNT_FROM: u32 = 1_024;
/// Windows whose figures are kept.
pub const WINDOWS_KEPT: usize = 16;
/// A learnt deviation is at least this, in the auditor's deviations: a value that stood still while it was learnt must
/// not make every later movement endless.
const DEVIATION_MIN: f64 = 0.01;

/// Where the values of standardised embeddings should lie: mean and deviation of each.
pub type Basis = [(f64, f64); EMBEDDING_LENGTH];

/// Sums over some embeddings.
#[derive(Clone, Debug)]
struct Moments {
    count: u32,
    sums: [(f64, f64); EMBEDDING_LENGTH],
}

impl Moments {
    fn new() -> Moments {
        Moments {
            count: 0,
            sums: [(0.0, 0.0); EMBEDDING_LENGTH],
        }
    }

    fn add(&mut self, standardised: &Embedding) {
        self.count += 1;
        for (sum, value) in self.sums.iter_mut().zip(standardised) {
            let value = f64::from(*value);
            sum.0 += value;
            sum.1 += value * value;
        }
    }

    /// Mean and standard deviation of each value.
    fn basis(&self) -> Basis {
        let count = f64::from(self.count.max(1));
        self.sums.map(|(sum, squares)| {
            let mean = sum / count;
            // What rounding leaves below 0 is 0.
            (mean, (squares / count - mean * mean).max(0.0).sqrt())
        })
    }
}

/// The drift of one collection.
#[derive(Clone, Debug)]
pub struct Drift {
    window: u32,
    /// `None` while it is learnt.
    basis: Option<Basis>,
    current: Moments,
    windows: u64,
    figures_ppm: VecDeque<u32>,
}

/// What outlives a restart.
#[derive(Clone, Debug, PartialEq)]
pub struct DriftMemory {
    /// The learnt basis; `None` where the auditor's reference holds, or nothing is learnt yet.
    pub learnt: Option<Basis>,
    /// Windows so far.
    pub windows: u64,
    /// Figures of the last ones, parts per million, oldest first; at most [`WINDOWS_KEPT`].
    pub figures_ppm: Vec<u32>,
}

impl Drift {
    /// For a collection that the auditor's reference describes, or for one whose own is learnt first; `window` assets to
    /// a window.
    pub fn new(window: u32, described: bool) -> Drift {
        Drift {
            window: window.max(1),
            basis: described.then_some([(0.0, 1.0); EMBEDDING_LENGTH]),
            current: Moments::new(),
            windows: 0,
            figures_ppm: VecDeque::new(),
        }
    }

    /// Continues where another process left off; the window that it had begun is lost.
    pub fn remember(&mut self, memory: &DriftMemory) {
        if self.basis.is_none() {
            self.basis = memory.learnt;
        }
        self.windows = memory.windows;
        self.figures_ppm = memory.figures_ppm.iter().copied().collect();
        while self.figures_ppm.len() > WINDOWS_KEPT {
            self.figures_ppm.pop_front();
        }
    }

    /// What must outlive a restart. `described` as in [`Drift::new`].
    pub fn memory(&self, described: bool) -> DriftMemory {
        DriftMemory {
            learnt: self.basis.filter(|_| !described),
            windows: self.windows,
            figures_ppm: self.figures_ppm.iter().copied().collect(),
        }
    }

    /// Counts one audited asset by its standardised embedding. Returns whether a window ended or the basis is learnt:
    /// what [`Drift::memory`] gives has changed.
    pub fn count(&mut self, standardised: &Embedding) -> bool {
        self.current.add(standardised);
        match &self.basis {
            None if self.current.count < LEARNT_FROM => return false,
            None => {
                let learnt = self.current.basis();
                self.basis =
                    Some(learnt.map(|(mean, deviation)| (mean, deviation.max(DEVIATION_MIN))));
            }
            Some(_) if self.current.count < self.window => return false,
            Some(basis) => {
                let figure = drift_ppm(&self.current.basis(), basis);
                if self.figures_ppm.len() == WINDOWS_KEPT {
                    self.figures_ppm.pop_front();
                }
                self.figures_ppm.push_back(figure);
                self.windows += 1;
            }
        }
        self.current = Moments::new();
        true
    }

    /// The last whole window's figure, parts per million.
    pub fn last_ppm(&self) -> Option<u32> {
        self.figures_ppm.back().copied()
    }

    /// Figures of the last windows, oldest first.
    pub fn figures_ppm(&self) -> impl Iterator<Item = u32> + '_ {
        self.figures_ppm.iter().copied()
    }

    /// Whole windows so far.
    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// Assets counted since the last window ended, or since the collection's reference began to be learnt.
    pub fn counted(&self) -> u32 {
        self.current.count
    }

    /// Whether the collection's own reference is still being learnt.
    pub fn is_learning(&self) -> bool {
        self.basis.is_none()
    }
}

/// A window against its basis, both in standardised values: dividing both by the same deviations changes nothing.
fn drift_ppm(window: &Basis, basis: &Basis) -> u32 {
    let sum: f64 = window
        .iter()
        .zip(basis)
        .map(|((mean, deviation), (basis_mean, basis_deviation))| {
            let moved = (mean - basis_mean) / basis_deviation;
            let spread = deviation / basis_deviation - 1.0;
            moved * moved + spread * spread
        })
        .sum();
    // Saturates at 4294 deviations.
    ((sum / EMBEDDING_LENGTH as f64).sqrt() * 1e6).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every value the same.
    fn all(value: f32) -> Embedding {
        [value; EMBEDDING_LENGTH]
    }

    fn figure_of(drift: &mut Drift, window: &[Embedding]) -> u32 {
        let (last, others) = window.split_last().unwrap();
        for embedding in others {
            assert!(!drift.count(embedding));
        }
        assert!(drift.count(last));
        drift.last_ppm().unwrap()
    }

    #[test]
    fn figures_are_those_worked_out_by_hand() {
        let mut drift = Drift::new(4, true);
        let as_it_should_be = [all(1.0), all(-1.0), all(1.0), all(-1.0)];
        assert_eq!(figure_of(&mut drift, &as_it_should_be), 0);
        // Mean 0.5, deviation 1.
        let moved = [all(1.5), all(-0.5), all(1.5), all(-0.5)];
        assert_eq!(figure_of(&mut drift, &moved), 500_000);
        // Mean 0, deviation 3: off by 2.
        let wide = [all(3.0), all(-3.0), all(3.0), all(-3.0)];
        assert_eq!(figure_of(&mut drift, &wide), 2_000_000);
        // One image again and again, in the mean's place: deviation 0, off by 1.
        assert_eq!(figure_of(&mut drift, &[all(0.0); 4]), 1_000_000);
        // ... and one deviation beside it: sqrt(1 + 1).
        assert_eq!(figure_of(&mut drift, &[all(1.0); 4]), 1_414_214);
        // Only one value of 32 is off, by 4: sqrt(16 / 32).
        let mut one = as_it_should_be;
        one.iter_mut().for_each(|embedding| embedding[7] += 4.0);
        assert_eq!(figure_of(&mut drift, &one), 707_107);
        assert_eq!(drift.windows(), 6);
        assert_eq!(
            drift.figures_ppm().collect::<Vec<_>>(),
            [0, 500_000, 2_000_000, 1_000_000, 1_414_214, 707_107]
        );
    }

    #[test]
    fn a_collection_of_its_own_kind_is_measured_against_what_it_began_with() {
        let mut drift = Drift::new(2, false);
        // Mean 5, deviation 2.
        for number in 1..=LEARNT_FROM {
            assert!(drift.is_learning());
            assert_eq!(drift.counted(), number - 1);
            let value = if number % 2 == 0 { 3.0 } else { 7.0 };
            assert_eq!(drift.count(&all(value)), number == LEARNT_FROM);
        }
        assert!(!drift.is_learning());
        assert_eq!((drift.last_ppm(), drift.counted()), (None, 0));
        assert_eq!(figure_of(&mut drift, &[all(3.0), all(7.0)]), 0);
        assert_eq!(figure_of(&mut drift, &[all(5.0), all(9.0)]), 1_000_000);
        let memory = drift.memory(false);
        let mut again = Drift::new(2, false);
        again.remember(&memory);
        assert_eq!(again.memory(false), memory);
        assert_eq!(again.last_ppm(), Some(1_000_000));
        assert_eq!(figure_of(&mut again, &[all(3.0), all(7.0)]), 0);
        assert_eq!(again.windows(), 3);
    }

    #[test]
    fn what_stood_still_while_it_was_learnt_has_the_least_deviation() {
        let mut drift = Drift::new(1, false);
        for _ in 0..LEARNT_FROM {
            drift.count(&all(2.0));
        }
        drift.count(&all(2.1));
        // Moved by 0.1 of a deviation of 0.01, and a window of one has no spread: sqrt(10² + 1).
        let figure = drift.last_ppm().unwrap();
        assert!(figure.abs_diff(10_049_876) < 100, "{figure}");
    }

    #[test]
    fn no_more_windows_are_kept_than_the_bound() {
        let mut drift = Drift::new(1, true);
        for number in 0..40 {
            drift.count(&all(number as f32));
        }
        assert_eq!(drift.figures_ppm().count(), WINDOWS_KEPT);
        assert_eq!(drift.windows(), 40);
        let mut memory = drift.memory(true);
        assert_eq!(memory.learnt, None);
        memory.figures_ppm.insert(0, 7);
        drift.remember(&memory);
        assert_eq!(drift.figures_ppm().count(), WINDOWS_KEPT);
    }
}
