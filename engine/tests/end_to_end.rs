//! The whole way over gRPC: mint, verdict, claim, exchange, redeem, settlement and proof; acks, watchers, the review desk,
//! the operator's means; restarts, snapshots, rebuilding and orphans.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use common::{
    MODEL, Realm, account, assert_refused, command, eventually, lineage, mint, png, spec,
    trading_spec,
};
use karat_engine::data_folder::DataFolder;
use karat_engine::machine::LedgerMachine;
use karat_engine::{digests, snapshots};
use karat_ledger::Ledger;
use karat_proto::v1::command::Kind;
use karat_proto::v1::event::Kind as Happened;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::v1::{AckLevel, AssetState, BatchStage, SettlementState};
use karat_proto::{Code, v1};
use karat_sequencer::read_blocks;
use karat_settlement::{Leaf, LeafKind, merkle};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

// The way of an asset.

#[tokio::test(flavor = "multi_thread")]
async fn an_asset_goes_from_mint_over_claim_and_exchange_to_the_chain() {
    let mut realm = Realm::start().await;
    let collection = realm
        .prepare(v1::CollectionSpec {
            claim_window_ms: 50,
            ..spec()
        })
        .await;
    for name in ["bob", "cyd", "dan"] {
        realm.deposit(name, 100).await;
    }
    let minting = command("studio", Kind::Mint(mint(collection, "", 1)));
    let (level, minted) = realm
        .try_execute(minting, AckLevel::Sequenced)
        .await
        .unwrap();
    assert_eq!((level, minted.code), (AckLevel::Sequenced, 0));
    let asset = minted.subject;
    // Before its verdict it cannot be claimed.
    realm
        .refused(
            "bob",
            Kind::Claim(v1::Claim { asset, version: 1 }),
            Code::NotActive,
        )
        .await;
    realm.accept(asset).await;
    for name in ["bob", "cyd"] {
        realm
            .accepted(name, Kind::Claim(v1::Claim { asset, version: 1 }))
            .await;
    }
    let ledger = realm.ledger.clone();
    let owner = eventually("the draw", || {
        let mut ledger = ledger.clone();
        async move {
            let found = ledger
                .get_asset(v1::GetAssetRequest { asset })
                .await
                .unwrap()
                .into_inner()
                .asset;
            Some(found.unwrap().owner).filter(|owner| !owner.is_empty())
        }
    })
    .await;
    let winner = if owner == account("bob") {
        "bob"
    } else {
        "cyd"
    };
    assert_eq!(owner, account(winner));
    let late = realm
        .enter("dan", Kind::Claim(v1::Claim { asset, version: 1 }))
        .await;
    assert_refused(&late, Code::AlreadyOwned);
    assert_eq!(late.winner_id.len(), 16, "the claim that won is named");
    let legs = vec![
        v1::Leg {
            from: account(winner),
            to: account("dan"),
            asset,
            version: 1,
            amount: 0,
        },
        v1::Leg {
            from: account("dan"),
            to: account(winner),
            amount: 30,
            ..Default::default()
        },
    ];
    let sale = v1::Exchange {
        legs,
        consents: vec![account("dan")],
    };
    realm.accepted(winner, Kind::Exchange(sale)).await;
    assert_eq!(
        (realm.balance("dan").await, realm.balance(winner).await),
        (70, 130)
    );
    // Answered when it is final on the chain, not before.
    let redeeming = Kind::Redeem(v1::Redeem {
        asset,
        version: 1,
        to: account("dan-on-chain"),
    });
    let (level, redeemed) = realm
        .try_execute(command("dan", redeeming), AckLevel::Settled)
        .await
        .unwrap();
    assert_eq!(
        (level, redeemed.code),
        (AckLevel::Settled, 0),
        "{}",
        redeemed.message
    );
    let found = realm.asset(asset).await;
    assert_eq!(
        (found.state(), found.settlement()),
        (AssetState::Redeemed, SettlementState::Settled)
    );
    assert_eq!(found.owner, account("dan-on-chain"));
    let batch = realm
        .ledger
        .get_batch(v1::GetBatchRequest {
            number: found.batch,
        })
        .await
        .unwrap();
    let batch = batch.into_inner().batch.unwrap();
    assert_eq!(batch.stage(), BatchStage::Final);
    assert!(batch.first_sequence <= redeemed.sequence && redeemed.sequence <= batch.last_sequence);
    assert!(
        batch.gas_used > 0 && batch.gas_used <= 100_000,
        "gas {}",
        batch.gas_used
    );
    // The history is whole and in order, and the watcher of this asset sees the same.
    realm.until_projected().await;
    let request = v1::GetHistoryRequest {
        asset,
        ..Default::default()
    };
    let history = realm
        .ledger
        .get_history(request)
        .await
        .unwrap()
        .into_inner();
    assert!(!history.more);
    let kinds: Vec<&str> = history
        .events
        .iter()
        .map(kind_name)
        .filter(|kind| *kind != "due")
        .collect();
    let expected = [
        "minted",
        "verified",
        "reviewed",
        "claim entered",
        "claim entered",
        "transferred",
        "claim lost",
        "transferred",
        "redeemed",
    ];
    assert_eq!(kinds, expected);
    let watched = watch_until(
        &mut realm,
        v1::WatchRequest {
            asset,
            ..Default::default()
        },
    )
    .await;
    assert_eq!(watched, history.events);
    realm.stop().await;
}

fn kind_name(event: &v1::Event) -> &'static str {
    match event.kind.as_ref().unwrap() {
        Happened::Minted(_) => "minted",
        Happened::Verified(_) => "verified",
        Happened::Reviewed(_) => "reviewed",
        Happened::ClaimEntered(_) => "claim entered",
        Happened::ClaimLost(_) => "claim lost",
        Happened::Transferred(_) => "transferred",
        Happened::Redeemed(_) => "redeemed",
        Happened::SettlementDue(_) => "due",
        _ => "other",
    }
}

/// Everything that a watcher sees up to what is applied now.
async fn watch_until(realm: &mut Realm, request: v1::WatchRequest) -> Vec<v1::Event> {
    let applied_seq = realm.service.gateway.core.view.applied_seq();
    let mut stream = realm.ledger.watch(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    loop {
        let seen = stream.message().await.unwrap().unwrap();
        events.extend(seen.events);
        if seen.seen_sequence >= applied_seq {
            return events
                .into_iter()
                .filter(|event| event.sequence <= applied_seq)
                .collect();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_holds_against_the_chains_root_and_a_tampered_one_does_not() {
    let mut realm = Realm::start().await;
    let collection = realm
        .prepare(v1::CollectionSpec {
            pending_rule: Some(v1::PendingRule {
                trade: true,
                settle: true,
                show: true,
            }),
            ..spec()
        })
        .await;
    for number in 0..20 {
        realm.mint(collection, "ann", number).await;
    }
    let burned = 7;
    realm.until_settled(burned).await;
    realm
        .accepted(
            "ann",
            Kind::Burn(v1::Burn {
                asset: burned,
                version: 1,
            }),
        )
        .await;
    for asset in [1, burned, 20] {
        realm.until_settled(asset).await;
        realm.until_projected().await;
        let found = realm
            .ledger
            .get_proof(v1::GetProofRequest { asset })
            .await
            .unwrap()
            .into_inner();
        let batch = found.batch.clone().unwrap();
        // From the chain itself, beside the gateway.
        let root = realm
            .service
            .gateway
            .settlement
            .client()
            .root_of(batch.number)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (&found.chain_root[..], &batch.root[..]),
            (&root[..], &root[..])
        );
        let leaf = Leaf {
            asset: found.asset,
            owner: owner_of(&found.owner),
            version: found.version,
            metadata: found.metadata[..].try_into().unwrap(),
            collection: found.collection,
            kind: LeafKind::from_number(found.kind as u8).unwrap(),
        };
        let expected = if asset == burned {
            LeafKind::Burned
        } else {
            LeafKind::Held
        };
        assert_eq!(leaf.kind as u8, expected as u8);
        assert_eq!(found.metadata, realm.asset(asset).await.metadata);
        let siblings: Vec<[u8; 32]> = found
            .proof
            .iter()
            .map(|hash| hash[..].try_into().unwrap())
            .collect();
        assert!(merkle::verify(&root, &leaf.hash(), &siblings));
        for tampered in [
            Leaf {
                owner: [1; 20],
                ..leaf
            },
            Leaf {
                version: leaf.version + 1,
                ..leaf
            },
            Leaf {
                asset: leaf.asset + 1,
                ..leaf
            },
            Leaf {
                collection: leaf.collection + 1,
                ..leaf
            },
            Leaf {
                metadata: [0; 32],
                ..leaf
            },
            Leaf {
                kind: LeafKind::Redeemed,
                ..leaf
            },
        ] {
            assert!(!merkle::verify(&root, &tampered.hash(), &siblings));
        }
        for at in 0..siblings.len() {
            let mut tampered = siblings.clone();
            tampered[at][0] ^= 1;
            assert!(!merkle::verify(&root, &leaf.hash(), &tampered));
        }
    }
    let unsettled = realm.mint(collection, "ann", 30).await;
    if let Err(status) = realm
        .ledger
        .get_proof(v1::GetProofRequest { asset: unsettled })
        .await
    {
        assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status}");
        assert!(status.message().contains("batch"), "{status}");
    }
    realm.stop().await;
}

fn owner_of(bytes: &[u8]) -> [u8; 20] {
    if bytes.is_empty() {
        [0; 20]
    } else {
        bytes.try_into().unwrap()
    }
}

// Ack levels.

#[tokio::test(flavor = "multi_thread")]
async fn a_verified_ack_comes_with_the_verdict_and_says_so_when_there_is_none_to_come() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(spec()).await;
    let waiting = |realm: &Realm, number, ack| {
        let mut ledger = realm.ledger.clone();
        let command = Some(command(
            "studio",
            Kind::Mint(mint(collection, "ann", number)),
        ));
        tokio::spawn(async move {
            let request = v1::ExecuteRequest {
                ack: i32::from(ack),
                command,
            };
            let answer = ledger.execute(request).await.unwrap().into_inner();
            (answer.ack(), answer.outcome.unwrap())
        })
    };
    let accepted = waiting(&realm, 1, AckLevel::Verified);
    realm.until_state(1, AssetState::InReview).await;
    let settled = waiting(&realm, 2, AckLevel::Settled);
    let rejected = {
        realm.until_state(2, AssetState::InReview).await;
        waiting(&realm, 3, AckLevel::Verified)
    };
    realm.until_state(3, AssetState::InReview).await;
    assert!(!accepted.is_finished() && !settled.is_finished() && !rejected.is_finished());
    realm.accept(1).await;
    realm.accept(2).await;
    let decision = v1::ReviewDecision {
        asset: 3,
        version: 1,
        accepted: false,
        reason: "ugly".into(),
    };
    realm
        .accepted("operator", Kind::ReviewDecision(decision))
        .await;
    assert_eq!(accepted.await.unwrap().0, AckLevel::Verified);
    let (level, outcome) = settled.await.unwrap();
    assert_eq!((level, outcome.subject), (AckLevel::Settled, 2));
    assert_eq!(realm.asset(2).await.settlement(), SettlementState::Settled);
    let (level, outcome) = rejected.await.unwrap();
    assert_eq!((level, outcome.code), (AckLevel::Durable, 0));
    assert!(outcome.message.contains("rejected"), "{}", outcome.message);
    // A retry of a settled mint is answered at once, at the level that it has.
    let refused = Kind::Transfer(v1::Transfer {
        asset: 2,
        version: 9,
        to: account("bob"),
    });
    let (level, outcome) = realm
        .try_execute(command("ann", refused), AckLevel::Settled)
        .await
        .unwrap();
    assert_eq!(
        (level, outcome.code),
        (AckLevel::Durable, Code::StaleVersion as u32)
    );
    realm.stop().await;
}

/// The subject of such a command is a collection's number, which an asset may have too.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_about_a_collection_does_not_wait_for_the_asset_of_the_same_number() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(spec()).await;
    for number in 0..3 {
        let asset = realm.mint(collection, "ann", number).await;
        realm.until_state(asset, AssetState::InReview).await;
    }
    for ack in [AckLevel::Verified, AckLevel::Settled] {
        let create = Kind::CreateCollection(v1::CreateCollection { spec: Some(spec()) });
        let asked = realm.try_execute(command("studio", create), ack);
        let (level, outcome) = tokio::time::timeout(Duration::from_secs(30), asked)
            .await
            .unwrap()
            .unwrap();
        assert_eq!((level, outcome.code), (AckLevel::Durable, 0));
    }
    // The same on a stream.
    let (sender, receiver) = mpsc::channel(1);
    let mut outcomes = realm
        .ledger
        .submit(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let deposit = Kind::Deposit(v1::Deposit {
        account: account("ann"),
        amount: 1,
    });
    let rename = Kind::RevealSeed(v1::RevealSeed {
        collection,
        secret: Bytes::from_static(&[1; 32]),
    });
    let create = Kind::CreateCollection(v1::CreateCollection { spec: Some(spec()) });
    let commands = vec![
        command("operator", deposit),
        command("studio", rename),
        command("studio", create),
    ];
    sender
        .send(v1::SubmitRequest {
            ack: AckLevel::Settled.into(),
            commands,
        })
        .await
        .unwrap();
    let mut found = 0;
    while found < 3 {
        let answer = tokio::time::timeout(Duration::from_secs(30), outcomes.message())
            .await
            .unwrap();
        found += answer.unwrap().unwrap().outcomes.len();
    }
    realm.stop().await;
}

// Watchers.

/// Deposits through one stream; returns the last sequence.
async fn deposits(realm: &mut Realm, count: usize) -> u64 {
    let (sender, receiver) = mpsc::channel(4);
    let mut outcomes = realm
        .ledger
        .submit(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let mut last = 0;
    for _ in 0..count / 1000 {
        let deposit = || {
            Kind::Deposit(v1::Deposit {
                account: account("ann"),
                amount: 1,
            })
        };
        let commands = (0..1000).map(|_| command("operator", deposit())).collect();
        sender
            .send(v1::SubmitRequest {
                ack: AckLevel::Durable.into(),
                commands,
            })
            .await
            .unwrap();
        let answer = outcomes.message().await.unwrap().unwrap();
        assert!(answer.outcomes.iter().all(|outcome| outcome.code == 0));
        last = answer
            .outcomes
            .iter()
            .map(|outcome| outcome.sequence)
            .max()
            .unwrap();
    }
    last
}

fn assert_dense(events: &[v1::Event]) {
    for pair in events.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        let follows = if before.sequence == after.sequence {
            after.index == before.index + 1
        } else {
            after.sequence > before.sequence && after.index == 0
        };
        assert!(
            follows,
            "{}.{} after {}.{}",
            after.sequence, after.index, before.sequence, before.index
        );
        assert!(before.time_ms <= after.time_ms);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_every_event_in_order_and_resumes_without_gap_or_double() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(trading_spec()).await;
    for number in 0..10 {
        realm.mint(collection, "ann", number).await;
    }
    let last = deposits(&mut realm, 5000).await;
    let whole = watch_until(
        &mut realm,
        v1::WatchRequest {
            from_sequence: 1,
            ..Default::default()
        },
    )
    .await;
    assert_dense(&whole);
    assert_eq!((whole[0].sequence, kind_name(&whole[0])), (1, "other"));
    let deposited = whole
        .iter()
        .filter(|event| matches!(event.kind, Some(Happened::Deposited(_))))
        .count();
    assert_eq!(deposited, 5000);
    // In pieces: each watcher is dropped after its first message, the next one goes on after what was seen.
    let mut pieces: Vec<v1::Event> = Vec::new();
    let mut from_sequence = 0;
    let mut streams = 0;
    while from_sequence <= last {
        let request = v1::WatchRequest {
            from_sequence,
            ..Default::default()
        };
        let mut stream = realm.ledger.watch(request).await.unwrap().into_inner();
        let seen = stream.message().await.unwrap().unwrap();
        pieces.extend(seen.events);
        assert!(seen.seen_sequence >= from_sequence);
        from_sequence = seen.seen_sequence + 1;
        streams += 1;
    }
    assert!(streams > 1);
    let common_length = whole.len().min(pieces.len());
    assert_eq!(pieces[..common_length], whole[..common_length]);
    assert_dense(&pieces);
    // After a restart the stream is the same.
    let mut realm = realm.stop().await.start().await;
    let again = watch_until(&mut realm, v1::WatchRequest::default()).await;
    assert_eq!(again[..whole.len()], whole[..]);
    assert_dense(&again);
    // Filters only leave out.
    let request = v1::WatchRequest {
        account: account("ann"),
        ..Default::default()
    };
    let of_ann = watch_until(&mut realm, request).await;
    assert!(of_ann.len() >= 5010 && of_ann.len() < again.len());
    let request = v1::WatchRequest {
        collection,
        ..Default::default()
    };
    let of_collection = watch_until(&mut realm, request).await;
    let minted = of_collection
        .iter()
        .filter(|event| kind_name(event) == "minted")
        .count();
    assert_eq!(minted, 10);
    assert!(
        !of_collection
            .iter()
            .any(|event| matches!(event.kind, Some(Happened::Deposited(_))))
    );
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_watcher_stops_nobody_and_misses_nothing() {
    let mut realm = Realm::start().await;
    let channel = Endpoint::from_shared(format!("http://{}", realm.service.address))
        .unwrap()
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535)
        .connect()
        .await
        .unwrap();
    let request = v1::WatchRequest {
        from_sequence: 1,
        ..Default::default()
    };
    let mut slow = LedgerClient::new(channel)
        .watch(request)
        .await
        .unwrap()
        .into_inner();
    assert!(slow.message().await.unwrap().is_some());
    // Far more than the windows and the waiting messages hold.
    let last = deposits(&mut realm, 100_000).await;
    let fast = watch_until(
        &mut realm,
        v1::WatchRequest {
            from_sequence: last - 10,
            ..Default::default()
        },
    )
    .await;
    assert!(fast.len() >= 11);
    let mut events = 0;
    let mut before = (0, 0);
    loop {
        let seen = slow.message().await.unwrap().unwrap();
        for event in &seen.events {
            assert!((event.sequence, event.index) > before);
            before = (event.sequence, event.index);
            events += u64::from(matches!(event.kind, Some(Happened::Deposited(_))));
        }
        if seen.seen_sequence >= last {
            break;
        }
    }
    assert!(events >= 99_000, "{events}");
    realm.stop().await;
}

// People and operators.

#[tokio::test(flavor = "multi_thread")]
async fn the_review_desk_lends_each_asset_to_one_reviewer() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(spec()).await;
    for number in 0..3 {
        let asset = realm.mint(collection, "ann", number).await;
        realm.until_state(asset, AssetState::InReview).await;
    }
    let lease = |reviewer: &str, limit, peek| v1::LeaseReviewsRequest {
        reviewer: reviewer.into(),
        limit,
        peek,
    };
    let operator = realm.operator.clone();
    eventually("three open reviews", || {
        let mut operator = operator.clone();
        async move {
            let open = operator
                .lease_reviews(lease("", 10, true))
                .await
                .unwrap()
                .into_inner()
                .open;
            (open == 3).then_some(())
        }
    })
    .await;
    let taken = realm
        .operator
        .lease_reviews(lease("rita", 2, false))
        .await
        .unwrap()
        .into_inner()
        .reviews;
    let assets: Vec<u64> = taken
        .iter()
        .map(|review| review.asset.as_ref().unwrap().asset)
        .collect();
    assert_eq!(assets, [1, 2], "oldest first");
    assert!(
        taken
            .iter()
            .all(|review| review.lease_until_ms > 0 && review.verdict.is_some())
    );
    let rest = realm
        .operator
        .lease_reviews(lease("sam", 10, false))
        .await
        .unwrap()
        .into_inner()
        .reviews;
    assert_eq!(rest.len(), 1, "what is lent is not lent again");
    let decide = |asset, reviewer: &str, accepted| v1::DecideReviewRequest {
        asset,
        version: 1,
        accepted,
        reason: "seen".into(),
        reviewer: reviewer.into(),
    };
    let status = realm
        .operator
        .decide_review(decide(1, "sam", true))
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("rita"), "{status}");
    let status = realm
        .operator
        .decide_review(decide(1, "", true))
        .await
        .unwrap_err();
    assert!(status.message().contains("reviewer"), "{status}");
    for (asset, accepted) in [(1, true), (2, false)] {
        let outcome = realm
            .operator
            .decide_review(decide(asset, "rita", accepted))
            .await
            .unwrap()
            .into_inner()
            .outcome;
        assert_eq!(outcome.unwrap().code, 0);
    }
    assert_eq!(realm.asset(1).await.state(), AssetState::Active);
    assert_eq!(realm.asset(2).await.state(), AssetState::Rejected);
    let outcome = realm
        .operator
        .decide_review(decide(1, "rita", false))
        .await
        .unwrap()
        .into_inner()
        .outcome;
    assert_refused(&outcome.unwrap(), Code::NotInReview);
    for wrong in [lease("rita", 101, false), lease("", 1, false)] {
        let status = realm.operator.lease_reviews(wrong).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    }
    // What is open is open after a restart too.
    let mut realm = realm.stop().await.start().await;
    let operator = realm.operator.clone();
    let reviews = eventually("the open review after a restart", || {
        let mut operator = operator.clone();
        async move {
            let found = operator
                .lease_reviews(lease("tom", 10, false))
                .await
                .unwrap()
                .into_inner()
                .reviews;
            (!found.is_empty()).then_some(found)
        }
    })
    .await;
    assert_eq!(reviews[0].asset.as_ref().unwrap().asset, 3);
    realm.accept(3).await;
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_asset_does_nothing_until_it_is_unfrozen() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(spec()).await;
    let asset = realm.mint(collection, "ann", 1).await;
    realm.accept(asset).await;
    let frozen = |asset, frozen| v1::SetFrozenRequest {
        asset,
        frozen,
        reason: "stolen".into(),
    };
    let outcome = realm
        .operator
        .set_frozen(frozen(asset, true))
        .await
        .unwrap()
        .into_inner()
        .outcome;
    assert_eq!(outcome.unwrap().code, 0);
    let transfer = || {
        Kind::Transfer(v1::Transfer {
            asset,
            version: 1,
            to: account("bob"),
        })
    };
    realm.refused("ann", transfer(), Code::AssetFrozen).await;
    realm
        .refused(
            "ann",
            Kind::Burn(v1::Burn { asset, version: 1 }),
            Code::AssetFrozen,
        )
        .await;
    let again = realm
        .operator
        .set_frozen(frozen(asset, true))
        .await
        .unwrap()
        .into_inner()
        .outcome;
    assert_refused(&again.unwrap(), Code::AssetFrozen);
    let outcome = realm
        .operator
        .set_frozen(frozen(asset, false))
        .await
        .unwrap()
        .into_inner()
        .outcome;
    assert_eq!(outcome.unwrap().code, 0);
    let again = realm
        .operator
        .set_frozen(frozen(asset, false))
        .await
        .unwrap()
        .into_inner()
        .outcome;
    assert_refused(&again.unwrap(), Code::NotFrozen);
    realm.accepted("ann", transfer()).await;
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asset_frozen_before_its_verdict_gets_one_after_it_is_unfrozen() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(spec()).await;
    let freeze = |asset| {
        command(
            "operator",
            Kind::Freeze(v1::Freeze {
                asset,
                reason: "look".into(),
            }),
        )
    };
    // In one block with the mint: the agents never see it pending.
    let (sender, receiver) = mpsc::channel(1);
    let mut outcomes = realm
        .ledger
        .submit(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let commands = vec![
        command("studio", Kind::Mint(mint(collection, "ann", 0))),
        freeze(1),
    ];
    sender
        .send(v1::SubmitRequest {
            ack: AckLevel::Durable.into(),
            commands,
        })
        .await
        .unwrap();
    let answer = outcomes.message().await.unwrap().unwrap();
    assert!(
        answer.outcomes.iter().all(|outcome| outcome.code == 0),
        "{answer:?}"
    );
    // After the mint: the agents are at work, and their verdict may come while it is frozen.
    for number in 1..12 {
        let asset = realm.mint(collection, "ann", number).await;
        let (_, outcome) = realm
            .try_execute(freeze(asset), AckLevel::Sequenced)
            .await
            .unwrap();
        assert_eq!(outcome.code, 0, "{}", outcome.message);
    }
    let later = realm.mint(collection, "ann", 12).await;
    realm.until_state(later, AssetState::InReview).await;
    for asset in 1..12 {
        realm
            .accepted("operator", Kind::Unfreeze(v1::Unfreeze { asset }))
            .await;
    }
    drop((sender, outcomes));
    // The last one over a restart.
    let mut realm = realm.stop().await.start().await;
    realm
        .accepted("operator", Kind::Unfreeze(v1::Unfreeze { asset: 12 }))
        .await;
    for asset in 1..=12 {
        realm.until_state(asset, AssetState::InReview).await;
    }
    let operator = realm.operator.clone();
    eventually("all of them on the review desk", || {
        let mut operator = operator.clone();
        async move {
            let request = v1::LeaseReviewsRequest {
                peek: true,
                ..Default::default()
            };
            let open = operator
                .lease_reviews(request)
                .await
                .unwrap()
                .into_inner()
                .open;
            (open == 13).then_some(())
        }
    })
    .await;
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_realm_refuses_players_and_not_its_operator() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(trading_spec()).await;
    let asset = realm.mint(collection, "ann", 1).await;
    let paused = |paused| v1::SetPausedRequest { paused };
    realm.operator.set_paused(paused(true)).await.unwrap();
    let transfer = || {
        Kind::Transfer(v1::Transfer {
            asset,
            version: 1,
            to: account("bob"),
        })
    };
    realm.refused("ann", transfer(), Code::Paused).await;
    realm
        .refused(
            "studio",
            Kind::Mint(mint(collection, "ann", 2)),
            Code::Paused,
        )
        .await;
    realm.deposit("ann", 5).await;
    // Verification and settlement go on.
    realm.accept(asset).await;
    realm.until_settled(asset).await;
    assert!(realm.status().await.paused);
    let mut realm = realm.stop().await.start().await;
    assert!(realm.status().await.paused);
    realm.refused("ann", transfer(), Code::Paused).await;
    realm.operator.set_paused(paused(false)).await.unwrap();
    realm.accepted("ann", transfer()).await;
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_and_policies_are_changed_by_the_operator_and_stay_changed() {
    let mut realm = Realm::start().await;
    let change = |change: v1::ModelChange| v1::ChangeModelRequest {
        change: change.into(),
        digest: Bytes::from_static(&MODEL),
        name: "relics 1".into(),
        role: v1::ModelRole::Generator.into(),
    };
    for step in [
        v1::ModelChange::Register,
        v1::ModelChange::Promote,
        v1::ModelChange::Retire,
    ] {
        let outcome = realm
            .operator
            .change_model(change(step))
            .await
            .unwrap()
            .into_inner()
            .outcome
            .unwrap();
        assert_eq!(outcome.code, 0, "{}", outcome.message);
    }
    let again = realm
        .operator
        .change_model(change(v1::ModelChange::Register))
        .await
        .unwrap()
        .into_inner();
    assert_refused(&again.outcome.unwrap(), Code::ModelExists);
    let status = realm
        .operator
        .change_model(v1::ChangeModelRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let policy = realm
        .operator
        .get_policy(v1::GetPolicyRequest {})
        .await
        .unwrap()
        .into_inner()
        .policy
        .unwrap();
    assert_eq!(policy.version, 1);
    let newer = |version| v1::Policy {
        version,
        batch_changes_max: 3,
        ..policy
    };
    for (wrong, code) in [
        (newer(1), Code::BadPolicy),
        (newer(3), Code::BadPolicy),
        (
            v1::Policy {
                batch_changes_max: 0,
                ..newer(2)
            },
            Code::BadPolicy,
        ),
        (
            v1::Policy {
                accept_below_ppm: 9,
                reject_above_ppm: 8,
                ..newer(2)
            },
            Code::BadPolicy,
        ),
    ] {
        let request = v1::SetPolicyRequest {
            policy: Some(wrong),
        };
        let outcome = realm
            .operator
            .set_policy(request)
            .await
            .unwrap()
            .into_inner()
            .outcome
            .unwrap();
        assert_refused(&outcome, code);
    }
    let status = realm
        .operator
        .set_policy(v1::SetPolicyRequest { policy: None })
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    let request = v1::SetPolicyRequest {
        policy: Some(newer(2)),
    };
    let outcome = realm
        .operator
        .set_policy(request)
        .await
        .unwrap()
        .into_inner()
        .outcome
        .unwrap();
    assert_eq!(outcome.code, 0, "{}", outcome.message);
    let mut realm = realm.stop().await.start().await;
    let found = realm
        .operator
        .get_policy(v1::GetPolicyRequest {})
        .await
        .unwrap()
        .into_inner()
        .policy;
    assert_eq!(found, Some(newer(2)));
    let models = realm
        .operator
        .list_models(v1::ListModelsRequest {})
        .await
        .unwrap()
        .into_inner()
        .models;
    assert_eq!(
        (models.len(), models[0].stage()),
        (1, v1::ModelStage::Retired)
    );
    // The new policy rules: three changed assets fill a batch, whatever their age.
    realm.approve_model([8; 32]).await;
    let collection = realm
        .create_collection(v1::CollectionSpec {
            pending_rule: Some(v1::PendingRule {
                trade: true,
                settle: true,
                show: true,
            }),
            ..spec()
        })
        .await;
    let of_model = v1::Lineage {
        model: Bytes::from_static(&[8; 32]),
        ..lineage()
    };
    for number in 0..7 {
        let wanted = v1::Mint {
            lineage: Some(of_model.clone()),
            ..mint(collection, "ann", number)
        };
        realm.accepted("studio", Kind::Mint(wanted)).await;
    }
    for asset in 1..=7 {
        realm.until_settled(asset).await;
    }
    let request = v1::ListBatchesRequest {
        limit: 100,
        ..Default::default()
    };
    let batches = realm
        .ledger
        .list_batches(request)
        .await
        .unwrap()
        .into_inner()
        .batches;
    assert!(
        batches.len() >= 3 && batches.iter().all(|batch| batch.leaves <= 3),
        "{batches:?}"
    );
    realm.stop().await;
}

// Restarts.

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
