//! Figures of the embedded store: `cargo run --release -p karat-store --example store_figures [FOLDER]`.

use std::time::Instant;

use bytes::Bytes;
use karat_store::{EmbeddedStore, Projection, Store, Write};

const ASSETS: u64 = 400_000;
const PROJECTIONS_A_CALL: u64 = 256;

fn account(number: u64) -> [u8; 20] {
    let mut account = [0; 20];
    account[12..].copy_from_slice(&(number % 1_000).to_be_bytes());
    account
}

/// What a mint comes to: four rows and two lists.
fn mint(asset: u64) -> Projection {
    Projection {
        sequence: asset,
        writes: vec![
            Write::PutAsset {
                asset,
                row: Bytes::from(asset.to_le_bytes().repeat(32)),
            },
            Write::AddHistory {
                asset,
                sequence: asset,
                index: 0,
                row: Bytes::from(asset.to_le_bytes().repeat(12)),
            },
            Write::SetOwner {
                asset,
                from: None,
                to: Some(account(asset)),
            },
            Write::AddToCollection {
                collection: 1,
                asset,
            },
        ],
    }
}

/// Resident memory of this process, in MiB.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}

fn show(what: &str, count: u64, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{what:<44} {:>10.0}/s {seconds:>9.3} s, {} MiB resident",
        count as f64 / seconds,
        resident_mib()
    );
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let temporary = tempfile::tempdir()?;
    let folder = std::env::args()
        .nth(1)
        .map_or(temporary.path().to_path_buf(), Into::into)
        .join("store-figures");
    let store = EmbeddedStore::open(&folder)?;
    println!(
        "{ASSETS} mints of 4 rows, {PROJECTIONS_A_CALL} in a call; {} MiB resident",
        resident_mib()
    );

    let started = Instant::now();
    let mut resident_max = 0;
    let mut slowest = std::time::Duration::ZERO;
    for first in (1..=ASSETS).step_by(PROJECTIONS_A_CALL as usize) {
        let last = (first + PROJECTIONS_A_CALL - 1).min(ASSETS);
        let projections: Vec<_> = (first..=last).map(mint).collect();
        let call = Instant::now();
        store.apply(&projections)?;
        slowest = slowest.max(call.elapsed());
        resident_max = resident_max.max(resident_mib());
    }
    show("rows applied (4 a mint)", ASSETS * 4, started);
    println!(
        "slowest call {} ms, at most {resident_max} MiB resident",
        slowest.as_millis()
    );
    let started = Instant::now();
    store.flush()?;
    show("flush", 1, started);
    let started = Instant::now();
    for number in 0..100_000 {
        store.asset(1 + number * 7_919 % ASSETS)?;
    }
    show("assets read at random", 100_000, started);
    let started = Instant::now();
    let mut listed = 0;
    for number in 0..1_000 {
        listed += store.assets_of_owner(&account(number), None, 100)?.len() as u64;
    }
    show("assets listed by owner, pages of 100", listed, started);
    let started = Instant::now();
    for number in 0..20_000 {
        store.history(1 + number * 7_919 % ASSETS, None, 10)?;
    }
    show("histories read at random", 20_000, started);
    println!("{} MiB on disk", store.disk_bytes()? / 1024 / 1024);
    drop(store);
    let started = Instant::now();
    let store = EmbeddedStore::open(&folder)?;
    show("open", 1, started);
    let started = Instant::now();
    store.reset()?;
    show("reset", 1, started);
    drop(store);
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
