//! The real binary under load, killed with SIGKILL at random moments, started again, and asked for everything that it said
//! before.
//!
//! What must hold: no acknowledged command is lost at its level, none is applied twice, the log verifies, chain and ledger
//! agree, every named CID has its bytes, and no start needs a hand. A kill is not a loss of power: what the system's cache
//! holds survives it.
//!
//! `KARAT_CRASH_KILLS` (8) and `KARAT_CRASH_SEED` choose how many kills and which; the seed decides what is sent and when is
//! killed, the machine decides what is under way then.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "crash/book.rs"]
mod book;
#[path = "crash/client.rs"]
mod client;
#[path = "crash/end.rs"]
mod end;
#[path = "crash/engine.rs"]
mod engine;
#[path = "crash/model.rs"]
mod model;
#[path = "crash/random.rs"]
mod random;
#[path = "crash/recovery.rs"]
mod recovery;
#[path = "crash/replay.rs"]
mod replay;
#[path = "crash/scene.rs"]
mod scene;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use client::{Clients, Lost};
use engine::{Engine, Home};
use karat_proto::v1;
use model::Model;
use random::Random;
use tonic::transport::Channel;

const KILLS: u64 = 8;
const SEED: u64 = 20_260_101;

/// What a life of the engine ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// Killed before or just after it serves.
    InItsStart,
    /// Killed 50 to 700 ms after it began to serve, recovery included.
    FromServing,
    /// Killed 50 to 700 ms after the load began.
    UnderLoad,
    /// Killed after so long that digests were recorded and snapshots are made.
    Long,
    /// Killed about when orphans are collected.
    InCollection,
    /// Asked to stop, and killed while it does.
    InItsStop,
}

impl Life {
    fn of(number: u64, random: &mut Random) -> Life {
        match number % 16 {
            0 | 5 | 9 => Life::InItsStart,
            3 | 13 => Life::Long,
            7 => Life::InCollection,
            11 => Life::InItsStop,
            _ if random.once_in(4) => Life::FromServing,
            _ => Life::UnderLoad,
        }
    }

    /// From the load's beginning to the kill.
    fn load_ms(self, random: &mut Random) -> u64 {
        match self {
            Life::InItsStart => 0,
            Life::FromServing | Life::UnderLoad | Life::InItsStop => random.between(50, 700),
            Life::Long => random.between(1000, 2500),
            // Two seconds are waited for commands that are at the door.
            Life::InCollection => random.between(1900, 2400),
        }
    }
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// Says the seed when the test fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("KARAT_CRASH_SEED={} failed", self.0);
        }
    }
}

struct Run {
    home: Home,
    clients: Arc<Clients>,
    model: Model,
    random: Random,
    /// The longest start so far: kills in a start lie within it.
    start_max: Duration,
    lost_in_recovery: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_acknowledged_is_lost_or_applied_twice_by_kills_under_load() {
    let began = Instant::now();
    let kills = from_environment("KARAT_CRASH_KILLS", KILLS);
    let seed = Seed(from_environment("KARAT_CRASH_SEED", SEED));
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::new(folder.path(), Random::new(seed.0));
    for number in 0..kills {
        run.one_life(number).await;
        if number % 25 == 24 {
            eprintln!("{} kills, {}", number + 1, run.summary());
        }
    }
    let batches = run.end().await;
    eprintln!(
        "seed {}: {kills} kills, {}, {batches} batches final, {:.0} s",
        seed.0,
        run.summary(),
        began.elapsed().as_secs_f64()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_realm_that_is_killed_while_it_is_first_opened_opens_the_next_time() {
    let realms = from_environment("KARAT_CRASH_KILLS", KILLS) / 8 + 2;
    let seed = Seed(from_environment("KARAT_CRASH_SEED", SEED));
    let mut random = Random::new(seed.0);
    let mut start_max = Duration::from_millis(400);
    for _ in 0..realms {
        let folder = tempfile::tempdir().unwrap();
        let mut run = Run::new(folder.path(), random.fork());
        for _ in 0..random.between(1, 3) {
            let engine = run.home.spawn();
            let pause = random.between(0, start_max.as_millis() as u64);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            engine.kill();
        }
        let mut engine = run.home.spawn();
        let (address, took) = engine.serving();
        start_max = start_max.max(took);
        run.recover(&address).await.unwrap();
        engine.ask_to_stop();
        engine.stopped();
        let data = run.home.data.to_str().unwrap();
        let verified = run.home.karat(&["log", "verify", data]);
        assert!(verified.status.success(), "{verified:?}");
    }
}

impl Run {
    fn new(dir: &Path, random: Random) -> Run {
        Run {
            home: Home::new(dir),
            clients: Arc::default(),
            model: Model::default(),
            random,
            start_max: Duration::from_millis(400),
            lost_in_recovery: 0,
        }
    }

    fn summary(&self) -> String {
        let book = self.clients.book.lock();
        format!(
            "{} commands sent, {} acknowledged, {} unknown and resent, {} answers replayed, {} refused at the door, \
             levels {:?}, codes {:?}, {} assets, {} events watched, {} recoveries cut off, longest start {} ms",
            book.ids.len(),
            book.by_sequence.len(),
            book.resent_unknown,
            book.replayed,
            book.refused_at_the_door,
            book.levels,
            book.codes,
            self.model.things.len(),
            self.clients.watched.lock().events,
            self.lost_in_recovery,
            self.start_max.as_millis()
        )
    }

    async fn one_life(&mut self, number: u64) {
        let life = Life::of(number, &mut self.random);
        let mut engine = self.home.spawn();
        if life == Life::InItsStart {
            let most = self.start_max.as_millis() as u64 * 6 / 5;
            let pause = Duration::from_millis(self.random.between(0, most));
            tokio::time::sleep(pause).await;
            return engine.kill();
        }
        let (address, took) = engine.serving();
        self.start_max = self.start_max.max(took);
        let load_ms = life.load_ms(&mut self.random);
        let recovered = if life == Life::FromServing {
            let recovering = self.recover(&address);
            let Ok(recovered) =
                tokio::time::timeout(Duration::from_millis(load_ms), recovering).await
            else {
                self.lost_in_recovery += 1;
                return engine.kill();
            };
            recovered
        } else {
            self.recover(&address).await
        };
        let channel = recovered.unwrap_or_else(|Lost| {
            panic!("it ended by itself. It said:\n{}", engine.said());
        });
        self.under_load(engine, &channel, life, load_ms).await;
    }

    async fn recover(&mut self, address: &str) -> Result<Channel, Lost> {
        let channel = client::connect(address).await?;
        recovery::recover(&self.clients, &channel, &mut self.model, &mut self.random).await?;
        Ok(channel)
    }

    async fn under_load(&mut self, engine: Engine, channel: &Channel, life: Life, load_ms: u64) {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = self.clients.load(channel, &mut self.random, &stop);
        if life == Life::InCollection {
            let mut operator = client::operator(channel);
            // Its answer is lost with the engine, mostly.
            tokio::spawn(async move {
                let request = v1::CollectContentRequest { dry_run: false };
                let _ = operator.collect_content(request).await;
            });
        }
        tokio::time::sleep(Duration::from_millis(load_ms)).await;
        if life == Life::InItsStop {
            engine.ask_to_stop();
            let pause = Duration::from_millis(self.random.between(0, 600));
            tokio::time::sleep(pause).await;
            engine.kill_if_running();
        } else {
            engine.kill();
        }
        stop.store(true, Ordering::SeqCst);
        for task in tasks {
            // A task that panicked found a contradiction.
            task.await.unwrap();
        }
    }

    /// All checks; gives the number of batches.
    async fn end(&mut self) -> usize {
        let mut engine = self.home.spawn();
        let (address, _) = engine.serving();
        let alive = "the engine ends only when it is asked to";
        let channel = self.recover(&address).await.expect(alive);
        recovery::send_some_more(&self.clients, &channel, &mut self.model, &mut self.random)
            .await
            .expect(alive);
        let online =
            end::ask_everything(&self.clients, &channel, &mut self.model, &mut self.random)
                .await
                .expect(alive);
        assert!(online.orphans > 0, "one was left on purpose");
        drop(channel);
        engine.ask_to_stop();
        engine.stopped();
        end::compare_folder(&self.clients, &self.home, &online).await;
        online.batches.len()
    }
}
