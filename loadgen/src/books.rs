//! Double-entry for commands: each is entered before it is sent and crossed out by its one outcome.

use std::collections::{HashMap, VecDeque};

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::scenario::Effect;

/// Problems that are written out; more are only counted.
const NAMED_MAX: usize = 100;

/// 48 bits of number hold nine years at a million a second.
const NUMBER_BITS: u32 = 48;
const NUMBERS: u64 = (1 << NUMBER_BITS) - 1;

/// A command's place in its run: its stream, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u64);

impl Place {
    /// Of the command with this number on its stream, from 0 on.
    pub fn new(stream: u16, number: u64) -> Place {
        Place(u64::from(stream) << NUMBER_BITS | number & NUMBERS)
    }

    /// The stream.
    pub fn stream(self) -> u16 {
        (self.0 >> NUMBER_BITS) as u16
    }

    /// The command's number on its stream.
    pub fn number(self) -> u64 {
        self.0 & NUMBERS
    }

    /// The command's id: the run and the place, so that an outcome leads back to its entry without a search. Different
    /// runs never share an id.
    pub fn id(self, run: u64) -> [u8; 16] {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&run.to_be_bytes());
        id[8..].copy_from_slice(&self.0.to_be_bytes());
        id
    }

    /// As a number, which [`Place::from_bits`] reads.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// From the number that [`Place::to_bits`] made.
    pub fn from_bits(bits: u64) -> Place {
        Place(bits)
    }
}

/// The id of the command with this number on a stream of a run.
pub fn command_id(run: u64, stream: u16, number: u64) -> [u8; 16] {
    Place::new(stream, number).id(run)
}

/// The number in the id of a command of a run, whatever its stream.
pub fn number_in(id: &[u8]) -> u64 {
    let low = id.last_chunk().map_or(0, |low| u64::from_be_bytes(*low));
    Place(low).number()
}

/// What is wrong with a run's books.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problems {
    /// How many problems there are.
    pub count: u64,
    /// The first hundred, each naming its command, asset or account.
    pub named: Vec<String>,
}

impl Problems {
    /// Notes one.
    pub fn note(&mut self, problem: impl FnOnce() -> String) {
        self.count += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(problem());
        }
    }
}

/// Numbers that must not come twice: a set of bits, 512 bytes for each 4,096 numbers near each other.
#[derive(Default)]
pub struct Numbers {
    pages: HashMap<u64, Box<[u64; 64]>>,
}

impl Numbers {
    /// Whether `number` is new.
    pub fn insert(&mut self, number: u64) -> bool {
        let page = self
            .pages
            .entry(number >> 12)
            .or_insert_with(|| Box::new([0; 64]));
        let (word, bit) = ((number >> 6 & 63) as usize, 1 << (number & 63));
        let new = page[word] & bit == 0;
        page[word] |= bit;
        new
    }
}

/// A command that waits for its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it was meant to be sent, nanoseconds since the run's start.
    pub intended_ns: u64,
    /// What it changes if accepted.
    pub effect: Effect,
    /// Fingerprint of that, as its events must have it.
    pub changes: u64,
    /// Place of its ack level in the plan.
    pub level: u8,
}

/// The commands of one stream.
pub struct Books {
    run: u64,
    stream: u16,
    /// Number of the first entry in `open`; all before it are answered.
    first: u64,
    open: VecDeque<Option<Entry>>,
    waiting: u64,
}

impl Books {
    /// Empty ones.
    pub fn new(run: u64, stream: u16) -> Books {
        Books {
            run,
            stream,
            first: 0,
            open: VecDeque::new(),
            waiting: 0,
        }
    }

    /// Ids of the next `count` commands, one after another, 16 bytes each.
    pub fn next_ids(&self, count: u64) -> Bytes {
        let next = self.first + self.open.len() as u64;
        let mut ids = BytesMut::with_capacity(16 * count as usize);
        for number in next..next + count {
            ids.extend_from_slice(&command_id(self.run, self.stream, number));
        }
        ids.freeze()
    }

    /// Enters the command that has the next id.
    pub fn enter(&mut self, entry: Entry) {
        self.open.push_back(Some(entry));
        self.waiting += 1;
    }

    /// Commands without an outcome.
    pub fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Commands entered so far.
    pub fn entered(&self) -> u64 {
        self.first + self.open.len() as u64
    }

    /// Crosses out the command that an outcome is for, and returns its place with it. `None` when there is none to cross out:
    /// the problem is noted.
    pub fn answer(&mut self, id: &[u8], problems: &mut Problems) -> Option<(Place, Entry)> {
        let Some(number) = self.number(id) else {
            problems.note(|| format!("outcome for {}: this stream never sent it", hex::encode(id)));
            return None;
        };
        let entry = number
            .checked_sub(self.first)
            .and_then(|place| self.open.get_mut(place as usize)?.take());
        if entry.is_none() {
            problems.note(|| format!("command {}: a second outcome", hex::encode(id)));
            return None;
        }
        self.waiting -= 1;
        while let Some(None) = self.open.front() {
            self.open.pop_front();
            self.first += 1;
        }
        entry.map(|entry| (Place::new(self.stream, number), entry))
    }

    /// Notes every command that still waits, and returns their places.
    pub fn close(&self, problems: &mut Problems) -> Vec<(Place, Entry)> {
        let mut unanswered = Vec::new();
        for (place, entry) in self.open.iter().enumerate() {
            if let Some(entry) = entry {
                let place = Place::new(self.stream, self.first + place as u64);
                let id = place.id(self.run);
                let kind = entry.effect.kind().name();
                problems.note(|| format!("command {} ({kind}): no outcome", hex::encode(id)));
                unanswered.push((place, *entry));
            }
        }
        unanswered
    }

    /// The number in an id that this stream sent.
    fn number(&self, id: &[u8]) -> Option<u64> {
        let id: [u8; 16] = id.try_into().ok()?;
        let low = number_in(&id);
        (id == command_id(self.run, self.stream, low) && low < self.entered()).then_some(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(count: u64) -> (Books, Vec<[u8; 16]>) {
        let mut books = Books::new(7, 3);
        let ids = books.next_ids(count);
        for number in 0..count {
            books.enter(Entry {
                intended_ns: number,
                effect: Effect::Mint { owner: 0 },
                changes: number,
                level: 0,
            });
        }
        let ids = ids.chunks(16).map(|id| id.try_into().unwrap()).collect();
        (books, ids)
    }

    #[test]
    fn books_close_when_every_command_has_one_outcome_in_whatever_order() {
        let (mut books, ids) = books(5);
        let mut problems = Problems::default();
        for number in [3, 0, 4, 2, 1] {
            let (place, entry) = books.answer(&ids[number], &mut problems).unwrap();
            assert_eq!(entry.intended_ns, number as u64);
            assert_eq!(place, Place::new(3, number as u64));
        }
        books.close(&mut problems);
        assert_eq!(problems, Problems::default());
        assert_eq!((books.waiting(), books.entered()), (0, 5));
    }

    #[test]
    fn a_lost_outcome_is_named() {
        let (mut books, ids) = books(5);
        let mut problems = Problems::default();
        for number in [0, 1, 3, 4] {
            books.answer(&ids[number], &mut problems).unwrap();
        }
        let unanswered = books.close(&mut problems);
        assert_eq!((unanswered.len(), unanswered[0].1.changes), (1, 2));
        assert_eq!(problems.count, 1);
        assert!(problems.named[0].contains(&hex::encode(ids[2])));
        assert!(problems.named[0].contains("no outcome"));
    }

    #[test]
    fn a_doubled_outcome_is_named_whether_its_entry_is_still_kept_or_not() {
        let (mut books, ids) = books(5);
        let mut problems = Problems::default();
        for number in [0, 0, 2, 2, 1, 3, 4, 4] {
            books.answer(&ids[number], &mut problems);
        }
        books.close(&mut problems);
        assert_eq!(problems.count, 3);
        for (problem, number) in problems.named.iter().zip([0, 2, 4]) {
            assert!(problem.contains(&hex::encode(ids[number])), "{problem}");
            assert!(problem.contains("second outcome"), "{problem}");
        }
    }

    #[test]
    fn an_outcome_for_what_was_never_sent_is_named() {
        let (mut books, ids) = books(1);
        let mut problems = Problems::default();
        for stranger in [
            command_id(7, 3, 1),
            command_id(7, 2, 0),
            command_id(8, 3, 0),
        ] {
            assert_eq!(books.answer(&stranger, &mut problems), None);
        }
        assert_eq!(books.answer(&[1, 2, 3], &mut problems), None);
        assert_eq!(problems.count, 4);
        assert!(problems.named.iter().all(|one| one.contains("never sent")));
        assert!(books.answer(&ids[0], &mut problems).is_some());
    }

    #[test]
    fn a_number_that_comes_twice_is_seen() {
        let mut numbers = Numbers::default();
        for number in (0..100_000).rev().chain([u64::MAX, 1 << 40]) {
            assert!(numbers.insert(number));
        }
        assert!(!numbers.insert(64));
        assert!(!numbers.insert(1 << 40));
    }

    #[test]
    fn problems_beyond_the_hundredth_are_counted_only() {
        let (books, _) = books(250);
        let mut problems = Problems::default();
        books.close(&mut problems);
        assert_eq!((problems.count, problems.named.len()), (250, 100));
    }
}
