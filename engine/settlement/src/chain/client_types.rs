//! What the chain client is given and gives back.

use super::signer::SignerError;
use super::transport::RpcError;
use crate::batch::BatchToCommit;

/// Why the chain did not do or tell what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The request itself failed.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// The contract refused a call.
    #[error("settlement contract refused {call}: {reason}")]
    Reverted {
        /// The call.
        call: &'static str,
        /// The contract's error, by name where it is one of its own.
        reason: String,
    },
    /// The key could not sign.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// No code at the contract's address.
    #[error(
        "no settlement contract at {address} on chain {chain_id}; deploy it or correct the address"
    )]
    NoContract {
        /// The address.
        address: String,
        /// The chain.
        chain_id: u64,
    },
    /// A transaction was mined and failed.
    #[error("{call} failed on chain: transaction {transaction} in block {block}")]
    Failed {
        /// What was sent.
        call: &'static str,
        /// Its hash.
        transaction: String,
        /// Its block.
        block: u64,
    },
    /// A transaction was not mined in time.
    #[error("{call} was not mined within {waited_ms} ms: transaction {transaction}")]
    NotMined {
        /// What was sent.
        call: &'static str,
        /// Its hash.
        transaction: String,
        /// How long was waited.
        waited_ms: u64,
    },
}

/// What the contract is deployed with.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// Name of the token collection.
    pub name: String,
    /// Its symbol.
    pub symbol: String,
    /// Prefix of every token's metadata address.
    pub base_uri: String,
    /// Grants roles, sets royalties and the base URI, pauses.
    pub admin: [u8; 20],
    /// Commits batches.
    pub settler: [u8; 20],
    /// Receives royalties.
    pub royalty_receiver: [u8; 20],
    /// Hundredths of a percent of a sale.
    pub royalty_basis_points: u16,
}

/// The last committed batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its number; 0 before the first.
    pub number: u64,
    /// Its commitment, which the next batch names as its parent; zero before the first.
    pub commitment: [u8; 32],
    /// The last ledger sequence that is committed.
    pub last_sequence: u64,
}

/// A batch as the chain's log tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommittedBatch {
    /// What was committed.
    pub batch: BatchToCommit,
    /// Hash of the transaction.
    pub transaction: [u8; 32],
    /// The chain's block.
    pub block: u64,
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Its hash.
    pub transaction: [u8; 32],
    /// Its block.
    pub block: u64,
    /// Hash of that block.
    pub block_hash: [u8; 32],
    /// False if it was mined and reverted.
    pub success: bool,
    /// Gas that it used.
    pub gas_used: u64,
    /// Wei a unit of gas that it paid.
    pub gas_price_wei: u128,
    /// The contract that it created, if it did.
    pub created: Option<[u8; 20]>,
}

/// Fees of an EIP-1559 transaction, in wei a unit of gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fees {
    /// The most that is paid altogether.
    pub max_fee: u128,
    /// The part that goes to whoever builds the block.
    pub max_priority_fee: u128,
}

/// What a receiver of royalties gets for a sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Royalty {
    /// Who gets it.
    pub receiver: [u8; 20],
    /// How much, in the unit of the price.
    pub amount: u128,
}
