//! The backend is chosen once, openly, and never silently another one: one test, because it is one process. And the same
//! models on both backends, in processes of their own: needs ONNX Runtime's library at `ORT_DYLIB_PATH`.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use karat_edge_node::manifest::Manifest;
use karat_edge_node::runtime::{
    BackendKind, Device, LIBRARY_VARIABLE, RuntimeConfig, RuntimeError, backend, init_backend,
};

/// How many seeds are compared; fewer than continuous integration asks for, so that the usual tests stay short.
const SEEDS_VARIABLE: &str = "KARAT_BACKEND_SEEDS";
const SEEDS_USUAL: usize = 64;
/// Variants that are not exact are compared on fewer: their mean differences settle soon.
const SEEDS_INEXACT_MOST: usize = 1_000;

#[test]
fn the_backend_is_chosen_once_and_a_library_that_cannot_be_loaded_is_an_error() {
    let missing = RuntimeConfig {
        library: Some("/nowhere/libonnxruntime.so".into()),
        ..RuntimeConfig::default()
    };
    let error = init_backend(&missing).unwrap_err();
    assert!(
        matches!(error, RuntimeError::Library { .. }) && error.to_string().contains("/nowhere"),
        "{error}"
    );

    for (config, text) in [
        (
            RuntimeConfig {
                threads: 2,
                ..RuntimeConfig::default()
            },
            "runs on one thread",
        ),
        (
            RuntimeConfig {
                threads: 0,
                ..RuntimeConfig::default()
            },
            "0 threads",
        ),
        (
            RuntimeConfig {
                device: Device::Cuda,
                ..RuntimeConfig::default()
            },
            "has no CUDA",
        ),
    ] {
        let error = init_backend(&config).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }

    let built_in = init_backend(&RuntimeConfig::default()).unwrap();
    assert_eq!(built_in.kind(), &BackendKind::Tract);
    assert_eq!(
        init_backend(&RuntimeConfig::default()).unwrap().kind(),
        &BackendKind::Tract
    );
    assert_eq!(backend().unwrap().name(), "tract");

    let error = init_backend(&missing).unwrap_err();
    assert!(
        matches!(error, RuntimeError::AlreadyChosen { .. }),
        "{error}"
    );
}

fn relics() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/relics")
}

fn seeds() -> usize {
    let asked = std::env::var(SEEDS_VARIABLE).ok();
    asked.map_or(SEEDS_USUAL, |text| text.parse().unwrap())
}

/// The library, or a line that says why nothing is compared.
fn library() -> Option<PathBuf> {
    let library = RuntimeConfig::from_environment().library;
    if library.is_none() {
        println!("skipped: no ONNX Runtime at {LIBRARY_VARIABLE}");
    }
    library
}

/// The pixels that a process of its own makes, on the built-in backend where there is no library.
fn pixels(library: Option<&Path>, variant: &str, count: usize, batch: usize) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("pixels.rgb");
    let mut command = Command::new(env!("CARGO_BIN_EXE_karat-edge"));
    match library {
        Some(library) => command.env(LIBRARY_VARIABLE, library),
        None => command.env_remove(LIBRARY_VARIABLE),
    };
    let ended = command
        .args(["pixels", "--device", "cpu", "--variant", variant, "--model"])
        .arg(relics())
        .args([
            "--count",
            &count.to_string(),
            "--batch",
            &batch.to_string(),
            "--out",
        ])
        .arg(&out)
        .output()
        .unwrap();
    assert!(
        ended.status.success(),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    std::fs::read(out).unwrap()
}

#[test]
fn exact_variants_give_the_same_pixels_on_both_backends_at_any_batch() {
    let Some(library) = library() else { return };
    let (manifest, count) = (Manifest::load(relics()).unwrap(), seeds());
    let exact = manifest.variants.iter().filter(|variant| variant.exact);
    for name in exact.map(|variant| variant.name.as_str()) {
        let built_in = pixels(None, name, count, 1);
        assert_eq!(built_in.len(), count * manifest.pixel_bytes());
        for (backend, batch) in [(None, 64), (Some(&*library), 1), (Some(&*library), 64)] {
            let other = pixels(backend, name, count, batch);
            let differing = built_in.iter().zip(&other).filter(|(a, b)| a != b).count();
            assert_eq!(
                (other.len(), differing),
                (built_in.len(), 0),
                "{backend:?}, batch {batch}"
            );
        }
        println!("{name}: {count} seeds, the same bytes on both backends at batch 1 and 64");
    }
}

#[test]
fn other_variants_differ_between_backends_by_less_than_their_manifest_allows() {
    let Some(library) = library() else { return };
    let manifest = Manifest::load(relics()).unwrap();
    let count = seeds().min(SEEDS_INEXACT_MOST);
    for variant in manifest.variants.iter().filter(|variant| !variant.exact) {
        let built_in = pixels(None, &variant.name, count, 1);
        let mut worst: f64 = 0.0;
        for batch in [1, 64] {
            let other = pixels(Some(&library), &variant.name, count, batch);
            let images = built_in.chunks_exact(manifest.pixel_bytes());
            for (one, other) in images.zip(other.chunks_exact(manifest.pixel_bytes())) {
                let sum: u64 = one
                    .iter()
                    .zip(other)
                    .map(|(a, b)| u64::from(a.abs_diff(*b)))
                    .sum();
                worst = worst.max(sum as f64 / one.len() as f64);
            }
        }
        println!(
            "{}: {count} seeds, largest mean difference {worst:.4} steps",
            variant.name
        );
        let allowed = variant.backend_tolerance;
        assert!(
            worst <= allowed,
            "{}: {worst}, allowed {allowed}",
            variant.name
        );
    }
}
