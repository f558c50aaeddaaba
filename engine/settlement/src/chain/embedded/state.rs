//! The chain's state: accounts in an in-memory database, blocks, receipts, and the EVM over them.

use std::collections::{BTreeMap, HashMap};

use revm::context::result::{ExecutionResult, InvalidTransaction};
use revm::context::{BlockEnv, CfgEnv, Context, TxEnv};
use revm::context_interface::result::{EVMError, ExecResultAndState};
use revm::database::InMemoryDB;
use revm::primitives::hardfork::SpecId;
use revm::primitives::{Address, B256, Log, TxKind, U256};
use revm::state::AccountInfo;
use revm::{DatabaseCommit, DatabaseRef, ExecuteEvm, MainBuilder, MainContext};

use super::transaction::Transaction;
use crate::keccak::keccak256;

/// Gas that one block holds.
pub(super) const BLOCK_GAS_LIMIT: u64 = 30_000_000;
/// EIP-1559: the base fee moves by at most an eighth a block.
const BASE_FEE_CHANGE_DENOMINATOR: u128 = 8;
const BLOCK_GAS_TARGET: u64 = BLOCK_GAS_LIMIT / 2;

/// What a chain begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Genesis {
    pub chain_id: u64,
    pub base_fee: u64,
    pub base_fee_min: u64,
    pub timestamp: u64,
    pub funded: Vec<([u8; 20], u128)>,
}

#[derive(Debug, Clone)]
pub(super) struct Block {
    pub hash: [u8; 32],
    pub timestamp: u64,
    pub base_fee: u64,
    pub gas_used: u64,
}

/// A transaction in a block and what it did.
#[derive(Debug)]
pub(super) struct Mined {
    pub transaction: Transaction,
    pub block: u64,
    pub success: bool,
    pub gas_used: u64,
    pub created: Option<[u8; 20]>,
    pub logs: Vec<Log>,
}

/// A block that was executed but not yet made part of the chain.
pub(super) struct Candidate {
    pub block: Block,
    mined: Mined,
    changes: revm::state::EvmState,
}

pub(super) type Executed = ExecutionResult;
pub(super) type EvmRefusal = EVMError<std::convert::Infallible, InvalidTransaction>;

pub(super) struct World {
    pub genesis: Genesis,
    database: InMemoryDB,
    /// Index is the block's number; block 0 is the genesis.
    blocks: Vec<Block>,
    number_of_hash: HashMap<[u8; 32], u64>,
    mined: HashMap<[u8; 32], Mined>,
    /// Hash of the one transaction in each block that has one.
    transaction_of_block: BTreeMap<u64, [u8; 32]>,
}

impl World {
    pub fn new(genesis: Genesis) -> Self {
        let mut database = InMemoryDB::default();
        for (address, wei) in &genesis.funded {
            database.insert_account_info(
                Address::from(*address),
                AccountInfo::from_balance(U256::from(*wei)),
            );
        }
        let first = Block {
            hash: block_hash(&[0; 32], 0, genesis.timestamp, genesis.base_fee, None),
            timestamp: genesis.timestamp,
            base_fee: genesis.base_fee,
            gas_used: 0,
        };
        Self {
            genesis,
            database,
            number_of_hash: HashMap::from([(first.hash, 0)]),
            blocks: vec![first],
            mined: HashMap::new(),
            transaction_of_block: BTreeMap::new(),
        }
    }

    pub fn head_number(&self) -> u64 {
        self.blocks.len() as u64 - 1
    }

    pub fn head(&self) -> &Block {
        // Block 0 is always there.
        &self.blocks[self.blocks.len() - 1]
    }

    pub fn block(&self, number: u64) -> Option<&Block> {
        self.blocks.get(usize::try_from(number).ok()?)
    }

    pub fn number_of(&self, hash: &[u8; 32]) -> Option<u64> {
        self.number_of_hash.get(hash).copied()
    }

    pub fn mined(&self, hash: &[u8; 32]) -> Option<&Mined> {
        self.mined.get(hash)
    }

    pub fn transaction_in(&self, number: u64) -> Option<&[u8; 32]> {
        self.transaction_of_block.get(&number)
    }

    /// Mined transactions of these blocks, in order.
    pub fn mined_in(
        &self,
        blocks: std::ops::RangeInclusive<u64>,
    ) -> impl DoubleEndedIterator<Item = &Mined> {
        self.transaction_of_block
            .range(blocks)
            .filter_map(|(_, hash)| self.mined.get(hash))
    }

    pub fn nonce(&self, address: &[u8; 20]) -> u64 {
        self.account(address).map_or(0, |account| account.nonce)
    }

    pub fn balance(&self, address: &[u8; 20]) -> U256 {
        self.account(address)
            .map_or(U256::ZERO, |account| account.balance)
    }

    pub fn code(&self, address: &[u8; 20]) -> Vec<u8> {
        self.account(address)
            .and_then(|account| self.database.cache.contracts.get(&account.code_hash))
            .map(|code| code.original_bytes().to_vec())
            .unwrap_or_default()
    }

    /// The base fee of the block after the head.
    pub fn next_base_fee(&self) -> u64 {
        next_base_fee(self.head(), self.genesis.base_fee_min)
    }

    /// Executes one transaction as the next block, without making it part of the chain.
    pub fn execute(
        &mut self,
        transaction: Transaction,
        timestamp: u64,
        base_fee: u64,
    ) -> Result<Candidate, EvmRefusal> {
        let number = self.head_number() + 1;
        let outcome = self.run(
            transaction.environment(self.genesis.chain_id),
            number,
            timestamp,
            base_fee,
        )?;
        let result = outcome.result;
        let gas_used = result.tx_gas_used();
        let mined = Mined {
            block: number,
            success: result.is_success(),
            gas_used,
            created: result.created_address().map(|address| address.into_array()),
            // A revert undoes its logs.
            logs: if result.is_success() {
                result.into_logs()
            } else {
                Vec::new()
            },
            transaction,
        };
        let hash = block_hash(&self.head().hash, number, timestamp, base_fee, Some(&mined));
        Ok(Candidate {
            block: Block {
                hash,
                timestamp,
                base_fee,
                gas_used,
            },
            mined,
            changes: outcome.state,
        })
    }

    /// Makes an executed block the head.
    pub fn adopt(&mut self, candidate: Candidate) {
        let number = candidate.mined.block;
        self.database.commit(candidate.changes);
        let hash = candidate.mined.transaction.hash;
        self.transaction_of_block.insert(number, hash);
        self.mined.insert(hash, candidate.mined);
        self.number_of_hash.insert(candidate.block.hash, number);
        self.blocks.push(candidate.block);
    }

    /// Appends blocks without transactions, a second apart.
    pub fn adopt_empty(&mut self, count: u32, timestamp: u64, base_fee: u64) {
        let mut base_fee = base_fee;
        for step in 0..u64::from(count) {
            let number = self.head_number() + 1;
            let timestamp = timestamp + step;
            let block = Block {
                hash: block_hash(&self.head().hash, number, timestamp, base_fee, None),
                timestamp,
                base_fee,
                gas_used: 0,
            };
            base_fee = next_base_fee(&block, self.genesis.base_fee_min);
            self.number_of_hash.insert(block.hash, number);
            self.blocks.push(block);
        }
    }

    /// The blocks from 1 to `number`, in the form they are built from: for rebuilding after a reorg.
    pub fn blocks_up_to(&self, number: u64) -> Vec<(Block, Option<Transaction>)> {
        (1..=number)
            .filter_map(|number| {
                let block = self.block(number)?.clone();
                let transaction = self
                    .transaction_in(number)
                    .and_then(|hash| self.mined(hash))
                    .map(|mined| mined.transaction.clone());
                Some((block, transaction))
            })
            .collect()
    }

    /// Runs a call on the head's state and throws its changes away. No gas is paid for.
    pub fn call(
        &mut self,
        from: [u8; 20],
        to: Option<[u8; 20]>,
        value: U256,
        data: Vec<u8>,
        gas_limit: u64,
    ) -> Result<Executed, EvmRefusal> {
        let environment = TxEnv {
            caller: Address::from(from),
            gas_limit,
            gas_price: 0,
            kind: to.map_or(TxKind::Create, |to| TxKind::Call(Address::from(to))),
            value,
            data: data.into(),
            nonce: self.nonce(&from),
            chain_id: Some(self.genesis.chain_id),
            ..TxEnv::default()
        };
        let number = self.head_number() + 1;
        let timestamp = self.head().timestamp + 1;
        Ok(self.run(environment, number, timestamp, 0)?.result)
    }

    fn run(
        &mut self,
        transaction: TxEnv,
        number: u64,
        timestamp: u64,
        base_fee: u64,
    ) -> Result<ExecResultAndState<ExecutionResult>, EvmRefusal> {
        let mut settings = CfgEnv::new_with_spec(SpecId::PRAGUE);
        settings.chain_id = self.genesis.chain_id;
        let block = BlockEnv {
            number: U256::from(number),
            timestamp: U256::from(timestamp),
            gas_limit: BLOCK_GAS_LIMIT,
            basefee: base_fee,
            prevrandao: Some(B256::from(self.head().hash)),
            ..BlockEnv::default()
        };
        Context::mainnet()
            .with_db(&mut self.database)
            .with_cfg(settings)
            .with_block(block)
            .build_mainnet()
            .transact(transaction)
    }

    fn account(&self, address: &[u8; 20]) -> Option<AccountInfo> {
        match self.database.basic_ref(Address::from(*address)) {
            Ok(account) => account,
            Err(never) => match never {},
        }
    }
}

/// EIP-1559's rule, with a floor so that an idle chain does not become free.
fn next_base_fee(parent: &Block, base_fee_min: u64) -> u64 {
    let base_fee = u128::from(parent.base_fee);
    let (used, target) = (u128::from(parent.gas_used), u128::from(BLOCK_GAS_TARGET));
    let next = if used > target {
        let rise = base_fee * (used - target) / target / BASE_FEE_CHANGE_DENOMINATOR;
        base_fee + rise.max(1)
    } else {
        base_fee - base_fee * (target - used) / target / BASE_FEE_CHANGE_DENOMINATOR
    };
    u64::try_from(next).unwrap_or(u64::MAX).max(base_fee_min)
}

/// The hash covers the parent, the header's numbers and everything the transaction did, so equal hashes
/// mean equal histories. It is not Ethereum's header hash: there are no state or receipt tries here.
fn block_hash(
    parent: &[u8; 32],
    number: u64,
    timestamp: u64,
    base_fee: u64,
    mined: Option<&Mined>,
) -> [u8; 32] {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(parent);
    for word in [number, timestamp, base_fee] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    if let Some(mined) = mined {
        bytes.extend_from_slice(&mined.transaction.hash);
        bytes.extend_from_slice(&mined.gas_used.to_le_bytes());
        bytes.push(u8::from(mined.success));
        bytes.extend_from_slice(&mined.created.unwrap_or_default());
        for log in &mined.logs {
            bytes.extend_from_slice(log.address.as_slice());
            for topic in log.topics() {
                bytes.extend_from_slice(topic.as_slice());
            }
            bytes.extend_from_slice(&keccak256(&log.data.data));
        }
    }
    keccak256(&bytes)
}
