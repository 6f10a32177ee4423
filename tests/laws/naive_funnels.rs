//! Recomputes `SEMANTICS` section 6 (funnels) from the raw tables, as its text says, without the production code.

use std::collections::BTreeMap;

use rusqlite::Connection;
use serde_json::Value;
use uuid::Uuid;

use super::naive_sessions::{self, NAMESPACE, Row};

/// A funnel whose steps are plain conditions.
pub struct Funnel {
    pub name: &'static str,
    pub is_of_sessions: bool,
    pub window_ms: i64,
    pub reentry: bool,
    pub steps: Vec<fn(&Event) -> bool>,
}

/// A row of `analytics_events`.
#[derive(Clone)]
pub struct Event {
    id: String,
    pub event_type: String,
    pub name: String,
    timestamp: String,
    session_id: Option<String>,
    user_id: Option<String>,
    anonymous_id: Option<String>,
    pub properties: Value,
}

impl Event {
    fn ms(&self) -> i64 {
        chrono::DateTime::parse_from_rfc3339(&self.timestamp).unwrap().timestamp_millis()
    }
}

fn events(connection: &Connection) -> Vec<Event> {
    let sql = "SELECT id, event_type, event_name, timestamp, session_id, user_id, anonymous_id, properties \
               FROM analytics_events ORDER BY timestamp, id";
    let mut statement = connection.prepare(sql).unwrap();
    let events = statement.query_map([], |row| {
        let properties: Option<String> = row.get(7)?;
        Ok(Event {
            id: row.get(0)?,
            event_type: row.get(1)?,
            name: row.get(2)?,
            timestamp: row.get(3)?,
            session_id: row.get(4)?,
            user_id: row.get(5)?,
            anonymous_id: row.get(6)?,
            properties: properties.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap()),
        })
    });
    events.unwrap().map(Result::unwrap).collect()
}

/// Returns the rows that `funnel_conversions` must hold for these funnels, in the order of ids.
pub fn recompute(connection: &Connection, funnels: &[Funnel], timeout_ms: i64) -> Vec<Row> {
    let events = events(connection);
    let session_of = naive_sessions::session_of_events(connection, timeout_ms);
    let mut users: BTreeMap<&str, &str> = BTreeMap::new();
    for event in &events {
        if let (Some(anonymous), Some(user)) = (&event.anonymous_id, &event.user_id) {
            users.entry(anonymous).or_insert(user);
        }
    }
    let mut rows = Vec::new();
    for funnel in funnels {
        let mut by_actor: BTreeMap<(bool, String), Vec<(usize, &Event)>> = BTreeMap::new();
        for event in &events {
            let actor = if funnel.is_of_sessions {
                session_of.get(&event.id).map(|id| (true, id.clone()))
            } else {
                let linked = || {
                    event.anonymous_id.as_ref().map(|id| match users.get(id.as_str()) {
                        Some(user) => (true, (*user).to_owned()),
                        None => (false, id.clone()),
                    })
                };
                event.user_id.clone().map(|id| (true, id)).or_else(linked)
            };
            let Some(actor) = actor else { continue };
            let matched = funnel.steps.iter().enumerate().filter(|(_, matches)| matches(event));
            by_actor.entry(actor).or_default().extend(matched.map(|(at, _)| (at, event)));
        }
        for ((_, actor), mut hits) in by_actor {
            hits.sort_by_key(|(step, event)| (event.ms(), *step, event.id.clone()));
            let mut episodes = episodes(funnel, &hits);
            if !funnel.reentry {
                let furthest = episodes.iter().map(|episode| episode.best.len()).max().unwrap_or(0);
                let first = episodes.iter().position(|episode| episode.best.len() == furthest);
                episodes = first.map(|at| episodes.swap_remove(at)).into_iter().collect();
            }
            rows.extend(episodes.iter().map(|episode| row(funnel, &actor, episode)));
        }
    }
    rows.sort();
    rows
}

/// The best chains of one step, each with the time in milliseconds since when it has been the best.
type Log<'a> = Vec<(i64, Vec<&'a Event>)>;

struct Episode<'a> {
    opened_by: &'a str,
    best: Vec<&'a Event>,
}

/// Returns the episodes of one actor. `slots` holds a log of best chains for each step.
fn episodes<'a>(funnel: &Funnel, hits: &[(usize, &'a Event)]) -> Vec<Episode<'a>> {
    let mut episodes: Vec<Episode<'a>> = Vec::new();
    let mut slots: Option<Vec<Log<'a>>> = None;
    for (step, event) in hits {
        let now = event.ms();
        let is_over = |slots: &Vec<Log<'_>>| now - slots[0].last().unwrap().1[0].ms() > funnel.window_ms;
        if slots.as_ref().is_some_and(is_over) {
            slots = None;
        }
        let Some(open) = &mut slots else {
            if *step == 0 {
                episodes.push(Episode { opened_by: &event.id, best: vec![*event] });
                let mut new = vec![Vec::new(); funnel.steps.len()];
                new[0].push((now, vec![*event]));
                slots = Some(new);
            }
            continue;
        };
        let mut chain = Some(Vec::new());
        if *step > 0 {
            let fits = |chain: &&Vec<&Event>| {
                now - chain[0].ms() <= funnel.window_ms && chain.iter().all(|other| other.id != event.id)
            };
            let held = |upto: i64| open[step - 1].iter().rfind(|(since, _)| *since <= upto).map(|(_, chain)| chain);
            chain = held(now).filter(fits).or_else(|| held(now - 1).filter(fits)).cloned();
        }
        let Some(mut chain) = chain else { continue };
        chain.push(event);
        if open[*step].last().is_some_and(|(_, held)| held[0].ms() >= chain[0].ms()) {
            continue;
        }
        let episode = episodes.last_mut().unwrap();
        if chain.len() > episode.best.len() {
            episode.best = chain.clone();
        }
        open[*step].push((now, chain));
        if step + 1 == funnel.steps.len() {
            slots = None;
        }
    }
    episodes
}

fn row(funnel: &Funnel, actor: &str, episode: &Episode<'_>) -> Row {
    let under = |key: String| Uuid::new_v5(&NAMESPACE, key.as_bytes()).to_string();
    let funnel_id = under(format!("funnels|{}", funnel.name));
    let Episode { opened_by, best } = episode;
    let is_complete = best.len() == funnel.steps.len();
    let timestamps: Vec<&str> = best.iter().map(|event| event.timestamp.as_str()).collect();
    vec![
        Some(under(format!("funnel_conversions|{funnel_id}|1|{opened_by}"))),
        Some(funnel_id),
        best[0].user_id.clone(),
        if funnel.is_of_sessions { Some(actor.to_owned()) } else { best[0].session_id.clone() },
        Some(best[0].timestamp.clone()),
        is_complete.then(|| best.last().unwrap().timestamp.clone()),
        Some(best.len().to_string()),
        Some(u8::from(is_complete).to_string()),
        Some(serde_json::to_string(&timestamps).unwrap()),
    ]
}

/// Returns the rows that `funnel_conversions` holds, in the order of ids.
pub fn stored(connection: &Connection) -> Vec<Row> {
    let sql = "SELECT id, funnel_id, user_id, session_id, started_at, completed_at, CAST(current_step AS TEXT), \
               CAST(completed AS TEXT), step_timestamps FROM funnel_conversions ORDER BY id";
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| (0..9).map(|column| row.get(column)).collect());
    rows.unwrap().map(Result::unwrap).collect()
}
