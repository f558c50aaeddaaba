//! How the agents are set up.

use std::path::PathBuf;

use karat_edge_node::signature::ModelTrust;
use thiserror::Error;

use crate::oracle::OracleError;

/// Most permits: every open job may hold an asset's bytes while it is inspected.
pub const PERMITS_MAX: usize = 65_536;
/// Most threads for inspection.
pub const WORKERS_MAX: usize = 64;
/// Most images audited at once; the auditor itself takes up to 1,024 in a call.
pub const BATCH_MAX: usize = 256;
/// Most assets of a collection that a new one is compared with.
pub const SIMILAR_ASSETS_MAX: usize = 1 << 20;
/// Most collections whose assets are remembered.
pub const SIMILAR_COLLECTIONS_MAX: usize = 1_024;

/// How the agents are set up.
#[derive(Clone, Debug)]
pub struct AgentsConfig {
    /// Most jobs in flight; [`crate::AgentsHandle::offer`] waits for one of them.
    pub permits: usize,
    /// Threads that inspect.
    pub workers: usize,
    /// Most images audited at once.
    pub batch_max: usize,
    /// A worker that finishes nothing of its batch for so long is stuck and replaced, milliseconds. Time in which it
    /// waited for a processor does not count, where the system tells (Linux).
    pub stall_ms: u64,
    /// Most workers replaced for being stuck within a minute. At the bound the stuck one keeps its jobs until the
    /// minute has passed.
    pub replacements_a_minute_max: usize,
    /// Most stuck threads left running. A thread cannot be ended from outside, so at the bound none is replaced until
    /// one of them ends by itself.
    pub stuck_threads_max: usize,
    /// A job that breaks or stalls its worker this often goes to people.
    pub breakdowns_max: u32,
    /// How often content, collection or auditor are looked for before a job goes to people without them.
    pub looks_max: u32,
    /// First wait before looking again, milliseconds; it doubles each time.
    pub look_again_ms: u64,
    /// First wait before submitting again, milliseconds; it doubles each time up to [`Self::submit_again_ms_max`].
    pub submit_again_ms: u64,
    /// Longest wait before submitting again, milliseconds.
    pub submit_again_ms_max: u64,
    /// A job whose verdict was turned away this often counts as parked: it stays open and is tried at the longest wait.
    pub submissions_until_parked: u32,
    /// A verdict that has no answer for so long is submitted again, milliseconds.
    pub answer_ms_max: u64,
    /// What findings follow from scores, beside the sequenced policy.
    pub rules: Rules,
    /// Generator folders, for re-execution.
    pub models: Vec<PathBuf>,
    /// The auditor's folder.
    pub auditor: PathBuf,
    /// Whose signatures of models count. Asked again whenever a worker loads a folder.
    pub trust: ModelTrust,
    /// Assets of a collection that a new one is compared with: its last ones. A full collection takes about 9 MB, and a
    /// look-up compares with all of them.
    pub similar_assets_max: usize,
    /// Collections whose assets are remembered; the one unused for longest makes room.
    pub similar_collections_max: usize,
    /// Where embeddings and drift figures outlive a restart; `None` keeps them in memory only. What lies there can be
    /// deleted.
    pub similarity_folder: Option<PathBuf>,
}

impl Default for AgentsConfig {
    fn default() -> AgentsConfig {
        AgentsConfig {
            permits: 256,
            workers: 1,
            batch_max: 16,
            stall_ms: 30_000,
            replacements_a_minute_max: 4,
            stuck_threads_max: 8,
            breakdowns_max: 3,
            looks_max: 5,
            look_again_ms: 50,
            submit_again_ms: 10,
            submit_again_ms_max: 5_000,
            submissions_until_parked: 8,
            answer_ms_max: 60_000,
            rules: Rules::default(),
            models: Vec::new(),
            auditor: PathBuf::new(),
            trust: ModelTrust::default(),
            similar_assets_max: 65_536,
            similar_collections_max: 16,
            similarity_folder: None,
        }
    }
}

/// Limits that are not part of the sequenced policy. They shape findings, and findings are in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// From this confidence on a contradicting reading rejects; below it people look. Parts per million.
    pub sure_ppm: u32,
    /// Below this confidence a contradicting reading is only noted, parts per million. The default 0 sends every
    /// contradiction to people; raise it for an auditor that is often wrong where it is unsure.
    pub unclear_below_ppm: u32,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            sure_ppm: 900_000,
            unclear_below_ppm: 0,
        }
    }
}

/// The agents cannot start.
#[derive(Debug, Error)]
pub enum AgentsError {
    /// A setting makes no sense.
    #[error("agents.{key} is {found}; it must be {expected}")]
    Setting {
        /// Which one.
        key: &'static str,
        /// Its value.
        found: u64,
        /// What it may be.
        expected: &'static str,
    },
    /// The models cannot be loaded.
    #[error("agents: {0}")]
    Models(#[from] OracleError),
    /// The system gives no thread.
    #[error("agents: cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The actor system ended before it was ready.
    #[error("agents: the actor system ended before it was ready; its panic message says why")]
    NotReady,
}

impl AgentsConfig {
    /// Checks every number.
    ///
    /// # Errors
    /// [`AgentsError::Setting`] with the key, its value and what it may be.
    pub fn check(&self) -> Result<(), AgentsError> {
        let within = |key, found: u64, most: u64, expected| {
            if (1..=most).contains(&found) {
                Ok(())
            } else {
                Err(AgentsError::Setting {
                    key,
                    found,
                    expected,
                })
            }
        };
        let hour_ms = 3_600_000;
        within(
            "permits",
            self.permits as u64,
            PERMITS_MAX as u64,
            "1 to 65,536",
        )?;
        within(
            "workers",
            self.workers as u64,
            WORKERS_MAX as u64,
            "1 to 64",
        )?;
        within(
            "batch_max",
            self.batch_max as u64,
            BATCH_MAX as u64,
            "1 to 256",
        )?;
        within(
            "similar_assets_max",
            self.similar_assets_max as u64,
            SIMILAR_ASSETS_MAX as u64,
            "1 to 1,048,576",
        )?;
        within(
            "similar_collections_max",
            self.similar_collections_max as u64,
            SIMILAR_COLLECTIONS_MAX as u64,
            "1 to 1,024",
        )?;
        within("stall_ms", self.stall_ms, hour_ms, "1 to 3,600,000")?;
        within(
            "replacements_a_minute_max",
            self.replacements_a_minute_max as u64,
            1_000,
            "1 to 1,000",
        )?;
        within(
            "stuck_threads_max",
            self.stuck_threads_max as u64,
            64,
            "1 to 64",
        )?;
        within(
            "breakdowns_max",
            self.breakdowns_max.into(),
            100,
            "1 to 100",
        )?;
        within("looks_max", self.looks_max.into(), 16, "1 to 16")?;
        within("look_again_ms", self.look_again_ms, 60_000, "1 to 60,000")?;
        within(
            "submit_again_ms_max",
            self.submit_again_ms_max,
            hour_ms,
            "1 to 3,600,000",
        )?;
        within(
            "submit_again_ms",
            self.submit_again_ms,
            self.submit_again_ms_max,
            "1 to submit_again_ms_max",
        )?;
        within(
            "submissions_until_parked",
            self.submissions_until_parked.into(),
            1_000,
            "1 to 1,000",
        )?;
        within(
            "answer_ms_max",
            self.answer_ms_max,
            hour_ms,
            "1 to 3,600,000",
        )?;
        within(
            "rules.sure_ppm",
            self.rules.sure_ppm.into(),
            karat_proto::limits::PPM.into(),
            "1 to 1,000,000",
        )?;
        if self.rules.unclear_below_ppm > self.rules.sure_ppm {
            return Err(AgentsError::Setting {
                key: "rules.unclear_below_ppm",
                found: self.rules.unclear_below_ppm.into(),
                expected: "0 to rules.sure_ppm",
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass_and_a_zero_is_named() {
        AgentsConfig::default().check().unwrap();
        let config = AgentsConfig {
            permits: 0,
            ..AgentsConfig::default()
        };
        let message = config.check().unwrap_err().to_string();
        assert_eq!(message, "agents.permits is 0; it must be 1 to 65,536");
    }
}
