//! Commands.

use bytes::Bytes;
use prost::Message as _;

use super::{Refused, account, account_or_nobody, command_id, digest, frequent, text};
use super::{policy_from_wire, role_from_wire, spec_from_wire};
use crate::code::Code;
use crate::command::{
    AgentKind, BatchCommitted, BatchSealed, BodyHash, Command, CommandKind, Content, Decision,
    Exchange, Finding, Genesis, Leg, Lineage, Mint, RegisterModel, Revise, Traits, Verdict,
};
use crate::ids::{Account, CommandId, Digest};
use crate::lineage::{lineage_hash, metadata_digest};
use crate::signing::{ModelSignature, SIGNATURE_BYTES};
use crate::{limits, v1};

/// Reads one logged command.
///
/// # Errors
/// When the bytes are not a command, or a malformed one.
pub fn decode_command(bytes: &[u8]) -> Result<Command, Refused> {
    if let Some(command) = frequent::read(bytes) {
        return Ok(command);
    }
    command_from_wire(wire_command(bytes)?, body_hash(bytes))
}

/// Reads a command that has the very bytes that the log would get for it, if it is of a frequent kind: such bytes can go into
/// the log as they are. Nothing of any others; [`wire_command`] and [`encode_command`] serve those.
pub fn read_frequent(bytes: &[u8]) -> Option<Command> {
    frequent::read(bytes)
}

/// Reads a command's message.
///
/// # Errors
/// When the bytes are none.
pub fn wire_command(bytes: impl bytes::Buf) -> Result<v1::Command, Refused> {
    v1::Command::decode(bytes)
        .map_err(|error| Refused::malformed(format!("not a karat.v1.Command: {error}")))
}

/// Encodes a command for the log and reads it back typed, so that both sides of the log see the same thing.
///
/// # Errors
/// When it is malformed or over [`limits::COMMAND_BYTES_MAX`].
pub fn encode_command(wire: v1::Command) -> Result<(Bytes, Command), Refused> {
    let length = wire.encoded_len();
    if length > limits::COMMAND_BYTES_MAX {
        return Err(Refused::new(
            Code::CommandTooLarge,
            format!(
                "the command has {length} bytes, at most {} are allowed",
                limits::COMMAND_BYTES_MAX
            ),
        ));
    }
    let body = Bytes::from(wire.encode_to_vec());
    let hash = body_hash(&body);
    Ok((body, command_from_wire(wire, hash)?))
}

/// A command of the engine's own making.
pub fn new_command(id: CommandId, actor: Account, kind: v1::command::Kind) -> v1::Command {
    v1::Command {
        id: Bytes::copy_from_slice(&id.0),
        actor: Bytes::copy_from_slice(&actor.0),
        format: limits::COMMAND_FORMAT,
        kind: Some(kind),
    }
}

/// The id of a command on the wire.
///
/// # Errors
/// When it has not 16 bytes.
pub fn id_of(wire: &v1::Command) -> Result<CommandId, Refused> {
    command_id(&wire.id)
}

pub(super) fn body_hash(bytes: &[u8]) -> BodyHash {
    let mut hash = [0; 16];
    hash.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    hash
}

/// Checks a command's form. `body_hash` is the hash of its encoded bytes.
///
/// # Errors
/// Names the field that is wrong.
pub fn command_from_wire(wire: v1::Command, body_hash: BodyHash) -> Result<Command, Refused> {
    if wire.format > limits::COMMAND_FORMAT {
        return Err(Refused::new(
            Code::UnknownFormat,
            format!(
                "command format {} is newer than {}, which this build reads",
                wire.format,
                limits::COMMAND_FORMAT
            ),
        ));
    }
    let id = command_id(&wire.id)?;
    let actor = account(&wire.actor, "actor")?;
    let kind = wire.kind.ok_or_else(|| {
        Refused::malformed("kind is not set, or is one that this build does not know")
    })?;
    Ok(Command {
        id,
        actor,
        body_hash,
        kind: kind_from_wire(kind)?,
    })
}

fn kind_from_wire(kind: v1::command::Kind) -> Result<CommandKind, Refused> {
    use v1::command::Kind;
    Ok(match kind {
        Kind::Genesis(wire) => {
            text(&wire.realm, limits::NAME_BYTES_MAX, "realm")?;
            CommandKind::Genesis(Box::new(Genesis {
                realm: wire.realm,
                operator: account(&wire.operator, "operator")?,
                verifier: account(&wire.verifier, "verifier")?,
                settler: account(&wire.settler, "settler")?,
                policy: policy_from_wire(wire.policy)?,
            }))
        }
        Kind::CreateCollection(wire) => {
            let spec = wire
                .spec
                .ok_or_else(|| Refused::malformed("spec is missing"))?;
            CommandKind::CreateCollection(Box::new(spec_from_wire(spec)?))
        }
        Kind::RevealSeed(wire) => CommandKind::RevealSeed {
            collection: wire.collection,
            secret: Box::new(digest(&wire.secret, "secret")?),
        },
        Kind::Mint(wire) => mint_from_wire(wire)?,
        Kind::Revise(wire) => revise_from_wire(wire)?,
        Kind::Transfer(wire) => CommandKind::Transfer {
            asset: wire.asset,
            version: wire.version,
            to: account(&wire.to, "to")?,
        },
        Kind::Claim(wire) => CommandKind::Claim {
            asset: wire.asset,
            version: wire.version,
        },
        Kind::Exchange(wire) => exchange_from_wire(&wire)?,
        Kind::Burn(wire) => CommandKind::Burn {
            asset: wire.asset,
            version: wire.version,
        },
        Kind::Redeem(wire) => CommandKind::Redeem {
            asset: wire.asset,
            version: wire.version,
            to: account(&wire.to, "to")?,
        },
        Kind::Deposit(wire) => CommandKind::Deposit {
            account: account(&wire.account, "account")?,
            amount: wire.amount,
        },
        Kind::Withdraw(wire) => CommandKind::Withdraw {
            account: account(&wire.account, "account")?,
            amount: wire.amount,
        },
        Kind::Verdict(wire) => verdict_from_wire(&wire)?,
        Kind::ReviewDecision(wire) => {
            text(&wire.reason, limits::TEXT_BYTES_MAX, "reason")?;
            CommandKind::ReviewDecision {
                asset: wire.asset,
                version: wire.version,
                accepted: wire.accepted,
                reason: wire.reason,
            }
        }
        Kind::RegisterModel(wire) => {
            text(&wire.name, limits::NAME_BYTES_MAX, "name")?;
            CommandKind::RegisterModel(Box::new(RegisterModel {
                digest: digest(&wire.digest, "digest")?,
                role: role_from_wire(wire.role)?,
                name: wire.name,
                signature: signature_from_wire(&wire.key, &wire.signature)?,
            }))
        }
        Kind::PromoteModel(wire) => CommandKind::PromoteModel {
            digest: digest(&wire.digest, "digest")?,
        },
        Kind::RetireModel(wire) => CommandKind::RetireModel {
            digest: digest(&wire.digest, "digest")?,
        },
        Kind::SetPolicy(wire) => CommandKind::SetPolicy(Box::new(policy_from_wire(wire.policy)?)),
        Kind::Freeze(wire) => {
            text(&wire.reason, limits::TEXT_BYTES_MAX, "reason")?;
            CommandKind::Freeze {
                asset: wire.asset,
                reason: wire.reason,
            }
        }
        Kind::Unfreeze(wire) => CommandKind::Unfreeze { asset: wire.asset },
        Kind::Pause(wire) => CommandKind::Pause {
            paused: wire.paused,
        },
        Kind::BatchSealed(wire) => CommandKind::BatchSealed(Box::new(BatchSealed {
            number: wire.number,
            root: digest(&wire.root, "root")?,
            payload: digest(&wire.payload, "payload")?,
            leaves: wire.leaves,
        })),
        Kind::BatchCommitted(wire) => CommandKind::BatchCommitted(Box::new(BatchCommitted {
            number: wire.number,
            transaction: digest(&wire.transaction, "transaction")?,
            chain_block: wire.chain_block,
            gas_used: wire.gas_used,
            fee_wei: wei_from_wire(&wire.fee_wei)?,
        })),
        Kind::BatchFinal(wire) => CommandKind::BatchFinal {
            number: wire.number,
        },
        Kind::Tick(wire) => CommandKind::Tick {
            base_fee_wei: wire.base_fee_wei,
        },
    })
}

/// A model's signature: both parts or neither.
fn signature_from_wire(key: &[u8], signature: &[u8]) -> Result<Option<ModelSignature>, Refused> {
    if key.is_empty() && signature.is_empty() {
        return Ok(None);
    }
    let key = digest(key, "key")?;
    let signature = signature.try_into().map_err(|_| {
        Refused::malformed(format!(
            "signature must have {SIGNATURE_BYTES} bytes, has {}",
            signature.len()
        ))
    })?;
    Ok(Some(ModelSignature { key, signature }))
}

fn mint_from_wire(wire: v1::Mint) -> Result<CommandKind, Refused> {
    let (content, traits, lineage) = made_from_wire(
        &wire.digest,
        wire.size,
        &wire.traits,
        wire.lineage,
        &wire.content,
        0,
    )?;
    Ok(CommandKind::Mint(Box::new(Mint {
        collection: wire.collection,
        owner: account_or_nobody(&wire.owner, "owner")?,
        metadata: metadata_digest(
            wire.collection,
            &content.digest,
            traits.as_slice(),
            &lineage.hash,
        ),
        content,
        traits,
        lineage,
    })))
}

fn revise_from_wire(wire: v1::Revise) -> Result<CommandKind, Refused> {
    let (content, traits, lineage) = made_from_wire(
        &wire.digest,
        wire.size,
        &wire.traits,
        wire.lineage,
        &wire.content,
        wire.version,
    )?;
    Ok(CommandKind::Revise(Box::new(Revise {
        asset: wire.asset,
        version: wire.version,
        collection: wire.collection,
        metadata: metadata_digest(
            wire.collection,
            &content.digest,
            traits.as_slice(),
            &lineage.hash,
        ),
        content,
        traits,
        lineage,
    })))
}

/// What mint and revise share. Content bytes must have been taken out by now: they never reach the log.
fn made_from_wire(
    content_digest: &[u8],
    size: u32,
    traits: &[u8],
    lineage: Option<v1::Lineage>,
    content: &[u8],
    parent_version: u32,
) -> Result<(Content, Traits, Lineage), Refused> {
    if !content.is_empty() {
        return Err(Refused::malformed(
            "content bytes do not belong into the log; send them through the gateway",
        ));
    }
    let traits = Traits::new(traits).ok_or_else(|| {
        Refused::malformed(format!(
            "traits has {} values, at most {} are allowed",
            traits.len(),
            limits::TRAITS_MAX
        ))
    })?;
    let wire = lineage.ok_or_else(|| Refused::malformed("lineage is missing"))?;
    text(&wire.variant, limits::NAME_BYTES_MAX, "lineage.variant")?;
    let model: Digest = digest(&wire.model, "lineage.model")?;
    let seed = digest(&wire.seed, "lineage.seed")?;
    let hash = lineage_hash(
        &model,
        &wire.variant,
        &seed,
        traits.as_slice(),
        parent_version,
    );
    let content = Content {
        digest: digest(content_digest, "digest")?,
        size,
    };
    Ok((
        content,
        traits,
        Lineage {
            model,
            variant: wire.variant,
            seed,
            hash,
        },
    ))
}

fn exchange_from_wire(wire: &v1::Exchange) -> Result<CommandKind, Refused> {
    let legs = wire.legs.len();
    if legs == 0
        || legs > limits::EXCHANGE_LEGS_MAX
        || wire.consents.len() > limits::EXCHANGE_LEGS_MAX
    {
        return Err(Refused::new(
            Code::BadExchange,
            format!(
                "an exchange has 1 to {} legs and at most as many consents; this one has {legs} and {}",
                limits::EXCHANGE_LEGS_MAX,
                wire.consents.len()
            ),
        ));
    }
    // Of the very capacity, so that they become slices without being copied.
    let mut legs = Vec::with_capacity(legs);
    for leg in &wire.legs {
        let (from, to) = (account(&leg.from, "leg.from")?, account(&leg.to, "leg.to")?);
        legs.push(match (leg.asset, leg.amount) {
            (0, amount) => Leg::Currency { from, to, amount },
            (asset, 0) => Leg::Asset {
                asset,
                version: leg.version,
                from,
                to,
            },
            _ => {
                return Err(Refused::new(
                    Code::BadExchange,
                    "a leg moves an asset or an amount, not both",
                ));
            }
        });
    }
    let mut consents = Vec::with_capacity(wire.consents.len());
    for bytes in &wire.consents {
        consents.push(account(bytes, "consents")?);
    }
    Ok(CommandKind::Exchange(Exchange {
        legs: legs.into(),
        consents: consents.into(),
    }))
}

fn verdict_from_wire(wire: &v1::Verdict) -> Result<CommandKind, Refused> {
    if wire.findings.len() > limits::FINDINGS_MAX {
        return Err(Refused::new(
            Code::BadVerdict,
            format!(
                "{} findings, at most {} are allowed",
                wire.findings.len(),
                limits::FINDINGS_MAX
            ),
        ));
    }
    let decision = match v1::Decision::try_from(wire.decision) {
        Ok(v1::Decision::Accept) => Decision::Accept,
        Ok(v1::Decision::Reject) => Decision::Reject,
        Ok(v1::Decision::Review) => Decision::Review,
        _ => {
            return Err(Refused::new(
                Code::BadVerdict,
                format!("decision {} is none", wire.decision),
            ));
        }
    };
    let findings = wire
        .findings
        .iter()
        .map(|finding| {
            let agent = match v1::AgentKind::try_from(finding.agent) {
                Ok(v1::AgentKind::Integrity) => AgentKind::Integrity,
                Ok(v1::AgentKind::Policy) => AgentKind::Policy,
                Ok(v1::AgentKind::Parity) => AgentKind::Parity,
                Ok(v1::AgentKind::ReExecution) => AgentKind::ReExecution,
                Ok(v1::AgentKind::Similarity) => AgentKind::Similarity,
                _ => {
                    return Err(Refused::new(
                        Code::BadVerdict,
                        format!("agent {} is none", finding.agent),
                    ));
                }
            };
            let code = u16::try_from(finding.code).map_err(|_| {
                Refused::new(Code::BadVerdict, "a finding's code has at most 16 bits")
            })?;
            Ok(Finding {
                agent,
                code,
                measure: finding.measure,
            })
        })
        .collect::<Result<_, Refused>>()?;
    Ok(CommandKind::Verdict(Box::new(Verdict {
        asset: wire.asset,
        version: wire.version,
        policy_version: wire.policy_version,
        decision,
        corruption_ppm: wire.corruption_ppm,
        findings,
    })))
}

fn wei_from_wire(bytes: &[u8]) -> Result<u128, Refused> {
    if bytes.len() > 16 {
        return Err(Refused::malformed(format!(
            "fee_wei has {} bytes, at most 16 are possible",
            bytes.len()
        )));
    }
    Ok(bytes
        .iter()
        .fold(0, |sum, byte| (sum << 8) | u128::from(*byte)))
}
