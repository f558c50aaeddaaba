//! The settlement contract as the engine sees it, over any [`RpcTransport`].

mod administration;
mod answers;

use std::sync::Arc;
use std::time::Duration;

use ethers_contract::EthEvent;
use ethers_core::abi::{AbiDecode, AbiEncode};
use ethers_core::types::{Address, Eip1559TransactionRequest, U64, U256};
use serde_json::{Value, json};

use self::answers::{bad_answer, big, decode_commit, revert_reason};
pub use super::client_types::{
    ChainError, CommittedBatch, Deployment, Fees, Head, Receipt, Royalty,
};
use super::contract;
use super::hexadecimal::{data, parse_bytes, parse_data, parse_u64};
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

fn word(number: u64) -> [u8; 32] {
    let mut word = [0; 32];
    word[24..].copy_from_slice(&number.to_be_bytes());
    word
}
