//! The client: sends what the schedule says, takes outcomes back, and keeps books and figures of both.
//!
//! One task sends, one a stream receives, all on one thread: nothing here is shared between threads, and the target keeps
//! the other processors.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::{limits, v1};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::args::{Ack, LoadArgs, Rate};
use crate::books::Books;
use crate::driver::{Driven, Driver, LoadStream, ThreadShares};
use crate::error::LoadError;
use crate::scenario::{Holdings, Scenario};
use crate::schedule::Schedule;
use crate::timer::{FineTimer, ThreadTime};

/// HTTP/2 windows on both sides: with the default of 64 KiB a stream of small messages waits for window updates.
pub const WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// How long a connection may take, and a stream its headers.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the target may take to end its side of a stream after this side ended.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Messages sent in one go when behind, before connection and receivers get their turn.
const BURST_MESSAGES: usize = 32;
/// No sleep is shorter, so that at high rates several arrivals share a wake. Well under what a wake costs in latency.
const SLEEP_NS_MIN: u64 = 20_000;

/// Connects to a target.
///
/// # Errors
/// When the address is none, or nothing answers there.
pub async fn connect(target: &str) -> Result<Channel, LoadError> {
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
    let endpoint = Endpoint::from_shared(target.to_owned())
        .map_err(|error| malformed(error.to_string()))?
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT);
    endpoint
        .connect()
        .await
        .map_err(|error| unreachable(chain(&error)))
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Open or closed.
    pub rate: Rate,
    /// Spacing of an open loop.
    pub arrivals: crate::schedule::Arrivals,
    /// Left out of the figures.
    pub warm_up: Duration,
    /// Measured.
    pub measured: Duration,
    /// Commands a message.
    pub batch: u64,
    /// Level to ask for.
    pub ack: Ack,
    /// Most commands in flight on one stream.
    pub window_a_stream: u64,
    /// Longest wait for outcomes at the end.
    pub drain: Duration,
    /// For the arrivals.
    pub seed: u64,
}

impl Plan {
    /// As the arguments say.
    ///
    /// # Errors
    /// When they contradict each other.
    pub fn new(args: &LoadArgs) -> Result<Plan, LoadError> {
        Ok(Plan {
            rate: args.rate,
            arrivals: args.arrivals,
            warm_up: Duration::from_secs(args.warm_up_seconds),
            measured: Duration::from_secs(args.seconds),
            batch: args.batch,
            ack: args.ack,
            window_a_stream: args.window_a_stream()?,
            drain: Duration::from_secs(args.drain()),
            seed: args.seed,
        })
    }
}

/// One stream before the run: what it holds, and what it will do.
pub struct StreamPlan {
    /// What its accounts hold.
    pub holdings: Holdings,
    /// What it sends.
    pub scenario: Box<dyn Scenario>,
}

/// Drives `streams` against a target. Must run inside a `LocalSet`.
///
/// # Errors
/// When the streams cannot be opened; what happens later is in the result.
pub async fn drive(
    channel: Channel,
    plan: Plan,
    run: u64,
    streams: Vec<StreamPlan>,
) -> Result<Driven, LoadError> {
    let timer = FineTimer::new().map_err(|cause| LoadError::Machine {
        what: "a timer",
        cause,
    })?;
    let mut open = Vec::new();
    let mut responses = Vec::new();
    for (number, stream) in streams.into_iter().enumerate() {
        // The window is the bound: a message that fits into it always finds a place here.
        let places = plan.window_a_stream / plan.batch + 1;
        let (sender, receiver) = mpsc::channel(places as usize);
        responses.push(open_stream(channel.clone(), receiver).await?);
        open.push(LoadStream {
            sender: Some(sender),
            books: Books::new(run, number as u16),
            holdings: stream.holdings,
            scenario: stream.scenario,
        });
    }
    let driver = Rc::new(RefCell::new(Driver::new(plan, open)));
    let progress = Rc::new(Notify::new());
    let receivers: Vec<_> = responses
        .into_iter()
        .enumerate()
        .map(|(stream, responses)| {
            tokio::task::spawn_local(receive(driver.clone(), stream, responses, progress.clone()))
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
    for stream in &mut driver.borrow_mut().streams {
        stream.sender = None;
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
    Ok(driver.borrow_mut().finish(thread))
}

async fn open_stream(
    channel: Channel,
    requests: mpsc::Receiver<v1::SubmitRequest>,
) -> Result<Streaming<v1::SubmitResponse>, LoadError> {
    let refused = |cause: String| LoadError::Setup {
        step: "Ledger.Submit",
        cause,
    };
    let mut ledger =
        LedgerClient::new(channel).max_decoding_message_size(limits::MESSAGE_BYTES_MAX);
    let opening = ledger.submit(ReceiverStream::new(requests));
    match tokio::time::timeout(CONNECT_TIMEOUT, opening).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(refused(status.to_string())),
        Err(_) => Err(refused(format!(
            "the stream did not open within {} s",
            CONNECT_TIMEOUT.as_secs()
        ))),
    }
}

/// Sends until the end of the run, or until a stream breaks.
async fn send(driver: &Rc<RefCell<Driver>>, timer: &FineTimer) -> Result<(), LoadError> {
    let (rate, total) = {
        let driver = driver.borrow();
        (driver.plan.rate, driver.plan.warm_up + driver.plan.measured)
    };
    let failed = |cause| LoadError::Machine {
        what: "a timer",
        cause,
    };
    let Rate::PerSecond(rate) = rate else {
        let streams = driver.borrow().streams.len();
        for stream in 0..streams {
            driver.borrow_mut().fill(stream);
        }
        // The receivers send from here on, each when its outcomes come.
        while driver.borrow().now_ns() < driver.borrow().end_ns && driver.borrow().broken.is_none()
        {
            timer
                .sleep(Duration::from_millis(10))
                .await
                .map_err(failed)?;
        }
        return Ok(());
    };
    let mut schedule = {
        let driver = driver.borrow();
        let messages_a_second = rate / driver.plan.batch as f64;
        Schedule::new(
            driver.plan.arrivals,
            messages_a_second,
            total,
            driver.plan.seed,
        )
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
            if driver.broken.is_some() {
                return Ok(());
            }
            (schedule.next_ns(), driver.now_ns())
        };
        match next {
            None => return Ok(()),
            Some(next) if next <= now => tokio::task::yield_now().await,
            Some(next) => {
                let nanoseconds = (next - now).max(SLEEP_NS_MIN);
                timer
                    .sleep(Duration::from_nanos(nanoseconds))
                    .await
                    .map_err(failed)?;
            }
        }
    }
}

/// Takes one stream's outcomes until it ends.
async fn receive(
    driver: Rc<RefCell<Driver>>,
    stream: usize,
    mut responses: Streaming<v1::SubmitResponse>,
    progress: Rc<Notify>,
) {
    loop {
        let message = responses.message().await;
        let mut driver = driver.borrow_mut();
        match message {
            Ok(Some(response)) => {
                driver.take(stream, response);
                if driver.plan.rate == Rate::Max && !driver.ending {
                    driver.fill(stream);
                }
                if driver.ending {
                    progress.notify_one();
                }
            }
            Ok(None) => {
                if driver.streams[stream].sender.is_some() {
                    driver.broke(stream, "the target ended it".into());
                }
                progress.notify_one();
                return;
            }
            Err(status) => {
                driver.broke(stream, chain(&status));
                progress.notify_one();
                return;
            }
        }
    }
}

async fn drained(driver: &Rc<RefCell<Driver>>, progress: &Notify) {
    while driver.borrow().waiting() > 0 && driver.borrow().broken.is_none() {
        progress.notified().await;
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
