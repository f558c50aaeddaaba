//! The policy agent: the asset's traits keep the rules of its collection.
//!
//! The ledger checks the same when it mints; here a log that was written by an older or a damaged rule shows.

use karat_proto::command::{AgentKind, CollectionSpec, Finding};

use crate::findings::FindingCode;

/// Checks trait values against the collection's rules.
pub(crate) fn inspect(values: &[u8], collection: &CollectionSpec) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |code: FindingCode, measure: usize| {
        findings.push(code.by(
            AgentKind::Policy,
            u32::try_from(measure).unwrap_or(u32::MAX),
        ));
    };
    if values.len() != collection.traits.len() {
        found(FindingCode::TraitCount, values.len());
    }
    for (index, (value, spec)) in values.iter().zip(&collection.traits).enumerate() {
        let value = usize::from(*value);
        if value >= spec.values.len() {
            found(FindingCode::TraitValue, index);
        } else if spec.weights.get(value) == Some(&0) {
            found(FindingCode::ValueNeverDrawn, index);
        }
    }
    let has = |(index, value): (u8, u8)| values.get(usize::from(index)) == Some(&value);
    for (place, exclusion) in collection.exclusions.iter().enumerate() {
        if has(exclusion.first) && has(exclusion.second) {
            found(FindingCode::TraitsExcluded, place);
        }
    }
    findings
}
