//! JSON text to the values of the fields that have a meaning.

use std::fmt;

use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::{Deserializer as JsonDeserializer, Error, Value};

/// JSON that nests deeper than this is `invalid_json`: a bound on the stack that parsing takes.
pub(super) const MAX_NESTING_LEVELS: usize = 128;

/// Every field that has a meaning in a message of some kind.
const FIELDS: usize = 24;

/// The place of a field. One `match`, since a message asks twice for every field.
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

/// The values of a message's fields. Where a field comes twice, the last one counts.
#[derive(Debug, Default)]
pub(super) struct Values([Option<Value>; FIELDS]);

impl Values {
    /// Takes a field's value.
    pub(super) fn take(&mut self, field: &str) -> Option<Value> {
        debug_assert!(place(field).is_some(), "{field} has no place");
        self.0.get_mut(place(field)?)?.take()
    }
}

/// What a payload is.
pub(super) enum Payload {
    Object(Box<Values>),
    Other(Value),
}

/// Reads a text whose nesting was checked.
pub(super) fn payload(text: &str) -> Result<Payload, Error> {
    if !text.trim_ascii_start().starts_with('{') {
        return value(text).map(Payload::Other);
    }
    let mut deserializer = unbounded(text);
    let values = deserializer.deserialize_map(OfObject)?;
    deserializer.end()?;
    Ok(Payload::Object(values))
}

/// Reads any JSON of which the nesting was checked.
pub(super) fn value(text: &str) -> Result<Value, Error> {
    let mut deserializer = unbounded(text);
    let value = Value::deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// serde_json's own limit is a level short of ours, so it is off; callers check the nesting first.
fn unbounded(text: &str) -> JsonDeserializer<serde_json::de::StrRead<'_>> {
    let mut deserializer = JsonDeserializer::from_str(text);
    deserializer.disable_recursion_limit();
    deserializer
}

/// Whether arrays and objects nest past [`MAX_NESTING_LEVELS`].
pub(super) fn nests_too_deep(json: &[u8]) -> bool {
    // Nearly always there are too few of them for that, wherever they stand.
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
            // One that means nothing is read all the same: a message is JSON as a whole, or none.
            let value: Value = fields.next_value()?;
            if let Some(slot) = place.and_then(|place| values.0.get_mut(place)) {
                *slot = Some(value);
            }
        }
        Ok(values)
    }
}

/// Reads a key, and keeps its place alone.
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
