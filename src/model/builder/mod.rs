//! Builders for producers, and the predefined events and metrics.

mod event;
mod metric;
mod session;

pub use event::EventBuilder;
pub use metric::MetricBuilder;
pub use session::SessionBuilder;

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

    /// The number of users that are active now.
    pub fn active_users(count: f64) -> MetricBuilder {
        MetricBuilder::gauge("users.active", count)
    }

    /// One more mission was created.
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
    use crate::model::MetricType;

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
