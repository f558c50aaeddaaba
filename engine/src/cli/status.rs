//! `karat status`.

use karat_proto::v1;
use serde_json::{Value, json};

use super::{Backend, CliError, Common, describe, hexadecimal, print_json};

/// Runs the command.
pub async fn run(common: &Common) -> Result<(), CliError> {
    let mut backend = Backend::open(common).await?;
    if common.realm.is_none()
        && let Some(shown) = host(&mut backend).await?
    {
        if common.json {
            print_json(&shown)
        } else {
            say!("{}", describe::lines(&shown, 0))
        }
        return Ok(());
    }
    let status = backend
        .operator
        .get_status(v1::GetStatusRequest {})
        .await?
        .into_inner();
    let shown = shown(&status);
    if common.json {
        print_json(&shown)
    } else {
        say!("{}", describe::lines(&shown, 0))
    }
    Ok(())
}

/// Which realms of a host are where; `None` of a single engine, which has no such service.
async fn host(backend: &mut Backend) -> Result<Option<Value>, CliError> {
    let found = match backend.host.list_realms(v1::ListRealmsRequest {}).await {
        Ok(found) => found.into_inner(),
        Err(status) if status.code() == tonic::Code::Unimplemented => return Ok(None),
        Err(status) => return Err(status.into()),
    };
    let state = |one: &v1::HostedRealm| describe::lower(one.state().as_str_name(), "HOSTED_STATE_");
    let held = found.realms.iter().filter(|one| state(one) == "leading");
    let held = held.count();
    let realms: serde_json::Map<String, Value> = found
        .realms
        .iter()
        .map(|one| {
            let shown = json!({
                "state": state(one),
                "leader": one.leader,
                "epoch": one.epoch,
                "applied_seq": one.applied_seq,
                "snapshot_seq": one.snapshot_seq,
                "note": one.note,
            });
            (one.realm.clone(), shown)
        })
        .collect();
    Ok(Some(json!({
        "host": found.address,
        "group": found.group,
        "leading": held,
        "realms_max": found.realms_max,
        "without_host": found.without_host,
        "resident_bytes": found.resident_bytes,
        "realms": realms,
    })))
}

/// Where the drift of a collection stands, in a word.
pub fn similarity_state(one: &v1::CollectionSimilarity) -> &'static str {
    match (one.learning, one.drift_ppm.is_empty()) {
        (true, _) => "learning",
        (false, true) => "first window",
        (false, false) if one.alarm => "ALARM",
        (false, false) => "steady",
    }
}

/// A status as JSON.
pub fn shown(status: &v1::GetStatusResponse) -> Value {
    let latencies: Vec<_> = status
        .latencies
        .iter()
        .map(|one| {
            let level = v1::AckLevel::try_from(one.ack).map_or("?", |level| level.as_str_name());
            json!({
                "ack": describe::lower(level, "ACK_LEVEL_"),
                "count": one.count,
                "p50_us": one.p50_us,
                "p99_us": one.p99_us,
                "p999_us": one.p999_us,
                "max_us": one.max_us,
            })
        })
        .collect();
    let stages: Vec<_> = status
        .stages
        .iter()
        .map(|one| {
            json!({
                "stage": one.stage,
                "count": one.count,
                "mean_ns": one.mean_ns,
                "p50_ns": one.p50_ns,
                "p99_ns": one.p99_ns,
                "p999_ns": one.p999_ns,
                "max_ns": one.max_ns,
            })
        })
        .collect();
    let similarity: Vec<_> = status
        .similarity
        .iter()
        .map(|one| {
            json!({
                "collection": one.collection,
                "assets": one.assets,
                "state": similarity_state(one),
                "drift_ppm": one.drift_ppm,
                "drift_alarm_ppm": one.drift_alarm_ppm,
                "windows": one.windows,
                "counted": one.counted,
                "window": one.window,
            })
        })
        .collect();
    let figures: serde_json::Map<String, Value> = status
        .figures
        .iter()
        .map(|one| (one.name.clone(), json!(one.value)))
        .collect();
    json!({
        "realm": status.realm,
        "role": describe::lower(status.role().as_str_name(), "REALM_ROLE_"),
        "following": status.following.as_ref().map(|one| json!({
            "leader": one.leader,
            "age_ms": one.age_ms,
            "behind": one.behind,
        })),
        "epoch": status.epoch,
        "applied_seq": status.applied_seq,
        "durable_seq": status.durable_seq,
        "projected_seq": status.projected_seq,
        "settled_seq": status.settled_seq,
        "paused": status.paused,
        "digest": hexadecimal(&status.digest),
        "contract": hexadecimal(&status.contract),
        "chain_id": status.chain_id,
        "latencies": latencies,
        "stages": stages,
        "similarity": similarity,
        "figures": figures,
    })
}
