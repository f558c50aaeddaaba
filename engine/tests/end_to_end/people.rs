//! The review desk and the operator's means.

use super::*;

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
        ..Default::default()
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
        ..policy.clone()
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
