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

const LABEL: &[u8] = b"karat.ledger.v1";
/// What a fold's bytes begin with: the label and the digest before.
const HEAD: usize = LABEL.len() + size_of::<Digest>();

/// The digest, and what is to be folded into it.
#[derive(Clone, Debug)]
pub(crate) struct RollingDigest {
    /// The label, the digest before, what gathered since. In one piece, because blake3 takes several chunks of 1,024 bytes at
    /// once only where it is given them from the first byte on: told the head by itself it makes small pieces of the rest.
    bytes: Vec<u8>,
}

impl RollingDigest {
    pub(crate) fn new() -> RollingDigest {
        RollingDigest::folded_to(&[0; 32])
    }

    /// One that was folded to this, and has gathered nothing since.
    pub(crate) fn folded_to(folded: &Digest) -> RollingDigest {
        RollingDigest {
            bytes: [LABEL, folded].concat(),
        }
    }

    /// The digest after the last fold.
    pub(crate) fn folded(&self) -> &[u8] {
        &self.bytes[LABEL.len()..HEAD]
    }

    /// What gathered since the last fold.
    pub(crate) fn gathered(&self) -> &[u8] {
        &self.bytes[HEAD..]
    }

    /// Puts back what had gathered in a snapshot.
    pub(crate) fn gather(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes one command's outcome and events; true when this filled a fold.
    #[inline]
    pub(crate) fn absorb(&mut self, sequence: u64, outcome: &Outcome, events: &[Event]) -> bool {
        codec::encode_outcome(outcome, &mut self.bytes);
        for event in events {
            codec::encode_event(event, &mut self.bytes);
        }
        let full = sequence.is_multiple_of(FOLD_SEQUENCES);
        if full {
            self.fold();
        }
        full
    }

    #[cold]
    fn fold(&mut self) {
        let folded = self.value();
        self.bytes.truncate(LABEL.len());
        self.bytes.extend_from_slice(&folded);
    }

    /// The digest as of now.
    pub(crate) fn value(&self) -> Digest {
        *blake3::hash(&self.bytes).as_bytes()
    }
}
