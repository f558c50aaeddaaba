//! A process that dies at any point between sealing and confirmation resumes without a double or a hole.
//!
//! Death is a transport that stops answering, before or after the node has done what was asked. What the
//! process knew is dropped; its folder, the chain's folder and what the engine had in its log stay.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use async_trait::async_trait;
use karat_settlement::chain::hexadecimal::{data, quantity};
use karat_settlement::{
    BatchToCommit, ChainClient, EmbeddedChain, RpcError, RpcTransport, Stage, Submitter,
    SubmitterConfig,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use common::*;

const BATCHES: usize = 6;
const STEPS_MAX: u64 = 200;
const CONFIRMATIONS: u64 = 3;

/// Answers a number of requests, then never again.
struct Dying {
    chain: EmbeddedChain,
    answers_left: AtomicI64,
    /// Whether the node still does what the unanswered request asked.
    request_arrives: bool,
    dead: AtomicBool,
}

#[async_trait]
impl RpcTransport for Dying {
    async fn request(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        let gone = Err(RpcError::Unreachable {
            method: method.to_owned(),
            reason: "the process is dead".to_owned(),
        });
        if self.dead.load(Ordering::SeqCst) {
            return gone;
        }
        if self.answers_left.fetch_sub(1, Ordering::SeqCst) > 0 {
            return self.chain.request(method, params).await;
        }
        self.dead.store(true, Ordering::SeqCst);
        if self.request_arrives {
            let _ = self.chain.request(method, params).await;
        }
        gone
    }
}

/// What the engine keeps in its log: the sealed batches and which of them it was told are final.
struct Engine {
    batches: Vec<BatchToCommit>,
    final_number: u64,
}

/// One life of the process: from its start to its death, or until everything is final.
async fn live(
    folder: &Path,
    chain: EmbeddedChain,
    contract: [u8; 20],
    engine: &mut Engine,
    answers: i64,
    request_arrives: bool,
    mut between_steps: impl AsyncFnMut(&EmbeddedChain),
) -> bool {
    let transport = Arc::new(Dying {
        chain: chain.clone(),
        answers_left: AtomicI64::new(answers),
        request_arrives,
        dead: AtomicBool::new(false),
    });
    let Ok(client) = ChainClient::connect(transport.clone(), contract).await else {
        assert!(transport.dead.load(Ordering::SeqCst));
        return false;
    };
    let config = SubmitterConfig {
        confirmations: CONFIRMATIONS,
        in_flight_max: 3,
        ..SubmitterConfig::default()
    };
    let mut submitter = Submitter::open(&folder.join("outbox"), client, settler(), config).unwrap();
    for batch in &engine.batches[engine.final_number as usize..] {
        submitter.enqueue(*batch).unwrap();
    }
    for step in 0..STEPS_MAX {
        match submitter.step(step * 1_000).await {
            Ok(progress) => {
                for reached in progress {
                    if let Stage::Final { .. } = reached.stage {
                        assert_eq!(
                            reached.number,
                            engine.final_number + 1,
                            "final in order, once"
                        );
                        engine.final_number = reached.number;
                    }
                }
            }
            Err(_) if transport.dead.load(Ordering::SeqCst) => return false,
            Err(error) => panic!("{error}"),
        }
        if engine.final_number as usize == engine.batches.len() {
            return true;
        }
        between_steps(&chain).await;
    }
    panic!(
        "batch {} is not final after {STEPS_MAX} steps",
        engine.final_number + 1
    );
}

fn open_chain(folder: &Path) -> EmbeddedChain {
    EmbeddedChain::open(&folder.join("chain"), chain_config()).unwrap()
}

async fn start(folder: &Path) -> ([u8; 20], Engine) {
    let (_, client) = chain_with_contract(&folder.join("chain")).await;
    let engine = Engine {
        batches: batches(BATCHES),
        final_number: 0,
    };
    (client.contract(), engine)
}

/// Every batch is on the chain once, with its own content, and `transactions` were spent on all of them
/// where that is known.
async fn check(folder: &Path, contract: [u8; 20], engine: &Engine, transactions: Option<u64>) {
    let chain = EmbeddedChain::open(&folder.join("chain"), chain_config()).unwrap();
    let client = ChainClient::connect(Arc::new(chain.clone()), contract)
        .await
        .unwrap();
    let head = client.head().await.unwrap();
    assert_eq!(head.number, engine.batches.len() as u64);
    assert_eq!(
        head.commitment,
        engine.batches[engine.batches.len() - 1].commitment()
    );
    for batch in &engine.batches {
        assert_eq!(
            client
                .committed_batch(batch.number)
                .await
                .unwrap()
                .unwrap()
                .batch,
            *batch
        );
    }
    let all = json!([{"address": data(contract), "fromBlock": "0x0", "toBlock": "latest"}]);
    let logs = chain.request("eth_getLogs", all).await.unwrap();
    let commits = logs
        .as_array()
        .unwrap()
        .iter()
        .filter(|log| log["topics"].as_array().unwrap().len() == 4)
        .filter(|log| log["data"].as_str().unwrap().len() == 2 + 5 * 64)
        .count();
    assert_eq!(commits, engine.batches.len());
    if let Some(transactions) = transactions {
        assert_eq!(
            client.nonce(settler().address()).await.unwrap(),
            transactions
        );
    }
}

#[tokio::test]
async fn dying_once_at_any_request_leaves_no_double_and_no_hole() {
    for request_arrives in [false, true] {
        let mut answers = 0;
        loop {
            let folder = tempfile::tempdir().unwrap();
            let (contract, mut engine) = start(folder.path()).await;
            let mine = async |chain: &EmbeddedChain| chain.mine(1).unwrap();
            let survived = live(
                folder.path(),
                open_chain(folder.path()),
                contract,
                &mut engine,
                answers,
                request_arrives,
                mine,
            )
            .await;
            if !survived {
                let whole = live(
                    folder.path(),
                    open_chain(folder.path()),
                    contract,
                    &mut engine,
                    i64::MAX,
                    false,
                    mine,
                )
                .await;
                assert!(whole);
            }
            check(folder.path(), contract, &engine, Some(BATCHES as u64)).await;
            if survived {
                break;
            }
            answers += 1;
        }
        assert!(
            answers > 30,
            "the run was to die at many points, not {answers}"
        );
    }
}

#[tokio::test]
async fn dying_again_and_again_leaves_no_double_and_no_hole() {
    for seed in 0..60 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let folder = tempfile::tempdir().unwrap();
        let (contract, mut engine) = start(folder.path()).await;
        // Either the node outlives the process and keeps what waits there, or both restart.
        let node = random.random_bool(0.5).then(|| open_chain(folder.path()));
        let mut lives = 0;
        loop {
            let chain = node.clone().unwrap_or_else(|| open_chain(folder.path()));
            // Short lives first; later ones may reach the end.
            let answers = random.random_range(0..=12 + 4 * lives);
            let arrives = random.random();
            let manual = random.random_bool(0.5);
            let mine = async |chain: &EmbeddedChain| {
                if manual {
                    chain
                        .request("evm_setAutomine", json!([false]))
                        .await
                        .unwrap();
                }
                chain.request("evm_mine", json!([])).await.unwrap();
            };
            if live(
                folder.path(),
                chain,
                contract,
                &mut engine,
                answers,
                arrives,
                mine,
            )
            .await
            {
                break;
            }
            lives += 1;
            assert!(lives < 200, "seed {seed}");
        }
        drop(node);
        check(folder.path(), contract, &engine, Some(BATCHES as u64)).await;
    }
}

#[tokio::test]
async fn dying_while_the_chain_reorganises_leaves_no_double_and_no_hole() {
    for seed in 0..60 {
        let mut random = ChaCha8Rng::seed_from_u64(1_000 + seed);
        let folder = tempfile::tempdir().unwrap();
        let (contract, mut engine) = start(folder.path()).await;
        let mut lives = 0;
        loop {
            // The last life is long enough that only the submitter itself can put things right.
            let mut reorgs_left = 8;
            let answers = match lives {
                0..4 => random.random_range(0..=60),
                _ => i64::MAX,
            };
            let arrives = random.random();
            let mut weather = ChaCha8Rng::seed_from_u64(random.random());
            let floor = 1;
            let reorgs = &mut reorgs_left;
            let disturb = async |chain: &EmbeddedChain| {
                let head = chain.block_number();
                // Shallower than the confirmations: what is final stays.
                let depth = weather.random_range(1..CONFIRMATIONS);
                if *reorgs > 0 && weather.random_bool(0.3) && head > floor + depth {
                    *reorgs -= 1;
                    chain
                        .request("debug_setHead", json!([quantity(head - depth)]))
                        .await
                        .unwrap();
                }
                chain.mine(1).unwrap();
            };
            if live(
                folder.path(),
                open_chain(folder.path()),
                contract,
                &mut engine,
                answers,
                arrives,
                disturb,
            )
            .await
            {
                break;
            }
            lives += 1;
            assert!(lives < 200, "seed {seed}");
        }
        check(folder.path(), contract, &engine, None).await;
    }
}
