//! Logs on a real broker.

use std::sync::atomic::{AtomicU64, Ordering};

use karat_sequencer::KafkaConfig;

#[path = "broker.rs"]
mod broker;

#[allow(unused_imports)] // Each test file uses its own part.
pub use broker::{address, is_there};

/// A topic that nobody else uses.
pub fn config(what: &str) -> KafkaConfig {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::SeqCst);
    let topic = format!(
        "karat.test-{what}-{:016x}-{count}.log",
        rand::random::<u64>()
    );
    KafkaConfig::new(address(), topic)
}
