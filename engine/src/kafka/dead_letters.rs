//! Messages that were not taken, or whose command was refused: kept with the reason, shown, and sent again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::consumer::Consumer;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};

use super::KafkaPartError;
use super::topics::{MESSAGE_BYTES_MAX, Topics, TopicsError};

const CODE: &str = "karat-code";
const REASON: &str = "karat-reason";
const SOURCE: &str = "karat-source";
const SEQUENCE: &str = "karat-sequence";
/// The bytes the message had, where not all of them are kept.
const CUT_FROM: &str = "karat-cut-from";

/// How long a message may take to come, or to be acknowledged.
const WAIT: Duration = Duration::from_secs(30);

/// One message that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its number: the offset on the topic of dead letters.
    pub number: i64,
    /// Code of the refusal.
    pub code: u32,
    /// Why, for people.
    pub reason: String,
    /// Partition and offset on the topic of commands.
    pub source: (i32, i64),
    /// The command's sequence; 0 if it never got one.
    pub sequence: u64,
    /// The bytes it had, if not all are here.
    pub cut_from: Option<usize>,
    /// The original bytes.
    pub bytes: Vec<u8>,
}

/// The bytes of a message that its letter keeps.
pub(super) fn kept_bytes(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(MESSAGE_BYTES_MAX)]
}

/// What became of the letters.
#[derive(Default)]
struct Letters {
    kept: AtomicU64,
    lost: AtomicBool,
}

impl ClientContext for Letters {}

impl ProducerContext for Letters {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => {
                self.kept.fetch_add(1, Ordering::SeqCst);
            }
            Err((error, _)) => {
                tracing::error!(%error, "a dead letter could not be kept");
                self.lost.store(true, Ordering::SeqCst);
            }
        }
    }
}

/// Writes dead letters; what the broker does not take is said in the program's log, and remembered.
pub(super) struct Writer {
    producer: BaseProducer<Letters>,
    topic: String,
    written: AtomicU64,
}

impl Writer {
    pub(super) fn new(topics: &Topics) -> Result<Writer, TopicsError> {
        let producer = topics
            .producer()
            // A broker that is away is waited for, as by the log.
            .set("message.timeout.ms", "0")
            .create_with_context(Letters::default())
            .map_err(TopicsError::Client)?;
        Ok(Writer {
            producer,
            topic: topics.dead_letters.clone(),
            written: AtomicU64::new(0),
        })
    }

    /// Keeps one. The key is its place on the topic of commands, so that a second copy after a crash can be told.
    pub(super) fn write(
        &self,
        (partition, offset): (i32, i64),
        code: u32,
        reason: &str,
        sequence: u64,
        bytes: &[u8],
    ) {
        let source = format!("{partition}:{offset}");
        let kept = kept_bytes(bytes);
        let text = |key, value: String| (key, value);
        let mut fields = vec![
            text(CODE, code.to_string()),
            text(REASON, reason.to_owned()),
            text(SOURCE, source.clone()),
            text(SEQUENCE, sequence.to_string()),
        ];
        if kept.len() < bytes.len() {
            fields.push(text(CUT_FROM, bytes.len().to_string()));
        }
        let headers = fields
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header {
                    key,
                    value: Some(value),
                })
            });
        let record = BaseRecord::to(&self.topic)
            .partition(0)
            .key(&source)
            .payload(kept)
            .headers(headers);
        // Counted before it is sent: see `are_kept`.
        self.written.fetch_add(1, Ordering::SeqCst);
        if let Err((error, _)) = self.producer.send(record) {
            tracing::error!(%error, source, code, reason, "a dead letter could not be kept");
            self.producer.context().lost.store(true, Ordering::SeqCst);
        }
        self.producer.poll(Duration::ZERO);
    }

    /// How many were written so far.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    /// Whether the broker has so many, and none was ever lost. Letters are acknowledged in their order, so these are all that
    /// were written when [`Writer::written`] said so.
    pub(super) fn are_kept(&self, count: u64) -> bool {
        let letters = self.producer.context();
        letters.kept.load(Ordering::SeqCst) >= count && !letters.lost.load(Ordering::SeqCst)
    }

    /// Waits until the broker has all; whether it has.
    pub(super) fn flush(&self, wait_max: Duration) -> bool {
        let deadline = Instant::now() + wait_max;
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline {
            self.producer.poll(Duration::from_millis(1));
        }
        self.are_kept(self.written())
    }

    pub(super) fn poll(&self) {
        self.producer.poll(Duration::ZERO);
    }
}

/// The dead letters of a realm, for tools.
pub struct DeadLetters {
    topics: Topics,
}

impl DeadLetters {
    /// The dead letters beside these topics.
    pub fn new(topics: Topics) -> DeadLetters {
        DeadLetters { topics }
    }

    /// So many from a number on.
    ///
    /// # Errors
    /// When the topic cannot be read.
    pub fn read(&self, from: i64, count_max: usize) -> Result<Vec<DeadLetter>, KafkaPartError> {
        let mut letters = Vec::new();
        if count_max > 0 {
            let begin = |_: i64| from;
            self.each(begin, |letter| {
                letters.push(letter);
                letters.len() < count_max
            })?;
        }
        Ok(letters)
    }

    /// Gives the last letters, at most so many.
    ///
    /// # Errors
    /// When the topic cannot be read.
    pub(super) fn read_last(
        &self,
        count_max: i64,
        mut take: impl FnMut(DeadLetter),
    ) -> Result<(), KafkaPartError> {
        let begin = |end: i64| end.saturating_sub(count_max);
        self.each(begin, |letter| {
            take(letter);
            true
        })
    }

    /// Gives the letters that are there now, one after the other, while `take` asks for more; `begin` says from which number on,
    /// given the number after the last one.
    fn each(
        &self,
        begin: impl Fn(i64) -> i64,
        mut take: impl FnMut(DeadLetter) -> bool,
    ) -> Result<(), KafkaPartError> {
        let topic = &self.topics.dead_letters;
        let failed = |reason: String| KafkaPartError::Read {
            topic: topic.clone(),
            reason,
        };
        let consumer = self.topics.consumer()?;
        let partitions = self.topics.partitions(&consumer, topic)?;
        let (_, low, high) = *partitions
            .first()
            .ok_or_else(|| failed("it has no partition".to_owned()))?;
        let from = begin(high).max(low);
        if from >= high {
            return Ok(());
        }
        let mut place = TopicPartitionList::with_capacity(1);
        place
            .add_partition_offset(topic, 0, Offset::Offset(from))
            .and_then(|()| consumer.assign(&place))
            .map_err(|error| failed(error.to_string()))?;
        let mut deadline = Instant::now() + WAIT;
        loop {
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => {
                    deadline = Instant::now() + WAIT;
                    let is_last = message.offset() + 1 >= high;
                    if !take(read_letter(&message)) || is_last {
                        return Ok(());
                    }
                }
                Some(Err(error)) if Instant::now() >= deadline => {
                    return Err(failed(error.to_string()));
                }
                None if Instant::now() >= deadline => {
                    return Err(failed("no message came in time".to_owned()));
                }
                Some(Err(_)) | None => {}
            }
        }
    }

    /// Puts a letter's bytes on the topic of commands again. The command's id makes that safe.
    ///
    /// # Errors
    /// When it was cut, or the broker does not take it.
    pub fn retry(&self, letter: &DeadLetter) -> Result<(), KafkaPartError> {
        let topic = &self.topics.commands;
        let failed = |reason: String| KafkaPartError::Write {
            topic: topic.clone(),
            reason,
        };
        if let Some(bytes) = letter.cut_from {
            return Err(failed(format!(
                "the message had {bytes} bytes and was kept cut; its producer must send it again"
            )));
        }
        let producer: BaseProducer = self
            .topics
            .producer()
            .create()
            .map_err(TopicsError::Client)?;
        let record: BaseRecord<'_, (), [u8]> = BaseRecord::to(topic).payload(&letter.bytes);
        producer
            .send(record)
            .map_err(|(error, _)| failed(error.to_string()))?;
        producer
            .flush(WAIT)
            .map_err(|error| failed(error.to_string()))
    }
}

fn read_letter<M: Message>(message: &M) -> DeadLetter {
    let field = |name: &str| {
        message.headers().and_then(|headers| {
            let found = headers.iter().find(|header| header.key == name)?;
            Some(String::from_utf8_lossy(found.value?).into_owned())
        })
    };
    let number = |name: &str| field(name).and_then(|text| text.parse::<u64>().ok());
    let source = field(SOURCE)
        .and_then(|text| {
            let (partition, offset) = text.split_once(':')?;
            Some((partition.parse().ok()?, offset.parse().ok()?))
        })
        .unwrap_or((-1, -1));
    DeadLetter {
        number: message.offset(),
        code: number(CODE)
            .and_then(|code| code.try_into().ok())
            .unwrap_or(0),
        reason: field(REASON).unwrap_or_default(),
        source,
        sequence: number(SEQUENCE).unwrap_or(0),
        cut_from: number(CUT_FROM).and_then(|bytes| bytes.try_into().ok()),
        bytes: message.payload().unwrap_or_default().to_vec(),
    }
}
