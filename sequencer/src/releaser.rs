//! Answers that wait for the log: released when its positions pass them, by a thread of their own, so that neither
//! the writer nor the flusher spends time on replies.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::thread::Thread;

use parking_lot::Mutex;

use crate::log::{Positions, Progress};
use crate::submission::{Ack, Answer, Reply, SubmitError};

/// An answer and the sequence that must be reached before it leaves.
pub(crate) struct Pending<O> {
    pub(crate) due: u64,
    pub(crate) reply: Reply<O>,
    pub(crate) answer: Answer<O>,
}

/// Called with the durable sequence after it rose.
pub(crate) type DurableHook = Box<dyn Fn(u64) + Send + Sync>;

struct Queues<O> {
    sequenced: VecDeque<Pending<O>>,
    durable: VecDeque<Pending<O>>,
}

/// What the writer, the log's threads and the releasing thread share.
pub(crate) struct Releaser<O> {
    queues: Mutex<Queues<O>>,
    /// The first sequence waited for at each level, `u64::MAX` for none: the log's threads wake the releaser only
    /// if it has something to do.
    sequenced_due: AtomicU64,
    durable_due: AtomicU64,
    has_hooks: AtomicBool,
    hooks: Mutex<Vec<DurableHook>>,
    /// The durable sequence before any hook could be told of one. Read when the releaser is made, not when its
    /// thread gets to run: by then the log may have come further.
    durable_at_start: u64,
    closing: AtomicBool,
    thread: OnceLock<Thread>,
    progress: Arc<Progress>,
}

impl<O: Send + 'static> Releaser<O> {
    pub(crate) fn new(progress: Arc<Progress>) -> Arc<Self> {
        let queues = Queues {
            sequenced: VecDeque::new(),
            durable: VecDeque::new(),
        };
        let releaser = Arc::new(Self {
            queues: Mutex::new(queues),
            sequenced_due: AtomicU64::new(u64::MAX),
            durable_due: AtomicU64::new(u64::MAX),
            has_hooks: AtomicBool::new(false),
            hooks: Mutex::new(Vec::new()),
            durable_at_start: progress.positions().durable_seq,
            closing: AtomicBool::new(false),
            thread: OnceLock::new(),
            progress: Arc::clone(&progress),
        });
        let weak = Arc::downgrade(&releaser);
        progress.subscribe(Arc::new(move |progress| {
            if let Some(releaser) = weak.upgrade() {
                releaser.wake_if_due(progress);
            }
        }));
        releaser
    }

    /// Hands over a block's answers of one level; `pending` is emptied.
    pub(crate) fn push(&self, ack: Ack, pending: &mut Vec<Pending<O>>) {
        if pending.is_empty() {
            return;
        }
        {
            let mut queues = self.queues.lock();
            match ack {
                Ack::Sequenced => queues.sequenced.extend(pending.drain(..)),
                Ack::Durable => queues.durable.extend(pending.drain(..)),
            }
            self.set_due(&queues);
        }
        // Either this sees a position that passed meanwhile, or its publisher sees what is due.
        fence(Ordering::SeqCst);
        self.wake_if_due(&self.progress);
    }

    /// Calls `hook` from the releasing thread whenever the durable sequence rose.
    pub(crate) fn add_hook(&self, hook: DurableHook) {
        self.hooks.lock().push(hook);
        self.has_hooks.store(true, Ordering::SeqCst);
        // A rise just before was not worth a wake-up; with a hook it is.
        self.wake();
    }

    /// No answers come any more: the thread ends when none waits.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// The releasing thread.
    pub(crate) fn run(&self) {
        let _ = self.thread.set(std::thread::current());
        // Either this sees what was published meanwhile, or its publisher sees the thread and wakes it.
        fence(Ordering::SeqCst);
        let mut ready = Vec::new();
        let mut hooked = self.durable_at_start;
        loop {
            let closing = self.closing.load(Ordering::SeqCst);
            // The poison is read first: what is durable afterwards is durable in spite of it.
            let poison = self.progress.poisoned();
            let positions = self.progress.positions();
            let empty = self.take_ready(positions, &mut ready);
            let mut worked = !ready.is_empty();
            for pending in ready.drain(..) {
                contain(|| (pending.reply)(Ok(pending.answer)));
            }
            if positions.durable_seq > hooked && self.has_hooks.load(Ordering::SeqCst) {
                hooked = positions.durable_seq;
                worked = true;
                for hook in self.hooks.lock().iter() {
                    contain(|| hook(hooked));
                }
            }
            if let Some(cause) = poison
                && !empty
            {
                let cause: Arc<str> = cause.to_string().into();
                for pending in self.take_all() {
                    let cause = Arc::clone(&cause);
                    contain(|| (pending.reply)(Err(SubmitError::Poisoned { cause })));
                }
                worked = true;
            }
            if worked {
                continue;
            }
            if closing && empty {
                return;
            }
            std::thread::park();
        }
    }

    /// Moves what is due into `ready`; whether nothing is left.
    fn take_ready(&self, positions: Positions, ready: &mut Vec<Pending<O>>) -> bool {
        let mut queues = self.queues.lock();
        while let Some(pending) = queues
            .sequenced
            .pop_front_if(|pending| pending.due <= positions.appended_seq)
        {
            ready.push(pending);
        }
        while let Some(pending) = queues
            .durable
            .pop_front_if(|pending| pending.due <= positions.durable_seq)
        {
            ready.push(pending);
        }
        self.set_due(&queues);
        queues.sequenced.is_empty() && queues.durable.is_empty()
    }

    fn take_all(&self) -> Vec<Pending<O>> {
        let mut queues = self.queues.lock();
        let mut all: Vec<Pending<O>> = queues.sequenced.drain(..).collect();
        all.extend(queues.durable.drain(..));
        self.set_due(&queues);
        all
    }

    fn set_due(&self, queues: &Queues<O>) {
        let due =
            |queue: &VecDeque<Pending<O>>| queue.front().map_or(u64::MAX, |pending| pending.due);
        self.sequenced_due
            .store(due(&queues.sequenced), Ordering::SeqCst);
        self.durable_due
            .store(due(&queues.durable), Ordering::SeqCst);
    }

    fn wake_if_due(&self, progress: &Progress) {
        let positions = progress.positions();
        let due = positions.durable_seq >= self.durable_due.load(Ordering::SeqCst)
            || positions.appended_seq >= self.sequenced_due.load(Ordering::SeqCst);
        if due || self.has_hooks.load(Ordering::SeqCst) || progress.is_poisoned() {
            self.wake();
        }
    }

    fn wake(&self) {
        // Before the thread has said who it is, it has not looked at anything yet and needs no waking.
        fence(Ordering::SeqCst);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// Runs a reply or hook; its panic must not keep the answers behind it from leaving.
fn contain(call: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(call)).is_err() {
        tracing::error!("a reply or a durable hook panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_starts_late_still_tells_its_hooks_what_became_durable_before() {
        let progress = Progress::new(7);
        let releaser = Releaser::<u64>::new(Arc::clone(&progress));
        let told = Arc::new(Mutex::new(Vec::new()));
        releaser.add_hook(Box::new({
            let told = Arc::clone(&told);
            move |sequence| told.lock().push(sequence)
        }));
        progress.publish_durable(20, 1);
        releaser.close();
        releaser.run();
        assert_eq!(*told.lock(), [20]);
    }
}
