//! Recomputes `SEMANTICS` section 7 (dashboards) from raw rows, sessions and conversions, in the slow and plain way,
//! without the production code.

use std::collections::BTreeSet;

use chrono::{DateTime, Datelike, Days, Months, NaiveTime, TimeDelta, Timelike, Utc};
use rusqlite::Connection;
use serde_json::Value;
use uuid::Uuid;

use super::naive_sessions::{NAMESPACE, Row};
use crate::support::plain_sum;

/// A number of a widget, as in the tested configuration.
#[derive(Debug, Clone, Copy)]
pub struct Number {
    pub widget: &'static str,
    pub key: &'static str,
    pub period: &'static str,
    /// The measure, and what it is taken from.
    pub of: Of,
}

#[derive(Debug, Clone, Copy)]
pub enum Of {
    Events(Option<&'static str>),
    EventsPerMinute,
    Users,
    Sessions,
    SessionDuration,
    /// Samples of the metric `m`: those with this value of the tag `k`, or all; then the measure that is shown.
    Samples(Option<&'static str>, &'static str),
    Feature(&'static str, &'static str),
    Funnel(&'static str, &'static str),
}

type Time = DateTime<Utc>;

fn start(period: &str, t: Time) -> Time {
    let midnight = t.with_time(NaiveTime::MIN).unwrap();
    match period {
        "1h" => midnight + TimeDelta::hours(t.hour().into()),
        "1d" => midnight,
        "7d" => midnight - Days::new(t.weekday().num_days_from_monday().into()),
        _ => midnight.with_day(1).unwrap(),
    }
}

fn before(period: &str, start: Time) -> Time {
    match period {
        "1h" => start - TimeDelta::hours(1),
        "1d" => start - Days::new(1),
        "7d" => start - Days::new(7),
        _ => start - Months::new(1),
    }
}

fn end(period: &str, start: Time) -> Time {
    match period {
        "1h" => start + TimeDelta::hours(1),
        "1d" => start + Days::new(1),
        "7d" => start + Days::new(7),
        _ => start + Months::new(1),
    }
}

fn text(time: Time) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

/// Returns T: the greatest timestamp of all messages. A timestamp after the time of receipt counts as the time of
/// receipt.
fn watermark(connection: &Connection) -> Option<Time> {
    let of = |table: &str| {
        let sql = format!("SELECT timestamp, recv_ms FROM {table}");
        let mut statement = connection.prepare(&sql).unwrap();
        let times = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))).unwrap();
        let least = |(timestamp, recv_ms): (String, i64)| {
            let timestamp: Time = timestamp.parse().unwrap();
            timestamp.min(DateTime::from_timestamp_millis(recv_ms).unwrap())
        };
        times.map(|row| least(row.unwrap())).max()
    };
    ["analytics_events", "metrics", "_session_messages"].into_iter().filter_map(of).max()
}

/// Returns the rows of a query over the time from `from` (inclusive) to `until` (exclusive).
fn rows(connection: &Connection, sql: &str, from: Time, until: Time) -> Vec<Vec<rusqlite::types::Value>> {
    let mut statement = connection.prepare(sql).unwrap();
    let columns = statement.column_count();
    let row = |row: &rusqlite::Row<'_>| (0..columns).map(|column| row.get(column)).collect();
    statement.query_map([text(from), text(until)], row).unwrap().map(Result::unwrap).collect()
}

fn as_text(value: &rusqlite::types::Value) -> Option<&str> {
    if let rusqlite::types::Value::Text(text) = value { Some(text) } else { None }
}

fn ratio(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl Of {
    /// Returns the number over the time from `from` to `until` (exclusive). `minutes` minutes of it have passed.
    fn number(self, connection: &Connection, from: Time, until: Time, minutes: i64) -> Option<f64> {
        let within = "WHERE timestamp >= ?1 AND timestamp < ?2";
        let count = |condition: &str| {
            let sql = format!("SELECT id FROM analytics_events {within} AND {condition}");
            rows(connection, &sql, from, until).len() as f64
        };
        match self {
            Of::Events(None) => Some(count("true")),
            Of::Events(Some(name)) => Some(count(&format!("event_name = '{name}'"))),
            Of::EventsPerMinute => Some(count("true")).filter(|count| *count > 0.0).map(|count| count / minutes as f64),
            Of::Users => {
                let sql = format!("SELECT DISTINCT user_id FROM analytics_events {within} AND user_id IS NOT NULL");
                Some(rows(connection, &sql, from, until).len() as f64)
            }
            Of::Sessions | Of::SessionDuration => {
                let sql = "SELECT cast(duration_ms AS TEXT) FROM analytics_sessions \
                           WHERE started_at >= ?1 AND started_at < ?2";
                let durations = rows(connection, sql, from, until);
                let sum: usize = durations.iter().map(|row| as_text(&row[0]).unwrap().parse::<usize>().unwrap()).sum();
                if matches!(self, Of::Sessions) { Some(durations.len() as f64) } else { ratio(sum, durations.len()) }
            }
            Of::Samples(tag, shown) => {
                let sql = format!(
                    "SELECT value, metric_type, tags FROM metrics {within} AND name = 'm' ORDER BY timestamp, id"
                );
                let mut samples = rows(connection, &sql, from, until);
                samples.retain(|row| {
                    let tags: Value = serde_json::from_str(as_text(&row[2]).unwrap()).unwrap();
                    tag.is_none_or(|tag| tags["k"] == tag)
                });
                of_samples(&samples, shown, minutes)
            }
            Of::Feature(feature, shown) => of_usages(connection, feature, shown, from, until),
            Of::Funnel(funnel, shown) => {
                let sql = format!(
                    "SELECT cast(completed AS TEXT) FROM funnel_conversions WHERE started_at >= ?1 AND started_at < ?2 \
                     AND funnel_id = (SELECT id FROM funnels WHERE name = '{funnel}')"
                );
                let episodes = rows(connection, &sql, from, until);
                let converted = episodes.iter().filter(|row| as_text(&row[0]) == Some("1")).count();
                match shown {
                    "entered" => Some(episodes.len() as f64),
                    "converted" => Some(converted as f64),
                    _ => ratio(converted, episodes.len()),
                }
            }
        }
    }
}

fn of_samples(samples: &[Vec<rusqlite::types::Value>], shown: &str, minutes: i64) -> Option<f64> {
    let value = |row: &Vec<_>| if let rusqlite::types::Value::Real(value) = row[0] { value } else { panic!("{row:?}") };
    let values: Vec<f64> = samples.iter().map(value).collect();
    let not_counters = samples.iter().filter(|row| as_text(&row[1]) != Some("counter"));
    let mut sorted: Vec<f64> = not_counters.map(value).collect();
    sorted.sort_by(f64::total_cmp);
    let percentile = |percent: usize| sorted.get((percent * sorted.len()).div_ceil(100).max(1) - 1).copied();
    match shown {
        "count" => Some(values.len() as f64),
        "sum" => Some(plain_sum(&values)),
        _ if values.is_empty() => None,
        "rate" => Some(plain_sum(&values) / (60.0 * minutes as f64)),
        "avg" => Some(plain_sum(&values) / values.len() as f64),
        "min" => values.iter().copied().reduce(f64::min),
        "max" => values.iter().copied().reduce(f64::max),
        "p50" => percentile(50),
        "p99" => percentile(99),
        _ => values.last().copied(),
    }
}

fn of_usages(connection: &Connection, feature: &str, shown: &str, from: Time, until: Time) -> Option<f64> {
    // Covers only features that no configured rule names: the default rules alone apply.
    let sql = "SELECT properties, user_id FROM analytics_events WHERE timestamp >= ?1 AND timestamp < ?2";
    let usages = rows(connection, sql, from, until).into_iter().filter_map(|row| {
        let properties: Value = serde_json::from_str(as_text(&row[0])?).unwrap();
        (properties["feature"] == feature).then(|| (properties, as_text(&row[1]).map(str::to_owned)))
    });
    let usages: Vec<(Value, Option<String>)> = usages.collect();
    let told = usages.iter().filter_map(|(properties, _)| properties["success"].as_bool());
    let told: Vec<bool> = told.collect();
    match shown {
        "usage" => Some(usages.len() as f64),
        "users" => Some(usages.iter().filter_map(|(_, user)| user.as_ref()).collect::<BTreeSet<_>>().len() as f64),
        _ => ratio(told.iter().filter(|success| **success).count(), told.len()),
    }
}

/// Returns the rows that `dashboard_metrics` must hold, in the order of widget and key.
pub fn recompute(connection: &Connection, numbers: &[Number]) -> Vec<Row> {
    let Some(t) = watermark(connection) else { return Vec::new() };
    let minutes = |from: Time, to: Time| (to - from).num_minutes().max(1);
    let mut table = Vec::new();
    for number in numbers {
        let now = start(number.period, t);
        let then = before(number.period, now);
        let value = number.of.number(connection, now, end(number.period, now), minutes(now, t));
        let previous = number.of.number(connection, then, now, minutes(then, now));
        let Some(value) = value else { continue };
        let change = match previous {
            Some(0.0) => (value == 0.0).then_some(0.0),
            previous => previous.map(|previous| 100.0 * (value - previous) / previous.abs()),
        };
        let Number { widget, key, .. } = number;
        let id = Uuid::new_v5(&NAMESPACE, format!("dashboard_metrics|{widget}|{key}").as_bytes());
        let minute = t.with_nanosecond(0).unwrap().with_second(0).unwrap();
        table.push(vec![
            Some(id.to_string()),
            Some((*widget).to_owned()),
            Some((*key).to_owned()),
            Some(value.to_string()),
            previous.map(|previous| previous.to_string()),
            change.map(|change| change.to_string()),
            Some(text(minute)),
        ]);
    }
    table.sort_by(|one, other| one[1..3].cmp(&other[1..3]));
    table
}

/// Returns the rows that `dashboard_metrics` holds, in the same order.
pub fn stored(connection: &Connection) -> Vec<Row> {
    let sql = "SELECT id, widget_id, metric_key, updated_at, value, previous_value, change_percent \
               FROM dashboard_metrics ORDER BY widget_id, metric_key";
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| {
        let mut columns: Row = (0..3).map(|column| row.get(column)).collect::<Result<_, _>>()?;
        for column in 4..7 {
            columns.push(row.get::<_, Option<f64>>(column)?.map(|float| float.to_string()));
        }
        columns.push(row.get(3)?);
        Ok(columns)
    });
    rows.unwrap().map(Result::unwrap).collect()
}
