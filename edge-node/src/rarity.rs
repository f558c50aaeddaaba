//! Rarity solved exactly: traits are drawn from the distribution that the rules define, without trying and retrying.
//!
//! The probability of a combination is the product of its values' weights, divided by the sum of that product over
//! all combinations that the exclusions and the remaining caps leave. Sums are counted with integers by dynamic
//! programming: traits are visited along the exclusion graph, and all partial choices that leave the same values open
//! share one count. One number from the seed then selects the combination, so the same seed gives the same traits on
//! every machine.

use std::collections::HashMap;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use thiserror::Error;

use crate::seeds::TRAIT_STREAM;

/// Most traits of one set of rules.
pub const TRAITS_MOST: usize = 64;
/// Most values of one trait: open values are kept as one bit each of a word.
pub const VALUES_MOST: usize = 64;
/// Most exclusions of one set of rules.
pub const EXCLUSIONS_MOST: usize = 4_096;
/// Most caps of one set of rules.
pub const CAPS_MOST: usize = 4_096;
/// Most counts kept at a time, at most 40 MiB. Rules that need more in one draw are refused as too entangled.
pub const COUNTS_MOST: usize = 1 << 16;
/// The product of the traits' weight sums stays below 2^96. A draw takes 128 bits from the seed, so no combination's
/// probability is off by more than one part in 2^32.
const WEIGHT_BITS_MOST: u32 = 96;

/// Rules that make no sense, or leave nothing to draw.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RarityError {
    /// A list is longer than its bound.
    #[error("{found} {what}; the most is {most}")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// The bound.
        most: usize,
    },
    /// A trait has no values, or its weights do not match its values.
    #[error(
        "trait {index} has {values} values and {weights} weights; it needs 1 to 64 values and a weight for each"
    )]
    Shape {
        /// Index of the trait.
        index: usize,
        /// Its cardinality.
        values: usize,
        /// How many weights it has.
        weights: usize,
    },
    /// A rule names a trait or value that does not exist.
    #[error("{what} {position} names trait {trait_index} value {value}, which does not exist")]
    Unknown {
        /// "exclusion", "cap" or "traits".
        what: &'static str,
        /// Position in its list.
        position: usize,
        /// The trait named.
        trait_index: u8,
        /// The value named.
        value: u8,
    },
    /// An exclusion names one trait twice: two values of one trait exclude each other anyway.
    #[error(
        "exclusion {position} names trait {trait_index} twice; an exclusion is between two traits"
    )]
    SameTrait {
        /// Position in the list of exclusions.
        position: usize,
        /// The trait.
        trait_index: u8,
    },
    /// The weights' product leaves the range of exact counting.
    #[error(
        "the weights are too large: the product of the traits' weight sums must stay below 2^96; divide the weights by a common factor"
    )]
    WeightsTooLarge,
    /// The exclusions tie together so many traits that exact counting would not stay within its bound.
    #[error(
        "the exclusions are too entangled: counting needs more than {COUNTS_MOST} partial counts; use fewer exclusions across traits"
    )]
    TooEntangled,
    /// Nothing is left to draw.
    #[error(
        "no combination of traits is left: {used_up_caps} of {caps} caps are used up and the exclusions rule out the rest"
    )]
    NothingLeft {
        /// Caps that have reached their most.
        used_up_caps: usize,
        /// All caps.
        caps: usize,
    },
    /// A combination has the wrong number of traits.
    #[error("{found} traits were given; the rules have {expected}")]
    WrongLength {
        /// Traits given.
        found: usize,
        /// Traits of the rules.
        expected: usize,
    },
    /// A combination holds two values that exclude each other.
    #[error(
        "trait {first_trait} value {first_value} and trait {second_trait} value {second_value} exclude each other"
    )]
    Excluded {
        /// First trait.
        first_trait: u8,
        /// Its value.
        first_value: u8,
        /// Second trait.
        second_trait: u8,
        /// Its value.
        second_value: u8,
    },
    /// A value was used as often as it may be.
    #[error("trait {trait_index} value {value} was used {most} times, which is its cap")]
    CapReached {
        /// The trait.
        trait_index: u8,
        /// The value.
        value: u8,
        /// The cap.
        most: u32,
    },
}

/// What may be drawn, and how likely it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraitRules {
    /// Number of values of each trait, 1 to 64.
    pub cardinalities: Vec<u8>,
    /// Relative weight of each value. 0 means never.
    pub weights: Vec<Vec<u32>>,
    /// Pairs of (trait, value) that must not occur together.
    pub exclusions: Vec<((u8, u8), (u8, u8))>,
    /// (trait, value, most): how many assets may have this value. Where a value is named twice, the lower cap holds.
    pub caps: Vec<(u8, u8, u32)>,
}

impl TraitRules {
    /// Checks everything that does not depend on what was drawn before.
    pub fn validate(&self) -> Result<(), RarityError> {
        bounded("traits", self.cardinalities.len(), TRAITS_MOST)?;
        bounded("lists of weights", self.weights.len(), TRAITS_MOST)?;
        bounded("exclusions", self.exclusions.len(), EXCLUSIONS_MOST)?;
        bounded("caps", self.caps.len(), CAPS_MOST)?;
        let mut product: u128 = 1;
        for index in 0..self.cardinalities.len().max(self.weights.len()) {
            let values = usize::from(self.cardinalities.get(index).copied().unwrap_or(0));
            let weights = self.weights.get(index).map_or(&[][..], Vec::as_slice);
            if values == 0 || values > VALUES_MOST || values != weights.len() {
                return Err(RarityError::Shape {
                    index,
                    values,
                    weights: weights.len(),
                });
            }
            let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
            // A sum of 0 is found by the draw, which then has nothing left.
            product = product
                .checked_mul(sum.max(1))
                .ok_or(RarityError::WeightsTooLarge)?;
            if product >> WEIGHT_BITS_MOST != 0 {
                return Err(RarityError::WeightsTooLarge);
            }
        }
        for (position, (first, second)) in self.exclusions.iter().enumerate() {
            self.known("exclusion", position, *first)?;
            self.known("exclusion", position, *second)?;
            if first.0 == second.0 {
                return Err(RarityError::SameTrait {
                    position,
                    trait_index: first.0,
                });
            }
        }
        for (position, (trait_index, value, _)) in self.caps.iter().enumerate() {
            self.known("cap", position, (*trait_index, *value))?;
        }
        Ok(())
    }

    /// Whether a combination names every trait, each with a value that exists.
    pub fn in_vocabulary(&self, traits: &[u8]) -> Result<(), RarityError> {
        if traits.len() != self.cardinalities.len() {
            return Err(RarityError::WrongLength {
                found: traits.len(),
                expected: self.cardinalities.len(),
            });
        }
        for (index, value) in traits.iter().enumerate() {
            self.known("traits", index, (index as u8, *value))?;
        }
        Ok(())
    }

    /// Whether a combination is within the vocabulary and breaks no exclusion. Caps and weights are not looked at.
    pub fn allows(&self, traits: &[u8]) -> Result<(), RarityError> {
        self.in_vocabulary(traits)?;
        for (first, second) in &self.exclusions {
            if traits.get(usize::from(first.0)) == Some(&first.1)
                && traits.get(usize::from(second.0)) == Some(&second.1)
            {
                return Err(RarityError::Excluded {
                    first_trait: first.0,
                    first_value: first.1,
                    second_trait: second.0,
                    second_value: second.1,
                });
            }
        }
        Ok(())
    }

    fn known(
        &self,
        what: &'static str,
        position: usize,
        (trait_index, value): (u8, u8),
    ) -> Result<(), RarityError> {
        match self.cardinalities.get(usize::from(trait_index)) {
            Some(values) if value < *values => Ok(()),
            _ => Err(RarityError::Unknown {
                what,
                position,
                trait_index,
                value,
            }),
        }
    }
}

fn bounded(what: &'static str, found: usize, most: usize) -> Result<(), RarityError> {
    if found > most {
        Err(RarityError::TooMany { what, found, most })
    } else {
        Ok(())
    }
}

/// One value's effect on a trait that is chosen later: which of its values it closes.
#[derive(Debug, Clone, Copy)]
struct Closes {
    position: usize,
    values: u64,
}

/// Draws combinations and keeps count of the capped values.
#[derive(Debug, Clone)]
pub struct TraitSolver {
    rules: TraitRules,
    /// Traits in the order in which they are chosen: one connected part of the exclusion graph after the other, so
    /// that few closed values are carried along.
    order: Vec<usize>,
    /// For each position and value, what it closes later.
    closes: Vec<Vec<Vec<Closes>>>,
    /// Uses of each capped value, in the order of the caps.
    used: Vec<u32>,
    /// Weight of everything that can follow a position, given the closed values of the traits from there on.
    counts: HashMap<(usize, Vec<u64>), u128>,
}

impl TraitSolver {
    /// Takes rules that hold together; see [`TraitRules::validate`].
    pub fn new(rules: TraitRules) -> Result<Self, RarityError> {
        rules.validate()?;
        let order = order_of_choice(&rules);
        let mut position_of = vec![0; order.len()];
        for (position, trait_index) in order.iter().enumerate() {
            position_of[*trait_index] = position;
        }
        let mut closes: Vec<Vec<Vec<Closes>>> = order
            .iter()
            .map(|index| vec![Vec::new(); usize::from(rules.cardinalities[*index])])
            .collect();
        for (first, second) in &rules.exclusions {
            let (mut early, mut late) = (*first, *second);
            if position_of[usize::from(early.0)] > position_of[usize::from(late.0)] {
                std::mem::swap(&mut early, &mut late);
            }
            let position = position_of[usize::from(late.0)];
            let values = 1u64 << late.1;
            let list = &mut closes[position_of[usize::from(early.0)]][usize::from(early.1)];
            match list.iter_mut().find(|closed| closed.position == position) {
                Some(closed) => closed.values |= values,
                None => list.push(Closes { position, values }),
            }
        }
        let used = vec![0; rules.caps.len()];
        Ok(Self {
            rules,
            order,
            closes,
            used,
            counts: HashMap::new(),
        })
    }

    /// The rules.
    pub fn rules(&self) -> &TraitRules {
        &self.rules
    }

    /// Sum of the weights of all combinations that are left; 0 when nothing is left.
    pub fn weight_left(&mut self) -> Result<u128, RarityError> {
        let closed = self.closed_by_caps();
        self.count_from(0, &closed)
    }

    /// The combination that `seed` selects among what is left. Records nothing.
    pub fn draw(&mut self, seed: &[u8; 32]) -> Result<Vec<u8>, RarityError> {
        let weight = self.weight_left()?;
        if weight == 0 {
            return Err(self.nothing_left());
        }
        let mut random = ChaCha20Rng::from_seed(*seed);
        random.set_stream(TRAIT_STREAM);
        let number = (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64());
        self.combination_at(multiply_high(number, weight))
    }

    /// Draws a combination and counts it against the caps.
    pub fn take(&mut self, seed: &[u8; 32]) -> Result<Vec<u8>, RarityError> {
        let traits = self.draw(seed)?;
        self.record(&traits)?;
        Ok(traits)
    }

    /// Counts a combination that exists already against the caps, for example after a restart. Counts nothing where
    /// the combination breaks a rule.
    pub fn record(&mut self, traits: &[u8]) -> Result<(), RarityError> {
        self.rules.allows(traits)?;
        let hits = |(trait_index, value, _): &(u8, u8, u32)| {
            traits.get(usize::from(*trait_index)) == Some(value)
        };
        for (cap, used) in self.rules.caps.iter().zip(&self.used) {
            if hits(cap) && *used >= cap.2 {
                return Err(RarityError::CapReached {
                    trait_index: cap.0,
                    value: cap.1,
                    most: cap.2,
                });
            }
        }
        for (cap, used) in self.rules.caps.iter().zip(&mut self.used) {
            if hits(cap) {
                *used += 1;
            }
        }
        Ok(())
    }

    /// The combination whose share of `0..weight_left()` holds `number`. Every number of the range belongs to one
    /// combination, and a combination of weight w owns w consecutive numbers.
    fn combination_at(&mut self, mut number: u128) -> Result<Vec<u8>, RarityError> {
        let mut closed = self.closed_by_caps();
        let mut traits = vec![0u8; self.order.len()];
        for position in 0..self.order.len() {
            let trait_index = self.order[position];
            let mut chosen = None;
            for value in 0..self.rules.cardinalities[trait_index] {
                let Some((weight, next)) = self.choose(position, value, &closed) else {
                    continue;
                };
                let share = weight * self.count_from(position + 1, &next)?;
                if number < share {
                    // What is left of the number selects among the combinations that start this way.
                    number /= weight;
                    chosen = Some((value, next));
                    break;
                }
                number -= share;
            }
            let (value, next) = chosen.ok_or_else(|| self.nothing_left())?;
            traits[trait_index] = value;
            closed = next;
        }
        Ok(traits)
    }

    /// Weight of all ways to choose the traits from `position` on. `closed[i]` are the values that trait
    /// `position + i` cannot take any more.
    fn count_from(&mut self, position: usize, closed: &[u64]) -> Result<u128, RarityError> {
        if position == self.order.len() {
            return Ok(1);
        }
        let key = (position, closed.to_vec());
        if let Some(count) = self.counts.get(&key) {
            return Ok(*count);
        }
        let mut count: u128 = 0;
        for value in 0..self.rules.cardinalities[self.order[position]] {
            if let Some((weight, next)) = self.choose(position, value, closed) {
                // Cannot overflow: at most the product of all weight sums, which is below 2^96.
                count += weight * self.count_from(position + 1, &next)?;
            }
        }
        if self.counts.len() >= COUNTS_MOST {
            return Err(RarityError::TooEntangled);
        }
        self.counts.insert(key, count);
        Ok(count)
    }

    /// The weight of a value and what is closed after it; nothing if the value is closed or weighs nothing.
    fn choose(&self, position: usize, value: u8, closed: &[u64]) -> Option<(u128, Vec<u64>)> {
        let weight = self.rules.weights[self.order[position]][usize::from(value)];
        if weight == 0 || closed.first()? >> value & 1 == 1 {
            return None;
        }
        let mut next = closed[1..].to_vec();
        for closes in &self.closes[position][usize::from(value)] {
            next[closes.position - position - 1] |= closes.values;
        }
        Some((u128::from(weight), next))
    }

    /// Values that their caps close, by position.
    fn closed_by_caps(&mut self) -> Vec<u64> {
        // Old counts stay right, because what the caps close is part of their key; they only take room.
        if self.counts.len() > COUNTS_MOST / 2 {
            self.counts.clear();
        }
        let mut by_trait = vec![0u64; self.order.len()];
        for ((trait_index, value, most), used) in self.rules.caps.iter().zip(&self.used) {
            if used >= most {
                by_trait[usize::from(*trait_index)] |= 1 << value;
            }
        }
        self.order.iter().map(|index| by_trait[*index]).collect()
    }

    fn nothing_left(&self) -> RarityError {
        let used_up_caps = self
            .rules
            .caps
            .iter()
            .zip(&self.used)
            .filter(|(cap, used)| **used >= cap.2)
            .count();
        RarityError::NothingLeft {
            used_up_caps,
            caps: self.rules.caps.len(),
        }
    }
}

/// Breadth first through each connected part of the exclusion graph, parts and neighbours in index order.
fn order_of_choice(rules: &TraitRules) -> Vec<usize> {
    let traits = rules.cardinalities.len();
    let mut neighbours = vec![std::collections::BTreeSet::new(); traits];
    for (first, second) in &rules.exclusions {
        neighbours[usize::from(first.0)].insert(usize::from(second.0));
        neighbours[usize::from(second.0)].insert(usize::from(first.0));
    }
    let mut order: Vec<usize> = Vec::with_capacity(traits);
    let mut seen = vec![false; traits];
    for start in 0..traits {
        if seen[start] {
            continue;
        }
        seen[start] = true;
        let mut head = order.len();
        order.push(start);
        while let Some(index) = order.get(head).copied() {
            head += 1;
            for neighbour in &neighbours[index] {
                if !seen[*neighbour] {
                    seen[*neighbour] = true;
                    order.push(*neighbour);
                }
            }
        }
    }
    order
}

/// The upper 128 bits of a 256-bit product: `number * range / 2^128`.
fn multiply_high(number: u128, range: u128) -> u128 {
    const LOW: u128 = u64::MAX as u128;
    let (a_high, a_low) = (number >> 64, number & LOW);
    let (b_high, b_low) = (range >> 64, range & LOW);
    let middle = a_high * b_low + ((a_low * b_low) >> 64);
    let other = a_low * b_high + (middle & LOW);
    a_high * b_high + (middle >> 64) + (other >> 64)
}

#[cfg(test)]
#[path = "rarity_tests.rs"]
mod tests;
