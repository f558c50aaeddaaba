//! The way of an asset to the chain, and its proof.

use super::*;

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
    // In one request, and so in one block: nothing comes between the two, however short the window is.
    let claim = |name| command(name, Kind::Claim(v1::Claim { asset, version: 1 }));
    let claims = v1::SubmitRequest {
        ack: AckLevel::Durable.into(),
        commands: vec![claim("bob"), claim("cyd")],
    };
    let (sender, receiver) = mpsc::channel(1);
    sender.send(claims).await.unwrap();
    drop(sender);
    let requests = ReceiverStream::new(receiver);
    let mut answers = realm.ledger.submit(requests).await.unwrap().into_inner();
    let mut claimed = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        claimed.extend(answer.outcomes.iter().map(|outcome| outcome.code));
    }
    assert_eq!(claimed, [0, 0]);
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
