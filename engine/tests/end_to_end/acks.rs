//! Answers at each ack level.

use super::*;

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
        let (level, outcome) = tokio::time::timeout(common::HANGS_AFTER, asked)
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
        let answer = tokio::time::timeout(common::HANGS_AFTER, outcomes.message())
            .await
            .unwrap();
        found += answer.unwrap().unwrap().outcomes.len();
    }
    realm.stop().await;
}
