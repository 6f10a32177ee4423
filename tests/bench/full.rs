//! Measures the whole way: from a filled stream to committed, through the real nats-server and the real worker.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::Stream;
use futures::StreamExt;
use streamgauge::nats::{Outgoing, Publisher, PublisherOptions};

use crate::flame;
use crate::support::{Database, NatsServer, Worker, http_get};

const POLL: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(900);

/// A server and a stopped worker, with the last sequence of the stream.
pub struct Bench {
    server: NatsServer,
    worker: Worker,
    last_sequence: u64,
    folder: tempfile::TempDir,
}

/// The cost of a run over a filled stream.
pub struct Run {
    /// Committed messages a second, from the moment when the worker reads the stream.
    pub rate_per_s: f64,
    /// Seconds of CPU time for a million messages.
    pub cpu_s_per_million: f64,
    /// The peak resident size, in MiB.
    pub peak_mib: f64,
    /// Seconds that the writer spent, by part of its work.
    pub write_s: BTreeMap<String, f64>,
}

impl Bench {
    pub async fn start() -> Self {
        let server = NatsServer::start().await;
        let folder = tempfile::Builder::new().prefix("streamgauge-bench").tempdir().unwrap();
        // The first run creates the streams.
        let mut worker = Worker::new(folder.path(), &server.url());
        worker.start_reading().await;
        assert!(worker.stop().await.success());
        Self { server, worker, last_sequence: 0, folder }
    }

    pub fn database(&self) -> PathBuf {
        self.worker.database().0
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    pub async fn stream(&self) -> Stream {
        self.server.jetstream().await.get_stream("ANALYTICS").await.unwrap()
    }

    /// Deletes the consumers of the scripts, so that a script reads the whole stream again.
    pub async fn forget_consumers(&self) {
        let stream = self.stream().await;
        let names: Vec<String> = stream.consumer_names().map(Result::unwrap).collect().await;
        for name in names.iter().filter(|name| name.starts_with("instead")) {
            stream.delete_consumer(name).await.unwrap();
        }
    }

    /// Sets the worker's configuration from now on.
    pub fn configure(&self, toml: &str) {
        std::fs::write(self.folder.path().join("streamgauge.toml"), toml).unwrap();
    }

    /// Runs the worker with another configuration and an empty file, over the whole stream.
    pub async fn run_anew(&mut self, toml: &str) -> Run {
        self.configure(toml);
        self.remove_database();
        self.run().await
    }

    /// Runs the worker on a copy of a file, over the messages that the stream holds beyond that file.
    pub async fn run_on_copy(&mut self, file: &Path) -> Run {
        self.remove_database();
        copy(file, &self.database());
        self.run().await
    }

    /// Copies the database to a file beside it. Returns the path of the copy.
    pub fn keep_copy(&self) -> PathBuf {
        let kept = self.folder.path().join("kept.db");
        copy(&self.database(), &kept);
        kept
    }

    fn remove_database(&self) {
        for file in ["streamgauge.db", "streamgauge.db-wal", "streamgauge.db-shm"] {
            let _ = std::fs::remove_file(self.folder.path().join(file));
        }
    }

    /// Returns a command on the bench's stream and database.
    pub fn command(&self) -> std::process::Command {
        self.worker.command()
    }

    /// Publishes the messages to the stream.
    pub async fn publish(&mut self, messages: Vec<Outgoing>) {
        let publisher = Publisher::connect(&self.server.url(), PublisherOptions::default()).await.unwrap();
        let mut receipts = VecDeque::new();
        for message in messages {
            receipts.push_back(publisher.publish(message).await.unwrap());
            if receipts.len() > 4_000 {
                receipts.pop_front().unwrap().await.unwrap();
            }
        }
        for receipt in receipts {
            self.last_sequence = receipt.await.unwrap().sequence;
        }
    }

    /// Purges the stream of applied messages, so that the server's share of the machine stays the same.
    pub async fn purge(&self) {
        self.stream().await.purge().await.unwrap();
    }

    /// Does the same as [`Self::run_anew`] while perf samples the worker.
    pub async fn run_recorded(&mut self, toml: &str, file: &Path) -> Run {
        self.configure(toml);
        self.remove_database();
        self.worker.start_reading().await;
        let mut perf = flame::record(self.worker.pid(), file);
        let run = self.finish_run(0).await;
        assert!(perf.wait().unwrap().success());
        run
    }

    /// Runs the worker until all messages are committed.
    pub async fn run(&mut self) -> Run {
        let before = self.worker.database().applied();
        self.worker.start_reading().await;
        self.finish_run(before).await
    }

    async fn finish_run(&mut self, before: u64) -> Run {
        let (database, began) = (self.worker.database(), Instant::now());
        self.applied_beyond(self.last_sequence - 1).await;
        let took = began.elapsed();
        let count = (self.last_sequence - before) as f64;
        let address = self.worker.http_address().await;
        let run = Run {
            rate_per_s: count / took.as_secs_f64(),
            cpu_s_per_million: cpu_s(self.worker.pid()) / count * 1e6,
            peak_mib: peak_mib(self.worker.pid()),
            write_s: write_s(&http_get(&address, "/metrics", "").await.1),
        };
        assert!(self.worker.stop().await.success());
        database.assert_account_balances();
        assert_eq!(database.count("_rejections"), 0);
        run
    }

    async fn applied_beyond(&self, sequence: u64) -> u64 {
        let (database, until) = (self.worker.database(), Instant::now() + PATIENCE);
        loop {
            let applied = database.applied();
            if applied > sequence {
                return applied;
            }
            assert!(Instant::now() < until, "waited {PATIENCE:?} at {applied}: {}", self.worker.log());
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Copies a database that nobody has open. Waits until the copy is on the disk, so that the disk does not write it
/// during a measurement.
pub fn copy(file: &Path, copy: &Path) {
    // If a reader closes the database last, the write-ahead log stays behind.
    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
    Database(file.to_owned()).write().query_row(checkpoint, [], |_| Ok(())).unwrap();
    std::fs::copy(file, copy).unwrap();
    std::fs::File::open(copy).unwrap().sync_all().unwrap();
}

/// Reads lines such as `streamgauge_write_seconds_total{part="raw"} 1.5`. Returns seconds by part.
fn write_s(metrics: &str) -> BTreeMap<String, f64> {
    let parts = metrics.lines().filter_map(|line| line.strip_prefix("streamgauge_write_seconds_total{part=\""));
    parts.filter_map(|rest| rest.split_once("\"} ")).map(|(part, s)| (part.to_owned(), s.parse().unwrap())).collect()
}

fn cpu_s(pid: u32) -> f64 {
    // Linux reports CPU time to every program in this unit, whatever the kernel counts in.
    const TICKS_PER_S: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(f64::NAN);
    (ticks(11) + ticks(12)) / TICKS_PER_S
}

/// Returns the peak resident size of a process, in MiB.
pub fn peak_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}
