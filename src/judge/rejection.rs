//! Why a message is rejected: one variant per rule.

use std::fmt;

/// The rule that a message breaks.
///
/// The order of the variants is the order of checking. A message that breaks several rules gets the first reason in
/// this order. Only the store knows whether an id is new, so the writer applies [`Reason::DuplicateConflict`].
/// Validation judges the timestamp too, but the writer rejects a message for it only if the id is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The subject is none of `analytics.events`, `analytics.metrics`, `analytics.sessions`, with any suffix.
    UnknownSubject,
    /// The payload has more bytes than `limits.max_payload`.
    PayloadTooLarge,
    /// The payload is not UTF-8.
    InvalidUtf8,
    /// The payload is not JSON, or holds a number that no f64 can hold. Or the payload, or the JSON in a string
    /// field, nests deeper than 128 levels.
    InvalidJson,
    /// The payload is JSON, but not an object.
    NotAnObject,
    /// A required field is absent, null or "".
    MissingField,
    /// A field has a value of the wrong type.
    InvalidType,
    /// An identify event has no user_id, or a session message has no session_id.
    NoIdentity,
    /// The id is too long, or not printable ASCII.
    InvalidId,
    /// A user_id, session_id or anonymous_id is a placeholder, such as "null".
    DisallowedIdentity,
    /// A name has characters that are not allowed, or is blank.
    InvalidName,
    /// A name is too long.
    NameTooLong,
    /// The metric_type is unknown.
    UnknownMetricType,
    /// The kind of a session message is unknown.
    UnknownSessionKind,
    /// A metric's value is beyond ±1e300, or a timer's value is negative.
    ValueOutOfRange,
    /// A counter's value is negative.
    NegativeCounter,
    /// An object has too many keys, an array has too many elements, or a metric has too many tags.
    TooManyProperties,
    /// Properties or context nest too deep.
    TooDeep,
    /// A string is too long, or all tags together are too long.
    StringTooLong,
    /// A string contains U+0000. SQLite's tools cut a string off at that character.
    NullCharacter,
    /// The id is already stored with other content.
    DuplicateConflict,
    /// The timestamp is not RFC 3339 with an offset, or out of range.
    InvalidTimestamp,
    /// The timestamp is later than `recv + limits.max_future`.
    TimestampInFuture,
    /// The timestamp is earlier than `recv - limits.max_age`.
    TimestampTooOld,
}

impl Reason {
    /// All reasons, in the order of checking.
    pub const ALL: [Reason; 24] = [
        Reason::UnknownSubject,
        Reason::PayloadTooLarge,
        Reason::InvalidUtf8,
        Reason::InvalidJson,
        Reason::NotAnObject,
        Reason::MissingField,
        Reason::InvalidType,
        Reason::NoIdentity,
        Reason::InvalidId,
        Reason::DisallowedIdentity,
        Reason::InvalidName,
        Reason::NameTooLong,
        Reason::UnknownMetricType,
        Reason::UnknownSessionKind,
        Reason::ValueOutOfRange,
        Reason::NegativeCounter,
        Reason::TooManyProperties,
        Reason::TooDeep,
        Reason::StringTooLong,
        Reason::NullCharacter,
        Reason::DuplicateConflict,
        Reason::InvalidTimestamp,
        Reason::TimestampInFuture,
        Reason::TimestampTooOld,
    ];

    /// Returns the stable code that the ledger and the dead letter's subject contain.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::UnknownSubject => "unknown_subject",
            Reason::PayloadTooLarge => "payload_too_large",
            Reason::InvalidUtf8 => "invalid_utf8",
            Reason::InvalidJson => "invalid_json",
            Reason::NotAnObject => "not_an_object",
            Reason::MissingField => "missing_field",
            Reason::InvalidType => "invalid_type",
            Reason::NoIdentity => "no_identity",
            Reason::InvalidId => "invalid_id",
            Reason::DisallowedIdentity => "disallowed_identity",
            Reason::InvalidName => "invalid_name",
            Reason::NameTooLong => "name_too_long",
            Reason::UnknownMetricType => "unknown_metric_type",
            Reason::UnknownSessionKind => "unknown_session_kind",
            Reason::ValueOutOfRange => "value_out_of_range",
            Reason::NegativeCounter => "negative_counter",
            Reason::TooManyProperties => "too_many_properties",
            Reason::TooDeep => "too_deep",
            Reason::StringTooLong => "string_too_long",
            Reason::NullCharacter => "null_character",
            Reason::DuplicateConflict => "duplicate_conflict",
            Reason::InvalidTimestamp => "invalid_timestamp",
            Reason::TimestampInFuture => "timestamp_in_future",
            Reason::TimestampTooOld => "timestamp_too_old",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a message is rejected: the rule, the field's path, and a text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The rule.
    pub reason: Reason,
    /// The field's path, such as `properties.cart[3].price`. `None` if the message as a whole breaks the rule.
    pub field: Option<String>,
    /// What is wrong, and often what is allowed.
    pub error: String,
}

impl Rejection {
    /// Makes the rejection for a field.
    pub fn field(reason: Reason, field: impl Into<String>, error: impl Into<String>) -> Self {
        Self { reason, field: Some(field.into()), error: error.into() }
    }

    /// Makes the rejection for the message as a whole.
    pub fn message(reason: Reason, error: impl Into<String>) -> Self {
        Self { reason, field: None, error: error.into() }
    }
}

/// Collects the rules that a message breaks, and keeps the first one in the order of checking.
#[derive(Debug, Default)]
pub struct Findings {
    first: Option<Rejection>,
}

impl Findings {
    /// Adds a finding, unless this reason or an earlier reason was found before. Makes the texts only for a finding
    /// that is kept: a hostile message may break a rule at ten thousand places.
    pub fn add(&mut self, reason: Reason, field: impl fmt::Display, error: impl FnOnce() -> String) {
        if self.first.as_ref().is_none_or(|first| reason < first.reason) {
            self.first = Some(Rejection::field(reason, field.to_string(), error()));
        }
    }

    /// Returns the kept finding as an error, or `Ok` if there is none.
    pub fn into_result(self) -> Result<(), Rejection> {
        self.first.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_listed_in_the_order_of_checking() {
        assert!(Reason::ALL.is_sorted());
        assert_eq!(Reason::ALL.last(), Some(&Reason::TimestampTooOld));
    }

    #[test]
    fn the_readme_lists_the_reasons_in_the_order_of_checking() {
        let readme = include_str!("../../README.md");
        let table = readme.split_once("\n| reason | what is wrong |\n").unwrap().1;
        let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
        let listed: Vec<&str> = rows
            .flat_map(|row| row.split('|').nth(1).unwrap().split(','))
            .map(|cell| cell.trim().trim_matches('`'))
            .collect();
        assert_eq!(listed, Reason::ALL.map(Reason::as_str));
    }

    #[test]
    fn the_first_reason_in_order_wins_and_of_equal_ones_the_first_found() {
        let mut findings = Findings::default();
        findings.add(Reason::TooDeep, "a", || "a".into());
        findings.add(Reason::MissingField, "b", || "b".into());
        findings.add(Reason::MissingField, "c", || "c".into());
        let rejection = findings.into_result().unwrap_err();
        assert_eq!((rejection.reason, rejection.field.as_deref()), (Reason::MissingField, Some("b")));
    }
}
