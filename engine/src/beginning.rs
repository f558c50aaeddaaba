//! What a data folder has to begin with on a log: its stream of events and a snapshot, as far as they are of that log.
//!
//! It is found before a log that others can reach is taken over: who cannot build the realm's state must not replace a leader
//! who has it.

use std::sync::Arc;

use karat_ledger::Ledger;
use karat_sequencer::{LogReader, ReadError, Recovery};

use crate::config::Config;
use crate::core::CoreError;
use crate::data_folder::DataFolder;
use crate::events::EventLog;
use crate::realm_log::Place;
use crate::snapshots;

/// Where a realm's recovery begins.
pub(crate) struct Beginning {
    /// The stream of events.
    pub(crate) events: EventLog,
    /// The snapshot's ledger; an empty one without a snapshot.
    pub(crate) ledger: Ledger,
    /// What was passed over, for people.
    pub(crate) notes: Vec<String>,
}

impl Beginning {
    /// What the folder has for a log that was found to hold `log`. With a `place` in the log, nothing before it is needed
    /// where the folder has a snapshot of it or of later.
    ///
    /// # Errors
    /// When the folder is damaged, or the log's head is gone and no snapshot reaches behind it.
    pub(crate) fn find(
        config: &Config,
        folder: &DataFolder,
        history: &Arc<dyn LogReader>,
        log: &Recovery,
        place: Option<&Place>,
    ) -> Result<Beginning, CoreError> {
        let is_shared = config.log.kind == "kafka";
        let mut notes = Vec::new();
        let mut events = EventLog::open(&folder.events(), log.last_sequence)?;
        let mut is_foreign = false;
        if is_shared && !are_of_the_log(&events, history, place)? {
            // A replaced leader has written events of blocks that never counted; others have their sequences now.
            notes.push(
                "the events here tell of blocks that another leader made void; they are made again"
                    .into(),
            );
            is_foreign = true;
        }
        let events_seq = match is_foreign {
            true => 0,
            false => events.last_sequence(),
        };
        let usable = match place_sequence(place) {
            // The stream begins behind the snapshot; what came before is made again later.
            Some(sequence) if events_seq == 0 => sequence,
            // A snapshot beyond the events would leave a hole in their stream.
            _ => log.last_sequence.min(events_seq),
        };
        let (snapshot, passed_over) = snapshots::newest(&folder.snapshots(), usable)?;
        notes.extend(
            passed_over
                .iter()
                .map(|error| format!("passed over: {error}")),
        );
        let mut ledger = snapshot.unwrap_or_default();
        if place_sequence(place).is_some_and(|sequence| ledger.applied_seq() < sequence) {
            notes.push("no snapshot of this log can be used; everything is read again".into());
            is_foreign = true;
            ledger = Ledger::default();
        }
        if is_shared {
            reaches_the_log(&ledger, folder, history, place)?;
        }
        // A start that is refused leaves the folder as it was.
        if is_foreign {
            events.reset()?;
        }
        Ok(Beginning {
            events,
            ledger,
            notes,
        })
    }
}

/// Refuses to begin where commands between the snapshot and the log's first block are missing.
fn reaches_the_log(
    ledger: &Ledger,
    folder: &DataFolder,
    history: &Arc<dyn LogReader>,
    place: Option<&Place>,
) -> Result<(), CoreError> {
    let applied_seq = ledger.applied_seq();
    if place_sequence(place).is_some_and(|sequence| applied_seq >= sequence) {
        // The place's own block was found in the log.
        return Ok(());
    }
    match history.read(applied_seq + 1) {
        Ok(_) => Ok(()),
        Err(ReadError::Gone { first, .. }) => Err(CoreError::HeadGone {
            first,
            needed: first.saturating_sub(1),
            folder: folder.root().to_owned(),
        }),
        Err(error) => Err(error.into()),
    }
}

/// The last sequence before a place.
#[cfg(feature = "kafka")]
fn place_sequence(place: Option<&Place>) -> Option<u64> {
    place.map(|place| place.sequence)
}

#[cfg(not(feature = "kafka"))]
fn place_sequence(_place: Option<&Place>) -> Option<u64> {
    None
}

/// Whether the events that were found tell of blocks that count.
fn are_of_the_log(
    events: &EventLog,
    history: &Arc<dyn LogReader>,
    place: Option<&Place>,
) -> Result<bool, CoreError> {
    let (last_sequence, hash) = (events.last_sequence(), events.opened_hash());
    #[cfg(feature = "kafka")]
    if let Some(place) = place
        && last_sequence <= place.sequence
    {
        // Nothing before the place is read.
        return Ok(last_sequence == 0 || (last_sequence == place.sequence && hash == place.hash));
    }
    #[cfg(not(feature = "kafka"))]
    let _ = place;
    holds(history, last_sequence, hash)
}

/// Whether the log's block that ends at `last_sequence` has this hash, or the log begins right behind that block; so its whole
/// history up to there is the same. Nothing is always held.
///
/// # Errors
/// When the log cannot be read.
fn holds(
    reader: &Arc<dyn LogReader>,
    last_sequence: u64,
    hash: [u8; 32],
) -> Result<bool, CoreError> {
    if last_sequence == 0 {
        return Ok(true);
    }
    let blocks = match reader.read(last_sequence) {
        Ok(blocks) => blocks,
        Err(ReadError::Gone { first, .. }) if first == last_sequence + 1 => {
            return begins_behind(reader, first, hash);
        }
        Err(ReadError::Gone { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    for block in blocks {
        let block = block?;
        if !block.is_epoch_marker() {
            let is_it = block.last_sequence() == last_sequence;
            return Ok(is_it && block.hash().is_ok_and(|found| found == hash));
        }
    }
    Ok(false)
}

/// Whether the block before the log's first one, which is not there any more, had this hash. Markers stand between two blocks
/// and may be their link.
fn begins_behind(
    reader: &Arc<dyn LogReader>,
    first: u64,
    hash: [u8; 32],
) -> Result<bool, CoreError> {
    for block in reader.read(first)? {
        let block = block?;
        if block.header.parent == hash {
            return Ok(true);
        }
        if !block.is_epoch_marker() {
            break;
        }
    }
    Ok(false)
}
