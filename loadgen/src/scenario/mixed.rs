//! One mint to nine trades. What is minted here is traded from its outcome on.

use super::{Draft, Holdings, MintForm, Mints, Scenario, Trades};

/// Mints and trades without end.
pub struct Mixed {
    mints: Mints,
    trades: Trades,
    sent: u64,
}

impl Mixed {
    /// With mints of this form and this seed.
    pub fn new(form: MintForm, seed: u64) -> Mixed {
        Mixed {
            mints: Mints::new(form, seed),
            // Another stream of randomness than the mints'.
            trades: Trades::new(seed ^ 0x9E37_79B9_7F4A_7C15),
            sent: 0,
        }
    }
}

impl Scenario for Mixed {
    fn next(&mut self, holdings: &mut Holdings) -> Draft {
        self.sent += 1;
        if self.sent % 10 == 1 {
            self.mints.next(holdings)
        } else {
            self.trades.next(holdings)
        }
    }
}
