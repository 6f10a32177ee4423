//! `analytics_sessions`, and its states in `_session_states`.

use rusqlite::{CachedStatement, Connection, Transaction, params};

use super::states::{StateTable, put_state, row_without_state, select_state};
use crate::analytics::{Change, Session, Sessions, State};
use crate::model::{AnalyticsSession, Timestamp};
use crate::store::error::StoreError;

pub(super) const STATES: &str = "_session_states";
const SELECT_STATE: &str = "SELECT state FROM _session_states WHERE id = ?1";
const INSERT_STATE: &str = "INSERT INTO _session_states (id, last_activity, state) VALUES (?1, ?2, ?3)";
const UPDATE_STATE: &str = "UPDATE _session_states SET last_activity = ?2, state = ?3 WHERE id = ?1";
const DELETE_STATE: &str = "DELETE FROM _session_states WHERE id = ?1";
const DELETE_ROW: &str = "DELETE FROM analytics_sessions WHERE id = ?1";
const INSERT_ROW: &str = "INSERT INTO analytics_sessions (id, user_id, started_at, ended_at, duration_ms, event_count, \
     device_type, browser, os, country, city, referrer, landing_page, exit_page) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) ON CONFLICT (id) DO NOTHING";
const UPDATE_ROW: &str = "UPDATE analytics_sessions SET user_id = ?2, started_at = ?3, ended_at = ?4, duration_ms = ?5, \
     event_count = ?6, device_type = ?7, browser = ?8, os = ?9, country = ?10, city = ?11, referrer = ?12, \
     landing_page = ?13, exit_page = ?14 WHERE id = ?1";
/// Updates what most batches change. Sets no indexed column, so no index entry moves.
const UPDATE_ACTIVITY: &str = "UPDATE analytics_sessions SET ended_at = ?2, duration_ms = ?3, event_count = ?4, \
     exit_page = ?5 WHERE id = ?1";
const INSERT_DEADLINE: &str = "INSERT INTO _session_deadlines (look_at, id) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
/// Closes sessions when T moves. The cost is in proportion to the sessions whose deadline T passes; their deadlines
/// are adjacent in the table. `CROSS JOIN` fixes the order in which SQLite joins.
const CLOSE: &str = "UPDATE analytics_sessions SET ended_at = due.last_activity FROM (SELECT s.id, s.last_activity \
     FROM _session_deadlines d CROSS JOIN _session_states s ON s.id = d.id \
     WHERE d.look_at < ?1 AND s.last_activity < ?1) AS due \
     WHERE analytics_sessions.id = due.id AND analytics_sessions.ended_at IS NULL";
const MOVE_DEADLINES: &str = "INSERT INTO _session_deadlines (look_at, id) SELECT s.last_activity, s.id \
     FROM _session_deadlines d CROSS JOIN _session_states s ON s.id = d.id \
     WHERE d.look_at < ?1 AND s.last_activity >= ?1 ON CONFLICT DO NOTHING";
const DELETE_DEADLINES: &str = "DELETE FROM _session_deadlines WHERE look_at < ?1";

pub(super) struct SessionTables<'tx> {
    connection: &'tx Connection,
    closed_before: Timestamp,
    select_state: CachedStatement<'tx>,
    insert_state: CachedStatement<'tx>,
    update_state: CachedStatement<'tx>,
    insert_row: CachedStatement<'tx>,
    update_row: CachedStatement<'tx>,
    update_activity: CachedStatement<'tx>,
    insert_deadline: CachedStatement<'tx>,
}

impl<'tx> SessionTables<'tx> {
    /// Prepares the statements. Sessions whose last activity is before `closed_before` are written as closed.
    pub(super) fn prepare(tx: &'tx Transaction<'_>, closed_before: Timestamp) -> rusqlite::Result<Self> {
        Ok(Self {
            connection: tx,
            closed_before,
            select_state: tx.prepare_cached(SELECT_STATE)?,
            insert_state: tx.prepare_cached(INSERT_STATE)?,
            update_state: tx.prepare_cached(UPDATE_STATE)?,
            insert_row: tx.prepare_cached(INSERT_ROW)?,
            update_row: tx.prepare_cached(UPDATE_ROW)?,
            update_activity: tx.prepare_cached(UPDATE_ACTIVITY)?,
            insert_deadline: tx.prepare_cached(INSERT_DEADLINE)?,
        })
    }

    /// Deletes unnamed sessions whose id a message now uses as its `session_id`, and takes them out of the loaded
    /// states. Returns these sessions with their former ids: they must get other ids.
    pub(super) fn evict_unnamed(
        &mut self,
        named: &[(String, Session)],
        states: &mut [Option<Session>],
    ) -> Result<Vec<(String, Session)>, StoreError> {
        let mut evicted = Vec::new();
        for ((id, _), state) in named.iter().zip(states) {
            if let Some(session) = state.take_if(|session| session.actor().is_some()) {
                self.delete(id)?;
                evicted.push((id.clone(), session));
            }
        }
        Ok(evicted)
    }

    /// Reads the state of a session. `None` if there is none.
    pub(super) fn select(&mut self, id: &str) -> Result<Option<Session>, StoreError> {
        select_state(&mut self.select_state, [id], STATES, || id.to_owned())
    }

    /// Deletes the row and the state of a session. Its messages are in a session with another id now.
    pub(super) fn delete(&mut self, id: &str) -> Result<(), StoreError> {
        for sql in [DELETE_ROW, DELETE_STATE] {
            self.connection.prepare_cached(sql)?.execute([id])?;
        }
        Ok(())
    }

    /// Writes a session, if anything in it changed.
    pub(super) fn put(&mut self, id: &str, change: &Change<Sessions>) -> Result<(), StoreError> {
        let Change { before, after } = change;
        if before.as_ref() == Some(after) {
            return Ok(());
        }
        let last_activity = after.last_activity_at().to_string();
        put_state(&mut self.insert_state, &mut self.update_state, before.is_some(), |put| {
            put.execute(params![id, last_activity, after.to_bytes()])
        })?;
        let was_open = before.as_ref().is_some_and(|before| before.is_open(self.closed_before));
        if after.is_open(self.closed_before) && !was_open {
            self.insert_deadline.execute([last_activity.as_str(), id])?;
        }
        let row = after.row(id, self.closed_before);
        let Some(before) = before else {
            return match bind(&mut self.insert_row, &row)? {
                0 => Err(row_without_state(STATES, id)),
                _ => Ok(()),
            };
        };
        let updated = if before.differs_in_activity_alone(after) {
            self.update_activity(&row)?
        } else {
            bind(&mut self.update_row, &row)?
        };
        if updated == 0 {
            // Another program deleted the row.
            bind(&mut self.insert_row, &row)?;
        }
        Ok(())
    }

    fn update_activity(&mut self, row: &AnalyticsSession) -> rusqlite::Result<usize> {
        let ended_at = row.ended_at.map(|ended_at| ended_at.to_string());
        self.update_activity.execute(params![row.id, ended_at, row.duration_ms, row.event_count, row.exit_page])
    }
}

/// Executes a statement with the columns of a row, in their order.
fn bind(statement: &mut CachedStatement<'_>, row: &AnalyticsSession) -> rusqlite::Result<usize> {
    statement.execute(params![
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
    ])
}

impl StateTable<Sessions> for SessionTables<'_> {
    fn load(&mut self, facts: &[(String, Session)]) -> Result<Vec<Option<Session>>, StoreError> {
        facts.iter().map(|(id, _)| self.select(id)).collect()
    }

    fn put_many(&mut self, changes: &[(String, Change<Sessions>)]) -> Result<(), StoreError> {
        changes.iter().try_for_each(|(id, change)| self.put(id, change))
    }
}

/// Closes the open sessions whose last activity is before `closed_before`. Called when T moves. Sessions that an
/// `end` closed stay as they are.
pub(super) fn close(tx: &Transaction<'_>, closed_before: Timestamp) -> rusqlite::Result<()> {
    let closed_before = closed_before.to_string();
    for sql in [CLOSE, MOVE_DEADLINES, DELETE_DEADLINES] {
        tx.prepare_cached(sql)?.execute([&closed_before])?;
    }
    Ok(())
}
