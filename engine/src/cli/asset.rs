//! `karat asset`: show, list, image.

use std::path::PathBuf;

use bytes::Bytes;
use clap::Subcommand;
use karat_proto::{Account, v1};
use serde_json::json;

use super::{Backend, CliError, Common, describe, print_json};

/// What to do with assets.
#[derive(Debug, Subcommand)]
pub enum AssetCommand {
    /// State, lineage, verdicts with findings, history and batch of one asset
    #[command(after_help = "Example: karat asset show 17 --json")]
    Show {
        /// Its number
        asset: u64,
    },
    /// Assets of an owner or of a collection
    #[command(after_help = "Example: karat asset list --owner player-003 --limit 20")]
    List {
        /// Owner: 0x and 40 hex digits, or a name
        #[arg(
            long,
            conflicts_with = "collection",
            required_unless_present = "collection"
        )]
        owner: Option<String>,
        /// Collection number
        #[arg(long)]
        collection: Option<u32>,
        /// Only assets with a larger number
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// Most rows, at most 1000
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Write an asset's image to a file
    #[command(after_help = "Example: karat asset image 17 --out relic.png")]
    Image {
        /// Its number
        asset: u64,
        /// File to write
        #[arg(long)]
        out: PathBuf,
    },
}

/// Runs the command.
pub async fn run(common: &Common, command: AssetCommand) -> Result<(), CliError> {
    let mut backend = Backend::open(common).await?;
    match command {
        AssetCommand::Show { asset } => show(common, &mut backend, asset).await,
        AssetCommand::List {
            owner,
            collection,
            after,
            limit,
        } => list(common, &mut backend, owner, collection, after, limit).await,
        AssetCommand::Image { asset, out } => {
            let request = v1::GetContentRequest { asset };
            let found = backend.ledger.get_content(request).await?.into_inner();
            std::fs::write(&out, &found.content)
                .map_err(|error| CliError::Usage(format!("write {}: {error}", out.display())))?;
            if common.json {
                print_json(
                    &json!({"asset": asset, "cid": found.cid, "bytes": found.content.len(), "file": out}),
                );
            } else {
                sayln!(
                    "asset {asset}: {} bytes of {} written to {}",
                    found.content.len(),
                    found.cid,
                    out.display()
                );
            }
            Ok(())
        }
    }
}

async fn show(common: &Common, backend: &mut Backend, number: u64) -> Result<(), CliError> {
    let asset = backend
        .ledger
        .get_asset(v1::GetAssetRequest { asset: number })
        .await?
        .into_inner()
        .asset
        .unwrap_or_default();
    let collection = backend
        .ledger
        .get_collection(v1::GetCollectionRequest {
            collection: asset.collection,
        })
        .await?
        .into_inner();
    let events = history(backend, number).await?;
    let mut shown = describe::asset(&asset, collection.spec.as_ref());
    let rows: Vec<_> = events.iter().map(describe::event).collect();
    let lineage = rows
        .iter()
        .rev()
        .find_map(|row| row["fields"].get("lineage").cloned())
        .unwrap_or_default();
    let verdicts: Vec<_> = rows
        .iter()
        .filter(|row| row["kind"] == "verified")
        .map(|row| row["fields"].clone())
        .collect();
    let batch = match asset.batch {
        0 => None,
        number => {
            backend
                .ledger
                .get_batch(v1::GetBatchRequest { number })
                .await?
                .into_inner()
                .batch
        }
    };
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("lineage".into(), lineage);
        fields.insert("verdicts".into(), verdicts.into());
        fields.insert(
            "batch".into(),
            batch.as_ref().map_or(json!(null), describe::batch),
        );
        fields.insert("history".into(), rows.into());
    }
    if common.json {
        print_json(&shown);
    } else {
        print_asset(&shown);
    }
    Ok(())
}

/// For people: what it is, then one line for each verdict and each event.
fn print_asset(shown: &serde_json::Value) {
    let mut head = shown.clone();
    if let Some(fields) = head.as_object_mut() {
        fields.remove("history");
        fields.remove("verdicts");
    }
    say!("{}", describe::lines(&head, 0));
    let rows = |name: &str| shown[name].as_array().cloned().unwrap_or_default();
    sayln!("verdicts:");
    for verdict in rows("verdicts") {
        sayln!(
            "  version {}: {}, corruption {} ppm",
            verdict["version"],
            describe::inline(&verdict["decision"]),
            verdict["corruption_ppm"]
        );
        for finding in verdict["findings"].as_array().cloned().unwrap_or_default() {
            sayln!(
                "    {} {} ({}): {} {}: {}",
                describe::inline(&finding["agent"]),
                finding["code"],
                describe::inline(&finding["name"]),
                describe::inline(&finding["meaning"]),
                describe::inline(&finding["means"]),
                finding["measure"]
            );
        }
    }
    sayln!("history:");
    for event in rows("history") {
        sayln!(
            "  {:>8}  {}",
            event["sequence"],
            describe::event_line(&event)
        );
    }
}

async fn history(backend: &mut Backend, asset: u64) -> Result<Vec<v1::Event>, CliError> {
    let mut events: Vec<v1::Event> = Vec::new();
    loop {
        let (after_sequence, after_index) = events
            .last()
            .map_or((0, 0), |event| (event.sequence, event.index));
        let request = v1::GetHistoryRequest {
            asset,
            after_sequence,
            after_index,
            limit: 1000,
        };
        let page = backend.ledger.get_history(request).await?.into_inner();
        events.extend(page.events);
        if !page.more {
            return Ok(events);
        }
    }
}

async fn list(
    common: &Common,
    backend: &mut Backend,
    owner: Option<String>,
    collection: Option<u32>,
    after: u64,
    limit: u32,
) -> Result<(), CliError> {
    let owner = match owner {
        None => Bytes::new(),
        Some(text) => {
            let account = Account::parse(&text).map_err(CliError::Usage)?;
            Bytes::copy_from_slice(&account.0)
        }
    };
    let request = v1::ListAssetsRequest {
        owner,
        collection: collection.unwrap_or(0),
        after,
        limit,
    };
    let page = backend.ledger.list_assets(request).await?.into_inner();
    if common.json {
        let rows: Vec<_> = page
            .assets
            .iter()
            .map(|asset| describe::asset(asset, None))
            .collect();
        print_json(
            &json!({"assets": rows, "next_after": page.next_after, "projected_seq": page.projected_seq}),
        );
        return Ok(());
    }
    sayln!(
        "{:>10} {:>10} {:>7} {:<10} {:<10} owner",
        "asset",
        "collection",
        "version",
        "state",
        "settlement"
    );
    for asset in &page.assets {
        sayln!(
            "{:>10} {:>10} {:>7} {:<10} {:<10} {}",
            asset.asset,
            asset.collection,
            asset.version,
            describe::state(asset.state),
            describe::settlement(asset.settlement),
            if asset.owner.is_empty() {
                "-".to_owned()
            } else {
                super::hexadecimal(&asset.owner)
            },
        );
    }
    if page.next_after != 0 {
        sayln!("more: --after {}", page.next_after);
    }
    Ok(())
}
