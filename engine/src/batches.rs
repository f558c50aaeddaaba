//! Batches as readers see them, built from events.

use std::collections::BTreeMap;

use bytes::Bytes;
use karat_ledger::Ledger;
use karat_proto::event::EventKind;
use karat_proto::v1;

/// Newest batches kept in memory; older ones are read from the store.
const KEPT_MAX: usize = 4096;

/// The newest batches by number.
#[derive(Debug, Default)]
pub struct BatchBook {
    batches: BTreeMap<u64, v1::Batch>,
}

impl BatchBook {
    /// What the ledger knows of batches.
    pub fn new(ledger: &Ledger) -> BatchBook {
        let mut book = BatchBook::default();
        for batch in ledger.kept_batches() {
            let mut row = cut(
                batch.number,
                batch.first_sequence,
                batch.last_sequence,
                batch.changes,
            );
            if let Some(seal) = &batch.seal {
                set_sealed(&mut row, &seal.root, &seal.payload);
            }
            if let Some(commitment) = &batch.commitment {
                set_committed(
                    &mut row,
                    &commitment.transaction,
                    commitment.chain_block,
                    commitment.gas_used,
                    commitment.fee_wei,
                );
            }
            if batch.is_final {
                row.stage = v1::BatchStage::Final.into();
            }
            book.batches.insert(batch.number, row);
        }
        book
    }

    /// Takes a batch's event; others are none of its business.
    pub fn apply(&mut self, kind: &EventKind) {
        match kind {
            EventKind::BatchCut {
                number,
                first_sequence,
                last_sequence,
                changes,
            } => {
                let row = cut(*number, *first_sequence, *last_sequence, *changes);
                self.batches.insert(*number, row);
                while self.batches.len() > KEPT_MAX {
                    self.batches.pop_first();
                }
            }
            EventKind::BatchSealed {
                number,
                root,
                payload,
                ..
            } => {
                self.change(*number, |row| set_sealed(row, root, payload));
            }
            EventKind::BatchCommitted {
                number,
                transaction,
                chain_block,
                gas_used,
                fee_wei,
            } => {
                self.change(*number, |row| {
                    set_committed(row, transaction, *chain_block, *gas_used, *fee_wei);
                });
            }
            EventKind::BatchFinal { number, .. } => {
                self.change(*number, |row| row.stage = v1::BatchStage::Final.into());
            }
            _ => {}
        }
    }

    fn change(&mut self, number: u64, change: impl FnOnce(&mut v1::Batch)) {
        if let Some(row) = self.batches.get_mut(&number) {
            change(row);
        }
    }

    /// Puts a row that was read from the store.
    pub fn insert(&mut self, row: v1::Batch) {
        self.batches.insert(row.number, row);
    }

    /// A batch.
    pub fn get(&self, number: u64) -> Option<&v1::Batch> {
        self.batches.get(&number)
    }

    /// The batch whose range holds a sequence.
    pub fn holding(&self, sequence: u64) -> Option<&v1::Batch> {
        // Ranges follow each other, so the first one from the end that begins at or before it decides.
        self.batches
            .values()
            .rev()
            .find(|row| row.first_sequence <= sequence)
            .filter(|row| sequence <= row.last_sequence)
    }

    /// Batches below `before` (0 for all), newest first.
    pub fn newest(&self, before: u64, limit: usize) -> Vec<v1::Batch> {
        let end = if before == 0 { u64::MAX } else { before };
        self.batches
            .range(..end)
            .rev()
            .take(limit)
            .map(|(_, row)| row.clone())
            .collect()
    }

    /// Lowest number kept.
    pub fn first(&self) -> Option<u64> {
        self.batches.keys().next().copied()
    }
}

fn cut(number: u64, first_sequence: u64, last_sequence: u64, leaves: u32) -> v1::Batch {
    v1::Batch {
        number,
        stage: v1::BatchStage::Cut.into(),
        first_sequence,
        last_sequence,
        leaves,
        ..Default::default()
    }
}

fn set_sealed(row: &mut v1::Batch, root: &[u8; 32], payload: &[u8; 32]) {
    row.stage = v1::BatchStage::Sealed.into();
    row.root = Bytes::copy_from_slice(root);
    row.payload_cid = karat_content::cid_of(payload);
}

fn set_committed(
    row: &mut v1::Batch,
    transaction: &[u8; 32],
    chain_block: u64,
    gas_used: u64,
    fee_wei: u128,
) {
    row.stage = v1::BatchStage::Committed.into();
    row.transaction = Bytes::copy_from_slice(transaction);
    row.chain_block = chain_block;
    row.gas_used = gas_used;
    row.fee_wei = karat_proto::convert::wei_to_wire(fee_wei);
}
