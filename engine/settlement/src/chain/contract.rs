//! The settlement contract's calls, events and errors, generated from the committed artifact.

#![allow(missing_docs, clippy::all)]

ethers_contract::abigen!(
    KaratSettlement,
    "../../deploy/contracts/artifacts/KaratSettlement.json"
);

pub use karat_settlement::*;

/// ABI and bytecode as built by `deploy/contracts/build.sh`.
pub const ARTIFACT: &str =
    include_str!("../../../../deploy/contracts/artifacts/KaratSettlement.json");
