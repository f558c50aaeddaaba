//! The accounts that transfers go between: who is drawn, and what each must have at the end.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use karat_loadgen::books::Problems;
use karat_loadgen::truth::Checked;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tigerbeetle as tb;

/// Events in one request, as the server's standard build has it.
pub const EVENTS_MAX: u64 = 8189;
/// The one ledger and code that everything has here: both must be something.
const LEDGER: u32 = 1;
const CODE: u16 = 1;
/// How long one answer of setup and of the check may take.
const ANSWER: Duration = Duration::from_secs(30);

/// What went through an account, by the answers.
#[derive(Clone, Copy, Default)]
struct Moved {
    debits: u128,
    credits: u128,
}

/// The run's accounts, which nobody else has.
pub struct Accounts {
    /// Part of every id.
    run: u64,
    moved: Vec<Moved>,
    random: ChaCha8Rng,
}

impl Accounts {
    /// So many, not made yet.
    pub fn new(run: u64, count: u64, seed: u64) -> Accounts {
        Accounts {
            run,
            moved: vec![Moved::default(); count as usize],
            random: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    fn id(&self, number: usize) -> u128 {
        u128::from(self.run) << 64 | (number as u128 + 1)
    }

    /// A transfer of 1 between two that are drawn evenly.
    pub fn draw(&mut self) -> tb::Transfer {
        let count = self.moved.len();
        let from = self.random.random_range(0..count);
        let to = (from + self.random.random_range(1..count)) % count;
        tb::Transfer {
            // Rising ids are what the server wants.
            id: tb::id(),
            debit_account_id: self.id(from),
            credit_account_id: self.id(to),
            amount: 1,
            ledger: LEDGER,
            code: CODE,
            ..tb::Transfer::default()
        }
    }

    /// A transfer that was answered as made.
    pub fn made(&mut self, transfer: &tb::Transfer) {
        // The low half of an id is the number plus 1.
        let place = |id: u128| (id as u64 - 1) as usize;
        self.moved[place(transfer.debit_account_id)].debits += transfer.amount;
        self.moved[place(transfer.credit_account_id)].credits += transfer.amount;
    }

    /// Makes the accounts.
    ///
    /// # Errors
    /// When the server does not answer, or refuses one.
    pub async fn make(&self, client: &tb::Client) -> Result<()> {
        let accounts: Vec<tb::Account> = (0..self.moved.len())
            .map(|number| tb::Account {
                id: self.id(number),
                ledger: LEDGER,
                code: CODE,
                ..tb::Account::default()
            })
            .collect();
        for some in accounts.chunks(EVENTS_MAX as usize) {
            let made = tokio::time::timeout(ANSWER, client.create_accounts(some))
                .await
                .with_context(|| {
                    format!(
                        "no answer within {} s: is --cluster the server's, and its release one that this client speaks to?",
                        ANSWER.as_secs()
                    )
                })?
                .context("create accounts")?;
            let refused = made.iter().find(|one| !is_account(one.status));
            if let Some(refused) = refused {
                bail!("an account was refused: {:?}", refused.status);
            }
        }
        Ok(())
    }

    /// Asks for every account, and notes what is not as the answers left it.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn check(&self, client: &tb::Client, problems: &mut Problems) -> Result<Checked> {
        let ids: Vec<u128> = (0..self.moved.len())
            .map(|number| self.id(number))
            .collect();
        let mut found = Vec::with_capacity(ids.len());
        for some in ids.chunks(EVENTS_MAX as usize) {
            let asked = tokio::time::timeout(ANSWER, client.lookup_accounts(some)).await;
            found.extend(
                asked
                    .context("no answer in time")?
                    .context("look up accounts")?,
            );
        }
        ensure!(
            found.len() == ids.len(),
            "{} of {} accounts are there",
            found.len(),
            ids.len()
        );
        Ok(self.compare(&found, problems))
    }

    /// What was found, in the accounts' order, beside what the answers say.
    fn compare(&self, found: &[tb::Account], problems: &mut Problems) -> Checked {
        let mut checked = Checked {
            accounts: found.len() as u64,
            ..Checked::default()
        };
        for (account, moved) in found.iter().zip(&self.moved) {
            checked.balance_sum += account.credits_posted as u64;
            checked.deposit_sum += moved.credits as u64;
            if (account.debits_posted, account.credits_posted) != (moved.debits, moved.credits) {
                problems.note(|| {
                    format!(
                        "account {:032x}: {} went out and {} came in, but the answers leave {} and {}",
                        account.id,
                        account.debits_posted,
                        account.credits_posted,
                        moved.debits,
                        moved.credits
                    )
                });
            }
        }
        checked
    }
}

fn is_account(status: tb::CreateAccountStatus) -> bool {
    matches!(
        status,
        tb::CreateAccountStatus::Created | tb::CreateAccountStatus::Exists
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posted(accounts: &Accounts) -> Vec<tb::Account> {
        let one = |(number, moved): (usize, &Moved)| tb::Account {
            id: accounts.id(number),
            debits_posted: moved.debits,
            credits_posted: moved.credits,
            ..tb::Account::default()
        };
        accounts.moved.iter().enumerate().map(one).collect()
    }

    #[test]
    fn transfers_go_between_two_accounts_and_what_was_answered_is_what_must_be_there() {
        let mut accounts = Accounts::new(7, 5, 1);
        for _ in 0..1_000 {
            let transfer = accounts.draw();
            assert_ne!(transfer.debit_account_id, transfer.credit_account_id);
            accounts.made(&transfer);
        }
        let mut problems = Problems::default();
        let found = posted(&accounts);
        let checked = accounts.compare(&found, &mut problems);
        assert_eq!(problems.count, 0);
        assert_eq!(
            (checked.accounts, checked.balance_sum, checked.deposit_sum),
            (5, 1_000, 1_000)
        );
    }

    #[test]
    fn a_transfer_that_was_answered_and_is_not_there_is_found_by_both_accounts() {
        let mut accounts = Accounts::new(7, 5, 1);
        let found = posted(&accounts);
        let transfer = accounts.draw();
        accounts.made(&transfer);
        let mut problems = Problems::default();
        accounts.compare(&found, &mut problems);
        assert_eq!(problems.count, 2);
        assert!(problems.named[0].contains("the answers leave"));
    }
}
