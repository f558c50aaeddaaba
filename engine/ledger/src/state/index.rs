//! A hash index from keys to dense numbers, in shards, so that it never pauses to grow as a whole.
//!
//! The keys themselves lie where the numbers point. A slot is 8 bytes: 31 bits of the key's hash, a bit that says that it was
//! used, and the number. Slots are probed one after the other, so that looking for a new key and adding it mostly touch one
//! cache line. Nothing is taken out: a number that is no longer alive leaves a slot that the next key may use, and a shard
//! that has used 5/8 of its slots is built again from those alive, two and a half to five times as large as they are. A
//! rebuild looks at no key and costs a fraction of a millisecond for 65,536 slots.
//!
//! The seed is fixed, since a ledger may use no randomness. Somebody who chooses ids or accounts so that they collide can
//! make their own realm slower; the gateway's rate limits bound by how much. Nothing is ever iterated for output.

use crate::look_ahead::prefetch;
use karat_proto::{Account, CommandId};

const SHARDS: usize = 256;
const SLOTS_MIN: usize = 16;
/// Set in every slot that was used; an empty slot is 0.
const USED: u64 = 1 << 63;

/// Hash of a key, made once and used for looking up and adding.
///
/// Keys have one of two lengths, so each has its own few multiplications: a hasher for any length costs six times as much,
/// and a command hashes some seven keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyHash(u64);

impl KeyHash {
    #[inline]
    pub(crate) fn of_id(id: &CommandId) -> KeyHash {
        let [words @ .., _] = words(&id.0);
        KeyHash(fold(of_words(words), FACTOR))
    }

    #[inline]
    pub(crate) fn of_account(account: &Account) -> KeyHash {
        let [first, second, third] = words(&account.0);
        KeyHash(fold(of_words([first, second]) ^ third, FACTOR))
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

// Digits of pi, and the odd number next to 2^64 over the golden ratio: any with no pattern will do.
const SEEDS: [u64; 2] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344];
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// A key of 16 to 24 bytes as numbers; what is missing of the third is 0.
#[inline]
fn words<const LENGTH: usize>(key: &[u8; LENGTH]) -> [u64; 3] {
    const { assert!(LENGTH >= 16 && LENGTH <= 24) };
    let mut bytes = [0; 24];
    bytes[..LENGTH].copy_from_slice(key);
    let (words, _) = bytes.as_chunks();
    [0, 1, 2].map(|place: usize| u64::from_le_bytes(words[place]))
}

#[inline]
fn of_words([first, second]: [u64; 2]) -> u64 {
    fold(first ^ SEEDS[0], second ^ SEEDS[1])
}

/// The two halves of a product, each of which has what the other one lacks: the middle of the product depends on most bits.
#[inline]
fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    product as u64 ^ (product >> 64) as u64
}

const NUMBER: u64 = u32::MAX as u64;
const TAG: u64 = !NUMBER;

/// Where a slot would like to lie among `slots`, a power of two.
#[inline]
fn home(slot: u64, slots: usize) -> usize {
    (slot >> 32) as usize & (slots - 1)
}

/// The place after this one among `slots`, a power of two.
#[inline]
fn after(place: usize, slots: usize) -> usize {
    place.wrapping_add(1) & (slots - 1)
}

#[derive(Clone, Debug)]
struct Shard {
    slots: Box<[u64]>,
    /// Empty slots that may still be used before it is built again.
    room: usize,
}

/// Where a key that is not there may be put; no other key may be put in between.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vacancy {
    hash: KeyHash,
    place: usize,
}

/// Key hash to number; who calls compares the keys, and says which numbers are alive.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    shards: Box<[Shard; SHARDS]>,
}

impl Index {
    pub(crate) fn new() -> Index {
        Index {
            shards: Box::new(std::array::from_fn(|_| Shard::with_slots(SLOTS_MIN))),
        }
    }

    /// The number whose key has this hash and `is_key` accepts; `is_key` refuses numbers that are not alive.
    #[inline]
    pub(crate) fn find(&self, hash: KeyHash, is_key: impl Fn(u32) -> bool) -> Option<u32> {
        self.find_or_vacancy(hash, is_key, |_| true).ok()
    }

    /// The same, or where the key may be put: the first place from its home that is empty or holds a number that is not
    /// alive.
    #[inline]
    pub(crate) fn find_or_vacancy(
        &self,
        hash: KeyHash,
        is_key: impl Fn(u32) -> bool,
        is_alive: impl Fn(u32) -> bool,
    ) -> Result<u32, Vacancy> {
        let slots = &*self.shards[hash.shard()].slots;
        let tag = hash.tag();
        let mut place = home(tag, slots.len());
        // A shard always has empty slots, so this ends.
        while slots[place] != 0 {
            let number = (slots[place] & NUMBER) as u32;
            if slots[place] & TAG == tag && is_key(number) {
                return Ok(number);
            }
            place = after(place, slots.len());
        }
        let mut free = home(tag, slots.len());
        while free != place && is_alive((slots[free] & NUMBER) as u32) {
            free = after(free, slots.len());
        }
        Err(Vacancy { hash, place: free })
    }

    /// Asks for the cache line in which the key's slot most likely lies.
    #[inline]
    pub(crate) fn prefetch(&self, hash: KeyHash) {
        let slots = &*self.shards[hash.shard()].slots;
        prefetch(&slots[home(hash.tag(), slots.len())]);
    }

    /// The number in the first slot from the key's home with its hash, which most likely is the key's.
    #[inline]
    pub(crate) fn guess(&self, hash: KeyHash) -> Option<u32> {
        self.find(hash, |_| true)
    }

    /// Puts a number where its key was not found.
    #[inline]
    pub(crate) fn fill(&mut self, vacancy: Vacancy, number: u32, is_alive: impl Fn(u32) -> bool) {
        let Vacancy { hash, mut place } = vacancy;
        let shard = &mut self.shards[hash.shard()];
        if shard.room == 0 {
            shard.rebuild(&is_alive);
            place = shard.empty_place(hash.tag());
        }
        let slot = &mut shard.slots[place];
        shard.room -= usize::from(*slot == 0);
        *slot = hash.tag() | u64::from(number);
    }

    /// Frees it shard by shard, and calls `between` after each.
    pub(crate) fn free(self, between: &mut dyn FnMut()) {
        for shard in *self.shards {
            drop(shard);
            between();
        }
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
    /// An empty one with so many slots, a power of two that 8 divides.
    fn with_slots(slots: usize) -> Shard {
        Shard {
            slots: vec![0; slots].into_boxed_slice(),
            room: slots / 8 * 5,
        }
    }

    /// The first empty place from the slot's home.
    #[inline]
    fn empty_place(&self, slot: u64) -> usize {
        let mut place = home(slot, self.slots.len());
        while self.slots[place] != 0 {
            place = after(place, self.slots.len());
        }
        place
    }

    #[cold]
    fn rebuild(&mut self, is_alive: &impl Fn(u32) -> bool) {
        let alive = |slot: &&u64| **slot != 0 && is_alive((**slot & NUMBER) as u32);
        let used = self.slots.iter().filter(alive).count();
        let slots = (used * 5 / 2).next_power_of_two().max(SLOTS_MIN);
        let mut new = Shard::with_slots(slots);
        new.room -= used;
        for slot in self.slots.iter().filter(alive) {
            let place = new.empty_place(*slot);
            new.slots[place] = *slot;
        }
        *self = new;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// How many slots beyond its home a number lies, for the worst of these keys, when all are put in.
    fn farthest(hashes: &[KeyHash]) -> usize {
        let mut index = Index::new();
        for (number, hash) in (0_u32..).zip(hashes) {
            let found = index.find_or_vacancy(*hash, |other| other == number, |_| true);
            index.fill(found.unwrap_err(), number, |_| true);
        }
        let far = (0_u32..).zip(hashes).map(|(number, hash)| {
            let slots = &index.shards[hash.shard()].slots;
            let slot = hash.tag() | u64::from(number);
            let place = slots.iter().position(|other| *other == slot).unwrap();
            place.wrapping_sub(home(slot, slots.len())) & (slots.len() - 1)
        });
        far.max().unwrap_or(0)
    }

    #[test]
    fn keys_that_count_up_lie_near_their_homes() {
        let counted: [fn(u64) -> u128; 4] = [
            |number| number.into(),
            |number| u128::from(number).swap_bytes(),
            |number| u128::from(number) << 64,
            |number| u128::from(number).wrapping_mul(0x1_0001_0001),
        ];
        for make in counted {
            let keys: Vec<u128> = (1..=50_000).map(make).collect();
            let ids: Vec<_> = keys
                .iter()
                .map(|key| KeyHash::of_id(&CommandId(key.to_le_bytes())))
                .collect();
            assert!(farthest(&ids) < 64, "{}", farthest(&ids));
            for at in [0, 4] {
                let accounts: Vec<_> = keys
                    .iter()
                    .map(|key| {
                        let mut account = [7; 20];
                        account[at..at + 16].copy_from_slice(&key.to_le_bytes());
                        KeyHash::of_account(&Account(account))
                    })
                    .collect();
                assert!(farthest(&accounts) < 64, "{}", farthest(&accounts));
            }
        }
    }

    #[test]
    fn every_bit_of_a_key_counts() {
        let mut seen = BTreeSet::new();
        let flip = |bytes: &mut [u8], bit: usize| bytes[bit / 8] ^= 1 << (bit % 8);
        for bit in 0..128 {
            let mut id = [0x5a; 16];
            flip(&mut id, bit);
            assert!(seen.insert(KeyHash::of_id(&CommandId(id)).0), "bit {bit}");
        }
        for bit in 0..160 {
            let mut account = [0x5a; 20];
            flip(&mut account, bit);
            let hash = KeyHash::of_account(&Account(account)).0;
            assert!(seen.insert(hash), "bit {bit}");
        }
    }

    #[test]
    fn numbers_that_died_make_room_and_those_alive_are_found() {
        let hash = |number: u32| KeyHash::of_id(&CommandId(u128::from(number).to_le_bytes()));
        let mut index = Index::new();
        let window = 3_000;
        for number in 0..100_000_u32 {
            let is_alive = |other: u32| other + window >= number;
            let found = index.find_or_vacancy(hash(number), |other| other == number, is_alive);
            index.fill(found.unwrap_err(), number, is_alive);
            let oldest = number.saturating_sub(window);
            let found = index.find(hash(oldest), |other| other == oldest);
            assert_eq!(found, Some(oldest));
        }
        assert_eq!(
            index.count(|other| other + window >= 99_999),
            window as usize + 1
        );
        let slots: usize = index.shards.iter().map(|shard| shard.slots.len()).sum();
        assert!(slots <= 8 * window as usize, "{slots} slots");
    }
}
