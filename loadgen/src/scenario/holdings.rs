//! What one stream's accounts hold: as known from accepted outcomes, and as believed while commands are under way.

use bytes::Bytes;
use karat_proto::{Account, Code};

/// Owner of a row that nobody owns.
pub const NOBODY: u16 = u16::MAX;

/// Most assets that a stream keeps in mind. Beyond it, new ones take the places of old ones in scenarios that do not trade,
/// and are left out of the final sample in those that do. 24 MiB at most.
const ROWS_MAX: usize = 1 << 20;

/// Kinds of commands that scenarios send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A mint.
    Mint,
    /// A transfer.
    Transfer,
    /// An exchange of an asset for currency.
    Exchange,
    /// A claim.
    Claim,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 4] = [Kind::Mint, Kind::Transfer, Kind::Exchange, Kind::Claim];

    /// As reports name it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Mint => "mint",
            Kind::Transfer => "transfer",
            Kind::Exchange => "exchange",
            Kind::Claim => "claim",
        }
    }
}

/// What a command changes if it is accepted. Accounts and rows by their place in the stream's holdings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A new asset belongs to `owner`.
    Mint {
        /// Account, or [`NOBODY`].
        owner: u16,
    },
    /// The asset belongs to `to`.
    Transfer {
        /// Which.
        row: u32,
        /// To whom.
        to: u16,
    },
    /// The asset belongs to `buyer`, and `amount` to `seller`.
    Exchange {
        /// Which.
        row: u32,
        /// Who gives it.
        seller: u16,
        /// Who pays for it.
        buyer: u16,
        /// How much, minor units.
        amount: u32,
    },
    /// The asset that nobody owned belongs to `to`.
    Claim {
        /// Which.
        row: u32,
        /// To whom.
        to: u16,
    },
}

impl Effect {
    /// Which kind of command has this effect.
    pub fn kind(&self) -> Kind {
        match self {
            Effect::Mint { .. } => Kind::Mint,
            Effect::Transfer { .. } => Kind::Transfer,
            Effect::Exchange { .. } => Kind::Exchange,
            Effect::Claim { .. } => Kind::Claim,
        }
    }
}

/// One asset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its number.
    pub asset: u64,
    /// Sequence of the last accepted command that gave it an owner.
    pub sequence: u64,
    /// Its owner by the accepted outcome with the largest sequence: the truth that is checked.
    pub owner: u16,
    /// Its owner if everything under way is accepted: what the next command builds on.
    pub believed: u16,
    /// The ledger said that nothing can be done with it (rejected, frozen, not active).
    pub stuck: bool,
}

/// What one stream's accounts hold.
pub struct Holdings {
    accounts: Vec<Bytes>,
    rows: Vec<Row>,
    /// Rows that nobody owns or is claiming.
    open: Vec<u32>,
    /// What each account has more or less than at the beginning, minor units.
    changes: Vec<i128>,
    trades: bool,
}

impl Holdings {
    /// `accounts` with nothing. `trades` says whether minted assets will be traded and must all be kept in mind.
    pub fn new(accounts: &[Account], trades: bool) -> Holdings {
        Holdings {
            accounts: accounts
                .iter()
                .map(|account| Bytes::copy_from_slice(&account.0))
                .collect(),
            rows: Vec::new(),
            open: Vec::new(),
            changes: vec![0; accounts.len()],
            trades,
        }
    }

    /// An asset that exists before the run.
    pub fn put(&mut self, asset: u64, owner: u16, sequence: u64) {
        if owner == NOBODY {
            self.open.push(self.rows.len() as u32);
        }
        self.rows.push(Row {
            asset,
            sequence,
            owner,
            believed: owner,
            stuck: false,
        });
    }

    /// How many accounts there are.
    pub fn account_count(&self) -> u16 {
        self.accounts.len() as u16
    }

    /// The 20 bytes of an account; none for [`NOBODY`].
    pub fn account(&self, index: u16) -> Bytes {
        self.accounts
            .get(usize::from(index))
            .cloned()
            .unwrap_or_default()
    }

    /// Every asset kept in mind.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// What each account gained or lost.
    pub fn changes(&self) -> &[i128] {
        &self.changes
    }

    /// A row that an account is believed to own, found from a random `start`. `None` when a short search finds none.
    pub fn tradable(&self, start: usize) -> Option<u32> {
        let count = self.rows.len();
        // Four of five rows are owned unless the ledger refuses them all: 64 tries do not miss by chance.
        (0..count.min(64))
            .map(|step| (start + step) % count)
            .find(|place| self.rows[*place].believed != NOBODY && !self.rows[*place].stuck)
            .map(|place| place as u32)
    }

    /// Takes an open row for a claim by `account`.
    pub fn take_open(&mut self, account: u16) -> Option<u32> {
        let row = self.open.pop()?;
        self.rows[row as usize].believed = account;
        Some(row)
    }

    /// The asset of a row.
    pub fn asset(&self, row: u32) -> u64 {
        self.rows[row as usize].asset
    }

    /// Who owns a row if everything under way is accepted.
    pub fn believed(&self, row: u32) -> u16 {
        self.rows[row as usize].believed
    }

    /// A command that gives a row to `account` is under way.
    pub fn believe(&mut self, row: u32, account: u16) {
        self.rows[row as usize].believed = account;
    }

    /// An accepted outcome. Outcomes may come in any order: the largest sequence decides who owns an asset.
    pub fn accepted(&mut self, effect: Effect, sequence: u64, subject: u64) {
        match effect {
            Effect::Mint { owner } => self.minted(subject, owner, sequence),
            Effect::Transfer { row, to } | Effect::Claim { row, to } => {
                self.owned_by(row, to, sequence);
            }
            Effect::Exchange {
                row,
                seller,
                buyer,
                amount,
            } => {
                self.owned_by(row, buyer, sequence);
                self.changes[usize::from(seller)] += i128::from(amount);
                self.changes[usize::from(buyer)] -= i128::from(amount);
            }
        }
    }

    /// A refusal: what was believed did not come true, so the next command starts from what is known.
    pub fn refused(&mut self, effect: Effect, code: u32) {
        let (Effect::Transfer { row, .. }
        | Effect::Claim { row, .. }
        | Effect::Exchange { row, .. }) = effect
        else {
            return;
        };
        let place = row as usize;
        let is = |one: Code| code == one as u32;
        self.rows[place].believed = self.rows[place].owner;
        self.rows[place].stuck |= is(Code::AssetEnded)
            || is(Code::AssetFrozen)
            || is(Code::NotActive)
            || is(Code::UnknownAsset);
        let claim = matches!(effect, Effect::Claim { .. });
        if claim && self.rows[place].owner == NOBODY && !self.rows[place].stuck {
            self.open.push(row);
        }
    }

    fn minted(&mut self, asset: u64, owner: u16, sequence: u64) {
        if self.rows.len() < ROWS_MAX {
            self.put(asset, owner, sequence);
        } else if !self.trades {
            self.rows[asset as usize % ROWS_MAX] = Row {
                asset,
                sequence,
                owner,
                believed: owner,
                stuck: false,
            };
        }
    }

    fn owned_by(&mut self, row: u32, account: u16, sequence: u64) {
        let row = &mut self.rows[row as usize];
        if sequence > row.sequence {
            row.sequence = sequence;
            row.owner = account;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holdings() -> Holdings {
        let accounts: Vec<Account> = (0..4)
            .map(|n| Account::from_name(&format!("a{n}")))
            .collect();
        let mut holdings = Holdings::new(&accounts, true);
        holdings.put(11, 0, 1);
        holdings.put(12, NOBODY, 2);
        holdings
    }

    #[test]
    fn the_largest_sequence_decides_the_owner_in_whatever_order_outcomes_come() {
        let mut holdings = holdings();
        holdings.accepted(Effect::Transfer { row: 0, to: 2 }, 9, 11);
        holdings.accepted(Effect::Transfer { row: 0, to: 1 }, 8, 11);
        assert_eq!(holdings.rows()[0].owner, 2);
    }

    #[test]
    fn an_exchange_moves_asset_and_currency_and_currency_sums_to_zero() {
        let mut holdings = holdings();
        let effect = Effect::Exchange {
            row: 0,
            seller: 0,
            buyer: 3,
            amount: 25,
        };
        holdings.accepted(effect, 5, 0);
        assert_eq!(holdings.rows()[0].owner, 3);
        assert_eq!(holdings.changes(), [25, 0, 0, -25]);
    }

    #[test]
    fn a_refused_claim_opens_the_asset_again_unless_nothing_can_be_done_with_it() {
        let mut holdings = holdings();
        let row = holdings.take_open(1).unwrap();
        assert_eq!(holdings.take_open(1), None);
        holdings.refused(Effect::Claim { row, to: 1 }, Code::Overloaded as u32);
        assert_eq!(holdings.take_open(2), Some(row));
        holdings.refused(Effect::Claim { row, to: 2 }, Code::AssetEnded as u32);
        assert_eq!(holdings.take_open(3), None);
        assert_eq!(
            holdings.tradable(1),
            Some(0),
            "the row that nobody owns is no choice"
        );
    }

    #[test]
    fn a_refused_transfer_takes_belief_back_to_what_is_known() {
        let mut holdings = holdings();
        holdings.believe(0, 3);
        holdings.refused(Effect::Transfer { row: 0, to: 3 }, Code::RateLimited as u32);
        assert_eq!(holdings.believed(0), 0);
    }
}
