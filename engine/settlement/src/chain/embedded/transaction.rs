//! Raw EIP-1559 transactions: decoding, and the checks that need no state.

use ethers_core::types::transaction::eip2718::TypedTransaction;
use ethers_core::types::{Eip1559TransactionRequest, NameOrAddress, Signature, U256};
use ethers_core::utils::rlp::Rlp;
use revm::context::TxEnv;
use revm::context::transaction::{AccessList, AccessListItem};
use revm::primitives::{Address, B256, Bytes, TxKind};

use super::rpc::Refusal;
use crate::keccak::keccak256;

/// EIP-2718 type of the only kind that this chain takes.
const TYPE_EIP1559: u8 = 2;
/// Larger transactions are refused, as geth's pool does.
const RAW_BYTES_MAX: usize = 128 * 1024;
/// EIP-3860: largest code of a creation.
const INIT_CODE_BYTES_MAX: usize = 49_152;
/// Half the order of secp256k1: EIP-2 refuses signatures whose s is above it, since both s and its
/// negative would sign the same transaction.
const HALF_ORDER: U256 = U256([
    0xdfe9_2f46_681b_20a0,
    0x5d57_6e73_57a4_501d,
    0xffff_ffff_ffff_ffff,
    0x7fff_ffff_ffff_ffff,
]);

/// A transaction whose signature was checked, now or when it was first taken.
#[derive(Debug, Clone)]
pub(super) struct Transaction {
    pub hash: [u8; 32],
    pub sender: [u8; 20],
    pub raw: Vec<u8>,
    pub nonce: u64,
    pub gas_limit: u64,
    pub max_fee: u128,
    pub max_priority_fee: u128,
    pub to: Option<[u8; 20]>,
    pub value: U256,
    pub data: Vec<u8>,
    access_list: AccessList,
}

impl Transaction {
    /// Decodes what `eth_sendRawTransaction` was given and recovers its sender.
    pub fn decode(raw: &[u8], chain_id: u64) -> Result<Self, Refusal> {
        if raw.len() > RAW_BYTES_MAX {
            return Err(Refusal::server(format!(
                "oversized data: transaction size {}, limit {RAW_BYTES_MAX}",
                raw.len()
            )));
        }
        let (request, signature) = parse(raw)?;
        let given = request.chain_id.unwrap_or_default().as_u64();
        if given != chain_id {
            return Err(Refusal::server(format!(
                "invalid sender: invalid chain id for signer: have {given} want {chain_id}"
            )));
        }
        if signature.v > 1 || signature.s.is_zero() || signature.s > HALF_ORDER {
            return Err(Refusal::server(
                "invalid sender: invalid transaction v, r, s values".to_owned(),
            ));
        }
        let typed = TypedTransaction::Eip1559(request.clone());
        // One transaction must have one hash: bytes that re-encode differently are refused.
        if typed.rlp_signed(&signature).as_ref() != raw {
            return Err(Refusal::server(
                "rlp: not the canonical encoding".to_owned(),
            ));
        }
        let sender = signature
            .recover(typed.sighash())
            .map_err(|error| Refusal::server(format!("invalid sender: {error}")))?;
        let transaction = Self::build(raw, sender.0, request)?;
        transaction.check_shape()?;
        Ok(transaction)
    }

    /// Decodes a transaction whose sender was recovered and written down when it was first taken: the
    /// journal's checksum stands for the signature, which makes opening a chain several times faster.
    pub fn decode_recorded(raw: &[u8], sender: [u8; 20]) -> Result<Self, Refusal> {
        let (request, _) = parse(raw)?;
        Self::build(raw, sender, request)
    }

    /// What it would pay for a unit of gas at this base fee.
    pub fn effective_gas_price(&self, base_fee: u64) -> u128 {
        self.max_fee
            .min(u128::from(base_fee).saturating_add(self.max_priority_fee))
    }

    /// The most that it can cost its sender.
    pub fn cost_max(&self) -> U256 {
        U256::from(self.max_fee)
            .saturating_mul(U256::from(self.gas_limit))
            .saturating_add(self.value)
    }

    pub fn environment(&self, chain_id: u64) -> TxEnv {
        TxEnv {
            tx_type: TYPE_EIP1559,
            caller: Address::from(self.sender),
            gas_limit: self.gas_limit,
            gas_price: self.max_fee,
            gas_priority_fee: Some(self.max_priority_fee),
            kind: self
                .to
                .map_or(TxKind::Create, |to| TxKind::Call(Address::from(to))),
            value: revm::primitives::U256::from_limbs(self.value.0),
            data: Bytes::copy_from_slice(&self.data),
            nonce: self.nonce,
            chain_id: Some(chain_id),
            access_list: self.access_list.clone(),
            ..TxEnv::default()
        }
    }

    fn build(
        raw: &[u8],
        sender: [u8; 20],
        request: Eip1559TransactionRequest,
    ) -> Result<Self, Refusal> {
        let fee = |fee: Option<U256>| {
            u128::try_from(fee.unwrap_or_default())
                .map_err(|_| Refusal::server("max fee per gas higher than 2^128-1".to_owned()))
        };
        let word = |number: Option<U256>, what: &str| {
            u64::try_from(number.unwrap_or_default())
                .map_err(|_| Refusal::server(format!("{what} higher than 2^64-1")))
        };
        let to = match request.to {
            None => None,
            Some(NameOrAddress::Address(address)) => Some(address.0),
            // Decoding makes addresses only.
            Some(NameOrAddress::Name(name)) => {
                return Err(Refusal::server(format!(
                    "recipient {name:?} is not an address"
                )));
            }
        };
        let access_list = AccessList(
            request
                .access_list
                .0
                .into_iter()
                .map(|item| AccessListItem {
                    address: Address::from(item.address.0),
                    storage_keys: item
                        .storage_keys
                        .iter()
                        .map(|key| B256::from(key.0))
                        .collect(),
                })
                .collect(),
        );
        Ok(Self {
            hash: keccak256(raw),
            sender,
            raw: raw.to_vec(),
            nonce: word(request.nonce, "nonce")?,
            gas_limit: word(request.gas, "gas limit")?,
            max_fee: fee(request.max_fee_per_gas)?,
            max_priority_fee: fee(request.max_priority_fee_per_gas)?,
            to,
            value: request.value.unwrap_or_default(),
            data: request.data.map(|data| data.to_vec()).unwrap_or_default(),
            access_list,
        })
    }

    fn check_shape(&self) -> Result<(), Refusal> {
        if self.max_priority_fee > self.max_fee {
            return Err(Refusal::server(format!(
                "max priority fee per gas higher than max fee per gas: address {}, \
                 maxPriorityFeePerGas: {}, maxFeePerGas: {}",
                super::super::hexadecimal::data(self.sender),
                self.max_priority_fee,
                self.max_fee
            )));
        }
        if self.to.is_none() && self.data.len() > INIT_CODE_BYTES_MAX {
            return Err(Refusal::server(format!(
                "max initcode size exceeded: code size {}, limit {INIT_CODE_BYTES_MAX}",
                self.data.len()
            )));
        }
        Ok(())
    }
}

fn parse(raw: &[u8]) -> Result<(Eip1559TransactionRequest, Signature), Refusal> {
    let malformed =
        |error: ethers_core::utils::rlp::DecoderError| Refusal::server(format!("rlp: {error}"));
    match raw.first() {
        Some(&TYPE_EIP1559) => {}
        _ => return Err(Refusal::server("transaction type not supported".to_owned())),
    }
    let rlp = Rlp::new(&raw[1..]);
    let mut field = 0;
    let request =
        Eip1559TransactionRequest::decode_base_rlp(&rlp, &mut field).map_err(malformed)?;
    let signature = Signature {
        v: rlp.val_at(field).map_err(malformed)?,
        r: rlp.val_at(field + 1).map_err(malformed)?,
        s: rlp.val_at(field + 2).map_err(malformed)?,
    };
    Ok((request, signature))
}
