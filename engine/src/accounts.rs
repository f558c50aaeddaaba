//! The accounts in which the engine itself acts.

use karat_proto::Account;

use crate::config::RealmConfig;

/// The realm's roles.
#[derive(Debug, Clone, Copy)]
pub struct Roles {
    /// Does what operators do, and ticks.
    pub operator: Account,
    /// Enters verdicts.
    pub verifier: Account,
    /// Reports batches.
    pub settler: Account,
}

impl Roles {
    /// Roles as configured.
    ///
    /// # Errors
    /// When a name is no account.
    pub fn from_config(config: &RealmConfig) -> Result<Roles, String> {
        Ok(Roles {
            operator: Account::parse(&config.operator)?,
            verifier: Account::parse(&config.verifier)?,
            settler: Account::parse(&config.settler)?,
        })
    }
}
