//! The program as a process of its own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;

use super::eventually;

/// A process. It is killed when it goes out of scope.
pub struct Process {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Process {
    /// `karat COMMAND --config FILE ARGUMENTS`.
    pub fn start(command: &str, config: &Path, arguments: &[&str]) -> Process {
        let mut child = Command::new(env!("CARGO_BIN_EXE_karat"))
            .arg(command)
            .arg("--config")
            .arg(config)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let saying = said.clone();
        // Ends with the process.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut said = saying.lock();
                said.push_str(&line);
                said.push('\n');
            }
        });
        Process { child, said }
    }

    /// Everything that it wrote for people.
    pub fn said(&self) -> String {
        self.said.lock().clone()
    }

    /// Where it said last that it listens: one that begins anew takes another port.
    pub fn address(&self) -> Option<String> {
        let said = self.said();
        let line = said.lines().rfind(|line| line.contains(" (gRPC)"))?;
        let (_, rest) = line.split_once(" at ")?;
        Some(rest.split_once(" (gRPC)")?.0.to_owned())
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let done = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.child.id().to_string())
            .status()
            .unwrap();
        assert!(done.success());
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Until the process has ended.
    pub async fn until_ended(&mut self) -> ExitStatus {
        let child = Mutex::new(&mut self.child);
        eventually("the end of the process", || {
            let ended = child.lock().try_wait().unwrap();
            async move { ended }
        })
        .await
    }
}
