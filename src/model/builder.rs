//! Builders for producers, and the predefined events and metrics.

use serde_json::{Map, Value};

use super::{AnalyticsEvent, JsonObject, Metric, MetricType};
use crate::clock;

/// Builder for analytics events. Every event gets a new UUIDv7 and the time of the call.
#[derive(Debug, Clone)]
pub struct EventBuilder {
    event: AnalyticsEvent,
    properties: Option<Map<String, Value>>,
}

impl EventBuilder {
    /// An event of any type.
    pub fn new(event_type: impl Into<String>, event_name: impl Into<String>) -> Self {
        Self {
            event: AnalyticsEvent {
                id: clock::new_id().to_string(),
                event_type: event_type.into(),
                event_name: event_name.into(),
                timestamp: clock::now(),
                session_id: None,
                user_id: None,
                properties: None,
                context: None,
                page_url: None,
                referrer: None,
                anonymous_id: None,
            },
            properties: None,
        }
    }

    /// A `track` event: a user did something.
    pub fn track(name: impl Into<String>) -> Self {
        Self::new("track", name)
    }

    /// A `page` event: a page was seen.
    pub fn page(url: impl Into<String>) -> Self {
        Self::new("page", "page_view").page_url(&url.into())
    }

    /// An `identify` event: from here on the user is known.
    pub fn identify(user_id: impl Into<String>) -> Self {
        Self::new("identify", "user_identified").user_id(&user_id.into())
    }

    /// Who did it.
    pub fn user_id(mut self, id: &str) -> Self {
        self.event.user_id = Some(id.to_owned());
        self
    }

    /// Who did it, before they are known.
    pub fn anonymous_id(mut self, id: &str) -> Self {
        self.event.anonymous_id = Some(id.to_owned());
        self
    }

    /// The session it belongs to.
    pub fn session_id(mut self, id: &str) -> Self {
        self.event.session_id = Some(id.to_owned());
        self
    }

    /// Replaces all properties. A value that is not an object becomes the property `value`.
    pub fn properties(mut self, props: Value) -> Self {
        self.properties = Some(into_map(props));
        self
    }

    /// Sets one property.
    pub fn property(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.properties.get_or_insert_default().insert(key.to_owned(), value.into());
        self
    }

    /// Replaces the context. A value that is not an object becomes its key `value`.
    pub fn context(mut self, ctx: Value) -> Self {
        self.event.context = Some(JsonObject::from(&into_map(ctx)));
        self
    }

    /// The page it happened on.
    pub fn page_url(mut self, url: &str) -> Self {
        self.event.page_url = Some(url.to_owned());
        self
    }

    /// The page that led there.
    pub fn referrer(mut self, referrer: &str) -> Self {
        self.event.referrer = Some(referrer.to_owned());
        self
    }

    /// The event.
    pub fn build(mut self) -> AnalyticsEvent {
        self.event.properties = self.properties.as_ref().map(JsonObject::from);
        self.event
    }
}

fn into_map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => Map::from_iter([("value".to_owned(), other)]),
    }
}

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
                timestamp: clock::now(),
                tags: None,
                unit: None,
            },
            tags: Map::new(),
        }
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

/// Predefined events.
pub mod events {
    use super::EventBuilder;

    /// A mission was created.
    pub fn mission_created(mission_id: &str) -> EventBuilder {
        EventBuilder::track("mission_created").property("mission_id", mission_id)
    }

    /// A mission was completed, `duration_ms` after it was created.
    pub fn mission_completed(mission_id: &str, duration_ms: i64) -> EventBuilder {
        EventBuilder::track("mission_completed").property("mission_id", mission_id).property("duration_ms", duration_ms)
    }

    /// A spec was created for a mission.
    pub fn spec_created(spec_id: &str, mission_id: &str) -> EventBuilder {
        EventBuilder::track("spec_created").property("spec_id", spec_id).property("mission_id", mission_id)
    }

    /// A forge item was created.
    pub fn forge_item_created(item_id: &str, item_type: &str) -> EventBuilder {
        EventBuilder::track("forge_item_created").property("item_id", item_id).property("item_type", item_type)
    }

    /// A search was performed.
    pub fn search_performed(query: &str, result_count: i32) -> EventBuilder {
        EventBuilder::track("search_performed").property("query", query).property("result_count", result_count)
    }
}

/// Predefined metrics.
pub mod metrics {
    use super::MetricBuilder;

    /// An API request took `duration_ms`.
    pub fn api_request(endpoint: &str, duration_ms: f64, status: i32) -> MetricBuilder {
        MetricBuilder::timer("api.request.duration", duration_ms)
            .tag("endpoint", endpoint)
            .tag("status", &status.to_string())
    }

    /// Number of users active now.
    pub fn active_users(count: f64) -> MetricBuilder {
        MetricBuilder::gauge("users.active", count)
    }

    /// One mission more.
    pub fn missions_created() -> MetricBuilder {
        MetricBuilder::counter("missions.created", 1.0)
    }

    /// A database query took `duration_ms`.
    pub fn database_query(query_type: &str, duration_ms: f64) -> MetricBuilder {
        MetricBuilder::timer("database.query.duration", duration_ms).tag("query_type", query_type)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn builders_fill_what_the_specification_says() {
        let event = events::mission_completed("m1", 1500).user_id("u1").context(json!({"os": "linux"})).build();
        assert_eq!((event.event_type.as_str(), event.event_name.as_str()), ("track", "mission_completed"));
        assert_eq!(event.properties.unwrap().as_str(), r#"{"duration_ms":1500,"mission_id":"m1"}"#);
        assert_eq!(event.context.unwrap().as_str(), r#"{"os":"linux"}"#);
        assert_eq!(uuid::Uuid::parse_str(&event.id).unwrap().get_version_num(), 7);

        let page = EventBuilder::page("https://example.com/").build();
        assert_eq!((page.event_type.as_str(), page.page_url.as_deref()), ("page", Some("https://example.com/")));

        let metric = metrics::api_request("/search", 12.5, 200).build();
        assert_eq!(metric.tags.unwrap().as_str(), r#"{"endpoint":"/search","status":"200"}"#);
        assert_eq!((metric.metric_type, metric.unit.as_deref()), (MetricType::Timer, Some("ms")));
    }

    #[test]
    fn a_property_after_properties_that_are_no_object_is_not_lost() {
        let event = EventBuilder::track("x").properties(json!([1, 2])).property("a", 1).build();
        assert_eq!(event.properties.unwrap().as_str(), r#"{"a":1,"value":[1,2]}"#);
    }
}
