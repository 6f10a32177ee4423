//! Recomputes `SEMANTICS` section 4 (user activity) from the raw tables, in the slow and plain way, without the
//! production code.

use std::collections::BTreeMap;

use rusqlite::Connection;
use uuid::Uuid;

use super::naive_sessions::{self, NAMESPACE, Row, assert_same};

/// The number of names that a breakdown shows. All other names together are one number.
const SHOWN: usize = 100;
const OTHERS: &str = "$other";

/// The activity of a user on a day.
#[derive(Default)]
struct Day {
    /// The number of events of each name.
    events: BTreeMap<String, u64>,
    session_count: u64,
    total_duration_ms: i64,
    /// The times of events, and the start times of sessions.
    seen_at: Vec<String>,
}

fn date(timestamp: &str) -> String {
    timestamp[..10].to_owned()
}

/// Returns the rows that `user_activity` must hold, in the order of user_id and date. A row is its columns, id first.
pub fn recompute(connection: &Connection, timeout_ms: i64) -> Vec<Row> {
    let mut days: BTreeMap<(String, String), Day> = BTreeMap::new();
    let sql = "SELECT user_id, timestamp, event_name FROM analytics_events WHERE user_id IS NOT NULL";
    let mut statement = connection.prepare(sql).unwrap();
    let mut events = statement.query([]).unwrap();
    while let Some(event) = events.next().unwrap() {
        let text = |column: usize| event.get::<_, String>(column).unwrap();
        let day = days.entry((text(0), date(&text(1)))).or_default();
        *day.events.entry(text(2)).or_default() += 1;
        day.seen_at.push(text(1));
    }
    for session in naive_sessions::recompute(connection, timeout_ms) {
        let Some(user_id) = session[1].clone() else { continue };
        let (started_at, duration_ms) = (session[2].clone().unwrap(), session[4].clone().unwrap());
        let day = days.entry((user_id, date(&started_at))).or_default();
        day.session_count += 1;
        day.total_duration_ms += duration_ms.parse::<i64>().unwrap();
        day.seen_at.push(started_at);
    }
    days.into_iter().map(|((user_id, date), day)| row(user_id, date, &day)).collect()
}

fn row(user_id: String, date: String, day: &Day) -> Row {
    let id = Uuid::new_v5(&NAMESPACE, format!("user_activity|{date}|{user_id}").as_bytes());
    vec![
        Some(id.to_string()),
        Some(user_id),
        Some(date),
        Some(day.session_count.to_string()),
        Some(day.events.values().sum::<u64>().to_string()),
        Some(day.total_duration_ms.to_string()),
        day.seen_at.iter().min().cloned(),
        day.seen_at.iter().max().cloned(),
        breakdown(&day.events),
    ]
}

/// Returns the most frequent names. Of names with equal counts, the one that sorts first wins. An event may have the
/// name that stands for the others (`$other`): then both numbers are added.
fn breakdown(events: &BTreeMap<String, u64>) -> Option<String> {
    let mut ranked: Vec<(&String, &u64)> = events.iter().collect();
    ranked.sort_by(|(name_a, n_a), (name_b, n_b)| n_b.cmp(n_a).then(name_a.cmp(name_b)));
    let mut shown: BTreeMap<&str, u64> = BTreeMap::new();
    for (rank, (name, n)) in ranked.into_iter().enumerate() {
        *shown.entry(if rank < SHOWN { name } else { OTHERS }).or_default() += n;
    }
    (!shown.is_empty()).then(|| serde_json::to_string(&shown).unwrap())
}

/// Returns the rows that `user_activity` holds, in the same order.
pub fn stored(connection: &Connection) -> Vec<Row> {
    let sql = "SELECT id, user_id, date, cast(session_count AS TEXT), cast(event_count AS TEXT), \
               cast(total_duration_ms AS TEXT), first_seen_at, last_seen_at, events_breakdown \
               FROM user_activity ORDER BY user_id, date";
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| (0..9).map(|column| row.get(column)).collect());
    rows.unwrap().map(Result::unwrap).collect()
}

pub fn assert_is_recomputed(connection: &Connection, timeout_ms: i64) {
    assert_same(&stored(connection), &recompute(connection, timeout_ms));
}

/// Asserts L3: no event, no session and no millisecond of a user is lost between the days, or counted in two of them.
pub fn assert_conserved(connection: &Connection) {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    for (column, counted) in [
        ("event_count", "count(*) FROM analytics_events"),
        ("session_count", "count(*) FROM analytics_sessions"),
        ("total_duration_ms", "coalesce(sum(duration_ms), 0) FROM analytics_sessions"),
    ] {
        let of_days = number(&format!("SELECT coalesce(sum({column}), 0) FROM user_activity"));
        assert_eq!(of_days, number(&format!("SELECT {counted} WHERE user_id IS NOT NULL")), "{column}");
    }
}
