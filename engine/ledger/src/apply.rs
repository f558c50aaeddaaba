//! The order of a command's steps; the crate's description tells it in prose.

use crate::realm::Realm;
use crate::retries::{Entry, Seen};
use crate::state::index::Vacancy;
use crate::state::{Ledger, OutcomeCounts};
use crate::{ACCOUNTS_MAX, OPEN_BATCHES_MAX};
use karat_proto::command::{Command, CommandKind};
use karat_proto::event::{Event, EventKind, Outcome, Winner};
use karat_proto::{Account, Code, CommandId};

/// The command's place in the log.
#[derive(Clone, Copy, Debug)]
pub struct ApplyContext<'a> {
    /// The command's sequence: the last one applied plus 1.
    pub sequence: u64,
    /// Time of its block, milliseconds since the epoch; never less than the time before.
    pub time_ms: u64,
    /// Hash of its block; draws use it.
    pub block_hash: &'a [u8; 32],
}

/// One command at work: where it stands, and the events so far.
pub(crate) struct Step<'a> {
    pub(crate) sequence: u64,
    pub(crate) time_ms: u64,
    pub(crate) block_hash: &'a [u8; 32],
    pub(crate) command: CommandId,
    pub(crate) actor: Account,
    events: &'a mut Vec<Event>,
    /// Number of the next event.
    next_event: u16,
}

impl Step<'_> {
    /// Adds an event.
    #[inline]
    pub(crate) fn emit(&mut self, kind: EventKind) {
        self.emit_made(|| kind);
    }

    /// Adds an event that is made in its place. One that is pushed is copied there twice: while room is made, it must be held
    /// where it could be dropped.
    #[inline(always)]
    pub(crate) fn emit_made(&mut self, kind: impl FnOnce() -> EventKind) {
        let (sequence, index, time_ms) = (self.sequence, self.next_event, self.time_ms);
        // A command causes at most a few thousand (the largest is a tick that draws claims): they fit in 16 bits.
        self.next_event = index.wrapping_add(1);
        self.events.extend(std::iter::once_with(|| Event {
            sequence,
            index,
            time_ms,
            kind: kind(),
        }));
    }

    /// This command, as the winner of what it changes.
    #[inline]
    pub(crate) fn change(&self) -> Winner {
        Winner {
            id: self.command,
            sequence: self.sequence,
        }
    }
}

/// Why a command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) subject: u64,
    pub(crate) winner: Option<Winner>,
}

impl Refusal {
    pub(crate) fn about(code: Code, subject: u64) -> Refusal {
        Refusal {
            code,
            subject,
            winner: None,
        }
    }

    pub(crate) fn lost_to(code: Code, subject: u64, winner: Option<Winner>) -> Refusal {
        Refusal {
            code,
            subject,
            winner,
        }
    }
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Refusal {
        Refusal::about(code, 0)
    }
}

/// What a command was about, or why it was refused.
pub(crate) type Applied = Result<u64, Refusal>;

/// Whose command it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Genesis,
    Player,
    Operator,
    Verifier,
    Settler,
}

impl Ledger {
    /// Applies one command and appends what it changed to `events` (which is not emptied).
    ///
    /// Sequences must be dense: `context.sequence` is [`Ledger::applied_seq`] plus 1. A caller that breaks this has lost part
    /// of its log; debug builds stop, release builds go on and show it in every digest from there.
    ///
    /// A refusal is an outcome with a code, never an error, and changes nothing but the retry memory.
    pub fn apply(
        &mut self,
        context: &ApplyContext<'_>,
        command: &Command,
        events: &mut Vec<Event>,
    ) -> Outcome {
        debug_assert_eq!(
            context.sequence,
            self.applied_seq + 1,
            "sequences must be dense"
        );
        self.applied_seq = context.sequence;
        self.time_ms = context.time_ms;
        let first_event = events.len();
        let mut step = Step {
            sequence: context.sequence,
            time_ms: context.time_ms,
            block_hash: context.block_hash,
            command: command.id,
            actor: command.actor,
            events,
            next_event: 0,
        };

        let outcome = match self.retries.look_up(&command.id, &command.body_hash) {
            Seen::Never(vacancy) => self.apply_new(&mut step, vacancy, command),
            Seen::Before(first) => first,
            Seen::WithAnotherBody => outcome_of(&step, Err(Code::IdReused.into())),
        };

        self.cut_full_batch(&mut step);
        if let Some(realm) = &self.realm {
            let window = realm.policy.retry_window_commands;
            if self.retries.is_past(self.applied_seq, window) {
                let settled_seq = self.settled_seq();
                self.retries.forget(self.applied_seq, settled_seq, window);
            }
        }
        count(&mut self.outcomes, &outcome);
        let folded = self
            .digest
            .absorb(context.sequence, &outcome, &step.events[first_event..]);
        if cfg!(debug_assertions) && folded {
            self.assert_invariants_sometimes();
        }
        outcome
    }

    /// A command whose id is not remembered.
    #[inline]
    fn apply_new(&mut self, step: &mut Step<'_>, vacancy: Vacancy, command: &Command) -> Outcome {
        let class = self.class(command);
        let player = class == Class::Player;
        let full = match player {
            true => self.retries.is_full() || self.batches.open() >= OPEN_BATCHES_MAX,
            false => self.retries.is_reserve_full(),
        };
        if full {
            return self.apply_when_full(step, class, command);
        }
        let result = self.apply_checked(step, class, command);
        let outcome = outcome_of(step, result);
        self.retries.remember(
            vacancy,
            Entry {
                sequence: outcome.sequence,
                subject: outcome.subject,
                id: command.id,
                body_hash: command.body_hash,
                code: outcome.code,
            },
            outcome.winner,
        );
        outcome
    }

    /// A command for which the retry memory has no room.
    #[cold]
    fn apply_when_full(&mut self, step: &mut Step<'_>, class: Class, command: &Command) -> Outcome {
        // These repeat without harm and make room, so they are applied and not remembered.
        let makes_room =
            class == Class::Settler || matches!(command.kind, CommandKind::Tick { .. });
        let result = match makes_room {
            true => self.apply_checked(step, class, command),
            false => Err(Code::RetryMemoryFull.into()),
        };
        outcome_of(step, result)
    }

    fn apply_checked(&mut self, step: &mut Step<'_>, class: Class, command: &Command) -> Applied {
        let allowed = match (&self.realm, class) {
            (None, Class::Genesis) => Ok(()),
            (None, _) | (Some(_), Class::Genesis) => return Err(Code::BadGenesis.into()),
            (Some(realm), _) => may_act(realm, class, &command.actor),
        };
        if command.actor.is_nobody() {
            return Err(Code::NotAllowed.into());
        }
        allowed?;
        if self.accounts.len() >= ACCOUNTS_MAX && class != Class::Settler {
            return Err(Code::RealmFull.into());
        }
        self.dispatch(step, &command.kind)
    }

    fn dispatch(&mut self, step: &mut Step<'_>, kind: &CommandKind) -> Applied {
        match kind {
            CommandKind::Genesis(genesis) => self.genesis(step, genesis),
            CommandKind::CreateCollection(spec) => self.create_collection(step, spec),
            CommandKind::RevealSeed { collection, secret } => {
                self.reveal_seed(step, *collection, secret)
            }
            CommandKind::Mint(mint) => self.mint(step, mint),
            CommandKind::Revise(revise) => self.revise(step, revise),
            CommandKind::Transfer { asset, version, to } => {
                self.transfer(step, *asset, *version, to)
            }
            CommandKind::Claim { asset, version } => self.claim(step, *asset, *version),
            CommandKind::Exchange(exchange) => self.exchange(step, exchange),
            CommandKind::Burn { asset, version } => self.burn(step, *asset, *version),
            CommandKind::Redeem { asset, version, to } => self.redeem(step, *asset, *version, *to),
            CommandKind::Deposit { account, amount } => self.deposit(step, *account, *amount),
            CommandKind::Withdraw { account, amount } => self.withdraw(step, *account, *amount),
            CommandKind::Verdict(verdict) => self.verdict(step, verdict),
            CommandKind::ReviewDecision {
                asset,
                version,
                accepted,
                reason,
            } => self.review_decision(step, *asset, *version, *accepted, reason),
            CommandKind::RegisterModel(model) => self.register_model(step, model),
            CommandKind::PromoteModel { digest } => self.promote_model(step, digest),
            CommandKind::RetireModel { digest } => self.retire_model(step, digest),
            CommandKind::SetPolicy(policy) => self.set_policy(step, policy),
            CommandKind::Freeze { asset, reason } => self.freeze(step, *asset, reason),
            CommandKind::Unfreeze { asset } => self.unfreeze(step, *asset),
            CommandKind::Pause { paused } => self.pause(step, *paused),
            CommandKind::BatchSealed(batch) => self.batch_sealed(step, batch),
            CommandKind::BatchCommitted(batch) => self.batch_committed(step, batch),
            CommandKind::BatchFinal { number } => self.batch_final(step, *number),
            CommandKind::Tick { base_fee_wei } => self.tick(step, *base_fee_wei),
        }
    }

    fn class(&self, command: &Command) -> Class {
        match &command.kind {
            CommandKind::Genesis(_) => Class::Genesis,
            CommandKind::CreateCollection(_)
            | CommandKind::RevealSeed { .. }
            | CommandKind::Mint(_)
            | CommandKind::Revise(_)
            | CommandKind::Transfer { .. }
            | CommandKind::Claim { .. }
            | CommandKind::Exchange(_)
            | CommandKind::Burn { .. }
            | CommandKind::Redeem { .. } => Class::Player,
            // The operator can pay out in a paused realm.
            CommandKind::Withdraw { .. } => match &self.realm {
                Some(realm) if realm.roles.operator == command.actor => Class::Operator,
                _ => Class::Player,
            },
            CommandKind::Deposit { .. }
            | CommandKind::ReviewDecision { .. }
            | CommandKind::RegisterModel(_)
            | CommandKind::PromoteModel { .. }
            | CommandKind::RetireModel { .. }
            | CommandKind::SetPolicy(_)
            | CommandKind::Freeze { .. }
            | CommandKind::Unfreeze { .. }
            | CommandKind::Pause { .. }
            | CommandKind::Tick { .. } => Class::Operator,
            CommandKind::Verdict(_) => Class::Verifier,
            CommandKind::BatchSealed(_)
            | CommandKind::BatchCommitted(_)
            | CommandKind::BatchFinal { .. } => Class::Settler,
        }
    }
}

/// Whether the actor has the role that the command is for, and players' commands are taken.
#[inline]
fn may_act(realm: &Realm, class: Class, actor: &Account) -> Result<(), Code> {
    let role = match class {
        Class::Player | Class::Genesis => {
            return match realm.paused {
                true => Err(Code::Paused),
                false => Ok(()),
            };
        }
        Class::Operator => &realm.roles.operator,
        Class::Verifier => &realm.roles.verifier,
        Class::Settler => &realm.roles.settler,
    };
    match actor == role {
        true => Ok(()),
        false => Err(Code::NotAllowed),
    }
}

#[inline]
fn outcome_of(step: &Step<'_>, result: Applied) -> Outcome {
    let (code, subject, winner) = match result {
        Ok(subject) => (Code::Accepted, subject, None),
        Err(refusal) => (refusal.code, refusal.subject, refusal.winner),
    };
    Outcome {
        sequence: step.sequence,
        code,
        replayed: false,
        subject,
        winner,
    }
}

fn count(counts: &mut OutcomeCounts, outcome: &Outcome) {
    if outcome.replayed {
        counts.replayed += 1;
    } else if outcome.code == Code::Accepted {
        counts.accepted += 1;
    } else {
        counts.refused += 1;
    }
}
