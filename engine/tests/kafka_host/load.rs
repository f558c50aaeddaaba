//! A load on every realm of a group, whose clients find the realms by what the hosts answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

use super::common::eventually;
use super::group::{Group, Host, deposit, execute};

/// Commands of a realm that are under way at once.
const AT_ONCE: usize = 4;
/// A client that has no answer after so long sends the command again, to another host.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// One realm's load.
pub struct RealmLoad {
    pub realm: String,
    /// Commands that were acknowledged: each of them gives 1 to an account.
    pub acknowledged: AtomicU64,
    hosts: Arc<Mutex<Vec<Channel>>>,
    stop: AtomicBool,
}

/// A load that runs.
pub struct Load {
    pub realms: Vec<Arc<RealmLoad>>,
    hosts: Arc<Mutex<Vec<Channel>>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(group: &Group, hosts: &[&Host]) -> Load {
        let hosts = hosts.iter().map(|host| host.channel.clone()).collect();
        let hosts = Arc::new(Mutex::new(hosts));
        let realms: Vec<Arc<RealmLoad>> = group
            .realms
            .iter()
            .map(|realm| {
                Arc::new(RealmLoad {
                    realm: realm.clone(),
                    acknowledged: AtomicU64::new(0),
                    hosts: hosts.clone(),
                    stop: AtomicBool::new(false),
                })
            })
            .collect();
        let clients = realms
            .iter()
            .flat_map(|realm| (0..AT_ONCE).map(|_| tokio::spawn(run(realm.clone()))))
            .collect();
        Load {
            realms,
            hosts,
            clients,
        }
    }

    /// Clients may ask this host as well.
    pub fn add(&self, host: &Host) {
        self.hosts.lock().push(host.channel.clone());
    }

    /// Until so many more commands of each realm are acknowledged.
    pub async fn goes_on(&self, more: u64) {
        for realm in &self.realms {
            let wanted = realm.acknowledged.load(Ordering::SeqCst) + more;
            eventually(&format!("{wanted} commands of {}", realm.realm), || async {
                (realm.acknowledged.load(Ordering::SeqCst) >= wanted).then_some(())
            })
            .await;
        }
    }

    /// Begins nothing more, waits until everything that was begun is acknowledged, and looks on the hosts that lead the realms
    /// whether each command was applied once.
    pub async fn end_with_every_command_once(self, hosts: &[&Host]) {
        for realm in &self.realms {
            realm.stop.store(true, Ordering::SeqCst);
        }
        for client in self.clients {
            client.await.unwrap();
        }
        for load in self.realms {
            let balance = eventually("a host that leads the realm", || async {
                for host in hosts {
                    if let Some(balance) = host.balance(&load.realm, "player").await {
                        return Some(balance);
                    }
                }
                None
            })
            .await;
            let acknowledged = load.acknowledged.load(Ordering::SeqCst);
            assert_eq!(balance, acknowledged, "{}", load.realm);
        }
    }
}

/// Enters one command after the other, each until it is acknowledged.
async fn run(load: Arc<RealmLoad>) {
    let mut at = 0;
    let mut told: Option<Channel> = None;
    while !load.stop.load(Ordering::SeqCst) {
        let command = deposit("player", 1);
        loop {
            let channel = told.take().unwrap_or_else(|| {
                let hosts = load.hosts.lock();
                hosts[at % hosts.len()].clone()
            });
            let asked = execute(&channel, &load.realm, &command);
            let answer = tokio::time::timeout(ANSWER_MAX, asked).await;
            let late = |_| Err(tonic::Status::deadline_exceeded("no answer"));
            match answer.unwrap_or_else(late) {
                Ok(outcome) => {
                    assert_eq!(outcome.code, 0, "{}", outcome.message);
                    told = Some(channel);
                    break;
                }
                Err(status) => match status.metadata().get("karat-leader") {
                    Some(leader) => {
                        let leader = format!("http://{}", leader.to_str().unwrap());
                        told = Some(Endpoint::from_shared(leader).unwrap().connect_lazy());
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    None => {
                        at += 1;
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
        load.acknowledged.fetch_add(1, Ordering::SeqCst);
    }
}
