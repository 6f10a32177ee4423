//! Checks some keys of a database, chosen at random: rebuilds them from the raw rows that concern them, and compares.
//!
//! Indexes find all raw rows of a user, of the sessions that the user is in, and of an hour of a metric. Session
//! messages have no such index: all of them are read. The rules and the code of the tables are the ones that the
//! worker runs, in a database in memory. Some rows depend on all users at once: features, numbers of widgets, longer
//! periods. Only a whole comparison checks these.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::compare::{Compared, compare_rows};
use super::shadow_groups::schema;
use crate::analytics::{Facts, GroupName, GroupSet, Rules, Stored};
use crate::clock;
use crate::model::{AnalyticsEvent, Metric, SessionMessage, Timestamp};
use crate::store::error::StoreError;
use crate::store::receipt::Timings;
use crate::store::sqlite::derived;
use crate::store::sqlite::file::database::transact;
use crate::store::sqlite::raw::RawTable;
use crate::store::sqlite::schema::PUBLIC_TABLES;
use crate::store::sqlite::values::is_unreadable;

/// Users and hours with more raw rows than this are skipped: a sample is to take seconds.
const MAX_ROWS: usize = 50_000;
const HOUR_MS: i64 = 3_600_000;

/// Checks `keys` users and `keys` hours of metrics, chosen at random. Returns the result of each table. Blocks.
///
/// # Errors
/// Fails if the database cannot be read.
pub(in crate::store) fn sample(read: &Connection, rules: &Rules, keys: u32) -> Result<Vec<Compared>, StoreError> {
    let mut found = [
        ("analytics_sessions", Compared::none("analytics_sessions")),
        ("funnel_conversions", Compared::none("funnel_conversions")),
        ("metric_aggregates", Compared::none("metric_aggregates")),
        ("user_activity", Compared::none("user_activity")),
    ];
    let Some(t) = derived::watermark(read)? else { return Ok(found.map(|(_, compared)| compared).into()) };
    let mut check = |built: &Connection, table: &str, condition: &str, key: &[Value]| -> Result<(), StoreError> {
        let columns = PUBLIC_TABLES.iter().find(|(name, _)| *name == table).map_or("id", |(_, columns)| *columns);
        match found.iter_mut().find(|(name, _)| *name == table) {
            Some((_, compared)) => {
                compare_rows(read, built, columns, condition, key, compared, |_, _| Ok(false)).map(drop)
            }
            None => Ok(()),
        }
    };
    let users = chosen(read, "user_activity", "user_id", "true", keys)?;
    let messages = SessionMessages::of(read, &users)?;
    for user in users {
        let Some(of_user) = of_user(read, rules, &user, &messages)? else { continue };
        let built = made_of(read, rules, of_user.facts, t)?;
        let key = [Value::from(user.clone())];
        check(&built, "user_activity", "user_id = ?1", &key)?;
        check(&built, "analytics_sessions", "user_id = ?1", &key)?;
        // An event that has only an anonymous id may also be this user's, so a linked user's funnels are not checked.
        if !of_user.is_linked && rules.funnels.iter().next().is_some() {
            check(&built, "funnel_conversions", "user_id = ?1", &key)?;
        }
    }
    for id in chosen(read, "metric_aggregates", "id", "period_type = 'hourly'", keys)? {
        let sql = "SELECT name, period_start FROM metric_aggregates WHERE id = ?1";
        let (name, start): (String, String) = read.query_row(sql, [&id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let Some(start) = Timestamp::from_stored(&start) else { continue };
        let end = Timestamp::from_millis(start.as_millis() + HOUR_MS);
        let key = [Value::from(name), Value::from(start.to_string()), Value::from(end.to_string())];
        // `+name` makes SQLite use the index of times: all metrics may have the same name.
        let condition = "+name = ?1 AND timestamp >= ?2 AND timestamp < ?3";
        let Some(rows) = rows::<Metric>(read, condition, &key)? else { continue };
        let mut facts = Facts::default();
        facts.add(rules, rows.iter().map(|(metric, recv)| (metric.into(), *recv)));
        check(&made_of(read, rules, facts, t)?, "metric_aggregates", "id = ?1", &[Value::from(id)])?;
    }
    Ok(found.map(|(_, compared)| compared).into())
}

/// Returns a column's values in `keys` random rows, or in all rows if there are no more. Ids are hashes, so they are
/// evenly spread.
fn chosen(
    read: &Connection,
    table: &str,
    column: &str,
    condition: &str,
    keys: u32,
) -> rusqlite::Result<BTreeSet<String>> {
    let mut select = read.prepare(&format!("SELECT {column} FROM {table} WHERE {condition} LIMIT ?1"))?;
    let first: Vec<String> = select.query_map([i64::from(keys) + 1], |row| row.get(0))?.collect::<Result<_, _>>()?;
    if first.len() <= keys as usize {
        return Ok(first.into_iter().collect());
    }
    let sql = format!("SELECT {column} FROM {table} WHERE id >= ?1 AND {condition} ORDER BY id LIMIT 1");
    let mut select = read.prepare(&sql)?;
    let mut random = fastrand::Rng::with_seed(u64::try_from(clock::now_ms()).unwrap_or_default());
    let mut found = BTreeSet::new();
    for _ in 0..keys {
        let mut rows = select.query([format!("{:08x}", random.u32(..))])?;
        if let Some(row) = rows.next()? {
            found.insert(row.get(0)?);
        }
    }
    Ok(found)
}

struct OfUser {
    facts: Facts,
    /// Whether there are events with an anonymous id beside the user's id.
    is_linked: bool,
}

/// The session messages of some users' sessions, by session. No index finds them, so all session messages are read.
struct SessionMessages(BTreeMap<String, Vec<(SessionMessage, Timestamp)>>);

impl SessionMessages {
    fn of(read: &Connection, users: &BTreeSet<String>) -> rusqlite::Result<Self> {
        let mut sessions = BTreeSet::new();
        let mut select = read.prepare("SELECT DISTINCT session_id FROM analytics_events WHERE user_id = ?1")?;
        for user in users {
            for session in select.query_map([user], |row| row.get::<_, Option<String>>(0))? {
                sessions.extend(session?);
            }
        }
        let mut select = read.prepare("SELECT session_id, user_id FROM _session_messages WHERE user_id IS NOT NULL")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            if row.get_ref(1)?.as_str().is_ok_and(|user| users.contains(user)) {
                sessions.insert(row.get(0)?);
            }
        }
        let (columns, mut found) = (SessionMessage::COLUMNS, BTreeMap::<String, Vec<_>>::new());
        let mut select = read.prepare(&format!("SELECT {columns}, recv_ms, session_id FROM _session_messages"))?;
        let session_column = select.column_count() - 1;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let Ok(session) = row.get_ref(session_column)?.as_str() else { continue };
            if sessions.contains(session)
                && let Ok(message) = SessionMessage::from_row(row)
            {
                let recv = Timestamp::from_millis(row.get(session_column - 1)?);
                found.entry(session.to_owned()).or_default().push((message, recv));
            }
        }
        Ok(Self(found))
    }

    /// Returns the sessions in which a user sent a session message.
    fn sessions_of(&self, user: &str) -> impl Iterator<Item = String> {
        let is_in = |messages: &[(SessionMessage, Timestamp)]| {
            messages.iter().any(|(message, _)| message.user_id.as_deref() == Some(user))
        };
        self.0.iter().filter(move |(_, messages)| is_in(messages)).map(|(session, _)| session.clone())
    }
}

/// Makes facts of all raw rows of a user, and of the sessions that the user is in. Returns `None` if there are too
/// many rows.
fn of_user(
    read: &Connection,
    rules: &Rules,
    user: &str,
    messages: &SessionMessages,
) -> Result<Option<OfUser>, StoreError> {
    let own = [Value::from(user.to_owned())];
    let Some(mut events) = rows::<AnalyticsEvent>(read, "user_id = ?1", &own)? else { return Ok(None) };
    let is_linked = events.iter().any(|(event, _)| event.anonymous_id.is_some());
    let of_events = events.iter().filter_map(|(event, _)| event.session_id.clone());
    let sessions: BTreeSet<String> = of_events.chain(messages.sessions_of(user)).collect();
    for session in &sessions {
        let key = [Value::from(session.clone()), own[0].clone()];
        let others = rows::<AnalyticsEvent>(read, "session_id = ?1 AND +user_id IS NOT ?2", &key)?;
        let Some(others) = others.filter(|others| events.len() + others.len() <= MAX_ROWS) else { return Ok(None) };
        events.extend(others);
    }
    let mut facts = Facts::default();
    facts.add(rules, events.iter().map(|(event, recv)| (Stored::from(event), *recv)));
    for messages in sessions.iter().filter_map(|session| messages.0.get(session)) {
        facts.add(rules, messages.iter().map(|(message, recv)| (Stored::from(message), *recv)));
    }
    Ok(Some(OfUser { facts, is_linked }))
}

/// Reads raw rows, each with the time at which the server received it. Skips rows that are not messages. Returns
/// `None` if there are too many rows.
fn rows<T: RawTable>(
    read: &Connection,
    condition: &str,
    key: &[Value],
) -> rusqlite::Result<Option<Vec<(T, Timestamp)>>> {
    let (table, columns) = (T::TABLE, T::COLUMNS);
    let sql = format!("SELECT {columns}, recv_ms FROM {table} WHERE {condition}");
    let mut statement = read.prepare_cached(&sql)?;
    let recv_column = statement.column_count() - 1;
    let mut rows = statement.query(params_from_iter(key))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        match T::from_row(row) {
            Ok(record) => found.push((record, Timestamp::from_millis(row.get(recv_column)?))),
            Err(error) if is_unreadable(&error) => {}
            Err(error) => return Err(error),
        }
        if found.len() > MAX_ROWS {
            return Ok(None);
        }
    }
    Ok(Some(found))
}

/// Makes a database in memory from these facts only, with the T of the live database.
fn made_of(live: &Connection, rules: &Rules, mut facts: Facts, t: Timestamp) -> Result<Connection, StoreError> {
    let groups: GroupSet =
        GroupName::all(rules).into_iter().filter(|group| !matches!(group, GroupName::Series(_))).collect();
    let built = Connection::open_in_memory()?;
    // Some tables refer to tables that are not in this database.
    built.pragma_update(None, "foreign_keys", "OFF")?;
    facts.watermark = Some(t);
    let statements = schema(live, &groups)?;
    transact(&built, |tx| {
        for statement in &statements {
            tx.execute(statement, [])?;
        }
        derived::apply(tx, rules, &groups, facts, None, &mut Timings::begin())?;
        Ok(())
    })?;
    Ok(built)
}
