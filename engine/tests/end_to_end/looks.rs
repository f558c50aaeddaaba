//! Near-duplicates: what the agents remember of assets' looks.

use super::*;
use karat_agents::findings::FindingCode;
use karat_edge_node::pixels::{PngLimits, decode_png, encode_png};

/// The same picture with noise that nobody sees: one of 64 samples is off by one step of 255.
fn nudged(png: &[u8], salt: usize) -> Bytes {
    let limits = PngLimits::default();
    let mut pixels = decode_png(png, limits).unwrap();
    for sample in pixels.rgb.iter_mut().skip(salt).step_by(64) {
        *sample ^= 1;
    }
    encode_png(pixels.width, pixels.height, &pixels.rgb)
        .unwrap()
        .into()
}

async fn minted(realm: &mut Realm, collection: u32, content: Bytes) -> u64 {
    let mint = v1::Mint {
        content,
        ..mint(collection, "ann", 0)
    };
    let asset = realm.accepted("studio", Kind::Mint(mint)).await.subject;
    realm.until_state(asset, AssetState::InReview).await;
    asset
}

/// Code and measure of what the similarity agent found, by the store's history.
async fn found(realm: &mut Realm, asset: u64) -> Vec<(FindingCode, u32)> {
    realm.until_projected().await;
    let request = v1::GetHistoryRequest {
        asset,
        limit: 100,
        ..Default::default()
    };
    let events = realm
        .ledger
        .get_history(request)
        .await
        .unwrap()
        .into_inner()
        .events;
    let verdicts = events.iter().filter_map(|event| match &event.kind {
        Some(Happened::Verified(verified)) => Some(&verified.findings),
        _ => None,
    });
    verdicts
        .flatten()
        .filter(|finding| finding.agent() == v1::AgentKind::Similarity)
        .map(|finding| {
            let code = FindingCode::from_number(finding.code as u16).unwrap();
            (code, finding.measure)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asset_with_anothers_pixels_and_a_little_noise_waits_for_people_who_see_which_after_a_restart_too()
 {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(spec()).await;
    let first = minted(&mut realm, collection, png(1)).await;
    let near = minted(&mut realm, collection, nudged(&png(1), 0)).await;
    let double = minted(&mut realm, collection, png(1)).await;
    assert_eq!(found(&mut realm, first).await, []);
    let like = found(&mut realm, near).await;
    let codes: Vec<FindingCode> = like.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [FindingCode::NearDuplicate, FindingCode::LikeAsset]);
    assert_eq!(like[1].1, first as u32);
    let doubles = found(&mut realm, double).await;
    assert_eq!(doubles, [(FindingCode::ContentDouble, first as u32)]);
    let other_collection = realm.create_collection(spec()).await;
    let elsewhere = minted(&mut realm, other_collection, png(1)).await;
    assert_eq!(found(&mut realm, elsewhere).await, []);
    let status = realm.status().await;
    let assets: Vec<(u32, u64)> = status
        .similarity
        .iter()
        .map(|one| (one.collection, one.assets))
        .collect();
    assert_eq!(assets, [(collection, 3), (other_collection, 1)]);
    let figure = |name: &str| {
        let figure = status.figures.iter().find(|figure| figure.name == name);
        figure.unwrap().value
    };
    assert_eq!(
        (
            figure("near_duplicates_total"),
            figure("content_doubles_total")
        ),
        (1, 1)
    );
    // After a restart the same are remembered; one that was burned meanwhile is forgotten.
    let mut realm = realm.stop().await.start().await;
    let again = minted(&mut realm, collection, nudged(&png(1), 1)).await;
    assert_eq!(
        found(&mut realm, again).await[0].0,
        FindingCode::NearDuplicate
    );
    let third_collection = realm.create_collection(spec()).await;
    let alone = minted(&mut realm, third_collection, png(2)).await;
    realm.accept(alone).await;
    realm.until_state(alone, AssetState::Active).await;
    let burn = v1::Burn {
        asset: alone,
        version: 1,
    };
    realm.accepted("ann", Kind::Burn(burn)).await;
    let view = realm.service.gateway.clone();
    eventually("the burned asset forgotten", || {
        let similarity = view.verifier.as_ref().unwrap().agents().similarity();
        let assets = similarity
            .iter()
            .find(|one| one.collection == third_collection);
        let forgotten = assets.is_some_and(|one| one.assets == 0);
        async move { forgotten.then_some(()) }
    })
    .await;
    let successor = minted(&mut realm, third_collection, png(2)).await;
    assert_eq!(found(&mut realm, successor).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_realm_that_compares_nothing_finds_nothing() {
    let mut realm = Realm::start_with(|config| config.policy.near_duplicate_below_ppm = 0).await;
    let collection = realm.prepare(spec()).await;
    for _ in 0..2 {
        let asset = minted(&mut realm, collection, png(1)).await;
        assert_eq!(found(&mut realm, asset).await, []);
    }
}
