//! Parses JSON text into the values of the known fields.

use std::fmt;

use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::{Deserializer as JsonDeserializer, Error, Value};

/// JSON that nests deeper than this is `invalid_json`. This limit bounds the stack that parsing needs.
pub(super) const MAX_NESTING_LEVELS: usize = 128;

/// The number of known fields, over all kinds of message.
const FIELDS: usize = 24;

/// Returns the place of a known field in [`Values`]. One `match`, because each field of a message is looked up twice.
fn place(field: &str) -> Option<usize> {
    Some(match field {
        "anonymous_id" => 0,
        "browser" => 1,
        "city" => 2,
        "context" => 3,
        "country" => 4,
        "device_type" => 5,
        "event_name" => 6,
        "event_type" => 7,
        "exit_page" => 8,
        "id" => 9,
        "kind" => 10,
        "landing_page" => 11,
        "metric_type" => 12,
        "name" => 13,
        "os" => 14,
        "page_url" => 15,
        "properties" => 16,
        "referrer" => 17,
        "session_id" => 18,
        "tags" => 19,
        "timestamp" => 20,
        "unit" => 21,
        "user_id" => 22,
        "value" => 23,
        _ => return None,
    })
}

/// The values of a message's known fields. If a field comes twice, its last value counts.
#[derive(Debug, Default)]
pub(super) struct Values([Option<Value>; FIELDS]);

impl Values {
    /// Takes a field's value out. A second call for the same field returns `None`.
    pub(super) fn take(&mut self, field: &str) -> Option<Value> {
        debug_assert!(place(field).is_some(), "{field} has no place");
        self.0.get_mut(place(field)?)?.take()
    }
}

/// A parsed payload: an object, or another JSON value.
pub(super) enum Payload {
    Object(Box<Values>),
    Other(Value),
}

/// Parses a payload. The caller has checked its nesting.
pub(super) fn payload(text: &str) -> Result<Payload, Error> {
    if !text.trim_ascii_start().starts_with('{') {
        return value(text).map(Payload::Other);
    }
    let mut deserializer = unbounded(text);
    let values = deserializer.deserialize_map(OfObject)?;
    deserializer.end()?;
    Ok(Payload::Object(values))
}

/// Parses any JSON value. The caller has checked its nesting.
pub(super) fn value(text: &str) -> Result<Value, Error> {
    let mut deserializer = unbounded(text);
    let value = Value::deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Returns a deserializer without serde_json's nesting limit, which is one level lower than ours. Callers check the
/// nesting first.
fn unbounded(text: &str) -> JsonDeserializer<serde_json::de::StrRead<'_>> {
    let mut deserializer = JsonDeserializer::from_str(text);
    deserializer.disable_recursion_limit();
    deserializer
}

/// Returns whether arrays and objects nest deeper than [`MAX_NESTING_LEVELS`].
pub(super) fn nests_too_deep(json: &[u8]) -> bool {
    // Nearly every message has too few brackets to nest so deep. Counting them is fast.
    let opened: usize = json.iter().map(|byte| usize::from(matches!(byte, b'[' | b'{'))).sum();
    opened > MAX_NESTING_LEVELS && nests_deeper_than(json, MAX_NESTING_LEVELS)
}

fn nests_deeper_than(json: &[u8], max_levels: usize) -> bool {
    let (mut level, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                level += 1;
                if level > max_levels {
                    return true;
                }
            }
            b']' | b'}' => level = level.saturating_sub(1),
            _ => {}
        }
    }
    false
}

struct OfObject;

impl<'de> Visitor<'de> for OfObject {
    type Value = Box<Values>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut values = Box::<Values>::default();
        while let Some(place) = fields.next_key_seed(Place)? {
            // Unknown fields are parsed too: the whole message must be JSON.
            let value: Value = fields.next_value()?;
            if let Some(slot) = place.and_then(|place| values.0.get_mut(place)) {
                *slot = Some(value);
            }
        }
        Ok(values)
    }
}

/// Reads a key, and returns only its place. `None` if the field is unknown.
struct Place;

impl<'de> DeserializeSeed<'de> for Place {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Place {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(place(key))
    }
}
