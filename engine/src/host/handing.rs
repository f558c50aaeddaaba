//! Handing on: snapshots of a realm for whoever has it next.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use karat_sequencer::KafkaPlace;
use parking_lot::Mutex;

use super::places;
use crate::config::Config;

/// How often it is looked whether there is a snapshot to hand on.
const LOOK: Duration = Duration::from_secs(2);
/// ... and after one that could not be.
const AGAIN: Duration = Duration::from_secs(60);
/// A realm whose last snapshot on the topic is so near is given on without another one: to read so many commands takes some
/// tens of milliseconds, and to write, hand on and fetch a snapshot some hundred of any realm, while nobody has it.
const TAIL_MAX: u64 = 50_000;

/// What others can begin with.
#[derive(Default)]
pub struct Handing {
    /// The place of the newest snapshot of this folder whose place is known.
    placed: Mutex<Option<KafkaPlace>>,
    /// Sequence of the last snapshot that others can begin with; 0 for none.
    on_topic: AtomicU64,
}

impl Handing {
    /// The realm begins here, at this place, with this one on the topic.
    pub fn begin(&self, place: Option<KafkaPlace>, on_topic: u64) {
        *self.placed.lock() = place;
        self.on_topic.store(on_topic, Ordering::SeqCst);
    }

    /// Sequence of the last snapshot that others can begin with; 0 for none.
    pub fn on_topic(&self) -> u64 {
        self.on_topic.load(Ordering::SeqCst)
    }

    /// Whether that one reaches so nearly to this sequence that no other is needed.
    pub fn is_near(&self, sequence: u64) -> bool {
        let on_topic = self.on_topic();
        on_topic > 0 && sequence.saturating_sub(on_topic) <= TAIL_MAX
    }

    /// Hands on every snapshot that is made, until this is dropped.
    pub async fn again_and_again(&self, config: &Config) {
        loop {
            tokio::time::sleep(LOOK).await;
            if !self.once(config).await {
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Hands on the newest snapshot, if it is newer than the last one; false when that failed. Without it the next engine
    /// reads more of the log.
    pub async fn once(&self, config: &Config) -> bool {
        let (config, known) = (config.clone(), self.placed.lock().clone());
        let (realm, on_topic) = (config.realm.name.clone(), self.on_topic());
        let handing = move || places::hand_on(&config, known.as_ref(), on_topic);
        match tokio::task::spawn_blocking(handing).await {
            Ok(Ok(None)) => true,
            Ok(Ok(Some(place))) => {
                self.on_topic.store(place.sequence, Ordering::SeqCst);
                *self.placed.lock() = Some(place);
                true
            }
            Ok(Err(error)) => {
                tracing::warn!(%realm, %error, "the snapshot is not handed on");
                false
            }
            Err(error) => {
                tracing::error!(%error, "handing on a snapshot panicked");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realm_goes_without_another_snapshot_only_where_one_is_on_the_topic_and_near() {
        let handing = Handing::default();
        assert!(!handing.is_near(1));
        handing.begin(None, 7);
        assert!(handing.is_near(7) && handing.is_near(7 + TAIL_MAX));
        assert!(!handing.is_near(8 + TAIL_MAX));
    }
}
