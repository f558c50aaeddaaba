//! Near-duplicates and drift, through the whole way from offer to verdict.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::*;
use karat_agents::findings::FindingCode as Found;
use karat_agents::{Agents, AgentsConfig, AgentsHandle, Job};
use karat_proto::command::{AgentKind, Decision, Policy, Verdict};
use karat_proto::lineage::lineage_hash;

/// Half a deviation.
const NEAR_PPM: u32 = 500_000;

fn policy() -> Policy {
    Policy {
        near_duplicate_below_ppm: NEAR_PPM,
        ..quiet_policy()
    }
}

fn agents_with(host: &Arc<Host>, config: AgentsConfig) -> AgentsHandle {
    let painter = Painter {
        gate: Arc::default(),
    };
    Agents::start_with(config, host.clone(), Arc::new(painter)).unwrap()
}

fn kept_in(folder: &Path) -> AgentsConfig {
    AgentsConfig {
        similarity_folder: Some(folder.join("similarity")),
        ..config()
    }
}

fn stop(agents: AgentsHandle) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(agents.stop());
}

fn verdict_on(host: &Host, agents: &AgentsHandle, job: Job) -> Verdict {
    let version = (job.asset, job.version);
    let found = || host.state.lock().unwrap().verdicts.get(&version).cloned();
    agents.try_offer(job).unwrap();
    until("a verdict", || found().is_some());
    found().unwrap()
}

/// The picture of traits and grain of its own, with `noise` on every sample; green stays what it is read by.
fn picture(traits: &[u8], grain: u8, noise: u8) -> Vec<u8> {
    let mut rgb = paint(traits, &[grain; 32], READ_WELL);
    for pixel in rgb.chunks_exact_mut(3).skip(2) {
        pixel[0] += noise;
        pixel[2] += noise;
    }
    rgb
}

fn shown(host: &Host, asset: u64, traits: &[u8], noise: u8) -> Job {
    let mut rgb = picture(traits, 0, noise);
    // Another file for each asset, in a sample that no embedding looks at.
    rgb[3] = asset as u8;
    job(host, asset, traits, png_of(&rgb))
}

fn measures(verdict: &Verdict) -> Vec<(u16, u32)> {
    let found = verdict.findings.iter();
    found
        .map(|finding| (finding.code, finding.measure))
        .collect()
}

#[test]
fn an_asset_with_anothers_pixels_and_a_little_noise_goes_to_people_who_are_told_of_which() {
    let host = Host::new(policy());
    let agents = agents_with(&host, config());
    let first = verdict_on(&host, &agents, shown(&host, 41, &[1, 1, 1], 0));
    assert_eq!(
        (first.decision, first.findings.len()),
        (Decision::Accept, 0)
    );
    let nudged = verdict_on(&host, &agents, shown(&host, 42, &[1, 1, 1], 2));
    assert_eq!(nudged.decision, Decision::Review);
    assert_eq!(codes(&nudged), [Found::NearDuplicate, Found::LikeAsset]);
    assert!(
        nudged
            .findings
            .iter()
            .all(|finding| finding.agent == AgentKind::Similarity)
    );
    let [(_, distance_ppm), (_, other)] = measures(&nudged)[..] else {
        panic!("{nudged:?}");
    };
    // 2 of 10 steps in about two samples of three.
    assert!((100_000..200_000).contains(&distance_ppm), "{distance_ppm}");
    assert_eq!(other, 41);
    let else_one = verdict_on(&host, &agents, shown(&host, 43, &[1, 2, 1], 0));
    assert_eq!(else_one.decision, Decision::Accept);
    let stats = agents.stats();
    assert_eq!((stats.near_duplicates, stats.content_doubles), (1, 0));
    assert_eq!(agents.similarity()[0].assets, 3);
}

#[test]
fn another_asset_with_the_very_same_content_goes_to_people() {
    let host = Host::new(policy());
    let agents = agents_with(&host, config());
    let png = png_of(&picture(&[1, 1, 1], 0, 0));
    let first = verdict_on(&host, &agents, job(&host, 1, &[1, 1, 1], png.clone()));
    let double = verdict_on(&host, &agents, job(&host, 2, &[1, 1, 1], png));
    assert_eq!(first.decision, Decision::Accept);
    assert_eq!(double.decision, Decision::Review);
    assert_eq!(measures(&double), [(Found::ContentDouble as u16, 1)]);
}

#[test]
fn a_policy_that_says_nothing_compares_nothing() {
    let host = Host::new(quiet_policy());
    let agents = agents_with(&host, config());
    for asset in 1..=3 {
        let verdict = verdict_on(&host, &agents, shown(&host, asset, &[1, 1, 1], 0));
        assert_eq!(
            (verdict.decision, verdict.findings.len()),
            (Decision::Accept, 0)
        );
    }
    // ... but what was seen meanwhile is compared with once it does.
    host.change(|state| state.policy.near_duplicate_below_ppm = NEAR_PPM);
    let verdict = verdict_on(&host, &agents, shown(&host, 4, &[1, 1, 1], 0));
    assert_eq!(codes(&verdict), [Found::NearDuplicate, Found::LikeAsset]);
}

#[test]
fn a_later_version_is_no_duplicate_of_its_own_earlier_one() {
    let host = Host::new(policy());
    let agents = agents_with(&host, config());
    let first = shown(&host, 1, &[1, 1, 1], 0);
    let mut second = shown(&host, 1, &[1, 1, 1], 1);
    second.version = 2;
    second.parent_version = 1;
    let lineage = &mut second.lineage;
    lineage.hash = lineage_hash(
        &lineage.model,
        &lineage.variant,
        &lineage.seed,
        &[1, 1, 1],
        1,
    );
    for job in [first, second] {
        let verdict = verdict_on(&host, &agents, job);
        assert_eq!(
            (verdict.decision, verdict.findings.len()),
            (Decision::Accept, 0)
        );
    }
    // Another asset is compared with the later one only.
    let other = verdict_on(&host, &agents, shown(&host, 2, &[1, 1, 1], 1));
    assert_eq!(measures(&other)[0], (Found::NearDuplicate as u16, 0));
    assert_eq!(agents.similarity()[0].assets, 2);
}

#[test]
fn nothing_is_like_an_asset_that_was_rejected_or_ended() {
    let host = Host::new(policy());
    let agents = agents_with(&host, config());
    // Pixels of other traits than it claims.
    let lie = job(&host, 1, &[0, 0, 0], png_of(&picture(&[1, 1, 1], 0, 0)));
    assert_eq!(verdict_on(&host, &agents, lie).decision, Decision::Reject);
    let second = verdict_on(&host, &agents, shown(&host, 2, &[1, 1, 1], 0));
    assert_eq!(second.decision, Decision::Accept);
    agents.forget(COLLECTION, 2);
    let third = verdict_on(&host, &agents, shown(&host, 3, &[1, 1, 1], 0));
    assert_eq!(third.decision, Decision::Accept);
}

#[test]
fn after_a_restart_the_same_assets_are_compared_with() {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::new(policy());
    let agents = agents_with(&host, kept_in(folder.path()));
    for (asset, traits) in [(1, [1, 1, 1]), (2, [0, 1, 0]), (3, [1, 0, 1])] {
        let verdict = verdict_on(&host, &agents, shown(&host, asset, &traits, 0));
        assert_eq!(verdict.decision, Decision::Accept);
    }
    stop(agents);
    host.change(|state| {
        state.ended.insert(2);
        // The ledger never heard of the third verdict, so that it is offered again.
        state.verdicts.remove(&(3, 1));
    });
    let agents = agents_with(&host, kept_in(folder.path()));
    assert_eq!(agents.similarity()[0].assets, 2);
    let again = verdict_on(&host, &agents, shown(&host, 3, &[1, 0, 1], 0));
    assert_eq!(
        (again.decision, again.findings.len()),
        (Decision::Accept, 0)
    );
    assert_eq!(agents.similarity()[0].counted, 0);
    let like_first = verdict_on(&host, &agents, shown(&host, 4, &[1, 1, 1], 1));
    assert_eq!(measures(&like_first)[1], (Found::LikeAsset as u16, 1));
    let like_ended = verdict_on(&host, &agents, shown(&host, 5, &[0, 1, 0], 0));
    assert_eq!(like_ended.decision, Decision::Accept);
}

#[test]
fn damaged_files_are_thrown_away_and_nothing_else_happens() {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::new(policy());
    let agents = agents_with(&host, kept_in(folder.path()));
    for asset in 1..=8u8 {
        // Different enough from each other.
        let traits = [asset % 3, (asset / 3) % 2, asset / 6];
        let job = shown(&host, asset.into(), &traits, 0);
        verdict_on(&host, &agents, job);
    }
    assert_eq!(agents.similarity()[0].windows, 1);
    stop(agents);
    for name in ["embeddings.log", "drift.bin"] {
        let path = folder.path().join("similarity").join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 0xff;
        std::fs::write(&path, bytes).unwrap();
    }
    let agents = agents_with(&host, kept_in(folder.path()));
    assert_eq!(agents.similarity(), []);
    let verdict = verdict_on(&host, &agents, shown(&host, 11, &[1, 1, 1], 0));
    assert_eq!(verdict.decision, Decision::Accept);
    assert_eq!(agents.similarity()[0].assets, 1);
}

/// One of two looks that lie to either side of the reference.
fn sound(host: &Host, asset: u64) -> Job {
    let dark = asset.is_multiple_of(2);
    shown(host, asset, if dark { &[0, 0, 0] } else { &[2, 1, 1] }, 0)
}

#[test]
fn a_window_of_one_image_again_and_again_raises_the_alarm_and_people_see_what_follows() {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::new(Policy {
        drift_review_above_ppm: 4_000_000,
        ..quiet_policy()
    });
    let agents = agents_with(&host, kept_in(folder.path()));
    let mut asset = 0;
    let mut judge_8 = |agents: &AgentsHandle, make: &dyn Fn(&Host, u64) -> Job| {
        let verdicts = (0..8).map(|_| {
            asset += 1;
            verdict_on(&host, agents, make(&host, asset))
        });
        verdicts.map(|verdict| codes(&verdict)).collect::<Vec<_>>()
    };
    let none = vec![vec![]; 8];
    assert_eq!(judge_8(&agents, &sound), none);
    let figures = agents.similarity().remove(0);
    assert_eq!(
        (figures.windows, figures.alarm, figures.learning),
        (1, false, false)
    );
    // The generator is stuck: every sample of every image is dark, 4 deviations below the mean, without any spread.
    let stuck = |host: &Host, asset: u64| shown(host, asset, &[0, 0, 0], 0);
    let found = judge_8(&agents, &stuck);
    assert_eq!(found[..7], none[..7]);
    let figures = agents.similarity().remove(0);
    assert!(figures.alarm, "{figures:?}");
    let last = *figures.drift_ppm.last().unwrap();
    // sqrt(4² + 1) with a little grain.
    assert!(
        (3_900_000..4_300_000).contains(&last) && last > 4_000_000,
        "{last}"
    );
    // The last asset of a window ends it, and is judged by it.
    let followed = judge_8(&agents, &sound);
    assert_eq!(followed[..7], vec![vec![Found::CollectionDrifted]; 7]);
    assert!(!agents.similarity()[0].alarm);
    assert_eq!(judge_8(&agents, &sound), none);
    let before = agents.similarity();
    stop(agents);
    let agents = agents_with(&host, kept_in(folder.path()));
    assert_eq!(agents.similarity(), before);
}
