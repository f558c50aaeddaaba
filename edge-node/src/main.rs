//! The edge node's binary: runs a node, measures a model, makes images.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use karat_edge_node::generator::{GenerationRequest, Generator, MICRO_BATCH_MOST};
use karat_edge_node::ladder::LadderConfig;
use karat_edge_node::node::{self, NodeConfig, NodeFigures, NodeSnapshot};
use karat_edge_node::rarity::TraitSolver;
use karat_edge_node::runtime::{Device, RuntimeConfig, THREADS_MOST, init_backend};
use karat_edge_node::seeds::Secret;
use karat_edge_node::signature::{ModelTrust, parse_key};
use karat_edge_node::turns;
use karat_proto::realm::RealmName;
use karat_proto::signing::ModelKey;
use karat_proto::{Account, Code};
use tokio::sync::watch;

mod cli;

type Failure = Box<dyn std::error::Error>;

/// How often a running node says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Generates assets with a model and streams them to a Karat engine.
#[derive(Debug, Parser)]
#[command(
    name = "karat-edge",
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong arguments."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Where models run: auto, cpu or cuda (with an ONNX Runtime that has it).
    #[arg(long, global = true, default_value_t = Device::Auto)]
    device: Device,
    /// Threads of each model's session; the built-in backend has one.
    #[arg(long, global = true, default_value_t = 1, value_parser = threads)]
    threads: usize,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a node until Ctrl-C, or until --assets are made and answered.
    #[command(
        after_help = "Example:\n  karat-edge run --target http://127.0.0.1:7400 --model edge-node/models/relics \\\n    \
        --collection 1 --account studio --secret-file secret.hex --spool spool --rate 50 --assets 1000"
    )]
    Run(Box<RunArguments>),
    /// Measures what one asset costs on this machine, for each variant of a model.
    Probe(cli::probe::ProbeArguments),
    /// Writes the raw pixels of many seeds, for comparing backends and machines.
    Pixels(cli::pixels::PixelsArguments),
    /// Makes the image of one seed, as a node would.
    #[command(
        after_help = "Example:\n  karat-edge generate --model edge-node/models/relics --out relic.png \\\n    \
        --seed 0707070707070707070707070707070707070707070707070707070707070707"
    )]
    Generate {
        /// The model's folder.
        #[arg(long)]
        model: PathBuf,
        /// Variant of the model [default: the manifest's].
        #[arg(long)]
        variant: Option<String>,
        /// The seed, 64 hexadecimal digits.
        #[arg(long)]
        seed: String,
        /// Where the PNG goes.
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(Debug, Args)]
struct RunArguments {
    /// The engine, http://host:port; of engines that share realms, any one.
    #[arg(long)]
    target: String,
    /// The realm, wherever among engines that share realms it is.
    #[arg(long)]
    realm: Option<RealmName>,
    /// The model's folder.
    #[arg(long)]
    model: PathBuf,
    /// Public key that must have signed the model, 64 hexadecimal digits; several times for any of several.
    #[arg(long = "model-key", value_parser = parse_key)]
    model_keys: Vec<ModelKey>,
    /// Variant that makes every asset [default: the ladder chooses under load].
    #[arg(long)]
    variant: Option<String>,
    /// Best variant that the ladder may use; it starts there [default: the manifest's].
    #[arg(long, conflicts_with = "variant")]
    best_variant: Option<String>,
    /// Number of the collection to mint into.
    #[arg(long)]
    collection: u32,
    /// Account that mints, the collection's creator: 0x and 40 hexadecimal digits, or a name.
    #[arg(long, value_parser = Account::parse)]
    account: Account,
    /// File with the collection's secret, 64 hexadecimal digits.
    #[arg(long)]
    secret_file: PathBuf,
    /// Folder for assets that the engine has not answered yet.
    #[arg(long)]
    spool: PathBuf,
    /// Most assets in the spool.
    #[arg(long, default_value_t = 10_000)]
    spool_assets: usize,
    /// Assets a second; 0 for as fast as the engine gives credits.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Ends after so many new assets have their outcome.
    #[arg(long)]
    assets: Option<u64>,
    /// Most assets of one micro-batch.
    #[arg(long, default_value_t = 8, value_parser = micro_batch)]
    micro_batch: usize,
    /// Longest time that an asset which is due waits for more to fill its micro-batch.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1_000))]
    micro_batch_wait_ms: u64,
    /// Share of images to spoil on purpose, parts per million, so that agents have something to reject.
    #[arg(long, default_value_t = 0)]
    spoil_ppm: u32,
    /// The node's name.
    #[arg(long, default_value = "edge")]
    name: String,
    /// Prints the summary as JSON.
    #[arg(long)]
    json: bool,
}

fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=THREADS_MOST).contains(&count) => Ok(count),
        _ => Err(format!("must be 1 to {THREADS_MOST}")),
    }
}

fn micro_batch(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if (1..=MICRO_BATCH_MOST).contains(&size) => Ok(size),
        _ => Err(format!("must be 1 to {MICRO_BATCH_MOST}")),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let backend = RuntimeConfig {
        threads: arguments.threads,
        device: arguments.device,
        ..RuntimeConfig::from_environment()
    };
    let done = init_backend(&backend)
        .map_err(Failure::from)
        .and_then(|_| dispatch(arguments.command));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(arguments) => run(*arguments),
        Command::Probe(arguments) => cli::probe::run(&arguments),
        Command::Pixels(arguments) => cli::pixels::run(&arguments),
        Command::Generate {
            model,
            variant,
            seed,
            out,
        } => generate(&model, variant.as_deref(), &seed, &out),
    }
}

fn run(arguments: RunArguments) -> Result<(), Failure> {
    let file = &arguments.secret_file;
    let secret = std::fs::read_to_string(file)
        .map_err(|error| format!("cannot read the secret from {}: {error}", file.display()))?;
    let secret =
        Secret::from_hex(&secret).map_err(|error| format!("{}: {error}", file.display()))?;
    let json = arguments.json;
    let config = NodeConfig {
        target: arguments.target,
        realm: arguments.realm,
        name: arguments.name,
        account: arguments.account,
        collection: arguments.collection,
        secret,
        model_dir: arguments.model,
        model_trust: ModelTrust::of(arguments.model_keys),
        variant: arguments.variant,
        best_variant: arguments.best_variant,
        ladder: LadderConfig::default(),
        assets_a_second: arguments.rate,
        assets_max: arguments.assets,
        spool_dir: arguments.spool,
        spool_assets_max: arguments.spool_assets,
        micro_batch_max: arguments.micro_batch,
        micro_batch_wait: Duration::from_millis(arguments.micro_batch_wait_ms),
        spoil_ppm: arguments.spoil_ppm,
    };
    turns::short();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let snapshot = runtime.block_on(run_until_signal(config))?;
    if json {
        println!("{}", serde_json::to_string_pretty(&snapshot)?);
    } else {
        println!("{}\n{}", summary(&snapshot), snapshot.budget.table());
    }
    Ok(())
}

async fn run_until_signal(config: NodeConfig) -> Result<NodeSnapshot, Failure> {
    let figures = Arc::new(NodeFigures::default());
    let (stop, stopped) = watch::channel(false);
    let mut node = std::pin::pin!(node::run(config, figures.clone(), stopped));
    let mut progress = tokio::time::interval(PROGRESS_INTERVAL);
    progress.tick().await;
    loop {
        tokio::select! {
            done = &mut node => return Ok(done?),
            _ = progress.tick() => {
                let figures = figures.snapshot();
                tracing::info!("{}; {}", summary(&figures), figures.budget.line());
            }
            signal = tokio::signal::ctrl_c(), if !*stop.borrow() => {
                signal?;
                tracing::info!("stopping; what has no answer stays in the spool");
                let _ = stop.send(true);
            }
        }
    }
}

fn summary(figures: &NodeSnapshot) -> String {
    let refused = match figures.refused.is_empty() {
        true => String::from("0"),
        false => {
            let name = |code| Code::from_number(code).map_or("unknown", |code| code.name());
            let parts = figures.refused.iter();
            let parts = parts.map(|(code, count)| format!("{count} {} ({code})", name(*code)));
            parts.collect::<Vec<_>>().join(", ")
        }
    };
    let made_by = figures.made_by.iter();
    let made_by: Vec<String> = made_by
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    let made_by = made_by.join(", ");
    format!(
        "generated {} (spoiled {}), sent {}, accepted {}, accepted before {}, refused {refused}, waiting {}, reconnects {}; \
         one asset p50 {} us, p99 {} us, variant {} on {}, steps {} down and {} up, made by {made_by}",
        figures.generated,
        figures.spoiled,
        figures.sent,
        figures.acknowledged,
        figures.replayed,
        figures.spooled,
        figures.reconnects,
        figures.generate_p50_us,
        figures.generate_p99_us,
        figures.variant,
        figures.backend,
        figures.steps_down,
        figures.steps_up,
    )
}

fn generate(model: &Path, variant: Option<&str>, seed: &str, out: &Path) -> Result<(), Failure> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(seed.trim(), &mut bytes)
        .map_err(|error| format!("--seed must be 64 hexadecimal digits: {error}"))?;
    let mut generator = Generator::load(model, variant)?;
    let traits = TraitSolver::new(generator.manifest().trait_rules())?.draw(&bytes)?;
    let asset = generator
        .generate(&[GenerationRequest {
            seed: bytes,
            traits: traits.clone(),
        }])?
        .pop()
        .ok_or("the model returned no image")?;
    std::fs::write(out, &asset.png)
        .map_err(|error| format!("cannot write {}: {error}", out.display()))?;
    for (value, spec) in traits.iter().zip(&generator.manifest().traits) {
        let value = spec
            .values
            .get(usize::from(*value))
            .map_or("?", String::as_str);
        println!("{}: {value}", spec.name);
    }
    println!("{} bytes in {}", asset.png.len(), out.display());
    Ok(())
}
