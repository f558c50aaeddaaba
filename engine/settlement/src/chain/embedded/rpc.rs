//! JSON-RPC over the chain: parameters in, answers out, errors in geth's words.

use ethers_core::types::U256;
use revm::context_interface::result::{EVMError, InvalidTransaction};
use revm::primitives::Log;
use serde_json::{Value, json};

use super::super::hexadecimal::{
    data, parse_bytes, parse_data, parse_quantity, parse_u64, quantity,
};
use super::state::{BLOCK_GAS_LIMIT, EvmRefusal, Executed, Mined};
use super::transaction::Transaction;
use super::{Inner, MINE_BLOCKS_MAX};

const CODE_SERVER: i64 = -32_000;
const CODE_UNKNOWN_METHOD: i64 = -32_601;
const CODE_BAD_PARAMETERS: i64 = -32_602;
const CODE_REVERTED: i64 = 3;

/// More logs than this in one answer are refused; narrow the range of blocks.
const LOGS_MAX: usize = 10_000;
/// Most blocks that one fee history covers.
const FEE_HISTORY_BLOCKS_MAX: u64 = 1_024;
/// What `eth_maxPriorityFeePerGas` suggests: blocks are never full here.
const PRIORITY_FEE_WEI: u64 = 100_000_000;
/// Gas that a call with value keeps back for its callee, which an estimate must allow for.
const CALL_STIPEND: u64 = 2_300;

/// A JSON-RPC error.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub code: i64,
    pub message: String,
    pub data: Option<Value>,
}

impl Refusal {
    pub fn server(message: String) -> Self {
        Self {
            code: CODE_SERVER,
            message,
            data: None,
        }
    }

    fn parameters(message: String) -> Self {
        Self {
            code: CODE_BAD_PARAMETERS,
            message,
            data: None,
        }
    }
}

/// A transaction that the EVM would not even start, in geth's words.
pub(super) fn refusal_of(error: &EvmRefusal) -> Refusal {
    let message = match error {
        EVMError::Transaction(InvalidTransaction::CallGasCostMoreThanGasLimit {
            initial_gas,
            gas_limit,
        }) => format!("intrinsic gas too low: gas {gas_limit}, minimum needed {initial_gas}"),
        EVMError::Transaction(InvalidTransaction::GasFloorMoreThanGasLimit {
            gas_floor,
            gas_limit,
        }) => format!(
            "insufficient gas for floor data gas cost: gas {gas_limit}, minimum needed {gas_floor}"
        ),
        other => other.to_string(),
    };
    Refusal::server(message)
}

/// Answers one request.
pub(super) fn answer(chain: &mut Inner, method: &str, params: &Value) -> Result<Value, Refusal> {
    let params = Parameters(params);
    match method {
        "eth_chainId" => Ok(quantity(chain.world.genesis.chain_id).into()),
        "net_version" => Ok(chain.world.genesis.chain_id.to_string().into()),
        "web3_clientVersion" => Ok(concat!("karat-embedded/", env!("CARGO_PKG_VERSION")).into()),
        "eth_blockNumber" => Ok(quantity(chain.world.head_number()).into()),
        "eth_getBalance" => {
            let address = params.bytes(0, "address")?;
            params.head_only(chain, 1)?;
            Ok(big(chain.world.balance(&address)).into())
        }
        "eth_getCode" => {
            let address = params.bytes(0, "address")?;
            params.head_only(chain, 1)?;
            Ok(data(chain.world.code(&address)).into())
        }
        "eth_getTransactionCount" => {
            let address = params.bytes(0, "address")?;
            let next = chain.world.nonce(&address);
            if params.0.get(1).and_then(Value::as_str) == Some("pending") {
                return Ok(quantity(chain.pool.pending_nonce(&address, next)).into());
            }
            params.head_only(chain, 1)?;
            Ok(quantity(next).into())
        }
        "eth_gasPrice" => Ok(quantity(chain.next_base_fee() + PRIORITY_FEE_WEI).into()),
        "eth_maxPriorityFeePerGas" => Ok(quantity(PRIORITY_FEE_WEI).into()),
        "eth_feeHistory" => fee_history(chain, &params),
        "eth_call" => {
            params.head_only(chain, 1)?;
            let call = Call::read(&params)?;
            let gas = call.gas.unwrap_or(BLOCK_GAS_LIMIT).min(BLOCK_GAS_LIMIT);
            let output = finished(call.run(chain, gas)?)?;
            Ok(data(output).into())
        }
        "eth_estimateGas" => {
            params.head_only(chain, 1)?;
            estimate_gas(chain, &Call::read(&params)?)
        }
        "eth_sendRawTransaction" => {
            let raw = params.data(0, "signed transaction")?;
            Ok(data(chain.send_raw(&raw)?).into())
        }
        "eth_getTransactionReceipt" => {
            let hash = params.bytes(0, "transaction hash")?;
            Ok(chain
                .world
                .mined(&hash)
                .map_or(Value::Null, |mined| receipt(chain, mined)))
        }
        "eth_getTransactionByHash" => {
            let hash = params.bytes(0, "transaction hash")?;
            Ok(match chain.world.mined(&hash) {
                Some(mined) => transaction(chain, &mined.transaction, Some(mined)),
                None => chain
                    .pool
                    .find(&hash)
                    .map_or(Value::Null, |waiting| transaction(chain, waiting, None)),
            })
        }
        "eth_getBlockByNumber" => {
            let number = params.block(chain, 0)?;
            Ok(block(chain, number, params.flag(1)))
        }
        "eth_getBlockByHash" => {
            let hash = params.bytes(0, "block hash")?;
            Ok(chain
                .world
                .number_of(&hash)
                .map_or(Value::Null, |number| block(chain, number, params.flag(1))))
        }
        "eth_getLogs" => logs(chain, &params),
        "evm_mine" => {
            let count = params.optional_u64(0, "count")?.unwrap_or(1);
            let count = u32::try_from(count)
                .ok()
                .filter(|count| *count <= MINE_BLOCKS_MAX)
                .ok_or_else(|| {
                    Refusal::parameters(format!("count {count}, at most {MINE_BLOCKS_MAX}"))
                })?;
            let mined = chain.mine_ready()?;
            chain
                .mine_empty(count.saturating_sub(mined))
                .map_err(|error| Refusal::server(error.to_string()))?;
            Ok("0x0".into())
        }
        "evm_setAutomine" => {
            chain.automine = params.flag(0);
            if chain.automine {
                chain.mine_ready()?;
            }
            Ok(Value::Null)
        }
        "anvil_setNextBlockBaseFeePerGas" => {
            chain.base_fee_override = params.optional_u64(0, "base fee")?;
            Ok(Value::Null)
        }
        "anvil_dropTransaction" => {
            let hash = params.bytes(0, "transaction hash")?;
            let dropped = chain.pool.drop_transaction(&hash);
            Ok(if dropped {
                data(hash).into()
            } else {
                Value::Null
            })
        }
        "debug_setHead" => {
            let number = params.optional_u64(0, "block number")?.ok_or_else(|| {
                Refusal::parameters("missing value for required argument 0".to_owned())
            })?;
            chain.set_head(number)?;
            Ok(Value::Null)
        }
        _ => Err(Refusal {
            code: CODE_UNKNOWN_METHOD,
            message: format!("the method {method} does not exist/is not available"),
            data: None,
        }),
    }
}

/// Positional parameters.
struct Parameters<'a>(&'a Value);

impl Parameters<'_> {
    fn required(&self, index: usize) -> Result<&Value, Refusal> {
        self.0.get(index).ok_or_else(|| {
            Refusal::parameters(format!("missing value for required argument {index}"))
        })
    }

    fn bytes<const N: usize>(&self, index: usize, what: &str) -> Result<[u8; N], Refusal> {
        parse_bytes(self.required(index)?)
            .map_err(|reason| Refusal::parameters(format!("invalid {what}: {reason}")))
    }

    fn data(&self, index: usize, what: &str) -> Result<Vec<u8>, Refusal> {
        parse_data(self.required(index)?)
            .map_err(|reason| Refusal::parameters(format!("invalid {what}: {reason}")))
    }

    fn flag(&self, index: usize) -> bool {
        self.0.get(index).and_then(Value::as_bool).unwrap_or(false)
    }

    /// A number as JSON or as a hex quantity.
    fn optional_u64(&self, index: usize, what: &str) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.0.get(index).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        match value.as_u64() {
            Some(number) => Ok(Some(number)),
            None => parse_u64(value)
                .map(Some)
                .map_err(|reason| Refusal::parameters(format!("invalid {what}: {reason}"))),
        }
    }

    fn block(&self, chain: &Inner, index: usize) -> Result<u64, Refusal> {
        block_number(chain, self.0.get(index))
    }

    /// Only the state at the head is kept.
    fn head_only(&self, chain: &Inner, index: usize) -> Result<(), Refusal> {
        let number = self.block(chain, index)?;
        if number == chain.world.head_number() {
            Ok(())
        } else {
            Err(Refusal::server(format!(
                "missing trie node: the state of block {number} is not kept, only the head's"
            )))
        }
    }
}

fn block_number(chain: &Inner, tag: Option<&Value>) -> Result<u64, Refusal> {
    let head = chain.world.head_number();
    match tag {
        None | Some(Value::Null) => Ok(head),
        Some(Value::String(tag)) if ["latest", "pending"].contains(&tag.as_str()) => Ok(head),
        // Nothing is ever final here but by depth; as on other test chains the genesis is.
        Some(Value::String(tag)) if ["earliest", "safe", "finalized"].contains(&tag.as_str()) => {
            Ok(0)
        }
        Some(value) => parse_u64(value)
            .map_err(|reason| Refusal::parameters(format!("invalid block: {reason}"))),
    }
}

/// What `eth_call` and `eth_estimateGas` are asked to run.
struct Call {
    from: [u8; 20],
    to: Option<[u8; 20]>,
    value: U256,
    data: Vec<u8>,
    gas: Option<u64>,
}

impl Call {
    fn read(params: &Parameters) -> Result<Self, Refusal> {
        let object = params.required(0)?;
        let bad = |field: &'static str| {
            move |reason: String| Refusal::parameters(format!("invalid {field}: {reason}"))
        };
        let field = |name: &str| object.get(name).filter(|value| !value.is_null());
        Ok(Self {
            from: field("from")
                .map_or(Ok([0; 20]), |from| parse_bytes(from).map_err(bad("from")))?,
            to: field("to")
                .map(|to| parse_bytes(to).map_err(bad("to")))
                .transpose()?,
            value: field("value").map_or(Ok(U256::zero()), |value| {
                parse_quantity(value).map_err(bad("value"))
            })?,
            data: field("input")
                .or_else(|| field("data"))
                .map_or(Ok(Vec::new()), |data| parse_data(data).map_err(bad("data")))?,
            gas: field("gas")
                .map(|gas| parse_u64(gas).map_err(bad("gas")))
                .transpose()?,
        })
    }

    fn run(&self, chain: &mut Inner, gas: u64) -> Result<Executed, Refusal> {
        chain
            .world
            .call(
                self.from,
                self.to,
                revm::primitives::U256::from_limbs(self.value.0),
                self.data.clone(),
                gas,
            )
            .map_err(|error| refusal_of(&error))
    }
}

/// The output of a run that succeeded, or geth's error for one that did not.
fn finished(result: Executed) -> Result<Vec<u8>, Refusal> {
    match result {
        Executed::Success { output, .. } => Ok(output.into_data().to_vec()),
        Executed::Revert { output, .. } => Err(Refusal {
            code: CODE_REVERTED,
            message: match revert_text(&output) {
                Some(reason) => format!("execution reverted: {reason}"),
                None => "execution reverted".to_owned(),
            },
            data: Some(data(&output).into()),
        }),
        Executed::Halt { reason, .. } => {
            Err(Refusal::server(format!("execution stopped: {reason:?}")))
        }
    }
}

/// The text of an `Error(string)`, which `require` with a message reverts with.
fn revert_text(output: &[u8]) -> Option<String> {
    let text = output.strip_prefix(&[0x08, 0xc3, 0x79, 0xa0])?;
    <String as ethers_core::abi::AbiDecode>::decode(text).ok()
}

/// The least gas with which the call succeeds, by bisection: gas used alone is too little where refunds
/// or the 63/64 rule play a part.
fn estimate_gas(chain: &mut Inner, call: &Call) -> Result<Value, Refusal> {
    let mut enough = call.gas.unwrap_or(BLOCK_GAS_LIMIT).min(BLOCK_GAS_LIMIT);
    let first = call.run(chain, enough)?;
    let used = first.tx_gas_used();
    finished(first)?;
    let mut too_little = used.saturating_sub(1);
    let guess = (used + CALL_STIPEND) * 64 / 63;
    if guess < enough && call.run(chain, guess)?.is_success() {
        enough = guess;
    }
    // At most 25 rounds: the limit is below 2^25.
    while too_little + 1 < enough {
        let middle = too_little + (enough - too_little) / 2;
        match call.run(chain, middle) {
            Ok(result) if result.is_success() => enough = middle,
            _ => too_little = middle,
        }
    }
    Ok(quantity(enough).into())
}

fn fee_history(chain: &Inner, params: &Parameters) -> Result<Value, Refusal> {
    let count = params.optional_u64(0, "block count")?.unwrap_or(1);
    let newest = params.block(chain, 1)?;
    if newest > chain.world.head_number() {
        return Err(Refusal::server(format!(
            "request beyond head block: requested {newest}, head {}",
            chain.world.head_number()
        )));
    }
    let count = count.clamp(1, FEE_HISTORY_BLOCKS_MAX).min(newest + 1);
    let oldest = newest + 1 - count;
    let blocks: Vec<_> = (oldest..=newest)
        .filter_map(|number| chain.world.block(number))
        .collect();
    let mut base_fees: Vec<String> = blocks
        .iter()
        .map(|block| quantity(block.base_fee))
        .collect();
    base_fees.push(quantity(
        chain
            .world
            .block(newest + 1)
            .map_or_else(|| chain.next_base_fee(), |block| block.base_fee),
    ));
    let ratios: Vec<f64> = blocks
        .iter()
        .map(|block| block.gas_used as f64 / BLOCK_GAS_LIMIT as f64)
        .collect();
    let percentiles = params
        .0
        .get(2)
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    let rewards: Vec<Vec<String>> = blocks
        .iter()
        .map(|_| vec![quantity(PRIORITY_FEE_WEI); percentiles])
        .collect();
    Ok(json!({
        "oldestBlock": quantity(oldest),
        "baseFeePerGas": base_fees,
        "gasUsedRatio": ratios,
        "reward": rewards,
    }))
}

fn block(chain: &Inner, number: u64, whole_transactions: bool) -> Value {
    let Some(block) = chain.world.block(number) else {
        return Value::Null;
    };
    let parent = number
        .checked_sub(1)
        .and_then(|number| chain.world.block(number))
        .map_or([0; 32], |parent| parent.hash);
    let transactions: Vec<Value> = chain
        .world
        .mined_in(number..=number)
        .map(|mined| {
            if whole_transactions {
                transaction(chain, &mined.transaction, Some(mined))
            } else {
                data(mined.transaction.hash).into()
            }
        })
        .collect();
    json!({
        "number": quantity(number),
        "hash": data(block.hash),
        "parentHash": data(parent),
        "timestamp": quantity(block.timestamp),
        "baseFeePerGas": quantity(block.base_fee),
        "gasLimit": quantity(BLOCK_GAS_LIMIT),
        "gasUsed": quantity(block.gas_used),
        "miner": data([0; 20]),
        "transactions": transactions,
    })
}

fn transaction(chain: &Inner, transaction: &Transaction, mined: Option<&Mined>) -> Value {
    let block = mined.and_then(|mined| Some((mined.block, chain.world.block(mined.block)?)));
    json!({
        "type": "0x2",
        "hash": data(transaction.hash),
        "from": data(transaction.sender),
        "to": transaction.to.map(data),
        "nonce": quantity(transaction.nonce),
        "gas": quantity(transaction.gas_limit),
        "maxFeePerGas": format!("{:#x}", transaction.max_fee),
        "maxPriorityFeePerGas": format!("{:#x}", transaction.max_priority_fee),
        "gasPrice": format!("{:#x}", block.map_or(transaction.max_fee, |(_, block)| {
            transaction.effective_gas_price(block.base_fee)
        })),
        "value": format!("{:#x}", transaction.value),
        "input": data(&transaction.data),
        "chainId": quantity(chain.world.genesis.chain_id),
        "blockNumber": block.map(|(number, _)| quantity(number)),
        "blockHash": block.map(|(_, block)| data(block.hash)),
        "transactionIndex": block.map(|_| "0x0"),
    })
}

fn receipt(chain: &Inner, mined: &Mined) -> Value {
    let Some(block) = chain.world.block(mined.block) else {
        return Value::Null;
    };
    let logs: Vec<Value> = mined
        .logs
        .iter()
        .enumerate()
        .map(|(index, log)| log_entry(mined, block.hash, index, log))
        .collect();
    json!({
        "type": "0x2",
        "transactionHash": data(mined.transaction.hash),
        "transactionIndex": "0x0",
        "blockHash": data(block.hash),
        "blockNumber": quantity(mined.block),
        "from": data(mined.transaction.sender),
        "to": mined.transaction.to.map(data),
        "status": quantity(u64::from(mined.success)),
        "gasUsed": quantity(mined.gas_used),
        "cumulativeGasUsed": quantity(mined.gas_used),
        "effectiveGasPrice": format!("{:#x}", mined.transaction.effective_gas_price(block.base_fee)),
        "contractAddress": mined.created.map(data),
        "logsBloom": data(revm::primitives::alloy_primitives::logs_bloom(&mined.logs)),
        "logs": logs,
    })
}

fn log_entry(mined: &Mined, block_hash: [u8; 32], index: usize, log: &Log) -> Value {
    json!({
        "address": data(log.address),
        "topics": log.topics().iter().map(data).collect::<Vec<_>>(),
        "data": data(&log.data.data),
        "blockNumber": quantity(mined.block),
        "blockHash": data(block_hash),
        "transactionHash": data(mined.transaction.hash),
        "transactionIndex": "0x0",
        "logIndex": quantity(index as u64),
        "removed": false,
    })
}

fn logs(chain: &Inner, params: &Parameters) -> Result<Value, Refusal> {
    let filter = params.required(0)?;
    let (from, to) = match filter.get("blockHash").filter(|hash| !hash.is_null()) {
        Some(hash) => {
            let hash = parse_bytes(hash)
                .map_err(|reason| Refusal::parameters(format!("invalid blockHash: {reason}")))?;
            let number = chain
                .world
                .number_of(&hash)
                .ok_or_else(|| Refusal::server("unknown block".to_owned()))?;
            (number, number)
        }
        None => (
            block_number(chain, filter.get("fromBlock"))?,
            block_number(chain, filter.get("toBlock"))?.min(chain.world.head_number()),
        ),
    };
    if from > to {
        return Ok(json!([]));
    }
    let addresses = one_or_many::<20>(filter.get("address"), "address")?;
    let topics = match filter.get("topics") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(topics)) => topics
            .iter()
            .map(|topic| one_or_many::<32>(Some(topic), "topic"))
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(Refusal::parameters(format!("invalid topics: {other}"))),
    };
    let mut found = Vec::new();
    for mined in chain.world.mined_in(from..=to) {
        let Some(block) = chain.world.block(mined.block) else {
            continue;
        };
        for (index, log) in mined.logs.iter().enumerate() {
            let wanted = addresses
                .as_ref()
                .is_none_or(|addresses| addresses.contains(&log.address.into_array()))
                && topics.len() <= log.topics().len()
                && topics.iter().zip(log.topics()).all(|(wanted, topic)| {
                    wanted
                        .as_ref()
                        .is_none_or(|wanted| wanted.contains(&topic.0))
                });
            if !wanted {
                continue;
            }
            if found.len() == LOGS_MAX {
                return Err(Refusal::server(format!(
                    "query returned more than {LOGS_MAX} results"
                )));
            }
            found.push(log_entry(mined, block.hash, index, log));
        }
    }
    Ok(found.into())
}

/// One value, several of which one must match, or none at all (anything matches).
fn one_or_many<const N: usize>(
    value: Option<&Value>,
    what: &str,
) -> Result<Option<Vec<[u8; N]>>, Refusal> {
    let read = |value: &Value| {
        parse_bytes(value)
            .map_err(|reason| Refusal::parameters(format!("invalid {what}: {reason}")))
    };
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(values)) => values.iter().map(read).collect::<Result<_, _>>().map(Some),
        Some(value) => Ok(Some(vec![read(value)?])),
    }
}

fn big(number: revm::primitives::U256) -> String {
    format!("{number:#x}")
}
