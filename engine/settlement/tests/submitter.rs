//! The submitter's promises, one by one, on the embedded chain.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use karat_settlement::chain::hexadecimal::{data, parse_quantity, quantity};
use karat_settlement::chain::signer::Signer;
use karat_settlement::submitter::OutboxError;
use karat_settlement::{
    BatchToCommit, ChainClient, EmbeddedChain, EmbeddedChainConfig, Progress, RpcTransport, Stage,
    Submitter, SubmitterConfig, SubmitterError,
};
use serde_json::{Value, json};

use common::*;

const CONFIRMATIONS: u64 = 3;

fn config() -> SubmitterConfig {
    SubmitterConfig {
        confirmations: CONFIRMATIONS,
        ..SubmitterConfig::default()
    }
}

struct Fixture {
    folder: tempfile::TempDir,
    chain: EmbeddedChain,
    client: ChainClient,
}

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (chain, client) = chain_with_contract(&folder.path().join("chain")).await;
        Self {
            folder,
            chain,
            client,
        }
    }

    fn outbox(&self) -> std::path::PathBuf {
        self.folder.path().join("outbox")
    }

    fn submitter(&self) -> Submitter {
        self.submitter_with(config())
    }

    fn submitter_with(&self, config: SubmitterConfig) -> Submitter {
        Submitter::open(&self.outbox(), self.client.clone(), settler(), config).unwrap()
    }

    async fn ask(&self, method: &str, params: Value) -> Value {
        self.chain.request(method, params).await.unwrap()
    }

    async fn automine(&self, on: bool) {
        self.ask("evm_setAutomine", json!([on])).await;
    }

    async fn transaction(&self, hash: [u8; 32]) -> Value {
        self.ask("eth_getTransactionByHash", json!([data(hash)]))
            .await
    }

    async fn drop_transaction(&self, hash: [u8; 32]) {
        let dropped = self.ask("anvil_dropTransaction", json!([data(hash)])).await;
        assert_eq!(dropped, data(hash));
    }
}

fn enqueue_all(submitter: &mut Submitter, batches: &[BatchToCommit]) {
    for batch in batches {
        submitter.enqueue(*batch).unwrap();
    }
}

fn sent_in(progress: &[Progress], number: u64) -> [u8; 32] {
    progress
        .iter()
        .rev()
        .find_map(|step| match step.stage {
            Stage::Sent { tx } if step.number == number => Some(tx),
            _ => None,
        })
        .unwrap_or_else(|| panic!("batch {number} was not sent: {progress:?}"))
}

fn names(progress: &[Progress], number: u64) -> Vec<&'static str> {
    progress
        .iter()
        .filter(|step| step.number == number)
        .map(|step| match step.stage {
            Stage::Sealed => "sealed",
            Stage::Sent { .. } => "sent",
            Stage::Committed { .. } => "committed",
            Stage::Final { .. } => "final",
        })
        .collect()
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".json"))
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn batches_are_sent_committed_and_final_in_order() {
    let fixture = Fixture::new().await;
    let batches = batches(10);
    let mut submitter = fixture.submitter();
    enqueue_all(&mut submitter, &batches);
    let mut progress = Vec::new();
    for now_ms in 0..40 {
        progress.extend(submitter.step(now_ms * 1_000).await.unwrap());
        fixture.chain.mine(1).unwrap();
    }
    assert_eq!(submitter.batches_held(), 0);
    assert_eq!(files(&fixture.outbox()), Vec::<String>::new());
    for batch in &batches {
        assert_eq!(
            names(&progress, batch.number),
            ["sent", "committed", "final"]
        );
    }
    let finals: Vec<u64> = progress
        .iter()
        .filter(|step| matches!(step.stage, Stage::Final { .. }))
        .map(|step| step.number)
        .collect();
    assert_eq!(finals, (1..=10).collect::<Vec<_>>());
    let mut blocks = Vec::new();
    for step in &progress {
        if let Stage::Final {
            tx,
            block,
            gas_used,
        } = step.stage
        {
            let receipt = fixture.client.receipt(&tx).await.unwrap().unwrap();
            assert_eq!((receipt.block, receipt.gas_used), (block, gas_used));
            assert_eq!(
                fixture.transaction(tx).await["nonce"],
                quantity(step.number - 1)
            );
            blocks.push(block);
        }
    }
    assert!(blocks.is_sorted_by(|one, next| one < next));
    assert_eq!(
        fixture.client.head().await.unwrap().commitment,
        batches[9].commitment()
    );
}

#[tokio::test]
async fn nothing_is_final_before_its_confirmations() {
    let fixture = Fixture::new().await;
    let mut submitter = fixture.submitter();
    submitter.enqueue(batch_after(None)).unwrap();
    submitter.step(0).await.unwrap();
    assert_eq!(names(&submitter.step(1).await.unwrap(), 1), ["committed"]);
    for _ in 1..CONFIRMATIONS {
        fixture.chain.mine(1).unwrap();
        assert_eq!(submitter.step(2).await.unwrap(), []);
    }
    fixture.chain.mine(1).unwrap();
    assert_eq!(names(&submitter.step(3).await.unwrap(), 1), ["final"]);
    assert_eq!(submitter.stage(1), None);
}

#[tokio::test]
async fn a_fixed_number_is_in_flight() {
    let fixture = Fixture::new().await;
    fixture.automine(false).await;
    let mut submitter = fixture.submitter();
    enqueue_all(&mut submitter, &batches(10));
    for now_ms in 0..5 {
        submitter.step(now_ms).await.unwrap();
        assert_eq!(submitter.in_flight(), config().in_flight_max);
    }
    fixture.ask("evm_mine", json!([])).await;
    let progress = submitter.step(10).await.unwrap();
    assert_eq!(names(&progress, 1), ["committed"]);
    assert_eq!(names(&progress, 5), ["sent"]);
    assert_eq!(submitter.in_flight(), config().in_flight_max);
}

#[tokio::test]
async fn a_transaction_that_waits_is_replaced_by_a_dearer_one_up_to_the_bound() {
    let fixture = Fixture::new().await;
    fixture.automine(false).await;
    let first_fee = fixture.client.fees().await.unwrap().max_fee;
    let bound = first_fee * 13 / 10;
    let mut submitter = fixture.submitter_with(SubmitterConfig {
        max_fee_bound_wei: bound,
        ..config()
    });
    submitter.enqueue(batch_after(None)).unwrap();
    let bump = config().bump_after_ms;
    let fee_of = async |tx: [u8; 32]| {
        let transaction = fixture.transaction(tx).await;
        let fee = |field: &str| parse_quantity(&transaction[field]).unwrap().as_u128();
        (fee("maxFeePerGas"), fee("maxPriorityFeePerGas"))
    };
    let first = sent_in(&submitter.step(0).await.unwrap(), 1);
    let (max_fee, priority) = fee_of(first).await;
    assert_eq!(submitter.step(bump - 1).await.unwrap(), [], "not yet");
    let second = sent_in(&submitter.step(bump).await.unwrap(), 1);
    assert_ne!(second, first);
    let (dearer, dearer_priority) = fee_of(second).await;
    assert!(dearer * 8 >= max_fee * 9 && dearer_priority * 8 >= priority * 9);
    assert!(
        fixture.transaction(first).await.is_null(),
        "the node replaced it"
    );
    let third = sent_in(&submitter.step(2 * bump).await.unwrap(), 1);
    assert!(fee_of(third).await.0 <= bound);
    for round in 3..10 {
        assert_eq!(
            submitter.step(round * bump).await.unwrap(),
            [],
            "the bound leaves no room"
        );
    }
    assert_eq!(submitter.stage(1), Some(Stage::Sent { tx: third }));
    fixture.automine(true).await;
    assert_eq!(
        names(&submitter.step(10 * bump).await.unwrap(), 1),
        ["committed"]
    );
    assert_eq!(fixture.client.nonce(settler().address()).await.unwrap(), 1);
}

#[tokio::test]
async fn an_older_attempt_that_is_mined_counts() {
    let fixture = Fixture::new().await;
    fixture.automine(false).await;
    let mut submitter = fixture.submitter();
    submitter.enqueue(batch_after(None)).unwrap();
    let first = sent_in(&submitter.step(0).await.unwrap(), 1);
    // What the node had when it stopped talking to the rest of the network.
    let text =
        std::fs::read_to_string(fixture.outbox().join(&files(&fixture.outbox())[0])).unwrap();
    let saved: Value = serde_json::from_str(&text).unwrap();
    let raw = saved["attempts"][0]["raw"].clone();
    let second = sent_in(&submitter.step(config().bump_after_ms).await.unwrap(), 1);
    fixture.drop_transaction(second).await;
    fixture.automine(true).await;
    fixture.ask("eth_sendRawTransaction", json!([raw])).await;
    let progress = submitter.step(config().bump_after_ms + 1).await.unwrap();
    assert!(
        matches!(progress[..], [Progress { number: 1, stage: Stage::Committed { tx, .. } }] if tx == first)
    );
}

#[tokio::test]
async fn a_restart_sends_the_same_bytes() {
    let fixture = Fixture::new().await;
    fixture.automine(false).await;
    let batches = batches(3);
    let mut submitter = fixture.submitter();
    enqueue_all(&mut submitter, &batches);
    let before = submitter.step(0).await.unwrap();
    drop(submitter);
    // The node forgets what it had not mined.
    for number in 1..=3 {
        fixture.drop_transaction(sent_in(&before, number)).await;
    }
    // Other fees are due by now: signing anew would give other bytes.
    fixture.chain.mine(5).unwrap();
    let mut submitter = fixture.submitter();
    enqueue_all(&mut submitter, &batches);
    let after = submitter.step(0).await.unwrap();
    for number in 1..=3 {
        assert_eq!(sent_in(&after, number), sent_in(&before, number));
    }
    fixture.automine(true).await;
    submitter.step(1).await.unwrap();
    assert_eq!(
        fixture.client.head().await.unwrap().commitment,
        batches[2].commitment()
    );
    assert_eq!(fixture.client.nonce(settler().address()).await.unwrap(), 3);
}

#[tokio::test]
async fn what_the_chain_has_is_found_there_when_the_folder_is_lost() {
    let fixture = Fixture::new().await;
    let batches = batches(3);
    let mut submitter = fixture.submitter();
    enqueue_all(&mut submitter, &batches);
    submitter.step(0).await.unwrap();
    drop(submitter);
    std::fs::remove_dir_all(fixture.outbox()).unwrap();
    fixture.chain.mine(CONFIRMATIONS as u32).unwrap();
    let mut submitter = fixture.submitter();
    enqueue_all(&mut submitter, &batches);
    let mut progress = submitter.step(0).await.unwrap();
    progress.extend(submitter.step(1).await.unwrap());
    for number in 1..=3 {
        assert_eq!(names(&progress, number), ["committed", "final"]);
    }
    assert_eq!(
        fixture.client.nonce(settler().address()).await.unwrap(),
        3,
        "nothing was sent again"
    );
}

#[tokio::test]
async fn a_reorg_takes_batches_back_and_they_are_sent_again() {
    let fixture = Fixture::new().await;
    let batches = batches(3);
    let mut submitter = fixture.submitter();
    enqueue_all(&mut submitter, &batches);
    let block = fixture.chain.block_number();
    let first = submitter.step(0).await.unwrap();
    let progress = submitter.step(1).await.unwrap();
    for number in 1..=3 {
        assert_eq!(names(&progress, number), ["committed"]);
    }
    // The blocks of batches 2 and 3 vanish, and their transactions with them.
    fixture
        .ask("debug_setHead", json!([quantity(block + 1)]))
        .await;
    let progress = submitter.step(2).await.unwrap();
    assert_eq!(names(&progress, 1), Vec::<&str>::new());
    for number in 2..=3 {
        assert_eq!(
            sent_in(&progress, number),
            sent_in(&first, number),
            "the same bytes"
        );
    }
    let mut progress = submitter.step(3).await.unwrap();
    fixture.chain.mine(CONFIRMATIONS as u32).unwrap();
    progress.extend(submitter.step(4).await.unwrap());
    for number in 2..=3 {
        assert_eq!(names(&progress, number), ["committed", "final"]);
    }
    assert_eq!(
        fixture.client.head().await.unwrap().commitment,
        batches[2].commitment()
    );
}

#[tokio::test]
async fn a_refusal_by_the_contract_costs_nothing_and_is_tried_again() {
    let fixture = Fixture::new().await;
    fixture
        .client
        .set_paused(&admin(), true, WAIT_MS)
        .await
        .unwrap();
    let mut submitter = fixture.submitter();
    submitter.enqueue(batch_after(None)).unwrap();
    for now_ms in 0..3 {
        match submitter.step(now_ms).await {
            Err(SubmitterError::Refused { number: 1, reason }) => {
                assert!(reason.starts_with("EnforcedPause"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fixture.client.nonce(settler().address()).await.unwrap(), 0);
    fixture
        .client
        .set_paused(&admin(), false, WAIT_MS)
        .await
        .unwrap();
    submitter.step(4).await.unwrap();
    assert_eq!(names(&submitter.step(5).await.unwrap(), 1), ["committed"]);
}

#[tokio::test]
async fn a_commit_that_reverts_is_sealed_again_and_sent_anew() {
    let fixture = Fixture::new().await;
    fixture.automine(false).await;
    let mut submitter = fixture.submitter();
    submitter.enqueue(batch_after(None)).unwrap();
    let reverted = sent_in(&submitter.step(0).await.unwrap(), 1);
    fixture.drop_transaction(reverted).await;
    fixture.automine(true).await;
    fixture
        .client
        .set_paused(&admin(), true, WAIT_MS)
        .await
        .unwrap();
    let resend = config().resend_after_ms;
    submitter.step(resend).await.unwrap();
    assert!(
        !fixture
            .client
            .receipt(&reverted)
            .await
            .unwrap()
            .unwrap()
            .success
    );
    assert!(matches!(
        submitter.step(resend + 1).await,
        Err(SubmitterError::Refused { .. })
    ));
    fixture
        .client
        .set_paused(&admin(), false, WAIT_MS)
        .await
        .unwrap();
    let progress = submitter.step(resend + 2).await.unwrap();
    assert_eq!(
        names(&progress, 1),
        ["sealed", "sent"],
        "what a failed step saw is not lost"
    );
    assert_ne!(sent_in(&progress, 1), reverted);
    assert_eq!(
        names(&submitter.step(resend + 3).await.unwrap(), 1),
        ["committed"]
    );
}

#[tokio::test]
async fn a_nonce_taken_by_somebody_else_is_given_up() {
    let fixture = Fixture::new().await;
    fixture.automine(false).await;
    let batches = batches(2);
    let mut submitter = fixture.submitter();
    enqueue_all(&mut submitter, &batches);
    let progress = submitter.step(0).await.unwrap();
    for number in 1..=2 {
        fixture.drop_transaction(sent_in(&progress, number)).await;
    }
    let fees = fixture.client.fees().await.unwrap();
    let nonsense = fixture
        .client
        .sign_call(&settler(), 0, 50_000, fees, vec![1, 2, 3, 4])
        .unwrap();
    fixture.automine(true).await;
    fixture.client.send_raw(&nonsense.raw).await.unwrap();
    let mut now_ms = 1;
    for _ in 0..20 {
        submitter.step(now_ms).await.unwrap();
        now_ms += config().resend_after_ms;
    }
    assert_eq!(
        fixture.client.head().await.unwrap().commitment,
        batches[1].commitment()
    );
    assert_eq!(submitter.in_flight(), 0);
}

#[tokio::test]
async fn another_history_on_the_chain_stops_the_submitter() {
    let fixture = Fixture::new().await;
    let ours = batches(2);
    let theirs = BatchToCommit {
        log_head: [0xee; 32],
        ..ours[0]
    };
    commit(&fixture.client, &settler(), &theirs).await.unwrap();
    for first in 0..2 {
        let mut submitter = fixture.submitter();
        enqueue_all(&mut submitter, &ours[first..]);
        for now_ms in 0..3 {
            assert!(matches!(
                submitter.step(now_ms).await,
                Err(SubmitterError::Conflict { .. })
            ));
        }
        assert_eq!(fixture.client.nonce(settler().address()).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_chain_that_lacks_earlier_batches_is_a_gap() {
    let fixture = Fixture::new().await;
    let mut submitter = fixture.submitter();
    submitter.enqueue(batches(3)[2]).unwrap();
    assert!(matches!(
        submitter.step(0).await,
        Err(SubmitterError::Gap {
            on_chain: 0,
            number: 3
        })
    ));
}

#[tokio::test]
async fn batches_are_taken_over_in_order_within_a_bound() {
    let fixture = Fixture::new().await;
    let mut submitter = fixture.submitter_with(SubmitterConfig {
        batches_max: 2,
        ..config()
    });
    let batches = batches(3);
    submitter.enqueue(batches[0]).unwrap();
    submitter.enqueue(batches[0]).unwrap();
    assert_eq!(submitter.batches_held(), 1);
    let other = BatchToCommit {
        root: [1; 32],
        ..batches[0]
    };
    assert!(matches!(
        submitter.enqueue(other),
        Err(SubmitterError::Different { number: 1 })
    ));
    assert!(matches!(
        submitter.enqueue(batches[2]),
        Err(SubmitterError::OutOfOrder {
            expected: 2,
            given: 3
        })
    ));
    let orphan = BatchToCommit {
        parent: [1; 32],
        ..batches[1]
    };
    assert!(matches!(
        submitter.enqueue(orphan),
        Err(SubmitterError::WrongParent { number: 2, .. })
    ));
    submitter.enqueue(batches[1]).unwrap();
    assert!(matches!(
        submitter.enqueue(batches[2]),
        Err(SubmitterError::QueueFull { batches: 2 })
    ));
}

#[tokio::test]
async fn an_account_without_money_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let funded = EmbeddedChainConfig {
        funded: vec![(admin().address(), ETHER)],
        ..chain_config()
    };
    let chain = EmbeddedChain::open(&folder.path().join("chain"), funded).unwrap();
    let client = contract_on(std::sync::Arc::new(chain)).await;
    let mut submitter =
        Submitter::open(&folder.path().join("outbox"), client, settler(), config()).unwrap();
    submitter.enqueue(batch_after(None)).unwrap();
    for now_ms in 0..3 {
        match submitter.step(now_ms).await {
            Err(SubmitterError::Funds {
                address, number: 1, ..
            }) => {
                assert_eq!(address, hex::encode(settler().address()));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_folder_belongs_to_one_sender_at_a_time_and_one_account() {
    let fixture = Fixture::new().await;
    fixture.automine(false).await;
    let open = |signer: Signer| {
        Submitter::open(&fixture.outbox(), fixture.client.clone(), signer, config()).map(|_| ())
    };
    let mut submitter = fixture.submitter();
    submitter.enqueue(batch_after(None)).unwrap();
    submitter.step(0).await.unwrap();
    assert!(matches!(
        open(settler()),
        Err(SubmitterError::Outbox(OutboxError::Locked { .. }))
    ));
    drop(submitter);
    assert!(matches!(
        open(stranger()),
        Err(SubmitterError::Outbox(OutboxError::BadFile { .. }))
    ));
    open(settler()).unwrap();
    let file = fixture.outbox().join(&files(&fixture.outbox())[0]);
    let text = std::fs::read(&file).unwrap();
    // A crash before the rename leaves a torn file beside, which says nothing.
    std::fs::write(file.with_extension("new"), &text[..100]).unwrap();
    open(settler()).unwrap();
    std::fs::write(&file, &text[..100]).unwrap();
    assert!(matches!(
        open(settler()),
        Err(SubmitterError::Outbox(OutboxError::BadFile { .. }))
    ));
}
