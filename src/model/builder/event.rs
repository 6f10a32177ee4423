//! Builder for events.

use serde_json::{Map, Value};

use crate::clock;
use crate::model::{AnalyticsEvent, JsonObject, Timestamp};

/// Builder for analytics events. By default, an event has a new UUIDv7 as its id, and the current time.
#[derive(Debug, Clone)]
pub struct EventBuilder {
    event: AnalyticsEvent,
    properties: Option<Map<String, Value>>,
}

impl EventBuilder {
    /// Begins an event of any type.
    pub fn new(event_type: impl Into<String>, event_name: impl Into<String>) -> Self {
        Self {
            event: AnalyticsEvent {
                id: clock::new_id().to_string(),
                event_type: event_type.into(),
                event_name: event_name.into(),
                timestamp: Timestamp::now(),
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

    /// Begins a `track` event: a user did something.
    pub fn track(name: impl Into<String>) -> Self {
        Self::new("track", name)
    }

    /// Begins a `page` event: a user saw a page.
    pub fn page(url: impl Into<String>) -> Self {
        Self::new("page", "page_view").page_url(&url.into())
    }

    /// Begins an `identify` event: from this event on, the user is known.
    pub fn identify(user_id: impl Into<String>) -> Self {
        Self::new("identify", "user_identified").user_id(&user_id.into())
    }

    /// Sets the id, in place of the new UUIDv7: 1 to 128 printable ASCII characters.
    pub fn id(mut self, id: &str) -> Self {
        self.event.id = id.to_owned();
        self
    }

    /// Sets when the event happened, in place of the current time.
    pub fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.event.timestamp = timestamp;
        self
    }

    /// Sets the user.
    pub fn user_id(mut self, id: &str) -> Self {
        self.event.user_id = Some(id.to_owned());
        self
    }

    /// Sets the anonymous id, which stands for the user before the user is known.
    pub fn anonymous_id(mut self, id: &str) -> Self {
        self.event.anonymous_id = Some(id.to_owned());
        self
    }

    /// Sets the session that the event belongs to.
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

    /// Replaces the context. A value that is not an object becomes the key `value` of the context.
    pub fn context(mut self, ctx: Value) -> Self {
        self.event.context = Some(JsonObject::from(&into_map(ctx)));
        self
    }

    /// Sets the page that the event happened on.
    pub fn page_url(mut self, url: &str) -> Self {
        self.event.page_url = Some(url.to_owned());
        self
    }

    /// Sets the page that led to this page.
    pub fn referrer(mut self, referrer: &str) -> Self {
        self.event.referrer = Some(referrer.to_owned());
        self
    }

    /// Returns the event.
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
