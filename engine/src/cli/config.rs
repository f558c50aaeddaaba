//! `karat config`: check a file, print every default.

use std::path::PathBuf;

use clap::Subcommand;

use super::{CliError, Common, print_json};
use crate::config::Config;

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a file; exit code 2 when it cannot be used
    #[command(after_help = "Example: karat config check karat.toml")]
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print the effective configuration: defaults, and the file's values where one is named
    #[command(after_help = "Example: karat config print karat.toml")]
    Print {
        /// The file
        file: Option<PathBuf>,
    },
}

/// Runs the command.
pub fn run(common: &Common, command: ConfigCommand) -> Result<(), CliError> {
    let load =
        |file: &PathBuf| Config::load(file).map_err(|error| CliError::Usage(error.to_string()));
    match command {
        ConfigCommand::Check { file } => {
            load(&file)?;
            if common.json {
                print_json(&serde_json::json!({"file": file, "usable": true}));
            } else {
                sayln!("{} can be used", file.display());
            }
            Ok(())
        }
        ConfigCommand::Print { file } => {
            let config = file.as_ref().map_or_else(|| Ok(Config::default()), load)?;
            let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());
            if common.json {
                print_json(&serde_json::to_value(&config).map_err(|error| failed(&error))?);
            } else {
                say!(
                    "{}",
                    toml::to_string_pretty(&config).map_err(|error| failed(&error))?
                );
            }
            Ok(())
        }
    }
}
