//! What the sequencer's tests share: a machine that remembers, and short ways to build blocks and submissions.
#![allow(dead_code, missing_docs, clippy::unwrap_used)] // Each test file uses its own part.

#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "kafka")]
pub mod leader;

use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use karat_sequencer::{
    Ack, Answer, BlockContext, BlockHeader, EncodedBlock, Hash, Log, Machine, ManualClock,
    NO_PARENT, Prepared, Recovery, Sequencer, SequencerConfig, SequencerHandle, Submission,
    SubmitError,
};

/// Long enough for a loaded machine; no test depends on it being short.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Remembers every command with its sequence and time. The command "panic" panics, "short" loses its outcome.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Memory {
    pub applied: Vec<(u64, u64, Bytes)>,
    pub hashes: Vec<Hash>,
}

impl Machine for Memory {
    type Command = Bytes;
    type Outcome = u64;

    fn decode(&self, body: &Bytes) -> Result<Bytes, String> {
        if &body[..] == b"undecodable" {
            Err("not a command".to_owned())
        } else {
            Ok(body.clone())
        }
    }

    fn apply(
        &mut self,
        context: &BlockContext<'_>,
        commands: &mut Vec<Bytes>,
        outcomes: &mut Vec<u64>,
    ) {
        self.hashes.push(*context.hash);
        for (index, command) in commands.drain(..).enumerate() {
            assert_ne!(&command[..], b"panic", "the machine was told to panic");
            let sequence = context.header.first_sequence + index as u64;
            if &command[..] != b"short" {
                outcomes.push(sequence);
            }
            self.applied
                .push((sequence, context.header.time_ms, command));
        }
    }
}

/// A row of blocks that continue each other.
pub struct Chained {
    pub header: BlockHeader,
    pub encoded: EncodedBlock,
}

impl Chained {
    pub fn new() -> Self {
        Self::after(0, NO_PARENT)
    }

    pub fn after(last_sequence: u64, parent: Hash) -> Self {
        let header = BlockHeader {
            realm: "test".to_owned(),
            epoch: 1,
            first_sequence: last_sequence + 1,
            time_ms: 1_000,
            parent,
            ingress: Vec::new(),
        };
        Self {
            header,
            encoded: EncodedBlock::new(),
        }
    }

    pub fn recovered(recovery: &Recovery) -> Self {
        Self::after(recovery.last_sequence, recovery.last_hash)
    }

    /// The next block, and moves on.
    pub fn next(&mut self, bodies: &[Bytes]) -> &EncodedBlock {
        self.encoded.begin(&self.header, bodies.len()).unwrap();
        for body in bodies {
            self.encoded.push(body).unwrap();
        }
        self.encoded.finish().unwrap();
        self.header.first_sequence += bodies.len() as u64;
        self.header.parent = *self.encoded.hash();
        &self.encoded
    }
}

pub fn body(index: u64, length: usize) -> Bytes {
    let mut bytes = index.to_le_bytes().to_vec();
    bytes.resize(length.max(8), index as u8 | 1);
    Bytes::from(bytes)
}

pub type Received = mpsc::Receiver<Result<Answer<u64>, SubmitError>>;

pub fn submission(bodies: &[Bytes], ack: Ack) -> (Submission<Memory>, Received) {
    let (sender, receiver) = mpsc::channel();
    let commands = bodies
        .iter()
        .map(|body| Prepared {
            body: body.clone(),
            command: body.clone(),
        })
        .collect();
    let reply = Box::new(move |answer| {
        let _ = sender.send(answer);
    });
    (
        Submission {
            commands,
            ack,
            reply,
            sequenced: None,
        },
        receiver,
    )
}

pub fn submit(handle: &SequencerHandle<Memory>, bodies: &[Bytes], ack: Ack) -> Received {
    let (submission, received) = submission(bodies, ack);
    handle
        .submit(submission)
        .map_err(|(error, _)| error)
        .unwrap();
    received
}

/// Submits for [`Ack::Durable`] and for [`Ack::Sequenced`] as well: what comes at the first, and at the second.
pub fn submit_for_both(handle: &SequencerHandle<Memory>, bodies: &[Bytes]) -> (Received, Received) {
    let (mut both, durable) = submission(bodies, Ack::Durable);
    let (sequenced, received) = submission(bodies, Ack::Sequenced);
    both.sequenced = Some(sequenced.reply);
    handle.submit(both).map_err(|(error, _)| error).unwrap();
    (durable, received)
}

pub fn answer(received: &Received) -> Result<Answer<u64>, SubmitError> {
    received
        .recv_timeout(PATIENCE)
        .expect("an accepted submission is answered")
}

pub fn start(log: impl Log + 'static, recovery: &Recovery) -> SequencerHandle<Memory> {
    start_with(
        SequencerConfig::new("test"),
        log,
        recovery,
        ManualClock::new(5_000),
    )
}

pub fn start_with(
    config: SequencerConfig,
    log: impl Log + 'static,
    recovery: &Recovery,
    clock: ManualClock,
) -> SequencerHandle<Memory> {
    Sequencer::start(
        config,
        Box::new(log),
        recovery,
        Memory::default(),
        Box::new(clock),
    )
    .unwrap()
}

/// A folder on the fastest file system there is: these tests are about what is written, not about the disk.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}
