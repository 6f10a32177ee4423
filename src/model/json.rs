//! JSON objects as they are stored: canonical text.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A JSON object as canonical text. The text is compact, and its keys are sorted by their bytes. Integers of up to 64
/// bits stay as they are. Any other number is the shortest text that reads back as the same f64.
///
/// It serialises as a string that holds the object, like the specification's structs. On the wire, messages may use
/// the string or the object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(try_from = "String", into = "String")]
#[sqlx(transparent)]
pub struct JsonObject(String);

impl JsonObject {
    /// Returns the canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Wraps stored text, which is already canonical.
    pub(crate) fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// Makes an object of counts by name.
    pub(crate) fn of_counts(counts: &BTreeMap<String, u64>) -> Self {
        // A BTreeMap is sorted, and writing it into a string cannot fail.
        Self(serde_json::to_string(counts).unwrap_or_default())
    }

    /// Parses the text.
    pub fn to_map(&self) -> Map<String, Value> {
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

impl From<&Map<String, Value>> for JsonObject {
    fn from(map: &Map<String, Value>) -> Self {
        // serde_json's map is a BTreeMap, so it is sorted. Writing it into a string cannot fail.
        Self(serde_json::to_string(map).unwrap_or_default())
    }
}

impl TryFrom<String> for JsonObject {
    type Error = serde_json::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        serde_json::from_str::<Map<String, Value>>(&text).map(|map| Self::from(&map))
    }
}

impl From<JsonObject> for String {
    fn from(object: JsonObject) -> Self {
        object.0
    }
}

impl fmt::Display for JsonObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_canonical_and_numbers_keep_their_value() {
        let text = r#" {"b": 1.0, "a": {"z": 1e2, "y": 9007199254740993}, "c": [0.1, -0.30000000000000004, 5e-324],
            "é": "\u00e9", "A": 18446744073709551615, "b": 2.5} "#;
        let object = JsonObject::try_from(text.to_owned()).unwrap();
        assert_eq!(
            object.as_str(),
            r#"{"A":18446744073709551615,"a":{"y":9007199254740993,"z":100.0},"b":2.5,"c":[0.1,-0.30000000000000004,5e-324],"é":"é"}"#
        );
        assert_eq!(JsonObject::try_from(object.to_string()).unwrap(), object);
    }

    #[test]
    fn only_objects_are_objects() {
        for text in ["", "[]", "1", "null", "\"{}\"", "{} x"] {
            assert!(JsonObject::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
