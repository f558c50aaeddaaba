//! `karat serve`: the engine alone.

use std::path::PathBuf;

use clap::Args;

use super::{CliError, Common};
use crate::config::Config;
use crate::service::{Mode, Service, ServiceError};

/// How to serve.
#[derive(Debug, Args)]
#[command(after_help = "Example: karat serve --config karat.toml")]
pub struct ServeArgs {
    /// Configuration; every key has a default (`karat config print`)
    #[arg(long)]
    config: Option<PathBuf>,
    /// Port, instead of the configured one
    #[arg(long)]
    port: Option<u16>,
}

/// Runs the engine until Ctrl-C or SIGTERM.
pub async fn run(common: &Common, args: ServeArgs) -> Result<(), CliError> {
    let mut config = match &args.config {
        None => Config::default(),
        Some(path) => Config::load(path).map_err(|error| CliError::Usage(error.to_string()))?,
    };
    if let Some(dir) = &common.data {
        config.data.dir.clone_from(dir);
    }
    if let Some(port) = args.port {
        config.gateway.listen.set_port(port);
    }
    config
        .check()
        .map_err(|error| CliError::Usage(error.to_string()))?;
    let service = Service::start(config, Mode::Full)
        .await
        .map_err(|error| start_error(&error))?;
    // Whoever reads the address may stop it at once.
    let interrupt = interrupted();
    eprint!("{}", opened_text(&service));
    let failure = tokio::select! {
        () = interrupt => None,
        cause = service.failure() => Some(cause),
    };
    eprintln!("stopping: what was taken is finished and flushed");
    let stopped = service.stop().await;
    match (failure, stopped) {
        (Some(cause), _) => Err(CliError::Failed(cause)),
        (None, Err(error)) => Err(CliError::Failed(error.to_string())),
        (None, Ok(())) => Ok(()),
    }
}

/// A start that failed: configuration and usage apart from what cannot be opened.
pub fn start_error(error: &ServiceError) -> CliError {
    match error {
        ServiceError::Models(_) | ServiceError::Gateway(_) => CliError::Usage(error.to_string()),
        _ => CliError::Unreachable(error.to_string()),
    }
}

/// What was opened, for people.
pub fn opened_text(service: &Service) -> String {
    let opened = &service.opened;
    let core = &service.gateway.core;
    let mut text = format!(
        "realm {} at {} (gRPC); data in {}\n",
        core.config.realm.name,
        service.address,
        core.folder.root().display()
    );
    if opened.log.last_sequence > 0 {
        text.push_str(&format!(
            "recovered to sequence {} in {} ms ({} from a snapshot, {} replayed)\n",
            opened.log.last_sequence,
            opened.recovery.as_millis(),
            opened.snapshot_sequence,
            opened.replayed
        ));
    }
    for note in &opened.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    for damage in &opened.content.damaged {
        text.push_str(&format!("note: content: {damage}\n"));
    }
    text
}

/// Waits for Ctrl-C or SIGTERM. From this call on neither ends the process by itself.
pub fn interrupted() -> impl Future<Output = ()> {
    #[cfg(unix)]
    let signals = {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate()).and_then(|terminated| {
            let interrupted = signal(SignalKind::interrupt())?;
            Ok((terminated, interrupted))
        })
    };
    async move {
        #[cfg(unix)]
        if let Ok((mut terminated, mut interrupted)) = signals {
            tokio::select! {
                _ = interrupted.recv() => {}
                _ = terminated.recv() => {}
            }
            return;
        }
        let _ = tokio::signal::ctrl_c().await;
    }
}
