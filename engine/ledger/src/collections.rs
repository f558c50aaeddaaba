//! Collections: what makes a valid one, what its traits allow, and how often each value was used.

use crate::apply::{Applied, Step};
use crate::state::Ledger;
use karat_proto::command::{ClaimRule, CollectionSpec, TraitSpec, Traits};
use karat_proto::event::EventKind;
use karat_proto::lineage::seed_commitment;
use karat_proto::{Account, Code, CollectionId, Digest, limits};

/// Collections that a realm holds at most.
pub const COLLECTIONS_MAX: usize = 65_536;

/// A value without a cap.
const UNCAPPED: u64 = u64::MAX;

/// One collection, as a reader sees it.
#[derive(Clone, Copy, Debug)]
pub struct CollectionView<'a> {
    /// Its number.
    pub id: CollectionId,
    /// What it is.
    pub spec: &'a CollectionSpec,
    /// Who mints into it.
    pub creator: Account,
    /// Assets minted so far, ended ones included.
    pub minted: u64,
    /// The secret behind its seeds, once revealed.
    pub secret: Option<Digest>,
    /// Sequence at which it was created.
    pub created_sequence: u64,
    collection: &'a Collection,
}

impl CollectionView<'_> {
    /// How many of its assets have this trait value, ended ones included; 0 when there is no such value.
    pub fn value_count(&self, trait_index: u8, value: u8) -> u64 {
        self.collection
            .place(trait_index, value)
            .and_then(|place| self.collection.counts.get(place))
            .copied()
            .unwrap_or(0)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Collection {
    pub(crate) spec: CollectionSpec,
    pub(crate) creator: Account,
    pub(crate) minted: u64,
    pub(crate) secret: Option<Digest>,
    pub(crate) created_sequence: u64,
    /// Where each trait's values begin in `counts` and `caps`; one more at the end.
    offsets: Vec<usize>,
    pub(crate) counts: Vec<u64>,
    caps: Vec<u64>,
}

impl Collection {
    /// An empty collection of a valid spec.
    pub(crate) fn new(spec: CollectionSpec, creator: Account, created_sequence: u64) -> Collection {
        let mut offsets = vec![0];
        let mut values = 0;
        for each in &spec.traits {
            values += each.values.len();
            offsets.push(values);
        }
        let mut collection = Collection {
            creator,
            minted: 0,
            secret: None,
            created_sequence,
            offsets,
            counts: vec![0; values],
            caps: vec![UNCAPPED; values],
            spec,
        };
        for cap in &collection.spec.value_caps {
            if let Some(place) = collection.place(cap.trait_index, cap.value) {
                collection.caps[place] = u64::from(cap.most);
            }
        }
        collection
    }

    pub(crate) fn view(&self, id: CollectionId) -> CollectionView<'_> {
        CollectionView {
            id,
            spec: &self.spec,
            creator: self.creator,
            minted: self.minted,
            secret: self.secret,
            created_sequence: self.created_sequence,
            collection: self,
        }
    }

    /// Where a trait value is counted.
    #[inline]
    pub(crate) fn place(&self, trait_index: u8, value: u8) -> Option<usize> {
        let first = *self.offsets.get(usize::from(trait_index))?;
        let end = *self.offsets.get(usize::from(trait_index) + 1)?;
        let place = first + usize::from(value);
        (place < end).then_some(place)
    }

    pub(crate) fn cap(&self, place: usize) -> u64 {
        self.caps.get(place).copied().unwrap_or(UNCAPPED)
    }

    /// One value for each trait, each known, and no excluded pair.
    #[inline]
    pub(crate) fn check_traits(&self, traits: &Traits) -> Result<(), Code> {
        let values = traits.as_slice();
        let known = values.len() == self.spec.traits.len()
            && (0_u8..)
                .zip(values)
                .all(|(index, value)| self.place(index, *value).is_some());
        if !known {
            return Err(Code::TraitsRefused);
        }
        let has = |(index, value): (u8, u8)| values.get(usize::from(index)) == Some(&value);
        let excluded = self
            .spec
            .exclusions
            .iter()
            .any(|pair| has(pair.first) && has(pair.second));
        match excluded {
            true => Err(Code::TraitsRefused),
            false => Ok(()),
        }
    }

    /// Whether every value still has room, for an asset that had the `old` values so far.
    #[inline]
    pub(crate) fn check_value_caps(
        &self,
        traits: &Traits,
        old: Option<&Traits>,
    ) -> Result<(), Code> {
        for (index, value) in (0_u8..).zip(traits.as_slice()) {
            let kept = old.is_some_and(|old| old.as_slice().get(usize::from(index)) == Some(value));
            let place = self.place(index, *value).ok_or(Code::TraitsRefused)?;
            if !kept && self.counts[place] >= self.caps[place] {
                return Err(Code::ValueCapReached);
            }
        }
        Ok(())
    }

    /// Counts an asset's values, and counts its old ones no more.
    #[inline]
    pub(crate) fn count_values(&mut self, traits: &Traits, old: Option<&Traits>) {
        if let Some(old) = old {
            for (index, value) in (0_u8..).zip(old.as_slice()) {
                if let Some(place) = self.place(index, *value) {
                    self.counts[place] -= 1;
                }
            }
        }
        for (index, value) in (0_u8..).zip(traits.as_slice()) {
            if let Some(place) = self.place(index, *value) {
                self.counts[place] += 1;
            }
        }
    }
}

impl Ledger {
    pub(crate) fn create_collection(
        &mut self,
        step: &mut Step<'_>,
        spec: &CollectionSpec,
    ) -> Applied {
        if !spec_fits(spec) {
            return Err(Code::BadCollection.into());
        }
        if self.collections.len() >= COLLECTIONS_MAX {
            return Err(Code::RealmFull.into());
        }
        let id = self.collections.len() as CollectionId + 1;
        self.collections
            .push(Collection::new(spec.clone(), step.actor, step.sequence));
        step.emit(EventKind::CollectionCreated {
            collection: id,
            creator: step.actor,
            spec: Box::new(spec.clone()),
        });
        Ok(u64::from(id))
    }

    pub(crate) fn reveal_seed(
        &mut self,
        step: &mut Step<'_>,
        id: CollectionId,
        secret: &Digest,
    ) -> Applied {
        let actor = step.actor;
        let collection = self
            .collection_record_mut(id)
            .ok_or(Code::UnknownCollection)?;
        if collection.creator != actor {
            return Err(Code::NotCreator.into());
        }
        if collection.secret.is_some() {
            return Err(Code::SeedRevealed.into());
        }
        if seed_commitment(secret) != collection.spec.seed_commitment {
            return Err(Code::SeedMismatch.into());
        }
        collection.secret = Some(*secret);
        step.emit(EventKind::SeedRevealed {
            collection: id,
            secret: *secret,
        });
        Ok(u64::from(id))
    }
}

/// Whether a spec keeps the limits and does not contradict itself.
fn spec_fits(spec: &CollectionSpec) -> bool {
    let window_fits = match spec.claim_rule {
        ClaimRule::First => true,
        ClaimRule::Draw { window_ms } => (1..=limits::CLAIM_WINDOW_MS_MAX).contains(&window_ms),
    };
    // The chain's royalty standard refuses to pay nobody.
    let royalty_fits = spec.royalty_basis_points == 0
        || (spec.royalty_basis_points <= limits::ROYALTY_BASIS_POINTS_MAX
            && !spec.royalty_receiver.is_nobody());
    name_fits(&spec.name)
        && spec.supply_cap > 0
        && window_fits
        && royalty_fits
        && spec.traits.len() <= limits::TRAITS_MAX
        && spec.traits.iter().all(trait_fits)
        && all_differ(spec.traits.iter().map(|each| &each.name))
        && exclusions_fit(spec)
        && caps_fit(spec)
        && every_trait_has_a_possible_value(spec)
}

fn name_fits(name: &str) -> bool {
    (1..=limits::NAME_BYTES_MAX).contains(&name.len())
}

fn trait_fits(each: &TraitSpec) -> bool {
    name_fits(&each.name)
        && (1..=limits::TRAIT_VALUES_MAX).contains(&each.values.len())
        && each.values.iter().all(|value| name_fits(value))
        && all_differ(each.values.iter())
        && each.weights.len() == each.values.len()
        && each.weights.iter().any(|weight| *weight > 0)
}

/// At most 64 names: comparing all pairs is short.
fn all_differ<'a>(names: impl Iterator<Item = &'a String> + Clone) -> bool {
    names
        .clone()
        .enumerate()
        .all(|(place, name)| names.clone().take(place).all(|other| other != name))
}

fn value_exists(spec: &CollectionSpec, (trait_index, value): (u8, u8)) -> bool {
    spec.traits
        .get(usize::from(trait_index))
        .is_some_and(|each| usize::from(value) < each.values.len())
}

fn exclusions_fit(spec: &CollectionSpec) -> bool {
    spec.exclusions.len() <= limits::EXCLUSIONS_MAX
        && spec.exclusions.iter().all(|pair| {
            value_exists(spec, pair.first)
                && value_exists(spec, pair.second)
                && pair.first.0 != pair.second.0
        })
}

/// Each value has one cap at most: two would leave open which counts.
fn caps_fit(spec: &CollectionSpec) -> bool {
    spec.value_caps.len() <= limits::VALUE_CAPS_MAX
        && spec.value_caps.iter().enumerate().all(|(place, cap)| {
            let named = (cap.trait_index, cap.value);
            value_exists(spec, named)
                && spec.value_caps[..place]
                    .iter()
                    .all(|other| (other.trait_index, other.value) != named)
        })
}

/// A value is possible when its weight and its cap are above 0, and no other trait has all of its possible values excluded
/// with it. Values that are found impossible can make others so; this repeats until nothing changes, which is at most once
/// for each of the 1,024 values. It does not prove that a whole asset can be put together: that is the solver's to find.
fn every_trait_has_a_possible_value(spec: &CollectionSpec) -> bool {
    let mut possible: Vec<Vec<bool>> = spec
        .traits
        .iter()
        .map(|each| each.weights.iter().map(|weight| *weight > 0).collect())
        .collect();
    for cap in spec.value_caps.iter().filter(|cap| cap.most == 0) {
        possible[usize::from(cap.trait_index)][usize::from(cap.value)] = false;
    }
    loop {
        let mut changed = false;
        for index in 0..possible.len() {
            for value in 0..possible[index].len() {
                if possible[index][value] && is_shut_out(spec, &possible, (index, value)) {
                    possible[index][value] = false;
                    changed = true;
                }
            }
        }
        if !changed {
            return possible.iter().all(|values| values.contains(&true));
        }
    }
}

/// Whether some other trait has no possible value left that may meet this one.
fn is_shut_out(spec: &CollectionSpec, possible: &[Vec<bool>], named: (usize, usize)) -> bool {
    let mut left: Vec<Vec<bool>> = Vec::new();
    for pair in &spec.exclusions {
        let as_places = |(index, value): (u8, u8)| (usize::from(index), usize::from(value));
        let (first, second) = (as_places(pair.first), as_places(pair.second));
        let other = match (first == named, second == named) {
            (true, _) => second,
            (_, true) => first,
            _ => continue,
        };
        if left.is_empty() {
            left = possible.to_vec();
        }
        left[other.0][other.1] = false;
    }
    left.iter()
        .enumerate()
        .any(|(index, values)| index != named.0 && !values.contains(&true))
}
