//! Sleeping for microseconds without spinning.
//!
//! tokio's timers turn once a millisecond: at 5,000 arrivals a second every message would be half a millisecond late on
//! average, and the generator would measure itself. A timerfd in the runtime's own epoll set wakes within some tens of
//! microseconds and costs two system calls a wake.

use std::time::Duration;

/// A timer for one task.
#[cfg(target_os = "linux")]
pub struct FineTimer {
    descriptor: tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
}

#[cfg(target_os = "linux")]
impl FineTimer {
    /// A timer of the runtime that this is called in.
    ///
    /// # Errors
    /// When the system gives no descriptor.
    pub fn new() -> std::io::Result<FineTimer> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // SAFETY: the descriptor must stay open and the same while it is registered. It is an `OwnedFd` that is moved in
        // here: it is closed only when the `AsyncFd` drops it, after deregistering, and nothing here takes it out or
        // replaces it.
        let descriptor = unsafe {
            tokio::io::unix::AsyncFd::register_with_interest(
                descriptor,
                tokio::io::Interest::READABLE,
            )?
        };
        Ok(FineTimer { descriptor })
    }

    /// Sleeps for `duration`, at least a nanosecond.
    ///
    /// # Errors
    /// When the system refuses the timer.
    pub async fn sleep(&self, duration: Duration) -> std::io::Result<()> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        // Zero would disarm it.
        let duration = duration.max(Duration::from_nanos(1));
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: duration.as_secs() as i64,
                tv_nsec: i64::from(duration.subsec_nanos()),
            },
        };
        timerfd_settime(self.descriptor.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.descriptor.readable().await?;
            let read = ready.try_io(|descriptor| {
                let mut expirations = [0; 8];
                Ok(rustix::io::read(descriptor, &mut expirations)?)
            });
            match read {
                Ok(expired) => return expired.map(|_| ()),
                Err(_not_yet) => continue,
            }
        }
    }
}

/// A timer for one task. Milliseconds here: the report's scheduling error says what that costs.
#[cfg(not(target_os = "linux"))]
pub struct FineTimer;

#[cfg(not(target_os = "linux"))]
impl FineTimer {
    /// A timer.
    ///
    /// # Errors
    /// Never here.
    pub fn new() -> std::io::Result<FineTimer> {
        Ok(FineTimer)
    }

    /// Sleeps for `duration`.
    ///
    /// # Errors
    /// Never here.
    pub async fn sleep(&self, duration: Duration) -> std::io::Result<()> {
        tokio::time::sleep(duration).await;
        Ok(())
    }
}

/// What the system did with this thread so far.
#[derive(Clone, Copy, Debug)]
pub struct ThreadTime {
    /// It ran, nanoseconds.
    pub ran_ns: u64,
    /// It could have run, but another thread had the processor, nanoseconds.
    pub waited_ns: u64,
}

impl ThreadTime {
    /// Up to now; `None` where the system does not say.
    pub fn now() -> Option<ThreadTime> {
        let line = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        let mut fields = line.split_whitespace();
        Some(ThreadTime {
            ran_ns: fields.next()?.parse().ok()?,
            waited_ns: fields.next()?.parse().ok()?,
        })
    }
}
