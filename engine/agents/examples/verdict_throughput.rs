//! How many verdicts a second the agents reach with real models, and how late they are.
//!
//! `cargo run --release -p karat-agents --example verdict_throughput -- GENERATOR AUDITOR [ASSETS] [WORKERS] [SAMPLE_PPM]`

use std::collections::HashMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use karat_agents::models::auditor_thresholds;
use karat_agents::{AgentHost, Agents, AgentsConfig, Job};
use karat_edge_node::generator::{GenerationRequest, Generator};
use karat_edge_node::manifest::Manifest;
use karat_proto::command::{
    ClaimRule, CollectionSpec, Content, Lineage, PendingRule, Policy, TraitSpec, Traits, Verdict,
};
use karat_proto::lineage::lineage_hash;
use karat_proto::{Account, Code, Digest};

/// Different images; assets repeat them.
const IMAGES: usize = 256;

struct Memory {
    content: HashMap<Digest, Bytes>,
    collection: Arc<CollectionSpec>,
    policy: Arc<Policy>,
}

impl AgentHost for Memory {
    fn content(&self, digest: &Digest) -> Result<Option<Bytes>, String> {
        Ok(self.content.get(digest).cloned())
    }
    fn collection(&self, _: u32) -> Option<Arc<CollectionSpec>> {
        Some(self.collection.clone())
    }
    fn still_has(&self, _: u32, _: u64, _: u32) -> bool {
        true
    }
    fn policy(&self) -> Arc<Policy> {
        self.policy.clone()
    }
    fn submit(&self, _: Verdict, done: Box<dyn FnOnce(Code) + Send>) {
        done(Code::Accepted);
    }
}

fn collection_of(manifest: &Manifest) -> CollectionSpec {
    let traits = manifest.traits.iter().map(|spec| TraitSpec {
        name: spec.name.clone(),
        values: spec.values.clone(),
        weights: spec.weights.clone(),
    });
    CollectionSpec {
        name: manifest.name.clone(),
        supply_cap: u64::MAX,
        traits: traits.collect(),
        exclusions: vec![],
        value_caps: vec![],
        claim_rule: ClaimRule::First,
        pending_rule: PendingRule::default(),
        seed_commitment: [0; 32],
        royalty_basis_points: 0,
        royalty_receiver: Account::NOBODY,
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |place: usize, otherwise: u64| {
        arguments
            .get(place)
            .map_or(Ok(otherwise), |text| text.parse())
    };
    let [generator_folder, auditor] = [0, 1].map(|place| arguments.get(place).map(PathBuf::from));
    let (Some(generator_folder), Some(auditor)) = (generator_folder, auditor) else {
        return Err("give a generator's folder and an auditor's folder".into());
    };
    let (assets, workers) = (number(2, 5_000)?, number(3, 1)? as usize);
    let reexecution_sample_ppm = number(4, 20_000)? as u32;

    let manifest = Manifest::load(&generator_folder)?;
    let variant = manifest
        .variants
        .iter()
        .find(|variant| variant.exact)
        .map_or(manifest.default_variant.clone(), |exact| exact.name.clone());
    let traits = vec![0; manifest.traits.len()];
    let seed = |place: usize| *blake3::hash(&place.to_be_bytes()).as_bytes();
    let requests: Vec<GenerationRequest> = (0..IMAGES)
        .map(|place| GenerationRequest {
            seed: seed(place),
            traits: traits.clone(),
        })
        .collect();
    let made = Generator::load(&generator_folder, variant.as_str())?.generate(&requests)?;
    let jobs: Vec<Job> = made
        .iter()
        .enumerate()
        .map(|(place, made)| Job {
            asset: 0,
            version: 1,
            collection: 1,
            content: Content {
                digest: karat_content::digest_of(&made.png),
                size: made.png.len() as u32,
            },
            traits: Traits::new(&traits).unwrap_or_default(),
            lineage: Lineage {
                model: manifest.digest,
                variant: variant.clone(),
                seed: seed(place),
                hash: lineage_hash(&manifest.digest, &variant, &seed(place), &traits, 0),
            },
            parent_version: 0,
            sequence: 0,
            born: Instant::now(),
        })
        .collect();
    let (accept_below_ppm, reject_above_ppm) = auditor_thresholds(&auditor)?;
    let content = made.into_iter().map(|made| {
        let digest = karat_content::digest_of(&made.png);
        (digest, Bytes::from(made.png))
    });
    let host = Memory {
        content: content.collect(),
        collection: Arc::new(collection_of(&manifest)),
        policy: Arc::new(Policy {
            accept_below_ppm,
            reject_above_ppm,
            reexecution_sample_ppm,
            ..Policy::default()
        }),
    };
    let config = AgentsConfig {
        workers,
        models: vec![generator_folder],
        auditor,
        ..AgentsConfig::default()
    };
    let agents = Agents::start(config, Arc::new(host))?;
    let start = Instant::now();
    for asset in 1..=assets {
        let mut job = jobs[asset as usize % IMAGES].clone();
        (job.asset, job.born) = (asset, Instant::now());
        agents.offer(job).await;
    }
    while agents.stats().in_flight > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{assets} assets in {seconds:.2} s: {:.0} verdicts/s",
        assets as f64 / seconds
    );
    println!("{:#?}", agents.stats());
    agents.stop().await;
    Ok(())
}
