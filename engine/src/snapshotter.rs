//! Makes snapshots off the hot path: the previous one plus the log, in a ledger of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch as signal;

use crate::core::{Core, CoreError};
use crate::digests::DigestRecorder;
use crate::machine::LedgerMachine;
use crate::snapshots;

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
        let making = core.clone();
        match tokio::task::spawn_blocking(move || make(&making)).await {
            Ok(Ok(sequence)) => {
                tracing::info!(sequence, "snapshot");
                snapshot_seq = sequence;
            }
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

/// Makes one snapshot at the durable end of the log; returns its sequence.
///
/// # Errors
/// When the log cannot be read or the snapshot not be written.
pub fn make(core: &Core) -> Result<u64, CoreError> {
    let durable_seq = core.hub.durable_seq();
    let ledger = crate::core::ledger_from_snapshot(&core.folder, durable_seq)?;
    let from_sequence = ledger.applied_seq() + 1;
    let mut machine = LedgerMachine::bare(ledger);
    let blocks = core.reader.read(from_sequence)?;
    let durable = blocks.take_while(|block| match block {
        Ok(block) => block.last_sequence() <= durable_seq,
        Err(_) => true,
    });
    karat_sequencer::replay(durable, from_sequence, &mut machine)?;
    let ledger = machine.into_ledger();
    snapshots::write(&core.folder.snapshots(), &ledger, core.config.snapshot.keep)?;
    Ok(ledger.applied_seq())
}
