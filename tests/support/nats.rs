use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use async_nats::jetstream;

use super::wait_for;

const CONFIG: &str = "nats.conf";

/// A nats-server with JetStream, in a folder of its own.
pub struct NatsServer {
    process: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl NatsServer {
    pub async fn start() -> Self {
        Self::start_with_max_payload(1 << 20).await
    }

    /// Starts a server that accepts messages of up to this many bytes.
    pub async fn start_with_max_payload(bytes: usize) -> Self {
        Self::start_with(&max_payload(bytes)).await
    }

    /// Starts a server with this configuration. The address and the store folder are set beside it.
    pub async fn start_with(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(CONFIG), config).unwrap();
        let (process, port) = spawn(folder.path(), None).await;
        Self { process, folder, port }
    }

    /// Restarts the server with another maximum payload. The store stays.
    pub async fn restart_with_max_payload(&mut self, bytes: usize) {
        std::fs::write(self.folder.path().join(CONFIG), max_payload(bytes)).unwrap();
        self.restart().await;
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Stops the process (SIGSTOP): the server reads no more bytes until it is killed.
    pub fn pause(&self) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    }

    /// Kills the server, as kill -9 does.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Kills the server and starts it again, on the same port and store.
    pub async fn restart(&mut self) {
        self.kill();
        (self.process, _) = spawn(self.folder.path(), Some(self.port)).await;
    }

    /// Copies the server's store, as a backup would. The server is stopped during the copy.
    pub async fn copy_store(&mut self) -> tempfile::TempDir {
        self.kill();
        let copy = tempfile::tempdir().unwrap();
        copy_tree(&self.store(), copy.path());
        self.restart().await;
        copy
    }

    /// Restores a copied store: the stream is rolled back.
    pub async fn restore_store(&mut self, copy: &Path) {
        self.kill();
        std::fs::remove_dir_all(self.store()).unwrap();
        copy_tree(copy, &self.store());
        self.restart().await;
    }

    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(self.url()).await.unwrap())
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn max_payload(bytes: usize) -> String {
    format!("max_payload: {bytes}\nmax_pending: {}\n", 64 << 20)
}

/// Returns the nats-server that `NATS_SERVER` names (`deploy/test` sets it), else the fetched one, else the one on
/// PATH.
pub fn nats_server() -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/nats-server/bin/nats-server");
    match std::env::var_os("NATS_SERVER") {
        Some(path) => path.into(),
        None if fetched.is_file() => fetched,
        None => "nats-server".into(),
    }
}

async fn spawn(folder: &Path, port: Option<u16>) -> (Child, u16) {
    let process = Command::new(nats_server())
        .arg("--jetstream")
        .arg("--config")
        .arg(folder.join(CONFIG))
        .args(["--addr", "127.0.0.1", "--port", &port.map_or("-1".into(), |port| port.to_string())])
        .arg("--store_dir")
        .arg(folder.join("store"))
        .arg("--ports_file_dir")
        .arg(folder)
        .stderr(Stdio::null())
        .spawn()
        .expect("nats-server is missing: run deploy/nats-server, or set NATS_SERVER");
    let file = folder.join(format!("nats-server_{}.ports", process.id()));
    let mut bound = None;
    wait_for("nats-server", || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let ports: Option<serde_json::Value> = serde_json::from_str(&text).ok();
        let url = ports.and_then(|ports| ports["nats"][0].as_str().map(str::to_owned));
        bound = url.and_then(|url| url.rsplit(':').next()?.parse().ok());
        bound.is_some()
    })
    .await;
    (process, bound.unwrap())
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
