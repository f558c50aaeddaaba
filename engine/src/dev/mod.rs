//! The demonstration.
use crate::cli::{CliError, Common};
use crate::cli::DevArgs;
pub async fn run(_common: &Common, _args: DevArgs) -> Result<(), CliError> { Ok(()) }
