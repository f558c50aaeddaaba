//! What a replacement must pay.

use crate::chain::client::Fees;

/// Both fees rise by an eighth, above the tenth that nodes ask of a replacement.
const BUMP_NUMERATOR: u128 = 9;
const BUMP_DENOMINATOR: u128 = 8;

/// Fees of a first transaction: what the chain suggests, within the bound.
pub(super) fn first(suggested: Fees, max_fee_bound: u128) -> Fees {
    let max_fee = suggested.max_fee.min(max_fee_bound);
    Fees {
        max_fee,
        max_priority_fee: suggested.max_priority_fee.min(max_fee),
    }
}

/// Fees of a replacement: an eighth more than before or what the chain suggests, whichever is higher,
/// within the bound; none if the bound leaves no room for a rise that nodes would take.
pub(super) fn bumped(before: Fees, suggested: Fees, max_fee_bound: u128) -> Option<Fees> {
    let raised = |fee: u128| {
        fee.saturating_mul(BUMP_NUMERATOR)
            .div_ceil(BUMP_DENOMINATOR)
            .max(1)
    };
    let least = Fees {
        max_fee: raised(before.max_fee),
        max_priority_fee: raised(before.max_priority_fee),
    };
    if least.max_fee > max_fee_bound {
        return None;
    }
    let max_fee = least.max_fee.max(suggested.max_fee).min(max_fee_bound);
    let max_priority_fee = least
        .max_priority_fee
        .max(suggested.max_priority_fee)
        .min(max_fee);
    // Only where the priority fee had reached the whole fee can the bound press it below its least.
    (max_priority_fee >= least.max_priority_fee).then_some(Fees {
        max_fee,
        max_priority_fee,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fees(max_fee: u128, max_priority_fee: u128) -> Fees {
        Fees {
            max_fee,
            max_priority_fee,
        }
    }

    #[test]
    fn no_bump_where_the_bound_leaves_no_room() {
        assert_eq!(bumped(fees(100, 10), fees(500, 10), 112), None);
        assert_eq!(
            bumped(fees(100, 10), fees(500, 10), 113),
            Some(fees(113, 12))
        );
    }

    #[test]
    fn first_fees_stay_within_the_bound() {
        assert_eq!(first(fees(500, 400), 300), fees(300, 300));
    }

    proptest! {
        #[test]
        fn a_bump_raises_both_fees_by_an_eighth_and_keeps_the_bound(
            before in (1u128..1 << 60, 0u128..1 << 60),
            suggested in (0u128..1 << 60, 0u128..1 << 60),
            bound in 1u128..1 << 62,
        ) {
            let before = fees(before.0, before.1.min(before.0));
            let suggested = fees(suggested.0, suggested.1.min(suggested.0));
            if let Some(after) = bumped(before, suggested, bound) {
                prop_assert!(after.max_fee <= bound);
                prop_assert!(after.max_priority_fee <= after.max_fee);
                prop_assert!(after.max_fee * 8 >= before.max_fee * 9);
                prop_assert!(after.max_priority_fee * 8 >= before.max_priority_fee * 9);
            }
        }
    }
}
