//! Building a machine's state from a log.

use crate::block::{Block, EncodedBlock, Hash};
use crate::chain::{Chain, ChainError, Standing};
use crate::log::ReadError;
use crate::machine::{BlockContext, Machine};

/// What a replay did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplaySummary {
    /// The state of the chain after the last block: what the next block must continue.
    pub chain: Chain,
    /// Blocks applied.
    pub blocks: u64,
    /// Commands applied.
    pub commands: u64,
    /// Blocks read but below the sequence asked for.
    pub skipped: u64,
    /// Epoch markers.
    pub markers: u64,
    /// Blocks of replaced leaders.
    pub void: u64,
}

/// Why a replay stopped. The machine has applied every block before the one named.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A block does not continue the log.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A block cannot be encoded again to be hashed.
    #[error(transparent)]
    Block(#[from] crate::block::BlockError),
    /// The first sequence to apply is inside a block: states are only taken between blocks.
    #[error(
        "sequence {from_sequence} is inside the block that begins at {first_sequence}; a snapshot ends between blocks"
    )]
    Straddles {
        /// The sequence asked for.
        from_sequence: u64,
        /// The block's first sequence.
        first_sequence: u64,
    },
    /// The blocks begin after the sequence asked for.
    #[error("the log begins at sequence {first_sequence}, {from_sequence} is needed")]
    Missing {
        /// The sequence asked for.
        from_sequence: u64,
        /// The first one there.
        first_sequence: u64,
    },
    /// A body is not a command of this machine.
    #[error("command {sequence} cannot be decoded: {reason}")]
    Undecodable {
        /// The command's sequence.
        sequence: u64,
        /// What the machine said.
        reason: String,
    },
    /// The machine broke its promise of one outcome a command.
    #[error(
        "the machine gave {outcomes} outcomes for the {commands} commands of block {first_sequence}"
    )]
    Outcomes {
        /// The block's first sequence.
        first_sequence: u64,
        /// Commands in it.
        commands: usize,
        /// Outcomes given.
        outcomes: usize,
    },
}

/// Applies blocks that were read from a log. Its buffers are used again for each.
pub struct Applier<M: Machine> {
    commands: Vec<M::Command>,
    outcomes: Vec<M::Outcome>,
}

impl<M: Machine> Default for Applier<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Machine> Applier<M> {
    /// Empty buffers.
    pub fn new() -> Self {
        Self {
            commands: Vec::new(),
            outcomes: Vec::new(),
        }
    }

    /// Applies a block that counts and continues what the machine has applied; its outcomes go to nobody.
    pub fn apply(
        &mut self,
        machine: &mut M,
        block: &Block,
        hash: &Hash,
    ) -> Result<(), ReplayError> {
        let first_sequence = block.header.first_sequence;
        self.commands.clear();
        self.outcomes.clear();
        for (index, body) in block.bodies.iter().enumerate() {
            let command = machine
                .decode(body)
                .map_err(|reason| ReplayError::Undecodable {
                    sequence: first_sequence + index as u64,
                    reason,
                })?;
            self.commands.push(command);
        }
        let context = BlockContext {
            header: &block.header,
            hash,
            replay: true,
        };
        machine.apply(&context, &mut self.commands, &mut self.outcomes);
        if self.outcomes.len() != block.bodies.len() {
            return Err(ReplayError::Outcomes {
                first_sequence,
                commands: block.bodies.len(),
                outcomes: self.outcomes.len(),
            });
        }
        Ok(())
    }
}

/// Applies every command from `from_sequence` on. Blocks before it are checked and not applied; blocks of replaced
/// leaders are skipped and counted. With `from_sequence` 1 the whole chain is checked from its beginning.
pub fn replay<M: Machine>(
    blocks: impl IntoIterator<Item = Result<Block, ReadError>>,
    from_sequence: u64,
    machine: &mut M,
) -> Result<ReplaySummary, ReplayError> {
    let chain = if from_sequence <= 1 {
        Chain::genesis()
    } else {
        Chain::unknown()
    };
    replay_after(chain, blocks, from_sequence, machine)
}

/// As [`replay`], continuing a known chain: the first block must link to it.
pub fn replay_after<M: Machine>(
    chain: Chain,
    blocks: impl IntoIterator<Item = Result<Block, ReadError>>,
    from_sequence: u64,
    machine: &mut M,
) -> Result<ReplaySummary, ReplayError> {
    let mut summary = ReplaySummary {
        chain,
        blocks: 0,
        commands: 0,
        skipped: 0,
        markers: 0,
        void: 0,
    };
    let mut encoded = EncodedBlock::new();
    let mut applier = Applier::new();
    for block in blocks {
        let block = block?;
        // The hash is of the canonical bytes, so encoding again gives it, whatever the block was read from.
        block.encode_into(&mut encoded)?;
        let count = block.bodies.len();
        match summary.chain.accept(&block.header, encoded.hash(), count)? {
            Standing::Void => summary.void += 1,
            Standing::Marker => summary.markers += 1,
            Standing::Counts if block.last_sequence() < from_sequence => summary.skipped += 1,
            Standing::Counts => {
                let first_sequence = block.header.first_sequence;
                if first_sequence < from_sequence {
                    return Err(ReplayError::Straddles {
                        from_sequence,
                        first_sequence,
                    });
                }
                if summary.commands == 0 && summary.skipped == 0 && first_sequence > from_sequence {
                    return Err(ReplayError::Missing {
                        from_sequence,
                        first_sequence,
                    });
                }
                applier.apply(machine, &block, encoded.hash())?;
                summary.blocks += 1;
                summary.commands += count as u64;
            }
        }
    }
    Ok(summary)
}
