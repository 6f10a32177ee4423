//! The metric sample.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sqlx::FromRow;

use super::{JsonObject, Timestamp};

/// What a metric's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "TEXT")]
#[sqlx(rename_all = "snake_case")]
pub enum MetricType {
    /// An increment, not negative.
    Counter,
    /// A sample of something that goes up and down. What a metric is that does not say its type.
    #[default]
    Gauge,
    /// A sample of a distribution.
    Histogram,
    /// A duration in milliseconds, not negative.
    Timer,
}

impl MetricType {
    /// All types.
    pub const ALL: [MetricType; 4] = [MetricType::Counter, MetricType::Gauge, MetricType::Histogram, MetricType::Timer];

    /// The name on the wire and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            MetricType::Counter => "counter",
            MetricType::Gauge => "gauge",
            MetricType::Histogram => "histogram",
            MetricType::Timer => "timer",
        }
    }
}

impl FromStr for MetricType {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        MetricType::ALL.into_iter().find(|metric_type| metric_type.as_str() == text).ok_or(())
    }
}

/// A row of `metrics`, and the message on `analytics.metrics` that becomes it.
#[derive(Debug, Clone, PartialEq, FromRow, Serialize, Deserialize)]
pub struct Metric {
    /// 1 to 128 printable ASCII characters; the first accepted metric with an id wins.
    pub id: String,
    /// A dotted name, such as `api.request.duration`.
    pub name: String,
    /// What the value is.
    pub metric_type: MetricType,
    /// The value, |value| <= 1e300; neither -0.0 nor subnormal once it is stored.
    pub value: f64,
    /// When it was measured, by the producer's clock.
    pub timestamp: Timestamp,
    /// Dimensions, strings to strings. Stored as `{}` where there are none, never NULL.
    pub tags: Option<JsonObject>,
    /// The value's unit; informational.
    pub unit: Option<String>,
}
