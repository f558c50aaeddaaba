//! Places in a topic from which a log is read on: who has one, and the machine's state there, reads nothing before it.

use std::sync::Arc;

use super::config::KafkaConfig;
use super::error::KafkaError;
use super::reading::Topic;
use super::{Scan, pass_over, take_block, topic};
use crate::block::{Hash, IngressOffset};
use crate::chain::{Chain, Standing};

/// A place behind a block that counts, and everything that a reader must know there of what came before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaPlace {
    /// Where the block is; reading goes on behind it.
    pub block_offset: i64,
    /// The last sequence of the block.
    pub sequence: u64,
    /// The block's hash.
    pub hash: Hash,
    /// The block's time in milliseconds since 1970.
    pub time_ms: u64,
    /// The highest epoch up to the block, which is its own.
    pub epoch: u64,
    /// The realm.
    pub realm: String,
    /// The latest ingress positions up to the block.
    pub ingress: Vec<IngressOffset>,
}

impl KafkaPlace {
    /// The place behind the block that ends at `sequence`, read from the place `from` on, or from the topic's head without
    /// one. `None` if no block that counts ends there.
    pub fn find(
        config: KafkaConfig,
        from: Option<&KafkaPlace>,
        sequence: u64,
    ) -> Result<Option<KafkaPlace>, KafkaError> {
        topic::ensure(&config, false)?;
        let topic = Topic::new(config);
        let (low, high) = topic.watermarks(topic.config.read_wait_max)?;
        let mut scan = match from {
            Some(place) => place.scan(&topic, low, high)?,
            None => Scan::at_head(low),
        };
        for found in topic.messages(scan.next_offset, high)? {
            let found = found?;
            let Some(bytes) = found.bytes else {
                pass_over(&topic, found.offset);
                continue;
            };
            let (standing, block, hash) = take_block(&topic, &mut scan, found.offset, &bytes)?;
            let last_sequence = block.last_sequence();
            if standing != Standing::Counts || last_sequence < sequence {
                continue;
            }
            return Ok((last_sequence == sequence).then(|| KafkaPlace {
                block_offset: found.offset,
                sequence,
                hash,
                time_ms: block.header.time_ms,
                epoch: scan.chain.epoch(),
                realm: block.header.realm,
                ingress: scan.chain.ingress().to_vec(),
            }));
        }
        Ok(None)
    }

    /// What is known at this place, once the block before it was found in the topic, which holds the offsets from `low` up
    /// to `high`.
    pub(super) fn scan(&self, topic: &Arc<Topic>, low: i64, high: i64) -> Result<Scan, KafkaError> {
        let failed = |reason: String| KafkaError::Place {
            target: topic.config.target(),
            offset: self.block_offset,
            reason,
        };
        if self.block_offset < low || self.block_offset >= high {
            return Err(failed(format!(
                "it holds the offsets from {low} up to {high}"
            )));
        }
        let next_offset = self.block_offset + 1;
        let found = topic.messages(self.block_offset, next_offset)?.next();
        let bytes = match found {
            Some(found) => found?.bytes,
            None => None,
        };
        let is_the_block = bytes.is_some_and(|bytes| *blake3::hash(&bytes).as_bytes() == self.hash);
        if !is_the_block {
            return Err(failed(format!(
                "the block of sequence {} is not there: it is another log",
                self.sequence
            )));
        }
        // A reader behind this place begins here, and knows who had been replaced before it.
        topic.index.note_epoch(self.epoch, self.block_offset);
        topic.index.note(self.sequence + 1, self.epoch, next_offset);
        Ok(Scan {
            chain: Chain::after(self.sequence, self.hash, self.time_ms, self.epoch)
                .of_realm(self.realm.clone(), self.ingress.clone()),
            blocks: 0,
            next_offset,
        })
    }
}
