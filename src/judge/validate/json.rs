//! Checks the limits on stored JSON: properties, context, tags.

use std::fmt;

use serde_json::{Map, Value};

use super::Limits;
use crate::judge::rejection::{Findings, Reason};
use crate::model::JsonObject;

/// Checks the object `properties` or `context`. The object itself is level 1. Checks every value, because the first
/// reason in order may be anywhere. `decode` has bounded the nesting.
pub(super) fn check(field: &str, map: &Map<String, Value>, limits: &Limits, findings: &mut Findings) {
    Walk { limits, findings }.object(map, 1, Path { parent: None, step: PathStep::Key(field) });
}

/// Checks the tags: canonical JSON, with strings as values.
pub(super) fn check_tags(tags: &JsonObject, limits: &Limits, findings: &mut Findings) {
    if tags.as_str() == "{}" {
        return;
    }
    let map = tags.to_map();
    if map.len() > limits.max_tags {
        findings.add(Reason::TooManyProperties, "tags", || {
            format!("tags has {} keys; at most {} are allowed", map.len(), limits.max_tags)
        });
    }
    for (key, value) in &map {
        let value = value.as_str().unwrap_or_default();
        let field = format_args!("tags.{key}");
        if key.chars().count() > limits.max_tag_key_chars || value.chars().count() > limits.max_tag_value_chars {
            findings.add(Reason::StringTooLong, field, || {
                let Limits { max_tag_key_chars: keys, max_tag_value_chars: values, .. } = limits;
                format!("a tag's key may have at most {keys} characters, its value at most {values}")
            });
        }
        if key.contains('\0') || value.contains('\0') {
            findings.add(Reason::NullCharacter, field, || "a tag contains U+0000".into());
        }
    }
    let bytes = tags.as_str().len();
    if bytes > limits.max_tags_bytes {
        findings.add(Reason::StringTooLong, "tags", || {
            format!("tags have {bytes} bytes as canonical JSON; at most {} are allowed", limits.max_tags_bytes)
        });
    }
}

struct Walk<'a> {
    limits: &'a Limits,
    findings: &'a mut Findings,
}

impl Walk<'_> {
    fn value(&mut self, value: &Value, parent_level: usize, path: Path<'_>) {
        match value {
            Value::Object(map) => self.object(map, parent_level + 1, path),
            Value::Array(elements) => self.array(elements, parent_level + 1, path),
            Value::String(text) => self.string(text, path),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn object(&mut self, map: &Map<String, Value>, level: usize, path: Path<'_>) {
        self.level(level, path);
        let max = self.limits.max_keys;
        if map.len() > max {
            self.add(Reason::TooManyProperties, path, || format!("{} keys; at most {max} are allowed", map.len()));
        }
        for (key, value) in map {
            let path = Path { parent: Some(&path), step: PathStep::Key(key) };
            self.string(key, path);
            self.value(value, level, path);
        }
    }

    fn array(&mut self, elements: &[Value], level: usize, path: Path<'_>) {
        self.level(level, path);
        let max = self.limits.max_array_elements;
        if elements.len() > max {
            let found = elements.len();
            self.add(Reason::TooManyProperties, path, || format!("{found} elements; at most {max} are allowed"));
        }
        for (at, value) in elements.iter().enumerate() {
            self.value(value, level, Path { parent: Some(&path), step: PathStep::Index(at) });
        }
    }

    fn level(&mut self, level: usize, path: Path<'_>) {
        let max = self.limits.max_depth_levels;
        if level > max {
            self.add(Reason::TooDeep, path, || format!("nesting level {level}; at most {max} are allowed"));
        }
    }

    fn string(&mut self, text: &str, path: Path<'_>) {
        let max = self.limits.max_string_bytes;
        if text.len() > max {
            self.add(Reason::StringTooLong, path, || format!("{} bytes; at most {max} are allowed", text.len()));
        }
        if text.contains('\0') {
            self.add(Reason::NullCharacter, path, || "the string contains U+0000".into());
        }
    }

    fn add(&mut self, reason: Reason, path: Path<'_>, error: impl FnOnce() -> String) {
        self.findings.add(reason, path, error);
    }
}

/// The path of a value, as a list on the stack. The text of the path is made only if the value breaks a rule.
#[derive(Clone, Copy)]
struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: PathStep<'a>,
}

#[derive(Clone, Copy)]
enum PathStep<'a> {
    Key(&'a str),
    Index(usize),
}

/// Longer keys are cut in a path, because a path names a place and does not repeat the message.
const MAX_KEY_CHARS_IN_PATH: usize = 64;

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent}")?;
        }
        match self.step {
            PathStep::Key(key) => {
                let dot = if self.parent.is_some() { "." } else { "" };
                write!(f, "{dot}{key:.MAX_KEY_CHARS_IN_PATH$}")
            }
            PathStep::Index(at) => write!(f, "[{at}]"),
        }
    }
}
