//! A real engine in a folder of its own, on a port of its own, and clients that speak gRPC to it.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::panic)]

pub mod process;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use karat_edge_node::generator::{GenerationRequest, Generator};
use karat_engine::config::Config;
use karat_engine::core::fresh_id;
use karat_engine::service::{Mode, Service, ServiceError};
use karat_proto::v1::command::Kind;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::v1::operator_client::OperatorClient;
use karat_proto::v1::{AckLevel, AssetState};
use karat_proto::{Account, Code, limits, v1};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// A model that the ledger knows and this machine does not have: its assets cannot be generated again, which is noted.
pub const MODEL: [u8; 32] = [7; 32];
/// Only a broken engine gets there: what is behind the log runs when nobody else wants the processor.
pub const HANGS_AFTER: Duration = Duration::from_secs(300);
/// How often something is looked at that must come true.
const LOOK: Duration = Duration::from_millis(20);

/// Model folders of the repository, or the ones that KARAT_TEST_MODELS names.
pub fn models_dir() -> PathBuf {
    std::env::var_os("KARAT_TEST_MODELS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../edge-node/models"),
        PathBuf::from,
    )
}

/// A configuration for `dir`: batches are cut early, blocks are mined fast.
pub fn config(dir: &Path) -> Config {
    let mut config = Config::default();
    config.data.dir = dir.join("data");
    config.data.models_dir = models_dir();
    config.gateway.listen.set_port(0);
    config.log.segment_bytes = 32 << 20;
    config.settlement.block_ms = 10;
    config.policy.batch_age_ms_max = 100;
    // Whatever the auditor scores, people decide: what becomes of an asset must not depend on the quality of a model.
    config.policy.accept_below_ppm = 1;
    config.policy.reject_above_ppm = limits::PPM;
    config.policy.reexecution_sample_ppm = 0;
    config
}

pub async fn connect(service: &Service) -> Channel {
    Endpoint::from_shared(format!("http://{}", service.address))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

pub fn account(name: &str) -> Bytes {
    Bytes::copy_from_slice(&Account::from_name(name).0)
}

pub fn command(actor: &str, kind: Kind) -> v1::Command {
    v1::Command {
        id: fresh_id(),
        actor: account(actor),
        format: limits::COMMAND_FORMAT,
        kind: Some(kind),
    }
}

/// Images that differ from each other.
const IMAGES: usize = 64;

/// A whole PNG that the generator made, so that no auditor is sure that it is corrupt; another one for every number below
/// [`IMAGES`].
pub fn png(number: u32) -> Bytes {
    static MADE: OnceLock<Vec<Bytes>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let folder = models_dir().join("relics");
        let mut generator = Generator::load(&folder, None).unwrap();
        let traits = vec![0; generator.manifest().traits.len()];
        let requests: Vec<GenerationRequest> = (0..IMAGES as u8)
            .map(|seed| GenerationRequest {
                seed: [seed; 32],
                traits: traits.clone(),
            })
            .collect();
        let mut made = Vec::new();
        for some in requests.chunks(8) {
            made.extend(
                generator
                    .generate(some)
                    .unwrap()
                    .into_iter()
                    .map(|one| one.png.into()),
            );
        }
        made
    });
    made[number as usize].clone()
}

/// One trait that no auditor knows, so that every asset goes to review.
pub fn spec() -> v1::CollectionSpec {
    v1::CollectionSpec {
        name: "shapes".into(),
        supply_cap: 1_000_000,
        traits: vec![v1::TraitSpec {
            name: "shape".into(),
            values: vec!["round".into(), "square".into()],
            weights: vec![1, 1],
        }],
        pending_rule: Some(v1::PendingRule {
            trade: false,
            settle: false,
            show: true,
        }),
        seed_commitment: Bytes::from_static(&[9; 32]),
        ..Default::default()
    }
}

/// As [`spec`], with assets that may be traded before their verdict.
pub fn trading_spec() -> v1::CollectionSpec {
    v1::CollectionSpec {
        pending_rule: Some(v1::PendingRule {
            trade: true,
            settle: false,
            show: true,
        }),
        ..spec()
    }
}

pub fn lineage() -> v1::Lineage {
    v1::Lineage {
        model: Bytes::from_static(&MODEL),
        variant: "full".into(),
        seed: Bytes::from_static(&[3; 32]),
    }
}

pub fn mint(collection: u32, owner: &str, number: u32) -> v1::Mint {
    v1::Mint {
        collection,
        owner: if owner.is_empty() {
            Bytes::new()
        } else {
            account(owner)
        },
        traits: Bytes::from_static(&[0]),
        lineage: Some(lineage()),
        content: png(number),
        ..Default::default()
    }
}

/// Waits until `look` gives something; fails naming `what` when it does not.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let began = Instant::now();
    loop {
        // Looked at once more after the time is over: it may have been the looking that took so long.
        let is_late = began.elapsed() >= HANGS_AFTER;
        if let Some(found) = look().await {
            return found;
        }
        assert!(!is_late, "this never came: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// A running engine.
pub struct Realm {
    pub folder: TempDir,
    pub config: Config,
    pub service: Service,
    pub ledger: LedgerClient<Channel>,
    pub operator: OperatorClient<Channel>,
}

/// An engine that was stopped: its folder is still there.
pub struct Stopped {
    pub folder: TempDir,
    pub config: Config,
}

impl Stopped {
    pub async fn start(self) -> Realm {
        Realm::open(self.folder, self.config).await
    }

    /// Why the engine does not start on this folder.
    pub async fn start_error(&self) -> ServiceError {
        start_error(self.config.clone()).await
    }

    pub fn data(&self) -> &Path {
        &self.config.data.dir
    }
}

/// Starts an engine. One that was stopped in this process before may still end: its agents finish what they had begun,
/// and hold its folder as long.
async fn start(config: &Config) -> Service {
    let began = Instant::now();
    loop {
        match Service::start(config.clone(), Mode::Full).await {
            Ok(service) => return service,
            Err(error) => {
                let may_pass = error.to_string().contains("in use");
                assert!(may_pass && began.elapsed() < HANGS_AFTER, "{error}");
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

/// Why an engine does not start.
pub async fn start_error(config: Config) -> ServiceError {
    match Service::start(config, Mode::Full).await {
        Ok(_) => panic!("it started"),
        Err(error) => error,
    }
}

impl Realm {
    pub async fn start() -> Realm {
        Realm::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Realm {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        change(&mut config);
        Realm::open(folder, config).await
    }

    async fn open(folder: TempDir, config: Config) -> Realm {
        let service = start(&config).await;
        let channel = connect(&service).await;
        let ledger =
            LedgerClient::new(channel.clone()).max_decoding_message_size(limits::MESSAGE_BYTES_MAX);
        Realm {
            folder,
            config,
            service,
            ledger,
            operator: OperatorClient::new(channel),
        }
    }

    /// Stops with a snapshot, as Ctrl-C does.
    pub async fn stop(self) -> Stopped {
        self.service.stop().await.unwrap();
        Stopped {
            folder: self.folder,
            config: self.config,
        }
    }

    /// Stops without a snapshot: the next start replays the log.
    pub async fn close(self) -> Stopped {
        self.service.close().await.unwrap();
        Stopped {
            folder: self.folder,
            config: self.config,
        }
    }

    pub async fn try_execute(
        &mut self,
        command: v1::Command,
        ack: AckLevel,
    ) -> Result<(AckLevel, v1::Outcome), tonic::Status> {
        let request = v1::ExecuteRequest {
            ack: ack.into(),
            command: Some(command),
        };
        let answer = self.ledger.execute(request).await?.into_inner();
        Ok((answer.ack(), answer.outcome.unwrap()))
    }

    /// The ledger's outcome, flushed.
    pub async fn enter(&mut self, actor: &str, kind: Kind) -> v1::Outcome {
        self.try_execute(command(actor, kind), AckLevel::Durable)
            .await
            .unwrap()
            .1
    }

    /// As [`Realm::enter`], and it must be accepted.
    pub async fn accepted(&mut self, actor: &str, kind: Kind) -> v1::Outcome {
        let outcome = self.enter(actor, kind).await;
        assert_eq!(outcome.code, 0, "{}", outcome.message);
        outcome
    }

    /// As [`Realm::enter`], and it must be refused with this code and a message that says what to do.
    pub async fn refused(&mut self, actor: &str, kind: Kind, code: Code) -> v1::Outcome {
        let outcome = self.enter(actor, kind).await;
        assert_refused(&outcome, code);
        outcome
    }

    /// Refused at the door, before it got a sequence: the status, with the refusal's number beside it.
    pub async fn refused_at_door(&mut self, command: v1::Command, code: Code) -> tonic::Status {
        let status = self
            .try_execute(command, AckLevel::Durable)
            .await
            .unwrap_err();
        assert_eq!(status.code() as i32, code.status() as i32, "{status:?}");
        let number = status
            .metadata()
            .get("karat-code")
            .map(|number| number.to_str().unwrap().to_owned());
        assert_eq!(number, Some((code as u16).to_string()), "{status:?}");
        assert!(
            status.message().contains(code.name()) && status.message().contains(code.hint()),
            "{status:?}"
        );
        status
    }

    pub async fn register_model(&mut self, digest: [u8; 32]) {
        let kind = Kind::RegisterModel(v1::RegisterModel {
            digest: Bytes::copy_from_slice(&digest),
            name: "test model 1".into(),
            role: v1::ModelRole::Generator.into(),
            ..Default::default()
        });
        self.accepted("operator", kind).await;
    }

    pub async fn approve_model(&mut self, digest: [u8; 32]) {
        self.register_model(digest).await;
        let digest = Bytes::copy_from_slice(&digest);
        self.accepted("operator", Kind::PromoteModel(v1::PromoteModel { digest }))
            .await;
    }

    pub async fn create_collection(&mut self, spec: v1::CollectionSpec) -> u32 {
        let kind = Kind::CreateCollection(v1::CreateCollection { spec: Some(spec) });
        self.accepted("studio", kind).await.subject as u32
    }

    /// An approved model and a collection of this kind.
    pub async fn prepare(&mut self, spec: v1::CollectionSpec) -> u32 {
        self.approve_model(MODEL).await;
        self.create_collection(spec).await
    }

    pub async fn mint(&mut self, collection: u32, owner: &str, number: u32) -> u64 {
        self.accepted("studio", Kind::Mint(mint(collection, owner, number)))
            .await
            .subject
    }

    pub async fn deposit(&mut self, name: &str, amount: u64) {
        let deposit = v1::Deposit {
            account: account(name),
            amount,
        };
        self.accepted("operator", Kind::Deposit(deposit)).await;
    }

    pub async fn asset(&mut self, asset: u64) -> v1::Asset {
        let answer = self
            .ledger
            .get_asset(v1::GetAssetRequest { asset })
            .await
            .unwrap();
        answer.into_inner().asset.unwrap()
    }

    pub async fn balance(&mut self, name: &str) -> u64 {
        let request = v1::GetAccountRequest {
            account: account(name),
        };
        self.ledger
            .get_account(request)
            .await
            .unwrap()
            .into_inner()
            .balance
    }

    /// Until the asset is there and in this state.
    pub async fn until_state(&mut self, asset: u64, state: AssetState) -> v1::Asset {
        let ledger = self.ledger.clone();
        eventually(&format!("asset {asset} in state {state:?}"), || {
            let mut ledger = ledger.clone();
            async move {
                let answer = ledger.get_asset(v1::GetAssetRequest { asset }).await.ok()?;
                answer
                    .into_inner()
                    .asset
                    .filter(|asset| asset.state() == state)
            }
        })
        .await
    }

    /// Until the asset's latest form is final on the chain.
    pub async fn until_settled(&mut self, asset: u64) -> v1::Asset {
        let ledger = self.ledger.clone();
        eventually(&format!("asset {asset} settled"), || {
            let mut ledger = ledger.clone();
            async move {
                let answer = ledger.get_asset(v1::GetAssetRequest { asset }).await.ok()?;
                let settled = v1::SettlementState::Settled;
                answer
                    .into_inner()
                    .asset
                    .filter(|asset| asset.settlement() == settled)
            }
        })
        .await
    }

    /// Until the store has taken up everything that is applied now.
    pub async fn until_projected(&mut self) {
        let applied_seq = self.service.gateway.core.view.applied_seq();
        let store = self.service.gateway.store.clone();
        eventually("the store at the ledger's sequence", || {
            let found = store.projected_seq().unwrap() >= applied_seq;
            async move { found.then_some(()) }
        })
        .await;
    }

    /// Waits for the agents, who leave it to people, and decides.
    pub async fn accept(&mut self, asset: u64) {
        let version = self.until_state(asset, AssetState::InReview).await.version;
        let decision = v1::ReviewDecision {
            asset,
            version,
            accepted: true,
            reason: "looks right".into(),
        };
        self.accepted("operator", Kind::ReviewDecision(decision))
            .await;
    }

    pub async fn status(&mut self) -> v1::GetStatusResponse {
        self.operator
            .get_status(v1::GetStatusRequest {})
            .await
            .unwrap()
            .into_inner()
    }
}

pub fn assert_refused(outcome: &v1::Outcome, code: Code) {
    let found = Code::from_number(outcome.code as u16);
    assert_eq!(found, Some(code), "{}", outcome.message);
    assert!(!outcome.message.is_empty(), "{code:?} has no message");
    assert!(!outcome.replayed);
}

/// Every file below a folder.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path))
        } else {
            found.push(path)
        }
    }
    found.sort();
    found
}
