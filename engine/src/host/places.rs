//! Where a realm is read on: from a snapshot of this folder, or from the last one that another process left on the topic.

use std::path::{Path, PathBuf};

use karat_sequencer::KafkaPlace;

use crate::config::Config;
use crate::core::CoreError;
use crate::data_folder::DataFolder;
use crate::kafka::KafkaPartError;
use crate::kafka::place_mark::PlaceMark;
use crate::kafka::snapshots::SnapshotTopic;
use crate::{realm_log, snapshots};

/// A realm's beginning in this process.
#[derive(Debug, Default)]
pub struct Beginning {
    /// Where its log is read on; from its head without one.
    pub place: Option<KafkaPlace>,
    /// Sequence of the newest snapshot on the topic, if the realm could begin with it as well; 0 for none.
    pub on_topic: u64,
    /// What was passed over, for people.
    pub notes: Vec<String>,
}

fn place_file(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("place-{sequence:020}.json"))
}

fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> KafkaPartError + '_ {
    move |source| KafkaPartError::Io {
        path: path.to_owned(),
        source,
    }
}

/// The newest snapshot of a folder whose place in the log is known.
pub fn newest(dir: &Path) -> Option<(KafkaPlace, PathBuf)> {
    let found = snapshots::list(dir).ok()?;
    found.into_iter().rev().find_map(|(sequence, snapshot)| {
        let text = std::fs::read(place_file(dir, sequence)).ok()?;
        let mark: PlaceMark = serde_json::from_slice(&text).ok()?;
        Some((mark.place()?, snapshot))
    })
}

/// Notes the place of a snapshot that lies in the folder, and forgets places of snapshots that do not any more.
///
/// # Errors
/// When the system refuses.
pub fn note(dir: &Path, place: &KafkaPlace) -> Result<(), KafkaPartError> {
    let path = place_file(dir, place.sequence);
    let partial = dir.join("place.partial");
    let text = serde_json::to_vec(&PlaceMark::from(place))
        .map_err(|error| io_error(&path)(std::io::Error::other(error)))?;
    std::fs::write(&partial, text)
        .and_then(|()| std::fs::rename(&partial, &path))
        .map_err(io_error(&path))?;
    let there = snapshots::list(dir).unwrap_or_default();
    for entry in std::fs::read_dir(dir).map_err(io_error(dir))?.flatten() {
        let name = entry.file_name();
        let sequence = name.to_str().and_then(|name| {
            let digits = name.strip_prefix("place-")?.strip_suffix(".json")?;
            digits.parse::<u64>().ok()
        });
        if sequence.is_some_and(|one| there.iter().all(|(snapshot, _)| *snapshot != one)) {
            // One that stays says nothing wrong.
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Forgets every place of a folder: they are not in this log.
pub fn forget(config: &Config) {
    let dir = config.data.dir.join("snapshots");
    for (sequence, _) in snapshots::list(&dir).unwrap_or_default() {
        let _ = std::fs::remove_file(place_file(&dir, sequence));
    }
}

/// Where a realm begins in the folder of its configuration: at the folder's own snapshot, unless it has none or is more than
/// a snapshot's distance behind the last one on the topic, which is fetched then. With `from_topic` false only the folder
/// is looked at. Whatever is damaged or missing is passed over and said.
///
/// # Errors
/// When the folder cannot be used, or the topic not be made or read.
pub fn beginning(config: &Config, from_topic: bool) -> Result<Beginning, KafkaPartError> {
    let folder = DataFolder::open_or_create(&config.data.dir)
        .map_err(|error| KafkaPartError::from(Box::new(CoreError::from(error))))?;
    let dir = folder.snapshots();
    let own = newest(&dir).map(|(place, _)| place);
    let mut beginning = Beginning::default();
    if from_topic {
        let topic = SnapshotTopic::open(&config.log.kafka, &config.realm.name)?;
        let near = own.as_ref().map(|place| place.sequence);
        for manifest in topic.manifests()?.into_iter().rev() {
            let sequence = manifest.place.sequence;
            let is_near = |own: u64| sequence <= own + config.snapshot.every_commands;
            if near.is_some_and(is_near) {
                beginning.on_topic = sequence;
                break;
            }
            let Some(place) = manifest.place.place() else {
                continue;
            };
            std::fs::create_dir_all(&dir).map_err(io_error(&dir))?;
            let file = dir.join(format!("snapshot-{sequence:020}.krt"));
            match topic.fetch(&manifest, &file) {
                Ok(()) => {
                    empty(&folder)?;
                    note(&dir, &place)?;
                    beginning.place = Some(place);
                    beginning.on_topic = sequence;
                    return Ok(beginning);
                }
                Err(error) => beginning.notes.push(format!("passed over: {error}")),
            }
        }
    }
    if own.is_none() {
        beginning
            .notes
            .push("there is no snapshot to begin with; the log is read from its head".to_owned());
    }
    beginning.place = own;
    Ok(beginning)
}

/// Removes what follows from the log and would not follow on a snapshot that was just fetched.
fn empty(folder: &DataFolder) -> Result<(), KafkaPartError> {
    for dir in [folder.events(), folder.store()] {
        if dir.exists() {
            std::fs::remove_dir_all(&dir).map_err(io_error(&dir))?;
        }
    }
    Ok(())
}

/// Hands on the newest snapshot of a folder: finds its place in the log, notes it, and publishes both. `known` is its place, or
/// that of an older one. `None` when it is no newer than the one `on_topic`.
///
/// # Errors
/// When log, topic or folder fail; the snapshots that were there stay.
pub fn hand_on(
    config: &Config,
    known: Option<&KafkaPlace>,
    on_topic: u64,
) -> Result<Option<KafkaPlace>, KafkaPartError> {
    let dir = config.data.dir.join("snapshots");
    let found = snapshots::list(&dir).unwrap_or_default();
    let Some((sequence, file)) = found.last().filter(|(sequence, _)| *sequence > on_topic) else {
        return Ok(None);
    };
    let (kafka, realm) = (&config.log.kafka, &config.realm.name);
    let log = realm_log::kafka_config(kafka, &realm_log::log_topic(kafka, realm))
        .map_err(|error| KafkaPartError::from(Box::new(error)))?;
    let place = match known.filter(|place| place.sequence >= *sequence) {
        None => KafkaPlace::find(log, known, *sequence)?,
        known => known.filter(|place| place.sequence == *sequence).cloned(),
    };
    let Some(place) = place else {
        return Err(KafkaPartError::Snapshot {
            topic: realm_log::log_topic(kafka, realm),
            sequence: *sequence,
            reason: "no block of the log ends there".to_owned(),
        });
    };
    note(&dir, &place)?;
    SnapshotTopic::open(kafka, realm)?.publish(file, &place, config.host.snapshots_kept)?;
    Ok(Some(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(sequence: u64) -> KafkaPlace {
        KafkaPlace {
            block_offset: 1,
            sequence,
            hash: [1; 32],
            time_ms: 1,
            epoch: 1,
            realm: "main".into(),
            ingress: Vec::new(),
        }
    }

    #[test]
    fn the_newest_place_is_that_of_the_newest_snapshot_that_has_one() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let snapshot = |sequence: u64| dir.join(format!("snapshot-{sequence:020}.krt"));
        assert!(newest(dir).is_none());
        for sequence in [3, 7, 9] {
            std::fs::write(snapshot(sequence), b"").unwrap();
        }
        assert!(newest(dir).is_none());
        note(dir, &place(3)).unwrap();
        note(dir, &place(7)).unwrap();
        assert_eq!(newest(dir).unwrap().0.sequence, 7);
        // A place that was half written is none.
        std::fs::write(place_file(dir, 7), b"{\"block_off").unwrap();
        assert_eq!(newest(dir).unwrap().0.sequence, 3);
        // A place outlives its snapshot only until the next one is noted.
        std::fs::remove_file(snapshot(3)).unwrap();
        assert!(newest(dir).is_none());
        note(dir, &place(9)).unwrap();
        assert!(!place_file(dir, 3).exists());
        assert_eq!(newest(dir).unwrap(), (place(9), snapshot(9)));
    }
}
