//! What one stream's accounts hold: as known from accepted outcomes, and as believed while commands are under way.

use bytes::Bytes;
use karat_proto::{Account, Code};

use super::{Effect, Part};

/// Owner of a row that nobody owns.
pub const NOBODY: u16 = u16::MAX;

/// Most minted assets that a stream keeps in mind for the final sample; later ones take the places of earlier ones.
const MINTED_MAX: usize = 1 << 16;

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
    /// Its version by the accepted outcomes.
    pub version: u32,
    /// Its version if everything under way is accepted.
    pub believed_version: u32,
    /// The ledger said that nothing can be done with it (rejected, frozen, not active).
    pub stuck: bool,
}

impl Row {
    fn new(asset: u64, owner: u16, sequence: u64) -> Row {
        Row {
            asset,
            sequence,
            owner,
            believed: owner,
            version: 1,
            believed_version: 1,
            stuck: false,
        }
    }
}

/// What one stream's accounts hold.
pub struct Holdings {
    accounts: Vec<Bytes>,
    rows: Vec<Row>,
    /// Assets that the run minted. No command is about them: their numbers are known only by their outcomes, and an open
    /// loop waits for none.
    minted: Vec<Row>,
    minted_count: usize,
    /// Rows that nobody owns or is claiming.
    open: Vec<u32>,
    /// Exchanges under way.
    exchanges: Vec<Box<[Part]>>,
    exchanges_free: Vec<u32>,
    /// What each account has more or less than at the beginning, minor units.
    changes: Vec<i128>,
}

impl Holdings {
    /// `accounts` with nothing.
    pub fn new(accounts: &[Account]) -> Holdings {
        Holdings {
            accounts: accounts
                .iter()
                .map(|account| Bytes::copy_from_slice(&account.0))
                .collect(),
            rows: Vec::new(),
            minted: Vec::new(),
            minted_count: 0,
            open: Vec::new(),
            exchanges: Vec::new(),
            exchanges_free: Vec::new(),
            changes: vec![0; accounts.len()],
        }
    }

    /// An asset that exists before the run.
    pub fn put(&mut self, asset: u64, owner: u16, sequence: u64) {
        if owner == NOBODY {
            self.open.push(self.rows.len() as u32);
        }
        self.rows.push(Row::new(asset, owner, sequence));
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

    /// Every asset that was there before the run.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Every asset kept in mind, those that the run minted included.
    pub fn all_rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().chain(&self.minted)
    }

    /// What each account gained or lost.
    pub fn changes(&self) -> &[i128] {
        &self.changes
    }

    /// A row that an account is believed to own, found from `start` on. `None` when a short search finds none.
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

    /// One row.
    pub fn row(&self, row: u32) -> &Row {
        &self.rows[row as usize]
    }

    /// A command that gives a row to `account` is under way.
    pub fn believe(&mut self, row: u32, account: u16) {
        self.rows[row as usize].believed = account;
    }

    /// A revision is under way; returns the version that it makes.
    pub fn believe_revised(&mut self, row: u32) -> u32 {
        let row = &mut self.rows[row as usize];
        row.believed_version += 1;
        row.believed_version
    }

    /// An exchange is under way.
    pub fn keep_exchange(&mut self, parts: Box<[Part]>) -> Effect {
        for part in &parts {
            self.believe(part.row, part.buyer);
        }
        let place = match self.exchanges_free.pop() {
            Some(place) => {
                self.exchanges[place as usize] = parts;
                place
            }
            None => {
                self.exchanges.push(parts);
                self.exchanges.len() as u32 - 1
            }
        };
        Effect::Exchange { place }
    }

    fn take_exchange(&mut self, place: u32) -> Box<[Part]> {
        self.exchanges_free.push(place);
        std::mem::take(&mut self.exchanges[place as usize])
    }

    /// An accepted outcome. Outcomes may come in any order: the largest sequence decides who owns an asset.
    pub fn accepted(&mut self, effect: Effect, sequence: u64, subject: u64) {
        match effect {
            Effect::Mint { owner } => self.minted(subject, owner, sequence),
            Effect::Transfer { row, to } | Effect::Claim { row, to } => {
                self.owned_by(row, to, sequence);
            }
            Effect::Exchange { place } => {
                for part in self.take_exchange(place) {
                    self.owned_by(part.row, part.buyer, sequence);
                    self.changes[usize::from(part.seller)] += i128::from(part.amount);
                    self.changes[usize::from(part.buyer)] -= i128::from(part.amount);
                }
            }
            Effect::Revise { row, version } => {
                let row = &mut self.rows[row as usize];
                row.version = row.version.max(version);
            }
            Effect::Contest { .. } | Effect::Wrong { .. } => {}
        }
    }

    /// A refusal: what was believed did not come true, so the next command starts from what is known.
    pub fn refused(&mut self, effect: Effect, code: u32) {
        match effect {
            Effect::Transfer { row, .. }
            | Effect::Claim { row, .. }
            | Effect::Revise { row, .. } => self.disbelieve(row, code),
            Effect::Exchange { place } => {
                for part in self.take_exchange(place) {
                    self.disbelieve(part.row, 0);
                }
            }
            Effect::Mint { .. } | Effect::Contest { .. } | Effect::Wrong { .. } => return,
        }
        if let Effect::Claim { row, .. } = effect
            && self.row(row).owner == NOBODY
            && !self.row(row).stuck
        {
            self.open.push(row);
        }
    }

    fn disbelieve(&mut self, row: u32, code: u32) {
        let row = &mut self.rows[row as usize];
        row.believed = row.owner;
        row.believed_version = row.version;
        row.stuck |= [
            Code::AssetEnded,
            Code::AssetFrozen,
            Code::NotActive,
            Code::UnknownAsset,
        ]
        .iter()
        .any(|one| code == *one as u32);
    }

    fn minted(&mut self, asset: u64, owner: u16, sequence: u64) {
        let row = Row::new(asset, owner, sequence);
        match self.minted.len() < MINTED_MAX {
            true => self.minted.push(row),
            false => self.minted[self.minted_count % MINTED_MAX] = row,
        }
        self.minted_count += 1;
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
        let mut holdings = Holdings::new(&accounts);
        holdings.put(11, 0, 1);
        holdings.put(12, NOBODY, 2);
        holdings.put(13, 1, 3);
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
    fn an_exchange_moves_assets_and_currency_and_currency_sums_to_zero() {
        let mut holdings = holdings();
        let part = |row, seller, amount| Part {
            row,
            seller,
            buyer: 3,
            amount,
        };
        let effect = holdings.keep_exchange([part(0, 0, 25), part(2, 1, 5)].into());
        assert_eq!(holdings.row(2).believed, 3);
        holdings.accepted(effect, 5, 0);
        assert_eq!((holdings.row(0).owner, holdings.row(2).owner), (3, 3));
        assert_eq!(holdings.changes(), [25, 5, 0, -30]);
    }

    #[test]
    fn a_refused_exchange_changes_nothing_and_its_place_is_used_again() {
        let mut holdings = holdings();
        let part = Part {
            row: 0,
            seller: 0,
            buyer: 3,
            amount: 25,
        };
        let effect = holdings.keep_exchange([part].into());
        holdings.refused(effect, Code::Overloaded as u32);
        assert_eq!(holdings.row(0).believed, 0);
        assert_eq!(holdings.changes(), [0; 4]);
        assert_eq!(holdings.keep_exchange([part].into()), effect);
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
            Some(2),
            "the row that nobody owns is no choice"
        );
    }

    #[test]
    fn a_refused_transfer_or_revision_takes_belief_back_to_what_is_known() {
        let mut holdings = holdings();
        holdings.believe(0, 3);
        holdings.refused(Effect::Transfer { row: 0, to: 3 }, Code::RateLimited as u32);
        assert_eq!(holdings.row(0).believed, 0);
        let version = holdings.believe_revised(0);
        assert_eq!(version, 2);
        holdings.refused(Effect::Revise { row: 0, version }, Code::RateLimited as u32);
        assert_eq!(holdings.row(0).believed_version, 1);
        let version = holdings.believe_revised(0);
        holdings.accepted(Effect::Revise { row: 0, version }, 9, 11);
        assert_eq!(holdings.row(0).version, 2);
    }
}
