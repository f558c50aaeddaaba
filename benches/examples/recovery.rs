//! Builds the data folder of a realm with many commands, then measures what a restart costs: replaying the whole log from
//! nothing, and recovering from a snapshot and a small tail; with the bytes that a command takes in the log and a live asset
//! takes in memory.
//!
//! `cargo run --release -p karat-benches --example recovery -- [--commands 1000000] [--dir DIR] [--json]`
//!
//! The log holds exactly the commands asked for: a deposit for one account in a hundred, mints for a fifth (half of them open
//! for claims), then the mixture of [`Kind::Mixed`] and the settler's reports. Same options, same log, byte for byte. Every
//! part runs in a process of its own, so each begins with nothing in memory; files are warm in the page cache. Both ways must
//! end at the digest that the builder had.

use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use karat_benches::{Kind, Made, Workload, only_ids, processor_time, resident_bytes};
use karat_engine::data_folder::DataFolder;
use karat_engine::machine::LedgerMachine;
use karat_engine::snapshots;
use karat_ledger::Ledger;
use karat_proto::Code;
use karat_sequencer::{
    BlockContext, BlockHeader, EncodedBlock, Journal, JournalConfig, Log, Machine, NO_PARENT,
    Recovery, replay,
};
use serde::{Deserialize, Serialize};

/// Most that closing the journal may take, for a slow disk.
const CLOSE_WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(60);

#[derive(Parser)]
#[command(about = "What a restart costs: replay of a whole log, and recovery from a snapshot")]
struct Options {
    /// Commands in the log
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    commands: u64,
    /// Commands in a block
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=16_384))]
    block: u64,
    /// Commands behind the snapshot, a little more or less to end at a block's end; 1 % when not given
    #[arg(long)]
    tail: Option<u64>,
    /// Keep the realm in this folder, which must be empty; else a temporary one is used
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Run one part alone, for the process that this one starts
    #[arg(long, hide = true)]
    part: Option<Part>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    Build,
    Replay,
    Recover,
    Idle,
}

/// The realm in the folder.
#[derive(Serialize, Deserialize)]
struct Built {
    commands: u64,
    blocks: u64,
    log_bytes: u64,
    live_assets: u64,
    accounts: u64,
    remembered_ids: u64,
    snapshot_sequence: u64,
    snapshot_bytes: u64,
    snapshot_write_s: f64,
    digest: String,
}

/// One way back to the state.
#[derive(Serialize, Deserialize)]
struct Recovered {
    /// Opening the journal, which checks all of it.
    open_s: f64,
    /// Reading the snapshot, if there is one.
    snapshot_read_s: f64,
    /// Reading, decoding and applying what follows.
    replay_s: f64,
    /// All of it.
    total_s: f64,
    /// Time that the thread had a core, of all of it.
    processor_s: f64,
    replayed_commands: u64,
    /// How much the process had grown by at the end.
    resident_bytes: u64,
    digest: String,
}

/// A ledger that holds as many ids and nothing else.
#[derive(Serialize, Deserialize)]
struct Idle {
    resident_bytes: u64,
}

#[derive(Serialize)]
struct Report {
    load_average: String,
    realm: Built,
    from_nothing: Recovered,
    from_snapshot: Recovered,
    log_bytes_per_command: f64,
    replayed_commands_per_s: f64,
    resident_bytes_per_live_asset: u64,
    resident_bytes_per_live_asset_without_ids: u64,
    resident_bytes_per_remembered_id: u64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(part) = options.part {
        let dir = options.dir.as_deref().context("a part needs --dir")?;
        let line = match part {
            Part::Build => serde_json::to_string(&build(dir, &options)?),
            Part::Replay => serde_json::to_string(&recover(dir, false)?),
            Part::Recover => serde_json::to_string(&recover(dir, true)?),
            Part::Idle => serde_json::to_string(&idle(options.commands)?),
        };
        println!("{}", line?);
        return Ok(());
    }
    let temporary;
    let dir = match &options.dir {
        Some(dir) => dir,
        None => {
            temporary = tempfile::tempdir()?;
            temporary.path()
        }
    };
    let report = measure(dir, &options)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}

fn measure(dir: &Path, options: &Options) -> Result<Report> {
    let load_average = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let realm: Built = run(Part::Build, dir, options, options.commands)?;
    let from_nothing: Recovered = run(Part::Replay, dir, options, options.commands)?;
    let from_snapshot: Recovered = run(Part::Recover, dir, options, options.commands)?;
    let idle: Idle = run(Part::Idle, dir, options, realm.remembered_ids)?;
    for (way, found) in [("replay", &from_nothing), ("snapshot", &from_snapshot)] {
        ensure!(
            found.digest == realm.digest,
            "the builder ended at digest {}, the {way} at {}",
            realm.digest,
            found.digest
        );
    }
    let resident = from_nothing.resident_bytes;
    Ok(Report {
        load_average: load_average.trim().to_owned(),
        log_bytes_per_command: realm.log_bytes as f64 / realm.commands as f64,
        replayed_commands_per_s: realm.commands as f64 / from_nothing.replay_s,
        resident_bytes_per_live_asset: resident / realm.live_assets,
        resident_bytes_per_live_asset_without_ids: resident.saturating_sub(idle.resident_bytes)
            / realm.live_assets,
        resident_bytes_per_remembered_id: idle.resident_bytes / realm.remembered_ids,
        realm,
        from_nothing,
        from_snapshot,
    })
}

fn print(report: &Report) {
    let Report {
        realm,
        from_nothing,
        from_snapshot,
        ..
    } = report;
    println!(
        "{} commands in {} blocks, {} live assets, {} accounts; load average {}",
        realm.commands, realm.blocks, realm.live_assets, realm.accounts, report.load_average
    );
    println!("                      open and check   snapshot     replay      total  processor");
    for (name, way) in [
        ("from nothing", from_nothing),
        ("from snapshot + tail", from_snapshot),
    ] {
        println!(
            "{name:<22}{:>12.3} s {:>8.3} s {:>8.3} s {:>8.3} s {:>8.3} s   {} commands applied",
            way.open_s,
            way.snapshot_read_s,
            way.replay_s,
            way.total_s,
            way.processor_s,
            way.replayed_commands,
        );
    }
    println!("bars                  for 1,000,000 commands: 5 s from nothing, 2 s from a snapshot");
    println!(
        "replayed              {:.0} commands/s",
        report.replayed_commands_per_s
    );
    println!(
        "log                   {:.1} bytes a command",
        report.log_bytes_per_command
    );
    println!(
        "snapshot              {} bytes at sequence {}, written in {:.3} s",
        realm.snapshot_bytes, realm.snapshot_sequence, realm.snapshot_write_s
    );
    println!(
        "memory                {} bytes resident a live asset: {} of the asset and its owner, and {} for each of {} remembered ids",
        report.resident_bytes_per_live_asset,
        report.resident_bytes_per_live_asset_without_ids,
        report.resident_bytes_per_remembered_id,
        realm.remembered_ids
    );
}

/// Runs a part in a process of its own and reads its line.
fn run<T: for<'a> Deserialize<'a>>(
    part: Part,
    dir: &Path,
    options: &Options,
    commands: u64,
) -> Result<T> {
    let part = part.to_possible_value().context("every part has a name")?;
    let name = part.get_name();
    let mut process = Process::new(std::env::current_exe()?);
    process
        .args(["--part", name])
        .arg("--dir")
        .arg(dir)
        .args(["--commands", &commands.to_string()])
        .args(["--block", &options.block.to_string()])
        .stderr(std::process::Stdio::inherit());
    if let Some(tail) = options.tail {
        process.args(["--tail", &tail.to_string()]);
    }
    let output = process.output().with_context(|| format!("start {name}"))?;
    ensure!(
        output.status.success(),
        "{name} ended with {}",
        output.status
    );
    serde_json::from_slice(&output.stdout).with_context(|| format!("read what {name} printed"))
}

fn build(dir: &Path, options: &Options) -> Result<Built> {
    let folder = DataFolder::open_or_create(dir)?;
    let (mut journal, found) = Journal::open(&folder.journal(), JournalConfig::default())?;
    if found.last_sequence > 0 {
        bail!(
            "{} holds a realm already; give an empty folder",
            dir.display()
        );
    }
    let tail = options.tail.unwrap_or(options.commands / 100);
    let accounts = (options.commands / 100).max(2);
    let mut workload = Workload::new(accounts);
    // Last first: taken from the end.
    let mut waiting: Vec<Made> = workload.opening().into_iter().rev().collect();
    let (mut deposited, mut minted) = (0, 0);
    let mut machine = LedgerMachine::bare(Ledger::new());
    let mut encoded = EncodedBlock::new();
    let mut parent = NO_PARENT;
    let (mut sequence, mut blocks) = (0, 0);
    let (mut snapshot_sequence, mut snapshot_bytes, mut snapshot_write_s) = (0, 0, 0.0);
    let (mut commands, mut outcomes) = (Vec::new(), Vec::new());
    while sequence < options.commands {
        let count = options.block.min(options.commands - sequence) as usize;
        let header = BlockHeader {
            realm: "bench".into(),
            epoch: 1,
            first_sequence: sequence + 1,
            time_ms: 1_700_000_000_000 + blocks,
            parent,
            ingress: vec![],
        };
        encoded.begin(&header, count)?;
        for _ in 0..count {
            let made = if let Some(made) = waiting.pop() {
                made
            } else if deposited < accounts {
                deposited += 1;
                workload.first_deposit(deposited - 1)
            } else if minted < options.commands / 5 {
                minted += 1;
                workload.make(match minted % 2 {
                    0 => Kind::MintOwned,
                    _ => Kind::MintUnowned,
                })
            } else {
                workload.make(Kind::Mixed)
            };
            encoded.push(&made.body)?;
            commands.push(made.command);
        }
        encoded.finish()?;
        journal.append(&encoded)?;
        let context = BlockContext {
            header: &header,
            hash: encoded.hash(),
            replay: false,
        };
        machine.apply(&context, &mut commands, &mut outcomes);
        if let Some(refused) = outcomes
            .iter()
            .find(|outcome| outcome.code != Code::Accepted)
        {
            bail!("the ledger refused a command: {refused:?}");
        }
        outcomes.clear();
        parent = *encoded.hash();
        sequence = encoded.last_sequence();
        blocks += 1;
        let open: Vec<(u64, u32)> = machine
            .ledger()
            .open_batches()
            .map(|batch| (batch.number, batch.changes))
            .collect();
        // A batch is reported once: while its reports wait it is still open.
        if waiting.is_empty() {
            waiting = workload.settle(open).into_iter().rev().collect();
        }
        if snapshot_sequence == 0 && sequence + tail >= options.commands {
            let clock = Instant::now();
            let path = snapshots::write(&folder.snapshots(), machine.ledger(), 1)?;
            snapshot_write_s = clock.elapsed().as_secs_f64();
            snapshot_bytes = std::fs::metadata(path)?.len();
            snapshot_sequence = sequence;
        }
    }
    journal.close(CLOSE_WAIT_MAX)?;
    let counts = machine.ledger().counts();
    Ok(Built {
        commands: sequence,
        blocks,
        log_bytes: used_bytes(&folder.journal())?,
        live_assets: counts.assets - counts.burned - counts.redeemed,
        accounts: counts.accounts,
        remembered_ids: counts.retry_entries,
        snapshot_sequence,
        snapshot_bytes,
        snapshot_write_s,
        digest: hexadecimal(&machine.ledger().digest()),
    })
}

fn recover(dir: &Path, from_snapshot: bool) -> Result<Recovered> {
    let resident_before = resident_bytes()?;
    let processor_before = processor_time();
    let started = Instant::now();
    let folder = DataFolder::open(dir)?;
    let (journal, log): (Journal, Recovery) =
        Journal::open(&folder.journal(), JournalConfig::default())?;
    let open_s = started.elapsed().as_secs_f64();
    let clock = Instant::now();
    let ledger = if from_snapshot {
        let (newest, passed_over) = snapshots::newest(&folder.snapshots(), log.last_sequence)?;
        ensure!(passed_over.is_empty(), "damaged snapshots: {passed_over:?}");
        newest.context("the folder holds no snapshot")?
    } else {
        Ledger::new()
    };
    let snapshot_read_s = clock.elapsed().as_secs_f64();
    let clock = Instant::now();
    let from_sequence = ledger.applied_seq() + 1;
    let mut machine = LedgerMachine::bare(ledger);
    let blocks = journal.reader().read(from_sequence)?;
    let summary = replay(blocks, from_sequence, &mut machine)?;
    let replay_s = clock.elapsed().as_secs_f64();
    let total_s = started.elapsed().as_secs_f64();
    let resident_bytes = resident_bytes()?.saturating_sub(resident_before);
    ensure!(
        machine.ledger().applied_seq() == log.last_sequence,
        "the log ends at {}, the ledger at {}",
        log.last_sequence,
        machine.ledger().applied_seq()
    );
    Ok(Recovered {
        open_s,
        snapshot_read_s,
        replay_s,
        total_s,
        processor_s: (processor_time() - processor_before).as_secs_f64(),
        replayed_commands: summary.commands,
        resident_bytes,
        digest: hexadecimal(&machine.ledger().digest()),
    })
}

/// What the retry memory takes by itself.
fn idle(ids: u64) -> Result<Idle> {
    let before = resident_bytes()?;
    let ledger = only_ids(ids);
    ensure!(ledger.counts().retry_entries == ids, "ids were forgotten");
    Ok(Idle {
        resident_bytes: resident_bytes()?.saturating_sub(before),
    })
}

/// Bytes of the segments up to the last one that is not zero: segments are made in full size beforehand.
fn used_bytes(journal: &Path) -> Result<u64> {
    let mut used = 0;
    for entry in std::fs::read_dir(journal)? {
        let bytes = std::fs::read(entry?.path())?;
        used += bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last as u64 + 1);
    }
    Ok(used)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
