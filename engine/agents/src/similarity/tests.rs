//! Bounds of what is remembered.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use karat_proto::Code;
use karat_proto::command::{ClaimRule, Content, Lineage, TraitSpec, Traits, Verdict};

use super::embedding::Embedding;
use super::*;

fn collection() -> CollectionSpec {
    CollectionSpec {
        name: "c".into(),
        supply_cap: 1,
        traits: vec![TraitSpec {
            name: "gem".into(),
            values: vec!["ruby".into()],
            weights: vec![1],
        }],
        exclusions: vec![],
        value_caps: vec![],
        claim_rule: ClaimRule::First,
        pending_rule: Default::default(),
        seed_commitment: [0; 32],
        royalty_basis_points: 0,
        royalty_receiver: karat_proto::Account::NOBODY,
    }
}

/// Knows every collection but number 13, and has every asset.
struct Host;

impl AgentHost for Host {
    fn content(&self, _: &Digest) -> Result<Option<Bytes>, String> {
        Ok(None)
    }
    fn collection(&self, id: CollectionId) -> Option<Arc<CollectionSpec>> {
        (id != 13).then(|| Arc::new(collection()))
    }
    fn still_has(&self, _: CollectionId, asset: AssetId, _: u32) -> bool {
        assert_ne!(asset, 99, "a host that breaks down");
        true
    }
    fn policy(&self) -> Arc<Policy> {
        Arc::default()
    }
    fn submit(&self, _: Verdict, done: Box<dyn FnOnce(Code) + Send>) {
        done(Code::Unavailable);
    }
}

fn opened(bounds: Bounds, folder: Option<&Path>) -> Similarity {
    let reference = Reference {
        model: [5; 32],
        mean: [0.0; 32],
        deviation: [1.0; 32],
        of_variants: vec![],
        traits: collection().traits,
        drift_window: 2,
        drift_alarm_ppm: 1,
    };
    Similarity::open(Some(reference), bounds, folder, &Host)
}

/// Judges an asset with this look; returns the asset that it was found to be like.
fn judged(similarity: &Similarity, collection: CollectionId, asset: AssetId, look: f32) -> u32 {
    let job = Job {
        asset,
        version: 1,
        collection,
        content: Content {
            digest: *blake3::hash(&asset.to_le_bytes()).as_bytes(),
            size: 1,
        },
        traits: Traits::default(),
        lineage: Lineage {
            model: [0; 32],
            variant: String::new(),
            seed: [0; 32],
            hash: [0; 32],
        },
        parent_version: 0,
        sequence: asset,
        born: Instant::now(),
    };
    let policy = Policy {
        near_duplicate_below_ppm: 200_000,
        ..Policy::default()
    };
    let embedding: Embedding = [look; 32];
    let findings = similarity.judge(&Seen {
        job: &job,
        embedding: &embedding,
        collection: &self::collection(),
        policy: &policy,
        so_far: Decision::Accept,
    });
    let like = findings
        .iter()
        .find(|finding| finding.code == FindingCode::LikeAsset as u16);
    like.map_or(0, |finding| finding.measure)
}

#[test]
fn the_collection_unused_for_longest_makes_room() {
    let bounds = Bounds {
        assets_max: 9,
        collections_max: 2,
    };
    let similarity = opened(bounds, None);
    for (collection, asset) in [(1, 10), (2, 20), (1, 11), (3, 30)] {
        assert_eq!(
            judged(&similarity, collection, asset, asset as f32 / 4.0),
            0
        );
    }
    let kept: Vec<CollectionId> = similarity
        .figures()
        .iter()
        .map(|one| one.collection)
        .collect();
    assert_eq!(kept, [1, 3]);
    assert_eq!(judged(&similarity, 1, 12, 2.75), 11);
    assert_eq!(judged(&similarity, 2, 21, 5.0), 0);
}

#[test]
fn of_many_assets_the_last_are_kept_and_the_file_does_not_grow_without_end() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = Bounds {
        assets_max: 4,
        collections_max: 2,
    };
    let similarity = opened(bounds, Some(folder.path()));
    for asset in 1..=10_000 {
        judged(&similarity, 1, asset, (asset % 8) as f32);
        similarity.write();
    }
    let length = std::fs::metadata(folder.path().join("embeddings.log"))
        .unwrap()
        .len();
    // 4,096 records of 76 bytes, the least that is worth writing anew, and one header.
    assert!(length <= 4_097 * 76 + 48, "{length}");
    let before = similarity.figures();
    assert_eq!(
        (
            before[0].assets,
            before[0].windows,
            before[0].drift_ppm.len()
        ),
        (4, 5_000, 16)
    );
    drop(similarity);
    let similarity = opened(bounds, Some(folder.path()));
    assert_eq!(similarity.figures(), before);
    assert_eq!(judged(&similarity, 1, 20_000, 0.05), 10_000);
    assert_eq!(judged(&similarity, 1, 20_001, 4.0), 0);
}

#[test]
fn what_the_host_does_not_know_or_breaks_down_over_is_not_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = Bounds {
        assets_max: 4,
        collections_max: 4,
    };
    let similarity = opened(bounds, Some(folder.path()));
    for (collection, asset) in [(13, 1), (2, 99), (2, 5)] {
        judged(&similarity, collection, asset, asset as f32);
    }
    similarity.write();
    drop(similarity);
    let figures = opened(bounds, Some(folder.path())).figures();
    assert_eq!(figures.len(), 1);
    assert_eq!((figures[0].collection, figures[0].assets), (2, 1));
}

#[test]
fn without_a_reference_nothing_is_found_nor_written() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = Bounds {
        assets_max: 4,
        collections_max: 4,
    };
    let similarity = Similarity::open(None, bounds, Some(folder.path()), &Host);
    for asset in 1..=3 {
        assert_eq!(judged(&similarity, 1, asset, 0.0), 0);
    }
    similarity.write();
    similarity.forget(1, 1);
    assert_eq!((similarity.figures(), similarity.model()), (vec![], None));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
