use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// All allowed combinations with their weights, by trying every one.
fn every_combination(rules: &TraitRules, used: &[u32]) -> BTreeMap<Vec<u8>, u128> {
    let mut all = BTreeMap::new();
    let mut traits = vec![0u8; rules.cardinalities.len()];
    loop {
        let weight: u128 = traits
            .iter()
            .zip(&rules.weights)
            .map(|(value, list)| u128::from(list[usize::from(*value)]))
            .product();
        let capped = rules
            .caps
            .iter()
            .zip(used)
            .any(|(cap, used)| traits[usize::from(cap.0)] == cap.1 && *used >= cap.2);
        if weight > 0 && !capped && rules.allows(&traits).is_ok() {
            all.insert(traits.clone(), weight);
        }
        let mut index = 0;
        loop {
            if index == traits.len() {
                return all;
            }
            traits[index] += 1;
            if traits[index] < rules.cardinalities[index] {
                break;
            }
            traits[index] = 0;
            index += 1;
        }
    }
}

fn small_rules() -> impl Strategy<Value = TraitRules> {
    prop::collection::vec(prop::collection::vec(0u32..4, 1..4), 1..5).prop_flat_map(|weights| {
        let cardinalities: Vec<u8> = weights.iter().map(|list| list.len() as u8).collect();
        let sizes = cardinalities.clone();
        let pair = move || {
            let sizes = sizes.clone();
            (0..sizes.len()).prop_flat_map(move |index| (Just(index as u8), 0..sizes[index]))
        };
        let exclusions = prop::collection::vec((pair(), pair()), 0..6).prop_map(|list| {
            list.into_iter()
                .filter(|(a, b)| a.0 != b.0)
                .collect::<Vec<_>>()
        });
        let caps = prop::collection::vec((pair(), 0u32..3), 0..3).prop_map(|list| {
            list.into_iter()
                .map(|((index, value), most)| (index, value, most))
                .collect::<Vec<_>>()
        });
        (exclusions, caps).prop_map(move |(exclusions, caps)| TraitRules {
            cardinalities: cardinalities.clone(),
            weights: weights.clone(),
            exclusions,
            caps,
        })
    })
}

proptest! {
    #[test]
    fn every_combination_owns_exactly_its_weight_of_the_range(rules in small_rules()) {
        let expected = every_combination(&rules, &vec![0; rules.caps.len()]);
        let mut solver = TraitSolver::new(rules).unwrap();
        let weight = solver.weight_left().unwrap();
        prop_assert_eq!(weight, expected.values().sum::<u128>());
        let mut found: BTreeMap<Vec<u8>, u128> = BTreeMap::new();
        for number in 0..weight {
            *found.entry(solver.combination_at(number).unwrap()).or_default() += 1;
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn caps_hold_until_nothing_is_left(rules in small_rules(), start in any::<u64>()) {
        let secret = crate::seeds::Secret::from_bytes([1; 32]);
        let mut solver = TraitSolver::new(rules.clone()).unwrap();
        for index in 0..40 {
            let left = every_combination(&rules, &solver.used);
            match solver.take(&secret.seed(start.wrapping_add(index))) {
                Ok(traits) => prop_assert!(left.contains_key(&traits)),
                Err(error) => {
                    prop_assert!(left.is_empty());
                    let is_named = matches!(error, RarityError::NothingLeft { .. });
                    prop_assert!(is_named);
                }
            }
        }
        for (cap, used) in rules.caps.iter().zip(&solver.used) {
            prop_assert!(*used <= cap.2);
        }
    }

    #[test]
    fn multiply_high_agrees_with_schoolbook_arithmetic(number in any::<u128>(), range in any::<u128>()) {
        // Digits of 32 bits, so that no partial product overflows.
        let digits = |mut x: u128| -> Vec<u128> { (0..4).map(|_| { let d = x & 0xffff_ffff; x >>= 32; d }).collect() };
        let mut sums = [0u128; 8];
        for (i, a) in digits(number).iter().enumerate() {
            for (j, b) in digits(range).iter().enumerate() {
                let product = a * b;
                sums[i + j] += product & 0xffff_ffff;
                sums[i + j + 1] += product >> 32;
            }
        }
        for i in 0..7 { sums[i + 1] += sums[i] >> 32; sums[i] &= 0xffff_ffff; }
        let high = sums[4..].iter().rev().fold(0u128, |value, digit| value << 32 | digit);
        prop_assert_eq!(multiply_high(number, range), high);
    }
}

fn eight_traits() -> TraitRules {
    TraitRules {
        cardinalities: vec![6, 8, 8, 6, 8, 4, 4, 6],
        weights: vec![
            vec![10; 6],
            vec![40, 20, 15, 10, 8, 4, 2, 1],
            vec![10; 8],
            vec![5; 6],
            vec![50, 10, 10, 10, 10, 5, 4, 1],
            vec![70, 20, 9, 1],
            vec![1; 4],
            vec![3; 6],
        ],
        exclusions: vec![
            ((0, 0), (4, 7)),
            ((4, 7), (5, 0)),
            ((1, 7), (7, 2)),
            ((0, 3), (1, 2)),
        ],
        caps: vec![(4, 7, 3)],
    }
}

#[test]
fn the_same_seed_gives_the_same_traits_for_ever() {
    let mut solver = TraitSolver::new(eight_traits()).unwrap();
    // Computed in Python by listing all combinations, with an independent ChaCha20.
    assert_eq!(solver.weight_left().unwrap(), 10_015_704_000_000);
    assert_eq!(solver.draw(&[7; 32]).unwrap(), [4, 3, 5, 2, 0, 0, 3, 1]);
    assert_eq!(solver.draw(&[8; 32]).unwrap(), [4, 1, 7, 1, 0, 1, 2, 5]);
}

#[test]
fn a_capped_value_is_drawn_as_often_as_its_cap_and_never_again() {
    let mut solver = TraitSolver::new(eight_traits()).unwrap();
    let secret = crate::seeds::Secret::from_bytes([2; 32]);
    let rare = (0..3_000)
        .filter(|index| solver.take(&secret.seed(*index)).unwrap()[4] == 7)
        .count();
    assert_eq!(rare, 3);
    let legendary = vec![1, 0, 0, 0, 7, 1, 0, 0];
    assert_eq!(
        solver.record(&legendary),
        Err(RarityError::CapReached {
            trait_index: 4,
            value: 7,
            most: 3
        })
    );
}

#[test]
fn rules_that_make_no_sense_are_refused_with_their_place() {
    let base = eight_traits();
    let refuse = |change: fn(&mut TraitRules)| {
        let mut rules = base.clone();
        change(&mut rules);
        TraitSolver::new(rules).unwrap_err()
    };
    assert!(matches!(
        refuse(|r| r.cardinalities[2] = 0),
        RarityError::Shape { index: 2, .. }
    ));
    assert!(matches!(
        refuse(|r| r.cardinalities[2] = 65),
        RarityError::Shape { index: 2, .. }
    ));
    assert!(matches!(
        refuse(|r| {
            r.weights.pop();
        }),
        RarityError::Shape { index: 7, .. }
    ));
    assert!(matches!(
        refuse(|r| r.exclusions[1].1 = (9, 0)),
        RarityError::Unknown {
            what: "exclusion",
            position: 1,
            ..
        }
    ));
    assert!(matches!(
        refuse(|r| r.exclusions[1].1 = (4, 0)),
        RarityError::SameTrait {
            position: 1,
            trait_index: 4
        }
    ));
    assert!(matches!(
        refuse(|r| r.caps[0].1 = 8),
        RarityError::Unknown { what: "cap", .. }
    ));
    assert!(matches!(
        refuse(|r| r
            .weights
            .iter_mut()
            .for_each(|w| w.iter_mut().for_each(|x| *x = u32::MAX))),
        RarityError::WeightsTooLarge
    ));
}

#[test]
fn traits_outside_the_vocabulary_or_excluded_are_refused() {
    let rules = eight_traits();
    assert!(matches!(
        rules.allows(&[0; 7]),
        Err(RarityError::WrongLength {
            found: 7,
            expected: 8
        })
    ));
    assert!(matches!(
        rules.allows(&[0, 0, 0, 6, 0, 0, 0, 0]),
        Err(RarityError::Unknown {
            trait_index: 3,
            value: 6,
            ..
        })
    ));
    assert!(matches!(
        rules.allows(&[0, 0, 0, 0, 7, 1, 0, 0]),
        Err(RarityError::Excluded { .. })
    ));
    assert!(rules.allows(&[1, 0, 0, 0, 7, 1, 0, 0]).is_ok());
}

#[test]
fn exclusions_that_tie_everything_together_are_refused_within_a_bound() {
    // Every trait closes a value of every other one, so that hardly two partial choices leave the same open.
    let traits = 30u8;
    let exclusions = (0..traits)
        .flat_map(|a| {
            (0..traits)
                .filter(move |b| a < *b)
                .map(move |b| ((a, (b % 5)), (b, (a % 5))))
        })
        .collect();
    let rules = TraitRules {
        cardinalities: vec![5; usize::from(traits)],
        weights: vec![vec![1; 5]; usize::from(traits)],
        exclusions,
        caps: vec![],
    };
    assert_eq!(
        TraitSolver::new(rules).unwrap().draw(&[0; 32]),
        Err(RarityError::TooEntangled)
    );
}
