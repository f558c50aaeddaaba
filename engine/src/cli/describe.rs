//! Messages as JSON and as lines for people.

use karat_agents::findings::FindingCode;
use karat_proto::v1;
use karat_proto::v1::event::Kind;
use serde_json::{Value, json};

use super::hexadecimal;

/// An enum's value without its prefix, in lower case.
pub fn lower(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_lowercase()
}

/// An asset's state.
pub fn state(state: i32) -> String {
    v1::AssetState::try_from(state).map_or_else(
        |_| state.to_string(),
        |state| lower(state.as_str_name(), "ASSET_STATE_"),
    )
}

/// An asset's place in settlement.
pub fn settlement(state: i32) -> String {
    v1::SettlementState::try_from(state).map_or_else(
        |_| state.to_string(),
        |state| lower(state.as_str_name(), "SETTLEMENT_STATE_"),
    )
}

/// A batch's stage.
pub fn stage(stage: i32) -> String {
    v1::BatchStage::try_from(stage).map_or_else(
        |_| stage.to_string(),
        |stage| lower(stage.as_str_name(), "BATCH_STAGE_"),
    )
}

/// Names of trait values, if the collection is known.
pub fn traits(values: &[u8], spec: Option<&v1::CollectionSpec>) -> Value {
    let Some(spec) = spec else {
        return json!(values);
    };
    let named = values.iter().zip(&spec.traits).map(|(value, one)| {
        let name = one
            .values
            .get(*value as usize)
            .cloned()
            .unwrap_or_else(|| value.to_string());
        (one.name.clone(), Value::String(name))
    });
    Value::Object(named.collect())
}

/// An asset.
pub fn asset(asset: &v1::Asset, spec: Option<&v1::CollectionSpec>) -> Value {
    json!({
        "asset": asset.asset,
        "collection": asset.collection,
        "owner": if asset.owner.is_empty() { Value::Null } else { json!(hexadecimal(&asset.owner)) },
        "version": asset.version,
        "state": state(asset.state),
        "traits": traits(&asset.traits, spec),
        "cid": asset.cid,
        "size_bytes": asset.size,
        "metadata": hexadecimal(&asset.metadata),
        "minted_sequence": asset.minted_sequence,
        "last_sequence": asset.last_sequence,
        "settlement": settlement(asset.settlement),
        "batch": if asset.batch == 0 { Value::Null } else { json!(asset.batch) },
    })
}

/// An amount of wei in a message.
pub fn wei(bytes: &[u8]) -> u128 {
    bytes
        .iter()
        .fold(0, |sum, byte| (sum << 8) | u128::from(*byte))
}

/// A batch.
pub fn batch(batch: &v1::Batch) -> Value {
    json!({
        "number": batch.number,
        "stage": stage(batch.stage),
        "first_sequence": batch.first_sequence,
        "last_sequence": batch.last_sequence,
        "leaves": batch.leaves,
        "root": hexadecimal(&batch.root),
        "payload_cid": batch.payload_cid,
        "transaction": hexadecimal(&batch.transaction),
        "chain_block": batch.chain_block,
        "gas_used": batch.gas_used,
        "fee_wei": wei(&batch.fee_wei).to_string(),
    })
}

fn decision(decision: i32) -> String {
    v1::Decision::try_from(decision).map_or_else(
        |_| decision.to_string(),
        |one| lower(one.as_str_name(), "DECISION_"),
    )
}

/// A finding, with its sentence.
pub fn finding(finding: &v1::Finding) -> Value {
    let agent = v1::AgentKind::try_from(finding.agent).map_or_else(
        |_| finding.agent.to_string(),
        |one| lower(one.as_str_name(), "AGENT_KIND_"),
    );
    let known = u16::try_from(finding.code)
        .ok()
        .and_then(FindingCode::from_number);
    json!({
        "agent": agent,
        "code": finding.code,
        "name": known.map(FindingCode::name),
        "meaning": known.map(FindingCode::sentence),
        "means": known.map(FindingCode::measure),
        "measure": finding.measure,
    })
}

/// A finding's name for people, with the other asset where it is about one.
pub fn finding_name(finding: &Value) -> String {
    let name = inline(&finding["name"]);
    let code = finding["code"]
        .as_u64()
        .and_then(|code| u16::try_from(code).ok());
    match code.and_then(FindingCode::from_number) {
        Some(FindingCode::LikeAsset | FindingCode::ContentDouble) => {
            format!("{name} {}", finding["measure"])
        }
        _ => name,
    }
}

/// A verdict's event.
pub fn verdict(verified: &v1::Verified) -> Value {
    json!({
        "version": verified.version,
        "decision": decision(verified.decision),
        "corruption_ppm": verified.corruption_ppm,
        "findings": verified.findings.iter().map(finding).collect::<Vec<_>>(),
        "state": state(verified.state),
    })
}

fn made(made: &v1::AssetMade) -> Value {
    let lineage = made.lineage.clone().unwrap_or_default();
    json!({
        "version": made.version,
        "owner": hexadecimal(&made.owner),
        "digest": hexadecimal(&made.digest),
        "size_bytes": made.size,
        "traits": made.traits.to_vec(),
        "lineage": {
            "model": hexadecimal(&lineage.model),
            "variant": lineage.variant,
            "seed": hexadecimal(&lineage.seed),
            "hash": hexadecimal(&made.lineage_hash),
        },
        "metadata": hexadecimal(&made.metadata),
    })
}

/// An event: its kind's name and its fields.
pub fn event(event: &v1::Event) -> Value {
    let (kind, fields) = match &event.kind {
        Some(Kind::Minted(one)) => ("minted", made(one)),
        Some(Kind::Revised(one)) => ("revised", made(one)),
        Some(Kind::Transferred(one)) => {
            let cause = v1::TransferCause::try_from(one.cause).map_or_else(
                |_| one.cause.to_string(),
                |cause| lower(cause.as_str_name(), "TRANSFER_CAUSE_"),
            );
            (
                "transferred",
                json!({"from": hexadecimal(&one.from), "to": hexadecimal(&one.to), "cause": cause}),
            )
        }
        Some(Kind::ClaimEntered(one)) => (
            "claim entered",
            json!({"account": hexadecimal(&one.account), "closes_ms": one.closes_ms}),
        ),
        Some(Kind::ClaimLost(one)) => (
            "claim lost",
            json!({"account": hexadecimal(&one.account), "winner_sequence": one.winner_sequence}),
        ),
        Some(Kind::Burned(_)) => ("burned", json!({})),
        Some(Kind::Redeemed(one)) => ("redeemed", json!({"to": hexadecimal(&one.to)})),
        Some(Kind::Verified(one)) => ("verified", verdict(one)),
        Some(Kind::Reviewed(one)) => (
            "reviewed",
            json!({"accepted": one.accepted, "reviewer": hexadecimal(&one.reviewer), "reason": one.reason}),
        ),
        Some(Kind::Frozen(one)) => ("frozen", json!({"reason": one.reason})),
        Some(Kind::Unfrozen(one)) => ("unfrozen", json!({"state": state(one.state)})),
        Some(Kind::SettlementDue(one)) => {
            let leaf = v1::LeafKind::try_from(one.kind).map_or_else(
                |_| one.kind.to_string(),
                |kind| lower(kind.as_str_name(), "LEAF_KIND_"),
            );
            (
                "settlement due",
                json!({"owner": hexadecimal(&one.owner), "version": one.version, "leaf": leaf}),
            )
        }
        // The history of an asset holds no other kinds.
        other => ("other", json!({"event": format!("{other:?}")})),
    };
    json!({
        "sequence": event.sequence,
        "index": event.index,
        "time_ms": event.time_ms,
        "kind": kind,
        "fields": fields,
    })
}

/// An event's JSON as a short line: its kind, and the fields that a person looks for.
pub fn event_line(event: &Value) -> String {
    let fields = &event["fields"];
    let told = [
        "version", "owner", "from", "to", "cause", "decision", "state", "leaf", "account",
        "accepted", "reason",
    ];
    let parts: Vec<String> = told
        .iter()
        .filter(|name| {
            fields
                .get(**name)
                .is_some_and(|value| !value.is_null() && *value != "0x")
        })
        .map(|name| format!("{name} {}", inline(&fields[*name])))
        .collect();
    format!("{}  {}", inline(&event["kind"]), parts.join(", "))
}

/// A JSON object as `name: value` lines, nested ones indented.
pub fn lines(value: &Value, indent: usize) -> String {
    let mut text = String::new();
    let pad = " ".repeat(indent);
    if let Value::Object(fields) = value {
        let width = fields.keys().map(String::len).max().unwrap_or(0);
        for (name, value) in fields {
            match value {
                Value::Object(inner) if !inner.is_empty() => {
                    text.push_str(&format!("{pad}{name}:\n{}", lines(value, indent + 2)));
                }
                Value::Array(rows) if rows.iter().any(Value::is_object) => {
                    text.push_str(&format!("{pad}{name}:\n"));
                    for row in rows {
                        text.push_str(&format!("{pad}  - {}\n", inline(row)));
                    }
                }
                value => text.push_str(&format!("{pad}{name:width$}  {}\n", inline(value))),
            }
        }
    }
    text
}

/// A value on one line.
pub fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| format!("{name} {}", inline(value)))
            .collect::<Vec<_>>()
            .join(", "),
        Value::Array(rows) => rows.iter().map(inline).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}
