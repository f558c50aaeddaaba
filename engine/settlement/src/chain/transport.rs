//! The seam to a chain: one JSON-RPC request, one answer.

use async_trait::async_trait;
use serde_json::Value;

/// Why a request has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RpcError {
    /// No answer came. Whether the node did what was asked is unknown.
    #[error("chain node cannot be reached for {method}: {reason}")]
    Unreachable {
        /// The method asked for.
        method: String,
        /// What went wrong.
        reason: String,
    },
    /// The node answered with an error.
    #[error("chain node refused: {message} (code {code})")]
    Node {
        /// JSON-RPC error code; 3 is a revert, -32601 an unknown method, -32602 bad parameters.
        code: i64,
        /// The node's words.
        message: String,
        /// Further data, for a revert its ABI-encoded reason as a hex string.
        data: Option<Value>,
    },
    /// The node answered something that is not what the method promises.
    #[error("chain node gave a bad answer to {method}: {reason}")]
    BadAnswer {
        /// The method asked for.
        method: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

/// Carries JSON-RPC requests to one chain.
///
/// An implementation bounds its own time: a request that never answers becomes
/// [`RpcError::Unreachable`]. It does not retry; the callers know what is safe to repeat.
#[async_trait]
pub trait RpcTransport: Send + Sync {
    /// Sends one request. `params` is the JSON array of parameters.
    async fn request(&self, method: &str, params: Value) -> Result<Value, RpcError>;
}
