//! What an outcome changes: it crosses out its command, is checked for what it says, and is counted.

use karat_proto::realm::is_away;
use karat_proto::{Code, v1};

use super::Driver;
use crate::args::{Ack, Mode};
use crate::books::{Entry, Place};
use crate::contests::Won;
use crate::records::Record;
use crate::scenario::changes;
use crate::scenario::{Effect, Kind};

/// Refusals that say nothing about the command.
fn is_for_now(code: u32) -> bool {
    [
        Code::Overloaded,
        Code::RateLimited,
        Code::Unavailable,
        Code::NotLeader,
        Code::RealmElsewhere,
        Code::RetryMemoryFull,
    ]
    .iter()
    .any(|one| code == *one as u32)
}

/// A problem with the command of this outcome.
fn named(outcome: &v1::Outcome, what: &str) -> String {
    format!("command {}: {what}", hex::encode(&outcome.id))
}

impl Driver {
    /// Takes the outcomes of one message, which came at this ack level. On a stream whose realm may move, a refusal that
    /// says nothing about the command because of that is none: returns what it said, and the command stays open.
    pub(crate) fn take(
        &mut self,
        stream: usize,
        ack: i32,
        outcomes: &[v1::Outcome],
    ) -> Option<String> {
        let now_ns = self.now_ns();
        let mut away = None;
        for outcome in outcomes {
            let code = u16::try_from(outcome.code).ok().and_then(Code::from_number);
            if self.streams[stream].unanswered.is_some() && code.is_some_and(is_away) {
                away.get_or_insert_with(|| outcome.message.clone());
                continue;
            }
            if outcome.code == Code::NotLeader as u32 {
                let said = &outcome.message;
                self.broke(
                    stream,
                    format!("the target leads its realm no longer: {said}"),
                );
            }
            self.take_outcome(stream, outcome, ack, now_ns);
        }
        away
    }

    fn take_outcome(&mut self, stream: usize, outcome: &v1::Outcome, ack: i32, now_ns: u64) {
        let books = &mut self.streams[stream].books;
        let Some((place, entry)) = books.answer(&outcome.id, &mut self.problems) else {
            return;
        };
        let unanswered = self.streams[stream].unanswered.as_mut();
        let again = unanswered.is_some_and(|one| one.answered(place.number()));
        self.check(&entry, outcome, ack, again);
        self.keep(place, &entry, outcome);
        let latency_ns = now_ns.saturating_sub(entry.intended_ns);
        let measured = self.is_measured(entry.intended_ns);
        let accepted = outcome.code == Code::Accepted as u32;
        self.recorder.outcome_now(accepted, latency_ns);
        if !accepted {
            self.refuse(stream, place, &entry, outcome);
            if measured {
                self.recorder.refused_after(outcome.code, latency_ns);
            }
            return;
        }
        self.accept(stream, place, &entry, outcome);
        if measured {
            self.recorder
                .accepted_after(usize::from(entry.level), latency_ns);
        }
        if self.is_measured(now_ns) {
            self.recorder.accepted_in_time += 1;
        }
    }

    /// Notes what no outcome may say; `again` for a command that was sent more than once.
    fn check(&mut self, entry: &Entry, outcome: &v1::Outcome, ack: i32, again: bool) {
        let problems = &mut self.problems;
        let (sequence, code) = (outcome.sequence, outcome.code);
        if outcome.replayed && !again {
            problems.note(|| named(outcome, "answered as a retry, but it was sent once"));
        }
        if sequence != 0 && !self.sequences.insert(sequence) {
            problems.note(|| named(outcome, &format!("sequence {sequence} was given twice")));
        }
        if let (Effect::Wrong { code: must }, false) = (entry.effect, self.plan.echo)
            && code != u32::from(must)
            && !is_for_now(code)
        {
            let what = format!("must be refused with {must}, but came to {code}");
            problems.note(|| named(outcome, &what));
        }
        if code != Code::Accepted as u32 {
            return;
        }
        if sequence == 0 {
            problems.note(|| named(outcome, "accepted without a sequence"));
        }
        // A verdict may still reject what was accepted, so only the levels that are the log's own can be checked here.
        let asked = self.plan.acks[usize::from(entry.level)];
        let checkable = matches!(asked, Ack::Sequenced | Ack::Durable);
        if checkable && ack < i32::from(asked.to_wire()) {
            let what = format!("answered at ack level {ack}, below the one asked for");
            problems.note(|| named(outcome, &what));
        }
        let subject = outcome.subject;
        if entry.effect.kind() == Kind::Mint && !self.minted.insert(subject) {
            problems.note(|| named(outcome, &format!("asset number {subject} was given twice")));
        }
    }

    /// Keeps what has a sequence, to be found again in the target's events.
    fn keep(&mut self, place: Place, entry: &Entry, outcome: &v1::Outcome) {
        if outcome.sequence == 0 {
            return;
        }
        let changes = match entry.effect {
            Effect::Mint { .. } => changes::with_number(entry.changes, outcome.subject),
            _ => entry.changes,
        };
        self.records.push(Record {
            place,
            sequence: outcome.sequence,
            changes,
            code: outcome.code.into(),
        });
    }

    fn refuse(&mut self, stream: usize, place: Place, entry: &Entry, outcome: &v1::Outcome) {
        self.refused += 1;
        let holdings = &mut self.streams[stream].holdings;
        holdings.refused(entry.effect, outcome.code);
        if let Effect::Contest { place: contest, .. } = entry.effect
            && outcome.code == Code::AlreadyOwned as u32
            // A dead letter names no winner.
            && self.plan.mode != Mode::Kafka
        {
            let winner = (outcome.winner_sequence, &outcome.winner_id[..]);
            self.contests
                .lost(contest, place, winner, &mut self.problems);
        }
    }

    fn accept(&mut self, stream: usize, place: Place, entry: &Entry, outcome: &v1::Outcome) {
        self.accepted += 1;
        let (sequence, subject) = (outcome.sequence, outcome.subject);
        let holdings = &mut self.streams[stream].holdings;
        holdings.accepted(entry.effect, sequence, subject);
        if let (Effect::Contest { place: contest, to }, false) = (entry.effect, self.plan.echo) {
            let won = Won {
                sequence,
                place,
                account: to,
            };
            self.contests.won(contest, won, &mut self.problems);
        }
    }
}
