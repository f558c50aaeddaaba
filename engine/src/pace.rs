//! The pace of work that nobody waits for: short bursts with rests, and little at a time on its way to the disk.
//!
//! A thread of the lowest priority is not always put aside the moment another one wakes: where a thread that woke is not yet
//! due again by the scheduler's account, nobody looks before the next tick, 4 ms at 250 ticks a second, and two such
//! threads may follow each other. Who rests after half a millisecond makes nobody wait longer. A disk is the same: a flush of
//! the log waits for what lies before it in the disk's queue.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use tokio::sync::watch as signal;

/// So long is worked without a rest; a rest is as long as the work before it.
const BURST: Duration = Duration::from_micros(500);
/// ... but never longer, as where the work was interrupted for longer than it took.
const REST_MAX: Duration = Duration::from_millis(2);

/// So much is on its way to the disk at a time. 256 KiB take 3 ms on a disk of 85 MB/s.
pub const PIECE_BYTES: usize = 256 << 10;
/// A piece takes at least this long with its rest, so that no more than 32 MiB a second are written; and the rest is at least
/// as long as writing took, so that half of the disk's time is left to others.
const PIECE: Duration = Duration::from_millis(8);
/// ... up to here, where the disk hangs.
const PIECE_REST_MAX: Duration = Duration::from_millis(100);
/// Bytes copied to the system in one call: some tens of microseconds.
const CALL_BYTES: usize = 64 << 10;

/// How fast work goes on, and until when.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Ends the work when it says so; without it there are no rests.
    stop: Option<signal::Receiver<bool>>,
    /// When the burst began.
    began: Instant,
}

impl Pace {
    /// As fast as it goes, for work that somebody waits for.
    pub fn hurried() -> Pace {
        Pace {
            stop: None,
            began: Instant::now(),
        }
    }

    /// With rests, until `stop` is set.
    pub fn resting(stop: signal::Receiver<bool>) -> Pace {
        Pace {
            stop: Some(stop),
            began: Instant::now(),
        }
    }

    /// Whether there are rests.
    pub fn rests(&self) -> bool {
        self.stop.is_some()
    }

    /// Whether the work is to end now.
    pub fn is_stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| *stop.borrow())
    }

    /// Rests if the burst was long enough; false when the work is to end. To be called several times in half a millisecond.
    pub fn go_on(&mut self) -> bool {
        if !self.rests() {
            return true;
        }
        let worked = self.began.elapsed();
        if worked < BURST {
            return true;
        }
        self.rest(worked.min(REST_MAX))
    }

    /// Rests after a piece that went to the disk and took so long; false when the work is to end.
    fn go_on_after_piece(&mut self, took: Duration) -> bool {
        if !self.rests() {
            return true;
        }
        let rest = PIECE.saturating_sub(took).max(took.min(PIECE_REST_MAX));
        self.rest(rest)
    }

    fn rest(&mut self, rest: Duration) -> bool {
        if self.is_stopped() {
            return false;
        }
        std::thread::sleep(rest);
        self.began = Instant::now();
        true
    }
}

fn stopped() -> io::Error {
    io::Error::other("the work was ended")
}

/// Reads at a pace.
#[derive(Debug)]
pub struct PacedReader<'a, R> {
    inner: R,
    pace: &'a mut Pace,
}

impl<'a, R: Read> PacedReader<'a, R> {
    /// Reads from `inner`.
    pub fn new(inner: R, pace: &'a mut Pace) -> PacedReader<'a, R> {
        PacedReader { inner, pace }
    }
}

impl<R: Read> Read for PacedReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.pace.go_on() {
            true => self.inner.read(buffer),
            false => Err(stopped()),
        }
    }
}

/// What bytes can be written to and made durable.
pub trait Durable: Write {
    /// Makes durable what was written.
    ///
    /// # Errors
    /// When the system refuses; what was written counts as lost then.
    fn make_durable(&mut self) -> io::Result<()>;
}

impl Durable for std::fs::File {
    fn make_durable(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Writes at a pace: a piece of [`PIECE_BYTES`] is durable before the next one begins. Without rests it only writes.
#[derive(Debug)]
pub struct PacedWriter<'a, W> {
    inner: W,
    pace: &'a mut Pace,
    /// Written and not known to be durable.
    under_way: usize,
    /// How long the piece took so far.
    took: Duration,
}

impl<'a, W: Durable> PacedWriter<'a, W> {
    /// Writes to `inner`.
    pub fn new(inner: W, pace: &'a mut Pace) -> PacedWriter<'a, W> {
        PacedWriter {
            inner,
            pace,
            under_way: 0,
            took: Duration::ZERO,
        }
    }

    /// What was written to; its last piece may not be durable.
    pub fn into_inner(self) -> W {
        self.inner
    }
}

impl<W: Durable> Write for PacedWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.pace.rests() {
            return self.inner.write(bytes);
        }
        if !self.pace.go_on() {
            return Err(stopped());
        }
        let began = Instant::now();
        let count = bytes
            .len()
            .min(CALL_BYTES)
            .min(PIECE_BYTES - self.under_way);
        let written = self.inner.write(&bytes[..count])?;
        self.under_way += written;
        let is_whole = self.under_way == PIECE_BYTES;
        if is_whole {
            self.inner.make_durable()?;
            self.under_way = 0;
        }
        self.took += began.elapsed();
        if is_whole && !self.pace.go_on_after_piece(std::mem::take(&mut self.took)) {
            return Err(stopped());
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A disk that counts.
    #[derive(Debug, Default)]
    struct Disk {
        bytes: Vec<u8>,
        durable: usize,
        under_way_max: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.bytes.extend_from_slice(bytes);
            self.under_way_max = self.under_way_max.max(self.bytes.len() - self.durable);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Durable for Disk {
        fn make_durable(&mut self) -> io::Result<()> {
            self.durable = self.bytes.len();
            Ok(())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn no_more_than_a_piece_is_ever_on_its_way_to_the_disk(
            lengths in prop::collection::vec(1_usize..(PIECE_BYTES * 2), 1..6),
        ) {
            let (_stop, stopped) = signal::channel(false);
            let mut pace = Pace::resting(stopped);
            let mut writer = PacedWriter::new(Disk::default(), &mut pace);
            let mut all = Vec::new();
            for (number, length) in lengths.into_iter().enumerate() {
                let bytes = vec![number as u8; length];
                writer.write_all(&bytes).unwrap();
                all.extend(bytes);
            }
            let disk = writer.into_inner();
            prop_assert!(disk.under_way_max <= PIECE_BYTES);
            prop_assert_eq!(disk.durable, all.len() / PIECE_BYTES * PIECE_BYTES);
            prop_assert!(disk.bytes == all);
        }
    }

    #[test]
    fn work_that_is_stopped_ends_before_its_next_piece() {
        let (stop, stopped) = signal::channel(false);
        let mut pace = Pace::resting(stopped);
        let mut writer = PacedWriter::new(Disk::default(), &mut pace);
        writer.write_all(&vec![0; PIECE_BYTES]).unwrap();
        stop.send(true).unwrap();
        assert!(writer.write_all(&vec![0; 2 * PIECE_BYTES]).is_err());
        assert!(writer.into_inner().bytes.len() <= 2 * PIECE_BYTES);
        assert!(pace.is_stopped());
    }

    #[test]
    fn hurried_work_is_written_as_it_comes_and_never_stopped() {
        let mut pace = Pace::hurried();
        let mut writer = PacedWriter::new(Disk::default(), &mut pace);
        writer.write_all(&vec![7; 3 * PIECE_BYTES]).unwrap();
        let disk = writer.into_inner();
        assert_eq!((disk.bytes.len(), disk.durable), (3 * PIECE_BYTES, 0));
        assert!(pace.go_on() && !pace.is_stopped());
    }
}
