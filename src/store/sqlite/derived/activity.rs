//! `user_activity`, and its states in `_activity_states`. Two tables hold what does not fit into a state.
//! `_activity_names` has the event counts of a day with more than [`MAX_NAMES`] (100) event names.
//! `_activity_sessions` has the starts of sessions.

use std::collections::BTreeMap;

use rusqlite::{CachedStatement, Connection, OptionalExtension, Transaction, params};

use super::states::{StateTable, put_state, row_without_state, select_state};
use crate::analytics::{
    Activity, ActivityFact, ActivityState, Change, MAX_NAMES, Names, Presence, Span, State, UserDay,
};
use crate::model::{JsonObject, Timestamp};
use crate::store::error::StoreError;
use crate::store::sqlite::values::{from_sql, parsed, to_sql};

const STATES: &str = "_activity_states";
const SELECT_STATE: &str = "SELECT state FROM _activity_states WHERE user_id = ?1 AND date = ?2";
const INSERT_STATE: &str = "INSERT INTO _activity_states (user_id, date, state) VALUES (?1, ?2, ?3)";
const UPDATE_STATE: &str = "UPDATE _activity_states SET state = ?3 WHERE user_id = ?1 AND date = ?2";
const DELETE_STATE: &str = "DELETE FROM _activity_states WHERE user_id = ?1 AND date = ?2";
const INSERT_ROW: &str = "INSERT INTO user_activity (user_id, date, session_count, event_count, total_duration_ms, \
     first_seen_at, last_seen_at, events_breakdown, id) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
     ON CONFLICT DO NOTHING";
/// Sets no indexed column, so no index entry moves.
const UPDATE_ROW: &str = "UPDATE user_activity SET session_count = ?3, event_count = ?4, total_duration_ms = ?5, \
     first_seen_at = ?6, last_seen_at = ?7, events_breakdown = ?8 WHERE user_id = ?1 AND date = ?2";
const DELETE_ROW: &str = "DELETE FROM user_activity WHERE user_id = ?1 AND date = ?2";
const ADD_NAME: &str = "INSERT INTO _activity_names (user_id, date, name, n) VALUES (?1, ?2, ?3, ?4) \
     ON CONFLICT (user_id, date, name) DO UPDATE SET n = n + excluded.n";
const SELECT_GREATEST: &str = "SELECT name, n FROM _activity_names WHERE user_id = ?1 AND date = ?2 \
     ORDER BY n DESC, name LIMIT ?3";
const INSERT_START: &str = "INSERT INTO _activity_sessions (user_id, started_at, session_id) VALUES (?1, ?2, ?3) \
     ON CONFLICT DO NOTHING";
const DELETE_START: &str = "DELETE FROM _activity_sessions WHERE user_id = ?1 AND started_at = ?2 AND session_id = ?3";
const SELECT_FIRST_START: &str = "SELECT started_at FROM _activity_sessions \
     WHERE user_id = ?1 AND started_at BETWEEN ?2 AND ?3 ORDER BY started_at LIMIT 1";
const SELECT_LAST_START: &str = "SELECT started_at FROM _activity_sessions \
     WHERE user_id = ?1 AND started_at BETWEEN ?2 AND ?3 ORDER BY started_at DESC LIMIT 1";

pub(super) struct ActivityTables<'tx> {
    /// Prepares rarely used statements on demand.
    connection: &'tx Connection,
    select_state: CachedStatement<'tx>,
    insert_state: CachedStatement<'tx>,
    update_state: CachedStatement<'tx>,
    insert_row: CachedStatement<'tx>,
    update_row: CachedStatement<'tx>,
    insert_start: CachedStatement<'tx>,
}

impl<'tx> ActivityTables<'tx> {
    pub(super) fn prepare(tx: &'tx Transaction<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            connection: tx,
            select_state: tx.prepare_cached(SELECT_STATE)?,
            insert_state: tx.prepare_cached(INSERT_STATE)?,
            update_state: tx.prepare_cached(UPDATE_STATE)?,
            insert_row: tx.prepare_cached(INSERT_ROW)?,
            update_row: tx.prepare_cached(UPDATE_ROW)?,
            insert_start: tx.prepare_cached(INSERT_START)?,
        })
    }

    /// Adds and deletes the starts of sessions of a user's day. If a session left the day, also looks up the first
    /// and the last remaining start for the fact.
    fn move_starts(&mut self, key: &UserDay, fact: &mut ActivityFact) -> Result<(), StoreError> {
        for (started_at, session_id, presence) in fact.starts() {
            let start = params![key.user_id, started_at.to_string(), session_id];
            match presence {
                Presence::Came => self.insert_start.execute(start)?,
                Presence::Went => self.connection.prepare_cached(DELETE_START)?.execute(start)?,
            };
        }
        if fact.has_session_gone() {
            let first = self.find_start(key, SELECT_FIRST_START)?;
            let last = self.find_start(key, SELECT_LAST_START)?;
            fact.set_starts_span(first.zip(last).map(|(first, last)| Span::new(first, last)));
        }
        Ok(())
    }

    fn find_start(&self, key: &UserDay, sql: &str) -> Result<Option<Timestamp>, StoreError> {
        let (from, to) = (format!("{}T00:00:00.000Z", key.date), format!("{}T23:59:59.999Z", key.date));
        let mut select = self.connection.prepare_cached(sql)?;
        let start = select.query_row(params![key.user_id, from, to], |row| parsed(row, 0, Timestamp::from_stored));
        Ok(start.optional()?)
    }

    /// Adds these counts to the rows of a day that has many names. Returns the [`MAX_NAMES`] names with the greatest
    /// counts.
    fn greatest(&self, key: &UserDay, more: &BTreeMap<String, u64>) -> Result<BTreeMap<String, u64>, StoreError> {
        let date = key.date.to_string();
        let mut add = self.connection.prepare_cached(ADD_NAME)?;
        for (name, count) in more {
            add.execute(params![key.user_id, date, name, to_sql(*count)])?;
        }
        let mut select = self.connection.prepare_cached(SELECT_GREATEST)?;
        let greatest = select.query_map(params![key.user_id, date, to_sql(MAX_NAMES as u64)], |row| {
            let count: i64 = row.get(1)?;
            Ok((row.get(0)?, from_sql(count)))
        })?;
        Ok(greatest.collect::<Result<_, _>>()?)
    }

    fn put(&mut self, key: &UserDay, change: &Change<Activity>) -> Result<(), StoreError> {
        let date = key.date.to_string();
        if change.after.is_nothing() {
            for sql in [DELETE_ROW, DELETE_STATE] {
                self.connection.prepare_cached(sql)?.execute([&key.user_id, &date])?;
            }
            return Ok(());
        }
        let row = match change.after.names() {
            Names::Few(names) => change.after.row(names),
            Names::Many(more) => change.after.row(&self.greatest(key, more)?),
        };
        put_state(&mut self.insert_state, &mut self.update_state, change.before.is_some(), |put| {
            put.execute(params![key.user_id, date, change.after.to_bytes()])
        })?;
        let (first, last) = (row.first_seen_at.to_string(), row.last_seen_at.to_string());
        let breakdown = row.events_breakdown.as_ref().map(JsonObject::as_str);
        let (sessions, events, duration_ms) = (row.session_count, row.event_count, row.total_duration_ms);
        if change.before.is_some() {
            let columns = params![key.user_id, date, sessions, events, duration_ms, first, last, breakdown];
            if self.update_row.execute(columns)? > 0 {
                return Ok(());
            }
        }
        let id = key.id();
        let columns = params![key.user_id, date, sessions, events, duration_ms, first, last, breakdown, id];
        match self.insert_row.execute(columns)? {
            0 => Err(row_without_state(STATES, &id)),
            _ => Ok(()),
        }
    }
}

impl StateTable<Activity> for ActivityTables<'_> {
    fn load(&mut self, facts: &[(UserDay, ActivityFact)]) -> Result<Vec<Option<ActivityState>>, StoreError> {
        let state = |(key, _): &(UserDay, ActivityFact)| {
            let date = key.date.to_string();
            let named = || format!("{} {date}", key.user_id);
            select_state(&mut self.select_state, (&key.user_id, &date), STATES, named)
        };
        facts.iter().map(state).collect()
    }

    /// Updates the starts of sessions.
    fn put_members(&mut self, facts: &mut [(UserDay, ActivityFact)]) -> Result<(), StoreError> {
        facts.iter_mut().try_for_each(|(key, fact)| self.move_starts(key, fact))
    }

    fn put_many(&mut self, changes: &[(UserDay, Change<Activity>)]) -> Result<(), StoreError> {
        changes.iter().try_for_each(|(key, change)| self.put(key, change))
    }
}
