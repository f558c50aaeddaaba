//! Everything that speaks to a chain.

pub mod client;
mod client_types;
pub(crate) mod contract;
pub mod embedded;
pub mod hexadecimal;
pub mod signer;
pub mod transport;

pub use contract::ARTIFACT as CONTRACT_ARTIFACT;
