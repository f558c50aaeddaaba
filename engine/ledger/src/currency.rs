//! Currency: deposits, withdrawals, and the one rule that keeps every sum in range.
//!
//! The sum of all balances never passes [`AMOUNT_MAX`], and balances are never negative, so no single balance can pass it
//! either, whatever exchanges do.

use crate::apply::{Applied, Step};
use crate::state::Ledger;
use karat_proto::event::EventKind;
use karat_proto::{Account, Code};

/// Largest amount, balance, and sum of balances: 2^63 - 1 minor units.
pub const AMOUNT_MAX: u64 = i64::MAX as u64;

impl Ledger {
    pub(crate) fn deposit(
        &mut self,
        step: &mut Step<'_>,
        account: Account,
        amount: u64,
    ) -> Applied {
        if account.is_nobody() {
            return Err(Code::BadReceiver.into());
        }
        let total = self
            .currency_total
            .checked_add(amount)
            .filter(|total| amount > 0 && *total <= AMOUNT_MAX)
            .ok_or(Code::BadAmount)?;
        let number = self.accounts.intern(&account);
        if let Some(balance) = self.accounts.balance_mut(number) {
            *balance += amount;
        }
        self.currency_total = total;
        step.emit_made(|| EventKind::Deposited { account, amount });
        Ok(0)
    }

    /// By the account itself or by the operator.
    pub(crate) fn withdraw(
        &mut self,
        step: &mut Step<'_>,
        account: Account,
        amount: u64,
    ) -> Applied {
        let by_operator = self
            .realm
            .as_ref()
            .is_some_and(|realm| realm.roles.operator == step.actor);
        if step.actor != account && !by_operator {
            return Err(Code::NotAllowed.into());
        }
        if amount == 0 || amount > AMOUNT_MAX {
            return Err(Code::BadAmount.into());
        }
        let number = self
            .accounts
            .find(&account)
            .ok_or(Code::InsufficientFunds)?;
        let balance = self
            .accounts
            .balance(number)
            .checked_sub(amount)
            .ok_or(Code::InsufficientFunds)?;
        self.accounts.set_balance(number, balance);
        self.currency_total -= amount;
        step.emit_made(|| EventKind::Withdrawn { account, amount });
        Ok(0)
    }
}
