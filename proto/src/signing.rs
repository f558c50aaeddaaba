//! What a model's signature says, and whether it is one: Ed25519 over a message that can be nothing else.
//!
//! The message is, byte by byte:
//!
//! | bytes | what |
//! | --- | --- |
//! | 15 | the ASCII text `karat model v1` and one zero byte |
//! | 1 | role: 1 generator, 2 auditor |
//! | 32 | the model's digest |
//! | 4 | length of the name, big-endian |
//! | ... | the name, as the registry shows it: the manifest's name, a space, its version |
//!
//! The digest covers every file of the model; role and name are in the message as well because the registry is told them
//! beside the digest, and must not be told others.
//!
//! Verification is strict (no small-order points, no second form of one signature), takes no clock or randomness, and gives
//! the same answer on every machine: the ledger relies on it when a log is replayed.

pub use ed25519_dalek::SigningKey;
use ed25519_dalek::{Signature, VerifyingKey};

use crate::command::ModelRole;
use crate::ids::Digest;

/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

/// Domain of the message. A change of its form needs a new one.
const DOMAIN: &[u8; 15] = b"karat model v1\0";

/// An Ed25519 public key.
pub type ModelKey = [u8; 32];

/// Who signed a model, and the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelSignature {
    /// The signer's public key.
    pub key: ModelKey,
    /// The signature.
    pub signature: [u8; SIGNATURE_BYTES],
}

impl ModelSignature {
    /// Signs a model. Ed25519 needs no randomness: the same key and model give the same signature.
    pub fn make(secret: &SigningKey, digest: &Digest, role: ModelRole, name: &str) -> Self {
        use ed25519_dalek::Signer as _;
        ModelSignature {
            key: secret.verifying_key().to_bytes(),
            signature: secret.sign(&message(digest, role, name)).to_bytes(),
        }
    }

    /// Whether this is the key's signature of this model. Some 50 microseconds.
    pub fn is_of(&self, digest: &Digest, role: ModelRole, name: &str) -> bool {
        let signature = Signature::from_bytes(&self.signature);
        is_model_key(&self.key)
            && VerifyingKey::from_bytes(&self.key).is_ok_and(|key| {
                key.verify_strict(&message(digest, role, name), &signature)
                    .is_ok()
            })
    }
}

/// Whether these bytes are a public key that can sign: a point of the curve in its one form, and not one of the few that
/// verify anything.
pub fn is_model_key(key: &ModelKey) -> bool {
    VerifyingKey::from_bytes(key)
        .is_ok_and(|point| !point.is_weak() && point.to_edwards().compress().to_bytes() == *key)
}

/// A short name for a key: the first 8 bytes of its sha2-256.
pub fn key_id(key: &ModelKey) -> [u8; 8] {
    use sha2::Digest as _;
    let hash: [u8; 32] = sha2::Sha256::digest(key).into();
    let mut id = [0; 8];
    id.copy_from_slice(&hash[..8]);
    id
}

/// A model's name as the registry shows it and as signatures cover it.
pub fn registry_name(name: &str, version: &str) -> String {
    format!("{name} {version}")
}

/// The message that is signed.
pub fn message(digest: &Digest, role: ModelRole, name: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(DOMAIN.len() + 1 + 32 + 4 + name.len());
    message.extend_from_slice(DOMAIN);
    message.push(match role {
        ModelRole::Generator => 1,
        ModelRole::Auditor => 2,
    });
    message.extend_from_slice(digest);
    // A name is at most 129 bytes long in a manifest and 64 in the registry.
    message.extend_from_slice(&(name.len() as u32).to_be_bytes());
    message.extend_from_slice(name.as_bytes());
    message
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    fn secret(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    #[test]
    fn the_message_has_the_documented_bytes() {
        let message = message(&[0xab; 32], ModelRole::Auditor, "relics 1.0.0");
        let expected = format!(
            "{}02{}0000000c{}",
            hex::encode("karat model v1\0"),
            "ab".repeat(32),
            hex::encode("relics 1.0.0")
        );
        assert_eq!(hex::encode(message), expected);
    }

    #[test]
    fn a_signature_of_old_still_holds() {
        // OpenSSL gives the same bytes for this key and message.
        let signed = ModelSignature::make(&secret(7), &[1; 32], ModelRole::Generator, "a 1");
        assert_eq!(
            hex::encode(signed.key),
            "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c"
        );
        assert_eq!(
            hex::encode(signed.signature),
            "2208486b38b68bff8965ad64dda1370f57cf740e0573e2561bc5a035afb194e43260aac783bb7a7ed59fc11cfe16bd451415fffc037778683416aa3db72ed301"
        );
        assert_eq!(hex::encode(key_id(&signed.key)), "fe812c12f3ab4ce6");
        assert!(signed.is_of(&[1; 32], ModelRole::Generator, "a 1"));
    }

    #[test]
    fn keys_that_are_no_points_or_verify_anything_are_no_model_keys() {
        assert!(is_model_key(&secret(1).verifying_key().to_bytes()));
        let mut identity = [0; 32];
        identity[0] = 1;
        for key in [[0; 32], identity, [0xff; 32]] {
            assert!(!is_model_key(&key), "{key:?}");
            // With the zero signature a lax verifier would take the identity's word for any message.
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(&identity);
            let forged = ModelSignature { key, signature };
            assert!(!forged.is_of(&[1; 32], ModelRole::Generator, "a 1"));
        }
    }

    proptest! {
        #[test]
        fn only_what_was_signed_by_this_key_is_signed(
            digest in any::<[u8; 32]>(),
            name in "[ -~]{0,64}",
            seed in any::<u8>(),
            flip in 0..(32 + 32 + 64) * 8_usize,
        ) {
            let role = ModelRole::Generator;
            let signed = ModelSignature::make(&secret(seed), &digest, role, &name);
            prop_assert!(signed.is_of(&digest, role, &name));
            prop_assert!(!signed.is_of(&digest, ModelRole::Auditor, &name));
            let longer = name.clone() + " ";
            prop_assert!(!signed.is_of(&digest, role, &longer));
            let (byte, bit) = (flip / 8, 1 << (flip % 8));
            let (mut other, mut altered) = (signed, digest);
            match byte {
                0..32 => altered[byte] ^= bit,
                32..64 => other.key[byte - 32] ^= bit,
                _ => other.signature[byte - 64] ^= bit,
            }
            prop_assert!(!other.is_of(&altered, role, &name));
        }
    }
}
