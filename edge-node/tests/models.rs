//! Models as they are loaded and run: what fits its role works at every batch size, what does not is refused when it
//! is loaded, with what differs. Runs on the backend that `ORT_DYLIB_PATH` chooses, the built-in one by default.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Size, Tiny, folder_with, tiny_auditor, tiny_generator, tiny_pixels, write_folder};
use karat_edge_node::auditor::{Auditor, AuditorError};
use karat_edge_node::generator::{
    GenerationRequest, Generator, GeneratorError, REQUESTS_MOST, probe_variants,
};
use karat_edge_node::ladder::{Ladder, LadderConfig};
use karat_edge_node::manifest::{Manifest, ManifestError};
use karat_edge_node::pixels::{PngLimits, decode_png};
use karat_edge_node::runtime::RuntimeError;
use karat_edge_node::seeds::{Secret, latent_from_seed};

fn requests(count: usize) -> Vec<GenerationRequest> {
    let secret = Secret::from_bytes([4; 32]);
    (0..count)
        .map(|index| GenerationRequest {
            seed: secret.seed(index as u64),
            traits: vec![(index % 2) as u8, (index % 3) as u8],
        })
        .collect()
}

fn refusal(bytes: &[u8]) -> String {
    let folder = folder_with("generator", bytes);
    Generator::load(folder.path(), None)
        .unwrap_err()
        .to_string()
}

#[test]
fn pixels_are_those_of_the_arithmetic_at_every_batch_size() {
    let folder = folder_with("generator", &tiny_generator(&Tiny::default()));
    let mut generator = Generator::load(folder.path(), None).unwrap();
    generator.warm_up().unwrap();
    for count in [0, 1, 2, 8, 31, 32, 33, 64, 100] {
        let requests = requests(count);
        let assets = generator.generate(&requests).unwrap();
        assert_eq!(assets.len(), count);
        for (request, asset) in requests.iter().zip(&assets) {
            let latent = latent_from_seed(&request.seed, 3);
            assert_eq!(
                asset.pixels,
                tiny_pixels(&request.traits, &latent),
                "batch of {count}"
            );
            assert_eq!(
                decode_png(&asset.png, PngLimits::default()).unwrap().rgb,
                asset.pixels
            );
        }
    }
}

#[test]
fn an_auditor_answers_each_image_the_same_in_any_batch() {
    let folder = folder_with("auditor", &tiny_auditor());
    let mut auditor = Auditor::load(folder.path()).unwrap();
    auditor.warm_up().unwrap();
    let images: Vec<Vec<u8>> = (0..40u8)
        .map(|index| vec![index.wrapping_mul(37); 48])
        .collect();
    let all: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
    let together = auditor.audit(&all).unwrap();
    for (image, audit) in all.iter().zip(&together) {
        assert_eq!(&auditor.audit(&[image]).unwrap()[0].traits, &audit.traits);
        assert_eq!(audit.traits.len(), 2);
        assert_eq!(audit.trait_confidence_ppm.len(), 2);
        assert!(audit.corruption_ppm <= 1_000_000);
    }
    assert_eq!(auditor.thresholds().reject_above_ppm, 800_000);
}

#[test]
fn a_truncated_model_is_refused_even_if_its_manifest_agrees() {
    let whole = tiny_generator(&Tiny::default());
    for length in [0, 1, 10, whole.len() / 2, whole.len() - 1] {
        let folder = folder_with("generator", &whole[..length.max(1)]);
        let error = Generator::load(folder.path(), None).unwrap_err();
        assert!(
            matches!(
                error,
                GeneratorError::Runtime(RuntimeError::Load { .. } | RuntimeError::Unsound { .. })
            ),
            "{length}: {error}"
        );
    }
}

#[test]
fn a_model_with_another_interface_is_refused_with_what_differs() {
    let tiny = |change: fn(&mut Tiny)| {
        let mut tiny = Tiny::default();
        change(&mut tiny);
        refusal(&tiny_generator(&tiny))
    };
    let error = tiny(|tiny| tiny.latent_name = "noise");
    assert!(
        error.contains("unknown input \"noise\"; its inputs must be traits, latent"),
        "{error}"
    );
    let error = tiny(|tiny| tiny.pixels_name = "picture");
    assert!(error.contains("unknown output \"picture\""), "{error}");
    let error = tiny(|tiny| tiny.latent_length = 4);
    assert!(
        error.contains("[batch, 4]; must be Float32 of [batch, 3]"),
        "{error}"
    );
    let error = tiny(|tiny| tiny.batch = Size::Fixed(2));
    assert!(error.contains("batch and must be open"), "{error}");
    let error = tiny(|tiny| tiny.operator = "Sharpen");
    assert!(
        error.contains("tiny 1 variant full: operator \"Sharpen\"")
            && error.contains("export the model with"),
        "{error}"
    );
    let error = refusal(&tiny_auditor());
    assert!(
        error.contains("does not fit its role: unknown input \"pixels\""),
        "{error}"
    );
}

#[test]
fn a_model_is_not_taken_for_another_role() {
    let generator = folder_with("generator", &tiny_generator(&Tiny::default()));
    let auditor = folder_with("auditor", &tiny_auditor());
    let error = Auditor::load(generator.path()).unwrap_err().to_string();
    assert_eq!(error, "model tiny is a generator; needed is an auditor");
    let error = Generator::load(auditor.path(), None)
        .unwrap_err()
        .to_string();
    assert_eq!(error, "model tiny is an auditor; needed is a generator");
}

#[test]
fn an_altered_model_file_is_refused() {
    let folder = folder_with("generator", &tiny_generator(&Tiny::default()));
    let other = tiny_generator(&Tiny {
        scale: 2.0,
        ..Tiny::default()
    });
    std::fs::write(folder.path().join("full.onnx"), other).unwrap();
    let error = Generator::load(folder.path(), None).unwrap_err();
    assert!(matches!(
        error,
        GeneratorError::Runtime(RuntimeError::Manifest(ManifestError::Altered { .. }))
    ));
}

#[test]
fn requests_that_the_model_cannot_serve_are_refused_before_any_work() {
    let folder = folder_with("generator", &tiny_generator(&Tiny::default()));
    let mut generator = Generator::load(folder.path(), None).unwrap();
    let mut wrong = requests(3);
    wrong[2].traits = vec![0, 3];
    let error = generator.generate(&wrong).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("request 2: traits 1 names trait 1 value 3"),
        "{error}"
    );
    wrong[2].traits = vec![0];
    assert!(matches!(
        generator.generate(&wrong),
        Err(GeneratorError::Traits { index: 2, .. })
    ));
    let error = generator
        .generate_from_latents(&[&[0, 0]], &[vec![0.0; 4]])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "request 0: latent of 4 values; the model takes 3"
    );
    let error = generator
        .generate_from_latents(&[&[0, 0]], &[])
        .unwrap_err();
    assert!(matches!(
        error,
        GeneratorError::LatentLength {
            index: 0,
            found: 0,
            ..
        }
    ));
    let error = generator
        .generate(&requests(REQUESTS_MOST + 1))
        .unwrap_err();
    assert!(matches!(error, GeneratorError::TooMany { .. }));
}

#[test]
fn an_image_of_another_size_is_not_audited() {
    let folder = folder_with("auditor", &tiny_auditor());
    let mut auditor = Auditor::load(folder.path()).unwrap();
    let error = auditor.audit(&[&[0; 48], &[0; 47]]).unwrap_err();
    assert!(matches!(
        error,
        AuditorError::ImageBytes {
            index: 1,
            found: 47,
            expected: 48
        }
    ));
}

#[test]
fn a_variant_that_cannot_be_loaded_leaves_the_present_one_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let (full, double) = (
        tiny_generator(&Tiny::default()),
        tiny_generator(&Tiny {
            scale: 2.0,
            ..Tiny::default()
        }),
    );
    write_folder(
        folder.path(),
        "generator",
        &[("full", &full), ("double", &double)],
    );
    let mut generator = Generator::load(folder.path(), "full").unwrap();
    let before = generator.generate(&requests(5)).unwrap();
    std::fs::write(
        folder.path().join("double.onnx"),
        b"replaced while the node runs",
    )
    .unwrap();
    assert!(generator.switch_variant("double").is_err());
    assert!(generator.switch_variant("triple").is_err());
    assert_eq!(generator.variant(), "full");
    let after = generator.generate(&requests(5)).unwrap();
    assert!(before.iter().zip(&after).all(|(a, b)| a.pixels == b.pixels));
    std::fs::write(folder.path().join("double.onnx"), &double).unwrap();
    generator.switch_variant("double").unwrap();
    assert_ne!(
        generator.generate(&requests(5)).unwrap()[0].pixels,
        before[0].pixels
    );
    assert_eq!(generator.probe(3, Duration::MAX).unwrap().variant, "double");
}

#[test]
fn a_ladder_is_built_from_what_was_measured_here() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = tiny_generator(&Tiny::default());
    write_folder(
        folder.path(),
        "generator",
        &[("full", &tiny), ("small", &tiny)],
    );
    let manifest = Manifest::load(folder.path()).unwrap();
    let rungs = probe_variants(&manifest, 3).unwrap();
    assert!(rungs.iter().all(|rung| rung.cost_ns > 0));
    let ladder = Ladder::new(rungs, "full", LadderConfig::default()).unwrap();
    assert_eq!(ladder.current().variant, "full");
    assert_eq!(ladder.rungs().len() + ladder.left_out().len(), 2);
}
