//! `karat dev`: the whole system on this machine.

use std::path::PathBuf;

use clap::Args;

use super::{CliError, Common};

/// How to run the demonstration.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  karat dev                        until Ctrl-C; starts again from the same folder\n  karat dev --assets 500 --json    ends by itself, summary for machines\n\nExit code 0 with --assets only if every asset is accounted for."
)]
pub struct DevArgs {
    /// End when this many new assets are settled or otherwise ended
    #[arg(long)]
    pub assets: Option<u64>,
    /// Port
    #[arg(long, default_value_t = 7400)]
    pub port: u16,
    /// Assets generated a second; 0 for as many as the machine makes
    #[arg(long, default_value_t = 40.0)]
    pub rate: f64,
    /// Share of images spoiled on purpose, so that rejections can be seen, parts per million
    #[arg(long, default_value_t = 10_000)]
    pub spoil_ppm: u32,
    /// Folder with one folder a model
    #[arg(long, default_value = "edge-node/models")]
    pub models: PathBuf,
    /// Keep the log on Apache Kafka, as kafka://HOST:PORT; without it, in the data folder
    #[arg(long)]
    pub log: Option<String>,
    /// Leave out the synthetic crowd
    #[arg(long)]
    pub no_crowd: bool,
}

/// Runs the demonstration.
pub async fn run(common: &Common, args: DevArgs) -> Result<(), CliError> {
    crate::dev::run(common, args).await
}
