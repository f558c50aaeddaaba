//! Threads for everything behind the ledger: they get the processor when the way from client to log does not need it.
//!
//! Two cores serve the whole pipeline. Projection, agents, settlement and snapshots are behind the log and may lag; with a
//! lower priority they lag instead of making an answer wait.

use std::ops::Deref;

use tokio::runtime::{Builder, Handle, Runtime};

/// Ends without waiting when it is dropped, which is allowed inside another runtime's task; what runs on it holds no state of
/// its own.
#[derive(Debug)]
pub struct Behind(Option<Runtime>);

impl Deref for Behind {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        match &self.0 {
            Some(runtime) => runtime.handle(),
            None => unreachable!("the runtime is taken by drop alone"),
        }
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A runtime whose threads, blocking ones included, have the lower priority. Threads that they start inherit it.
///
/// It may be dropped on any thread, as when a start fails half way: what runs in it is abandoned then.
pub struct Background {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Deref for Background {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Starts the threads.
///
/// # Errors
/// When the system gives no thread.
pub fn runtime() -> std::io::Result<Background> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("karat-behind")
        .on_thread_start(lower_priority)
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    Ok(Background {
        runtime: Some(runtime),
        handle,
    })
}

/// Gives the calling thread Linux's idle policy; a system that refuses leaves it as it is, which costs only latency.
///
/// At 5,000 commands a second on two cores this brought p99 of SEQUENCED from 1.04-1.30 ms (nice 10; nice 19 gave 1.13-1.16)
/// to 0.63-0.79 ms, since a thread of this policy is interrupted the moment another one wakes. Where both cores are wanted all
/// the time, what is behind the log nearly stands still until there is room.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    {
        let parameters = libc::sched_param { sched_priority: 0 };
        // SAFETY: the pointer is to a local that outlives the call, which only reads it; 0 means the calling thread, and an
        // error is reported by the return value.
        let refused =
            unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) } != 0;
        if refused {
            tracing::debug!("the system does not lower a thread's priority");
        }
    }
}
