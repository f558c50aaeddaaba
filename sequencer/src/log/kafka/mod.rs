//! The log on Apache Kafka: one partition is a realm's order, one message is one block.
//!
//! The producer is idempotent and waits for all in-sync copies, so that a block which the broker acknowledged is in the
//! order once and durable. Several blocks are in flight; their order and the dense offsets of a lone producer are kept by
//! the broker, and [`delivery`] checks them.
//!
//! Who leads is decided by the log alone. A new leader appends a marker with a higher epoch, reads up to it and begins
//! there: [`KafkaLog::lead`]. Whatever a replaced leader still writes after that marker is void for every reader.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, PurgeConfig};

use self::delivery::{Deliveries, InFlight, MarkerAnswer};
use self::error::not_linked;
use self::reading::{BLOCK_HEADER, MESSAGE_FORMAT, PARTITION, Topic, TopicReader, decode};
use super::flusher::Flusher;
use super::{Log, LogError, LogReader, Progress, Recovery, Waiting};
use crate::block::{Block, BlockHeader, EncodedBlock, Hash};
use crate::chain::{Chain, Standing};

mod brokers;
mod candidate;
mod config;
mod delivery;
mod error;
mod follower;
mod index;
mod place;
mod reading;
mod topic;

pub use candidate::KafkaCandidate;
pub use config::{KafkaConfig, KafkaFaults, KafkaStep, end_aside};
pub use error::KafkaError;
pub use follower::{Followed, KafkaFollower};
pub use place::KafkaPlace;
pub use reading::is_final;

/// How long the polling thread waits for an answer before it looks whether it should end.
const POLL: Duration = Duration::from_millis(50);
/// How long a log that is dropped without being closed waits for what is in flight.
const DROP_WAIT: Duration = Duration::from_secs(10);

/// A log on Kafka that is open for appending.
pub struct KafkaLog {
    topic: Arc<Topic>,
    progress: Arc<Progress>,
    producer: Arc<BaseProducer<Deliveries>>,
    deliveries: Arc<Deliveries>,
    next_sequence: u64,
    /// Blocks handed to the client, since opening.
    appended: u64,
    closed: bool,
    stop: Arc<AtomicBool>,
    polling: Option<JoinHandle<()>>,
}

/// What a topic was found to hold.
struct Scan {
    chain: Chain,
    blocks: u64,
    /// The offset at which reading goes on.
    next_offset: i64,
}

impl Scan {
    /// Before the first message of a topic that begins at this offset.
    fn at_head(low: i64) -> Scan {
        Scan {
            // Retention took the head: the first block is believed, and a machine needs a snapshot to begin with.
            chain: if low == 0 {
                Chain::genesis()
            } else {
                Chain::unknown()
            },
            blocks: 0,
            next_offset: low,
        }
    }

    fn recovery(&self) -> Recovery {
        Recovery::from_chain(&self.chain, self.blocks, None)
    }

    fn check_realm(&self, topic: &Topic, realm: &str) -> Result<(), KafkaError> {
        match self.chain.realm().filter(|found| *found != realm) {
            None => Ok(()),
            Some(found) => Err(KafkaError::Realm {
                target: topic.config.target(),
                realm: realm.to_owned(),
                found: found.to_owned(),
            }),
        }
    }

    /// Refuses a topic that once held a log and holds nothing of it any more: a leader would begin the realm anew, with
    /// sequences and epochs that it had before.
    fn check_begun(&self, topic: &Topic) -> Result<(), KafkaError> {
        match self.chain.next_sequence() {
            Some(_) => Ok(()),
            None => Err(KafkaError::Emptied {
                target: topic.config.target(),
                offset: self.next_offset,
            }),
        }
    }
}

/// A new leader's marker that a broker has.
struct Marker {
    key: [u8; 16],
    /// Where, if the broker said so.
    offset: Option<i64>,
}

impl KafkaLog {
    /// Opens a topic, which is made if it is not there, and reads all of it. Waits for the brokers at most the configured
    /// time. It leads nobody: use it where one writer is certain, otherwise [`lead`](Self::lead).
    pub fn open(config: KafkaConfig) -> Result<(Self, Recovery), KafkaError> {
        let (log, scan) = Self::open_scanned(config, None)?;
        Ok((log, scan.recovery()))
    }

    /// As [`open`](Self::open), and takes over: whoever wrote before writes nothing that counts any more.
    ///
    /// Appends a marker with the next epoch, reads up to it, and returns what the log holds there; `epoch` of the recovery
    /// is this leader's own. Of several that do so at once exactly one succeeds at a time; the others get
    /// [`LogError::Overtaken`].
    pub fn lead(
        config: KafkaConfig,
        realm: &str,
        now_ms: u64,
    ) -> Result<(Self, Recovery), KafkaError> {
        Self::lead_from(config, None, realm, now_ms)
    }

    /// As [`lead`](Self::lead), for who knows a place in the log: only what lies behind it is read. `blocks` of the recovery
    /// counts those. A place that is not in this log is refused with [`KafkaError::Place`], and nothing was written then.
    pub fn lead_from(
        config: KafkaConfig,
        place: Option<&KafkaPlace>,
        realm: &str,
        now_ms: u64,
    ) -> Result<(Self, Recovery), KafkaError> {
        KafkaCandidate::open(config, place, realm)?.lead(now_ms)
    }

    /// Reads all of a topic that is there, to check it or to follow it, and writes nothing.
    pub fn read_only(config: KafkaConfig) -> Result<(Arc<dyn LogReader>, Recovery), KafkaError> {
        topic::ensure(&config, false)?;
        let topic = Topic::new(config);
        let scan = scan(&topic, None)?;
        Ok((Arc::new(TopicReader { topic, end: None }), scan.recovery()))
    }

    /// Makes the topic if it is not there, or checks that it is as a log needs it. Waits as [`open`](Self::open) does.
    pub fn ensure_topic(config: &KafkaConfig) -> Result<(), KafkaError> {
        topic::ensure(config, true)
    }

    fn open_scanned(
        config: KafkaConfig,
        place: Option<&KafkaPlace>,
    ) -> Result<(Self, Scan), KafkaError> {
        topic::ensure(&config, true)?;
        let topic = Topic::new(config);
        let scan = scan(&topic, place)?;
        let last_sequence = scan.chain.last_sequence();
        let progress = Progress::new(last_sequence);
        let thread_error = |source| KafkaError::Thread {
            target: topic.config.target(),
            source,
        };
        let flusher = match topic.config.pre_flush.clone() {
            None => None,
            Some(pre_flush) => {
                let target = topic.config.target();
                let flush = move |_| {
                    pre_flush().map_err(|source| LogError::Flush {
                        target: format!("what the blocks of {target} refer to"),
                        source: Arc::new(source),
                    })
                };
                let started = Flusher::start(Arc::clone(&progress), flush);
                Some(started.map_err(thread_error)?)
            }
        };
        let deliveries = Deliveries::new(
            Arc::clone(&topic),
            Arc::clone(&progress),
            scan.next_offset,
            flusher,
        );
        let producer: BaseProducer<Deliveries> = topic
            .config
            .producer()
            .create_with_context(deliveries)
            .map_err(|source| KafkaError::Client {
                brokers: topic.config.brokers.clone(),
                source,
            })?;
        let deliveries = Arc::clone(producer.context());
        let producer = Arc::new(producer);
        let stop = Arc::new(AtomicBool::new(false));
        let polling = std::thread::Builder::new()
            .name("karat-kafka".to_owned())
            .spawn({
                let producer = Arc::clone(&producer);
                let stop = Arc::clone(&stop);
                move || poll(&producer, &stop)
            })
            .map_err(thread_error)?;
        let log = Self {
            topic,
            progress,
            producer,
            deliveries,
            next_sequence: last_sequence + 1,
            appended: 0,
            closed: false,
            stop,
            polling: Some(polling),
        };
        Ok((log, scan))
    }

    fn take_over(&mut self, scan: &mut Scan, realm: &str, now_ms: u64) -> Result<(), KafkaError> {
        let Marker { key, offset } = self.append_marker(scan, realm, now_ms)?;
        let config = &self.topic.config;
        // Whatever came before the marker counts, so it is read before anything is built on it.
        let end = match offset {
            Some(offset) => offset + 1,
            None => self.topic.watermarks(config.read_wait_max)?.1,
        };
        let mut place = None;
        for found in self.topic.messages(scan.next_offset, end)? {
            let found = found?;
            scan.next_offset = found.offset + 1;
            let Some(bytes) = found.bytes else {
                continue;
            };
            let (standing, ..) = take_block(&self.topic, scan, found.offset, &bytes)?;
            // Not by its bytes: another leader that began in the same millisecond wrote the same ones.
            if found.key == Some(key) {
                place = Some((found.offset, standing));
                break;
            }
        }
        match place {
            Some((_, Standing::Marker)) => {}
            Some((offset, _)) => {
                let reason = format!(
                    "epoch {} began before this leader's marker at offset {offset} of {}: two began at once, and the other one leads",
                    scan.chain.epoch(),
                    config.target()
                );
                let overtaken = LogError::Overtaken { reason };
                return Err(self.progress.poison(overtaken).into());
            }
            None => {
                return Err(no_marker(
                    config,
                    "it was acknowledged and is not in the topic".to_owned(),
                ));
            }
        }
        self.begin(scan);
        Ok(())
    }

    /// Appends a marker with the epoch after the last one that was read, and waits until a broker has it.
    fn append_marker(&self, scan: &Scan, realm: &str, now_ms: u64) -> Result<Marker, KafkaError> {
        let config = &self.topic.config;
        let mut marker = EncodedBlock::new();
        let header = BlockHeader {
            realm: realm.to_owned(),
            epoch: scan.chain.epoch() + 1,
            first_sequence: scan.chain.last_sequence() + 1,
            time_ms: now_ms.max(scan.chain.time_ms()),
            parent: scan.chain.head(),
            ingress: Vec::new(),
        };
        marker
            .begin(&header, 0)
            .and_then(|()| marker.finish())
            .map_err(|error| LogError::Halted {
                reason: error.to_string(),
            })?;
        // The first message also takes the producer's id from the broker, so no client waits for that.
        let (sender, receiver) = mpsc::channel::<MarkerAnswer>();
        self.deliveries.state.lock().marker = Some(sender);
        let key = fresh_key();
        self.send(&marker, 0, Some(&key))
            .map_err(|reason| no_marker(config, reason))?;
        match receiver.recv_timeout(config.open_wait_max) {
            Ok(Ok(offset)) => Ok(Marker { key, offset }),
            Ok(Err(reason)) => {
                let fatal = self.producer.client().fatal_error();
                let reason =
                    fatal.map_or(reason, |(_, why)| format!("the client has given up: {why}"));
                Err(no_marker(config, reason))
            }
            Err(_) => {
                let waited_ms = config.open_wait_max.as_millis();
                let late = format!("no answer within {waited_ms} ms");
                Err(no_marker(config, self.deliveries.complaints.beside(late)))
            }
        }
    }

    /// Begins to lead behind what was read, which ends with this leader's marker.
    fn begin(&mut self, scan: &Scan) {
        let last_sequence = scan.chain.last_sequence();
        self.next_sequence = last_sequence + 1;
        let mut state = self.deliveries.state.lock();
        state.expected = scan.next_offset;
        state.epoch = scan.chain.epoch();
        drop(state);
        self.progress.publish_durable(last_sequence, 0);
    }

    fn send(
        &self,
        block: &EncodedBlock,
        number: u64,
        key: Option<&[u8; 16]>,
    ) -> Result<(), String> {
        let header = Header {
            key: BLOCK_HEADER,
            value: Some(MESSAGE_FORMAT),
        };
        let mut record: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&self.topic.config.topic, number as usize)
                .partition(PARTITION)
                .payload(block.bytes())
                .headers(OwnedHeaders::new_with_capacity(1).insert(header));
        if let Some(key) = key {
            record = record.key(key);
        }
        self.producer
            .send(record)
            .map_err(|(error, _)| error.to_string())
    }

    /// Waits until everything handed to the producer is acknowledged; whether it is.
    fn drain(&self, wait_max: Duration) -> bool {
        let deadline = Instant::now() + wait_max;
        self.progress.wait_until(Some(deadline), |progress| {
            progress.blocks().appended >= self.appended || progress.is_poisoned()
        })
    }

    fn end_polling(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(polling) = self.polling.take() {
            // A panic of the thread was its own report; there is nobody to hand it to here.
            let _ = polling.join();
        }
    }
}

impl Log for KafkaLog {
    fn append(&mut self, block: &EncodedBlock) -> Result<(), LogError> {
        self.progress.refuse_if_poisoned()?;
        if self.closed {
            return Err(LogError::Closed);
        }
        let (first_sequence, bytes) = (block.first_sequence(), block.bytes().len());
        if first_sequence != self.next_sequence {
            return Err(LogError::OutOfOrder {
                expected: self.next_sequence,
                found: first_sequence,
            });
        }
        let bytes_max = self.topic.config.block_bytes_max;
        if bytes > bytes_max {
            return Err(LogError::TooLarge {
                first_sequence,
                bytes,
                bytes_max,
            });
        }
        let failed = |source| {
            self.progress.poison(LogError::Append {
                first_sequence,
                target: self.topic.config.target(),
                source: Arc::new(source),
            })
        };
        if let Some(faults) = &self.topic.config.faults {
            faults(KafkaStep::Append).map_err(failed)?;
        }
        let number = self.appended + 1;
        let handing = self.deliveries.handing.lock();
        // Asked again: from its failure on, the client may have been told to forget what it has, and behind a hole no
        // block may be sent.
        self.progress.refuse_if_poisoned()?;
        self.deliveries.hand(InFlight {
            number,
            first_sequence,
            last_sequence: block.last_sequence(),
            epoch: block.epoch(),
            hash: *block.hash(),
            sent: Instant::now(),
        });
        // This never waits.
        let sent = self.send(block, number, None);
        drop(handing);
        if let Err(reason) = sent {
            self.deliveries.take_back(number);
            return Err(failed(std::io::Error::other(reason)));
        }
        self.appended = number;
        self.next_sequence = block.last_sequence() + 1;
        Ok(())
    }

    fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(TopicReader {
            topic: Arc::clone(&self.topic),
            end: None,
        })
    }

    fn block_bytes_max(&self) -> usize {
        self.topic.config.block_bytes_max
    }

    fn waiting(&self) -> Waiting {
        let deliveries = Arc::clone(&self.deliveries);
        Arc::new(move || deliveries.oldest())
    }

    fn close(&mut self, wait_max: Duration) -> Result<(), LogError> {
        self.closed = true;
        let deadline = Instant::now() + wait_max;
        if !self.drain(wait_max) {
            let waited_ms = u64::try_from(wait_max.as_millis()).unwrap_or(u64::MAX);
            self.progress.poison(LogError::CloseTimeout { waited_ms });
        }
        let flusher = self.deliveries.state.lock().flusher.take();
        if let Some(mut flusher) = flusher {
            flusher.close(deadline.saturating_duration_since(Instant::now()))?;
        }
        self.end_polling();
        self.progress.refuse_if_poisoned()
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        if !self.closed {
            self.drain(DROP_WAIT);
        }
        self.end_polling();
        self.deliveries.state.lock().flusher = None;
    }
}

fn no_marker(config: &KafkaConfig, reason: String) -> KafkaError {
    KafkaError::Broker {
        action: "append the new leader's marker to",
        target: config.target(),
        reason,
    }
}

/// 16 bytes that nobody else uses: the keys of two hashers, which the standard library takes from the system's randomness.
fn fresh_key() -> [u8; 16] {
    let half = || {
        RandomState::new()
            .hash_one(std::process::id())
            .to_le_bytes()
    };
    let mut key = [0; 16];
    key[..8].copy_from_slice(&half());
    key[8..].copy_from_slice(&half());
    key
}

/// The thread that takes the broker's answers.
fn poll(producer: &BaseProducer<Deliveries>, stop: &AtomicBool) {
    let deliveries = Arc::clone(producer.context());
    let wait_max = deliveries.topic.config.acknowledge_wait_max;
    let mut purged = false;
    while !stop.load(Ordering::SeqCst) {
        producer.poll(POLL);
        if !purged && deliveries.oldest().is_some_and(|age| age > wait_max) {
            let waited_ms = wait_max.as_millis();
            let first_sequence = deliveries.progress.positions().appended_seq + 1;
            let late = format!("not acknowledged within {waited_ms} ms");
            let cause = deliveries.unsettled(first_sequence, &deliveries.complaints.beside(late));
            deliveries.step_down(&mut deliveries.state.lock(), cause);
        }
        if !purged && deliveries.progress.is_poisoned() {
            // What is not sent yet must not be sent any more.
            let _handing = deliveries.handing.lock();
            producer.purge(PurgeConfig::default().queue().inflight());
            purged = true;
        }
        if !purged {
            deliveries.look_for_another_leader();
        }
    }
}

/// Reads everything that is there, from a place on if there is one.
fn scan(topic: &Arc<Topic>, place: Option<&KafkaPlace>) -> Result<Scan, KafkaError> {
    let (low, high) = topic.watermarks(topic.config.read_wait_max)?;
    let mut scan = match place {
        Some(place) => place.scan(topic, low, high)?,
        None => Scan::at_head(low),
    };
    for found in topic.messages(scan.next_offset, high)? {
        let found = found?;
        scan.next_offset = found.offset + 1;
        match found.bytes {
            Some(bytes) => {
                take_block(topic, &mut scan, found.offset, &bytes)?;
            }
            None => {
                pass_over(topic, found.offset);
            }
        }
    }
    scan.next_offset = scan.next_offset.max(high);
    Ok(scan)
}

fn pass_over(topic: &Topic, offset: i64) {
    let topic = &topic.config.topic;
    tracing::warn!(%topic, offset, "a message that is no block lies in the log's topic; it is passed over");
}

fn take_block(
    topic: &Topic,
    scan: &mut Scan,
    offset: i64,
    bytes: &bytes::Bytes,
) -> Result<(Standing, Block, Hash), KafkaError> {
    let target = topic.config.target();
    let block = decode(&target, offset, bytes)?;
    let hash = *blake3::hash(bytes).as_bytes();
    let header = &block.header;
    let standing = scan
        .chain
        .accept(header, &hash, block.bodies.len())
        .map_err(|source| not_linked(&target, offset, source))?;
    match standing {
        Standing::Counts => topic
            .index
            .note(header.first_sequence, header.epoch, offset),
        // One that is a link of the chain is found by the sequence behind it.
        Standing::Marker if scan.chain.next_sequence() == Some(header.first_sequence) => topic
            .index
            .note(header.first_sequence, header.epoch, offset),
        Standing::Marker => topic.index.note_epoch(header.epoch, offset),
        Standing::Void => {}
    }
    scan.blocks += 1;
    Ok((standing, block, hash))
}
