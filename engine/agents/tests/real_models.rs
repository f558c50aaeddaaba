//! The whole way with the real auditor and generator. Where the models are not in the tree, this says so and passes.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use common::{Host, codes, until};
use karat_agents::findings::FindingCode as Found;
use karat_agents::models::auditor_thresholds;
use karat_agents::{AgentHost, Agents, AgentsConfig, Job};
use karat_edge_node::generator::{GenerationRequest, Generator};
use karat_edge_node::manifest::Manifest;
use karat_proto::command::{
    ClaimRule, CollectionSpec, Content, Decision, Lineage, PendingRule, Policy, TraitSpec, Traits,
    Verdict,
};
use karat_proto::lineage::lineage_hash;
use karat_proto::{Account, Code, Digest};

/// The small ledger with the models' collection in place of the painter's.
struct RealHost {
    ledger: Arc<Host>,
    collection: Arc<CollectionSpec>,
}

impl AgentHost for RealHost {
    fn content(&self, digest: &Digest) -> Result<Option<bytes::Bytes>, String> {
        self.ledger.content(digest)
    }
    fn collection(&self, _: u32) -> Option<Arc<CollectionSpec>> {
        Some(self.collection.clone())
    }
    fn still_has(&self, collection: u32, asset: u64, version: u32) -> bool {
        self.ledger.still_has(collection, asset, version)
    }
    fn policy(&self) -> Arc<Policy> {
        self.ledger.policy()
    }
    fn submit(&self, verdict: Verdict, done: Box<dyn FnOnce(Code) + Send>) {
        self.ledger.submit(verdict, done);
    }
}

fn models() -> Option<(PathBuf, PathBuf)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../edge-node/models");
    let (generator, auditor) = (folder.join("relics"), folder.join("relics-auditor"));
    if let Some(missing) = [&generator, &auditor]
        .into_iter()
        .find(|folder| !folder.join("manifest.toml").exists())
    {
        eprintln!("not tried: no model in {}", missing.display());
        return None;
    }
    Some((generator, auditor))
}

fn collection_of(manifest: &Manifest) -> CollectionSpec {
    CollectionSpec {
        name: manifest.name.clone(),
        supply_cap: 1_000_000,
        traits: manifest
            .traits
            .iter()
            .map(|spec| TraitSpec {
                name: spec.name.clone(),
                values: spec.values.clone(),
                weights: spec.weights.clone(),
            })
            .collect(),
        exclusions: vec![],
        value_caps: vec![],
        claim_rule: ClaimRule::First,
        pending_rule: PendingRule::default(),
        seed_commitment: [0; 32],
        royalty_basis_points: 0,
        royalty_receiver: Account::NOBODY,
    }
}

/// Trait combinations that the model allows, spread by the asset's number.
fn traits_of(manifest: &Manifest, asset: u64) -> Vec<u8> {
    let rules = manifest.trait_rules();
    (0..)
        .map(|again: u64| {
            let hash = blake3::hash(&(asset << 32 | again).to_be_bytes());
            let bytes = hash.as_bytes();
            let pick = |(index, values): (usize, &u8)| bytes[index] % values;
            rules.cardinalities.iter().enumerate().map(pick).collect()
        })
        .find(|values: &Vec<u8>| rules.allows(values).is_ok())
        .unwrap()
}

fn job(manifest: &Manifest, variant: &str, asset: u64, traits: &[u8], png: &[u8]) -> Job {
    let seed = [asset as u8; 32];
    Job {
        asset,
        version: 1,
        collection: 1,
        content: Content {
            digest: karat_content::digest_of(png),
            size: png.len() as u32,
        },
        traits: Traits::new(traits).unwrap(),
        lineage: Lineage {
            model: manifest.digest,
            variant: variant.into(),
            seed,
            hash: lineage_hash(&manifest.digest, variant, &seed, traits, 0),
        },
        parent_version: 0,
        sequence: asset,
        born: Instant::now(),
    }
}

#[test]
fn assets_of_the_real_generator_are_reproduced_and_lies_about_them_are_found() {
    let Some((generator_folder, auditor)) = models() else {
        return;
    };
    let manifest = Manifest::load(&generator_folder).unwrap();
    let Some(exact) = manifest.variants.iter().find(|variant| variant.exact) else {
        eprintln!("not tried, the generator has no exact variant");
        return;
    };
    let variant = exact.name.clone();
    let (accept_below_ppm, reject_above_ppm) = auditor_thresholds(&auditor).unwrap();
    let ledger = Host::new(Policy {
        accept_below_ppm,
        reject_above_ppm,
        reexecution_sample_ppm: 1_000_000,
        ..Policy::default()
    });
    let host = RealHost {
        ledger: ledger.clone(),
        collection: Arc::new(collection_of(&manifest)),
    };
    let config = AgentsConfig {
        models: vec![generator_folder.clone()],
        auditor,
        ..AgentsConfig::default()
    };
    let agents = Agents::start(config, Arc::new(host)).unwrap();

    const ASSETS: u64 = 32;
    let mut generator = Generator::load(&generator_folder, variant.as_str()).unwrap();
    let requests: Vec<GenerationRequest> = (1..=2 * ASSETS)
        .map(|asset| GenerationRequest {
            seed: [asset as u8; 32],
            traits: traits_of(&manifest, asset),
        })
        .collect();
    let made = generator.generate(&requests).unwrap();
    for (asset, (request, made)) in (1..).zip(requests.iter().zip(&made)) {
        // The second half claims the traits of its neighbour.
        let claimed = if asset <= ASSETS {
            request.traits.clone()
        } else {
            traits_of(&manifest, asset + 1)
        };
        let job = job(&manifest, &variant, asset, &claimed, &made.png);
        ledger.change(|state| {
            let png = made.png.clone().into();
            state.content.insert(job.content.digest, png);
        });
        agents.try_offer(job).unwrap();
    }
    until("all verdicts", || ledger.verdicts() as u64 == 2 * ASSETS);

    let decisions = |from: u64, to: u64, decision: Decision| {
        (from..=to)
            .filter(|asset| ledger.verdict(*asset).unwrap().decision == decision)
            .count()
    };
    for (what, from, to) in [("honest", 1, ASSETS), ("lying", ASSETS + 1, 2 * ASSETS)] {
        eprintln!(
            "{what}: {} accepted, {} to people, {} rejected",
            decisions(from, to, Decision::Accept),
            decisions(from, to, Decision::Review),
            decisions(from, to, Decision::Reject)
        );
    }
    // How well the auditor reads is the models' affair; what is exact must be so here.
    for asset in 1..=ASSETS {
        let verdict = ledger.verdict(asset).unwrap();
        let read_as_other = verdict.decision == Decision::Reject;
        let found = codes(&verdict);
        assert!(
            read_as_other || found.contains(&Found::PixelsReproduced),
            "{found:?}"
        );
    }
    // Neighbours differ in several of eight traits; both the auditor and re-execution see it.
    assert_eq!(decisions(ASSETS + 1, 2 * ASSETS, Decision::Accept), 0);
    until("the permits' return", || agents.stats().in_flight == 0);
    let stats = agents.stats();
    eprintln!("{stats:#?}");
    assert_eq!((stats.panics, stats.stalls), (0, 0));
}

#[test]
fn a_model_file_that_is_cut_short_stops_the_start_by_name() {
    let Some((_, auditor)) = models() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&auditor).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let manifest = Manifest::load(folder.path()).unwrap();
    let file = folder.path().join(&manifest.variants[0].file);
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 7]).unwrap();
    let config = AgentsConfig {
        auditor: folder.path().into(),
        ..AgentsConfig::default()
    };
    let error = Agents::start(config, Host::new(Policy::default()))
        .err()
        .unwrap();
    assert!(
        error.to_string().contains(&manifest.variants[0].file),
        "{error}"
    );
}
