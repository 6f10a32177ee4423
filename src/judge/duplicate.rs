//! Compares a message that has a known id with the stored record: a copy, or a conflict. Pure.

use serde::Serialize;

use super::accepted::{Accepted, Supplied};
use super::rejection::{Reason, Rejection};
use crate::model::{AnalyticsEvent, Kind, Metric, SessionMessage, Timestamp};

/// A record of a raw table.
pub trait Record: Clone + PartialEq + Serialize {
    /// The record's kind. Ids are unique within a kind.
    const KIND: Kind;

    /// Returns the record's id.
    fn id(&self) -> &str;

    /// Blanks the fields in `supplied`, so that two records can be compared without these fields.
    fn blank(&mut self, supplied: Supplied);
}

impl Record for AnalyticsEvent {
    const KIND: Kind = Kind::Event;

    fn id(&self) -> &str {
        &self.id
    }

    fn blank(&mut self, supplied: Supplied) {
        if supplied.contains(Supplied::TIMESTAMP) {
            self.timestamp = Timestamp::from_millis(0);
        }
        if supplied.contains(Supplied::EVENT_TYPE) {
            self.event_type.clear();
        }
    }
}

impl Record for Metric {
    const KIND: Kind = Kind::Metric;

    fn id(&self) -> &str {
        &self.id
    }

    fn blank(&mut self, supplied: Supplied) {
        if supplied.contains(Supplied::TIMESTAMP) {
            self.timestamp = Timestamp::from_millis(0);
        }
        if supplied.contains(Supplied::METRIC_TYPE) {
            self.metric_type = crate::model::MetricType::default();
        }
    }
}

impl Record for SessionMessage {
    const KIND: Kind = Kind::Session;

    fn id(&self) -> &str {
        &self.id
    }

    fn blank(&mut self, supplied: Supplied) {
        if supplied.contains(Supplied::TIMESTAMP) {
            self.timestamp = Timestamp::from_millis(0);
        }
    }
}

/// Compares a message with the stored record of the same id. Ignores fields that the server supplied to either.
///
/// # Errors
/// `duplicate_conflict`, with the names of the fields that differ.
pub fn compare<R: Record>(stored: &R, stored_supplied: Supplied, copy: &Accepted<R>) -> Result<(), Rejection> {
    let supplied = stored_supplied.union(copy.supplied);
    let (mut left, mut right) = (stored.clone(), copy.record.clone());
    left.blank(supplied);
    right.blank(supplied);
    // A timestamp that cannot be parsed differs from the stored timestamp, which could be parsed.
    let unreadable = |rejection: &Rejection| rejection.reason == Reason::InvalidTimestamp;
    let timestamp_differs = !supplied.contains(Supplied::TIMESTAMP) && copy.untimely.as_ref().is_some_and(unreadable);
    if left == right && !timestamp_differs {
        return Ok(());
    }
    let mut fields = differing_fields(&left, &right);
    if timestamp_differs && !fields.iter().any(|field| field == "timestamp") {
        fields.push("timestamp".into());
    }
    let error = format!(
        "in {}, id {} is already stored with other content: {} differ; send new content under a new id",
        R::KIND,
        stored.id(),
        fields.join(", ")
    );
    Err(Rejection::field(Reason::DuplicateConflict, "id", error))
}

/// Returns the rejection of a message whose id is stored in an unreadable row, which another program wrote.
pub fn unreadable<R: Record>(id: &str, error: &dyn std::fmt::Display) -> Rejection {
    let error = format!("in {}, id {id} is already stored, in a row that cannot be compared: {error}", R::KIND);
    Rejection::field(Reason::DuplicateConflict, "id", error)
}

fn differing_fields<R: Record>(left: &R, right: &R) -> Vec<String> {
    let fields = |record: &R| match serde_json::to_value(record) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let (left, right) = (fields(left), fields(right));
    left.into_iter().filter(|(name, value)| right.get(name) != Some(value)).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EventBuilder;

    fn accepted(record: AnalyticsEvent) -> Accepted<AnalyticsEvent> {
        Accepted { record, supplied: Supplied::default(), untimely: None }
    }

    #[test]
    fn a_copy_is_a_copy_and_other_content_is_named() {
        let event = EventBuilder::track("x").user_id("u").property("a", 1).build();
        assert_eq!(compare(&event, Supplied::default(), &accepted(event.clone())), Ok(()));

        let mut other = event.clone();
        other.event_name = "y".into();
        other.user_id = None;
        let rejection = compare(&event, Supplied::default(), &accepted(other)).unwrap_err();
        assert_eq!(rejection.reason, Reason::DuplicateConflict);
        assert!(rejection.error.contains("event_name, user_id differ"), "{}", rejection.error);
    }

    #[test]
    fn what_the_server_supplied_to_either_side_plays_no_part() {
        let event = EventBuilder::track("x").build();
        let mut copy = accepted(event.clone());
        copy.record.timestamp = Timestamp::from_millis(1);
        assert!(compare(&event, Supplied::default(), &copy).is_err());
        assert_eq!(compare(&event, Supplied::TIMESTAMP, &copy), Ok(()));
        copy.supplied = Supplied::TIMESTAMP;
        assert_eq!(compare(&event, Supplied::default(), &copy), Ok(()));

        copy.record.event_type = "page".into();
        assert!(compare(&event, Supplied::default(), &copy).is_err());
        assert_eq!(compare(&event, Supplied::EVENT_TYPE, &copy), Ok(()));
    }

    #[test]
    fn an_unreadable_timestamp_is_another_timestamp() {
        let event = EventBuilder::track("x").build();
        let mut copy = accepted(event.clone());
        copy.untimely = Some(Rejection::field(Reason::InvalidTimestamp, "timestamp", "x"));
        assert!(compare(&event, Supplied::default(), &copy).unwrap_err().error.contains("timestamp differ"));
        assert_eq!(compare(&event, Supplied::TIMESTAMP, &copy), Ok(()));
        copy.untimely = Some(Rejection::field(Reason::TimestampTooOld, "timestamp", "x"));
        assert_eq!(compare(&event, Supplied::default(), &copy), Ok(()));
    }
}
