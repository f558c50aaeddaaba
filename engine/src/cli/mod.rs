//! The operator's binary: one file a command, JSON on request, exit codes that mean something.
//!
//! Exit codes: 0 done; 1 done, and the answer is no (not found, refused, a check that failed); 2 wrong usage or
//! configuration; 3 the engine cannot be reached or the data folder cannot be opened; 4 the running engine failed.

mod asset;
mod backend;
mod batch;
mod config;
mod content;
mod describe;
mod dev;
mod dlq;
mod host;
mod log;
mod model;
mod model_key;
mod proof;
mod realm;
mod review;
mod serve;
mod status;
mod store;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use karat_proto::realm::RealmName;
use thiserror::Error;

pub use backend::Backend;
pub use describe::lower;
pub use dev::DevArgs;
pub use model::registration;
pub use serve::{interrupted, opened_text, start_error};
pub use status::{shown as status_json, similarity_state};

/// Why a command ends without success; each kind has its exit code.
#[derive(Debug, Error)]
pub enum CliError {
    /// 1: carried out, and the answer is no.
    #[error("{0}")]
    No(String),
    /// 2: wrong usage or configuration.
    #[error("{0}")]
    Usage(String),
    /// 3: engine or data folder cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// 4: the running engine failed.
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    fn exit_code(&self) -> u8 {
        match self {
            CliError::No(_) => 1,
            CliError::Usage(_) => 2,
            CliError::Unreachable(_) => 3,
            CliError::Failed(_) => 4,
        }
    }
}

impl From<tonic::Status> for CliError {
    fn from(status: tonic::Status) -> CliError {
        match status.code() {
            tonic::Code::Unavailable => CliError::Unreachable(status.message().to_owned()),
            tonic::Code::InvalidArgument => CliError::Usage(status.message().to_owned()),
            _ => CliError::No(status.message().to_owned()),
        }
    }
}

/// Karat: orders, verifies, serves and settles generated assets.
#[derive(Debug, Parser)]
#[command(
    name = "karat",
    version,
    about = "Karat orders, verifies, serves and settles generated assets",
    after_help = "Examples:\n  karat dev                     the whole system on this machine, until Ctrl-C\n  karat dev --assets 500        ends by itself, with a summary\n  karat asset show 17           one asset, from the running engine\n  karat --data karat-data asset show 17   the same from a folder that nobody runs\n\nExit codes: 0 done; 1 the answer is no; 2 wrong usage or configuration;\n3 the engine or the data folder cannot be reached; 4 the running engine failed."
)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Address of the running engine
    #[arg(
        long,
        global = true,
        default_value = "http://127.0.0.1:7400",
        env = "KARAT_SERVER"
    )]
    pub server: String,
    /// Realm, where the server is one of several that share realms; wherever among them it is
    #[arg(long, global = true, env = "KARAT_REALM")]
    pub realm: Option<RealmName>,
    /// Data folder: `dev` runs on it; other commands read it directly when no engine runs on it
    #[arg(long, global = true, env = "KARAT_DATA")]
    pub data: Option<PathBuf>,
    /// Machine-readable output
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything in one process: engine, chain, edge node and a small crowd
    Dev(dev::DevArgs),
    /// Run the engine alone
    Serve(serve::ServeArgs),
    /// Run many realms in one process, shared with other such processes over Kafka
    Host(host::HostArgs),
    /// Positions, counts and latencies of a running engine; of a host, which realms are where
    #[command(
        after_help = "Examples: karat status --json; of one realm of a host: karat --realm NAME status"
    )]
    Status,
    /// Look at assets
    #[command(subcommand)]
    Asset(asset::AssetCommand),
    /// Look at settlement batches
    #[command(subcommand)]
    Batch(batch::BatchCommand),
    /// Fetch an asset's Merkle proof and check it against the chain's root
    Proof(proof::ProofArgs),
    /// Check a log by replaying it, or copy it to another kind of log
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Messages from the topic of commands that were not taken or were refused
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// Decide what the agents left to people
    #[command(subcommand)]
    Review(review::ReviewCommand),
    /// Register, promote and retire models
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Pause, resume, freeze, unfreeze, read the policy
    #[command(subcommand)]
    Realm(realm::RealmCommand),
    /// The projection that answers queries
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Content that no command names
    #[command(subcommand)]
    Content(content::ContentCommand),
    /// Check and explain the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

/// Parses the arguments, runs the command, and turns its end into an exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("KARAT_LOG")
                .unwrap_or_else(|_| "warn".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    karat_edge_node::turns::short();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("karat: start the runtime: {error}");
            return ExitCode::from(3);
        }
    };
    let ended = runtime.block_on(run(cli));
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("karat: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

async fn run(cli: Cli) -> Result<(), CliError> {
    let common = cli.common;
    match cli.command {
        Command::Dev(args) => dev::run(&common, args).await,
        Command::Serve(args) => serve::run(&common, args).await,
        Command::Host(args) => host::run(&common, args).await,
        Command::Status => status::run(&common).await,
        Command::Asset(command) => asset::run(&common, command).await,
        Command::Batch(command) => batch::run(&common, command).await,
        Command::Proof(args) => proof::run(&common, args).await,
        Command::Log(command) => log::run(&common, command),
        Command::Dlq(command) => dlq::run(&common, command),
        Command::Review(command) => review::run(&common, command).await,
        Command::Model(command) => model::run(&common, command).await,
        Command::Realm(command) => realm::run(&common, command).await,
        Command::Store(command) => store::run(&common, command).await,
        Command::Content(command) => content::run(&common, command).await,
        Command::Config(command) => config::run(&common, command),
    }
}

/// Prints a value as JSON.
fn print_json(value: &serde_json::Value) {
    sayln!("{value:#}");
}

/// `0x` and the bytes in hex.
fn hexadecimal(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn without_a_name_of_these(command: &clap::Command, names: &[String]) {
        for argument in command.get_arguments() {
            let name = argument.get_id().to_string();
            assert!(!names.contains(&name), "{}: {name}", command.get_name());
        }
        for below in command.get_subcommands() {
            without_a_name_of_these(below, names);
        }
    }

    /// One that has would be read as the common one, of another type, and end the program.
    #[test]
    fn no_command_has_an_argument_of_its_own_with_a_common_ones_name() {
        let cli = Cli::command();
        let names: Vec<String> = cli
            .get_arguments()
            .map(|argument| argument.get_id().to_string())
            .collect();
        assert!(names.iter().any(|name| name == "realm"), "{names:?}");
        for command in cli.get_subcommands() {
            without_a_name_of_these(command, &names);
        }
    }
}
