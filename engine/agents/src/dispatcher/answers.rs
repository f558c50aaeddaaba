//! The dispatcher's dealings with the ledger: submitting verdicts, and what each answer means.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use actix::prelude::*;
use karat_proto::Code;
use karat_proto::command::{Decision, Verdict};

use super::Dispatcher;
use crate::open_jobs::{Phase, Ticket};

/// The ledger's answer to a verdict.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Answered {
    pub(super) ticket: Ticket,
    pub(super) issue: u64,
    pub(super) code: Code,
}

impl Dispatcher {
    pub(super) fn submit(&mut self, ticket: Ticket, verdict: Verdict, context: &mut Context<Self>) {
        let phase = Phase::Submitted {
            verdict: verdict.clone(),
            since: Instant::now(),
        };
        let Some(issue) = self.jobs.enter(ticket, phase) else {
            return;
        };
        let mut reply = Reply {
            dispatcher: context.address(),
            ticket,
            issue,
            code: Code::Unavailable,
        };
        let done = Box::new(move |code| {
            reply.code = code;
            drop(reply);
        });
        // A host that panics drops `done`, which answers for it.
        let _ = catch_unwind(AssertUnwindSafe(|| self.host().submit(verdict, done)));
    }

    pub(super) fn answered(&mut self, answer: Answered, context: &mut Context<Self>) {
        let Answered {
            ticket,
            issue,
            code,
        } = answer;
        let Some(open) = self.jobs.at_issue(ticket, issue) else {
            return;
        };
        let Phase::Submitted { verdict, .. } = &open.phase else {
            return;
        };
        let verdict = verdict.clone();
        let figures = self.around.figures.clone();
        match code {
            Code::Accepted => {
                figures.answered(open.job.born.elapsed());
                let counter = match verdict.decision {
                    Decision::Accept => &figures.verified,
                    Decision::Reject => &figures.rejected,
                    Decision::Review => &figures.in_review,
                };
                counter.fetch_add(1, Relaxed);
                self.close(ticket);
            }
            Code::StalePolicy => {
                let changed = self
                    .policy()
                    .is_some_and(|policy| policy.version != verdict.policy_version);
                if changed {
                    self.reissue(ticket);
                } else {
                    // The host has not seen the new policy yet.
                    self.hold(ticket, verdict, context);
                }
            }
            Code::VerdictVoid
            | Code::UnknownAsset
            | Code::StaleVersion
            | Code::NotActive
            | Code::AssetEnded
            | Code::AssetFrozen => {
                figures.void.fetch_add(1, Relaxed);
                self.close(ticket);
            }
            Code::Overloaded
            | Code::Unavailable
            | Code::RateLimited
            | Code::Paused
            | Code::RetryMemoryFull => self.hold(ticket, verdict, context),
            other => {
                let (asset, code) = (verdict.asset, other.name());
                tracing::error!(asset, code, hint = other.hint(), "a verdict was refused");
                figures.refused.fetch_add(1, Relaxed);
                self.close(ticket);
            }
        }
    }

    /// Keeps a verdict that was turned away, and submits it again after a wait that doubles up to its bound.
    fn hold(&mut self, ticket: Ticket, verdict: Verdict, context: &mut Context<Self>) {
        let Some(open) = self.jobs.get_mut(ticket) else {
            return;
        };
        open.turned_away += 1;
        if open.turned_away == self.config.submissions_until_parked {
            self.around.figures.parked.fetch_add(1, Relaxed);
        }
        let doubled = self
            .config
            .submit_again_ms
            .saturating_mul(1 << (open.turned_away - 1).min(20));
        let wait = Duration::from_millis(doubled.min(self.config.submit_again_ms_max));
        let Some(issue) = self.jobs.enter(ticket, Phase::Held { verdict }) else {
            return;
        };
        context.run_later(wait, move |dispatcher, context| {
            dispatcher.submit_again(ticket, issue, context);
        });
    }

    fn submit_again(&mut self, ticket: Ticket, issue: u64, context: &mut Context<Self>) {
        let Some(open) = self.jobs.at_issue(ticket, issue) else {
            return;
        };
        let Phase::Held { verdict } = &open.phase else {
            return;
        };
        let verdict = verdict.clone();
        match self.policy() {
            Some(policy) if policy.version != verdict.policy_version => {
                self.reissue(ticket);
                self.feed(context);
            }
            _ => {
                self.around.figures.resubmitted.fetch_add(1, Relaxed);
                self.submit(ticket, verdict, context);
            }
        }
    }

    fn close(&mut self, ticket: Ticket) {
        if let Some(open) = self.jobs.close(ticket) {
            if open.turned_away >= self.config.submissions_until_parked {
                self.around.figures.parked.fetch_sub(1, Relaxed);
            }
            drop(open.into_permit());
        }
    }
}

impl Handler<Answered> for Dispatcher {
    type Result = ();

    fn handle(&mut self, answer: Answered, context: &mut Self::Context) {
        self.answered(answer, context);
        self.feed(context);
    }
}

/// Answers exactly once: with the ledger's code, or `Unavailable` when it is dropped without one.
struct Reply {
    dispatcher: Addr<Dispatcher>,
    ticket: Ticket,
    issue: u64,
    code: Code,
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.dispatcher.do_send(Answered {
            ticket: self.ticket,
            issue: self.issue,
            code: self.code,
        });
    }
}
