//! Canonical bytes of events and outcomes: what the digest covers and what history rows and event logs hold.
//!
//! One value has one encoding. The first byte is the format; a reader refuses one that it does not know. Numbers of kinds are
//! never reused.

pub(crate) mod bytes;
pub(crate) mod values;

use bytes::{Put, Reader, Row};
use karat_proto::Code;
use karat_proto::event::{Event, EventKind, Outcome, RealmOpened};
use values::*;

/// Format of events and outcomes that this build writes.
pub const FORMAT: u8 = 1;

/// Why bytes could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// They end too soon.
    #[error("the bytes end too soon: what begins at byte {at} is not whole")]
    Truncated {
        /// Where what is missing begins.
        at: usize,
    },
    /// They were written by a newer build.
    #[error("format {found} is not known; this build reads format {FORMAT}: update it")]
    UnknownFormat {
        /// The format that was found.
        found: u8,
    },
    /// A number stands for nothing.
    #[error("{value} is no {what} (before byte {at}): the bytes are damaged")]
    Unknown {
        /// What the number should be.
        what: &'static str,
        /// The number.
        value: u64,
        /// Where reading stands.
        at: usize,
    },
    /// A text is not UTF-8.
    #[error("the text at byte {at} is not UTF-8: the bytes are damaged")]
    NotText {
        /// Where the text's length begins.
        at: usize,
    },
}

/// Appends an outcome's canonical bytes.
#[inline]
pub fn encode_outcome(outcome: &Outcome, out: &mut Vec<u8>) {
    match &outcome.winner {
        None => {
            let row = &mut Row::<OUTCOME_BYTES>::append(out);
            put_outcome(outcome, row);
            row.put_bool(false);
        }
        Some(winner) => {
            let row = &mut Row::<{ OUTCOME_BYTES + 24 }>::append(out);
            put_outcome(outcome, row);
            row.put_bool(true);
            put_winner(winner, row);
        }
    }
}

/// Bytes of an outcome without a winner.
const OUTCOME_BYTES: usize = 21;

#[inline(always)]
fn put_outcome(outcome: &Outcome, out: &mut impl Put) {
    out.put_u8(FORMAT);
    out.put_u64(outcome.sequence);
    out.put_u16(outcome.code as u16);
    out.put_bool(outcome.replayed);
    out.put_u64(outcome.subject);
}

/// Reads an outcome from the beginning of `bytes`; gives how many bytes it took as well.
///
/// # Errors
/// When the bytes end too soon, are damaged, or have a newer format.
pub fn decode_outcome(bytes: &[u8]) -> Result<(Outcome, usize), CodecError> {
    let mut reader = Reader::new(bytes);
    check_format(&mut reader)?;
    let sequence = reader.u64()?;
    let number = reader.u16()?;
    let code = Code::from_number(number).ok_or_else(|| reader.unknown("code", number.into()))?;
    let outcome = Outcome {
        sequence,
        code,
        replayed: reader.bool()?,
        subject: reader.u64()?,
        winner: optional_winner(&mut reader)?,
    };
    Ok((outcome, reader.used()))
}

fn check_format(reader: &mut Reader<'_>) -> Result<(), CodecError> {
    match reader.u8()? {
        FORMAT => Ok(()),
        found => Err(CodecError::UnknownFormat { found }),
    }
}

/// Appends an event's canonical bytes.
///
/// What trades, claims, mints and verdicts cause goes in rows: the digest takes all of them.
pub fn encode_event(event: &Event, out: &mut Vec<u8>) {
    match &event.kind {
        EventKind::RealmOpened { opened } => {
            put_head(event, 1, out);
            out.put_text(&opened.realm);
            out.put_bytes(&opened.operator.0);
            out.put_bytes(&opened.verifier.0);
            out.put_bytes(&opened.settler.0);
        }
        EventKind::CollectionCreated {
            collection,
            creator,
            spec,
        } => {
            put_head(event, 2, out);
            out.put_u32(*collection);
            out.put_bytes(&creator.0);
            put_spec(spec, out);
        }
        EventKind::SeedRevealed { collection, secret } => {
            put_head(event, 3, out);
            out.put_u32(*collection);
            out.put_bytes(secret);
        }
        EventKind::Minted {
            asset,
            collection,
            owner,
            made,
        } => {
            let row = &mut Row::<{ HEAD_BYTES + 32 }>::append(out);
            row_head(event, 4, row);
            row.put_u64(*asset);
            row.put_u32(*collection);
            row.put_bytes(&owner.0);
            put_made(made, out);
        }
        EventKind::Revised {
            asset,
            version,
            made,
        } => {
            put_head(event, 5, out);
            out.put_u64(*asset);
            out.put_u32(*version);
            put_made(made, out);
        }
        EventKind::Transferred {
            asset,
            version,
            from,
            to,
            cause,
        } => {
            let row = &mut Row::<{ HEAD_BYTES + 53 }>::append(out);
            row_head(event, 6, row);
            row.put_u64(*asset);
            row.put_u32(*version);
            row.put_bytes(&from.0);
            row.put_bytes(&to.0);
            put_cause(*cause, row);
        }
        EventKind::ClaimEntered {
            asset,
            account,
            closes_ms,
        } => {
            let row = &mut Row::<{ HEAD_BYTES + 36 }>::append(out);
            row_head(event, 7, row);
            row.put_u64(*asset);
            row.put_bytes(&account.0);
            row.put_u64(*closes_ms);
        }
        EventKind::ClaimLost {
            asset,
            account,
            command,
            winner,
        } => {
            put_head(event, 8, out);
            out.put_u64(*asset);
            out.put_bytes(&account.0);
            out.put_bytes(&command.0);
            put_optional_winner(winner.as_ref(), out);
        }
        EventKind::CurrencyMoved { from, to, amount } => {
            let row = &mut Row::<{ HEAD_BYTES + 48 }>::append(out);
            row_head(event, 9, row);
            row.put_bytes(&from.0);
            row.put_bytes(&to.0);
            row.put_u64(*amount);
        }
        EventKind::Deposited { account, amount } => {
            let row = &mut Row::<{ HEAD_BYTES + 28 }>::append(out);
            row_head(event, 10, row);
            row.put_bytes(&account.0);
            row.put_u64(*amount);
        }
        EventKind::Withdrawn { account, amount } => {
            let row = &mut Row::<{ HEAD_BYTES + 28 }>::append(out);
            row_head(event, 11, row);
            row.put_bytes(&account.0);
            row.put_u64(*amount);
        }
        EventKind::Burned { asset } => {
            let row = &mut Row::<{ HEAD_BYTES + 8 }>::append(out);
            row_head(event, 12, row);
            row.put_u64(*asset);
        }
        EventKind::Redeemed { asset, to } => {
            put_head(event, 13, out);
            out.put_u64(*asset);
            out.put_bytes(&to.0);
        }
        EventKind::Verified {
            asset,
            version,
            decision,
            corruption_ppm,
            findings,
            state,
        } => {
            let row = &mut Row::<{ HEAD_BYTES + 17 }>::append(out);
            row_head(event, 14, row);
            row.put_u64(*asset);
            row.put_u32(*version);
            put_decision(*decision, row);
            row.put_u32(*corruption_ppm);
            put_findings(findings, out);
            put_state(*state, out);
        }
        EventKind::Reviewed {
            asset,
            version,
            accepted,
            reviewer,
            reason,
        } => {
            put_head(event, 15, out);
            out.put_u64(*asset);
            out.put_u32(*version);
            out.put_bool(*accepted);
            out.put_bytes(&reviewer.0);
            out.put_text(reason);
        }
        EventKind::Frozen { asset, reason } => {
            put_head(event, 16, out);
            out.put_u64(*asset);
            out.put_text(reason);
        }
        EventKind::Unfrozen { asset, state } => {
            put_head(event, 17, out);
            out.put_u64(*asset);
            put_state(*state, out);
        }
        EventKind::ModelRegistered { digest, name, role } => {
            put_head(event, 18, out);
            out.put_bytes(digest);
            out.put_text(name);
            put_role(*role, out);
        }
        EventKind::ModelSigned { digest, key } => {
            put_head(event, 28, out);
            out.put_bytes(digest);
            out.put_bytes(key);
        }
        EventKind::ModelPromoted { digest } => {
            put_head(event, 19, out);
            out.put_bytes(digest);
        }
        EventKind::ModelRetired { digest } => {
            put_head(event, 20, out);
            out.put_bytes(digest);
        }
        EventKind::PolicySet { policy } => {
            put_head(event, 21, out);
            put_policy(policy, out);
        }
        EventKind::Paused { paused } => {
            put_head(event, 22, out);
            out.put_bool(*paused);
        }
        EventKind::SettlementDue {
            asset,
            collection,
            owner,
            version,
            metadata,
            kind,
        } => {
            let row = &mut Row::<{ HEAD_BYTES + 69 }>::append(out);
            row_head(event, 23, row);
            row.put_u64(*asset);
            row.put_u32(*collection);
            row.put_bytes(&owner.0);
            row.put_u32(*version);
            row.put_bytes(metadata);
            put_leaf_kind(*kind, row);
        }
        EventKind::BatchCut {
            number,
            first_sequence,
            last_sequence,
            changes,
        } => {
            put_head(event, 24, out);
            out.put_u64(*number);
            out.put_u64(*first_sequence);
            out.put_u64(*last_sequence);
            out.put_u32(*changes);
        }
        EventKind::BatchSealed {
            number,
            root,
            payload,
            leaves,
        } => {
            put_head(event, 25, out);
            out.put_u64(*number);
            out.put_bytes(root);
            out.put_bytes(payload);
            out.put_u32(*leaves);
        }
        EventKind::BatchCommitted {
            number,
            transaction,
            chain_block,
            gas_used,
            fee_wei,
        } => {
            put_head(event, 26, out);
            out.put_u64(*number);
            out.put_bytes(transaction);
            out.put_u64(*chain_block);
            out.put_u64(*gas_used);
            out.put_u128(*fee_wei);
        }
        EventKind::BatchFinal {
            number,
            settled_seq,
        } => {
            put_head(event, 27, out);
            out.put_u64(*number);
            out.put_u64(*settled_seq);
        }
    }
}

/// Bytes before what an event's kind says.
const HEAD_BYTES: usize = 20;

#[inline(always)]
fn row_head(event: &Event, kind: u8, out: &mut impl Put) {
    out.put_u8(FORMAT);
    out.put_u64(event.sequence);
    out.put_u16(event.index);
    out.put_u64(event.time_ms);
    out.put_u8(kind);
}

fn put_head(event: &Event, kind: u8, out: &mut Vec<u8>) {
    let row = &mut Row::<HEAD_BYTES>::append(out);
    row_head(event, kind, row);
}

/// Reads an event from the beginning of `bytes`; gives how many bytes it took as well.
///
/// # Errors
/// When the bytes end too soon, are damaged, or have a newer format.
pub fn decode_event(bytes: &[u8]) -> Result<(Event, usize), CodecError> {
    let mut reader = Reader::new(bytes);
    check_format(&mut reader)?;
    let event = Event {
        sequence: reader.u64()?,
        index: reader.u16()?,
        time_ms: reader.u64()?,
        kind: decode_kind(&mut reader)?,
    };
    Ok((event, reader.used()))
}

fn decode_kind(reader: &mut Reader<'_>) -> Result<EventKind, CodecError> {
    Ok(match reader.u8()? {
        1 => EventKind::RealmOpened {
            opened: Box::new(RealmOpened {
                realm: reader.text()?,
                operator: reader.account()?,
                verifier: reader.account()?,
                settler: reader.account()?,
            }),
        },
        2 => EventKind::CollectionCreated {
            collection: reader.u32()?,
            creator: reader.account()?,
            spec: Box::new(spec(reader)?),
        },
        3 => EventKind::SeedRevealed {
            collection: reader.u32()?,
            secret: reader.digest()?,
        },
        4 => EventKind::Minted {
            asset: reader.u64()?,
            collection: reader.u32()?,
            owner: reader.account()?,
            made: Box::new(made(reader)?),
        },
        5 => EventKind::Revised {
            asset: reader.u64()?,
            version: reader.u32()?,
            made: Box::new(made(reader)?),
        },
        6 => EventKind::Transferred {
            asset: reader.u64()?,
            version: reader.u32()?,
            from: reader.account()?,
            to: reader.account()?,
            cause: cause(reader)?,
        },
        7 => EventKind::ClaimEntered {
            asset: reader.u64()?,
            account: reader.account()?,
            closes_ms: reader.u64()?,
        },
        8 => EventKind::ClaimLost {
            asset: reader.u64()?,
            account: reader.account()?,
            command: reader.command_id()?,
            winner: optional_winner(reader)?,
        },
        9 => EventKind::CurrencyMoved {
            from: reader.account()?,
            to: reader.account()?,
            amount: reader.u64()?,
        },
        10 => EventKind::Deposited {
            account: reader.account()?,
            amount: reader.u64()?,
        },
        11 => EventKind::Withdrawn {
            account: reader.account()?,
            amount: reader.u64()?,
        },
        12 => EventKind::Burned {
            asset: reader.u64()?,
        },
        13 => EventKind::Redeemed {
            asset: reader.u64()?,
            to: reader.account()?,
        },
        14 => EventKind::Verified {
            asset: reader.u64()?,
            version: reader.u32()?,
            decision: decision(reader)?,
            corruption_ppm: reader.u32()?,
            findings: findings(reader)?,
            state: state(reader)?,
        },
        15 => EventKind::Reviewed {
            asset: reader.u64()?,
            version: reader.u32()?,
            accepted: reader.bool()?,
            reviewer: reader.account()?,
            reason: reader.text()?,
        },
        16 => EventKind::Frozen {
            asset: reader.u64()?,
            reason: reader.text()?,
        },
        17 => EventKind::Unfrozen {
            asset: reader.u64()?,
            state: state(reader)?,
        },
        18 => EventKind::ModelRegistered {
            digest: reader.digest()?,
            name: reader.text()?,
            role: role(reader)?,
        },
        19 => EventKind::ModelPromoted {
            digest: reader.digest()?,
        },
        20 => EventKind::ModelRetired {
            digest: reader.digest()?,
        },
        21 => EventKind::PolicySet {
            policy: Box::new(policy(reader)?),
        },
        22 => EventKind::Paused {
            paused: reader.bool()?,
        },
        23 => EventKind::SettlementDue {
            asset: reader.u64()?,
            collection: reader.u32()?,
            owner: reader.account()?,
            version: reader.u32()?,
            metadata: reader.digest()?,
            kind: leaf_kind(reader)?,
        },
        24 => EventKind::BatchCut {
            number: reader.u64()?,
            first_sequence: reader.u64()?,
            last_sequence: reader.u64()?,
            changes: reader.u32()?,
        },
        25 => EventKind::BatchSealed {
            number: reader.u64()?,
            root: reader.digest()?,
            payload: reader.digest()?,
            leaves: reader.u32()?,
        },
        26 => EventKind::BatchCommitted {
            number: reader.u64()?,
            transaction: reader.digest()?,
            chain_block: reader.u64()?,
            gas_used: reader.u64()?,
            fee_wei: reader.u128()?,
        },
        27 => EventKind::BatchFinal {
            number: reader.u64()?,
            settled_seq: reader.u64()?,
        },
        28 => EventKind::ModelSigned {
            digest: reader.digest()?,
            key: reader.digest()?,
        },
        other => return Err(reader.unknown("event kind", other.into())),
    })
}
