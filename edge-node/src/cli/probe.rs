//! `karat-edge probe`: what a model costs on this machine.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use karat_edge_node::generator::{Generator, ServingCost};
use karat_edge_node::ladder::Rung;
use karat_edge_node::manifest::Manifest;
use karat_edge_node::node::{ProbeKey, Probes};
use karat_edge_node::runtime::backend;
use serde_json::json;

use crate::Failure;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  karat-edge probe --model edge-node/models/relics")]
pub struct ProbeArguments {
    /// The model's folder.
    #[arg(long)]
    model: PathBuf,
    /// Micro-batches to measure.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Batch sizes at which serving is compared with bare session runs; may be given more than once.
    #[arg(long = "batch", default_values_t = [1, 8], value_parser = crate::micro_batch)]
    batches: Vec<usize>,
    /// Folder of a node's spool: keeps the results there for the node's next start.
    #[arg(long)]
    spool: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// What was measured of one variant.
struct Measured {
    rung: Rung,
    exact: bool,
    ladder: bool,
    /// Loading and warming up.
    load: Duration,
    serving: Vec<ServingCost>,
}

pub fn run(arguments: &ProbeArguments) -> Result<(), Failure> {
    let manifest = Manifest::load(&arguments.model)?;
    let rounds = arguments.rounds as usize;
    let mut measured = Vec::new();
    for spec in &manifest.variants {
        let began = Instant::now();
        let mut generator = Generator::from_manifest(manifest.clone(), &spec.name)?;
        generator.warm_up()?;
        let load = began.elapsed();
        let rung = generator.probe(rounds, Duration::MAX)?;
        let each = arguments.batches.iter();
        let serving = each.map(|batch| generator.serving_cost(*batch, rounds));
        measured.push(Measured {
            rung,
            exact: spec.exact,
            ladder: spec.ladder,
            load,
            serving: serving.collect::<Result<_, _>>()?,
        });
    }
    if let Some(folder) = &arguments.spool {
        std::fs::create_dir_all(folder)?;
        let key = ProbeKey::new(&manifest, &backend()?);
        let rungs: Vec<Rung> = measured.iter().map(|one| one.rung.clone()).collect();
        Probes::open(folder).keep(key, &rungs, SystemTime::now())?;
    }
    if arguments.json {
        print_json(&manifest, &measured)
    } else {
        print_text(&manifest, &measured)
    }
}

fn print_json(manifest: &Manifest, measured: &[Measured]) -> Result<(), Failure> {
    let serving = |cost: &ServingCost| {
        json!({
            "batch": cost.batch,
            "bare_ns": cost.bare_ns,
            "served_ns": cost.served_ns,
            "overhead": cost.overhead(),
            "encode_ns": cost.encode_ns,
        })
    };
    let variant = |one: &Measured| {
        json!({
            "variant": one.rung.variant,
            "cost_ns": one.rung.cost_ns,
            "quality": one.rung.quality,
            "distance": one.rung.distance,
            "exact": one.exact,
            "ladder": one.ladder,
            "load_ms": one.load.as_secs_f64() * 1e3,
            "serving": one.serving.iter().map(serving).collect::<Vec<_>>(),
        })
    };
    let backend = backend()?;
    let found = json!({
        "model": manifest.name,
        "version": manifest.version,
        "digest": hex::encode(manifest.digest),
        "backend": backend.name(),
        "runs_on": backend.to_string(),
        "variants": measured.iter().map(variant).collect::<Vec<_>>(),
    });
    println!("{found:#}");
    Ok(())
}

fn print_text(manifest: &Manifest, measured: &[Measured]) -> Result<(), Failure> {
    let digest = hex::encode(manifest.digest);
    println!(
        "{} {} ({digest})\non {}",
        manifest.name,
        manifest.version,
        backend()?
    );
    for one in measured {
        let us = |ns: u64| ns as f64 / 1e3;
        let kind = match (one.exact, one.ladder) {
            (true, _) => ", exact",
            (false, true) => "",
            (false, false) => ", off the ladder",
        };
        println!(
            "{}: {:.0} us an asset with PNG, {:.0} assets/s on one core, quality {:.4}, distance {:.4}{kind}; loaded and warm \
             in {:.0} ms",
            one.rung.variant,
            us(one.rung.cost_ns),
            1e9 / one.rung.cost_ns.max(1) as f64,
            one.rung.quality,
            one.rung.distance,
            one.load.as_secs_f64() * 1e3,
        );
        for cost in &one.serving {
            println!(
                "  batch {}: session alone {:.0} us, served {:.0} us ({:.2}x), PNG {:.0} us",
                cost.batch,
                us(cost.bare_ns),
                us(cost.served_ns),
                cost.overhead(),
                us(cost.encode_ns),
            );
        }
    }
    Ok(())
}
