//! Following a log: what its leader appends is read as it comes, and once a bid succeeds this process leads.
//!
//! A follower has read everything up to its bid when the bid is decided, so it leads at once: nothing is read again.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::config::KafkaConfig;
use super::error::KafkaError;
use super::reading::{Found, PARTITION, TopicReader, is_final};
use super::{KafkaLog, Scan, pass_over, take_block};
use crate::block::{Block, Hash};
use crate::chain::Standing;
use crate::log::{LogReader, ReadError, Recovery};

/// How long a broker holds a request for what comes next; what comes is sent at once.
const FETCH_WAIT_MS: &str = "500";

/// What came next in a followed log.
#[derive(Debug)]
pub enum Followed {
    /// A block that counts, to be applied.
    Block {
        /// The block.
        block: Block,
        /// Its hash.
        hash: Hash,
    },
    /// Another leader has begun.
    NewLeader {
        /// Its epoch.
        epoch: u64,
    },
    /// Nothing that counts: a replaced leader's block, a bid that came second, a message of others.
    PassedOver,
    /// The own bid is the first with its epoch: this process leads, see [`KafkaFollower::into_log`].
    Elected,
    /// Another leader's bid came before the own one.
    Outbid,
}

/// A log that somebody else leads. It writes nothing but its own bids.
pub struct KafkaFollower {
    log: KafkaLog,
    scan: Scan,
    tail: BaseConsumer,
    /// The offset behind what opening read.
    opened_end: i64,
    bid: Option<[u8; 16]>,
}

impl KafkaFollower {
    /// Opens a topic, which is made if it is not there, and reads all of it; [`next`](Self::next) goes on behind that.
    pub fn open(config: KafkaConfig, realm: &str) -> Result<Self, KafkaError> {
        let (log, scan) = KafkaLog::open_scanned(config, None)?;
        scan.check_realm(&log.topic, realm)?;
        scan.check_begun(&log.topic)?;
        let config = &log.topic.config;
        let tail: BaseConsumer = config
            .consumer()
            .set("fetch.wait.max.ms", FETCH_WAIT_MS)
            .create()
            .map_err(|source| KafkaError::Client {
                brokers: config.brokers.clone(),
                source,
            })?;
        let mut place = TopicPartitionList::with_capacity(1);
        place
            .add_partition_offset(&config.topic, PARTITION, Offset::Offset(scan.next_offset))
            .and_then(|()| tail.assign(&place))
            .map_err(|error| config.read_error(error))?;
        Ok(Self {
            opened_end: scan.next_offset,
            log,
            scan,
            tail,
            bid: None,
        })
    }

    /// What the log holds as far as it was read.
    pub fn recovery(&self) -> Recovery {
        self.scan.recovery()
    }

    /// The highest epoch that was read.
    pub fn epoch(&self) -> u64 {
        self.scan.chain.epoch()
    }

    /// Reads what opening read and nothing behind it: what a machine must have applied before the first
    /// [`next`](Self::next).
    pub fn opened_reader(&self) -> Arc<dyn LogReader> {
        Arc::new(TopicReader {
            topic: Arc::clone(&self.log.topic),
            end: Some(self.opened_end),
        })
    }

    /// Reads the log as it grows.
    pub fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(TopicReader {
            topic: Arc::clone(&self.log.topic),
            end: None,
        })
    }

    /// What comes next; `None` when nothing came within `wait_max`. An unreachable broker is waited for; an error means
    /// that the log cannot be read on.
    pub fn next(&mut self, wait_max: Duration) -> Result<Option<Followed>, KafkaError> {
        let found = match self.tail.poll(wait_max) {
            None => return Ok(None),
            Some(Ok(message)) if message.offset() < self.scan.next_offset => return Ok(None),
            Some(Ok(message)) => Found::from_message(&message),
            Some(Err(error)) if is_final(&error) => {
                return Err(self.log.topic.config.read_error(error).into());
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "following is interrupted");
                return Ok(None);
            }
        };
        self.scan.next_offset = found.offset + 1;
        let Some(bytes) = found.bytes else {
            pass_over(&self.log.topic, found.offset);
            return Ok(Some(Followed::PassedOver));
        };
        let (standing, block, hash) =
            take_block(&self.log.topic, &mut self.scan, found.offset, &bytes)?;
        let own = self.bid.is_some() && found.key == self.bid;
        if own {
            self.bid = None;
        }
        Ok(Some(match standing {
            Standing::Counts => Followed::Block { block, hash },
            Standing::Marker if own => {
                self.log.begin(&self.scan);
                Followed::Elected
            }
            Standing::Marker => Followed::NewLeader {
                epoch: block.header.epoch,
            },
            Standing::Void if own => Followed::Outbid,
            Standing::Void => Followed::PassedOver,
        }))
    }

    /// Asks the broker whether everything that is in the log was read. It waits at most `wait_max` for the answer.
    pub fn is_at_end(&self, wait_max: Duration) -> Result<bool, ReadError> {
        let (_, end) = self.log.topic.watermarks(wait_max)?;
        let read = self.scan.next_offset;
        if end < read {
            let config = &self.log.topic.config;
            let cause = format!(
                "it ends at offset {end} and was read up to {read}: it was cut or made again"
            );
            return Err(config.read_error(cause));
        }
        Ok(end == read)
    }

    /// Bids for the realm with the next epoch, which replaces whoever leads now. What [`next`](Self::next) gives then
    /// says how it ended. An error leaves open whether the bid is in the log: begin anew.
    pub fn bid(&mut self, realm: &str, now_ms: u64) -> Result<(), KafkaError> {
        let marker = self.log.append_marker(&self.scan, realm, now_ms)?;
        self.bid = Some(marker.key);
        Ok(())
    }

    /// The log to lead, and what it holds, once [`Followed::Elected`] was given.
    pub fn into_log(self) -> (KafkaLog, Recovery) {
        let recovery = self.scan.recovery();
        (self.log, recovery)
    }
}
