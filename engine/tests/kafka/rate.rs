//! Commands a second from a topic to a durable outcome: a measurement, not a test.
//!
//! `KARAT_TEST_COMMANDS=2000000 cargo test --release -p karat-engine --features kafka --test kafka -- --ignored --nocapture`

use std::time::{Duration, Instant};

use karat_proto::v1;
use karat_proto::v1::command::Kind;
use prost::Message as _;

use super::broker::is_there;
use super::common::{Realm, account, command};
use super::on_kafka;
use super::topics::{make_topic, send_together};

const ACCOUNTS: u64 = 1000;
const ROUNDS: u32 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn commands_a_second_from_a_topic() {
    if !is_there() {
        return;
    }
    let count: u64 =
        std::env::var("KARAT_TEST_COMMANDS").map_or(500_000, |text| text.parse().unwrap());
    let accounts: Vec<_> = (0..ACCOUNTS)
        .map(|index| account(&format!("account {index}")))
        .collect();
    for round in 0..ROUNDS {
        for events in [false, true] {
            let commands: Vec<Vec<u8>> = (0..count)
                .map(|index| {
                    let deposit = v1::Deposit {
                        account: accounts[(index % ACCOUNTS) as usize].clone(),
                        amount: 1,
                    };
                    command("operator", Kind::Deposit(deposit)).encode_to_vec()
                })
                .collect();
            let bytes: usize = commands.iter().map(Vec::len).sum();
            let realm = Realm::start_with(|config| {
                on_kafka(config);
                config.log.kafka.events = events;
                let topic = format!("karat.{}.commands", config.realm.name);
                make_topic(&topic, &[]);
                send_together(&topic, &commands);
            })
            .await;
            drop(commands);
            let core = realm.service.gateway.core.clone();
            let durable = || {
                core.sequencer()
                    .map_or(0, |one| one.positions().durable_seq)
            };
            // What came before the clock is started does not count.
            let (began, first) = loop {
                let first = durable();
                if first > 1000 {
                    break (Instant::now(), first);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            };
            let last = loop {
                let last = durable();
                if last > count {
                    break last;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            };
            let rate = (last - first) as f64 / began.elapsed().as_secs_f64();
            let size = bytes as u64 / count;
            println!(
                "round {round}, events {events}: {rate:.0} commands/s of {size} bytes, {} of {count} measured",
                last - first
            );
            drop(core);
            realm.close().await;
        }
    }
}
