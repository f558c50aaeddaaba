//! All checks, at the end: first over gRPC, then on the folder, which nobody runs any more.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use karat_content::{ContentStore, PackConfig, PackStore};
use karat_engine::data_folder::DataFolder;
use karat_proto::v1;
use karat_proto::v1::{AckLevel, BatchStage};
use karat_settlement::{
    ChainClient, EmbeddedChain, EmbeddedChainConfig, Leaf, LeafKind, RpcTransport, merkle,
};
use tonic::transport::Channel;

use super::client::{Clients, Lost, Watched, ledger, operator};
use super::engine::Home;
use super::model::Model;
use super::random::Random;
use super::recovery::{catch_up, compare_assets, compare_balances};
use super::replay::{HISTORY_OF_ONE_IN, Replay, replay};
use super::scene::{DRAWN, FIRST_COME, TRADERS, account, trader};

/// Everything that is under way must have come to its end by then. Agents run when nobody else wants the processor.
const REST_MAX: Duration = Duration::from_secs(900);
/// Acknowledged commands that are sent once more.
const AGAIN_MAX: usize = 20_000;
const PROOFS: u64 = 40;

/// What the running engine said, to be compared with the folder.
pub struct Online {
    pub contract: [u8; 20],
    pub batches: Vec<v1::Batch>,
    pub histories: BTreeMap<u64, Vec<v1::Event>>,
    pub seen_sequence: u64,
    pub events: u64,
    pub hash: blake3::Hash,
    pub orphans: u64,
}

/// Asks the running engine everything. Nothing else may be sent to it meanwhile.
pub async fn ask_everything(
    clients: &Clients,
    channel: &Channel,
    model: &mut Model,
    random: &mut Random,
) -> Result<Online, Lost> {
    send_everything_again(clients, channel).await?;
    come_to_rest(channel).await?;
    let orphans = collect_orphans(channel).await?;
    // Looking for orphans takes a place in the order.
    let (contract, applied_seq) = come_to_rest(channel).await?;
    catch_up(clients, channel, model, applied_seq).await?;
    compare_balances(channel, model).await?;
    let all: Vec<u64> = model.things.keys().copied().collect();
    compare_assets(channel, model, all, false).await?;
    compare_lists(channel, model).await?;
    let batches = all_batches(channel).await?;
    look_at_proofs(channel, model, random).await?;
    let mut histories = BTreeMap::new();
    for asset in (1..=model.things.len() as u64).filter(|one| one.is_multiple_of(HISTORY_OF_ONE_IN))
    {
        histories.insert(asset, history(channel, asset).await?);
    }
    let seen_sequence = clients.watched.lock().seen_sequence;
    let (events, hash) = watch_again(channel, seen_sequence).await?;
    {
        let watched = clients.watched.lock();
        assert_eq!(
            (watched.events, watched.hash.finalize()),
            (events, hash),
            "Watch over all restarts differs from Watch from the beginning"
        );
    }
    Ok(Online {
        contract,
        batches,
        histories,
        seen_sequence,
        events,
        hash,
        orphans,
    })
}

async fn send_everything_again(clients: &Clients, channel: &Channel) -> Result<(), Lost> {
    let again: Vec<v1::Command> = {
        let book = clients.book.lock();
        assert!(book.unknown().is_empty());
        let step = book.ids.len().div_ceil(AGAIN_MAX);
        let chosen = book.ids.iter().step_by(step);
        chosen.map(|id| book.sent[id].command.clone()).collect()
    };
    for some in again.chunks(1024) {
        clients
            .send_again(channel, some.to_vec(), AckLevel::Sequenced)
            .await?;
    }
    Ok(())
}

/// Until all is settled and projected and every asset has its verdict; gives the contract's address and the last sequence.
async fn come_to_rest(channel: &Channel) -> Result<([u8; 20], u64), Lost> {
    let started = Instant::now();
    loop {
        let status = operator(channel)
            .get_status(v1::GetStatusRequest {})
            .await?
            .into_inner();
        let figure = |name: &str| {
            let found = status.figures.iter().find(|figure| figure.name == name);
            found.unwrap_or_else(|| panic!("no figure {name}")).value
        };
        let (pending, waiting) = (figure("assets_pending"), figure("claims_waiting"));
        let positions = [status.durable_seq, status.projected_seq, status.settled_seq];
        let rests = pending == 0 && waiting == 0;
        if rests && positions.iter().all(|one| *one == status.applied_seq) {
            let contract = status.contract[..].try_into().unwrap();
            return Ok((contract, status.applied_seq));
        }
        assert!(
            started.elapsed() < REST_MAX,
            "it does not come to rest: {status:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The store's lists of owners and collections.
async fn compare_lists(channel: &Channel, model: &Model) -> Result<(), Lost> {
    let mut accounts: Vec<Bytes> = (0..TRADERS).map(trader).collect();
    accounts.push(account("chain address"));
    for owner in accounts {
        let owned = model.things.iter().filter(|(_, one)| one.owner == owner);
        let expected: Vec<u64> = owned.map(|(asset, _)| *asset).collect();
        let found = list(channel, owner.clone(), 0).await?;
        assert_eq!(found, expected, "assets of {owner:?}");
    }
    for collection in [FIRST_COME, DRAWN] {
        let of = model.things.iter();
        let of = of.filter(|(_, one)| one.collection == collection);
        let expected: Vec<u64> = of.map(|(asset, _)| *asset).collect();
        let found = list(channel, Bytes::new(), collection).await?;
        assert_eq!(found, expected, "assets of collection {collection}");
    }
    Ok(())
}

async fn list(channel: &Channel, owner: Bytes, collection: u32) -> Result<Vec<u64>, Lost> {
    let (mut found, mut after) = (Vec::new(), 0);
    loop {
        let request = v1::ListAssetsRequest {
            owner: owner.clone(),
            collection,
            after,
            limit: 1000,
        };
        let page = ledger(channel).list_assets(request).await?.into_inner();
        found.extend(page.assets.iter().map(|asset| asset.asset));
        after = page.next_after;
        if after == 0 {
            return Ok(found);
        }
    }
}

/// All batches, oldest first.
async fn all_batches(channel: &Channel) -> Result<Vec<v1::Batch>, Lost> {
    let (mut found, mut before) = (Vec::new(), 0);
    loop {
        let request = v1::ListBatchesRequest {
            before,
            limit: 1000,
        };
        let page = ledger(channel).list_batches(request).await?.into_inner();
        let Some(oldest) = page.batches.last() else {
            break;
        };
        before = oldest.number;
        found.extend(page.batches);
        if before == 1 {
            break;
        }
    }
    found.reverse();
    Ok(found)
}

async fn look_at_proofs(channel: &Channel, model: &Model, random: &mut Random) -> Result<(), Lost> {
    for _ in 0..PROOFS {
        let asset = random.between(1, model.things.len() as u64);
        let proof = ledger(channel)
            .get_proof(v1::GetProofRequest { asset })
            .await?
            .into_inner();
        let batch = proof.batch.unwrap();
        assert_eq!(proof.chain_root, batch.root, "batch {}", batch.number);
        let leaf = Leaf {
            asset,
            owner: proof.owner[..].try_into().unwrap(),
            version: proof.version,
            metadata: proof.metadata[..].try_into().unwrap(),
            collection: proof.collection,
            kind: LeafKind::from_number(proof.kind as u8).unwrap(),
        };
        let siblings: Vec<[u8; 32]> = proof
            .proof
            .iter()
            .map(|hash| hash[..].try_into().unwrap())
            .collect();
        let root = batch.root[..].try_into().unwrap();
        assert!(merkle::verify(&root, &leaf.hash(), &siblings));
        let thing = &model.things[&asset];
        assert_eq!(leaf.version, thing.version, "the latest form of {asset}");
        if leaf.kind != LeafKind::Burned {
            let nobody = Bytes::from_static(&[0; 20]);
            let owner = if thing.owner.is_empty() {
                &nobody
            } else {
                &thing.owner
            };
            assert_eq!(&proof.owner, owner, "the latest form of {asset}");
        }
    }
    Ok(())
}

async fn history(channel: &Channel, asset: u64) -> Result<Vec<v1::Event>, Lost> {
    let mut found: Vec<v1::Event> = Vec::new();
    loop {
        let last = found.last();
        let request = v1::GetHistoryRequest {
            asset,
            after_sequence: last.map_or(0, |event| event.sequence),
            after_index: last.map_or(0, |event| event.index),
            limit: 7,
        };
        let page = ledger(channel).get_history(request).await?.into_inner();
        found.extend(page.events);
        if !page.more {
            return Ok(found);
        }
    }
}

/// Counts, collects, and counts again.
async fn collect_orphans(channel: &Channel) -> Result<u64, Lost> {
    let mut counts = Vec::new();
    for dry_run in [true, false, true] {
        let request = v1::CollectContentRequest { dry_run };
        let found = operator(channel).collect_content(request).await?;
        counts.push(found.into_inner().orphans);
    }
    assert_eq!(counts[0], counts[1], "what was counted is collected");
    assert_eq!(counts[2], 0, "nothing is left");
    Ok(counts[0])
}

/// A watcher that begins at the beginning.
async fn watch_again(channel: &Channel, to_sequence: u64) -> Result<(u64, blake3::Hash), Lost> {
    let mut watched = Watched::default();
    let request = v1::WatchRequest::default();
    let mut messages = ledger(channel).watch(request).await?.into_inner();
    while watched.seen_sequence < to_sequence {
        watched.take(&messages.message().await?.ok_or(Lost)?);
    }
    assert_eq!(watched.seen_sequence, to_sequence, "nothing came meanwhile");
    Ok((watched.events, watched.hash.finalize()))
}

/// Compares the folder with what clients were told and what the engine said. Gives the replay's digest.
pub async fn compare_folder(clients: &Clients, home: &Home, online: &Online) {
    let folder = DataFolder::open(&home.data).unwrap();
    let log = replay(&folder.journal());
    compare_outcomes(clients, &log);
    assert_eq!(
        (log.events, log.hash.finalize()),
        (online.events, online.hash),
        "the log's events are not what Watch showed up to {}",
        online.seen_sequence
    );
    assert_eq!(log.histories, online.histories, "histories");
    compare_batches(&log, &online.batches);
    compare_chain(&log, &folder, online.contract).await;
    compare_content(&log, &folder);
    verify_with_the_binary(home, &log);
}

fn compare_outcomes(clients: &Clients, log: &Replay) {
    let book = clients.book.lock();
    for (id, sent) in &book.sent {
        let told = sent.told.unwrap();
        let Some((first, times)) = log.first.get(id) else {
            panic!("{} is lost: {told:?}", hex::encode(id));
        };
        assert_eq!(told, *first, "told otherwise than logged");
        assert_eq!(*times, 1, "{} was applied {times} times", hex::encode(id));
    }
}

fn compare_batches(log: &Replay, rows: &[v1::Batch]) {
    assert_eq!(rows.len(), log.batches.len(), "number of batches");
    for (row, settled) in rows.iter().zip(&log.batches) {
        let batch = &settled.batch;
        assert_eq!(row.number, batch.number);
        assert_eq!(settled.stage, BatchStage::Final, "batch {}", row.number);
        assert_eq!(row.stage(), BatchStage::Final, "batch {}", row.number);
        assert_eq!(row.root[..], batch.root, "batch {}", row.number);
        assert_eq!(
            (row.first_sequence, row.last_sequence, row.leaves as usize),
            (
                batch.first_sequence,
                batch.last_sequence,
                settled.leaves.len()
            )
        );
        let cid = karat_content::cid_of(&batch.payload_digest);
        assert_eq!(row.payload_cid, cid, "batch {}", row.number);
    }
}

/// The contract has each batch as the log has it, and no other.
async fn compare_chain(log: &Replay, folder: &DataFolder, contract: [u8; 20]) {
    let chain = EmbeddedChain::open(&folder.chain(), EmbeddedChainConfig::default()).unwrap();
    let transport: Arc<dyn RpcTransport> = Arc::new(chain);
    let client = ChainClient::connect(transport, contract).await.unwrap();
    assert_eq!(
        client.head().await.unwrap().number,
        log.batches.len() as u64,
        "batches on the chain"
    );
    let mut transactions = HashSet::new();
    for settled in &log.batches {
        let number = settled.batch.number;
        let found = client.committed_batch(number).await.unwrap().unwrap();
        assert_eq!(found.batch, settled.batch, "batch {number} on the chain");
        assert!(transactions.insert(found.transaction));
    }
}

fn compare_content(log: &Replay, folder: &DataFolder) {
    use sha2::Digest as _;
    let (content, report) = PackStore::open(folder.content(), PackConfig::default()).unwrap();
    assert!(report.damaged.is_empty(), "{report:?}");
    for digest in &log.named {
        let bytes = content.get(digest).unwrap();
        let bytes = bytes.unwrap_or_else(|| panic!("{} is gone", karat_content::cid_of(digest)));
        assert_eq!(sha2::Sha256::digest(&bytes)[..], *digest);
    }
    let stored: BTreeSet<[u8; 32]> = content.digests().unwrap().into_iter().collect();
    assert_eq!(stored, log.named, "orphans were collected, nothing else");
}

fn verify_with_the_binary(home: &Home, log: &Replay) {
    let data = home.data.to_str().unwrap();
    let output = home.karat(&["log", "verify", data, "--json"]);
    assert!(output.status.success(), "{output:?}");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["recorded_different"], 0, "{found}");
    assert!(found["recorded_equal"].as_u64() > Some(0), "{found}");
    assert_eq!(found["last_sequence"], log.ledger.applied_seq(), "{found}");
    let digest = found["digest"].as_str().unwrap();
    let expected = hex::encode(log.ledger.digest());
    assert_eq!(digest.trim_start_matches("0x"), expected);
}
