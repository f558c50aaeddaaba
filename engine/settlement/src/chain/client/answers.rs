//! What a node answers, in this crate's terms.

use ethers_contract::{ContractRevert, EthEvent};
use ethers_core::abi::RawLog;
use ethers_core::types::H256;
use serde_json::Value;

use super::{ChainError, CommittedBatch};
use crate::batch::BatchToCommit;
use crate::chain::contract::{self, SettlementContractErrors};
use crate::chain::hexadecimal::{parse_bytes, parse_data, parse_quantity, parse_u64};
use crate::chain::transport::RpcError;

pub(super) fn decode_commit(log: &Value) -> Result<CommittedBatch, ChainError> {
    let method = "eth_getLogs";
    let bad = |reason: String| bad_answer(method, &reason);
    let topics = log["topics"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let raw = RawLog {
        topics: topics
            .iter()
            .map(|topic| parse_bytes(topic).map(H256))
            .collect::<Result<_, _>>()
            .map_err(bad)?,
        data: parse_data(&log["data"]).map_err(bad)?,
    };
    let event = <contract::BatchCommittedFilter as EthEvent>::decode_log(&raw)
        .map_err(|error| bad(format!("BatchCommitted: {error}")))?;
    Ok(CommittedBatch {
        batch: BatchToCommit {
            number: event.number,
            parent: event.parent,
            root: event.root,
            payload_digest: event.payload,
            log_head: event.log_head,
            first_sequence: event.first_sequence,
            last_sequence: event.last_sequence,
        },
        transaction: parse_bytes(&log["transactionHash"]).map_err(bad)?,
        block: parse_u64(&log["blockNumber"]).map_err(bad)?,
    })
}

/// Turns a revert into the contract's own words.
pub(super) fn revert_reason(call: &'static str, error: RpcError) -> ChainError {
    let RpcError::Node { message, data, .. } = &error else {
        return error.into();
    };
    // geth and the embedded chain give the bytes themselves, some nodes an object around them.
    let output = data
        .as_ref()
        .and_then(|data| parse_data(data).or_else(|_| parse_data(&data["data"])).ok());
    match output {
        Some(output) => ChainError::Reverted {
            call,
            reason: SettlementContractErrors::decode_with_selector(&output)
                .map_or_else(|| message.clone(), |reason| named(&reason)),
        },
        None if message.contains("revert") => ChainError::Reverted {
            call,
            reason: message.clone(),
        },
        None => error.into(),
    }
}

/// `WrongNumber { expected: 2, given: 1 }` rather than the wrapper's form.
fn named(reason: &SettlementContractErrors) -> String {
    let text = format!("{reason:?}");
    match text.split_once('(') {
        Some((_, inner)) => inner.strip_suffix(')').unwrap_or(inner).to_owned(),
        None => text,
    }
}

pub(super) fn big(value: &Value, method: &str) -> Result<u128, ChainError> {
    let number = parse_quantity(value).map_err(|reason| bad_answer(method, &reason))?;
    Ok(u128::try_from(number).map_err(|_| bad_answer(method, "larger than 128 bits"))?)
}

pub(super) fn bad_answer(method: &str, reason: &str) -> RpcError {
    RpcError::BadAnswer {
        method: method.to_owned(),
        reason: reason.to_owned(),
    }
}
