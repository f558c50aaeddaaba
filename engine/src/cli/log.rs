//! `karat log`: check a log by replaying it.

use std::path::PathBuf;
use std::time::Instant;

use clap::Subcommand;
use karat_ledger::Ledger;
use karat_sequencer::read_blocks;
use serde_json::json;

use super::{CliError, Common, describe, print_json};
use crate::data_folder::DataFolder;
use crate::digests;
use crate::machine::LedgerMachine;

/// What to do with a log.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Walk the hash chain, replay the ledger, print its digest, compare it with the recorded ones
    #[command(
        after_help = "Reads only: it may run beside an engine. From nothing, without any snapshot.\n\nExample: karat log verify karat-data"
    )]
    Verify {
        /// Data folder
        dir: PathBuf,
    },
}

/// Runs the command.
pub fn run(common: &Common, command: LogCommand) -> Result<(), CliError> {
    let LogCommand::Verify { dir } = command;
    let folder =
        DataFolder::open(&dir).map_err(|error| CliError::Unreachable(error.to_string()))?;
    let recorded = digests::read(&folder.digests()).map_err(|error| {
        CliError::Unreachable(format!("read {}: {error}", folder.digests().display()))
    })?;
    let recorded_count = recorded.len();
    let started = Instant::now();
    let mut machine = LedgerMachine::checking(Ledger::new(), recorded);
    let blocks = read_blocks(&folder.journal(), 1)
        .map_err(|error| CliError::Unreachable(error.to_string()))?;
    let summary = karat_sequencer::replay(blocks, 1, &mut machine)
        .map_err(|error| CliError::No(format!("the log does not replay: {error}")))?;
    let seconds = started.elapsed().as_secs_f64();
    let ledger = machine.ledger();
    let checked = machine.checked();
    let shown = json!({
        "commands": summary.commands,
        "blocks": summary.blocks,
        "void_blocks": summary.void,
        "last_sequence": ledger.applied_seq(),
        "log_head": super::hexadecimal(&summary.chain.head()),
        "digest": super::hexadecimal(&ledger.digest()),
        "state_digest": super::hexadecimal(&ledger.state_digest()),
        "recorded_digests": recorded_count,
        "recorded_equal": checked.equal,
        "recorded_different": u64::from(checked.first_difference.is_some()),
        "seconds": (seconds * 1000.0).round() / 1000.0,
        "commands_a_second": (summary.commands as f64 / seconds.max(1e-9)).round(),
    });
    if common.json {
        print_json(&shown)
    } else {
        say!("{}", describe::lines(&shown, 0))
    }
    if let Some((recorded, replayed)) = &checked.first_difference {
        return Err(CliError::No(format!(
            "at sequence {} the running system recorded {}, the replay gives {}",
            recorded.sequence,
            super::hexadecimal(&recorded.digest),
            super::hexadecimal(&replayed.digest)
        )));
    }
    let violations = karat_ledger::invariants::check_all(ledger);
    if let Err(violation) = violations {
        return Err(CliError::No(format!(
            "an invariant does not hold: {violation}"
        )));
    }
    Ok(())
}
