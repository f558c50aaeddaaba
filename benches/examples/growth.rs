//! What ten times the assets do to the cost of a command and to the memory that an asset takes: `apply` by command kind on
//! 100,000, 1,000,000 and 10,000,000 live assets, and the bytes of memory of each.
//!
//! `cargo run --release -p karat-benches --example growth -- [--assets 100000,1000000,10000000] [--rounds 10] [--json]`
//!
//! Every size runs in a process of its own, with one account to ten assets, the digest kept and blocks announced with
//! `look_ahead`, as the engine does. A figure is the median over the rounds; a round is a block of every kind, and time is
//! the thread's processor time. Memory is what the process has resident with the realm built, less what the maker of the
//! commands takes alone, and less what the retry memory takes for the ids that it remembers; both are measured the same way.
//! 10,000,000 assets want some 8 GiB and a few minutes.

use std::collections::BTreeMap;
use std::process::Command as Process;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use karat_benches::{Kind, Realm, Workload, only_ids, processor_time, resident_bytes};
use serde::{Deserialize, Serialize};

/// Assets for each account.
const ASSETS_AN_ACCOUNT: usize = 10;
/// What ten times the assets may cost a command, as a factor.
const COST_MAX: f64 = 2.0;
/// What a live asset may take in memory.
const ASSET_BYTES_MAX: u64 = 300;

#[derive(Parser)]
#[command(
    about = "Apply cost by command kind, and memory a live asset, at several sizes of a realm"
)]
struct Options {
    /// Live assets, each ten times the one before
    #[arg(
        long,
        value_delimiter = ',',
        num_args = 1,
        default_value = "100000,1000000,10000000"
    )]
    assets: Vec<usize>,
    /// Blocks of each kind
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    rounds: u64,
    /// Commands in a block; all rounds of a kind together must be fewer than a quarter of the assets
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1..=16_384))]
    block: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Run one part alone, for the process that this one starts
    #[arg(long, hide = true)]
    part: Option<Part>,
    /// Accounts and ids of a part.
    #[arg(long, hide = true, default_value_t = 0)]
    count: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    /// A realm: its memory, then its speed.
    Realm,
    /// The maker of the realm's commands alone.
    Maker,
    /// Remembered ids alone.
    Ids,
}

/// A realm of one size.
#[derive(Serialize, Deserialize)]
struct Grown {
    live_assets: u64,
    accounts: u64,
    remembered_ids: u64,
    resident_bytes: u64,
    /// Median nanoseconds of one command, by kind.
    apply_ns: BTreeMap<String, f64>,
}

#[derive(Serialize, Deserialize)]
struct Resident {
    resident_bytes: u64,
}

/// A size with everything that is told of it.
#[derive(Serialize)]
struct Size {
    realm: Grown,
    maker_bytes: u64,
    ids_bytes: u64,
    bytes_an_asset: u64,
    bytes_an_asset_with_ids: u64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(part) = options.part {
        let assets = *options.assets.first().context("a part needs --assets")?;
        let line = match part {
            Part::Realm => serde_json::to_string(&grow(assets, &options)?),
            Part::Maker => serde_json::to_string(&maker(assets)?),
            Part::Ids => serde_json::to_string(&ids(options.count)?),
        };
        println!("{}", line?);
        return Ok(());
    }
    let load_average = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut sizes = Vec::new();
    for assets in &options.assets {
        let used = (options.rounds * options.block) as usize;
        ensure!(
            used < assets / 4,
            "{} rounds of {} commands use up the quarter of {assets} assets that can be claimed",
            options.rounds,
            options.block
        );
        sizes.push(measure(*assets, &options)?);
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&sizes)?);
    } else {
        println!("load average before: {}", load_average.trim());
        print(&sizes);
    }
    Ok(())
}

fn measure(assets: usize, options: &Options) -> Result<Size> {
    let realm: Grown = run(Part::Realm, assets, 0, options)?;
    let maker: Resident = run(Part::Maker, assets, 0, options)?;
    let ids: Resident = run(Part::Ids, assets, realm.remembered_ids, options)?;
    let ledger = realm.resident_bytes.saturating_sub(maker.resident_bytes);
    Ok(Size {
        maker_bytes: maker.resident_bytes,
        ids_bytes: ids.resident_bytes,
        bytes_an_asset: ledger.saturating_sub(ids.resident_bytes) / realm.live_assets,
        bytes_an_asset_with_ids: ledger / realm.live_assets,
        realm,
    })
}

/// Runs a part in a process of its own and reads its line.
fn run<T: for<'a> Deserialize<'a>>(
    part: Part,
    assets: usize,
    count: u64,
    options: &Options,
) -> Result<T> {
    let part = part.to_possible_value().context("every part has a name")?;
    let name = part.get_name();
    let output = Process::new(std::env::current_exe()?)
        .args(["--part", name])
        .args(["--assets", &assets.to_string()])
        .args(["--count", &count.to_string()])
        .args(["--rounds", &options.rounds.to_string()])
        .args(["--block", &options.block.to_string()])
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("start {name}"))?;
    ensure!(
        output.status.success(),
        "{name} of {assets} assets ended with {}",
        output.status
    );
    serde_json::from_slice(&output.stdout).with_context(|| format!("read what {name} printed"))
}

fn accounts_of(assets: usize) -> usize {
    (assets / ASSETS_AN_ACCOUNT).max(2)
}

fn grow(assets: usize, options: &Options) -> Result<Grown> {
    let before = resident_bytes()?;
    let mut realm = Realm::new(accounts_of(assets), assets);
    let resident_bytes = resident_bytes()?.saturating_sub(before);
    let counts = realm.ledger.counts();
    let mut grown = Grown {
        live_assets: counts.assets - counts.burned - counts.redeemed,
        accounts: counts.accounts,
        remembered_ids: counts.retry_entries,
        resident_bytes,
        apply_ns: BTreeMap::new(),
    };
    // Verdicts before anything that ends an asset they would be about.
    let (first, others) = ([Kind::Verdict], Kind::ALL);
    let others = others.into_iter().filter(|kind| *kind != Kind::Verdict);
    for kinds in [first.to_vec(), others.collect()] {
        let mut taken: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        for _ in 0..options.rounds {
            for kind in &kinds {
                let commands = realm.make(*kind, options.block as usize);
                let before = processor_time();
                realm.apply(&commands);
                let time = processor_time() - before;
                realm.settle();
                taken.entry(kind.name()).or_default().push(time);
            }
        }
        for (name, mut times) in taken {
            times.sort_unstable();
            let median = times[times.len() / 2];
            let one = median.as_nanos() as f64 / options.block as f64;
            grown.apply_ns.insert(name.to_owned(), one);
        }
    }
    Ok(grown)
}

/// The commands of the same realm, made and dropped.
fn maker(assets: usize) -> Result<Resident> {
    let before = resident_bytes()?;
    let accounts = accounts_of(assets);
    let mut workload = Workload::new(accounts as u64);
    workload.opening();
    for number in 0..accounts {
        workload.first_deposit(number as u64);
    }
    for number in 0..assets {
        workload.make(Realm::kind_of_asset(number));
    }
    let resident_bytes = resident_bytes()?.saturating_sub(before);
    ensure!(workload.unclaimed() > 0, "nothing was made");
    Ok(Resident { resident_bytes })
}

fn ids(count: u64) -> Result<Resident> {
    let before = resident_bytes()?;
    let ledger = only_ids(count);
    let resident_bytes = resident_bytes()?.saturating_sub(before);
    ensure!(ledger.counts().retry_entries == count, "ids were forgotten");
    Ok(Resident { resident_bytes })
}

fn print(sizes: &[Size]) {
    let row = |name: &str, cells: Vec<String>| println!("| {name} | {} |", cells.join(" | "));
    let steps = |of: &dyn Fn(&Size) -> f64| -> Vec<f64> {
        let steps = sizes.windows(2);
        steps.map(|step| of(&step[1]) / of(&step[0])).collect()
    };
    let heads = sizes.iter().map(|size| size.realm.live_assets.to_string());
    let between = sizes.windows(2).map(|step| {
        format!(
            "{} over {}",
            step[1].realm.live_assets, step[0].realm.live_assets
        )
    });
    row("apply, ns a command", heads.chain(between).collect());
    row("---", vec!["---".into(); 2 * sizes.len() - 1]);
    let mut worst: f64 = 0.0;
    for kind in Kind::ALL {
        let of = |size: &Size| size.realm.apply_ns[kind.name()];
        let steps = steps(&of);
        worst = steps.iter().copied().fold(worst, f64::max);
        let times = sizes.iter().map(|size| format!("{:.0}", of(size)));
        let ratios = steps.iter().map(|ratio| format!("{ratio:.2}x"));
        row(kind.name(), times.chain(ratios).collect());
    }
    let memory = |name: &str, of: &dyn Fn(&Size) -> u64| {
        let cells = sizes.iter().map(|size| of(size).to_string());
        let ratios = steps(&|size| of(size) as f64);
        let ratios = ratios.iter().map(|ratio| format!("{ratio:.2}x"));
        row(name, cells.chain(ratios).collect());
    };
    memory(
        "bytes a live asset, its owner's account included",
        &|size| size.bytes_an_asset,
    );
    memory("with the retry memory's ids", &|size| {
        size.bytes_an_asset_with_ids
    });
    memory("ids remembered", &|size| size.realm.remembered_ids);
    let most = sizes.iter().map(|size| size.bytes_an_asset).max();
    println!(
        "\nbars: ten times the assets at most {COST_MAX}x the cost (most here: {worst:.2}x); at most {ASSET_BYTES_MAX} bytes a \
         live asset (most here: {})",
        most.unwrap_or(0)
    );
}
