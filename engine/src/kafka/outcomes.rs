//! What becomes of commands from a topic, so far as their dead letters need it: over a change of leaders, and in order.

use std::collections::{BTreeMap, HashMap};

use karat_ledger::Ledger;
use karat_proto::command::{BodyHash, Command};
use karat_proto::event::Outcome;
use karat_proto::{Code, CommandId};

/// So many of the last outcomes are looked through for dead letters that a leader before may not have written: what a leader
/// has in flight (16 batches of 1,024) and some ten thousand commands of a quarter of a second at full load. About 100 bytes
/// each, 13 MB, kept by a leader that finds letters missing.
const OUTCOMES_MAX: usize = 131_072;

/// What became of the last commands before this engine led.
#[derive(Default)]
pub(crate) struct Before(HashMap<CommandId, (BodyHash, Outcome)>);

impl Before {
    /// Asks the ledger that this engine leads with.
    pub(crate) fn of(ledger: &Ledger) -> Before {
        let newest = ledger.newest_outcomes().take(OUTCOMES_MAX);
        Before(
            newest
                .map(|(id, body, outcome)| (id, (body, outcome)))
                .collect(),
        )
    }

    /// The outcome of a command that a leader before took: `Err` with the code for one whose outcome is not among the last.
    pub(crate) fn outcome(&self, command: &Command) -> Result<Outcome, Code> {
        match self.0.get(&command.id) {
            None => Err(Code::Unavailable),
            Some((body, _)) if *body != command.body_hash => Err(Code::IdReused),
            Some((_, outcome)) => Ok(*outcome),
        }
    }
}

/// The next offset to read of each partition.
pub(super) type Places = BTreeMap<i32, i64>;

/// Up to where every message has its outcome, and every dead letter is handed over. Batches end in any order.
#[derive(Default)]
pub(super) struct Done {
    begun: u64,
    next: u64,
    ended: BTreeMap<u64, Places>,
    upto: Places,
}

impl Done {
    /// Begins behind messages that need nothing more.
    pub(super) fn behind(upto: Places) -> Done {
        Done {
            upto,
            ..Done::default()
        }
    }

    /// A number for the next batch.
    pub(super) fn begin(&mut self) -> u64 {
        self.begun += 1;
        self.begun - 1
    }

    /// The batch with this number has its outcomes.
    pub(super) fn end(&mut self, number: u64, places: Places) {
        self.ended.insert(number, places);
        while let Some(places) = self.ended.remove(&self.next) {
            self.upto.extend(places);
            self.next += 1;
        }
    }

    /// A single message that a leader before had taken.
    pub(super) fn pass(&mut self, (partition, offset): (i32, i64)) {
        self.upto.insert(partition, offset + 1);
    }

    pub(super) fn upto(&self) -> &Places {
        &self.upto
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_counts_when_those_before_it_have_ended() {
        let mut done = Done::behind([(0, 5), (1, 7)].into());
        let (first, second, third) = (done.begin(), done.begin(), done.begin());
        done.end(second, [(0, 20)].into());
        assert_eq!(*done.upto(), [(0, 5), (1, 7)].into());
        done.end(first, [(0, 10), (1, 8)].into());
        assert_eq!(*done.upto(), [(0, 20), (1, 8)].into());
        done.end(third, [(0, 30)].into());
        assert_eq!(*done.upto(), [(0, 30), (1, 8)].into());
        done.pass((1, 8));
        assert_eq!(*done.upto(), [(0, 30), (1, 9)].into());
    }
}
