//! Tests every rule of `SEMANTICS` section 8 at its limit: a value at the limit, and a value just past it.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::config::Config;
use crate::model::{AnalyticsEvent, Metric, SessionMessage, Timestamp};

/// 2026-01-31T12:00:00Z
const RECV_NS: i64 = 1_769_860_800_000_000_000;

fn judge() -> Judge {
    Judge { prefix: "analytics".into(), stream: "ANALYTICS".into(), epoch: 1, limits: Config::default().limits }
}

fn outcome_of(subject: &str, payload: impl Into<Bytes>) -> Result<Message, Rejection> {
    let delivery = Delivery {
        subject: subject.into(),
        payload: payload.into(),
        size_bytes: 0,
        stream_sequence: 7,
        recv_ns: RECV_NS + 999_999,
    };
    judge().judge(delivery).outcome
}

fn event(fields: Value) -> Result<Accepted<AnalyticsEvent>, Rejection> {
    let mut message = json!({"event_type": "track", "event_name": "x"});
    merge(&mut message, fields);
    match outcome_of("analytics.events", message.to_string())? {
        Message::Event(judged) => Ok(*judged),
        other => panic!("{other:?}"),
    }
}

fn metric(fields: Value) -> Result<Accepted<Metric>, Rejection> {
    let mut message = json!({"name": "cpu", "value": 1});
    merge(&mut message, fields);
    match outcome_of("analytics.metrics", message.to_string())? {
        Message::Metric(judged) => Ok(*judged),
        other => panic!("{other:?}"),
    }
}

fn session(fields: Value) -> Result<Accepted<SessionMessage>, Rejection> {
    let mut message = json!({"session_id": "s", "kind": "start"});
    merge(&mut message, fields);
    match outcome_of("analytics.sessions", message.to_string())? {
        Message::Session(judged) => Ok(*judged),
        other => panic!("{other:?}"),
    }
}

fn merge(message: &mut Value, fields: Value) {
    for (key, value) in fields.as_object().unwrap() {
        message[key] = value.clone();
    }
}

/// Returns the reason and field of a rejection. `None` if the message and its timestamp are valid.
fn verdict<T>(outcome: Result<Accepted<T>, Rejection>) -> Option<(Reason, String)> {
    let rejection = match outcome {
        Ok(judged) => judged.untimely?,
        Err(rejection) => rejection,
    };
    assert!(!rejection.error.is_empty());
    Some((rejection.reason, rejection.field.unwrap_or_default()))
}

fn rejected(reason: Reason, field: &str) -> Option<(Reason, String)> {
    Some((reason, field.to_owned()))
}

/// Returns `levels` objects, each inside the next.
fn nested(levels: usize) -> Value {
    (1..levels).fold(json!({}), |inner, _| json!({ "k": inner }))
}

fn object_of(keys: usize) -> Value {
    (0..keys).map(|key| (format!("k{key}"), json!(1))).collect::<serde_json::Map<_, _>>().into()
}

#[test]
fn payloads_that_are_no_object() {
    let nesting = |levels: usize| format!("{{\"x\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
    let big =
        |bytes: usize| format!("{{\"event_type\":\"t\",\"event_name\":\"n\",\"x\":\"{}\"}}", "y".repeat(bytes - 42));
    assert_eq!(big(65_536).len(), 65_536);
    for (payload, expected) in [
        (b"\xff".to_vec(), Some(Reason::InvalidUtf8)),
        (b"".to_vec(), Some(Reason::InvalidJson)),
        (b"{".to_vec(), Some(Reason::InvalidJson)),
        (b"{} {}".to_vec(), Some(Reason::InvalidJson)),
        (b"{\"x\":NaN}".to_vec(), Some(Reason::InvalidJson)),
        (b"{\"x\":1e999}".to_vec(), Some(Reason::InvalidJson)),
        (b"{\"x\":\"\\ud800\"}".to_vec(), Some(Reason::InvalidJson)),
        (b"[]".to_vec(), Some(Reason::NotAnObject)),
        (b"\"{}\"".to_vec(), Some(Reason::NotAnObject)),
        (b"null".to_vec(), Some(Reason::NotAnObject)),
        (b"{}".to_vec(), Some(Reason::MissingField)),
        (nesting(128).into_bytes(), Some(Reason::MissingField)),
        (nesting(129).into_bytes(), Some(Reason::InvalidJson)),
        ("[".repeat(60_000).into_bytes(), Some(Reason::InvalidJson)),
        ("[{\"\\\"".repeat(10_000).into_bytes(), Some(Reason::InvalidJson)),
        (big(65_536).into_bytes(), None),
        (big(65_537).into_bytes(), Some(Reason::PayloadTooLarge)),
        ("[".repeat(1_000_000).into_bytes(), Some(Reason::PayloadTooLarge)),
    ] {
        let shown = String::from_utf8_lossy(&payload[..payload.len().min(40)]).into_owned();
        let found = outcome_of("analytics.events", payload).err().map(|rejection| rejection.reason);
        assert_eq!(found, expected, "{shown}");
    }
}

#[test]
fn an_unknown_subject_comes_before_everything() {
    for subject in ["analytics.foo", "analytics.eventsx", "analytics"] {
        assert_eq!(outcome_of(subject, "\u{1}").unwrap_err().reason, Reason::UnknownSubject, "{subject}");
    }
}

#[test]
fn fields_that_are_missing_or_of_another_type() {
    use Reason::{InvalidType, MissingField, NoIdentity};
    for (found, expected) in [
        (verdict(event(json!({"event_type": null}))), rejected(MissingField, "event_type")),
        (verdict(event(json!({"event_name": ""}))), rejected(MissingField, "event_name")),
        (verdict(event(json!({"event_name": 5}))), rejected(InvalidType, "event_name")),
        (verdict(event(json!({"event_type": ["x"]}))), rejected(InvalidType, "event_type")),
        (verdict(event(json!({"event_type": {}, "event_name": null}))), rejected(MissingField, "event_name")),
        (verdict(event(json!({"timestamp": 1_769_860_800}))), rejected(InvalidType, "timestamp")),
        (verdict(event(json!({"properties": [1]}))), rejected(InvalidType, "properties")),
        (verdict(event(json!({"properties": "[1]"}))), rejected(InvalidType, "properties")),
        (verdict(event(json!({"context": "not json"}))), rejected(InvalidType, "context")),
        (verdict(event(json!({"user_id": true}))), rejected(InvalidType, "user_id")),
        (verdict(event(json!({"user_id": 1.5}))), rejected(InvalidType, "user_id")),
        (verdict(event(json!({"id": 1e300}))), rejected(InvalidType, "id")),
        (verdict(event(json!({"page_url": 1}))), rejected(InvalidType, "page_url")),
        (verdict(metric(json!({"name": null}))), rejected(MissingField, "name")),
        (verdict(metric(json!({"value": null}))), rejected(MissingField, "value")),
        (verdict(metric(json!({"value": ""}))), rejected(MissingField, "value")),
        (verdict(metric(json!({"value": "1"}))), rejected(InvalidType, "value")),
        (verdict(metric(json!({"tags": {"a": 1}}))), rejected(InvalidType, "tags.a")),
        (verdict(metric(json!({"tags": {"a": null}}))), rejected(InvalidType, "tags.a")),
        (verdict(session(json!({"kind": ""}))), rejected(MissingField, "kind")),
        (verdict(session(json!({"session_id": ""}))), rejected(NoIdentity, "session_id")),
        (verdict(session(json!({"session_id": null, "kind": null}))), rejected(MissingField, "kind")),
        (verdict(event(json!({"event_type": "identify"}))), rejected(NoIdentity, "user_id")),
        (verdict(event(json!({"event_type": "identify", "user_id": "u"}))), None),
    ] {
        assert_eq!(found, expected);
    }
}

#[test]
fn ids_and_identities() {
    use Reason::{DisallowedIdentity, InvalidId, NullCharacter, StringTooLong};
    for (found, expected) in [
        (verdict(event(json!({"id": "x".repeat(128)}))), None),
        (verdict(event(json!({"id": "x".repeat(129)}))), rejected(InvalidId, "id")),
        (verdict(event(json!({"id": "a b~"}))), None),
        (verdict(event(json!({"id": "é"}))), rejected(InvalidId, "id")),
        (verdict(event(json!({"id": "a\tb"}))), rejected(InvalidId, "id")),
        (verdict(event(json!({"user_id": "é".repeat(128)}))), None),
        (verdict(event(json!({"user_id": "é".repeat(129)}))), rejected(StringTooLong, "user_id")),
        (verdict(event(json!({"session_id": "UnDefined"}))), rejected(DisallowedIdentity, "session_id")),
        (verdict(event(json!({"user_id": 0}))), rejected(DisallowedIdentity, "user_id")),
        (verdict(event(json!({"anonymous_id": "N/A"}))), rejected(DisallowedIdentity, "anonymous_id")),
        (
            verdict(session(json!({"user_id": "00000000-0000-0000-0000-000000000000"}))),
            rejected(DisallowedIdentity, "user_id"),
        ),
        (verdict(event(json!({"user_id": "a\u{0}"}))), rejected(NullCharacter, "user_id")),
        (verdict(event(json!({"user_id": "anonymous"}))), None),
    ] {
        assert_eq!(found, expected);
    }
}

#[test]
fn names_types_and_values() {
    use Reason::*;
    for (found, expected) in [
        (verdict(event(json!({"event_name": "é".repeat(128)}))), None),
        (verdict(event(json!({"event_name": "é".repeat(129)}))), rejected(NameTooLong, "event_name")),
        (verdict(event(json!({"event_name": " \u{a0} "}))), rejected(InvalidName, "event_name")),
        (verdict(event(json!({"event_type": "a\u{85}b"}))), rejected(InvalidName, "event_type")),
        (verdict(metric(json!({"name": format!("a{}", "0".repeat(254))}))), None),
        (verdict(metric(json!({"name": format!("a{}", "0".repeat(255))}))), rejected(NameTooLong, "name")),
        (verdict(metric(json!({"name": "a_B.c-d/9"}))), None),
        (verdict(metric(json!({"name": "9a"}))), rejected(InvalidName, "name")),
        (verdict(metric(json!({"name": "a b"}))), rejected(InvalidName, "name")),
        (verdict(metric(json!({"metric_type": "Gauge"}))), rejected(UnknownMetricType, "metric_type")),
        (verdict(session(json!({"kind": "stop"}))), rejected(UnknownSessionKind, "kind")),
        (verdict(metric(json!({"value": 1e300}))), None),
        (verdict(metric(json!({"value": -1e300}))), None),
        (verdict(metric(json!({"value": 1.0000001e300}))), rejected(ValueOutOfRange, "value")),
        (verdict(metric(json!({"value": -1, "metric_type": "timer"}))), rejected(ValueOutOfRange, "value")),
        (verdict(metric(json!({"value": -1, "metric_type": "counter"}))), rejected(NegativeCounter, "value")),
        (verdict(metric(json!({"value": -0.0, "metric_type": "counter"}))), None),
        (verdict(metric(json!({"value": -1, "metric_type": "histogram"}))), None),
    ] {
        assert_eq!(found, expected);
    }
}

#[test]
fn properties_context_and_tags() {
    use Reason::*;
    let tags = |count: usize, bytes: usize| -> Value {
        (0..count).map(|key| (format!("k{key:02}"), json!("v".repeat(bytes)))).collect::<serde_json::Map<_, _>>().into()
    };
    for (found, expected) in [
        (verdict(event(json!({"properties": object_of(255)}))), None),
        (verdict(event(json!({"properties": object_of(256)}))), rejected(TooManyProperties, "properties")),
        (verdict(event(json!({"context": {"a": object_of(256)}}))), rejected(TooManyProperties, "context.a")),
        (verdict(event(json!({"properties": {"a": vec![1; 255]}}))), None),
        (
            verdict(event(json!({"properties": {"a": [0, vec![1; 256]]}}))),
            rejected(TooManyProperties, "properties.a[1]"),
        ),
        (verdict(event(json!({"properties": nested(5)}))), None),
        (verdict(event(json!({"properties": nested(6)}))), rejected(TooDeep, "properties.k.k.k.k.k")),
        (verdict(event(json!({"properties": nested(6).to_string()}))), rejected(TooDeep, "properties.k.k.k.k.k")),
        (verdict(event(json!({"properties": {"a": "x".repeat(8192)}}))), None),
        (verdict(event(json!({"properties": {"a": "x".repeat(8193)}}))), rejected(StringTooLong, "properties.a")),
        (verdict(event(json!({"properties": {"a": ["\u{0}"]}}))), rejected(NullCharacter, "properties.a[0]")),
        (verdict(event(json!({"referrer": "\u{0}"}))), rejected(NullCharacter, "referrer")),
        (verdict(metric(json!({"tags": tags(16, 1)}))), None),
        (verdict(metric(json!({"tags": tags(17, 1)}))), rejected(TooManyProperties, "tags")),
        (verdict(metric(json!({"tags": {"k".repeat(64): "v".repeat(256)}}))), None),
        (
            verdict(metric(json!({"tags": {"k".repeat(65): "v"}}))),
            rejected(StringTooLong, &format!("tags.{}", "k".repeat(65))),
        ),
        (verdict(metric(json!({"tags": {"k": "v".repeat(257)}}))), rejected(StringTooLong, "tags.k")),
        // 16 tags of "kNN":"v..." together have 16 * (9 + bytes) + 1 bytes.
        (verdict(metric(json!({"tags": tags(16, 115)}))), None),
        (verdict(metric(json!({"tags": tags(16, 116)}))), rejected(StringTooLong, "tags")),
        (verdict(metric(json!({"tags": {"k": "\u{0}"}}))), rejected(NullCharacter, "tags.k")),
        (verdict(metric(json!({"unit": "\u{0}"}))), rejected(NullCharacter, "unit")),
        (verdict(session(json!({"city": "\u{0}"}))), rejected(NullCharacter, "city")),
    ] {
        assert_eq!(found, expected);
    }
}

#[test]
fn time_is_judged_against_recv() {
    use Reason::*;
    let mut judge = judge();
    judge.limits.max_age = Some(Duration::from_secs(60));
    for (timestamp, expected) in [
        ("2026-01-31T12:10:00.000Z", None),
        ("2026-01-31T12:10:00.001Z", Some(TimestampInFuture)),
        ("2026-01-31T11:59:00Z", None),
        ("2026-01-31T11:58:59.999Z", Some(TimestampTooOld)),
        ("2026-01-31 noon", Some(InvalidTimestamp)),
        ("2016-12-31T23:59:60Z", Some(InvalidTimestamp)),
    ] {
        let payload = json!({"event_type": "t", "event_name": "n", "timestamp": timestamp}).to_string().into();
        let delivery = Delivery {
            subject: "analytics.events".into(),
            payload,
            size_bytes: 0,
            stream_sequence: 1,
            recv_ns: RECV_NS + 999_999,
        };
        let Ok(Message::Event(judged)) = judge.judge(delivery).outcome else { panic!("{timestamp}") };
        assert_eq!(judged.untimely.map(|rejection| rejection.reason), expected, "{timestamp}");
    }
}

#[test]
fn of_several_reasons_the_first_in_order_counts() {
    let message = json!({
        "event_type": "identify", "event_name": "x".repeat(200), "user_id": "null", "id": "é",
        "properties": {"a": nested(9)}, "timestamp": "nonsense",
    });
    let steps = [
        (Reason::InvalidId, "id", json!("fine")),
        (Reason::DisallowedIdentity, "user_id", json!(42)),
        (Reason::NameTooLong, "event_name", json!("n")),
        (Reason::TooDeep, "properties", json!({})),
        (Reason::InvalidTimestamp, "timestamp", json!(null)),
    ];
    let mut message = message;
    for (reason, field, mended) in steps {
        assert_eq!(verdict(event(message.clone())).map(|(reason, _)| reason), Some(reason));
        message[field] = mended;
    }
    assert_eq!(verdict(event(message)), None);
}

#[test]
fn what_a_message_leaves_out_the_server_supplies() {
    let Ok(Message::Event(judged)) = outcome_of("analytics.events.page.x", r#"{"event_name":"n","user_id":42}"#) else {
        panic!()
    };
    let AnalyticsEvent { id, event_type, timestamp, user_id, .. } = &judged.record;
    assert_eq!((event_type.as_str(), user_id.as_deref()), ("page", Some("42")));
    assert_eq!(*timestamp, Timestamp::from_nanos(RECV_NS));
    let all = Supplied::ID.union(Supplied::TIMESTAMP).union(Supplied::EVENT_TYPE);
    assert_eq!(judged.supplied, all);
    // The id depends only on stream, epoch, sequence and kind. This id must never change: a replay makes it again.
    assert_eq!(id, "5478cb36-606f-5e4d-855f-66af95559e6c");

    let Ok(Message::Metric(judged)) = outcome_of("analytics.metrics", r#"{"name":"n","value":-5e-324}"#) else {
        panic!()
    };
    assert_ne!(&judged.record.id, id);
    assert_eq!(judged.record.value.to_bits(), 0);
    assert_eq!(judged.record.tags.as_ref().map(|tags| tags.as_str()), Some("{}"));
    assert!(judged.supplied.contains(Supplied::METRIC_TYPE));
}

#[test]
fn stored_forms_are_canonical() {
    let id = "018F3C5A-0000-7000-8000-00000000ABCD";
    let judged = event(json!({"id": id, "properties": "{\"b\":1,\"a\":\"\"}", "session_id": 7.0})).unwrap();
    assert_eq!(judged.record.id, id.to_ascii_lowercase());
    assert_eq!(judged.record.properties.unwrap().as_str(), r#"{"a":"","b":1}"#);
    assert_eq!(judged.record.session_id.as_deref(), Some("7"));
    assert_eq!(event(json!({"id": "NOT-A-UUID"})).unwrap().record.id, "NOT-A-UUID");
}
