//! The rolling digest over everything that happened: outcomes and events in their canonical bytes.
//!
//! Bytes gather in a buffer that is folded after each sequence that is a multiple of [`FOLD_SEQUENCES`]:
//! `digest = blake3("karat.ledger.v1" ‖ digest before ‖ buffer)`. Folding goes by sequence alone, so that cutting the same
//! commands into other blocks gives the same digest. Some 256 commands are enough bytes for blake3 to use wide registers.

use crate::codec;
use karat_proto::Digest;
use karat_proto::event::{Event, Outcome};

/// Sequences between two folds.
pub(crate) const FOLD_SEQUENCES: u64 = 256;

#[derive(Clone, Debug)]
pub(crate) struct RollingDigest {
    pub(crate) folded: Digest,
    pub(crate) buffer: Vec<u8>,
}

impl RollingDigest {
    pub(crate) fn new() -> RollingDigest {
        RollingDigest {
            folded: [0; 32],
            buffer: Vec::new(),
        }
    }

    /// Takes one command's outcome and events; true when this filled a fold.
    #[inline]
    pub(crate) fn absorb(&mut self, sequence: u64, outcome: &Outcome, events: &[Event]) -> bool {
        codec::encode_outcome(outcome, &mut self.buffer);
        for event in events {
            codec::encode_event(event, &mut self.buffer);
        }
        let full = sequence.is_multiple_of(FOLD_SEQUENCES);
        if full {
            self.folded = self.value();
            self.buffer.clear();
        }
        full
    }

    /// The digest as of now.
    pub(crate) fn value(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"karat.ledger.v1");
        hasher.update(&self.folded);
        hasher.update(&self.buffer);
        *hasher.finalize().as_bytes()
    }
}
