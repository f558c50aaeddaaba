//! `karat review`: what the agents left to people.

use clap::Subcommand;
use karat_proto::v1;
use serde_json::json;

use super::{Backend, CliError, Common, describe, print_json};

/// What to do with reviews.
#[derive(Debug, Subcommand)]
pub enum ReviewCommand {
    /// Open reviews, oldest first, without taking any
    #[command(after_help = "Example: karat review list")]
    List {
        /// Most rows, at most 100
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Take reviews under a lease
    #[command(after_help = "Example: karat review lease --reviewer ann --limit 5")]
    Lease {
        /// Who looks
        #[arg(long)]
        reviewer: String,
        /// How many, at most 100
        #[arg(long, default_value_t = 5)]
        limit: u32,
    },
    /// Accept an asset
    #[command(after_help = "Example: karat review accept 17 --reviewer ann --reason 'clean'")]
    Accept(Decision),
    /// Reject an asset
    #[command(after_help = "Example: karat review reject 17 --reviewer ann --reason 'smeared'")]
    Reject(Decision),
}

/// A decision.
#[derive(Debug, clap::Args)]
pub struct Decision {
    /// The asset
    asset: u64,
    /// Who decides
    #[arg(long)]
    reviewer: String,
    /// Why
    #[arg(long, default_value = "")]
    reason: String,
}

/// Runs the command.
pub async fn run(common: &Common, command: ReviewCommand) -> Result<(), CliError> {
    let mut backend = Backend::open(common).await?;
    let (reviewer, limit, peek) = match command {
        ReviewCommand::List { limit } => (String::new(), limit, true),
        ReviewCommand::Lease { reviewer, limit } => (reviewer, limit, false),
        ReviewCommand::Accept(decision) => return decide(common, backend, decision, true).await,
        ReviewCommand::Reject(decision) => return decide(common, backend, decision, false).await,
    };
    let request = v1::LeaseReviewsRequest {
        reviewer,
        limit,
        peek,
    };
    let found = backend.operator.lease_reviews(request).await?.into_inner();
    let rows: Vec<_> = found
        .reviews
        .iter()
        .map(|review| {
            json!({
                "asset": review.asset.as_ref().map(|asset| describe::asset(asset, None)),
                "verdict": review.verdict.as_ref().map(describe::verdict),
                "lease_until_ms": review.lease_until_ms,
                "reviewer": review.reviewer,
            })
        })
        .collect();
    if common.json {
        print_json(&json!({"open": found.open, "reviews": rows}));
        return Ok(());
    }
    sayln!("{} open", found.open);
    for row in &rows {
        sayln!(
            "asset {} version {}: corruption {} ppm; {}{}",
            row["asset"]["asset"],
            row["asset"]["version"],
            row["verdict"]["corruption_ppm"],
            row["verdict"]["findings"]
                .as_array()
                .map(|findings| findings
                    .iter()
                    .map(describe::finding_name)
                    .collect::<Vec<_>>()
                    .join(", "))
                .unwrap_or_default(),
            match row["reviewer"].as_str() {
                Some(name) if !name.is_empty() => format!(" (leased to {name})"),
                _ => String::new(),
            }
        );
    }
    Ok(())
}

async fn decide(
    common: &Common,
    mut backend: Backend,
    decision: Decision,
    accepted: bool,
) -> Result<(), CliError> {
    let asset = backend
        .ledger
        .get_asset(v1::GetAssetRequest {
            asset: decision.asset,
        })
        .await?
        .into_inner()
        .asset
        .unwrap_or_default();
    let request = v1::DecideReviewRequest {
        asset: decision.asset,
        version: asset.version,
        accepted,
        reason: decision.reason,
        reviewer: decision.reviewer,
    };
    let answer = backend.operator.decide_review(request).await?.into_inner();
    super::realm::print_outcome(common, answer.outcome)
}
