//! Figures of the pack store: `cargo run --release -p karat-content --example content_figures [FOLDER]`.

use std::time::Instant;

use karat_content::{ContentStore, Digest, PackConfig, PackStore};

const OBJECTS: u64 = 50_000;
const OBJECT_BYTES: usize = 8 * 1024;

fn object(number: u64) -> Vec<u8> {
    let mut state = number + 1;
    let mut bytes = Vec::with_capacity(OBJECT_BYTES);
    while bytes.len() < OBJECT_BYTES {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

fn show(what: &str, count: u64, bytes: u64, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{what:<44} {:>10.0}/s {:>8.0} MB/s {:>9.3} s",
        count as f64 / seconds,
        bytes as f64 / seconds / 1e6,
        seconds
    );
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let temporary = tempfile::tempdir()?;
    let folder = std::env::args()
        .nth(1)
        .map_or(temporary.path().to_path_buf(), Into::into);
    let folder = folder.join("content-figures");
    let objects: Vec<Vec<u8>> = (0..OBJECTS).map(object).collect();
    let bytes = OBJECTS * OBJECT_BYTES as u64;
    println!("{OBJECTS} objects of {OBJECT_BYTES} bytes");

    let (store, _) = PackStore::open(&folder, PackConfig::default())?;
    let started = Instant::now();
    let digests: Vec<Digest> = objects
        .iter()
        .map(|bytes| store.put(bytes))
        .collect::<Result<_, _>>()?;
    show("put, one thread", OBJECTS, bytes, started);
    let started = Instant::now();
    store.flush()?;
    show("flush of all of it", 1, bytes, started);
    let started = Instant::now();
    for bytes in &objects {
        store.put(bytes)?;
    }
    show("put again", OBJECTS, bytes, started);
    let started = Instant::now();
    for digest in &digests {
        store.get(digest)?;
    }
    show("get, digest checked", OBJECTS, bytes, started);
    let started = Instant::now();
    for number in 0..2_000 {
        store.put(&object(OBJECTS + number))?;
        store.flush()?;
    }
    show(
        "put and flush, one by one",
        2_000,
        2_000 * OBJECT_BYTES as u64,
        started,
    );
    drop(store);

    let started = Instant::now();
    let (store, report) = PackStore::open(&folder, PackConfig::default())?;
    show(
        "open with index files",
        report.objects,
        report.object_bytes,
        started,
    );
    drop(store);
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "idx") {
            std::fs::remove_file(path)?;
        }
    }
    let started = Instant::now();
    let (store, report) = PackStore::open(&folder, PackConfig::default())?;
    show(
        "open by reading every pack",
        report.objects,
        report.scanned_bytes,
        started,
    );
    let started = Instant::now();
    let collected = store.collect(&|digest| digest[0] < 128)?;
    show(
        "collect half",
        collected.objects_dropped,
        collected.bytes_dropped,
        started,
    );
    drop(store);
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
