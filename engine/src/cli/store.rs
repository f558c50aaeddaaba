//! `karat store`: the projection that answers queries.

use clap::Subcommand;
use serde_json::json;

use super::{CliError, Common, print_json};
use crate::data_folder::DataFolder;
use crate::service::{Mode, Service};

/// What to do with the store.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Empty the store and fill it again from the log
    #[command(
        after_help = "No engine may run on the folder. Stream of events, snapshots and store are made again; the log is only read.\n\nExample: karat --data karat-data store rebuild"
    )]
    Rebuild,
}

/// Runs the command.
pub async fn run(common: &Common, command: StoreCommand) -> Result<(), CliError> {
    let StoreCommand::Rebuild = command;
    let Some(dir) = &common.data else {
        return Err(CliError::Usage("name the folder with --data".into()));
    };
    let folder = DataFolder::open(dir).map_err(|error| CliError::Unreachable(error.to_string()))?;
    let config = folder
        .noted_config()
        .map_err(|error| CliError::Unreachable(error.to_string()))?;
    // Opening proves that nobody else runs on the folder; only then are projections removed.
    let unreachable = |error: &dyn std::fmt::Display| CliError::Unreachable(error.to_string());
    let service = Service::start(config.clone(), Mode::ReadOnly)
        .await
        .map_err(|error| unreachable(&error))?;
    service.close().await.map_err(|error| unreachable(&error))?;
    for path in [folder.store(), folder.events(), folder.snapshots()] {
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(CliError::Unreachable(format!(
                    "remove {}: {error}",
                    path.display()
                )));
            }
            _ => {}
        }
    }
    let service = Service::start(config, Mode::ReadOnly)
        .await
        .map_err(|error| unreachable(&error))?;
    let projected_seq = crate::projector::projected_seq(&*service.gateway.store);
    let replayed = service.opened.replayed;
    service
        .stop()
        .await
        .map_err(|error| CliError::Failed(error.to_string()))?;
    if common.json {
        print_json(&json!({"replayed": replayed, "projected_seq": projected_seq}));
    } else {
        sayln!("{replayed} commands replayed; the store is at sequence {projected_seq}");
    }
    Ok(())
}
