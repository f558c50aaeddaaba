//! From events and dead letters back to the commands of a run.
//!
//! An event does not name its command. It says exactly what changed, and the fingerprint of that ([`changes`]) is looked
//! for among the commands that wait. Commands that ask for the very same change are of one stream, so they are in one
//! partition and applied in their order: the one that waits longest is meant. A dead letter holds its command.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use karat_proto::v1;
use karat_proto::v1::event::Kind;
use tokio::sync::Notify;

use super::topics::Answers;
use crate::args::Rate;
use crate::driver::Driver;
use crate::scenario::changes;

/// Commands that wait for their outcome, by what they would change.
#[derive(Default)]
pub(crate) struct Open {
    by_changes: HashMap<u64, VecDeque<Bytes>>,
}

impl Open {
    pub(super) fn enter(&mut self, changes: u64, id: &Bytes) {
        self.by_changes
            .entry(changes)
            .or_default()
            .push_back(id.clone());
    }

    /// The one that waits longest.
    fn take(&mut self, changes: u64) -> Option<Bytes> {
        let waiting = self.by_changes.get_mut(&changes)?;
        let first = waiting.pop_front();
        if waiting.is_empty() {
            self.by_changes.remove(&changes);
        }
        first
    }

    /// This one; if an event was already taken for its, one that asked for the same: the event was that one's.
    fn take_this(&mut self, changes: u64, id: &[u8]) -> Option<Bytes> {
        let waiting = self.by_changes.get_mut(&changes)?;
        let place = waiting.iter().position(|one| one == id).unwrap_or(0);
        let found = waiting.remove(place);
        if waiting.is_empty() {
            self.by_changes.remove(&changes);
        }
        found
    }
}

/// A dead letter of some command.
pub(super) struct Letter {
    /// Partition and offset of the command's message: a letter that is written a second time has the same.
    pub source: (i32, i64),
    pub code: u32,
    /// 0 for a command that never got one.
    pub sequence: u64,
    pub command: v1::Command,
}

/// What was read from the topics.
pub(super) enum Seen {
    Event(v1::Event),
    Letter(Letter),
    /// A topic cannot be read any more.
    Broken(String),
}

/// Makes outcomes of what is read.
pub(super) struct Outcomes {
    run: u64,
    open: Rc<RefCell<Open>>,
    /// Place of the last event: events at or before it were published again.
    last: (u64, u32),
    /// The command whose events are being read, and what they changed so far.
    sequence: u64,
    changes: u64,
    letters: HashSet<(i32, i64)>,
}

impl Outcomes {
    pub(super) fn new(run: u64, open: Rc<RefCell<Open>>) -> Outcomes {
        Outcomes {
            run,
            open,
            last: (0, 0),
            sequence: 0,
            changes: changes::NOTHING,
            letters: HashSet::new(),
        }
    }

    /// The acceptance of the run's command that an event completes.
    fn of_event(&mut self, event: &v1::Event) -> Option<v1::Outcome> {
        let place = (event.sequence, event.index);
        if place <= self.last {
            return None;
        }
        self.last = place;
        if event.sequence != self.sequence {
            self.sequence = event.sequence;
            self.changes = changes::NOTHING;
        }
        let kind = event.kind.as_ref()?;
        self.changes = changes::with_event(self.changes, kind)?;
        let (asked, subject) = match kind {
            // The number of a new asset is the event's alone.
            Kind::Minted(made) => (changes::of_mint(made)?, made.asset),
            _ => (self.changes, 0),
        };
        let id = self.open.borrow_mut().take(asked)?;
        Some(v1::Outcome {
            id,
            sequence: event.sequence,
            subject,
            ..v1::Outcome::default()
        })
    }

    /// The refusal in a dead letter, if its command is of this run.
    fn of_letter(&mut self, letter: Letter) -> Option<v1::Outcome> {
        let Letter {
            source,
            code,
            sequence,
            command,
        } = letter;
        if !command.id.starts_with(&self.run.to_be_bytes()) || !self.letters.insert(source) {
            return None;
        }
        let changes = command.kind.as_ref().map_or(changes::NOTHING, |kind| {
            changes::of_command(&command.actor, kind)
        });
        let id = self.open.borrow_mut().take_this(changes, &command.id);
        Some(v1::Outcome {
            // Without one that waits, the books say what is wrong.
            id: id.unwrap_or(command.id),
            sequence,
            code,
            ..v1::Outcome::default()
        })
    }
}

/// Takes the outcomes of every stream until the run ends.
pub(crate) async fn receive(
    driver: Rc<RefCell<Driver>>,
    mut answers: Answers,
    progress: Rc<Notify>,
) {
    let durable = v1::AckLevel::Durable.into();
    while let Some(seen) = answers.seen.recv().await {
        let mut driver = driver.borrow_mut();
        for one in seen {
            let outcome = match one {
                Seen::Event(event) => answers.outcomes.of_event(&event),
                Seen::Letter(letter) => answers.outcomes.of_letter(letter),
                Seen::Broken(cause) => {
                    driver.broke(0, cause);
                    None
                }
            };
            if let Some(outcome) = outcome {
                let stream = stream_of(&outcome.id);
                driver.take(stream, durable, &[outcome]);
            }
        }
        if driver.plan.rate == Rate::Max && !driver.ending {
            for stream in 0..driver.streams.len() {
                driver.fill(stream);
            }
        }
        if driver.ending {
            progress.notify_one();
        }
    }
    progress.notify_one();
}

/// The stream that sent a command of the run, by its id: see [`crate::books::command_id`].
fn stream_of(id: &[u8]) -> usize {
    match id {
        [_, _, _, _, _, _, _, _, high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::books::command_id;

    const RUN: u64 = 7;

    fn account(number: u8) -> Bytes {
        Bytes::from(vec![number; 20])
    }

    fn transfer(number: u64, asset: u64, to: u8) -> v1::Command {
        let kind = v1::command::Kind::Transfer(v1::Transfer {
            asset,
            version: 1,
            to: account(to),
        });
        v1::Command {
            id: Bytes::copy_from_slice(&command_id(RUN, 3, number)),
            actor: account(1),
            kind: Some(kind),
            ..v1::Command::default()
        }
    }

    fn transferred(sequence: u64, index: u32, asset: u64, to: u8) -> v1::Event {
        v1::Event {
            sequence,
            index,
            kind: Some(Kind::Transferred(v1::Transferred {
                asset,
                version: 1,
                from: account(1),
                to: account(to),
                cause: v1::TransferCause::Transfer.into(),
            })),
            ..v1::Event::default()
        }
    }

    fn letter(offset: i64, command: &v1::Command) -> Letter {
        Letter {
            source: (0, offset),
            code: 205,
            sequence: 40,
            command: command.clone(),
        }
    }

    fn waiting(commands: &[&v1::Command]) -> Outcomes {
        let open = Rc::new(RefCell::new(Open::default()));
        for command in commands {
            let kind = command.kind.as_ref().unwrap();
            let changes = changes::of_command(&command.actor, kind);
            open.borrow_mut().enter(changes, &command.id);
        }
        Outcomes::new(RUN, open)
    }

    #[test]
    fn an_event_leads_to_the_command_that_asked_for_it_and_the_same_change_to_the_older_one() {
        let (one, other, again) = (transfer(0, 5, 2), transfer(1, 6, 2), transfer(2, 5, 2));
        let mut outcomes = waiting(&[&one, &other, &again]);
        let mut id = |event: &v1::Event| outcomes.of_event(event).map(|outcome| outcome.id);
        assert_eq!(id(&transferred(10, 0, 6, 2)), Some(other.id));
        assert_eq!(id(&transferred(11, 0, 5, 2)), Some(one.id));
        assert_eq!(id(&transferred(12, 0, 99, 2)), None, "somebody else's");
        assert_eq!(id(&transferred(13, 0, 5, 2)), Some(again.id));
        assert_eq!(id(&transferred(14, 0, 5, 2)), None, "nobody asked again");
    }

    #[test]
    fn an_exchange_is_accepted_when_all_of_its_legs_are_there() {
        let leg = |asset, amount| v1::Leg {
            from: account(1),
            to: account(2),
            asset,
            version: 1,
            amount,
        };
        let kind = v1::command::Kind::Exchange(v1::Exchange {
            legs: vec![leg(5, 0), leg(0, 30)],
            ..v1::Exchange::default()
        });
        let exchange = v1::Command {
            kind: Some(kind),
            ..transfer(0, 0, 0)
        };
        let mut outcomes = waiting(&[&exchange]);
        let mut first = transferred(10, 0, 5, 2);
        if let Some(Kind::Transferred(one)) = &mut first.kind {
            one.cause = v1::TransferCause::Exchange.into();
        }
        assert_eq!(outcomes.of_event(&first), None);
        let paid = v1::Event {
            sequence: 10,
            index: 1,
            kind: Some(Kind::CurrencyMoved(v1::CurrencyMoved {
                from: account(1),
                to: account(2),
                amount: 30,
            })),
            ..v1::Event::default()
        };
        assert_eq!(
            outcomes.of_event(&paid).map(|one| one.id),
            Some(exchange.id)
        );
    }

    #[test]
    fn events_and_letters_that_are_published_again_are_taken_once() {
        let (one, other) = (transfer(0, 5, 2), transfer(1, 5, 2));
        let mut outcomes = waiting(&[&one, &other]);
        assert!(outcomes.of_event(&transferred(10, 0, 5, 2)).is_some());
        assert!(outcomes.of_event(&transferred(10, 0, 5, 2)).is_none());
        assert!(outcomes.of_letter(letter(3, &other)).is_some());
        assert!(outcomes.of_letter(letter(3, &other)).is_none());
    }

    #[test]
    fn a_letter_names_its_command_also_where_an_event_of_the_same_change_came_before_it() {
        let (refused, accepted) = (transfer(0, 5, 2), transfer(1, 5, 2));
        let mut outcomes = waiting(&[&refused, &accepted]);
        // The event is of the second one, and the first one waits longer: of two commands that ask for the same, one is
        // accepted and one is refused, and that is what comes out.
        let by_event = outcomes.of_event(&transferred(11, 0, 5, 2)).unwrap().id;
        let by_letter = outcomes.of_letter(letter(3, &refused)).unwrap().id;
        let mut answered = [by_event, by_letter];
        answered.sort();
        assert_eq!(answered, [refused.id, accepted.id]);
        let mut foreign = transfer(9, 5, 2);
        foreign.id = Bytes::copy_from_slice(&command_id(RUN + 1, 3, 9));
        assert!(outcomes.of_letter(letter(4, &foreign)).is_none());
    }
}
