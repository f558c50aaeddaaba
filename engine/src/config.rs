//! Configuration: one TOML file, every key with a default. Unknown keys and wrong units are refused with their place.

mod host;
mod kafka;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use karat_edge_node::signature::{ModelTrust, parse_key};
use karat_proto::command::Policy;
use karat_proto::{Account, limits};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use host::HostConfig;
pub use kafka::KafkaSettings;

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("config {}: {source}", path.display())]
    Unreadable {
        /// File.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The file is no configuration.
    #[error("config {}: {message}", path.display())]
    Malformed {
        /// File.
        path: PathBuf,
        /// What and where.
        message: String,
    },
    /// A value is out of its range.
    #[error("config: {key} is {found}: {expected}")]
    OutOfRange {
        /// Which key.
        key: &'static str,
        /// What it is.
        found: String,
        /// What it may be.
        expected: String,
    },
}

/// Everything that can be configured.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Realm.
    pub realm: RealmConfig,
    /// Where things lie.
    pub data: DataConfig,
    /// Whose models.
    pub models: ModelsConfig,
    /// The port.
    pub gateway: GatewayConfig,
    /// The log.
    pub log: LogConfig,
    /// Agents.
    pub agents: AgentsConfig,
    /// Settlement.
    pub settlement: SettlementConfig,
    /// First policy of a new realm; later ones are commands.
    pub policy: PolicyConfig,
    /// Snapshots.
    pub snapshot: SnapshotConfig,
    /// Many realms in one process.
    pub host: HostConfig,
}

/// Whether it may be part of a Kafka topic's name.
fn in_topic(text: &str) -> bool {
    let mut bytes = text.bytes();
    !text.is_empty() && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// The realm and its roles.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct RealmConfig {
    /// Name, 1 to 64 bytes.
    pub name: String,
    /// Account of the operator: 0x and 40 hex digits, or a name.
    pub operator: String,
    /// Account whose verdicts count.
    pub verifier: String,
    /// Account that reports batches.
    pub settler: String,
}

/// Where things lie.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Data folder; one process at a time.
    pub dir: PathBuf,
    /// Folder with one folder a model.
    pub models_dir: PathBuf,
}

/// Whose models: for the folders that this engine loads, and for the first policy of a new realm.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct ModelsConfig {
    /// Ed25519 public keys whose signatures of models count, 64 hex digits each; while empty, any key's do.
    pub keys: Vec<String>,
    /// Whether unsigned models are refused.
    pub require_signed: bool,
}

impl ModelsConfig {
    /// Whose signatures count. Keys that are none are left out: [`Config::check`] refused them.
    pub fn trust(&self) -> ModelTrust {
        let keys = self.keys.iter();
        ModelTrust {
            keys: keys.filter_map(|key| parse_key(key).ok()).collect(),
            required: self.require_signed,
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |found: String, expected: String| {
            Err(ConfigError::OutOfRange {
                key: "models.keys",
                found,
                expected,
            })
        };
        let most = limits::MODEL_KEYS_MAX;
        if self.keys.len() > most {
            let found = format!("{} keys", self.keys.len());
            return refuse(found, format!("at most {most}"));
        }
        for (place, key) in self.keys.iter().enumerate() {
            if let Err(reason) = parse_key(key) {
                return refuse(key.clone(), reason);
            }
            if self.keys[..place].contains(key) {
                return refuse(format!("{key} twice"), "each key once".to_owned());
            }
        }
        match self.require_signed && self.keys.is_empty() {
            true => refuse(
                "empty".to_owned(),
                "models.require_signed needs at least one key (`karat model keygen` makes one)"
                    .to_owned(),
            ),
            false => Ok(()),
        }
    }
}

/// The port and its bounds.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Where others reach this engine, HOST:PORT, as followers tell it to clients; empty for the address it listens on.
    pub advertise: String,
    /// This build has no authentication yet: it refuses to listen beyond this machine unless this is set, because whoever
    /// reaches the port can act for everybody.
    pub allow_remote: bool,
    /// Threads that serve connections alone, each connection by one of them; 0 for threads that share their tasks.
    pub threads: usize,
    /// Streams open at once, over all connections.
    pub streams_max: usize,
    /// Streams open at once on one connection.
    pub streams_a_connection_max: u32,
    /// Commands of one stream that wait for their outcomes; beyond, the stream is not read.
    pub in_flight_a_stream_max: usize,
    /// Commands a second that one stream may send; 0 for no limit.
    pub commands_a_second_max: u64,
    /// Outcomes that may wait for a verdict or for settlement.
    pub waiting_outcomes_max: usize,
    /// Most assets that an edge node may have under way.
    pub edge_credits_max: u32,
}

/// The log.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Kind of log: `journal`, or `kafka` in a build with that feature.
    pub kind: String,
    /// Follow whoever leads the realm and lead it when nobody does; only where the log is on `kafka`. Without this an engine
    /// takes the realm over when it starts.
    pub follow: bool,
    /// Bytes of a journal segment.
    pub segment_bytes: u64,
    /// Commands that may wait in the queue.
    pub queue_commands_max: usize,
    /// Bytes that may wait in the queue.
    pub queue_bytes_max: usize,
    /// Where the log is when its kind is `kafka`.
    pub kafka: KafkaSettings,
}

/// Verification agents.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct AgentsConfig {
    /// Assets looked at at once.
    pub permits: usize,
    /// Threads for the work that needs a processor.
    pub workers: usize,
    /// Images that an auditor reads together.
    pub batch_max: usize,
    /// A worker that finishes nothing for so long is replaced.
    pub stall_ms: u64,
    /// How long a reviewer holds an asset.
    pub review_lease_seconds: u64,
    /// The last assets of a collection that a new one is compared with.
    pub similar_assets_max: usize,
    /// Collections whose assets are remembered for that.
    pub similar_collections_max: usize,
}

/// Settlement.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct SettlementConfig {
    /// Kind of chain; `embedded` is the only one in this build.
    pub chain: String,
    /// Chain id of the embedded chain.
    pub chain_id: u64,
    /// Blocks after a batch's own until it is final.
    pub confirmations: u64,
    /// The embedded chain mines an empty block this often while a batch waits, milliseconds.
    pub block_ms: u64,
}

/// First policy of a new realm.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// A corruption score below this accepts, parts per million; 0 takes it from the auditor's manifest.
    pub accept_below_ppm: u32,
    /// A score at or above this rejects, parts per million; 0 takes it from the auditor's manifest.
    pub reject_above_ppm: u32,
    /// Share of assets that are generated again, parts per million.
    pub reexecution_sample_ppm: u32,
    /// Changed assets that fill a batch.
    pub batch_changes_max: u32,
    /// Age of the oldest change at which a batch is cut.
    pub batch_age_ms_max: u64,
    /// Base fee above which an age cut waits, wei; 0 for no limit.
    pub batch_base_fee_wei_max: u64,
    /// ... but never longer than this.
    pub batch_deferral_ms_max: u64,
    /// Later commands for which an id is remembered at least.
    pub retry_window_commands: u64,
    /// An asset nearer than this to another of its collection goes to people, millionths of a deviation; 0 for no such
    /// comparison, -1 takes it from the auditor's manifest.
    pub near_duplicate_below_ppm: i64,
    /// While a collection's last window has drifted further than this its assets go to people, millionths; 0 for never.
    pub drift_review_above_ppm: u32,
}

/// Snapshots.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotConfig {
    /// A snapshot is made after so many commands.
    pub every_commands: u64,
    /// Newest snapshots that are kept.
    pub keep: usize,
}

impl Default for Config {
    fn default() -> Config {
        let policy = Policy::default();
        Config {
            realm: RealmConfig::default(),
            data: DataConfig::default(),
            models: ModelsConfig::default(),
            gateway: GatewayConfig::default(),
            log: LogConfig::default(),
            agents: AgentsConfig::default(),
            settlement: SettlementConfig::default(),
            policy: PolicyConfig {
                accept_below_ppm: 0,
                reject_above_ppm: 0,
                reexecution_sample_ppm: policy.reexecution_sample_ppm,
                batch_changes_max: policy.batch_changes_max,
                batch_age_ms_max: policy.batch_age_ms_max,
                batch_base_fee_wei_max: policy.batch_base_fee_wei_max,
                batch_deferral_ms_max: policy.batch_deferral_ms_max,
                retry_window_commands: policy.retry_window_commands,
                near_duplicate_below_ppm: -1,
                drift_review_above_ppm: policy.drift_review_above_ppm,
            },
            snapshot: SnapshotConfig::default(),
            host: HostConfig::default(),
        }
    }
}

impl Default for RealmConfig {
    fn default() -> RealmConfig {
        RealmConfig {
            name: "main".into(),
            operator: "operator".into(),
            verifier: "verifier".into(),
            settler: "settler".into(),
        }
    }
}

impl Default for DataConfig {
    fn default() -> DataConfig {
        DataConfig {
            dir: "karat-data".into(),
            models_dir: "edge-node/models".into(),
        }
    }
}

impl Default for GatewayConfig {
    fn default() -> GatewayConfig {
        GatewayConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 7400)),
            advertise: String::new(),
            allow_remote: false,
            threads: 0,
            streams_max: 4096,
            streams_a_connection_max: 256,
            in_flight_a_stream_max: 65_536,
            commands_a_second_max: 0,
            waiting_outcomes_max: 65_536,
            edge_credits_max: 256,
        }
    }
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            kind: "journal".into(),
            follow: false,
            segment_bytes: 64 * 1024 * 1024,
            queue_commands_max: 65_536,
            queue_bytes_max: 64 * 1024 * 1024,
            kafka: KafkaSettings::default(),
        }
    }
}

impl Default for AgentsConfig {
    fn default() -> AgentsConfig {
        AgentsConfig {
            permits: 256,
            workers: 1,
            batch_max: 16,
            stall_ms: 10_000,
            review_lease_seconds: 300,
            similar_assets_max: 65_536,
            similar_collections_max: 16,
        }
    }
}

impl Default for SettlementConfig {
    fn default() -> SettlementConfig {
        SettlementConfig {
            chain: "embedded".into(),
            chain_id: 31_337,
            confirmations: 2,
            block_ms: 100,
        }
    }
}

impl Default for PolicyConfig {
    fn default() -> PolicyConfig {
        Config::default().policy
    }
}

impl Default for SnapshotConfig {
    fn default() -> SnapshotConfig {
        SnapshotConfig {
            every_commands: 500_000,
            keep: 2,
        }
    }
}

impl Config {
    /// Reads a file; keys that are absent keep their defaults.
    ///
    /// # Errors
    /// Names the file, and the key or line that is wrong.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let config: Config = toml::from_str(&text).map_err(|error| ConfigError::Malformed {
            path: path.to_owned(),
            message: error.to_string(),
        })?;
        config.check()?;
        Ok(config)
    }

    /// Checks every range.
    ///
    /// # Errors
    /// The first value that is out of its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let out_of_range = |key, found: String, expected: &str| {
            Err(ConfigError::OutOfRange {
                key,
                found,
                expected: expected.to_owned(),
            })
        };
        if self.realm.name.is_empty() || self.realm.name.len() > 64 {
            return out_of_range("realm.name", self.realm.name.clone(), "1 to 64 bytes");
        }
        for (key, text) in [
            ("realm.operator", &self.realm.operator),
            ("realm.verifier", &self.realm.verifier),
            ("realm.settler", &self.realm.settler),
        ] {
            if Account::parse(text).is_err() {
                return out_of_range(key, text.clone(), "0x and 40 hex digits, or a name");
            }
        }
        if !self.gateway.listen.ip().is_loopback() && !self.gateway.allow_remote {
            let expected = "a loopback address; there is no authentication yet, so gateway.allow_remote must be true \
                            for any other";
            return out_of_range("gateway.listen", self.gateway.listen.to_string(), expected);
        }
        self.models.check()?;
        self.host.check()?;
        let kinds: &[&str] = if cfg!(feature = "kafka") {
            &["journal", "kafka"]
        } else {
            &["journal"]
        };
        if !kinds.contains(&self.log.kind.as_str()) {
            let hint = if self.log.kind == "kafka" {
                "this build has: journal; build with `--features kafka` for the other"
            } else {
                "journal or kafka"
            };
            return out_of_range("log.kind", self.log.kind.clone(), hint);
        }
        if self.log.follow && self.log.kind != "kafka" {
            let expected =
                "false where log.kind is journal: a journal has one process, and nobody to follow";
            return out_of_range("log.follow", "true".to_owned(), expected);
        }
        let advertised = &self.gateway.advertise;
        if !advertised.is_empty() && (!advertised.contains(':') || advertised.len() > 256) {
            let expected =
                "HOST:PORT, at most 256 bytes, or empty for the address that is listened on";
            return out_of_range("gateway.advertise", advertised.clone(), expected);
        }
        let settings = &self.log.kafka;
        settings.check()?;
        if self.log.kind == "kafka" && !in_topic(&self.realm.name) {
            let expected = "letters, digits, dots, hyphens and underscores, because it is part of a Kafka topic's name";
            return out_of_range("realm.name", self.realm.name.clone(), expected);
        }
        if self.settlement.chain != "embedded" {
            let found = self.settlement.chain.clone();
            return out_of_range("settlement.chain", found, "this build has: embedded");
        }
        let numbers = [
            ("gateway.threads", self.gateway.threads as u64, 0, 1024),
            (
                "gateway.streams_max",
                self.gateway.streams_max as u64,
                1,
                1 << 20,
            ),
            (
                "gateway.in_flight_a_stream_max",
                self.gateway.in_flight_a_stream_max as u64,
                1024,
                1 << 20,
            ),
            (
                "gateway.waiting_outcomes_max",
                self.gateway.waiting_outcomes_max as u64,
                1,
                1 << 24,
            ),
            (
                "gateway.edge_credits_max",
                self.gateway.edge_credits_max.into(),
                1,
                65_536,
            ),
            (
                "log.segment_bytes",
                self.log.segment_bytes,
                // A segment must hold the largest block, which has 16 MiB, and the frame around it.
                32 << 20,
                1 << 32,
            ),
            (
                "log.queue_commands_max",
                self.log.queue_commands_max as u64,
                16_384,
                1 << 24,
            ),
            (
                "log.queue_bytes_max",
                self.log.queue_bytes_max as u64,
                // The queue must hold what one block can.
                16 << 20,
                1 << 34,
            ),
            (
                "log.kafka.replication",
                u64::try_from(settings.replication).unwrap_or(0),
                1,
                1000,
            ),
            (
                "log.kafka.min_insync_replicas",
                u64::try_from(settings.min_insync_replicas).unwrap_or(0),
                1,
                1000,
            ),
            (
                "log.kafka.acknowledge_wait_ms",
                settings.acknowledge_wait_ms,
                1000,
                86_400_000,
            ),
            (
                "log.kafka.open_wait_ms",
                settings.open_wait_ms,
                1000,
                86_400_000,
            ),
            ("log.kafka.heartbeat_ms", settings.heartbeat_ms, 10, 60_000),
            (
                "log.kafka.lease_ms",
                settings.lease_ms,
                // Two signs may be lost or late before anybody bids.
                settings.heartbeat_ms.saturating_mul(3).max(100),
                3_600_000,
            ),
            (
                "host.session_timeout_ms",
                self.host.session_timeout_ms,
                // Heartbeats come twenty in a session (kafka/group.rs); the upper bound is a broker's default one.
                1000,
                1_800_000,
            ),
            (
                "host.realms_max",
                self.host.realms_max as u64,
                1,
                limits::HOST_REALMS_MAX as u64,
            ),
            (
                "host.starts_at_once",
                self.host.starts_at_once as u64,
                1,
                64,
            ),
            (
                "host.hand_over_ms",
                self.host.hand_over_ms,
                1000,
                // The group's own patience with a member that gives something up, see kafka/group.rs.
                240_000,
            ),
            (
                "host.snapshots_kept",
                self.host.snapshots_kept as u64,
                1,
                100,
            ),
            ("agents.permits", self.agents.permits as u64, 1, 65_536),
            ("agents.workers", self.agents.workers as u64, 1, 64),
            ("agents.batch_max", self.agents.batch_max as u64, 1, 64),
            ("agents.stall_ms", self.agents.stall_ms, 100, 3_600_000),
            (
                "agents.review_lease_seconds",
                self.agents.review_lease_seconds,
                1,
                86_400,
            ),
            (
                "agents.similar_assets_max",
                self.agents.similar_assets_max as u64,
                1,
                1 << 20,
            ),
            (
                "agents.similar_collections_max",
                self.agents.similar_collections_max as u64,
                1,
                1024,
            ),
            (
                "settlement.confirmations",
                self.settlement.confirmations,
                0,
                10_000,
            ),
            ("settlement.block_ms", self.settlement.block_ms, 1, 60_000),
            (
                "snapshot.every_commands",
                self.snapshot.every_commands,
                1000,
                u64::MAX,
            ),
            ("snapshot.keep", self.snapshot.keep as u64, 1, 1000),
            (
                "policy.batch_changes_max",
                self.policy.batch_changes_max.into(),
                1,
                65_536,
            ),
            (
                "policy.accept_below_ppm",
                self.policy.accept_below_ppm.into(),
                0,
                1_000_000,
            ),
            (
                "policy.reject_above_ppm",
                self.policy.reject_above_ppm.into(),
                0,
                1_000_000,
            ),
            (
                "policy.reexecution_sample_ppm",
                self.policy.reexecution_sample_ppm.into(),
                0,
                1_000_000,
            ),
            (
                "policy.drift_review_above_ppm",
                self.policy.drift_review_above_ppm.into(),
                0,
                limits::DISTANCE_PPM_MAX.into(),
            ),
        ];
        for (key, found, least, most) in numbers {
            if found < least || found > most {
                return Err(ConfigError::OutOfRange {
                    key,
                    found: found.to_string(),
                    expected: if most == u64::MAX {
                        format!("it must be at least {least}")
                    } else {
                        format!("it must be {least} to {most}")
                    },
                });
            }
        }
        let near = self.policy.near_duplicate_below_ppm;
        let near_max = i64::from(limits::DISTANCE_PPM_MAX);
        if !(-1..=near_max).contains(&near) {
            return Err(ConfigError::OutOfRange {
                key: "policy.near_duplicate_below_ppm",
                found: near.to_string(),
                expected: format!("it must be -1 to {near_max}"),
            });
        }
        let (accept, reject) = (self.policy.accept_below_ppm, self.policy.reject_above_ppm);
        if accept > reject && reject != 0 {
            return Err(ConfigError::OutOfRange {
                key: "policy.accept_below_ppm",
                found: accept.to_string(),
                expected: format!(
                    "it must not be above policy.reject_above_ppm, which is {reject}"
                ),
            });
        }
        Ok(())
    }
}
