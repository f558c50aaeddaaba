//! Outcomes and events.

use bytes::Bytes;

use super::{
    Refused, account_bytes, command_id, digest_bytes, policy_to_wire, role_to_wire, spec_to_wire,
};
use crate::code::Code;
use crate::command::{AgentKind, Decision, Finding};
use crate::event::{AssetState, Event, EventKind, LeafKind, Made, Outcome, TransferCause, Winner};
use crate::ids::CommandId;
use crate::v1;

/// Writes an outcome; refusals carry their name and what to do.
pub fn outcome_to_wire(id: &CommandId, outcome: &Outcome) -> v1::Outcome {
    let (winner_id, winner_sequence) = winner_to_wire(outcome.winner.as_ref());
    v1::Outcome {
        id: Bytes::copy_from_slice(&id.0),
        sequence: outcome.sequence,
        code: outcome.code as u32,
        replayed: outcome.replayed,
        subject: outcome.subject,
        winner_id,
        winner_sequence,
        message: match outcome.code {
            Code::Accepted => String::new(),
            code => format!("{}: {}", code.name(), code.hint()),
        },
        retry_after_ms: 0,
    }
}

/// Writes a refusal at the door: it has no sequence.
pub fn refusal_to_wire(id: &[u8], refused: &Refused, retry_after_ms: u32) -> v1::Outcome {
    v1::Outcome {
        id: Bytes::copy_from_slice(id),
        code: refused.code as u32,
        message: format!(
            "{}: {}; {}",
            refused.code.name(),
            refused.message,
            refused.code.hint()
        ),
        retry_after_ms,
        ..Default::default()
    }
}

/// Reads an outcome, as clients do.
///
/// # Errors
/// When the id has not 16 bytes or the code is unknown to this build.
pub fn outcome_from_wire(wire: &v1::Outcome) -> Result<(CommandId, Outcome), Refused> {
    let code = u16::try_from(wire.code)
        .ok()
        .and_then(Code::from_number)
        .ok_or_else(|| {
            Refused::malformed(format!("code {} is unknown to this build", wire.code))
        })?;
    let winner = if wire.winner_sequence == 0 {
        None
    } else {
        Some(Winner {
            id: command_id(&wire.winner_id)?,
            sequence: wire.winner_sequence,
        })
    };
    let outcome = Outcome {
        sequence: wire.sequence,
        code,
        replayed: wire.replayed,
        subject: wire.subject,
        winner,
    };
    Ok((command_id(&wire.id)?, outcome))
}

fn winner_to_wire(winner: Option<&Winner>) -> (Bytes, u64) {
    match winner {
        None => (Bytes::new(), 0),
        Some(winner) => (Bytes::copy_from_slice(&winner.id.0), winner.sequence),
    }
}

/// Writes an asset's state.
pub fn state_to_wire(state: AssetState) -> v1::AssetState {
    match state {
        AssetState::Pending => v1::AssetState::Pending,
        AssetState::Active => v1::AssetState::Active,
        AssetState::Rejected => v1::AssetState::Rejected,
        AssetState::InReview => v1::AssetState::InReview,
        AssetState::Frozen => v1::AssetState::Frozen,
        AssetState::Redeemed => v1::AssetState::Redeemed,
        AssetState::Burned => v1::AssetState::Burned,
    }
}

fn decision_to_wire(decision: Decision) -> v1::Decision {
    match decision {
        Decision::Accept => v1::Decision::Accept,
        Decision::Reject => v1::Decision::Reject,
        Decision::Review => v1::Decision::Review,
    }
}

fn finding_to_wire(finding: &Finding) -> v1::Finding {
    let agent = match finding.agent {
        AgentKind::Integrity => v1::AgentKind::Integrity,
        AgentKind::Policy => v1::AgentKind::Policy,
        AgentKind::Parity => v1::AgentKind::Parity,
        AgentKind::ReExecution => v1::AgentKind::ReExecution,
        AgentKind::Similarity => v1::AgentKind::Similarity,
    };
    v1::Finding {
        agent: agent.into(),
        code: finding.code.into(),
        measure: finding.measure,
    }
}

/// Writes the fields of a verdict's event.
pub fn verified_to_wire(
    asset: u64,
    version: u32,
    decision: Decision,
    corruption_ppm: u32,
    findings: &[Finding],
    state: AssetState,
) -> v1::Verified {
    v1::Verified {
        asset,
        version,
        decision: decision_to_wire(decision).into(),
        corruption_ppm,
        findings: findings.iter().map(finding_to_wire).collect(),
        state: state_to_wire(state).into(),
    }
}

fn made_to_wire(asset: u64, version: u32, made: &Made) -> v1::AssetMade {
    v1::AssetMade {
        asset,
        collection: 0,
        owner: Bytes::new(),
        version,
        digest: digest_bytes(&made.content.digest),
        size: made.content.size,
        traits: Bytes::copy_from_slice(made.traits.as_slice()),
        lineage: Some(v1::Lineage {
            model: digest_bytes(&made.lineage.model),
            variant: made.lineage.variant.clone(),
            seed: digest_bytes(&made.lineage.seed),
        }),
        lineage_hash: digest_bytes(&made.lineage.hash),
        metadata: digest_bytes(&made.metadata),
    }
}

/// Writes an event.
pub fn event_to_wire(event: &Event) -> v1::Event {
    v1::Event {
        sequence: event.sequence,
        index: event.index.into(),
        time_ms: event.time_ms,
        kind: Some(kind_to_wire(&event.kind)),
    }
}

fn kind_to_wire(kind: &EventKind) -> v1::event::Kind {
    use v1::event::Kind;
    match kind {
        EventKind::RealmOpened { opened } => Kind::RealmOpened(v1::RealmOpened {
            realm: opened.realm.clone(),
            operator: account_bytes(&opened.operator),
            verifier: account_bytes(&opened.verifier),
            settler: account_bytes(&opened.settler),
        }),
        EventKind::CollectionCreated {
            collection,
            creator,
            spec,
        } => Kind::CollectionCreated(v1::CollectionCreated {
            collection: *collection,
            creator: account_bytes(creator),
            spec: Some(spec_to_wire(spec)),
        }),
        EventKind::SeedRevealed { collection, secret } => Kind::SeedRevealed(v1::RevealSeed {
            collection: *collection,
            secret: digest_bytes(secret),
        }),
        EventKind::Minted {
            asset,
            collection,
            owner,
            made,
        } => Kind::Minted(v1::AssetMade {
            collection: *collection,
            owner: account_bytes(owner),
            ..made_to_wire(*asset, 1, made)
        }),
        EventKind::Revised {
            asset,
            version,
            made,
        } => Kind::Revised(made_to_wire(*asset, *version, made)),
        EventKind::Transferred {
            asset,
            version,
            from,
            to,
            cause,
        } => Kind::Transferred(v1::Transferred {
            asset: *asset,
            version: *version,
            from: account_bytes(from),
            to: account_bytes(to),
            cause: match cause {
                TransferCause::Transfer => v1::TransferCause::Transfer,
                TransferCause::Claim => v1::TransferCause::Claim,
                TransferCause::Exchange => v1::TransferCause::Exchange,
            }
            .into(),
        }),
        EventKind::ClaimEntered {
            asset,
            account,
            closes_ms,
        } => Kind::ClaimEntered(v1::ClaimEntered {
            asset: *asset,
            account: account_bytes(account),
            closes_ms: *closes_ms,
        }),
        EventKind::ClaimLost {
            asset,
            account,
            command,
            winner,
        } => {
            let (winner_id, winner_sequence) = winner_to_wire(winner.as_ref());
            Kind::ClaimLost(v1::ClaimLost {
                asset: *asset,
                account: account_bytes(account),
                command: Bytes::copy_from_slice(&command.0),
                winner_id,
                winner_sequence,
            })
        }
        EventKind::CurrencyMoved { from, to, amount } => Kind::CurrencyMoved(v1::CurrencyMoved {
            from: account_bytes(from),
            to: account_bytes(to),
            amount: *amount,
        }),
        EventKind::Deposited { account, amount } => Kind::Deposited(v1::Deposit {
            account: account_bytes(account),
            amount: *amount,
        }),
        EventKind::Withdrawn { account, amount } => Kind::Withdrawn(v1::Withdraw {
            account: account_bytes(account),
            amount: *amount,
        }),
        EventKind::Burned { asset } => Kind::Burned(v1::AssetEnded {
            asset: *asset,
            to: Bytes::new(),
        }),
        EventKind::Redeemed { asset, to } => Kind::Redeemed(v1::AssetEnded {
            asset: *asset,
            to: account_bytes(to),
        }),
        EventKind::Verified {
            asset,
            version,
            decision,
            corruption_ppm,
            findings,
            state,
        } => Kind::Verified(verified_to_wire(
            *asset,
            *version,
            *decision,
            *corruption_ppm,
            findings,
            *state,
        )),
        EventKind::Reviewed {
            asset,
            version,
            accepted,
            reviewer,
            reason,
        } => Kind::Reviewed(v1::Reviewed {
            asset: *asset,
            version: *version,
            accepted: *accepted,
            reviewer: account_bytes(reviewer),
            reason: reason.clone(),
        }),
        EventKind::Frozen { asset, reason } => Kind::Frozen(v1::Freeze {
            asset: *asset,
            reason: reason.clone(),
        }),
        EventKind::Unfrozen { asset, state } => Kind::Unfrozen(v1::Unfrozen {
            asset: *asset,
            state: state_to_wire(*state).into(),
        }),
        EventKind::ModelRegistered { digest, name, role } => {
            Kind::ModelRegistered(v1::RegisterModel {
                digest: digest_bytes(digest),
                name: name.clone(),
                role: role_to_wire(*role).into(),
                ..Default::default()
            })
        }
        EventKind::ModelSigned { digest, key } => Kind::ModelSigned(v1::ModelSigned {
            digest: digest_bytes(digest),
            key: digest_bytes(key),
        }),
        EventKind::ModelPromoted { digest } => Kind::ModelPromoted(v1::PromoteModel {
            digest: digest_bytes(digest),
        }),
        EventKind::ModelRetired { digest } => Kind::ModelRetired(v1::RetireModel {
            digest: digest_bytes(digest),
        }),
        EventKind::PolicySet { policy } => Kind::PolicySet(policy_to_wire(policy)),
        EventKind::Paused { paused } => Kind::Paused(v1::Pause { paused: *paused }),
        EventKind::SettlementDue {
            asset,
            collection,
            owner,
            version,
            metadata,
            kind,
        } => Kind::SettlementDue(v1::SettlementDue {
            asset: *asset,
            collection: *collection,
            owner: account_bytes(owner),
            version: *version,
            metadata: digest_bytes(metadata),
            kind: match kind {
                LeafKind::Held => v1::LeafKind::Held,
                LeafKind::Burned => v1::LeafKind::Burned,
                LeafKind::Redeemed => v1::LeafKind::Redeemed,
            }
            .into(),
        }),
        EventKind::BatchCut {
            number,
            first_sequence,
            last_sequence,
            changes,
        } => Kind::BatchCut(v1::BatchCut {
            number: *number,
            first_sequence: *first_sequence,
            last_sequence: *last_sequence,
            changes: *changes,
        }),
        EventKind::BatchSealed {
            number,
            root,
            payload,
            leaves,
        } => Kind::BatchSealed(v1::BatchSealed {
            number: *number,
            root: digest_bytes(root),
            payload: digest_bytes(payload),
            leaves: *leaves,
        }),
        EventKind::BatchCommitted {
            number,
            transaction,
            chain_block,
            gas_used,
            fee_wei,
        } => Kind::BatchCommitted(v1::BatchCommitted {
            number: *number,
            transaction: digest_bytes(transaction),
            chain_block: *chain_block,
            gas_used: *gas_used,
            fee_wei: wei_to_wire(*fee_wei),
        }),
        EventKind::BatchFinal {
            number,
            settled_seq,
        } => Kind::BatchFinal(v1::BatchSettled {
            number: *number,
            settled_seq: *settled_seq,
        }),
    }
}

/// Writes an amount of wei: big-endian without leading zeros.
pub fn wei_to_wire(wei: u128) -> Bytes {
    let bytes = wei.to_be_bytes();
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Bytes::copy_from_slice(&bytes[zeros..])
}

/// Writes a verdict.
pub fn verdict_to_wire(verdict: &crate::command::Verdict) -> v1::Verdict {
    v1::Verdict {
        asset: verdict.asset,
        version: verdict.version,
        policy_version: verdict.policy_version,
        decision: decision_to_wire(verdict.decision).into(),
        corruption_ppm: verdict.corruption_ppm,
        findings: verdict.findings.iter().map(finding_to_wire).collect(),
    }
}
