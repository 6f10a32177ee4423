//! Conditions on the values in an event.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Number, Value};

use crate::analytics::parsed::ParsedEvent;

/// The fields of an event that a path may name. A path may also begin with `properties` or `context`.
const FIELDS: [&str; 7] = ["event_type", "event_name", "user_id", "anonymous_id", "session_id", "page_url", "referrer"];

/// A condition on the value at a path.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Condition {
    /// The keys that lead from the event to the value. In an array, a number is an index from 0.
    #[serde(serialize_with = "joined")]
    pub path: Vec<String>,
    /// The test on the value.
    #[serde(flatten)]
    pub op: Op,
}

/// Writes the path, the operator and the value, but not their keys in the configuration.
impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_value(self).unwrap_or_default();
        write!(formatter, "{} {}", self.path.join("."), json["op"].as_str().unwrap_or_default())?;
        match json.get("value") {
            Some(value) => write!(formatter, " {value}"),
            None => Ok(()),
        }
    }
}

/// Reads an array index. It has no sign and no leading zeros.
fn index(key: &str) -> Option<usize> {
    key.parse().ok().filter(|index: &usize| index.to_string() == key)
}

fn joined<S: Serializer>(path: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.join("."))
}

/// The test on a value. Null counts as missing. A missing value fails every test except `Ne`, `Nin` and `NotExists`.
/// Values of different JSON types are different, and neither is less. Numbers compare by value, texts by their bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "op", content = "value", rename_all = "snake_case")]
#[allow(missing_docs, reason = "named as in the configuration")]
pub enum Op {
    Eq(Value),
    Ne(Value),
    In(Vec<Value>),
    Nin(Vec<Value>),
    Lt(Value),
    Lte(Value),
    Gt(Value),
    Gte(Value),
    Exists,
    NotExists,
    /// A text that contains this text, or an array that contains this value.
    Contains(Value),
    /// A text that begins with this text.
    Prefix(String),
}

impl Op {
    /// Creates the test from its name and value in the configuration.
    ///
    /// # Errors
    /// Returns the reason as a text. The caller writes the place of the condition before it.
    pub fn new(name: &str, value: Option<Value>) -> Result<Self, String> {
        if value.as_ref().is_some_and(has_null) {
            return Err(format!("op = {name:?}: the value must not be or contain nan, inf or null"));
        }
        let needed = || value.clone().ok_or_else(|| format!("op = {name:?} needs a value"));
        let ordered = || match needed()? {
            value @ (Value::Number(_) | Value::String(_)) => Ok(value),
            _ => Err(format!("op = {name:?} needs a number or a text as its value")),
        };
        let list = || match needed()? {
            Value::Array(values) if !values.is_empty() => Ok(values),
            _ => Err(format!("op = {name:?} needs a list of values")),
        };
        Ok(match name {
            "eq" => Self::Eq(needed()?),
            "ne" => Self::Ne(needed()?),
            "in" => Self::In(list()?),
            "nin" => Self::Nin(list()?),
            "lt" => Self::Lt(ordered()?),
            "lte" => Self::Lte(ordered()?),
            "gt" => Self::Gt(ordered()?),
            "gte" => Self::Gte(ordered()?),
            "contains" => Self::Contains(needed()?),
            "prefix" => match needed()? {
                Value::String(text) => Self::Prefix(text),
                _ => return Err("op = \"prefix\" needs a text as its value".into()),
            },
            "exists" | "not_exists" if value.is_some() => return Err(format!("op = {name:?} takes no value")),
            "exists" => Self::Exists,
            "not_exists" => Self::NotExists,
            _ => {
                let known = "eq ne in nin lt lte gt gte exists not_exists contains prefix";
                return Err(format!("op = {name:?} is none of {known}"));
            }
        })
    }

    fn holds(&self, value: Option<&Value>) -> bool {
        use Ordering::{Equal, Greater, Less};
        let value = value.filter(|value| !value.is_null());
        let is = |other: &Value| value.is_some_and(|value| equals(value, other));
        let compares = |other: &Value, orders: &[Ordering]| {
            value.and_then(|value| compare(value, other)).is_some_and(|order| orders.contains(&order))
        };
        match self {
            Self::Eq(other) => is(other),
            Self::Ne(other) => !is(other),
            Self::In(others) => others.iter().any(is),
            Self::Nin(others) => !others.iter().any(is),
            Self::Lt(other) => compares(other, &[Less]),
            Self::Lte(other) => compares(other, &[Less, Equal]),
            Self::Gt(other) => compares(other, &[Greater]),
            Self::Gte(other) => compares(other, &[Greater, Equal]),
            Self::Exists => value.is_some(),
            Self::NotExists => value.is_none(),
            Self::Contains(part) => match (value, part) {
                (Some(Value::String(text)), Value::String(part)) => text.contains(part.as_str()),
                (Some(Value::Array(values)), part) => values.iter().any(|value| equals(value, part)),
                _ => false,
            },
            Self::Prefix(prefix) => value.and_then(Value::as_str).is_some_and(|text| text.starts_with(prefix)),
        }
    }
}

/// Returns whether a value is or contains null. Numbers that JSON does not have, nan and inf, become null.
fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(values) => values.iter().any(has_null),
        Value::Object(values) => values.values().any(has_null),
        _ => false,
    }
}

fn equals(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => compare_numbers(one, other) == Some(Ordering::Equal),
        (Value::Array(ones), Value::Array(others)) => {
            ones.len() == others.len() && ones.iter().zip(others).all(|(one, other)| equals(one, other))
        }
        (Value::Object(ones), Value::Object(others)) => {
            let is_same = |(key, one): (&String, &Value)| others.get(key).is_some_and(|other| equals(one, other));
            ones.len() == others.len() && ones.iter().all(is_same)
        }
        _ => one == other,
    }
}

fn compare(one: &Value, other: &Value) -> Option<Ordering> {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => compare_numbers(one, other),
        (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
        _ => None,
    }
}

/// Compares whole numbers of up to 64 bits exactly, and all other numbers as f64.
fn compare_numbers(one: &Number, other: &Number) -> Option<Ordering> {
    let whole = |number: &Number| number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    match (whole(one), whole(other)) {
        (Some(one), Some(other)) => Some(one.cmp(&other)),
        _ => one.as_f64()?.partial_cmp(&other.as_f64()?),
    }
}

impl Condition {
    /// Reads a path.
    ///
    /// # Errors
    /// Returns the reason as a text, which says what a path may be. The caller writes the place of the condition
    /// before it.
    pub fn path(text: &str) -> Result<Vec<String>, String> {
        let path: Vec<String> = text.split('.').map(str::to_owned).collect();
        let is_object = path[0] == "properties" || path[0] == "context";
        let is_field = path.len() == 1 && FIELDS.contains(&text);
        if path.iter().all(|key| !key.is_empty()) && (is_field || is_object && path.len() > 1) {
            return Ok(path);
        }
        let fields = FIELDS.join(", ");
        Err(format!("path = {text:?} must be properties. or context. and keys joined by dots, or one of {fields}"))
    }

    pub(super) fn holds(&self, parsed: &mut ParsedEvent<'_>) -> bool {
        self.op.holds(value_at(parsed, &self.path).as_deref())
    }
}

/// Returns the value at a path in an event. `None` if the value is missing.
fn value_at<'p>(parsed: &'p mut ParsedEvent<'_>, path: &[String]) -> Option<Cow<'p, Value>> {
    let (first, rest) = path.split_first()?;
    let event = parsed.event;
    let object = match first.as_str() {
        "properties" => parsed.properties(),
        "context" => parsed.context(),
        field => {
            let text = match field {
                "event_type" => Some(&event.event_type),
                "event_name" => Some(&event.event_name),
                "user_id" => event.user_id.as_ref(),
                "anonymous_id" => event.anonymous_id.as_ref(),
                "session_id" => event.session_id.as_ref(),
                "page_url" => event.page_url.as_ref(),
                "referrer" => event.referrer.as_ref(),
                _ => None,
            };
            return text.map(|text| Cow::Owned(Value::String(text.clone())));
        }
    };
    let (first, rest) = rest.split_first()?;
    let mut value = object.get(first)?;
    for key in rest {
        value = match value {
            Value::Array(values) => values.get(index(key)?)?,
            value => value.get(key)?,
        };
    }
    Some(Cow::Borrowed(value))
}
