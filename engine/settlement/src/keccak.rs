//! The one place that names a Keccak implementation.

/// Keccak-256 as Ethereum uses it.
pub(crate) fn keccak256(bytes: &[u8]) -> [u8; 32] {
    revm::primitives::keccak256(bytes).0
}
