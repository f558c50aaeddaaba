//! The settlement contract's calls, events and errors, generated from the committed artifact.

#![allow(missing_docs, clippy::all)]

ethers_contract::abigen!(
    SettlementContract,
    "../../deploy/contracts/artifacts/KaratSettlement.json"
);

pub use settlement_contract::*;

/// ABI and bytecode as built by `deploy/contracts/build.sh`.
pub const ARTIFACT: &str =
    include_str!("../../../../deploy/contracts/artifacts/KaratSettlement.json");
