//! What every transport to a chain must do, whoever is behind it.
//!
//! Runs on the embedded chain. With `KARAT_CHAIN_NODE=host:port` it runs on that node too, which must be a
//! fresh test node that mines at once and whose first account is unlocked (`anvil`, `geth --dev`).
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use karat_settlement::chain::client::{ChainClient, ChainError, Fees};
use karat_settlement::chain::hexadecimal::{data, parse_data, parse_u64, quantity};
use karat_settlement::chain::signer::{SignedTransaction, Signer};
use karat_settlement::{EmbeddedChain, LeafKind, MerkleTree, RpcError, RpcTransport};
use serde_json::{Value, json};

use common::http::HttpNode;
use common::*;

#[tokio::test]
async fn the_embedded_chain_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let chain = EmbeddedChain::open(folder.path(), chain_config()).unwrap();
    conforms(Arc::new(chain)).await;
}

#[tokio::test]
async fn a_node_conforms() {
    let Ok(node) = std::env::var("KARAT_CHAIN_NODE") else {
        eprintln!("not run: KARAT_CHAIN_NODE names no node");
        return;
    };
    let node = HttpNode(node);
    let accounts = node.request("eth_accounts", json!([])).await.unwrap();
    for signer in [admin(), settler(), stranger()] {
        let gift = json!([{
            "from": accounts[0],
            "to": data(signer.address()),
            "value": format!("{:#x}", 100 * ETHER),
        }]);
        let hash = node.request("eth_sendTransaction", gift).await.unwrap();
        while node
            .request("eth_getTransactionReceipt", json!([hash]))
            .await
            .unwrap()
            .is_null()
        {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    conforms(Arc::new(node)).await;
}

/// All promises, in one chain's life.
async fn conforms(chain: Arc<dyn RpcTransport>) {
    unknown_methods_and_bad_parameters_are_told(&*chain).await;
    an_untouched_account_is_empty(&*chain).await;
    let client = ChainClient::deploy_once(chain.clone(), &admin(), &deployment(), WAIT_MS)
        .await
        .unwrap();
    deploying_once_more_finds_the_same_contract(&chain, &client).await;
    calls_read_and_refuse(&client).await;
    a_transaction_is_mined_and_told(&*chain, &client).await;
    logs_are_found_by_topic_and_range(&*chain, &client).await;
    bad_transactions_are_refused(&*chain, &client).await;
    a_failed_transaction_has_a_receipt_and_costs_gas(&client).await;
    fees_are_suggested(&*chain).await;
    estimates_are_enough_and_name_reverts(&*chain, &client).await;
}

async fn ask(chain: &dyn RpcTransport, method: &str, params: Value) -> Value {
    match chain.request(method, params).await {
        Ok(answer) => answer,
        Err(error) => panic!("{method}: {error}"),
    }
}

async fn refusal(chain: &dyn RpcTransport, method: &str, params: Value) -> (i64, String) {
    match chain.request(method, params).await {
        Err(RpcError::Node { code, message, .. }) => (code, message.to_lowercase()),
        other => panic!("{method} was to be refused, got {other:?}"),
    }
}

async fn unknown_methods_and_bad_parameters_are_told(chain: &dyn RpcTransport) {
    let (code, _) = refusal(chain, "eth_noSuchMethod", json!([])).await;
    assert_eq!(code, -32_601);
    let (code, _) = refusal(chain, "eth_getBalance", json!(["0x12", "latest"])).await;
    assert_eq!(code, -32_602);
}

async fn an_untouched_account_is_empty(chain: &dyn RpcTransport) {
    let address = data([0xab; 20]);
    for method in ["eth_getBalance", "eth_getTransactionCount"] {
        assert_eq!(ask(chain, method, json!([address, "latest"])).await, "0x0");
    }
    assert_eq!(
        ask(chain, "eth_getCode", json!([address, "latest"])).await,
        "0x"
    );
    let hash = data([0xcd; 32]);
    for method in ["eth_getTransactionReceipt", "eth_getTransactionByHash"] {
        assert!(ask(chain, method, json!([hash])).await.is_null());
    }
    let far = ask(chain, "eth_getBlockByNumber", json!(["0xffffffff", false])).await;
    assert!(far.is_null());
}

async fn deploying_once_more_finds_the_same_contract(
    chain: &Arc<dyn RpcTransport>,
    client: &ChainClient,
) {
    let again = ChainClient::deploy_once(chain.clone(), &admin(), &deployment(), WAIT_MS)
        .await
        .unwrap();
    assert_eq!(again.contract(), client.contract());
    assert_eq!(client.nonce(admin().address()).await.unwrap(), 1);
    let code = ask(
        &**chain,
        "eth_getCode",
        json!([data(client.contract()), "latest"]),
    )
    .await;
    assert!(parse_data(&code).unwrap().len() > 1_000);
}

async fn calls_read_and_refuse(client: &ChainClient) {
    assert_eq!(client.head().await.unwrap().number, 0);
    assert_eq!(client.root_of(1).await.unwrap(), None);
    assert_eq!(client.token_owner(1).await.unwrap(), None);
    let call = ChainClient::commit_call(&batch_after(None));
    match client.simulate("commit", stranger().address(), &call).await {
        Err(ChainError::Reverted { reason, .. }) => {
            assert!(
                reason.starts_with("AccessControlUnauthorizedAccount"),
                "{reason}"
            );
        }
        other => panic!("{other:?}"),
    }
}

async fn a_transaction_is_mined_and_told(chain: &dyn RpcTransport, client: &ChainClient) {
    let before = client.block_number().await.unwrap();
    let balance_before = client.balance(settler().address()).await.unwrap();
    let tree = MerkleTree::new(&[leaf(1, LeafKind::Redeemed), leaf(2, LeafKind::Held)]).unwrap();
    let receipt = commit(client, &settler(), &first_batch(&tree))
        .await
        .unwrap();
    assert!(receipt.success && receipt.block > before && receipt.created.is_none());
    assert!(
        (21_000..=125_000).contains(&receipt.gas_used),
        "{}",
        receipt.gas_used
    );
    assert_eq!(client.nonce(settler().address()).await.unwrap(), 1);

    let paid = balance_before - client.balance(settler().address()).await.unwrap();
    assert_eq!(paid, u128::from(receipt.gas_used) * receipt.gas_price_wei);

    let transaction = ask(
        chain,
        "eth_getTransactionByHash",
        json!([data(receipt.transaction)]),
    )
    .await;
    assert_eq!(transaction["type"], "0x2");
    assert_eq!(transaction["nonce"], "0x0");
    assert_eq!(transaction["from"], data(settler().address()));
    assert_eq!(transaction["to"], data(client.contract()));
    assert_eq!(transaction["blockNumber"], quantity(receipt.block));

    let block = ask(
        chain,
        "eth_getBlockByNumber",
        json!([quantity(receipt.block), false]),
    )
    .await;
    assert_eq!(block["hash"], data(receipt.block_hash));
    assert_eq!(block["transactions"], json!([data(receipt.transaction)]));
    let parent = ask(
        chain,
        "eth_getBlockByNumber",
        json!([quantity(receipt.block - 1), false]),
    )
    .await;
    assert_eq!(block["parentHash"], parent["hash"]);
    assert!(parse_u64(&block["timestamp"]).unwrap() >= parse_u64(&parent["timestamp"]).unwrap());

    assert!(
        client
            .verify(1, &leaf(1, LeafKind::Redeemed), &tree.proof(0).unwrap())
            .await
            .unwrap()
    );
    let redeemed = leaf(1, LeafKind::Redeemed);
    client
        .redeem(&stranger(), 1, &redeemed, &tree.proof(0).unwrap(), WAIT_MS)
        .await
        .unwrap();
    assert_eq!(client.token_owner(1).await.unwrap(), Some(redeemed.owner));
}

async fn logs_are_found_by_topic_and_range(chain: &dyn RpcTransport, client: &ChainClient) {
    let committed = client.committed_batch(1).await.unwrap().unwrap();
    assert_eq!(
        committed.batch.commitment(),
        client.head().await.unwrap().commitment
    );
    let at = quantity(committed.block);
    let in_range = json!([{"address": data(client.contract()), "fromBlock": at, "toBlock": at}]);
    let logs = ask(chain, "eth_getLogs", in_range).await;
    assert_eq!(logs.as_array().map(Vec::len), Some(1));
    assert_eq!(logs[0]["transactionHash"], data(committed.transaction));
    assert_eq!(logs[0]["logIndex"], "0x0");
    let elsewhere = json!([{"address": data([1; 20]), "fromBlock": "0x0", "toBlock": "latest"}]);
    assert_eq!(ask(chain, "eth_getLogs", elsewhere).await, json!([]));
    let other_topic = json!([{"fromBlock": "0x0", "toBlock": "latest", "topics": [data([7; 32])]}]);
    assert_eq!(ask(chain, "eth_getLogs", other_topic).await, json!([]));
}

/// A commit that the contract would refuse, which does not matter to the node.
fn signed(client: &ChainClient, signer: &Signer, nonce: u64, fees: Fees) -> SignedTransaction {
    let call = ChainClient::commit_call(&batch_after(None));
    client
        .sign_call(signer, nonce, 100_000, fees, call)
        .unwrap()
}

async fn bad_transactions_are_refused(chain: &dyn RpcTransport, client: &ChainClient) {
    let send = async |what: &str, raw: &[u8]| match client.send_raw(raw).await {
        Err(ChainError::Rpc(RpcError::Node { message, .. })) => message.to_lowercase(),
        other => panic!("{what} was to be refused, got {other:?}"),
    };
    let fees = client.fees().await.unwrap();
    let used = signed(client, &settler(), 0, fees);
    let message = send("a used nonce", &used.raw).await;
    assert!(message.contains("nonce too low"), "{message}");

    let poor = Signer::from_bytes(&[0x77; 32]).unwrap();
    let message = send("an empty account", &signed(client, &poor, 0, fees).raw).await;
    assert!(message.contains("insufficient funds"), "{message}");

    let nonce = client.nonce(settler().address()).await.unwrap();
    let greedy = Fees {
        max_fee: fees.max_fee,
        max_priority_fee: fees.max_fee + 1,
    };
    let message = send(
        "a priority fee above the fee",
        &signed(client, &settler(), nonce, greedy).raw,
    )
    .await;
    assert!(
        message.contains("max priority fee per gas higher than max fee"),
        "{message}"
    );

    let good = signed(client, &settler(), nonce, fees).raw;
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    // Another signature is another sender, who owns nothing, or nobody at all.
    send("a changed signature", &flipped).await;
    send("a cut transaction", &good[..good.len() - 1]).await;
    send("nothing", &[]).await;
    assert_eq!(
        client.nonce(settler().address()).await.unwrap(),
        nonce,
        "nothing was mined"
    );

    // A nonce ahead waits; the same bytes again are known; a dearer one replaces, a cheaper one not.
    let ahead = signed(client, &settler(), nonce + 1, fees);
    client.send_raw(&ahead.raw).await.unwrap();
    let message = send("what waits already", &ahead.raw).await;
    assert!(message.contains("already"), "{message}");
    let cheaper = Fees {
        max_fee: fees.max_fee - 1,
        max_priority_fee: fees.max_priority_fee - 1,
    };
    let message = send(
        "a cheaper one",
        &signed(client, &settler(), nonce + 1, cheaper).raw,
    )
    .await;
    assert!(
        message.contains("replacement transaction underpriced"),
        "{message}"
    );
    let dearer = Fees {
        max_fee: fees.max_fee * 9 / 8 + 1,
        max_priority_fee: fees.max_priority_fee * 9 / 8 + 1,
    };
    let dearer = signed(client, &settler(), nonce + 1, dearer);
    client.send_raw(&dearer.raw).await.unwrap();
    let waiting = ask(
        chain,
        "eth_getTransactionByHash",
        json!([data(dearer.hash)]),
    )
    .await;
    assert!(waiting["blockNumber"].is_null());
}

/// Fills the nonce that the check above left open: this one and the waiting one are mined and revert.
async fn a_failed_transaction_has_a_receipt_and_costs_gas(client: &ChainClient) {
    let nonce = client.nonce(settler().address()).await.unwrap();
    let fees = client.fees().await.unwrap();
    let wrong = signed(client, &settler(), nonce, fees);
    client.send_raw(&wrong.raw).await.unwrap();
    let failed = client
        .wait_for_receipt("commit", &wrong.hash, WAIT_MS)
        .await;
    assert!(
        matches!(failed, Err(ChainError::Failed { .. })),
        "{failed:?}"
    );
    let receipt = client.receipt(&wrong.hash).await.unwrap().unwrap();
    assert!(!receipt.success && receipt.gas_used > 21_000);
    for _ in 0..100 {
        if client.nonce(settler().address()).await.unwrap() == nonce + 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(client.nonce(settler().address()).await.unwrap(), nonce + 2);
    assert_eq!(
        client.head().await.unwrap().number,
        1,
        "a revert changes nothing"
    );
}

async fn fees_are_suggested(chain: &dyn RpcTransport) {
    for method in ["eth_gasPrice", "eth_maxPriorityFeePerGas"] {
        assert!(
            parse_u64(&ask(chain, method, json!([])).await).unwrap() > 0,
            "{method}"
        );
    }
    let history = ask(chain, "eth_feeHistory", json!(["0x2", "latest", [50.0]])).await;
    assert_eq!(history["baseFeePerGas"].as_array().map(Vec::len), Some(3));
    assert_eq!(history["gasUsedRatio"].as_array().map(Vec::len), Some(2));
    assert_eq!(history["reward"].as_array().map(Vec::len), Some(2));
    let newest = ask(chain, "eth_getBlockByNumber", json!(["latest", false])).await;
    assert_eq!(newest["baseFeePerGas"], history["baseFeePerGas"][1]);
}

async fn estimates_are_enough_and_name_reverts(chain: &dyn RpcTransport, client: &ChainClient) {
    let first = client.committed_batch(1).await.unwrap().unwrap().batch;
    let second = batch_after(Some(&first));
    let call = |batch| {
        json!([{
            "from": data(settler().address()),
            "to": data(client.contract()),
            "data": data(ChainClient::commit_call(batch)),
        }])
    };
    let gas = parse_u64(&ask(chain, "eth_estimateGas", call(&second)).await).unwrap();
    assert!((50_000..100_000).contains(&gas), "{gas}");
    let refused = chain.request("eth_estimateGas", call(&first)).await;
    let Err(RpcError::Node {
        code: 3,
        data: Some(_),
        ..
    }) = refused
    else {
        panic!("{refused:?}");
    };
    let nonce = client.nonce(settler().address()).await.unwrap();
    let fees = client.fees().await.unwrap();
    let transaction = client
        .sign_call(
            &settler(),
            nonce,
            gas,
            fees,
            ChainClient::commit_call(&second),
        )
        .unwrap();
    client.send_raw(&transaction.raw).await.unwrap();
    let receipt = client
        .wait_for_receipt("commit", &transaction.hash, WAIT_MS)
        .await
        .unwrap();
    assert!(receipt.gas_used <= gas);
}
