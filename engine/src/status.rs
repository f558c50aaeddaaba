//! The figures of a running engine.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use karat_proto::{Code, v1};
use karat_sequencer::Metrics;

use crate::gateway::Gateway;
use crate::projector::projected_seq;
use crate::role::Role;

fn figure(name: impl Into<String>, value: u64) -> v1::Figure {
    v1::Figure {
        name: name.into(),
        value,
    }
}

/// Positions and figures, read from live state.
pub fn status(gateway: &Gateway) -> v1::GetStatusResponse {
    let core = &gateway.core;
    let view = &core.view;
    let positions = core.sequencer().map(|one| one.positions());
    let counts = view.counts();
    let metrics = core.sequencer().map(|one| one.metrics());
    let metric = |read: fn(&Metrics) -> u64| metrics.as_ref().map_or(0, read);
    // A follower has applied what it has read, and has read only what is durable.
    let applied_seq = positions.map_or(view.applied_seq(), |one| one.applied_seq);
    let durable_seq = positions.map_or(applied_seq, |one| one.durable_seq);
    let followed = core.role.followed();
    let agents = gateway
        .verifier
        .as_ref()
        .map(|one| one.agents().stats())
        .unwrap_or_default();
    let similarity = gateway
        .verifier
        .as_ref()
        .map(|one| one.agents().similarity())
        .unwrap_or_default();
    let reviews_open = gateway
        .verifier
        .as_ref()
        .map_or(0, |one| one.open_reviews());
    let settlement = &gateway.settlement.figures;
    let mark = view.digest_mark();
    let mut figures = vec![
        figure("assets", counts.assets),
        figure("assets_pending", counts.pending),
        figure("assets_active", counts.active),
        figure("assets_rejected", counts.rejected),
        figure("assets_in_review", counts.in_review),
        figure("assets_frozen", counts.frozen),
        figure("assets_redeemed", counts.redeemed),
        figure("assets_burned", counts.burned),
        figure("collections", counts.collections),
        figure("accounts", counts.accounts),
        figure("models", counts.models),
        figure("currency_total", counts.currency_total),
        figure("retry_entries", counts.retry_entries),
        figure("claims_waiting", counts.claims_waiting),
        figure("digest_sequence", mark.sequence),
        figure("queue_commands", metric(|one| one.queued_commands as u64)),
        figure("queue_bytes", metric(|one| one.queued_bytes as u64)),
        figure("overloaded_total", metric(|one| one.overloaded)),
        figure("blocks_total", metric(|one| one.blocks)),
        figure(
            "append_p99_ns",
            metric(|one| one.append_times.quantile_ns(990)),
        ),
        figure(
            "apply_p99_ns",
            metric(|one| one.apply_times.quantile_ns(990)),
        ),
        figure(
            "flush_p50_ns",
            metric(|one| one.flush_times.quantile_ns(500)),
        ),
        figure(
            "flush_p99_ns",
            metric(|one| one.flush_times.quantile_ns(990)),
        ),
        figure("agents_in_flight", agents.in_flight),
        figure("agents_parked", agents.parked),
        figure("agents_verified_total", agents.verified),
        figure("agents_rejected_total", agents.rejected),
        figure("agents_in_review_total", agents.in_review),
        figure("agents_panics_total", agents.panics),
        figure("agents_restarts_total", agents.restarts),
        figure("agents_reissued_total", agents.reissued),
        figure("near_duplicates_total", agents.near_duplicates),
        figure("content_doubles_total", agents.content_doubles),
        figure("drifted_to_review_total", agents.drifted),
        figure(
            "drift_alarms",
            similarity.iter().filter(|one| one.alarm).count() as u64,
        ),
        figure("verdict_p50_us", agents.latency_p50_us),
        figure("verdict_p99_us", agents.latency_p99_us),
        figure("reviews_open", reviews_open),
        figure(
            "batches_sealed_total",
            settlement.sealed.load(Ordering::Relaxed),
        ),
        figure(
            "batches_final_total",
            settlement.final_batches.load(Ordering::Relaxed),
        ),
        figure(
            "settlement_leaves_committed_total",
            settlement.committed_leaves.load(Ordering::Relaxed),
        ),
        figure(
            "settlement_gas_total",
            settlement.gas_used.load(Ordering::Relaxed),
        ),
        figure(
            "settlement_failures_total",
            settlement.failures.load(Ordering::Relaxed),
        ),
    ];
    for one in &similarity {
        let label = one.collection;
        if let Some(last) = one.drift_ppm.last() {
            let name = format!("drift_ppm{{collection=\"{label}\"}}");
            figures.push(figure(name, (*last).into()));
        }
    }
    for (code, count) in view.outcomes_by_code() {
        let name = match code {
            Code::Accepted => "commands_accepted_total".to_owned(),
            code => format!("commands_refused_total{{code=\"{}\"}}", code.name()),
        };
        figures.push(figure(name, count));
    }
    for (code, count) in gateway.door_refusals() {
        figures.push(figure(
            format!("door_refused_total{{code=\"{}\"}}", code.name()),
            count,
        ));
    }
    v1::GetStatusResponse {
        realm: core.config.realm.name.clone(),
        epoch: core.role.epoch(),
        applied_seq,
        durable_seq,
        projected_seq: projected_seq(&*gateway.store),
        settled_seq: view.settled_seq(),
        paused: view.paused(),
        digest: Bytes::copy_from_slice(&mark.digest),
        latencies: gateway.latencies.figures(),
        stages: gateway.stages.figures(),
        figures,
        role: match core.role.now() {
            Role::Reader => v1::RealmRole::Unspecified,
            Role::Leader => v1::RealmRole::Leader,
            Role::Follower => v1::RealmRole::Follower,
        }
        .into(),
        following: followed.map(|one| v1::Following {
            behind: one.leader_seq.saturating_sub(applied_seq),
            leader: one.leader,
            age_ms: one.age_ms,
        }),
        contract: Bytes::copy_from_slice(&gateway.settlement.client().contract()),
        chain_id: gateway.settlement.client().chain_id(),
        similarity: similarity
            .into_iter()
            .map(|one| v1::CollectionSimilarity {
                collection: one.collection,
                assets: one.assets,
                learning: one.learning,
                counted: one.counted,
                window: one.window,
                windows: one.windows,
                drift_ppm: one.drift_ppm,
                drift_alarm_ppm: one.drift_alarm_ppm,
                alarm: one.alarm,
            })
            .collect(),
    }
}
