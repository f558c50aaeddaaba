//! An EVM in this process, spoken to as a node is: by JSON-RPC.
//!
//! Real bytecode, real signatures, real fees; no peers. Each transaction gets a block of its own as soon
//! as its nonce and fee allow. What was mined is in a file before the answer leaves, so a restart goes on
//! where it stopped. Only the state at the head can be asked for.
//!
//! Besides the methods of a node it answers some of a test node's: `evm_mine` (with a count),
//! `evm_setAutomine`, `anvil_setNextBlockBaseFeePerGas`, `anvil_dropTransaction` and `debug_setHead`,
//! which takes blocks back as a reorg does (their transactions do not return to the pool).

mod journal;
mod pool;
mod rpc;
mod state;
mod transaction;

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use serde_json::Value;

use self::journal::{Journal, Record};
use self::pool::Pool;
use self::rpc::Refusal;
use self::state::{Genesis, World};
use self::transaction::Transaction;
use super::transport::{RpcError, RpcTransport};

pub use self::journal::JournalError;

/// Most empty blocks that one request may mine.
pub const MINE_BLOCKS_MAX: u32 = 100_000;

/// How a chain is opened. All but `chain_id` counts for a new chain only; an existing one keeps what it
/// began with.
#[derive(Debug, Clone)]
pub struct EmbeddedChainConfig {
    /// EIP-155 chain id; must match the one of an existing chain.
    pub chain_id: u64,
    /// Accounts that own wei from the start: address and amount.
    pub funded: Vec<([u8; 20], u128)>,
    /// Base fee of the first block, wei a unit of gas.
    pub base_fee_initial_wei: u64,
    /// The base fee never falls below this, wei a unit of gas.
    pub base_fee_min_wei: u64,
}

impl Default for EmbeddedChainConfig {
    fn default() -> Self {
        Self {
            chain_id: 31_337,
            funded: Vec::new(),
            base_fee_initial_wei: 1_000_000_000,
            base_fee_min_wei: 100_000_000,
        }
    }
}

/// Why a chain cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedChainError {
    /// The file under it cannot be used.
    #[error("embedded chain: {0}")]
    Journal(#[from] JournalError),
    /// The folder's lock could not be taken.
    #[error(
        "embedded chain in {folder}: in use by another process ({reason}); stop it or choose another folder"
    )]
    Locked {
        /// The chain's folder.
        folder: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// The folder holds another chain.
    #[error("embedded chain in {folder}: chain id {found}, configured is {configured}")]
    OtherChain {
        /// The chain's folder.
        folder: PathBuf,
        /// The id in the file.
        found: u64,
        /// The id asked for.
        configured: u64,
    },
    /// Executing the file's blocks again does not give what was recorded.
    #[error("embedded chain in {file}: block {number} does not replay: {reason}")]
    Replay {
        /// The chain's file.
        file: PathBuf,
        /// The block.
        number: u64,
        /// What differs.
        reason: String,
    },
}

/// A handle on the chain; clones share it.
#[derive(Clone)]
pub struct EmbeddedChain {
    inner: Arc<Mutex<Inner>>,
    cut_bytes: u64,
}

struct Inner {
    world: World,
    journal: Journal,
    pool: Pool,
    automine: bool,
    base_fee_override: Option<u64>,
    /// Held for as long as the chain is open.
    _lock: File,
}

impl EmbeddedChain {
    /// Opens the chain in `folder`, creating it if there is none, and executes its blocks again.
    ///
    /// Blocks the calling thread for the replay (see the crate's figures). Errors: another process has
    /// it open, it is another chain, or its file is damaged before the end. A torn end is cut and told by
    /// [`EmbeddedChain::cut_bytes`].
    pub fn open(folder: &Path, config: EmbeddedChainConfig) -> Result<Self, EmbeddedChainError> {
        std::fs::create_dir_all(folder).map_err(|source| JournalError::Io {
            action: "create folder",
            path: folder.to_owned(),
            source,
        })?;
        let lock = take_lock(folder)?;
        let opened = Journal::open(folder)?;
        let mut journal = opened.journal;
        let mut records = opened.records.into_iter();
        let genesis = match records.next() {
            None => {
                let genesis = Genesis {
                    chain_id: config.chain_id,
                    base_fee: config.base_fee_initial_wei,
                    base_fee_min: config.base_fee_min_wei,
                    timestamp: unix_seconds(),
                    funded: config.funded,
                };
                journal.append(&genesis_record(&genesis))?;
                genesis
            }
            Some(Record::Genesis {
                chain_id,
                base_fee,
                base_fee_min,
                timestamp,
                funded,
            }) => Genesis {
                chain_id,
                base_fee,
                base_fee_min,
                timestamp,
                funded,
            },
            Some(_) => {
                return Err(JournalError::BadRecord {
                    path: journal.path().to_owned(),
                    offset: 0,
                    reason: "the first record does not begin a chain".to_owned(),
                }
                .into());
            }
        };
        if genesis.chain_id != config.chain_id {
            return Err(EmbeddedChainError::OtherChain {
                folder: folder.to_owned(),
                found: genesis.chain_id,
                configured: config.chain_id,
            });
        }
        let world = replay(genesis, records, journal.path())?;
        Ok(Self {
            inner: Arc::new(Mutex::new(Inner {
                world,
                journal,
                pool: Pool::default(),
                automine: true,
                base_fee_override: None,
                _lock: lock,
            })),
            cut_bytes: opened.cut_bytes,
        })
    }

    /// Bytes of a torn tail that opening cut off; 0 after a clean stop.
    pub fn cut_bytes(&self) -> u64 {
        self.cut_bytes
    }

    /// Number of the newest block.
    pub fn block_number(&self) -> u64 {
        self.lock().world.head_number()
    }

    /// Mines `count` empty blocks (at most [`MINE_BLOCKS_MAX`]), so that confirmations advance.
    pub fn mine(&self, count: u32) -> Result<(), EmbeddedChainError> {
        Ok(self.lock().mine_empty(count.min(MINE_BLOCKS_MAX))?)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while the lock was held can only come from executing, which changes nothing yet.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl RpcTransport for EmbeddedChain {
    async fn request(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        let chain = self.clone();
        let asked = method.to_owned();
        // Executing and flushing block; they must not hold up the caller's runtime.
        let answer =
            tokio::task::spawn_blocking(move || rpc::answer(&mut chain.lock(), &asked, &params))
                .await
                .map_err(|error| RpcError::Unreachable {
                    method: method.to_owned(),
                    reason: format!("the embedded chain stopped: {error}"),
                })?;
        answer.map_err(|refusal| RpcError::Node {
            code: refusal.code,
            message: refusal.message,
            data: refusal.data,
        })
    }
}

impl Inner {
    fn next_base_fee(&self) -> u64 {
        self.base_fee_override
            .unwrap_or_else(|| self.world.next_base_fee())
    }

    fn next_timestamp(&self) -> u64 {
        unix_seconds().max(self.world.head().timestamp + 1)
    }

    /// Checks a signed transaction, takes it into the pool and, when mining is automatic, mines what is ready.
    fn send_raw(&mut self, raw: &[u8]) -> Result<[u8; 32], Refusal> {
        let transaction = Transaction::decode(raw, self.world.genesis.chain_id)?;
        let hash = transaction.hash;
        let next_nonce = self.world.nonce(&transaction.sender);
        if transaction.nonce < next_nonce {
            return Err(Refusal::server(format!(
                "nonce too low: next nonce {next_nonce}, tx nonce {}",
                transaction.nonce
            )));
        }
        if transaction.gas_limit > state::BLOCK_GAS_LIMIT {
            return Err(Refusal::server("exceeds block gas limit".to_owned()));
        }
        let balance =
            ethers_core::types::U256(self.world.balance(&transaction.sender).into_limbs());
        let cost = transaction.cost_max();
        if cost > balance {
            return Err(Refusal::server(format!(
                "insufficient funds for gas * price + value: balance {balance}, tx cost {cost}, overshot {}",
                cost - balance
            )));
        }
        self.pool.insert(transaction)?;
        if self.automine {
            self.mine_ready()?;
        }
        Ok(hash)
    }

    /// Mines waiting transactions, a block each, until none is ready; says how many blocks.
    fn mine_ready(&mut self) -> Result<u32, Refusal> {
        let mut mined = 0;
        loop {
            let base_fee = self.next_base_fee();
            let world = &self.world;
            let Some(transaction) = self.pool.take_ready(base_fee, |sender| world.nonce(sender))
            else {
                return Ok(mined);
            };
            let timestamp = self.next_timestamp();
            let (sender, raw) = (transaction.sender, transaction.raw.clone());
            let candidate = self
                .world
                .execute(transaction, timestamp, base_fee)
                // Not executable at all, too little gas for its own bytes for example: out of the pool.
                .map_err(|error| rpc::refusal_of(&error))?;
            self.journal
                .append(&Record::Block {
                    timestamp,
                    base_fee,
                    hash: candidate.block.hash,
                    sender,
                    raw,
                })
                .map_err(|error| Refusal::server(error.to_string()))?;
            self.world.adopt(candidate);
            self.base_fee_override = None;
            mined += 1;
        }
    }

    fn mine_empty(&mut self, count: u32) -> Result<(), JournalError> {
        if count == 0 {
            return Ok(());
        }
        let (timestamp, base_fee) = (self.next_timestamp(), self.next_base_fee());
        self.journal.append(&Record::Empty {
            count,
            timestamp,
            base_fee,
        })?;
        self.world.adopt_empty(count, timestamp, base_fee);
        self.base_fee_override = None;
        Ok(())
    }

    /// Takes back every block above `number`.
    fn set_head(&mut self, number: u64) -> Result<(), Refusal> {
        if number > self.world.head_number() {
            return Err(Refusal::server(format!(
                "block {number} does not exist, the head is {}",
                self.world.head_number()
            )));
        }
        let mut rebuilt = World::new(self.world.genesis.clone());
        for (block, transaction) in self.world.blocks_up_to(number) {
            match transaction {
                None => rebuilt.adopt_empty(1, block.timestamp, block.base_fee),
                Some(transaction) => {
                    let candidate = rebuilt
                        .execute(transaction, block.timestamp, block.base_fee)
                        .map_err(|error| rpc::refusal_of(&error))?;
                    rebuilt.adopt(candidate);
                }
            }
        }
        self.journal
            .append(&Record::SetHead { number })
            .map_err(|error| Refusal::server(error.to_string()))?;
        self.world = rebuilt;
        self.pool.clear();
        Ok(())
    }
}

/// One block of the file, once blocks that were taken back are left out.
enum Step {
    Empty {
        timestamp: u64,
        base_fee: u64,
        count: u32,
    },
    Block {
        timestamp: u64,
        base_fee: u64,
        hash: [u8; 32],
        sender: [u8; 20],
        raw: Vec<u8>,
    },
}

fn replay(
    genesis: Genesis,
    records: impl Iterator<Item = Record>,
    file: &Path,
) -> Result<World, EmbeddedChainError> {
    let bad = |number: u64, reason: String| EmbeddedChainError::Replay {
        file: file.to_owned(),
        number,
        reason,
    };
    // Each step with the number of its last block.
    let mut steps: Vec<(u64, Step)> = Vec::new();
    for record in records {
        let head = steps.last().map_or(0, |(last, _)| *last);
        match record {
            Record::Genesis { .. } => {
                return Err(bad(head, "a second beginning".to_owned()));
            }
            Record::Block {
                timestamp,
                base_fee,
                hash,
                sender,
                raw,
            } => steps.push((
                head + 1,
                Step::Block {
                    timestamp,
                    base_fee,
                    hash,
                    sender,
                    raw,
                },
            )),
            Record::Empty {
                count,
                timestamp,
                base_fee,
            } => steps.push((
                head + u64::from(count),
                Step::Empty {
                    timestamp,
                    base_fee,
                    count,
                },
            )),
            Record::SetHead { number } => {
                while let Some((last, step)) = steps.pop() {
                    if last <= number {
                        steps.push((last, step));
                        break;
                    }
                    if let Step::Empty {
                        timestamp,
                        base_fee,
                        count,
                    } = step
                    {
                        let first = last + 1 - u64::from(count);
                        if first <= number {
                            // Fits 32 bits: it is less than `count`.
                            let count = (number + 1 - first) as u32;
                            steps.push((
                                number,
                                Step::Empty {
                                    timestamp,
                                    base_fee,
                                    count,
                                },
                            ));
                            break;
                        }
                    }
                }
            }
        }
    }
    let mut world = World::new(genesis);
    for (number, step) in steps {
        match step {
            Step::Empty {
                timestamp,
                base_fee,
                count,
            } => world.adopt_empty(count, timestamp, base_fee),
            Step::Block {
                timestamp,
                base_fee,
                hash,
                sender,
                raw,
            } => {
                let transaction = Transaction::decode_recorded(&raw, sender)
                    .map_err(|refusal| bad(number, refusal.message))?;
                let candidate = world
                    .execute(transaction, timestamp, base_fee)
                    .map_err(|error| bad(number, error.to_string()))?;
                if candidate.block.hash != hash {
                    return Err(bad(
                        number,
                        "its transaction does something else now; this chain was written by a \
                         program with other EVM rules"
                            .to_owned(),
                    ));
                }
                world.adopt(candidate);
            }
        }
    }
    Ok(world)
}

fn genesis_record(genesis: &Genesis) -> Record {
    Record::Genesis {
        chain_id: genesis.chain_id,
        base_fee: genesis.base_fee,
        base_fee_min: genesis.base_fee_min,
        timestamp: genesis.timestamp,
        funded: genesis.funded.clone(),
    }
}

fn take_lock(folder: &Path) -> Result<File, EmbeddedChainError> {
    let locked = |reason: String| EmbeddedChainError::Locked {
        folder: folder.to_owned(),
        reason,
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(folder.join("chain.lock"))
        .map_err(|error| locked(error.to_string()))?;
    file.try_lock().map_err(|error| locked(error.to_string()))?;
    Ok(file)
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
