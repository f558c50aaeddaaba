//! What an engine is to its realm: it leads, it follows another one that does, or it only reads a folder.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use karat_proto::Code;
use karat_proto::convert::Refused;
use parking_lot::Mutex;

/// What an engine is to its realm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It answers questions about a folder that nobody runs, or it has not begun yet.
    Reader,
    /// It takes commands.
    Leader,
    /// It reads the leader's log and takes over when the leader is gone.
    Follower,
}

/// What a follower knows of its leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// Where the leader says that it listens; empty while that is not known.
    pub leader: String,
    /// Milliseconds since something was read from the leader.
    pub age_ms: u64,
    /// The last sequence that the leader had in its log by then.
    pub leader_seq: u64,
}

struct Known {
    leader: String,
    leader_seq: u64,
    heard: Instant,
}

/// The role of one engine, as it is now; shared by everything that asks.
pub struct RealmRole {
    role: AtomicU8,
    epoch: AtomicU64,
    known: Mutex<Known>,
    /// The leader has written its last block.
    left: AtomicBool,
    /// The bid of this follower was not answered, so nobody here knows whether it leads.
    unsettled: AtomicBool,
    lease: Mutex<Option<JoinHandle<()>>>,
}

impl RealmRole {
    /// A reader of a log whose last leader had this epoch.
    pub fn new(epoch: u64) -> RealmRole {
        RealmRole {
            role: AtomicU8::new(Role::Reader as u8),
            epoch: AtomicU64::new(epoch),
            known: Mutex::new(Known {
                leader: String::new(),
                leader_seq: 0,
                heard: Instant::now(),
            }),
            left: AtomicBool::new(false),
            unsettled: AtomicBool::new(false),
            lease: Mutex::new(None),
        }
    }

    /// What this engine is now.
    pub fn now(&self) -> Role {
        match self.role.load(Ordering::SeqCst) {
            role if role == Role::Leader as u8 => Role::Leader,
            role if role == Role::Follower as u8 => Role::Follower,
            _ => Role::Reader,
        }
    }

    /// From now on it is this.
    pub fn set(&self, role: Role) {
        self.role.store(role as u8, Ordering::SeqCst);
    }

    /// The highest epoch that was read or is led.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Notes a leader's epoch.
    pub fn set_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::SeqCst);
    }

    /// Something was read from the leader, whose log reaches at least to this sequence.
    pub fn heard(&self, leader_seq: u64) {
        let mut known = self.known.lock();
        known.heard = Instant::now();
        known.leader_seq = known.leader_seq.max(leader_seq);
    }

    /// The leader said where it listens; empty for a leader that is not known.
    pub fn set_leader(&self, address: &str) {
        let mut known = self.known.lock();
        if known.leader != address {
            address.clone_into(&mut known.leader);
        }
    }

    /// What is known of the leader, where this engine follows.
    pub fn followed(&self) -> Option<Followed> {
        if self.now() != Role::Follower {
            return None;
        }
        let known = self.known.lock();
        Some(Followed {
            leader: known.leader.clone(),
            age_ms: u64::try_from(known.heard.elapsed().as_millis()).unwrap_or(u64::MAX),
            leader_seq: known.leader_seq,
        })
    }

    /// Why no command is taken here.
    ///
    /// # Errors
    /// Where this engine follows: names the leader if it is known.
    pub fn refuse_unless_leading(&self) -> Result<(), Refused> {
        let Some(followed) = self.followed() else {
            return Ok(());
        };
        let message = match followed.leader.as_str() {
            "" => {
                "this engine is not the leader of the realm, and it does not know who is".to_owned()
            }
            leader => format!("this engine is not the leader of the realm; {leader} is"),
        };
        Err(Refused::new(Code::NotLeader, message))
    }

    /// Keeps the thread that tells others that this engine leads.
    pub fn keep_lease(&self, thread: JoinHandle<()>) {
        *self.lease.lock() = Some(thread);
    }

    /// Whether the leader has written its last block.
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::SeqCst)
    }

    /// The last block is written: others may lead at once. Waits until they were told, which is bounded by the lease's
    /// own waits.
    pub fn leave(&self) {
        self.left.store(true, Ordering::SeqCst);
        if let Some(thread) = self.lease.lock().take() {
            thread.thread().unpark();
            // Its panic was its own report.
            let _ = thread.join();
        }
    }

    /// A bid was not answered.
    pub fn set_unsettled(&self) {
        self.unsettled.store(true, Ordering::SeqCst);
    }

    /// Whether a bid was not answered, so that following has to begin anew.
    pub fn is_unsettled(&self) -> bool {
        self.unsettled.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_follower_refuses_and_names_the_leader_it_knows() {
        let role = RealmRole::new(3);
        assert_eq!((role.now(), role.epoch()), (Role::Reader, 3));
        assert!(role.refuse_unless_leading().is_ok());
        role.set(Role::Follower);
        role.heard(7);
        role.heard(5);
        assert_eq!(role.followed().map(|one| one.leader_seq), Some(7));
        let refused = role.refuse_unless_leading().unwrap_err();
        assert_eq!(refused.code, Code::NotLeader);
        assert!(refused.message.contains("does not know"), "{refused:?}");
        role.set_leader("10.0.0.1:7400");
        let refused = role.refuse_unless_leading().unwrap_err();
        assert!(refused.message.contains("10.0.0.1:7400 is"), "{refused:?}");
        role.set(Role::Leader);
        assert!(role.refuse_unless_leading().is_ok() && role.followed().is_none());
    }
}
