//! `karat content`: bytes that no command names.

use clap::Subcommand;
use karat_proto::v1;
use serde_json::json;

use super::{Backend, CliError, Common, print_json};

/// What to do with content.
#[derive(Debug, Subcommand)]
pub enum ContentCommand {
    /// Count content that no command names, as a crash leaves behind
    #[command(after_help = "Example: karat content orphans")]
    Orphans,
    /// Remove it
    #[command(after_help = "Example: karat content collect")]
    Collect,
}

/// Runs the command.
pub async fn run(common: &Common, command: ContentCommand) -> Result<(), CliError> {
    let mut backend = Backend::open(common).await?;
    let dry_run = matches!(command, ContentCommand::Orphans);
    let request = v1::CollectContentRequest { dry_run };
    let found = backend
        .operator
        .collect_content(request)
        .await?
        .into_inner();
    if common.json {
        print_json(
            &json!({"orphans": found.orphans, "bytes": found.bytes, "collected": found.collected}),
        );
    } else {
        let done = if found.collected {
            "removed"
        } else {
            "found; `karat content collect` removes them"
        };
        sayln!("{} objects of {} bytes {done}", found.orphans, found.bytes);
    }
    Ok(())
}
