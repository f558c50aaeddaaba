//! How a thread has fared for the processor: what it ran, and what it was kept waiting. A worker that no processor is
//! given to is not stuck, and on a full machine the threads behind the ledger wait for seconds.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// What Linux counts of one thread; elsewhere nothing can be read.
#[derive(Debug)]
pub(crate) struct RunQueue {
    folder: PathBuf,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Fared {
    /// Time on a processor, since the thread began.
    pub(crate) ran: Duration,
    /// Time that it could have run and was not let, without the wait that may be going on.
    pub(crate) waited: Duration,
    /// Whether it runs or wants to.
    pub(crate) wants_to_run: bool,
}

impl RunQueue {
    /// The calling thread's; `None` where the system does not say.
    pub(crate) fn of_this_thread() -> Option<RunQueue> {
        let thread = fs::read_link("/proc/thread-self").ok()?;
        let queue = RunQueue {
            folder: PathBuf::from("/proc").join(thread),
        };
        queue.read().is_some().then_some(queue)
    }

    /// The counts now; `None` once the thread has ended.
    pub(crate) fn read(&self) -> Option<Fared> {
        // "ran waited turns", nanoseconds.
        let counts = fs::read_to_string(self.folder.join("schedstat")).ok()?;
        let mut counts = counts.split_ascii_whitespace();
        let mut next = || Some(Duration::from_nanos(counts.next()?.parse().ok()?));
        let (ran, waited) = (next()?, next()?);
        // "id (name) state ..."; a name may hold anything, brackets too.
        let stat = fs::read_to_string(self.folder.join("stat")).ok()?;
        let (_, behind_name) = stat.rsplit_once(") ")?;
        Some(Fared {
            ran,
            waited,
            wants_to_run: behind_name.starts_with('R'),
        })
    }
}

impl Fared {
    /// How much of the time that passed since `before` the thread could use: while it wants to run, only what it ran;
    /// while it sleeps, all but what it was kept waiting before.
    pub(crate) fn could_use(&self, before: &Fared, passed: Duration) -> Duration {
        if self.wants_to_run {
            self.ran.saturating_sub(before.ran).min(passed)
        } else {
            passed.saturating_sub(self.waited.saturating_sub(before.waited))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn fared(ran_ms: u64, waited_ms: u64, wants_to_run: bool) -> Fared {
        Fared {
            ran: Duration::from_millis(ran_ms),
            waited: Duration::from_millis(waited_ms),
            wants_to_run,
        }
    }

    #[test]
    fn a_thread_that_is_not_let_run_could_use_only_what_it_ran() {
        let before = fared(100, 50, true);
        let starved = fared(103, 50, true).could_use(&before, SECOND);
        assert_eq!(starved, Duration::from_millis(3));
        let turning_in_circles = fared(1_100, 50, true).could_use(&before, SECOND);
        assert_eq!(turning_in_circles, SECOND);
    }

    #[test]
    fn a_thread_that_sleeps_could_use_all_but_its_waits() {
        let before = fared(100, 50, true);
        assert_eq!(fared(100, 50, false).could_use(&before, SECOND), SECOND);
        let kept_waiting = fared(101, 950, false).could_use(&before, SECOND);
        assert_eq!(kept_waiting, Duration::from_millis(100));
        assert!(
            fared(101, 9_950, false)
                .could_use(&before, SECOND)
                .is_zero()
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_tells_a_thread_at_work_from_one_that_sleeps_and_one_that_has_ended() {
        if RunQueue::of_this_thread().is_none() {
            println!("skipped: this system tells nothing of threads");
            return;
        }
        let (tell, told) = mpsc::channel();
        let (wake, woken) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("odd) R name".into())
            .spawn(move || {
                let queue = RunQueue::of_this_thread().unwrap();
                let begin = queue.read().unwrap();
                assert!(begin.wants_to_run);
                let mut now = begin;
                while now.ran < begin.ran + Duration::from_millis(5) {
                    now = queue.read().unwrap();
                }
                tell.send(queue).unwrap();
                let _ = woken.recv();
            })
            .unwrap();
        let queue = told.recv().unwrap();
        while queue.read().unwrap().wants_to_run {
            std::thread::yield_now();
        }
        wake.send(()).unwrap();
        thread.join().unwrap();
        // The system takes the thread away a moment after it was joined.
        while queue.read().is_some() {
            std::thread::yield_now();
        }
    }
}
