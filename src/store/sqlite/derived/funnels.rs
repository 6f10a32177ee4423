//! `funnels` holds the definitions. `funnel_conversions` holds the episodes, which a [`History`] makes from the hits
//! of each actor.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY;
use rusqlite::types::Value;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Transaction, params};

use super::links;
use super::segments::StoredSegments;
use crate::analytics::dashboard::{Dashboards, SeriesFacts};
use crate::analytics::funnel::{
    self, Episode, Funnel, FunnelFacts, Funnels, History, Hit, HitActor, Opening, SESSION_PREFIX, Scope,
    anonymous_actor, session_actor, user_actor,
};
use crate::analytics::{Actor, FUNNEL_PREFIX, Linked, Rules};
use crate::model::Timestamp;
use crate::store::error::StoreError;

const DEFINE: &str = "INSERT INTO funnels (id, name, description, steps, created_at) VALUES (?1, ?2, ?3, ?4, ?5) \
     ON CONFLICT (id) DO UPDATE SET description = excluded.description, steps = excluded.steps \
     WHERE description IS NOT excluded.description OR steps <> excluded.steps";
const INSERT_ROW: &str = "INSERT INTO funnel_conversions (id, user_id, session_id, started_at, completed_at, \
     current_step, completed, step_timestamps, funnel_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
     ON CONFLICT (id) DO UPDATE SET user_id = excluded.user_id, session_id = excluded.session_id, \
     started_at = excluded.started_at, completed_at = excluded.completed_at, current_step = excluded.current_step, \
     completed = excluded.completed, step_timestamps = excluded.step_timestamps";
const SELECT_ROW: &str = "SELECT started_at, completed FROM funnel_conversions WHERE id = ?1";
const DELETE_ROW: &str = "DELETE FROM funnel_conversions WHERE id = ?1";
const PUT_EPISODE: &str = "INSERT INTO _funnel_episodes (funnel, actor, opened_ms, opened_by, current_step) \
     VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (funnel, actor, opened_ms, opened_by) \
     DO UPDATE SET current_step = excluded.current_step";
const DELETE_EPISODE: &str =
    "DELETE FROM _funnel_episodes WHERE funnel = ?1 AND actor = ?2 AND opened_ms = ?3 AND opened_by = ?4";
const SELECT_FURTHEST: &str = "SELECT opened_ms, opened_by FROM _funnel_episodes WHERE funnel = ?1 AND actor = ?2 \
     ORDER BY current_step DESC, opened_ms, opened_by LIMIT 1";

/// Makes the table of definitions agree with the configuration. Deletes everything of funnels that the configuration
/// no longer has.
pub(in crate::store) fn define(tx: &Transaction<'_>, rules: &Rules) -> rusqlite::Result<()> {
    let funnels: &Funnels = &rules.funnels;
    let names =
        |sql: &str| -> rusqlite::Result<Vec<String>> { tx.prepare(sql)?.query_map([], |row| row.get(0))?.collect() };
    // Rows that another program wrote.
    tx.execute("DELETE FROM funnels WHERE typeof(id) <> 'text' OR typeof(name) <> 'text'", [])?;
    let stored = names("SELECT name FROM funnels")?;
    let groups = names("SELECT name FROM _groups")?;
    let groups = groups.iter().filter_map(|group| group.strip_prefix(FUNNEL_PREFIX));
    for name in stored.iter().map(String::as_str).chain(groups) {
        if funnels.by_name(name).is_none() {
            let rows = forget(tx, name)?;
            tracing::info!(funnel = name, rows, "removed a funnel that the configuration no longer has");
        }
    }
    let now = Timestamp::now().to_string();
    for funnel in funnels.iter() {
        let is_there = "SELECT 1 FROM funnels WHERE id = ?1 AND name = ?2";
        if tx.query_row(is_there, [funnel.id(), funnel.name.clone()], |_| Ok(())).optional()?.is_none() {
            // The funnel is new, or another program deleted its definition and with it the rows that referred to it.
            let rows = forget(tx, &funnel.name)?;
            tracing::info!(funnel = funnel.name, rows, "a funnel is defined");
        }
        // Steps are plain values: serializing them cannot fail.
        let steps = serde_json::to_value(&funnel.steps).unwrap_or_default().to_string();
        tx.execute(DEFINE, params![funnel.id(), funnel.name, funnel.description, steps, now])?;
    }
    Ok(())
}

/// Deletes everything of a funnel. Returns how many rows of `funnel_conversions` it had.
fn forget(tx: &Transaction<'_>, name: &str) -> rusqlite::Result<usize> {
    let (id, key) = (funnel::id_of(name), funnel::key_of(name));
    tx.execute("DELETE FROM _funnel_segments WHERE funnel = ?1", [key])?;
    tx.execute("DELETE FROM _funnel_episodes WHERE funnel = ?1", [key])?;
    let of_funnel = "DELETE FROM funnel_conversions WHERE funnel_id = ?1 \
                     OR funnel_id IN (SELECT id FROM funnels WHERE name = ?2)";
    let rows = tx.execute(of_funnel, [&id, name])?;
    tx.execute("DELETE FROM funnels WHERE id = ?1 OR name = ?2", [&id, name])?;
    tx.execute("DELETE FROM _groups WHERE name = ?1", [format!("{FUNNEL_PREFIX}{name}")])?;
    Ok(rows)
}

pub(super) struct FunnelTables<'tx> {
    connection: &'tx Connection,
    /// The funnels that are not frozen, by their places in the rules.
    funnels: BTreeMap<usize, Arc<Funnel>>,
    segments: StoredSegments<'tx>,
    insert_row: CachedStatement<'tx>,
    delete_row: CachedStatement<'tx>,
    /// The configuration of the widgets.
    dashboards: &'tx Dashboards,
    /// Collects what episodes add to the series of widgets.
    series: &'tx mut SeriesFacts,
}

impl<'tx> FunnelTables<'tx> {
    pub(super) fn prepare(
        connection: &'tx Connection,
        funnels: BTreeMap<usize, Arc<Funnel>>,
        dashboards: &'tx Dashboards,
        series: &'tx mut SeriesFacts,
    ) -> rusqlite::Result<Self> {
        Ok(Self {
            connection,
            funnels,
            dashboards,
            series,
            segments: StoredSegments::prepare(connection)?,
            insert_row: connection.prepare_cached(INSERT_ROW)?,
            delete_row: connection.prepare_cached(DELETE_ROW)?,
        })
    }

    /// Re-assigns stored hits to their current actor, then adds the new hits.
    pub(super) fn apply(&mut self, mut facts: FunnelFacts) -> Result<(), StoreError> {
        self.link(std::mem::take(&mut facts.linked))?;
        for (from, to) in std::mem::take(&mut facts.moved_sessions) {
            for funnel in self.of_scope(Scope::Session) {
                self.move_hits(&funnel, &session_actor(&from), &session_actor(&to))?;
            }
        }
        let mut by_actor: BTreeMap<(usize, String), Vec<Hit>> = BTreeMap::new();
        for ((at, actor), hits) in std::mem::take(&mut facts.hits) {
            if !self.funnels.contains_key(&at) {
                continue;
            }
            match actor {
                HitActor::Person(person) => {
                    by_actor.entry((at, self.name_of(&person)?)).or_default().extend(hits);
                }
                HitActor::Session(id) => by_actor.entry((at, session_actor(&id))).or_default().extend(hits),
                HitActor::Unnamed(actor) => {
                    for hit in hits {
                        // This transaction has placed every unnamed event in a session.
                        if let Some(id) = facts.session_of(&actor, hit.timestamp_ms) {
                            by_actor.entry((at, session_actor(id))).or_default().push(hit);
                        }
                    }
                }
            }
        }
        for ((at, actor), hits) in by_actor {
            if let Some(funnel) = self.funnels.get(&at).cloned() {
                self.insert(&funnel, &actor, hits)?;
            }
        }
        Ok(())
    }

    fn of_scope(&self, scope: Scope) -> Vec<Arc<Funnel>> {
        self.funnels.values().filter(|funnel| funnel.scope == scope).map(Arc::clone).collect()
    }

    /// Returns the name of the person in the tables. An anonymous id that is linked to a user gets the user's name.
    fn name_of(&self, person: &Actor) -> Result<String, StoreError> {
        let user_id = person.anonymous_id().map(|id| links::user_of(self.connection, id)).transpose()?.flatten();
        Ok(user_id.map_or_else(|| person.to_string(), |id| user_actor(&id)))
    }

    /// Moves the hits of anonymous ids to the users that the ids belong to now.
    fn link(&mut self, linked: Vec<Linked>) -> Result<(), StoreError> {
        let (of_users, unlinked): (Vec<_>, Vec<_>) = linked.into_iter().partition(|linked| linked.before.is_some());
        // Users who lost anonymous ids to other users. Each user's hits are searched once, however many ids moved.
        let mut users: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for Linked { anonymous_id, before, after } in of_users {
            users.entry(before.unwrap_or_default()).or_default().insert(anonymous_id, after);
        }
        for funnel in self.of_scope(Scope::User) {
            for Linked { anonymous_id, after, .. } in &unlinked {
                self.move_hits(&funnel, &anonymous_actor(anonymous_id), &user_actor(after))?;
            }
            for (user_id, gone) in &users {
                self.unlink(&funnel, &user_actor(user_id), gone)?;
            }
        }
        Ok(())
    }

    /// Moves the hits of the `gone` anonymous ids from a user to the users that the ids belong to now.
    fn unlink(&mut self, funnel: &Funnel, actor: &str, gone: &BTreeMap<String, String>) -> Result<(), StoreError> {
        let user_now = |hit: &Hit| match (&hit.user_id, &hit.anonymous_id) {
            (None, Some(anonymous_id)) => gone.get(anonymous_id),
            _ => None,
        };
        self.segments.turn_to(funnel, actor);
        let segments = self.segments.all()?;
        if !segments.iter().flat_map(|segment| segment.hits()).any(|hit| user_now(hit).is_some()) {
            return Ok(());
        }
        let mut by_actor: BTreeMap<String, Vec<Hit>> = BTreeMap::new();
        for hit in self.take(funnel, actor)? {
            let actor = user_now(&hit).map_or_else(|| actor.to_owned(), |user_id| user_actor(user_id));
            by_actor.entry(actor).or_default().push(hit);
        }
        by_actor.into_iter().try_for_each(|(actor, hits)| self.insert(funnel, &actor, hits))
    }

    /// Moves all hits of one actor to another. Inserts the hits of the actor with fewer segments into the history of
    /// the other.
    fn move_hits(&mut self, funnel: &Funnel, from: &str, to: &str) -> Result<(), StoreError> {
        self.segments.turn_to(funnel, to);
        let there = self.segments.count()?;
        self.segments.turn_to(funnel, from);
        let moving = self.segments.count()?;
        if moving == 0 || from == to {
            return Ok(());
        }
        let smaller = if there > moving { self.take(funnel, from)? } else { self.take(funnel, to)? };
        if there <= moving {
            self.segments.turn_to(funnel, from);
            self.segments.give_to(to)?;
            let sql = "UPDATE _funnel_episodes SET actor = ?3 WHERE funnel = ?1 AND actor = ?2";
            self.connection.prepare_cached(sql)?.execute(params![funnel.key(), from, to])?;
            if funnel.scope == Scope::Session {
                self.show_all(funnel, to)?;
            }
        }
        self.insert(funnel, to, smaller)
    }

    /// Removes all hits of an actor, and the episodes that they made. Returns the hits.
    fn take(&mut self, funnel: &Funnel, actor: &str) -> Result<Vec<Hit>, StoreError> {
        self.segments.turn_to(funnel, actor);
        let segments = self.segments.all()?;
        for piece in segments.iter().flat_map(|segment| segment.pieces()).filter(|piece| !piece.continues) {
            self.hide(funnel, &piece.opening)?;
        }
        self.segments.delete_all()?;
        let sql = "DELETE FROM _funnel_episodes WHERE funnel = ?1 AND actor = ?2";
        self.connection.prepare_cached(sql)?.execute(params![funnel.key(), actor])?;
        Ok(segments.iter().flat_map(|segment| segment.hits()).map(|hit| (**hit).clone()).collect())
    }

    /// Writes the rows of an actor again after the actor's id changed.
    fn show_all(&mut self, funnel: &Funnel, actor: &str) -> Result<(), StoreError> {
        self.segments.turn_to(funnel, actor);
        let segments = self.segments.all()?;
        let pieces = segments.iter().flat_map(|segment| segment.pieces()).filter(|piece| !piece.continues);
        let openings: Vec<Opening> = pieces.map(|piece| piece.opening.clone()).collect();
        let furthest = if funnel.reentry { None } else { self.furthest(funnel, actor)? };
        for opening in openings.iter().filter(|opening| funnel.reentry || Some(*opening) == furthest.as_ref()) {
            if let Some(episode) = History::new(&mut self.segments, funnel.rule()).episode(opening)? {
                self.show(funnel, actor, &episode)?;
            }
        }
        Ok(())
    }

    /// Inserts new hits of an actor, and writes the rows of the episodes that changed. A funnel without re-entry
    /// shows only the furthest episode of an actor.
    fn insert(&mut self, funnel: &Funnel, actor: &str, hits: Vec<Hit>) -> Result<(), StoreError> {
        if hits.is_empty() {
            return Ok(());
        }
        self.segments.turn_to(funnel, actor);
        let mut history = History::new(&mut self.segments, funnel.rule());
        let changed = history.insert(hits)?;
        let mut episodes = Vec::with_capacity(changed.len());
        for opening in changed {
            let episode = history.episode(&opening)?;
            episodes.push((opening, episode));
        }
        if funnel.reentry {
            for (opening, episode) in &episodes {
                match episode {
                    Some(episode) => self.show(funnel, actor, episode)?,
                    None => self.hide(funnel, opening)?,
                }
            }
            return Ok(());
        }
        let before = self.furthest(funnel, actor)?;
        for (opening, episode) in &episodes {
            self.keep(funnel, actor, opening, episode.as_ref())?;
        }
        let after = self.furthest(funnel, actor)?;
        if let Some(before) = before.filter(|before| Some(before) != after.as_ref()) {
            self.hide(funnel, &before)?;
        }
        if let Some(after) = after
            && let Some(episode) = History::new(&mut self.segments, funnel.rule()).episode(&after)?
        {
            self.show(funnel, actor, &episode)?;
        }
        Ok(())
    }

    /// Records an episode in `_funnel_episodes`, whether it is shown or not. Deletes the record if `episode` is
    /// `None`.
    fn keep(&self, funnel: &Funnel, actor: &str, opening: &Opening, episode: Option<&Episode>) -> rusqlite::Result<()> {
        let (key, ms, by) = (funnel.key(), opening.timestamp_ms, &opening.event_id);
        match episode {
            Some(episode) => {
                let step = episode.best.step();
                self.connection.prepare_cached(PUT_EPISODE)?.execute(params![key, actor, ms, by, step])?;
            }
            None => {
                self.connection.prepare_cached(DELETE_EPISODE)?.execute(params![key, actor, ms, by])?;
            }
        }
        Ok(())
    }

    /// Returns the opening of the actor's episode that got furthest: the first one, if several got equally far.
    fn furthest(&self, funnel: &Funnel, actor: &str) -> Result<Option<Opening>, StoreError> {
        let mut select = self.connection.prepare_cached(SELECT_FURTHEST)?;
        let opening = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        match select.query_row(params![funnel.key(), actor], opening).optional()? {
            None => Ok(None),
            Some((Value::Integer(timestamp_ms), Value::Text(event_id))) => Ok(Some(Opening { timestamp_ms, event_id })),
            Some(_) => {
                let why = "opened_ms is not an integer, or opened_by is not a text".to_owned();
                Err(StoreError::Damaged { table: "_funnel_episodes", key: actor.to_owned(), why })
            }
        }
    }

    fn show(&mut self, funnel: &Funnel, actor: &str, episode: &Episode) -> Result<(), StoreError> {
        let hits = episode.best.hits();
        let at = |hit: &Hit| Timestamp::from_millis(hit.timestamp_ms).to_string();
        let timestamps: Vec<String> = hits.iter().map(|hit| at(hit)).collect();
        let completed_at = timestamps.last().filter(|_| episode.is_completed);
        let id = funnel.episode_id(&episode.opening);
        self.count_stored(funnel, &id)?;
        let started_at = Timestamp::from_millis(hits[0].timestamp_ms);
        self.series.add_episode(self.dashboards, &funnel.name, started_at, episode.is_completed, 1);
        let session_id = match funnel.scope {
            Scope::User => hits[0].session_id.as_deref(),
            Scope::Session => actor.strip_prefix(SESSION_PREFIX),
        };
        let written = self.insert_row.execute(params![
            id,
            hits[0].user_id,
            session_id,
            timestamps[0],
            completed_at,
            episode.best.step(),
            episode.is_completed,
            serde_json::to_string(&timestamps).unwrap_or_default(),
            funnel.id(),
        ]);
        match written {
            Err(rusqlite::Error::SqliteFailure(error, _)) if error.extended_code == SQLITE_CONSTRAINT_FOREIGNKEY => {
                let why = "its definition is no longer in the table funnels".to_owned();
                Err(StoreError::Damaged { table: "funnel_conversions", key: funnel.name.clone(), why })
            }
            written => Ok(written.map(drop)?),
        }
    }

    fn hide(&mut self, funnel: &Funnel, opening: &Opening) -> Result<(), StoreError> {
        let id = funnel.episode_id(opening);
        self.count_stored(funnel, &id)?;
        self.delete_row.execute([id])?;
        Ok(())
    }

    /// Subtracts the stored row of an episode, if there is one, from the series that widgets count.
    fn count_stored(&mut self, funnel: &Funnel, id: &str) -> Result<(), StoreError> {
        if !self.dashboards.counts_episodes_of(&funnel.name) {
            return Ok(());
        }
        let mut select = self.connection.prepare_cached(SELECT_ROW)?;
        let Some((started_at, is_completed)) =
            select.query_row([id], |row| Ok((row.get::<_, String>(0).unwrap_or_default(), row.get(1)?))).optional()?
        else {
            return Ok(());
        };
        let damaged = || StoreError::Damaged {
            table: "funnel_conversions",
            key: id.to_owned(),
            why: "started_at is not a timestamp".into(),
        };
        let started_at = Timestamp::from_stored(&started_at).ok_or_else(damaged)?;
        self.series.add_episode(self.dashboards, &funnel.name, started_at, is_completed, -1);
        Ok(())
    }
}
