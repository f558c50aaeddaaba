//! Seeds by commit and reveal.
//!
//! The owner of a collection publishes `sha256(secret)` before the first asset exists. Every seed is an HMAC of the
//! secret and the asset's index, so nobody can choose a seed that looks lucky: once the secret is revealed, anyone
//! can derive every seed again and compare.

use hmac::{Hmac, Mac};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Bytes of a secret, a commitment and a seed.
pub const SEED_BYTES: usize = 32;

/// Stream of the seed's cipher that latents are drawn from. Streams never overlap.
const LATENT_STREAM: u64 = 1;
/// Stream of the seed's cipher that traits are drawn from.
pub(crate) const TRAIT_STREAM: u64 = 2;

/// Steps between 0 and 1 in a latent. A power of two, so that a value is exact in any float format a model uses.
const LATENT_STEPS: i32 = 64;

/// A secret could not be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SeedError {
    /// The text is not 64 hexadecimal digits.
    #[error(
        "a secret is 64 hexadecimal digits (32 bytes); found {found_characters} characters: {reason}"
    )]
    Secret {
        /// Length of the text.
        found_characters: usize,
        /// Why it was refused. Never holds the text itself.
        reason: &'static str,
    },
}

/// The secret of one collection. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; SEED_BYTES]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret(not shown)")
    }
}

impl Secret {
    /// Takes 32 bytes from a good source of randomness.
    pub fn from_bytes(bytes: [u8; SEED_BYTES]) -> Self {
        Self(bytes)
    }

    /// Reads 64 hexadecimal digits; blanks around them are ignored. The error never repeats the text.
    pub fn from_hex(text: &str) -> Result<Self, SeedError> {
        let text = text.trim();
        let mut bytes = [0; SEED_BYTES];
        hex::decode_to_slice(text, &mut bytes).map_err(|error| SeedError::Secret {
            found_characters: text.chars().count(),
            reason: match error {
                hex::FromHexError::InvalidHexCharacter { .. } => {
                    "a character is not a hexadecimal digit"
                }
                _ => "the length is wrong",
            },
        })?;
        Ok(Self(bytes))
    }

    /// The bytes, for the reveal.
    pub fn reveal(&self) -> [u8; SEED_BYTES] {
        self.0
    }

    /// `sha256(secret)`: what is published before the first asset.
    pub fn commitment(&self) -> [u8; SEED_BYTES] {
        Sha256::digest(self.0).into()
    }

    /// The seed of the asset at `index`: HMAC-SHA256 of the index as 8 big-endian bytes.
    pub fn seed(&self, index: u64) -> [u8; SEED_BYTES] {
        // Same construction as `Hmac::new_from_slice`, which cannot fail for a key of one block or less.
        let mut block = [0u8; 64];
        block[..SEED_BYTES].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(&index.to_be_bytes());
        mac.finalize().into_bytes().into()
    }
}

/// Whether a revealed secret is the one that was committed to.
pub fn verify_reveal(commitment: &[u8; SEED_BYTES], secret: &Secret) -> bool {
    secret.commitment() == *commitment
}

/// The latent of a seed: `length` values in [-1, 1], each a multiple of 1/64, the same on every machine.
pub fn latent_from_seed(seed: &[u8; SEED_BYTES], length: usize) -> Vec<f32> {
    let mut random = ChaCha20Rng::from_seed(*seed);
    random.set_stream(LATENT_STREAM);
    let choices = (2 * LATENT_STEPS + 1) as u64;
    (0..length)
        .map(|_| {
            // Multiply and shift instead of a remainder: uneven by at most 2^-25, and no loop that could differ.
            let step = ((u64::from(random.next_u32()) * choices) >> 32) as i32 - LATENT_STEPS;
            step as f32 / LATENT_STEPS as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_hmac_sha256_of_the_big_endian_index() {
        // Computed with Python: hmac.new(bytes(range(32)), (7).to_bytes(8, "big"), "sha256").hexdigest()
        let secret = Secret::from_bytes(std::array::from_fn(|i| i as u8));
        assert_eq!(
            hex::encode(secret.seed(7)),
            "dd12e3f09e85b8f1646d96744e4ecc0468d4e071ac6be42f731dd79a3bb857e2"
        );
        assert_eq!(
            hex::encode(secret.commitment()),
            "630dcd2966c4336691125448bbb25b4ff412a49c732db2c8abc1b8581bd710dd"
        );
    }

    #[test]
    fn a_reveal_is_accepted_only_for_its_own_commitment() {
        let secret = Secret::from_bytes([9; 32]);
        let mut other = secret.commitment();
        assert!(verify_reveal(&other, &secret));
        other[31] ^= 1;
        assert!(!verify_reveal(&other, &secret));
        assert!(!verify_reveal(
            &secret.commitment(),
            &Secret::from_bytes([8; 32])
        ));
    }

    #[test]
    fn a_secret_is_never_printed_nor_repeated_in_an_error() {
        let text = "ab".repeat(32);
        let secret = Secret::from_hex(&text).unwrap();
        assert!(!format!("{secret:?}").contains("ab"));
        let error = Secret::from_hex("cafe").unwrap_err();
        assert!(!error.to_string().contains("cafe"), "{error}");
        assert!(Secret::from_hex(&"zz".repeat(32)).is_err());
    }

    #[test]
    fn latents_are_exact_multiples_within_range_and_use_all_of_it() {
        let mut seen = std::collections::BTreeSet::new();
        for index in 0..200u64 {
            let seed = Secret::from_bytes([3; 32]).seed(index);
            let latent = latent_from_seed(&seed, 16);
            assert_eq!(latent, latent_from_seed(&seed, 16));
            assert_eq!(
                latent[..4],
                latent_from_seed(&seed, 4),
                "a shorter latent is a prefix"
            );
            for value in latent {
                assert!((-1.0..=1.0).contains(&value));
                assert_eq!((value * 64.0).fract(), 0.0);
                seen.insert((value * 64.0) as i32);
            }
        }
        assert_eq!(seen.len(), 129, "every step from -64 to 64 occurs");
    }

    #[test]
    fn latents_of_a_fixed_seed_never_change() {
        let steps: Vec<i32> = latent_from_seed(&[5; 32], 8)
            .iter()
            .map(|v| (v * 64.0) as i32)
            .collect();
        // Computed with an independent ChaCha20 in Python (stream 1).
        assert_eq!(steps, [-42, -8, 34, 22, 3, -59, -61, -10]);
    }
}
