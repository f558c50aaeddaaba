//! Restarts, snapshots, rebuilding, reissuing, orphans.

use super::*;

/// A realm with assets in every state, currency and batches; returns its collection.
async fn lively(realm: &mut Realm) -> u32 {
    let collection = realm.prepare(trading_spec()).await;
    realm.deposit("ann", 1000).await;
    for number in 0..12 {
        realm.mint(collection, "ann", number).await;
    }
    for asset in 1..=8 {
        realm.accept(asset).await;
    }
    for asset in 1..=4 {
        let to = account("bob");
        realm
            .accepted(
                "ann",
                Kind::Transfer(v1::Transfer {
                    asset,
                    version: 1,
                    to,
                }),
            )
            .await;
    }
    realm
        .accepted(
            "bob",
            Kind::Burn(v1::Burn {
                asset: 1,
                version: 1,
            }),
        )
        .await;
    let revise = v1::Revise {
        asset: 2,
        version: 1,
        collection,
        traits: Bytes::from_static(&[1]),
        lineage: Some(lineage()),
        content: png(40),
        ..Default::default()
    };
    realm.accepted("bob", Kind::Revise(revise)).await;
    realm
        .accepted(
            "operator",
            Kind::Freeze(v1::Freeze {
                asset: 3,
                reason: "look".into(),
            }),
        )
        .await;
    realm
        .accepted(
            "bob",
            Kind::Redeem(v1::Redeem {
                asset: 4,
                version: 1,
                to: account("wallet"),
            }),
        )
        .await;
    let decision = v1::ReviewDecision {
        asset: 12,
        version: 1,
        accepted: false,
        reason: "ugly".into(),
    };
    realm.until_state(12, AssetState::InReview).await;
    realm
        .accepted("operator", Kind::ReviewDecision(decision))
        .await;
    realm.until_settled(4).await;
    for asset in [2, 9, 10, 11] {
        realm.until_state(asset, AssetState::InReview).await;
    }
    collection
}

/// Every answer about a realm that is at rest.
async fn answers(realm: &mut Realm, collection: u32) -> String {
    realm.until_projected().await;
    let mut text = String::new();
    for asset in 1..=12 {
        text += &format!("{:?}\n", realm.asset(asset).await);
        let request = v1::GetHistoryRequest {
            asset,
            limit: 1000,
            ..Default::default()
        };
        let events = realm
            .ledger
            .get_history(request)
            .await
            .unwrap()
            .into_inner()
            .events;
        text += &format!("{events:?}\n");
        match realm.ledger.get_proof(v1::GetProofRequest { asset }).await {
            Ok(proof) => text += &format!("{:?}\n", proof.into_inner()),
            Err(status) => text += &format!("{:?}\n", status.code()),
        }
    }
    for request in [
        v1::ListAssetsRequest {
            collection,
            limit: 5,
            ..Default::default()
        },
        v1::ListAssetsRequest {
            collection,
            after: 5,
            ..Default::default()
        },
        v1::ListAssetsRequest {
            owner: account("ann"),
            ..Default::default()
        },
        v1::ListAssetsRequest {
            owner: account("bob"),
            ..Default::default()
        },
    ] {
        let page = realm
            .ledger
            .list_assets(request)
            .await
            .unwrap()
            .into_inner();
        let ids: Vec<u64> = page.assets.iter().map(|asset| asset.asset).collect();
        text += &format!("{ids:?} {}\n", page.next_after);
    }
    let request = v1::ListBatchesRequest {
        limit: 1000,
        ..Default::default()
    };
    text += &format!(
        "{:?}\n",
        realm
            .ledger
            .list_batches(request)
            .await
            .unwrap()
            .into_inner()
            .batches
    );
    for name in ["ann", "bob"] {
        text += &format!("{}\n", realm.balance(name).await);
    }
    text += &format!(
        "{:?}\n",
        realm
            .ledger
            .get_collection(v1::GetCollectionRequest { collection })
            .await
            .unwrap()
            .into_inner()
    );
    text
}

/// As `karat log verify`: the whole log from nothing, with the recorded digests.
fn verify(data: &Path) -> Ledger {
    let folder = DataFolder::open(data).unwrap();
    let recorded = digests::read(&folder.digests()).unwrap();
    assert!(!recorded.is_empty());
    let mut machine = LedgerMachine::checking(Ledger::new(), recorded);
    karat_sequencer::replay(read_blocks(&folder.journal(), 1).unwrap(), 1, &mut machine).unwrap();
    assert!(machine.checked().equal > 0);
    assert_eq!(machine.checked().first_difference, None);
    let ledger = machine.into_ledger();
    karat_ledger::invariants::check_all(&ledger).unwrap();
    ledger
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_changes_no_answer_and_the_log_replays_to_the_recorded_digests() {
    let mut realm = Realm::start().await;
    let collection = lively(&mut realm).await;
    let before = answers(&mut realm, collection).await;
    let stopped = realm.stop().await;
    let replayed = verify(stopped.data());
    let last = digests::read(&DataFolder::open(stopped.data()).unwrap().digests())
        .unwrap()
        .pop()
        .unwrap();
    assert_eq!(
        (last.sequence, last.digest),
        (replayed.applied_seq(), replayed.digest())
    );
    // From the snapshot, then without one.
    let mut realm = stopped.start().await;
    assert!(realm.service.opened.snapshot_sequence > 0);
    assert_eq!(answers(&mut realm, collection).await, before);
    let stopped = realm.close().await;
    std::fs::remove_dir_all(stopped.data().join("snapshots")).unwrap();
    let mut realm = stopped.start().await;
    assert_eq!(realm.service.opened.snapshot_sequence, 0);
    assert_eq!(answers(&mut realm, collection).await, before);
    // Numbers and batches go on where they were.
    let batches = realm.asset(4).await.batch;
    assert_eq!(realm.mint(collection, "ann", 50).await, 13);
    realm.accept(13).await;
    let settled = realm.until_settled(13).await;
    assert!(settled.batch > batches);
    let stopped = realm.stop().await;
    verify(stopped.data());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_and_the_log_behind_it_give_the_state_of_the_whole_log() {
    let mut realm = Realm::start().await;
    let collection = lively(&mut realm).await;
    let mut realm = realm.stop().await.start().await;
    for number in 20..30 {
        realm.mint(collection, "cyd", number).await;
    }
    realm.accept(15).await;
    realm.until_settled(15).await;
    let stopped = realm.close().await;
    let folder = DataFolder::open(stopped.data()).unwrap();
    let (snapshot, passed_over) = snapshots::newest(&folder.snapshots(), u64::MAX).unwrap();
    assert!(passed_over.is_empty());
    let snapshot = snapshot.unwrap();
    let from_sequence = snapshot.applied_seq() + 1;
    let mut machine = LedgerMachine::bare(snapshot);
    let blocks = read_blocks(&folder.journal(), from_sequence).unwrap();
    let summary = karat_sequencer::replay(blocks, from_sequence, &mut machine).unwrap();
    assert!(summary.commands > 10);
    let tail = machine.into_ledger();
    let whole = verify(stopped.data());
    assert_eq!(tail.applied_seq(), whole.applied_seq());
    assert_eq!(
        (tail.digest(), tail.state_digest()),
        (whole.digest(), whole.state_digest())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_rebuilt_from_the_log_answers_the_same() {
    let mut realm = Realm::start().await;
    let collection = lively(&mut realm).await;
    let before = answers(&mut realm, collection).await;
    let stopped = realm.stop().await;
    for projection in ["store", "events", "snapshots"] {
        std::fs::remove_dir_all(stopped.data().join(projection)).unwrap();
    }
    let mut realm = stopped.start().await;
    assert_eq!(answers(&mut realm, collection).await, before);
    // The store alone, with events that are there.
    let stopped = realm.stop().await;
    std::fs::remove_dir_all(stopped.data().join("store")).unwrap();
    let mut realm = stopped.start().await;
    assert_eq!(answers(&mut realm, collection).await, before);
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_for_a_verdict_when_the_engine_stopped_gets_it_after_the_start() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(spec()).await;
    for number in 0..30 {
        realm.mint(collection, "ann", number).await;
    }
    let mut realm = realm.close().await.start().await;
    for asset in 1..=30 {
        realm.until_state(asset, AssetState::InReview).await;
    }
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_no_command_names_is_found_and_collected_and_no_other() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(spec()).await;
    for number in 0..5 {
        let asset = realm.mint(collection, "ann", number).await;
        realm.accept(asset).await;
    }
    realm.until_settled(5).await;
    // As a crash between the two steps leaves it, and as a refusal by the ledger does.
    karat_content::ContentStore::put(&*realm.service.gateway.core.content, b"left behind").unwrap();
    realm
        .refused(
            "stranger",
            Kind::Mint(mint(collection, "ann", 60)),
            Code::NotCreator,
        )
        .await;
    let bytes = (b"left behind".len() + png(60).len()) as u64;
    let collect = |dry_run| v1::CollectContentRequest { dry_run };
    let found = realm
        .operator
        .collect_content(collect(true))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (found.orphans, found.bytes, found.collected),
        (2, bytes, false)
    );
    let found = realm
        .operator
        .collect_content(collect(false))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (found.orphans, found.bytes, found.collected),
        (2, bytes, true)
    );
    let found = realm
        .operator
        .collect_content(collect(true))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(found.orphans, 0);
    for asset in 1..=5u64 {
        let found = realm
            .ledger
            .get_content(v1::GetContentRequest { asset })
            .await
            .unwrap()
            .into_inner();
        assert_eq!(found.content, png(asset as u32 - 1));
        // The payloads of batches are still there.
        realm
            .ledger
            .get_proof(v1::GetProofRequest { asset })
            .await
            .unwrap();
    }
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_shown_before_a_verdict_only_where_the_collection_says_so() {
    let mut realm = Realm::start().await;
    realm.approve_model(MODEL).await;
    let hidden = realm
        .create_collection(v1::CollectionSpec {
            pending_rule: None,
            ..spec()
        })
        .await;
    let asset = realm.mint(hidden, "ann", 1).await;
    let get = v1::GetContentRequest { asset };
    if realm.asset(asset).await.state() == AssetState::Pending
        && let Err(status) = realm.ledger.get_content(get).await
    {
        assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status}");
    }
    let reject = v1::ReviewDecision {
        asset,
        version: 1,
        accepted: false,
        reason: "no".into(),
    };
    realm.until_state(asset, AssetState::InReview).await;
    realm
        .accepted("operator", Kind::ReviewDecision(reject))
        .await;
    let status = realm.ledger.get_content(get).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status}");
    realm.stop().await;
}
