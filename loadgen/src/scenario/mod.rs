//! What the commands of a run do.
//!
//! Each stream has its own accounts and assets ([`Holdings`]) and its own seeded randomness, so nothing that another stream
//! does can change what a command of this one should come to.

mod holdings;
mod mint;
mod mixed;
mod trade;

use bytes::Bytes;
use karat_proto::v1;

pub use holdings::{Effect, Holdings, Kind, NOBODY, Row};
pub use mint::{CONTENT, MintForm, Mints, TRAITS, content_digest};
pub use mixed::Mixed;
pub use trade::Trades;

/// A command before it has its id, and what it changes if it is accepted.
pub struct Draft {
    /// Who asks.
    pub actor: Bytes,
    /// What is asked for.
    pub command: v1::command::Kind,
    /// What it changes.
    pub effect: Effect,
}

/// Thinks up the commands of one stream, without end.
pub trait Scenario {
    /// The next command, given what the stream believes it holds; the belief moves on with it.
    fn next(&mut self, holdings: &mut Holdings) -> Draft;
}
