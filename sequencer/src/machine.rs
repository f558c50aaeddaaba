//! The state machine behind a sequencer. It sees whole blocks, in order, each exactly once.

use bytes::Bytes;

use crate::block::{BlockHeader, Hash};

/// What a machine may know about the block it applies; nothing else differs between two runs.
#[derive(Debug, Clone, Copy)]
pub struct BlockContext<'a> {
    /// The block's header: sequences, time, epoch.
    pub header: &'a BlockHeader,
    /// The block's hash.
    pub hash: &'a Hash,
    /// Whether the block comes from the log and its outcomes go to nobody.
    pub replay: bool,
}

/// A deterministic state machine. Epoch markers, which hold no command, are not applied.
pub trait Machine: Send + 'static {
    /// A decoded command. It travels beside its bytes, so that the leader decodes once.
    type Command: Send;
    /// The answer to one command.
    type Outcome: Clone + Send + 'static;

    /// Decodes a body read from the log. An error stops the replay.
    fn decode(&self, body: &Bytes) -> Result<Self::Command, String>;

    /// Applies one block: takes all of `commands` and pushes exactly one outcome for each, in order.
    ///
    /// `commands[i]` has the sequence `context.header.first_sequence + i`. `outcomes` comes empty, with room for them;
    /// `commands` is used again for the next block.
    fn apply(
        &mut self,
        context: &BlockContext<'_>,
        commands: &mut Vec<Self::Command>,
        outcomes: &mut Vec<Self::Outcome>,
    );
}
