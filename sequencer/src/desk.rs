//! Who writes: the realm's thread, or in its place a thread that has just put something into the queue.
//!
//! To wake a thread and wait until it runs takes longer than to write a small block, and on busy processors far longer:
//! the thread waits its turn behind others. A submitter that may do so therefore works the queue off itself when nobody
//! is at it (flat combining: D. Hendler, I. Incze, N. Shavit, M. Tzafrir, 2010). One thread writes at a time.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use crossbeam::channel::Receiver;
use parking_lot::Mutex;

use crate::log::LogError;
use crate::machine::Machine;
use crate::sequencer::Shared;
use crate::writer::{Entry, Worked, Writer};

/// Looks at an empty queue, some nanoseconds each, before the thread sleeps: under load the next entry comes within them.
const SPINS_BEFORE_SLEEP: usize = 100;
/// Blocks that a submitter writes at most before it leaves the rest to the realm's thread: it has a stream to serve.
const HELPED_BLOCKS_MAX: usize = 4;
/// Commands in the queue beyond which a submitter leaves all to the realm's thread. To wake it costs little beside so
/// many, and the submitter can prepare the next ones meanwhile.
const HELPED_COMMANDS_MAX: usize = 64;

/// The writer, and who may take its place.
pub(crate) struct Desk<M: Machine> {
    /// Gone once the sequencer has stopped.
    writer: Mutex<Option<Writer<M>>>,
    receiver: Receiver<Entry<M>>,
    shared: Arc<Shared>,
}

impl<M: Machine> Desk<M> {
    pub(crate) fn new(
        writer: Writer<M>,
        receiver: Receiver<Entry<M>>,
        shared: Arc<Shared>,
    ) -> Arc<Self> {
        Arc::new(Self {
            writer: Mutex::new(Some(writer)),
            receiver,
            shared,
        })
    }

    /// The realm's thread: runs until the sequencer is stopped; gives the machine back, or says that it panicked.
    pub(crate) fn run(&self) -> Result<M, LogError> {
        // The only one to set it.
        let _ = self.shared.writer.set(std::thread::current());
        loop {
            let mut place = self.writer.lock();
            let Some(writer) = place.as_mut() else {
                return Err(LogError::Closed);
            };
            while writer.work(&self.receiver) == Worked::Block {}
            // A submitter counts itself before it looks whether the sequencer stops: once the count is zero after
            // stopping, nobody can still be putting something into the queue.
            let stopping = self.shared.is_stopping();
            if stopping && self.shared.queued_submissions.load(Ordering::SeqCst) == 0 {
                let ended = place.take();
                drop(place);
                return ended.map_or(Err(LogError::Closed), Writer::close);
            }
            drop(place);
            if stopping {
                std::thread::park_timeout(Duration::from_millis(1));
            } else {
                self.sleep();
            }
        }
    }

    /// Works off what is in the queue, in the place of the realm's thread, if that is little and nobody is at it.
    /// Replies run in here. Whatever is left afterwards, somebody is at it or has been woken for it.
    pub(crate) fn help(&self) {
        for _ in 0..HELPED_BLOCKS_MAX {
            // Either this finds the place free, or who holds it finds what was put into the queue before.
            fence(Ordering::SeqCst);
            if self.receiver.is_empty() {
                return;
            }
            // Looked at without the place, which the realm's thread may be about to take.
            let little = self.shared.queued_commands() <= HELPED_COMMANDS_MAX;
            if !little || self.shared.is_stopping() {
                self.shared.wake_writer();
                return;
            }
            let Some(mut place) = self.writer.try_lock() else {
                return;
            };
            let Some(writer) = place.as_mut() else {
                return;
            };
            if !writer.has_room() {
                break;
            }
            writer.work(&self.receiver);
            let carries = writer.carries();
            drop(place);
            if carries {
                break;
            }
        }
        // Not by the flag: a thread that is about to sleep does not look at what the writer carries.
        if let Some(writer) = self.shared.writer.get() {
            writer.unpark();
        }
    }

    /// Waits until there may be an entry, or the sequencer is to stop.
    ///
    /// A channel's own blocking receive yields the processor a few times before it sleeps. Where other threads want it, a
    /// yield lasts a whole turn of theirs, milliseconds long, and an entry that comes meanwhile waits for its end; a thread
    /// that sleeps is woken at once. So this one sleeps without yielding first.
    fn sleep(&self) {
        for _ in 0..SPINS_BEFORE_SLEEP {
            if !self.receiver.is_empty() {
                return;
            }
            std::hint::spin_loop();
        }
        self.shared.is_writer_asleep.store(true, Ordering::SeqCst);
        // Either this sees what was put into the queue meanwhile, or who put it there sees the flag and wakes the thread.
        fence(Ordering::SeqCst);
        if self.receiver.is_empty() && !self.shared.is_stopping() {
            std::thread::park();
        }
        self.shared.is_writer_asleep.store(false, Ordering::SeqCst);
    }
}
