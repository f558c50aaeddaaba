//! The client: sends what the schedule says, takes outcomes back, and keeps books and figures of both.
//!
//! One task sends, one a stream receives, all on one thread: nothing here is shared between threads, and the target keeps
//! the other processors.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use karat_proto::realm::{RealmChannel, RealmName};
use tokio::sync::Notify;
use tonic::transport::{Endpoint, Error as TransportError};

use crate::args::Rate;
use crate::books::Books;
use crate::contests::Contests;
use crate::driver::{Driven, Driver, LoadStream, ThreadShares, Unanswered};
use crate::error::LoadError;
use crate::lanes::EdgeSide;
use crate::live::Live;
use crate::plan::Plan;
use crate::scenario::{Holdings, Player};
use crate::schedule::Schedule;
use crate::timer::{FineTimer, ThreadTime};
use crate::wire::Wire;

/// HTTP/2 windows on both sides: with the default of 64 KiB a stream of small messages waits for window updates.
pub const WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// How long a connection may take, and a stream its headers.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the target may take to end its side of a stream after this side ended.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Messages sent in one go when behind, before connection and receivers get their turn.
const BURST_MESSAGES: usize = 32;
/// No sleep is shorter, so that at high rates several arrivals share a wake. Well under what a wake costs in latency.
const SLEEP_NS_MIN: u64 = 20_000;
/// No sleep is longer, so that every second is shown when it is over.
const SLEEP_NS_MAX: u64 = 100_000_000;

/// Connects to a target, and from there to where it says that the realm is, if one is named.
///
/// # Errors
/// When the address is none, nothing answers there, or the realm is not found.
pub async fn connect(target: &str, realm: Option<&RealmName>) -> Result<RealmChannel, LoadError> {
    connect_with_window(target, realm, WINDOW_BYTES).await
}

/// Connects to a target, which may have so many bytes on the way to somebody who does not read.
pub(crate) async fn connect_with_window(
    target: &str,
    realm: Option<&RealmName>,
    window_bytes: u32,
) -> Result<RealmChannel, LoadError> {
    let unreachable = |cause: String| LoadError::Unreachable {
        target: target.into(),
        cause,
    };
    let malformed = |error: String| {
        LoadError::Arguments(format!(
            "--target {target}: {error}; an address looks like http://127.0.0.1:7400"
        ))
    };
    if !target.starts_with("http://") {
        return Err(malformed("it does not begin with http://".into()));
    }
    let endpoint = move |address: &str| -> Result<Endpoint, TransportError> {
        let endpoint = Endpoint::from_shared(address.to_owned())?
            .initial_stream_window_size(window_bytes)
            .initial_connection_window_size(window_bytes)
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT);
        Ok(endpoint)
    };
    let channel = RealmChannel::new(realm.cloned(), target, endpoint)
        .map_err(|error| malformed(error.to_string()))?;
    channel
        .connect()
        .await
        .map_err(|error| unreachable(chain(&error)))?;
    channel
        .find()
        .await
        .map_err(|status| LoadError::in_setup("finding the realm", &status))?;
    Ok(channel)
}

/// One stream before the run: what it holds, and what it will do.
pub struct StreamPlan {
    /// What its accounts hold.
    pub holdings: Holdings,
    /// What it sends.
    pub player: Player,
}

/// What a run drives against its target.
pub struct Load {
    /// What to do.
    pub plan: Plan,
    /// Part of every command id.
    pub run: u64,
    /// The streams, connection by connection.
    pub streams: Vec<StreamPlan>,
    /// Assets that all of them claim.
    pub contested: Vec<u64>,
    /// For edge nodes.
    pub edge: EdgeSide,
    /// Shows the run, if wanted.
    pub live: Option<Live>,
}

/// Drives `load` over these connections, or on these topics. Must run inside a `LocalSet`.
///
/// # Errors
/// When the streams cannot be opened; what happens later is in the result.
pub async fn drive(wire: &Wire, load: Load) -> Result<Driven, LoadError> {
    let Load { plan, run, .. } = load;
    let timer = FineTimer::new().map_err(no_timer)?;
    let mut opened = wire.open(&plan, load.streams.len(), &load.edge).await?;
    let deliveries = opened.take_deliveries();
    let follows = wire.follows();
    let streams = load.streams.into_iter().zip(opened.lanes).enumerate();
    let streams = streams.map(|(number, (stream, lane))| LoadStream {
        lane: Some(lane),
        books: Books::new(run, number as u16),
        holdings: stream.holdings,
        player: stream.player,
        digest: 0,
        unanswered: follows.then(Unanswered::default),
    });
    let streams = streams.collect();
    let contests = Contests::new(run, &load.contested);
    let driver = Rc::new(RefCell::new(Driver::new(
        plan, streams, contests, load.live,
    )));
    let progress = Rc::new(Notify::new());
    let receivers: Vec<_> = opened
        .receivers
        .into_iter()
        .enumerate()
        .map(|(stream, receiver)| {
            tokio::task::spawn_local(receiver.run(driver.clone(), stream, progress.clone()))
        })
        .collect();

    let (before, sending_since) = (ThreadTime::now(), Instant::now());
    send(&driver, &timer).await?;
    let elapsed_ns = sending_since.elapsed().as_nanos() as f64;
    let thread = before.zip(ThreadTime::now());
    let thread = thread.map(|(before, after)| ThreadShares {
        ran: after.ran_ns.saturating_sub(before.ran_ns) as f64 / elapsed_ns,
        waited: after.waited_ns.saturating_sub(before.waited_ns) as f64 / elapsed_ns,
    });

    let drain = driver.borrow().plan.drain;
    driver.borrow_mut().ending = true;
    // A time-out is no error here: what still waits is named when the books are closed.
    let _ = tokio::time::timeout(drain, drained(&driver, &progress)).await;
    driver.borrow_mut().roll();
    for stream in &mut driver.borrow_mut().streams {
        stream.lane = None;
    }
    for receiver in receivers {
        let abort = receiver.abort_handle();
        if tokio::time::timeout(GOODBYE_TIMEOUT, receiver)
            .await
            .is_err()
        {
            abort.abort();
        }
    }
    // Aborted tasks drop their handle on the next turn of the loop.
    tokio::task::yield_now().await;
    let mut driven = driver.borrow_mut().finish(thread);
    driven.deliveries = deliveries();
    Ok(driven)
}

fn no_timer(cause: std::io::Error) -> LoadError {
    LoadError::Machine {
        what: "a timer",
        cause,
    }
}

/// Sends until the end of the run, or until a stream breaks.
async fn send(driver: &Rc<RefCell<Driver>>, timer: &FineTimer) -> Result<(), LoadError> {
    let rate = driver.borrow().plan.rate;
    let Rate::PerSecond(rate) = rate else {
        let streams = driver.borrow().streams.len();
        for stream in 0..streams {
            driver.borrow_mut().fill(stream);
        }
        // The receivers send from here on, each when its outcomes come.
        while driver.borrow().now_ns() < driver.borrow().end_ns && driver.borrow().broken.is_none()
        {
            let pause = Duration::from_millis(10);
            timer.sleep(pause).await.map_err(no_timer)?;
            driver.borrow_mut().roll();
        }
        return Ok(());
    };
    let (mut schedule, give_up_ns) = {
        let driver = driver.borrow();
        let shape = driver.plan.shape(rate);
        let behind_ns = driver.plan.behind.as_nanos() as u64;
        (Schedule::new(&shape), driver.end_ns + behind_ns)
    };
    loop {
        let (next, now) = {
            let mut driver = driver.borrow_mut();
            for _ in 0..BURST_MESSAGES {
                let Some(intended_ns) = schedule.take_due(driver.now_ns()) else {
                    break;
                };
                driver.send_on_next_stream(intended_ns);
            }
            driver.roll();
            if driver.broken.is_some() {
                return Ok(());
            }
            (schedule.next_ns(), driver.now_ns())
        };
        match next {
            // A sender that comes to the end so late has a rate that it cannot keep: what is left is skipped.
            Some(next) if now > give_up_ns => {
                let left = schedule.rest();
                let mut driver = driver.borrow_mut();
                driver.skip(next, left);
                driver.behind = (
                    now.saturating_sub(next) as f64 / 1e9,
                    left * driver.plan.batch,
                );
                return Ok(());
            }
            None => {
                let mut driver = driver.borrow_mut();
                driver.behind.0 = now.saturating_sub(driver.end_ns) as f64 / 1e9;
                return Ok(());
            }
            Some(next) if next <= now => tokio::task::yield_now().await,
            Some(next) => {
                let nanoseconds = (next - now).clamp(SLEEP_NS_MIN, SLEEP_NS_MAX);
                let pause = Duration::from_nanos(nanoseconds);
                timer.sleep(pause).await.map_err(no_timer)?;
            }
        }
    }
}

async fn drained(driver: &Rc<RefCell<Driver>>, progress: &Notify) {
    while driver.borrow().waiting() > 0 && driver.borrow().broken.is_none() {
        // The seconds go on while nothing comes.
        let _ = tokio::time::timeout(Duration::from_millis(200), progress.notified()).await;
        driver.borrow_mut().roll();
    }
}

/// An error with its causes: tonic's own text is often only "transport error".
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

/// 20 bytes of an account.
pub fn account_bytes(account: &karat_proto::Account) -> Bytes {
    Bytes::copy_from_slice(&account.0)
}
