//! Models that may not mint, content that is not what it should be, edge nodes that break the rules.

use super::*;

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
            sequenced: false,
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
