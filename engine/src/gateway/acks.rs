//! Answers that wait for more than the log: for a verdict, or for the chain.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use karat_proto::AssetId;
use karat_proto::event::{AssetState, EventKind, Outcome};
use karat_proto::v1::AckLevel;
use parking_lot::Mutex;

use crate::latency::Latencies;
use crate::view::View;

/// Told once: the level that was reached in the end, and why if it is not the one asked for.
pub type Done = Box<dyn FnOnce(AckLevel, &'static str) + Send>;

/// How often places of clients that have gone are looked for while there is no room.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// Who waits for an answer.
pub struct Client {
    /// Told when there is one.
    pub done: Done,
    /// Points to something that goes with the client's call or stream.
    pub here: Weak<()>,
}

struct Waiter {
    since: Instant,
    level: AckLevel,
    sequence: u64,
    version: u32,
    /// Sequence at which the asset's settled form changed, once it has.
    due_sequence: u64,
    client: Option<Client>,
}

/// Waiting answers by asset; bounded.
pub struct AckTracker {
    view: Arc<View>,
    latencies: Arc<Latencies>,
    waiting: Mutex<Waiting>,
    waiting_max: usize,
}

#[derive(Default)]
struct Waiting {
    by_asset: HashMap<AssetId, Vec<Waiter>>,
    count: usize,
    swept: Option<Instant>,
}

impl Waiting {
    /// Gives up the places of clients that have gone: their assets may wait for people for weeks.
    fn sweep(&mut self) {
        if self
            .swept
            .is_some_and(|swept| swept.elapsed() < SWEEP_PAUSE)
        {
            return;
        }
        self.swept = Some(Instant::now());
        self.by_asset.retain(|_, waiters| {
            let gone = |waiter: &Waiter| {
                let client = waiter.client.as_ref();
                client.is_none_or(|client| client.here.strong_count() == 0)
            };
            waiters.retain(|waiter| !gone(waiter));
            !waiters.is_empty()
        });
        self.count = self.by_asset.values().map(Vec::len).sum();
    }
}

impl AckTracker {
    /// A tracker for at most `waiting_max` answers.
    pub fn new(view: Arc<View>, latencies: Arc<Latencies>, waiting_max: usize) -> AckTracker {
        AckTracker {
            view,
            latencies,
            waiting: Mutex::default(),
            waiting_max,
        }
    }

    /// Whether `more` answers may wait. A bound, not a reservation: streams that race may pass it by one request each.
    pub fn has_room(&self, more: usize) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.count + more > self.waiting_max {
            waiting.sweep();
        }
        waiting.count + more <= self.waiting_max
    }

    /// Waits for `level` on behalf of an accepted command about an asset. Without a client only the latency is measured,
    /// and nothing is done when half the room is taken: what nobody waits for must not keep clients out.
    pub fn wait(&self, outcome: &Outcome, level: AckLevel, since: Instant, client: Option<Client>) {
        let asset = outcome.subject;
        let version = self.view.asset(asset).map_or(0, |asset| asset.version);
        let waiter = Waiter {
            since,
            level,
            sequence: outcome.sequence,
            version,
            due_sequence: 0,
            client,
        };
        let mut waiting = self.waiting.lock();
        if waiter.client.is_none() && waiting.count >= self.waiting_max / 2 {
            return;
        }
        waiting.by_asset.entry(asset).or_default().push(waiter);
        waiting.count += 1;
        // The event may have passed before the waiter stood here; the view tells.
        let Some(now) = self.view.asset(asset) else {
            return;
        };
        let settled_seq = self.view.settled_seq();
        self.resolve(&mut waiting, asset, |waiter| {
            if now.settle_sequence >= waiter.sequence && waiter.due_sequence == 0 {
                waiter.due_sequence = now.settle_sequence;
            }
            judge(waiter, now.state, now.version, settled_seq)
        });
    }

    /// Takes an event of the stream.
    pub fn on_event(&self, sequence: u64, kind: &EventKind) {
        match kind {
            EventKind::Verified { asset, .. }
            | EventKind::Reviewed { asset, .. }
            | EventKind::Burned { asset } => {
                let Some(now) = self.view.asset(*asset) else {
                    return;
                };
                let settled_seq = self.view.settled_seq();
                self.resolve(&mut self.waiting.lock(), *asset, |waiter| {
                    judge(waiter, now.state, now.version, settled_seq)
                });
            }
            EventKind::SettlementDue { asset, .. } => {
                if let Some(waiters) = self.waiting.lock().by_asset.get_mut(asset) {
                    for waiter in waiters.iter_mut() {
                        if waiter.due_sequence == 0 && sequence >= waiter.sequence {
                            waiter.due_sequence = sequence;
                        }
                    }
                }
            }
            EventKind::BatchFinal { settled_seq, .. } => {
                let mut waiting = self.waiting.lock();
                let assets: Vec<AssetId> = waiting.by_asset.keys().copied().collect();
                for asset in assets {
                    self.resolve(&mut waiting, asset, |waiter| {
                        (waiter.level == AckLevel::Settled && is_settled(waiter, *settled_seq))
                            .then_some((AckLevel::Settled, ""))
                    });
                }
            }
            _ => {}
        }
    }

    fn resolve(
        &self,
        waiting: &mut Waiting,
        asset: AssetId,
        mut judge: impl FnMut(&mut Waiter) -> Option<(AckLevel, &'static str)>,
    ) {
        let Some(waiters) = waiting.by_asset.get_mut(&asset) else {
            return;
        };
        let mut resolved = 0;
        waiters.retain_mut(|waiter| match judge(waiter) {
            None => true,
            Some((reached, why)) => {
                if reached == waiter.level {
                    self.latencies.record(reached, waiter.since.elapsed(), 1);
                }
                if let Some(client) = waiter.client.take() {
                    (client.done)(reached, why);
                }
                resolved += 1;
                false
            }
        });
        if waiters.is_empty() {
            waiting.by_asset.remove(&asset);
        }
        waiting.count -= resolved;
    }
}

fn is_settled(waiter: &Waiter, settled_seq: u64) -> bool {
    waiter.due_sequence != 0 && waiter.due_sequence <= settled_seq
}

fn judge(
    waiter: &Waiter,
    state: AssetState,
    version: u32,
    settled_seq: u64,
) -> Option<(AckLevel, &'static str)> {
    if waiter.level == AckLevel::Settled && is_settled(waiter, settled_seq) {
        return Some((AckLevel::Settled, ""));
    }
    if version > waiter.version && waiter.level == AckLevel::Verified {
        return Some((AckLevel::Durable, "the asset was revised before a verdict"));
    }
    match state {
        AssetState::Rejected => Some((AckLevel::Durable, "a verdict rejected the asset")),
        AssetState::Burned if waiter.due_sequence == 0 => {
            Some((AckLevel::Durable, "the asset was burned"))
        }
        AssetState::Active | AssetState::Redeemed if waiter.level == AckLevel::Verified => {
            Some((AckLevel::Verified, ""))
        }
        _ => None,
    }
}
