//! What each agent finds in good and bad assets, through the whole way from offer to verdict.

#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use karat_agents::findings::FindingCode as Found;
use karat_agents::{Agents, AgentsConfig, AgentsHandle, Job};
use karat_edge_node::pixels::encode_png;
use karat_proto::command::{AgentKind, Decision, Policy, Traits, Verdict};
use std::sync::Arc;

fn start(policy: Policy) -> (Arc<Host>, AgentsHandle) {
    start_with(policy, config())
}

fn start_with(policy: Policy, config: AgentsConfig) -> (Arc<Host>, AgentsHandle) {
    let host = Host::new(policy);
    let painter = Painter {
        gate: Arc::default(),
    };
    let agents = Agents::start_with(config, host.clone(), Arc::new(painter)).unwrap();
    (host, agents)
}

fn verdict_on(host: &Host, agents: &AgentsHandle, job: Job) -> Verdict {
    let asset = job.asset;
    agents.try_offer(job).unwrap();
    until("a verdict", || host.verdict(asset).is_some());
    host.verdict(asset).unwrap()
}

fn assert_finding(verdict: &Verdict, decision: Decision, agent: AgentKind, code: Found) {
    assert_eq!(verdict.decision, decision, "{:?}", codes(verdict));
    let found = verdict
        .findings
        .iter()
        .find(|finding| finding.code == code as u16);
    assert_eq!(
        found.map(|finding| finding.agent),
        Some(agent),
        "{code:?} among {:?}",
        codes(verdict)
    );
}

fn stored_zlib(data: &[u8]) -> Vec<u8> {
    let mut zlib = vec![0x78, 0x01];
    let mut blocks = data.chunks(65_535).peekable();
    while let Some(block) = blocks.next() {
        zlib.push(u8::from(blocks.peek().is_none()));
        zlib.extend((block.len() as u16).to_le_bytes());
        zlib.extend((!(block.len() as u16)).to_le_bytes());
        zlib.extend(block);
    }
    let (a, b) = data.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    zlib.extend((b << 16 | a).to_be_bytes());
    zlib
}

fn chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let named = [&name[..], body].concat();
    let crc = !named.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                crc >> 1 ^ 0xedb8_8320
            } else {
                crc >> 1
            }
        })
    });
    [
        &(body.len() as u32).to_be_bytes(),
        &named[..],
        &crc.to_be_bytes(),
    ]
    .concat()
}

fn png_by_hand(width: u32, height: u32, rest: [u8; 5], data: &[u8]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &rest].concat();
    [
        &b"\x89PNG\r\n\x1a\n"[..],
        &chunk(b"IHDR", &header),
        &chunk(b"IDAT", &stored_zlib(data)),
        &chunk(b"IEND", &[]),
    ]
    .concat()
}

#[test]
fn a_sound_asset_is_accepted_without_findings() {
    let (host, agents) = start(quiet_policy());
    let verdict = verdict_on(&host, &agents, honest(&host, 1));
    assert_eq!(verdict.decision, Decision::Accept);
    assert_eq!(
        (
            verdict.findings.len(),
            verdict.corruption_ppm,
            verdict.policy_version
        ),
        (0, 0, 1)
    );
    until("the permit's return", || agents.stats().in_flight == 0);
    let stats = agents.stats();
    assert_eq!(
        (
            stats.verified,
            stats.rejected,
            stats.in_review,
            stats.panics
        ),
        (1, 0, 0, 0)
    );
    assert!(stats.latency_p50_us > 0 && stats.latency_p99_us >= stats.latency_p50_us);
    let inspected: Vec<u64> = stats
        .agents
        .iter()
        .map(|(_, agent)| agent.inspected)
        .collect();
    assert_eq!(inspected, [1, 1, 1, 0, 1]);
}

#[test]
fn bad_content_is_rejected_with_its_own_finding() {
    let (host, agents) = start(quiet_policy());
    let sound = png_of(&paint(&[0, 0, 0], &[1; 32], READ_WELL));
    let rgb = [8, 2, 0, 0, 0];
    let row = 1 + 3 * SIDE as usize;
    let mut bad_sum = sound.clone();
    let last = bad_sum.len() - 20;
    bad_sum[last] ^= 1;
    let with_chunk = [
        &sound[..sound.len() - 12],
        &chunk(b"acTL", &[0; 8]),
        &sound[sound.len() - 12..],
    ]
    .concat();
    let cases: Vec<(Vec<u8>, Found)> = vec![
        (vec![], Found::NotPng),
        (b"GIF89a, not a PNG".to_vec(), Found::NotPng),
        (sound[..sound.len() / 2].to_vec(), Found::PngTruncated),
        (sound[..sound.len() - 1].to_vec(), Found::PngTruncated),
        // Says 9 x 9 and inflates to a thousand times as much.
        (
            png_by_hand(SIDE, SIDE, rgb, &vec![0; 400_000]),
            Found::PngBomb,
        ),
        (
            png_by_hand(60_000, 60_000, rgb, &[0; 100]),
            Found::PngTooLarge,
        ),
        (
            png_by_hand(SIDE, SIDE, [8, 3, 0, 0, 0], &[0; 90]),
            Found::PngFormat,
        ),
        (
            png_by_hand(SIDE, SIDE, rgb, &vec![0; row]),
            Found::PngDamaged,
        ),
        (bad_sum, Found::PngDamaged),
        (with_chunk, Found::PngChunk),
        (
            encode_png(16, 16, &[9; 16 * 16 * 3]).unwrap(),
            Found::WrongDimensions,
        ),
    ];
    for (number, (png, code)) in cases.into_iter().enumerate() {
        let job = job(&host, 100 + number as u64, &[0, 0, 0], png);
        let verdict = verdict_on(&host, &agents, job);
        assert_finding(&verdict, Decision::Reject, AgentKind::Integrity, code);
        assert_eq!(verdict.corruption_ppm, 0);
    }
    assert_eq!(agents.stats().panics, 0);
}

#[test]
fn content_that_is_not_the_one_named_is_rejected() {
    let (host, agents) = start(quiet_policy());
    let mut other_size = honest(&host, 1);
    other_size.content.size += 1;
    let verdict = verdict_on(&host, &agents, other_size);
    assert_finding(
        &verdict,
        Decision::Reject,
        AgentKind::Integrity,
        Found::SizeMismatch,
    );

    let altered = honest(&host, 2);
    let other = png_of(&paint(&[1, 1, 1], &[9; 32], READ_WELL));
    host.change(|state| {
        state.content.insert(altered.content.digest, other.into());
    });
    let verdict = verdict_on(&host, &agents, altered);
    assert_finding(
        &verdict,
        Decision::Reject,
        AgentKind::Integrity,
        Found::DigestMismatch,
    );

    let mut forged = honest(&host, 3);
    forged.lineage.seed[0] ^= 1;
    let verdict = verdict_on(&host, &agents, forged);
    assert_finding(
        &verdict,
        Decision::Reject,
        AgentKind::Integrity,
        Found::LineageHashMismatch,
    );
}

#[test]
fn traits_outside_the_collections_rules_are_found() {
    let (host, agents) = start(quiet_policy());
    let cases: [(&[u8], Decision, Found); 5] = [
        (&[0, 0], Decision::Reject, Found::TraitCount),
        (&[0, 0, 0, 0], Decision::Reject, Found::TraitCount),
        (&[0, 0, 2], Decision::Reject, Found::TraitValue),
        (&[2, 2, 0], Decision::Reject, Found::TraitsExcluded),
        (&[3, 0, 0], Decision::Review, Found::ValueNeverDrawn),
    ];
    for (number, (traits, decision, code)) in cases.into_iter().enumerate() {
        let mut painted = traits.to_vec();
        painted.resize(3, 0);
        let png = png_of(&paint(&painted, &[1; 32], READ_WELL));
        let job = job(&host, number as u64 + 1, traits, png);
        let verdict = verdict_on(&host, &agents, job);
        assert_finding(&verdict, decision, AgentKind::Policy, code);
    }
}

#[test]
fn an_unknown_collection_goes_to_people_and_one_that_appears_does_not() {
    let (host, agents) = start(quiet_policy());
    let mut lost = honest(&host, 1);
    lost.collection = 77;
    let verdict = verdict_on(&host, &agents, lost);
    assert_finding(
        &verdict,
        Decision::Review,
        AgentKind::Policy,
        Found::CollectionUnknown,
    );

    host.change(|state| state.collection_unknown = true);
    agents.try_offer(honest(&host, 2)).unwrap();
    until("a second look", || agents.stats().reissued > 5);
    host.change(|state| state.collection_unknown = false);
    until("a verdict", || host.verdict(2).is_some());
}

#[test]
fn missing_content_is_looked_for_and_then_people_look() {
    let (host, agents) = start(quiet_policy());
    let missing = honest(&host, 1);
    host.change(|state| drop(state.content.remove(&missing.content.digest)));
    let verdict = verdict_on(&host, &agents, missing);
    assert_finding(
        &verdict,
        Decision::Review,
        AgentKind::Integrity,
        Found::ContentMissing,
    );
    assert_eq!(verdict.findings[0].measure, 5);
    assert_eq!(host.state.lock().unwrap().looks, 5);

    let damaged = honest(&host, 2);
    host.change(|state| assert!(state.content_fails.insert(damaged.content.digest)));
    let verdict = verdict_on(&host, &agents, damaged);
    assert_finding(
        &verdict,
        Decision::Review,
        AgentKind::Integrity,
        Found::ContentUnreadable,
    );
}

#[test]
fn content_that_arrives_late_is_accepted() {
    // It is looked for during half a minute at least.
    let (host, agents) = start_with(
        quiet_policy(),
        AgentsConfig {
            looks_max: 16,
            ..config()
        },
    );
    let late = honest(&host, 1);
    let digest = late.content.digest;
    let mut bytes = None;
    host.change(|state| bytes = state.content.remove(&digest));
    agents.try_offer(late).unwrap();
    until("a first look", || host.state.lock().unwrap().looks > 0);
    host.change(|state| drop(state.content.insert(digest, bytes.take().unwrap())));
    until("a verdict", || host.verdict(1).is_some());
    assert_eq!(host.verdict(1).unwrap().decision, Decision::Accept);
}

#[test]
fn pixels_that_show_other_traits_are_rejected_or_doubted() {
    let (host, agents) = start(quiet_policy());
    let seed = [1; 32];
    let lie = job(
        &host,
        1,
        &[0, 0, 0],
        png_of(&paint(&[0, 2, 0], &seed, READ_WELL)),
    );
    let verdict = verdict_on(&host, &agents, lie);
    assert_finding(
        &verdict,
        Decision::Reject,
        AgentKind::Parity,
        Found::TraitContradicted,
    );
    assert_eq!(verdict.findings[0].measure >> 24, 1);

    let mut faint = paint(&[0, 1, 0], &seed, READ_WELL);
    faint.chunks_mut(3).for_each(|pixel| pixel[1] += 7);
    let verdict = verdict_on(&host, &agents, job(&host, 2, &[0, 2, 0], png_of(&faint)));
    assert_finding(
        &verdict,
        Decision::Review,
        AgentKind::Parity,
        Found::TraitDoubtful,
    );
}

#[test]
fn a_corrupt_image_is_rejected_and_a_doubtful_one_goes_to_people() {
    let (host, agents) = start(quiet_policy());
    let seed = [1; 32];
    for (asset, spoiled, decision) in [
        (1, 0, Decision::Accept),
        (2, 30, Decision::Review),
        (3, 70, Decision::Reject),
    ] {
        let mut rgb = paint(&[0, 0, 0], &seed, READ_WELL);
        // The same mean, so that the traits still read well.
        for (number, pixel) in rgb.chunks_mut(3).take(spoiled).enumerate() {
            pixel[1] = if number % 2 == 0 { 0 } else { 40 };
        }
        let verdict = verdict_on(&host, &agents, job(&host, asset, &[0, 0, 0], png_of(&rgb)));
        assert_eq!(verdict.decision, decision, "{spoiled}: {verdict:?}");
        assert_eq!(verdict.corruption_ppm > 0, spoiled > 0);
    }
}

#[test]
fn one_image_that_cannot_be_scored_does_not_spoil_its_neighbours() {
    let (host, agents) = start(quiet_policy());
    for asset in 1..=40 {
        let mark = if asset == 20 { READ_FAILS } else { READ_WELL };
        agents.try_offer(marked(&host, asset, mark)).unwrap();
    }
    until("all verdicts", || host.verdicts() == 40);
    assert_finding(
        &host.verdict(20).unwrap(),
        Decision::Review,
        AgentKind::Parity,
        Found::AuditorFailed,
    );
    let others = (1..=40).filter(|asset| *asset != 20);
    for asset in others {
        assert_eq!(host.verdict(asset).unwrap().decision, Decision::Accept);
    }
}

#[test]
fn running_a_lineage_again_proves_or_disproves_it() {
    let (host, agents) = start(Policy {
        reexecution_sample_ppm: 1_000_000,
        ..Policy::default()
    });
    let traits = [0, 1, 0];
    let own = |asset: u64| paint(&traits, &[asset as u8; 32], READ_WELL);
    let other_seed = png_of(&paint(&traits, &[200; 32], READ_WELL));
    let mut nearly = own(3);
    nearly[40] += 1;
    let mut far = own(4);
    far.chunks_mut(3).for_each(|pixel| pixel[0] += 30);
    let cases = [
        (
            1,
            "exact",
            png_of(&own(1)),
            Decision::Accept,
            Found::PixelsReproduced,
        ),
        (
            2,
            "exact",
            other_seed,
            Decision::Reject,
            Found::ExactMismatch,
        ),
        (
            3,
            "rough",
            png_of(&nearly),
            Decision::Accept,
            Found::WithinTolerance,
        ),
        (
            4,
            "rough",
            png_of(&far),
            Decision::Review,
            Found::BeyondTolerance,
        ),
        (
            5,
            "gone",
            png_of(&own(5)),
            Decision::Accept,
            Found::NotReexecutable,
        ),
    ];
    for (asset, variant, png, decision, code) in cases {
        let verdict = verdict_on(&host, &agents, job_of(&host, asset, &traits, variant, png));
        assert_finding(&verdict, decision, AgentKind::ReExecution, code);
    }
    let mut foreign = job(&host, 6, &traits, png_of(&own(6)));
    foreign.lineage.model = [8; 32];
    foreign.lineage.hash =
        karat_proto::lineage::lineage_hash(&[8; 32], "exact", &[6; 32], &traits, 0);
    let verdict = verdict_on(&host, &agents, foreign);
    assert_finding(
        &verdict,
        Decision::Accept,
        AgentKind::ReExecution,
        Found::NotReexecutable,
    );
}

#[test]
fn a_verdict_never_has_more_findings_than_the_ledger_takes() {
    let (host, agents) = start(quiet_policy());
    let mut many = honest(&host, 1);
    many.traits = Traits::new(&[9; 16]).unwrap();
    many.content.size += 1;
    let verdict = verdict_on(&host, &agents, many);
    assert_eq!(verdict.decision, Decision::Reject);
    assert!(verdict.findings.len() <= karat_proto::limits::FINDINGS_MAX);
}
