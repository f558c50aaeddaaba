//! Engines as processes of their own on one realm, each with its own folder.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use karat_engine::config::Config;
use karat_proto::v1;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::v1::operator_client::OperatorClient;
use karat_proto::v1::{AckLevel, RealmRole};
use parking_lot::Mutex;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use super::broker;
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

    /// Starts an engine with the folder of this name.
    pub fn start(&self, name: &str, arguments: &[&str]) -> Engine {
        let mut config = self.config.clone();
        config.data.dir = self.folder.path().join(name);
        let file = self.folder.path().join(format!("{name}.toml"));
        std::fs::write(&file, toml::to_string(&config).unwrap()).unwrap();
        Engine::start(&file, config.data.dir, arguments)
    }
}

/// A process. It is killed when it goes out of scope.
pub struct Engine {
    child: Child,
    said: Arc<Mutex<String>>,
    pub data: PathBuf,
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where the engine said last that it listens: one that begins anew takes another port.
fn address_in(said: &str) -> Option<String> {
    let line = said.lines().rfind(|line| line.contains(" (gRPC)"))?;
    let (_, rest) = line.split_once(" at ")?;
    Some(rest.split_once(" (gRPC)")?.0.to_owned())
}

impl Engine {
    fn start(config: &Path, data: PathBuf, arguments: &[&str]) -> Engine {
        let mut child = Command::new(env!("CARGO_BIN_EXE_karat"))
            .arg("serve")
            .arg("--config")
            .arg(config)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let saying = said.clone();
        // Ends with the process.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut said = saying.lock();
                said.push_str(&line);
                said.push('\n');
            }
        });
        Engine { child, said, data }
    }

    /// Everything that the engine wrote for people.
    pub fn said(&self) -> String {
        self.said.lock().clone()
    }

    /// Where it listens now.
    pub fn address(&self) -> Option<String> {
        address_in(&self.said())
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

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let done = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.child.id().to_string())
            .status()
            .unwrap();
        assert!(done.success());
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Until the process has ended.
    pub async fn until_ended(&mut self) -> ExitStatus {
        let child = Mutex::new(&mut self.child);
        eventually("the end of the process", || {
            let ended = child.lock().try_wait().unwrap();
            async move { ended }
        })
        .await
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
