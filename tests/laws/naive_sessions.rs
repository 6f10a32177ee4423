//! Recomputes `SEMANTICS` section 3 (sessions) from the raw tables, in the slow and plain way, without the production
//! code.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;
use serde_json::Value;
use uuid::{Uuid, uuid};
use woothee::parser::Parser;

/// A row of a table, as text.
pub type Row = Vec<Option<String>>;

/// The namespace of all ids of derived rows.
pub const NAMESPACE: Uuid = uuid!("7a1c94d0-0f6e-4f0b-9c55-5f3ad1b0e2c7");

/// A raw row that belongs to a session.
#[derive(Clone)]
struct Message {
    /// The session id as sent. Without one, the message belongs to a derived session of its actor.
    session_id: Option<String>,
    /// `user|<user_id>` or `anonymous|<anonymous_id>`.
    actor: Option<String>,
    timestamp: String,
    /// The rank among messages of the same time: events first, then session messages.
    kind: u8,
    id: String,
    says: String,
    user_id: Option<String>,
    /// device_type, browser, os, country, city, referrer
    attributes: [Option<String>; 6],
    landing_page: Option<String>,
    exit_page: Option<String>,
}

fn events(connection: &Connection) -> Vec<Message> {
    let sql = "SELECT session_id, timestamp, id, user_id, anonymous_id, context, referrer, page_url \
               FROM analytics_events";
    let mut statement = connection.prepare(sql).unwrap();
    let events = statement.query_map([], |row| {
        let (user_id, anonymous_id): (Option<String>, Option<String>) = (row.get(3)?, row.get(4)?);
        let user = user_id.as_ref().map(|id| format!("user|{id}"));
        let context: Option<String> = row.get(5)?;
        let [device_type, browser, os, country, city] = told_by_context(context.as_deref().unwrap_or("{}"));
        let page: Option<String> = row.get(7)?;
        Ok(Message {
            session_id: row.get(0)?,
            actor: user.or_else(|| anonymous_id.map(|id| format!("anonymous|{id}"))),
            timestamp: row.get(1)?,
            kind: 0,
            id: row.get(2)?,
            says: "event".into(),
            user_id,
            attributes: [device_type, browser, os, country, city, row.get(6)?],
            landing_page: page.clone(),
            exit_page: page,
        })
    });
    events.unwrap().map(Result::unwrap).collect()
}

/// Returns device_type, browser, os, country and city. If one of the first three is missing, it is taken from the
/// user agent.
fn told_by_context(context: &str) -> [Option<String>; 5] {
    let context: Value = serde_json::from_str(context).unwrap();
    let find = |paths: [&str; 2]| {
        let mut texts = paths.into_iter().filter_map(|path| context.pointer(path)?.as_str());
        texts.find(|text| !text.is_empty()).map(str::to_owned)
    };
    let user_agent = context.pointer("/user_agent").and_then(Value::as_str).unwrap_or_default();
    let [device_type, browser, os] = told_by_user_agent(user_agent);
    [
        find(["/device_type", "/device/type"]).or(device_type),
        find(["/browser", "/browser/name"]).or(browser),
        find(["/os", "/os/name"]).or(os),
        find(["/country", "/geo/country"]),
        find(["/city", "/geo/city"]),
    ]
}

/// Returns device_type, browser and os.
fn told_by_user_agent(user_agent: &str) -> [Option<String>; 3] {
    let Some(found) = Parser::new().parse(user_agent) else { return [None, None, None] };
    let device_type = match found.category {
        "pc" => Some("desktop"),
        "smartphone" | "mobilephone" => Some("phone"),
        "appliance" => Some("appliance"),
        "crawler" => Some("bot"),
        _ => None,
    };
    let known = |text: &str| Some(text.to_owned()).filter(|text| text != "UNKNOWN");
    [device_type.map(str::to_owned), known(found.name), known(found.os)]
}

fn session_messages(connection: &Connection) -> Vec<Message> {
    let sql = "SELECT session_id, timestamp, id, kind, user_id, device_type, browser, os, country, city, referrer, \
               landing_page, exit_page FROM _session_messages";
    let mut statement = connection.prepare(sql).unwrap();
    let messages = statement.query_map([], |row| {
        Ok(Message {
            session_id: row.get(0)?,
            // Session messages always name their session.
            actor: None,
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
    messages.unwrap().map(Result::unwrap).collect()
}

fn to_ms(timestamp: &str) -> i64 {
    chrono::DateTime::parse_from_rfc3339(timestamp).unwrap().timestamp_millis()
}

/// Returns T in milliseconds: the greatest min(timestamp, recv) of all raw rows.
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

/// Returns all sessions by their ids, with their messages in order.
fn sessions(connection: &Connection, timeout_ms: i64) -> BTreeMap<String, Vec<Message>> {
    let mut all = events(connection);
    all.extend(session_messages(connection));
    all.sort_by(|a, b| (&a.timestamp, a.kind, &a.id).cmp(&(&b.timestamp, b.kind, &b.id)));
    let mut sessions: BTreeMap<String, Vec<Message>> = BTreeMap::new();
    let mut of_actors: BTreeMap<String, Vec<Message>> = BTreeMap::new();
    for message in all {
        match (message.session_id.clone(), message.actor.clone()) {
            (Some(session_id), _) => sessions.entry(session_id).or_default().push(message),
            (None, Some(actor)) => of_actors.entry(actor).or_default().push(message),
            // The message belongs to no actor.
            (None, None) => {}
        }
    }
    let sent: BTreeSet<String> = sessions.keys().cloned().collect();
    for (actor, messages) in of_actors {
        let are_near = |a: &Message, b: &Message| to_ms(&b.timestamp) - to_ms(&a.timestamp) <= timeout_ms;
        for messages in messages.chunk_by(are_near) {
            let id = derived_id(&actor, &messages[0].id, &sent);
            let other = sessions.insert(id, messages.to_vec());
            assert!(other.is_none(), "two derived sessions have one id");
        }
    }
    sessions
}

/// Returns the session's id for each event that belongs to a session.
pub fn session_of_events(connection: &Connection, timeout_ms: i64) -> BTreeMap<String, String> {
    let sessions = sessions(connection, timeout_ms);
    let events = sessions.iter().flat_map(|(id, messages)| messages.iter().map(move |message| (message, id)));
    events
        .filter(|(message, _)| message.says == "event")
        .map(|(message, id)| (message.id.clone(), id.clone()))
        .collect()
}

/// Returns the id of a derived session: the first id in its sequence that nobody sent.
fn derived_id(actor: &str, first_event_id: &str, sent: &BTreeSet<String>) -> String {
    let under = |uuid: Uuid| Uuid::new_v5(&uuid, first_event_id.as_bytes());
    let mut id = under(Uuid::new_v5(&NAMESPACE, actor.as_bytes()));
    while sent.contains(&id.to_string()) {
        id = under(id);
    }
    id.to_string()
}

/// Returns the rows that `analytics_sessions` must hold, in the order of ids.
pub fn recompute(connection: &Connection, timeout_ms: i64) -> Vec<Row> {
    let Some(watermark_ms) = watermark_ms(connection) else { return Vec::new() };
    let sessions = sessions(connection, timeout_ms);
    sessions.iter().map(|(id, messages)| recompute_one(id, messages, watermark_ms, timeout_ms)).collect()
}

fn recompute_one(id: &str, messages: &[Message], watermark_ms: i64, timeout_ms: i64) -> Row {
    let first = &messages[0];
    let last = messages.last().unwrap();
    let is_closed =
        messages.iter().any(|message| message.says == "end") || watermark_ms - to_ms(&last.timestamp) > timeout_ms;
    let attribute = |at: usize| {
        let starts = messages.iter().filter(|message| message.says == "start");
        starts.chain(messages).find_map(|message| message.attributes[at].clone())
    };
    let mut row = vec![
        Some(id.to_owned()),
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

/// Returns the rows that `analytics_sessions` holds, in the order of ids.
pub fn stored(connection: &Connection) -> Vec<Row> {
    let sql = "SELECT id, user_id, started_at, ended_at, cast(duration_ms AS TEXT), cast(event_count AS TEXT), \
               device_type, browser, os, country, city, referrer, landing_page, exit_page \
               FROM analytics_sessions ORDER BY id";
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| (0..14).map(|column| row.get(column)).collect());
    rows.unwrap().map(Result::unwrap).collect()
}

/// Panics at the first row that differs, because there may be many.
pub fn assert_same(stored: &[Row], expected: &[Row]) {
    for (stored, expected) in stored.iter().zip(expected) {
        assert_eq!(stored, expected);
    }
    assert_eq!(stored.len(), expected.len());
}
