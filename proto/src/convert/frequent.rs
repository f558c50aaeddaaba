//! Frequent commands read straight from their bytes.
//!
//! What clients send has, nearly always, exactly the bytes that encoding the command gives: fields in order, nothing twice,
//! nothing that is zero, numbers in their shortest form. Of such bytes nothing needs to be decoded into a message and encoded
//! again before they go into the log. Anything else is left to the general way, which also has the words for what is wrong.

use crate::command::{Command, CommandKind, Exchange, Leg};
use crate::ids::{Account, CommandId};
use crate::limits;

use super::command::body_hash;

/// Wire types of the encoding.
const VARINT: u64 = 0;
const LENGTH_DELIMITED: u64 = 2;

/// Reads a transfer, claim, exchange, burn, redemption, deposit or withdrawal whose bytes are exactly what encoding it gives.
/// Nothing of any other bytes, which `super::decode_command` reads or refuses.
pub(super) fn read(bytes: &[u8]) -> Option<Command> {
    if bytes.len() > limits::COMMAND_BYTES_MAX {
        return None;
    }
    let mut fields = Fields { left: bytes };
    let id = CommandId(fields.array(1)?);
    let actor = Account(fields.array(2)?);
    if fields.number(3)? > u64::from(limits::COMMAND_FORMAT) {
        return None;
    }
    let (tag, body) = fields.message()?;
    if !fields.left.is_empty() {
        return None;
    }
    let mut fields = Fields { left: body };
    let kind = match tag {
        15 => CommandKind::Transfer {
            asset: fields.number(1)?,
            version: fields.small_number(2)?,
            to: Account(fields.array(3)?),
        },
        16 => CommandKind::Claim {
            asset: fields.number(1)?,
            version: fields.small_number(2)?,
        },
        17 => CommandKind::Exchange(exchange(&mut fields)?),
        18 => CommandKind::Burn {
            asset: fields.number(1)?,
            version: fields.small_number(2)?,
        },
        19 => CommandKind::Redeem {
            asset: fields.number(1)?,
            version: fields.small_number(2)?,
            to: Account(fields.array(3)?),
        },
        20 => CommandKind::Deposit {
            account: Account(fields.array(1)?),
            amount: fields.number(2)?,
        },
        21 => CommandKind::Withdraw {
            account: Account(fields.array(1)?),
            amount: fields.number(2)?,
        },
        _ => return None,
    };
    fields.left.is_empty().then(|| Command {
        id,
        actor,
        body_hash: body_hash(bytes),
        kind,
    })
}

fn exchange(fields: &mut Fields<'_>) -> Option<Exchange> {
    // Two accounts with key and length are 44 bytes of a leg, which has 2 of its own.
    let mut legs = Vec::with_capacity((fields.left.len() / 46).min(limits::EXCHANGE_LEGS_MAX));
    while fields.pass(1, LENGTH_DELIMITED) {
        let mut leg = Fields {
            left: fields.delimited()?,
        };
        let (from, to) = (Account(leg.array(1)?), Account(leg.array(2)?));
        let (asset, version, amount) = (leg.number(3)?, leg.small_number(4)?, leg.number(5)?);
        legs.push(match (asset, amount) {
            (0, amount) => Leg::Currency { from, to, amount },
            (asset, 0) => Leg::Asset {
                asset,
                version,
                from,
                to,
            },
            _ => return None,
        });
        if !leg.left.is_empty() {
            return None;
        }
    }
    let mut consents = Vec::with_capacity((fields.left.len() / 22).min(limits::EXCHANGE_LEGS_MAX));
    while fields.pass(2, LENGTH_DELIMITED) {
        consents.push(Account(fields.delimited()?.try_into().ok()?));
    }
    let most = limits::EXCHANGE_LEGS_MAX;
    let counts_fit = !legs.is_empty() && legs.len() <= most && consents.len() <= most;
    counts_fit.then(|| Exchange {
        legs: legs.into(),
        consents: consents.into(),
    })
}

/// The fields of a message, from the first to the last.
struct Fields<'a> {
    left: &'a [u8],
}

impl<'a> Fields<'a> {
    /// A number in its shortest form.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (index, byte) in self.left.iter().enumerate().take(10) {
            let bits = u64::from(byte & 0x7f);
            if index == 9 && bits > 1 {
                return None;
            }
            value |= bits << (7 * index);
            if byte & 0x80 == 0 {
                // A last byte without bits could have been left out.
                if *byte == 0 && index > 0 {
                    return None;
                }
                self.left = &self.left[index + 1..];
                return Some(value);
            }
        }
        None
    }

    /// Passes the key of a field; false when another field comes, or none.
    fn pass(&mut self, tag: u64, wire_type: u64) -> bool {
        // Every field that is asked for by number has a key of one byte.
        let key = (tag << 3 | wire_type) as u8;
        match self.left.split_first() {
            Some((first, rest)) if *first == key => {
                self.left = rest;
                true
            }
            _ => false,
        }
    }

    /// A number: 0 where the field is left out; nothing where it says 0.
    fn number(&mut self, tag: u64) -> Option<u64> {
        match self.pass(tag, VARINT) {
            true => self.varint().filter(|value| *value != 0),
            false => Some(0),
        }
    }

    fn small_number(&mut self, tag: u64) -> Option<u32> {
        self.number(tag)?.try_into().ok()
    }

    fn delimited(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.left.split_at_checked(length)?;
        self.left = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self, tag: u64) -> Option<[u8; N]> {
        match self.pass(tag, LENGTH_DELIMITED) {
            true => self.delimited()?.try_into().ok(),
            false => None,
        }
    }

    /// A message in a field of any number.
    fn message(&mut self) -> Option<(u64, &'a [u8])> {
        let key = self.varint()?;
        let body = self.delimited()?;
        (key & 7 == LENGTH_DELIMITED).then_some((key >> 3, body))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::read;
    use crate::convert::{command_from_wire, encode_command, wire_command};
    use crate::v1::{self, command::Kind};

    fn account() -> impl Strategy<Value = Bytes> {
        // Mostly as long as accounts are.
        prop_oneof![9 => any::<[u8; 20]>().prop_map(|bytes| Bytes::copy_from_slice(&bytes)),
            1 => vec(any::<u8>(), 0..24).prop_map(Bytes::from)]
    }

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), 1..300_u64, any::<u64>()]
    }

    fn leg() -> impl Strategy<Value = v1::Leg> {
        (
            account(),
            account(),
            number(),
            0..3_u32,
            number(),
            any::<bool>(),
        )
            .prop_map(|(from, to, asset, version, amount, currency)| v1::Leg {
                from,
                to,
                asset: if currency { 0 } else { asset },
                version,
                amount: if currency { amount } else { 0 },
            })
    }

    fn kind() -> impl Strategy<Value = Kind> {
        let legs = (vec(leg(), 0..5), vec(account(), 0..4));
        prop_oneof![
            (number(), any::<u32>(), account()).prop_map(|(asset, version, to)| Kind::Transfer(
                v1::Transfer { asset, version, to }
            )),
            (number(), any::<u32>())
                .prop_map(|(asset, version)| Kind::Claim(v1::Claim { asset, version })),
            legs.prop_map(|(legs, consents)| Kind::Exchange(v1::Exchange { legs, consents })),
            (number(), any::<u32>())
                .prop_map(|(asset, version)| Kind::Burn(v1::Burn { asset, version })),
            (number(), any::<u32>(), account())
                .prop_map(|(asset, version, to)| Kind::Redeem(v1::Redeem { asset, version, to })),
            (account(), number())
                .prop_map(|(account, amount)| Kind::Deposit(v1::Deposit { account, amount })),
            (account(), number())
                .prop_map(|(account, amount)| Kind::Withdraw(v1::Withdraw { account, amount })),
            any::<bool>().prop_map(|paused| Kind::Pause(v1::Pause { paused })),
        ]
    }

    fn wire() -> impl Strategy<Value = v1::Command> {
        let id = any::<[u8; 16]>().prop_map(|bytes| Bytes::copy_from_slice(&bytes));
        (id, account(), 0..3_u32, proptest::option::of(kind())).prop_map(
            |(id, actor, format, kind)| v1::Command {
                id,
                actor,
                format,
                kind,
            },
        )
    }

    /// Whatever is read here is what the general way makes of it, and the log would hold the same bytes.
    fn agrees_with_the_general_way(bytes: &[u8]) -> Result<bool, TestCaseError> {
        let Some(read) = read(bytes) else {
            return Ok(false);
        };
        let wire = wire_command(bytes).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let (body, command) = encode_command(wire)
            .map_err(|error| TestCaseError::fail(format!("refused: {error}")))?;
        prop_assert_eq!(&body[..], bytes);
        prop_assert_eq!(read, command);
        Ok(true)
    }

    fn is_frequent(wire: &v1::Command) -> bool {
        !matches!(wire.kind, Some(Kind::Pause(_)) | None)
    }

    proptest! {
        #[test]
        fn every_well_formed_frequent_command_is_read_and_reads_as_the_general_way_does(wire in wire()) {
            let bytes = wire.encode_to_vec();
            let was_read = agrees_with_the_general_way(&bytes)?;
            let well_formed = command_from_wire(wire.clone(), [0; 16]).is_ok();
            prop_assert_eq!(was_read, well_formed && is_frequent(&wire));
        }

        #[test]
        fn changed_bytes_are_never_read_as_something_else(
            wire in wire(),
            changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in proptest::option::of(any::<prop::sample::Index>()),
            more in vec(any::<u8>(), 0..4),
        ) {
            let mut bytes = wire.encode_to_vec();
            if bytes.is_empty() {
                bytes.push(0);
            }
            for (place, value) in changes {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes.extend_from_slice(&more);
            agrees_with_the_general_way(&bytes)?;
        }

        #[test]
        fn fields_twice_and_out_of_order_are_left_to_the_general_way(one in wire(), other in wire()) {
            // Two messages one after the other are one message, whose later fields win.
            let mut bytes = one.encode_to_vec();
            bytes.extend_from_slice(&other.encode_to_vec());
            agrees_with_the_general_way(&bytes)?;
        }
    }

    #[test]
    fn a_number_longer_than_it_must_be_is_left_to_the_general_way() {
        let wire = v1::Command {
            id: Bytes::from_static(&[7; 16]),
            actor: Bytes::from_static(&[1; 20]),
            format: 1,
            kind: Some(Kind::Claim(v1::Claim {
                asset: 5,
                version: 1,
            })),
        };
        let bytes = wire.encode_to_vec();
        assert!(read(&bytes).is_some());
        // The format is the varint behind the key 0x18.
        let place = 40;
        assert_eq!(bytes[place..place + 2], [0x18, 1]);
        let long = [&bytes[..place + 1], &[0x81, 0], &bytes[place + 2..]].concat();
        assert_eq!(wire_command(&long[..]), Ok(wire));
        assert!(read(&long).is_none());
    }
}
