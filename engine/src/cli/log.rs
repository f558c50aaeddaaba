//! `karat log`: check a log by replaying it, and move one from one kind of log to another.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Subcommand;
use karat_ledger::Ledger;
use karat_sequencer::{BlockIterator, Chain, EncodedBlock, Hash, LogError, Standing};
use serde_json::json;

use super::{CliError, Common, describe, print_json};
use crate::config::{Config, KafkaSettings};
use crate::core::CoreError;
use crate::data_folder::DataFolder;
use crate::digests;
use crate::machine::LedgerMachine;
use crate::realm_log::{self, LogPlace};
use crate::view::DigestMark;

/// Blocks copied before it is waited until they are durable.
const COPY_WINDOW_BLOCKS: u64 = 256;
/// How long such a wait may take.
const COPY_WAIT: Duration = Duration::from_secs(60);

/// What to do with a log.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Walk the hash chain, replay the ledger, print its digest, compare it with the recorded ones
    #[command(
        after_help = "Reads only: it may run beside an engine. From nothing, without any snapshot. A data folder whose engine keeps\nits log on Kafka is read from there. A topic alone has no recorded digests.\n\nExamples:\n  karat log verify karat-data\n  karat log verify kafka://127.0.0.1:19092/karat.main.log"
    )]
    Verify {
        /// Data folder, or kafka://BROKERS/TOPIC
        log: String,
        /// Configuration that says how the brokers let in: its [log.kafka], except brokers
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// Copy a log block by block into an empty folder or topic, and verify the copy
    #[command(
        after_help = "Blocks keep their bytes, so both logs have the same head and the same digest. Blocks of replaced leaders are left\nout. Only the log is copied: content, chain and the rest stay in the data folder, and an engine goes on with the copy\nwhen it runs on that folder with [log] pointing at it. Stop the engine first.\n\nExamples:\n  karat log copy karat-data kafka://127.0.0.1:19092/karat.main.log\n  karat log copy kafka://127.0.0.1:19092/karat.main.log karat-copy"
    )]
    Copy {
        /// Data folder, or kafka://BROKERS/TOPIC
        from: String,
        /// Empty data folder, or kafka://BROKERS/TOPIC that is empty or absent
        to: String,
        /// Configuration that says how the brokers let in: its [log.kafka], except brokers
        #[arg(long)]
        config: Option<PathBuf>,
    },
}

/// Runs the command.
pub fn run(common: &Common, command: LogCommand) -> Result<(), CliError> {
    match command {
        LogCommand::Verify { log, config } => {
            let settings = kafka_settings(config.as_deref())?;
            let place = LogPlace::parse(&log).map_err(CliError::Usage)?;
            let (blocks, recorded) = open(&place, &settings)?;
            verify(common, blocks, recorded).map(|_| ())
        }
        LogCommand::Copy { from, to, config } => {
            let settings = kafka_settings(config.as_deref())?;
            let from = LogPlace::parse(&from).map_err(CliError::Usage)?;
            let to = LogPlace::parse(&to).map_err(CliError::Usage)?;
            let (blocks, _) = open(&from, &settings)?;
            let head = copy(blocks, &to, &settings)?;
            let (copied, _) = open(&to, &settings)?;
            let found = verify(common, copied, Vec::new())?;
            if found != head {
                return Err(CliError::No(format!(
                    "the copy ends with block {}, the original with {}",
                    super::hexadecimal(&found),
                    super::hexadecimal(&head)
                )));
            }
            Ok(())
        }
    }
}

/// How brokers are reached: as a configuration says, or in the clear.
fn kafka_settings(config: Option<&Path>) -> Result<KafkaSettings, CliError> {
    let Some(path) = config else {
        return Ok(KafkaSettings::default());
    };
    let config = Config::load(path).map_err(|error| CliError::Usage(error.to_string()))?;
    Ok(config.log.kafka)
}

fn unreachable(error: &CoreError) -> CliError {
    CliError::Unreachable(error.to_string())
}

/// The blocks of a log, and the digests that were recorded beside it.
fn open(
    place: &LogPlace,
    settings: &KafkaSettings,
) -> Result<(BlockIterator, Vec<DigestMark>), CliError> {
    match place {
        LogPlace::Folder(dir) => open_folder(dir),
        LogPlace::Topic { brokers, topic } => {
            let topic = topic.as_ref().ok_or_else(|| {
                CliError::Usage(format!(
                    "{place} names no topic; kafka://{brokers}/karat.main.log does"
                ))
            })?;
            let settings = KafkaSettings {
                brokers: brokers.clone(),
                ..settings.clone()
            };
            let blocks = realm_log::blocks_of_topic(&settings, topic)
                .map_err(|error| unreachable(&error))?;
            Ok((blocks, Vec::new()))
        }
    }
}

fn open_folder(dir: &Path) -> Result<(BlockIterator, Vec<DigestMark>), CliError> {
    let folder = DataFolder::open(dir).map_err(|error| CliError::Unreachable(error.to_string()))?;
    let recorded = digests::read(&folder.digests()).map_err(|error| {
        CliError::Unreachable(format!("read {}: {error}", folder.digests().display()))
    })?;
    let config = folder
        .noted_config()
        .map_err(|error| CliError::Unreachable(error.to_string()))?;
    let blocks =
        realm_log::blocks_of_folder(&folder, &config).map_err(|error| unreachable(&error))?;
    Ok((blocks, recorded))
}

/// Copies what counts; returns the hash of the last block.
fn copy(blocks: BlockIterator, to: &LogPlace, settings: &KafkaSettings) -> Result<Hash, CliError> {
    let mut log = realm_log::create(to, settings).map_err(|error| unreachable(&error))?;
    let failed = |error: LogError| CliError::Failed(format!("copy to {to}: {error}"));
    let progress = log.progress();
    let mut chain = Chain::genesis();
    let mut encoded = EncodedBlock::new();
    let mut copied = 0;
    for block in blocks {
        let block = block.map_err(|error| CliError::No(error.to_string()))?;
        block
            .encode_into(&mut encoded)
            .map_err(|error| CliError::No(error.to_string()))?;
        let standing = chain
            .accept(&block.header, encoded.hash(), block.bodies.len())
            .map_err(|error| CliError::No(format!("the log does not continue: {error}")))?;
        // A marker that is not the head is named by no later block.
        let in_chain = standing == Standing::Counts
            || (standing == Standing::Marker && chain.head() == *encoded.hash());
        if !in_chain {
            continue;
        }
        log.append(&encoded).map_err(failed)?;
        copied += 1;
        if copied % COPY_WINDOW_BLOCKS == 0 {
            let deadline = Some(Instant::now() + COPY_WAIT);
            progress.wait_until(deadline, |progress| {
                progress.blocks().durable >= copied || progress.is_poisoned()
            });
        }
    }
    log.close(COPY_WAIT).map_err(failed)?;
    Ok(chain.head())
}

/// Replays a log from nothing, prints what it found, and returns the hash of its last block.
fn verify(
    common: &Common,
    blocks: BlockIterator,
    recorded: Vec<DigestMark>,
) -> Result<Hash, CliError> {
    let recorded_count = recorded.len();
    let started = Instant::now();
    let mut machine = LedgerMachine::checking(Ledger::new(), recorded);
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
    Ok(summary.chain.head())
}
