//! The settlement contract's rules, on the embedded chain.
#![allow(clippy::unwrap_used)]

mod common;

use karat_settlement::chain::client::ChainError;
use karat_settlement::{BatchToCommit, ChainClient, Leaf, LeafKind, MerkleTree};

use common::*;

fn reason<T: std::fmt::Debug>(result: Result<T, ChainError>) -> String {
    match result {
        Err(ChainError::Reverted { reason, .. }) => reason,
        other => panic!("expected a refusal by the contract, got {other:?}"),
    }
}

/// A chain whose first batch holds twenty leaves, every third of them redeemed.
async fn with_first_batch(
    folder: &std::path::Path,
) -> (ChainClient, Vec<Leaf>, MerkleTree, BatchToCommit) {
    let (_, client) = chain_with_contract(folder).await;
    let leaves: Vec<Leaf> = (1..=20)
        .map(|asset| match asset % 3 {
            0 => leaf(asset, LeafKind::Redeemed),
            1 => leaf(asset, LeafKind::Held),
            _ => leaf(asset, LeafKind::Burned),
        })
        .collect();
    let tree = MerkleTree::new(&leaves).unwrap();
    let batch = first_batch(&tree);
    commit(&client, &settler(), &batch).await.unwrap();
    (client, leaves, tree, batch)
}

#[tokio::test]
async fn a_committed_batch_is_read_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (client, _, tree, batch) = with_first_batch(folder.path()).await;
    let head = client.head().await.unwrap();
    assert_eq!(head.number, 1);
    assert_eq!(head.commitment, batch.commitment());
    assert_eq!(head.last_sequence, batch.last_sequence);
    assert_eq!(client.root_of(1).await.unwrap(), Some(tree.root()));
    assert_eq!(client.root_of(2).await.unwrap(), None);
    let committed = client.committed_batch(1).await.unwrap().unwrap();
    assert_eq!(committed.batch, batch);
    let receipt = client
        .receipt(&committed.transaction)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(receipt.block, committed.block);
    assert_eq!(client.committed_batch(2).await.unwrap(), None);
}

#[tokio::test]
async fn batches_that_do_not_follow_on_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (client, _, _, first) = with_first_batch(folder.path()).await;
    let second = batch_after(Some(&first));
    let refused = async |batch: BatchToCommit| reason(commit(&client, &settler(), &batch).await);

    assert!(refused(first).await.starts_with("WrongNumber"));
    assert!(
        refused(BatchToCommit {
            number: 3,
            ..second
        })
        .await
        .starts_with("WrongNumber")
    );
    assert!(
        refused(BatchToCommit {
            parent: [1; 32],
            ..second
        })
        .await
        .starts_with("WrongParent")
    );
    assert!(
        refused(BatchToCommit {
            root: [0; 32],
            ..second
        })
        .await
        .starts_with("EmptyRoot")
    );
    let backwards = BatchToCommit {
        last_sequence: first.last_sequence - 1,
        first_sequence: 1,
        ..second
    };
    assert!(refused(backwards).await.starts_with("WrongRange"));
    let inverted = BatchToCommit {
        first_sequence: second.last_sequence + 1,
        ..second
    };
    assert!(refused(inverted).await.starts_with("WrongRange"));
    assert_eq!(client.head().await.unwrap().number, 1);
    commit(&client, &settler(), &second).await.unwrap();
    assert_eq!(client.head().await.unwrap().commitment, second.commitment());
}

#[tokio::test]
async fn only_the_settler_commits() {
    let folder = tempfile::tempdir().unwrap();
    let (_, client) = chain_with_contract(folder.path()).await;
    for signer in [admin(), stranger()] {
        let refusal = reason(commit(&client, &signer, &batch_after(None)).await);
        assert!(
            refusal.starts_with("AccessControlUnauthorizedAccount"),
            "{refusal}"
        );
    }
    assert_eq!(client.head().await.unwrap().number, 0);
}

#[tokio::test]
async fn the_chain_verifies_what_is_in_a_batch_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (client, leaves, tree, _) = with_first_batch(folder.path()).await;
    for (index, leaf) in leaves.iter().enumerate() {
        let proof = tree.proof(index).unwrap();
        assert!(client.verify(1, leaf, &proof).await.unwrap());
        assert!(
            !client.verify(2, leaf, &proof).await.unwrap(),
            "a batch that does not exist"
        );
        let changed = Leaf {
            owner: [9; 20],
            ..*leaf
        };
        assert!(!client.verify(1, &changed, &proof).await.unwrap());
        let mut tampered = proof.clone();
        tampered[0][31] ^= 1;
        assert!(!client.verify(1, leaf, &tampered).await.unwrap());
    }
}

#[tokio::test]
async fn a_redeemed_asset_becomes_its_owners_token_once() {
    let folder = tempfile::tempdir().unwrap();
    let (client, leaves, tree, _) = with_first_batch(folder.path()).await;
    let (index, leaf) = (2, leaves[2]);
    assert_eq!(leaf.kind, LeafKind::Redeemed);
    let proof = tree.proof(index).unwrap();
    assert_eq!(client.token_owner(leaf.asset).await.unwrap(), None);
    // Anybody may pay for it; the token goes to the leaf's owner.
    client
        .redeem(&stranger(), 1, &leaf, &proof, WAIT_MS)
        .await
        .unwrap();
    assert_eq!(
        client.token_owner(leaf.asset).await.unwrap(),
        Some(leaf.owner)
    );
    assert_eq!(
        client.token_uri(leaf.asset).await.unwrap(),
        "http://127.0.0.1:7000/metadata/3"
    );
    let again = client.redeem(&stranger(), 1, &leaf, &proof, WAIT_MS).await;
    assert!(reason(again).starts_with("AlreadyRedeemed"));
}

#[tokio::test]
async fn nothing_else_can_be_redeemed() {
    let folder = tempfile::tempdir().unwrap();
    let (client, leaves, tree, _) = with_first_batch(folder.path()).await;
    let redeem = async |number: u64, leaf: Leaf, proof: Vec<[u8; 32]>| {
        reason(
            client
                .redeem(&stranger(), number, &leaf, &proof, WAIT_MS)
                .await,
        )
    };
    let (held, burned, redeemed) = (0, 1, 2);
    let proof = |index: usize| tree.proof(index).unwrap();
    assert!(
        redeem(1, leaves[held], proof(held))
            .await
            .starts_with("NotRedeemable")
    );
    assert!(
        redeem(1, leaves[burned], proof(burned))
            .await
            .starts_with("NotRedeemable")
    );
    // Calling a held leaf redeemed gives another leaf, which is not under the root.
    let lying = Leaf {
        kind: LeafKind::Redeemed,
        ..leaves[held]
    };
    assert!(
        redeem(1, lying, proof(held))
            .await
            .starts_with("InvalidProof")
    );
    let stolen = Leaf {
        owner: stranger().address(),
        ..leaves[redeemed]
    };
    assert!(
        redeem(1, stolen, proof(redeemed))
            .await
            .starts_with("InvalidProof")
    );
    let mut tampered = proof(redeemed);
    tampered[1][0] ^= 0x80;
    assert!(
        redeem(1, leaves[redeemed], tampered)
            .await
            .starts_with("InvalidProof")
    );
    assert!(
        redeem(1, leaves[redeemed], Vec::new())
            .await
            .starts_with("InvalidProof")
    );
    assert!(
        redeem(2, leaves[redeemed], proof(redeemed))
            .await
            .starts_with("UnknownBatch")
    );
}

#[tokio::test]
async fn royalties_follow_the_admin() {
    let folder = tempfile::tempdir().unwrap();
    let (client, ..) = with_first_batch(folder.path()).await;
    let royalty = client.royalty(3, 10_000).await.unwrap();
    assert_eq!((royalty.receiver, royalty.amount), (admin().address(), 250));
    let receiver = [8; 20];
    let refused = client
        .set_default_royalty(&stranger(), receiver, 1_000, WAIT_MS)
        .await;
    assert!(reason(refused).starts_with("AccessControlUnauthorizedAccount"));
    client
        .set_default_royalty(&admin(), receiver, 1_000, WAIT_MS)
        .await
        .unwrap();
    let royalty = client.royalty(3, 10_000).await.unwrap();
    assert_eq!((royalty.receiver, royalty.amount), (receiver, 1_000));
}

#[tokio::test]
async fn a_pause_stops_commits_and_redemptions_until_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (client, leaves, tree, first) = with_first_batch(folder.path()).await;
    let second = batch_after(Some(&first));
    let refused = client.set_paused(&settler(), true, WAIT_MS).await;
    assert!(reason(refused).starts_with("AccessControlUnauthorizedAccount"));
    client.set_paused(&admin(), true, WAIT_MS).await.unwrap();
    assert!(reason(commit(&client, &settler(), &second).await).starts_with("EnforcedPause"));
    let proof = tree.proof(2).unwrap();
    let redeemed = client
        .redeem(&stranger(), 1, &leaves[2], &proof, WAIT_MS)
        .await;
    assert!(reason(redeemed).starts_with("EnforcedPause"));
    assert!(
        client.verify(1, &leaves[2], &proof).await.unwrap(),
        "reading goes on"
    );
    client.set_paused(&admin(), false, WAIT_MS).await.unwrap();
    commit(&client, &settler(), &second).await.unwrap();
    client
        .redeem(&stranger(), 1, &leaves[2], &proof, WAIT_MS)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_base_uri_moves_for_all_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let (client, leaves, tree, _) = with_first_batch(folder.path()).await;
    let proof = tree.proof(2).unwrap();
    client
        .redeem(&stranger(), 1, &leaves[2], &proof, WAIT_MS)
        .await
        .unwrap();
    let refused = client.set_base_uri(&stranger(), "ipfs://x/", WAIT_MS).await;
    assert!(reason(refused).starts_with("AccessControlUnauthorizedAccount"));
    client
        .set_base_uri(&admin(), "ipfs://x/", WAIT_MS)
        .await
        .unwrap();
    assert_eq!(client.token_uri(3).await.unwrap(), "ipfs://x/3");
}

#[tokio::test]
async fn a_commit_costs_the_same_small_gas_for_any_batch_size() {
    let folder = tempfile::tempdir().unwrap();
    let (_, client) = chain_with_contract(folder.path()).await;
    let mut before: Option<BatchToCommit> = None;
    for size in [1usize, 2, 100, 10_000, 65_536, 65_536] {
        let leaves: Vec<Leaf> = (1..=size as u64)
            .map(|asset| leaf(asset, LeafKind::Held))
            .collect();
        let tree = MerkleTree::with_threads(&leaves, 2).unwrap();
        let batch = BatchToCommit {
            root: tree.root(),
            ..batch_after(before.as_ref())
        };
        let receipt = commit(&client, &settler(), &batch).await.unwrap();
        println!("commit of {size} leaves: {} gas", receipt.gas_used);
        assert!(receipt.gas_used <= 125_000, "the first fills new slots");
        if before.is_some() {
            assert!(receipt.gas_used <= 100_000);
        }
        let proof = tree.proof(size - 1).unwrap();
        assert!(
            client
                .verify(batch.number, &leaves[size - 1], &proof)
                .await
                .unwrap()
        );
        before = Some(batch);
    }
}
