//! Sends transfers as karat-load sends commands: an open loop whose arrivals are scheduled first, or a closed window;
//! latency from the intended time, what finds the window full is skipped and counted.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use karat_loadgen::args::Rate;
use karat_loadgen::books::Problems;
use karat_loadgen::driver::{Driven, Followed, ThreadShares};
use karat_loadgen::plan::Plan;
use karat_loadgen::recorder::Recorder;
use karat_loadgen::records::Records;
use karat_loadgen::scenario::Kind;
use karat_loadgen::schedule::Schedule;
use karat_loadgen::timer::{FineTimer, ThreadTime};
use tigerbeetle::{CreateTransferStatus, Transfer};
use tokio::sync::Notify;

use crate::accounts::Accounts;

/// Requests sent in one go when behind, before answers get their turn.
const BURST_REQUESTS: usize = 32;
const SLEEP_NS_MIN: u64 = 20_000;
const SLEEP_NS_MAX: u64 = 100_000_000;

/// What a request came to: a status for each transfer, or why there is none.
pub type Answer = Result<Vec<CreateTransferStatus>, String>;

/// The run while it goes on.
struct Run {
    plan: Plan,
    start: Instant,
    warm_up_ns: u64,
    end_ns: u64,
    accounts: Accounts,
    recorder: Recorder,
    problems: Problems,
    broken: Option<String>,
    waiting: u64,
    sent: u64,
    accepted: u64,
    refused: u64,
    behind: (f64, u64),
    ending: bool,
}

impl Run {
    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn is_measured(&self, time_ns: u64) -> bool {
        (self.warm_up_ns..self.end_ns).contains(&time_ns)
    }

    fn has_room(&self) -> bool {
        self.waiting + self.plan.batch <= self.plan.window_a_stream
    }

    fn skip(&mut self, intended_ns: u64, requests: u64) {
        let transfers = requests * self.plan.batch;
        self.recorder.skipped_now(transfers);
        if self.is_measured(intended_ns) {
            self.recorder.skipped += transfers;
        }
    }

    /// The next request; it is under way from here on.
    fn next(&mut self) -> Vec<Transfer> {
        let batch = self.plan.batch;
        self.waiting += batch;
        self.sent += batch;
        (0..batch).map(|_| self.accounts.draw()).collect()
    }

    fn handed_over(&mut self, intended_ns: u64) {
        let batch = self.plan.batch;
        self.recorder.sent_now(batch);
        if self.is_measured(intended_ns) {
            let late_ns = self.now_ns().saturating_sub(intended_ns);
            self.recorder.sent_late_by(late_ns);
            self.recorder.sent += batch;
        }
    }

    fn take(&mut self, transfers: &[Transfer], intended_ns: u64, answer: Answer) {
        let statuses = match answer {
            Ok(statuses) if statuses.len() == transfers.len() => statuses,
            Ok(statuses) => {
                let (came, asked) = (statuses.len(), transfers.len());
                let cause = format!("{came} answers to {asked} transfers");
                self.broken.get_or_insert(cause);
                return;
            }
            Err(cause) => {
                self.broken.get_or_insert(cause);
                return;
            }
        };
        self.waiting -= transfers.len() as u64;
        let now_ns = self.now_ns();
        let latency_ns = now_ns.saturating_sub(intended_ns);
        let (measured, in_time) = (self.is_measured(intended_ns), self.is_measured(now_ns));
        for (transfer, status) in transfers.iter().zip(statuses) {
            let accepted = status == CreateTransferStatus::Created;
            self.recorder.outcome_now(accepted, latency_ns);
            if !accepted {
                // Nothing here asks for what cannot be done.
                let id = transfer.id;
                self.problems
                    .note(|| format!("transfer {id:032x}: refused with {status:?}"));
                self.refused += 1;
                if measured {
                    self.recorder.refused_after(status as u32, latency_ns);
                }
                continue;
            }
            self.accounts.made(transfer);
            self.accepted += 1;
            if measured {
                self.recorder.accepted_after(0, latency_ns);
            }
            if in_time {
                self.recorder.accepted_in_time += 1;
            }
        }
    }
}

/// Sends what `plan` says through `create`, which hands a request over at once and is answered later. Must run inside a
/// `LocalSet`. Returns what came of it, and the accounts as the answers left them.
///
/// # Errors
/// When this machine gives no timer.
pub async fn drive<F>(
    plan: Plan,
    accounts: Accounts,
    create: impl Fn(&[Transfer]) -> F + Clone + 'static,
) -> Result<(Driven, Accounts)>
where
    F: Future<Output = Answer> + 'static,
{
    let timer = FineTimer::new()?;
    let drain = plan.drain;
    let run = Rc::new(RefCell::new(Run {
        warm_up_ns: plan.warm_up.as_nanos() as u64,
        end_ns: (plan.warm_up + plan.measured).as_nanos() as u64,
        plan,
        start: Instant::now(),
        accounts,
        recorder: Recorder::new(1),
        problems: Problems::default(),
        broken: None,
        waiting: 0,
        sent: 0,
        accepted: 0,
        refused: 0,
        behind: (0.0, 0),
        ending: false,
    }));
    let progress = Rc::new(Notify::new());
    let client = Client {
        run: run.clone(),
        progress: progress.clone(),
        create,
    };
    let (before, since) = (ThreadTime::now(), Instant::now());
    client.send(&timer).await?;
    let elapsed_ns = since.elapsed().as_nanos() as f64;
    let thread = before.zip(ThreadTime::now());
    let thread = thread.map(|(before, after)| ThreadShares {
        ran: after.ran_ns.saturating_sub(before.ran_ns) as f64 / elapsed_ns,
        waited: after.waited_ns.saturating_sub(before.waited_ns) as f64 / elapsed_ns,
    });
    run.borrow_mut().ending = true;
    let all_answered = async {
        while run.borrow().waiting > 0 && run.borrow().broken.is_none() {
            let _ = tokio::time::timeout(Duration::from_millis(200), progress.notified()).await;
        }
    };
    // A time-out is no error here: what still waits is counted below.
    let _ = tokio::time::timeout(drain, all_answered).await;
    Ok(finish(&mut run.borrow_mut(), thread))
}

fn finish(run: &mut Run, thread: Option<ThreadShares>) -> (Driven, Accounts) {
    let (now_ns, waiting) = (run.now_ns(), run.waiting);
    run.recorder.roll(now_ns, waiting);
    let mut problems = std::mem::take(&mut run.problems);
    if waiting > 0 {
        problems.note(|| format!("{waiting} transfers without an answer"));
    }
    let mut sent_by_kind = [0; Kind::ALL.len()];
    sent_by_kind[Kind::Transfer as usize] = run.sent;
    let driven = Driven {
        recorder: std::mem::replace(&mut run.recorder, Recorder::new(0)),
        problems,
        broken: run.broken.take(),
        holdings: Vec::new(),
        contested: Vec::new(),
        records: Records::default(),
        sent_by_kind,
        accepted: run.accepted,
        refused: run.refused,
        unanswered: waiting,
        followed: Followed::default(),
        digest: 0,
        thread,
        behind: run.behind,
        deliveries: None,
    };
    let accounts = std::mem::replace(&mut run.accounts, Accounts::new(0, 0, 0));
    (driven, accounts)
}

/// Sends requests and takes their answers, all on one thread.
#[derive(Clone)]
struct Client<C> {
    run: Rc<RefCell<Run>>,
    progress: Rc<Notify>,
    create: C,
}

impl<C, F> Client<C>
where
    C: Fn(&[Transfer]) -> F + Clone + 'static,
    F: Future<Output = Answer> + 'static,
{
    fn send_one(&self, intended_ns: u64) {
        let transfers = self.run.borrow_mut().next();
        let answer = (self.create)(&transfers);
        self.run.borrow_mut().handed_over(intended_ns);
        let client = self.clone();
        tokio::task::spawn_local(async move {
            let answer = answer.await;
            client
                .run
                .borrow_mut()
                .take(&transfers, intended_ns, answer);
            client.fill();
            client.progress.notify_one();
        });
    }

    /// Closed window: sends as much as fits, each request meant for now.
    fn fill(&self) {
        loop {
            let now_ns = {
                let run = self.run.borrow();
                let now_ns = run.now_ns();
                let over = run.ending || run.broken.is_some() || now_ns >= run.end_ns;
                if run.plan.rate != Rate::Max || over || !run.has_room() {
                    return;
                }
                now_ns
            };
            self.send_one(now_ns);
        }
    }

    /// Sends until the end of the run, or until the client breaks.
    async fn send(&self, timer: &FineTimer) -> Result<()> {
        let rate = self.run.borrow().plan.rate;
        let Rate::PerSecond(rate) = rate else {
            self.fill();
            while self.goes_on() {
                timer.sleep(Duration::from_millis(10)).await?;
                self.roll();
            }
            return Ok(());
        };
        let (mut schedule, give_up_ns) = {
            let run = self.run.borrow();
            let shape = run.plan.shape(rate);
            let behind_ns = run.plan.behind.as_nanos() as u64;
            (Schedule::new(&shape), run.end_ns + behind_ns)
        };
        loop {
            for _ in 0..BURST_REQUESTS {
                let now_ns = self.run.borrow().now_ns();
                let Some(intended_ns) = schedule.take_due(now_ns) else {
                    break;
                };
                let has_room = self.run.borrow().has_room();
                match has_room {
                    true => self.send_one(intended_ns),
                    false => self.run.borrow_mut().skip(intended_ns, 1),
                }
            }
            self.roll();
            let (next_ns, now_ns) = {
                let mut run = self.run.borrow_mut();
                let now_ns = run.now_ns();
                if run.broken.is_some() {
                    return Ok(());
                }
                let Some(next_ns) = schedule.next_ns() else {
                    run.behind.0 = now_ns.saturating_sub(run.end_ns) as f64 / 1e9;
                    return Ok(());
                };
                if now_ns > give_up_ns {
                    let left = schedule.rest();
                    run.skip(next_ns, left);
                    let behind_s = now_ns.saturating_sub(next_ns) as f64 / 1e9;
                    run.behind = (behind_s, left * run.plan.batch);
                    return Ok(());
                }
                (next_ns, now_ns)
            };
            if next_ns <= now_ns {
                tokio::task::yield_now().await;
                continue;
            }
            let pause_ns = (next_ns - now_ns).clamp(SLEEP_NS_MIN, SLEEP_NS_MAX);
            timer.sleep(Duration::from_nanos(pause_ns)).await?;
        }
    }

    fn goes_on(&self) -> bool {
        let run = self.run.borrow();
        run.now_ns() < run.end_ns && run.broken.is_none()
    }

    fn roll(&self) {
        let mut run = self.run.borrow_mut();
        let (now_ns, waiting) = (run.now_ns(), run.waiting);
        run.recorder.roll(now_ns, waiting);
    }
}
