//! `karat host`: many realms in one process.

use std::path::PathBuf;

use clap::Args;

use super::{CliError, Common};

/// How to hold realms.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: karat host --config host.toml\n\nThe configuration is that of `karat serve` with a section [host] that names the realms of the group\n(deploy/host.toml). Each realm has the folder <data.dir>/<realm>. Requests name their realm in the metadata\nheader karat-realm; `karat --realm NAME ...` does. `karat status` shows which realms are where."
)]
pub struct HostArgs {
    /// Configuration
    #[arg(long)]
    config: PathBuf,
    /// Port, instead of the configured one
    #[arg(long)]
    port: Option<u16>,
}

/// Runs the host until Ctrl-C or SIGTERM.
#[cfg(feature = "kafka")]
pub async fn run(common: &Common, args: HostArgs) -> Result<(), CliError> {
    use crate::config::Config;
    use crate::host::{Host, HostError};

    let mut config =
        Config::load(&args.config).map_err(|error| CliError::Usage(error.to_string()))?;
    if let Some(dir) = &common.data {
        config.data.dir.clone_from(dir);
    }
    if let Some(port) = args.port {
        config.gateway.listen.set_port(port);
    }
    let (group, realms) = (config.host.group.clone(), config.host.realms.len());
    let data = config.data.dir.display().to_string();
    // Whoever reads the address may stop it at once.
    let interrupt = super::serve::interrupted();
    let started = Host::start(config, |text| eprintln!("{text}")).await;
    let host = started.map_err(|error| match error {
        HostError::Config(_) | HostError::Gateway(_) => CliError::Usage(error.to_string()),
        _ => CliError::Unreachable(error.to_string()),
    })?;
    eprintln!(
        "host at {} (gRPC); group {group} with {realms} realms; data in {data}",
        host.address
    );
    interrupt.await;
    eprintln!("stopping: every realm is finished, flushed and handed on");
    host.stop().await;
    Ok(())
}

/// As above.
#[cfg(not(feature = "kafka"))]
pub async fn run(_common: &Common, args: HostArgs) -> Result<(), CliError> {
    let HostArgs { config, port: _ } = args;
    Err(CliError::Usage(format!(
        "{}: a host shares its realms over Kafka; build with `--features kafka`",
        config.display()
    )))
}
