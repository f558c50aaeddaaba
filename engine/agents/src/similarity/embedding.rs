//! Embeddings, and the reference that gives their values a unit.

use karat_edge_node::runtime::EMBEDDING_LENGTH;
use karat_proto::Digest;
use karat_proto::command::{CollectionSpec, TraitSpec};

/// An auditor's point for an image; near to those of similar images.
pub type Embedding = [f32; EMBEDDING_LENGTH];

/// Steps of a [`Code`] in one deviation of the reference: with 8 bits a code reaches 8 deviations to either side of the
/// mean. Rounding moves a distance `d` to about `sqrt(d² + 1 / (6 * 16²))`: 0.10 becomes 0.103.
pub const STEPS_A_DEVIATION: f32 = 16.0;

/// What embeddings are measured against: how an auditor's embeddings of sound assets lie.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// Digest of the auditor's manifest: embeddings of two auditors have nothing to do with each other.
    pub model: Digest,
    /// Mean of each value.
    pub mean: Embedding,
    /// Standard deviation of each value; above 0.
    pub deviation: Embedding,
    /// The same for assets of single variants of the generators.
    pub of_variants: Vec<VariantReference>,
    /// Traits and rarity weights that the reference's assets were drawn with.
    pub traits: Vec<TraitSpec>,
    /// Audited assets in one window of the drift.
    pub drift_window: u32,
    /// A window whose drift is above this raises an alarm, times a million.
    pub drift_alarm_ppm: u32,
}

/// How an auditor's embeddings of one variant's sound assets lie.
#[derive(Clone, Debug, PartialEq)]
pub struct VariantReference {
    /// Name of the variant.
    pub variant: String,
    /// Mean of each value.
    pub mean: Embedding,
    /// Standard deviation of each value; above 0.
    pub deviation: Embedding,
}

fn standardised(embedding: &Embedding, mean: &Embedding, deviation: &Embedding) -> Embedding {
    std::array::from_fn(|index| (embedding[index] - mean[index]) / deviation[index])
}

impl Reference {
    /// The values in deviations from the reference's mean: what embeddings are compared by.
    pub fn standardise(&self, embedding: &Embedding) -> Embedding {
        standardised(embedding, &self.mean, &self.deviation)
    }

    /// The values in deviations from the mean of the variant that made the asset, where the auditor knows it, so that
    /// what tells variants apart is no drift; else from the reference's.
    pub fn standardise_for_drift(&self, embedding: &Embedding, variant: &str) -> Embedding {
        let known = self.of_variants.iter().find(|of| of.variant == variant);
        known.map_or_else(
            || self.standardise(embedding),
            |of| standardised(embedding, &of.mean, &of.deviation),
        )
    }

    /// Whether a collection's assets are drawn as the reference's were: the same traits and values by name, in whatever
    /// order, with weights in the same proportions.
    pub fn describes(&self, collection: &CollectionSpec) -> bool {
        let share = |spec: &TraitSpec, value: usize| {
            let all: u64 = spec.weights.iter().map(|weight| u64::from(*weight)).sum();
            // Weights are below 2^32 and so is their number: neither product overflows 128 bits.
            spec.weights
                .get(value)
                .map(|weight| (u128::from(*weight), u128::from(all)))
        };
        let same_trait = |own: &TraitSpec| {
            let Some(known) = self.traits.iter().find(|known| known.name == own.name) else {
                return false;
            };
            known.values.len() == own.values.len()
                && own.values.iter().enumerate().all(|(place, name)| {
                    let there = known.values.iter().position(|other| other == name);
                    let there = there.and_then(|there| share(known, there));
                    match (share(own, place), there) {
                        (Some((own, own_all)), Some((other, other_all))) => {
                            own * other_all == other * own_all
                        }
                        _ => false,
                    }
                })
        };
        self.traits.len() == collection.traits.len() && collection.traits.iter().all(same_trait)
    }
}

/// A standardised embedding in 8 bits a value, biased so that the mean is 128. Kept in two halves: the first alone tells
/// almost every other image apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// The first half of the values.
    pub first: [u8; EMBEDDING_LENGTH / 2],
    /// The second half.
    pub second: [u8; EMBEDDING_LENGTH / 2],
}

impl Code {
    /// Rounds a standardised embedding; what lies beyond 8 deviations is taken for 8.
    pub fn of(standardised: &Embedding) -> Code {
        const HALF: usize = EMBEDDING_LENGTH / 2;
        // A float beyond the range, infinite or no number saturates in the conversion.
        let step = |value: f32| (value * STEPS_A_DEVIATION + 128.5).floor() as u8;
        Code {
            first: std::array::from_fn(|index| step(standardised[index])),
            second: std::array::from_fn(|index| step(standardised[HALF + index])),
        }
    }

    /// Sum of the squared differences of all values, in steps.
    pub fn squared_steps(&self, other: &Code) -> u32 {
        squares(&self.first, &other.first) + squares(&self.second, &other.second)
    }
}

/// At most 16 * 255², far below 32 bits.
fn squares(one: &[u8; EMBEDDING_LENGTH / 2], other: &[u8; EMBEDDING_LENGTH / 2]) -> u32 {
    one.iter()
        .zip(other)
        .map(|(one, other)| {
            let difference = u32::from(one.abs_diff(*other));
            difference * difference
        })
        .sum()
}

/// Squared steps of one squared unit of distance: values times squared steps.
const SQUARED_STEPS_A_UNIT: f64 =
    (EMBEDDING_LENGTH as f64) * (STEPS_A_DEVIATION as f64) * (STEPS_A_DEVIATION as f64);

/// The distance, `sqrt(mean of squared differences)` in deviations, times a million.
pub fn distance_ppm(squared_steps: u32) -> u32 {
    // At most 16 deviations: 32 values that differ by 255 steps of a sixteenth.
    ((f64::from(squared_steps) / SQUARED_STEPS_A_UNIT).sqrt() * 1e6).round() as u32
}

/// The squared steps that a distance below `below_ppm` stays below.
pub fn squared_steps_below(below_ppm: u32) -> u32 {
    let distance = f64::from(below_ppm) / 1e6;
    // Codes are at most 32 * 255² apart; a larger bound is as good as this one.
    (distance * distance * SQUARED_STEPS_A_UNIT).ceil().min(1e8) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec(name: &str, values: &[(&str, u32)]) -> TraitSpec {
        TraitSpec {
            name: name.into(),
            values: values.iter().map(|(name, _)| (*name).into()).collect(),
            weights: values.iter().map(|(_, weight)| *weight).collect(),
        }
    }

    fn reference(traits: Vec<TraitSpec>) -> Reference {
        Reference {
            model: [1; 32],
            mean: [0.5; EMBEDDING_LENGTH],
            deviation: [0.25; EMBEDDING_LENGTH],
            of_variants: vec![VariantReference {
                variant: "small".into(),
                mean: [1.0; EMBEDDING_LENGTH],
                deviation: [0.5; EMBEDDING_LENGTH],
            }],
            traits,
            drift_window: 4,
            drift_alarm_ppm: 1,
        }
    }

    fn collection(traits: Vec<TraitSpec>) -> CollectionSpec {
        CollectionSpec {
            name: "c".into(),
            supply_cap: 1,
            traits,
            exclusions: vec![],
            value_caps: vec![],
            claim_rule: karat_proto::command::ClaimRule::First,
            pending_rule: Default::default(),
            seed_commitment: [0; 32],
            royalty_basis_points: 0,
            royalty_receiver: karat_proto::Account::NOBODY,
        }
    }

    #[test]
    fn a_collection_is_described_by_equal_shares_of_equal_names() {
        let gem = spec("gem", &[("ruby", 1), ("jade", 3)]);
        let metal = spec("metal", &[("iron", 5), ("gold", 5)]);
        let reference = reference(vec![gem.clone(), metal.clone()]);
        let yes = [
            vec![gem.clone(), metal.clone()],
            vec![metal.clone(), gem.clone()],
            vec![spec("gem", &[("jade", 6), ("ruby", 2)]), metal.clone()],
        ];
        for traits in yes {
            assert!(reference.describes(&collection(traits)));
        }
        let no = [
            vec![gem.clone()],
            vec![spec("gem", &[("ruby", 2), ("jade", 3)]), metal.clone()],
            vec![spec("gem", &[("ruby", 1), ("opal", 3)]), metal.clone()],
            vec![spec("stone", &[("ruby", 1), ("jade", 3)]), metal.clone()],
            vec![gem, spec("metal", &[("iron", 5), ("gold", 5), ("tin", 0)])],
        ];
        for traits in no {
            assert!(!reference.describes(&collection(traits)));
        }
    }

    #[test]
    fn standardised_values_are_rounded_to_sixteenths_and_held_within_eight_deviations() {
        let reference = reference(vec![]);
        let mut embedding = [0.5; EMBEDDING_LENGTH];
        embedding[0] = 0.75;
        embedding[1] = 1e9;
        embedding[31] = -1e9;
        embedding[30] = 0.5 - 0.25 / 16.0;
        let code = Code::of(&reference.standardise(&embedding));
        assert_eq!(code.first[..3], [144, 255, 128]);
        assert_eq!(code.second[13..], [128, 127, 0]);
    }

    #[test]
    fn drift_is_measured_from_where_the_variant_that_made_an_asset_lies() {
        let reference = reference(vec![]);
        let at = |value: f32| [value; EMBEDDING_LENGTH];
        assert_eq!(reference.standardise_for_drift(&at(2.0), "small"), at(2.0));
        assert_eq!(reference.standardise_for_drift(&at(1.0), "other"), at(2.0));
        assert_eq!(reference.standardise(&at(1.0)), at(2.0));
    }

    #[test]
    fn distances_are_those_of_the_definition() {
        let at = |value: f32| Code::of(&[value; EMBEDDING_LENGTH]);
        assert_eq!(distance_ppm(at(0.0).squared_steps(&at(0.5))), 500_000);
        assert_eq!(distance_ppm(at(-1.0).squared_steps(&at(2.0))), 3_000_000);
        let mut one = [0.0; EMBEDDING_LENGTH];
        one[20] = 2.0;
        // sqrt(2² / 32)
        assert_eq!(
            distance_ppm(at(0.0).squared_steps(&Code::of(&one))),
            353_553
        );
        assert_eq!(
            squared_steps_below(500_000),
            at(0.0).squared_steps(&at(0.5))
        );
        assert_eq!(squared_steps_below(0), 0);
        assert_eq!(squared_steps_below(u32::MAX), 100_000_000);
    }

    proptest! {
        /// Rounding moves each value by half a step at most, so a distance by one step at most.
        #[test]
        fn a_code_keeps_distances_within_a_step(
            one in prop::array::uniform32(-7.9f32..7.9),
            other in prop::array::uniform32(-7.9f32..7.9),
        ) {
            let squares: f64 = one.iter().zip(&other).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            let exact = (squares / 32.0).sqrt();
            let coded = f64::from(distance_ppm(Code::of(&one).squared_steps(&Code::of(&other)))) / 1e6;
            prop_assert!((coded - exact).abs() <= 1.0 / 16.0 + 1e-4, "{coded} {exact}");
        }
    }
}
