//! What a player can do, as scenario files name it.

use karat_proto::Code;
use serde::Deserialize;

/// What a player can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A new asset for one of the stream's accounts.
    Mint,
    /// An asset to another account.
    Transfer,
    /// Assets for currency.
    Exchange,
    /// An asset that nobody owns and no other stream claims; a transfer when none is left.
    Claim,
    /// An asset that all streams claim.
    Contest,
    /// New content for an asset.
    Revise,
    /// A transfer in a version that the asset never had.
    StaleVersion,
    /// A transfer of what belongs to another.
    NotOwner,
    /// A transfer of what does not exist.
    UnknownAsset,
    /// A claim of what has an owner.
    AlreadyOwned,
    /// A payment that nobody could afford.
    NoFunds,
    /// An exchange that the giver did not agree to.
    NoConsent,
    /// A transfer to an account of three bytes.
    Malformed,
}

impl Action {
    /// As scenario files name it.
    pub fn name(self) -> &'static str {
        match self {
            Action::Mint => "mint",
            Action::Transfer => "transfer",
            Action::Exchange => "exchange",
            Action::Claim => "claim",
            Action::Contest => "contest",
            Action::Revise => "revise",
            Action::StaleVersion => "stale_version",
            Action::NotOwner => "not_owner",
            Action::UnknownAsset => "unknown_asset",
            Action::AlreadyOwned => "already_owned",
            Action::NoFunds => "no_funds",
            Action::NoConsent => "no_consent",
            Action::Malformed => "malformed",
        }
    }

    /// The refusal that it must get; `None` for what should be accepted or may be.
    pub fn refused_with(self) -> Option<Code> {
        match self {
            Action::StaleVersion => Some(Code::StaleVersion),
            Action::NotOwner => Some(Code::NotOwner),
            Action::UnknownAsset => Some(Code::UnknownAsset),
            Action::AlreadyOwned => Some(Code::AlreadyOwned),
            Action::NoFunds => Some(Code::InsufficientFunds),
            Action::NoConsent => Some(Code::ConsentMissing),
            Action::Malformed => Some(Code::Malformed),
            _ => None,
        }
    }
}
