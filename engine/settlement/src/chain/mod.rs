//! Everything that speaks to a chain.

pub mod client;
pub(crate) mod contract;
pub mod embedded;
pub mod hexadecimal;
pub mod signer;
pub mod transport;

pub use contract::ARTIFACT as CONTRACT_ARTIFACT;
