//! Which asset of a collection looks most like a given one: a bounded index of codes.
//!
//! A look-up scans all codes. The first quarter of each is compared first, then the first half, by the sum of absolute
//! differences, of which a processor takes 16 assets at once: by Cauchy and Schwarz the sum of `k` differences is at most
//! `sqrt(k)` times the root of their sum of squares, so what is further than `sqrt(k * bound)` cannot be within the bound.
//! Nothing that is within it is ever missed.

use std::collections::HashMap;
use std::ops::Range;

use karat_edge_node::runtime::EMBEDDING_LENGTH;
use karat_proto::AssetId;

use super::embedding::{Code, distance_ppm, squared_steps_below};

const HALF: usize = EMBEDDING_LENGTH / 2;
const QUARTER: usize = EMBEDDING_LENGTH / 4;
/// Assets that are compared together.
const BLOCK: usize = 64;

/// First 16 bytes of a content digest: enough to tell two contents apart, and nobody who could make two of a kind by
/// design gains anything, since the finding sends the asset to people.
pub type ShortDigest = [u8; 16];

/// One asset of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which asset; never 0.
    pub asset: AssetId,
    /// Which version of it.
    pub version: u32,
    /// The asset that it was found to be like; 0 for none. It is not shown as a likeness to that one in turn.
    pub like: AssetId,
    /// Its content.
    pub content: ShortDigest,
    /// Its embedding.
    pub code: Code,
}

/// What was found near to an asset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Likeness {
    /// The other asset.
    pub asset: AssetId,
    /// Whether it has the very same content.
    pub same_content: bool,
    /// How far their embeddings are apart, millionths of a deviation.
    pub distance_ppm: u32,
}

/// The last assets of one collection, `most` of them: the one that came first makes room. A later version of an asset
/// takes the place of the earlier one.
#[derive(Debug)]
pub struct NearIndex {
    most: usize,
    /// Where the next asset goes once `most` are there.
    oldest: usize,
    blocks: Vec<Block>,
    rest: Vec<Rest>,
    by_asset: HashMap<AssetId, u32>,
    /// The first asset with a content. When that one leaves, a later one with the same content is found by its code.
    by_content: HashMap<ShortDigest, u32>,
}

/// The first halves of some codes, value by value.
#[derive(Clone, Debug)]
struct Block([[u8; BLOCK]; HALF]);

impl Block {
    fn put(&mut self, row: usize, first: &[u8; HALF]) {
        for (column, value) in self.0.iter_mut().zip(first) {
            column[row] = *value;
        }
    }

    fn first(&self, row: usize) -> [u8; HALF] {
        std::array::from_fn(|place| self.0[place][row])
    }

    /// Adds each row's absolute differences from some values of `first`, and returns the least sum. A sum that passes 255
    /// stays there.
    #[inline]
    fn add(&self, places: Range<usize>, first: &[u8; HALF], sums: &mut [u8; BLOCK]) -> u8 {
        for (column, value) in self.0[places.clone()].iter().zip(&first[places]) {
            for (sum, other) in sums.iter_mut().zip(column) {
                // Written out: `abs_diff` is compiled to 32-bit arithmetic here, at four times the cost.
                let difference = (*other).max(*value) - (*other).min(*value);
                *sum = sum.saturating_add(difference);
            }
        }
        sums.iter().fold(u8::MAX, |least, sum| least.min(*sum))
    }
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    second: [u8; HALF],
    /// 0 marks a place that was given up.
    asset: AssetId,
    like: AssetId,
    content: ShortDigest,
    version: u32,
}

impl NearIndex {
    /// An empty index of at most `most` assets; at least 1.
    pub fn new(most: usize) -> NearIndex {
        NearIndex {
            most: most.max(1),
            oldest: 0,
            blocks: Vec::new(),
            rest: Vec::new(),
            by_asset: HashMap::new(),
            by_content: HashMap::new(),
        }
    }

    /// How many assets it holds.
    pub fn len(&self) -> usize {
        self.by_asset.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.by_asset.is_empty()
    }

    /// The version of an asset that it holds.
    pub fn version_of(&self, asset: AssetId) -> Option<u32> {
        let place = *self.by_asset.get(&asset)?;
        Some(self.rest[place as usize].version)
    }

    /// The nearest other asset that is nearer than `below_ppm`, or has the same content; of equally near ones the one that
    /// came first. Neither the asset itself, in whatever version, nor one that was found to be like it.
    pub fn nearest(&self, entry: &Entry, below_ppm: u32) -> Option<Likeness> {
        let own =
            |rest: &Rest| rest.asset == 0 || rest.asset == entry.asset || rest.like == entry.asset;
        let same = self.by_content.get(&entry.content);
        if let Some(rest) = same.map(|place| &self.rest[*place as usize])
            && !own(rest)
        {
            return Some(Likeness {
                asset: rest.asset,
                same_content: true,
                distance_ppm: 0,
            });
        }
        let mut bound = squared_steps_below(below_ppm);
        let mut best = None;
        for (number, block) in self.blocks.iter().enumerate() {
            let first = &entry.code.first;
            let mut sums = [0; BLOCK];
            if block.add(0..QUARTER, first, &mut sums) > sum_most(QUARTER, bound)
                || block.add(QUARTER..HALF, first, &mut sums) > sum_most(HALF, bound)
            {
                continue;
            }
            let rows = &self.rest[number * BLOCK..self.rest.len().min((number + 1) * BLOCK)];
            for (row, rest) in rows.iter().enumerate() {
                if sums[row] > sum_most(HALF, bound) || own(rest) {
                    continue;
                }
                let code = Code {
                    first: block.first(row),
                    second: rest.second,
                };
                let squares = code.squared_steps(&entry.code);
                if squares < bound {
                    best = Some(Likeness {
                        asset: rest.asset,
                        same_content: rest.content == entry.content,
                        distance_ppm: distance_ppm(squares),
                    });
                    bound = squares;
                }
            }
        }
        best
    }

    /// Takes an asset in. An older version than the one that is there changes nothing.
    pub fn put(&mut self, entry: &Entry) {
        let rest = Rest {
            second: entry.code.second,
            asset: entry.asset,
            like: entry.like,
            content: entry.content,
            version: entry.version,
        };
        let known = self.by_asset.get(&entry.asset).map(|place| *place as usize);
        let place = match known {
            Some(place) if self.rest[place].version > entry.version => return,
            Some(place) => {
                self.leave_content(place);
                place
            }
            None if self.rest.len() < self.most => {
                if self.rest.len().is_multiple_of(BLOCK) {
                    self.blocks.push(Block([[0; BLOCK]; HALF]));
                }
                self.rest.push(rest);
                self.rest.len() - 1
            }
            None => {
                let place = self.oldest;
                self.oldest = (place + 1) % self.most;
                self.leave_content(place);
                self.by_asset.remove(&self.rest[place].asset);
                place
            }
        };
        self.blocks[place / BLOCK].put(place % BLOCK, &entry.code.first);
        self.rest[place] = rest;
        // At most 2^20 places, see AgentsConfig::check.
        let place = place as u32;
        self.by_asset.insert(entry.asset, place);
        self.by_content.entry(entry.content).or_insert(place);
    }

    /// Takes an asset out, as one that ended.
    pub fn forget(&mut self, asset: AssetId) {
        if let Some(place) = self.by_asset.remove(&asset) {
            self.leave_content(place as usize);
            self.rest[place as usize].asset = 0;
        }
    }

    /// Everything in it, the oldest first.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let (newer, older) = self.rest.split_at(self.oldest.min(self.rest.len()));
        let places = (self.oldest..).take(older.len()).chain(0..newer.len());
        places.filter_map(|place| {
            let rest = &self.rest[place];
            (rest.asset != 0).then(|| Entry {
                asset: rest.asset,
                version: rest.version,
                like: rest.like,
                content: rest.content,
                code: Code {
                    first: self.blocks[place / BLOCK].first(place % BLOCK),
                    second: rest.second,
                },
            })
        })
    }

    fn leave_content(&mut self, place: usize) {
        let content = self.rest[place].content;
        if self.by_content.get(&content) == Some(&(place as u32)) {
            self.by_content.remove(&content);
        }
    }
}

/// The largest sum of `count` absolute differences whose squares can still add up to less than `bound`; 255, which stands
/// for every larger one too, where that is not below it.
fn sum_most(count: usize, bound: u32) -> u8 {
    // The conversion saturates. A root that rounding moves below a whole number is moved back.
    (f64::from(bound) * count as f64).sqrt().ceil() as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::similarity::embedding::Embedding;

    fn entry(asset: AssetId, code: Code) -> Entry {
        let mut content = [0; 16];
        content[..8].copy_from_slice(&asset.to_be_bytes());
        Entry {
            asset,
            version: 1,
            like: 0,
            content,
            code,
        }
    }

    fn at(value: f32) -> Code {
        Code::of(&[value; EMBEDDING_LENGTH])
    }

    #[test]
    fn an_asset_is_no_likeness_of_itself_nor_of_what_was_found_to_be_like_it() {
        let mut index = NearIndex::new(8);
        index.put(&entry(1, at(0.0)));
        let again = Entry {
            version: 2,
            ..entry(1, at(0.0))
        };
        assert_eq!(index.nearest(&again, 500_000), None);
        let other = entry(2, at(0.25));
        let found = index.nearest(&other, 500_000).unwrap();
        assert_eq!(
            (found.asset, found.same_content, found.distance_ppm),
            (1, false, 250_000)
        );
        assert_eq!(index.nearest(&other, 250_000), None);
        index.put(&Entry { like: 1, ..other });
        // Inspected again: 2 is known to be the later of the two.
        assert_eq!(index.nearest(&again, 500_000), None);
        assert_eq!(
            index.nearest(&entry(3, at(0.25)), 500_000).unwrap().asset,
            2
        );
    }

    #[test]
    fn the_same_content_is_found_whatever_the_bound_and_told_apart_from_the_same_look() {
        let mut index = NearIndex::new(8);
        index.put(&entry(1, at(0.0)));
        let double = Entry {
            asset: 2,
            ..entry(1, at(0.0))
        };
        let found = index.nearest(&double, 0).unwrap();
        assert_eq!((found.asset, found.same_content), (1, true));
        let same_look = entry(2, at(0.0));
        assert!(!index.nearest(&same_look, 1).unwrap().same_content);
        assert_eq!(index.nearest(&same_look, 0), None);
    }

    #[test]
    fn a_content_whose_first_holder_left_is_still_a_double() {
        let mut index = NearIndex::new(8);
        index.put(&entry(1, at(0.0)));
        for asset in [2, 3] {
            index.put(&Entry {
                asset,
                like: 1,
                ..entry(1, at(0.0))
            });
        }
        index.forget(1);
        assert_eq!((index.len(), index.version_of(1)), (2, None));
        let fourth = Entry {
            asset: 4,
            ..entry(1, at(0.0))
        };
        let found = index.nearest(&fourth, 100).unwrap();
        assert_eq!((found.asset, found.same_content), (2, true));
    }

    #[test]
    fn a_later_version_takes_the_place_and_an_earlier_one_is_ignored() {
        let mut index = NearIndex::new(8);
        let second = Entry {
            version: 2,
            ..entry(1, at(3.0))
        };
        index.put(&entry(1, at(0.0)));
        index.put(&second);
        index.put(&entry(1, at(0.0)));
        assert_eq!((index.len(), index.version_of(1)), (1, Some(2)));
        assert_eq!(index.nearest(&entry(2, at(0.0)), 500_000), None);
        assert_eq!(index.entries().collect::<Vec<_>>(), [second]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(AssetId, u32, Embedding, AssetId, u8),
        Forget(AssetId),
        Find(AssetId, Embedding, u32, u8),
    }

    fn near_zero() -> impl Strategy<Value = Embedding> {
        // A few centres with a little noise: near-duplicates are common.
        (0u8..4, prop::array::uniform32(-0.2f32..0.2))
            .prop_map(|(centre, noise)| noise.map(|value| value + f32::from(centre) * 0.3))
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1u64..260, 1u32..4, near_zero(), 0u64..30, 0u8..250)
                .prop_map(|(asset, version, look, like, content)| Step::Put(asset, version, look, like, content)),
            1 => (1u64..260).prop_map(Step::Forget),
            3 => (1u64..260, near_zero(), 0u32..1_200_000, 0u8..250)
                .prop_map(|(asset, look, below, content)| Step::Find(asset, look, below, content)),
        ]
    }

    fn made(asset: AssetId, version: u32, look: &Embedding, like: AssetId, content: u8) -> Entry {
        Entry {
            asset,
            version,
            like,
            content: [content; 16],
            code: Code::of(look),
        }
    }

    proptest! {
        /// Against a plain list that compares everything with everything, and forgets the oldest place at the bound.
        #[test]
        fn it_finds_what_comparing_with_all_finds(
            most in 1usize..200,
            steps in prop::collection::vec(step(), 1..250),
        ) {
            let mut index = NearIndex::new(most);
            let mut places: Vec<Option<Entry>> = Vec::new();
            let mut oldest = 0;
            for step in steps {
                match step {
                    Step::Put(asset, version, look, like, content) => {
                        let entry = made(asset, version, &look, like, content);
                        index.put(&entry);
                        let known = places.iter().position(|known| known.is_some_and(|known| known.asset == asset));
                        match known {
                            Some(place) if places[place].is_some_and(|known| known.version > version) => {}
                            Some(place) => places[place] = Some(entry),
                            None if places.len() < most => places.push(Some(entry)),
                            None => {
                                places[oldest] = Some(entry);
                                oldest = (oldest + 1) % most;
                            }
                        }
                    }
                    Step::Forget(asset) => {
                        index.forget(asset);
                        for place in &mut places {
                            place.take_if(|known| known.asset == asset);
                        }
                    }
                    Step::Find(asset, look, below_ppm, content) => {
                        let entry = made(asset, 9, &look, 0, content);
                        let others = || places.iter().flatten().filter(|other| other.asset != asset && other.like != asset);
                        let least = others().map(|other| other.code.squared_steps(&entry.code)).min();
                        let found = index.nearest(&entry, below_ppm);
                        match found {
                            Some(found) if found.same_content => {
                                prop_assert!(others().any(|other| other.asset == found.asset && other.content == entry.content));
                            }
                            Some(found) => {
                                prop_assert_eq!(Some(found.distance_ppm), least.map(distance_ppm));
                                prop_assert!(found.distance_ppm < below_ppm);
                                let other = others().find(|other| other.asset == found.asset).unwrap();
                                prop_assert_eq!(Some(other.code.squared_steps(&entry.code)), least);
                            }
                            None => prop_assert!(least.is_none_or(|least| least >= squared_steps_below(below_ppm))),
                        }
                    }
                }
                prop_assert_eq!(index.len(), places.iter().flatten().count());
                prop_assert!(index.by_content.len() <= index.len());
                let listed: Vec<Entry> = index.entries().collect();
                let mut wanted: Vec<Entry> = places.iter().flatten().copied().collect();
                if places.len() == most {
                    let turned = places.iter().cycle().skip(oldest).take(most);
                    wanted = turned.flatten().copied().collect();
                }
                prop_assert_eq!(listed, wanted);
            }
        }
    }
}
