//! Why a message is not accepted: one variant a rule.

use std::fmt;

/// The rule that a message breaks.
///
/// The order of the variants is the order of checking: a message that breaks several rules is rejected for the least.
/// Rules from [`Reason::DuplicateConflict`] on are applied by the writer, since they count only where the id is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The subject is none of `analytics.events`, `analytics.metrics`, `analytics.sessions`, with any suffix.
    UnknownSubject,
    /// The payload has more bytes than `limits.max_payload`.
    PayloadTooLarge,
    /// The payload is not UTF-8.
    InvalidUtf8,
    /// The payload is not JSON, holds a number that no f64 holds, or nests past 128 levels.
    InvalidJson,
    /// The payload is JSON, but not an object.
    NotAnObject,
    /// A required field is absent, null or "".
    MissingField,
    /// A field has a value of another type.
    InvalidType,
    /// An identify event without a user_id, a session message without a session_id.
    NoIdentity,
    /// The id is too long, or not printable ASCII.
    InvalidId,
    /// A user_id, session_id or anonymous_id that is a placeholder, such as "null".
    DisallowedIdentity,
    /// A name with characters that are not allowed, or blank.
    InvalidName,
    /// A name that is too long.
    NameTooLong,
    /// A metric_type that there is not.
    UnknownMetricType,
    /// A session message's kind that there is not.
    UnknownSessionKind,
    /// A value beyond ±1e300, or a negative timer.
    ValueOutOfRange,
    /// A counter with a negative value.
    NegativeCounter,
    /// Too many keys in an object, elements in an array, or tags.
    TooManyProperties,
    /// Properties or context nest too deep.
    TooDeep,
    /// A string that is too long, or tags that are too long together.
    StringTooLong,
    /// A string with U+0000, which SQLite's tools cut off there.
    NullCharacter,
    /// The id is known, with other content.
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

    /// The stable code, as it stands in the ledger and in the dead letter's subject.
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

/// A verdict against a message: the rule, the field's path, and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The rule.
    pub reason: Reason,
    /// The field's path, such as `properties.cart[3].price`; none where it is the message as a whole.
    pub field: Option<String>,
    /// What is wrong and what would be right.
    pub error: String,
}

impl Rejection {
    /// A verdict on a field.
    pub fn field(reason: Reason, field: impl Into<String>, error: impl Into<String>) -> Self {
        Self { reason, field: Some(field.into()), error: error.into() }
    }

    /// A verdict on the message as a whole.
    pub fn message(reason: Reason, error: impl Into<String>) -> Self {
        Self { reason, field: None, error: error.into() }
    }
}

/// Collects what is wrong with a message, and keeps the first in the order of checking.
#[derive(Debug, Default)]
pub struct Findings {
    first: Option<Rejection>,
}

impl Findings {
    /// Adds a finding, unless an earlier reason, or this one, was found before. Texts are made only if they are kept:
    /// a hostile message may break a rule at ten thousand places.
    pub fn add(&mut self, reason: Reason, field: impl fmt::Display, error: impl FnOnce() -> String) {
        if self.first.as_ref().is_none_or(|first| reason < first.reason) {
            self.first = Some(Rejection::field(reason, field.to_string(), error()));
        }
    }

    /// What was found first, if anything.
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
