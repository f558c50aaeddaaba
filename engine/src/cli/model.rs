//! `karat model`: keys that sign models, signatures, and which models may mint.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Subcommand;
use karat_edge_node::manifest::{Manifest, ManifestError};
use karat_edge_node::signature::{
    ModelTrust, SIGNATURE_FILE, SignatureError, SignatureFile, name_of, parse_key, role_of,
};
use karat_proto::signing::{ModelKey, ModelSignature, key_id};
use karat_proto::{convert, limits, v1};
use serde_json::json;

use super::{Backend, CliError, Common, describe, hexadecimal, model_key, print_json};

/// What to do with models.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Models known to the realm, with who signed them
    #[command(after_help = "Example: karat model list")]
    List,
    /// Make a key that signs models: a new file that only you may read
    #[command(after_help = "Example: karat model keygen --out studio.key")]
    Keygen {
        /// The new file; an existing one is never overwritten
        #[arg(long)]
        out: PathBuf,
    },
    /// Sign a model folder: writes manifest.sig beside its manifest
    #[command(after_help = "Example: karat model sign edge-node/models/relics --key studio.key")]
    Sign {
        /// Folder with manifest.toml
        folder: PathBuf,
        /// File that `karat model keygen` wrote
        #[arg(long)]
        key: PathBuf,
    },
    /// Check a model folder's files and signature; exit code 1 when they do not hold
    #[command(after_help = "Example: karat model verify edge-node/models/relics --key ea4a6c...")]
    Verify {
        /// Folder with manifest.toml
        folder: PathBuf,
        /// Public key that must have signed it, 64 hex digits; several times for any of several
        #[arg(long = "key", value_parser = parse_key)]
        keys: Vec<ModelKey>,
    },
    /// Make a model folder's model known, with its signature if it has one (its files are checked against its manifest)
    #[command(
        after_help = "A model that is known already gains its signature this way.\n\nExample: karat model register edge-node/models/relics"
    )]
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
    let change = |change: v1::ModelChange, text: &str| {
        Ok::<_, CliError>(v1::ChangeModelRequest {
            change: change.into(),
            digest: digest(text)?,
            ..Default::default()
        })
    };
    let request = match command {
        ModelCommand::List => return list(common).await,
        ModelCommand::Keygen { out } => return keygen(common, &out),
        ModelCommand::Sign { folder, key } => return sign(common, &folder, &key),
        ModelCommand::Verify { folder, keys } => return verify(common, &folder, keys),
        ModelCommand::Register { folder } => registration(&load(&folder)?)?,
        ModelCommand::Promote { digest } => change(v1::ModelChange::Promote, &digest)?,
        ModelCommand::Retire { digest } => change(v1::ModelChange::Retire, &digest)?,
    };
    let mut backend = Backend::open(common).await?;
    let answer = backend.operator.change_model(request).await?.into_inner();
    super::realm::print_outcome(common, answer.outcome)
}

fn load(folder: &Path) -> Result<Manifest, CliError> {
    Manifest::load(folder).map_err(|error| match error {
        ManifestError::Length { .. } | ManifestError::Altered { .. } => {
            CliError::No(error.to_string())
        }
        _ => CliError::Usage(error.to_string()),
    })
}

/// The request that registers a model folder's model, with its signature if it has one.
///
/// # Errors
/// When the signature is not one of this model.
pub fn registration(manifest: &Manifest) -> Result<v1::ChangeModelRequest, CliError> {
    let signature = ModelTrust::default().check(manifest).map_err(no)?;
    let (key, signature) = signature.map_or_else(Default::default, |signed| {
        (
            Bytes::copy_from_slice(&signed.key),
            Bytes::copy_from_slice(&signed.signature),
        )
    });
    Ok(v1::ChangeModelRequest {
        change: v1::ModelChange::Register.into(),
        digest: Bytes::copy_from_slice(&manifest.digest),
        name: name_of(manifest),
        role: convert::role_to_wire(role_of(manifest)).into(),
        key,
        signature,
    })
}

fn no(error: SignatureError) -> CliError {
    CliError::No(error.to_string())
}

/// What people and scripts are told of a key.
fn shown(key: &ModelKey) -> serde_json::Value {
    json!({"public_key": hex::encode(key), "key_id": hex::encode(key_id(key))})
}

fn tell(common: &Common, value: &serde_json::Value) {
    if common.json {
        print_json(value);
    } else {
        say!("{}", describe::lines(value, 0));
    }
}

fn keygen(common: &Common, out: &Path) -> Result<(), CliError> {
    let key = model_key::generate(out).map_err(|error| CliError::Usage(error.to_string()))?;
    tell(common, &shown(&key.verifying_key().to_bytes()));
    Ok(())
}

fn sign(common: &Common, folder: &Path, key: &Path) -> Result<(), CliError> {
    let key = model_key::load(key).map_err(|error| CliError::Usage(error.to_string()))?;
    let manifest = load(folder)?;
    let name = name_of(&manifest);
    if name.len() > limits::NAME_BYTES_MAX {
        return Err(CliError::Usage(format!(
            "model {name}: name and version together have {} bytes, and the registry takes {}",
            name.len(),
            limits::NAME_BYTES_MAX
        )));
    }
    let file = SignatureFile {
        digest: manifest.digest,
        signature: ModelSignature::make(&key, &manifest.digest, role_of(&manifest), &name),
    };
    let path = folder.join(SIGNATURE_FILE);
    // Beside it first: who reads meanwhile sees the old signature or the new one, whole.
    let beside = folder.join(format!("{SIGNATURE_FILE}.new"));
    std::fs::write(&beside, file.to_text())
        .and_then(|()| std::fs::rename(&beside, &path))
        .map_err(|error| CliError::Usage(format!("write {}: {error}", path.display())))?;
    let mut told = shown(&file.signature.key);
    told["digest"] = json!(hexadecimal(&file.digest));
    told["file"] = json!(path);
    tell(common, &told);
    Ok(())
}

fn verify(common: &Common, folder: &Path, keys: Vec<ModelKey>) -> Result<(), CliError> {
    let manifest = load(folder)?;
    let trust = ModelTrust {
        keys,
        required: true,
    };
    if let Some(signature) = trust.check(&manifest).map_err(no)? {
        let mut told = shown(&signature.key);
        told["name"] = json!(name_of(&manifest));
        told["digest"] = json!(hexadecimal(&manifest.digest));
        told["trusted"] = json!(!trust.keys.is_empty());
        tell(common, &told);
    }
    Ok(())
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
            let signed_by = match model.signed_by.is_empty() {
                true => serde_json::Value::Null,
                false => json!(hexadecimal(&model.signed_by)),
            };
            json!({
                "digest": hexadecimal(&model.digest),
                "name": model.name,
                "role": describe::lower(role, "MODEL_ROLE_"),
                "stage": describe::lower(stage, "MODEL_STAGE_"),
                "signed_by": signed_by,
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
