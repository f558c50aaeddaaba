//! Content that no command names: left behind when a process dies between storing bytes and appending their command.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use karat_content::{ContentError, ContentStore};
use karat_proto::convert::Refused;
use karat_proto::event::EventKind;
use karat_proto::v1::command::Kind;
use karat_proto::{Digest, limits, v1};
use karat_sequencer::Ack;
use thiserror::Error;

use crate::core::Core;
use crate::events::EventLogError;

/// Longest time between storing a command's bytes and queueing the command: both happen in one call at the door.
const DOOR_SECONDS: u64 = 2;

/// Why orphans could not be found.
#[derive(Debug, Error)]
pub enum OrphansError {
    /// The content store.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The stream of events.
    #[error(transparent)]
    Events(#[from] EventLogError),
    /// What is named by older commands is not known here yet.
    #[error(
        "the history before sequence {0} is still being made again; ask again when it is there"
    )]
    NoHistory(u64),
    /// What is on its way to the log cannot be waited for.
    #[error("wait for commands that are on their way: {0}")]
    Log(Refused),
}

/// Finds content that no command names, and drops it unless `dry_run`. Reads the whole stream of events; blocks, and must
/// run on a thread of a runtime. `serving` says whether commands can come in meanwhile.
///
/// # Errors
/// When content or events cannot be read. Nothing that a command names is ever dropped.
pub fn collect(
    core: &Arc<Core>,
    dry_run: bool,
    serving: bool,
) -> Result<v1::CollectContentResponse, OrphansError> {
    if dry_run {
        let orphans = find(core, serving)?;
        let mut bytes = 0;
        for digest in &orphans {
            let object = core.content.get(digest)?;
            bytes += object.map_or(0, |object| object.len() as u64);
        }
        return Ok(v1::CollectContentResponse {
            orphans: orphans.len() as u64,
            bytes,
            collected: false,
        });
    }
    // Looked for when the store asks first: from then on it keeps what is put again, so an orphan that a new command names
    // is either seen as named or put again. Looked for earlier, it could be named between the two and dropped.
    let found = OnceCell::new();
    let dropped =
        core.content
            .collect(&|digest| match found.get_or_init(|| find(core, serving)) {
                Ok(orphans) => !orphans.contains(digest),
                Err(_) => true,
            })?;
    if let Some(Err(error)) = found.into_inner() {
        return Err(error);
    }
    Ok(v1::CollectContentResponse {
        orphans: dropped.objects_dropped,
        bytes: dropped.bytes_dropped,
        collected: true,
    })
}

/// What is stored now and no command names.
fn find(core: &Arc<Core>, serving: bool) -> Result<HashSet<Digest>, OrphansError> {
    let first_seq = core.hub.first_seq();
    if first_seq > 1 {
        return Err(OrphansError::NoHistory(first_seq));
    }
    let mut orphans: HashSet<Digest> = core.content.digests()?.into_iter().collect();
    if serving {
        wait_for_the_door(core)?;
    }
    let applied_seq = core.view.applied_seq();
    while core.hub.written_seq() < applied_seq && core.hub.failure().is_none() {
        std::thread::sleep(Duration::from_millis(10));
    }
    for_each_named(core, |digest| {
        orphans.remove(digest);
    })?;
    Ok(orphans)
}

/// Until every command whose bytes are stored now is applied: through the door in its time, and through the queue before a
/// command of ours that is queued behind it, however long the queue takes.
fn wait_for_the_door(core: &Arc<Core>) -> Result<(), OrphansError> {
    std::thread::sleep(Duration::from_secs(DOOR_SECONDS));
    let tick = v1::Command {
        id: crate::core::fresh_id(),
        actor: Bytes::copy_from_slice(&core.roles.operator.0),
        format: limits::COMMAND_FORMAT,
        kind: Some(Kind::Tick(v1::Tick { base_fee_wei: 0 })),
    };
    let entered = core.execute_patiently(tick, Ack::Sequenced);
    tokio::runtime::Handle::current()
        .block_on(entered)
        .map_err(OrphansError::Log)?;
    Ok(())
}

/// Calls `named` with every digest that an event names: content of every version of every asset, and batch payloads.
fn for_each_named(core: &Arc<Core>, mut named: impl FnMut(&Digest)) -> Result<(), EventLogError> {
    let mut reader = core.events(1, false, Duration::ZERO);
    loop {
        let blocks = reader.read(4096)?;
        if blocks.is_empty() {
            return Ok(());
        }
        for event in blocks.iter().flat_map(|block| &block.events) {
            match &event.kind {
                EventKind::Minted { made, .. } | EventKind::Revised { made, .. } => {
                    named(&made.content.digest);
                }
                EventKind::BatchSealed { payload, .. } => named(payload),
                _ => {}
            }
        }
    }
}
