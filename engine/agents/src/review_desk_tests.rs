use proptest::prelude::*;

use super::*;

fn review(asset: AssetId, version: u32, sequence: u64) -> OpenReview {
    OpenReview {
        asset,
        version,
        collection: 1,
        sequence,
        opened_ms: 0,
        corruption_ppm: 500_000,
        findings: vec![],
    }
}

fn desk(reviews: u64) -> ReviewDesk {
    let mut desk = ReviewDesk::new(DeskLimits::default());
    // Opened in another order than their sequences.
    for asset in (1..=reviews).rev() {
        desk.open(review(asset, 1, asset * 10)).unwrap();
    }
    desk
}

fn assets(leases: &[Lease]) -> Vec<AssetId> {
    leases.iter().map(|lease| lease.review.asset).collect()
}

fn who(name: &str) -> Account {
    Account::from_name(name)
}

#[test]
fn reviews_are_lent_in_their_order_and_to_one_reviewer_each() {
    let mut desk = desk(5);
    let ann = desk.lease(who("ann"), 2, 1_000, 60_000).unwrap();
    let bob = desk.lease(who("bob"), 10, 1_000, 60_000).unwrap();
    assert_eq!((assets(&ann), assets(&bob)), (vec![1, 2], vec![3, 4, 5]));
    assert_eq!(desk.holder(4), Some((who("bob"), 61_000)));
    assert!(desk.lease(who("eve"), 1, 1_000, 60_000).unwrap().is_empty());
    assert_eq!(desk.peek(3).len(), 3);
    assert_eq!((desk.open_count(), desk.leased_count()), (5, 5));
}

#[test]
fn a_lease_that_runs_out_is_lent_again_and_counted() {
    let mut desk = desk(1);
    desk.lease(who("ann"), 1, 0, 1_000).unwrap();
    assert!(desk.lease(who("bob"), 1, 999, 1_000).unwrap().is_empty());
    assert_eq!(desk.lease(who("bob"), 1, 1_000, 1_000).unwrap().len(), 1);
    let figures: HashMap<Account, ReviewerFigures> = desk.reviewers().into_iter().collect();
    assert_eq!(
        (figures[&who("ann")].expired, figures[&who("ann")].leased),
        (1, 0)
    );
    assert_eq!(figures[&who("bob")].leased, 1);
}

#[test]
fn only_the_holder_gives_a_lease_back() {
    let mut desk = desk(1);
    desk.lease(who("ann"), 1, 0, 1_000).unwrap();
    assert!(!desk.release(who("bob"), 1));
    assert!(desk.release(who("ann"), 1));
    assert!(!desk.release(who("ann"), 1));
    assert_eq!(desk.lease(who("bob"), 1, 0, 1_000).unwrap().len(), 1);
}

#[test]
fn a_decision_ends_the_review_whoever_held_it_and_times_only_the_holder() {
    let mut desk = desk(3);
    desk.lease(who("ann"), 3, 0, 100_000).unwrap();
    assert_eq!(desk.decided(1, who("ann"), true, 5_000).unwrap().asset, 1);
    assert_eq!(desk.decided(2, who("ann"), false, 9_000).unwrap().asset, 2);
    assert_eq!(desk.decided(3, who("bob"), true, 50_000).unwrap().asset, 3);
    assert_eq!(desk.decided(3, who("bob"), true, 50_000), None);
    let figures: HashMap<Account, ReviewerFigures> = desk.reviewers().into_iter().collect();
    let ann = figures[&who("ann")];
    assert_eq!(
        (ann.decided, ann.accepted, ann.leased, ann.median_seconds),
        (2, 1, 0, 9)
    );
    let bob = figures[&who("bob")];
    assert_eq!((bob.decided, bob.accepted, bob.median_seconds), (1, 1, 0));
    assert_eq!((desk.open_count(), desk.leased_count()), (0, 0));
}

#[test]
fn a_newer_version_takes_the_place_of_an_older_one_and_its_lease() {
    let mut desk = desk(1);
    desk.lease(who("ann"), 1, 0, 1_000).unwrap();
    desk.open(review(1, 2, 99)).unwrap();
    assert_eq!((desk.open_count(), desk.holder(1)), (1, None));
    desk.open(review(1, 1, 120)).unwrap();
    assert_eq!(desk.get(1).unwrap().version, 2);
    assert!(desk.closed(1).is_some());
    assert!(desk.closed(1).is_none());
}

#[test]
fn every_bound_refuses_and_says_so() {
    let mut desk = ReviewDesk::new(DeskLimits {
        open_max: 3,
        leases_a_reviewer_max: 2,
        lease_ms_max: 1_000,
        reviewers_max: 1,
    });
    for asset in 1..=3 {
        desk.open(review(asset, 1, asset)).unwrap();
    }
    assert_eq!(desk.open(review(4, 1, 4)), Err(DeskError::Full { open: 3 }));
    assert!(matches!(
        desk.lease(who("ann"), 1, 0, 0),
        Err(DeskError::LeaseLength { .. })
    ));
    assert!(matches!(
        desk.lease(who("ann"), 1, 0, 1_001),
        Err(DeskError::LeaseLength { .. })
    ));
    assert_eq!(desk.lease(who("ann"), 3, 0, 1_000).unwrap().len(), 2);
    assert!(matches!(
        desk.lease(who("ann"), 1, 0, 1_000),
        Err(DeskError::TooManyLeases { .. })
    ));
    assert!(matches!(
        desk.lease(who("bob"), 1, 0, 1_000),
        Err(DeskError::TooManyReviewers { .. })
    ));
    // A decision by somebody without a line of figures still ends the review.
    assert!(desk.decided(3, who("bob"), true, 0).is_some());
}

proptest! {
    /// Whatever is done in whatever order: a review is free or lent, never both, and the leases counted for the
    /// reviewers are the leases there are.
    #[test]
    fn the_books_stay_even(steps in prop::collection::vec((0u8..6, 1u64..20, 0u64..3, 0u64..500), 1..200)) {
        let mut desk = ReviewDesk::new(DeskLimits { leases_a_reviewer_max: 4, ..DeskLimits::default() });
        let mut now_ms = 0;
        for (step, asset, reviewer, time_ms) in steps {
            now_ms += time_ms;
            let reviewer = Account([reviewer as u8 + 1; 20]);
            match step {
                0 => drop(desk.open(review(asset, (time_ms % 3) as u32, now_ms))),
                1 => drop(desk.lease(reviewer, asset as usize, now_ms, 700)),
                2 => drop(desk.release(reviewer, asset)),
                3 => drop(desk.decided(asset, reviewer, true, now_ms)),
                4 => drop(desk.closed(asset)),
                _ => drop(desk.release_expired(now_ms)),
            }
            prop_assert_eq!(desk.free.len() + desk.expiries.len(), desk.reviews.len());
            prop_assert_eq!(desk.places.len(), desk.reviews.len());
            let leased: usize = desk.reviewers.values().map(|reviewer| reviewer.leased).sum();
            prop_assert_eq!(leased, desk.expiries.len());
            prop_assert!(desk.reviewers.values().all(|reviewer| reviewer.leased <= 4));
            prop_assert!(desk.reviews.iter().all(|(place, entry)| entry.lease.is_none() == desk.free.contains(place)));
        }
    }
}
