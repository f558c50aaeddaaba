//! The data folder: what lies where, and its format.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::config::{Config, ConfigError};

/// Format of the folder that this build writes.
pub const DATA_FORMAT: u32 = 1;
/// The format's file before it has its name.
const PARTIAL_FORMAT: &str = "FORMAT.partial";

/// Why a data folder cannot be used.
#[derive(Debug, Error)]
pub enum DataFolderError {
    /// The system refused.
    #[error("data folder {}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The folder is not Karat's.
    #[error("{} is not empty and holds no FORMAT file: not a Karat data folder; choose another with --data", path.display())]
    Foreign {
        /// Folder.
        path: PathBuf,
    },
    /// The folder was written by a newer build.
    #[error("data folder {} has format {found}, this build reads up to {DATA_FORMAT}: update karat", path.display())]
    Newer {
        /// Folder.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The folder does not exist.
    #[error("there is no data folder at {}", path.display())]
    Absent {
        /// Folder.
        path: PathBuf,
    },
}

/// A data folder and the places in it.
#[derive(Debug, Clone)]
pub struct DataFolder {
    root: PathBuf,
}

impl DataFolder {
    /// Opens the folder, making it when it is absent or empty.
    ///
    /// # Errors
    /// When it is somebody else's, of a newer format, or the system refuses.
    pub fn open_or_create(root: &Path) -> Result<DataFolder, DataFolderError> {
        let io = |source| DataFolderError::Io {
            path: root.to_owned(),
            source,
        };
        fs::create_dir_all(root).map_err(io)?;
        let format = root.join("FORMAT");
        if !format.exists() {
            for entry in fs::read_dir(root).map_err(io)? {
                // Left by a process that was killed here.
                if entry.map_err(io)?.file_name() != PARTIAL_FORMAT {
                    return Err(DataFolderError::Foreign {
                        path: root.to_owned(),
                    });
                }
            }
            // Named when it is whole: a file without its number would be taken for somebody else's.
            let partial = root.join(PARTIAL_FORMAT);
            let written = fs::File::create(&partial).and_then(|mut file| {
                file.write_all(format!("{DATA_FORMAT}\n").as_bytes())?;
                file.sync_all()?;
                fs::rename(&partial, &format)?;
                fs::File::open(root)?.sync_all()
            });
            written.map_err(io)?;
        }
        DataFolder::open(root)
    }

    /// Opens a folder that exists.
    ///
    /// # Errors
    /// As [`DataFolder::open_or_create`], and when it does not exist.
    pub fn open(root: &Path) -> Result<DataFolder, DataFolderError> {
        if !root.is_dir() {
            return Err(DataFolderError::Absent {
                path: root.to_owned(),
            });
        }
        let path = root.join("FORMAT");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(DataFolderError::Foreign {
                    path: root.to_owned(),
                });
            }
            Err(source) => return Err(DataFolderError::Io { path, source }),
        };
        match text.trim().parse::<u32>() {
            Ok(found) if found <= DATA_FORMAT => Ok(DataFolder {
                root: root.to_owned(),
            }),
            Ok(found) => Err(DataFolderError::Newer {
                path: root.to_owned(),
                found,
            }),
            Err(_) => Err(DataFolderError::Foreign {
                path: root.to_owned(),
            }),
        }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Notes the configuration that an engine runs with, so that tools which read the folder later use the same.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn note_config(&self, config: &Config) -> Result<(), DataFolderError> {
        let path = self.root.join("config.toml");
        let io = |source| DataFolderError::Io {
            path: path.clone(),
            source,
        };
        let text =
            toml::to_string_pretty(config).map_err(|error| io(std::io::Error::other(error)))?;
        let partial = self.root.join("config.toml.partial");
        fs::write(&partial, text)
            .and_then(|()| fs::rename(&partial, &path))
            .map_err(io)
    }

    /// The configuration that the last engine here ran with, or the defaults; listening on any free port of this machine.
    ///
    /// # Errors
    /// When the file is there but cannot be used.
    pub fn noted_config(&self) -> Result<Config, ConfigError> {
        let path = self.root.join("config.toml");
        let mut config = if path.exists() {
            Config::load(&path)?
        } else {
            Config::default()
        };
        config.data.dir.clone_from(&self.root);
        config.gateway.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Ok(config)
    }

    /// The log's segments.
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// The stream of events; can be deleted.
    pub fn events(&self) -> PathBuf {
        self.root.join("events")
    }

    /// Content packs.
    pub fn content(&self) -> PathBuf {
        self.root.join("content")
    }

    /// The store; can be deleted.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Ledger snapshots; can be deleted.
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// What the agents remember of assets' looks; can be deleted.
    pub fn similarity(&self) -> PathBuf {
        self.root.join("similarity")
    }

    /// Digests that the running system recorded.
    pub fn digests(&self) -> PathBuf {
        self.root.join("digests.log")
    }

    /// The embedded chain.
    pub fn chain(&self) -> PathBuf {
        self.root.join("chain")
    }

    /// The submitter's key and signed transactions.
    pub fn submitter(&self) -> PathBuf {
        self.root.join("submitter")
    }

    /// The built-in edge node's secret and spool.
    pub fn edge(&self) -> PathBuf {
        self.root.join("edge")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_whose_making_was_killed_is_made_the_next_time() {
        let folder = tempfile::tempdir().unwrap();
        for left in ["", "1", "1\n"] {
            let root = folder.path().join(format!("left{}", left.len()));
            fs::create_dir(&root).unwrap();
            fs::write(root.join(PARTIAL_FORMAT), left).unwrap();
            DataFolder::open_or_create(&root).unwrap();
            DataFolder::open(&root).unwrap();
        }
    }
}
