//! Hosts as processes of their own in one group, each with its own folder.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use karat_engine::config::Config;
use karat_proto::v1;
use karat_proto::v1::host_client::HostClient;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::v1::operator_client::OperatorClient;
use karat_proto::v1::{AckLevel, HostedState};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::broker;
use super::common::process::Process;
use super::common::{self, account, command, eventually};

/// A group on the broker that nobody else uses.
pub struct Group {
    folder: TempDir,
    pub config: Config,
    pub realms: Vec<String>,
}

impl Group {
    /// One of so many realms.
    pub fn new(realms: usize) -> Group {
        Group::at(broker::address(), realms)
    }

    /// As [`Group::new`], on this broker.
    pub fn at(brokers: String, realms: usize) -> Group {
        let folder = tempfile::tempdir().unwrap();
        let mut config = common::config(folder.path());
        let name = format!("test-{:016x}", rand::random::<u64>());
        config.log.kind = "kafka".into();
        config.log.kafka.brokers = brokers;
        config.host.group.clone_from(&name);
        config.host.realms = (0..realms)
            .map(|number| format!("{name}-{number}"))
            .collect();
        // A machine that others keep busy must not lose its realms for it.
        config.host.session_timeout_ms = 15_000;
        // The embedded chain stays with its folder, and nobody else's batches can be settled on it.
        config.policy.batch_age_ms_max = 3_600_000;
        let realms = config.host.realms.clone();
        Group {
            folder,
            config,
            realms,
        }
    }

    /// Starts a host with the folder of this name, and waits until it listens.
    pub async fn start(&self, name: &str) -> Host {
        self.start_with(name, |_| {}).await
    }

    /// As [`Group::start`], with a configuration that differs.
    pub async fn start_with(&self, name: &str, change: impl FnOnce(&mut Config)) -> Host {
        let mut config = self.config.clone();
        change(&mut config);
        config.data.dir = self.folder.path().join(name);
        let file = self.folder.path().join(format!("{name}.toml"));
        std::fs::write(&file, toml::to_string(&config).unwrap()).unwrap();
        let process = Process::start("host", &file, &[]);
        let address = eventually("the host's address", || async { process.address() }).await;
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Host {
            process,
            data: config.data.dir,
            channel: endpoint.connect_lazy(),
            address,
        }
    }
}

/// A process of a host.
pub struct Host {
    process: Process,
    pub data: PathBuf,
    pub address: String,
    pub channel: Channel,
}

impl Deref for Host {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Host {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// A request to a realm.
pub fn to<T>(realm: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("karat-realm", realm.parse().unwrap());
    request
}

/// Enters a command of a realm through a process.
pub async fn execute(
    channel: &Channel,
    realm: &str,
    command: &v1::Command,
) -> Result<v1::Outcome, Status> {
    let request = v1::ExecuteRequest {
        ack: AckLevel::Durable.into(),
        command: Some(command.clone()),
    };
    let mut ledger = LedgerClient::new(channel.clone());
    let answer = ledger.execute(to(realm, request)).await?;
    Ok(answer.into_inner().outcome.unwrap())
}

impl Host {
    pub fn ledger(&self) -> LedgerClient<Channel> {
        LedgerClient::new(self.channel.clone())
    }

    /// What it says of the realms; nothing while it does not answer.
    pub async fn list(&self) -> Option<v1::ListRealmsResponse> {
        let mut host = HostClient::new(self.channel.clone());
        let answer = host.list_realms(v1::ListRealmsRequest {}).await;
        Some(answer.ok()?.into_inner())
    }

    /// Names of the realms that it leads.
    pub async fn leads(&self) -> Vec<String> {
        let realms = self.list().await.map_or_else(Vec::new, |list| list.realms);
        realms
            .into_iter()
            .filter(|one| one.state() == HostedState::Leading)
            .map(|one| one.realm)
            .collect()
    }

    /// A realm's status; `None` where it is not led here.
    pub async fn status(&self, realm: &str) -> Option<v1::GetStatusResponse> {
        let mut operator = OperatorClient::new(self.channel.clone());
        let answer = operator
            .get_status(to(realm, v1::GetStatusRequest {}))
            .await;
        Some(answer.ok()?.into_inner())
    }

    /// A figure of a realm.
    pub async fn figure(&self, realm: &str, name: &str) -> Option<u64> {
        let status = self.status(realm).await?;
        let figure = status.figures.iter().find(|one| one.name == name)?;
        Some(figure.value)
    }

    /// Enters a command of a realm until it is taken: its id makes that safe.
    pub async fn accepted(&self, realm: &str, command: &v1::Command) -> v1::Outcome {
        let outcome = eventually("an outcome", || async {
            execute(&self.channel, realm, command).await.ok()
        })
        .await;
        assert_eq!(outcome.code, 0, "{}", outcome.message);
        outcome
    }

    pub async fn balance(&self, realm: &str, name: &str) -> Option<u64> {
        let request = v1::GetAccountRequest {
            account: account(name),
        };
        let answer = self.ledger().get_account(to(realm, request)).await.ok()?;
        Some(answer.into_inner().balance)
    }
}

/// Waits until each of the group's realms is led by exactly one of these hosts, and each host leads at least `least`; who
/// leads what then.
pub async fn spread(group: &Group, hosts: &[&Host], least: usize) -> Vec<Vec<String>> {
    eventually("every realm led by one host", || async {
        let mut found = Vec::new();
        for host in hosts {
            found.push(host.leads().await);
        }
        let mut all: Vec<String> = found.iter().flatten().cloned().collect();
        all.sort();
        (all == group.realms && found.iter().all(|leads| leads.len() >= least)).then_some(found)
    })
    .await
}

/// A command that gives an account so much.
pub fn deposit(name: &str, amount: u64) -> v1::Command {
    let deposit = v1::Deposit {
        account: account(name),
        amount,
    };
    command("operator", v1::command::Kind::Deposit(deposit))
}
