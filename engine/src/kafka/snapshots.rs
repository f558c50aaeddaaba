//! Snapshots of a realm for the process that has it next, on the topic `<prefix>.<realm>.snapshots`.
//!
//! Partition 0 holds the pieces, partition 1 what they are pieces of: a manifest, written when all its pieces are
//! acknowledged. A manifest names the place in the log from which the realm is read on, so that whoever begins with the
//! snapshot reads only what came after it. Only the newest ones are kept: what lies before them is deleted.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use karat_sequencer::KafkaPlace;
use karat_sequencer::log::kafka::end_aside;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::place_mark::PlaceMark;
use super::topics::{Topics, TopicsError};
use super::{KafkaPartError, SCHEMA, SCHEMA_HEADER};
use crate::config::KafkaSettings;

/// Where the pieces are, and where the manifests.
const PIECES: i32 = 0;
const MANIFESTS: i32 = 1;
/// Bytes of a piece.
const PIECE_BYTES: usize = 512 * 1024;
/// The header that says of which snapshot a piece is.
const SNAPSHOT_HEADER: &str = "karat-snapshot";
/// How long the brokers get to acknowledge all pieces, and how long for the next one to be read.
const WRITE_WAIT: Duration = Duration::from_secs(60);
const READ_WAIT: Duration = Duration::from_secs(30);
/// How long one question to a broker may take.
const QUESTION: Duration = Duration::from_secs(10);
/// Snapshots are kept however old they are; old ones are deleted by offset.
const KEPT: [(&str, &str); 2] = [("retention.ms", "-1"), ("retention.bytes", "-1")];

/// What a snapshot on the topic is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Names its pieces, so that those of another writer are told apart.
    id: String,
    /// No piece of it lies before this offset.
    first_offset: i64,
    pieces: u32,
    bytes: u64,
    /// BLAKE3 of all bytes.
    digest: String,
    /// Where the log goes on.
    pub place: PlaceMark,
    /// Where the manifest itself is.
    #[serde(skip)]
    offset: i64,
}

/// The topic of a realm's snapshots.
pub struct SnapshotTopic {
    name: String,
    topics: Topics,
}

impl SnapshotTopic {
    /// The topic, made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(settings: &KafkaSettings, realm: &str) -> Result<SnapshotTopic, KafkaPartError> {
        let topics = super::topics(settings, realm)?;
        let name = format!("{}.{realm}.snapshots", settings.topic_prefix);
        topics.ensure_with(&name, 2, &KEPT)?;
        Ok(SnapshotTopic { name, topics })
    }

    fn write_error(&self, reason: impl ToString) -> KafkaPartError {
        KafkaPartError::Write {
            topic: self.name.clone(),
            reason: reason.to_string(),
        }
    }

    fn read_error(&self, reason: impl ToString) -> KafkaPartError {
        KafkaPartError::Read {
            topic: self.name.clone(),
            reason: reason.to_string(),
        }
    }

    /// Writes the snapshot that lies in a file, and deletes all but the newest `kept`.
    ///
    /// # Errors
    /// When file or topic fail. A snapshot whose writing failed is not there for anybody.
    pub fn publish(
        &self,
        file: &Path,
        place: &KafkaPlace,
        kept: usize,
    ) -> Result<(), KafkaPartError> {
        let io = |source| KafkaPartError::Io {
            path: file.to_owned(),
            source,
        };
        let producer: BaseProducer<Failure> = self
            .topics
            .producer()
            .create_with_context(Failure::default())
            .map_err(TopicsError::Client)?;
        let (_, first_offset) = self.watermarks(&producer, PIECES)?;
        let id = hex::encode(rand::random::<[u8; 8]>());
        let mut source = crate::snapshots::open(file).map_err(io)?;
        let mut hasher = blake3::Hasher::new();
        let (mut pieces, mut bytes) = (0, 0);
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        loop {
            piece.clear();
            let read = Read::by_ref(&mut source)
                .take(PIECE_BYTES as u64)
                .read_to_end(&mut piece)
                .map_err(io)?;
            if read == 0 {
                break;
            }
            hasher.update(&piece);
            bytes += read as u64;
            self.send(&producer, PIECES, &format!("{id}.{pieces}"), &id, &piece)?;
            pieces += 1;
        }
        self.flush(&producer)?;
        let manifest = Manifest {
            id,
            first_offset,
            pieces,
            bytes,
            digest: hasher.finalize().to_hex().to_string(),
            place: place.into(),
            offset: 0,
        };
        let text = serde_json::to_vec(&manifest).map_err(|error| self.write_error(error))?;
        let key = place.sequence.to_string();
        self.send(&producer, MANIFESTS, &key, &manifest.id, &text)?;
        self.flush(&producer)?;
        self.delete_old(kept);
        Ok(())
    }

    fn send(
        &self,
        producer: &BaseProducer<Failure>,
        partition: i32,
        key: &str,
        id: &str,
        payload: &[u8],
    ) -> Result<(), KafkaPartError> {
        let headers = OwnedHeaders::new_with_capacity(2)
            .insert(Header {
                key: SCHEMA_HEADER,
                value: Some(SCHEMA),
            })
            .insert(Header {
                key: SNAPSHOT_HEADER,
                value: Some(id),
            });
        let mut record = BaseRecord::to(&self.name)
            .partition(partition)
            .key(key)
            .payload(payload)
            .headers(headers);
        let deadline = Instant::now() + WRITE_WAIT;
        loop {
            match producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if Instant::now() < deadline =>
                {
                    producer.poll(Duration::from_millis(50));
                    record = back;
                }
                Err((error, _)) => return Err(self.write_error(error)),
            }
        }
    }

    fn flush(&self, producer: &BaseProducer<Failure>) -> Result<(), KafkaPartError> {
        producer
            .flush(WRITE_WAIT)
            .map_err(|error| self.write_error(error))?;
        match producer.context().take() {
            Some(reason) => Err(self.write_error(reason)),
            None => Ok(()),
        }
    }

    fn watermarks<C: ProducerContext>(
        &self,
        producer: &BaseProducer<C>,
        partition: i32,
    ) -> Result<(i64, i64), KafkaPartError> {
        let client = producer.client();
        let deadline = Instant::now() + QUESTION;
        loop {
            match client.fetch_watermarks(&self.name, partition, QUESTION) {
                Ok(found) => return Ok(found),
                // A topic that was just made is known to every broker a moment later.
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => return Err(self.read_error(error)),
            }
        }
    }

    /// Deletes what lies before the newest `kept`. What is not deleted only takes room.
    fn delete_old(&self, kept: usize) {
        let deleted = self.manifests().and_then(|manifests| {
            let Some(oldest) = manifests.len().checked_sub(kept).map(|at| &manifests[at]) else {
                return Ok(());
            };
            let mut before = TopicPartitionList::with_capacity(2);
            for (partition, offset) in [(PIECES, oldest.first_offset), (MANIFESTS, oldest.offset)] {
                before
                    .add_partition_offset(&self.name, partition, Offset::Offset(offset))
                    .map_err(TopicsError::Client)?;
            }
            let admin: AdminClient<DefaultClientContext> =
                self.topics.client().create().map_err(TopicsError::Client)?;
            let options = AdminOptions::new().operation_timeout(Some(QUESTION));
            block_on(admin.delete_records(&before, &options)).map_err(TopicsError::Client)?;
            Ok(())
        });
        if let Err(error) = deleted {
            tracing::warn!(topic = %self.name, %error, "old snapshots are not deleted");
        }
    }

    /// The snapshots that are there, oldest first. A message that is no manifest is passed over.
    ///
    /// # Errors
    /// When the topic cannot be read.
    pub fn manifests(&self) -> Result<Vec<Manifest>, KafkaPartError> {
        let mut found = Vec::new();
        self.read(MANIFESTS, 0, |message| {
            let payload = message.payload().unwrap_or_default();
            match serde_json::from_slice::<Manifest>(payload) {
                Ok(mut manifest) => {
                    manifest.offset = message.offset();
                    found.push(manifest);
                }
                Err(error) => {
                    tracing::warn!(topic = %self.name, %error, "a message that is no manifest of a snapshot");
                }
            }
            Ok(true)
        })?;
        Ok(found)
    }

    /// Writes a snapshot into a file, whole or not at all.
    ///
    /// # Errors
    /// When a piece is missing or damaged, or topic or file fail.
    pub fn fetch(&self, manifest: &Manifest, file: &Path) -> Result<(), KafkaPartError> {
        let partial = partial_of(file);
        let io = |source| KafkaPartError::Io {
            path: partial.clone(),
            source,
        };
        let mut out = BufWriter::new(File::create(&partial).map_err(io)?);
        let mut hasher = blake3::Hasher::new();
        let (mut pieces, mut bytes) = (0, 0);
        self.read(PIECES, manifest.first_offset, |message| {
            let is_of = |id: &str| {
                message.headers().is_some_and(|headers| {
                    headers.iter().any(|header| {
                        header.key == SNAPSHOT_HEADER && header.value == Some(id.as_bytes())
                    })
                })
            };
            if is_of(&manifest.id) && pieces < manifest.pieces {
                let payload = message.payload().unwrap_or_default();
                hasher.update(payload);
                bytes += payload.len() as u64;
                pieces += 1;
                out.write_all(payload).map_err(io)?;
            }
            Ok(pieces < manifest.pieces)
        })?;
        let digest = hasher.finalize().to_hex();
        if (pieces, bytes) != (manifest.pieces, manifest.bytes)
            || digest.as_str() != manifest.digest
        {
            let _ = std::fs::remove_file(&partial);
            return Err(KafkaPartError::Snapshot {
                topic: self.name.clone(),
                sequence: manifest.place.sequence,
                reason: format!(
                    "{bytes} bytes in {pieces} pieces with digest {digest} were found, {} in {} with {} belong to it",
                    manifest.bytes, manifest.pieces, manifest.digest
                ),
            });
        }
        out.flush().map_err(io)?;
        out.get_ref().sync_all().map_err(io)?;
        std::fs::rename(&partial, file).map_err(io)
    }

    /// Gives the messages of a partition from an offset on, as far as they are there now, while `take` asks for more.
    fn read(
        &self,
        partition: i32,
        from: i64,
        mut take: impl FnMut(&BorrowedMessage<'_>) -> Result<bool, KafkaPartError>,
    ) -> Result<(), KafkaPartError> {
        let consumer = self.topics.consumer()?;
        let partitions = self.topics.partitions(&consumer, &self.name)?;
        let (low, high) = partitions
            .iter()
            .find(|(number, ..)| *number == partition)
            .map(|(_, low, high)| (*low, *high))
            .ok_or_else(|| self.read_error(format!("it has no partition {partition}")))?;
        let mut next = from.max(low);
        if next >= high {
            end_aside(consumer);
            return Ok(());
        }
        let mut place = TopicPartitionList::with_capacity(1);
        place
            .add_partition_offset(&self.name, partition, Offset::Offset(next))
            .and_then(|()| consumer.assign(&place))
            .map_err(|error| self.read_error(error))?;
        let mut deadline = Instant::now() + READ_WAIT;
        while next < high {
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => {
                    next = message.offset() + 1;
                    deadline = Instant::now() + READ_WAIT;
                    if message.offset() < high && !take(&message)? {
                        break;
                    }
                }
                Some(Err(error)) if super::topics::place_is_gone(&error) => {
                    return Err(self.read_error(error));
                }
                Some(Err(error)) => tracing::debug!(%error, "reading snapshots is interrupted"),
                None => {}
            }
            if Instant::now() >= deadline {
                let waited_ms = READ_WAIT.as_millis();
                return Err(self.read_error(format!(
                    "offset {next} of partition {partition} did not come within {waited_ms} ms"
                )));
            }
        }
        end_aside(consumer);
        Ok(())
    }
}

fn partial_of(file: &Path) -> PathBuf {
    file.with_extension("partial")
}
