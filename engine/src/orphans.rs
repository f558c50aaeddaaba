//! Content that no command names: left behind when a process dies between storing bytes and appending their command.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use karat_content::{ContentError, ContentStore};
use karat_proto::event::EventKind;
use karat_proto::{Digest, v1};
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
}

/// Finds content that no command names, and drops it unless `dry_run`. Reads the whole stream of events; blocks.
///
/// # Errors
/// When content or events cannot be read. Nothing that a command names is ever dropped.
pub fn collect(
    core: &Arc<Core>,
    dry_run: bool,
) -> Result<v1::CollectContentResponse, OrphansError> {
    let content = &core.content;
    let mut orphans: HashSet<Digest> = content.digests()?.into_iter().collect();
    // Commands whose bytes were listed may still be at the door or in the queue.
    std::thread::sleep(Duration::from_secs(DOOR_SECONDS));
    let queued_seq = core.view.applied_seq();
    while core.hub.written_seq() < queued_seq && core.hub.failure().is_none() {
        std::thread::sleep(Duration::from_millis(10));
    }
    for_each_named(core, |digest| {
        orphans.remove(digest);
    })?;
    let mut bytes = 0;
    for digest in &orphans {
        bytes += content.get(digest)?.map_or(0, |object| object.len() as u64);
    }
    let found = orphans.len() as u64;
    if !dry_run && found > 0 {
        content.collect(&|digest| !orphans.contains(digest))?;
    }
    Ok(v1::CollectContentResponse {
        orphans: found,
        bytes,
        collected: !dry_run,
    })
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
                EventKind::Minted { content, .. } | EventKind::Revised { content, .. } => {
                    named(&content.digest);
                }
                EventKind::BatchSealed { payload, .. } => named(payload),
                _ => {}
            }
        }
    }
}
