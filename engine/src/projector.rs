//! Turns events into the store's rows, behind the ledger and at its own pace.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use karat_ledger::codec;
use karat_proto::event::{Event, EventKind};
use karat_proto::{Account, convert, v1};
use karat_store::{Projection, Store, StoreError, Write};
use prost::Message;
use thiserror::Error;

use crate::batches::BatchBook;
use crate::core::Core;
use crate::events::{BlockEvents, EventLogError, EventReader};

/// Events projected by one atomic change.
const EVENTS_A_CHANGE: usize = 4096;

/// Rows may be this much later than their events for the sake of fewer and larger changes.
const PAUSE: Duration = Duration::from_millis(20);

/// Commands that come for each that is projected, from which on the store falls behind whatever it does.
const OUTRUN_FACTOR: u64 = 4;
/// What a change's work is multiplied by for the pause after it while the store is outrun: a tenth of a processor is left to
/// it. Batches of 256 commands came in at 457,000 to 528,000/s on two processors, and at 557,000 to 592,000 with all that is behind
/// the log held to 4 % from outside, because a thread of the idle policy keeps a processor from looking for a thread that
/// waits at the other one.
const OUTRUN_PAUSE_FACTOR: u32 = 9;
/// The longest such pause.
const OUTRUN_PAUSE_MAX: Duration = Duration::from_millis(500);

/// Why projecting stopped. The log is whole; the store is filled again by `karat store rebuild`.
#[derive(Debug, Error)]
pub enum ProjectorError {
    /// The store.
    #[error("project events: {0}")]
    Store(#[from] StoreError),
    /// The stream of events.
    #[error(transparent)]
    Events(#[from] EventLogError),
}

/// Projects the stream of events into a store.
pub struct Projector {
    store: Arc<dyn Store>,
    reader: EventReader,
    /// Batches that are not final, and the assets due since the last cut.
    open_batches: BatchBook,
    due: HashMap<u64, u64>,
}

impl Projector {
    /// Goes on where the store is. A store that is ahead of the log (a loss of power took commands back) is emptied.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(core: Arc<Core>, store: Arc<dyn Store>) -> Result<Projector, ProjectorError> {
        let mut projected_seq = store.projected_seq()?;
        if projected_seq > core.view.applied_seq() {
            tracing::warn!(
                projected_seq,
                "the store is ahead of the log; it is made again"
            );
            store.reset()?;
            projected_seq = 0;
        }
        // Changes due but not yet in a projected batch are found again from the last cut that was projected.
        let last = store.batches(None, karat_store::Order::NewestFirst, 1)?;
        let mut from_sequence = 1;
        if let Some((_, row)) = last.first()
            && let Ok(batch) = v1::Batch::decode(row.clone())
        {
            from_sequence = batch.last_sequence + 1;
        }
        if projected_seq > 0 && from_sequence < core.hub.first_seq() {
            tracing::warn!(
                "the events that the store goes on from are not here yet; it is made again"
            );
            store.reset()?;
            (projected_seq, from_sequence) = (0, 1);
        }
        let mut open_batches = BatchBook::default();
        for (_, row) in store.batches(None, karat_store::Order::NewestFirst, 1024)? {
            if let Ok(batch) = v1::Batch::decode(row) {
                open_batches.insert(batch);
            }
        }
        let mut due = HashMap::new();
        let mut catch_up = core.events(from_sequence, true, PAUSE);
        while catch_up.next_sequence() <= projected_seq {
            let blocks = catch_up.read(EVENTS_A_CHANGE)?;
            if blocks.is_empty() {
                break;
            }
            for block in blocks
                .iter()
                .filter(|block| block.last_sequence <= projected_seq)
            {
                for event in &block.events {
                    note_due(&mut due, event);
                }
            }
        }
        let reader = core.events(projected_seq + 1, true, PAUSE);
        Ok(Projector {
            store,
            reader,
            open_batches,
            due,
        })
    }

    /// Projects what is there now.
    ///
    /// # Errors
    /// When store or stream fail.
    pub fn catch_up(&mut self) -> Result<(), ProjectorError> {
        loop {
            let blocks = self.reader.read(EVENTS_A_CHANGE)?;
            if blocks.is_empty() {
                return Ok(());
            }
            self.project(&blocks)?;
        }
    }

    /// Projects until the stream ends. A burst that the store cannot follow has the processors to itself; the store catches
    /// up when it is over.
    ///
    /// # Errors
    /// When store or stream fail.
    pub async fn run(mut self) -> Result<(), ProjectorError> {
        loop {
            let first_sequence = self.reader.next_sequence();
            let Some(blocks) = self.reader.next(EVENTS_A_CHANGE).await? else {
                return Ok(());
            };
            let (began, available_seq) = (Instant::now(), self.reader.available_seq());
            // The store blocks; other tasks of this thread move on elsewhere meanwhile.
            tokio::task::block_in_place(|| self.project(&blocks))?;
            let projected = self.reader.next_sequence() - first_sequence;
            let came = self.reader.available_seq().saturating_sub(available_seq);
            let pause = pause_after(began.elapsed(), projected, came);
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    }

    fn project(&mut self, blocks: &[Arc<BlockEvents>]) -> Result<(), ProjectorError> {
        let projections: Vec<Projection> = blocks
            .iter()
            .map(|block| {
                let mut writes = Vec::with_capacity(block.events.len() * 2);
                for event in &block.events {
                    self.write(event, &mut writes);
                }
                Projection {
                    sequence: block.last_sequence,
                    writes,
                }
            })
            .collect();
        self.store.apply(&projections)?;
        Ok(())
    }

    fn write(&mut self, event: &Event, writes: &mut Vec<Write>) {
        if let EventKind::SettlementDue { .. } = &event.kind {
            note_due(&mut self.due, event);
        }
        if let Some(asset) = event.kind.asset() {
            let mut row = Vec::with_capacity(128);
            codec::encode_event(event, &mut row);
            writes.push(Write::AddHistory {
                asset,
                sequence: event.sequence,
                index: event.index,
                row: row.into(),
            });
        }
        match &event.kind {
            EventKind::Minted {
                asset,
                collection,
                owner,
                ..
            } => {
                writes.push(Write::AddToCollection {
                    collection: *collection,
                    asset: *asset,
                });
                writes.push(moved(*asset, &Account::NOBODY, owner));
                writes.push(Write::PutAsset {
                    asset: *asset,
                    row: wire_row(event),
                });
            }
            EventKind::Revised { asset, .. } => {
                writes.push(Write::PutAsset {
                    asset: *asset,
                    row: wire_row(event),
                });
            }
            EventKind::Transferred {
                asset, from, to, ..
            } => writes.push(moved(*asset, from, to)),
            EventKind::Redeemed { asset, to } => {
                writes.push(moved(*asset, &Account::NOBODY, to));
            }
            EventKind::CollectionCreated { collection, .. } => {
                writes.push(Write::PutCollection {
                    collection: *collection,
                    row: wire_row(event),
                });
            }
            EventKind::ModelRegistered { digest, .. }
            | EventKind::ModelSigned { digest, .. }
            | EventKind::ModelPromoted { digest }
            | EventKind::ModelRetired { digest } => {
                writes.push(Write::PutModel {
                    digest: *digest,
                    row: wire_row(event),
                });
            }
            EventKind::BatchCut {
                number,
                last_sequence,
                ..
            } => {
                let mut assets: Vec<u64> = self
                    .due
                    .extract_if(|_, sequence| *sequence <= *last_sequence)
                    .map(|(asset, _)| asset)
                    .collect();
                assets.sort_unstable();
                // The leaf itself is in the batch's payload; the row only says that there is one.
                writes.extend(assets.into_iter().map(|asset| Write::AddBatchLeaf {
                    batch: *number,
                    asset,
                    row: Bytes::new(),
                }));
                self.write_batch(*number, &event.kind, writes);
            }
            EventKind::BatchSealed { number, .. }
            | EventKind::BatchCommitted { number, .. }
            | EventKind::BatchFinal { number, .. } => {
                self.write_batch(*number, &event.kind, writes)
            }
            _ => {}
        }
    }

    fn write_batch(&mut self, number: u64, kind: &EventKind, writes: &mut Vec<Write>) {
        self.open_batches.apply(kind);
        if let Some(row) = self.open_batches.get(number) {
            writes.push(Write::PutBatch {
                batch: number,
                row: row.encode_to_vec().into(),
            });
        }
    }
}

/// How long to leave the processors alone after `projected` commands took so long, while `came` others came.
fn pause_after(worked: Duration, projected: u64, came: u64) -> Duration {
    match came > projected.saturating_mul(OUTRUN_FACTOR) {
        true => (worked * OUTRUN_PAUSE_FACTOR).min(OUTRUN_PAUSE_MAX),
        false => Duration::ZERO,
    }
}

/// Rows of models, collections and asset versions are the event that made them, as clients see it.
fn wire_row(event: &Event) -> Bytes {
    convert::event_to_wire(event).encode_to_vec().into()
}

fn note_due(due: &mut HashMap<u64, u64>, event: &Event) {
    match &event.kind {
        EventKind::SettlementDue { asset, .. } => {
            due.insert(*asset, event.sequence);
        }
        EventKind::BatchCut { last_sequence, .. } => {
            // Only while catching up: the rows of this batch are projected already.
            due.retain(|_, sequence| *sequence > *last_sequence);
        }
        _ => {}
    }
}

fn moved(asset: u64, from: &Account, to: &Account) -> Write {
    let known = |account: &Account| (!account.is_nobody()).then_some(account.0);
    Write::SetOwner {
        asset,
        from: known(from),
        to: known(to),
    }
}

/// How far the store is; 0 when it cannot say.
pub fn projected_seq(store: &dyn Store) -> u64 {
    store.projected_seq().unwrap_or_else(|error| {
        tracing::warn!(%error, "the store does not say how far it is");
        0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_cannot_follow_leaves_the_processors_and_one_that_can_does_not_wait() {
        let worked = Duration::from_millis(20);
        assert_eq!(pause_after(worked, 1000, 0), Duration::ZERO);
        assert_eq!(pause_after(worked, 1000, 4000), Duration::ZERO);
        assert_eq!(pause_after(worked, 1000, 4001), worked * 9);
        let long = Duration::from_secs(9);
        assert_eq!(pause_after(long, 1, 1_000_000), OUTRUN_PAUSE_MAX);
    }
}
