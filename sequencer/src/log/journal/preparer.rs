//! Makes the next segment ready in the background, so that no append waits for it.
//!
//! Its zeros are really written, not only allocated: flushing into written space needs no change of the file system's
//! own records and is about twice as fast.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{DiskStep, Faults, segment};

const CHUNK_BYTES: u64 = 1 << 20;
/// Between chunks the disk is left to the flushes that somebody waits for.
const PAUSE: Duration = Duration::from_millis(4);

/// A segment without a name yet.
pub(super) struct Prepared {
    pub(super) file: File,
    pub(super) salt: u64,
    pub(super) temporary: PathBuf,
}

enum State {
    /// Work is asked for or under way.
    Wanted,
    Ready(Prepared),
    Failed(std::io::Error),
    Taken,
    Ended,
}

struct Shared {
    state: Mutex<(State, bool)>,
    changed: Condvar,
}

/// Owns the preparing thread.
pub(super) struct Preparer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The one name in the folder of a segment that is not ready.
pub(super) fn temporary(dir: &Path) -> PathBuf {
    dir.join("prepared.tmp")
}

/// Writes a segment full of zeros under the temporary name and flushes it. `pause` is asked between chunks whether to
/// go on (`false` ends with an error) and may wait.
pub(super) fn prepare(
    dir: &Path,
    segment_bytes: u64,
    faults: Option<&Faults>,
    mut pause: impl FnMut() -> bool,
) -> std::io::Result<Prepared> {
    if let Some(faults) = faults {
        faults(DiskStep::Prepare)?;
    }
    let temporary = temporary(dir);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&temporary)?;
    let (header, salt) = segment::new_header();
    file.write_all(&header)?;
    let zeros = vec![0; CHUNK_BYTES.min(segment_bytes) as usize];
    let mut at = header.len() as u64;
    while at < segment_bytes {
        let count = CHUNK_BYTES.min(segment_bytes - at);
        file.write_all(&zeros[..count as usize])?;
        at += count;
        if at < segment_bytes {
            // Chunk by chunk, so that no flush of the log ever finds the whole of it waiting.
            file.sync_data()?;
            if !pause() {
                return Err(std::io::Error::other("the journal was closed"));
            }
        }
    }
    file.sync_all()?;
    file.seek(SeekFrom::Start(header.len() as u64))?;
    Ok(Prepared {
        file,
        salt,
        temporary,
    })
}

impl Preparer {
    pub(super) fn start(
        dir: PathBuf,
        segment_bytes: u64,
        faults: Option<Faults>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new((State::Wanted, false)),
            changed: Condvar::new(),
        });
        let thread = std::thread::Builder::new()
            .name("karat-preparer".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.run(&dir, segment_bytes, faults.as_ref())
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// The prepared segment; waits for it if it is not ready. A failure in the background is tried once more, as
    /// nothing was lost by it and the disk may have room again.
    pub(super) fn take(&self) -> std::io::Result<Prepared> {
        let mut state = self.shared.state.lock();
        state.1 = true;
        let mut retried = false;
        loop {
            self.shared.changed.notify_all();
            match std::mem::replace(&mut state.0, State::Taken) {
                State::Ready(prepared) => {
                    state.1 = false;
                    return Ok(prepared);
                }
                State::Failed(error) if retried => return Err(error),
                State::Failed(_) => {
                    retried = true;
                    state.0 = State::Wanted;
                }
                State::Ended => {
                    state.0 = State::Ended;
                    return Err(std::io::Error::other(
                        "the thread that prepares segments has ended",
                    ));
                }
                State::Wanted | State::Taken => {
                    state.0 = State::Wanted;
                    self.shared.changed.wait(&mut state);
                }
            }
        }
    }

    /// Asks for the next one.
    pub(super) fn want(&self) {
        let mut state = self.shared.state.lock();
        if matches!(state.0, State::Taken) {
            state.0 = State::Wanted;
            self.shared.changed.notify_all();
        }
    }
}

impl Shared {
    fn run(&self, dir: &Path, segment_bytes: u64, faults: Option<&Faults>) {
        loop {
            {
                let mut state = self.state.lock();
                loop {
                    match state.0 {
                        State::Wanted => break,
                        State::Ended => return,
                        _ => self.changed.wait(&mut state),
                    }
                }
            }
            let prepared = prepare(dir, segment_bytes, faults, || {
                let mut state = self.state.lock();
                if !matches!(state.0, State::Ended) && !state.1 {
                    self.changed.wait_for(&mut state, PAUSE);
                }
                !matches!(state.0, State::Ended)
            });
            let mut state = self.state.lock();
            if matches!(state.0, State::Ended) {
                return;
            }
            state.0 = match prepared {
                Ok(prepared) => State::Ready(prepared),
                Err(error) => {
                    tracing::warn!(folder = %dir.display(), %error, "the next journal segment could not be prepared");
                    State::Failed(error)
                }
            };
            self.changed.notify_all();
        }
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.shared.state.lock().0 = State::Ended;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was its own report.
            let _ = thread.join();
        }
    }
}
