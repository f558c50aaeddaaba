//! The folder of an embedded store: a format file, a lock, and one generation of rows.
//!
//! Rows live in `rows-000001`, and a reset begins the next generation. A generation is prepared under another name and
//! renamed when it is whole, so a crash leaves the one before or the new one, never half of it.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use crate::StoreError;

const FORMAT_FILE: &str = "FORMAT";
const FORMAT_NAME: &str = "karat-store";
/// Version of the keys and of this folder's layout.
pub(crate) const FORMAT_VERSION: u32 = 1;

#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Opens the folder, makes it if it is not there, and removes what a crash left half done.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(path)
            .map_err(|error| StoreError::storage("make the folder", path, error))?;
        let lock_path = path.join("store.lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|error| StoreError::storage("open", &lock_path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse {
                    path: path.to_path_buf(),
                });
            }
            Err(TryLockError::Error(error)) => {
                return Err(StoreError::storage("lock", &lock_path, error));
            }
        }
        let folder = Self {
            path: path.to_path_buf(),
            _lock: lock,
        };
        folder.check_format()?;
        Ok(folder)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn generation_path(&self, generation: u32) -> PathBuf {
        self.path.join(format!("rows-{generation:06}"))
    }

    /// Where a generation is prepared.
    pub fn preparation_path(&self, generation: u32) -> PathBuf {
        self.path.join(format!("rows-{generation:06}.new"))
    }

    /// The newest whole generation. Older ones, and ones that were being made, are removed.
    pub fn settle(&self) -> Result<Option<u32>, StoreError> {
        let list_error = |error| StoreError::storage("list", &self.path, error);
        let mut generations = Vec::new();
        let mut leftovers = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(list_error)? {
            let entry = entry.map_err(list_error)?;
            let name = entry.file_name();
            let Some(rest) = name.to_str().and_then(|name| name.strip_prefix("rows-")) else {
                continue;
            };
            match rest.parse::<u32>() {
                Ok(generation) => generations.push(generation),
                Err(_) => leftovers.push(entry.path()),
            }
        }
        generations.sort_unstable();
        let newest = generations.pop();
        leftovers.extend(
            generations
                .into_iter()
                .map(|generation| self.generation_path(generation)),
        );
        for leftover in leftovers {
            remove(&leftover)?;
        }
        Ok(newest)
    }

    /// Makes a prepared generation the one that counts.
    pub fn commit(&self, generation: u32) -> Result<(), StoreError> {
        let from = self.preparation_path(generation);
        let to = self.generation_path(generation);
        fs::rename(&from, &to).map_err(|error| StoreError::storage("rename", &from, error))?;
        self.sync()
    }

    /// Removes everything of a generation; under another name first, because removing a folder is not one step.
    pub fn remove_generation(&self, generation: u32) -> Result<(), StoreError> {
        let from = self.generation_path(generation);
        let to = from.with_extension("old");
        fs::rename(&from, &to).map_err(|error| StoreError::storage("rename", &from, error))?;
        remove(&to)
    }

    fn sync(&self) -> Result<(), StoreError> {
        File::open(&self.path)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| StoreError::storage("flush the folder", &self.path, error))
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let path = self.path.join(FORMAT_FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return self.write_format(&path),
            Err(error) => return Err(StoreError::storage("read", &path, error)),
        };
        let version = text
            .trim()
            .strip_prefix(FORMAT_NAME)
            .and_then(|version| version.trim().parse::<u32>().ok());
        match version {
            Some(FORMAT_VERSION) => Ok(()),
            Some(newer) if newer > FORMAT_VERSION => Err(StoreError::NewerFormat {
                path: self.path.clone(),
                found: newer.to_string(),
                supported: FORMAT_VERSION,
            }),
            _ => Err(StoreError::Damaged {
                path,
                reason: format!(
                    "it says '{}'",
                    text.trim().chars().take(40).collect::<String>()
                ),
            }),
        }
    }

    fn write_format(&self, path: &Path) -> Result<(), StoreError> {
        let temporary = path.with_extension("tmp");
        File::create(&temporary)
            .and_then(|mut file| {
                writeln!(file, "{FORMAT_NAME} {FORMAT_VERSION}")?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&temporary, path))
            .map_err(|error| StoreError::storage("write", path, error))?;
        self.sync()
    }
}

fn remove(path: &Path) -> Result<(), StoreError> {
    fs::remove_dir_all(path).map_err(|error| StoreError::storage("remove", path, error))
}
