//! Collections, policies and model roles.

use bytes::Bytes;

use super::{Refused, account_bytes, account_or_nobody, byte, digest, digest_bytes, text};
use crate::code::Code;
use crate::command::{
    ClaimRule, CollectionSpec, Exclusion, ModelRole, PendingRule, Policy, TraitSpec, ValueCap,
};
use crate::limits;
use crate::signing::ModelKey;
use crate::v1;

/// Reads a collection's specification; its sense is checked by the ledger.
///
/// # Errors
/// When a field has the wrong length or passes a limit.
pub fn spec_from_wire(spec: v1::CollectionSpec) -> Result<CollectionSpec, Refused> {
    text(&spec.name, limits::NAME_BYTES_MAX, "spec.name")?;
    at_most(spec.traits.len(), limits::TRAITS_MAX, "spec.traits")?;
    at_most(
        spec.exclusions.len(),
        limits::EXCLUSIONS_MAX,
        "spec.exclusions",
    )?;
    at_most(
        spec.value_caps.len(),
        limits::VALUE_CAPS_MAX,
        "spec.value_caps",
    )?;
    let mut traits = Vec::with_capacity(spec.traits.len());
    for one in spec.traits {
        text(&one.name, limits::NAME_BYTES_MAX, "spec.traits.name")?;
        at_most(
            one.values.len(),
            limits::TRAIT_VALUES_MAX,
            "spec.traits.values",
        )?;
        for value in &one.values {
            text(value, limits::NAME_BYTES_MAX, "spec.traits.values")?;
        }
        if one.weights.len() != one.values.len() {
            return Err(Refused::new(
                Code::BadCollection,
                format!(
                    "trait {} has {} values but {} weights",
                    one.name,
                    one.values.len(),
                    one.weights.len()
                ),
            ));
        }
        traits.push(TraitSpec {
            name: one.name,
            values: one.values,
            weights: one.weights,
        });
    }
    let exclusions = spec
        .exclusions
        .iter()
        .map(|pair| {
            Ok(Exclusion {
                first: (
                    byte(pair.first_trait, "first_trait")?,
                    byte(pair.first_value, "first_value")?,
                ),
                second: (
                    byte(pair.second_trait, "second_trait")?,
                    byte(pair.second_value, "second_value")?,
                ),
            })
        })
        .collect::<Result<_, Refused>>()?;
    let value_caps = spec
        .value_caps
        .iter()
        .map(|cap| {
            Ok(ValueCap {
                trait_index: byte(cap.trait_index, "trait_index")?,
                value: byte(cap.value, "value")?,
                most: cap.most,
            })
        })
        .collect::<Result<_, Refused>>()?;
    let pending = spec.pending_rule.unwrap_or_default();
    Ok(CollectionSpec {
        name: spec.name,
        supply_cap: spec.supply_cap,
        traits,
        exclusions,
        value_caps,
        claim_rule: match spec.claim_window_ms {
            0 => ClaimRule::First,
            window_ms => ClaimRule::Draw { window_ms },
        },
        pending_rule: PendingRule {
            trade: pending.trade,
            settle: pending.settle,
            show: pending.show,
        },
        seed_commitment: digest(&spec.seed_commitment, "spec.seed_commitment")?,
        royalty_basis_points: spec.royalty_basis_points,
        royalty_receiver: account_or_nobody(&spec.royalty_receiver, "spec.royalty_receiver")?,
    })
}

/// Writes a collection's specification.
pub fn spec_to_wire(spec: &CollectionSpec) -> v1::CollectionSpec {
    v1::CollectionSpec {
        name: spec.name.clone(),
        supply_cap: spec.supply_cap,
        traits: spec
            .traits
            .iter()
            .map(|one| v1::TraitSpec {
                name: one.name.clone(),
                values: one.values.clone(),
                weights: one.weights.clone(),
            })
            .collect(),
        exclusions: spec
            .exclusions
            .iter()
            .map(|pair| v1::Exclusion {
                first_trait: pair.first.0.into(),
                first_value: pair.first.1.into(),
                second_trait: pair.second.0.into(),
                second_value: pair.second.1.into(),
            })
            .collect(),
        value_caps: spec
            .value_caps
            .iter()
            .map(|cap| v1::ValueCap {
                trait_index: cap.trait_index.into(),
                value: cap.value.into(),
                most: cap.most,
            })
            .collect(),
        claim_window_ms: match spec.claim_rule {
            ClaimRule::First => 0,
            ClaimRule::Draw { window_ms } => window_ms,
        },
        pending_rule: Some(v1::PendingRule {
            trade: spec.pending_rule.trade,
            settle: spec.pending_rule.settle,
            show: spec.pending_rule.show,
        }),
        seed_commitment: digest_bytes(&spec.seed_commitment),
        royalty_basis_points: spec.royalty_basis_points,
        royalty_receiver: account_bytes(&spec.royalty_receiver),
    }
}

/// Reads a policy; its sense is checked by the ledger.
///
/// # Errors
/// When it is absent, or a model key has the wrong length.
pub fn policy_from_wire(policy: Option<v1::Policy>) -> Result<Policy, Refused> {
    let policy = policy.ok_or_else(|| Refused::malformed("policy is missing"))?;
    Ok(Policy {
        version: policy.version,
        accept_below_ppm: policy.accept_below_ppm,
        reject_above_ppm: policy.reject_above_ppm,
        reexecution_sample_ppm: policy.reexecution_sample_ppm,
        batch_changes_max: policy.batch_changes_max,
        batch_age_ms_max: policy.batch_age_ms_max,
        batch_base_fee_wei_max: policy.batch_base_fee_wei_max,
        batch_deferral_ms_max: policy.batch_deferral_ms_max,
        retry_window_commands: policy.retry_window_commands,
        near_duplicate_below_ppm: policy.near_duplicate_below_ppm,
        drift_review_above_ppm: policy.drift_review_above_ppm,
        model_keys: model_keys_from_wire(&policy.model_keys)?,
        require_signed_models: policy.require_signed_models,
    })
}

/// Writes a policy.
pub fn policy_to_wire(policy: &Policy) -> v1::Policy {
    v1::Policy {
        version: policy.version,
        accept_below_ppm: policy.accept_below_ppm,
        reject_above_ppm: policy.reject_above_ppm,
        reexecution_sample_ppm: policy.reexecution_sample_ppm,
        batch_changes_max: policy.batch_changes_max,
        batch_age_ms_max: policy.batch_age_ms_max,
        batch_base_fee_wei_max: policy.batch_base_fee_wei_max,
        batch_deferral_ms_max: policy.batch_deferral_ms_max,
        retry_window_commands: policy.retry_window_commands,
        near_duplicate_below_ppm: policy.near_duplicate_below_ppm,
        drift_review_above_ppm: policy.drift_review_above_ppm,
        model_keys: policy
            .model_keys
            .iter()
            .map(|key| digest_bytes(key))
            .collect(),
        require_signed_models: policy.require_signed_models,
    }
}

fn model_keys_from_wire(keys: &[Bytes]) -> Result<Vec<ModelKey>, Refused> {
    if keys.len() > limits::MODEL_KEYS_MAX {
        return Err(Refused::new(
            Code::BadModelKeys,
            format!(
                "policy.model_keys has {} keys, at most {} are allowed",
                keys.len(),
                limits::MODEL_KEYS_MAX
            ),
        ));
    }
    keys.iter()
        .map(|key| digest(key, "policy.model_keys"))
        .collect()
}

/// Reads a model's role.
///
/// # Errors
/// When it is not said or unknown.
pub fn role_from_wire(role: i32) -> Result<ModelRole, Refused> {
    match v1::ModelRole::try_from(role) {
        Ok(v1::ModelRole::Generator) => Ok(ModelRole::Generator),
        Ok(v1::ModelRole::Auditor) => Ok(ModelRole::Auditor),
        _ => Err(Refused::malformed(format!(
            "role {role} is not a model role: 1 generator, 2 auditor"
        ))),
    }
}

/// Writes a model's role.
pub fn role_to_wire(role: ModelRole) -> v1::ModelRole {
    match role {
        ModelRole::Generator => v1::ModelRole::Generator,
        ModelRole::Auditor => v1::ModelRole::Auditor,
    }
}

fn at_most(count: usize, most: usize, field: &str) -> Result<(), Refused> {
    if count > most {
        return Err(Refused::malformed(format!(
            "{field} has {count} entries, at most {most} are allowed"
        )));
    }
    Ok(())
}
