//! The stream of events: what applying each block changed, in order, for everyone who is not the ledger.
//!
//! The writer hands each block's events to the hub through a bounded channel. The hub's thread appends them to the event
//! log on disk, keeps the newest in memory, and says how far it is. A consumer reads at its own pace: from memory when it
//! keeps up, from the event log when it does not. Nobody who reads can slow the writer; only the hub itself can, by a
//! full channel, because a stream with a hole would be worse than a wait.
//!
//! The event log is a projection of the command log: it is cut back or written again whenever the two disagree.

mod block;
mod hub;
mod log;
mod reader;

pub use block::BlockEvents;
pub use hub::{EventHub, EventSender, HubConfig};
pub use log::{EventLog, EventLogError};
pub use reader::EventReader;
