//! `karat batch`: list, show.

use clap::Subcommand;
use karat_proto::v1;
use serde_json::json;

use super::{Backend, CliError, Common, describe, print_json};

/// What to do with batches.
#[derive(Debug, Subcommand)]
pub enum BatchCommand {
    /// Batches, newest first
    #[command(after_help = "Example: karat batch list --limit 5")]
    List {
        /// Only batches with a smaller number
        #[arg(long, default_value_t = 0)]
        before: u64,
        /// Most rows, at most 1000
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// One batch
    #[command(after_help = "Example: karat batch show 3 --json")]
    Show {
        /// Its number
        number: u64,
    },
}

/// Runs the command.
pub async fn run(common: &Common, command: BatchCommand) -> Result<(), CliError> {
    let mut backend = Backend::open(common).await?;
    match command {
        BatchCommand::List { before, limit } => {
            let request = v1::ListBatchesRequest { before, limit };
            let batches = backend
                .ledger
                .list_batches(request)
                .await?
                .into_inner()
                .batches;
            if common.json {
                let rows: Vec<_> = batches.iter().map(describe::batch).collect();
                print_json(&json!({"batches": rows}));
                return Ok(());
            }
            sayln!(
                "{:>7} {:<10} {:>8} {:>22} {:>9} transaction",
                "batch",
                "stage",
                "leaves",
                "sequences",
                "gas"
            );
            for batch in &batches {
                sayln!(
                    "{:>7} {:<10} {:>8} {:>22} {:>9} {}",
                    batch.number,
                    describe::stage(batch.stage),
                    batch.leaves,
                    format!("{}..{}", batch.first_sequence, batch.last_sequence),
                    batch.gas_used,
                    super::hexadecimal(&batch.transaction),
                );
            }
            Ok(())
        }
        BatchCommand::Show { number } => {
            let request = v1::GetBatchRequest { number };
            let batch = backend
                .ledger
                .get_batch(request)
                .await?
                .into_inner()
                .batch
                .unwrap_or_default();
            let shown = describe::batch(&batch);
            if common.json {
                print_json(&shown)
            } else {
                say!("{}", describe::lines(&shown, 0))
            }
            Ok(())
        }
    }
}
