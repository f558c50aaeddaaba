//! A stream of a run: where its commands go ([`lane`]), how it is opened ([`opening`]), and how its answers are taken here.

mod lane;
mod opening;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use karat_proto::realm::{CODE_HEADER, RealmChannel, Search};
use karat_proto::v1;
use karat_proto::v1::edge_response::Kind as Down;
use karat_proto::v1::ledger_client::LedgerClient;
use tokio::sync::{Notify, mpsc};
use tonic::{Status, Streaming};

use crate::args::Rate;
use crate::client::chain;
use crate::driver::Driver;

pub use lane::EDGE_ASSETS_MAX;
pub(crate) use lane::Lane;
pub use opening::EdgeSide;
pub(crate) use opening::{Opening, opened};

/// Calls of Execute that are open at once on one stream; further ones wait here, and their latency counts.
const CALLS_MAX: usize = 200;

/// The receiving side of one stream.
pub(crate) enum Answers {
    Submit(Streaming<v1::SubmitResponse>),
    Execute(
        LedgerClient<RealmChannel>,
        mpsc::Receiver<v1::ExecuteRequest>,
    ),
    Edge(Streaming<v1::EdgeResponse>),
}

/// Takes one stream's outcomes until it ends for good: where its realm went on elsewhere, it is opened again there.
pub(crate) async fn receive(
    driver: Rc<RefCell<Driver>>,
    stream: usize,
    opening: Opening,
    mut answers: Answers,
    progress: Rc<Notify>,
) {
    let mut search = opening.channel.search();
    let broken = loop {
        let ended = take_all(&driver, stream, answers, &progress).await;
        let over = !driver.borrow().is_open(stream);
        if over && (ended.why.is_none() || opening.channel.names_realm()) {
            break None;
        }
        if ended.came {
            search = opening.channel.search();
        }
        let why = ended.why.unwrap_or("the target ended it".into());
        match open_again(&driver, stream, &opening, &mut search, why).await {
            Ok(opened) => answers = opened,
            Err(broken) => break broken,
        }
    };
    if let Some(cause) = broken {
        driver.borrow_mut().broke(stream, cause);
    }
    progress.notify_one();
}

/// Opens a stream again, where its realm is by then, and sends what has no outcome.
///
/// # Errors
/// Why that is no use any more; nothing when the run is over.
async fn open_again(
    driver: &Rc<RefCell<Driver>>,
    stream: usize,
    opening: &Opening,
    search: &mut Search,
    mut why: String,
) -> Result<Answers, Option<String>> {
    loop {
        let Some(pause) = search.pause() else {
            return Err(Some(why));
        };
        driver.borrow_mut().away(stream);
        tokio::time::sleep(pause).await;
        if !driver.borrow().is_open(stream) {
            return Err(None);
        }
        match opening.open().await {
            Ok((lane, answers)) => {
                driver.borrow_mut().go_on(stream, lane);
                return Ok(answers);
            }
            Err(error) => why = error.to_string(),
        }
    }
}

/// How a stream ended.
struct Ended {
    /// Outcomes came.
    came: bool,
    /// Why, where the target did not just end it.
    why: Option<String>,
}

async fn take_all(
    driver: &Rc<RefCell<Driver>>,
    stream: usize,
    answers: Answers,
    progress: &Notify,
) -> Ended {
    let came = Cell::new(false);
    // What ends the stream, if the realm is not here any more.
    let took = |ack: i32, outcomes: &[v1::Outcome]| -> Option<String> {
        let mut driver = driver.borrow_mut();
        let away = driver.take(stream, ack, outcomes);
        came.set(came.get() || away.is_none());
        if driver.plan.rate == Rate::Max && !driver.ending {
            driver.fill(stream);
        }
        if driver.ending {
            progress.notify_one();
        }
        away
    };
    let why = match answers {
        Answers::Submit(mut answers) => loop {
            match answers.message().await {
                Ok(Some(response)) => {
                    if let Some(away) = took(response.ack, &response.outcomes) {
                        break Some(away);
                    }
                }
                Ok(None) => break None,
                Err(status) => break Some(chain(&status)),
            }
        },
        Answers::Execute(ledger, requests) => calls(ledger, requests, took).await,
        Answers::Edge(mut answers) => loop {
            match answers.message().await {
                Ok(Some(response)) => match response.kind {
                    // What is only sequenced is answered again when it is durable.
                    Some(Down::Outcomes(answer)) if answer.ack == SEQUENCED => {}
                    Some(Down::Outcomes(answer)) => {
                        let durable = v1::AckLevel::Durable.into();
                        if let Some(away) = took(durable, &answer.outcomes) {
                            break Some(away);
                        }
                    }
                    Some(Down::Credits(more)) => credit(driver, stream, more.amount),
                    Some(Down::Directive(order)) if order.kind == PAUSE => {
                        break Some("the engine told the node to pause".into());
                    }
                    _ => {}
                },
                Ok(None) => break None,
                Err(status) => break Some(chain(&status)),
            }
        },
    };
    Ended {
        came: came.get(),
        why,
    }
}

const SEQUENCED: i32 = v1::AckLevel::Sequenced as i32;
const PAUSE: i32 = v1::DirectiveKind::Pause as i32;

fn credit(driver: &Rc<RefCell<Driver>>, stream: usize, amount: u32) {
    let mut driver = driver.borrow_mut();
    if let Some(Lane::Edge(edge)) = &mut driver.streams[stream].lane {
        edge.credits += amount;
        // Where the realm may move, its receiving side opens it again.
        if edge.flush().is_err() && driver.streams[stream].unanswered.is_none() {
            driver.closed(stream, "the target takes no more assets");
        }
    }
}

/// Makes a call for each request, and reports its outcome; ends with why a call failed, or was not taken because the realm
/// is elsewhere.
async fn calls(
    ledger: LedgerClient<RealmChannel>,
    mut requests: mpsc::Receiver<v1::ExecuteRequest>,
    took: impl Fn(i32, &[v1::Outcome]) -> Option<String>,
) -> Option<String> {
    let mut open = FuturesUnordered::new();
    let mut more = true;
    while more || !open.is_empty() {
        tokio::select! {
            request = requests.recv(), if more && open.len() < CALLS_MAX => match request {
                None => more = false,
                Some(request) => {
                    let mut ledger = ledger.clone();
                    let id = request.command.as_ref().map_or(Bytes::new(), |one| one.id.clone());
                    open.push(async move { (id, ledger.execute(request).await) });
                }
            },
            Some((id, answer)) = open.next() => {
                let away = match answer {
                    Ok(answer) => {
                        let answer = answer.into_inner();
                        took(answer.ack, answer.outcome.as_slice())
                    }
                    Err(status) => match refusal(&status) {
                        Some(code) => {
                            let message = status.message().to_owned();
                            let outcome = v1::Outcome { id, code, message, ..v1::Outcome::default() };
                            took(0, &[outcome])
                        }
                        None => return Some(chain(&status)),
                    },
                };
                if away.is_some() {
                    return away;
                }
            },
        }
    }
    None
}

/// The code of a refusal at the door, which a call answers with a status; `None` for a failure.
pub(crate) fn refusal(status: &Status) -> Option<u32> {
    status
        .metadata()
        .get(CODE_HEADER)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}
