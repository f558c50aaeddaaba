//! What a look-up among a full collection costs, beside an audit of one image.
//!
//! `cargo run --release -p karat-agents --example near_duplicates -- AUDITOR [ASSETS]`

use std::error::Error;
use std::time::Instant;

use karat_agents::similarity::embedding::{Code, Embedding};
use karat_agents::similarity::index::{Entry, NearIndex};
use karat_edge_node::auditor::Auditor;

const ROUNDS: usize = 1_000;

/// An even distribution of the reference's deviation, from a number.
fn look(number: u64) -> Embedding {
    let mut bytes = [0; 32];
    blake3::Hasher::new()
        .update(&number.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    // Evenly spread over 2 * sqrt(3) deviations is one deviation.
    bytes.map(|byte| (f32::from(byte) / 255.0 - 0.5) * 2.0 * 3f32.sqrt())
}

fn entry(asset: u64) -> Entry {
    let mut content = [0; 16];
    content[..8].copy_from_slice(&asset.to_le_bytes());
    Entry {
        asset,
        version: 1,
        like: 0,
        content,
        code: Code::of(&look(asset)),
    }
}

/// Least and median, microseconds.
fn quantiles(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    (times[0], times[times.len() / 2])
}

fn timed(mut work: impl FnMut(usize)) -> (f64, f64) {
    let times = (0..ROUNDS).map(|round| {
        let start = Instant::now();
        work(round);
        start.elapsed().as_secs_f64() * 1e6
    });
    quantiles(times.collect())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("give an auditor's folder")?;
    let assets: u64 = arguments.next().map_or(Ok(65_536), |text| text.parse())?;
    let mut index = NearIndex::new(assets as usize);
    for asset in 1..=assets {
        index.put(&entry(asset));
    }
    let entries: Vec<Entry> = (0..ROUNDS as u64)
        .map(|asset| entry(1 << 40 | asset))
        .collect();
    for below_ppm in [50_000, 200_000, 400_000, 800_000] {
        let (least, median) = timed(|round| {
            std::hint::black_box(index.nearest(&entries[round], below_ppm));
        });
        println!(
            "look-up among {assets} below {below_ppm} ppm: least {least:.1} us, median {median:.1} us"
        );
    }
    let (least, median) = timed(|round| index.put(&entries[round]));
    println!("entry: least {least:.2} us, median {median:.2} us");
    let mut auditor = Auditor::load(folder)?;
    auditor.warm_up()?;
    let manifest = auditor.manifest();
    let bytes = (manifest.image_width * manifest.image_height * 3) as usize;
    let images: Vec<Vec<u8>> = (0..8).map(|image| vec![image * 30; bytes]).collect();
    for count in [1, 8] {
        let batch: Vec<&[u8]> = images[..count].iter().map(Vec::as_slice).collect();
        let (least, median) = timed(|_| {
            std::hint::black_box(auditor.audit(&batch).is_ok());
        });
        let (least, median) = (least / count as f64, median / count as f64);
        println!(
            "audit in batches of {count}: least {least:.1} us, median {median:.1} us an image"
        );
    }
    Ok(())
}
