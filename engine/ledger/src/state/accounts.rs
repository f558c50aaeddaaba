//! Accounts, each under a dense number, with their balances.
//!
//! An account is known from the first time it owns, claims or receives something, and is never forgotten: 32 bytes and its
//! share of the index (13 to 32 bytes). Number 0 is nobody.

use super::index::{Index, KeyHash, Vacancy};
use super::slab::Slab;
use crate::look_ahead::prefetch;
use karat_proto::Account;

/// Dense number of an account; 0 is nobody.
pub(crate) type AccountIndex = u32;

/// The number of [`Account::NOBODY`].
pub(crate) const NOBODY: AccountIndex = 0;

/// One account. Aligned so that it never lies in two cache lines, which costs no memory: it is 32 bytes either way.
#[derive(Clone, Debug)]
#[repr(align(32))]
pub(crate) struct AccountRecord {
    pub(crate) account: Account,
    pub(crate) balance: u64,
}

const _: () = assert!(size_of::<AccountRecord>() == 32);

/// All accounts.
#[derive(Clone, Debug)]
pub(crate) struct Accounts {
    records: Slab<AccountRecord>,
    index: Index,
}

impl Accounts {
    pub(crate) fn new() -> Accounts {
        let mut accounts = Accounts {
            records: Slab::new(),
            index: Index::new(),
        };
        accounts.add(Account::NOBODY, 0);
        accounts
    }

    /// How many, nobody included.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Frees them in pieces, and calls `between` after each.
    pub(crate) fn free(self, between: &mut dyn FnMut()) {
        self.records.free(between);
        self.index.free(between);
    }

    pub(crate) fn indexed(&self) -> usize {
        self.index.count(|_| true)
    }

    #[inline]
    pub(crate) fn find(&self, account: &Account) -> Option<AccountIndex> {
        self.look_up(KeyHash::of_account(account), account).ok()
    }

    #[inline]
    fn look_up(&self, hash: KeyHash, account: &Account) -> Result<AccountIndex, Vacancy> {
        let is_key = |number: u32| {
            self.records
                .get(number as usize)
                .is_some_and(|record| record.account == *account)
        };
        self.index.find_or_vacancy(hash, is_key, |_| true)
    }

    /// The account's number, given to it now when it is new. The ledger keeps the count below [`crate::ACCOUNTS_MAX`].
    #[inline]
    pub(crate) fn intern(&mut self, account: &Account) -> AccountIndex {
        match self.look_up(KeyHash::of_account(account), account) {
            Ok(number) => number,
            Err(vacancy) => self.add_at(vacancy, *account, 0),
        }
    }

    /// Adds an account with its balance, unless it is there.
    pub(crate) fn add(&mut self, account: Account, balance: u64) {
        if let Err(vacancy) = self.look_up(KeyHash::of_account(&account), &account) {
            self.add_at(vacancy, account, balance);
        }
    }

    #[cold]
    fn add_at(&mut self, vacancy: Vacancy, account: Account, balance: u64) -> AccountIndex {
        let number = self.records.len() as u32;
        self.records.push(AccountRecord { account, balance });
        self.index.fill(vacancy, number, |_| true);
        number
    }

    /// The account with this number; nobody when there is none.
    #[inline]
    pub(crate) fn account(&self, number: AccountIndex) -> Account {
        self.records
            .get(number as usize)
            .map_or(Account::NOBODY, |record| record.account)
    }

    /// Whether this is the number of that account.
    #[inline]
    pub(crate) fn is_numbered(&self, number: AccountIndex, account: &Account) -> bool {
        match self.records.get(number as usize) {
            Some(record) => record.account == *account,
            None => account.is_nobody(),
        }
    }

    #[inline]
    pub(crate) fn balance(&self, number: AccountIndex) -> u64 {
        self.records
            .get(number as usize)
            .map_or(0, |record| record.balance)
    }

    #[inline]
    pub(crate) fn balance_mut(&mut self, number: AccountIndex) -> Option<&mut u64> {
        let record = self.records.get_mut(number as usize)?;
        Some(&mut record.balance)
    }

    #[inline]
    pub(crate) fn set_balance(&mut self, number: AccountIndex, balance: u64) {
        if let Some(known) = self.balance_mut(number) {
            *known = balance;
        }
    }

    #[inline]
    pub(crate) fn prefetch_slot(&self, account: &Account) {
        self.index.prefetch(KeyHash::of_account(account));
    }

    #[inline]
    pub(crate) fn prefetch_found(&self, account: &Account) {
        if let Some(number) = self.index.guess(KeyHash::of_account(account)) {
            self.prefetch_record(number);
        }
    }

    #[inline]
    pub(crate) fn prefetch_record(&self, number: AccountIndex) {
        if let Some(record) = self.records.get(number as usize) {
            prefetch(record);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &AccountRecord> {
        self.records.iter()
    }
}
