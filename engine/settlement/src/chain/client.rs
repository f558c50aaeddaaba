//! The settlement contract as the engine sees it, over any [`RpcTransport`].

use std::sync::Arc;
use std::time::Duration;

use ethers_contract::{ContractRevert, EthEvent};
use ethers_core::abi::{AbiDecode, AbiEncode, RawLog, Tokenizable};
use ethers_core::types::{Address, Eip1559TransactionRequest, H256, U64, U256};
use serde_json::{Value, json};

pub use super::client_types::{
    ChainError, CommittedBatch, Deployment, Fees, Head, Receipt, Royalty,
};
use super::contract::{self, SettlementContractErrors};
use super::hexadecimal::{data, parse_bytes, parse_data, parse_quantity, parse_u64};
use super::signer::{SignedTransaction, Signer};
use super::transport::{RpcError, RpcTransport};
use crate::batch::BatchToCommit;
use crate::leaf::Leaf;

/// How often a receipt is asked for by [`ChainClient::wait_for_receipt`].
const RECEIPT_POLL_MS: u64 = 100;

/// A client for one settlement contract on one chain. Clones share the transport.
#[derive(Clone)]
pub struct ChainClient {
    transport: Arc<dyn RpcTransport>,
    contract: [u8; 20],
    chain_id: u64,
}

impl ChainClient {
    /// A client for the contract at `contract`.
    ///
    /// Errors: the chain cannot be reached, or nothing is deployed there.
    pub async fn connect(
        transport: Arc<dyn RpcTransport>,
        contract: [u8; 20],
    ) -> Result<Self, ChainError> {
        let client = Self::unconnected(transport, contract).await?;
        if client.code_at(contract).await?.is_empty() {
            return Err(ChainError::NoContract {
                address: data(contract),
                chain_id: client.chain_id,
            });
        }
        Ok(client)
    }

    /// Deploys the contract from `deployer`'s account and waits for it to be mined.
    ///
    /// Not repeatable by itself: see [`ChainClient::deploy_once`] for a start-up that may crash.
    pub async fn deploy(
        transport: Arc<dyn RpcTransport>,
        deployer: &Signer,
        deployment: &Deployment,
        wait_ms: u64,
    ) -> Result<(Self, Receipt), ChainError> {
        let client = Self::unconnected(transport, [0; 20]).await?;
        let signed = client
            .sign_next(deployer, None, creation_code(deployment))
            .await?;
        client.send_raw(&signed.raw).await?;
        let receipt = client
            .wait_for_receipt("deployment", &signed.hash, wait_ms)
            .await?;
        let contract = receipt.created.ok_or_else(|| ChainError::Failed {
            call: "deployment",
            transaction: data(signed.hash),
            block: receipt.block,
        })?;
        Ok((Self { contract, ..client }, receipt))
    }

    /// The contract that `deployer`'s first transaction creates: deployed now if its account has sent
    /// nothing yet, found again otherwise. Safe to repeat after a crash at any point; the account must be
    /// used for nothing else before.
    pub async fn deploy_once(
        transport: Arc<dyn RpcTransport>,
        deployer: &Signer,
        deployment: &Deployment,
        wait_ms: u64,
    ) -> Result<Self, ChainError> {
        let address =
            ethers_core::utils::get_contract_address(Address::from(deployer.address()), 0).0;
        match Self::connect(transport.clone(), address).await {
            Err(ChainError::NoContract { .. }) => {
                let (client, _) = Self::deploy(transport, deployer, deployment, wait_ms).await?;
                if client.contract == address {
                    Ok(client)
                } else {
                    Err(ChainError::NoContract {
                        address: data(address),
                        chain_id: client.chain_id,
                    })
                }
            }
            found => found,
        }
    }

    /// The contract's address.
    pub fn contract(&self) -> [u8; 20] {
        self.contract
    }

    /// The chain's EIP-155 id.
    pub fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// The transport under this client.
    pub fn transport(&self) -> &Arc<dyn RpcTransport> {
        &self.transport
    }

    /// The last committed batch.
    pub async fn head(&self) -> Result<Head, ChainError> {
        // The reads may straddle a block: read the number again until both sides agree. A commit takes
        // a block, so three rounds are plenty.
        let mut number: u64 = self.view("headNumber", contract::HeadNumberCall).await?;
        for _ in 0..3 {
            let commitment = self
                .view("headCommitment", contract::HeadCommitmentCall)
                .await?;
            let last_sequence = self
                .view("headSequence", contract::HeadSequenceCall)
                .await?;
            let again = self.view("headNumber", contract::HeadNumberCall).await?;
            if again == number {
                return Ok(Head {
                    number,
                    commitment,
                    last_sequence,
                });
            }
            number = again;
        }
        Err(RpcError::BadAnswer {
            method: "eth_call".to_owned(),
            reason: "the contract's head moved during each of three reads".to_owned(),
        }
        .into())
    }

    /// Root of batch `number`, if it was committed.
    pub async fn root_of(&self, number: u64) -> Result<Option<[u8; 32]>, ChainError> {
        match self.view("rootOf", contract::RootOfCall { number }).await {
            Ok(root) => Ok(Some(root)),
            Err(ChainError::Reverted { reason, .. }) if reason.starts_with("UnknownBatch") => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Batch `number` as the chain's log tells it, if it was committed.
    pub async fn committed_batch(&self, number: u64) -> Result<Option<CommittedBatch>, ChainError> {
        let filter = json!({
            "address": data(self.contract),
            "fromBlock": "0x0",
            "toBlock": "latest",
            "topics": [data(contract::BatchCommittedFilter::signature()), data(word(number))],
        });
        let logs = self.request("eth_getLogs", json!([filter])).await?;
        let logs = logs
            .as_array()
            .ok_or_else(|| bad_answer("eth_getLogs", "not a list"))?;
        // The contract commits a number once; after a reorg the newest log is the one that counts.
        logs.last().map(decode_commit).transpose()
    }

    /// Whether the chain itself finds `leaf` in batch `number`. False also for a batch it does not have.
    pub async fn verify(
        &self,
        number: u64,
        leaf: &Leaf,
        proof: &[[u8; 32]],
    ) -> Result<bool, ChainError> {
        let call = contract::VerifyCall {
            number,
            leaf: on_chain(leaf),
            proof: proof.to_vec(),
        };
        match self.view("verify", call).await {
            Err(ChainError::Reverted { reason, .. }) if reason.starts_with("UnknownBatch") => {
                Ok(false)
            }
            answer => answer,
        }
    }

    /// Who owns the token of `asset`; none before it is redeemed.
    pub async fn token_owner(&self, asset: u64) -> Result<Option<[u8; 20]>, ChainError> {
        let call = contract::OwnerOfCall {
            token_id: asset.into(),
        };
        match self.view::<Address>("ownerOf", call).await {
            Ok(owner) => Ok(Some(owner.0)),
            Err(ChainError::Reverted { reason, .. })
                if reason.starts_with("ERC721NonexistentToken") =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Where the metadata of a redeemed asset is.
    pub async fn token_uri(&self, asset: u64) -> Result<String, ChainError> {
        let token_id = asset.into();
        self.view("tokenURI", contract::TokenURICall { token_id })
            .await
    }

    /// The royalty for selling the token of `asset` at `price`.
    pub async fn royalty(&self, asset: u64, price: u128) -> Result<Royalty, ChainError> {
        let call = contract::RoyaltyInfoCall {
            token_id: asset.into(),
            sale_price: price.into(),
        };
        let (receiver, amount): (Address, U256) = self.view("royaltyInfo", call).await?;
        let amount = u128::try_from(amount)
            .map_err(|_| bad_answer("eth_call", "a royalty above the price"))?;
        Ok(Royalty {
            receiver: receiver.0,
            amount,
        })
    }

    /// Call data that commits a batch.
    pub fn commit_call(batch: &BatchToCommit) -> Vec<u8> {
        contract::CommitCall {
            number: batch.number,
            parent: batch.parent,
            root: batch.root,
            payload: batch.payload_digest,
            log_head: batch.log_head,
            first_sequence: batch.first_sequence,
            last_sequence: batch.last_sequence,
        }
        .encode()
    }

    /// Call data that redeems one leaf.
    pub fn redeem_call(number: u64, leaf: &Leaf, proof: &[[u8; 32]]) -> Vec<u8> {
        contract::RedeemCall {
            number,
            leaf: on_chain(leaf),
            proof: proof.to_vec(),
        }
        .encode()
    }

    /// Mints the token of a redeemed asset to its owner, paid by `sender`, and waits for it to be mined.
    ///
    /// The call is tried first, so a refusal costs nothing and names its reason.
    pub async fn redeem(
        &self,
        sender: &Signer,
        number: u64,
        leaf: &Leaf,
        proof: &[[u8; 32]],
        wait_ms: u64,
    ) -> Result<Receipt, ChainError> {
        self.send_call(
            "redeem",
            sender,
            Self::redeem_call(number, leaf, proof),
            wait_ms,
        )
        .await
    }

    /// Stops commits and redemptions, or lets them go on. `admin` needs the pauser's role.
    pub async fn set_paused(
        &self,
        admin: &Signer,
        paused: bool,
        wait_ms: u64,
    ) -> Result<Receipt, ChainError> {
        if paused {
            let call = contract::PauseCall.encode();
            self.send_call("pause", admin, call, wait_ms).await
        } else {
            let call = contract::UnpauseCall.encode();
            self.send_call("unpause", admin, call, wait_ms).await
        }
    }

    /// Sets every token's royalty. `admin` needs the admin's role.
    pub async fn set_default_royalty(
        &self,
        admin: &Signer,
        receiver: [u8; 20],
        basis_points: u16,
        wait_ms: u64,
    ) -> Result<Receipt, ChainError> {
        let call = contract::SetDefaultRoyaltyCall {
            receiver: receiver.into(),
            basis_points: basis_points.into(),
        };
        self.send_call("setDefaultRoyalty", admin, call.encode(), wait_ms)
            .await
    }

    /// Moves every token's metadata to another prefix. `admin` needs the admin's role.
    pub async fn set_base_uri(
        &self,
        admin: &Signer,
        base_uri: &str,
        wait_ms: u64,
    ) -> Result<Receipt, ChainError> {
        let call = contract::SetBaseURICall {
            base_uri: base_uri.to_owned(),
        };
        self.send_call("setBaseURI", admin, call.encode(), wait_ms)
            .await
    }

    /// Tries a call to the contract on the newest state, without sending it.
    pub async fn simulate(
        &self,
        call: &'static str,
        from: [u8; 20],
        call_data: &[u8],
    ) -> Result<(), ChainError> {
        let params = json!([
            {"from": data(from), "to": data(self.contract), "data": data(call_data)},
            "latest"
        ]);
        self.request("eth_call", params)
            .await
            .map(|_| ())
            .map_err(|error| revert_reason(call, error))
    }

    /// Fees that get a transaction into one of the next blocks: twice the base fee, so that it can rise
    /// for about six full blocks, and what the node suggests on top.
    pub async fn fees(&self) -> Result<Fees, ChainError> {
        let block = self
            .request("eth_getBlockByNumber", json!(["latest", false]))
            .await?;
        let base_fee = big(&block["baseFeePerGas"], "eth_getBlockByNumber")?;
        let answer = self.request("eth_maxPriorityFeePerGas", json!([])).await?;
        let max_priority_fee = big(&answer, "eth_maxPriorityFeePerGas")?;
        Ok(Fees {
            max_fee: base_fee.saturating_mul(2).saturating_add(max_priority_fee),
            max_priority_fee,
        })
    }

    /// Signs a call to the contract.
    pub fn sign_call(
        &self,
        signer: &Signer,
        nonce: u64,
        gas_limit: u64,
        fees: Fees,
        call_data: Vec<u8>,
    ) -> Result<SignedTransaction, ChainError> {
        let to = Some(self.contract);
        Ok(signer.sign(self.transaction(to, nonce, gas_limit, fees, call_data))?)
    }

    /// Broadcasts signed bytes; the node's refusal is returned as it is.
    pub async fn send_raw(&self, raw: &[u8]) -> Result<[u8; 32], ChainError> {
        let answer = self
            .request("eth_sendRawTransaction", json!([data(raw)]))
            .await?;
        Ok(parse_bytes(&answer).map_err(|reason| bad_answer("eth_sendRawTransaction", &reason))?)
    }

    /// The receipt of a mined transaction.
    pub async fn receipt(&self, hash: &[u8; 32]) -> Result<Option<Receipt>, ChainError> {
        let method = "eth_getTransactionReceipt";
        let answer = self.request(method, json!([data(hash)])).await?;
        if answer.is_null() {
            return Ok(None);
        }
        let bad = |reason: String| bad_answer(method, &reason);
        let created = match &answer["contractAddress"] {
            Value::Null => None,
            address => Some(parse_bytes(address).map_err(bad)?),
        };
        Ok(Some(Receipt {
            transaction: *hash,
            block: parse_u64(&answer["blockNumber"]).map_err(bad)?,
            block_hash: parse_bytes(&answer["blockHash"]).map_err(bad)?,
            success: parse_u64(&answer["status"]).map_err(bad)? == 1,
            gas_used: parse_u64(&answer["gasUsed"]).map_err(bad)?,
            gas_price_wei: big(&answer["effectiveGasPrice"], method)?,
            created,
        }))
    }

    /// Asks for a receipt until it is there or `wait_ms` have passed. A failed transaction is an error.
    pub async fn wait_for_receipt(
        &self,
        call: &'static str,
        hash: &[u8; 32],
        wait_ms: u64,
    ) -> Result<Receipt, ChainError> {
        let mut waited_ms = 0;
        loop {
            match self.receipt(hash).await? {
                Some(receipt) if receipt.success => return Ok(receipt),
                Some(receipt) => {
                    return Err(ChainError::Failed {
                        call,
                        transaction: data(hash),
                        block: receipt.block,
                    });
                }
                None if waited_ms >= wait_ms => {
                    return Err(ChainError::NotMined {
                        call,
                        transaction: data(hash),
                        waited_ms,
                    });
                }
                None => {
                    tokio::time::sleep(Duration::from_millis(RECEIPT_POLL_MS)).await;
                    waited_ms += RECEIPT_POLL_MS;
                }
            }
        }
    }

    /// How many transactions of `address` are mined, which is its next nonce.
    pub async fn nonce(&self, address: [u8; 20]) -> Result<u64, ChainError> {
        let method = "eth_getTransactionCount";
        let answer = self
            .request(method, json!([data(address), "latest"]))
            .await?;
        Ok(parse_u64(&answer).map_err(|reason| bad_answer(method, &reason))?)
    }

    /// The newest block's number.
    pub async fn block_number(&self) -> Result<u64, ChainError> {
        let answer = self.request("eth_blockNumber", json!([])).await?;
        Ok(parse_u64(&answer).map_err(|reason| bad_answer("eth_blockNumber", &reason))?)
    }

    /// Wei that `address` owns.
    pub async fn balance(&self, address: [u8; 20]) -> Result<u128, ChainError> {
        let answer = self
            .request("eth_getBalance", json!([data(address), "latest"]))
            .await?;
        big(&answer, "eth_getBalance")
    }

    async fn unconnected(
        transport: Arc<dyn RpcTransport>,
        contract: [u8; 20],
    ) -> Result<Self, ChainError> {
        let answer = transport.request("eth_chainId", json!([])).await?;
        let chain_id = parse_u64(&answer).map_err(|reason| bad_answer("eth_chainId", &reason))?;
        Ok(Self {
            transport,
            contract,
            chain_id,
        })
    }

    async fn code_at(&self, address: [u8; 20]) -> Result<Vec<u8>, ChainError> {
        let answer = self
            .request("eth_getCode", json!([data(address), "latest"]))
            .await?;
        Ok(parse_data(&answer).map_err(|reason| bad_answer("eth_getCode", &reason))?)
    }

    async fn request(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        self.transport.request(method, params).await
    }

    async fn view<T: AbiDecode>(
        &self,
        name: &'static str,
        call: impl AbiEncode,
    ) -> Result<T, ChainError> {
        let params = json!([{"to": data(self.contract), "data": data(call.encode())}, "latest"]);
        let answer = self
            .request("eth_call", params)
            .await
            .map_err(|error| revert_reason(name, error))?;
        let bytes = parse_data(&answer).map_err(|reason| bad_answer("eth_call", &reason))?;
        Ok(
            T::decode(bytes)
                .map_err(|error| bad_answer("eth_call", &format!("{name}: {error}")))?,
        )
    }

    /// Tries a call, then signs, sends and waits for it.
    async fn send_call(
        &self,
        call: &'static str,
        sender: &Signer,
        call_data: Vec<u8>,
        wait_ms: u64,
    ) -> Result<Receipt, ChainError> {
        self.simulate(call, sender.address(), &call_data).await?;
        let signed = self
            .sign_next(sender, Some(self.contract), call_data)
            .await?;
        self.send_raw(&signed.raw).await?;
        self.wait_for_receipt(call, &signed.hash, wait_ms).await
    }

    /// Signs with the account's next nonce, estimated gas and current fees.
    async fn sign_next(
        &self,
        signer: &Signer,
        to: Option<[u8; 20]>,
        call_data: Vec<u8>,
    ) -> Result<SignedTransaction, ChainError> {
        let mut object = json!({"from": data(signer.address()), "data": data(&call_data)});
        if let Some(to) = to {
            object["to"] = data(to).into();
        }
        let answer = self.request("eth_estimateGas", json!([object])).await?;
        let gas = parse_u64(&answer).map_err(|reason| bad_answer("eth_estimateGas", &reason))?;
        let nonce = self.nonce(signer.address()).await?;
        let fees = self.fees().await?;
        // A tenth more than estimated: the state may have moved by the time it is mined.
        let gas_limit = gas + gas / 10;
        Ok(signer.sign(self.transaction(to, nonce, gas_limit, fees, call_data))?)
    }

    fn transaction(
        &self,
        to: Option<[u8; 20]>,
        nonce: u64,
        gas_limit: u64,
        fees: Fees,
        call_data: Vec<u8>,
    ) -> Eip1559TransactionRequest {
        let request = Eip1559TransactionRequest::new()
            .chain_id(U64::from(self.chain_id))
            .nonce(nonce)
            .gas(gas_limit)
            .max_fee_per_gas(U256::from(fees.max_fee))
            .max_priority_fee_per_gas(U256::from(fees.max_priority_fee))
            .value(0)
            .data(call_data);
        match to {
            Some(to) => request.to(Address::from(to)),
            None => request,
        }
    }
}

/// Creation code with the constructor's arguments behind it.
fn creation_code(deployment: &Deployment) -> Vec<u8> {
    let mut code = contract::SETTLEMENTCONTRACT_BYTECODE.to_vec();
    let arguments = [
        deployment.name.clone().into_token(),
        deployment.symbol.clone().into_token(),
        deployment.base_uri.clone().into_token(),
        Address::from(deployment.admin).into_token(),
        Address::from(deployment.settler).into_token(),
        Address::from(deployment.royalty_receiver).into_token(),
        U256::from(deployment.royalty_basis_points).into_token(),
    ];
    code.extend_from_slice(&ethers_core::abi::encode(&arguments));
    code
}

fn on_chain(leaf: &Leaf) -> contract::Leaf {
    contract::Leaf {
        asset: leaf.asset,
        owner: leaf.owner.into(),
        version: leaf.version,
        metadata: leaf.metadata,
        collection: leaf.collection,
        kind: leaf.kind as u8,
    }
}

fn decode_commit(log: &Value) -> Result<CommittedBatch, ChainError> {
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
fn revert_reason(call: &'static str, error: RpcError) -> ChainError {
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

fn big(value: &Value, method: &str) -> Result<u128, ChainError> {
    let number = parse_quantity(value).map_err(|reason| bad_answer(method, &reason))?;
    Ok(u128::try_from(number).map_err(|_| bad_answer(method, "larger than 128 bits"))?)
}

fn word(number: u64) -> [u8; 32] {
    let mut word = [0; 32];
    word[24..].copy_from_slice(&number.to_be_bytes());
    word
}

fn bad_answer(method: &str, reason: &str) -> RpcError {
    RpcError::BadAnswer {
        method: method.to_owned(),
        reason: reason.to_owned(),
    }
}
