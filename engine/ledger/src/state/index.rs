//! A hash index from keys to dense numbers, in shards, so that it never pauses to grow as a whole.
//!
//! The keys themselves lie where the numbers point. A slot keeps 32 bits of the key's hash: a shard that grows places its
//! slots again without looking at any key, which for 65,536 slots takes a fraction of a millisecond.
//!
//! The seed is fixed, since a ledger may use no randomness. Somebody who chooses ids or accounts so that they collide can
//! make their own realm slower; the gateway's rate limits bound by how much. Nothing is ever iterated.

use foldhash::quality::FixedState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

const SHARDS: usize = 256;
const SEED: u64 = 0x6b61_7261_742e_7631;

/// Hash of a key, made once and used for looking up and inserting.
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

    #[inline]
    fn tag(self) -> u32 {
        self.0 as u32
    }
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    tag: u32,
    number: u32,
}

impl Slot {
    /// Spreads the tag over 64 bits: the table uses the low and the topmost of them.
    #[inline]
    fn table_hash(tag: u32) -> u64 {
        u64::from(tag).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// Key hash to number; who calls compares the keys.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    shards: Vec<HashTable<Slot>>,
    length: usize,
}

impl Index {
    pub(crate) fn new() -> Index {
        Index {
            shards: (0..SHARDS).map(|_| HashTable::new()).collect(),
            length: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// The number whose key has this hash and `is_key` accepts.
    #[inline]
    pub(crate) fn find(&self, hash: KeyHash, mut is_key: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = hash.tag();
        self.shards
            .get(hash.shard())?
            .find(Slot::table_hash(tag), |slot| {
                slot.tag == tag && is_key(slot.number)
            })
            .map(|slot| slot.number)
    }

    /// Adds a number; its key must not be there.
    #[inline]
    pub(crate) fn insert(&mut self, hash: KeyHash, number: u32) {
        let tag = hash.tag();
        self.shards[hash.shard()].insert_unique(
            Slot::table_hash(tag),
            Slot { tag, number },
            |slot| Slot::table_hash(slot.tag),
        );
        self.length += 1;
    }

    /// Takes a number out; false when it is not there.
    #[inline]
    pub(crate) fn remove(&mut self, hash: KeyHash, number: u32) -> bool {
        let tag = hash.tag();
        let entry = self.shards[hash.shard()]
            .find_entry(Slot::table_hash(tag), |slot| slot.number == number);
        match entry {
            Ok(entry) => {
                entry.remove();
                self.length -= 1;
                true
            }
            Err(_) => false,
        }
    }
}
