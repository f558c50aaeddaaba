//! Digests that the running system records, so that a replay can be compared with what was served.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::view::DigestMark;

/// Appends digests to a text file, one `sequence digest` a line.
#[derive(Debug)]
pub struct DigestRecorder {
    file: File,
    last: DigestMark,
}

impl DigestRecorder {
    /// Opens the file.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn open(path: &Path) -> std::io::Result<DigestRecorder> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        // What follows a torn line must not be read as part of it.
        let mut last = [b'\n'];
        if file.metadata()?.len() > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
        Ok(DigestRecorder {
            file,
            last: DigestMark::default(),
        })
    }

    /// Records a digest, unless it is the last one again.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn record(&mut self, mark: DigestMark) -> std::io::Result<()> {
        if mark == self.last || mark.sequence == 0 {
            return Ok(());
        }
        self.last = mark;
        // One write, so that a killed process leaves at most one torn line, which readers pass over.
        self.file.write_all(line(&mark).as_bytes())
    }
}

/// Drops what was recorded beyond the end of the log: a loss of power took those commands back, and others get their
/// sequences.
///
/// # Errors
/// When the system refuses.
pub fn forget_after(path: &PathBuf, last_sequence: u64) -> std::io::Result<()> {
    let mut marks = read(path)?;
    let recorded = marks.len();
    marks.retain(|mark| mark.sequence <= last_sequence);
    if marks.len() == recorded {
        return Ok(());
    }
    let text: String = marks.iter().map(line).collect();
    let partial = path.with_extension("partial");
    std::fs::write(&partial, text)?;
    std::fs::rename(&partial, path)
}

fn line(mark: &DigestMark) -> String {
    format!("{} {}\n", mark.sequence, hex::encode(mark.digest))
}

/// Recorded digests in the order of their sequences, each sequence once; lines that are torn are passed over.
///
/// # Errors
/// When the file is there but cannot be read.
pub fn read(path: &PathBuf) -> std::io::Result<Vec<DigestMark>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut marks: Vec<DigestMark> = text
        .lines()
        .filter_map(|line| {
            let (sequence, digits) = line.split_once(' ')?;
            let mut digest = [0; 32];
            hex::decode_to_slice(digits, &mut digest).ok()?;
            Some(DigestMark {
                sequence: sequence.parse().ok()?,
                digest,
            })
        })
        .collect();
    // Stable: of two records of one sequence the later one stays, as after a loss of power that took commands back.
    marks.reverse();
    marks.sort_by_key(|mark| mark.sequence);
    marks.dedup_by_key(|mark| mark.sequence);
    Ok(marks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_torn_line_is_not_read_as_part_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("digests.log");
        let marks = [1234, 5678].map(|sequence| DigestMark {
            sequence,
            digest: [7; 32],
        });
        DigestRecorder::open(&path)
            .unwrap()
            .record(marks[0])
            .unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            DigestRecorder::open(&path)
                .unwrap()
                .record(marks[1])
                .unwrap();
            let found = read(&path).unwrap();
            // All but the line's end is enough to know the first one.
            let first_is_whole = length + 1 >= whole.len();
            assert_eq!(
                found,
                marks[usize::from(!first_is_whole)..],
                "cut at {length}"
            );
        }
    }
}
