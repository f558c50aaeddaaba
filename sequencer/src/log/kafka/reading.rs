//! Reading a topic: messages between two offsets, and blocks from a sequence on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::config::KafkaConfig;
use super::error::KafkaError;
use super::index::Index;
use crate::block::Block;
use crate::log::{BlockIterator, LogReader, ReadError};

/// The header that every message of ours carries, with the format of the message. What does not carry it was written by
/// somebody else: it is no block, and every reader passes over it alike.
pub(super) const BLOCK_HEADER: &str = "karat-block";
/// The format of the messages written here: the block's bytes, nothing else.
pub(super) const MESSAGE_FORMAT: &[u8] = b"1";

/// The one partition.
pub(super) const PARTITION: i32 = 0;
/// How long one look for a message takes before the clock is looked at again.
const LOOK: Duration = Duration::from_millis(200);
/// How long the brokers get to say where a partition begins and ends.
const WATERMARKS: Duration = Duration::from_secs(10);
/// Consumers that wait for the next reader.
const IDLE_MAX: usize = 2;

/// A message of the topic.
pub(super) struct Found {
    pub(super) offset: i64,
    /// Only a marker has one: its writer's own, so that of two equal markers each writer knows which is its.
    pub(super) key: Option<[u8; 16]>,
    /// The block's bytes; `None` for a message that is not ours.
    pub(super) bytes: Option<Bytes>,
}

impl Found {
    pub(super) fn from_message(message: &impl Message) -> Self {
        let ours = message.headers().is_some_and(|headers| {
            headers
                .iter()
                .any(|header| header.key == BLOCK_HEADER && header.value == Some(MESSAGE_FORMAT))
        });
        Self {
            offset: message.offset(),
            key: message.key().and_then(|key| key.try_into().ok()),
            bytes: ours.then(|| Bytes::copy_from_slice(message.payload().unwrap_or_default())),
        }
    }
}

/// Whether reading cannot go on after this: the client gave up, or the offset is not there, because the topic was cut or
/// made again. Everything else the client tries again by itself.
pub fn is_final(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::MessageConsumptionFatal(_)
            | ClientError::MessageConsumption(
                RDKafkaErrorCode::AutoOffsetReset
                    | RDKafkaErrorCode::OffsetOutOfRange
                    | RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::BadMessage,
            )
    )
}

/// What all readers of a topic share.
pub(super) struct Topic {
    pub(super) config: KafkaConfig,
    pub(super) index: Index,
    idle: Mutex<Vec<BaseConsumer>>,
}

impl Topic {
    pub(super) fn new(config: KafkaConfig) -> Arc<Self> {
        Arc::new(Self {
            config,
            index: Index::default(),
            idle: Mutex::new(Vec::new()),
        })
    }

    fn consumer(&self) -> Result<BaseConsumer, KafkaError> {
        if let Some(consumer) = self.idle.lock().pop() {
            return Ok(consumer);
        }
        self.config
            .consumer()
            .create()
            .map_err(|source| KafkaError::Client {
                brokers: self.config.brokers.clone(),
                source,
            })
    }

    fn give_back(&self, consumer: BaseConsumer) {
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(consumer);
        }
    }

    /// The first offset that is there and the one after the last.
    pub(super) fn watermarks(&self, wait_max: Duration) -> Result<(i64, i64), ReadError> {
        let consumer = self
            .consumer()
            .map_err(|error| self.config.read_error(error))?;
        let found = consumer
            .fetch_watermarks(&self.config.topic, PARTITION, wait_max)
            .map_err(|error| self.config.read_error(error));
        self.give_back(consumer);
        found
    }

    /// The messages from one offset up to another, which is not included.
    pub(super) fn messages(self: &Arc<Self>, from: i64, to: i64) -> Result<Messages, ReadError> {
        let mut consumer = None;
        if from < to {
            let fresh = self
                .consumer()
                .map_err(|error| self.config.read_error(error))?;
            let mut place = TopicPartitionList::with_capacity(1);
            place
                .add_partition_offset(&self.config.topic, PARTITION, Offset::Offset(from))
                .and_then(|()| fresh.assign(&place))
                .map_err(|error| self.config.read_error(error))?;
            consumer = Some(fresh);
        }
        Ok(Messages {
            topic: Arc::clone(self),
            consumer,
            at: from,
            to,
        })
    }
}

/// Messages between two offsets, in order. Ends after its first error.
pub(super) struct Messages {
    topic: Arc<Topic>,
    consumer: Option<BaseConsumer>,
    at: i64,
    to: i64,
}

impl Messages {
    fn end(&mut self) {
        if let Some(consumer) = self.consumer.take()
            && consumer.unassign().is_ok()
        {
            self.topic.give_back(consumer);
        }
    }

    fn next_message(&mut self) -> Result<Option<Found>, ReadError> {
        let config = &self.topic.config;
        let Some(consumer) = &self.consumer else {
            return Ok(None);
        };
        let deadline = Instant::now() + config.read_wait_max;
        let mut cause = None;
        loop {
            match consumer.poll(LOOK) {
                Some(Ok(message)) => {
                    let offset = message.offset();
                    if offset < self.at {
                        continue;
                    }
                    self.at = offset + 1;
                    if offset >= self.to {
                        return Ok(None);
                    }
                    return Ok(Some(Found::from_message(&message)));
                }
                Some(Err(error)) if is_final(&error) => return Err(config.read_error(error)),
                Some(Err(error)) => cause = Some(error),
                None => {}
            }
            if Instant::now() >= deadline {
                let waited_ms = config.read_wait_max.as_millis();
                let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
                return Err(config.read_error(format!(
                    "offset {} did not come within {waited_ms} ms{cause}",
                    self.at
                )));
            }
        }
    }
}

impl Iterator for Messages {
    type Item = Result<Found, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.to {
            self.end();
            return None;
        }
        match self.next_message() {
            Ok(Some(found)) => {
                if self.at >= self.to {
                    self.end();
                }
                Some(Ok(found))
            }
            Ok(None) => {
                self.end();
                None
            }
            Err(error) => {
                self.at = self.to;
                self.consumer = None;
                Some(Err(error))
            }
        }
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.end();
    }
}

/// Decodes a message of ours.
pub(super) fn decode(target: &str, offset: i64, bytes: &Bytes) -> Result<Block, ReadError> {
    Block::decode(bytes).map_err(|source| ReadError::NotABlock {
        target: target.to_owned(),
        offset: offset.unsigned_abs(),
        source,
    })
}

/// Reads the blocks of a topic.
pub(super) struct TopicReader {
    pub(super) topic: Arc<Topic>,
    /// The offset before which the reading ends, whatever comes behind it; `None` for all that is there.
    pub(super) end: Option<i64>,
}

impl LogReader for TopicReader {
    fn read(&self, from_sequence: u64) -> Result<BlockIterator, ReadError> {
        let topic = &self.topic;
        let (low, high) = topic.watermarks(WATERMARKS)?;
        let high = self.end.map_or(high, |end| high.min(end));
        // From the first sequence everything is read, void blocks too; from the middle they are left out, because the
        // marker that makes them void may lie before the place where the reading begins.
        let whole = from_sequence <= 1;
        let start = if whole {
            low
        } else {
            topic.index.offset_before(from_sequence).unwrap_or(low)
        };
        let blocks = Blocks {
            messages: topic.messages(start.max(low), high)?,
            topic: Arc::clone(topic),
            from_sequence,
            whole,
            cut: low > 0,
            failed: false,
        };
        let mut blocks = blocks.peekable();
        // What retention took is said before anything is read, not in its middle.
        if matches!(blocks.peek(), Some(Err(ReadError::Gone { .. })))
            && let Some(Err(gone)) = blocks.next()
        {
            return Err(gone);
        }
        Ok(Box::new(blocks))
    }
}

struct Blocks {
    messages: Messages,
    topic: Arc<Topic>,
    from_sequence: u64,
    whole: bool,
    /// The head of the topic is gone, and no block was seen yet.
    cut: bool,
    failed: bool,
}

impl Iterator for Blocks {
    type Item = Result<Block, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            let found = match self.messages.next()? {
                Ok(found) => found,
                Err(error) => return self.fail(error),
            };
            let Some(bytes) = &found.bytes else {
                continue;
            };
            let block = match decode(&self.topic.config.target(), found.offset, bytes) {
                Ok(block) => block,
                Err(error) => return self.fail(error),
            };
            let first_sequence = block.header.first_sequence;
            let void = !self.whole && self.topic.index.is_void(block.header.epoch, found.offset);
            if void {
                continue;
            }
            if std::mem::take(&mut self.cut) && first_sequence > self.from_sequence.max(1) {
                let asked = self.from_sequence;
                return self.fail(ReadError::Gone {
                    asked,
                    first: first_sequence,
                });
            }
            // A marker names the sequence that follows it, so it is found by its first sequence.
            if block.last_sequence().max(first_sequence) >= self.from_sequence {
                return Some(Ok(block));
            }
        }
        None
    }
}

impl Blocks {
    fn fail(&mut self, error: ReadError) -> Option<Result<Block, ReadError>> {
        self.failed = true;
        Some(Err(error))
    }
}
