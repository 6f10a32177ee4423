//! Builder for metrics.

use serde_json::{Map, Value};

use crate::clock;
use crate::model::{JsonObject, Metric, MetricType, Timestamp};

/// Builder for metrics. By default, a sample has a new UUIDv7 as its id, and the current time.
#[derive(Debug, Clone)]
pub struct MetricBuilder {
    metric: Metric,
    tags: Map<String, Value>,
}

impl MetricBuilder {
    /// Begins a counter sample: an increment, which must not be negative.
    pub fn counter(name: impl Into<String>, value: f64) -> Self {
        Self::new(name, MetricType::Counter, value)
    }

    /// Begins a gauge sample: a value that goes up and down.
    pub fn gauge(name: impl Into<String>, value: f64) -> Self {
        Self::new(name, MetricType::Gauge, value)
    }

    /// Begins a timer sample: a duration in milliseconds, which must not be negative.
    pub fn timer(name: impl Into<String>, duration_ms: f64) -> Self {
        Self::new(name, MetricType::Timer, duration_ms).unit("ms")
    }

    /// Begins a histogram sample: a value of a distribution.
    pub fn histogram(name: impl Into<String>, value: f64) -> Self {
        Self::new(name, MetricType::Histogram, value)
    }

    fn new(name: impl Into<String>, metric_type: MetricType, value: f64) -> Self {
        Self {
            metric: Metric {
                id: clock::new_id().to_string(),
                name: name.into(),
                metric_type,
                value,
                timestamp: Timestamp::now(),
                tags: None,
                unit: None,
            },
            tags: Map::new(),
        }
    }

    /// Sets the id, in place of the new UUIDv7: 1 to 128 printable ASCII characters.
    pub fn id(mut self, id: &str) -> Self {
        self.metric.id = id.to_owned();
        self
    }

    /// Sets when the sample was measured, in place of the current time.
    pub fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.metric.timestamp = timestamp;
        self
    }

    /// Sets one tag.
    pub fn tag(mut self, key: &str, value: &str) -> Self {
        self.tags.insert(key.to_owned(), Value::String(value.to_owned()));
        self
    }

    /// Sets the value's unit.
    pub fn unit(mut self, unit: &str) -> Self {
        self.metric.unit = Some(unit.to_owned());
        self
    }

    /// Returns the metric.
    pub fn build(mut self) -> Metric {
        self.metric.tags = (!self.tags.is_empty()).then(|| JsonObject::from(&self.tags));
        self.metric
    }
}
