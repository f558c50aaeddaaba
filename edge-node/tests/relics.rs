//! The committed models against their golden vectors, which were made with ONNX Runtime. Runs on the backend that
//! `ORT_DYLIB_PATH` chooses, the built-in one by default.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use karat_edge_node::auditor::Auditor;
use karat_edge_node::generator::{GenerationRequest, Generator};
use karat_edge_node::manifest::Manifest;
use karat_edge_node::rarity::TraitSolver;
use karat_edge_node::seeds::Secret;
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// A reading as unsure as this may come out differently on another backend.
const SURE_PPM: u32 = 700_000;

#[derive(Deserialize)]
struct Golden {
    format: u32,
    traits: Vec<String>,
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    traits: Vec<u8>,
    latent: Vec<f32>,
    exact_sha256: String,
    /// Mean of all samples by variant, for those that are not exact.
    means: BTreeMap<String, f64>,
    mean_tolerance: f64,
    /// What the auditor read, by variant.
    auditor_traits: BTreeMap<String, Vec<u8>>,
}

fn models(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("models")
        .join(name)
}

fn golden() -> Golden {
    let text = std::fs::read_to_string(models("relics").join("golden.json")).unwrap();
    let golden: Golden = serde_json::from_str(&text).unwrap();
    assert_eq!(golden.format, 2);
    assert!(golden.vectors.len() >= 8);
    golden
}

/// Names of the variants, the exact ones or the others.
fn variants(exact: bool) -> Vec<String> {
    let manifest = Manifest::load(models("relics")).unwrap();
    let of_kind = manifest.variants.iter().filter(|spec| spec.exact == exact);
    let names: Vec<String> = of_kind.map(|spec| spec.name.clone()).collect();
    assert!(!names.is_empty());
    names
}

fn generate(variant: &str, golden: &Golden) -> Vec<Vec<u8>> {
    let mut generator = Generator::load(models("relics"), variant).unwrap();
    let traits: Vec<&[u8]> = golden
        .vectors
        .iter()
        .map(|vector| vector.traits.as_slice())
        .collect();
    let latents: Vec<Vec<f32>> = golden
        .vectors
        .iter()
        .map(|vector| vector.latent.clone())
        .collect();
    let together = generator.generate_from_latents(&traits, &latents).unwrap();
    if generator.manifest().is_exact(variant) {
        for (index, asset) in together.iter().enumerate() {
            let alone = generator
                .generate_from_latents(&traits[index..=index], &latents[index..=index])
                .unwrap();
            assert!(
                alone[0].pixels == asset.pixels,
                "vector {index} depends on its batch"
            );
        }
    }
    together.into_iter().map(|asset| asset.pixels).collect()
}

#[test]
fn the_exact_variant_gives_the_golden_pixels_bit_for_bit() {
    let golden = golden();
    for variant in variants(true) {
        let images = generate(&variant, &golden);
        for (index, (pixels, vector)) in images.iter().zip(&golden.vectors).enumerate() {
            let found = hex::encode(Sha256::digest(pixels));
            assert_eq!(found, vector.exact_sha256, "{variant}, vector {index}");
        }
    }
}

#[test]
fn every_other_variant_is_within_its_tolerance() {
    let golden = golden();
    for variant in variants(false) {
        let images = generate(&variant, &golden);
        for (index, (pixels, vector)) in images.iter().zip(&golden.vectors).enumerate() {
            let sum: f64 = pixels.iter().map(|byte| f64::from(*byte)).sum();
            let (mean, expected) = (sum / pixels.len() as f64, vector.means[&variant]);
            assert!(
                (mean - expected).abs() <= vector.mean_tolerance,
                "{variant}, vector {index}: mean {mean}, expected {expected}"
            );
        }
    }
}

#[test]
fn the_auditor_reads_what_it_read_when_it_was_made() {
    let golden = golden();
    let mut auditor = Auditor::load(models("relics-auditor")).unwrap();
    let names: Vec<&String> = auditor
        .manifest()
        .traits
        .iter()
        .map(|spec| &spec.name)
        .collect();
    assert_eq!(names, golden.traits.iter().collect::<Vec<_>>());
    for variant in [variants(true), variants(false)].concat() {
        let images = generate(&variant, &golden);
        let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
        for (index, (audit, vector)) in auditor
            .audit(&images)
            .unwrap()
            .iter()
            .zip(&golden.vectors)
            .enumerate()
        {
            let expected = &vector.auditor_traits[&variant];
            for (place, value) in expected.iter().enumerate() {
                let sure = audit.trait_confidence_ppm[place] >= SURE_PPM;
                assert!(
                    !sure || audit.traits[place] == *value,
                    "{variant} {index}: trait {place}"
                );
            }
        }
    }
}

#[test]
fn generator_and_auditor_speak_of_the_same_traits() {
    let (generator, auditor) = (
        Manifest::load(models("relics")).unwrap(),
        Manifest::load(models("relics-auditor")).unwrap(),
    );
    assert_eq!(generator.traits, auditor.traits);
    assert_eq!(generator.pixel_bytes(), auditor.pixel_bytes());
    assert_ne!(generator.digest, auditor.digest);
}

#[test]
fn an_asset_made_from_its_seed_comes_out_the_same_again() {
    let exact = variants(true).remove(0);
    let mut generator = Generator::load(models("relics"), exact.as_str()).unwrap();
    let mut solver = TraitSolver::new(generator.manifest().trait_rules()).unwrap();
    let secret = Secret::from_bytes([11; 32]);
    let requests: Vec<GenerationRequest> = (0..20)
        .map(|index| {
            let seed = secret.seed(index);
            GenerationRequest {
                seed,
                traits: solver.take(&seed).unwrap(),
            }
        })
        .collect();
    let assets = generator.generate(&requests).unwrap();
    let again = Generator::load(models("relics"), exact.as_str())
        .unwrap()
        .generate(&requests[13..14])
        .unwrap();
    assert_eq!(again[0].pixels, assets[13].pixels);
    assert_eq!(again[0].png, assets[13].png);
}
