//! Unnamed sessions: the sessions of events without a `session_id`. `_gap_sessions` finds them by actor and time.
//! Their rows and states are in `analytics_sessions` and `_session_states`, beside those of named sessions.

use rusqlite::{CachedStatement, Connection, params};

use super::sessions::{STATES, SessionTables};
use super::states::read_state;
use crate::analytics::{Actor, Change, Facts, Placed, Session, candidate_ids, place, reach};
use crate::store::error::StoreError;

/// Selects an actor's sessions that begin before the reach of a new session ends, the latest first. An earlier
/// session also ends earlier. So the first session that ends before the reach begins is the last to look at.
const SELECT_NEIGHBOURS: &str = "SELECT s.id, s.last_activity, s.state FROM _gap_sessions g \
     JOIN _session_states s ON s.id = g.id WHERE g.actor = ?1 AND g.started_at <= ?2 ORDER BY g.started_at DESC";
const INSERT: &str = "INSERT INTO _gap_sessions (actor, started_at, id) VALUES (?1, ?2, ?3) \
     ON CONFLICT (actor, started_at) DO UPDATE SET id = excluded.id";
const DELETE: &str = "DELETE FROM _gap_sessions WHERE actor = ?1 AND started_at = ?2";

pub(super) struct GapSessions<'tx> {
    connection: &'tx Connection,
    select_neighbours: CachedStatement<'tx>,
    timeout_ms: i64,
}

impl<'tx> GapSessions<'tx> {
    pub(super) fn prepare(connection: &'tx Connection, timeout_ms: i64) -> rusqlite::Result<Self> {
        Ok(Self { connection, select_neighbours: connection.prepare_cached(SELECT_NEIGHBOURS)?, timeout_ms })
    }

    /// Stores evicted sessions again, each under its next id, because a message uses the former id as its
    /// `session_id`.
    pub(super) fn put_back(
        &self,
        tables: &mut SessionTables<'_>,
        sessions: Vec<(String, Session)>,
        facts: &mut Facts,
    ) -> Result<(), StoreError> {
        for (former_id, session) in sessions {
            let placed = Placed { before: Vec::new(), after: session };
            let id = self.put(tables, placed, facts)?;
            facts.funnels.moved_sessions.push((former_id, id));
        }
        Ok(())
    }

    /// Places new sessions among the stored ones. A new session extends a stored one, stays a session of its own, or
    /// merges several.
    pub(super) fn apply(&mut self, tables: &mut SessionTables<'_>, facts: &mut Facts) -> Result<(), StoreError> {
        for (actor, new) in std::mem::take(&mut facts.unnamed_sessions).into_sorted(self.timeout_ms) {
            let stored = self.neighbours(&actor, &new)?;
            for placed in place(stored, new, self.timeout_ms) {
                self.put(tables, placed, facts)?;
            }
        }
        Ok(())
    }

    fn neighbours(&mut self, actor: &Actor, new: &[Session]) -> Result<Vec<(String, Session)>, StoreError> {
        let mut neighbours: Vec<(String, Session)> = Vec::new();
        // The latest first: two new sessions touch at most one stored session in common, the last one found.
        for session in new.iter().rev() {
            let (from, to) = reach(session, self.timeout_ms);
            let mut rows = self.select_neighbours.query(params![actor.to_string(), to.to_string()])?;
            while let Some(row) = rows.next()? {
                let id: String = row.get(0)?;
                if row.get_ref(1)?.as_str().is_ok_and(|last_activity| last_activity < from.to_string().as_str()) {
                    break;
                }
                if neighbours.last().is_none_or(|(known, _)| *known != id) {
                    let state = read_state(row, 2, STATES, || id.clone())?;
                    neighbours.push((id, state));
                }
            }
        }
        Ok(neighbours)
    }

    fn put(&self, tables: &mut SessionTables<'_>, placed: Placed, facts: &mut Facts) -> Result<String, StoreError> {
        let kept_id = placed.kept_id().map(str::to_owned);
        let Placed { before, after } = placed;
        let mut change = Change { before: None, after };
        let mut gone = Vec::new();
        for (id, session) in before {
            if Some(&id) == kept_id.as_ref() {
                change.before = Some(session);
                continue;
            }
            tables.delete(&id)?;
            self.delete(&session)?;
            facts.session_changed(Some((&id, &session)), None);
            gone.push(id);
        }
        let id = match kept_id {
            Some(id) => id,
            None => {
                let id = free_id(tables, &change.after)?;
                self.insert(&id, &change.after)?;
                id
            }
        };
        tables.put(&id, &change)?;
        facts.session_changed(change.before.as_ref().map(|before| (id.as_str(), before)), Some((&id, &change.after)));
        facts.funnels.moved_sessions.extend(gone.into_iter().map(|former_id| (former_id, id.clone())));
        facts.funnels.place_session(&id, &change.after);
        Ok(id)
    }

    fn insert(&self, id: &str, session: &Session) -> Result<(), StoreError> {
        if let Some(actor) = session.actor() {
            let columns = params![actor.to_string(), session.started_at().to_string(), id];
            self.connection.prepare_cached(INSERT)?.execute(columns)?;
        }
        Ok(())
    }

    fn delete(&self, session: &Session) -> Result<(), StoreError> {
        if let Some(actor) = session.actor() {
            let key = params![actor.to_string(), session.started_at().to_string()];
            self.connection.prepare_cached(DELETE)?.execute(key)?;
        }
        Ok(())
    }
}

/// Returns the id of an unnamed session: the first candidate that no stored session has.
fn free_id(tables: &mut SessionTables<'_>, session: &Session) -> Result<String, StoreError> {
    for id in candidate_ids(session) {
        if tables.select(&id)?.is_none() {
            return Ok(id);
        }
    }
    let why = "it is listed in _gap_sessions, but its state has no actor".to_owned();
    Err(StoreError::Damaged { table: STATES, key: session.started_at().to_string(), why })
}
