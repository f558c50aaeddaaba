//! The unit the sequencer appends: a header and the bodies of its commands, with one canonical encoding.
//!
//! Layout, all integers little-endian:
//!
//! ```text
//! format u8 | realm length u8, realm | epoch u64 | first sequence u64 | time ms u64 | parent 32
//! | ingress count u16, each: topic length u16, topic, partition i32, offset i64
//! | body count u32, each: length u32, body
//! ```
//!
//! There is exactly one encoding of a block: fields have fixed widths, ingress positions rise strictly by
//! topic and partition, and nothing may follow the last body. So a hash names a block.

use bytes::Bytes;

/// A blake3 hash of an encoded block.
pub type Hash = [u8; 32];

/// The parent of a log's first block.
pub const NO_PARENT: Hash = [0; 32];

/// Most bytes in a realm's name.
pub const REALM_BYTES_MAX: usize = 64;
/// Most bytes in an ingress topic's name: Kafka's own limit.
pub const TOPIC_BYTES_MAX: usize = 249;
/// Most ingress positions in one block.
pub const INGRESS_COUNT_MAX: usize = 1024;

/// The encoding this code writes and reads.
const BLOCK_FORMAT: u8 = 1;
/// Bytes of an encoded block besides realm, ingress and bodies:
/// format 1 + realm length 1 + epoch 8 + sequence 8 + time 8 + parent 32 + ingress count 2 + body count 4.
const FIXED_BYTES: usize = 64;
/// Bytes that precede each body.
pub(crate) const BODY_PREFIX_BYTES: usize = 4;

/// How far a block consumed one partition of a Kafka ingress topic: the next offset to read after a restart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IngressOffset {
    /// The topic's name, at most [`TOPIC_BYTES_MAX`] bytes.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The next offset to consume.
    pub offset: i64,
}

/// What is said about a block besides its commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockHeader {
    /// The realm's name, at most [`REALM_BYTES_MAX`] bytes.
    pub realm: String,
    /// The term of the leader that wrote the block; never falls within the valid blocks of a log.
    pub epoch: u64,
    /// The sequence of the first command. An epoch marker names the sequence that comes next.
    pub first_sequence: u64,
    /// Milliseconds since 1970; never falls from block to block.
    pub time_ms: u64,
    /// The hash of the block before, [`NO_PARENT`] for the first.
    pub parent: Hash,
    /// Ingress positions after this block, rising by topic and partition; empty on the journal.
    pub ingress: Vec<IngressOffset>,
}

/// A decoded block. Without bodies it is an epoch marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What is said about the block.
    pub header: BlockHeader,
    /// The commands' bytes, in order; the first has `header.first_sequence`.
    pub bodies: Vec<Bytes>,
}

/// Why bytes are not a block, or a block cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The bytes end inside a field.
    #[error("block ends at byte {at} inside its {field}")]
    Truncated {
        /// Where the bytes end.
        at: usize,
        /// The field being read.
        field: &'static str,
    },
    /// Bytes follow the last body.
    #[error("{count} bytes follow the block's last body")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// A format this code does not know.
    #[error(
        "block format {found} is not known here (this program reads format {BLOCK_FORMAT}); use a newer program"
    )]
    UnknownFormat {
        /// The format found.
        found: u8,
    },
    /// A name is too long or not UTF-8.
    #[error("block's {field} is not valid: {reason}")]
    Name {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Ingress positions do not rise strictly, or are too many.
    #[error(
        "block's ingress positions must rise by topic and partition and be at most {INGRESS_COUNT_MAX}"
    )]
    Ingress,
    /// A body or the count of bodies does not fit its field.
    #[error("block's bodies do not fit the encoding: {what}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
    },
    /// Sequences start at 1 and may not overflow.
    #[error("block's first sequence {first_sequence} with {count} commands is out of range")]
    Sequence {
        /// The sequence found.
        first_sequence: u64,
        /// The count of commands.
        count: usize,
    },
}

impl Block {
    /// The canonical bytes.
    pub fn encode(&self) -> Result<Bytes, BlockError> {
        let mut encoded = EncodedBlock::new();
        self.encode_into(&mut encoded)?;
        Ok(Bytes::from(encoded.bytes))
    }

    /// Encodes into a reusable buffer.
    pub fn encode_into(&self, encoded: &mut EncodedBlock) -> Result<(), BlockError> {
        encoded.begin(&self.header, self.bodies.len())?;
        for body in &self.bodies {
            encoded.push(body)?;
        }
        encoded.finish()
    }

    /// Decodes canonical bytes; bodies share the memory of `bytes`.
    pub fn decode(bytes: &Bytes) -> Result<Self, BlockError> {
        let mut cursor = Cursor { bytes, at: 0 };
        let format = cursor.take(1, "format")?[0];
        if format != BLOCK_FORMAT {
            return Err(BlockError::UnknownFormat { found: format });
        }
        let realm_length = usize::from(cursor.take(1, "realm")?[0]);
        let realm = name(
            cursor.take(realm_length, "realm")?,
            "realm",
            REALM_BYTES_MAX,
        )?;
        let epoch = cursor.u64("epoch")?;
        let first_sequence = cursor.u64("first sequence")?;
        let time_ms = cursor.u64("time")?;
        let mut parent = NO_PARENT;
        parent.copy_from_slice(cursor.take(32, "parent")?);
        let ingress_count = usize::from(cursor.u16("ingress count")?);
        if ingress_count > INGRESS_COUNT_MAX {
            return Err(BlockError::Ingress);
        }
        let mut ingress = Vec::with_capacity(ingress_count);
        for _ in 0..ingress_count {
            let topic_length = usize::from(cursor.u16("topic")?);
            let topic = name(
                cursor.take(topic_length, "topic")?,
                "topic",
                TOPIC_BYTES_MAX,
            )?;
            let partition = i32::from_le_bytes(cursor.array("partition")?);
            let offset = i64::from_le_bytes(cursor.array("offset")?);
            ingress.push(IngressOffset {
                topic,
                partition,
                offset,
            });
        }
        check_ingress(&ingress)?;
        let body_count = u32::from_le_bytes(cursor.array("body count")?) as usize;
        check_sequence(first_sequence, body_count)?;
        // A count is only believed as far as the bytes could hold it, so a wrong one reserves no memory.
        let mut bodies =
            Vec::with_capacity(body_count.min((bytes.len() - cursor.at) / BODY_PREFIX_BYTES));
        for _ in 0..body_count {
            let length = u32::from_le_bytes(cursor.array("body length")?) as usize;
            let start = cursor.at;
            cursor.take(length, "body")?;
            bodies.push(bytes.slice(start..start + length));
        }
        if cursor.at != bytes.len() {
            return Err(BlockError::TrailingBytes {
                count: bytes.len() - cursor.at,
            });
        }
        let header = BlockHeader {
            realm,
            epoch,
            first_sequence,
            time_ms,
            parent,
            ingress,
        };
        Ok(Self { header, bodies })
    }

    /// The block's hash: blake3 of its encoded bytes.
    pub fn hash(&self) -> Result<Hash, BlockError> {
        let mut encoded = EncodedBlock::new();
        self.encode_into(&mut encoded)?;
        Ok(encoded.hash)
    }

    /// The sequence of the last command; `first_sequence - 1` for an epoch marker.
    pub fn last_sequence(&self) -> u64 {
        self.header.first_sequence + self.bodies.len() as u64 - 1
    }

    /// Whether the block holds no command and only raises the epoch.
    pub fn is_epoch_marker(&self) -> bool {
        self.bodies.is_empty()
    }
}

/// A block in its canonical encoding, in a buffer that is used again for the next block.
#[derive(Debug, Clone, Default)]
pub struct EncodedBlock {
    bytes: Vec<u8>,
    hash: Hash,
    first_sequence: u64,
    epoch: u64,
    time_ms: u64,
    expected: usize,
    pushed: usize,
}

impl EncodedBlock {
    /// An empty buffer; encode something before reading it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a block of exactly `count` bodies.
    pub fn begin(&mut self, header: &BlockHeader, count: usize) -> Result<(), BlockError> {
        if header.realm.len() > REALM_BYTES_MAX {
            return Err(too_long("realm", REALM_BYTES_MAX));
        }
        check_ingress(&header.ingress)?;
        check_sequence(header.first_sequence, count)?;
        let body_count = u32::try_from(count).map_err(|_| BlockError::TooLarge {
            what: "count of bodies",
        })?;
        let bytes = &mut self.bytes;
        bytes.clear();
        bytes.push(BLOCK_FORMAT);
        bytes.push(header.realm.len() as u8); // at most 64
        bytes.extend_from_slice(header.realm.as_bytes());
        bytes.extend_from_slice(&header.epoch.to_le_bytes());
        bytes.extend_from_slice(&header.first_sequence.to_le_bytes());
        bytes.extend_from_slice(&header.time_ms.to_le_bytes());
        bytes.extend_from_slice(&header.parent);
        bytes.extend_from_slice(&(header.ingress.len() as u16).to_le_bytes()); // at most 1024
        for position in &header.ingress {
            bytes.extend_from_slice(&(position.topic.len() as u16).to_le_bytes()); // at most 249
            bytes.extend_from_slice(position.topic.as_bytes());
            bytes.extend_from_slice(&position.partition.to_le_bytes());
            bytes.extend_from_slice(&position.offset.to_le_bytes());
        }
        bytes.extend_from_slice(&body_count.to_le_bytes());
        self.first_sequence = header.first_sequence;
        self.epoch = header.epoch;
        self.time_ms = header.time_ms;
        self.expected = count;
        self.pushed = 0;
        Ok(())
    }

    /// Adds the next body.
    pub fn push(&mut self, body: &[u8]) -> Result<(), BlockError> {
        let length =
            u32::try_from(body.len()).map_err(|_| BlockError::TooLarge { what: "a body" })?;
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(body);
        self.pushed += 1;
        Ok(())
    }

    /// Ends the block and hashes it.
    pub fn finish(&mut self) -> Result<(), BlockError> {
        if self.pushed != self.expected {
            return Err(BlockError::TooLarge {
                what: "bodies pushed differ from the count begun with",
            });
        }
        self.hash = *blake3::hash(&self.bytes).as_bytes();
        Ok(())
    }

    /// The canonical bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// blake3 of the canonical bytes.
    pub fn hash(&self) -> &Hash {
        &self.hash
    }

    /// The sequence of the first command.
    pub fn first_sequence(&self) -> u64 {
        self.first_sequence
    }

    /// The sequence of the last command; `first_sequence - 1` for an epoch marker.
    pub fn last_sequence(&self) -> u64 {
        self.first_sequence + self.expected as u64 - 1
    }

    /// How many commands the block holds.
    pub fn command_count(&self) -> usize {
        self.expected
    }

    /// The block's epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The block's time in milliseconds since 1970.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }
}

/// The most bytes an encoded block takes beside its bodies and their prefixes.
pub(crate) fn header_bytes(realm: &str, ingress: &[IngressOffset]) -> usize {
    // Topic length 2, partition 4, offset 8.
    FIXED_BYTES
        + realm.len()
        + ingress
            .iter()
            .map(|position| 14 + position.topic.len())
            .sum::<usize>()
}

fn check_sequence(first_sequence: u64, count: usize) -> Result<(), BlockError> {
    if first_sequence == 0 || first_sequence.checked_add(count as u64).is_none() {
        return Err(BlockError::Sequence {
            first_sequence,
            count,
        });
    }
    Ok(())
}

fn check_ingress(ingress: &[IngressOffset]) -> Result<(), BlockError> {
    if ingress
        .iter()
        .any(|position| position.topic.len() > TOPIC_BYTES_MAX)
    {
        return Err(too_long("topic", TOPIC_BYTES_MAX));
    }
    let rising = ingress
        .windows(2)
        .all(|pair| (&pair[0].topic, pair[0].partition) < (&pair[1].topic, pair[1].partition));
    if !rising || ingress.len() > INGRESS_COUNT_MAX {
        return Err(BlockError::Ingress);
    }
    Ok(())
}

fn too_long(field: &'static str, bytes_max: usize) -> BlockError {
    BlockError::Name {
        field,
        reason: format!("longer than {bytes_max} bytes"),
    }
}

fn name(bytes: &[u8], field: &'static str, bytes_max: usize) -> Result<String, BlockError> {
    if bytes.len() > bytes_max {
        return Err(too_long(field, bytes_max));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => Err(BlockError::Name {
            field,
            reason: error.to_string(),
        }),
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], BlockError> {
        let end = self
            .at
            .checked_add(count)
            .filter(|end| *end <= self.bytes.len());
        let Some(end) = end else {
            return Err(BlockError::Truncated {
                at: self.bytes.len(),
                field,
            });
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], BlockError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, field)?);
        Ok(array)
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, BlockError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, BlockError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }
}
