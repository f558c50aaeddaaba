//! Watchers that hardly read, beside a run: clients of the target's events that must not be felt by anybody else.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use karat_proto::realm::{RealmChannel, RealmName};
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::{limits, v1};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tonic::{Response, Status, Streaming};

use crate::client::{chain, connect_with_window};
use crate::error::LoadError;
use crate::lanes::opened;

/// A watcher reads one message in so long. Under load an engine has hundreds of messages a second for it.
const PERIOD: Duration = Duration::from_secs(1);
/// The smallest windows that HTTP/2 begins with, so that little is on the way to somebody who does not read.
const WINDOW_BYTES: u32 = 65_535;

/// What came of the slow watchers of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// How many there were.
    pub watchers: u64,
    /// Messages that they read, all together.
    pub messages: u64,
    /// Why the target ended some of them, a line each.
    pub ended: Vec<String>,
}

/// Watchers at work; they end with this value, or with [`SlowWatchers::finish`].
pub(crate) struct SlowWatchers {
    tasks: Vec<JoinHandle<String>>,
    messages: Rc<Cell<u64>>,
}

impl SlowWatchers {
    /// Opens so many, each on a connection of its own and from the realm's first event on. Must run inside a `LocalSet`.
    ///
    /// # Errors
    /// When the target lets one of them not watch.
    pub(crate) async fn open(
        target: &str,
        realm: Option<&RealmName>,
        count: u64,
    ) -> Result<SlowWatchers, LoadError> {
        let messages = Rc::new(Cell::new(0));
        let mut watchers = SlowWatchers {
            tasks: Vec::new(),
            messages: messages.clone(),
        };
        let began = Instant::now();
        for number in 0..count {
            let mut turns = interval_at(began + phase(number, count), PERIOD);
            // Whoever was late keeps its phase.
            turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let channel = connect_with_window(target, realm, WINDOW_BYTES).await?;
            let events = opened("Ledger.Watch", events_from(&channel, 1)).await?;
            let task = tokio::task::spawn_local(watch(channel, events, turns, messages.clone()));
            watchers.tasks.push(task);
        }
        Ok(watchers)
    }

    /// Ends them, and says what came of them.
    pub(crate) async fn finish(mut self) -> Watched {
        let mut watched = Watched {
            watchers: self.tasks.len() as u64,
            messages: self.messages.get(),
            ended: Vec::new(),
        };
        for task in self.tasks.drain(..) {
            task.abort();
            // One that was aborted here was still open.
            watched.ended.extend(task.await.ok());
        }
        watched
    }
}

impl Drop for SlowWatchers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// When in its period a watcher reads: each at a time of its own, evenly spread, the same in every run. All at one moment
/// they would be a burst that no crowd of independent clients makes.
fn phase(number: u64, count: u64) -> Duration {
    PERIOD.mul_f64(number as f64 / count.max(1) as f64)
}

async fn events_from(
    channel: &RealmChannel,
    from_sequence: u64,
) -> Result<Response<Streaming<v1::WatchResponse>>, Status> {
    let mut ledger =
        LedgerClient::new(channel.clone()).max_decoding_message_size(limits::MESSAGE_BYTES_MAX);
    let request = v1::WatchRequest {
        from_sequence,
        ..v1::WatchRequest::default()
    };
    ledger.watch(request).await
}

/// Reads now and then, on where the realm went if it moved; returns why there is no more.
async fn watch(
    channel: RealmChannel,
    mut events: Streaming<v1::WatchResponse>,
    mut turns: Interval,
    messages: Rc<Cell<u64>>,
) -> String {
    let mut seen = 0;
    let mut search = channel.search();
    loop {
        turns.tick().await;
        let mut ended = match events.message().await {
            Ok(Some(message)) => {
                messages.set(messages.get() + 1);
                seen = message.seen_sequence.max(seen);
                search = channel.search();
                continue;
            }
            Ok(None) => Status::unavailable("the target ended the stream"),
            Err(status) => status,
        };
        events = loop {
            match search.again(ended) {
                Ok(pause) => tokio::time::sleep(pause).await,
                Err(status) => return chain(&status),
            }
            match events_from(&channel, seen + 1).await {
                Ok(opened) => break opened.into_inner(),
                Err(status) => ended = status,
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_watcher_reads_at_a_time_of_its_own_evenly_spread_over_the_second() {
        for count in [1, 2, 8, 256] {
            let phases: Vec<Duration> = (0..count).map(|number| phase(number, count)).collect();
            assert_eq!(phases[0], Duration::ZERO);
            let gap = PERIOD / count as u32;
            for pair in phases.windows(2) {
                let off = (pair[1] - pair[0]).abs_diff(gap);
                assert!(off < Duration::from_micros(1), "{count} watchers: {pair:?}");
            }
            assert!(phases.iter().all(|phase| *phase < PERIOD));
        }
    }
}
