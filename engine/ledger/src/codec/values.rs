//! Canonical bytes of the parts that events and snapshots share.

use super::CodecError;
use super::bytes::{Put, Reader, Row};
use karat_proto::command::{
    AgentKind, ClaimRule, CollectionSpec, Content, Decision, Exclusion, Finding, Lineage,
    ModelRole, PendingRule, Policy, TraitSpec, Traits, ValueCap,
};
use karat_proto::event::{AssetState, LeafKind, Made, TransferCause, Winner};
use karat_proto::limits;

/// Numbers for the variants of an enum without fields; never reused.
macro_rules! numbered {
    ($type:ident, $what:literal, $put:ident, $read:ident, { $($variant:ident = $number:literal),* $(,)? }) => {
        #[inline]
        pub(crate) fn $put(value: $type, out: &mut impl Put) {
            out.put_u8(match value {
                $($type::$variant => $number,)*
            });
        }

        pub(crate) fn $read(reader: &mut Reader<'_>) -> Result<$type, CodecError> {
            match reader.u8()? {
                $($number => Ok($type::$variant),)*
                other => Err(reader.unknown($what, other.into())),
            }
        }
    };
}

numbered!(AssetState, "asset state", put_state, state, {
    Pending = 0, Active = 1, Rejected = 2, InReview = 3, Frozen = 4, Redeemed = 5, Burned = 6,
});
numbered!(TransferCause, "transfer cause", put_cause, cause, {
    Transfer = 0, Claim = 1, Exchange = 2,
});
numbered!(LeafKind, "leaf kind", put_leaf_kind, leaf_kind, {
    Held = 0, Burned = 1, Redeemed = 2,
});
numbered!(Decision, "decision", put_decision, decision, {
    Accept = 0, Reject = 1, Review = 2,
});
numbered!(AgentKind, "agent", put_agent, agent, {
    Integrity = 0, Policy = 1, Parity = 2, ReExecution = 3, Similarity = 4,
});
numbered!(ModelRole, "model role", put_role, role, {
    Generator = 0, Auditor = 1,
});

#[inline]
pub(crate) fn put_winner(winner: &Winner, out: &mut impl Put) {
    out.put_bytes(&winner.id.0);
    out.put_u64(winner.sequence);
}

pub(crate) fn winner(reader: &mut Reader<'_>) -> Result<Winner, CodecError> {
    Ok(Winner {
        id: reader.command_id()?,
        sequence: reader.u64()?,
    })
}

#[inline]
pub(crate) fn put_optional_winner(winner: Option<&Winner>, out: &mut impl Put) {
    out.put_bool(winner.is_some());
    if let Some(winner) = winner {
        put_winner(winner, out);
    }
}

pub(crate) fn optional_winner(reader: &mut Reader<'_>) -> Result<Option<Winner>, CodecError> {
    match reader.bool()? {
        true => winner(reader).map(Some),
        false => Ok(None),
    }
}

#[inline]
pub(crate) fn put_content(content: &Content, out: &mut impl Put) {
    out.put_bytes(&content.digest);
    out.put_u32(content.size);
}

pub(crate) fn content(reader: &mut Reader<'_>) -> Result<Content, CodecError> {
    Ok(Content {
        digest: reader.digest()?,
        size: reader.u32()?,
    })
}

#[inline]
pub(crate) fn put_traits(traits: &Traits, out: &mut Vec<u8>) {
    let values = traits.as_slice();
    out.put_u8(values.len() as u8);
    out.put_bytes(values);
}

pub(crate) fn traits(reader: &mut Reader<'_>) -> Result<Traits, CodecError> {
    let length = reader.u8()?;
    let values = reader.bytes(usize::from(length))?;
    Traits::new(values).ok_or_else(|| reader.unknown("number of traits", length.into()))
}

pub(crate) fn lineage(reader: &mut Reader<'_>) -> Result<Lineage, CodecError> {
    Ok(Lineage {
        model: reader.digest()?,
        variant: reader.text()?,
        seed: reader.digest()?,
        hash: reader.digest()?,
    })
}

pub(crate) fn put_made(made: &Made, out: &mut Vec<u8>) {
    let row = &mut Row::<36>::append(out);
    put_content(&made.content, row);
    put_traits(&made.traits, out);
    out.put_bytes(&made.lineage.model);
    out.put_text(&made.lineage.variant);
    let row = &mut Row::<96>::append(out);
    row.put_bytes(&made.lineage.seed);
    row.put_bytes(&made.lineage.hash);
    row.put_bytes(&made.metadata);
}

pub(crate) fn made(reader: &mut Reader<'_>) -> Result<Made, CodecError> {
    Ok(Made {
        content: content(reader)?,
        traits: traits(reader)?,
        lineage: lineage(reader)?,
        metadata: reader.digest()?,
    })
}

pub(crate) fn put_findings(findings: &[Finding], out: &mut Vec<u8>) {
    out.put_length(findings.len());
    for finding in findings {
        put_agent(finding.agent, out);
        out.put_u16(finding.code);
        out.put_u32(finding.measure);
    }
}

pub(crate) fn findings(reader: &mut Reader<'_>) -> Result<Vec<Finding>, CodecError> {
    let length = reader.length()?;
    (0..length)
        .map(|_| {
            Ok(Finding {
                agent: agent(reader)?,
                code: reader.u16()?,
                measure: reader.u32()?,
            })
        })
        .collect()
}

/// In a policy's retry window this bit says that extensions follow: a byte with a bit for each field that is there, then
/// these fields. No valid window has it ([`crate::RETRY_ENTRIES_MAX`]), and a policy whose later fields all have their
/// defaults is written as it was before there were any.
const EXTENDED: u64 = 1 << 63;
const HAS_NEAR_DUPLICATE: u8 = 1;
const HAS_DRIFT_REVIEW: u8 = 1 << 1;
const HAS_MODEL_KEYS: u8 = 1 << 2;
/// Nothing follows for this one: it is there when it is true.
const REQUIRES_SIGNED_MODELS: u8 = 1 << 3;
/// Every bit that this build knows.
const EXTENSIONS: u8 =
    HAS_NEAR_DUPLICATE | HAS_DRIFT_REVIEW | HAS_MODEL_KEYS | REQUIRES_SIGNED_MODELS;

/// Which later fields of a policy differ from their defaults; 0 for a policy as it was before there were any.
pub(crate) fn policy_extensions(policy: &Policy) -> u8 {
    let mut extensions = 0;
    if policy.near_duplicate_below_ppm != 0 {
        extensions |= HAS_NEAR_DUPLICATE;
    }
    if policy.drift_review_above_ppm != 0 {
        extensions |= HAS_DRIFT_REVIEW;
    }
    if !policy.model_keys.is_empty() {
        extensions |= HAS_MODEL_KEYS;
    }
    if policy.require_signed_models {
        extensions |= REQUIRES_SIGNED_MODELS;
    }
    extensions
}

pub(crate) fn put_policy(policy: &Policy, out: &mut Vec<u8>) {
    out.put_u32(policy.version);
    out.put_u32(policy.accept_below_ppm);
    out.put_u32(policy.reject_above_ppm);
    out.put_u32(policy.reexecution_sample_ppm);
    out.put_u32(policy.batch_changes_max);
    out.put_u64(policy.batch_age_ms_max);
    out.put_u64(policy.batch_base_fee_wei_max);
    out.put_u64(policy.batch_deferral_ms_max);
    let extensions = policy_extensions(policy);
    if extensions == 0 {
        out.put_u64(policy.retry_window_commands);
        return;
    }
    out.put_u64(policy.retry_window_commands | EXTENDED);
    out.put_u8(extensions);
    if policy.near_duplicate_below_ppm != 0 {
        out.put_u32(policy.near_duplicate_below_ppm);
    }
    if policy.drift_review_above_ppm != 0 {
        out.put_u32(policy.drift_review_above_ppm);
    }
    if !policy.model_keys.is_empty() {
        out.put_length(policy.model_keys.len());
        for key in &policy.model_keys {
            out.put_bytes(key);
        }
    }
}

pub(crate) fn policy(reader: &mut Reader<'_>) -> Result<Policy, CodecError> {
    let mut policy = Policy {
        version: reader.u32()?,
        accept_below_ppm: reader.u32()?,
        reject_above_ppm: reader.u32()?,
        reexecution_sample_ppm: reader.u32()?,
        batch_changes_max: reader.u32()?,
        batch_age_ms_max: reader.u64()?,
        batch_base_fee_wei_max: reader.u64()?,
        batch_deferral_ms_max: reader.u64()?,
        retry_window_commands: reader.u64()?,
        near_duplicate_below_ppm: 0,
        drift_review_above_ppm: 0,
        model_keys: Vec::new(),
        require_signed_models: false,
    };
    if policy.retry_window_commands & EXTENDED == 0 {
        return Ok(policy);
    }
    policy.retry_window_commands &= !EXTENDED;
    let extensions = reader.u8()?;
    if extensions == 0 || extensions & !EXTENSIONS != 0 {
        return Err(reader.unknown("policy extensions", extensions.into()));
    }
    if extensions & HAS_NEAR_DUPLICATE != 0 {
        policy.near_duplicate_below_ppm = extension(reader)?;
    }
    if extensions & HAS_DRIFT_REVIEW != 0 {
        policy.drift_review_above_ppm = extension(reader)?;
    }
    if extensions & HAS_MODEL_KEYS != 0 {
        let count = reader.length()?;
        if count == 0 || count > limits::MODEL_KEYS_MAX {
            return Err(reader.unknown("number of model keys", count as u64));
        }
        policy.model_keys = (0..count)
            .map(|_| reader.digest())
            .collect::<Result<_, CodecError>>()?;
    }
    policy.require_signed_models = extensions & REQUIRES_SIGNED_MODELS != 0;
    Ok(policy)
}

/// A field that is written only when it is not 0.
fn extension(reader: &mut Reader<'_>) -> Result<u32, CodecError> {
    match reader.u32()? {
        0 => Err(reader.unknown("policy extension", 0)),
        value => Ok(value),
    }
}

pub(crate) fn put_spec(spec: &CollectionSpec, out: &mut Vec<u8>) {
    out.put_text(&spec.name);
    out.put_u64(spec.supply_cap);
    out.put_length(spec.traits.len());
    for each in &spec.traits {
        out.put_text(&each.name);
        out.put_length(each.values.len());
        for value in &each.values {
            out.put_text(value);
        }
        out.put_length(each.weights.len());
        for weight in &each.weights {
            out.put_u32(*weight);
        }
    }
    out.put_length(spec.exclusions.len());
    for pair in &spec.exclusions {
        out.put_bytes(&[pair.first.0, pair.first.1, pair.second.0, pair.second.1]);
    }
    out.put_length(spec.value_caps.len());
    for cap in &spec.value_caps {
        out.put_bytes(&[cap.trait_index, cap.value]);
        out.put_u32(cap.most);
    }
    match spec.claim_rule {
        ClaimRule::First => out.put_u8(0),
        ClaimRule::Draw { window_ms } => {
            out.put_u8(1);
            out.put_u64(window_ms);
        }
    }
    out.put_bool(spec.pending_rule.trade);
    out.put_bool(spec.pending_rule.settle);
    out.put_bool(spec.pending_rule.show);
    out.put_bytes(&spec.seed_commitment);
    out.put_u32(spec.royalty_basis_points);
    out.put_bytes(&spec.royalty_receiver.0);
}

pub(crate) fn spec(reader: &mut Reader<'_>) -> Result<CollectionSpec, CodecError> {
    let name = reader.text()?;
    let supply_cap = reader.u64()?;
    let traits = (0..reader.length()?)
        .map(|_| trait_spec(reader))
        .collect::<Result<_, CodecError>>()?;
    let exclusions = (0..reader.length()?)
        .map(|_| {
            Ok(Exclusion {
                first: (reader.u8()?, reader.u8()?),
                second: (reader.u8()?, reader.u8()?),
            })
        })
        .collect::<Result<_, CodecError>>()?;
    let value_caps = (0..reader.length()?)
        .map(|_| {
            Ok(ValueCap {
                trait_index: reader.u8()?,
                value: reader.u8()?,
                most: reader.u32()?,
            })
        })
        .collect::<Result<_, CodecError>>()?;
    let claim_rule = match reader.u8()? {
        0 => ClaimRule::First,
        1 => ClaimRule::Draw {
            window_ms: reader.u64()?,
        },
        other => return Err(reader.unknown("claim rule", other.into())),
    };
    Ok(CollectionSpec {
        name,
        supply_cap,
        traits,
        exclusions,
        value_caps,
        claim_rule,
        pending_rule: PendingRule {
            trade: reader.bool()?,
            settle: reader.bool()?,
            show: reader.bool()?,
        },
        seed_commitment: reader.digest()?,
        royalty_basis_points: reader.u32()?,
        royalty_receiver: reader.account()?,
    })
}

fn trait_spec(reader: &mut Reader<'_>) -> Result<TraitSpec, CodecError> {
    Ok(TraitSpec {
        name: reader.text()?,
        values: (0..reader.length()?)
            .map(|_| reader.text())
            .collect::<Result<_, CodecError>>()?,
        weights: (0..reader.length()?)
            .map(|_| reader.u32())
            .collect::<Result<_, CodecError>>()?,
    })
}
