//! Engines as processes of their own on one realm, each with its own folder.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use karat_engine::config::Config;
use karat_proto::v1;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::v1::operator_client::OperatorClient;
use karat_proto::v1::{AckLevel, RealmRole};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use super::broker;
use super::common::process::Process;
use super::common::{self, account, command, eventually};

/// A realm on the broker that nobody else uses.
pub struct Realm {
    folder: TempDir,
    config: Config,
}

impl Realm {
    /// One whose followers wait so long for a silent leader.
    pub fn new(lease_ms: u64) -> Realm {
        let folder = tempfile::tempdir().unwrap();
        let mut config = common::config(folder.path());
        config.realm.name = format!("test-{:016x}", rand::random::<u64>());
        config.log.kind = "kafka".into();
        config.log.kafka.brokers = broker::address();
        config.log.kafka.lease_ms = lease_ms;
        // The embedded chain stays with its folder, and nobody else's batches can be settled on it.
        config.policy.batch_age_ms_max = 3_600_000;
        Realm { folder, config }
    }

    /// As it is, with its commands also read from their topic.
    pub fn taking_commands(mut self) -> Realm {
        self.config.log.kafka.commands = true;
        self
    }

    /// The topic of this realm with this last word.
    pub fn topic(&self, what: &str) -> String {
        let settings = &self.config.log.kafka;
        format!(
            "{}.{}.{what}",
            settings.topic_prefix, self.config.realm.name
        )
    }

    /// Starts an engine with the folder of this name.
    pub fn start(&self, name: &str, arguments: &[&str]) -> Engine {
        let mut config = self.config.clone();
        config.data.dir = self.folder.path().join(name);
        let file = self.folder.path().join(format!("{name}.toml"));
        std::fs::write(&file, toml::to_string(&config).unwrap()).unwrap();
        Engine::start(&file, config.data.dir, arguments)
    }
}

/// A process of an engine.
pub struct Engine {
    process: Process,
    pub data: PathBuf,
}

impl Deref for Engine {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Engine {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Engine {
    fn start(config: &Path, data: PathBuf, arguments: &[&str]) -> Engine {
        let process = Process::start("serve", config, arguments);
        Engine { process, data }
    }

    async fn channel(&self) -> Option<Channel> {
        let address = self.address()?;
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        endpoint.connect().await.ok()
    }

    pub async fn ledger(&self) -> Option<LedgerClient<Channel>> {
        Some(LedgerClient::new(self.channel().await?))
    }

    /// Its status; `None` while it does not answer.
    pub async fn status(&self) -> Option<v1::GetStatusResponse> {
        let mut operator = OperatorClient::new(self.channel().await?);
        let answer = operator.get_status(v1::GetStatusRequest {}).await.ok()?;
        Some(answer.into_inner())
    }

    /// Until it has this role; what it says of itself then.
    pub async fn until(&self, role: RealmRole) -> v1::GetStatusResponse {
        eventually(&format!("{role:?}: {}", self.said()), || async {
            self.status().await.filter(|status| status.role() == role)
        })
        .await
    }

    /// Enters a command; `None` when no answer came or it was refused before it had a sequence.
    pub async fn enter(&self, command: &v1::Command) -> Option<v1::Outcome> {
        let request = v1::ExecuteRequest {
            ack: AckLevel::Durable.into(),
            command: Some(command.clone()),
        };
        let answer = self.ledger().await?.execute(request).await.ok()?;
        answer.into_inner().outcome
    }

    /// Enters a command until it is taken, again and again: its id makes that safe.
    pub async fn accepted(&self, command: &v1::Command) -> v1::Outcome {
        let outcome = eventually("an outcome", || self.enter(command)).await;
        assert_eq!(outcome.code, 0, "{}", outcome.message);
        outcome
    }

    pub async fn balance(&self, name: &str) -> Option<u64> {
        let request = v1::GetAccountRequest {
            account: account(name),
        };
        let answer = self.ledger().await?.get_account(request).await.ok()?;
        Some(answer.into_inner().balance)
    }
}

/// A command that gives an account so much.
pub fn deposit(name: &str, amount: u64) -> v1::Command {
    let deposit = v1::Deposit {
        account: account(name),
        amount,
    };
    command("operator", v1::command::Kind::Deposit(deposit))
}
