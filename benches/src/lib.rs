//! What the benches share: commands that the ledger accepts, and a realm of any size to apply them to.
//!
//! | Bench | What it times |
//! | --- | --- |
//! | `benches/ledger_apply.rs` | the ledger's `apply`, by command kind and mixed, on 1,000,000 and 100,000 live assets |
//! | `benches/codec.rs` | commands, events and blocks: encoding, decoding, hashing |
//! | `benches/gateway.rs` | the door: messages decoded, commands admitted, outcomes encoded |
//! | `benches/journal.rs` | a block appended, and appended and flushed, on this disk |
//! | `benches/snapshot.rs` | a ledger of 1,000,000 assets to bytes and back |
//! | `benches/settlement.rs` | leaves, netting, the Merkle tree, proofs |
//! | `benches/floors.rs` | what the machine itself does: hashes, memory, the disk's flush, a message over tonic and back |
//! | `examples/instructions.rs` | instructions of the hot functions, compared with `instructions.txt` |
//! | `examples/recovery.rs` | replay of a whole log, recovery from a snapshot, bytes a command and an asset |
//! | `examples/growth.rs` | `apply` by command kind and bytes an asset, on 100,000 to 10,000,000 live assets |
//!
//! `cargo bench -p karat-benches --bench ledger_apply` measures; `cargo test --release -p karat-benches --benches` runs
//! every bench once on a small realm, to see that it works.

use std::time::Duration;

use anyhow::Context as _;
use karat_proto::event::Outcome;
use karat_proto::{Code, CommandId};

pub mod instructions;
pub mod kind;
pub mod realm;
pub mod workload;

pub use kind::Kind;
pub use realm::{Realm, SavedRealm, only_ids};
pub use workload::{Made, Workload};

/// Time that the calling thread has had a core: what other work on the machine takes is not in it.
pub fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Ids and outcomes of so many commands that were accepted, as an answer has them.
pub fn accepted(commands: usize) -> (Vec<CommandId>, Vec<Outcome>) {
    let outcome = |number| Outcome {
        sequence: 1_000_000 + number,
        code: Code::Accepted,
        replayed: false,
        subject: number,
        winner: None,
    };
    let outcomes = (0..commands as u64).map(outcome).collect();
    (vec![CommandId([7; 16]); commands], outcomes)
}

/// Bytes of this process that are in memory.
///
/// # Errors
/// Where the system does not say: this needs Linux.
pub fn resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("this needs Linux")?;
    let kibibytes: u64 = status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmRSS:")?
                .strip_suffix("kB")?
                .trim()
                .parse()
                .ok()
        })
        .context("/proc/self/status has no VmRSS")?;
    Ok(kibibytes * 1024)
}

/// Whether figures are wanted (`cargo bench`), or every bench is only run once to see that it works (`cargo test`). This is
/// criterion's own rule: without `--bench`, or with `--test`, nothing is measured.
pub fn measuring() -> bool {
    let mut bench = false;
    let mut test = false;
    for argument in std::env::args() {
        bench |= argument == "--bench";
        test |= argument == "--test";
    }
    bench && !test
}

/// The first number when figures are wanted, else the second.
pub fn sized(measured: usize, tested: usize) -> usize {
    if measuring() { measured } else { tested }
}
