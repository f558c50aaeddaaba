//! Keeps the part of a segment in memory that is written next.
//!
//! An append seldom begins or ends at a page's border, so the system needs the rest of that page. A segment that was
//! prepared long ago may be out of memory by then, and the append would read the page from the disk: behind whatever else
//! is being written there, tens of milliseconds while a snapshot is flushed.

use std::fs::File;
use std::ops::Range;

/// So much before the end of the log is in memory. A busy realm appends it in some 50 ms: longer than such a read takes.
const AHEAD_BYTES: u64 = 4 << 20;
/// Asked for at once, so that few appends ask.
const STEP_BYTES: u64 = 1 << 20;

/// How far a segment was asked for.
#[derive(Debug)]
pub(super) struct Ahead {
    asked: u64,
    segment_bytes: u64,
}

impl Ahead {
    /// A segment that is appended to from this offset on.
    pub(super) fn new(offset: u64, segment_bytes: u64) -> Self {
        Self {
            asked: offset,
            segment_bytes,
        }
    }

    /// Asks the system for what is due, and does not wait for it. A system that refuses costs only latency.
    pub(super) fn keep(&mut self, file: &File, offset: u64) {
        if let Some(range) = self.due(offset)
            && let Err(error) = ask(file, &range)
        {
            tracing::debug!(%error, "the system reads no segment ahead");
        }
    }

    /// What must be asked for when the log ends at `offset`.
    fn due(&mut self, offset: u64) -> Option<Range<u64>> {
        let wanted = (offset + AHEAD_BYTES).min(self.segment_bytes);
        if self.asked >= wanted {
            return None;
        }
        let to = (wanted + STEP_BYTES).min(self.segment_bytes);
        let due = self.asked.max(offset)..to;
        self.asked = to;
        Some(due)
    }
}

#[cfg(target_os = "linux")]
fn ask(file: &File, range: &Range<u64>) -> std::io::Result<()> {
    // Without a length it would be all that follows.
    let Some(length) = std::num::NonZeroU64::new(range.end - range.start) else {
        return Ok(());
    };
    rustix::fs::fadvise(
        file,
        range.start,
        Some(length),
        rustix::fs::Advice::WillNeed,
    )?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn ask(_: &File, _: &Range<u64>) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_byte_is_asked_for_once_and_well_before_it_is_written(
            from in 0_u64..4096,
            segment_bytes in 4096_u64..64 << 20,
            appends in prop::collection::vec(1_u64..9 << 20, 1..60),
        ) {
            let mut ahead = Ahead::new(from, segment_bytes);
            let mut offset = from;
            // Ends of what was asked for, and of what was jumped over by an append that was longer than it.
            let mut asked = from;
            let mut calls = 0;
            for append in appends {
                if let Some(due) = ahead.due(offset) {
                    calls += 1;
                    prop_assert!(due.start == asked.max(offset) && due.start < due.end);
                    asked = due.end;
                }
                prop_assert!(asked >= (offset + AHEAD_BYTES).min(segment_bytes));
                prop_assert!(asked <= segment_bytes);
                prop_assert_eq!(ahead.due(offset), None);
                if offset + append > segment_bytes {
                    break;
                }
                offset += append;
            }
            prop_assert!(calls <= (offset - from) / STEP_BYTES + 1);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_is_only_written_is_read_ahead_too() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![1; 1 << 16]).unwrap();
        let writing = std::fs::OpenOptions::new()
            .write(true)
            .open(file.path())
            .unwrap();
        ask(&writing, &(0..1 << 16)).unwrap();
    }
}
