//! The signature beside a manifest, and whose signatures count.
//!
//! `manifest.sig` in a model folder holds an Ed25519 signature of the model's digest, role and name
//! ([`karat_proto::signing`] has the bytes). The digest covers every file by its own digest, so one signature covers the
//! folder. A signature that is there is always checked, whether or not one is demanded: a wrong one says that somebody
//! altered something.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use karat_proto::command::ModelRole;
use karat_proto::signing::{self, ModelKey, ModelSignature, SIGNATURE_BYTES};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::manifest::{Manifest, Role};

/// Name of the signature in a model folder.
pub const SIGNATURE_FILE: &str = "manifest.sig";
/// The format that this build writes and reads.
pub const FORMAT: u32 = 1;
/// Largest signature file.
pub const SIGNATURE_FILE_BYTES_MOST: u64 = 4096;

/// A model folder that is refused for its signature.
#[derive(Debug, Error)]
pub enum SignatureError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is no signature.
    #[error("{path}: {reason}; sign the model again (`karat model sign`), or remove the file")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file was written by another build.
    #[error("{path} has format {found}; this build reads format {FORMAT}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
    /// There is none, and one is demanded.
    #[error(
        "model folder {folder} is not signed, and signed models are demanded: sign it with a trusted key (`karat model sign`)"
    )]
    Unsigned {
        /// The folder.
        folder: PathBuf,
    },
    /// It was made for another model, or the model was altered since.
    #[error(
        "{path} signs the model {signed}, but the folder holds {found}: restore the manifest and the files, or sign the model again"
    )]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// Digest that was signed.
        signed: String,
        /// Digest of what is in the folder.
        found: String,
    },
    /// It is not the key's signature of this model.
    #[error(
        "{path}: the signature is not one by key {key} of this model's digest, role and name: restore the file, or sign the model again"
    )]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The key that it names.
        key: String,
    },
    /// It is right, but nobody said that this key counts.
    #[error(
        "{path} is by key {key}, which is not trusted here (trusted: {trusted}): sign with a trusted key, or trust this one"
    )]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The keys that count.
        trusted: String,
    },
}

/// Whose signatures count, and whether there must be one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelTrust {
    /// Public keys whose signatures count; while empty, any key's do.
    pub keys: Vec<ModelKey>,
    /// Whether an unsigned model is refused.
    pub required: bool,
}

impl ModelTrust {
    /// Demands a signature by one of these keys; where none is named, nothing is demanded.
    pub fn of(keys: Vec<ModelKey>) -> ModelTrust {
        let required = !keys.is_empty();
        ModelTrust { keys, required }
    }

    /// Checks the signature beside a manifest that was loaded; gives it, if there is one.
    ///
    /// # Errors
    /// When there is none and one is demanded, or it is malformed, wrong, of another model or by a key that does not count.
    pub fn check(&self, manifest: &Manifest) -> Result<Option<ModelSignature>, SignatureError> {
        let path = manifest.folder.join(SIGNATURE_FILE);
        let Some(text) = read_text(&path)? else {
            return match self.required {
                true => Err(SignatureError::Unsigned {
                    folder: manifest.folder.clone(),
                }),
                false => Ok(None),
            };
        };
        let file = SignatureFile::parse(&text, &path)?;
        if file.digest != manifest.digest {
            return Err(SignatureError::OtherModel {
                path,
                signed: hex::encode(file.digest),
                found: hex::encode(manifest.digest),
            });
        }
        let signature = file.signature;
        if !signature.is_of(&manifest.digest, role_of(manifest), &name_of(manifest)) {
            return Err(SignatureError::Wrong {
                path,
                key: hex::encode(signature.key),
            });
        }
        if !self.keys.is_empty() && !self.keys.contains(&signature.key) {
            let trusted: Vec<String> = self.keys.iter().map(hex::encode).collect();
            return Err(SignatureError::UnknownKey {
                path,
                key: hex::encode(signature.key),
                trusted: trusted.join(", "),
            });
        }
        Ok(Some(signature))
    }
}

/// What `manifest.sig` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignatureFile {
    /// Digest of the model that was signed.
    pub digest: [u8; 32],
    /// Key and signature.
    pub signature: ModelSignature,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    key_id: String,
    public_key: String,
    digest: String,
    signature: String,
}

/// Only the format, so that a signature of another format is told apart from a broken one.
#[derive(Deserialize)]
struct WrittenFormat {
    format: u32,
}

impl SignatureFile {
    /// Reads the text of a signature file; `path` is for messages. Whether the signature is right is not looked at.
    ///
    /// # Errors
    /// When a field is missing, unknown or has the wrong length, or the key id is not the key's.
    pub fn parse(text: &str, path: &Path) -> Result<SignatureFile, SignatureError> {
        let refuse = |reason: String| SignatureError::Parse {
            path: path.to_owned(),
            reason,
        };
        let WrittenFormat { format } =
            toml::from_str(text).map_err(|error| refuse(error.to_string()))?;
        if format != FORMAT {
            return Err(SignatureError::Format {
                path: path.to_owned(),
                found: format,
            });
        }
        let written: Written = toml::from_str(text).map_err(|error| refuse(error.to_string()))?;
        let key: ModelKey = bytes_of(&written.public_key, "public_key").map_err(&refuse)?;
        let key_id: [u8; 8] = bytes_of(&written.key_id, "key_id").map_err(&refuse)?;
        if key_id != signing::key_id(&key) {
            return Err(refuse("key_id is not that of public_key".to_owned()));
        }
        let signature: [u8; SIGNATURE_BYTES] =
            bytes_of(&written.signature, "signature").map_err(&refuse)?;
        Ok(SignatureFile {
            digest: bytes_of(&written.digest, "digest").map_err(&refuse)?,
            signature: ModelSignature { key, signature },
        })
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        let written = Written {
            format: FORMAT,
            key_id: hex::encode(signing::key_id(&self.signature.key)),
            public_key: hex::encode(self.signature.key),
            digest: hex::encode(self.digest),
            signature: hex::encode(self.signature.signature),
        };
        let fields = toml::to_string(&written).unwrap_or_default();
        format!(
            "# Signature of the model in this folder; `karat model verify` checks it.\n{fields}"
        )
    }
}

/// The role that signatures and the registry know.
pub fn role_of(manifest: &Manifest) -> ModelRole {
    match manifest.role {
        Role::Generator => ModelRole::Generator,
        Role::Auditor => ModelRole::Auditor,
    }
}

/// The name that signatures and the registry know.
pub fn name_of(manifest: &Manifest) -> String {
    signing::registry_name(&manifest.name, &manifest.version)
}

/// A public key from its 64 hexadecimal digits.
///
/// # Errors
/// When it is something else, or no key that can sign.
pub fn parse_key(text: &str) -> Result<ModelKey, String> {
    let key = bytes_of(text.trim_start_matches("0x"), "a model key")?;
    match signing::is_model_key(&key) {
        true => Ok(key),
        false => Err(format!("{text} is no Ed25519 public key")),
    }
}

fn bytes_of<const LENGTH: usize>(text: &str, what: &str) -> Result<[u8; LENGTH], String> {
    let mut bytes = [0; LENGTH];
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(format!("{what} must be {} hexadecimal digits", 2 * LENGTH)),
    }
}

/// The file's text; none where there is no file.
fn read_text(path: &Path) -> Result<Option<String>, SignatureError> {
    let failed = |source| SignatureError::Read {
        path: path.to_owned(),
        source,
    };
    let refuse = |reason: String| SignatureError::Parse {
        path: path.to_owned(),
        reason,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(SIGNATURE_FILE_BYTES_MOST + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > SIGNATURE_FILE_BYTES_MOST {
        return Err(refuse(format!(
            "it has more than {SIGNATURE_FILE_BYTES_MOST} bytes"
        )));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(refuse("it is not UTF-8".to_owned())),
    }
}

#[cfg(test)]
#[path = "signature_tests.rs"]
mod tests;
