//! The metric sample.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sqlx::FromRow;

use super::{JsonObject, Timestamp};

/// The meaning of a metric's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "TEXT")]
#[sqlx(rename_all = "snake_case")]
pub enum MetricType {
    /// An increment, not negative.
    Counter,
    /// A sample of something that goes up and down. The default if a message has no metric_type.
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

    /// Returns the name on the wire and in the database.
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
    /// 1 to 128 printable ASCII characters. The first accepted metric with an id is stored.
    pub id: String,
    /// A dotted name, such as `api.request.duration`.
    pub name: String,
    /// The meaning of the value.
    pub metric_type: MetricType,
    /// The value, with |value| <= 1e300. A stored value is neither -0.0 nor subnormal.
    pub value: f64,
    /// When the value was measured, by the producer's clock.
    pub timestamp: Timestamp,
    /// Dimensions: an object with strings as values. Stored as `{}` if there are none, never as NULL.
    pub tags: Option<JsonObject>,
    /// The value's unit, for information only.
    pub unit: Option<String>,
}
