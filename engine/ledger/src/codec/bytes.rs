//! Canonical bytes of plain values: fixed-length little-endian numbers, texts and lists after their length.

use super::CodecError;
use karat_proto::{Account, CommandId, Digest};

/// Writes values one after the other.
pub(crate) trait Put {
    fn put_bytes(&mut self, bytes: &[u8]);

    #[inline(always)]
    fn put_u8(&mut self, value: u8) {
        self.put_bytes(&[value]);
    }
    #[inline(always)]
    fn put_bool(&mut self, value: bool) {
        self.put_u8(u8::from(value));
    }
    #[inline(always)]
    fn put_u16(&mut self, value: u16) {
        self.put_bytes(&value.to_le_bytes());
    }
    #[inline(always)]
    fn put_u32(&mut self, value: u32) {
        self.put_bytes(&value.to_le_bytes());
    }
    #[inline(always)]
    fn put_u64(&mut self, value: u64) {
        self.put_bytes(&value.to_le_bytes());
    }
    #[inline(always)]
    fn put_u128(&mut self, value: u128) {
        self.put_bytes(&value.to_le_bytes());
    }
    /// A list's length. Every list that is written here is bounded far below 2^32.
    #[inline(always)]
    fn put_length(&mut self, length: usize) {
        debug_assert!(length <= u32::MAX as usize);
        self.put_u32(length as u32);
    }
    #[inline(always)]
    fn put_text(&mut self, text: &str) {
        self.put_length(text.len());
        self.put_bytes(text.as_bytes());
    }
}

impl Put for Vec<u8> {
    #[inline]
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A fixed number of bytes at the end of a buffer, written from the first one on; all must be.
///
/// Room is looked for once, and each value's place is known when this is compiled, as long as everything is inlined: values
/// put one by one into a `Vec` cost twice as much.
pub(crate) struct Row<'a, const LENGTH: usize> {
    bytes: &'a mut [u8; LENGTH],
    at: usize,
}

impl<'a, const LENGTH: usize> Row<'a, LENGTH> {
    #[inline(always)]
    pub(crate) fn append(out: &'a mut Vec<u8>) -> Row<'a, LENGTH> {
        out.extend_from_slice(&[0; LENGTH]);
        match out.last_chunk_mut() {
            Some(bytes) => Row { bytes, at: 0 },
            None => unreachable!("so many bytes were added"),
        }
    }
}

impl<const LENGTH: usize> Put for Row<'_, LENGTH> {
    #[inline(always)]
    fn put_bytes(&mut self, bytes: &[u8]) {
        let end = self.at + bytes.len();
        self.bytes[self.at..end].copy_from_slice(bytes);
        self.at = end;
    }
}

/// Reads values one after the other from bytes that may be damaged.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    /// How many bytes were read.
    pub(crate) fn used(&self) -> usize {
        self.at
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Result<&'a [u8], CodecError> {
        let missing = CodecError::Truncated { at: self.at };
        let end = self.at.checked_add(length).ok_or(missing.clone())?;
        let bytes = self.bytes.get(self.at..end).ok_or(missing)?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], CodecError> {
        let mut array = [0; LENGTH];
        array.copy_from_slice(self.bytes(LENGTH)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(u8::from_le_bytes(self.array()?))
    }
    pub(crate) fn bool(&mut self) -> Result<bool, CodecError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.unknown("boolean", other.into())),
        }
    }
    pub(crate) fn u16(&mut self) -> Result<u16, CodecError> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    pub(crate) fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    pub(crate) fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    pub(crate) fn u128(&mut self) -> Result<u128, CodecError> {
        Ok(u128::from_le_bytes(self.array()?))
    }
    pub(crate) fn digest(&mut self) -> Result<Digest, CodecError> {
        self.array()
    }
    pub(crate) fn account(&mut self) -> Result<Account, CodecError> {
        Ok(Account(self.array()?))
    }
    pub(crate) fn command_id(&mut self) -> Result<CommandId, CodecError> {
        Ok(CommandId(self.array()?))
    }
    pub(crate) fn short(&mut self) -> Result<[u8; 16], CodecError> {
        self.array()
    }

    /// A list's length. Each element has at least one byte, so a length beyond what is left is refused before anything is
    /// set aside for it.
    pub(crate) fn length(&mut self) -> Result<usize, CodecError> {
        let at = self.at;
        let length = self.u32()? as usize;
        if length > self.bytes.len() - self.at {
            return Err(CodecError::Truncated { at });
        }
        Ok(length)
    }

    pub(crate) fn text(&mut self) -> Result<String, CodecError> {
        let at = self.at;
        let length = self.length()?;
        let bytes = self.bytes(length)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(CodecError::NotText { at }),
        }
    }

    /// An error about the value that was just read.
    pub(crate) fn unknown(&self, what: &'static str, value: u64) -> CodecError {
        CodecError::Unknown {
            what,
            value,
            at: self.at,
        }
    }
}
