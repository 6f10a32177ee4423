//! An event whose properties and context are parsed only on demand, and at most once.

use serde_json::{Map, Value};

use crate::model::{AnalyticsEvent, JsonObject};

/// An event, and the parts of it that are already parsed.
#[derive(Debug)]
pub struct ParsedEvent<'a> {
    /// The event.
    pub event: &'a AnalyticsEvent,
    properties: Option<Map<String, Value>>,
    context: Option<Map<String, Value>>,
}

impl<'a> ParsedEvent<'a> {
    /// Wraps an event. Nothing is parsed yet.
    pub fn of(event: &'a AnalyticsEvent) -> Self {
        Self { event, properties: None, context: None }
    }

    /// Returns the properties of the event. Empty if the event has no properties.
    pub fn properties(&mut self) -> &Map<String, Value> {
        self.properties.get_or_insert_with(|| parse(&self.event.properties))
    }

    /// Returns the context of the event. Empty if the event has no context.
    pub fn context(&mut self) -> &Map<String, Value> {
        self.context.get_or_insert_with(|| parse(&self.event.context))
    }
}

fn parse(object: &Option<JsonObject>) -> Map<String, Value> {
    object.as_ref().map(JsonObject::to_map).unwrap_or_default()
}

/// Returns whether an event has one of these types and one of these names. An empty list matches any.
pub fn is_asked_for(event_types: &[String], event_names: &[String], event: &AnalyticsEvent) -> bool {
    let is_one_of = |allowed: &[String], given: &String| allowed.is_empty() || allowed.contains(given);
    is_one_of(event_types, &event.event_type) && is_one_of(event_names, &event.event_name)
}
