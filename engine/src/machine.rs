//! The state machine that the sequencer drives: the ledger, and the publication of what it did.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use karat_ledger::{ApplyContext, Ledger};
use karat_proto::command::Command;
use karat_proto::event::{Event, Outcome};
use karat_sequencer::{BlockContext, Machine};

use crate::events::{BlockEvents, EventSender};
use crate::view::{DigestMark, View};

/// A digest is taken at the end of the first block of every second of block time.
const MARK_MS: u64 = 1000;

/// What comparing a replay's digests with recorded ones found.
#[derive(Debug, Clone, Default)]
pub struct DigestCheck {
    /// Digests that were equal.
    pub equal: u64,
    /// Recorded digests of sequences at which no block ends.
    pub passed_over: u64,
    /// The first difference: as recorded, and as replayed.
    pub first_difference: Option<(DigestMark, DigestMark)>,
}

/// The ledger behind the sequencer.
pub struct LedgerMachine {
    ledger: Ledger,
    view: Option<Arc<View>>,
    events: Option<EventSender>,
    expected: VecDeque<DigestMark>,
    checked: DigestCheck,
    last_mark_ms: u64,
    buffer: Vec<Event>,
}

impl LedgerMachine {
    /// A machine that only keeps its ledger, for replay, verification and snapshots.
    pub fn bare(ledger: Ledger) -> LedgerMachine {
        LedgerMachine {
            ledger,
            view: None,
            events: None,
            expected: VecDeque::new(),
            checked: DigestCheck::default(),
            last_mark_ms: 0,
            buffer: Vec::new(),
        }
    }

    /// A bare machine that compares its digests with recorded ones, which must be in the order of their sequences.
    pub fn checking(ledger: Ledger, recorded: Vec<DigestMark>) -> LedgerMachine {
        let applied_seq = ledger.applied_seq();
        let expected = recorded
            .into_iter()
            .filter(|mark| mark.sequence > applied_seq)
            .collect();
        LedgerMachine {
            expected,
            ..LedgerMachine::bare(ledger)
        }
    }

    /// A machine that publishes to readers and to the stream of events.
    pub fn publishing(ledger: Ledger, view: Arc<View>, events: EventSender) -> LedgerMachine {
        LedgerMachine {
            view: Some(view),
            events: Some(events),
            ..LedgerMachine::bare(ledger)
        }
    }

    /// A machine that only makes the stream of events again.
    pub fn telling(ledger: Ledger, events: EventSender) -> LedgerMachine {
        LedgerMachine {
            events: Some(events),
            ..LedgerMachine::bare(ledger)
        }
    }

    /// The ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The ledger, without its publications.
    pub fn into_ledger(self) -> Ledger {
        self.ledger
    }

    /// What the comparison with recorded digests has found so far.
    pub fn checked(&self) -> &DigestCheck {
        &self.checked
    }

    fn check_digest(&mut self) {
        let applied_seq = self.ledger.applied_seq();
        while self
            .expected
            .front()
            .is_some_and(|mark| mark.sequence < applied_seq)
        {
            // Recorded inside a block, or of a block that a loss of power took back: it says nothing.
            self.expected.pop_front();
            self.checked.passed_over += 1;
        }
        if let Some(recorded) = self
            .expected
            .pop_front_if(|mark| mark.sequence == applied_seq)
        {
            let digest = self.ledger.digest();
            if digest == recorded.digest {
                self.checked.equal += 1;
            } else if self.checked.first_difference.is_none() {
                self.checked.first_difference = Some((
                    recorded,
                    DigestMark {
                        sequence: applied_seq,
                        digest,
                    },
                ));
            }
        }
    }
}

impl Machine for LedgerMachine {
    type Command = Command;
    type Outcome = Outcome;

    fn decode(&self, body: &Bytes) -> Result<Command, String> {
        karat_proto::convert::decode_command(body).map_err(|refused| refused.to_string())
    }

    fn apply(
        &mut self,
        context: &BlockContext<'_>,
        commands: &mut Vec<Command>,
        outcomes: &mut Vec<Outcome>,
    ) {
        let first_sequence = context.header.first_sequence;
        let time_ms = context.header.time_ms;
        let mut last_sequence = first_sequence;
        let publishes = self.events.is_some();
        // A trade is the hand-over and what is due for settlement of it; the buffer goes away with the block's events.
        self.buffer.reserve(2 * commands.len());
        for (index, sequence) in (first_sequence..).take(commands.len()).enumerate() {
            last_sequence = sequence;
            let applied = ApplyContext {
                sequence,
                time_ms,
                block_hash: context.hash,
            };
            let before = self.buffer.len();
            // Fetches what the commands behind this one will touch while this one is applied.
            self.ledger.look_ahead(commands, index);
            let outcome = self
                .ledger
                .apply(&applied, &commands[index], &mut self.buffer);
            if let Some(view) = &self.view {
                view.publish(&self.ledger, &self.buffer[before..]);
            }
            if !publishes {
                self.buffer.clear();
            }
            outcomes.push(outcome);
        }
        commands.clear();
        let mark = time_ms / MARK_MS != self.last_mark_ms / MARK_MS;
        if mark {
            self.last_mark_ms = time_ms;
        }
        self.check_digest();
        if let Some(view) = &self.view {
            view.publish_block(&self.ledger, outcomes, mark);
        }
        if let Some(events) = &self.events {
            let block = BlockEvents {
                first_sequence,
                last_sequence,
                time_ms,
                hash: *context.hash,
                events: std::mem::take(&mut self.buffer),
            };
            events.send(Arc::new(block));
        }
    }
}
