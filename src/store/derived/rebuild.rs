//! Derived tables are made anew from the raw rows where their rules have changed, or somebody else wrote to them.
//!
//! In one transaction: readers see the old rows until it ends, ingestion waits, and a process that dies in it begins
//! again at its next start.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::apply;
use crate::analytics::{ActivityState, Facts, FeatureState, Rollup, Rules, Session, State, Stored};
use crate::model::{AnalyticsEvent, Metric, SessionMessage, Timestamp};
use crate::store::raw::{RawTable, is_unreadable};
use crate::store::{Spent, StoreError};

/// Raw rows whose facts are combined before they are applied: as many as in a large batch.
const CHUNK_ROWS: usize = 10_000;
const LOG_EVERY_ROWS: u64 = 500_000;
/// Count up with every change of a group's rules.
const ROLLUP_RULES: u32 = 1;
const SESSION_RULES: u32 = 1;

const ACTIVITY_RULES: u32 = 1;
const FEATURE_RULES: u32 = 1;
const TABLES: [&str; 13] = [
    "metric_aggregates",
    "_rollup_states",
    "analytics_sessions",
    "_session_states",
    "_gap_sessions",
    "_watermark",
    "user_activity",
    "_activity_states",
    "_activity_names",
    "_activity_sessions",
    "feature_usage",
    "_feature_states",
    "_feature_users",
];

/// What each group's rows depend on beside the raw rows.
fn fingerprints(rules: &Rules) -> [(&'static str, String); 4] {
    let timeout_ms = rules.session_timeout_ms;
    [
        ("rollups", format!("rules={ROLLUP_RULES} state={}", Rollup::VERSION)),
        ("sessions", format!("rules={SESSION_RULES} state={} session_timeout_ms={timeout_ms}", Session::VERSION)),
        ("activity", format!("rules={ACTIVITY_RULES} state={}", ActivityState::VERSION)),
        ("features", format!("rules={FEATURE_RULES} state={} {:?}", FeatureState::VERSION, rules.features)),
    ]
}

/// Whether the derived tables were made by these rules, from all raw rows.
pub(in crate::store) fn is_current(connection: &Connection, rules: &Rules) -> rusqlite::Result<bool> {
    let mut select = connection.prepare_cached("SELECT fingerprint FROM _groups WHERE name = ?1")?;
    for (group, fingerprint) in fingerprints(rules) {
        let stored: Option<String> = select.query_row([group], |row| row.get(0)).optional()?;
        if stored != Some(fingerprint) {
            return Ok(false);
        }
    }
    let sql = "SELECT EXISTS (SELECT 1 FROM _watermark) OR NOT EXISTS (SELECT 1 FROM _positions WHERE stored > 0)";
    connection.prepare_cached(sql)?.query_row([], |row| row.get(0))
}

/// Makes the derived tables anew. Returns the number of raw rows that they are made from.
pub(in crate::store) fn rebuild(tx: &Transaction<'_>, rules: &Rules) -> Result<u64, StoreError> {
    for table in TABLES {
        tx.execute(&format!("DELETE FROM {table}"), [])?;
    }
    let rows =
        replay::<AnalyticsEvent>(tx, rules)? + replay::<Metric>(tx, rules)? + replay::<SessionMessage>(tx, rules)?;
    let sql = "INSERT INTO _groups (name, fingerprint) VALUES (?1, ?2) \
               ON CONFLICT (name) DO UPDATE SET fingerprint = excluded.fingerprint";
    for (group, fingerprint) in fingerprints(rules) {
        tx.execute(sql, params![group, fingerprint])?;
    }
    Ok(rows)
}

/// Applies what all rows of a raw table say. Their order does not matter: facts commute.
fn replay<T: RawTable>(tx: &Transaction<'_>, rules: &Rules) -> Result<u64, StoreError>
where
    for<'a> &'a T: Into<Stored<'a>>,
{
    let mut statement = tx.prepare(&format!("SELECT {}, recv_ms FROM {}", T::COLUMNS, T::TABLE))?;
    let recv_column = statement.column_count() - 1;
    let mut rows = statement.query([])?;
    let (mut chunk, mut count, mut unreadable) = (Vec::new(), 0, 0);
    while let Some(row) = rows.next()? {
        let record = match T::from_row(row) {
            Ok(record) => record,
            // Some other program wrote that row; it is no message.
            Err(error) if is_unreadable(&error) => {
                unreadable += 1;
                if unreadable == 1 {
                    tracing::warn!(table = T::TABLE, id = ?row.get_ref(0)?, "a row that is no message counts for nothing: {error}");
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        chunk.push((record, Timestamp::from_millis(row.get(recv_column)?)));
        count += 1;
        if chunk.len() == CHUNK_ROWS {
            apply_chunk(tx, rules, &mut chunk)?;
        }
        if count % LOG_EVERY_ROWS == 0 {
            tracing::info!(table = T::TABLE, rows = count, "still making derived tables anew");
        }
    }
    apply_chunk(tx, rules, &mut chunk)?;
    if unreadable > 0 {
        tracing::warn!(table = T::TABLE, rows = unreadable, "rows that are no messages count for nothing");
    }
    Ok(count)
}

fn apply_chunk<T>(tx: &Transaction<'_>, rules: &Rules, chunk: &mut Vec<(T, Timestamp)>) -> Result<(), StoreError>
where
    for<'a> &'a T: Into<Stored<'a>>,
{
    let facts = Facts::of(rules, chunk.iter().map(|(record, recv)| (record.into(), *recv)));
    apply(tx, rules, facts, &mut Spent::begin())?;
    chunk.clear();
    Ok(())
}
