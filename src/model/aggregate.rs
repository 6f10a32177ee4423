//! Rows of the derived tables.

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use sqlx::FromRow;

use super::{JsonObject, Timestamp};

/// The length of a rollup's period. Periods are in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "TEXT")]
#[sqlx(rename_all = "snake_case")]
pub enum PeriodType {
    /// One hour.
    Hourly,
    /// One day.
    Daily,
    /// One ISO week, from Monday 00:00.
    Weekly,
    /// One calendar month.
    Monthly,
}

impl PeriodType {
    /// All types, the shortest first.
    pub const ALL: [PeriodType; 4] = [PeriodType::Hourly, PeriodType::Daily, PeriodType::Weekly, PeriodType::Monthly];

    /// Returns the name in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            PeriodType::Hourly => "hourly",
            PeriodType::Daily => "daily",
            PeriodType::Weekly => "weekly",
            PeriodType::Monthly => "monthly",
        }
    }
}

/// A row of `metric_aggregates`: all samples of one name and tag set in one period.
#[derive(Debug, Clone, PartialEq, FromRow, Serialize, Deserialize)]
pub struct MetricAggregate {
    /// UUIDv5 over the natural key.
    pub id: String,
    /// The metric's name.
    pub name: String,
    /// When the period begins.
    pub period_start: Timestamp,
    /// How long the period is.
    pub period_type: PeriodType,
    /// Number of samples.
    pub count: i64,
    /// The exact sum, rounded once to an f64.
    pub sum: f64,
    /// The least sample.
    pub min: f64,
    /// The greatest sample.
    pub max: f64,
    /// `sum / count`.
    pub avg: f64,
    /// The median by nearest rank. `None` for counters.
    pub p50: Option<f64>,
    /// The 90th percentile. `None` for counters.
    pub p90: Option<f64>,
    /// The 99th percentile. `None` for counters.
    pub p99: Option<f64>,
    /// The tags. `{}` if there are none.
    pub tags: Option<JsonObject>,
}

/// A row of `user_activity`: one user on one UTC day.
#[derive(Debug, Clone, PartialEq, FromRow, Serialize, Deserialize)]
pub struct UserActivity {
    /// UUIDv5 over the natural key.
    pub id: String,
    /// The user.
    pub user_id: String,
    /// The day.
    pub date: NaiveDate,
    /// Sessions that started on that day.
    pub session_count: i64,
    /// Events of that day.
    pub event_count: i64,
    /// The total duration of those sessions, in milliseconds.
    pub total_duration_ms: i64,
    /// The first event or session start of that day.
    pub first_seen_at: Timestamp,
    /// The last event or session start of that day.
    pub last_seen_at: Timestamp,
    /// Number of events by name.
    pub events_breakdown: Option<JsonObject>,
}

/// A row of `feature_usage`: one feature on one UTC day.
#[derive(Debug, Clone, PartialEq, FromRow, Serialize, Deserialize)]
pub struct FeatureUsage {
    /// UUIDv5 over the natural key.
    pub id: String,
    /// The feature.
    pub feature_name: String,
    /// The day.
    pub date: NaiveDate,
    /// Number of usages.
    pub usage_count: i64,
    /// Number of distinct users.
    pub unique_users: i64,
    /// Mean duration in milliseconds, over usages that have one.
    pub avg_duration_ms: Option<f64>,
    /// Share of successes, from 0 to 1, over usages that say whether they succeeded.
    pub success_rate: Option<f64>,
}

/// A row of `dashboard_metrics`: one number of one widget.
#[derive(Debug, Clone, PartialEq, FromRow, Serialize, Deserialize)]
pub struct DashboardMetric {
    /// UUIDv5 over the natural key.
    pub id: String,
    /// The widget.
    pub widget_id: String,
    /// The number's name within the widget.
    pub metric_key: String,
    /// The number in the current period.
    pub value: f64,
    /// The number in the whole previous period.
    pub previous_value: Option<f64>,
    /// The change from `previous_value` to `value`, in percent.
    pub change_percent: Option<f64>,
    /// The watermark T, floored to the minute.
    pub updated_at: Timestamp,
}
