//! `karat model`: which models may mint.

use std::path::PathBuf;

use bytes::Bytes;
use clap::Subcommand;
use karat_edge_node::manifest::{Manifest, Role};
use karat_proto::v1;
use serde_json::json;

use super::{Backend, CliError, Common, describe, hexadecimal, print_json};

/// What to do with models.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Models known to the realm
    #[command(after_help = "Example: karat model list")]
    List,
    /// Make a model folder's model known (its files are checked against its manifest)
    #[command(after_help = "Example: karat model register edge-node/models/relics")]
    Register {
        /// Folder with manifest.toml
        folder: PathBuf,
    },
    /// Let a registered model mint
    #[command(after_help = "Example: karat model promote 0x5c1f...")]
    Promote {
        /// Its digest
        digest: String,
    },
    /// Refuse everything that a model makes from now on
    #[command(after_help = "Example: karat model retire 0x5c1f...")]
    Retire {
        /// Its digest
        digest: String,
    },
}

fn digest(text: &str) -> Result<Bytes, CliError> {
    match hex::decode(text.trim_start_matches("0x")) {
        Ok(bytes) if bytes.len() == 32 => Ok(bytes.into()),
        _ => Err(CliError::Usage(format!(
            "digest {text}: 64 hex digits are needed"
        ))),
    }
}

/// Runs the command.
pub async fn run(common: &Common, command: ModelCommand) -> Result<(), CliError> {
    let request = match command {
        ModelCommand::List => return list(common).await,
        ModelCommand::Register { folder } => {
            let manifest =
                Manifest::load(&folder).map_err(|error| CliError::Usage(error.to_string()))?;
            let role = match manifest.role {
                Role::Generator => v1::ModelRole::Generator,
                Role::Auditor => v1::ModelRole::Auditor,
            };
            v1::ChangeModelRequest {
                change: v1::ModelChange::Register.into(),
                digest: Bytes::copy_from_slice(&manifest.digest),
                name: format!("{} {}", manifest.name, manifest.version),
                role: role.into(),
            }
        }
        ModelCommand::Promote { digest: text } => v1::ChangeModelRequest {
            change: v1::ModelChange::Promote.into(),
            digest: digest(&text)?,
            ..Default::default()
        },
        ModelCommand::Retire { digest: text } => v1::ChangeModelRequest {
            change: v1::ModelChange::Retire.into(),
            digest: digest(&text)?,
            ..Default::default()
        },
    };
    let mut backend = Backend::open(common).await?;
    let answer = backend.operator.change_model(request).await?.into_inner();
    super::realm::print_outcome(common, answer.outcome)
}

async fn list(common: &Common) -> Result<(), CliError> {
    let mut backend = Backend::open(common).await?;
    let models = backend
        .operator
        .list_models(v1::ListModelsRequest {})
        .await?
        .into_inner()
        .models;
    let rows: Vec<_> = models
        .iter()
        .map(|model| {
            let role = v1::ModelRole::try_from(model.role).map_or("?", |role| role.as_str_name());
            let stage =
                v1::ModelStage::try_from(model.stage).map_or("?", |stage| stage.as_str_name());
            json!({
                "digest": hexadecimal(&model.digest),
                "name": model.name,
                "role": describe::lower(role, "MODEL_ROLE_"),
                "stage": describe::lower(stage, "MODEL_STAGE_"),
            })
        })
        .collect();
    if common.json {
        print_json(&json!({"models": rows}));
    } else {
        rows.iter()
            .for_each(|row| sayln!("{}", describe::inline(row)));
    }
    Ok(())
}
