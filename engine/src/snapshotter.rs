//! Makes snapshots off the hot path: the previous one plus the log, in a ledger of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch as signal;

use crate::core::{Core, CoreError};
use crate::digests::DigestRecorder;
use crate::machine::LedgerMachine;
use crate::pace::Pace;
use crate::snapshots::{self, SnapshotsError};

/// How often the running digest is recorded and the need for a snapshot is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Records digests and makes snapshots until `stop` is set.
pub async fn run(core: Arc<Core>, mut recorder: DigestRecorder, mut stop: signal::Receiver<bool>) {
    let mut snapshot_seq = newest_sequence(&core);
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = stop.changed() => return,
        }
        let durable_seq = core.hub.durable_seq();
        let mark = core.view.digest_mark();
        // A digest of commands that a loss of power takes back would contradict what comes in their place.
        if mark.sequence <= durable_seq
            && let Err(error) = recorder.record(mark)
        {
            tracing::warn!(%error, "a digest could not be recorded");
        }
        if durable_seq < snapshot_seq + core.config.snapshot.every_commands {
            continue;
        }
        let (making, pace) = (core.clone(), Pace::resting(stop.clone()));
        match tokio::task::spawn_blocking(move || make(&making, pace)).await {
            Ok(Ok(sequence)) => {
                tracing::info!(sequence, "snapshot");
                snapshot_seq = sequence;
            }
            Ok(Err(CoreError::Snapshots(SnapshotsError::Stopped))) => return,
            Ok(Err(error)) => {
                tracing::warn!(%error, "no snapshot; recovery will take longer");
                // Not again at once: whatever failed (a full disk) fails again.
                snapshot_seq = durable_seq;
            }
            Err(error) => tracing::error!(%error, "the snapshot task failed"),
        }
    }
}

fn newest_sequence(core: &Core) -> u64 {
    snapshots::list(&core.folder.snapshots())
        .ok()
        .and_then(|found| found.last().map(|(sequence, _)| *sequence))
        .unwrap_or(0)
}

/// Makes one snapshot at the durable end of the log; returns its sequence. All of it at a pace: reading, applying, writing, and
/// giving the memory back.
///
/// # Errors
/// When the log cannot be read or the snapshot not be written, and when the pace ends.
pub fn make(core: &Core, mut pace: Pace) -> Result<u64, CoreError> {
    let durable_seq = core.hub.durable_seq();
    let dir = core.folder.snapshots();
    let (previous, _) = snapshots::newest_at(&dir, durable_seq, &mut pace)?;
    let ledger = previous.unwrap_or_default();
    let from_sequence = ledger.applied_seq() + 1;
    let mut machine = LedgerMachine::bare(ledger);
    let mut reading = pace.clone();
    let blocks = core
        .reader
        .read_at_pace(from_sequence, Box::new(move || reading.go_on()))?;
    let durable = blocks.take_while(|block| match block {
        Ok(block) => block.last_sequence() <= durable_seq,
        Err(_) => true,
    });
    karat_sequencer::replay(durable, from_sequence, &mut machine)?;
    let ledger = machine.into_ledger();
    let written = match pace.is_stopped() {
        // The blocks may have ended for it.
        true => Err(SnapshotsError::Stopped),
        false => snapshots::write_at(&dir, &ledger, core.config.snapshot.keep, &mut pace),
    };
    let sequence = ledger.applied_seq();
    ledger.free(&mut || {
        pace.go_on();
    });
    written?;
    Ok(sequence)
}
