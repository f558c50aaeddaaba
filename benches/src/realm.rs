//! A ledger of a given size together with the workload that fits it.

use karat_ledger::{ApplyContext, Ledger};
use karat_proto::Code;
use karat_proto::command::Command;
use karat_proto::event::Event;

use crate::kind::Kind;
use crate::workload::Workload;

/// Of the assets of a new realm, one in this many is open for claims.
const UNOWNED_ONE_IN: usize = 4;
/// Commands that are applied between two settlements while a realm is built.
const BLOCK_COMMANDS: usize = 4096;

/// A ledger, and commands for it.
pub struct Realm {
    /// The ledger.
    pub ledger: Ledger,
    /// Makes commands that this ledger accepts.
    pub workload: Workload,
    events: Vec<Event>,
}

/// A realm's state, to go back to.
pub struct SavedRealm {
    snapshot: Vec<u8>,
    workload: Workload,
}

impl Realm {
    /// A realm with this many accounts, each with a balance, and this many live assets, a quarter of them open for claims.
    /// Everything in it is settled, but for the batch that is open.
    pub fn new(accounts: usize, assets: usize) -> Realm {
        let mut realm = Realm {
            ledger: Ledger::new(),
            workload: Workload::new(accounts as u64),
            events: Vec::with_capacity(256),
        };
        let opening = realm.workload.opening();
        for made in opening {
            realm.apply(&[made.command]);
        }
        realm.apply_many(accounts, |workload, number| {
            workload.first_deposit(number as u64).command
        });
        realm.apply_many(assets, |workload, number| {
            workload.make(Realm::kind_of_asset(number)).command
        });
        realm
    }

    /// How the asset with this number, from 0 on, is minted in a new realm.
    pub fn kind_of_asset(number: usize) -> Kind {
        match number % UNOWNED_ONE_IN {
            0 => Kind::MintUnowned,
            _ => Kind::MintOwned,
        }
    }

    fn apply_many(&mut self, count: usize, mut make: impl FnMut(&mut Workload, usize) -> Command) {
        let mut commands = Vec::with_capacity(BLOCK_COMMANDS);
        for number in 0..count {
            commands.push(make(&mut self.workload, number));
            if commands.len() == BLOCK_COMMANDS || number + 1 == count {
                self.apply(&commands);
                self.settle();
                commands.clear();
            }
        }
    }

    /// The next `count` commands of a kind, to be applied before any other.
    pub fn make(&mut self, kind: Kind, count: usize) -> Vec<Command> {
        (0..count)
            .map(|_| self.workload.make(kind).command)
            .collect()
    }

    /// Applies commands as the engine does with a block's: announced ahead, digest kept, events dropped.
    ///
    /// # Panics
    /// When one is refused: a refusal would be timed instead of the command.
    pub fn apply(&mut self, commands: &[Command]) {
        for (place, command) in commands.iter().enumerate() {
            self.ledger.look_ahead(commands, place);
            self.events.clear();
            apply_one(&mut self.ledger, command, &mut self.events);
        }
    }

    /// As [`Realm::apply`], keeping the events.
    pub fn apply_for_events(&mut self, commands: &[Command], events: &mut Vec<Event>) {
        for command in commands {
            apply_one(&mut self.ledger, command, events);
        }
    }

    /// Reports every batch that was cut as final, so that the retry memory keeps to its window.
    pub fn settle(&mut self) {
        let open: Vec<(u64, u32)> = self
            .ledger
            .open_batches()
            .map(|batch| (batch.number, batch.changes))
            .collect();
        for made in self.workload.settle(open) {
            self.apply(&[made.command]);
        }
    }

    /// The state as it is now.
    ///
    /// # Panics
    /// When the ledger cannot be written, which is not possible into memory.
    pub fn save(&self) -> SavedRealm {
        let mut snapshot = Vec::new();
        if let Err(error) = self.ledger.write_snapshot(&mut snapshot) {
            panic!("{error}");
        }
        SavedRealm {
            snapshot,
            workload: self.workload.clone(),
        }
    }
}

impl SavedRealm {
    /// The realm as it was saved.
    ///
    /// # Panics
    /// When the snapshot cannot be read back.
    pub fn restore(&self) -> Realm {
        match Ledger::read_snapshot(&mut self.snapshot.as_slice()) {
            Ok(ledger) => Realm {
                ledger,
                workload: self.workload.clone(),
                events: Vec::with_capacity(256),
            },
            Err(error) => panic!("{error}"),
        }
    }
}

/// A ledger that remembers so many ids, at least those of the opening, and holds nothing else: what the retry memory takes
/// by itself.
pub fn only_ids(ids: u64) -> Ledger {
    let mut workload = Workload::new(2);
    let mut ledger = Ledger::new();
    let mut events = Vec::new();
    let opening = workload.opening();
    let ticks = (opening.len() as u64..ids).map(|_| workload.tick());
    for made in opening.into_iter().chain(ticks) {
        events.clear();
        apply_one(&mut ledger, &made.command, &mut events);
    }
    ledger
}

#[inline]
fn apply_one(ledger: &mut Ledger, command: &Command, events: &mut Vec<Event>) {
    let sequence = ledger.applied_seq() + 1;
    let context = ApplyContext {
        sequence,
        time_ms: sequence / 1000,
        block_hash: &[9; 32],
    };
    let outcome = ledger.apply(&context, command, events);
    assert_eq!(outcome.code, Code::Accepted, "{command:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_every_kind_are_accepted_in_any_mixture() {
        let mut realm = Realm::new(50, 4000);
        for round in 0..5 {
            for kind in Kind::ALL {
                // Verdicts come before anything that ends an asset they would be about.
                if kind == Kind::Verdict && round > 0 {
                    continue;
                }
                let commands = realm.make(kind, 100);
                realm.apply(&commands);
                realm.settle();
            }
        }
        assert_eq!(realm.ledger.counts().refused, 0);
    }

    #[test]
    fn the_mixture_is_as_promised() {
        let mut realm = Realm::new(100, 4000);
        let before = (realm.ledger.counts().assets, realm.workload.unclaimed());
        let commands = realm.make(Kind::Mixed, 5000);
        realm.apply(&commands);
        let minted = realm.ledger.counts().assets - before.0;
        let claimed = before.1 + minted as usize - realm.workload.unclaimed();
        assert!((200..300).contains(&minted), "{minted} of 5,000 are mints");
        assert!(
            (425..575).contains(&claimed),
            "{claimed} of 5,000 are claims"
        );
    }

    #[test]
    fn a_restored_realm_takes_the_same_commands_to_the_same_digest() {
        let mut realm = Realm::new(100, 2000);
        let saved = realm.save();
        let mut restored = saved.restore();
        for realm in [&mut realm, &mut restored] {
            let commands = realm.make(Kind::Mixed, 500);
            realm.apply(&commands);
            realm.settle();
        }
        assert_eq!(realm.ledger.digest(), restored.ledger.digest());
    }
}
