//! The process's own service: which realms are where.

use std::sync::Arc;

use karat_proto::v1;
use karat_proto::v1::host_server::Host;
use tonic::{Request, Response, Status};

use super::door::Rooms;
use crate::config::Config;

/// Of a realm that no process was heard to lead.
const NOBODY: &str =
    "nobody leads it: no process of the group has room (host.realms_max), or it does not start";

/// Serves `karat.v1.Host`.
pub struct HostService {
    rooms: Arc<Rooms>,
    group: String,
    realms_max: u32,
}

impl HostService {
    /// Of this process.
    pub fn new(config: &Config, rooms: &Arc<Rooms>) -> HostService {
        HostService {
            rooms: rooms.clone(),
            group: config.host.group.clone(),
            realms_max: u32::try_from(config.host.realms_max).unwrap_or(u32::MAX),
        }
    }
}

/// Memory that this process has in use; 0 where the system does not say.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[tonic::async_trait]
impl Host for HostService {
    async fn list_realms(
        &self,
        _request: Request<v1::ListRealmsRequest>,
    ) -> Result<Response<v1::ListRealmsResponse>, Status> {
        let rooms = &self.rooms;
        let realms = rooms.realms.values().map(|realm| {
            let mut shown = realm.shown();
            if shown.state() == v1::HostedState::Leading {
                shown.leader.clone_from(&rooms.advertised);
            } else if let Some((leader, epoch)) = rooms.leader_elsewhere(realm.name()) {
                (shown.leader, shown.epoch) = (leader, epoch);
            } else if shown.note.is_empty() && rooms.is_without_host(realm.name()) {
                NOBODY.clone_into(&mut shown.note);
            }
            shown
        });
        let realms: Vec<v1::HostedRealm> = realms.collect();
        let without_host = rooms.count_without_host();
        Ok(Response::new(v1::ListRealmsResponse {
            address: rooms.advertised.clone(),
            group: self.group.clone(),
            realms_max: self.realms_max,
            resident_bytes: resident_bytes(),
            realms,
            without_host,
        }))
    }
}
