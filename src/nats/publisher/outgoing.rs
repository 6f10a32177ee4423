//! The messages that a publisher sends: a body, and the id by which the stream recognises a copy.

use std::fmt;

use bytes::Bytes;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::clock;
use crate::model::{AnalyticsEvent, Kind, Metric, SessionMessage};

/// A message in the form in which it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The kind, which decides the subject.
    pub kind: Kind,
    /// The body.
    pub payload: Bytes,
    /// `Nats-Msg-Id`: `<kind>:<id>`. If the body has no id that a header can carry, a new id stands in its place, so
    /// that another try is not another message.
    pub message_id: String,
}

/// A message that a [`Publisher`](super::Publisher) can publish.
pub trait Publishable {
    /// Returns the message in the form in which it is sent.
    ///
    /// # Errors
    /// A sentence that says why it cannot be sent.
    fn outgoing(&self) -> Result<Outgoing, String>;
}

impl Publishable for AnalyticsEvent {
    fn outgoing(&self) -> Result<Outgoing, String> {
        as_json(Kind::Event, &self.id, self)
    }
}

impl Publishable for Metric {
    fn outgoing(&self) -> Result<Outgoing, String> {
        if !self.value.is_finite() {
            return Err(format!("metric {} has the value {}, which JSON cannot hold", self.name, self.value));
        }
        as_json(Kind::Metric, &self.id, self)
    }
}

impl Publishable for SessionMessage {
    fn outgoing(&self) -> Result<Outgoing, String> {
        as_json(Kind::Session, &self.id, self)
    }
}

fn as_json(kind: Kind, id: &str, message: &impl Serialize) -> Result<Outgoing, String> {
    let payload = serde_json::to_vec(message).map_err(|error| error.to_string())?;
    Ok(Outgoing { kind, payload: payload.into(), message_id: message_id(kind, id) })
}

fn message_id(kind: Kind, id: &str) -> String {
    // A header value is one line of ASCII, without spaces at its ends.
    let is_fit = !id.is_empty() && id.bytes().all(|byte| matches!(byte, b' '..=b'~')) && id.trim() == id;
    if is_fit { format!("{kind}:{id}") } else { format!("{kind}:{}", clock::new_id()) }
}

impl Outgoing {
    /// Makes a message from a line of JSON, which is sent as it was written. But an object without an id gets a
    /// UUIDv7, so that another try never counts twice. An absent `id` becomes the first field; a null or empty `id`
    /// is replaced. A line that is not an object is sent unchanged: a worker says what is wrong with it.
    pub fn of_line(kind: Kind, line: &[u8]) -> Self {
        let as_is = |id: &str| Self { kind, payload: Bytes::copy_from_slice(line), message_id: message_id(kind, id) };
        let Ok(text) = std::str::from_utf8(line) else { return as_is("") };
        let Ok(LineFields { id, is_any, has_id }) = serde_json::from_str(text) else { return as_is("") };
        let sent = match id {
            Value::String(id) if !id.is_empty() => Some(id),
            Value::Number(id) => Some(id.to_string()),
            // null and "" mean absent.
            Value::Null | Value::String(_) => None,
            _ => return as_is(""),
        };
        if let Some(id) = sent {
            return as_is(&id);
        }
        let id = clock::new_id().to_string();
        let message_id = message_id(kind, &id);
        let payload = if has_id {
            let Ok(mut object) = serde_json::from_str::<Map<String, Value>>(text) else { return as_is("") };
            object.insert("id".into(), id.into());
            Value::Object(object).to_string()
        } else {
            // The rest of the line stays as it was written, to the digit.
            let rest = text.trim_start().strip_prefix('{').unwrap_or_default();
            let comma = if is_any { "," } else { "" };
            format!("{{\"id\":\"{id}\"{comma}{rest}")
        };
        Self { kind, payload: payload.into(), message_id }
    }
}

/// The fields that are needed from a line of JSON. The rest of the line is skipped: most lines are sent unchanged.
struct LineFields {
    /// The last `id` if there are several: the whole program reads repeated fields so.
    id: Value,
    has_id: bool,
    is_any: bool,
}

impl<'de> Deserialize<'de> for LineFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(LineFieldsVisitor)
    }
}

struct LineFieldsVisitor;

impl<'de> Visitor<'de> for LineFieldsVisitor {
    type Value = LineFields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LineFields, A::Error> {
        let mut fields = LineFields { id: Value::Null, has_id: false, is_any: false };
        while let Some(Name { is_id }) = map.next_key()? {
            fields.is_any = true;
            if is_id {
                (fields.id, fields.has_id) = (map.next_value()?, true);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(fields)
    }
}

/// The name of a field, compared with `id`.
struct Name {
    is_id: bool,
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(NameVisitor)
    }
}

struct NameVisitor;

impl Visitor<'_> for NameVisitor {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<Name, E> {
        Ok(Name { is_id: name == "id" })
    }
}

/// An [`Outgoing`] message is ready to be sent.
impl Publishable for Outgoing {
    fn outgoing(&self) -> Result<Outgoing, String> {
        Ok(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MetricBuilder;

    #[test]
    fn a_line_keeps_its_id_or_gets_one() {
        let sent = Outgoing::of_line(Kind::Metric, br#"{"id":"a","value":1}"#);
        assert_eq!(sent.message_id, "metrics:a");
        assert_eq!(&sent.payload[..], br#"{"id":"a","value":1}"#);

        for text in [" {\"value\":1} ", "{}", "{ }", r#"{"id":null}"#, r#"{"a":1,"id":""}"#] {
            let given = Outgoing::of_line(Kind::Event, text.as_bytes());
            let object: serde_json::Value = serde_json::from_slice(&given.payload).unwrap();
            assert_eq!(given.message_id, format!("events:{}", object["id"].as_str().unwrap()));
        }
        // A line without an id that a header could carry is sent unchanged, under a new Nats-Msg-Id.
        for text in ["not json", "[1]", r#"{"id":[]}"#, r#"{"id":"é"}"#, r#"{"id":" a"}"#] {
            let [one, other] = [(); 2].map(|()| Outgoing::of_line(Kind::Event, text.as_bytes()));
            assert_eq!(&one.payload[..], text.as_bytes());
            assert!(one.message_id.len() == 43 && one.message_id != other.message_id, "{}", one.message_id);
        }
        assert_eq!(Outgoing::of_line(Kind::Event, br#"{"id":"a b"}"#).message_id, "events:a b");
    }

    #[test]
    fn a_metric_that_json_cannot_hold_is_no_message() {
        let error = MetricBuilder::gauge("load", f64::NAN).build().outgoing().unwrap_err();
        assert_eq!(error, "metric load has the value NaN, which JSON cannot hold");
    }
}
