//! Retry memory: the first outcome of every command id, for as long as a retry may come.
//!
//! Entries lie in the order of their sequences, so that the oldest is always the first to go. An id is forgotten when both
//! hold: more than `policy.retry_window_commands` commands came after it, and its sequence is settled (see
//! [`crate::Ledger::settled_seq`]). At most [`FORGOTTEN_A_COMMAND_MAX`] are forgotten after one command, so that a batch
//! that settles millions of commands does not stop the realm for a second.
//!
//! An entry takes 56 bytes and its share of the index 20 to 40: about 85. The default window of 1,000,000 commands is 90 MB; a
//! full memory of [`RETRY_ENTRIES_MAX`] is 1.4 GB.

use crate::state::index::{Index, KeyHash, Vacancy};
use karat_proto::command::BodyHash;
use karat_proto::event::{Outcome, Winner};
use karat_proto::{Code, CommandId};
use std::collections::VecDeque;

/// Ids remembered at most before players' commands are refused.
pub const RETRY_ENTRIES_MAX: u64 = 16_000_000;
/// Ids remembered beyond that for the operator's and the verifier's commands. Past it they are refused as well; the
/// settler's commands and ticks are then applied without being remembered, since applying them again changes nothing (a
/// batch's steps go by number), and since settlement is what makes room.
pub const RETRY_ENTRIES_RESERVED: u64 = 1_000_000;
/// Ids forgotten after one command at most. A command adds one, so a backlog shrinks by three a command.
pub const FORGOTTEN_A_COMMAND_MAX: usize = 4;

/// Entries in a chunk of the memory, 224 KB.
const CHUNK: usize = 4096;

/// The first outcome of an id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) sequence: u64,
    pub(crate) subject: u64,
    pub(crate) id: CommandId,
    pub(crate) body_hash: BodyHash,
    pub(crate) code: Code,
}

/// What the memory says about an id.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seen {
    /// Nothing: the command is new (or long settled). Its id may be put here.
    Never(Vacancy),
    /// The same command was applied; this was its outcome.
    Before(Outcome),
    /// Another command was applied under the same id.
    WithAnotherBody,
}

/// Whether the entry with this number (its low 32 bits) is remembered, of `length` entries from `first` on. Dead numbers stay
/// in a shard of the index until its next rebuild, which comes long before 2^32 more entries make them look alive.
#[inline]
fn is_alive(number: u32, first: u32, length: u64) -> bool {
    u64::from(number.wrapping_sub(first)) < length
}

#[derive(Clone, Debug)]
pub(crate) struct Retries {
    /// Full chunks in order; the first entries of all, `gone` of them, are forgotten.
    full: VecDeque<Vec<Entry>>,
    /// The newest chunk.
    filling: Vec<Entry>,
    /// A chunk of which everything is forgotten, to be filled again: a realm that forgets as much as it remembers asks for no
    /// memory.
    spare: Vec<Entry>,
    gone: usize,
    /// Number of the oldest entry, counted since the realm began.
    first_number: u64,
    /// Sequence of the oldest entry; means nothing while there is none.
    oldest_sequence: u64,
    length: u64,
    index: Index,
    /// Winners that refusals named, in the order of the refusals' sequences. Few refusals name one, so entries do without.
    winners: VecDeque<(u64, Winner)>,
    pub(crate) entries_max: u64,
    pub(crate) entries_reserved: u64,
}

impl Retries {
    pub(crate) fn new(entries_max: u64, entries_reserved: u64) -> Retries {
        Retries {
            full: VecDeque::new(),
            filling: Vec::new(),
            spare: Vec::new(),
            gone: 0,
            first_number: 0,
            oldest_sequence: 0,
            length: 0,
            index: Index::new(),
            winners: VecDeque::new(),
            entries_max,
            entries_reserved,
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.length
    }

    /// Frees it in pieces, and calls `between` after each.
    pub(crate) fn free(self, between: &mut dyn FnMut()) {
        for chunk in self.full {
            drop(chunk);
            between();
        }
        self.index.free(between);
    }

    pub(crate) fn indexed(&self) -> usize {
        let (first, length) = (self.first_number as u32, self.length);
        self.index.count(|number| is_alive(number, first, length))
    }

    /// No room for another player's command.
    pub(crate) fn is_full(&self) -> bool {
        self.length >= self.entries_max
    }

    /// No room for anybody's.
    pub(crate) fn is_reserve_full(&self) -> bool {
        self.length >= self.entries_max.saturating_add(self.entries_reserved)
    }

    /// An entry by its number's low 32 bits; fewer than 2^32 are alive at a time.
    #[inline]
    fn entry(&self, low: u32) -> Option<&Entry> {
        self.entry_at(low.wrapping_sub(self.first_number as u32) as usize + self.gone)
    }

    /// An entry by its place among those that lie here, forgotten ones included.
    #[inline]
    fn entry_at(&self, place: usize) -> Option<&Entry> {
        let (chunk, place) = (place / CHUNK, place % CHUNK);
        match self.full.get(chunk) {
            Some(chunk) => chunk.get(place),
            None if chunk == self.full.len() => self.filling.get(place),
            None => None,
        }
    }

    #[inline]
    pub(crate) fn prefetch(&self, id: &CommandId) {
        self.index.prefetch(KeyHash::of_id(id));
    }

    #[inline]
    pub(crate) fn look_up(&self, id: &CommandId, body_hash: &BodyHash) -> Seen {
        let (first, length) = (self.first_number as u32, self.length);
        let found = self.index.find_or_vacancy(
            KeyHash::of_id(id),
            |number| self.is_of(number, id),
            |number| is_alive(number, first, length),
        );
        match found {
            Err(vacancy) => Seen::Never(vacancy),
            Ok(number) => self.seen(number, body_hash),
        }
    }

    /// Seldom asked: an id's slot and another one's differ in 31 bits of their hashes mostly.
    #[cold]
    fn is_of(&self, number: u32, id: &CommandId) -> bool {
        self.entry(number).is_some_and(|entry| entry.id == *id)
    }

    #[cold]
    fn seen(&self, number: u32, body_hash: &BodyHash) -> Seen {
        match self.entry(number) {
            Some(entry) if entry.body_hash == *body_hash => Seen::Before(Outcome {
                replayed: true,
                ..self.outcome(entry)
            }),
            _ => Seen::WithAnotherBody,
        }
    }

    /// The first outcome of an entry's command.
    #[inline]
    pub(crate) fn outcome(&self, entry: &Entry) -> Outcome {
        Outcome {
            sequence: entry.sequence,
            code: entry.code,
            replayed: false,
            subject: entry.subject,
            winner: self.winner(entry.sequence),
        }
    }

    fn winner(&self, sequence: u64) -> Option<Winner> {
        let place = self
            .winners
            .binary_search_by_key(&sequence, |(of, _)| *of)
            .ok()?;
        self.winners.get(place).map(|(_, winner)| *winner)
    }

    /// Remembers an outcome, whose id was looked up and not found.
    #[inline]
    pub(crate) fn remember(&mut self, vacancy: Vacancy, entry: Entry, winner: Option<Winner>) {
        let number = (self.first_number + self.length) as u32;
        if let Some(winner) = winner {
            self.winners.push_back((entry.sequence, winner));
        }
        if self.length == 0 {
            self.oldest_sequence = entry.sequence;
        }
        if self.filling.len().is_multiple_of(CHUNK) {
            self.begin_chunk();
        }
        self.filling.push(entry);
        let (first, length) = (self.first_number as u32, self.length);
        self.index
            .fill(vacancy, number, |other| is_alive(other, first, length));
        self.length += 1;
    }

    #[cold]
    fn begin_chunk(&mut self) {
        let mut chunk = std::mem::take(&mut self.spare);
        chunk.clear();
        chunk.reserve_exact(CHUNK);
        let full = std::mem::replace(&mut self.filling, chunk);
        if !full.is_empty() {
            self.full.push_back(full);
        }
    }

    /// Whether the oldest id has more than `window` commands after it: it is forgotten once it is settled.
    #[inline]
    pub(crate) fn is_past(&self, applied_seq: u64, window: u64) -> bool {
        self.length > 0 && applied_seq - self.oldest_sequence > window
    }

    /// Forgets ids from the oldest on: settled ones that have more than `window` commands after them.
    pub(crate) fn forget(&mut self, applied_seq: u64, settled_seq: u64, window: u64) {
        for _ in 0..FORGOTTEN_A_COMMAND_MAX {
            let sequence = self.oldest_sequence;
            if sequence > settled_seq || !self.is_past(applied_seq, window) {
                return;
            }
            while self.winners.front().is_some_and(|(of, _)| *of <= sequence) {
                self.winners.pop_front();
            }
            self.first_number += 1;
            self.length -= 1;
            self.gone += 1;
            if self.gone == CHUNK {
                // Only the newest chunk is left when no full one is, and then it is full itself.
                self.spare = match self.full.pop_front() {
                    Some(chunk) => chunk,
                    None => std::mem::take(&mut self.filling),
                };
                self.gone = 0;
            }
            if let Some(oldest) = self.entry_at(self.gone) {
                self.oldest_sequence = oldest.sequence;
            }
        }
    }

    /// Puts an entry of a snapshot back; they come in their order. False when its id is there.
    pub(crate) fn restore(&mut self, entry: Entry) -> bool {
        match self.look_up(&entry.id, &entry.body_hash) {
            Seen::Never(vacancy) => {
                self.remember(vacancy, entry, None);
                true
            }
            Seen::Before(_) | Seen::WithAnotherBody => false,
        }
    }

    /// Puts a winner of a snapshot back; they come in their order.
    pub(crate) fn restore_winner(&mut self, sequence: u64, winner: Winner) {
        self.winners.push_back((sequence, winner));
    }

    /// Entries from the oldest on.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        let chunks = self.full.iter().chain([&self.filling]);
        chunks.flatten().skip(self.gone)
    }

    /// Entries from the newest on.
    pub(crate) fn newest(&self) -> impl Iterator<Item = &Entry> {
        let chunks = [&self.filling].into_iter().chain(self.full.iter().rev());
        let reversed = chunks.flat_map(|chunk| chunk.iter().rev());
        reversed.take(self.length as usize)
    }

    pub(crate) fn winners(&self) -> &VecDeque<(u64, Winner)> {
        &self.winners
    }
}
