//! Decodes bytes to a typed message, or to a rejection. Pure.
//!
//! Applies the reasons from `payload_too_large` to `invalid_type`. `validate` checks the fields' values.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod parse;

use serde_json::{Map, Value};

use self::parse::{MAX_NESTING_LEVELS, Payload, Values};
use super::rejection::{Findings, Reason, Rejection};
use crate::model::Kind;

/// 2^53. Each whole number below this limit has an f64 of its own: no other whole number reads as the same f64.
const MAX_EXACT_INTEGER: f64 = 9_007_199_254_740_992.0;

/// A message that has all required fields, each of the right type.
#[derive(Debug, Clone, PartialEq)]
pub enum Wire {
    /// From `analytics.events`.
    Event(Box<WireEvent>),
    /// From `analytics.metrics`.
    Metric(Box<WireMetric>),
    /// From `analytics.sessions`.
    Session(Box<WireSession>),
}

/// An event as it is on the wire. A field is an [`Option`] if a message may leave it out.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs, reason = "the wire's field names")]
pub struct WireEvent {
    pub id: Option<String>,
    pub event_type: String,
    /// Whether the subject supplied the type, because the message has none.
    pub event_type_supplied: bool,
    pub event_name: String,
    pub timestamp: Option<String>,
    pub session_id: Option<String>,
    pub user_id: Option<String>,
    pub anonymous_id: Option<String>,
    pub properties: Option<Map<String, Value>>,
    pub context: Option<Map<String, Value>>,
    pub page_url: Option<String>,
    pub referrer: Option<String>,
}

/// A metric as it is on the wire.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs, reason = "the wire's field names")]
pub struct WireMetric {
    pub id: Option<String>,
    pub name: String,
    pub metric_type: Option<String>,
    pub value: f64,
    pub timestamp: Option<String>,
    pub tags: Option<Map<String, Value>>,
    pub unit: Option<String>,
}

/// A session message as it is on the wire.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs, reason = "the wire's field names")]
pub struct WireSession {
    pub id: Option<String>,
    /// Required. If it is absent, the reason is `no_identity`, which validation applies.
    pub session_id: Option<String>,
    pub kind: String,
    pub timestamp: Option<String>,
    pub user_id: Option<String>,
    pub anonymous_id: Option<String>,
    pub device_type: Option<String>,
    pub browser: Option<String>,
    pub os: Option<String>,
    pub country: Option<String>,
    pub city: Option<String>,
    pub referrer: Option<String>,
    pub landing_page: Option<String>,
    pub exit_page: Option<String>,
}

/// Decodes a payload of a known kind. `suffix` is the subject's token after the kind.
///
/// # Errors
/// The first rule, in the order of [`Reason`], that the message breaks.
pub fn decode(kind: Kind, suffix: Option<&str>, payload: &[u8], max_payload_bytes: usize) -> Result<Wire, Rejection> {
    let mut fields = Fields { values: parse(payload, max_payload_bytes)?, findings: Findings::default() };
    let wire = match kind {
        Kind::Event => Wire::Event(Box::new(fields.event(suffix))),
        Kind::Metric => Wire::Metric(Box::new(fields.metric())),
        Kind::Session => Wire::Session(Box::new(fields.session())),
    };
    fields.findings.into_result()?;
    Ok(wire)
}

fn parse(payload: &[u8], max_payload_bytes: usize) -> Result<Box<Values>, Rejection> {
    if payload.len() > max_payload_bytes {
        let error = format!("the payload has {} bytes; limits.max_payload is {max_payload_bytes}", payload.len());
        return Err(Rejection::message(Reason::PayloadTooLarge, error));
    }
    let text = std::str::from_utf8(payload).map_err(|error| {
        Rejection::message(Reason::InvalidUtf8, format!("byte {} is not UTF-8", error.valid_up_to()))
    })?;
    if parse::nests_too_deep(payload) {
        let error = format!("the payload nests deeper than {MAX_NESTING_LEVELS} levels");
        return Err(Rejection::message(Reason::InvalidJson, error));
    }
    let payload = parse::payload(text)
        .map_err(|error| Rejection::message(Reason::InvalidJson, format!("not one valid JSON value: {error}")))?;
    match payload {
        Payload::Object(values) => Ok(values),
        Payload::Other(other) => {
            let error = format!("the payload is {}, not an object", type_name(&other));
            Err(Rejection::message(Reason::NotAnObject, error))
        }
    }
}

/// Takes the fields of a message one by one, and collects the findings.
struct Fields {
    values: Box<Values>,
    findings: Findings,
}

impl Fields {
    fn event(&mut self, suffix: Option<&str>) -> WireEvent {
        let sent_type = self.take("event_type");
        WireEvent {
            id: self.identifier("id"),
            event_type_supplied: sent_type.is_none(),
            event_type: self.text_or("event_type", sent_type, suffix),
            event_name: self.required_text("event_name"),
            timestamp: self.text("timestamp"),
            session_id: self.identifier("session_id"),
            user_id: self.identifier("user_id"),
            anonymous_id: self.identifier("anonymous_id"),
            properties: self.object("properties"),
            context: self.object("context"),
            page_url: self.text("page_url"),
            referrer: self.text("referrer"),
        }
    }

    fn metric(&mut self) -> WireMetric {
        let value = self.number("value");
        WireMetric {
            id: self.identifier("id"),
            name: self.required_text("name"),
            metric_type: self.text("metric_type"),
            value: self.required("value", value),
            timestamp: self.text("timestamp"),
            tags: self.tags(),
            unit: self.text("unit"),
        }
    }

    fn session(&mut self) -> WireSession {
        WireSession {
            id: self.identifier("id"),
            session_id: self.identifier("session_id"),
            kind: self.required_text("kind"),
            timestamp: self.text("timestamp"),
            user_id: self.identifier("user_id"),
            anonymous_id: self.identifier("anonymous_id"),
            device_type: self.text("device_type"),
            browser: self.text("browser"),
            os: self.text("os"),
            country: self.text("country"),
            city: self.text("city"),
            referrer: self.text("referrer"),
            landing_page: self.text("landing_page"),
            exit_page: self.text("exit_page"),
        }
    }

    /// Takes the field's value. Returns `None` for null and "" too.
    fn take(&mut self, field: &str) -> Option<Value> {
        self.values.take(field).filter(|value| !value.is_null() && value.as_str() != Some(""))
    }

    fn wrong_type(&mut self, field: &str, expected: &str, found: &Value) {
        self.findings.add(Reason::InvalidType, field, || format!("{field} is {}, not {expected}", type_name(found)));
    }

    fn required<T: Default>(&mut self, field: &str, value: Option<T>) -> T {
        value.unwrap_or_else(|| {
            self.findings.add(Reason::MissingField, field, || format!("{field} is required"));
            T::default()
        })
    }

    fn required_text(&mut self, field: &str) -> String {
        let value = self.take(field);
        self.text_or(field, value, None)
    }

    /// Returns a required text, or its substitute if the text is absent. A value of another type is `invalid_type`,
    /// not `missing_field`.
    fn text_or(&mut self, field: &str, value: Option<Value>, substitute: Option<&str>) -> String {
        match value {
            None => self.required(field, substitute.map(str::to_owned)),
            Some(Value::String(text)) => text,
            Some(other) => {
                self.wrong_type(field, "a string", &other);
                String::new()
            }
        }
    }

    fn text(&mut self, field: &str) -> Option<String> {
        match self.take(field)? {
            Value::String(text) => Some(text),
            other => {
                self.wrong_type(field, "a string", &other);
                None
            }
        }
    }

    /// Takes a text, or a whole number, which becomes text.
    fn identifier(&mut self, field: &str) -> Option<String> {
        let value = self.take(field)?;
        let whole = match &value {
            Value::Number(number) => whole_number(number),
            _ => None,
        };
        match (value, whole) {
            (Value::String(text), _) => Some(text),
            (_, Some(text)) => Some(text),
            (other, None) => {
                self.wrong_type(field, "a string or a whole number of up to 64 bits", &other);
                None
            }
        }
    }

    fn number(&mut self, field: &str) -> Option<f64> {
        match self.take(field)? {
            Value::Number(number) => number.as_f64(),
            other => {
                self.wrong_type(field, "a number", &other);
                Some(0.0)
            }
        }
    }

    /// Takes an object, or a string that holds an object as JSON.
    fn object(&mut self, field: &str) -> Option<Map<String, Value>> {
        match self.take(field)? {
            Value::Object(map) => Some(map),
            Value::String(text) => self.object_in_text(field, &text),
            other => {
                self.wrong_type(field, "an object", &other);
                None
            }
        }
    }

    fn object_in_text(&mut self, field: &str, text: &str) -> Option<Map<String, Value>> {
        if parse::nests_too_deep(text.as_bytes()) {
            let error = || format!("the JSON in {field} nests deeper than {MAX_NESTING_LEVELS} levels");
            self.findings.add(Reason::InvalidJson, field, error);
            return None;
        }
        let why = match parse::value(text) {
            Ok(Value::Object(map)) => return Some(map),
            Ok(other) => format!("it holds {}", type_name(&other)),
            Err(error) => error.to_string(),
        };
        let error = || format!("{field} is a string that does not hold a JSON object: {why}");
        self.findings.add(Reason::InvalidType, field, error);
        None
    }

    fn tags(&mut self) -> Option<Map<String, Value>> {
        let tags = self.object("tags")?;
        for (key, value) in &tags {
            if !value.is_string() {
                self.wrong_type(&format!("tags.{key}"), "a string", value);
            }
        }
        Some(tags)
    }
}

fn whole_number(number: &serde_json::Number) -> Option<String> {
    if number.is_i64() || number.is_u64() {
        return Some(number.to_string());
    }
    number.as_f64().filter(|value| value.fract() == 0.0 && value.abs() < MAX_EXACT_INTEGER).map(|value| {
        // `+ 0.0` turns -0.0 into 0.0.
        format!("{}", value + 0.0)
    })
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
