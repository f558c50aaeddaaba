//! The real binary as a child process: started, killed, stopped.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use karat_engine::config::Config;
use parking_lot::Mutex;

/// A start that takes longer than this is one that needs somebody's hand.
const START_MAX: Duration = Duration::from_secs(300);
/// As for a clean stop.
const STOP_MAX: Duration = Duration::from_secs(300);

/// Model folders of the repository, or the ones that KARAT_TEST_MODELS names.
pub fn models_dir() -> PathBuf {
    std::env::var_os("KARAT_TEST_MODELS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../edge-node/models"),
        PathBuf::from,
    )
}

/// The operator's binary, or the one that KARAT_CRASH_BINARY names: a long run should not see it rebuilt.
fn binary() -> PathBuf {
    std::env::var_os("KARAT_CRASH_BINARY")
        .map_or_else(|| env!("CARGO_BIN_EXE_karat").into(), PathBuf::from)
}

/// Where a realm lies and how it is configured.
pub struct Home {
    pub config_file: PathBuf,
    pub data: PathBuf,
}

impl Home {
    /// Batches are cut early and blocks are mined fast, so that many stages of settlement lie between two kills.
    pub fn new(dir: &Path) -> Home {
        let mut config = Config::default();
        config.data.dir = dir.join("data");
        config.data.models_dir = models_dir();
        config.gateway.listen.set_port(0);
        config.log.segment_bytes = 32 << 20;
        config.settlement.block_ms = 10;
        config.policy.batch_age_ms_max = 60;
        config.policy.batch_changes_max = 256;
        // Whatever the auditor scores, people decide: what becomes of an asset must not depend on the quality of a model.
        config.policy.accept_below_ppm = 1;
        config.policy.reject_above_ppm = 1_000_000;
        config.policy.reexecution_sample_ppm = 0;
        // Ids of the whole run are remembered, so that all of it can be sent again.
        config.policy.retry_window_commands = 8_000_000;
        config.snapshot.every_commands = 1000;
        let config_file = dir.join("karat.toml");
        std::fs::write(&config_file, toml::to_string(&config).unwrap()).unwrap();
        Home {
            config_file,
            data: config.data.dir,
        }
    }

    /// Begins a start; it may be killed before it serves.
    pub fn spawn(&self) -> Engine {
        let mut child = Command::new(binary())
            .arg("serve")
            .arg("--config")
            .arg(&self.config_file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (sender, address) = channel();
        let saying = said.clone();
        // Ends with the process.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(address) = address_in(&line) {
                    let _ = sender.send(address);
                }
                let mut said = saying.lock();
                said.push_str(&line);
                said.push('\n');
            }
        });
        Engine {
            child,
            address,
            said,
            begun: Instant::now(),
        }
    }

    /// Runs a command of the operator's binary to its end.
    pub fn karat(&self, arguments: &[&str]) -> Output {
        Command::new(binary())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

/// `realm main at 127.0.0.1:40123 (gRPC); data in …`
fn address_in(line: &str) -> Option<String> {
    let rest = line.strip_prefix("realm ")?;
    let (_, rest) = rest.split_once(" at ")?;
    Some(rest.split_once(" (gRPC)")?.0.to_owned())
}

/// A running, or starting, engine.
pub struct Engine {
    child: Child,
    address: Receiver<String>,
    said: Arc<Mutex<String>>,
    begun: Instant,
}

impl Engine {
    /// Waits until it serves; gives its address and how long it took. A start that fails fails the test: none may need a hand.
    pub fn serving(&mut self) -> (String, Duration) {
        match self.address.recv_timeout(START_MAX) {
            Ok(address) => (address, self.begun.elapsed()),
            Err(RecvTimeoutError::Timeout) => {
                panic!("it does not begin to serve. It said:\n{}", self.said())
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait().unwrap();
                panic!("the start failed with {status}. It said:\n{}", self.said())
            }
        }
    }

    /// Everything that it wrote to standard error.
    pub fn said(&self) -> String {
        self.said.lock().clone()
    }

    /// SIGKILL. It must not have ended by itself before.
    pub fn kill(mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(
            ended.is_none(),
            "it ended by itself with {ended:?}. It said:\n{}",
            self.said()
        );
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM: asks for a clean stop and does not wait.
    pub fn ask_to_stop(&self) {
        // SAFETY: kill takes two integers and touches no memory of ours. The child was not waited for, so its id is its own.
        let refused = unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        assert_eq!(refused, 0);
    }

    /// Waits for the end of a clean stop.
    pub fn stopped(mut self) {
        let asked = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(
                    status.success(),
                    "a clean stop ended with {status}. It said:\n{}",
                    self.said()
                );
                return;
            }
            assert!(
                asked.elapsed() < STOP_MAX,
                "it does not stop. It said:\n{}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL, whether it still runs or not.
    pub fn kill_if_running(mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
