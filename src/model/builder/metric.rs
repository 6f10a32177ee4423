//! Builder for metrics.

use serde_json::{Map, Value};

use crate::clock;
use crate::model::{JsonObject, Metric, MetricType, Timestamp};

/// Builder for metrics. Every sample gets a new UUIDv7 and the time of the call.
#[derive(Debug, Clone)]
pub struct MetricBuilder {
    metric: Metric,
    tags: Map<String, Value>,
}

impl MetricBuilder {
    /// An increment, not negative.
    pub fn counter(name: impl Into<String>, value: f64) -> Self {
        Self::new(name, MetricType::Counter, value)
    }

    /// A sample of something that goes up and down.
    pub fn gauge(name: impl Into<String>, value: f64) -> Self {
        Self::new(name, MetricType::Gauge, value)
    }

    /// A duration in milliseconds.
    pub fn timer(name: impl Into<String>, duration_ms: f64) -> Self {
        Self::new(name, MetricType::Timer, duration_ms).unit("ms")
    }

    /// A sample of a distribution.
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

    /// Its id, in place of a new one: 1 to 128 printable ASCII characters.
    pub fn id(mut self, id: &str) -> Self {
        self.metric.id = id.to_owned();
        self
    }

    /// When it was measured, in place of now.
    pub fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.metric.timestamp = timestamp;
        self
    }

    /// Sets one tag.
    pub fn tag(mut self, key: &str, value: &str) -> Self {
        self.tags.insert(key.to_owned(), Value::String(value.to_owned()));
        self
    }

    /// The value's unit.
    pub fn unit(mut self, unit: &str) -> Self {
        self.metric.unit = Some(unit.to_owned());
        self
    }

    /// The metric.
    pub fn build(mut self) -> Metric {
        self.metric.tags = (!self.tags.is_empty()).then(|| JsonObject::from(&self.tags));
        self.metric
    }
}
