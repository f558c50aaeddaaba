//! Following: the leader's blocks are applied as they come, and when its lease ends this engine bids for the realm.

use std::sync::Arc;
use std::time::{Duration, Instant};

use karat_sequencer::{Applier, Clock, Followed, KafkaFollower, Log, Recovery, SystemClock};
use tokio::sync::watch as signal;

use super::KafkaPartError;
use super::lease::{self, Patience, Signs};
use crate::core::Core;
use crate::machine::LedgerMachine;

/// How long one look for a block takes, before signs of life and the lease are looked at.
const LOOK: Duration = Duration::from_millis(10);
/// How long a broker may take to say whether something was not read yet.
const QUESTION: Duration = Duration::from_secs(2);

/// A log that is followed, and the machine that has applied what opening it read.
pub struct Following {
    /// The log.
    pub follower: KafkaFollower,
    /// The machine.
    pub machine: LedgerMachine,
}

/// How following ended.
pub enum Ended {
    /// The engine stops; the machine has applied whole blocks that count.
    Stopped(Box<LedgerMachine>),
    /// This engine leads now, and its sequencer runs.
    Leads(Box<Recovery>),
}

/// Follows until `stop` is set or this engine leads.
///
/// # Errors
/// When the log cannot be read or applied, or a bid was not answered.
pub fn run(
    core: &Arc<Core>,
    following: Following,
    address: &str,
    stop: &signal::Receiver<bool>,
) -> Result<Ended, KafkaPartError> {
    let Following {
        mut follower,
        mut machine,
    } = following;
    let settings = &core.config.log.kafka;
    let realm = &core.config.realm.name;
    let mut signs = Signs::open(settings, realm)?;
    let mut patience = Patience::new(settings.lease_ms);
    let mut applier = Applier::new();
    let mut bid_at: Option<Instant> = None;
    loop {
        // The sender goes with the engine.
        if *stop.borrow() || stop.has_changed().is_err() {
            return Ok(Ended::Stopped(Box::new(machine)));
        }
        match follower.next(LOOK)? {
            Some(Followed::Block { block, hash }) => {
                applier.apply(&mut machine, &block, &hash)?;
                core.role.heard(block.last_sequence());
                // What a broker shows is acknowledged by all copies that must have it.
                core.hub.set_durable(block.last_sequence());
                patience.renew();
            }
            Some(Followed::NewLeader { epoch }) => {
                tracing::info!(epoch, "another engine leads the realm");
                core.role.set_epoch(epoch);
                core.role.set_leader("");
                core.role.heard(0);
                patience.renew();
            }
            Some(Followed::Outbid) => {
                tracing::info!("another engine's bid came first");
                bid_at = None;
                patience.renew();
            }
            Some(Followed::Elected) => break,
            Some(Followed::PassedOver) | None => {}
        }
        if let Some(sign) = signs.newest()?
            && sign.epoch >= follower.epoch()
        {
            core.role.set_leader(&sign.address);
            core.role.heard(sign.sequence);
            match sign.leaving {
                true => patience.end_soon(),
                false => patience.renew(),
            }
        }
        if bid_at.is_some() || !patience.is_over() {
            continue;
        }
        // Silence counts only while the brokers answer, and only when all that they have was read: an engine that was
        // itself stopped for a while finds the signs it missed first.
        match (follower.is_at_end(QUESTION), signs.is_at_end(QUESTION)) {
            (Ok(true), Some(true)) => {
                tracing::info!(
                    epoch = follower.epoch() + 1,
                    "the leader is silent; bidding for the realm"
                );
                bid_at = Some(Instant::now());
                if let Err(error) = follower.bid(realm, SystemClock.now_ms()) {
                    core.role.set_unsettled();
                    return Err(error.into());
                }
            }
            (Ok(_), Some(_)) => {}
            _ => patience.renew(),
        }
    }
    core.role.set_leader("");
    let (log, recovery) = follower.into_log();
    let leader = lease::Leader {
        epoch: recovery.epoch,
        address: address.to_owned(),
        progress: log.progress(),
        waiting: log.waiting(),
    };
    core.lead(Box::new(log), &recovery, machine)
        .map_err(Box::new)?;
    lease::give_signs(settings, realm, &core.role, leader)?;
    let took_ms = bid_at.map_or(0, |at| at.elapsed().as_millis());
    tracing::info!(
        epoch = recovery.epoch,
        sequence = recovery.last_sequence,
        took_ms,
        "this engine leads the realm"
    );
    Ok(Ended::Leads(Box::new(recovery)))
}
