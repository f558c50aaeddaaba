//! `karat-edge pixels`: raw pixels of many seeds, so that two backends or machines can be compared byte by byte.
//!
//! Input `i` follows from the secret of 32 bytes `01`: its seed is the secret's seed of index `i`, traits and latent
//! follow from the seed as a node draws them. `--inputs` writes what the model was given, so that any other runtime can
//! be given the same.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use karat_edge_node::manifest::Manifest;
use karat_edge_node::rarity::TraitSolver;
use karat_edge_node::runtime::{BATCH_MOST, Model};
use karat_edge_node::seeds::{Secret, latent_from_seed};

use crate::Failure;

/// Most seeds of one call: at 64 x 64 pixels a file of 12 GB.
const COUNT_MOST: u64 = 1_000_000;
const SECRET: [u8; 32] = [1; 32];

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  karat-edge pixels --model edge-node/models/relics --variant exact --count 100 --batch 8 --out a.rgb"
)]
pub struct PixelsArguments {
    /// The model's folder.
    #[arg(long)]
    model: PathBuf,
    /// Variant of the model [default: the manifest's].
    #[arg(long)]
    variant: Option<String>,
    /// How many seeds.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=COUNT_MOST))]
    count: u64,
    /// Images of one run of the model.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=BATCH_MOST as u64))]
    batch: u64,
    /// Where the pixels go: RGB bytes, rows from the top, image after image.
    #[arg(long)]
    out: PathBuf,
    /// Where the inputs go: for each image the one-hot traits and the latent, little-endian 32-bit floats.
    #[arg(long)]
    inputs: Option<PathBuf>,
}

pub fn run(arguments: &PixelsArguments) -> Result<(), Failure> {
    let manifest = Manifest::load(&arguments.model)?;
    let variant = arguments
        .variant
        .as_ref()
        .unwrap_or(&manifest.default_variant);
    let mut model = Model::load(&manifest, variant)?;
    let mut solver = TraitSolver::new(manifest.trait_rules())?;
    let secret = Secret::from_bytes(SECRET);
    let mut out = create(&arguments.out)?;
    let mut inputs = arguments.inputs.as_deref().map(create).transpose()?;
    let mut from = 0;
    while from < arguments.count {
        let batch = arguments.batch.min(arguments.count - from);
        let (mut traits, mut latents) = (Vec::new(), Vec::new());
        for index in from..from + batch {
            let seed = secret.seed(index);
            let one_hot = one_hot(&manifest, &solver.draw(&seed)?);
            let latent = latent_from_seed(&seed, manifest.latent_length);
            if let Some(inputs) = &mut inputs {
                for value in one_hot.iter().chain(&latent) {
                    inputs.write_all(&value.to_le_bytes())?;
                }
            }
            traits.extend(one_hot);
            latents.extend(latent);
        }
        out.write_all(&model.generate(batch as usize, &traits, &latents)?)?;
        from += batch;
    }
    out.flush()?;
    if let Some(mut inputs) = inputs {
        inputs.flush()?;
    }
    Ok(())
}

fn one_hot(manifest: &Manifest, values: &[u8]) -> Vec<f32> {
    let mut one_hot = Vec::with_capacity(manifest.one_hot_length());
    for (spec, chosen) in manifest.traits.iter().zip(values) {
        let here = 0..spec.values.len();
        one_hot.extend(here.map(|value| f32::from(u8::from(value == usize::from(*chosen)))));
    }
    one_hot
}

fn create(path: &Path) -> Result<BufWriter<File>, Failure> {
    let file =
        File::create(path).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok(BufWriter::new(file))
}
