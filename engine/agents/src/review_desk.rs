//! The review desk: assets that wait for people, lent out so that no two people look at the same one.
//!
//! Pure: time is passed in, and what is open here is in review in the ledger, so a desk can be filled again after a
//! restart. Leases are only a courtesy between reviewers: whose decision counts is the ledger's affair.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use karat_proto::command::Finding;
use karat_proto::{Account, AssetId, CollectionId};
use thiserror::Error;

/// Limits of a desk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeskLimits {
    /// Most open reviews.
    pub open_max: usize,
    /// Most leases of one reviewer at a time.
    pub leases_a_reviewer_max: usize,
    /// Longest lease, milliseconds.
    pub lease_ms_max: u64,
    /// Most reviewers with figures.
    pub reviewers_max: usize,
}

impl Default for DeskLimits {
    fn default() -> DeskLimits {
        DeskLimits {
            open_max: 1_000_000,
            leases_a_reviewer_max: 100,
            lease_ms_max: 3_600_000,
            reviewers_max: 10_000,
        }
    }
}

/// A reviewer's last decisions that the median is taken over.
const TIMES_KEPT: usize = 101;

/// The desk refuses.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeskError {
    /// No room for another review.
    #[error(
        "{open} reviews are open, which is the most; it stays in review in the ledger and can be opened here later"
    )]
    Full {
        /// How many are open.
        open: usize,
    },
    /// The reviewer holds as many leases as one may.
    #[error("{reviewer} holds {held} leases, which is the most; decide or release some")]
    TooManyLeases {
        /// Who.
        reviewer: Account,
        /// How many.
        held: usize,
    },
    /// The lease is too long, or 0.
    #[error("a lease of {found_ms} ms; it must be 1 to {most_ms} ms")]
    LeaseLength {
        /// Asked for.
        found_ms: u64,
        /// The most.
        most_ms: u64,
    },
    /// Too many people.
    #[error("{known} reviewers have figures, which is the most")]
    TooManyReviewers {
        /// How many.
        known: usize,
    },
}

/// An asset that waits for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenReview {
    /// Which asset.
    pub asset: AssetId,
    /// Which version.
    pub version: u32,
    /// Its collection.
    pub collection: CollectionId,
    /// Sequence of the verdict that sent it here: reviews are lent in this order.
    pub sequence: u64,
    /// When that was, milliseconds since the epoch.
    pub opened_ms: u64,
    /// The auditor's score, parts per million.
    pub corruption_ppm: u32,
    /// Why it is here.
    pub findings: Vec<Finding>,
}

/// A review lent to a reviewer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What to look at.
    pub review: OpenReview,
    /// Who looks.
    pub reviewer: Account,
    /// Until when nobody else is given it, milliseconds since the epoch.
    pub until_ms: u64,
}

/// What one reviewer did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReviewerFigures {
    /// Decisions.
    pub decided: u64,
    /// Accepting ones.
    pub accepted: u64,
    /// Leases held now.
    pub leased: u64,
    /// Leases that ran out undecided.
    pub expired: u64,
    /// Median time from lease to decision over the last 101 leased ones, seconds; 0 before the first.
    pub median_seconds: u64,
}

struct Entry {
    review: OpenReview,
    lease: Option<Held>,
}

#[derive(Clone, Copy)]
struct Held {
    reviewer: Account,
    since_ms: u64,
    until_ms: u64,
}

#[derive(Default)]
struct Reviewer {
    decided: u64,
    accepted: u64,
    leased: usize,
    expired: u64,
    times_ms: VecDeque<u64>,
}

/// A review's place: its sequence, and the asset because one command may open several.
type Place = (u64, AssetId);

/// The open reviews of a realm.
pub struct ReviewDesk {
    limits: DeskLimits,
    reviews: BTreeMap<Place, Entry>,
    places: HashMap<AssetId, Place>,
    free: BTreeSet<Place>,
    expiries: BTreeSet<(u64, Place)>,
    reviewers: BTreeMap<Account, Reviewer>,
}

impl ReviewDesk {
    /// An empty desk.
    pub fn new(limits: DeskLimits) -> ReviewDesk {
        ReviewDesk {
            limits,
            reviews: BTreeMap::new(),
            places: HashMap::new(),
            free: BTreeSet::new(),
            expiries: BTreeSet::new(),
            reviewers: BTreeMap::new(),
        }
    }

    /// Opens a review. One that is open for the same asset is replaced when this version is newer, its lease with it;
    /// otherwise nothing changes.
    ///
    /// # Errors
    /// [`DeskError::Full`].
    pub fn open(&mut self, review: OpenReview) -> Result<(), DeskError> {
        if let Some(open) = self.get(review.asset) {
            if open.version >= review.version {
                return Ok(());
            }
            self.closed(review.asset);
        }
        if self.reviews.len() >= self.limits.open_max {
            return Err(DeskError::Full {
                open: self.reviews.len(),
            });
        }
        let place = (review.sequence, review.asset);
        self.places.insert(review.asset, place);
        self.free.insert(place);
        self.reviews.insert(
            place,
            Entry {
                review,
                lease: None,
            },
        );
        Ok(())
    }

    /// The open review of an asset.
    pub fn get(&self, asset: AssetId) -> Option<&OpenReview> {
        let place = self.places.get(&asset)?;
        Some(&self.reviews.get(place)?.review)
    }

    /// Who holds an asset's review, and until when (milliseconds since the epoch).
    pub fn holder(&self, asset: AssetId) -> Option<(Account, u64)> {
        let held = self.reviews.get(self.places.get(&asset)?)?.lease?;
        Some((held.reviewer, held.until_ms))
    }

    /// How many are open, lent ones included.
    pub fn open_count(&self) -> usize {
        self.reviews.len()
    }

    /// How many are lent.
    pub fn leased_count(&self) -> usize {
        self.expiries.len()
    }

    /// The first open reviews in their order, lent ones included, without taking them.
    pub fn peek(&self, limit: usize) -> Vec<&OpenReview> {
        self.reviews
            .values()
            .take(limit)
            .map(|entry| &entry.review)
            .collect()
    }

    /// Lends the first free reviews to a reviewer until `now_ms + lease_ms`; fewer than `limit` when fewer are free or
    /// the reviewer may not hold more. Leases that have run out are free again first.
    ///
    /// # Errors
    /// [`DeskError::LeaseLength`], [`DeskError::TooManyLeases`] when the reviewer may hold no more at all,
    /// [`DeskError::TooManyReviewers`].
    pub fn lease(
        &mut self,
        reviewer: Account,
        limit: usize,
        now_ms: u64,
        lease_ms: u64,
    ) -> Result<Vec<Lease>, DeskError> {
        if lease_ms == 0 || lease_ms > self.limits.lease_ms_max {
            return Err(DeskError::LeaseLength {
                found_ms: lease_ms,
                most_ms: self.limits.lease_ms_max,
            });
        }
        self.release_expired(now_ms);
        let most = self.limits.leases_a_reviewer_max;
        let held = self.reviewer(reviewer)?.leased;
        if held >= most {
            return Err(DeskError::TooManyLeases { reviewer, held });
        }
        let until_ms = now_ms.saturating_add(lease_ms);
        let places: Vec<Place> = self
            .free
            .iter()
            .take(limit.min(most - held))
            .copied()
            .collect();
        let mut leases = Vec::with_capacity(places.len());
        for place in places {
            let Some(entry) = self.reviews.get_mut(&place) else {
                continue;
            };
            entry.lease = Some(Held {
                reviewer,
                since_ms: now_ms,
                until_ms,
            });
            leases.push(Lease {
                review: entry.review.clone(),
                reviewer,
                until_ms,
            });
            self.free.remove(&place);
            self.expiries.insert((until_ms, place));
        }
        self.reviewer(reviewer)?.leased += leases.len();
        Ok(leases)
    }

    /// Gives a lease back undecided; false when this reviewer does not hold it.
    pub fn release(&mut self, reviewer: Account, asset: AssetId) -> bool {
        let Some(place) = self.places.get(&asset).copied() else {
            return false;
        };
        let holds = self.holder(asset).is_some_and(|(who, _)| who == reviewer);
        if holds {
            self.unlease(place);
            self.free.insert(place);
        }
        holds
    }

    /// Frees every lease that has run out at `now_ms`, and says how many.
    pub fn release_expired(&mut self, now_ms: u64) -> usize {
        let mut released = 0;
        while let Some((until_ms, place)) = self.expiries.first().copied() {
            if until_ms > now_ms {
                break;
            }
            if let Some(held) = self.unlease(place)
                && let Some(reviewer) = self.reviewers.get_mut(&held.reviewer)
            {
                reviewer.expired += 1;
            }
            self.free.insert(place);
            released += 1;
        }
        released
    }

    /// A decision was applied: the review is over, whoever held it. Returns it, or `None` when it was not open here.
    /// A time is counted only where this reviewer held the lease.
    pub fn decided(
        &mut self,
        asset: AssetId,
        reviewer: Account,
        accepted: bool,
        now_ms: u64,
    ) -> Option<OpenReview> {
        let lease = self
            .reviews
            .get(self.places.get(&asset)?)
            .and_then(|entry| entry.lease);
        let review = self.closed(asset)?;
        // Without room for figures the decision counts all the same; only its reviewer's line is missing.
        if let Ok(figures) = self.reviewer(reviewer) {
            figures.decided += 1;
            figures.accepted += u64::from(accepted);
            if let Some(held) = lease.filter(|held| held.reviewer == reviewer) {
                if figures.times_ms.len() == TIMES_KEPT {
                    figures.times_ms.pop_front();
                }
                figures
                    .times_ms
                    .push_back(now_ms.saturating_sub(held.since_ms));
            }
        }
        Some(review)
    }

    /// The asset's review is over without a decision (it was revised, burned, redeemed or frozen).
    pub fn closed(&mut self, asset: AssetId) -> Option<OpenReview> {
        let place = self.places.remove(&asset)?;
        self.unlease(place);
        self.free.remove(&place);
        Some(self.reviews.remove(&place)?.review)
    }

    /// Every reviewer's figures, by account.
    pub fn reviewers(&self) -> Vec<(Account, ReviewerFigures)> {
        let figures = |reviewer: &Reviewer| {
            let mut times: Vec<u64> = reviewer.times_ms.iter().copied().collect();
            times.sort_unstable();
            ReviewerFigures {
                decided: reviewer.decided,
                accepted: reviewer.accepted,
                leased: reviewer.leased as u64,
                expired: reviewer.expired,
                median_seconds: times.get(times.len() / 2).map_or(0, |time| time / 1_000),
            }
        };
        self.reviewers
            .iter()
            .map(|(account, reviewer)| (*account, figures(reviewer)))
            .collect()
    }

    fn reviewer(&mut self, account: Account) -> Result<&mut Reviewer, DeskError> {
        let known = self.reviewers.len();
        if known >= self.limits.reviewers_max && !self.reviewers.contains_key(&account) {
            return Err(DeskError::TooManyReviewers { known });
        }
        Ok(self.reviewers.entry(account).or_default())
    }

    /// Ends a lease without making its review free.
    fn unlease(&mut self, place: Place) -> Option<Held> {
        let held = self.reviews.get_mut(&place)?.lease.take()?;
        self.expiries.remove(&(held.until_ms, place));
        if let Some(reviewer) = self.reviewers.get_mut(&held.reviewer) {
            reviewer.leased -= 1;
        }
        Some(held)
    }
}

#[cfg(test)]
#[path = "review_desk_tests.rs"]
mod tests;
