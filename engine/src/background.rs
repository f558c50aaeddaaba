//! Threads for everything behind the ledger: they get the processor when the way from client to log does not need it.
//!
//! Two cores serve the whole pipeline. Projection, agents, settlement and snapshots are behind the log and may lag; with a
//! lower priority they lag instead of making an answer wait. While an engine starts they have the common priority, because
//! the start waits for them: with the lower one it would take minutes on a machine that others keep busy.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::{Builder, Handle, Runtime};

/// How the names of all threads begin that are behind the ledger: this runtime's, the agents', the embedded store's.
const BEHIND: [&str; 3] = [RUNTIME, "karat-agent", "fjall:"];
const RUNTIME: &str = "karat-behind";

/// A runtime for what is behind the ledger; [`Background::step_back`] lowers its threads' priority.
///
/// It may be dropped on any thread, as when a start fails half way: what runs in it is abandoned then.
pub struct Background {
    runtime: Option<Runtime>,
    handle: Handle,
    stepped_back: Arc<AtomicBool>,
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

/// Starts the threads, with the common priority.
///
/// # Errors
/// When the system gives no thread.
pub fn runtime() -> std::io::Result<Background> {
    let stepped_back = Arc::new(AtomicBool::new(false));
    let is_back = stepped_back.clone();
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name(RUNTIME)
        .on_thread_start(move || {
            if is_back.load(Ordering::SeqCst) {
                give_way(0);
            }
        })
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    Ok(Background {
        runtime: Some(runtime),
        handle,
        stepped_back,
    })
}

impl Background {
    /// Gives every thread behind the ledger the lower priority, for good; threads that they start inherit it. A system
    /// that refuses leaves them as they are, which costs only latency.
    pub fn step_back(&self) {
        // A thread of the runtime that starts from here on sees this; one that started before has its name already.
        self.stepped_back.store(true, Ordering::SeqCst);
        for thread in threads_named(&BEHIND) {
            give_way(thread);
        }
    }
}

/// This process's threads whose names begin so; none where the system does not list them.
fn threads_named(beginnings: &[&str]) -> Vec<i32> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return Vec::new();
    };
    let found = tasks.flatten().filter_map(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let is_wanted = beginnings
            .iter()
            .any(|beginning| name.starts_with(beginning));
        is_wanted.then(|| task.file_name().to_str()?.parse().ok())?
    });
    found.collect()
}

/// Gives a thread Linux's idle policy; 0 is the calling one.
///
/// At 5,000 commands a second on two cores this brought p99 of SEQUENCED from 1.04-1.30 ms (nice 10; nice 19 gave 1.13-1.16)
/// to 0.63-0.79 ms, since a thread of this policy is mostly interrupted the moment another one wakes (`pace.rs` says when not).
/// Where both cores are wanted all the time, what is behind the log nearly stands still until there is room.
#[cfg_attr(not(target_os = "linux"), allow(unused_variables))]
fn give_way(thread: i32) {
    #[cfg(target_os = "linux")]
    {
        let parameters = libc::sched_param { sched_priority: 0 };
        // SAFETY: the pointer is to a local that outlives the call, which only reads it; the number is one of this process's
        // threads, and an error (it has ended, or the system refuses) is reported by the return value.
        let refused =
            unsafe { libc::sched_setscheduler(thread, libc::SCHED_IDLE, &raw const parameters) }
                != 0;
        if refused {
            tracing::debug!(thread, "the system does not lower a thread's priority");
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    use std::sync::mpsc;

    #[cfg(target_os = "linux")]
    use super::*;

    /// The policy of the calling thread: field 41 of its statistics, 5 for the idle one.
    #[cfg(target_os = "linux")]
    fn own_policy() -> u32 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, behind_name) = stat.rsplit_once(") ").unwrap();
        behind_name.split(' ').nth(41 - 3).unwrap().parse().unwrap()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn threads_behind_the_ledger_step_back_when_told_and_those_before_it_never() {
        let lowered = || {
            give_way(0);
            own_policy()
        };
        if std::thread::spawn(lowered).join().unwrap() != 5 {
            println!("skipped: this system does not lower a thread's priority");
            return;
        }
        let common = own_policy();
        let behind = runtime().unwrap();
        let policy_behind = || behind.block_on(behind.spawn_blocking(own_policy)).unwrap();
        assert_eq!(policy_behind(), common, "while the engine starts");
        let (ask, asked) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let agent = std::thread::Builder::new().name("karat-agent-7".into());
        let agent = agent
            .spawn(move || {
                while asked.recv().is_ok() {
                    // What an agent starts is behind the ledger as well.
                    let started = std::thread::spawn(own_policy).join().unwrap();
                    tell.send((own_policy(), started)).unwrap();
                }
            })
            .unwrap();
        ask.send(()).unwrap();
        assert_eq!(told.recv().unwrap(), (common, common));
        behind.step_back();
        ask.send(()).unwrap();
        assert_eq!(told.recv().unwrap(), (5, 5));
        assert_eq!(policy_behind(), 5);
        assert_eq!(own_policy(), common);
        drop(ask);
        agent.join().unwrap();
    }
}
