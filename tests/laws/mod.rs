use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use streamgauge::config::{self, Config, Sources};
use streamgauge::judge::{Batch, Criteria, Delivery, Judge};
use streamgauge::position::Position;
use streamgauge::store::{self, Lock, StoreError, Writer};

use crate::support::{Database, Random};

mod bounded;
mod dashboards;
pub mod naive_activity;
mod naive_dashboard;
pub mod naive_features;
pub mod naive_funnels;
pub mod naive_sessions;
mod people;
pub mod people_config;
mod raw;
mod rebuild;
mod replay;
pub mod rollups;
mod sessions;

/// 2026-01-31T12:00:00Z
const START_MS: i64 = 1_769_860_800_000;

/// Where a transaction is cut: what it is about to do when the power goes.
const CRASH_POINTS: [&str; 48] = [
    "INSERT ON analytics_events",
    "INSERT ON metrics",
    "INSERT ON _session_messages",
    "INSERT ON _rollup_states",
    "UPDATE ON _rollup_states",
    "INSERT ON metric_aggregates",
    "UPDATE ON metric_aggregates",
    "INSERT ON _session_states",
    "UPDATE ON _session_states",
    "INSERT ON analytics_sessions",
    "UPDATE ON analytics_sessions",
    "DELETE ON _session_states",
    "DELETE ON analytics_sessions",
    "INSERT ON _session_deadlines",
    "DELETE ON _session_deadlines",
    "INSERT ON _gap_sessions",
    "DELETE ON _gap_sessions",
    "UPDATE ON _watermark",
    "INSERT ON _activity_states",
    "UPDATE ON _activity_states",
    "INSERT ON _activity_sessions",
    "DELETE ON _activity_sessions",
    "INSERT ON user_activity",
    "UPDATE ON user_activity",
    "DELETE ON user_activity",
    "INSERT ON _feature_states",
    "INSERT ON _feature_users",
    "INSERT ON feature_usage",
    "UPDATE ON feature_usage",
    "INSERT ON _links",
    "INSERT ON _funnel_segments",
    "UPDATE ON _funnel_segments",
    "DELETE ON _funnel_segments",
    "INSERT ON funnel_conversions",
    "UPDATE ON funnel_conversions",
    "DELETE ON funnel_conversions",
    "INSERT ON _funnel_episodes",
    "INSERT ON _event_counts",
    "INSERT ON _series_states",
    "UPDATE ON _series_states",
    "DELETE ON _series_states",
    "INSERT ON _series_members",
    "INSERT ON dashboard_metrics",
    "UPDATE ON dashboard_metrics",
    "DELETE ON dashboard_metrics",
    "INSERT ON _dashboard_outbox",
    "UPDATE ON _dashboard_outbox",
    // The very end.
    "UPDATE OF stored ON _positions",
];

/// The internal tables that derived rows come from, and their columns.
const INTERNALS: [(&str, &str); 13] = [
    ("_rollup_states", "id, state"),
    ("_session_states", "id, last_activity, state"),
    ("_gap_sessions", "actor, started_at, id"),
    ("_activity_states", "user_id, date, state"),
    ("_activity_names", "user_id, date, name, n"),
    ("_activity_sessions", "user_id, started_at, session_id"),
    ("_feature_states", "feature_name, date, state"),
    ("_feature_users", "feature_name, date, user_id"),
    ("_links", "anonymous_id, state"),
    ("_funnel_episodes", "funnel, actor, opened_ms, opened_by, current_step"),
    ("_series_states", "series, period_type, period_start, state"),
    ("_series_members", "series, period_type, period_start, member"),
    ("_event_counts", "date, event_name, count"),
];

/// A database in a folder, and the writer on it.
struct Store {
    folder: tempfile::TempDir,
    writer: Writer,
    judge: Judge,
}

impl Store {
    fn new(runtime: &tokio::runtime::Runtime) -> Self {
        Self::with_config(runtime, "")
    }

    /// A database of a worker with that configuration.
    fn with_config(runtime: &tokio::runtime::Runtime, toml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), toml);
        let mut writer = open(runtime, folder.path(), &config);
        writer.begin_epoch("ANALYTICS", 1, 1).unwrap();
        let judge = Judge { prefix: "analytics".into(), stream: "ANALYTICS".into(), epoch: 1, limits: config.limits };
        Self { folder, writer, judge }
    }

    fn criteria(&self) -> Criteria {
        Criteria { prefix: self.judge.prefix.clone(), limits: self.judge.limits.clone() }
    }

    /// Closes the database and opens it again, as a worker with that configuration would, and makes anew what it asks
    /// for.
    fn reopen(self, runtime: &tokio::runtime::Runtime, toml: &str) -> Self {
        let mut store = self.reopen_frozen(runtime, toml);
        store.writer.rebuild().unwrap();
        store
    }

    /// Closes the database and opens it again; what has changed stays frozen.
    fn reopen_frozen(self, runtime: &tokio::runtime::Runtime, toml: &str) -> Self {
        let Self { folder, writer, judge } = self;
        drop(writer);
        let writer = open(runtime, folder.path(), &config(folder.path(), toml));
        Self { folder, writer, judge }
    }

    /// What is known beside the public tables: states, and the rows that stand beside states.
    fn internals(&self) -> Vec<String> {
        internals_of(&self.database())
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("streamgauge.db")
    }

    fn database(&self) -> Database {
        Database(self.path())
    }

    fn digest(&self) -> BTreeMap<String, String> {
        store::digest(&self.path()).unwrap().tables
    }

    fn batch(&self, after: &Position, deliveries: &[Delivery]) -> Batch {
        let mut batch = Batch::after(after.clone());
        for delivery in deliveries {
            batch.push(self.judge.judge(delivery.clone()));
        }
        batch
    }

    fn position(&self) -> Position {
        self.writer.position().unwrap().unwrap()
    }

    /// Writes the messages in batches of the given sizes, each in one go.
    fn write(&mut self, deliveries: &[Delivery], sizes: &[usize]) {
        self.write_with_crashes(deliveries, sizes, &[]);
    }

    /// Writes the messages in batches of the given sizes. Each is cut before at every one of the given crash points that
    /// it comes to, and begun again.
    fn write_with_crashes(&mut self, deliveries: &[Delivery], sizes: &[usize], crash_points: &[usize]) {
        let other = self.database().write();
        let (mut rest, mut sizes) = (deliveries, sizes.iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            let before = self.position();
            let batch = self.batch(&before, now);
            for point in crash_points {
                let point = CRASH_POINTS[*point];
                let cut = format!("CREATE TRIGGER cut BEFORE {point} BEGIN SELECT RAISE(ABORT, 'power cut'); END");
                other.execute_batch(&cut).unwrap();
                let result = self.writer.commit(&batch);
                other.execute_batch("DROP TRIGGER cut").unwrap();
                match result {
                    // It does not come to this point.
                    Ok(_) => break,
                    Err(StoreError::Write(error)) if error.to_string() == "power cut" => {}
                    Err(error) => panic!("{error}"),
                }
            }
            if self.position() == before && matches!(self.writer.commit(&batch), Err(StoreError::Frozen { .. })) {
                // What was damaged is left out from then on.
                self.writer.commit(&batch).unwrap();
            }
            assert!(self.position() != before);
            // A batch that is written again, say by a process that took itself for the only one, changes nothing.
            assert!(matches!(self.writer.commit(&batch), Err(StoreError::PositionMoved)));
            rest = later;
        }
    }
}

fn internals_of(database: &Database) -> Vec<String> {
    let hex = |columns: &str| columns.replace("state", "hex(state)").replace(", ", " || ' ' || ");
    let dump = |(table, columns): &(&str, &str)| {
        database.texts(&format!("SELECT '{table} ' || {} FROM {table} ORDER BY 1", hex(columns)))
    };
    INTERNALS.iter().flat_map(dump).collect()
}

fn config(folder: &Path, toml: &str) -> Config {
    let file = folder.join("streamgauge.toml");
    std::fs::write(&file, toml).unwrap();
    config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap().1
}

fn open(runtime: &tokio::runtime::Runtime, folder: &Path, config: &Config) -> Writer {
    let path = folder.join("streamgauge.db");
    runtime.block_on(async {
        let lock = Lock::acquire(&path, "test").await.unwrap();
        store::open_writer(&lock, config.rules.clone()).await.unwrap()
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut random = Random(seed);
    for at in (1..items.len()).rev() {
        items.swap(at, usize::try_from(random.below(at as u64 + 1)).unwrap());
    }
}
