//! The loop that carries batches: cut → sealed → committed → final, each stage a command before the next begins.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use karat_content::ContentStore;
use karat_proto::convert::{Refused, wei_to_wire};
use karat_proto::v1::command::Kind;
use karat_proto::{Code, v1};
use karat_sequencer::Ack;
use karat_settlement::{
    BatchToCommit, EmbeddedChain, Progress, Stage, Submitter, SubmitterConfig, SubmitterError,
};
use thiserror::Error;
use tokio::sync::watch as signal;

use super::builder::BuildError;
use super::{BatchBuilder, Chain, Settlement};
use crate::core::Core;
use crate::events::{EventLogError, EventReader};

/// Events looked at before the chain is looked at again.
const EVENTS_A_STEP: usize = 16_384;
/// Batches that wait for the chain before no more are built.
const BATCHES_WAITING_MAX: usize = 64;
/// Pause after a failure of the chain.
const FAILURE_PAUSE: Duration = Duration::from_millis(500);

/// A cut may be noticed this much later.
const PAUSE: Duration = Duration::from_millis(10);

/// Why settlement stopped. The realm goes on; what was cut stays and is settled after a restart.
#[derive(Debug, Error)]
pub enum DriverError {
    /// The submitter's folder.
    #[error(transparent)]
    Submitter(#[from] SubmitterError),
    /// Batches cannot be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Events cannot be read.
    #[error(transparent)]
    Events(#[from] EventLogError),
    /// The payload cannot be stored.
    #[error("store the payload of batch {number}: {source}")]
    Payload {
        /// Batch.
        number: u64,
        /// Cause.
        source: karat_content::ContentError,
    },
    /// The ledger does not take a stage.
    #[error("the ledger refused {what} of batch {number}: {code:?}")]
    Refused {
        /// Which stage.
        what: &'static str,
        /// Batch.
        number: u64,
        /// Its code.
        code: Code,
    },
    /// The log takes no more commands.
    #[error("the log takes no more commands: {0}")]
    Log(Refused),
    /// The chain does not have the batch before the first open one.
    #[error(
        "the chain does not hold batch {number}, which the ledger knows as final; restore the chain's folder"
    )]
    MissingOnChain {
        /// Batch.
        number: u64,
    },
}

/// Carries batches until `stop` is set.
pub struct Driver {
    core: Arc<Core>,
    settlement: Arc<Settlement>,
    embedded: Arc<EmbeddedChain>,
    submitter: Submitter,
    builder: BatchBuilder,
    reader: EventReader,
    /// Batches that a crash left sealed or committed: their stages are not reported again.
    sealed_before: u64,
    committed_before: u64,
    block_pause: Duration,
    last_block: Instant,
    started: Instant,
}

impl Driver {
    /// Begins at the first batch that is not final.
    ///
    /// # Errors
    /// When the submitter's folder is damaged or the chain lacks what the ledger knows as final.
    pub async fn open(
        core: Arc<Core>,
        settlement: Arc<Settlement>,
        chain: Chain,
    ) -> Result<Driver, DriverError> {
        let config = SubmitterConfig {
            confirmations: core.config.settlement.confirmations,
            ..SubmitterConfig::default()
        };
        let folder = core.folder.submitter();
        let submitter = Submitter::open(&folder, chain.client.clone(), chain.signer, config)?;
        let (mut first_open, mut sealed_before, mut committed_before) = (1, 0, 0);
        for batch in core.view.batches.read().newest(0, usize::MAX) {
            let stage = batch.stage;
            if stage == v1::BatchStage::Final as i32 {
                first_open = first_open.max(batch.number + 1);
            }
            if stage >= v1::BatchStage::Sealed as i32 {
                sealed_before = sealed_before.max(batch.number);
            }
            if stage >= v1::BatchStage::Committed as i32 {
                committed_before = committed_before.max(batch.number);
            }
        }
        let parent = match first_open {
            1 => [0; 32],
            number => match chain.client.committed_batch(number - 1).await {
                Ok(Some(before)) => before.batch.commitment(),
                Ok(None) => return Err(DriverError::MissingOnChain { number: number - 1 }),
                Err(error) => return Err(SubmitterError::Chain(error).into()),
            },
        };
        // Everything up to the last final batch is on chain; what came after is in the events.
        let from_sequence = core
            .view
            .batches
            .read()
            .get(first_open - 1)
            .map_or(0, |b| b.last_sequence)
            + 1;
        let reader = core.events(from_sequence, true, PAUSE);
        let block_pause = Duration::from_millis(core.config.settlement.block_ms);
        Ok(Driver {
            core,
            settlement,
            embedded: chain.embedded,
            submitter,
            builder: BatchBuilder::new(parent),
            reader,
            sealed_before,
            committed_before,
            block_pause,
            last_block: Instant::now(),
            started: Instant::now(),
        })
    }

    /// Runs until `stop` is set or something fails that a retry cannot mend.
    ///
    /// # Errors
    /// Says what failed; nothing is lost, and a restart begins at the first batch that is not final.
    pub async fn run(mut self, mut stop: signal::Receiver<bool>) -> Result<(), DriverError> {
        loop {
            if *stop.borrow() {
                return Ok(());
            }
            let took = self.take_events().await?;
            let waiting = self.submitter.batches_held();
            if waiting > 0 {
                self.step_chain().await?;
            }
            if took {
                continue;
            }
            let pause = if waiting > 0 {
                self.block_pause
            } else {
                Duration::from_secs(3600)
            };
            tokio::select! {
                alive = self.reader.wait() => if !alive { return Ok(()) },
                () = tokio::time::sleep(pause) => {}
                _ = stop.changed() => {}
            }
        }
    }

    async fn take_events(&mut self) -> Result<bool, DriverError> {
        if self.submitter.batches_held() >= BATCHES_WAITING_MAX {
            return Ok(false);
        }
        let blocks = self.reader.read(EVENTS_A_STEP)?;
        for block in &blocks {
            for event in &block.events {
                if let Some(built) = self.builder.take(block, event)? {
                    self.seal(built.batch, built.payload, built.leaves).await?;
                }
            }
        }
        Ok(!blocks.is_empty())
    }

    /// Stores the payload, reports the root, and hands the batch to the submitter.
    async fn seal(
        &mut self,
        batch: BatchToCommit,
        payload: Vec<u8>,
        leaves: u32,
    ) -> Result<(), DriverError> {
        let number = batch.number;
        if number > self.sealed_before {
            let failed = |source| DriverError::Payload { number, source };
            self.core.content.put(&payload).map_err(failed)?;
            // The payload must be readable before its root can be on chain.
            self.core.content.flush().map_err(failed)?;
            self.report(
                "the seal",
                number,
                Kind::BatchSealed(v1::BatchSealed {
                    number,
                    root: Bytes::copy_from_slice(&batch.root),
                    payload: Bytes::copy_from_slice(&batch.payload_digest),
                    leaves,
                }),
            )
            .await?;
            self.settlement
                .figures
                .sealed
                .fetch_add(1, Ordering::Relaxed);
        }
        self.submitter.enqueue(batch)?;
        Ok(())
    }

    async fn step_chain(&mut self) -> Result<(), DriverError> {
        if self.last_block.elapsed() >= self.block_pause {
            self.last_block = Instant::now();
            // The embedded chain mines transactions at once; confirmations need blocks on top.
            if let Err(error) = self.embedded.mine(1) {
                tracing::warn!(%error, "the embedded chain could not mine");
            }
        }
        let now_ms = self.started.elapsed().as_millis() as u64;
        let progress = match self.submitter.step(now_ms).await {
            Ok(progress) => progress,
            Err(error @ (SubmitterError::Conflict { .. } | SubmitterError::Gap { .. })) => {
                return Err(error.into());
            }
            Err(error) => {
                self.settlement
                    .figures
                    .failures
                    .fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, "the chain step failed and is tried again");
                tokio::time::sleep(FAILURE_PAUSE).await;
                return Ok(());
            }
        };
        for one in progress {
            self.on_progress(one).await?;
        }
        Ok(())
    }

    async fn on_progress(&mut self, progress: Progress) -> Result<(), DriverError> {
        let number = progress.number;
        match progress.stage {
            Stage::Sealed | Stage::Sent { .. } => Ok(()),
            Stage::Committed {
                tx,
                block,
                gas_used,
            } => self.committed(number, tx, block, gas_used).await,
            Stage::Final {
                tx,
                block,
                gas_used,
            } => {
                self.committed(number, tx, block, gas_used).await?;
                self.report(
                    "finality",
                    number,
                    Kind::BatchFinal(v1::BatchFinal { number }),
                )
                .await?;
                let figures = &self.settlement.figures;
                figures.final_batches.fetch_add(1, Ordering::Relaxed);
                figures
                    .final_leaves
                    .fetch_add(self.leaves_of(number), Ordering::Relaxed);
                Ok(())
            }
        }
    }

    async fn committed(
        &mut self,
        number: u64,
        tx: [u8; 32],
        chain_block: u64,
        gas_used: u64,
    ) -> Result<(), DriverError> {
        if number <= self.committed_before {
            return Ok(());
        }
        let price = match self.settlement.client().receipt(&tx).await {
            Ok(Some(receipt)) => receipt.gas_price_wei,
            // Only the fee's figure depends on it; 0 says that it is not known.
            Ok(None) | Err(_) => 0,
        };
        let fee_wei = price.saturating_mul(gas_used.into());
        self.report(
            "the commit",
            number,
            Kind::BatchCommitted(v1::BatchCommitted {
                number,
                transaction: Bytes::copy_from_slice(&tx),
                chain_block,
                gas_used,
                fee_wei: wei_to_wire(fee_wei),
            }),
        )
        .await?;
        self.committed_before = number;
        let figures = &self.settlement.figures;
        figures.gas_used.fetch_add(gas_used, Ordering::Relaxed);
        figures
            .committed_leaves
            .fetch_add(self.leaves_of(number), Ordering::Relaxed);
        Ok(())
    }

    fn leaves_of(&self, number: u64) -> u64 {
        self.core
            .view
            .batches
            .read()
            .get(number)
            .map_or(0, |batch| batch.leaves.into())
    }

    async fn report(&self, what: &'static str, number: u64, kind: Kind) -> Result<(), DriverError> {
        let realm = &self.core.config.realm.name;
        let command = self.core.own_command(
            self.core.roles.settler,
            &format!("{realm}: {what} of batch {number}"),
            kind,
        );
        match self.core.execute_patiently(command, Ack::Durable).await {
            Ok(outcome) if outcome.code == Code::Accepted => Ok(()),
            // A stage that the ledger knows already: a crash came between its command and our knowing of it.
            Ok(outcome)
                if outcome.code == Code::BatchOutOfOrder || outcome.code == Code::IdReused =>
            {
                tracing::info!(
                    number,
                    what,
                    code = outcome.code.name(),
                    "the ledger knew this stage already"
                );
                Ok(())
            }
            Ok(outcome) => Err(DriverError::Refused {
                what,
                number,
                code: outcome.code,
            }),
            Err(refused) => Err(DriverError::Log(refused)),
        }
    }
}
