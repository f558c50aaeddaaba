//! What makes a row of blocks one log: dense sequences, linked hashes, time and epochs that never fall.
//!
//! Every reader uses these rules, so every reader agrees on which blocks count. A new leader on a shared log
//! appends its marker before it has read what came just before it; so a marker with a higher epoch fences older
//! leaders even when it does not link to the last block. It then does not become the head of the chain.

use crate::block::{BlockHeader, Hash, IngressOffset, NO_PARENT};

/// The state of a reader (or writer) between two blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The hash of the last block that counts; `None` if the reading starts in the middle of a log.
    head: Option<Hash>,
    next_sequence: Option<u64>,
    time_ms: u64,
    epoch: u64,
    realm: Option<String>,
    ingress: Vec<IngressOffset>,
}

/// What a block is to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its commands count.
    Counts,
    /// It holds no command and raised the epoch.
    Marker,
    /// Its leader had been replaced, or it is the marker of one that began at the same time and came second: it is
    /// skipped.
    Void,
}

/// Why a block does not continue its log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Sequences are not dense.
    #[error("block begins at sequence {found}, expected {expected}")]
    Sequence {
        /// What should come next.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// The parent hash is not the hash of the block before.
    #[error("block at sequence {first_sequence} names a parent that is not the block before it")]
    Parent {
        /// The block's first sequence.
        first_sequence: u64,
    },
    /// Time fell.
    #[error(
        "block at sequence {first_sequence} has time {found_ms} ms, before {last_ms} ms of the block before it"
    )]
    Time {
        /// The block's first sequence.
        first_sequence: u64,
        /// The time of the block before.
        last_ms: u64,
        /// The block's time.
        found_ms: u64,
    },
    /// Another realm's block.
    #[error(
        "block at sequence {first_sequence} is of realm \"{found}\", the log is of realm \"{expected}\""
    )]
    Realm {
        /// The block's first sequence.
        first_sequence: u64,
        /// The log's realm.
        expected: String,
        /// The block's realm.
        found: String,
    },
}

impl Chain {
    /// Before the first block of a log.
    pub fn genesis() -> Self {
        Self {
            head: Some(NO_PARENT),
            next_sequence: Some(1),
            ..Self::unknown()
        }
    }

    /// Before a block of which nothing is known: the first block seen is believed, unless it is sequence 1.
    pub fn unknown() -> Self {
        Self {
            head: None,
            next_sequence: None,
            time_ms: 0,
            epoch: 0,
            realm: None,
            ingress: Vec::new(),
        }
    }

    /// After a block that is known, for instance from a snapshot.
    pub fn after(last_sequence: u64, head: Hash, time_ms: u64, epoch: u64) -> Self {
        Self {
            head: Some(head),
            next_sequence: Some(last_sequence + 1),
            time_ms,
            epoch,
            ..Self::unknown()
        }
    }

    /// With what the blocks before said of the realm and of ingress, rising by topic and partition.
    #[must_use]
    pub fn of_realm(self, realm: String, ingress: Vec<IngressOffset>) -> Self {
        Self {
            realm: Some(realm),
            ingress,
            ..self
        }
    }

    /// Checks the next block of `count` commands and moves on.
    pub fn accept(
        &mut self,
        header: &BlockHeader,
        hash: &Hash,
        count: usize,
    ) -> Result<Standing, ChainError> {
        let first_sequence = header.first_sequence;
        if let Some(realm) = &self.realm
            && *realm != header.realm
        {
            return Err(ChainError::Realm {
                first_sequence,
                expected: realm.clone(),
                found: header.realm.clone(),
            });
        }
        if header.epoch < self.epoch {
            return Ok(Standing::Void);
        }
        let linked = self.check_link(header);
        if count == 0 {
            let starts = self.realm.is_none() && self.head.is_none();
            if header.epoch == self.epoch && !starts {
                // Two leaders that began at once chose the same epoch. The first marker has it; the other one's writer
                // finds that out when it reads its marker back, and writes nothing else.
                return Ok(Standing::Void);
            }
            self.epoch = header.epoch;
            self.realm.get_or_insert_with(|| header.realm.clone());
            if linked.is_ok() {
                self.advance(header, hash, 0);
            }
            return Ok(Standing::Marker);
        }
        linked?;
        self.epoch = header.epoch;
        self.advance(header, hash, count as u64);
        Ok(Standing::Counts)
    }

    fn check_link(&self, header: &BlockHeader) -> Result<(), ChainError> {
        let first_sequence = header.first_sequence;
        if let Some(expected) = self.next_sequence
            && expected != first_sequence
        {
            return Err(ChainError::Sequence {
                expected,
                found: first_sequence,
            });
        }
        if let Some(head) = &self.head
            && *head != header.parent
        {
            return Err(ChainError::Parent { first_sequence });
        }
        if header.time_ms < self.time_ms {
            return Err(ChainError::Time {
                first_sequence,
                last_ms: self.time_ms,
                found_ms: header.time_ms,
            });
        }
        Ok(())
    }

    fn advance(&mut self, header: &BlockHeader, hash: &Hash, count: u64) {
        self.head = Some(*hash);
        self.next_sequence = Some(header.first_sequence + count);
        self.time_ms = header.time_ms;
        self.realm.get_or_insert_with(|| header.realm.clone());
        for position in &header.ingress {
            let key = (&position.topic, position.partition);
            match self
                .ingress
                .binary_search_by(|known| (&known.topic, known.partition).cmp(&key))
            {
                Ok(index) => self.ingress[index].offset = position.offset,
                Err(index) => self.ingress.insert(index, position.clone()),
            }
        }
    }

    /// The sequence of the last command that counts; 0 before the first.
    pub fn last_sequence(&self) -> u64 {
        self.next_sequence.map_or(0, |next| next - 1)
    }

    /// The sequence that comes next, if anything is known.
    pub fn next_sequence(&self) -> Option<u64> {
        self.next_sequence
    }

    /// The hash the next block must name as its parent.
    pub fn head(&self) -> Hash {
        self.head.unwrap_or(NO_PARENT)
    }

    /// The last block's time in milliseconds since 1970; 0 before the first.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// The highest epoch seen; 0 before the first block.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The realm, once a block was seen.
    pub fn realm(&self) -> Option<&str> {
        self.realm.as_deref()
    }

    /// The latest ingress position of each partition seen, rising by topic and partition.
    pub fn ingress(&self) -> &[IngressOffset] {
        &self.ingress
    }
}
