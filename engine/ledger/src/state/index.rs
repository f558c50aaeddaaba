//! A hash index from keys to dense numbers, in shards, so that it never pauses to grow as a whole.
//!
//! The keys themselves lie where the numbers point. A slot is 8 bytes: 31 bits of the key's hash, a bit that says that it was
//! used, and the number. Slots are probed one after the other, so that looking for a new key and adding it mostly touch one
//! cache line. Nothing is taken out: a number that is no longer alive leaves a slot that the next key may use, and a shard
//! that has used 5/8 of its slots is built again from those alive, twice to four times as large as they are. A rebuild looks
//! at no key and costs a fraction of a millisecond for 65,536 slots.
//!
//! The seed is fixed, since a ledger may use no randomness. Somebody who chooses ids or accounts so that they collide can
//! make their own realm slower; the gateway's rate limits bound by how much. Nothing is ever iterated for output.

use crate::look_ahead::prefetch;
use foldhash::quality::FixedState;
use std::hash::BuildHasher;

const SHARDS: usize = 256;
const SLOTS_MIN: usize = 16;
const SEED: u64 = 0x6b61_7261_742e_7631;
/// Set in every slot that was used; an empty slot is 0.
const USED: u64 = 1 << 63;

/// Hash of a key, made once and used for looking up and adding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyHash(u64);

impl KeyHash {
    #[inline]
    pub(crate) fn of(key: &[u8]) -> KeyHash {
        KeyHash(FixedState::with_seed(SEED).hash_one(key))
    }

    #[inline]
    fn shard(self) -> usize {
        (self.0 >> 56) as usize % SHARDS
    }

    /// The upper half of the key's slot.
    #[inline]
    fn tag(self) -> u64 {
        (self.0 << 32) | USED
    }
}

const NUMBER: u64 = u32::MAX as u64;
const TAG: u64 = !NUMBER;

/// Where a slot would like to lie among `slots`, a power of two.
#[inline]
fn home(slot: u64, slots: usize) -> usize {
    (slot >> 32) as usize & (slots - 1)
}

#[derive(Clone, Debug)]
struct Shard {
    slots: Vec<u64>,
    used: usize,
}

/// Key hash to number; who calls compares the keys, and says which numbers are alive.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    shards: Vec<Shard>,
}

impl Index {
    pub(crate) fn new() -> Index {
        let empty = || Shard {
            slots: vec![0; SLOTS_MIN],
            used: 0,
        };
        Index {
            shards: (0..SHARDS).map(|_| empty()).collect(),
        }
    }

    /// The number whose key has this hash and `is_key` accepts; `is_key` refuses numbers that are not alive.
    #[inline]
    pub(crate) fn find(&self, hash: KeyHash, mut is_key: impl FnMut(u32) -> bool) -> Option<u32> {
        let slots = self.shards[hash.shard()].slots.as_slice();
        let tag = hash.tag();
        let mut place = home(tag, slots.len());
        // A shard always has empty slots, so this ends.
        loop {
            let slot = slots[place];
            if slot == 0 {
                return None;
            }
            let number = (slot & NUMBER) as u32;
            if slot & TAG == tag && is_key(number) {
                return Some(number);
            }
            place = (place + 1) & (slots.len() - 1);
        }
    }

    /// Asks for the cache line in which the key's slot most likely lies.
    #[inline]
    pub(crate) fn prefetch(&self, hash: KeyHash) {
        let slots = self.shards[hash.shard()].slots.as_slice();
        prefetch(&slots[home(hash.tag(), slots.len())]);
    }

    /// The number in the first slot from the key's home with its hash, which most likely is the key's.
    #[inline]
    pub(crate) fn guess(&self, hash: KeyHash) -> Option<u32> {
        self.find(hash, |_| true)
    }

    /// Adds a number whose key is not there.
    #[inline]
    pub(crate) fn insert(&mut self, hash: KeyHash, number: u32, is_alive: impl Fn(u32) -> bool) {
        let shard = &mut self.shards[hash.shard()];
        if shard.used * 8 >= shard.slots.len() * 5 {
            shard.rebuild(&is_alive);
        }
        let place = shard.place(hash.tag() | u64::from(number), &is_alive);
        shard.used += usize::from(shard.slots[place] == 0);
        shard.slots[place] = hash.tag() | u64::from(number);
    }

    /// How many numbers are alive in it; looks at every slot.
    pub(crate) fn count(&self, is_alive: impl Fn(u32) -> bool) -> usize {
        let slots = self.shards.iter().flat_map(|shard| &shard.slots);
        slots
            .filter(|slot| **slot != 0 && is_alive((**slot & NUMBER) as u32))
            .count()
    }
}

impl Shard {
    /// The first place from the slot's home that is free to use.
    #[inline]
    fn place(&self, slot: u64, is_alive: &impl Fn(u32) -> bool) -> usize {
        let slots = self.slots.as_slice();
        let mut place = home(slot, slots.len());
        while slots[place] != 0 && is_alive((slots[place] & NUMBER) as u32) {
            place = (place + 1) & (slots.len() - 1);
        }
        place
    }

    #[cold]
    fn rebuild(&mut self, is_alive: &impl Fn(u32) -> bool) {
        let old = std::mem::take(&mut self.slots);
        let alive = |slot: &&u64| **slot != 0 && is_alive((**slot & NUMBER) as u32);
        self.used = old.iter().filter(alive).count();
        self.slots = vec![0; (self.used * 2 + 1).next_power_of_two().max(SLOTS_MIN)];
        for slot in old.iter().filter(alive) {
            let mut place = home(*slot, self.slots.len());
            while self.slots[place] != 0 {
                place = (place + 1) & (self.slots.len() - 1);
            }
            self.slots[place] = *slot;
        }
    }
}
