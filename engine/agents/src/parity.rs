//! The parity agent: what an auditor reads from the pixels is what the asset claims, and the image is sound.

use karat_proto::command::{AgentKind, CollectionSpec, Finding, Policy};

use crate::config::Rules;
use crate::findings::{FindingCode, trait_measure};
use crate::oracle::{Reading, Vocabulary};

/// Compares a reading with the claimed traits, and its corruption score with the sequenced policy.
pub(crate) fn judge(
    reading: &Reading,
    vocabulary: &Vocabulary,
    values: &[u8],
    collection: &CollectionSpec,
    policy: &Policy,
    rules: &Rules,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |code: FindingCode, measure: u32| {
        findings.push(code.by(AgentKind::Parity, measure));
    };
    let score = reading.corruption_ppm;
    if score >= policy.reject_above_ppm {
        found(FindingCode::CorruptionHigh, score);
    } else if score >= policy.accept_below_ppm {
        found(FindingCode::CorruptionUnsure, score);
    }
    let mut unreadable = 0;
    for (index, value) in values.iter().enumerate() {
        let read = vocabulary
            .place(collection, index, *value)
            .and_then(|(place, claimed)| {
                let (read, sure) = (
                    reading.traits.get(place)?,
                    reading.confidence_ppm.get(place)?,
                );
                Some((*read == claimed, *sure))
            });
        match read {
            None => unreadable += 1,
            Some((true, _)) => {}
            Some((false, sure)) if sure >= rules.sure_ppm => {
                found(FindingCode::TraitContradicted, trait_measure(index, sure));
            }
            Some((false, sure)) if sure < rules.unclear_below_ppm => {
                found(FindingCode::TraitUnclear, trait_measure(index, sure));
            }
            Some((false, sure)) => found(FindingCode::TraitDoubtful, trait_measure(index, sure)),
        }
    }
    if unreadable > 0 {
        found(FindingCode::TraitsUnreadable, unreadable);
    }
    findings
}

#[cfg(test)]
mod tests {
    use karat_proto::command::{ClaimRule, Decision, PendingRule, TraitSpec};

    use super::*;
    use crate::decision::decide;

    fn collection(values: &[&str]) -> CollectionSpec {
        CollectionSpec {
            name: "one trait".into(),
            supply_cap: 1,
            traits: vec![TraitSpec {
                name: "metal".into(),
                values: values.iter().map(|value| (*value).to_owned()).collect(),
                weights: vec![1; values.len()],
            }],
            exclusions: vec![],
            value_caps: vec![],
            claim_rule: ClaimRule::First,
            pending_rule: PendingRule::default(),
            seed_commitment: [0; 32],
            royalty_basis_points: 0,
            royalty_receiver: karat_proto::Account::NOBODY,
        }
    }

    fn vocabulary() -> Vocabulary {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Vocabulary {
            width: 1,
            height: 1,
            traits: vec![
                ("gem".into(), names(&["ruby"])),
                ("metal".into(), names(&["iron", "gold"])),
            ],
        }
    }

    #[test]
    fn a_reading_too_unsure_to_say_anything_is_only_noted() {
        let rules = Rules {
            unclear_below_ppm: 500_000,
            ..Rules::default()
        };
        for (sure_ppm, decision) in [(499_999, Decision::Accept), (500_000, Decision::Review)] {
            let reading = Reading {
                traits: vec![0, 1],
                confidence_ppm: vec![0, sure_ppm],
                corruption_ppm: 0,
                embedding: None,
            };
            let collection = collection(&["iron"]);
            let policy = Policy::default();
            let findings = judge(&reading, &vocabulary(), &[0], &collection, &policy, &rules);
            assert_eq!((findings.len(), decide(&findings)), (1, decision));
        }
    }

    /// Judges a reading of gold with a score and a confidence against a claim.
    fn judged(claim: &str, corruption_ppm: u32, sure_ppm: u32) -> (Decision, Vec<u16>) {
        let collection = collection(&["gold", "iron", "wood"]);
        let reading = Reading {
            traits: vec![0, 1],
            confidence_ppm: vec![1_000_000, sure_ppm],
            corruption_ppm,
            embedding: None,
        };
        let value = collection.traits[0]
            .values
            .iter()
            .position(|value| value == claim)
            .unwrap();
        let policy = Policy {
            accept_below_ppm: 300_000,
            reject_above_ppm: 700_000,
            ..Policy::default()
        };
        let findings = judge(
            &reading,
            &vocabulary(),
            &[value as u8],
            &collection,
            &policy,
            &Rules::default(),
        );
        let codes = findings.iter().map(|finding| finding.code).collect();
        (decide(&findings), codes)
    }

    #[test]
    fn scores_and_readings_decide_at_their_thresholds() {
        use Decision::{Accept, Reject, Review};
        let cases: [(&str, u32, u32, Decision, &[u16]); 12] = [
            ("gold", 0, 990_000, Accept, &[]),
            ("gold", 299_999, 990_000, Accept, &[]),
            ("gold", 300_000, 990_000, Review, &[302]),
            ("gold", 699_999, 990_000, Review, &[302]),
            ("gold", 700_000, 990_000, Reject, &[301]),
            ("gold", 1_000_000, 990_000, Reject, &[301]),
            // A right reading needs no confidence.
            ("gold", 0, 100_000, Accept, &[]),
            ("iron", 0, 899_999, Review, &[304]),
            ("iron", 0, 900_000, Reject, &[303]),
            ("iron", 500_000, 900_000, Reject, &[302, 303]),
            ("iron", 700_000, 100_000, Reject, &[301, 304]),
            // The auditor knows no wood.
            ("wood", 0, 990_000, Review, &[305]),
        ];
        for (claim, corruption_ppm, sure_ppm, decision, codes) in cases {
            let found = judged(claim, corruption_ppm, sure_ppm);
            assert_eq!(
                found,
                (decision, codes.to_vec()),
                "{claim} {corruption_ppm} {sure_ppm}"
            );
        }
    }

    #[test]
    fn equal_thresholds_leave_nothing_for_people() {
        let policy = Policy {
            accept_below_ppm: 500_000,
            reject_above_ppm: 500_000,
            ..Policy::default()
        };
        for score in [0, 499_999, 500_000, 1_000_000] {
            let reading = Reading {
                traits: vec![0, 1],
                confidence_ppm: vec![1_000_000; 2],
                corruption_ppm: score,
                embedding: None,
            };
            let collection = collection(&["gold"]);
            let findings = judge(
                &reading,
                &vocabulary(),
                &[0],
                &collection,
                &policy,
                &Rules::default(),
            );
            assert_ne!(decide(&findings), Decision::Review);
        }
    }
}
