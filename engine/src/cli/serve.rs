//! `karat serve`: the engine alone.

use std::path::PathBuf;

use clap::Args;

use super::{CliError, Common};
use crate::config::Config;
use crate::role::Role;
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
    /// Follow whoever leads the realm, answer questions, and lead it when nobody does; with the log on Kafka
    #[arg(long)]
    follow: bool,
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
    config.log.follow |= args.follow;
    let follows = config.log.follow;
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
    if let Some(cause) = failure
        .as_ref()
        .filter(|_| follows && service.begins_anew())
    {
        eprintln!("{cause}");
        return follow_anew(service).await;
    }
    eprintln!("stopping: what was taken is finished and flushed");
    let stopped = service.stop().await;
    match (failure, stopped) {
        (Some(cause), _) => Err(CliError::Failed(cause)),
        (None, Err(error)) => Err(CliError::Failed(error.to_string())),
        (None, Ok(())) => Ok(()),
    }
}

/// Ends what ran and begins again as a follower, in the same process.
///
/// What a replaced leader has in memory may not count, and its clients may hold parts of it open as long as they like. So
/// the program takes its own place: nothing of the old state can stay.
async fn follow_anew(service: Service) -> Result<(), CliError> {
    eprintln!("this engine follows now");
    if let Err(error) = service.close().await {
        eprintln!("note: {error}");
    }
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        // A program whose file was replaced by an update has no path any more, but the link to it.
        let program = std::env::current_exe()
            .ok()
            .filter(|path| path.exists())
            .unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
        let mut arguments = std::env::args_os();
        let mut again = std::process::Command::new(program);
        if let Some(name) = arguments.next() {
            again.arg0(name);
        }
        let error = again.args(arguments).exec();
        Err(CliError::Failed(format!(
            "begin again as a follower: {error}"
        )))
    }
    #[cfg(not(unix))]
    Err(CliError::Failed(
        "start this engine again: this system cannot begin anew in the same process".to_owned(),
    ))
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
    if core.role.now() == Role::Follower {
        text.push_str(
            "following the realm's leader; commands are refused until this engine leads\n",
        );
    }
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
