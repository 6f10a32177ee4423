//! `analytics_sessions`, and the states behind it in `_session_states`.

use rusqlite::{CachedStatement, OptionalExtension, Transaction, params};

use super::Table;
use crate::analytics::{Change, Session, Sessions, State};
use crate::model::{AnalyticsSession, Timestamp};
use crate::store::StoreError;

const SELECT_STATE: &str = "SELECT state FROM _session_states WHERE id = ?1";
const UPSERT_STATE: &str = "INSERT INTO _session_states (id, last_activity, state) VALUES (?1, ?2, ?3) \
     ON CONFLICT (id) DO UPDATE SET last_activity = excluded.last_activity, state = excluded.state";
const UPSERT_ROW: &str = "INSERT INTO analytics_sessions (id, user_id, started_at, ended_at, duration_ms, event_count, \
     device_type, browser, os, country, city, referrer, landing_page, exit_page) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) ON CONFLICT (id) DO UPDATE SET \
     user_id = excluded.user_id, started_at = excluded.started_at, ended_at = excluded.ended_at, \
     duration_ms = excluded.duration_ms, event_count = excluded.event_count, device_type = excluded.device_type, \
     browser = excluded.browser, os = excluded.os, country = excluded.country, city = excluded.city, \
     referrer = excluded.referrer, landing_page = excluded.landing_page, exit_page = excluded.exit_page";
/// What most batches change. It names no column that an index holds, so that it moves no index entries.
const UPDATE_ACTIVITY: &str = "UPDATE analytics_sessions SET ended_at = ?2, duration_ms = ?3, event_count = ?4, \
     exit_page = ?5 WHERE id = ?1";
/// The cost of T: in proportion to the sessions that it closes, which lie side by side in the index.
const CLOSE: &str = "UPDATE analytics_sessions SET ended_at = s.last_activity FROM _session_states s \
     WHERE s.last_activity >= ?1 AND s.last_activity < ?2 AND analytics_sessions.id = s.id";

pub(super) struct SessionTables<'tx> {
    closed_before: Timestamp,
    select_state: CachedStatement<'tx>,
    upsert_state: CachedStatement<'tx>,
    upsert_row: CachedStatement<'tx>,
    update_activity: CachedStatement<'tx>,
}

impl<'tx> SessionTables<'tx> {
    /// The tables; sessions whose last activity lies before `closed_before` are shown closed.
    pub(super) fn prepare(tx: &'tx Transaction<'_>, closed_before: Timestamp) -> rusqlite::Result<Self> {
        Ok(Self {
            closed_before,
            select_state: tx.prepare_cached(SELECT_STATE)?,
            upsert_state: tx.prepare_cached(UPSERT_STATE)?,
            upsert_row: tx.prepare_cached(UPSERT_ROW)?,
            update_activity: tx.prepare_cached(UPDATE_ACTIVITY)?,
        })
    }

    fn put(&mut self, id: &str, change: &Change<Sessions>) -> rusqlite::Result<()> {
        let Change { before, after } = change;
        self.upsert_state.execute(params![id, after.last_activity_at().to_string(), after.to_bytes()])?;
        let row = after.row(id, self.closed_before);
        let is_known = before.as_ref().is_some_and(|before| before.differs_in_activity_alone(after));
        // No row: some other program took it away.
        if is_known && self.update_activity(&row)? == 1 {
            return Ok(());
        }
        self.upsert_row(&row)
    }

    fn update_activity(&mut self, row: &AnalyticsSession) -> rusqlite::Result<usize> {
        let ended_at = row.ended_at.map(|ended_at| ended_at.to_string());
        self.update_activity.execute(params![row.id, ended_at, row.duration_ms, row.event_count, row.exit_page])
    }

    fn upsert_row(&mut self, row: &AnalyticsSession) -> rusqlite::Result<()> {
        self.upsert_row.execute(params![
            row.id,
            row.user_id,
            row.started_at.to_string(),
            row.ended_at.map(|ended_at| ended_at.to_string()),
            row.duration_ms,
            row.event_count,
            row.device_type,
            row.browser,
            row.os,
            row.country,
            row.city,
            row.referrer,
            row.landing_page,
            row.exit_page,
        ])?;
        Ok(())
    }
}

impl Table<Sessions> for SessionTables<'_> {
    fn get_many<'a>(&mut self, ids: impl Iterator<Item = &'a String>) -> Result<Vec<Option<Session>>, StoreError> {
        let mut get = |id: &String| {
            let bytes: Option<Vec<u8>> = self.select_state.query_row([id], |row| row.get(0)).optional()?;
            let state = bytes.map(|bytes| Session::from_bytes(&bytes)).transpose();
            state.map_err(|source| StoreError::State { table: "_session_states", key: id.clone(), source })
        };
        ids.map(&mut get).collect()
    }

    fn put_many(&mut self, changes: &[(String, Change<Sessions>)]) -> Result<(), StoreError> {
        for (id, change) in changes {
            if change.before.as_ref() != Some(&change.after) {
                self.put(id, change)?;
            }
        }
        Ok(())
    }
}

/// Closes the sessions that T closes when it moves: those whose last activity lies before `closed_before`, and not
/// before what it was until now. Sessions that an `end` closed are among them and stay as they are.
pub(super) fn close(
    tx: &Transaction<'_>,
    closed_before_until_now: Option<Timestamp>,
    closed_before: Timestamp,
) -> rusqlite::Result<usize> {
    let from = closed_before_until_now.map(|timestamp| timestamp.to_string()).unwrap_or_default();
    tx.prepare_cached(CLOSE)?.execute([from, closed_before.to_string()])
}

/// Empties the tables, to be filled again from the raw rows.
pub(super) fn delete(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM analytics_sessions", [])?;
    tx.execute("DELETE FROM _session_states", [])?;
    Ok(())
}
