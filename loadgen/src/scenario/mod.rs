//! What the commands of a run do.
//!
//! A scenario is a file ([`file`]); each stream has a [`Player`] of it, with accounts and assets of its own ([`Holdings`])
//! and its own seeded randomness, so that nothing that another stream does can change what a command of this one should
//! come to. Only contested assets belong to all streams.

mod action;
pub mod changes;
mod effect;
pub mod file;
mod holdings;
mod mint;
mod player;
#[cfg(test)]
mod player_tests;
mod popularity;

use bytes::Bytes;
use karat_proto::v1;

pub use action::Action;
pub use effect::{Effect, Kind, Part};
pub use file::ScenarioFile;
pub use holdings::{Holdings, NOBODY, Row};
pub use mint::{CONTENT, MintForm, TRAITS, content_digest};
pub use player::{Player, Stage};

/// A command before it has its id, and what it changes if it is accepted.
pub struct Draft {
    /// Who asks.
    pub actor: Bytes,
    /// What is asked for.
    pub command: v1::command::Kind,
    /// What it changes in the stream's holdings.
    pub effect: Effect,
    /// The fingerprint of what its events must say.
    pub changes: u64,
    /// A fingerprint of the command that is the same in every run with the same seed, whatever numbers and names that run has.
    pub digest: u64,
}
