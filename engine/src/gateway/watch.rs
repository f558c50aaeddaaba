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
use crate::events::BlockEvents;

/// Messages that may wait for a slow watcher; beyond, its task waits, and reads on from disk later.
const WAITING_MESSAGES: usize = 16;
/// Events looked at for one message: at some 5 us each from the event to the socket (40 ms for eight messages of 1,024) that is
/// 0.6 ms of one processor, which everybody else on the gateway's threads may wait for. With 1,024, eight watchers that read
/// a message a second took p99.9 of SEQUENCED at 5,000/s from 4 to 13 ms.
const EVENTS_A_MESSAGE: usize = 128;

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
            for message in messages(&blocks, |event| filter.wants(&core, event)) {
                if sender.send(Ok(message)).await.is_err() {
                    return;
                }
            }
        }
    });
    ReceiverStream::new(receiver)
}

/// The blocks as messages, each made when it is asked for. A block may hold thousands of events, so it is cut, but never
/// between the events of one command: who resumes behind `seen_sequence` has seen all of what came before. A message without
/// events comes only at the end.
fn messages<'a>(
    blocks: &'a [Arc<BlockEvents>],
    wants: impl Fn(&Event) -> bool + 'a,
) -> impl Iterator<Item = v1::WatchResponse> + 'a {
    let last_sequence = blocks.last().map_or(0, |block| block.last_sequence);
    let mut coming = blocks.iter().flat_map(|block| &block.events).peekable();
    let mut is_told = blocks.is_empty();
    let pieces = std::iter::from_fn(move || {
        if is_told {
            return None;
        }
        let mut events = Vec::new();
        let mut looked_at = 0;
        let mut sequence = 0;
        while let Some(event) =
            coming.next_if(|next| looked_at < EVENTS_A_MESSAGE || next.sequence == sequence)
        {
            sequence = event.sequence;
            looked_at += 1;
            if wants(event) {
                events.push(convert::event_to_wire(event));
            }
        }
        is_told = coming.peek().is_none();
        let seen_sequence = coming
            .peek()
            .map_or(last_sequence, |next| next.sequence - 1);
        Some(v1::WatchResponse {
            events,
            seen_sequence,
        })
    });
    pieces.filter(move |piece| !piece.events.is_empty() || piece.seen_sequence == last_sequence)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Blocks whose commands have as many events as the numbers say.
    fn blocks(counts: &[Vec<usize>]) -> Vec<Arc<BlockEvents>> {
        let mut last_sequence = 0;
        let block = |commands: &Vec<usize>| {
            let first_sequence = last_sequence + 1;
            last_sequence += commands.len() as u64;
            let events = (first_sequence..)
                .zip(commands)
                .flat_map(|(sequence, &count)| {
                    (0..count).map(move |index| Event {
                        sequence,
                        index: u16::try_from(index).unwrap(),
                        time_ms: 7,
                        kind: EventKind::Deposited {
                            account: Account::from_name("ann"),
                            amount: sequence,
                        },
                    })
                });
            Arc::new(BlockEvents {
                first_sequence,
                last_sequence,
                time_ms: 7,
                hash: [9; 32],
                events: events.collect(),
            })
        };
        counts.iter().map(block).collect()
    }

    proptest! {
        #[test]
        fn every_event_is_in_one_message_and_no_message_costs_more_than_its_bound(
            counts in prop::collection::vec(prop::collection::vec(0..200_usize, 1..40), 1..5),
            odd_only: bool,
        ) {
            let blocks = blocks(&counts);
            let wants = |event: &Event| !odd_only || event.sequence % 2 == 1;
            let wanted: Vec<_> = blocks
                .iter()
                .flat_map(|block| &block.events)
                .filter(|event| wants(event))
                .map(convert::event_to_wire)
                .collect();
            let all: Vec<_> = messages(&blocks, wants).collect();
            let told: Vec<_> = all.iter().flat_map(|message| message.events.clone()).collect();
            prop_assert_eq!(told, wanted);
            let mut seen_before = 0;
            for message in &all {
                prop_assert!(message.seen_sequence > seen_before || all.len() == 1);
                for event in &message.events {
                    prop_assert!(event.sequence > seen_before && event.sequence <= message.seen_sequence);
                }
                // Beyond the bound only to end one command.
                let at_bound = message.events.get(EVENTS_A_MESSAGE - 1).map(|event| event.sequence);
                for event in message.events.iter().skip(EVENTS_A_MESSAGE) {
                    prop_assert_eq!(Some(event.sequence), at_bound);
                }
                seen_before = message.seen_sequence;
            }
            prop_assert_eq!(seen_before, blocks.last().unwrap().last_sequence);
        }
    }
}
