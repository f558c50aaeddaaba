//! Signed transactions on disk: what was or may have been broadcast, so that a restart sends the same
//! bytes and never a second transaction for the same batch.
//!
//! One file a batch, replaced whole: written beside, flushed, renamed, and the folder flushed.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::batch::BatchToCommit;
use crate::chain::hexadecimal;

const FORMAT: u16 = 1;
const SUFFIX: &str = ".json";

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The file system refused.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// Another process sends from this folder.
    #[error(
        "{folder}: another process sends from here ({reason}); two senders of one account would fight over its nonces"
    )]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// A file cannot be read as what it should be.
    #[error("{path}: {reason}; the transaction it held may be on chain: look before removing it")]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// One signed transaction for a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attempt {
    pub raw: Vec<u8>,
    pub hash: [u8; 32],
    pub max_fee: u128,
    pub max_priority_fee: u128,
}

/// Everything that was signed for a batch, all with one nonce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signed {
    pub batch: BatchToCommit,
    pub nonce: u64,
    /// At least one; the last is the one that is sent.
    pub attempts: Vec<Attempt>,
}

/// Which account on which contract the folder belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sender {
    pub chain_id: u64,
    pub contract: [u8; 20],
    pub address: [u8; 20],
}

#[derive(Debug)]
pub(super) struct Outbox {
    folder: PathBuf,
    sender: Sender,
    /// Held for as long as the outbox is open.
    _lock: File,
}

impl Outbox {
    /// Opens or creates the folder and reads what is in it.
    pub fn open(
        folder: &Path,
        sender: Sender,
    ) -> Result<(Self, BTreeMap<u64, Signed>), OutboxError> {
        let io = |action| io_error(action, folder);
        std::fs::create_dir_all(folder).map_err(io("create folder"))?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(folder.join("outbox.lock"))
            .map_err(io("open lock in"))?;
        lock.try_lock().map_err(|error| OutboxError::Locked {
            folder: folder.to_owned(),
            reason: error.to_string(),
        })?;
        let outbox = Self {
            folder: folder.to_owned(),
            sender,
            _lock: lock,
        };
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(folder).map_err(io("list"))? {
            let path = entry.map_err(io("list"))?.path();
            // Files left beside by a crash were never renamed, so nothing in them was broadcast.
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                let signed = outbox.read(&path)?;
                found.insert(signed.batch.number, signed);
            }
        }
        Ok((outbox, found))
    }

    /// Writes and flushes; once this returns the transaction may be broadcast.
    pub fn save(&self, signed: &Signed) -> Result<(), OutboxError> {
        let path = self.path_of(signed.batch.number);
        let beside = path.with_extension("new");
        let text = serde_json::to_vec_pretty(&Document::new(&self.sender, signed))
            .map_err(|error| io_error("encode", &path)(error.into()))?;
        let write = || {
            let mut file = File::create(&beside)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(io_error("save signed transaction to", &path))
    }

    /// Forgets a batch. Not flushed: a file that comes back after a crash is only looked up again.
    pub fn remove(&self, number: u64) -> Result<(), OutboxError> {
        let path = self.path_of(number);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(io_error("remove", &path)),
        }
    }

    fn read(&self, path: &Path) -> Result<Signed, OutboxError> {
        let bad = |reason: String| OutboxError::BadFile {
            path: path.to_owned(),
            reason,
        };
        let text = std::fs::read(path).map_err(io_error("read", path))?;
        let document: Document =
            serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        let (sender, signed) = document.parse().map_err(bad)?;
        if sender != self.sender {
            return Err(bad(format!(
                "signed by 0x{} for contract 0x{} on chain {}, this sender is 0x{} for 0x{} on {}",
                hex::encode(sender.address),
                hex::encode(sender.contract),
                sender.chain_id,
                hex::encode(self.sender.address),
                hex::encode(self.sender.contract),
                self.sender.chain_id
            )));
        }
        Ok(signed)
    }

    fn path_of(&self, number: u64) -> PathBuf {
        self.folder.join(format!("batch-{number:020}{SUFFIX}"))
    }
}

fn io_error(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> OutboxError + use<> {
    let path = path.to_owned();
    move |source| OutboxError::Io {
        action,
        path: path.clone(),
        source,
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u16,
    chain_id: u64,
    contract: String,
    sender: String,
    number: u64,
    parent: String,
    root: String,
    payload_digest: String,
    log_head: String,
    first_sequence: u64,
    last_sequence: u64,
    nonce: u64,
    attempts: Vec<AttemptDocument>,
}

/// Fees are text: they do not fit the numbers of JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AttemptDocument {
    hash: String,
    max_fee_wei: String,
    max_priority_fee_wei: String,
    raw: String,
}

impl Document {
    fn new(sender: &Sender, signed: &Signed) -> Self {
        let batch = &signed.batch;
        Self {
            format: FORMAT,
            chain_id: sender.chain_id,
            contract: hexadecimal::data(sender.contract),
            sender: hexadecimal::data(sender.address),
            number: batch.number,
            parent: hexadecimal::data(batch.parent),
            root: hexadecimal::data(batch.root),
            payload_digest: hexadecimal::data(batch.payload_digest),
            log_head: hexadecimal::data(batch.log_head),
            first_sequence: batch.first_sequence,
            last_sequence: batch.last_sequence,
            nonce: signed.nonce,
            attempts: signed
                .attempts
                .iter()
                .map(|attempt| AttemptDocument {
                    hash: hexadecimal::data(attempt.hash),
                    max_fee_wei: attempt.max_fee.to_string(),
                    max_priority_fee_wei: attempt.max_priority_fee.to_string(),
                    raw: hexadecimal::data(&attempt.raw),
                })
                .collect(),
        }
    }

    fn parse(self) -> Result<(Sender, Signed), String> {
        if self.format != FORMAT {
            return Err(format!(
                "format {}, this program reads format {FORMAT}",
                self.format
            ));
        }
        if self.attempts.is_empty() {
            return Err("no signed transaction in it".to_owned());
        }
        let attempts = self
            .attempts
            .into_iter()
            .map(|attempt| {
                let raw = hexadecimal::parse_data(&attempt.raw.into())?;
                let hash = bytes(&attempt.hash)?;
                if crate::keccak::keccak256(&raw) != hash {
                    return Err("a transaction does not match its hash".to_owned());
                }
                Ok(Attempt {
                    raw,
                    hash,
                    max_fee: wei(&attempt.max_fee_wei)?,
                    max_priority_fee: wei(&attempt.max_priority_fee_wei)?,
                })
            })
            .collect::<Result<_, String>>()?;
        Ok((
            Sender {
                chain_id: self.chain_id,
                contract: bytes(&self.contract)?,
                address: bytes(&self.sender)?,
            },
            Signed {
                batch: BatchToCommit {
                    number: self.number,
                    parent: bytes(&self.parent)?,
                    root: bytes(&self.root)?,
                    payload_digest: bytes(&self.payload_digest)?,
                    log_head: bytes(&self.log_head)?,
                    first_sequence: self.first_sequence,
                    last_sequence: self.last_sequence,
                },
                nonce: self.nonce,
                attempts,
            },
        ))
    }
}

fn bytes<const N: usize>(text: &str) -> Result<[u8; N], String> {
    hexadecimal::parse_bytes(&text.into())
}

fn wei(text: &str) -> Result<u128, String> {
    text.parse()
        .map_err(|_| format!("not an amount of wei: {text:?}"))
}
