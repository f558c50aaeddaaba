//! What was acknowledged, command by command: enough to find each of them again in the target's events, now or after it
//! was started again.

use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use crate::books::Place;
use crate::error::LoadError;

/// First bytes of a file, with the version of its form.
const MAGIC: &[u8; 16] = b"karat-load books";
const FORMAT: u64 = 1;
/// Bytes of a record in a file.
const RECORD_BYTES: usize = 32;
/// Records are kept in pieces, so that growing never moves what is there.
const PIECE: usize = 1 << 15;

/// A command with a place in the target's order, or one without an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the run.
    pub place: Place,
    /// Its sequence; 0 without an outcome.
    pub sequence: u64,
    /// Fingerprint of what it changes: see [`crate::scenario::changes`].
    pub changes: u64,
    /// 0 for accepted, else why not; [`Record::UNANSWERED`].
    pub code: u64,
}

impl Record {
    /// The code of a command without an outcome.
    pub const UNANSWERED: u64 = u64::MAX;

    /// The command's id.
    pub fn id(&self, run: u64) -> [u8; 16] {
        self.place.id(run)
    }
}

/// The records of a run.
#[derive(Default)]
pub struct Records {
    pieces: Vec<Vec<Record>>,
    count: usize,
    most: usize,
    /// Commands that were not kept because there were too many.
    pub left_out: u64,
    /// The least sequence among them: what comes before it is whole.
    left_out_from: u64,
}

impl Records {
    /// Room for so many.
    pub fn new(most: usize) -> Records {
        Records {
            most,
            left_out_from: u64::MAX,
            ..Records::default()
        }
    }

    /// Keeps one, if there is room.
    pub fn push(&mut self, record: Record) {
        if self.count >= self.most {
            self.left_out += 1;
            if record.sequence != 0 {
                self.left_out_from = self.left_out_from.min(record.sequence);
            }
            return;
        }
        if self.count.is_multiple_of(PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        if let Some(piece) = self.pieces.last_mut() {
            piece.push(record);
        }
        self.count += 1;
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Those with a sequence, in its order, as far as they are whole; and those without an outcome.
    pub fn sorted(&self) -> (Vec<Record>, Vec<Record>) {
        let all = self.pieces.iter().flatten().copied();
        let (mut answered, unanswered): (Vec<Record>, Vec<Record>) =
            all.partition(|record| record.code != Record::UNANSWERED);
        answered.retain(|record| record.sequence < self.left_out_from);
        answered.sort_unstable_by_key(|record| record.sequence);
        (answered, unanswered)
    }

    /// Writes them.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), LoadError> {
        let written = || -> std::io::Result<()> {
            let mut out = BufWriter::new(std::fs::File::create(path)?);
            out.write_all(MAGIC)?;
            let head = [FORMAT, self.count as u64, self.left_out, self.left_out_from];
            for number in head {
                out.write_all(&number.to_le_bytes())?;
            }
            for record in self.pieces.iter().flatten() {
                let place = record.place.to_bits();
                for number in [place, record.sequence, record.changes, record.code] {
                    out.write_all(&number.to_le_bytes())?;
                }
            }
            out.flush()
        };
        written().map_err(|error| LoadError::file(path, error))
    }

    /// Reads them.
    ///
    /// # Errors
    /// When the file cannot be read, is none, or is not whole.
    pub fn read(path: &Path) -> Result<Records, LoadError> {
        let failed = |cause: String| LoadError::file(path, cause);
        let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        let mut input = BufReader::new(file);
        let cut = |_| failed("the file is cut short".into());
        let mut magic = [0; 16];
        input.read_exact(&mut magic).map_err(cut)?;
        if &magic != MAGIC {
            return Err(failed("not the books of a run of karat-load".into()));
        }
        let mut number = || -> Result<u64, std::io::Error> {
            let mut bytes = [0; 8];
            input.read_exact(&mut bytes)?;
            Ok(u64::from_le_bytes(bytes))
        };
        let format = number().map_err(cut)?;
        if format != FORMAT {
            return Err(failed(format!(
                "format {format}, this build reads {FORMAT}"
            )));
        }
        let count = number().map_err(cut)?;
        let (left_out, left_out_from) = (number().map_err(cut)?, number().map_err(cut)?);
        let head_bytes = (MAGIC.len() + 4 * 8) as u64;
        // Before anything is kept: a wrong count must not ask for memory.
        if count
            .checked_mul(RECORD_BYTES as u64)
            .and_then(|bytes| bytes.checked_add(head_bytes))
            != Some(length)
        {
            return Err(failed(format!(
                "it says {count} commands, but its length of {length} bytes is not theirs"
            )));
        }
        let mut records = Records::new(usize::MAX);
        for _ in 0..count {
            let record = Record {
                place: Place::from_bits(number().map_err(cut)?),
                sequence: number().map_err(cut)?,
                changes: number().map_err(cut)?,
                code: number().map_err(cut)?,
            };
            records.push(record);
        }
        records.left_out = left_out;
        records.left_out_from = left_out_from;
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::books::command_id;

    fn record(number: u64, sequence: u64) -> Record {
        Record {
            place: Place::new(3, number),
            sequence,
            changes: number * 7,
            code: match sequence {
                0 => Record::UNANSWERED,
                _ => 0,
            },
        }
    }

    #[test]
    fn records_come_back_from_their_file_in_the_order_of_their_sequences() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.books");
        let mut records = Records::new(1 << 20);
        for number in 0..100_000 {
            records.push(record(number, 100_000 - number));
        }
        records.push(record(100_000, 0));
        records.write(&path).unwrap();
        let (answered, unanswered) = Records::read(&path).unwrap().sorted();
        assert_eq!(answered.len(), 100_000);
        assert!(answered.is_sorted_by_key(|record| record.sequence));
        assert_eq!(unanswered, [record(100_000, 0)]);
        assert_eq!(answered[0].id(9), command_id(9, 3, 99_999));
    }

    #[test]
    fn what_is_left_out_ends_what_is_whole() {
        let mut records = Records::new(3);
        for (number, sequence) in [(0, 5), (1, 9), (2, 6), (3, 7), (4, 20)] {
            records.push(record(number, sequence));
        }
        assert_eq!(records.left_out, 2);
        let sequences: Vec<u64> = records.sorted().0.iter().map(|one| one.sequence).collect();
        assert_eq!(sequences, [5, 6], "7 is not there, so 9 proves nothing");
    }

    #[test]
    fn a_file_that_is_none_or_not_whole_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.books");
        let mut records = Records::new(10);
        records.push(record(1, 1));
        records.write(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for (bytes, reason) in [
            (&b"short"[..], "cut short"),
            (&[b'x'; 200][..], "not the books"),
            (&whole[..whole.len() - 1], "is not theirs"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = Records::read(&path).err().unwrap().to_string();
            assert!(error.contains(reason), "{error}");
        }
        let mut newer = whole.clone();
        newer[16] = 2;
        std::fs::write(&path, newer).unwrap();
        assert!(
            Records::read(&path)
                .err()
                .unwrap()
                .to_string()
                .contains("format 2")
        );
        let mut huge = whole;
        huge[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
        std::fs::write(&path, huge).unwrap();
        assert!(
            Records::read(&path)
                .err()
                .unwrap()
                .to_string()
                .contains("is not theirs")
        );
    }
}
