//! Which dead letters a leader before has written: up to where all of them are kept, and which ones behind that.

use std::collections::HashMap;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use super::KafkaPartError;
use super::dead_letters::{DeadLetters, kept_bytes};
use super::outcomes::Places;
use super::topics::Topics;

/// How long the brokers may take to say what was committed.
const QUESTION: std::time::Duration = std::time::Duration::from_secs(30);
/// Letters are written a little out of their messages' order, and some of messages that no block has taken up: a leader has
/// 17 batches of 1,024 under way at most.
const SPARE: i64 = 32_768;
/// No more letters than this are read. One of an older letter comes twice then.
const READ_MAX: i64 = 262_144;

/// Up to where all dead letters are kept: what was committed, or where the log's reading resumes if nothing was.
pub(super) fn kept_up_to(
    topics: &Topics,
    consumer: &BaseConsumer,
    resumed: &Places,
    lows: &Places,
) -> Places {
    let mut asked = TopicPartitionList::with_capacity(resumed.len());
    for partition in resumed.keys() {
        asked.add_partition(&topics.commands, *partition);
    }
    let mut kept = resumed.clone();
    match consumer.committed_offsets(asked, QUESTION) {
        Ok(committed) => {
            for one in committed.elements() {
                let (Offset::Offset(offset), Some(at)) =
                    (one.offset(), kept.get_mut(&one.partition()))
                else {
                    continue;
                };
                let low = lows.get(&one.partition()).copied().unwrap_or(0);
                *at = offset.clamp(low.min(*at), *at);
            }
        }
        Err(error) => {
            tracing::warn!(topic = %topics.dead_letters, %error, "it cannot be read up to where dead letters are kept; some of a leader before may be missing");
        }
    }
    kept
}

/// Letters that are on their topic, by the places of their messages.
#[derive(Default)]
pub(super) struct Written(HashMap<(i32, i64), blake3::Hash>);

impl Written {
    /// Of messages at or behind `kept`, where a leader before had read up to `resumed` at least. Letters that cannot be read
    /// are written again.
    pub(super) fn read(topics: &Topics, kept: &Places, resumed: &Places) -> Written {
        let open: i64 = resumed
            .iter()
            .map(|(partition, at)| at - kept.get(partition).unwrap_or(at))
            .sum();
        let count_max = open.saturating_mul(2).saturating_add(SPARE).min(READ_MAX);
        let mut written = Written::default();
        if let Err(error) = written.take(topics, kept, count_max) {
            tracing::warn!(topic = %topics.dead_letters, %error, "it cannot be read which dead letters were written; some may come twice");
        }
        written
    }

    fn take(
        &mut self,
        topics: &Topics,
        kept: &Places,
        count_max: i64,
    ) -> Result<(), KafkaPartError> {
        DeadLetters::new(topics.clone()).read_last(count_max, |letter| {
            let (partition, offset) = letter.source;
            // Of a message that was cut only a part is there, and it is the same part every time.
            if kept.get(&partition).is_some_and(|kept| offset >= *kept) {
                self.0.insert(letter.source, blake3::hash(&letter.bytes));
            }
        })
    }

    /// Whether the letter of this message is there. Its bytes decide as well: a topic of commands that was made again has the
    /// same places.
    pub(super) fn has(&self, place: (i32, i64), payload: &[u8]) -> bool {
        self.0
            .get(&place)
            .is_some_and(|hash| *hash == blake3::hash(kept_bytes(payload)))
    }
}
