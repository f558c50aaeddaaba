//! As much of the protobuf wire format as ONNX files need.

use thiserror::Error;

/// Bytes that are no protobuf message.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("not an ONNX file, or cut short: {0}")]
pub struct Damaged(pub &'static str);

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Number(u64),
    Bits64(u64),
    Bytes(&'a [u8]),
    Bits32(u32),
}

/// One field of a message, and all its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Field<'a> {
    pub number: u64,
    pub raw: &'a [u8],
    pub value: Value<'a>,
}

impl<'a> Field<'a> {
    /// The bytes of a text or of a message within.
    pub fn bytes(&self) -> Result<&'a [u8], Damaged> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(Damaged("a number in place of a message")),
        }
    }

    /// A whole number; negative ones are written in two's complement.
    pub fn number(&self) -> Result<i64, Damaged> {
        match self.value {
            Value::Number(number) => Ok(number as i64),
            _ => Err(Damaged("something else in place of a number")),
        }
    }

    /// Whole numbers of a repeated field, packed or one at a time.
    pub fn numbers(&self, into: &mut Vec<i64>) -> Result<(), Damaged> {
        match self.value {
            Value::Number(number) => into.push(number as i64),
            Value::Bytes(bytes) => {
                let mut packed = Reader { bytes };
                while !packed.bytes.is_empty() {
                    into.push(packed.varint()? as i64);
                }
            }
            _ => return Err(Damaged("something else in place of a number")),
        }
        Ok(())
    }
}

/// Reads a message field by field.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    pub bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn next(&mut self) -> Result<Option<Field<'a>>, Damaged> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let start = self.bytes;
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Bits64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                Value::Bytes(self.skip(length)?)
            }
            5 => Value::Bits32(u32::from_le_bytes(self.array()?)),
            _ => return Err(Damaged("a field of an unknown kind")),
        };
        Ok(Some(Field {
            number: key >> 3,
            raw: &start[..start.len() - self.bytes.len()],
            value,
        }))
    }

    fn varint(&mut self) -> Result<u64, Damaged> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Damaged("a number without an end"))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<N>() else {
            return Err(Damaged("a field ends after the file"));
        };
        self.bytes = rest;
        Ok(*head)
    }

    fn skip(&mut self, length: usize) -> Result<&'a [u8], Damaged> {
        let Some((head, rest)) = self.bytes.split_at_checked(length) else {
            return Err(Damaged("a field ends after the file"));
        };
        self.bytes = rest;
        Ok(head)
    }
}

/// Appends a number as the wire format writes it.
pub fn write_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}
