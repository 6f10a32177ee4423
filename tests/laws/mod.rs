use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use streamgauge::config::{self, Config, Sources};
use streamgauge::judge::{Batch, Criteria, Delivery, Judge};
use streamgauge::position::Position;
use streamgauge::store::{self, Lock, Reader, StoreError, Writer};

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

/// Returns the crash points: the places where a test cuts a transaction, as if the power failed there. A crash point
/// is the moment just before a statement that writes to a table. Its text is the event of an SQL trigger, such as
/// `INSERT ON metrics`. Every such statement in the code has one.
fn crash_points() -> &'static [String] {
    static POINTS: OnceLock<Vec<String>> = OnceLock::new();
    POINTS.get_or_init(|| {
        let folders = ["raw", "derived", "ledger"].map(|folder| format!("src/store/sqlite/{folder}"));
        let mut points = BTreeSet::new();
        for (path, text) in folders.iter().flat_map(|folder| crate::support::files_under(folder)) {
            // Requests of commands are not part of a batch.
            if !path.ends_with("requests.rs") {
                points.extend(writes_in(&text));
            }
        }
        points.into_iter().collect()
    })
}

/// Returns the crash points of the SQL statements in a source file.
fn writes_in(source: &str) -> BTreeSet<String> {
    let source = source.replace("\\\n", " ");
    let word = |text: &str| text.trim_start().split([' ', '(', '"', ',']).next().unwrap().to_owned();
    let mut points = BTreeSet::new();
    // Each SQL statement stands between two double quotes.
    for statement in source.split('"') {
        for (verb, operation) in [("INSERT INTO ", "INSERT ON"), ("DELETE FROM ", "DELETE ON")] {
            let Some((_, rest)) = statement.split_once(verb) else { continue };
            let tables = match word(rest).as_str() {
                "{table}" if operation == "INSERT ON" => RAW_TABLES.map(str::to_owned).to_vec(),
                table if table.starts_with('{') => continue,
                table => vec![table.to_owned()],
            };
            for table in tables {
                if let Some((_, set)) = rest.split_once(" DO UPDATE SET ") {
                    points.insert(format!("UPDATE OF {} ON {table}", word(set)));
                }
                points.insert(format!("{operation} {table}"));
            }
        }
        if let Some((_, rest)) = statement.split_once("UPDATE ")
            && let Some((_, set)) = rest.split_once(" SET ")
            && !rest.starts_with("SET ")
        {
            points.insert(format!("UPDATE OF {} ON {}", word(set), word(rest)));
        }
    }
    points
}

const RAW_TABLES: [&str; 3] = ["analytics_events", "metrics", "_session_messages"];

#[test]
fn crash_points_are_the_statements_of_the_code() {
    let source = "\"INSERT INTO a (x, \\\n  y) VALUES (?1, ?2) ON CONFLICT (x) DO UPDATE SET y = excluded.y\"; \
                  \"UPDATE b SET z = ?1 WHERE x = ?2\"; \"DELETE FROM {table}\"; \"DELETE FROM c WHERE x\"";
    let expected = ["DELETE ON c", "INSERT ON a", "UPDATE OF y ON a", "UPDATE OF z ON b"];
    assert_eq!(writes_in(source), expected.map(str::to_owned).into());
    let points = crash_points();
    println!("{points:#?}");
    assert!(points.len() >= 60, "{points:#?}");
    for point in ["INSERT ON metrics", "DELETE ON _session_states", "UPDATE OF stored ON _positions"] {
        assert!(points.iter().any(|found| found == point), "{point}: {points:#?}");
    }
}

/// The internal tables behind the derived rows, with their columns.
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

/// A database in a temporary folder, with its writer and its judge.
struct Store {
    folder: tempfile::TempDir,
    writer: Writer,
    judge: Judge,
}

impl Store {
    fn new(runtime: &tokio::runtime::Runtime) -> Self {
        Self::with_config(runtime, "")
    }

    /// Creates a database as a worker with this configuration would.
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

    /// Closes the database, opens it again as a worker with this configuration would, and rebuilds the groups that
    /// the start asks to rebuild.
    fn reopen(self, runtime: &tokio::runtime::Runtime, toml: &str) -> Self {
        let mut store = self.reopen_frozen(runtime, toml);
        store.writer.rebuild_groups().unwrap();
        store
    }

    /// Closes the database and opens it again with this configuration. Groups whose rules changed stay frozen.
    fn reopen_frozen(self, runtime: &tokio::runtime::Runtime, toml: &str) -> Self {
        let Self { folder, writer, judge } = self;
        drop(writer);
        let writer = open(runtime, folder.path(), &config(folder.path(), toml));
        Self { folder, writer, judge }
    }

    /// Returns the rows of the internal tables: states, and the rows that stand beside states.
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
        digest_of(&self.path())
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

    /// Writes the messages in batches of the given sizes. No transaction is cut.
    fn write(&mut self, deliveries: &[Delivery], sizes: &[usize]) {
        self.write_with_crashes(deliveries, sizes, &[]);
    }

    /// Writes the messages in batches of the given sizes. Tries each batch with one crash point after another: the
    /// transaction is cut there and begun again. The first commit that does not reach its crash point succeeds.
    fn write_with_crashes(&mut self, deliveries: &[Delivery], sizes: &[usize], cuts: &[usize]) {
        let other = self.database().write();
        let (mut rest, mut sizes) = (deliveries, sizes.iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            let before = self.position();
            let batch = self.batch(&before, now);
            for point in cuts {
                let point = &crash_points()[*point];
                let cut = format!("CREATE TRIGGER cut BEFORE {point} BEGIN SELECT RAISE(ABORT, 'power cut'); END");
                other.execute_batch(&cut).unwrap();
                let result = self.writer.commit(&batch);
                other.execute_batch("DROP TRIGGER cut").unwrap();
                match result {
                    // The batch does not reach this crash point, so the commit succeeded.
                    Ok(_) => break,
                    Err(StoreError::Sqlite { message, .. }) if message == "power cut" => {}
                    Err(error) => panic!("{error}"),
                }
            }
            if self.position() == before && matches!(self.writer.commit(&batch), Err(StoreError::Frozen { .. })) {
                // The damaged group is frozen from now on: the next commit leaves it out.
                self.writer.commit(&batch).unwrap();
            }
            assert!(self.position() != before);
            // A second commit of the same batch changes nothing. It may come from a process that wrongly takes itself
            // for the only writer.
            assert!(matches!(self.writer.commit(&batch), Err(StoreError::PositionMoved)));
            rest = later;
        }
    }
}

/// Returns the digest of each table of a database.
fn digest_of(path: &Path) -> BTreeMap<String, String> {
    runtime().block_on(async {
        let reader = Reader::open_unchecked(path);
        let digest = reader.digest().await.unwrap();
        reader.close();
        digest.tables
    })
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
