//! What the tests of this crate share: accounts, leaves, a chain with the contract on it.
#![allow(dead_code)]

pub mod http;

use std::path::Path;
use std::sync::Arc;

use karat_settlement::chain::client::Deployment;
use karat_settlement::chain::signer::Signer;
use karat_settlement::{
    BatchToCommit, ChainClient, EmbeddedChain, EmbeddedChainConfig, Leaf, LeafKind, MerkleTree,
    RpcTransport,
};
use sha2::{Digest, Sha256};

pub const ETHER: u128 = 1_000_000_000_000_000_000;
pub const WAIT_MS: u64 = 120_000;
pub const CHAIN_ID: u64 = 31_337;

pub fn admin() -> Signer {
    Signer::from_bytes(&[1; 32]).unwrap()
}

pub fn settler() -> Signer {
    Signer::from_bytes(&[2; 32]).unwrap()
}

pub fn stranger() -> Signer {
    Signer::from_bytes(&[3; 32]).unwrap()
}

pub fn chain_config() -> EmbeddedChainConfig {
    EmbeddedChainConfig {
        chain_id: CHAIN_ID,
        funded: [admin(), settler(), stranger()]
            .map(|signer| (signer.address(), 1_000 * ETHER))
            .to_vec(),
        ..EmbeddedChainConfig::default()
    }
}

pub fn deployment() -> Deployment {
    Deployment {
        name: "Karat Assets".to_owned(),
        symbol: "KARAT".to_owned(),
        base_uri: "http://127.0.0.1:7000/metadata/".to_owned(),
        admin: admin().address(),
        settler: settler().address(),
        royalty_receiver: admin().address(),
        royalty_basis_points: 250,
    }
}

pub async fn contract_on(transport: Arc<dyn RpcTransport>) -> ChainClient {
    ChainClient::deploy_once(transport, &admin(), &deployment(), WAIT_MS)
        .await
        .unwrap()
}

pub async fn chain_with_contract(folder: &Path) -> (EmbeddedChain, ChainClient) {
    let chain = EmbeddedChain::open(folder, chain_config()).unwrap();
    let client = contract_on(Arc::new(chain.clone())).await;
    (chain, client)
}

/// A batch that follows on from `before`; its content is a function of its number.
pub fn batch_after(before: Option<&BatchToCommit>) -> BatchToCommit {
    let number = before.map_or(1, |before| before.number + 1);
    let first_sequence = before.map_or(1, |before| before.last_sequence + 1);
    BatchToCommit {
        number,
        parent: before.map_or([0; 32], BatchToCommit::commitment),
        root: digest(&format!("root {number}")),
        payload_digest: digest(&format!("payload {number}")),
        log_head: digest(&format!("log head {number}")),
        first_sequence,
        last_sequence: first_sequence + 999,
    }
}

pub fn batches(count: usize) -> Vec<BatchToCommit> {
    let mut batches: Vec<BatchToCommit> = Vec::with_capacity(count);
    for _ in 0..count {
        batches.push(batch_after(batches.last()));
    }
    batches
}

/// The first batch, over these leaves.
pub fn first_batch(tree: &MerkleTree) -> BatchToCommit {
    BatchToCommit {
        root: tree.root(),
        ..batch_after(None)
    }
}

pub fn leaf(asset: u64, kind: LeafKind) -> Leaf {
    let seed = Sha256::digest(format!("leaf {asset}"));
    Leaf {
        asset,
        owner: seed[..20].try_into().unwrap(),
        version: 1 + asset as u32 % 7,
        metadata: Sha256::digest(seed).into(),
        collection: 1 + asset as u32 % 3,
        kind,
    }
}

/// Commits by hand, without a submitter; the answer says whether it succeeded and what it cost.
pub async fn commit(
    client: &ChainClient,
    signer: &Signer,
    batch: &BatchToCommit,
) -> Result<karat_settlement::chain::client::Receipt, karat_settlement::chain::client::ChainError> {
    let call = ChainClient::commit_call(batch);
    client.simulate("commit", signer.address(), &call).await?;
    let nonce = client.nonce(signer.address()).await?;
    let fees = client.fees().await?;
    let signed = client.sign_call(signer, nonce, 200_000, fees, call)?;
    client.send_raw(&signed.raw).await?;
    client
        .wait_for_receipt("commit", &signed.hash, WAIT_MS)
        .await
}

pub fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}
