//! A log that was read and is not led yet.
//!
//! The marker of a new leader replaces whoever leads. So somebody who then could not build the realm's state, because the
//! log's head is gone, would leave it without a leader. Who reads first and leads when the state is certain harms nobody.

use std::sync::Arc;

use super::config::KafkaConfig;
use super::error::KafkaError;
use super::place::KafkaPlace;
use super::reading::TopicReader;
use super::{KafkaLog, Scan};
use crate::log::{LogReader, Recovery};

/// A log that this process could lead. It has written nothing.
pub struct KafkaCandidate {
    log: KafkaLog,
    scan: Scan,
    realm: String,
}

impl KafkaCandidate {
    /// Opens a topic, which is made if it is not there, and reads what it holds, from a place on if there is one. A place that
    /// is not in this log is refused with [`KafkaError::Place`], and a topic of which nothing is left with
    /// [`KafkaError::Emptied`].
    pub fn open(
        config: KafkaConfig,
        place: Option<&KafkaPlace>,
        realm: &str,
    ) -> Result<Self, KafkaError> {
        let (log, scan) = KafkaLog::open_scanned(config, place)?;
        scan.check_realm(&log.topic, realm)?;
        scan.check_begun(&log.topic)?;
        Ok(Self {
            log,
            scan,
            realm: realm.to_owned(),
        })
    }

    /// What the log held when it was read; its leader may have written more since then.
    pub fn recovery(&self) -> Recovery {
        self.scan.recovery()
    }

    /// Reads the log.
    pub fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(TopicReader {
            topic: Arc::clone(&self.log.topic),
            end: None,
        })
    }

    /// Takes over: whoever wrote before writes nothing that counts any more. As [`KafkaLog::lead`] says.
    pub fn lead(mut self, now_ms: u64) -> Result<(KafkaLog, Recovery), KafkaError> {
        self.log.take_over(&mut self.scan, &self.realm, now_ms)?;
        Ok((self.log, self.scan.recovery()))
    }
}
