//! A private key that signs models, in a file of its own that only its owner may read.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use karat_edge_node::signature::parse_key;
use karat_proto::signing::{SigningKey, is_model_key};
use rand::TryRngCore;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The format that this build writes and reads.
const FORMAT: u32 = 1;
/// What the file says it is, so that another key is not taken for one of these.
const KIND: &str = "karat model key";
/// Largest key file.
const KEY_FILE_BYTES_MOST: u64 = 4096;

/// A key file that cannot be made or used. No message holds a part of the key.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// The file is there.
    #[error("{0} exists: a key is never overwritten; name another file")]
    Exists(PathBuf),
    /// The system refuses.
    #[error("{action} {path}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Others may read it.
    #[error(
        "{path} may be read by others (mode {mode:o}): chmod 600 it, and make a new key if others could"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It holds something else.
    #[error("{path} is no key for models: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    kind: String,
    public_key: String,
    secret_key: String,
}

/// Makes a key from the system's randomness and writes it to a new file with mode 600.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn generate(path: &Path) -> Result<SigningKey, KeyFileError> {
    let failed = |action, source| KeyFileError::System {
        action,
        path: path.to_owned(),
        source,
    };
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.to_owned()),
            _ => failed("create", error),
        })?;
    let mut secret = [0; 32];
    rand::rngs::OsRng
        .try_fill_bytes(&mut secret)
        .map_err(|error| failed("draw a key for", std::io::Error::other(error)))?;
    let key = SigningKey::from_bytes(&secret);
    let written = Written {
        format: FORMAT,
        kind: KIND.to_owned(),
        public_key: hex::encode(key.verifying_key().to_bytes()),
        secret_key: hex::encode(secret),
    };
    let fields =
        toml::to_string(&written).map_err(|error| failed("write", std::io::Error::other(error)))?;
    let text =
        format!("# Private key that signs models (`karat model sign`). Keep it secret.\n{fields}");
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|error| failed("write", error))?;
    Ok(key)
}

/// Reads a key file.
///
/// # Errors
/// When it cannot be read, others may read it, or it is something else.
pub fn load(path: &Path) -> Result<SigningKey, KeyFileError> {
    let failed = |source| KeyFileError::System {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let refuse = |reason: &str| KeyFileError::Malformed {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Open {
            path: path.to_owned(),
            mode,
        });
    }
    let mut bytes = Vec::new();
    file.take(KEY_FILE_BYTES_MOST + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > KEY_FILE_BYTES_MOST {
        return Err(refuse("it has more than 4096 bytes"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| refuse("it is not UTF-8"))?;
    // The parser's own message would quote the line, which may be the secret.
    let written: Written = toml::from_str(text).map_err(|error| {
        refuse(&format!(
            "{} (as `karat model keygen` writes it)",
            error.message()
        ))
    })?;
    if written.format != FORMAT || written.kind != KIND {
        return Err(refuse(
            "its format or kind is another; this build reads format 1",
        ));
    }
    let mut secret = [0; 32];
    hex::decode_to_slice(&written.secret_key, &mut secret)
        .map_err(|_| refuse("secret_key must be 64 hexadecimal digits"))?;
    let key = SigningKey::from_bytes(&secret);
    let public = key.verifying_key().to_bytes();
    if parse_key(&written.public_key) != Ok(public) || !is_model_key(&public) {
        return Err(refuse("public_key is not the one of secret_key"));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_written_once_for_its_owner_alone_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let key = generate(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(load(&path).unwrap().to_bytes(), key.to_bytes());
        let error = generate(&path).unwrap_err();
        assert!(matches!(error, KeyFileError::Exists(_)), "{error}");
        assert_eq!(load(&path).unwrap().to_bytes(), key.to_bytes());
        let other = generate(&folder.path().join("other")).unwrap();
        assert_ne!(other.to_bytes(), key.to_bytes());
        let nowhere = generate(&folder.path().join("no/such/folder")).unwrap_err();
        assert!(nowhere.to_string().starts_with("create "), "{nowhere}");
    }

    #[test]
    fn a_key_file_that_others_may_read_or_that_is_something_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let key = generate(&path).unwrap();
        let secret = hex::encode(key.to_bytes());
        let text = std::fs::read_to_string(&path).unwrap();
        for mode in [0o640, 0o604, 0o666] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        }
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let public = hex::encode(key.verifying_key().to_bytes());
        for bad in [
            String::new(),
            "-----BEGIN OPENSSH PRIVATE KEY-----\n".to_owned(),
            text.replace("format = 1", "format = 2"),
            text.replace(KIND, "another key"),
            text.replace(&secret, &secret[2..]),
            text.replace(&secret, &"g".repeat(64)),
            text.replace(&secret, &"11".repeat(32)),
            text.replace(&public, &"11".repeat(32)),
            text.replace("secret_key = ", "secret_key : "),
            format!("{text}more = 1\n"),
            format!("{text}#{}", "x".repeat(4096)),
        ] {
            std::fs::write(&path, &bad).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.contains("no key for models"), "{error}\n{bad}");
            assert!(!error.contains(&secret[2..]), "{error}");
        }
        std::fs::write(&path, b"\xff").unwrap();
        assert!(load(&path).is_err());
        assert!(load(&folder.path().join("absent")).is_err());
        assert!(load(folder.path()).is_err());
    }
}
