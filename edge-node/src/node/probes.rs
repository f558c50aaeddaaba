//! What the variants of a model cost on this machine, kept in the node's folder.
//!
//! Kept results are used as long as they are fresh and were taken for the same model, backend and processor. The file is
//! a convenience: where it cannot be read, understood or written, the variants are measured again and a warning says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::ladder::Rung;
use crate::manifest::Manifest;
use crate::runtime::Backend;

/// Name of the file.
pub const PROBES_FILE: &str = "probes.json";
/// How long a result is used.
pub const FRESH_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most results kept, the newest ones.
pub const PROBES_MOST: usize = 16;
/// Largest file that is read: 16 results of 16 variants take far less.
const FILE_BYTES_MOST: u64 = 256 * 1024;
const FORMAT: u32 = 1;

/// What the results were taken for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeKey {
    /// The model's digest, hexadecimal.
    pub model: String,
    /// What ran it.
    pub backend: String,
    /// The processor's name, and how many of its threads this process may use.
    pub processor: String,
}

impl ProbeKey {
    /// For this model, on this machine.
    pub fn new(manifest: &Manifest, backend: &Backend) -> ProbeKey {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        ProbeKey {
            model: hex::encode(manifest.digest),
            backend: backend.to_string(),
            processor: format!("{}, {threads} threads", processor_name()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptCost {
    variant: String,
    cost_ns: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    key: ProbeKey,
    /// Seconds since 1970.
    taken_at: u64,
    costs: Vec<KeptCost>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    probes: Vec<Kept>,
}

/// Results of earlier probes.
#[derive(Debug)]
pub struct Probes {
    path: PathBuf,
    kept: Vec<Kept>,
}

impl Probes {
    /// Reads the file of a node's folder. A missing one holds nothing; so does one that cannot be used, with a warning.
    pub fn open(folder: &Path) -> Probes {
        let path = folder.join(PROBES_FILE);
        let kept = read(&path).unwrap_or_else(|reason| {
            tracing::warn!(file = %path.display(), reason, "kept probe results cannot be used");
            Vec::new()
        });
        Probes { path, kept }
    }

    /// The cost of one asset in nanoseconds of every named variant; nothing if one lacks or the results are not fresh.
    pub fn costs(&self, key: &ProbeKey, variants: &[&str], now: SystemTime) -> Option<Vec<u64>> {
        let kept = self.kept.iter().find(|kept| kept.key == *key)?;
        let age_seconds = seconds(now).checked_sub(kept.taken_at)?;
        if age_seconds > FRESH_FOR.as_secs() {
            return None;
        }
        let cost_of = |variant: &&str| {
            let cost = kept.costs.iter().find(|cost| cost.variant == **variant);
            cost.map(|cost| cost.cost_ns)
        };
        variants.iter().map(cost_of).collect()
    }

    /// Keeps results in place of earlier ones for the same key, and writes the file.
    ///
    /// # Errors
    /// When the file cannot be written; the results are kept in memory all the same.
    pub fn keep(
        &mut self,
        key: ProbeKey,
        rungs: &[Rung],
        now: SystemTime,
    ) -> Result<(), std::io::Error> {
        self.kept.retain(|kept| kept.key != key);
        let costs = rungs.iter().map(|rung| KeptCost {
            variant: rung.variant.clone(),
            cost_ns: rung.cost_ns,
        });
        let newest = Kept {
            key,
            taken_at: seconds(now),
            costs: costs.collect(),
        };
        self.kept.insert(0, newest);
        self.kept.truncate(PROBES_MOST);
        let written = Written {
            format: FORMAT,
            probes: self.kept.clone(),
        };
        let text = serde_json::to_vec_pretty(&written)?;
        // Whole or not at all: a reader never sees half of it.
        let part = self.path.with_extension("json.part");
        fs::write(&part, text)?;
        fs::rename(&part, &self.path)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn read(path: &Path) -> Result<Vec<Kept>, String> {
    match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
        Ok(metadata) if metadata.len() > FILE_BYTES_MOST => {
            let length = metadata.len();
            return Err(format!("{length} bytes; the most is {FILE_BYTES_MOST}"));
        }
        Ok(_) => {}
    }
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let written: Written = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if written.format != FORMAT {
        let found = written.format;
        return Err(format!("format {found}; this build reads format {FORMAT}"));
    }
    Ok(written.probes)
}

/// As the system names it; a machine without `/proc/cpuinfo` has one nameless kind.
fn processor_name() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']).trim());
    name.unwrap_or(std::env::consts::ARCH).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(model: &str) -> ProbeKey {
        ProbeKey {
            model: model.into(),
            backend: "tract".into(),
            processor: "a processor".into(),
        }
    }

    fn rung(variant: &str, cost_ns: u64) -> Rung {
        Rung {
            variant: variant.into(),
            cost_ns,
            quality: 1.0,
            distance: 0.0,
        }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn fresh_results_of_the_same_key_are_found_again_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let mut probes = Probes::open(folder.path());
        let rungs = [rung("small", 500), rung("smaller", 100)];
        probes.keep(key("a"), &rungs, at(1_000)).unwrap();
        let probes = Probes::open(folder.path());
        let names = ["smaller", "small"];
        assert_eq!(
            probes.costs(&key("a"), &names, at(2_000)),
            Some(vec![100, 500])
        );
        assert_eq!(probes.costs(&key("b"), &names, at(2_000)), None);
        assert_eq!(probes.costs(&key("a"), &["teacher"], at(2_000)), None);
        let late = 1_000 + FRESH_FOR.as_secs() + 1;
        assert_eq!(probes.costs(&key("a"), &names, at(late)), None);
        // A clock that went back says nothing about their age.
        assert_eq!(probes.costs(&key("a"), &names, at(999)), None);
    }

    #[test]
    fn a_new_result_replaces_the_old_one_and_their_number_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut probes = Probes::open(folder.path());
        for round in 0..3 {
            probes
                .keep(key("a"), &[rung("small", round)], at(round))
                .unwrap();
        }
        assert_eq!(probes.costs(&key("a"), &["small"], at(3)), Some(vec![2]));
        for other in 0..PROBES_MOST {
            let other = key(&other.to_string());
            probes.keep(other, &[rung("small", 1)], at(3)).unwrap();
        }
        let probes = Probes::open(folder.path());
        assert_eq!(probes.kept.len(), PROBES_MOST);
        assert_eq!(probes.costs(&key("a"), &["small"], at(3)), None);
    }

    #[test]
    fn a_damaged_file_holds_nothing_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(PROBES_FILE);
        for text in ["", "{", "[1]", "{\"format\":9,\"probes\":[]}"] {
            fs::write(&path, text).unwrap();
            let mut probes = Probes::open(folder.path());
            assert_eq!(probes.costs(&key("a"), &["small"], at(1)), None);
            probes.keep(key("a"), &[rung("small", 7)], at(1)).unwrap();
            let probes = Probes::open(folder.path());
            assert_eq!(probes.costs(&key("a"), &["small"], at(1)), Some(vec![7]));
        }
    }
}
