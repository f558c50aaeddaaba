//! Accounts, each under a dense number, with their balances.
//!
//! An account is known from the first time it owns, claims or receives something, and is never forgotten: 32 bytes and its
//! share of the index (13 to 32 bytes). Number 0 is nobody.

use super::index::{Index, KeyHash};
use super::slab::Slab;
use crate::look_ahead::prefetch;
use karat_proto::Account;

/// Dense number of an account; 0 is nobody.
pub(crate) type AccountIndex = u32;

/// The number of [`Account::NOBODY`].
pub(crate) const NOBODY: AccountIndex = 0;

/// One account.
#[derive(Clone, Debug)]
pub(crate) struct AccountRecord {
    pub(crate) account: Account,
    pub(crate) balance: u64,
}

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

    pub(crate) fn indexed(&self) -> usize {
        self.index.count(|_| true)
    }

    #[inline]
    pub(crate) fn find(&self, account: &Account) -> Option<AccountIndex> {
        self.find_hashed(KeyHash::of(&account.0), account)
    }

    #[inline]
    fn find_hashed(&self, hash: KeyHash, account: &Account) -> Option<AccountIndex> {
        self.index.find(hash, |number| {
            self.records
                .get(number as usize)
                .is_some_and(|record| record.account == *account)
        })
    }

    /// The account's number, given to it now when it is new. The ledger keeps the count below [`crate::ACCOUNTS_MAX`].
    #[inline]
    pub(crate) fn intern(&mut self, account: &Account) -> AccountIndex {
        let hash = KeyHash::of(&account.0);
        match self.find_hashed(hash, account) {
            Some(number) => number,
            None => self.add_hashed(hash, *account, 0),
        }
    }

    /// Adds an account that is not there, with its balance.
    pub(crate) fn add(&mut self, account: Account, balance: u64) -> AccountIndex {
        self.add_hashed(KeyHash::of(&account.0), account, balance)
    }

    fn add_hashed(&mut self, hash: KeyHash, account: Account, balance: u64) -> AccountIndex {
        let number = self.records.len() as u32;
        self.records.push(AccountRecord { account, balance });
        self.index.insert(hash, number, |_| true);
        number
    }

    /// The account with this number; nobody when there is none.
    #[inline]
    pub(crate) fn account(&self, number: AccountIndex) -> Account {
        self.records
            .get(number as usize)
            .map_or(Account::NOBODY, |record| record.account)
    }

    #[inline]
    pub(crate) fn balance(&self, number: AccountIndex) -> u64 {
        self.records
            .get(number as usize)
            .map_or(0, |record| record.balance)
    }

    #[inline]
    pub(crate) fn set_balance(&mut self, number: AccountIndex, balance: u64) {
        if let Some(record) = self.records.get_mut(number as usize) {
            record.balance = balance;
        }
    }

    #[inline]
    pub(crate) fn prefetch_slot(&self, account: &Account) {
        self.index.prefetch(KeyHash::of(&account.0));
    }

    #[inline]
    pub(crate) fn prefetch_found(&self, account: &Account) {
        if let Some(number) = self.index.guess(KeyHash::of(&account.0)) {
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
