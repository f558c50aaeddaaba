//! What the index and the drift know, in two files, so that a restart need not audit everything again.
//!
//! Both are projections: whoever deletes them loses comparisons with older assets and the last figures, nothing else.
//! Whatever is wrong with them is thrown away with a line in the log, and a file that can no longer be written is done
//! without.
//!
//! - `embeddings.log`: a header, then one record of a fixed length for each asset taken in, the last one of an asset
//!   counts. It is written anew when more than half of it is outdated. Not flushed to disk: a lost tail is like a deleted
//!   one.
//! - `drift.bin`: written whole, under another name first, whenever a window ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use karat_edge_node::runtime::EMBEDDING_LENGTH;
use karat_proto::{CollectionId, Digest};

use super::drift::{Basis, DriftMemory, WINDOWS_KEPT};
use super::embedding::Code;
use super::index::Entry;

const HALF: usize = EMBEDDING_LENGTH / 2;
const FORMAT: u32 = 1;
const CHECK: usize = 4;
/// Magic, format, the auditor's digest, check.
const HEADER: usize = 8 + 4 + 32 + CHECK;
/// Collection, version, asset, like, content, code, check.
const RECORD: usize = 4 + 4 + 8 + 8 + 16 + EMBEDDING_LENGTH + CHECK;
const EMBEDDINGS: &[u8; 8] = b"KARATEMB";
const DRIFT: &[u8; 8] = b"KARATDRF";
/// A file with fewer records than this is not worth writing anew.
const RECORDS_MIN: u64 = 4_096;
/// Largest `drift.bin` that is read: a thousand collections with all that one can have.
const DRIFT_BYTES_MAX: u64 = 1 << 20;

fn check(bytes: &[u8]) -> [u8; CHECK] {
    let mut check = [0; CHECK];
    check.copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECK]);
    check
}

fn is_whole(bytes: &[u8]) -> bool {
    bytes
        .split_last_chunk::<CHECK>()
        .is_some_and(|(body, found)| check(body) == *found)
}

fn header(magic: &[u8; 8], model: &Digest) -> Vec<u8> {
    let mut bytes = [&magic[..], &FORMAT.to_le_bytes(), model].concat();
    bytes.extend(check(&bytes));
    bytes
}

fn record(collection: CollectionId, entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RECORD);
    bytes.extend(collection.to_le_bytes());
    bytes.extend(entry.version.to_le_bytes());
    bytes.extend(entry.asset.to_le_bytes());
    bytes.extend(entry.like.to_le_bytes());
    bytes.extend(entry.content);
    bytes.extend(entry.code.first);
    bytes.extend(entry.code.second);
    bytes.extend(check(&bytes));
    bytes
}

/// Takes fields off the front; `None` where the bytes end.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }
    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
    fn f64(&mut self) -> Option<f64> {
        self.take()
            .map(f64::from_le_bytes)
            .filter(|value| value.is_finite())
    }
}

fn entry_of(bytes: &[u8; RECORD]) -> Option<(CollectionId, Entry)> {
    if !is_whole(bytes) {
        return None;
    }
    let mut fields = Fields(bytes);
    let collection = fields.u32()?;
    let version = fields.u32()?;
    let entry = Entry {
        version,
        asset: fields.u64().filter(|asset| *asset != 0)?,
        like: fields.u64()?,
        content: fields.take()?,
        code: Code {
            first: fields.take::<HALF>()?,
            second: fields.take::<HALF>()?,
        },
    };
    Some((collection, entry))
}

/// The two files of a folder, for as long as they can be written.
pub(super) struct SimilarityFiles {
    folder: PathBuf,
    model: Digest,
    /// `None` after a write failed.
    embeddings: Option<File>,
    records: u64,
    waiting: Vec<u8>,
}

impl SimilarityFiles {
    /// Opens or makes the files below `folder`, giving what they hold to `take` in its order.
    pub(super) fn open(
        folder: &Path,
        model: &Digest,
        mut take: impl FnMut(CollectionId, Entry),
    ) -> SimilarityFiles {
        let mut files = SimilarityFiles {
            folder: folder.to_owned(),
            model: *model,
            embeddings: None,
            records: 0,
            waiting: Vec::new(),
        };
        if let Err(error) = files.open_embeddings(&mut take) {
            files.give_up(&error);
        }
        files
    }

    fn open_embeddings(&mut self, take: &mut impl FnMut(CollectionId, Entry)) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let path = self.path();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        let wanted = header(EMBEDDINGS, &self.model);
        let length = file.metadata()?.len();
        let mut reader = BufReader::new(&file);
        let mut found = [0; HEADER];
        let fits = length >= HEADER as u64 && {
            reader.read_exact(&mut found)?;
            found == wanted[..]
        };
        let mut bytes = [0; RECORD];
        if fits {
            let whole = (length - HEADER as u64) / RECORD as u64;
            while self.records < whole {
                reader.read_exact(&mut bytes)?;
                let Some((collection, entry)) = entry_of(&bytes) else {
                    break;
                };
                take(collection, entry);
                self.records += 1;
            }
        }
        let good = if fits {
            HEADER as u64 + self.records * RECORD as u64
        } else {
            0
        };
        if good < length {
            let (path, dropped) = (path.display(), length - good);
            let reason = match (fits, is_whole(&found)) {
                (true, _) => "damaged or cut short from there on",
                (false, true) => "written for another auditor or by another version",
                (false, false) => "its header is damaged",
            };
            tracing::warn!(%path, good, dropped, reason, "kept embeddings are thrown away");
        }
        file.set_len(good)?;
        file.seek(SeekFrom::End(0))?;
        if good == 0 {
            file.write_all(&wanted)?;
        }
        self.embeddings = Some(file);
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.folder.join("embeddings.log")
    }

    fn give_up(&mut self, error: &io::Error) {
        let path = self.path();
        tracing::warn!(path = %path.display(), %error, "embeddings are kept in memory only");
        self.embeddings = None;
        self.waiting = Vec::new();
    }

    /// Notes an asset; [`SimilarityFiles::write`] writes it.
    pub(super) fn add(&mut self, collection: CollectionId, entry: &Entry) {
        if self.embeddings.is_some() {
            self.waiting.extend(record(collection, entry));
            self.records += 1;
        }
    }

    /// Writes what was noted.
    pub(super) fn write(&mut self) {
        let Some(file) = &mut self.embeddings else {
            return;
        };
        if let Err(error) = file.write_all(&self.waiting) {
            self.give_up(&error);
        }
        self.waiting.clear();
    }

    /// Whether most of the file is outdated when `live` entries are all that counts.
    pub(super) fn is_worn(&self, live: u64) -> bool {
        self.embeddings.is_some() && self.records > (live * 2).max(RECORDS_MIN)
    }

    /// Writes the file anew with these entries alone.
    pub(super) fn renew(&mut self, entries: impl Iterator<Item = (CollectionId, Entry)>) {
        match self.rewritten(entries) {
            Ok((file, records)) => {
                self.embeddings = Some(file);
                self.records = records;
                self.waiting.clear();
            }
            Err(error) => self.give_up(&error),
        }
    }

    fn rewritten(
        &self,
        entries: impl Iterator<Item = (CollectionId, Entry)>,
    ) -> io::Result<(File, u64)> {
        let partial = self.folder.join("embeddings.log.partial");
        let mut writer = BufWriter::new(File::create(&partial)?);
        writer.write_all(&header(EMBEDDINGS, &self.model))?;
        let mut records = 0;
        for (collection, entry) in entries {
            writer.write_all(&record(collection, &entry))?;
            records += 1;
        }
        let file = writer
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        fs::rename(&partial, self.path())?;
        Ok((file, records))
    }

    /// What `drift.bin` holds; nothing when it is absent, damaged or another auditor's.
    pub(super) fn read_drift(&self) -> Vec<(CollectionId, DriftMemory)> {
        let path = self.folder.join("drift.bin");
        let bytes = match fs::metadata(&path).map(|file| file.len()) {
            Ok(length) if length <= DRIFT_BYTES_MAX => fs::read(&path),
            Ok(_) => Ok(Vec::new()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => Err(error),
        };
        let read = bytes.ok().and_then(|bytes| drift_of(&bytes, &self.model));
        read.unwrap_or_else(|| {
            let path = path.display();
            tracing::warn!(%path, "kept drift figures are damaged or another auditor's; they are thrown away");
            Vec::new()
        })
    }

    /// Writes `drift.bin` with these figures.
    pub(super) fn write_drift(&self, drifts: &[(CollectionId, DriftMemory)]) {
        let mut bytes = header(DRIFT, &self.model);
        for (collection, memory) in drifts {
            bytes.extend(collection.to_le_bytes());
            bytes.extend(memory.windows.to_le_bytes());
            bytes.extend((memory.figures_ppm.len() as u32).to_le_bytes());
            for figure in &memory.figures_ppm {
                bytes.extend(figure.to_le_bytes());
            }
            bytes.extend(u32::from(memory.learnt.is_some()).to_le_bytes());
            for (mean, deviation) in memory.learnt.iter().flatten() {
                bytes.extend(mean.to_le_bytes());
                bytes.extend(deviation.to_le_bytes());
            }
        }
        bytes.extend(check(&bytes));
        let partial = self.folder.join("drift.bin.partial");
        let written = fs::write(&partial, bytes)
            .and_then(|()| fs::rename(&partial, self.folder.join("drift.bin")));
        if let Err(error) = written {
            let folder = self.folder.display();
            tracing::warn!(%folder, %error, "drift figures are not kept");
        }
    }
}

fn drift_of(bytes: &[u8], model: &Digest) -> Option<Vec<(CollectionId, DriftMemory)>> {
    let wanted = header(DRIFT, model);
    if !is_whole(bytes) || !bytes.starts_with(&wanted) {
        return None;
    }
    let mut fields = Fields(bytes.get(HEADER..bytes.len() - CHECK)?);
    let mut drifts = Vec::new();
    while !fields.0.is_empty() {
        let collection = fields.u32()?;
        let windows = fields.u64()?;
        let figures = fields
            .u32()
            .filter(|count| *count as usize <= WINDOWS_KEPT)?;
        let figures_ppm = (0..figures).map(|_| fields.u32()).collect::<Option<_>>()?;
        let learnt = match fields.u32()? {
            0 => None,
            _ => Some(basis_of(&mut fields)?),
        };
        let memory = DriftMemory {
            learnt,
            windows,
            figures_ppm,
        };
        drifts.push((collection, memory));
    }
    Some(drifts)
}

fn basis_of(fields: &mut Fields<'_>) -> Option<Basis> {
    let mut basis = [(0.0, 1.0); EMBEDDING_LENGTH];
    for value in &mut basis {
        *value = (
            fields.f64()?,
            fields.f64().filter(|deviation| *deviation > 0.0)?,
        );
    }
    Some(basis)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: Digest = [3; 32];

    fn entry(asset: u64) -> Entry {
        Entry {
            asset,
            version: asset as u32 + 1,
            like: asset / 2,
            content: [asset as u8; 16],
            code: Code {
                first: [asset as u8; HALF],
                second: [7; HALF],
            },
        }
    }

    fn opened(folder: &Path, model: Digest) -> (SimilarityFiles, Vec<(CollectionId, Entry)>) {
        let mut found = Vec::new();
        let files = SimilarityFiles::open(folder, &model, |collection, entry| {
            found.push((collection, entry));
        });
        (files, found)
    }

    fn written(folder: &Path, assets: std::ops::RangeInclusive<u64>) {
        let (mut files, _) = opened(folder, MODEL);
        for asset in assets {
            files.add(9, &entry(asset));
        }
        files.write();
        assert!(files.embeddings.is_some());
    }

    #[test]
    fn what_was_written_is_there_again_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path(), 1..=3);
        written(folder.path(), 4..=5);
        let wanted: Vec<_> = (1..=5).map(|asset| (9, entry(asset))).collect();
        assert_eq!(opened(folder.path(), MODEL).1, wanted);
    }

    #[test]
    fn a_file_cut_or_changed_anywhere_gives_its_sound_beginning_and_is_written_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("embeddings.log");
        written(folder.path(), 1..=3);
        let whole = fs::read(&path).unwrap();
        for place in (0..whole.len()).step_by(5) {
            let sound = place.saturating_sub(HEADER) / RECORD;
            let sound = if place < HEADER { 0 } else { sound };
            let mut changed = whole.clone();
            changed[place] ^= 0x10;
            for bytes in [&whole[..place], &changed] {
                fs::write(&path, bytes).unwrap();
                let (mut files, found) = opened(folder.path(), MODEL);
                let wanted: Vec<_> = (1..=sound as u64).map(|asset| (9, entry(asset))).collect();
                assert_eq!(found, wanted, "place {place} of {} bytes", bytes.len());
                files.add(9, &entry(40));
                files.write();
                let found = opened(folder.path(), MODEL).1;
                assert_eq!(found.len(), sound + 1);
                assert_eq!(found.last(), Some(&(9, entry(40))));
            }
        }
    }

    #[test]
    fn another_auditors_embeddings_are_thrown_away() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path(), 1..=3);
        assert_eq!(opened(folder.path(), [4; 32]).1, []);
        assert_eq!(opened(folder.path(), MODEL).1, []);
    }

    #[test]
    fn a_folder_that_cannot_be_made_leaves_everything_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"no folder").unwrap();
        let (mut files, found) = opened(&file, MODEL);
        assert_eq!(found, []);
        files.add(9, &entry(1));
        files.write();
        files.write_drift(&[]);
        assert!(!files.is_worn(0) && files.read_drift().is_empty());
        assert_eq!(fs::read(&file).unwrap(), b"no folder");
    }

    #[test]
    fn a_worn_file_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (mut files, _) = opened(folder.path(), MODEL);
        for asset in 1..=RECORDS_MIN + 1 {
            assert!(!files.is_worn(1));
            files.add(9, &entry(asset));
        }
        files.write();
        assert!(files.is_worn(1) && !files.is_worn(RECORDS_MIN));
        files.renew((1..=2).map(|asset| (8, entry(asset))));
        assert!(!files.is_worn(1));
        files.add(8, &entry(3));
        files.write();
        let wanted: Vec<_> = (1..=3).map(|asset| (8, entry(asset))).collect();
        assert_eq!(opened(folder.path(), MODEL).1, wanted);
    }

    #[test]
    fn drift_is_there_again_unless_a_bit_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let (files, _) = opened(folder.path(), MODEL);
        assert_eq!(files.read_drift(), []);
        let drifts = vec![
            (
                1,
                DriftMemory {
                    learnt: None,
                    windows: 700,
                    figures_ppm: (0..WINDOWS_KEPT as u32).collect(),
                },
            ),
            (
                2,
                DriftMemory {
                    learnt: Some(std::array::from_fn(|place| (place as f64, 0.5))),
                    windows: 0,
                    figures_ppm: vec![],
                },
            ),
        ];
        files.write_drift(&drifts);
        assert_eq!(files.read_drift(), drifts);
        let path = folder.path().join("drift.bin");
        let whole = fs::read(&path).unwrap();
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            fs::write(&path, &changed).unwrap();
            assert_eq!(files.read_drift(), []);
            fs::write(&path, &whole[..place]).unwrap();
            assert_eq!(files.read_drift(), []);
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(opened(folder.path(), [4; 32]).0.read_drift(), []);
    }
}
