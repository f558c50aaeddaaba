//! What the rules of a collection, an owner, an exchange or a role forbid.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn traits_must_keep_to_the_collections_rules() {
    let mut realm = Realm::start().await;
    let two = |name: &str| v1::TraitSpec {
        name: name.into(),
        values: vec!["no".into(), "yes".into()],
        weights: vec![1, 1],
    };
    let rules = v1::CollectionSpec {
        traits: vec![two("horns"), two("wings")],
        exclusions: vec![v1::Exclusion {
            first_trait: 0,
            first_value: 1,
            second_trait: 1,
            second_value: 1,
        }],
        value_caps: vec![v1::ValueCap {
            trait_index: 0,
            value: 1,
            most: 1,
        }],
        ..spec()
    };
    let collection = realm.prepare(rules).await;
    let with = |traits: &'static [u8]| {
        Kind::Mint(v1::Mint {
            traits: Bytes::from_static(traits),
            ..mint(collection, "ann", 1)
        })
    };
    for traits in [&[][..], &[0], &[0, 0, 0], &[2, 0], &[0, 255], &[1, 1]] {
        let outcome = realm.enter("studio", with(traits)).await;
        assert_refused(&outcome, Code::TraitsRefused);
    }
    let status = realm
        .refused_at_door(command("studio", with(&[0; 17])), Code::Malformed)
        .await;
    assert!(status.message().contains("17"), "{status}");
    realm.accepted("studio", with(&[1, 0])).await;
    realm
        .refused("studio", with(&[1, 0]), Code::ValueCapReached)
        .await;
    realm.accepted("studio", with(&[0, 1])).await;
    realm.refused("ann", with(&[0, 0]), Code::NotCreator).await;
    let contradiction = v1::CollectionSpec {
        exclusions: vec![v1::Exclusion {
            first_trait: 0,
            first_value: 0,
            second_trait: 7,
            second_value: 0,
        }],
        ..spec()
    };
    let create = Kind::CreateCollection(v1::CreateCollection {
        spec: Some(contradiction),
    });
    realm.refused("studio", create, Code::BadCollection).await;
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_mints_do_not_pass_a_supply_cap() {
    let mut realm = Realm::start().await;
    let collection = realm
        .prepare(v1::CollectionSpec {
            supply_cap: 3,
            ..spec()
        })
        .await;
    let mut racers = Vec::new();
    for number in 0..16 {
        // A connection each, so that nothing but the sequencer orders them.
        let mut ledger = LedgerClient::new(common::connect(&realm.service).await);
        racers.push(tokio::spawn(async move {
            let command = Some(command(
                "studio",
                Kind::Mint(mint(collection, "ann", number)),
            ));
            let request = v1::ExecuteRequest {
                ack: AckLevel::Durable.into(),
                command,
            };
            ledger
                .execute(request)
                .await
                .unwrap()
                .into_inner()
                .outcome
                .unwrap()
        }));
    }
    let mut accepted = HashSet::new();
    for racer in racers {
        let outcome = racer.await.unwrap();
        match outcome.code {
            0 => assert!(accepted.insert(outcome.subject)),
            _ => assert_refused(&outcome, Code::SupplyCapReached),
        }
    }
    assert_eq!(accepted, HashSet::from([1, 2, 3]));
    let found = realm
        .ledger
        .get_collection(v1::GetCollectionRequest { collection })
        .await
        .unwrap();
    assert_eq!(found.into_inner().minted, 3);
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_versions_and_strangers_change_nothing() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(trading_spec()).await;
    let asset = realm.mint(collection, "ann", 1).await;
    let revise = |version, number| {
        Kind::Revise(v1::Revise {
            asset,
            version,
            collection,
            traits: Bytes::from_static(&[1]),
            lineage: Some(lineage()),
            content: png(number),
            ..Default::default()
        })
    };
    let second = realm.accepted("ann", revise(1, 2)).await;
    let stale = realm.refused("ann", revise(1, 3), Code::StaleVersion).await;
    assert_eq!(
        stale.winner_sequence >= second.sequence,
        !stale.winner_id.is_empty()
    );
    realm.refused("ann", revise(7, 3), Code::StaleVersion).await;
    realm.refused("mallory", revise(2, 3), Code::NotOwner).await;
    let transfer = |version, to: &str| {
        Kind::Transfer(v1::Transfer {
            asset,
            version,
            to: account(to),
        })
    };
    realm
        .refused("mallory", transfer(2, "mallory"), Code::NotOwner)
        .await;
    realm
        .refused("ann", transfer(1, "bob"), Code::StaleVersion)
        .await;
    realm
        .refused("ann", transfer(2, "ann"), Code::BadReceiver)
        .await;
    realm
        .refused(
            "mallory",
            Kind::Burn(v1::Burn { asset, version: 2 }),
            Code::NotOwner,
        )
        .await;
    let redeem = Kind::Redeem(v1::Redeem {
        asset,
        version: 2,
        to: account("mallory"),
    });
    realm.refused("mallory", redeem, Code::NotOwner).await;
    realm
        .refused(
            "bob",
            Kind::Claim(v1::Claim { asset, version: 2 }),
            Code::AlreadyOwned,
        )
        .await;
    let absent = Kind::Transfer(v1::Transfer {
        asset: 99,
        version: 1,
        to: account("bob"),
    });
    realm.refused("ann", absent, Code::UnknownAsset).await;
    let found = realm.asset(asset).await;
    assert_eq!((found.owner, found.version), (account("ann"), 2));
    realm.accepted("ann", transfer(2, "bob")).await;
    let lost = realm
        .refused("ann", transfer(2, "cyd"), Code::NotOwner)
        .await;
    assert_eq!(lost.winner_id.len(), 16, "the winning command is named");
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_with_one_bad_leg_moves_nothing() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(trading_spec()).await;
    let (sword, shield) = (
        realm.mint(collection, "ann", 1).await,
        realm.mint(collection, "bob", 2).await,
    );
    realm.deposit("ann", 100).await;
    realm.deposit("bob", 10).await;
    let asset = |asset, from: &str, to: &str, version| v1::Leg {
        from: account(from),
        to: account(to),
        asset,
        version,
        amount: 0,
    };
    let money = |amount, from: &str, to: &str| v1::Leg {
        from: account(from),
        to: account(to),
        amount,
        ..Default::default()
    };
    let exchange = |legs: Vec<v1::Leg>, consents: &[&str]| {
        let consents = consents.iter().map(|name| account(name)).collect();
        Kind::Exchange(v1::Exchange { legs, consents })
    };
    let good = || vec![asset(sword, "ann", "bob", 1), money(5, "bob", "ann")];
    let with = |bad: v1::Leg| {
        let mut legs = good();
        legs.push(bad);
        exchange(legs, &["bob"])
    };
    for (bad, code) in [
        (asset(shield, "ann", "bob", 1), Code::NotOwner),
        (asset(shield, "bob", "ann", 2), Code::StaleVersion),
        (asset(999, "bob", "ann", 1), Code::UnknownAsset),
        (money(1000, "bob", "ann"), Code::InsufficientFunds),
        (money(0, "bob", "ann"), Code::BadAmount),
        (money(AMOUNT_MAX, "bob", "ann"), Code::BadAmount),
        (money(u64::MAX, "bob", "ann"), Code::BadAmount),
        (money(1, "bob", "bob"), Code::BadExchange),
        (asset(sword, "ann", "bob", 1), Code::BadExchange),
        (money(1, "cyd", "ann"), Code::ConsentMissing),
    ] {
        realm.refused("ann", with(bad), code).await;
    }
    realm
        .refused("ann", exchange(good(), &[]), Code::ConsentMissing)
        .await;
    let none = command("ann", exchange(vec![], &[]));
    realm.refused_at_door(none, Code::BadExchange).await;
    let many = (0..65).map(|_| money(1, "ann", "bob")).collect();
    realm
        .refused_at_door(command("ann", exchange(many, &[])), Code::BadExchange)
        .await;
    let both = v1::Leg {
        amount: 5,
        ..asset(sword, "ann", "bob", 1)
    };
    realm
        .refused_at_door(command("ann", exchange(vec![both], &[])), Code::BadExchange)
        .await;
    assert_eq!(realm.asset(sword).await.owner, account("ann"));
    assert_eq!(realm.asset(shield).await.owner, account("bob"));
    assert_eq!(
        (realm.balance("ann").await, realm.balance("bob").await),
        (100, 10)
    );
    realm.accepted("ann", exchange(good(), &["bob"])).await;
    assert_eq!(realm.asset(sword).await.owner, account("bob"));
    assert_eq!(
        (realm.balance("ann").await, realm.balance("bob").await),
        (105, 5)
    );
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn amounts_that_overflow_are_refused() {
    let mut realm = Realm::start().await;
    let deposit = |name: &str, amount| {
        Kind::Deposit(v1::Deposit {
            account: account(name),
            amount,
        })
    };
    let withdraw = |name: &str, amount| {
        Kind::Withdraw(v1::Withdraw {
            account: account(name),
            amount,
        })
    };
    for amount in [0, AMOUNT_MAX + 1, u64::MAX] {
        realm
            .refused("operator", deposit("ann", amount), Code::BadAmount)
            .await;
    }
    realm
        .accepted("operator", deposit("ann", AMOUNT_MAX - 1))
        .await;
    // Not in one account, and not in the realm as a whole.
    realm
        .refused("operator", deposit("ann", 2), Code::BadAmount)
        .await;
    realm
        .refused("operator", deposit("bob", 2), Code::BadAmount)
        .await;
    realm.accepted("operator", deposit("bob", 1)).await;
    realm
        .refused("ann", withdraw("ann", u64::MAX), Code::BadAmount)
        .await;
    realm
        .refused("bob", withdraw("bob", 2), Code::InsufficientFunds)
        .await;
    let refused = realm.enter("mallory", withdraw("ann", 1)).await;
    assert_ne!(refused.code, 0, "a stranger took currency out");
    assert_eq!(
        (realm.balance("ann").await, realm.balance("bob").await),
        (AMOUNT_MAX - 1, 1)
    );
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_the_engine_or_the_operator_is_refused_to_others() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(spec()).await;
    let asset = realm.mint(collection, "ann", 1).await;
    let verdict = v1::Verdict {
        asset,
        version: 1,
        policy_version: 1,
        decision: v1::Decision::Accept.into(),
        ..Default::default()
    };
    let digest = Bytes::from_static(&[5; 32]);
    let own: Vec<Kind> = vec![
        Kind::Genesis(v1::Genesis::default()),
        Kind::Verdict(verdict),
        Kind::BatchSealed(v1::BatchSealed {
            number: 1,
            root: digest.clone(),
            payload: digest.clone(),
            leaves: 1,
        }),
        Kind::BatchCommitted(v1::BatchCommitted {
            number: 1,
            transaction: digest.clone(),
            ..Default::default()
        }),
        Kind::BatchFinal(v1::BatchFinal { number: 1 }),
        Kind::Tick(v1::Tick { base_fee_wei: 0 }),
    ];
    for kind in own {
        // Not even in the name of the account that may.
        for actor in ["mallory", "operator", "verifier", "settler"] {
            realm
                .refused_at_door(command(actor, kind.clone()), Code::NotAllowed)
                .await;
        }
    }
    realm.until_state(asset, AssetState::InReview).await;
    let operators: Vec<Kind> = vec![
        Kind::Deposit(v1::Deposit {
            account: account("mallory"),
            amount: 1,
        }),
        Kind::Freeze(v1::Freeze {
            asset,
            reason: "mine".into(),
        }),
        Kind::Unfreeze(v1::Unfreeze { asset }),
        Kind::Pause(v1::Pause { paused: true }),
        Kind::PromoteModel(v1::PromoteModel {
            digest: digest.clone(),
        }),
        Kind::RetireModel(v1::RetireModel {
            digest: Bytes::from_static(&MODEL),
        }),
        Kind::ReviewDecision(v1::ReviewDecision {
            asset,
            version: 1,
            accepted: true,
            reason: "mine".into(),
        }),
        Kind::SetPolicy(v1::SetPolicy {
            policy: Some(v1::Policy {
                version: 2,
                ..Default::default()
            }),
        }),
    ];
    for kind in operators {
        realm.refused("mallory", kind, Code::NotAllowed).await;
    }
    // Nobody has no rights.
    let deposit = Kind::Deposit(v1::Deposit {
        account: account("ann"),
        amount: 1,
    });
    let nobody = v1::Command {
        actor: Bytes::from_static(&[0; 20]),
        ..command("ann", deposit)
    };
    let (_, outcome) = realm.try_execute(nobody, AckLevel::Durable).await.unwrap();
    assert_refused(&outcome, Code::NotAllowed);
    assert_eq!(realm.asset(asset).await.state(), AssetState::InReview);
    realm.stop().await;
}
