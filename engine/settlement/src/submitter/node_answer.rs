//! Nodes' refusals of a broadcast.

/// What a node's refusal of a broadcast means. Nodes agree on the words more than on the codes.
pub(super) enum NodeAnswer {
    /// It has these bytes.
    Known,
    /// The nonce is used: a receipt will tell by what.
    NonceUsed,
    /// It wants a higher fee.
    TooCheap,
    /// The account cannot pay.
    Funds,
    Other,
}

impl NodeAnswer {
    pub fn of(message: &str) -> Self {
        let message = message.to_lowercase();
        let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
        if says(&["already known", "already imported", "known transaction"]) {
            Self::Known
        } else if says(&["nonce too low", "nonce is too low"]) {
            Self::NonceUsed
        } else if says(&["underpriced", "less than block base fee", "fee too low"]) {
            Self::TooCheap
        } else if says(&["insufficient funds"]) {
            Self::Funds
        } else {
            Self::Other
        }
    }
}
