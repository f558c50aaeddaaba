//! Watch: the stream of events for clients, filtered, resumable, at the client's own pace.

use std::sync::Arc;
use std::time::Duration;

use karat_proto::convert;
use karat_proto::event::{Event, EventKind};
use karat_proto::{Account, v1};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::core::Core;

/// Messages that may wait for a slow watcher; beyond, its task waits, and reads on from disk later.
const WAITING_MESSAGES: usize = 16;
/// Events looked at for one message.
const EVENTS_A_MESSAGE: usize = 1024;

/// A watcher may see events this much later for the sake of fewer messages.
const PAUSE: Duration = Duration::from_millis(2);

/// What a watcher wants to see.
pub(super) struct Filter {
    pub asset: u64,
    pub collection: u32,
    pub account: Option<Account>,
}

impl Filter {
    fn wants(&self, core: &Core, event: &Event) -> bool {
        let asset = event.kind.asset();
        if self.asset != 0 && asset != Some(self.asset) {
            return false;
        }
        if self.collection != 0 {
            let of_asset = asset
                .and_then(|id| core.view.asset(id))
                .map(|asset| asset.collection);
            let own = match &event.kind {
                EventKind::CollectionCreated { collection, .. }
                | EventKind::SeedRevealed { collection, .. } => Some(*collection),
                _ => of_asset,
            };
            if own != Some(self.collection) {
                return false;
            }
        }
        self.account
            .is_none_or(|account| touches(&event.kind, &account))
    }
}

fn touches(kind: &EventKind, account: &Account) -> bool {
    match kind {
        EventKind::Minted { owner, .. } | EventKind::SettlementDue { owner, .. } => {
            owner == account
        }
        EventKind::Transferred { from, to, .. } | EventKind::CurrencyMoved { from, to, .. } => {
            from == account || to == account
        }
        EventKind::ClaimEntered { account: one, .. }
        | EventKind::ClaimLost { account: one, .. }
        | EventKind::Deposited { account: one, .. }
        | EventKind::Withdrawn { account: one, .. } => one == account,
        EventKind::Redeemed { to, .. } => to == account,
        _ => false,
    }
}

/// Starts a watcher's task.
pub(super) fn open(
    core: Arc<Core>,
    from_sequence: u64,
    filter: Filter,
    stream: OwnedSemaphorePermit,
) -> ReceiverStream<Result<v1::WatchResponse, Status>> {
    let (sender, receiver) = mpsc::channel(WAITING_MESSAGES);
    tokio::spawn(async move {
        let _stream = stream;
        // Only what no loss of power can take back is shown, so a watcher never sees a sequence twice with other events.
        let mut reader = core.events(from_sequence, true, PAUSE);
        loop {
            let next = tokio::select! {
                next = reader.next(EVENTS_A_MESSAGE) => next,
                () = sender.closed() => return,
            };
            let blocks = match next {
                Ok(Some(blocks)) => blocks,
                Ok(None) => return,
                Err(error) => {
                    let _ = sender.send(Err(Status::data_loss(error.to_string()))).await;
                    return;
                }
            };
            let seen_sequence = blocks.last().map_or(0, |block| block.last_sequence);
            let events: Vec<v1::Event> = blocks
                .iter()
                .flat_map(|block| &block.events)
                .filter(|event| filter.wants(&core, event))
                .map(convert::event_to_wire)
                .collect();
            if sender
                .send(Ok(v1::WatchResponse {
                    events,
                    seen_sequence,
                }))
                .await
                .is_err()
            {
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}
