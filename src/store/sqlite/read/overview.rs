//! Reads what the page shows.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Transaction, params};
use serde::Serialize;

use super::digest;
use crate::analytics::dashboard::{Dashboards, Measure, Shown, Tally, whole_minutes};
use crate::analytics::funnel::{Funnel, Funnels};
use crate::analytics::{GroupName, Rules, SERIES_PREFIX, State, period};
use crate::model::{PeriodType, Timestamp};
use crate::store::error::StoreError;
use crate::store::notice::NumberKey;
use crate::store::sqlite::derived;
use crate::store::sqlite::values::from_sql;

/// Event names, and features, that the page lists at most.
const MAX_LISTED: u32 = 10;
/// Days before T over which the page shows the steps of funnels.
const FUNNEL_DAYS: i64 = 7;
const HOUR_MS: i64 = 3_600_000;
const MINUTES_OF_HOUR: i64 = 60;
const OPEN_SESSIONS: &str = "SELECT count(DISTINCT d.id) FROM _session_deadlines d \
     CROSS JOIN analytics_sessions s ON s.id = d.id WHERE s.ended_at IS NULL";

/// What the page shows of the database at one moment.
#[derive(Debug, Clone)]
pub struct Overview {
    /// T. `None` before the first message.
    pub t: Option<Timestamp>,
    /// The sequence of each stream up to which all of it is exact.
    pub as_of: BTreeMap<String, u64>,
    /// The number of open sessions.
    pub open_sessions: i64,
    /// The most frequent event names of T's day.
    pub top_events: Vec<TopEvent>,
    /// The most used features of T's day.
    pub top_features: Vec<TopFeature>,
    /// How far actors got in each funnel, in the order of the configuration.
    pub funnels: Vec<FunnelSteps>,
    /// Numbers of widgets by their keys.
    pub numbers: HashMap<NumberKey, ShownNumber>,
}

/// An event name, and how many events have it.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "named as what the page reads")]
pub struct TopEvent {
    pub event_name: String,
    pub count: i64,
}

/// A feature on a day.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "named as the columns")]
pub struct TopFeature {
    pub feature_name: String,
    pub usage_count: i64,
    pub unique_users: i64,
    pub avg_duration_ms: Option<f64>,
    pub success_rate: Option<f64>,
}

/// How many episodes of a funnel reached each step, of the episodes that began at `since` or later.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "named as what the page reads")]
pub struct FunnelSteps {
    pub name: String,
    pub description: Option<String>,
    pub since: Timestamp,
    pub steps: Vec<StepReached>,
    pub converted: i64,
}

/// A step of a funnel, and how many episodes reached it.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "named as what the page reads")]
pub struct StepReached {
    pub name: String,
    pub reached: i64,
}

/// A widget's number as it is now.
#[derive(Debug, Clone, Default)]
pub struct ShownNumber {
    /// The values that the widget shows.
    pub shown: Shown,
    /// T when the number changed, floored to the minute. `None` before the first message.
    pub updated_at: Option<String>,
    /// The stream and the sequence at which the number changed, if the series or the sessions are being rebuilt.
    pub frozen_at: Option<BTreeMap<String, u64>>,
    /// The number over the hour of T.
    pub hour: Option<HourValue>,
}

/// A number over an hour.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "named as what the page reads")]
pub struct HourValue {
    pub start: Timestamp,
    pub value: Option<f64>,
}

/// Hourly values by widget and metric key, the oldest first.
pub type HourlyValues = BTreeMap<String, BTreeMap<String, Vec<HourValue>>>;

/// Reads the overview.
pub(super) fn overview(tx: &Transaction<'_>, rules: &Rules) -> Result<Overview, StoreError> {
    let t = derived::watermark(tx)?;
    let date = t.map(|t| period::date(t).to_string()).unwrap_or_default();
    Ok(Overview {
        t,
        as_of: digest::as_of(tx)?,
        open_sessions: tx.prepare_cached(OPEN_SESSIONS)?.query_row([], |row| row.get(0))?,
        top_events: top_events(tx, &date)?,
        top_features: top_features(tx, &date)?,
        funnels: t.map(|t| funnels(tx, &rules.funnels, t)).transpose()?.unwrap_or_default(),
        numbers: numbers(tx, &rules.dashboards, t)?,
    })
}

/// Reads the hourly values behind the charts.
pub(super) fn hourly_values(tx: &Transaction<'_>, dashboards: &Dashboards) -> Result<HourlyValues, StoreError> {
    let Some(t) = derived::watermark(tx)? else { return Ok(HourlyValues::new()) };
    let mut hourly = HourlyValues::new();
    for widget in &dashboards.widgets {
        let hours = match widget.period {
            PeriodType::Hourly | PeriodType::Daily => 48,
            PeriodType::Weekly => 7 * 24,
            PeriodType::Monthly => 31 * 24,
        };
        let from = period::start(PeriodType::Hourly, t).as_millis() - (hours - 1) * HOUR_MS;
        let of_widget = hourly.entry(widget.id.clone()).or_default();
        for (key, expression) in &widget.metrics {
            let Some(at) = dashboards.place_of(&expression.series) else { continue };
            let tallies = tallies(tx, dashboards.counted[at].key, from, t)?;
            let values = tallies.into_iter().map(|(start, tally)| hour_value(expression.measure, start, &tally, t));
            of_widget.insert(key.clone(), values.collect());
        }
    }
    Ok(hourly)
}

fn top_events(tx: &Transaction<'_>, date: &str) -> rusqlite::Result<Vec<TopEvent>> {
    let sql = "SELECT event_name, count FROM _event_counts WHERE date = ?1 ORDER BY count DESC, event_name LIMIT ?2";
    let mut select = tx.prepare_cached(sql)?;
    let row = |row: &rusqlite::Row<'_>| Ok(TopEvent { event_name: row.get(0)?, count: row.get(1)? });
    select.query_map(params![date, MAX_LISTED], row)?.collect()
}

fn top_features(tx: &Transaction<'_>, date: &str) -> rusqlite::Result<Vec<TopFeature>> {
    let sql = "SELECT feature_name, usage_count, unique_users, avg_duration_ms, success_rate FROM feature_usage \
               WHERE date = ?1 ORDER BY usage_count DESC, feature_name LIMIT ?2";
    let mut select = tx.prepare_cached(sql)?;
    let row = |row: &rusqlite::Row<'_>| {
        Ok(TopFeature {
            feature_name: row.get(0)?,
            usage_count: row.get(1)?,
            unique_users: row.get(2)?,
            avg_duration_ms: row.get(3)?,
            success_rate: row.get(4)?,
        })
    };
    select.query_map(params![date, MAX_LISTED], row)?.collect()
}

fn funnels(tx: &Transaction<'_>, funnels: &Funnels, t: Timestamp) -> rusqlite::Result<Vec<FunnelSteps>> {
    let since = Timestamp::from_millis(t.as_millis() - FUNNEL_DAYS * 24 * HOUR_MS);
    let since = period::start(PeriodType::Hourly, since);
    funnels.iter().map(|funnel| funnel_steps(tx, funnel, since)).collect()
}

fn funnel_steps(tx: &Transaction<'_>, funnel: &Funnel, since: Timestamp) -> rusqlite::Result<FunnelSteps> {
    let sql = "SELECT current_step, count(*), sum(completed) FROM funnel_conversions \
               WHERE funnel_id = ?1 AND started_at >= ?2 GROUP BY current_step";
    let mut select = tx.prepare_cached(sql)?;
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let by_step: Vec<(i64, i64, i64)> =
        select.query_map(params![funnel.id(), since.to_string()], row)?.collect::<rusqlite::Result<_>>()?;
    let reached =
        |step: i64| by_step.iter().filter(|(furthest, ..)| *furthest >= step).map(|(_, count, _)| count).sum();
    let steps = funnel.steps.iter().zip(1..).map(|(step, number)| {
        let name = step.name.clone();
        StepReached { name, reached: reached(number) }
    });
    Ok(FunnelSteps {
        name: funnel.name.clone(),
        description: funnel.description.clone(),
        since,
        steps: steps.collect(),
        converted: by_step.iter().map(|(_, _, converted)| converted).sum(),
    })
}

/// Reads the numbers that widgets show, each with its value over the hour of T.
fn numbers(
    tx: &Transaction<'_>,
    dashboards: &Dashboards,
    t: Option<Timestamp>,
) -> Result<HashMap<NumberKey, ShownNumber>, StoreError> {
    let frozen: Vec<String> = {
        let mut select = tx.prepare_cached("SELECT name FROM _groups WHERE rebuild IS NOT NULL")?;
        select.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?
    };
    let is_frozen = |name: &str| {
        frozen
            .iter()
            .any(|group| group.strip_prefix(SERIES_PREFIX) == Some(name) || *group == GroupName::Sessions.name())
    };
    let hour = t.map(|t| period::start(PeriodType::Hourly, t).as_millis());
    let mut select = tx.prepare_cached(
        "SELECT value, previous_value, change_percent, updated_at, stream, as_of FROM _dashboard_outbox \
         WHERE widget_id = ?1 AND metric_key = ?2 AND is_gone = 0",
    )?;
    let mut numbers = HashMap::new();
    for widget in &dashboards.widgets {
        for (metric_key, expression) in &widget.metrics {
            let Some(at) = dashboards.place_of(&expression.series) else { continue };
            let counted = &dashboards.counted[at];
            let mut number = ShownNumber::default();
            let mut rows = select.query([&widget.id, metric_key])?;
            if let Some(row) = rows.next()? {
                number.shown = Shown { value: row.get(0)?, previous_value: row.get(1)?, change_percent: row.get(2)? };
                number.updated_at = Some(row.get(3)?);
                number.frozen_at = is_frozen(&counted.name)
                    .then(|| Ok::<_, rusqlite::Error>(BTreeMap::from([(row.get(4)?, from_sql(row.get(5)?))])))
                    .transpose()?;
            }
            if let (Some(t), Some(hour)) = (t, hour) {
                let tally = tallies(tx, counted.key, hour, t)?.pop().map(|(_, tally)| tally).unwrap_or_default();
                let start = Timestamp::from_millis(hour);
                number.hour = Some(hour_value(expression.measure, start, &tally, t));
            }
            numbers.insert(NumberKey { widget_id: widget.id.clone(), metric_key: metric_key.clone() }, number);
        }
    }
    Ok(numbers)
}

/// Reads the states of a series, from the hour at `from_ms` to the hour of T. Leaves out hours whose state is
/// unreadable.
fn tallies(tx: &Transaction<'_>, series: i64, from_ms: i64, t: Timestamp) -> rusqlite::Result<Vec<(Timestamp, Tally)>> {
    let sql = "SELECT period_start, state FROM _series_states WHERE series = ?1 AND period_type = ?2 \
               AND period_start >= ?3 AND period_start <= ?4 ORDER BY period_start";
    let mut select = tx.prepare_cached(sql)?;
    let hourly = derived::period_code(PeriodType::Hourly);
    let rows = select.query_map(params![series, hourly, from_ms, t.as_millis()], |row| {
        let tally = Tally::from_bytes(&row.get::<_, Vec<u8>>(1)?).ok();
        Ok(tally.zip(row.get(0).ok()).map(|(tally, start_ms)| (Timestamp::from_millis(start_ms), tally)))
    })?;
    rows.filter_map(Result::transpose).collect()
}

fn hour_value(measure: Measure, start: Timestamp, tally: &Tally, t: Timestamp) -> HourValue {
    let minutes = whole_minutes(start, t).min(MINUTES_OF_HOUR);
    HourValue { start, value: tally.number(measure, minutes) }
}
