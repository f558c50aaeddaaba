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
            Some((false, sure)) => found(FindingCode::TraitDoubtful, trait_measure(index, sure)),
        }
    }
    if unreadable > 0 {
        found(FindingCode::TraitsUnreadable, unreadable);
    }
    findings
}
