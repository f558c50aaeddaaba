//! Between wire and typed values. Malformed input is refused here and nowhere later.

mod command;
mod event;
mod frequent;
mod spec;

use bytes::Bytes;
use thiserror::Error;

use crate::code::Code;
use crate::ids::{Account, CommandId, Digest};

pub use command::{
    command_from_wire, decode_command, encode_command, id_of, new_command, read_frequent,
    wire_command,
};
pub use event::{
    event_to_wire, outcome_from_wire, outcome_to_wire, refusal_to_wire, state_to_wire,
    verdict_to_wire, verified_to_wire, wei_to_wire,
};
pub use spec::{
    policy_from_wire, policy_to_wire, role_from_wire, role_to_wire, spec_from_wire, spec_to_wire,
};

/// Why a message was refused at the door.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{message}")]
pub struct Refused {
    /// The refusal code.
    pub code: Code,
    /// What is wrong, naming the field.
    pub message: String,
}

impl Refused {
    /// A refusal with a message.
    pub fn new(code: Code, message: impl Into<String>) -> Refused {
        Refused {
            code,
            message: message.into(),
        }
    }

    fn malformed(message: impl Into<String>) -> Refused {
        Refused::new(Code::Malformed, message)
    }
}

/// 20 bytes as an account.
///
/// # Errors
/// When the length is another one.
pub fn account(bytes: &[u8], field: &str) -> Result<Account, Refused> {
    match bytes.try_into() {
        Ok(account) => Ok(Account(account)),
        Err(_) => Err(Refused::malformed(format!(
            "{field} must have 20 bytes, has {}",
            bytes.len()
        ))),
    }
}

/// 20 bytes as an account, nothing as nobody.
///
/// # Errors
/// When the length is another one.
pub fn account_or_nobody(bytes: &[u8], field: &str) -> Result<Account, Refused> {
    if bytes.is_empty() {
        Ok(Account::NOBODY)
    } else {
        account(bytes, field)
    }
}

/// 32 bytes as a digest.
///
/// # Errors
/// When the length is another one.
pub fn digest(bytes: &[u8], field: &str) -> Result<Digest, Refused> {
    bytes
        .try_into()
        .map_err(|_| Refused::malformed(format!("{field} must have 32 bytes, has {}", bytes.len())))
}

/// 16 bytes as a command id.
///
/// # Errors
/// When the length is another one.
pub fn command_id(bytes: &[u8]) -> Result<CommandId, Refused> {
    match bytes.try_into() {
        Ok(id) => Ok(CommandId(id)),
        Err(_) => Err(Refused::malformed(format!(
            "id must have 16 bytes, has {}",
            bytes.len()
        ))),
    }
}

pub(crate) fn text(value: &str, most: usize, field: &str) -> Result<(), Refused> {
    if value.len() > most {
        return Err(Refused::new(
            Code::TextTooLong,
            format!(
                "{field} has {} bytes, at most {most} are allowed",
                value.len()
            ),
        ));
    }
    Ok(())
}

pub(crate) fn byte(value: u32, field: &str) -> Result<u8, Refused> {
    u8::try_from(value)
        .map_err(|_| Refused::malformed(format!("{field} is {value}, at most 255 is possible")))
}

pub(crate) fn account_bytes(account: &Account) -> Bytes {
    if account.is_nobody() {
        Bytes::new()
    } else {
        Bytes::copy_from_slice(&account.0)
    }
}

pub(crate) fn digest_bytes(digest: &[u8]) -> Bytes {
    Bytes::copy_from_slice(digest)
}
