//! Recomputes `SEMANTICS` section 5 (feature usage) from the raw table, in the slow and plain way, without the
//! production code.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;
use serde_json::Value;
use uuid::Uuid;

use super::naive_sessions::{NAMESPACE, Row};
use crate::support::plain_sum;

/// The prefix of a feature that takes its name from the event's properties. The path of the name follows the prefix.
const PATH: &str = "$.properties.";
const MAX_NAME_CHARS: usize = 128;

/// A rule: which events are usages of a feature.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The feature's name, or a path such as `$.properties.a.b` to a text that is the name.
    pub feature: String,
    /// The event matches if its type is one of these. An empty list matches every type.
    pub event_type: Vec<String>,
    pub event_name: Vec<String>,
}

struct Event {
    event_type: String,
    event_name: String,
    properties: Value,
}

impl Rule {
    fn matches(&self, event: &Event) -> bool {
        let is_any_of = |all: &[String], one: &String| all.is_empty() || all.contains(one);
        is_any_of(&self.event_type, &event.event_type) && is_any_of(&self.event_name, &event.event_name)
    }

    fn name<'a>(&'a self, event: &'a Event) -> Option<&'a str> {
        let Some(path) = self.feature.strip_prefix(PATH) else { return Some(&self.feature) };
        let mut value = &event.properties;
        for key in path.split('.') {
            value = value.as_object()?.get(key)?;
        }
        value.as_str()
    }
}

impl Event {
    /// Returns the feature that the event uses if no rule is configured.
    fn default_name(&self) -> Option<&str> {
        let told = self.properties.get("feature").and_then(Value::as_str).filter(|name| !name.is_empty());
        // A `feature` text that is not a valid name is not replaced by the event's name.
        told.or_else(|| (self.event_type == "feature").then_some(self.event_name.as_str()))
    }

    /// Returns the features that the event uses, each once.
    fn features(&self, rules: &[Rule], defaults: bool) -> BTreeSet<String> {
        let by_rules = rules.iter().filter(|rule| rule.matches(self)).filter_map(|rule| rule.name(self));
        let by_default = self.default_name().filter(|_| defaults);
        by_rules.chain(by_default).filter(|name| is_name(name)).map(str::to_owned).collect()
    }

    /// Returns the duration in milliseconds. Subnormal numbers count as 0.
    fn duration_ms(&self) -> Option<f64> {
        let duration_ms = self.properties.get("duration_ms")?.as_f64()?;
        let duration_ms = if duration_ms.is_subnormal() { 0.0 } else { duration_ms };
        Some(duration_ms).filter(|duration_ms| duration_ms.is_finite() && *duration_ms >= 0.0)
    }
}

fn is_name(name: &str) -> bool {
    let is_blank = name.chars().all(char::is_whitespace);
    !is_blank && name.chars().count() <= MAX_NAME_CHARS && !name.chars().any(char::is_control)
}

/// The usages of a feature on a day.
#[derive(Default)]
struct Day {
    usage_count: u64,
    users: BTreeSet<String>,
    durations_ms: Vec<f64>,
    successes: Vec<bool>,
}

/// Returns the rows that `feature_usage` must hold, in the order of feature_name and date. A row is its columns, id
/// first.
pub fn recompute(connection: &Connection, rules: &[Rule], defaults: bool) -> Vec<Row> {
    let mut days: BTreeMap<(String, String), Day> = BTreeMap::new();
    let sql = "SELECT event_type, event_name, timestamp, user_id, properties FROM analytics_events";
    let mut statement = connection.prepare(sql).unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let text = |column: usize| row.get::<_, Option<String>>(column).unwrap();
        let properties = text(4).map_or(Value::Null, |properties| serde_json::from_str(&properties).unwrap());
        let event = Event { event_type: text(0).unwrap(), event_name: text(1).unwrap(), properties };
        let date = text(2).unwrap()[..10].to_owned();
        for feature in event.features(rules, defaults) {
            let day = days.entry((feature, date.clone())).or_default();
            day.usage_count += 1;
            day.users.extend(text(3));
            day.durations_ms.extend(event.duration_ms());
            day.successes.extend(event.properties.get("success").and_then(Value::as_bool));
        }
    }
    days.into_iter().map(|((feature_name, date), day)| recompute_one(feature_name, date, &day)).collect()
}

fn recompute_one(feature_name: String, date: String, day: &Day) -> Row {
    let id = Uuid::new_v5(&NAMESPACE, format!("feature_usage|{date}|{feature_name}").as_bytes());
    let Day { usage_count, users, durations_ms, successes } = day;
    let succeeded = successes.iter().filter(|success| **success).count();
    // Without values, the average and the rate are null.
    let avg_duration_ms = (!durations_ms.is_empty()).then(|| plain_sum(durations_ms) / durations_ms.len() as f64);
    let success_rate = (!successes.is_empty()).then(|| succeeded as f64 / successes.len() as f64);
    vec![
        Some(id.to_string()),
        Some(feature_name),
        Some(date),
        Some(usage_count.to_string()),
        Some(users.len().to_string()),
        avg_duration_ms.map(|avg| avg.to_string()),
        success_rate.map(|rate| rate.to_string()),
    ]
}

/// Returns the rows that `feature_usage` holds, in the same order.
pub fn stored(connection: &Connection) -> Vec<Row> {
    let sql = "SELECT id, feature_name, date, cast(usage_count AS TEXT), cast(unique_users AS TEXT), \
               avg_duration_ms, success_rate FROM feature_usage ORDER BY feature_name, date";
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| {
        let mut columns: Row = (0..5).map(|column| row.get(column)).collect::<Result<_, _>>()?;
        for column in 5..7 {
            // Rust formats the float, because SQLite would drop digits.
            columns.push(row.get::<_, Option<f64>>(column)?.map(|float| float.to_string()));
        }
        Ok(columns)
    });
    rows.unwrap().map(Result::unwrap).collect()
}
