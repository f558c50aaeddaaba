//! The log read by the test itself, from nothing: what every command did, every event, every batch, every CID.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use bytes::Bytes;
use karat_ledger::{ApplyContext, Ledger};
use karat_proto::event::{Event, EventKind, LeafKind, Outcome};
use karat_proto::{Command, convert, v1};
use karat_sequencer::{BlockContext, Machine, read_blocks};
use karat_settlement::{BatchToCommit, Leaf, MerkleTree};
use prost::Message;

use super::book::{Id, Told};

/// One asset of so many has its history compared.
pub const HISTORY_OF_ONE_IN: u64 = 61;

#[derive(Debug, Clone)]
pub struct Settled {
    pub batch: BatchToCommit,
    pub leaves: BTreeMap<u64, Leaf>,
    pub stage: v1::BatchStage,
}

pub struct Replay {
    pub ledger: Ledger,
    /// First outcome of each id, and in how many places of the log its command was applied (not replayed).
    pub first: HashMap<Id, (Told, u32)>,
    pub events: u64,
    pub hash: blake3::Hasher,
    /// What must have bytes: content of every version of every asset, and payloads.
    pub named: BTreeSet<[u8; 32]>,
    pub histories: BTreeMap<u64, Vec<v1::Event>>,
    pub batches: Vec<Settled>,
    due: BTreeMap<u64, Leaf>,
    buffer: Vec<Event>,
}

/// Replays the log of a folder that nobody writes.
pub fn replay(journal: &Path) -> Replay {
    let mut replay = Replay {
        ledger: Ledger::new(),
        first: HashMap::new(),
        events: 0,
        hash: blake3::Hasher::new(),
        named: BTreeSet::new(),
        histories: BTreeMap::new(),
        batches: Vec::new(),
        due: BTreeMap::new(),
        buffer: Vec::new(),
    };
    let blocks = read_blocks(journal, 1).unwrap();
    karat_sequencer::replay(blocks, 1, &mut replay).unwrap();
    karat_ledger::invariants::check_all(&replay.ledger).unwrap();
    replay
}

impl Machine for Replay {
    type Command = Command;
    type Outcome = Outcome;

    fn decode(&self, body: &Bytes) -> Result<Command, String> {
        convert::decode_command(body).map_err(|refused| refused.to_string())
    }

    fn apply(
        &mut self,
        context: &BlockContext<'_>,
        commands: &mut Vec<Command>,
        outcomes: &mut Vec<Outcome>,
    ) {
        for (sequence, command) in (context.header.first_sequence..).zip(commands.drain(..)) {
            let place = ApplyContext {
                sequence,
                time_ms: context.header.time_ms,
                block_hash: context.hash,
            };
            let mut events = std::mem::take(&mut self.buffer);
            let outcome = self.ledger.apply(&place, &command, &mut events);
            let told = Told {
                sequence: outcome.sequence,
                code: outcome.code as u32,
                subject: outcome.subject,
            };
            let (first, times) = self.first.entry(command.id.0).or_insert((told, 0));
            if !outcome.replayed {
                *times += 1;
            }
            assert_eq!(*first, told, "a replayed outcome is not the first one");
            for event in &events {
                self.take(event, context.hash);
            }
            events.clear();
            self.buffer = events;
            outcomes.push(outcome);
        }
    }
}

impl Replay {
    fn take(&mut self, event: &Event, block_hash: &[u8; 32]) {
        let wire = convert::event_to_wire(event);
        self.events += 1;
        self.hash.update(&wire.encode_to_vec());
        if let Some(asset) = event.kind.asset()
            && asset.is_multiple_of(HISTORY_OF_ONE_IN)
        {
            self.histories.entry(asset).or_default().push(wire);
        }
        match &event.kind {
            EventKind::Minted { made, .. } | EventKind::Revised { made, .. } => {
                self.named.insert(made.content.digest);
            }
            EventKind::SettlementDue {
                asset,
                collection,
                owner,
                version,
                metadata,
                kind,
            } => {
                let leaf = Leaf {
                    asset: *asset,
                    owner: owner.0,
                    version: *version,
                    metadata: *metadata,
                    collection: *collection,
                    kind: match kind {
                        LeafKind::Held => karat_settlement::LeafKind::Held,
                        LeafKind::Burned => karat_settlement::LeafKind::Burned,
                        LeafKind::Redeemed => karat_settlement::LeafKind::Redeemed,
                    },
                };
                self.due.insert(*asset, leaf);
            }
            EventKind::BatchCut {
                number,
                first_sequence,
                last_sequence,
                changes,
            } => {
                assert_eq!(*number, self.batches.len() as u64 + 1, "numbers are dense");
                assert_eq!(*last_sequence, event.sequence, "a cut takes all");
                let leaves = std::mem::take(&mut self.due);
                assert_eq!(leaves.len(), *changes as usize);
                let in_order: Vec<Leaf> = leaves.values().copied().collect();
                let before = self.batches.last();
                assert_eq!(
                    *first_sequence,
                    before.map_or(0, |before| before.batch.last_sequence) + 1,
                    "ranges follow each other"
                );
                let batch = BatchToCommit {
                    number: *number,
                    parent: before.map_or([0; 32], |before| before.batch.commitment()),
                    root: MerkleTree::new(&in_order).unwrap().root(),
                    payload_digest: [0; 32],
                    log_head: *block_hash,
                    first_sequence: *first_sequence,
                    last_sequence: *last_sequence,
                };
                self.batches.push(Settled {
                    batch,
                    leaves,
                    stage: v1::BatchStage::Cut,
                });
            }
            EventKind::BatchSealed {
                number,
                root,
                payload,
                ..
            } => {
                let at = *number as usize - 1;
                assert_eq!(*root, self.batches[at].batch.root, "root of batch {number}");
                assert_eq!(self.batches[at].stage, v1::BatchStage::Cut);
                self.batches[at].stage = v1::BatchStage::Sealed;
                self.batches[at].batch.payload_digest = *payload;
                self.named.insert(*payload);
                // Batches cut meanwhile link to what is known only now.
                for at in at + 1..self.batches.len() {
                    self.batches[at].batch.parent = self.batches[at - 1].batch.commitment();
                }
            }
            EventKind::BatchCommitted { number, .. } => {
                let settled = &mut self.batches[*number as usize - 1];
                assert_eq!(settled.stage, v1::BatchStage::Sealed);
                settled.stage = v1::BatchStage::Committed;
            }
            EventKind::BatchFinal { number, .. } => {
                let settled = &mut self.batches[*number as usize - 1];
                assert_eq!(settled.stage, v1::BatchStage::Committed);
                settled.stage = v1::BatchStage::Final;
            }
            _ => {}
        }
    }
}
