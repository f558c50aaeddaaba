//! Counts the instructions of the hot functions under callgrind and compares them with the committed table.
//!
//! ```text
//! cargo run --release -p karat-benches --example instructions               exit code 1 when something grew by over 5 %
//! cargo run --release -p karat-benches --example instructions -- --write    writes benches/instructions.txt again
//! cargo run --release -p karat-benches --example instructions -- --only apply/claim
//! ```
//!
//! It needs `valgrind`; without it says "skipped:". Each figure is counted in a process of its own, so that none depends on
//! what the others left in memory, with nothing of the caller's environment.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use karat_benches::instructions::{GROWTH_PERCENT_MAX, Table};
use karat_benches::{Kind, Made, Realm};
use karat_content::{ContentStore as _, MemoryContent};
use karat_engine::gateway::admission::admit_encoded;
use karat_proto::served::{SubmitRequest, SubmitResponse};
use karat_proto::{convert, v1};
use karat_sequencer::{Block, BlockHeader, EncodedBlock};
use prost::Message as _;

/// Calls of each function; the figure is of one.
const CALLS: usize = 512;
/// Commands in a block, and in a large message.
const BATCH: usize = 256;
/// Small, because callgrind runs fifty times slower; a larger realm misses caches, which instructions do not show.
const ASSETS: usize = 4_000;
const ACCOUNTS: usize = 200;

#[derive(Parser)]
#[command(about = "Instructions of the hot functions, against the committed table")]
struct Options {
    /// Write the table instead of comparing with it
    #[arg(long)]
    write: bool,
    /// The table [default: benches/instructions.txt]
    #[arg(long)]
    table: Option<PathBuf>,
    /// Count this figure alone, and print it
    #[arg(long, conflicts_with = "write")]
    only: Option<String>,
    /// Run a figure's function, for the process under callgrind
    #[arg(long, hide = true)]
    run: Option<String>,
}

/// What is counted: a function that was prepared, how many calls it makes of what the figure is about, and its name.
struct Figure {
    name: String,
    calls: usize,
    prepare: Box<dyn Fn() -> Box<dyn FnMut()>>,
}

/// Callgrind counts from where this begins to where it ends; its name is all that it knows of this program.
#[inline(never)]
fn counted_from_here(work: &mut dyn FnMut()) {
    black_box(work)();
}

fn figures() -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut figure = |name: String, calls, prepare: Box<dyn Fn() -> Box<dyn FnMut()>>| {
        figures.push(Figure {
            name,
            calls,
            prepare,
        });
    };
    for kind in Kind::ALL {
        figure(
            format!("apply/{}", kind.name()),
            CALLS,
            Box::new(move || apply(kind)),
        );
    }
    for kind in [
        Kind::Transfer,
        Kind::Claim,
        Kind::Exchange,
        Kind::ExchangeOfEightLegs,
        Kind::MintOwned,
    ] {
        let name = format!("admit/{}", kind.name());
        figure(name, CALLS, Box::new(move || admission(kind)));
    }
    for commands in [1, BATCH] {
        let calls = CALLS / commands;
        let name = format!("decode_frame/{commands}");
        figure(name, calls, Box::new(move || decode_frame(commands)));
        let name = format!("encode_outcomes/{commands}");
        figure(name, calls, Box::new(move || encode_outcomes(commands)));
        let name = format!("encode_block/{commands}");
        figure(name, 1, Box::new(move || encode_block(commands)));
    }
    figure("decode_command".into(), CALLS, Box::new(decode_command));
    figures
}

fn made(kind: Kind, count: usize) -> (Realm, Vec<Made>) {
    let mut realm = Realm::new(ACCOUNTS, ASSETS);
    let made = (0..count).map(|_| realm.workload.make(kind)).collect();
    (realm, made)
}

fn encoded(kind: Kind, count: usize) -> Vec<Bytes> {
    made(kind, count)
        .1
        .into_iter()
        .map(|made| made.body)
        .collect()
}

fn apply(kind: Kind) -> Box<dyn FnMut()> {
    let (mut realm, made) = made(kind, CALLS);
    let commands: Vec<_> = made.into_iter().map(|made| made.command).collect();
    Box::new(move || realm.apply(black_box(&commands)))
}

/// As the gateway does it: from a command as it came to the log's bytes and the typed command. A mint names content that is
/// stored, so no hash of an image is in it.
fn admission(kind: Kind) -> Box<dyn FnMut()> {
    let content = MemoryContent::default();
    let stored = content
        .put(b"an image")
        .map_or(Bytes::new(), |digest| Bytes::copy_from_slice(&digest));
    let named = |body: Bytes| {
        // What was encoded here a moment ago.
        let mut wire = v1::Command::decode(body.clone()).unwrap_or_default();
        let Some(v1::command::Kind::Mint(mint)) = &mut wire.kind else {
            return body;
        };
        mint.digest = stored.clone();
        wire.encode_to_vec().into()
    };
    let mut commands = Some(encoded(kind, CALLS).into_iter().map(named).collect());
    Box::new(move || {
        let mut hashing = Duration::ZERO;
        let commands: Vec<Bytes> = commands.take().unwrap_or_default();
        for command in commands {
            let admitted = admit_encoded(&content, command, &mut hashing);
            assert!(black_box(admitted).is_ok(), "a refusal would be counted");
        }
    })
}

/// A message of `Submit`, as it comes out of the transport.
fn decode_frame(commands: usize) -> Box<dyn FnMut()> {
    let frames: Vec<Bytes> = encoded(Kind::Transfer, CALLS)
        .chunks(commands)
        .map(|commands| {
            let request = SubmitRequest {
                ack: v1::AckLevel::Sequenced.into(),
                commands: commands.to_vec(),
            };
            request.encode_to_vec().into()
        })
        .collect();
    Box::new(move || {
        for frame in &frames {
            let request = SubmitRequest::decode(black_box(frame.clone()));
            assert!(black_box(request).is_ok());
        }
    })
}

fn encode_outcomes(commands: usize) -> Box<dyn FnMut()> {
    let (ids, outcomes) = karat_benches::accepted(commands);
    let mut buffer = Vec::with_capacity(64 * commands);
    Box::new(move || {
        for _ in 0..CALLS / commands {
            buffer.clear();
            let response = SubmitResponse::new(v1::AckLevel::Sequenced, &ids, black_box(&outcomes));
            assert!(response.encode(&mut buffer).is_ok());
            black_box(&buffer);
        }
    })
}

/// Encoding, the checksum and the hash of a block.
fn encode_block(commands: usize) -> Box<dyn FnMut()> {
    let block = Block {
        header: BlockHeader {
            realm: "bench".into(),
            epoch: 1,
            first_sequence: 1,
            time_ms: 1,
            parent: [1; 32],
            ingress: vec![],
        },
        bodies: made(Kind::Transfer, commands)
            .1
            .into_iter()
            .map(|made| made.body)
            .collect(),
    };
    let mut encoded = EncodedBlock::new();
    // Grown to its size before it is counted.
    assert!(block.encode_into(&mut encoded).is_ok());
    Box::new(move || {
        assert!(black_box(&block).encode_into(&mut encoded).is_ok());
        black_box(encoded.hash());
    })
}

/// From the log's bytes to the typed command, as replay does it.
fn decode_command() -> Box<dyn FnMut()> {
    let made = made(Kind::Mixed, CALLS).1;
    Box::new(move || {
        for made in &made {
            let command = convert::decode_command(black_box(&made.body));
            assert!(black_box(command).is_ok());
        }
    })
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let figures = figures();
    let find = |name: &str| {
        let names = || figures.iter().map(|one| one.name.as_str());
        let found = figures.iter().find(|one| one.name == name);
        found.with_context(|| {
            format!(
                "no figure {name}; there are {:?}",
                names().collect::<Vec<_>>()
            )
        })
    };
    if let Some(name) = &options.run {
        let mut work = (find(name)?.prepare)();
        counted_from_here(&mut *work);
        // What the process under callgrind sees of the processor.
        println!("{}", processor());
        return Ok(ExitCode::SUCCESS);
    }
    let Some(valgrind) = said(Process::new("valgrind").arg("--version")) else {
        println!("skipped: instructions were not counted: valgrind is not installed");
        return Ok(ExitCode::SUCCESS);
    };
    if let Some(name) = &options.only {
        println!("{name} {}", count(find(name)?)?.0);
        return Ok(ExitCode::SUCCESS);
    }
    let mut now = Table::default();
    let mut processor = String::new();
    for figure in &figures {
        // What does not run by itself is a failure of the code; what only valgrind cannot run is not.
        (figure.prepare)()();
        match count(figure) {
            Ok((count, seen)) => {
                now.counts.insert(figure.name.clone(), count);
                processor = seen;
            }
            Err(error) => {
                println!("skipped: instructions were not counted: {error:#}");
                return Ok(match options.write {
                    true => ExitCode::FAILURE,
                    false => ExitCode::SUCCESS,
                });
            }
        }
    }
    let unknown = || "unknown".to_owned();
    let compiler = said(Process::new("rustc").arg("--version").current_dir(here()));
    let libc = said(Process::new("getconf").arg("GNU_LIBC_VERSION"));
    for (name, value) in [
        ("architecture", std::env::consts::ARCH.to_owned()),
        ("compiler", compiler.unwrap_or_else(unknown)),
        ("libc", libc.unwrap_or_else(unknown)),
        ("processor", processor),
        ("valgrind", valgrind),
    ] {
        now.facts.insert(name.into(), value);
    }
    let path = options.table.unwrap_or(here().join("instructions.txt"));
    let name = path.display();
    if options.write {
        std::fs::write(&path, now.render()).with_context(|| format!("write {name}"))?;
        println!("wrote {name}");
        return Ok(ExitCode::SUCCESS);
    }
    let table = std::fs::read_to_string(&path).with_context(|| format!("read {name}"))?;
    let compared = Table::parse(&table)
        .with_context(|| name.to_string())?
        .compare(&now);
    print!("{}", compared.text);
    if !compared.facts_differ.is_empty() {
        println!(
            "skipped: nothing is concluded from these counts, because the table was taken on something else: {}",
            compared.facts_differ.join("; ")
        );
        return Ok(ExitCode::SUCCESS);
    }
    if !compared.failed() {
        println!("nothing grew by more than {GROWTH_PERCENT_MAX} %");
        return Ok(ExitCode::SUCCESS);
    }
    for wrong in &compared.wrong {
        println!("{wrong}");
    }
    println!(
        "make it cheaper; or run this with --write, and say in the commit what the instructions are for"
    );
    Ok(ExitCode::FAILURE)
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The first line that a program prints, when it can be run and ends well.
fn said(program: &mut Process) -> Option<String> {
    let output = program.output().ok().filter(|one| one.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().map(str::to_owned)
}

/// Instructions of one call, and the processor as the counted process saw it.
fn count(figure: &Figure) -> Result<(u64, String)> {
    let folder = tempfile::tempdir()?;
    let dump = folder.path().join("out");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let output = Process::new("valgrind")
        // Valgrind finds itself by PATH; anything else would only move the stack.
        .env_clear()
        .env("PATH", path)
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .arg("--toggle-collect=*counted_from_here*")
        .arg(format!("--callgrind-out-file={}", dump.display()))
        .arg(std::env::current_exe()?)
        .args(["--run", &figure.name])
        .output()
        .context("start valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "callgrind of {} ended with {}: {said}",
        figure.name,
        output.status,
    );
    let text = std::fs::read_to_string(&dump)?;
    let of = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    let total = of("summary: ").or(of("totals: ")).unwrap_or_default();
    let total: u64 = total.trim().parse().unwrap_or(0);
    ensure!(
        total > 0,
        "callgrind counted nothing of {}: {said}",
        figure.name
    );
    let processor = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok((total / figure.calls as u64, processor))
}

/// The abilities that code here and in the C library is chosen by.
#[cfg(target_arch = "x86_64")]
fn processor() -> String {
    macro_rules! seen {
        ($($name:tt)*) => {
            [$(($name, std::arch::is_x86_feature_detected!($name))),*]
        };
    }
    let abilities = seen!("ssse3" "sse4.1" "sse4.2" "popcnt" "pclmulqdq" "aes" "avx" "avx2" "bmi1" "bmi2" "fma" "sha"
        "avx512f" "avx512vl");
    let seen = abilities.iter().filter(|(_, there)| *there);
    seen.map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
}

#[cfg(not(target_arch = "x86_64"))]
fn processor() -> String {
    "as it is".into()
}
