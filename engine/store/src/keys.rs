//! How rows are found in one ordered key space: a letter for the kind, then numbers in big-endian, so that keys sort as
//! their numbers do.
//!
//! Everything is in one key space on purpose: it has one write buffer to bound, and one order of persistence, so rows
//! and position cannot come apart in a power cut.

use std::ops::Bound;

use crate::{Account, ModelDigest};

/// One longer than the longest key, a model's: see [`Key::end`].
const KEY_BYTES_MAX: usize = 34;

/// A key, or the beginning of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    bytes: [u8; KEY_BYTES_MAX],
    length: usize,
}

impl Key {
    fn new(kind: u8) -> Self {
        let mut bytes = [0; KEY_BYTES_MAX];
        bytes[0] = kind;
        Self { bytes, length: 1 }
    }

    fn then(mut self, part: &[u8]) -> Self {
        let end = self.length + part.len();
        self.bytes[self.length..end].copy_from_slice(part);
        self.length = end;
        self
    }

    /// The position that the rows are at.
    pub fn position() -> Self {
        Self::new(b'!')
    }

    pub fn asset(asset: u64) -> Self {
        Self::new(b'A').then(&asset.to_be_bytes())
    }

    pub fn histories(asset: u64) -> Self {
        Self::new(b'H').then(&asset.to_be_bytes())
    }

    pub fn history(asset: u64, sequence: u64, index: u16) -> Self {
        Self::histories(asset)
            .then(&sequence.to_be_bytes())
            .then(&index.to_be_bytes())
    }

    pub fn owned_by(owner: &Account) -> Self {
        Self::new(b'O').then(owner)
    }

    pub fn owned(owner: &Account, asset: u64) -> Self {
        Self::owned_by(owner).then(&asset.to_be_bytes())
    }

    pub fn members(collection: u32) -> Self {
        Self::new(b'I').then(&collection.to_be_bytes())
    }

    pub fn member(collection: u32, asset: u64) -> Self {
        Self::members(collection).then(&asset.to_be_bytes())
    }

    pub fn collections() -> Self {
        Self::new(b'C')
    }

    pub fn collection(collection: u32) -> Self {
        Self::collections().then(&collection.to_be_bytes())
    }

    pub fn batches() -> Self {
        Self::new(b'B')
    }

    pub fn batch(batch: u64) -> Self {
        Self::batches().then(&batch.to_be_bytes())
    }

    pub fn leaves(batch: u64) -> Self {
        Self::new(b'L').then(&batch.to_be_bytes())
    }

    pub fn leaf(batch: u64, asset: u64) -> Self {
        Self::leaves(batch).then(&asset.to_be_bytes())
    }

    pub fn asset_batch(asset: u64) -> Self {
        Self::new(b'P').then(&asset.to_be_bytes())
    }

    pub fn models() -> Self {
        Self::new(b'M')
    }

    pub fn model(digest: &ModelDigest) -> Self {
        Self::models().then(digest)
    }

    pub fn account(account: &Account) -> Self {
        Self::new(b'U').then(account)
    }

    /// Greater than every key that begins with this one: none is as long as this filled up with 0xff.
    fn end(mut self) -> Self {
        self.bytes[self.length..].fill(0xff);
        self.length = KEY_BYTES_MAX;
        self
    }

    /// The keys that begin with this one and come after `after`.
    pub fn range_after(self, after: Option<Self>) -> (Bound<Self>, Bound<Self>) {
        let from = after.map_or(Bound::Included(self), Bound::Excluded);
        (from, Bound::Excluded(self.end()))
    }

    /// The keys that begin with this one and come before `before`.
    pub fn range_before(self, before: Option<Self>) -> (Bound<Self>, Bound<Self>) {
        (
            Bound::Included(self),
            Bound::Excluded(before.unwrap_or(self.end())),
        )
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_ref().cmp(other.as_ref())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_of_one_kind_lies_in_the_range_of_another() {
        let greatest = [0xff; 32];
        let keys = [
            (
                Key::histories(u64::MAX),
                Key::history(u64::MAX, u64::MAX, u16::MAX),
            ),
            (
                Key::owned_by(&[0xff; 20]),
                Key::owned(&[0xff; 20], u64::MAX),
            ),
            (Key::members(u32::MAX), Key::member(u32::MAX, u64::MAX)),
            (Key::collections(), Key::collection(u32::MAX)),
            (Key::batches(), Key::batch(u64::MAX)),
            (Key::leaves(u64::MAX), Key::leaf(u64::MAX, u64::MAX)),
            (Key::models(), Key::model(&greatest)),
        ];
        let others = [
            Key::position(),
            Key::asset(u64::MAX),
            Key::asset_batch(0),
            Key::account(&[0xff; 20]),
        ];
        for (number, (prefix, key)) in keys.iter().enumerate() {
            let (from, to) = prefix.range_after(None);
            let inside = |key: &Key| std::ops::RangeBounds::contains(&(from, to), key);
            assert!(inside(key));
            for (other, (_, key)) in keys.iter().enumerate() {
                assert_eq!(inside(key), other == number);
            }
            assert!(!others.iter().any(inside));
        }
    }
}
