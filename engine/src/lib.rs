//! The engine: everything between a client's command and the chain.
//!
//! The way of a mint, file by file:
//!
//! 1. `gateway/edge_service.rs` or `gateway/submit.rs` reads it, `gateway/admission.rs` checks it at the door and puts its
//!    bytes into the content store (`karat-content`).
//! 2. `core.rs` hands it to the sequencer (`karat-sequencer`), which gives it its sequence and appends its block to the log.
//! 3. `machine.rs` applies it to the ledger (`karat-ledger`), publishes the outcome to readers (`view.rs`) and its events to
//!    the stream (`events/`). The outcome leaves through the gateway when its ack level is reached.
//! 4. `verifier.rs` gives the new asset to the agents (`karat-agents`); their verdict comes back as a command.
//! 5. `projector.rs` writes rows for queries into the store (`karat-store`).
//! 6. The ledger cuts a batch; `settlement/` nets it, seals it, and carries it to the chain (`karat-settlement`); each stage
//!    comes back as a command.
//!
//! `service.rs` puts the parts together, `cli/` is the operator's binary, `dev/` the self-contained demonstration.

/// Writes to standard output. A reader that has gone (`karat asset list | head`) ends the output, not the program: `dev`
/// must still stop cleanly.
macro_rules! say {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        let _ = write!(std::io::stdout(), $($part)*);
    }};
}

/// As `say!`, and ends the line.
macro_rules! sayln {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($part)*);
    }};
}

pub mod accounts;
pub mod background;
pub mod batches;
mod beginning;
pub mod cli;
pub mod config;
pub mod core;
pub mod data_folder;
pub mod dev;
pub mod digests;
pub mod events;
pub mod gateway;
pub mod history;
#[cfg(feature = "kafka")]
pub mod host;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod latency;
mod leading;
pub mod machine;
pub mod orphans;
pub mod pace;
pub mod projector;
pub mod realm_log;
pub mod role;
pub mod service;
pub mod settlement;
pub mod snapshots;
pub mod snapshotter;
pub mod stage_counts;
pub mod status;
pub mod ticker;
pub mod verifier;
pub mod view;
