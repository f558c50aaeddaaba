//! The embedded chain keeps what it answered, and nothing else.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use karat_settlement::chain::client::Fees;
use karat_settlement::chain::embedded::{EmbeddedChainError, JournalError};
use karat_settlement::chain::hexadecimal::{data, quantity};
use karat_settlement::{BatchToCommit, EmbeddedChain, EmbeddedChainConfig, RpcTransport};
use proptest::prelude::*;
use serde_json::{Value, json};

use common::*;

fn open(folder: &Path) -> Result<EmbeddedChain, EmbeddedChainError> {
    EmbeddedChain::open(folder, chain_config())
}

fn chain_file(folder: &Path) -> std::path::PathBuf {
    folder.join("chain.log")
}

/// Everything of a chain that can be asked for.
async fn picture(chain: &EmbeddedChain) -> Vec<Value> {
    let mut picture = Vec::new();
    for number in 0..=chain.block_number() {
        let params = json!([quantity(number), true]);
        let block = chain.request("eth_getBlockByNumber", params).await.unwrap();
        for transaction in block["transactions"].as_array().unwrap() {
            let params = json!([transaction["hash"]]);
            picture.push(
                chain
                    .request("eth_getTransactionReceipt", params)
                    .await
                    .unwrap(),
            );
        }
        picture.push(block);
    }
    for signer in [admin(), settler(), stranger()] {
        for method in ["eth_getBalance", "eth_getTransactionCount"] {
            let params = json!([data(signer.address()), "latest"]);
            picture.push(chain.request(method, params).await.unwrap());
        }
    }
    picture
}

async fn commit_some(
    chain: &EmbeddedChain,
    from: Option<BatchToCommit>,
    count: usize,
) -> BatchToCommit {
    let client = contract_on(Arc::new(chain.clone())).await;
    let mut before = from;
    for _ in 0..count {
        let batch = batch_after(before.as_ref());
        commit(&client, &settler(), &batch).await.unwrap();
        before = Some(batch);
    }
    before.unwrap()
}

#[tokio::test]
async fn a_restart_shows_the_same_chain_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let chain = open(folder.path()).unwrap();
    let last = commit_some(&chain, None, 3).await;
    chain.mine(5).unwrap();
    let before = picture(&chain).await;
    drop(chain);
    let chain = open(folder.path()).unwrap();
    assert_eq!(chain.cut_bytes(), 0);
    assert_eq!(picture(&chain).await, before);
    let last = commit_some(&chain, Some(last), 1).await;
    let client = contract_on(Arc::new(chain)).await;
    assert_eq!(client.head().await.unwrap().commitment, last.commitment());
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_everything_before_it_kept() {
    let folder = tempfile::tempdir().unwrap();
    let chain = open(folder.path()).unwrap();
    let last = commit_some(&chain, None, 2).await;
    let before = picture(&chain).await;
    let whole = std::fs::metadata(chain_file(folder.path())).unwrap().len();
    commit_some(&chain, Some(last), 1).await;
    drop(chain);
    let bytes = std::fs::read(chain_file(folder.path())).unwrap();
    for keep in (whole as usize..bytes.len()).step_by(37) {
        std::fs::write(chain_file(folder.path()), &bytes[..keep]).unwrap();
        let chain = open(folder.path()).unwrap();
        assert_eq!(chain.cut_bytes(), keep as u64 - whole);
        assert_eq!(picture(&chain).await, before);
    }
}

#[tokio::test]
async fn a_garbage_tail_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let chain = open(folder.path()).unwrap();
    commit_some(&chain, None, 2).await;
    let before = picture(&chain).await;
    drop(chain);
    for garbage in [
        vec![0; 4_096],
        vec![0xff; 7],
        (0..=255).collect::<Vec<u8>>(),
    ] {
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(chain_file(folder.path()))
            .unwrap();
        file.write_all(&garbage).unwrap();
        drop(file);
        let chain = open(folder.path()).unwrap();
        assert_eq!(chain.cut_bytes(), garbage.len() as u64);
        assert_eq!(picture(&chain).await, before);
    }
}

#[tokio::test]
async fn damage_before_the_end_stops_the_opening() {
    let folder = tempfile::tempdir().unwrap();
    let chain = open(folder.path()).unwrap();
    commit_some(&chain, None, 2).await;
    drop(chain);
    let bytes = std::fs::read(chain_file(folder.path())).unwrap();
    for at in [0, 5, 9, 40, 400, 2_000] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        std::fs::write(chain_file(folder.path()), &damaged).unwrap();
        match open(folder.path()) {
            Err(EmbeddedChainError::Journal(JournalError::Damaged { offset, .. })) => {
                assert!(offset as usize <= at);
            }
            Err(other) => panic!("byte {at}: {other}"),
            Ok(_) => panic!("byte {at}: opened"),
        }
        assert_eq!(
            std::fs::read(chain_file(folder.path())).unwrap(),
            damaged,
            "nothing is cut"
        );
    }
}

#[tokio::test]
async fn one_process_at_a_time_and_one_chain_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let chain = open(folder.path()).unwrap();
    assert!(matches!(
        open(folder.path()),
        Err(EmbeddedChainError::Locked { .. })
    ));
    drop(chain);
    let other = EmbeddedChainConfig {
        chain_id: 1,
        ..chain_config()
    };
    assert!(matches!(
        EmbeddedChain::open(folder.path(), other),
        Err(EmbeddedChainError::OtherChain {
            found: CHAIN_ID,
            configured: 1,
            ..
        })
    ));
    open(folder.path()).unwrap();
}

#[tokio::test]
async fn blocks_that_were_taken_back_stay_gone() {
    let folder = tempfile::tempdir().unwrap();
    let chain = open(folder.path()).unwrap();
    let last = commit_some(&chain, None, 2).await;
    chain.mine(10).unwrap();
    let before = picture(&chain).await;
    let head = chain.block_number();
    chain.mine(4).unwrap();
    commit_some(&chain, Some(last), 3).await;
    chain
        .request("debug_setHead", json!([quantity(head)]))
        .await
        .unwrap();
    assert_eq!(picture(&chain).await, before);
    // Into the middle of a run of empty blocks.
    chain
        .request("debug_setHead", json!([quantity(head - 3)]))
        .await
        .unwrap();
    let shorter = picture(&chain).await;
    drop(chain);
    let chain = open(folder.path()).unwrap();
    assert_eq!(chain.block_number(), head - 3);
    assert_eq!(picture(&chain).await, shorter);
    commit_some(&chain, Some(last), 1).await;
}

#[tokio::test]
async fn the_base_fee_moves_and_makes_cheap_transactions_wait() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, client) = chain_with_contract(folder.path()).await;
    let base_fee = async || {
        let block = chain
            .request("eth_getBlockByNumber", json!(["latest", false]))
            .await
            .unwrap();
        u64::from_str_radix(&block["baseFeePerGas"].as_str().unwrap()[2..], 16).unwrap()
    };
    let first = base_fee().await;
    chain.mine(1).unwrap();
    let second = base_fee().await;
    assert!(
        second < first && second >= first * 7 / 8 - 1,
        "an empty block lowers it by an eighth"
    );
    chain.mine(200).unwrap();
    assert_eq!(
        base_fee().await,
        chain_config().base_fee_min_wei,
        "down to its floor"
    );

    let fees = client.fees().await.unwrap();
    let high = u64::try_from(fees.max_fee).unwrap() * 2;
    chain
        .request("anvil_setNextBlockBaseFeePerGas", json!([quantity(high)]))
        .await
        .unwrap();
    let call = karat_settlement::ChainClient::commit_call(&batch_after(None));
    let signed = client
        .sign_call(&settler(), 0, 200_000, fees, call)
        .unwrap();
    client.send_raw(&signed.raw).await.unwrap();
    assert_eq!(
        client.receipt(&signed.hash).await.unwrap(),
        None,
        "it waits"
    );
    chain.mine(20).unwrap();
    chain.request("evm_mine", json!([])).await.unwrap();
    assert!(
        client.receipt(&signed.hash).await.unwrap().unwrap().success,
        "until the fee has fallen"
    );
}

#[tokio::test]
async fn a_replacement_must_raise_both_fees_by_a_tenth() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, client) = chain_with_contract(folder.path()).await;
    chain
        .request("evm_setAutomine", json!([false]))
        .await
        .unwrap();
    let send = async |max_fee: u128, max_priority_fee: u128| {
        let fees = Fees {
            max_fee,
            max_priority_fee,
        };
        let call = karat_settlement::ChainClient::commit_call(&batch_after(None));
        let signed = client
            .sign_call(&settler(), 0, 200_000, fees, call)
            .unwrap();
        client
            .send_raw(&signed.raw)
            .await
            .map_err(|error| error.to_string())
    };
    let gwei = 1_000_000_000;
    send(100 * gwei, 10 * gwei).await.unwrap();
    for (max_fee, max_priority_fee) in [(109, 11), (110, 10), (100, 20), (200, 10)] {
        let refused = send(max_fee * gwei, max_priority_fee * gwei)
            .await
            .unwrap_err();
        assert!(
            refused.contains("replacement transaction underpriced"),
            "{refused}"
        );
    }
    send(110 * gwei, 11 * gwei).await.unwrap();
}

#[test]
fn a_thousand_batches_open_again() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let chain = open(folder.path()).unwrap();
    let last = runtime.block_on(commit_some(&chain, None, 1_000));
    drop(chain);
    let start = std::time::Instant::now();
    let chain = open(folder.path()).unwrap();
    println!(
        "replay of 1,000 commits: {} ms",
        start.elapsed().as_millis()
    );
    let client = runtime.block_on(contract_on(Arc::new(chain)));
    let head = runtime.block_on(client.head()).unwrap();
    assert_eq!(head.commitment, last.commitment());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_bytes_are_no_transaction(mut raw in prop::collection::vec(any::<u8>(), 0..200), typed in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let chain = open(folder.path()).unwrap();
        if typed && !raw.is_empty() {
            raw[0] = 2;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let answer = runtime.block_on(chain.request("eth_sendRawTransaction", json!([data(&raw)])));
        prop_assert!(answer.is_err());
        prop_assert_eq!(chain.block_number(), 0);
    }
}
