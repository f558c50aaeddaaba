//! Bad input ends in a clear refusal, and nothing that was accepted before is lost.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use common::{
    MODEL, Realm, account, assert_refused, command, lineage, mint, png, spec, trading_spec,
};
use karat_engine::core::fresh_id;
use karat_proto::v1::command::Kind;
use karat_proto::v1::edge_client::EdgeClient;
use karat_proto::v1::edge_request::Kind as Up;
use karat_proto::v1::edge_response::Kind as Down;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::v1::{AckLevel, AssetState};
use karat_proto::{Code, limits, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

/// The largest amount that the ledger takes.
const AMOUNT_MAX: u64 = i64::MAX as u64;

// Form.

#[tokio::test(flavor = "multi_thread")]
async fn a_command_over_its_size_limit_is_refused_and_its_id_stays_free() {
    let mut realm = Realm::start().await;
    let values: Vec<String> = (0..64).map(|value| format!("{value:064}")).collect();
    let traits = (0..16)
        .map(|number| v1::TraitSpec {
            name: format!("trait {number}"),
            values: values.clone(),
            weights: vec![1; 64],
        })
        .collect();
    let large = v1::CollectionSpec { traits, ..spec() };
    let kind = |spec| Kind::CreateCollection(v1::CreateCollection { spec: Some(spec) });
    let mut asked = command("studio", kind(large));
    let status = realm
        .refused_at_door(asked.clone(), Code::CommandTooLarge)
        .await;
    assert!(status.message().contains("16384"), "{status}");
    // It got no sequence, so its id was never used.
    asked.kind = Some(kind(spec()));
    let (_, outcome) = realm.try_execute(asked, AckLevel::Durable).await.unwrap();
    assert_eq!((outcome.code, outcome.replayed), (0, false));
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_refused_and_the_connection_lives_on() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(spec()).await;
    let mut huge = mint(collection, "ann", 1);
    huge.content = Bytes::from(vec![0; limits::MESSAGE_BYTES_MAX + 1]);
    let status = realm
        .try_execute(command("studio", Kind::Mint(huge)), AckLevel::Durable)
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::OutOfRange, "{status:?}");
    assert!(status.message().contains("too large"), "{status:?}");
    realm.mint(collection, "ann", 1).await;
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_format_a_missing_kind_and_malformed_fields_are_refused_by_name() {
    let mut realm = Realm::start().await;
    let deposit = || {
        Kind::Deposit(v1::Deposit {
            account: account("ann"),
            amount: 1,
        })
    };
    let newer = v1::Command {
        format: limits::COMMAND_FORMAT + 1,
        ..command("operator", deposit())
    };
    let status = realm.refused_at_door(newer, Code::UnknownFormat).await;
    assert!(status.message().contains("format 2"), "{status}");
    let empty = v1::Command {
        kind: None,
        ..command("operator", deposit())
    };
    let status = realm.refused_at_door(empty, Code::Malformed).await;
    assert!(status.message().contains("kind"), "{status}");
    for length in [0, 15, 17, 4096] {
        let id = Bytes::from(vec![1; length]);
        let status = realm
            .refused_at_door(
                v1::Command {
                    id,
                    ..command("operator", deposit())
                },
                Code::Malformed,
            )
            .await;
        assert!(
            status
                .message()
                .contains(&format!("id must have 16 bytes, has {length}")),
            "{status}"
        );
        let actor = Bytes::from(vec![1; length]);
        let status = realm
            .refused_at_door(
                v1::Command {
                    actor,
                    ..command("operator", deposit())
                },
                Code::Malformed,
            )
            .await;
        assert!(
            status.message().contains("actor must have 20 bytes"),
            "{status}"
        );
    }
    let to = Bytes::from_static(b"0xabc");
    let transfer = command(
        "ann",
        Kind::Transfer(v1::Transfer {
            asset: 1,
            version: 1,
            to,
        }),
    );
    let status = realm.refused_at_door(transfer, Code::Malformed).await;
    assert!(
        status.message().contains("to must have 20 bytes, has 5"),
        "{status}"
    );
    let long = v1::RegisterModel {
        digest: Bytes::from_static(&MODEL),
        name: "m".repeat(65),
        role: v1::ModelRole::Generator.into(),
    };
    let status = realm
        .refused_at_door(
            command("operator", Kind::RegisterModel(long)),
            Code::TextTooLong,
        )
        .await;
    assert!(status.message().contains("65 bytes"), "{status}");
    let no_command = v1::ExecuteRequest {
        ack: AckLevel::Durable.into(),
        command: None,
    };
    let status = realm.ledger.execute(no_command).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let no_level = v1::ExecuteRequest {
        ack: 99,
        command: Some(command("operator", deposit())),
    };
    let status = realm.ledger.execute(no_level).await.unwrap_err();
    assert!(status.message().contains("99 is no ack level"), "{status}");
    assert_eq!(realm.balance("ann").await, 0);
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_queries_are_refused() {
    let mut realm = Realm::start().await;
    let status = realm
        .ledger
        .get_asset(v1::GetAssetRequest { asset: 9 })
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (tonic::Code::NotFound, "there is no asset 9")
    );
    let wrong = v1::GetAccountRequest {
        account: Bytes::from_static(b"ann"),
    };
    let status = realm.ledger.get_account(wrong).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    for request in [
        v1::ListAssetsRequest::default(),
        v1::ListAssetsRequest {
            owner: account("ann"),
            collection: 1,
            ..Default::default()
        },
        v1::ListAssetsRequest {
            owner: Bytes::from_static(b"ann"),
            ..Default::default()
        },
        v1::ListAssetsRequest {
            collection: 1,
            limit: 1001,
            ..Default::default()
        },
    ] {
        let status = realm.ledger.list_assets(request).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
        assert!(!status.message().is_empty());
    }
    let wrong = v1::WatchRequest {
        account: Bytes::from_static(b"ann"),
        ..Default::default()
    };
    let status = realm.ledger.watch(wrong).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    let absent = realm
        .ledger
        .get_batch(v1::GetBatchRequest { number: 7 })
        .await
        .unwrap_err();
    assert_eq!(absent.code(), tonic::Code::NotFound);
    let absent = realm
        .ledger
        .get_proof(v1::GetProofRequest { asset: 7 })
        .await
        .unwrap_err();
    assert_eq!(absent.code(), tonic::Code::NotFound);
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_refuses_empty_and_overfull_requests_and_goes_on() {
    let mut realm = Realm::start().await;
    let (sender, receiver) = mpsc::channel(4);
    let mut outcomes = realm
        .ledger
        .submit(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let deposit = || {
        command(
            "operator",
            Kind::Deposit(v1::Deposit {
                account: account("ann"),
                amount: 1,
            }),
        )
    };
    let request = |commands| v1::SubmitRequest {
        ack: AckLevel::Sequenced.into(),
        commands,
    };
    sender.send(request(vec![])).await.unwrap();
    let answer = outcomes.message().await.unwrap().unwrap();
    assert_eq!(answer.outcomes.len(), 1);
    assert_refused(&answer.outcomes[0], Code::EmptyRequest);
    sender
        .send(request((0..2000).map(|_| deposit()).collect()))
        .await
        .unwrap();
    let answer = outcomes.message().await.unwrap().unwrap();
    assert_eq!(answer.outcomes.len(), 1);
    assert_refused(&answer.outcomes[0], Code::TooManyCommands);
    assert!(
        answer.outcomes[0].message.contains("2000"),
        "{}",
        answer.outcomes[0].message
    );
    let bad_level = v1::SubmitRequest {
        ack: 42,
        commands: vec![deposit(), deposit()],
    };
    sender.send(bad_level).await.unwrap();
    let answer = outcomes.message().await.unwrap().unwrap();
    assert_eq!(answer.outcomes.len(), 2);
    answer
        .outcomes
        .iter()
        .for_each(|outcome| assert_refused(outcome, Code::Malformed));
    // One bad command among good ones: the good ones are taken.
    let mut mixed: Vec<_> = (0..3).map(|_| deposit()).collect();
    mixed[1].format = 9;
    let bad_id = mixed[1].id.clone();
    sender.send(request(mixed)).await.unwrap();
    let mut found = Vec::new();
    while found.len() < 3 {
        found.extend(outcomes.message().await.unwrap().unwrap().outcomes);
    }
    for outcome in &found {
        let expected = if outcome.id == bad_id {
            Code::UnknownFormat
        } else {
            Code::Accepted
        };
        assert_eq!(outcome.code, expected as u32, "{}", outcome.message);
        assert_eq!(outcome.sequence == 0, outcome.id == bad_id);
    }
    sender
        .send(request((0..1024).map(|_| deposit()).collect()))
        .await
        .unwrap();
    let answer = outcomes.message().await.unwrap().unwrap();
    assert_eq!(
        answer
            .outcomes
            .iter()
            .filter(|outcome| outcome.code == 0)
            .count(),
        1024
    );
    assert_eq!(realm.balance("ann").await, 1026);
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reused_id_is_refused_with_another_body_and_replayed_with_the_same() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(spec()).await;
    let first = command("studio", Kind::Mint(mint(collection, "ann", 1)));
    let (_, minted) = realm
        .try_execute(first.clone(), AckLevel::Durable)
        .await
        .unwrap();
    assert_eq!(minted.code, 0);
    let other = v1::Command {
        id: first.id.clone(),
        ..command("studio", Kind::Mint(mint(collection, "bob", 1)))
    };
    let (_, refused) = realm
        .try_execute(other.clone(), AckLevel::Durable)
        .await
        .unwrap();
    assert_refused(&refused, Code::IdReused);
    let (_, again) = realm
        .try_execute(first.clone(), AckLevel::Durable)
        .await
        .unwrap();
    let replayed = v1::Outcome {
        replayed: true,
        ..minted.clone()
    };
    assert_eq!(again, replayed);
    // The memory of ids survives a restart, from the log and from a snapshot.
    let mut realm = realm.close().await.start().await;
    assert_eq!(
        realm
            .try_execute(first.clone(), AckLevel::Sequenced)
            .await
            .unwrap()
            .1,
        replayed
    );
    let mut realm = realm.stop().await.start().await;
    assert_eq!(
        realm
            .try_execute(first, AckLevel::Sequenced)
            .await
            .unwrap()
            .1,
        replayed
    );
    let (_, refused) = realm.try_execute(other, AckLevel::Durable).await.unwrap();
    assert_refused(&refused, Code::IdReused);
    let minted = realm
        .ledger
        .get_collection(v1::GetCollectionRequest { collection })
        .await
        .unwrap();
    assert_eq!(minted.into_inner().minted, 1);
    realm.stop().await;
}

// Models and content.

#[tokio::test(flavor = "multi_thread")]
async fn a_mint_needs_an_approved_model() {
    let mut realm = Realm::start().await;
    let collection = realm.create_collection(spec()).await;
    let wanted = || Kind::Mint(mint(collection, "ann", 1));
    realm.refused("studio", wanted(), Code::UnknownModel).await;
    realm.register_model(MODEL).await;
    realm
        .refused("studio", wanted(), Code::ModelNotApproved)
        .await;
    let digest = Bytes::from_static(&MODEL);
    realm
        .accepted(
            "operator",
            Kind::PromoteModel(v1::PromoteModel {
                digest: digest.clone(),
            }),
        )
        .await;
    realm.accepted("studio", wanted()).await;
    realm
        .accepted(
            "operator",
            Kind::RetireModel(v1::RetireModel {
                digest: digest.clone(),
            }),
        )
        .await;
    realm.refused("studio", wanted(), Code::ModelRetired).await;
    realm
        .refused(
            "operator",
            Kind::PromoteModel(v1::PromoteModel { digest }),
            Code::ModelRetired,
        )
        .await;
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_must_be_what_the_command_says() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(spec()).await;
    let refused = |change: fn(&mut v1::Mint)| {
        let mut wanted = mint(collection, "ann", 1);
        change(&mut wanted);
        command("studio", Kind::Mint(wanted))
    };
    let wrong_digest = refused(|mint| mint.digest = Bytes::from_static(&[1; 32]));
    let status = realm
        .refused_at_door(wrong_digest, Code::DigestMismatch)
        .await;
    assert!(status.message().contains(&"01".repeat(32)), "{status}");
    realm
        .refused_at_door(
            refused(|mint| mint.digest = Bytes::from_static(b"short")),
            Code::DigestMismatch,
        )
        .await;
    let status = realm
        .refused_at_door(refused(|mint| mint.size = 17), Code::DigestMismatch)
        .await;
    assert!(status.message().contains("size says 17"), "{status}");
    let unknown = refused(|mint| {
        mint.digest = Bytes::from_static(&[2; 32]);
        mint.content.clear();
    });
    let status = realm.refused_at_door(unknown, Code::ContentMissing).await;
    assert!(status.message().contains(&"02".repeat(32)), "{status}");
    let nothing = refused(|mint| mint.content.clear());
    realm.refused_at_door(nothing, Code::Malformed).await;
    let no_lineage = refused(|mint| mint.lineage = None);
    realm.refused_at_door(no_lineage, Code::Malformed).await;
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_png_or_too_large_a_png_is_refused_at_the_door() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(spec()).await;
    let with = |content: Vec<u8>| {
        let wanted = v1::Mint {
            content: content.into(),
            ..mint(collection, "ann", 1)
        };
        command("studio", Kind::Mint(wanted))
    };
    let cut = png(1)[..20].to_vec();
    let mut over = png(1).to_vec();
    over.resize(limits::CONTENT_BYTES_MAX + 1, 0);
    for content in [
        b"<svg/>".to_vec(),
        b"\x89PNG".to_vec(),
        cut,
        vec![0; 300_000],
        over,
    ] {
        realm
            .refused_at_door(with(content), Code::ContentRefused)
            .await;
    }
    for side in [limits::IMAGE_SIDE_MAX + 1, 65_535, u32::MAX >> 1] {
        let status = realm
            .refused_at_door(with(resized(png(1).to_vec(), side)), Code::ContentRefused)
            .await;
        assert!(status.message().contains(&side.to_string()), "{status}");
    }
    let view = &realm.service.gateway.core.view;
    assert_eq!(
        view.collection(collection)
            .unwrap()
            .minted
            .load(std::sync::atomic::Ordering::Relaxed),
        0
    );
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_png_that_is_damaged_or_a_bomb_behind_its_header_is_rejected_by_the_agents() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(spec()).await;
    let whole = png(1);
    let cut = whole[..whole.len() - 20].to_vec();
    let mut flipped = png(2).to_vec();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;
    // Its data inflate to 3 MiB, its header says 64 x 64.
    let side = limits::IMAGE_SIDE_MAX;
    let large =
        karat_edge_node::pixels::encode_png(side, side, &vec![0; (side * side * 3) as usize])
            .unwrap();
    let bomb = resized(large, 64);
    let small = karat_edge_node::pixels::encode_png(8, 8, &[0; 8 * 8 * 3]).unwrap();
    for content in [cut, flipped, bomb, small] {
        let wanted = v1::Mint {
            content: content.into(),
            ..mint(collection, "ann", 1)
        };
        let asset = realm.accepted("studio", Kind::Mint(wanted)).await.subject;
        realm.until_state(asset, AssetState::Rejected).await;
        let transfer = v1::Transfer {
            asset,
            version: 1,
            to: account("bob"),
        };
        realm
            .refused("ann", Kind::Transfer(transfer), Code::AssetEnded)
            .await;
    }
    // The agents live on.
    let asset = realm.mint(collection, "ann", 3).await;
    realm.until_state(asset, AssetState::InReview).await;
    realm.stop().await;
}

/// The same PNG with another width and height in its header, checksum included.
fn resized(mut png: Vec<u8>, side: u32) -> Vec<u8> {
    png[16..20].copy_from_slice(&side.to_be_bytes());
    png[20..24].copy_from_slice(&side.to_be_bytes());
    let mut crc = u32::MAX;
    for byte in &png[12..29] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0xedb8_8320
            } else {
                crc >> 1
            };
        }
    }
    png[29..33].copy_from_slice(&(!crc).to_be_bytes());
    png
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_node_must_say_hello_attest_its_models_and_keep_to_its_credits() {
    let mut realm = Realm::start_with(|config| config.gateway.edge_credits_max = 4).await;
    let collection = realm.prepare(spec()).await;
    let mut edge = EdgeClient::new(common::connect(&realm.service).await);
    let hello = |models: Vec<v1::ModelAttestation>| {
        Up::Hello(v1::Hello {
            node: "edge-1".into(),
            account: account("studio"),
            models,
        })
    };
    let attested = || {
        let digest = Bytes::from_static(&MODEL);
        vec![v1::ModelAttestation {
            digest,
            name: "test".into(),
            role: v1::ModelRole::Generator.into(),
        }]
    };
    let assets = |count: u32| {
        let assets = (0..count)
            .map(|number| v1::EdgeAsset {
                id: fresh_id(),
                collection,
                owner: Bytes::new(),
                traits: Bytes::from_static(&[0]),
                lineage: Some(lineage()),
                content: png(number),
            })
            .collect();
        Up::Assets(v1::EdgeAssets { assets })
    };
    let up = |messages: Vec<Up>| {
        let (sender, receiver) = mpsc::channel(8);
        for kind in messages {
            sender
                .try_send(v1::EdgeRequest { kind: Some(kind) })
                .unwrap();
        }
        (sender, ReceiverStream::new(receiver))
    };
    // Assets before the hello.
    let (_kept, stream) = up(vec![assets(1)]);
    let status = edge.connect(stream).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    assert!(status.message().contains("Hello"), "{status}");
    // A model that was not attested.
    let (_kept, stream) = up(vec![hello(vec![]), assets(1)]);
    let mut down = edge.connect(stream).await.unwrap().into_inner();
    let outcome = loop {
        if let Some(Down::Outcomes(found)) = down.message().await.unwrap().unwrap().kind {
            break found.outcomes[0].clone();
        }
    };
    assert_refused(&outcome, Code::ModelNotApproved);
    assert!(outcome.message.contains("attest"), "{}", outcome.message);
    // More than the credits.
    let (_kept, stream) = up(vec![hello(attested()), assets(5)]);
    let mut down = edge.connect(stream).await.unwrap().into_inner();
    let status = loop {
        match down.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    // Within them.
    let (_kept, stream) = up(vec![hello(attested()), assets(4)]);
    let mut down = edge.connect(stream).await.unwrap().into_inner();
    let mut accepted = 0;
    while accepted < 4 {
        if let Some(Down::Outcomes(found)) = down.message().await.unwrap().unwrap().kind {
            accepted += found
                .outcomes
                .iter()
                .filter(|outcome| outcome.code == 0)
                .count();
        }
    }
    realm.stop().await;
}

// Rules.

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

// Clients that ask too much.

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_streams_of_one_client_are_refused_beyond_the_bound_and_others_are_served() {
    let mut realm = Realm::start_with(|config| config.gateway.streams_max = 50).await;
    let client = LedgerClient::new(common::connect(&realm.service).await);
    let mut opening = Vec::new();
    for _ in 0..10_000 {
        let mut client = client.clone();
        opening.push(tokio::spawn(async move {
            client.watch(v1::WatchRequest::default()).await
        }));
    }
    let mut open = Vec::new();
    let mut refused = 0;
    for one in opening {
        match one.await.unwrap() {
            Ok(stream) => open.push(stream.into_inner()),
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
                assert!(status.message().contains("50 streams are open"), "{status}");
                refused += 1;
            }
        }
    }
    assert_eq!((open.len(), refused), (50, 9950));
    // Calls that open no stream are answered, here and on another connection.
    realm.deposit("ann", 1).await;
    let (_kept, receiver) = mpsc::channel(1);
    let status = realm
        .ledger
        .submit(ReceiverStream::new(receiver))
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    // What is closed makes room.
    assert!(open[0].message().await.unwrap().is_some());
    drop(open);
    let ledger = realm.ledger.clone();
    common::eventually("room for a stream", || {
        let mut ledger = ledger.clone();
        async move {
            ledger
                .watch(v1::WatchRequest::default())
                .await
                .ok()
                .map(drop)
        }
    })
    .await;
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_no_outcomes_is_read_no_further_and_others_are_served() {
    let mut realm = Realm::start_with(|config| config.gateway.in_flight_a_stream_max = 1024).await;
    // 64 commands of about 320 bytes a request; what lies in the windows between client and engine is some 4 MiB.
    const REQUESTS: usize = 2000;
    const COMMANDS: usize = 64;
    let channel = Endpoint::from_shared(format!("http://{}", realm.service.address))
        .unwrap()
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535)
        .connect()
        .await
        .unwrap();
    let mut deaf = LedgerClient::new(channel);
    let (sender, receiver) = mpsc::channel(1);
    let mut outcomes = deaf
        .submit(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let before = realm.service.gateway.core.view.applied_seq();
    let mut sent = 0;
    for _ in 0..REQUESTS {
        let freeze = || {
            Kind::Freeze(v1::Freeze {
                asset: 1,
                reason: "r".repeat(256),
            })
        };
        let commands = (0..COMMANDS)
            .map(|_| command("mallory", freeze()))
            .collect();
        let request = v1::SubmitRequest {
            ack: AckLevel::Sequenced.into(),
            commands,
        };
        match tokio::time::timeout(Duration::from_secs(2), sender.send(request)).await {
            Ok(taken) => taken.unwrap(),
            Err(_) => break,
        }
        sent += 1;
    }
    assert!(
        sent < REQUESTS,
        "every request was read though no outcome was"
    );
    let applied = realm.service.gateway.core.view.applied_seq() - before;
    assert!(
        (applied as usize) < sent * COMMANDS,
        "{applied} of {} commands were taken",
        sent * COMMANDS
    );
    // Others are served meanwhile.
    realm.deposit("ann", 7).await;
    assert_eq!(realm.balance("ann").await, 7);
    // When it reads at last, it gets one outcome for every command that it sent.
    drop(sender);
    let mut ids = HashSet::new();
    while let Some(answer) = outcomes.message().await.unwrap() {
        for outcome in answer.outcomes {
            assert_eq!(outcome.code, Code::NotAllowed as u32);
            assert!(ids.insert(outcome.id), "an outcome came twice");
        }
    }
    assert_eq!(ids.len(), sent * COMMANDS);
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_over_its_rate_is_told_when_to_come_back() {
    let mut realm = Realm::start_with(|config| config.gateway.commands_a_second_max = 10).await;
    let (sender, receiver) = mpsc::channel(4);
    let mut outcomes = realm
        .ledger
        .submit(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let deposits = |count| {
        let deposit = || {
            Kind::Deposit(v1::Deposit {
                account: account("ann"),
                amount: 1,
            })
        };
        let commands = (0..count).map(|_| command("operator", deposit())).collect();
        v1::SubmitRequest {
            ack: AckLevel::Sequenced.into(),
            commands,
        }
    };
    sender.send(deposits(1000)).await.unwrap();
    let answer = outcomes.message().await.unwrap().unwrap();
    assert_eq!(answer.outcomes.len(), 1000);
    for outcome in &answer.outcomes {
        assert_refused(outcome, Code::RateLimited);
        assert!(outcome.retry_after_ms > 0);
    }
    sender.send(deposits(5)).await.unwrap();
    let answer = outcomes.message().await.unwrap().unwrap();
    assert!(answer.outcomes.iter().all(|outcome| outcome.code == 0));
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_that_wait_are_bounded_and_those_of_clients_that_have_gone_make_room() {
    let mut realm = Realm::start_with(|config| config.gateway.waiting_outcomes_max = 2).await;
    let collection = realm.prepare(spec()).await;
    let minting = move |number| command("studio", Kind::Mint(mint(collection, "ann", number)));
    let (sender, receiver) = mpsc::channel(1);
    let outcomes = realm
        .ledger
        .submit(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let request = |commands| v1::SubmitRequest {
        ack: AckLevel::Verified.into(),
        commands,
    };
    sender
        .send(request(vec![minting(0), minting(1)]))
        .await
        .unwrap();
    for asset in 1..=2 {
        realm.until_state(asset, AssetState::InReview).await;
    }
    // Both wait for people. Another one has no room, on a stream and alone; it may do with less.
    let status = realm
        .try_execute(minting(2), AckLevel::Settled)
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    let (other, receiver) = mpsc::channel(1);
    let stream = ReceiverStream::new(receiver);
    let mut answers = realm.ledger.submit(stream).await.unwrap().into_inner();
    other.send(request(vec![minting(2)])).await.unwrap();
    let answer = answers.message().await.unwrap().unwrap();
    assert_refused(&answer.outcomes[0], Code::Overloaded);
    assert!(answer.outcomes[0].retry_after_ms > 0);
    let (_, outcome) = realm
        .try_execute(minting(2), AckLevel::Durable)
        .await
        .unwrap();
    assert_eq!((outcome.code, outcome.subject), (0, 3));
    // Their client goes away without its answers.
    drop((sender, outcomes));
    let mut ledger = realm.ledger.clone();
    let waiting = tokio::spawn(async move {
        loop {
            let command = Some(minting(3));
            let request = v1::ExecuteRequest {
                ack: AckLevel::Verified.into(),
                command,
            };
            match ledger.execute(request).await {
                Ok(answer) => return answer.into_inner().ack(),
                Err(status) => {
                    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}")
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    realm.accept(4).await;
    assert_eq!(waiting.await.unwrap(), AckLevel::Verified);
    realm.stop().await;
}
