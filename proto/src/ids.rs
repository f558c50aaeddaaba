//! Small identifying values: who, which, and the digests that pin content.

use std::fmt;

/// A sha2-256 or blake3 digest; the field that holds it says which.
pub type Digest = [u8; 32];

/// The realm-wide number of an asset: dense, starting at 1, given by the ledger at mint. It is the ERC-721 token id too.
pub type AssetId = u64;

/// The realm-wide number of a collection: dense, starting at 1.
pub type CollectionId = u32;

/// Who owns, asks or decides: 20 bytes, the shape of an EVM address, so that a redeemed asset can go to its owner.
///
/// A back end whose players have no address derives one with [`Account::from_name`].
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account(pub [u8; 20]);

impl Account {
    /// Nobody: the owner of an asset that is open for claims.
    pub const NOBODY: Account = Account([0; 20]);

    /// The account that stands for a name: the first 20 bytes of blake3 over `karat.account:` and the name.
    pub fn from_name(name: &str) -> Account {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"karat.account:");
        hasher.update(name.as_bytes());
        let mut account = [0; 20];
        account.copy_from_slice(&hasher.finalize().as_bytes()[..20]);
        Account(account)
    }

    /// Reads `0x` and 40 hex digits as an address, and anything else as a name.
    ///
    /// # Errors
    /// Says what is wrong when the text begins with `0x` but is not an address, or is empty.
    pub fn parse(text: &str) -> Result<Account, String> {
        let Some(digits) = text.strip_prefix("0x") else {
            if text.is_empty() {
                return Err("an account is 0x and 40 hex digits, or a name; it is empty".into());
            }
            return Ok(Account::from_name(text));
        };
        let mut account = [0; 20];
        hex::decode_to_slice(digits, &mut account)
            .map_err(|_| format!("account {text}: 0x must be followed by 40 hex digits"))?;
        Ok(Account(account))
    }

    /// Whether this is [`Account::NOBODY`].
    pub fn is_nobody(&self) -> bool {
        *self == Account::NOBODY
    }
}

impl fmt::Display for Account {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "0x{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// The client-chosen 128-bit id of a command; it makes retries safe.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub [u8; 16]);

impl fmt::Display for CommandId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for CommandId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}
