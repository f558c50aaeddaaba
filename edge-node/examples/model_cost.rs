//! What one image costs: every variant of a generator and an auditor, at several batch sizes.
//!
//! `cargo run --release -p karat-edge-node --example model_cost -- models/relics models/relics-auditor [rounds]`
//! Set `ORT_DYLIB_PATH` to measure ONNX Runtime instead of the built-in backend. Processor time is what the thread
//! itself used (Linux only), which other programs on the machine disturb less than wall time.

use std::time::Instant;

use karat_edge_node::generator::{GenerationRequest, Generator};
use karat_edge_node::manifest::{Manifest, Role};
use karat_edge_node::pixels::encode_png;
use karat_edge_node::runtime::{Model, backend};
use karat_edge_node::seeds::{Secret, latent_from_seed};

const BATCHES: [usize; 6] = [1, 2, 8, 16, 32, 64];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rounds = arguments
        .iter()
        .find_map(|text| text.parse().ok())
        .unwrap_or(30)
        .max(1);
    println!(
        "backend: {}, {rounds} rounds, one thread",
        backend()?.kind()
    );
    for folder in arguments
        .iter()
        .filter(|text| text.parse::<usize>().is_err())
    {
        let manifest = Manifest::load(folder)?;
        for variant in &manifest.variants {
            let start = Instant::now();
            let mut model = Model::load(&manifest, &variant.name)?;
            println!(
                "{} {}: loaded in {:.1} ms",
                manifest.name,
                variant.name,
                start.elapsed().as_secs_f64() * 1e3
            );
            for batch in BATCHES {
                let [first_us, wall_us, processor_us] =
                    measure(&manifest, &mut model, batch, rounds)?;
                println!(
                    "  batch {batch:>2}: {wall_us:>8.1} us an image, processor {processor_us:>8.1} us (first run {first_us:.1} us)"
                );
            }
        }
        if manifest.role == Role::Generator {
            measure_encoding(folder)?;
        }
    }
    Ok(())
}

/// Cost of one image in microseconds: first run, then median wall time and mean processor time.
fn measure(
    manifest: &Manifest,
    model: &mut Model,
    batch: usize,
    rounds: usize,
) -> Result<[f64; 3], Box<dyn std::error::Error>> {
    let one_hot: Vec<f32> = (0..batch)
        .flat_map(|index| {
            manifest.traits.iter().flat_map(move |spec| {
                (0..spec.values.len())
                    .map(move |value| f32::from(u8::from(value == index % spec.values.len())))
            })
        })
        .collect();
    let latent: Vec<f32> = (0..batch)
        .flat_map(|index| latent_from_seed(&[index as u8; 32], manifest.latent_length))
        .collect();
    let pixels: Vec<u8> = (0..batch * manifest.pixel_bytes())
        .map(|index| (index * 7 % 251) as u8)
        .collect();
    let mut run = || -> Result<f64, Box<dyn std::error::Error>> {
        let start = Instant::now();
        match manifest.role {
            Role::Generator => drop(model.generate(batch, &one_hot, &latent)?),
            Role::Auditor => drop(model.audit(batch, &pixels)?),
        }
        Ok(start.elapsed().as_secs_f64() * 1e6 / batch as f64)
    };
    let first_us = run()?;
    // The system counts this in steps of some milliseconds, so over all rounds and not for each.
    let start_ns = processor_ns();
    let mut wall_us = (0..rounds)
        .map(|_| run())
        .collect::<Result<Vec<f64>, _>>()?;
    let processor_us = (processor_ns() - start_ns) as f64 / 1e3 / (rounds * batch) as f64;
    wall_us.sort_by(f64::total_cmp);
    Ok([first_us, wall_us[rounds / 2], processor_us])
}

/// Time that this thread ran; 0 where the system does not tell.
fn processor_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// The whole way from request to PNG, as the edge node takes it.
fn measure_encoding(folder: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut generator = Generator::load(folder, None)?;
    generator.warm_up()?;
    let secret = Secret::from_bytes([7; 32]);
    let cardinalities = generator.manifest().trait_rules().cardinalities;
    let requests: Vec<GenerationRequest> = (0..256)
        .map(|index| GenerationRequest {
            seed: secret.seed(index),
            traits: cardinalities
                .iter()
                .map(|values| (index % u64::from(*values)) as u8)
                .collect(),
        })
        .collect();
    let start = Instant::now();
    let assets = generator.generate(&requests)?;
    let count = assets.len() as f64;
    println!(
        "  request to PNG, 256 assets: {:.1} us each",
        start.elapsed().as_secs_f64() * 1e6 / count
    );
    println!(
        "  of that encoding: {:.1} us each",
        assets.iter().map(|asset| asset.encode_ns).sum::<u64>() as f64 / 1e3 / count
    );
    println!(
        "  PNG: {:.0} bytes each",
        assets.iter().map(|asset| asset.png.len()).sum::<usize>() as f64 / count
    );
    let manifest = generator.manifest();
    let first = &assets[0];
    assert_eq!(
        encode_png(manifest.image_width, manifest.image_height, &first.pixels)?,
        first.png
    );
    Ok(())
}
