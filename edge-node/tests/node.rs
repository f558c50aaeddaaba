//! A running node against an engine's Edge service that breaks, pauses and refuses.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod fake_edge;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Tiny, folder_with, slow_generator, tiny_generator, write_folder};
use fake_edge::{FakeEdge, HANGS_AFTER};
use karat_edge_node::generator::{GenerationRequest, Generator};
use karat_edge_node::ladder::LadderConfig;
use karat_edge_node::manifest::Manifest;
use karat_edge_node::node::{self, NodeConfig, NodeError, NodeFigures, NodeSnapshot, PROBES_FILE};
use karat_edge_node::pixels::{PngLimits, decode_png};
use karat_edge_node::seeds::Secret;
use karat_edge_node::signature::{
    ModelTrust, SIGNATURE_FILE, SignatureError, SignatureFile, name_of, role_of,
};
use karat_proto::realm::CODE_HEADER;
use karat_proto::signing::{ModelSignature, SigningKey};
use karat_proto::v1::{self, DirectiveKind};
use karat_proto::{Account, Code};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Status;

struct Bench {
    model: TempDir,
    spool: TempDir,
}

impl Bench {
    fn new() -> Bench {
        Bench {
            model: folder_with("generator", &tiny_generator(&Tiny::default())),
            spool: tempfile::tempdir().unwrap(),
        }
    }

    fn config(&self, fake: &FakeEdge, assets_max: Option<u64>) -> NodeConfig {
        NodeConfig {
            target: fake.target(),
            realm: None,
            name: "test".into(),
            account: Account::from_name("studio"),
            collection: 5,
            secret: Secret::from_bytes([6; 32]),
            model_trust: ModelTrust::default(),
            model_dir: self.model.path().to_owned(),
            variant: None,
            best_variant: None,
            ladder: LadderConfig::default(),
            assets_a_second: 0.0,
            assets_max,
            spool_dir: self.spool.path().to_owned(),
            spool_assets_max: 10_000,
            micro_batch_max: 8,
            micro_batch_wait: Duration::ZERO,
            spoil_ppm: 0,
        }
    }

    fn digest(&self) -> [u8; 32] {
        Manifest::load(self.model.path()).unwrap().digest
    }
}

struct Running {
    figures: Arc<NodeFigures>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<NodeSnapshot, NodeError>>,
}

impl Running {
    fn start(config: NodeConfig) -> Running {
        let (stop, stopped) = watch::channel(false);
        let figures = Arc::new(NodeFigures::default());
        let task = tokio::spawn(node::run(config, figures.clone(), stopped));
        Running {
            figures,
            stop,
            task,
        }
    }

    async fn until(&self, what: &str, reached: impl Fn(&NodeSnapshot) -> bool) {
        let wait = async {
            loop {
                // Looked at first: what is reached in its last moment counts.
                let is_over = self.task.is_finished();
                if reached(&self.figures.snapshot()) {
                    break;
                }
                assert!(!is_over, "the node ended before: {what}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(HANGS_AFTER, wait).await.expect(what);
    }

    async fn end(self) -> Result<NodeSnapshot, NodeError> {
        tokio::time::timeout(HANGS_AFTER, self.task)
            .await
            .expect("the run hangs")
            .unwrap()
    }

    async fn stop(self) -> NodeSnapshot {
        self.stop.send(true).unwrap();
        self.end().await.unwrap()
    }
}

/// Every index below `count` was accepted exactly once, and nothing else was.
fn assert_each_once(fake: &FakeEdge, count: u64) {
    let world = fake.world.lock().unwrap();
    assert_eq!(world.violations, Vec::<String>::new());
    let by_seed = world.accepted_by_seed();
    let secret = Secret::from_bytes([6; 32]);
    for index in 0..count {
        let seed = secret.seed(index);
        assert_eq!(by_seed.get(&seed[..]), Some(&1), "index {index}");
    }
    assert_eq!(by_seed.len() as u64, count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_break_anywhere_lose_nothing_and_double_nothing() {
    let mut reconnects = 0;
    for seed in 0..6 {
        let (bench, fake) = (Bench::new(), FakeEdge::start(seed).await);
        {
            let mut world = fake.world.lock().unwrap();
            world.break_every = 6;
            world.overloaded_every = 40;
            world.credits_max = [1, 3, 16, 40][seed as usize % 4];
        }
        let count = if seed % 4 == 0 { 40 } else { 150 };
        let snapshot = Running::start(bench.config(&fake, Some(count)))
            .end()
            .await
            .unwrap();
        assert_each_once(&fake, count);
        assert_eq!(snapshot.generated, count);
        assert_eq!(
            snapshot.acknowledged + snapshot.replayed,
            count,
            "{snapshot:?}"
        );
        assert_eq!((snapshot.refused.len(), snapshot.spooled), (0, 0));
        assert!(snapshot.sent >= count, "{snapshot:?}");
        reconnects += snapshot.reconnects;
        let open = fake.most_open();
        assert!(open <= u64::from(fake.world.lock().unwrap().credits_max));
    }
    // A machine under load sends fewer and larger messages, so a single run may have met no break.
    assert!(reconnects > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_answers_never_bring_more_under_way_than_credits_and_generation_waits() {
    let (bench, fake) = (Bench::new(), FakeEdge::start(1).await);
    {
        let mut world = fake.world.lock().unwrap();
        world.answer_after = Duration::from_millis(30);
        world.credits_max = 5;
    }
    // No answer comes before there is as much under way and ready as there may be.
    fake.hold_answers(true);
    let node = Running::start(bench.config(&fake, None));
    node.until("two windows of credits", |figures| {
        fake.most_open() == 5 && figures.spooled == 10
    })
    .await;
    fake.hold_answers(false);
    node.until("30 accepted", |figures| {
        assert!(
            figures.spooled <= 10 + 8,
            "two windows of credits and a micro-batch"
        );
        figures.acknowledged >= 30
    })
    .await;
    let snapshot = node.stop().await;
    assert_eq!(fake.most_open(), 5);
    assert_eq!(fake.world.lock().unwrap().violations, Vec::<String>::new());
    assert!(snapshot.generated <= snapshot.acknowledged + 10);
}

fn stages() -> v1::Stages {
    v1::Stages {
        digest_ns: 11,
        admission_ns: 12,
        queue_ns: 13,
        append_ns: 14,
        apply_ns: 15,
        ack_ns: 16,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_asset_has_its_budget_once_and_the_stages_add_up_to_the_whole() {
    let (bench, fake) = (Bench::new(), FakeEdge::start(1).await);
    {
        let mut world = fake.world.lock().unwrap();
        world.stages = Some(stages());
        // The flush takes much longer than anything else; it is not in the budget.
        world.answer_after = Duration::from_secs(1);
        world.credits_max = 100;
    }
    let snapshot = Running::start(bench.config(&fake, Some(100)))
        .end()
        .await
        .unwrap();
    let budget = snapshot.budget;
    assert_eq!((budget.whole.count, budget.resent.count), (100, 0));
    assert_eq!((budget.without_engine, budget.at_durable), (0, 0));
    let names: Vec<_> = budget.stages.iter().map(|one| one.stage).collect();
    assert_eq!(names, node::STAGES);
    assert!(budget.stages.iter().all(|one| one.count == 100));
    let sum: u64 = budget.stages.iter().map(|one| one.sum_ns).sum();
    assert_eq!(sum, budget.whole.sum_ns);
    let reported: Vec<_> = budget.stages[4..].iter().map(|one| one.sum_ns).collect();
    assert_eq!(reported, [1100, 1200, 1300, 1400, 1500, 1600]);
    assert!(budget.stages[1].p50_ns > 0, "encoding takes time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_says_nothing_of_its_stages_is_measured_to_the_final_outcome() {
    let (bench, fake) = (Bench::new(), FakeEdge::start(1).await);
    let snapshot = Running::start(bench.config(&fake, Some(20)))
        .end()
        .await
        .unwrap();
    let budget = snapshot.budget;
    assert_eq!(
        (budget.whole.count, budget.without_engine, budget.at_durable),
        (20, 20, 20)
    );
    assert!(budget.stages[4..].iter().all(|one| one.sum_ns == 0));
    let sum: u64 = budget.stages.iter().map(|one| one.sum_ns).sum();
    assert_eq!(sum, budget.whole.sum_ns);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_again_is_kept_out_of_the_budget() {
    let (bench, fake) = (Bench::new(), FakeEdge::start(3).await);
    {
        let mut world = fake.world.lock().unwrap();
        world.stages = Some(stages());
        world.break_every = 4;
        world.overloaded_every = 10;
        world.credits_max = 16;
    }
    let snapshot = Running::start(bench.config(&fake, Some(300)))
        .end()
        .await
        .unwrap();
    assert_each_once(&fake, 300);
    let budget = snapshot.budget;
    // What was accepted in an attempt whose answer was lost answers as replayed: nobody saw when it was in the order.
    assert_eq!(
        budget.whole.count + budget.resent.count,
        snapshot.acknowledged
    );
    assert!(
        budget.resent.count > 0 && budget.whole.count > 0,
        "{budget:?}"
    );
    let sum: u64 = budget.stages.iter().map(|one| one.sum_ns).sum();
    assert_eq!(sum, budget.whole.sum_ns);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_engine_is_away_the_node_fills_its_spool_and_then_waits() {
    let (bench, mut fake) = (Bench::new(), FakeEdge::down(1));
    let config = NodeConfig {
        spool_assets_max: 50,
        ..bench.config(&fake, Some(200))
    };
    let node = Running::start(config);
    // An asset is counted after it is in the spool.
    node.until("a full spool", |figures| {
        (figures.spooled, figures.generated) == (50, 50)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(node.figures.snapshot().generated, 50);
    fake.listen().await;
    node.until("100 accepted", |figures| figures.acknowledged >= 100)
        .await;
    fake.go_away();
    tokio::time::sleep(Duration::from_millis(50)).await;
    fake.listen().await;
    let snapshot = node.end().await.unwrap();
    assert_each_once(&fake, 200);
    assert_eq!((snapshot.generated, snapshot.spooled), (200, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_leftovers_go_first_and_no_index_comes_twice() {
    let (bench, mut fake) = (Bench::new(), FakeEdge::down(1));
    let config = NodeConfig {
        spool_assets_max: 30,
        ..bench.config(&fake, None)
    };
    let node = Running::start(config.clone());
    node.until("a full spool", |figures| figures.spooled == 30)
        .await;
    let snapshot = node.stop().await;
    assert_eq!(
        (snapshot.generated, snapshot.sent, snapshot.spooled),
        (30, 0, 30)
    );
    fake.listen().await;
    let snapshot = Running::start(NodeConfig {
        assets_max: Some(10),
        ..config
    })
    .end()
    .await
    .unwrap();
    assert_eq!((snapshot.generated, snapshot.sent), (10, 40));
    assert_each_once(&fake, 40);
    let secret = Secret::from_bytes([6; 32]);
    let world = fake.world.lock().unwrap();
    for (index, seed) in world.arrived.iter().enumerate() {
        assert_eq!(
            seed[..],
            secret.seed(index as u64),
            "out of order at {index}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_killed_at_any_moment_reuse_no_index_and_lose_no_asset_that_was_spooled() {
    let (bench, fake) = (Bench::new(), FakeEdge::start(9).await);
    fake.world.lock().unwrap().break_every = 5;
    let mut generated = 0;
    for round in 0..8u64 {
        // A rate, so that the moment of the kill falls anywhere in the course of things.
        let config = NodeConfig {
            assets_a_second: 800.0,
            ..bench.config(&fake, None)
        };
        let node = Running::start(config);
        node.until("some progress", |figures| figures.generated > 5 + 7 * round)
            .await;
        // Dropping the run is the nearest to a kill within one process: the spool is not closed.
        node.task.abort();
        let _ = node.task.await;
        let killed = Instant::now();
        let lock = bench.spool.path().join("spool.lock");
        while std::fs::File::open(&lock).unwrap().try_lock().is_err() {
            assert!(killed.elapsed() < HANGS_AFTER, "the folder stays in use");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        generated += node.figures.snapshot().generated;
    }
    fake.world.lock().unwrap().break_every = 0;
    let last = Running::start(bench.config(&fake, Some(1)))
        .end()
        .await
        .unwrap();
    assert_eq!(last.spooled, 0);
    let world = fake.world.lock().unwrap();
    assert_eq!(world.violations, Vec::<String>::new());
    assert!(world.accepted_by_seed().values().all(|count| *count == 1));
    assert_eq!(world.accepted.len() as u64, generated + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_realm_gets_everything_after_it_goes_on_although_it_refused_some_in_order() {
    let (bench, fake) = (Bench::new(), FakeEdge::start(1).await);
    let config = NodeConfig {
        assets_a_second: 2_000.0,
        ..bench.config(&fake, Some(120))
    };
    // The realm is paused first, and says so only when it has refused some in order.
    fake.world.lock().unwrap().pause_at = Some(20);
    let (most_at_once, node) = (config.micro_batch_max as u64, Running::start(config));
    node.until("some refused in order", |_| {
        let world = fake.world.lock().unwrap();
        world.outcomes.len() > world.accepted.len()
    })
    .await;
    fake.direct(DirectiveKind::Pause, &[]);
    node.until("the pause is heard", |figures| figures.held)
        .await;
    let generated = node.figures.snapshot().generated;
    // Time in which a node that does not wait would go on; one that does ends the micro-batch that it had begun.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(fake.accepted(), 20);
    assert!(node.figures.snapshot().generated <= generated + most_at_once);
    fake.world.lock().unwrap().paused = false;
    fake.direct(DirectiveKind::Resume, &[]);
    let snapshot = node.end().await.unwrap();
    assert_each_once(&fake, 120);
    assert_eq!(snapshot.refused, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_may_not_mint_yet_waits_for_its_approval() {
    let (bench, fake) = (Bench::new(), FakeEdge::start(1).await);
    fake.world.lock().unwrap().approved = false;
    let began = Instant::now();
    let node = Running::start(bench.config(&fake, Some(30)));
    // It makes one asset and asks with it, but every ten seconds only.
    let waits = || {
        let snapshot = node.figures.snapshot();
        assert!(snapshot.held && snapshot.generated == 1, "{snapshot:?}");
        assert!(snapshot.sent <= began.elapsed().as_secs() / 10);
    };
    node.until("the first asset", |figures| figures.generated > 0)
        .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    waits();
    // Another model's approval changes nothing.
    fake.direct(DirectiveKind::ModelApproved, &[1; 32]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    waits();
    fake.world.lock().unwrap().approved = true;
    fake.direct(DirectiveKind::ModelApproved, &bench.digest());
    let snapshot = node.end().await.unwrap();
    assert_each_once(&fake, 30);
    assert_eq!(snapshot.refused, []);
    let world = fake.world.lock().unwrap();
    assert_eq!(world.hellos[0].models[0].digest[..], bench.digest());
    assert_eq!(world.hellos[0].account[..], Account::from_name("studio").0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missed_word_that_the_node_may_go_on_is_found_out_by_asking() {
    let (approval, fake) = (Bench::new(), FakeEdge::start(1).await);
    fake.world.lock().unwrap().approved = false;
    let waits_for_approval = Running::start(approval.config(&fake, Some(20)));
    let (pause, paused_fake) = (Bench::new(), FakeEdge::start(2).await);
    paused_fake.world.lock().unwrap().paused = true;
    let waits_for_resume = Running::start(pause.config(&paused_fake, Some(20)));
    // It asks while the answer is still no, and again after that.
    waits_for_approval
        .until("a first question", |figures| figures.sent >= 1)
        .await;
    fake.world.lock().unwrap().approved = true;
    paused_fake.world.lock().unwrap().paused = false;
    for (node, fake) in [
        (waits_for_approval, &fake),
        (waits_for_resume, &paused_fake),
    ] {
        let snapshot = node.end().await.unwrap();
        assert_each_once(fake, 20);
        assert_eq!(snapshot.refused, []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retired_model_ends_the_run_with_every_asset_accounted_for() {
    let (bench, fake) = (Bench::new(), FakeEdge::start(1).await);
    let node = Running::start(bench.config(&fake, None));
    node.until("20 accepted", |figures| figures.acknowledged >= 20)
        .await;
    fake.world.lock().unwrap().approved = false;
    node.until("one that is refused", |_| {
        fake.world.lock().unwrap().not_approved > 0
    })
    .await;
    fake.direct(DirectiveKind::ModelRetired, &bench.digest());
    let snapshot = node.end().await.unwrap();
    assert_each_once(&fake, snapshot.acknowledged);
    assert_eq!(
        snapshot.generated,
        snapshot.acknowledged + snapshot.refused_count()
    );
    let codes: Vec<u16> = snapshot.refused.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [Code::ModelNotApproved as u16]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_up_supply_ends_the_run_cleanly() {
    let (bench, fake) = (Bench::new(), FakeEdge::start(1).await);
    fake.world.lock().unwrap().supply = 25;
    let snapshot = Running::start(bench.config(&fake, None))
        .end()
        .await
        .unwrap();
    assert_each_once(&fake, 25);
    assert_eq!(snapshot.acknowledged, 25);
    let refused = snapshot.generated - 25;
    assert_eq!(snapshot.refused, [(Code::SupplyCapReached as u16, refused)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_refuses_the_node_for_good_ends_it_with_its_reason() {
    let (bench, fake) = (Bench::new(), FakeEdge::start(1).await);
    fake.world.lock().unwrap().refuse_hello = Some(Status::permission_denied("no such key"));
    let error = Running::start(bench.config(&fake, None))
        .end()
        .await
        .unwrap_err();
    assert!(matches!(error, NodeError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("no such key"));
    // What may pass is tried again.
    fake.world.lock().unwrap().refuse_hello = Some(Status::unavailable("starting"));
    let node = Running::start(bench.config(&fake, Some(5)));
    node.until("some attempts", |_| {
        fake.world.lock().unwrap().hellos.len() > 3
    })
    .await;
    fake.world.lock().unwrap().refuse_hello = None;
    assert_eq!(node.end().await.unwrap().spooled, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_goes_where_its_realm_is_and_no_asset_is_lost_or_doubled_on_the_way() {
    const COUNT: u64 = 150;
    let (bench, first, mut second) = (Bench::new(), FakeEdge::start(1).await, FakeEdge::down(2));
    second.world = first.world.clone();
    second.listen().await;
    first.realm_is_at(Some(&second));
    second.hold_answers(true);
    let node = Running::start(NodeConfig {
        realm: Some("north".parse().unwrap()),
        ..bench.config(&first, Some(COUNT))
    });
    node.until("assets without an answer at the second", |_| {
        second.most_open() > 0
    })
    .await;
    // The second ends with everything that it has not answered, and the first one leads.
    first.realm_is_at(None);
    second.go_away();
    let snapshot = node.end().await.unwrap();
    assert_each_once(&first, COUNT);
    assert!(
        snapshot.replayed > 0 && snapshot.reconnects > 0,
        "{snapshot:?}"
    );
    let world = first.world.lock().unwrap();
    assert!(world.realms_named.len() >= 2);
    assert!(world.realms_named.iter().all(|name| name == "north"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_realm_that_nobody_knows_ends_the_node_with_its_name() {
    let (bench, fake) = (Bench::new(), FakeEdge::start(1).await);
    let mut refused = Status::not_found("this group has no realm \"south\"");
    let code = (Code::UnknownRealm as u16).to_string().parse().unwrap();
    refused.metadata_mut().insert(CODE_HEADER, code);
    fake.world.lock().unwrap().refuse_hello = Some(refused);
    let error = Running::start(bench.config(&fake, Some(1))).end().await;
    let said = error.unwrap_err().to_string();
    assert!(said.contains("south"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_models_and_folders_that_cannot_work_are_refused_at_once() {
    let (bench, fake) = (Bench::new(), FakeEdge::down(1));
    let good = bench.config(&fake, Some(1));
    let bad = [
        NodeConfig {
            target: "localhost:1".into(),
            ..good.clone()
        },
        NodeConfig {
            name: String::new(),
            ..good.clone()
        },
        NodeConfig {
            account: Account::NOBODY,
            ..good.clone()
        },
        NodeConfig {
            assets_a_second: f64::NAN,
            ..good.clone()
        },
        NodeConfig {
            assets_a_second: -1.0,
            ..good.clone()
        },
        NodeConfig {
            spool_assets_max: 0,
            ..good.clone()
        },
        NodeConfig {
            micro_batch_max: 33,
            ..good.clone()
        },
        NodeConfig {
            micro_batch_wait: Duration::from_secs(2),
            ..good.clone()
        },
        NodeConfig {
            variant: Some("full".into()),
            best_variant: Some("full".into()),
            ..good.clone()
        },
        NodeConfig {
            spoil_ppm: 1_000_001,
            ..good.clone()
        },
    ];
    for config in bad {
        let error = Running::start(config).end().await.unwrap_err();
        assert!(matches!(error, NodeError::Setting { .. }), "{error}");
    }
    let no_variant = NodeConfig {
        variant: Some("huge".into()),
        ..good.clone()
    };
    let no_best = NodeConfig {
        best_variant: Some("huge".into()),
        ..good.clone()
    };
    for config in [no_variant, no_best] {
        let error = Running::start(config).end().await.unwrap_err();
        assert!(matches!(error, NodeError::Generator(_)), "{error}");
    }
    let first = Running::start(good.clone());
    first
        .until("an asset", |figures| figures.generated == 1)
        .await;
    let error = Running::start(good).end().await.unwrap_err();
    assert!(matches!(error, NodeError::Spool(_)), "{error}");
    assert_eq!(first.stop().await.spooled, 1);
}

/// Two variants: the first and best one costs some milliseconds an image, the other next to nothing.
fn slow_and_quick() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let quick = tiny_generator(&Tiny::default());
    let variants: [(&str, &[u8]); 2] = [("slow", &slow_generator(2.0)), ("quick", &quick)];
    write_folder(folder.path(), "generator", &variants);
    folder
}

/// More than the slow variant makes on any machine: 25 million multiplications in the 100 us that this rate leaves an
/// image are 250 thousand million a second on one core.
const TOO_MANY_A_SECOND: f64 = 10_000.0;

/// Reacts within some observations, so that a test does not take long.
const LIVELY: LadderConfig = LadderConfig {
    high_load_ppm: 850_000,
    low_load_ppm: 600_000,
    down_after_ms: 200,
    up_after_ms: 300,
    worth_it_ppm: 900_000,
};

fn made_by(figures: &NodeSnapshot, variant: &str) -> u64 {
    let made = figures.made_by.iter().find(|(name, _)| name == variant);
    made.map_or(0, |(_, count)| *count)
}

/// Each asset is what its lineage says: the variant named there makes the same image again.
fn assert_lineages(fake: &FakeEdge, folder: &Path) -> Vec<String> {
    let world = fake.world.lock().unwrap();
    let mut names = Vec::new();
    let mut generator = Generator::load(folder, None).unwrap();
    for asset in &world.accepted {
        let lineage = asset.lineage.as_ref().unwrap();
        assert_eq!(lineage.model[..], generator.manifest().digest);
        generator.switch_variant(&lineage.variant).unwrap();
        let request = GenerationRequest {
            seed: lineage.seed[..].try_into().unwrap(),
            traits: asset.traits.to_vec(),
        };
        let again = generator.generate(&[request]).unwrap().remove(0);
        assert_eq!(again.png, asset.content[..], "made by {}", lineage.variant);
        if !names.contains(&lineage.variant) {
            names.push(lineage.variant.clone());
        }
    }
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_the_variant_drops_and_climbs_back_and_every_lineage_names_its_own() {
    let (bench, fake) = (Bench::new(), FakeEdge::start(3).await);
    let folder = slow_and_quick();
    let config = NodeConfig {
        model_dir: folder.path().to_owned(),
        assets_a_second: TOO_MANY_A_SECOND,
        ladder: LIVELY,
        ..bench.config(&fake, None)
    };
    // A machine that stands still for a while may bring further steps, up and down again: none is counted exactly.
    let node = Running::start(config);
    node.until("a step down", |figures| figures.steps_down > 0)
        .await;
    node.until("quick ones", |figures| made_by(figures, "quick") > 20)
        .await;
    // All that was made so far has its answer, quick ones too.
    let generated = node.figures.snapshot().generated;
    node.until("their answers", |figures| figures.acknowledged >= generated)
        .await;
    // Nothing may be made: there is room for the best variant again.
    fake.direct(DirectiveKind::Pause, &[]);
    node.until("a step up", |figures| {
        figures.held && figures.steps_up > 0 && figures.variant == "slow"
    })
    .await;
    let steps_down = node.figures.snapshot().steps_down;
    fake.direct(DirectiveKind::Resume, &[]);
    node.until("a second step down", |figures| {
        figures.steps_down > steps_down
    })
    .await;
    let snapshot = node.stop().await;
    let made: u64 = snapshot.made_by.iter().map(|(_, count)| count).sum();
    assert_eq!((made, snapshot.made_by.len()), (snapshot.generated, 2));
    assert_eq!(assert_lineages(&fake, folder.path()), ["slow", "quick"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_variant_and_a_node_without_a_schedule_stay_where_they_start() {
    for (variant, rate) in [(Some("slow"), TOO_MANY_A_SECOND), (None, 0.0)] {
        let (bench, fake) = (Bench::new(), FakeEdge::start(3).await);
        let folder = slow_and_quick();
        let config = NodeConfig {
            model_dir: folder.path().to_owned(),
            variant: variant.map(str::to_owned),
            assets_a_second: rate,
            ladder: LadderConfig {
                down_after_ms: 0,
                ..LIVELY
            },
            ..bench.config(&fake, Some(60))
        };
        let snapshot = Running::start(config).end().await.unwrap();
        assert_eq!(snapshot.made_by, [("slow".to_owned(), 60)]);
        assert_eq!((snapshot.steps_down, snapshot.steps_up), (0, 0));
        assert!(!bench.spool.path().join(PROBES_FILE).exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_measured_before_on_this_machine_is_used_again() {
    let (bench, fake) = (Bench::new(), FakeEdge::start(3).await);
    let folder = slow_and_quick();
    let config = NodeConfig {
        model_dir: folder.path().to_owned(),
        assets_a_second: TOO_MANY_A_SECOND,
        ladder: LadderConfig {
            down_after_ms: 0,
            // Never up again within the run, however long the machine stands still.
            up_after_ms: 3_600_000,
            ..LIVELY
        },
        // So many that the load is looked at before the last one, which takes 100 ms of work.
        ..bench.config(&fake, Some(500))
    };
    let first = Running::start(config.clone()).end().await.unwrap();
    assert_eq!(first.steps_down, 1, "{first:?}");
    // As if the quick variant had cost more than the slow one: then it is never stepped down to.
    let kept = bench.spool.path().join(PROBES_FILE);
    let mut probes: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&kept).unwrap()).unwrap();
    // Taken a day ago, so that they are fresh also where the clock is set back a little meanwhile.
    let taken_at = probes["probes"][0]["taken_at"].as_u64().unwrap();
    probes["probes"][0]["taken_at"] = (taken_at - 24 * 3600).into();
    for cost in probes["probes"][0]["costs"].as_array_mut().unwrap() {
        let is_quick = cost["variant"] == "quick";
        cost["cost_ns"] = if is_quick { 2_000 } else { 1_000 }.into();
    }
    std::fs::write(&kept, probes.to_string()).unwrap();
    let second = Running::start(config).end().await.unwrap();
    assert_eq!(second.made_by, [("slow".to_owned(), 500)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_file_replaced_under_a_running_node_changes_nothing_and_is_not_loaded() {
    let (bench, fake) = (Bench::new(), FakeEdge::start(3).await);
    let folder = slow_and_quick();
    let whole = tempfile::tempdir().unwrap();
    for name in ["manifest.toml", "slow.onnx", "quick.onnx"] {
        std::fs::copy(folder.path().join(name), whole.path().join(name)).unwrap();
    }
    let config = NodeConfig {
        model_dir: folder.path().to_owned(),
        assets_a_second: TOO_MANY_A_SECOND,
        ladder: LIVELY,
        ..bench.config(&fake, None)
    };
    let node = Running::start(config.clone());
    node.until("an asset", |figures| figures.acknowledged > 0)
        .await;
    let other = tiny_generator(&Tiny {
        scale: 3.0,
        ..Tiny::default()
    });
    for name in ["slow.onnx", "quick.onnx"] {
        std::fs::write(folder.path().join(name), &other).unwrap();
    }
    // A node that starts now loads nothing of it.
    let again = NodeConfig {
        spool_dir: whole.path().join("spool"),
        ..config
    };
    let error = Running::start(again).end().await.unwrap_err();
    assert!(error.to_string().contains("restore the file"), "{error}");
    // The one that runs goes on with what it had, also across a change of variant.
    node.until("quick ones", |figures| made_by(figures, "quick") > 20)
        .await;
    let generated = node.figures.snapshot().generated;
    node.until("their answers", |figures| figures.acknowledged >= generated)
        .await;
    node.stop().await;
    assert_eq!(assert_lineages(&fake, whole.path()), ["slow", "quick"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_runs_only_a_model_that_a_trusted_key_signed() {
    let (bench, fake) = (Bench::new(), FakeEdge::start(1).await);
    let secret = SigningKey::from_bytes(&[1; 32]);
    let demanding = NodeConfig {
        model_trust: ModelTrust::of(vec![secret.verifying_key().to_bytes()]),
        ..bench.config(&fake, Some(1))
    };
    let refused = |error: NodeError| match error {
        NodeError::Signature(error) => error,
        other => panic!("{other}"),
    };
    let error = refused(Running::start(demanding.clone()).end().await.unwrap_err());
    assert!(matches!(error, SignatureError::Unsigned { .. }), "{error}");

    let manifest = Manifest::load(bench.model.path()).unwrap();
    let sign = |secret: &SigningKey| {
        let (role, name) = (role_of(&manifest), name_of(&manifest));
        let file = SignatureFile {
            digest: manifest.digest,
            signature: ModelSignature::make(secret, &manifest.digest, role, &name),
        };
        std::fs::write(bench.model.path().join(SIGNATURE_FILE), file.to_text()).unwrap();
    };
    sign(&SigningKey::from_bytes(&[2; 32]));
    let error = refused(Running::start(demanding.clone()).end().await.unwrap_err());
    assert!(
        matches!(error, SignatureError::UnknownKey { .. }),
        "{error}"
    );
    assert!(fake.world.lock().unwrap().hellos.is_empty());

    sign(&secret);
    let snapshot = Running::start(demanding).end().await.unwrap();
    assert_eq!((snapshot.generated, snapshot.acknowledged), (1, 1));
}

fn relics() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/relics")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relics_arrive_as_what_their_lineage_says_and_a_share_is_spoiled_on_purpose() {
    let (bench, fake) = (Bench::new(), FakeEdge::start(1).await);
    let manifest = Manifest::load(relics()).unwrap();
    let exact = manifest.variants.iter().find(|variant| variant.exact);
    let exact = exact.unwrap().name.clone();
    let config = NodeConfig {
        model_dir: relics(),
        variant: Some(exact.clone()),
        spoil_ppm: 250_000,
        ..bench.config(&fake, Some(60))
    };
    let snapshot = Running::start(config).end().await.unwrap();
    assert_each_once(&fake, 60);
    assert_eq!(
        (snapshot.acknowledged, snapshot.variant.as_str()),
        (60, exact.as_str())
    );
    assert!(snapshot.generate_p50_us > 0 && snapshot.generate_p99_us >= snapshot.generate_p50_us);

    let mut generator = Generator::load(relics(), exact.as_str()).unwrap();
    let rules = generator.manifest().trait_rules();
    let world = fake.world.lock().unwrap();
    let mut others = 0;
    for asset in &world.accepted {
        let lineage = asset.lineage.as_ref().unwrap();
        assert_eq!(lineage.model[..], generator.manifest().digest);
        assert_eq!(
            (lineage.variant.as_str(), asset.collection),
            (exact.as_str(), 5)
        );
        rules.allows(&asset.traits).unwrap();
        let request = GenerationRequest {
            seed: lineage.seed[..].try_into().unwrap(),
            traits: asset.traits.to_vec(),
        };
        let again = generator.generate(&[request]).unwrap().remove(0);
        let limits = PngLimits {
            max_bytes: 1 << 19,
            max_width: 64,
            max_height: 64,
        };
        let arrived = decode_png(&asset.content, limits).unwrap();
        assert_eq!((arrived.width, arrived.height), (64, 64));
        others += u64::from(arrived.rgb != again.pixels);
    }
    assert_eq!(others, snapshot.spoiled);
    assert!((5..=27).contains(&others), "{others} of 60");
}
