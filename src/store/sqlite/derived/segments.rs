//! `_funnel_segments`: the hits of each actor in each funnel, in segments.

use rusqlite::types::Value;
use rusqlite::{CachedStatement, Connection, Row, params};

use super::states::read_state;
use crate::analytics::State;
use crate::analytics::funnel::{Chain, Funnel, Hit, Opening, Rule, Segment, Segments};
use crate::store::error::StoreError;

const TABLE: &str = "_funnel_segments";
const COLUMNS: &str = "segment, opened_ms, opened_by";
const OF_ACTOR: &str = "FROM _funnel_segments WHERE funnel = ?1 AND actor = ?2";
const BY_FIRST: &str = "(first_ms, first_step, first_event_id)";
const LATEST: &str = "ORDER BY first_ms DESC, first_step DESC, first_event_id DESC LIMIT 1";
const EARLIEST: &str = "ORDER BY first_ms, first_step, first_event_id LIMIT 1";
const PUT: &str = "INSERT INTO _funnel_segments (funnel, actor, first_ms, first_step, first_event_id, opened_ms, \
     opened_by, best_step, segment) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
     ON CONFLICT (funnel, actor, first_ms, first_step, first_event_id) DO UPDATE SET opened_ms = excluded.opened_ms, \
     opened_by = excluded.opened_by, best_step = excluded.best_step, segment = excluded.segment";
const DELETE: &str = "DELETE FROM _funnel_segments WHERE funnel = ?1 AND actor = ?2 AND first_ms = ?3 \
     AND first_step = ?4 AND first_event_id = ?5";
const RENAME: &str = "UPDATE _funnel_segments SET opened_ms = ?3, opened_by = ?4 WHERE funnel = ?1 AND actor = ?2 \
     AND opened_by = ?5 AND (first_ms, first_step, first_event_id) >= (?6, ?7, ?8)";

/// Reads and writes the segments of one actor at a time.
pub(in crate::store) struct StoredSegments<'tx> {
    connection: &'tx Connection,
    funnel: i64,
    rule: Rule,
    actor: String,
    holding: CachedStatement<'tx>,
    following: CachedStatement<'tx>,
    put: CachedStatement<'tx>,
}

impl<'tx> StoredSegments<'tx> {
    pub(in crate::store) fn prepare(connection: &'tx Connection) -> rusqlite::Result<Self> {
        let holding = format!("SELECT {COLUMNS} {OF_ACTOR} AND {BY_FIRST} <= (?3, ?4, ?5) {LATEST}");
        let following = format!("SELECT {COLUMNS} {OF_ACTOR} AND {BY_FIRST} > (?3, ?4, ?5) {EARLIEST}");
        Ok(Self {
            connection,
            funnel: 0,
            rule: Rule { window_ms: 0, steps: 0 },
            actor: String::new(),
            holding: connection.prepare_cached(&holding)?,
            following: connection.prepare_cached(&following)?,
            put: connection.prepare_cached(PUT)?,
        })
    }

    /// Selects the funnel and the actor that the other methods read and write.
    pub(in crate::store) fn turn_to(&mut self, funnel: &Funnel, actor: &str) {
        (self.funnel, self.rule) = (funnel.key(), funnel.rule());
        actor.clone_into(&mut self.actor);
    }

    /// Reads all segments of the actor, in order.
    pub(in crate::store) fn all(&self) -> Result<Vec<Segment>, StoreError> {
        let sql = format!("SELECT {COLUMNS} {OF_ACTOR} ORDER BY first_ms, first_step, first_event_id");
        let mut select = self.connection.prepare_cached(&sql)?;
        let mut rows = select.query(params![self.funnel, self.actor])?;
        let mut segments = Vec::new();
        while let Some(row) = rows.next()? {
            segments.push(read(row, self.rule, &self.actor)?);
        }
        Ok(segments)
    }

    /// Counts the segments of the actor.
    pub(super) fn count(&self) -> rusqlite::Result<i64> {
        let sql = format!("SELECT count(*) {OF_ACTOR}");
        self.connection.prepare_cached(&sql)?.query_row(params![self.funnel, self.actor], |row| row.get(0))
    }

    /// Moves the segments to another actor, who must have none. Returns how many there were.
    pub(super) fn give_to(&self, actor: &str) -> rusqlite::Result<usize> {
        let sql = "UPDATE _funnel_segments SET actor = ?3 WHERE funnel = ?1 AND actor = ?2";
        self.connection.prepare_cached(sql)?.execute(params![self.funnel, self.actor, actor])
    }

    pub(super) fn delete_all(&self) -> rusqlite::Result<usize> {
        let sql = format!("DELETE {OF_ACTOR}");
        self.connection.prepare_cached(&sql)?.execute(params![self.funnel, self.actor])
    }
}

fn read(row: &Row<'_>, rule: Rule, actor: &str) -> Result<Segment, StoreError> {
    let damaged = |why: &str| StoreError::Damaged { table: TABLE, key: actor.to_owned(), why: why.to_owned() };
    let segment: Segment = read_state(row, 0, TABLE, || actor.to_owned())?;
    if !segment.is_of(rule) {
        return Err(damaged("it belongs to a funnel with other steps"));
    }
    let opened: (Value, Value) = (row.get(1)?, row.get(2)?);
    match (segment.continued().is_some(), opened) {
        (true, (Value::Integer(timestamp_ms), Value::Text(event_id))) => {
            Ok(segment.with_continued(Opening { timestamp_ms, event_id }))
        }
        (false, (Value::Null, Value::Null)) => Ok(segment),
        _ => Err(damaged("opened_ms and opened_by do not match its state")),
    }
}

fn first(
    select: &mut CachedStatement<'_>,
    (funnel, rule): (i64, Rule),
    actor: &str,
    (ms, step, event_id): (i64, u8, &str),
) -> Result<Option<Segment>, StoreError> {
    let mut rows = select.query(params![funnel, actor, ms, step, event_id])?;
    rows.next()?.map(|row| read(row, rule, actor)).transpose()
}

impl Segments for StoredSegments<'_> {
    type Error = StoreError;

    fn holding(&mut self, position: (i64, u8, &str)) -> Result<Option<Segment>, StoreError> {
        first(&mut self.holding, (self.funnel, self.rule), &self.actor, position)
    }

    fn preceding(&mut self, position: (i64, u8, &str)) -> Result<Option<Segment>, StoreError> {
        let sql = format!("SELECT {COLUMNS} {OF_ACTOR} AND {BY_FIRST} < (?3, ?4, ?5) {LATEST}");
        first(&mut self.connection.prepare_cached(&sql)?, (self.funnel, self.rule), &self.actor, position)
    }

    fn following(&mut self, position: (i64, u8, &str)) -> Result<Option<Segment>, StoreError> {
        first(&mut self.following, (self.funnel, self.rule), &self.actor, position)
    }

    fn furthest(&mut self, opening: &Opening) -> Result<Option<Chain>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} {OF_ACTOR} AND opened_by = ?3 ORDER BY best_step DESC, first_ms, first_step, first_event_id LIMIT 1"
        );
        let mut select = self.connection.prepare_cached(&sql)?;
        let mut rows = select.query(params![self.funnel, self.actor, opening.event_id])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        Ok(read(row, self.rule, &self.actor)?.continued().and_then(|piece| piece.best.clone()))
    }

    fn put(&mut self, segment: &Segment) -> Result<(), StoreError> {
        let (ms, step, event_id) = segment.first().position();
        let continued = segment.continued();
        let opening = continued.map(|piece| &piece.opening);
        let best_step = continued.and_then(|piece| piece.best.as_ref()).map_or(0, Chain::step);
        self.put.execute(params![
            self.funnel,
            self.actor,
            ms,
            step,
            event_id,
            opening.map(|opening| opening.timestamp_ms),
            opening.map(|opening| opening.event_id.as_str()),
            best_step,
            segment.to_bytes(),
        ])?;
        Ok(())
    }

    fn delete(&mut self, first: &Hit) -> Result<(), StoreError> {
        let (ms, step, event_id) = first.position();
        let key = params![self.funnel, self.actor, ms, step, event_id];
        self.connection.prepare_cached(DELETE)?.execute(key)?;
        Ok(())
    }

    fn rename(&mut self, first: &Hit, before: &Opening, after: &Opening) -> Result<(), StoreError> {
        let (ms, step, event_id) = first.position();
        let names =
            params![self.funnel, self.actor, after.timestamp_ms, after.event_id, before.event_id, ms, step, event_id];
        self.connection.prepare_cached(RENAME)?.execute(names)?;
        Ok(())
    }
}
