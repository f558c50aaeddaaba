//! The whole state as canonical bytes: what a snapshot file holds, and what the state digest covers.
//!
//! Layout: `KARATSNP`, format (4 bytes), then frames of a length (4 bytes, at most [`frames::FRAME_BYTES_MAX`]) and that many
//! bytes, a frame of length 0, and blake3 over everything before. Records follow each other in the frames and none
//! straddles two, so a reader holds one frame at a time. Numbers are little-endian. Equal states have equal bytes:
//! everything is written in the order of its numbers or keys, and indexes are built again.
//!
//! Format 2 adds each model's signer, and stands for fields that the policy gained later. A state that has none of them is
//! written in format 1, so its digest is the one of before; both formats are read.

mod frames;

use crate::batches::{Batch, BatchCommitment, BatchSeal, Batches};
use crate::claims::WaitingClaim;
use crate::codec::CodecError;
use crate::codec::bytes::{Put, Reader};
use crate::codec::values::*;
use crate::collections::Collection;
use crate::digest::RollingDigest;
use crate::models::{Model, ModelState};
use crate::realm::{Realm, Roles};
use crate::retries::{Entry, Retries};
use crate::state::accounts::NOBODY;
use crate::state::asset::{Asset, VerdictSummary};
use crate::state::{Ledger, OutcomeCounts};
use frames::{FrameReader, FrameWriter};
use karat_proto::{Code, Digest};
use std::io::{Read, Write};

/// Newest format of snapshots that this build writes, and reads like all before it.
pub const SNAPSHOT_FORMAT: u32 = 2;
/// The first format, and the one of states that need no newer one.
const FORMAT_PLAIN: u32 = 1;

/// Why a snapshot could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Reading or writing failed.
    #[error("the snapshot could not be read or written: {0}")]
    Io(#[from] std::io::Error),
    /// It is something else.
    #[error("this is no snapshot of a ledger: it does not begin with KARATSNP")]
    NotASnapshot,
    /// It was written by a newer build.
    #[error(
        "the snapshot has format {found}, this build reads formats 1 to {SNAPSHOT_FORMAT}: update it, or recover from the log"
    )]
    UnknownFormat {
        /// Format that was found.
        found: u32,
    },
    /// Its bytes changed.
    #[error(
        "the snapshot is damaged (its checksum differs): delete it and recover from an older one or from the log"
    )]
    Checksum,
    /// Its parts do not fit together.
    #[error(
        "the snapshot is damaged ({what}): delete it and recover from an older one or from the log"
    )]
    Damaged {
        /// What does not fit.
        what: &'static str,
    },
    /// A value in it could not be read.
    #[error(
        "the snapshot is damaged ({0}): delete it and recover from an older one or from the log"
    )]
    Value(#[from] CodecError),
}

fn damaged(what: &'static str) -> SnapshotError {
    SnapshotError::Damaged { what }
}

impl Ledger {
    /// Writes the whole state, rolling digest included. Takes about a second for 2,000,000 assets: not for the hot path.
    ///
    /// # Errors
    /// When `output` fails.
    pub fn write_snapshot(&self, output: &mut dyn Write) -> Result<(), SnapshotError> {
        self.write_frames(output).map(|_| ())
    }

    /// blake3 over the canonical snapshot. Slow: for comparing and verifying.
    pub fn state_digest(&self) -> Digest {
        // Writing to a sink cannot fail.
        self.write_frames(&mut std::io::sink()).unwrap_or([0; 32])
    }

    /// Reads a state that [`Ledger::write_snapshot`] wrote; applying the commands after it goes on exactly as if all had
    /// been applied here.
    ///
    /// # Errors
    /// When `input` fails, is not a snapshot, has another format, or is damaged anywhere.
    pub fn read_snapshot(input: &mut dyn Read) -> Result<Ledger, SnapshotError> {
        let mut frames = FrameReader::open(input)?;
        let ledger = read_ledger(&mut frames)?;
        frames.close()?;
        Ok(ledger)
    }

    fn write_frames(&self, output: &mut dyn Write) -> Result<Digest, SnapshotError> {
        let format = self.snapshot_format();
        let mut frames = FrameWriter::begin(output, format)?;
        self.write_head(&mut frames)?;
        for record in self.accounts.iter().skip(1) {
            let out = frames.record()?;
            out.put_bytes(&record.account.0);
            out.put_u64(record.balance);
        }
        for collection in &self.collections {
            put_collection(collection, frames.record()?);
        }
        for model in self.models.by_digest.values() {
            put_model(model, format, frames.record()?);
        }
        for asset in self.assets.iter() {
            put_asset(asset, frames.record()?);
        }
        for (asset, window) in &self.claims.windows {
            let out = frames.record()?;
            out.put_u64(*asset);
            out.put_u64(window.closes_ms);
            out.put_length(window.claims.len());
            for claim in &window.claims {
                out.put_u32(claim.account);
                out.put_u32(claim.version);
                put_winner(&claim.command, out);
            }
        }
        for batch in &self.batches.kept {
            put_batch(batch, frames.record()?);
        }
        for entry in self.retries.iter() {
            let out = frames.record()?;
            out.put_u64(entry.sequence);
            out.put_u64(entry.subject);
            out.put_bytes(&entry.id.0);
            out.put_bytes(&entry.body_hash);
            out.put_u16(entry.code as u16);
        }
        for (sequence, winner) in self.retries.winners() {
            let out = frames.record()?;
            out.put_u64(*sequence);
            put_winner(winner, out);
        }
        for piece in self.digest.gathered().chunks(frames::PIECE_BYTES) {
            frames.record()?.put_bytes(piece);
        }
        frames.end()
    }

    /// The oldest format that holds this state; a function of the state, so that equal states have equal bytes.
    fn snapshot_format(&self) -> u32 {
        let plain = self
            .realm
            .as_ref()
            .is_none_or(|realm| policy_extensions(&realm.policy) == 0)
            && self
                .models
                .by_digest
                .values()
                .all(|model| model.signed_by.is_none());
        match plain {
            true => FORMAT_PLAIN,
            false => SNAPSHOT_FORMAT,
        }
    }

    /// Single values, and how many records of each kind follow.
    fn write_head(&self, frames: &mut FrameWriter<'_>) -> Result<(), SnapshotError> {
        let out = frames.record()?;
        out.put_u64(self.applied_seq);
        out.put_u64(self.time_ms);
        out.put_u64(self.outcomes.accepted);
        out.put_u64(self.outcomes.refused);
        out.put_u64(self.outcomes.replayed);
        out.put_bytes(self.digest.folded());
        out.put_bool(self.realm.is_some());
        if let Some(realm) = &self.realm {
            out.put_text(&realm.name);
            out.put_bytes(&realm.roles.operator.0);
            out.put_bytes(&realm.roles.verifier.0);
            out.put_bytes(&realm.roles.settler.0);
            put_policy(&realm.policy, out);
            out.put_bool(realm.paused);
        }
        let batches = &self.batches;
        out.put_u64(batches.cut_seq);
        out.put_u64(batches.cut);
        out.put_u64(batches.sealed);
        out.put_u64(batches.committed);
        out.put_u64(batches.finals);
        out.put_u32(batches.changes);
        out.put_u64(batches.oldest_change_sequence);
        out.put_u64(batches.oldest_change_ms);
        out.put_u64(batches.base_fee_wei);
        out.put_u64(self.retries.entries_max);
        out.put_u64(self.retries.entries_reserved);
        for count in [
            self.accounts.len() - 1,
            self.collections.len(),
            self.models.by_digest.len(),
            self.assets.len(),
            self.claims.windows.len(),
            self.batches.kept.len(),
            self.retries.len() as usize,
            self.retries.winners().len(),
            self.digest.gathered().len(),
        ] {
            out.put_u64(count as u64);
        }
        Ok(())
    }
}

fn read_ledger(frames: &mut FrameReader<'_>) -> Result<Ledger, SnapshotError> {
    let mut ledger = Ledger::new();
    let mut counts = [0_u64; 9];
    let format = frames.format();
    frames.read(|reader| read_head(reader, &mut ledger, &mut counts))?;
    let [
        accounts,
        collections,
        models,
        assets,
        windows,
        batches,
        entries,
        winners,
        digest_bytes,
    ] = counts;
    for _ in 0..accounts {
        frames.read(|reader| {
            let account = reader.account()?;
            let balance = reader.u64()?;
            if ledger.accounts.find(&account).is_some() {
                return Err(damaged("an account stands in it twice"));
            }
            ledger.accounts.add(account, balance);
            ledger.currency_total = ledger
                .currency_total
                .checked_add(balance)
                .ok_or(damaged("balances pass 64 bits"))?;
            Ok(())
        })?;
    }
    for _ in 0..collections {
        let collection = frames.read(read_collection)?;
        ledger.collections.push(collection);
    }
    for _ in 0..models {
        let model = frames.read(|reader| read_model(reader, format))?;
        ledger.models.by_digest.insert(model.digest, model);
    }
    for _ in 0..assets {
        let asset = frames.read(read_asset)?;
        let known = (asset.owner as usize) < ledger.accounts.len()
            && ledger.collection_record(asset.collection).is_some();
        if !known {
            return Err(damaged("an asset's owner or collection is not in it"));
        }
        ledger.count_state(None, asset.state);
        ledger.assets.push(asset);
    }
    for _ in 0..windows {
        frames.read(|reader| read_window(reader, &mut ledger))?;
    }
    for _ in 0..batches {
        let batch = frames.read(read_batch)?;
        ledger.batches.kept.push_back(batch);
    }
    check_batches(&ledger.batches)?;
    for _ in 0..entries {
        let entry = frames.read(read_entry)?;
        if entry.sequence > ledger.applied_seq {
            return Err(damaged("a remembered id is from the future"));
        }
        if !ledger.retries.restore(entry) {
            return Err(damaged("an id is remembered in it twice"));
        }
    }
    for _ in 0..winners {
        let (sequence, winner) = frames.read(|reader| Ok((reader.u64()?, winner(reader)?)))?;
        ledger.retries.restore_winner(sequence, winner);
    }
    let mut left = usize::try_from(digest_bytes).map_err(|_| damaged("a length"))?;
    while left > 0 {
        let length = left.min(frames::PIECE_BYTES);
        let piece = frames.read(|reader| Ok(reader.bytes(length)?.to_vec()))?;
        ledger.digest.gather(&piece);
        left -= length;
    }
    Ok(ledger)
}

fn read_head(
    reader: &mut Reader<'_>,
    ledger: &mut Ledger,
    counts: &mut [u64; 9],
) -> Result<(), SnapshotError> {
    ledger.applied_seq = reader.u64()?;
    ledger.time_ms = reader.u64()?;
    ledger.outcomes = OutcomeCounts {
        accepted: reader.u64()?,
        refused: reader.u64()?,
        replayed: reader.u64()?,
    };
    ledger.digest = RollingDigest::folded_to(&reader.digest()?);
    if reader.bool()? {
        ledger.realm = Some(Realm {
            name: reader.text()?,
            roles: Roles {
                operator: reader.account()?,
                verifier: reader.account()?,
                settler: reader.account()?,
            },
            policy: policy(reader)?,
            paused: reader.bool()?,
        });
    }
    let batches = &mut ledger.batches;
    batches.cut_seq = reader.u64()?;
    batches.cut = reader.u64()?;
    batches.sealed = reader.u64()?;
    batches.committed = reader.u64()?;
    batches.finals = reader.u64()?;
    batches.changes = reader.u32()?;
    batches.oldest_change_sequence = reader.u64()?;
    batches.oldest_change_ms = reader.u64()?;
    batches.base_fee_wei = reader.u64()?;
    ledger.retries = Retries::new(reader.u64()?, reader.u64()?);
    for count in counts {
        *count = reader.u64()?;
    }
    Ok(())
}

fn put_collection(collection: &Collection, out: &mut Vec<u8>) {
    put_spec(&collection.spec, out);
    out.put_bytes(&collection.creator.0);
    out.put_u64(collection.minted);
    out.put_bool(collection.secret.is_some());
    if let Some(secret) = &collection.secret {
        out.put_bytes(secret);
    }
    out.put_u64(collection.created_sequence);
    for count in &collection.counts {
        out.put_u64(*count);
    }
}

fn read_collection(reader: &mut Reader<'_>) -> Result<Collection, SnapshotError> {
    let spec = spec(reader)?;
    let creator = reader.account()?;
    let minted = reader.u64()?;
    let secret = match reader.bool()? {
        true => Some(reader.digest()?),
        false => None,
    };
    let mut collection = Collection::new(spec, creator, reader.u64()?);
    collection.minted = minted;
    collection.secret = secret;
    for count in &mut collection.counts {
        *count = reader.u64()?;
    }
    Ok(collection)
}

fn put_model(model: &Model, format: u32, out: &mut Vec<u8>) {
    out.put_bytes(&model.digest);
    out.put_text(&model.name);
    put_role(model.role, out);
    out.put_u8(match model.state {
        ModelState::Registered => 0,
        ModelState::Approved => 1,
        ModelState::Retired => 2,
    });
    out.put_u64(model.registered_sequence);
    if format > FORMAT_PLAIN {
        out.put_bool(model.signed_by.is_some());
        if let Some(key) = &model.signed_by {
            out.put_bytes(key);
        }
    }
}

fn read_model(reader: &mut Reader<'_>, format: u32) -> Result<Model, SnapshotError> {
    Ok(Model {
        digest: reader.digest()?,
        name: reader.text()?,
        role: role(reader)?,
        state: match reader.u8()? {
            0 => ModelState::Registered,
            1 => ModelState::Approved,
            2 => ModelState::Retired,
            other => return Err(reader.unknown("model state", other.into()).into()),
        },
        registered_sequence: reader.u64()?,
        signed_by: match format > FORMAT_PLAIN && reader.bool()? {
            true => Some(reader.digest()?),
            false => None,
        },
    })
}

fn put_asset(asset: &Asset, out: &mut Vec<u8>) {
    out.put_u64(asset.settle_sequence);
    put_winner(&asset.last, out);
    put_winner(&asset.owner_change, out);
    out.put_u32(asset.owner);
    out.put_u32(asset.version);
    out.put_u32(asset.collection);
    put_state(asset.state, out);
    out.put_bool(asset.frozen_from.is_some());
    if let Some(state) = asset.frozen_from {
        put_state(state, out);
    }
    put_traits(&asset.traits, out);
    out.put_bytes(&asset.metadata);
    put_content(&asset.content, out);
    out.put_bytes(&asset.lineage_hash);
    out.put_bool(asset.last_verdict.is_some());
    if let Some(verdict) = &asset.last_verdict {
        out.put_u32(verdict.version);
        out.put_u32(verdict.policy_version);
        out.put_u32(verdict.corruption_ppm);
        put_decision(verdict.decision, out);
    }
    out.put_u64(asset.minted_sequence);
}

fn read_asset(reader: &mut Reader<'_>) -> Result<Asset, SnapshotError> {
    Ok(Asset {
        settle_sequence: reader.u64()?,
        last: winner(reader)?,
        owner_change: winner(reader)?,
        owner: reader.u32()?,
        version: reader.u32()?,
        collection: reader.u32()?,
        state: state(reader)?,
        frozen_from: match reader.bool()? {
            true => Some(state(reader)?),
            false => None,
        },
        traits: traits(reader)?,
        metadata: reader.digest()?,
        content: content(reader)?,
        lineage_hash: reader.digest()?,
        last_verdict: match reader.bool()? {
            true => Some(VerdictSummary {
                version: reader.u32()?,
                policy_version: reader.u32()?,
                corruption_ppm: reader.u32()?,
                decision: decision(reader)?,
            }),
            false => None,
        },
        minted_sequence: reader.u64()?,
    })
}

fn read_window(reader: &mut Reader<'_>, ledger: &mut Ledger) -> Result<(), SnapshotError> {
    let asset = reader.u64()?;
    let closes_ms = reader.u64()?;
    let length = reader.length()?;
    if length == 0 || ledger.claims.windows.contains_key(&asset) {
        return Err(damaged("a draw is empty or stands in it twice"));
    }
    for _ in 0..length {
        let claim = WaitingClaim {
            account: reader.u32()?,
            version: reader.u32()?,
            command: winner(reader)?,
        };
        if claim.account == NOBODY || claim.account as usize >= ledger.accounts.len() {
            return Err(damaged("a claimant is not in it"));
        }
        ledger.claims.enter(asset, closes_ms, claim);
    }
    Ok(())
}

fn put_batch(batch: &Batch, out: &mut Vec<u8>) {
    out.put_u64(batch.number);
    out.put_u64(batch.first_sequence);
    out.put_u64(batch.last_sequence);
    out.put_u64(batch.oldest_change_sequence);
    out.put_u32(batch.changes);
    out.put_u64(batch.cut_ms);
    out.put_bool(batch.seal.is_some());
    if let Some(seal) = &batch.seal {
        out.put_bytes(&seal.root);
        out.put_bytes(&seal.payload);
        out.put_u32(seal.leaves);
    }
    out.put_bool(batch.commitment.is_some());
    if let Some(commitment) = &batch.commitment {
        out.put_bytes(&commitment.transaction);
        out.put_u64(commitment.chain_block);
        out.put_u64(commitment.gas_used);
        out.put_u128(commitment.fee_wei);
    }
    out.put_bool(batch.is_final);
}

fn read_batch(reader: &mut Reader<'_>) -> Result<Batch, SnapshotError> {
    Ok(Batch {
        number: reader.u64()?,
        first_sequence: reader.u64()?,
        last_sequence: reader.u64()?,
        oldest_change_sequence: reader.u64()?,
        changes: reader.u32()?,
        cut_ms: reader.u64()?,
        seal: match reader.bool()? {
            true => Some(BatchSeal {
                root: reader.digest()?,
                payload: reader.digest()?,
                leaves: reader.u32()?,
            }),
            false => None,
        },
        commitment: match reader.bool()? {
            true => Some(BatchCommitment {
                transaction: reader.digest()?,
                chain_block: reader.u64()?,
                gas_used: reader.u64()?,
                fee_wei: reader.u128()?,
            }),
            false => None,
        },
        is_final: reader.bool()?,
    })
}

/// Positions that subtraction relies on.
fn check_batches(batches: &Batches) -> Result<(), SnapshotError> {
    let in_order = batches.finals <= batches.committed
        && batches.committed <= batches.sealed
        && batches.sealed <= batches.cut;
    let all_there = batches
        .kept
        .iter()
        .rev()
        .zip((1..=batches.cut).rev())
        .all(|(batch, number)| batch.number == number && batch.oldest_change_sequence > 0)
        && batches.open() <= batches.kept.len() as u64;
    let counted = batches.changes == 0 || batches.oldest_change_sequence > 0;
    match in_order && all_there && counted {
        true => Ok(()),
        false => Err(damaged("its batches do not follow each other")),
    }
}

fn read_entry(reader: &mut Reader<'_>) -> Result<Entry, SnapshotError> {
    let sequence = reader.u64()?;
    let subject = reader.u64()?;
    let id = reader.command_id()?;
    let body_hash = reader.short()?;
    let number = reader.u16()?;
    let code = Code::from_number(number).ok_or_else(|| reader.unknown("code", number.into()))?;
    Ok(Entry {
        sequence,
        subject,
        id,
        body_hash,
        code,
    })
}
