//! Panics, stalls, permits, policies that change, and a ledger that is away: no job is lost and none counts twice.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::*;
use karat_agents::findings::FindingCode as Found;
use karat_agents::oracle::{Oracle, OracleError, OracleSource};
use karat_agents::{Agents, AgentsConfig, AgentsError, AgentsHandle};
use karat_proto::Code;
use karat_proto::command::{Decision, Policy};

fn start(config: AgentsConfig) -> (Arc<Host>, AgentsHandle, Arc<Gate>) {
    let host = Host::new(quiet_policy());
    let gate = Arc::new(Gate::default());
    let painter = Painter { gate: gate.clone() };
    let agents = Agents::start_with(config, host.clone(), Arc::new(painter)).unwrap();
    (host, agents, gate)
}

/// Finds a stuck worker soon. A busy machine can make a worker look stuck that is not, which costs an asset only one of
/// its turns, so the other bounds are wide.
fn watchful(workers: usize, batch_max: usize) -> AgentsConfig {
    AgentsConfig {
        stall_ms: 200,
        replacements_a_minute_max: 100,
        stuck_threads_max: 64,
        workers,
        batch_max,
        ..config()
    }
}

fn all_but_one_accepted(host: &Host, assets: u64, odd: u64, code: Found) {
    for asset in 1..=assets {
        let verdict = host.verdict(asset).unwrap();
        if asset == odd {
            assert_eq!(verdict.decision, Decision::Review);
            assert_eq!(codes(&verdict), [code]);
        } else {
            assert_eq!(verdict.decision, Decision::Accept, "asset {asset}");
        }
    }
}

#[test]
fn an_asset_that_breaks_its_agent_goes_to_people_and_its_neighbours_are_verified() {
    for workers in [1, 3] {
        let (host, agents, _) = start(AgentsConfig {
            workers,
            ..config()
        });
        for asset in 1..=60 {
            let mark = if asset == 30 { READ_PANICS } else { READ_WELL };
            agents.try_offer(marked(&host, asset, mark)).unwrap();
        }
        until("all verdicts", || host.verdicts() == 60);
        all_but_one_accepted(&host, 60, 30, Found::AgentPanicked);
        until("the permits' return", || agents.stats().in_flight == 0);
        let stats = agents.stats();
        assert_eq!((stats.panics, stats.restarts), (3, 3));
        assert_eq!((stats.verified, stats.in_review), (59, 1));
    }
}

#[test]
fn a_content_store_that_panics_breaks_only_its_own_asset() {
    let (host, agents, _) = start(config());
    for asset in 1..=20 {
        let job = honest(&host, asset);
        if asset == 5 {
            host.change(|state| assert!(state.content_panics.insert(job.content.digest)));
        }
        agents.try_offer(job).unwrap();
    }
    until("all verdicts", || host.verdicts() == 20);
    all_but_one_accepted(&host, 20, 5, Found::AgentPanicked);
}

#[test]
fn a_stuck_worker_is_replaced_and_its_late_answer_is_ignored() {
    let (host, agents, gate) = start(watchful(1, 16));
    for asset in 1..=40 {
        let mark = if asset == 7 { READ_WAITS } else { READ_WELL };
        agents.try_offer(marked(&host, asset, mark)).unwrap();
    }
    until("all verdicts", || host.verdicts() == 40);
    all_but_one_accepted(&host, 40, 7, Found::AgentStalled);
    let stats = agents.stats();
    assert!(stats.stalls >= 3 && stats.restarts == stats.stalls && stats.panics == 0);
    until("three stuck threads", || agents.stats().stuck_threads == 3);
    let submitted = host.state.lock().unwrap().submitted;
    gate.open();
    until("the stuck threads' end", || {
        agents.stats().stuck_threads == 0
    });
    agents.try_offer(honest(&host, 41)).unwrap();
    until("a verdict", || host.verdict(41).is_some());
    // The stuck workers answered for whole batches; nobody listened.
    assert_eq!(host.state.lock().unwrap().submitted, submitted + 1);
}

#[test]
fn one_stuck_worker_of_several_is_seen_although_the_others_get_on() {
    let (host, agents, gate) = start(watchful(2, 1));
    agents.try_offer(marked(&host, 1, READ_WAITS)).unwrap();
    for asset in 2..=200 {
        agents.try_offer(honest(&host, asset)).unwrap();
    }
    until("all verdicts", || host.verdicts() == 200);
    all_but_one_accepted(&host, 200, 1, Found::AgentStalled);
    gate.open();
}

#[test]
fn stuck_workers_are_not_replaced_beyond_the_bound_and_their_jobs_stay_open() {
    let (host, agents, gate) = start(AgentsConfig {
        stall_ms: 20,
        replacements_a_minute_max: 1,
        ..config()
    });
    agents.try_offer(marked(&host, 1, READ_WAITS)).unwrap();
    agents.try_offer(honest(&host, 2)).unwrap();
    until("a replacement", || agents.stats().stalls == 1);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(agents.stats().stalls, 1);
    assert!(agents.stats().in_flight >= 1);
    gate.open();
    until("all verdicts", || host.verdicts() == 2);
    assert_eq!(host.verdict(1).unwrap().decision, Decision::Accept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_jobs_are_in_flight_than_there_are_permits() {
    let (host, agents, _) = start(AgentsConfig {
        permits: 3,
        ..config()
    });
    host.change(|state| state.keeps_answers = true);
    let offering = {
        let (host, agents) = (host.clone(), agents.clone());
        tokio::spawn(async move {
            for asset in 1..=10 {
                agents.offer(honest(&host, asset)).await;
            }
        })
    };
    until("three verdicts kept back", || {
        host.state.lock().unwrap().kept.len() == 3
    });
    assert!(agents.try_offer(honest(&host, 99)).is_err());
    assert_eq!(agents.stats().in_flight, 3);
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(host.state.lock().unwrap().submitted, 3);
    while host.verdicts() < 10 {
        assert!(host.state.lock().unwrap().kept.len() <= 3);
        host.answer_kept();
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    offering.await.unwrap();
    until("the permits' return", || agents.stats().in_flight == 0);
    assert_eq!(agents.stats().verified, 10);
}

#[test]
fn a_verdict_under_an_old_policy_is_reached_again_under_the_new_one() {
    let (host, agents, _) = start(config());
    // Under the first policy 30 of 81 spoiled pixels go to people; under the second one they are rejected.
    let mut rgb = paint(&[0, 0, 0], &[1; 32], READ_WELL);
    for (number, pixel) in rgb.chunks_mut(3).take(30).enumerate() {
        pixel[1] = if number % 2 == 0 { 0 } else { 40 };
    }
    let job = job(&host, 1, &[0, 0, 0], png_of(&rgb));
    // The ledger has the new policy before the host sees it.
    host.change(|state| state.ledger_policy_version = 2);
    agents.try_offer(job).unwrap();
    until("a refused verdict", || {
        host.state.lock().unwrap().submitted >= 2
    });
    host.change(|state| {
        state.policy = Policy {
            version: 2,
            reject_above_ppm: 310_000,
            ..quiet_policy()
        };
    });
    until("a verdict", || host.verdict(1).is_some());
    let verdict = host.verdict(1).unwrap();
    assert_eq!(
        (verdict.policy_version, verdict.decision),
        (2, Decision::Reject)
    );
    assert!(agents.stats().reissued >= 1);
}

#[test]
fn a_policy_that_is_already_visible_is_used_at_once() {
    let (host, agents, _) = start(config());
    host.change(|state| {
        state.policy.version = 2;
        state.ledger_policy_version = 2;
        state.keeps_answers = true;
    });
    agents.try_offer(honest(&host, 1)).unwrap();
    until("a verdict kept back", || {
        host.state.lock().unwrap().kept.len() == 1
    });
    host.change(|state| {
        state.policy.version = 3;
        state.ledger_policy_version = 3;
        state.keeps_answers = false;
    });
    host.answer_kept();
    until("a verdict", || host.verdict(1).is_some());
    assert_eq!(host.verdict(1).unwrap().policy_version, 3);
    assert_eq!(
        (agents.stats().reissued, agents.stats().resubmitted),
        (1, 0)
    );
}

#[test]
fn a_ledger_that_is_away_gets_every_verdict_when_it_is_back() {
    let (host, agents, _) = start(config());
    host.change(|state| {
        for code in [
            Code::Overloaded,
            Code::Unavailable,
            Code::RateLimited,
            Code::Paused,
        ] {
            state.answers.extend([code; 60]);
        }
        state.answers_always = Some(Code::Unavailable);
    });
    for asset in 1..=10 {
        agents.try_offer(honest(&host, asset)).unwrap();
    }
    // It stays away until all of them are parked.
    until("parked jobs", || agents.stats().parked == 10);
    host.change(|state| state.answers_always = None);
    until("all verdicts", || host.verdicts() == 10);
    until("the permits' return", || agents.stats().in_flight == 0);
    let (stats, submitted) = (agents.stats(), host.state.lock().unwrap().submitted);
    assert_eq!((stats.verified, stats.parked), (10, 0));
    assert!(submitted >= 250, "{submitted}");
    assert_eq!(stats.resubmitted, submitted - 10);
}

#[test]
fn answers_that_end_a_job_give_its_permit_back() {
    let (host, agents, _) = start(config());
    let void = [
        Code::VerdictVoid,
        Code::UnknownAsset,
        Code::AssetEnded,
        Code::AssetFrozen,
        Code::NotActive,
        Code::StaleVersion,
    ];
    let refused = [Code::BadVerdict, Code::NotAllowed, Code::Malformed];
    for (number, code) in void.iter().chain(&refused).enumerate() {
        host.change(|state| state.answers.push_back(*code));
        agents.try_offer(honest(&host, number as u64 + 1)).unwrap();
        until("the permit's return", || agents.stats().in_flight == 0);
    }
    let stats = agents.stats();
    assert_eq!((stats.void, stats.refused, stats.verified), (6, 3, 0));
}

#[test]
fn a_host_that_forgets_or_breaks_down_is_asked_again() {
    let (host, agents, _) = start(config());
    host.change(|state| {
        state.submit_panics = 3;
        state.submit_forgets = 3;
        state.policy_panics = 3;
    });
    for asset in 1..=5 {
        agents.try_offer(honest(&host, asset)).unwrap();
    }
    until("all verdicts", || host.verdicts() == 5);
}

#[test]
fn a_verdict_that_nobody_answers_is_submitted_again_and_the_late_answer_ignored() {
    let (host, agents, _) = start(AgentsConfig {
        answer_ms_max: 500,
        stall_ms: 1_000,
        ..config()
    });
    host.change(|state| state.keeps_answers = true);
    agents.try_offer(honest(&host, 1)).unwrap();
    until("a second submission", || {
        host.state.lock().unwrap().kept.len() >= 2
    });
    host.change(|state| {
        state.keeps_answers = false;
        // Not by a thread that may have its turn when the answer is late again.
        state.answers_at_once = true;
    });
    until("a verdict", || host.verdict(1).is_some());
    until("the permit's return", || agents.stats().in_flight == 0);
    host.answer_kept();
    let stats = agents.stats();
    assert_eq!((stats.verified, stats.void), (1, 0));
}

#[test]
fn the_same_version_offered_twice_is_looked_at_once() {
    let (host, agents, _) = start(config());
    host.change(|state| state.keeps_answers = true);
    agents.try_offer(honest(&host, 1)).unwrap();
    agents.try_offer(honest(&host, 1)).unwrap();
    until("a duplicate", || agents.stats().duplicates == 1);
    until("a verdict kept back", || {
        host.state.lock().unwrap().kept.len() == 1
    });
    assert_eq!(agents.stats().in_flight, 1);
    host.answer_kept();
    until("the permit's return", || agents.stats().in_flight == 0);
}

#[tokio::test]
async fn after_stop_offers_return_and_jobs_come_back() {
    let (host, agents, gate) = start(AgentsConfig {
        permits: 2,
        ..config()
    });
    agents.offer(marked(&host, 1, READ_WAITS)).await;
    agents.offer(marked(&host, 2, READ_WAITS)).await;
    let waiting = {
        let (host, agents) = (host.clone(), agents.clone());
        tokio::spawn(async move { agents.offer(honest(&host, 3)).await })
    };
    assert!(agents.is_running());
    agents.clone().stop().await;
    waiting.await.unwrap();
    assert!(!agents.is_running());
    assert_eq!(agents.try_offer(honest(&host, 4)).unwrap_err().asset, 4);
    agents.clone().stop().await;
    assert_eq!(host.verdicts(), 0);
    gate.open();
}

/// Opens well once and never again.
struct Once {
    painter: Painter,
    opened: std::sync::atomic::AtomicBool,
}

impl OracleSource for Once {
    fn open(&self) -> Result<Box<dyn Oracle>, OracleError> {
        if self.opened.swap(true, std::sync::atomic::Ordering::SeqCst) {
            return Err(OracleError(
                "auditor.onnx is not the file of its manifest".into(),
            ));
        }
        self.painter.open()
    }
}

#[test]
fn an_auditor_that_cannot_be_loaded_again_leaves_the_asset_to_people() {
    let host = Host::new(quiet_policy());
    let once = Once {
        painter: Painter {
            gate: Arc::default(),
        },
        opened: false.into(),
    };
    let agents = Agents::start_with(config(), host.clone(), Arc::new(once)).unwrap();
    agents.try_offer(marked(&host, 1, READ_PANICS)).unwrap();
    until("a verdict", || host.verdict(1).is_some());
    let verdict = host.verdict(1).unwrap();
    assert_eq!(verdict.decision, Decision::Review);
    assert_eq!(codes(&verdict), [Found::AuditorUnavailable]);
}

#[test]
fn agents_do_not_start_without_an_auditor_or_with_a_setting_out_of_range() {
    let host = Host::new(quiet_policy());
    let folder = tempfile::tempdir().unwrap();
    let missing = AgentsConfig {
        auditor: folder.path().join("no-auditor"),
        ..AgentsConfig::default()
    };
    let error = Agents::start(missing, host.clone()).err().unwrap();
    assert!(matches!(error, AgentsError::Models(_)));
    assert!(error.to_string().contains("no-auditor"), "{error}");
    let none = AgentsConfig {
        workers: 0,
        ..AgentsConfig::default()
    };
    let error = Agents::start(none, host).err().unwrap();
    assert_eq!(error.to_string(), "agents.workers is 0; it must be 1 to 64");
}
