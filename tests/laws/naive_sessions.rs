//! `SEMANTICS` section 3 once more, from the raw tables, the slow and plain way, without the production code.

use rusqlite::Connection;
use serde_json::Value;

/// A row of `analytics_sessions`, as text.
pub type Row = Vec<Option<String>>;

/// A raw row that belongs to a session.
struct Message {
    session_id: String,
    timestamp: String,
    /// Its place among those of the same time: events first, then session messages.
    kind: u8,
    id: String,
    says: String,
    user_id: Option<String>,
    /// device_type, browser, os, country, city, referrer
    attributes: [Option<String>; 6],
    landing_page: Option<String>,
    exit_page: Option<String>,
}

fn messages(connection: &Connection) -> Vec<Message> {
    let sql = "SELECT session_id, timestamp, id, user_id, context, referrer, page_url FROM analytics_events \
               WHERE session_id IS NOT NULL";
    let mut statement = connection.prepare(sql).unwrap();
    let events = statement.query_map([], |row| {
        let context: Option<String> = row.get(4)?;
        let context: Value = context.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap());
        let find = |paths: [&str; 2]| {
            let texts = paths.into_iter().filter_map(|path| context.pointer(path)?.as_str());
            texts.filter(|text| !text.is_empty()).map(str::to_owned).next()
        };
        let page: Option<String> = row.get(6)?;
        Ok(Message {
            session_id: row.get(0)?,
            timestamp: row.get(1)?,
            kind: 0,
            id: row.get(2)?,
            says: "event".into(),
            user_id: row.get(3)?,
            attributes: [
                find(["/device_type", "/device/type"]),
                find(["/browser", "/browser/name"]),
                find(["/os", "/os/name"]),
                find(["/country", "/geo/country"]),
                find(["/city", "/geo/city"]),
                row.get(5)?,
            ],
            landing_page: page.clone(),
            exit_page: page,
        })
    });
    let mut messages: Vec<_> = events.unwrap().map(Result::unwrap).collect();
    let sql = "SELECT session_id, timestamp, id, kind, user_id, device_type, browser, os, country, city, referrer, \
               landing_page, exit_page FROM _session_messages";
    let mut statement = connection.prepare(sql).unwrap();
    let sessions = statement.query_map([], |row| {
        Ok(Message {
            session_id: row.get(0)?,
            timestamp: row.get(1)?,
            kind: 2,
            id: row.get(2)?,
            says: row.get(3)?,
            user_id: row.get(4)?,
            attributes: [row.get(5)?, row.get(6)?, row.get(7)?, row.get(8)?, row.get(9)?, row.get(10)?],
            landing_page: row.get(11)?,
            exit_page: row.get(12)?,
        })
    });
    messages.extend(sessions.unwrap().map(Result::unwrap));
    messages
}

fn to_ms(timestamp: &str) -> i64 {
    chrono::DateTime::parse_from_rfc3339(timestamp).unwrap().timestamp_millis()
}

/// T: the greatest min(timestamp, recv) of all raw rows.
fn watermark_ms(connection: &Connection) -> Option<i64> {
    let rows = |table: &str| {
        let mut statement = connection.prepare(&format!("SELECT timestamp, recv_ms FROM {table}")).unwrap();
        let times = statement.query_map([], |row| {
            let timestamp: String = row.get(0)?;
            Ok(to_ms(&timestamp).min(row.get(1)?))
        });
        times.unwrap().map(Result::unwrap).max()
    };
    ["analytics_events", "metrics", "_session_messages"].into_iter().filter_map(rows).max()
}

/// What `analytics_sessions` must hold, in the order of ids.
pub fn recompute(connection: &Connection, timeout_ms: i64) -> Vec<Row> {
    let mut all = messages(connection);
    all.sort_by(|a, b| (&a.session_id, &a.timestamp, a.kind, &a.id).cmp(&(&b.session_id, &b.timestamp, b.kind, &b.id)));
    let Some(watermark_ms) = watermark_ms(connection) else { return Vec::new() };
    let sessions = all.chunk_by(|a, b| a.session_id == b.session_id);
    sessions.map(|messages| recompute_one(messages, watermark_ms, timeout_ms)).collect()
}

fn recompute_one(messages: &[Message], watermark_ms: i64, timeout_ms: i64) -> Row {
    let first = &messages[0];
    let last = messages.last().unwrap();
    let is_closed =
        messages.iter().any(|message| message.says == "end") || watermark_ms - to_ms(&last.timestamp) > timeout_ms;
    let attribute = |at: usize| {
        let starts = messages.iter().filter(|message| message.says == "start");
        starts.chain(messages).find_map(|message| message.attributes[at].clone())
    };
    let mut row = vec![
        Some(first.session_id.clone()),
        messages.iter().find_map(|message| message.user_id.clone()),
        Some(first.timestamp.clone()),
        is_closed.then(|| last.timestamp.clone()),
        Some((to_ms(&last.timestamp) - to_ms(&first.timestamp)).to_string()),
        Some(messages.iter().filter(|message| message.says == "event").count().to_string()),
    ];
    row.extend((0..6).map(attribute));
    row.push(messages.iter().find_map(|message| message.landing_page.clone()));
    row.push(messages.iter().rev().find_map(|message| message.exit_page.clone()));
    row
}

/// What `analytics_sessions` holds, in the order of ids.
pub fn stored(connection: &Connection) -> Vec<Row> {
    let sql = "SELECT id, user_id, started_at, ended_at, cast(duration_ms AS TEXT), cast(event_count AS TEXT), \
               device_type, browser, os, country, city, referrer, landing_page, exit_page \
               FROM analytics_sessions ORDER BY id";
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| (0..14).map(|column| row.get(column)).collect());
    rows.unwrap().map(Result::unwrap).collect()
}
