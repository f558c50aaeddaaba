//! Kafka producers against a real broker (`deploy/kafka/start.sh`, `KARAT_KAFKA`) and a small realm that reads its topic.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used)] // A helper that cannot go on fails the test that called it.

#[path = "../../sequencer/tests/common/broker.rs"]
mod broker;
mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broker::{address, is_there};
use clap::Parser as _;
use common::{Faults, Realm};
use futures::executor::block_on;
use karat_loadgen::args::{Action, CheckArgs, Cli};
use karat_loadgen::check::check;
use karat_loadgen::error::LoadError;
use karat_loadgen::report::{Report, books_path};
use karat_loadgen::run::{self, Outcome};
use karat_loadgen::scenario::file::BUILT_IN;
use karat_proto::v1;
use prost::Message as _;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

fn client() -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", address())
        .set("group.id", "test");
    client
}

/// How the realm's reader of topics fails; 0 for never.
#[derive(Clone, Copy, Default)]
struct Slips {
    /// Every so many-th command's events are not published.
    lose_events_every: usize,
    /// Every so many-th dead letter is not written.
    lose_letters_every: usize,
    /// Everything is published twice, as after a takeover.
    twice: bool,
}

/// A realm whose commands come from a topic, as the engine's ingress reads them.
struct OnKafka {
    realm: Realm,
    name: String,
    engine: String,
    stop: Arc<AtomicBool>,
    reading: Option<std::thread::JoinHandle<()>>,
}

impl OnKafka {
    fn start(faults: Faults, slips: Slips) -> OnKafka {
        let realm = Realm::with(faults);
        let name = format!("load-{:016x}", rand::random::<u64>());
        let topics =
            ["commands", "events", "dead-letters"].map(|one| format!("karat.{name}.{one}"));
        let admin: AdminClient<DefaultClientContext> = client().create().unwrap();
        let new = topics.each_ref().map(|topic| {
            // Commands in several partitions: a stream stays in one.
            let partitions = if topic.ends_with("commands") { 3 } else { 1 };
            NewTopic::new(topic, partitions, TopicReplication::Fixed(1))
        });
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(60)));
        for made in block_on(admin.create_topics(&new, &options)).unwrap() {
            made.unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let reading = std::thread::spawn({
            let (realm, stop) = (realm.clone(), stop.clone());
            move || read(&realm, &topics, slips, &stop)
        });
        OnKafka {
            engine: realm.serve(),
            realm,
            name,
            stop,
            reading: Some(reading),
        }
    }

    fn stop_reading(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(reading) = self.reading.take() {
            reading.join().unwrap();
        }
    }

    fn try_run(&self, arguments: &str) -> Result<Outcome, LoadError> {
        load(&self.engine, &self.name, arguments)
    }

    fn run(&self, arguments: &str) -> Report {
        self.try_run(arguments).unwrap().report
    }
}

impl Drop for OnKafka {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn load(engine: &str, realm: &str, arguments: &str) -> Result<Outcome, LoadError> {
    let target = format!("kafka://{}", address());
    // Only the test of the floor has one.
    let floor = match arguments.contains("--floor-seconds") {
        true => "",
        false => "--floor-seconds 0",
    };
    let words = format!(
        "karat-load run --target {target} --engine {engine} --realm {realm} --quiet --ack durable --warm-up-seconds 0 \
         --seconds 1 --behind-seconds 600 --assets 200 {floor} {arguments}"
    );
    match Cli::parse_from(words.split_whitespace()).action {
        Action::Run(args) => run::run(&args),
        other => panic!("{other:?} is not run"),
    }
}

/// Applies what comes, tells its events, and writes dead letters as docs/kafka.md says.
fn read(realm: &Realm, topics: &[String; 3], slips: Slips, stop: &AtomicBool) {
    let [commands, events, dead_letters] = topics;
    let consumer: BaseConsumer = client().create().unwrap();
    let mut places = TopicPartitionList::new();
    for partition in 0..3 {
        let place = places.add_partition_offset(commands, partition, Offset::Offset(0));
        place.unwrap();
    }
    consumer.assign(&places).unwrap();
    let producer: BaseProducer = client().set("linger.ms", "1").create().unwrap();
    let times = if slips.twice { 2 } else { 1 };
    let (mut taken, mut letters) = (0, 0);
    let hits = |every: usize, count: usize| every != 0 && count.is_multiple_of(every);
    while !stop.load(Ordering::SeqCst) {
        producer.poll(Duration::ZERO);
        let Some(message) = consumer.poll(Duration::from_millis(50)) else {
            continue;
        };
        // The client tries again by itself.
        let Ok(message) = message else {
            continue;
        };
        let headers = message.headers().unwrap();
        let schema = headers.iter().find(|header| header.key == "karat-schema");
        assert_eq!(schema.unwrap().value, Some(&b"1"[..]));
        let payload = message.payload().unwrap();
        let (outcome, told) = realm.apply_and_tell(v1::Command::decode(payload).unwrap());
        let source = format!("{}:{}", message.partition(), message.offset());
        taken += 1;
        for (index, mut event) in told.into_iter().enumerate() {
            if hits(slips.lose_events_every, taken) {
                break;
            }
            event.index = index as u32;
            let payload = event.encode_to_vec();
            for _ in 0..times {
                let record = BaseRecord::<(), _>::to(events).payload(&payload);
                producer.send(record).map_err(|(error, _)| error).unwrap();
            }
        }
        if outcome.code == 0 {
            continue;
        }
        letters += 1;
        if hits(slips.lose_letters_every, letters) {
            continue;
        }
        let fields = HashMap::from([
            ("karat-code", outcome.code.to_string()),
            ("karat-source", source),
            ("karat-sequence", outcome.sequence.to_string()),
        ]);
        for _ in 0..times {
            let mut headers = OwnedHeaders::new();
            for (key, value) in &fields {
                let value = Some(value);
                headers = headers.insert(Header { key, value });
            }
            let record = BaseRecord::<(), _>::to(dead_letters)
                .payload(payload)
                .headers(headers);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

#[test]
fn every_scenario_closes_its_books_with_events_dead_letters_and_state() {
    if !is_there() {
        return;
    }
    let realm = OnKafka::start(Faults::default(), Slips::default());
    for (scenario, _) in BUILT_IN {
        let arguments = format!(
            "--scenario {scenario} --rate 300 --connections 2 --streams 2 --drain-seconds 600"
        );
        let report = realm.run(&arguments);
        assert!(report.passed(), "{scenario}: {}", report.render());
        let (books, events) = (&report.books, report.books.events.as_ref().unwrap());
        assert_eq!(events.found, books.accepted, "{scenario}");
        assert_eq!(
            (report.settings.mode.as_str(), books.unanswered),
            ("kafka", 0)
        );
        let deliveries = report.deliveries.clone().unwrap();
        assert_eq!(
            (deliveries.delivered, deliveries.failed.len()),
            (books.sent, 0)
        );
        match scenario {
            "claim-stampede" => {
                assert_eq!(report.refusals["206 AlreadyOwned"], 300 - books.accepted)
            }
            "dead-letter-flood" => assert_eq!(report.refusals.len(), 7, "{}", report.render()),
            "mixed-day" => assert!(books.refused > 0),
            _ => assert_eq!(books.refused, 0, "{scenario}: {}", report.render()),
        }
    }
    let arguments = "--scenario mixed --rate max --batch 8 --window 64 --drain-seconds 600";
    let report = realm.run(arguments);
    assert!(report.passed(), "{}", report.render());
    assert!(report.books.accepted >= 64, "{}", report.render());
}

#[test]
fn the_floor_has_the_same_producers_and_leaves_no_topic_behind() {
    if !is_there() {
        return;
    }
    let realm = OnKafka::start(Faults::default(), Slips::default());
    let report = realm.run(
        "--scenario mixed --rate 300 --connections 2 --streams 2 --drain-seconds 600 --floor-seconds 1",
    );
    assert!(report.passed(), "{}", report.render());
    assert!(report.render().contains("run/floor"), "{}", report.render());
    let floor = report.floor.unwrap();
    assert!(floor.passed(), "{}", floor.render());
    assert_eq!(floor.books.accepted, floor.books.sent);
    assert_eq!(floor.settings.connections, 2);
    let consumer: BaseConsumer = client().create().unwrap();
    let left = format!("karat.{}.commands.load-floor", realm.name);
    for _ in 0..600 {
        let metadata = consumer
            .fetch_metadata(None, Duration::from_secs(60))
            .unwrap();
        let mut topics = metadata.topics().iter();
        if !topics.any(|topic| topic.name().starts_with(&left)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{left} is still there");
}

#[test]
fn what_is_published_again_is_taken_once() {
    if !is_there() {
        return;
    }
    let slips = Slips {
        twice: true,
        ..Slips::default()
    };
    let realm = OnKafka::start(Faults::default(), slips);
    for scenario in ["exchange-legs", "dead-letter-flood"] {
        let report = realm.run(&format!(
            "--scenario {scenario} --rate 300 --drain-seconds 600"
        ));
        assert!(report.passed(), "{scenario}: {}", report.render());
    }
}

#[test]
fn events_and_dead_letters_that_never_come_keep_the_books_open_and_name_the_commands() {
    if !is_there() {
        return;
    }
    // Setup goes over gRPC, so only the run's commands are counted.
    let slips = Slips {
        lose_events_every: 100,
        lose_letters_every: 100,
        ..Slips::default()
    };
    let realm = OnKafka::start(Faults::default(), slips);
    for (scenario, missing) in [("trade", 3), ("dead-letter-flood", 2)] {
        let report = realm.run(&format!(
            "--scenario {scenario} --rate 300 --drain-seconds 5"
        ));
        assert!(!report.passed(), "{}", report.render());
        let books = &report.books;
        assert!(books.unanswered >= missing, "{}", report.render());
        let named = &books.problems.named;
        assert!(
            named.iter().any(|one| one.contains("no outcome")),
            "{named:?}"
        );
    }
}

#[test]
fn a_transfer_that_was_forgotten_is_found() {
    if !is_there() {
        return;
    }
    let faults = Faults {
        extra_transfer_every: 50,
        ..Faults::default()
    };
    let realm = OnKafka::start(faults, Slips::default());
    let report = realm.run("--rate 300 --drain-seconds 600");
    let named = &report.books.problems.named;
    let found = named
        .iter()
        .any(|one| one.contains("is not what it asked for"));
    assert!(found, "{}", report.render());
}

#[test]
fn what_an_engine_takes_after_it_came_back_is_found_by_check() {
    if !is_there() {
        return;
    }
    // Nobody reads the topic during the run: every command is delivered, and none answered.
    let mut away = OnKafka::start(Faults::default(), Slips::default());
    away.stop_reading();
    let outcome = away.try_run("--rate 200 --drain-seconds 1").unwrap();
    let report = &outcome.report;
    assert!(!report.passed());
    assert_eq!(report.deliveries.as_ref().unwrap().delivered, 200);
    assert_eq!((report.books.accepted, report.books.unanswered), (0, 200));
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("run.json");
    report.write(&json).unwrap();
    outcome.records.write(&books_path(&json)).unwrap();

    let name = away.name.clone();
    let topics = ["commands", "events", "dead-letters"].map(|one| format!("karat.{name}.{one}"));
    let stop = Arc::new(AtomicBool::new(false));
    let back = std::thread::spawn({
        let (realm, stop) = (away.realm.clone(), stop.clone());
        move || read(&realm, &topics, Slips::default(), &stop)
    });
    let args = CheckArgs {
        run: json,
        target: away.engine.clone(),
        realm: None,
    };
    let mut applied = 0;
    for _ in 0..600 {
        let found = check(&args).unwrap();
        assert!(found.passed(), "{}", found.render());
        applied = found.events.unanswered_applied;
        if applied == 200 {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(applied, 200);
    stop.store(true, Ordering::SeqCst);
    back.join().unwrap();
}

#[test]
fn brokers_and_topics_that_are_not_there_are_named() {
    // Bound, so that nobody else is given the port, and not listened at.
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let brokers = bound.local_addr().unwrap().to_string();
    let words = format!("karat-load run --target kafka://{brokers} --ack durable");
    let Action::Run(args) = Cli::parse_from(words.split(' ')).action else {
        panic!("run was asked for");
    };
    let error = run::run(&args).err().unwrap().to_string();
    assert!(
        error.contains(&format!("cannot reach Kafka at {brokers}")),
        "{error}"
    );
    if !is_there() {
        return;
    }
    let error = load("http://127.0.0.1:1", "nobodys", "")
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("no topic karat.nobodys.commands"), "{error}");
    assert!(error.contains("commands = true"), "{error}");
}
