//! A secp256k1 key that signs EIP-1559 transactions.

use ethers_core::k256::ecdsa::SigningKey;
use ethers_core::types::transaction::eip2718::TypedTransaction;
use ethers_core::types::{Eip1559TransactionRequest, Signature, U256};
use ethers_core::utils::secret_key_to_address;

use crate::keccak::keccak256;

/// Why a key cannot sign.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The bytes are zero or not below the curve's order.
    #[error("settlement key: these 32 bytes are not a secp256k1 private key")]
    NotAKey,
    /// The curve refused, which a valid key never sees.
    #[error("sign transaction: {reason}")]
    Refused {
        /// The library's words.
        reason: String,
    },
}

/// A private key and its address. Its `Debug` shows the address only.
#[derive(Clone)]
pub struct Signer {
    key: SigningKey,
    address: [u8; 20],
}

/// A transaction ready to be broadcast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedTransaction {
    /// What `eth_sendRawTransaction` takes.
    pub raw: Vec<u8>,
    /// Its hash.
    pub hash: [u8; 32],
}

impl Signer {
    /// A signer from the 32 bytes of its private key.
    pub fn from_bytes(private_key: &[u8; 32]) -> Result<Self, SignerError> {
        let key = SigningKey::from_slice(private_key).map_err(|_| SignerError::NotAKey)?;
        let address = secret_key_to_address(&key).0;
        Ok(Self { key, address })
    }

    /// The account that this key controls.
    pub fn address(&self) -> [u8; 20] {
        self.address
    }

    /// Signs; nonces of the signature are deterministic (RFC 6979), so equal transactions give equal bytes.
    pub fn sign(
        &self,
        transaction: Eip1559TransactionRequest,
    ) -> Result<SignedTransaction, SignerError> {
        let typed = TypedTransaction::Eip1559(transaction);
        let (signature, recovery) = self
            .key
            .sign_prehash_recoverable(typed.sighash().as_bytes())
            .map_err(|error| SignerError::Refused {
                reason: error.to_string(),
            })?;
        let (r, s) = signature.split_bytes();
        let signature = Signature {
            r: U256::from_big_endian(&r),
            s: U256::from_big_endian(&s),
            v: u64::from(recovery.to_byte()),
        };
        let raw = typed.rlp_signed(&signature).to_vec();
        let hash = keccak256(&raw);
        Ok(SignedTransaction { raw, hash })
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Signer(0x{})", hex::encode(self.address))
    }
}
