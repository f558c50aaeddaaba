//! A leader's signs of life.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use karat_engine::config::KafkaSettings;
use karat_engine::kafka::lease::{Leader, Signs, ensure_topic, give_signs};
use karat_engine::role::RealmRole;
use karat_sequencer::Progress;

use super::broker::{address, is_there};
use super::common::eventually;

/// Signs come every 150 ms; a machine that gives none for so long while it could makes this test see less, not fail.
const SILENCE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_log_takes_no_blocks_is_silent_until_it_does() {
    if !is_there() {
        return;
    }
    let settings = KafkaSettings {
        brokers: address(),
        ..KafkaSettings::default()
    };
    let realm = format!("test-{:016x}", rand::random::<u64>());
    let stuck = Arc::new(AtomicBool::new(true));
    let told = stuck.clone();
    let longer = Duration::from_millis(settings.lease_ms + 1);
    let leader = Leader {
        epoch: 1,
        address: "127.0.0.1:7400".into(),
        progress: Progress::new(0),
        waiting: Arc::new(move || told.load(Ordering::SeqCst).then_some(longer)),
    };
    let role = Arc::new(RealmRole::new(1));
    ensure_topic(&settings, &realm).unwrap();
    give_signs(&settings, &realm, &role, leader).unwrap();
    let mut signs = Signs::open(&settings, &realm).unwrap();
    tokio::time::sleep(SILENCE).await;
    assert_eq!(signs.newest().unwrap(), None);
    stuck.store(false, Ordering::SeqCst);
    let sign = eventually("a sign", || {
        let sign = signs.newest().unwrap();
        async move { sign }
    })
    .await;
    assert_eq!((sign.epoch, sign.leaving), (1, false));
    stuck.store(true, Ordering::SeqCst);
    eventually("silence", || {
        std::thread::sleep(SILENCE);
        let sign = signs.newest().unwrap();
        async move { sign.is_none().then_some(()) }
    })
    .await;
    // One that leaves says so, whatever its log does.
    role.leave();
    let sign = eventually("the last sign", || {
        let sign = signs.newest().unwrap();
        async move { sign }
    })
    .await;
    assert!(sign.leaving);
}
