//! The stream of events before the snapshot of others with which an engine began, made again behind everything else.
//!
//! Until it is there, readers of older events wait: lists and histories lag, and say how far they are.

use std::path::PathBuf;

use karat_ledger::Ledger;
use karat_sequencer::ReplayError;
use thiserror::Error;
use tokio::sync::watch as signal;

use crate::core::Core;
use crate::events::{EventHub, EventLog, EventLogError, HubConfig};
use crate::machine::LedgerMachine;

/// Where it is made, inside the folder of events.
const FOLDER: &str = "before";

/// Why the stream is not made again. Everything newer is there all the same.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// Folder.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The log of events.
    #[error(transparent)]
    Events(#[from] EventLogError),
    /// The log.
    #[error(transparent)]
    Read(#[from] karat_sequencer::ReadError),
    /// Replaying it.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The log does not reach as far as what is there.
    #[error("the log gave events up to sequence {found}, and those from {expected} on are here")]
    Short {
        /// The first sequence that is here.
        expected: u64,
        /// The last one that the log gave.
        found: u64,
    },
}

/// Makes the stream again from the log's head up to what is here. Reads the whole log before that, and holds a second ledger
/// meanwhile. Ends early when `stop` is set.
///
/// # Errors
/// When log or folder fail.
pub fn fill(core: &Core, stop: &signal::Receiver<bool>) -> Result<(), HistoryError> {
    let first_seq = core.hub.first_seq();
    if first_seq <= 1 {
        return Ok(());
    }
    let dir = core.folder.events().join(FOLDER);
    let io = |source| HistoryError::Io {
        path: dir.clone(),
        source,
    };
    if dir.exists() {
        // Left by a process that ended meanwhile.
        std::fs::remove_dir_all(&dir).map_err(io)?;
    }
    let log = EventLog::open(&dir, 0)?;
    let config = HubConfig {
        channel_blocks: 64,
        memory_bytes: 1 << 20,
    };
    let (hub, sender, thread) = EventHub::start(&dir, log, 1, 0, &config).map_err(io)?;
    let mut machine = LedgerMachine::telling(Ledger::default(), sender);
    let goes_on = || !*stop.borrow() && stop.has_changed().is_ok() && hub.failure().is_none();
    // Not up to the first block that is here already: a replaced leader's void ones may lie before it with its sequences.
    let before = core.reader.read(1)?.take_while(|_| goes_on());
    let before = before.filter(|block| {
        block
            .as_ref()
            .map_or(true, |block| block.header.first_sequence < first_seq)
    });
    let replayed = karat_sequencer::replay(before, 1, &mut machine);
    drop(machine);
    let Ok(log) = thread.join() else {
        // Its panic was its own report.
        return Ok(());
    };
    replayed?;
    if *stop.borrow() || stop.has_changed().is_err() {
        return Ok(());
    }
    let found = log.last_sequence();
    if found + 1 != first_seq {
        return Err(HistoryError::Short {
            expected: first_seq,
            found,
        });
    }
    log.put_before(&core.folder.events())?;
    core.hub.set_first(1);
    tracing::info!(
        events_from = first_seq,
        "the history before the snapshot is here"
    );
    Ok(())
}
