use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use rusqlite::{Connection, OpenFlags, Params};

use super::{PATIENCE, POLL, wait_for};

/// Returns a command that runs the binary in a folder, without the caller's environment and configuration.
pub fn command(folder: &Path, nats_url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamgauge"));
    command
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("NATS_URL", nats_url)
        .env("DATABASE_URL", format!("sqlite://{}", folder.join("streamgauge.db").display()))
        .env("STREAMGAUGE_HTTP__LISTEN", "127.0.0.1:0");
    command
}

/// A worker with its own folder and database. Both outlive the worker.
pub struct Worker {
    process: Option<Child>,
    folder: PathBuf,
    nats_url: String,
    env: Vec<(String, String)>,
    starts: usize,
}

impl Worker {
    /// Returns a worker that is not running yet.
    pub fn new(folder: &Path, nats_url: &str) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        Self { process: None, folder: folder.to_owned(), nats_url: nats_url.to_owned(), env: Vec::new(), starts: 0 }
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Returns another worker with the same configuration, but with its own database and consumer.
    pub fn twin(&self, folder: &Path) -> Self {
        let mut twin = Self::new(folder, &self.nats_url).env("STREAMGAUGE_STREAM__CONSUMER", "twin");
        twin.env.extend(self.env.iter().cloned());
        twin
    }

    pub fn command(&self) -> Command {
        let mut command = command(&self.folder, &self.nats_url);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    pub fn start_with(&mut self, flags: &[&str]) {
        assert!(self.process.is_none());
        self.starts += 1;
        let log = std::fs::File::create(self.log_file()).unwrap();
        self.process = Some(self.command().arg("run").args(flags).stderr(log).stdout(Stdio::null()).spawn().unwrap());
    }

    /// Starts the worker, and waits until it reads the stream.
    pub async fn start_reading(&mut self) {
        self.start();
        wait_for("the worker to read", || self.log().contains("reading stream")).await;
    }

    /// Returns the log since the last start.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Returns the address on which the worker serves HTTP.
    pub async fn http_address(&self) -> String {
        let address = || Some(self.log().split_once("http://")?.1.lines().next()?.to_owned());
        wait_for("HTTP", || address().is_some()).await;
        address().unwrap()
    }

    /// Returns the process id. Panics if the worker does not run.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    pub fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Sends a signal, such as `-TERM`.
    pub fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Sends SIGTERM and waits until the worker ends.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal("-TERM");
        self.ended().await
    }

    /// Waits until the worker ends, for whatever reason.
    pub async fn ended(&mut self) -> ExitStatus {
        let status = exit_of(self.process.as_mut().unwrap()).await;
        self.process = None;
        status
    }

    /// Returns the digest of the worker's database.
    pub fn digest(&self) -> String {
        self.digest_of(&self.database())
    }

    /// Returns the digest of a database, as the worker's binary prints it.
    pub fn digest_of(&self, database: &Database) -> String {
        let path = database.0.display().to_string();
        let output = self.command().args(["--database", &path, "digest", "--json"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().unwrap().is_none())
    }

    pub fn database(&self) -> Database {
        Database(self.folder.join("streamgauge.db"))
    }

    /// Waits until everything up to a sequence is committed. Gives up only if the position does not move for
    /// [`PATIENCE`].
    pub async fn applied(&self, sequence: u64) {
        let database = self.database();
        let (mut last, mut moved) = (0, Instant::now());
        loop {
            let applied = database.applied();
            if applied >= sequence {
                return;
            }
            if applied > last {
                (last, moved) = (applied, Instant::now());
            }
            assert!(moved.elapsed() < PATIENCE, "stuck at {applied}, before {sequence}; the log: {}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join(format!("run-{}.log", self.starts))
    }
}

/// Waits until a process ends.
pub async fn exit_of(process: &mut Child) -> ExitStatus {
    let mut status = None;
    wait_for("a process to end", || {
        status = process.try_wait().unwrap();
        status.is_some()
    })
    .await;
    status.unwrap()
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Reads and writes a database, as any SQLite client may.
#[derive(Debug, Clone)]
pub struct Database(pub PathBuf);

impl Database {
    pub fn read(&self) -> Connection {
        let connection = Connection::open_with_flags(&self.0, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        connection.busy_timeout(super::PATIENCE).unwrap();
        connection
    }

    pub fn write(&self) -> Connection {
        let connection = Connection::open(&self.0).unwrap();
        connection.busy_timeout(super::PATIENCE).unwrap();
        connection
    }

    /// Returns the sequence of the position, or 0 if there is none yet.
    pub fn applied(&self) -> u64 {
        let Ok(connection) = Connection::open_with_flags(&self.0, OpenFlags::SQLITE_OPEN_READ_ONLY) else { return 0 };
        let sql = "SELECT last_seq FROM _positions ORDER BY epoch DESC LIMIT 1";
        connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_or(0, |seq| seq.try_into().unwrap())
    }

    pub fn count(&self, from: &str) -> u64 {
        let sql = format!("SELECT count(*) FROM {from}");
        self.read().query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap().try_into().unwrap()
    }

    pub fn text(&self, sql: &str, params: impl Params) -> String {
        self.read().query_row(sql, params, |row| row.get(0)).unwrap()
    }

    /// Returns the first column of all rows.
    pub fn texts(&self, sql: &str) -> Vec<String> {
        let connection = self.read();
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    /// Asserts that every message is accounted for: it is stored, a duplicate, in the ledger, or in a gap.
    pub fn assert_account_balances(&self) {
        let sql = "SELECT p.last_seq - p.first_seq + 1, p.stored + p.duplicates \
                   + (SELECT count(*) FROM _rejections r WHERE r.epoch = p.epoch) \
                   + (SELECT coalesce(sum(g.last_seq - g.first_seq + 1), 0) FROM _gaps g WHERE g.epoch = p.epoch) \
                   FROM _positions p";
        let connection = self.read();
        let mut statement = connection.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).unwrap();
        for row in rows {
            let (read, ended) = row.unwrap();
            assert_eq!(read, ended);
        }
    }
}
