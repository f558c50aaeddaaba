//! A broker that belongs to one test, which may stop it, also of other crates. `deploy/kafka/start.sh` starts it; on a machine
//! without Java or Maven the test says that it was skipped.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

/// A broker, stopped when it goes out of scope.
pub struct Broker {
    folder: tempfile::TempDir,
    port: u16,
}

impl Broker {
    /// Starts one, if this machine can.
    pub fn start() -> Option<Self> {
        Self::start_with("")
    }

    /// With these lines more among the broker's properties.
    pub fn start_with(properties: &str) -> Option<Self> {
        for tool in ["java", "mvn"] {
            if Command::new(tool).arg("-version").output().is_err() {
                println!("skipped: no broker can be started, because {tool} is missing");
                return None;
            }
        }
        // Freed at once; two ports in a row, for the broker and its controller.
        let port = (0..100)
            .map(|_| {
                let taken = TcpListener::bind("127.0.0.1:0").unwrap();
                taken.local_addr().unwrap().port()
            })
            .find(|port| *port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok())
            .unwrap();
        let broker = Self {
            folder: tempfile::tempdir().unwrap(),
            port,
        };
        std::fs::write(broker.folder.path().join("more.properties"), properties).unwrap();
        if !broker.script("start.sh", &[&port.to_string()]) {
            println!("skipped: no broker could be started");
            return None;
        }
        Some(broker)
    }

    fn script(&self, name: &str, more: &[&str]) -> bool {
        let scripts = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kafka"));
        Command::new(scripts.join(name))
            .env(
                "KARAT_KAFKA_PROPERTIES",
                self.folder.path().join("more.properties"),
            )
            .arg(self.folder.path())
            .args(more)
            .status()
            .unwrap()
            .success()
    }

    /// Stops it; `--now` among the arguments kills it.
    pub fn stop(&self, how: &[&str]) {
        assert!(self.script("stop.sh", how));
    }

    /// Starts it again with what it held.
    pub fn start_again(&self) {
        assert!(self.script("start.sh", &[&self.port.to_string()]));
    }

    pub fn restart(&self, how: &[&str]) {
        self.stop(how);
        self.start_again();
    }

    /// Sends it a signal by its name.
    pub fn signal(&self, name: &str) {
        let id = std::fs::read_to_string(self.folder.path().join("pid")).unwrap();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), id.trim()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.script("stop.sh", &["--now"]);
    }
}
