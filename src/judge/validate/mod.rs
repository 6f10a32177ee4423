//! Checks a typed message against the rules: limits, names, identities, time. Pure.
//!
//! Applies the reasons from `no_identity` to `null_character`. Also judges the timestamp, but the writer applies that
//! result only if the id is new: a copy of a known message is a copy, whatever the time.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod json;
mod limits;

use std::time::Duration;

use serde_json::{Map, Value};

pub use limits::Limits;

use super::accepted::{Accepted, Message, Supplied};
use super::decode::{Wire, WireEvent, WireMetric, WireSession};
use super::rejection::{Findings, Reason, Rejection};
use crate::model::{
    AnalyticsEvent, JsonObject, Kind, Metric, MetricType, SessionKind, SessionMessage, Timestamp, natural_id,
};

/// Placeholders that client code sends if it has no identity. Compared without regard to ASCII case.
const PLACEHOLDERS: [&str; 12] = [
    "null",
    "undefined",
    "0",
    "none",
    "nil",
    "n/a",
    "unknown",
    "true",
    "false",
    "[]",
    "{}",
    "00000000-0000-0000-0000-000000000000",
];

/// With greater values, a sum of samples could leave the range of f64.
const MAX_ABS_VALUE: f64 = 1e300;

/// The message's place in the stream, and when the server received the message.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The stream's name.
    pub stream: &'a str,
    /// The stream's epoch in this database.
    pub epoch: i64,
    /// The message's sequence.
    pub stream_sequence: u64,
    /// When the server received the message.
    pub recv: Timestamp,
}

impl Origin<'_> {
    /// Makes the id for a message without an id. Every redelivery and replay makes the same id.
    fn id(&self, kind: Kind) -> String {
        let name = format!("{}/{}/{}/{kind}", self.stream, self.epoch, self.stream_sequence);
        natural_id::of(&name)
    }
}

/// Judges a message by its own content and `recv`, never by the current time.
///
/// # Errors
/// The first rule, in the order of [`Reason`], that the message breaks.
pub fn validate(wire: Wire, origin: Origin<'_>, limits: &Limits) -> Result<Message, Rejection> {
    let rules = Validation { origin, limits, findings: Findings::default() };
    match wire {
        Wire::Event(wire) => rules.event(*wire).map(|judged| Message::Event(Box::new(judged))),
        Wire::Metric(wire) => rules.metric(*wire).map(|judged| Message::Metric(Box::new(judged))),
        Wire::Session(wire) => rules.session(*wire).map(|judged| Message::Session(Box::new(judged))),
    }
}

struct Validation<'a> {
    origin: Origin<'a>,
    limits: &'a Limits,
    findings: Findings,
}

impl Validation<'_> {
    fn event(mut self, wire: WireEvent) -> Result<Accepted<AnalyticsEvent>, Rejection> {
        if wire.event_type == "identify" && wire.user_id.is_none() {
            self.findings.add(Reason::NoIdentity, "user_id", || "an identify event needs user_id".into());
        }
        self.name("event_type", &wire.event_type);
        self.name("event_name", &wire.event_name);
        self.identities([
            ("session_id", &wire.session_id),
            ("user_id", &wire.user_id),
            ("anonymous_id", &wire.anonymous_id),
        ]);
        self.texts([("page_url", &wire.page_url), ("referrer", &wire.referrer)]);
        self.json("properties", wire.properties.as_ref());
        self.json("context", wire.context.as_ref());
        let (id, id_supplied) = self.id(Kind::Event, wire.id);
        let time = self.time(wire.timestamp.as_deref());
        self.findings.into_result()?;
        Ok(Accepted {
            record: AnalyticsEvent {
                id,
                event_type: wire.event_type,
                event_name: wire.event_name,
                timestamp: time.timestamp,
                session_id: wire.session_id,
                user_id: wire.user_id,
                properties: wire.properties.as_ref().map(JsonObject::from),
                context: wire.context.as_ref().map(JsonObject::from),
                page_url: wire.page_url,
                referrer: wire.referrer,
                anonymous_id: wire.anonymous_id,
            },
            supplied: time
                .supplied
                .with(Supplied::ID, id_supplied)
                .with(Supplied::EVENT_TYPE, wire.event_type_supplied),
            untimely: time.untimely,
        })
    }

    fn metric(mut self, wire: WireMetric) -> Result<Accepted<Metric>, Rejection> {
        self.metric_name(&wire.name);
        let metric_type = match wire.metric_type.as_deref() {
            None => MetricType::default(),
            Some(text) => text.parse().unwrap_or_else(|()| {
                self.findings.add(Reason::UnknownMetricType, "metric_type", || {
                    format!("metric_type {text:?} is none of counter, gauge, histogram, timer")
                });
                MetricType::default()
            }),
        };
        self.value(metric_type, wire.value);
        self.texts([("unit", &wire.unit)]);
        let tags = JsonObject::from(&wire.tags.unwrap_or_default());
        self.tags(&tags);
        let (id, id_supplied) = self.id(Kind::Metric, wire.id);
        let time = self.time(wire.timestamp.as_deref());
        self.findings.into_result()?;
        Ok(Accepted {
            record: Metric {
                id,
                name: wire.name,
                metric_type,
                value: if wire.value.is_normal() { wire.value } else { 0.0 },
                timestamp: time.timestamp,
                tags: Some(tags),
                unit: wire.unit,
            },
            supplied: time
                .supplied
                .with(Supplied::ID, id_supplied)
                .with(Supplied::METRIC_TYPE, wire.metric_type.is_none()),
            untimely: time.untimely,
        })
    }

    fn session(mut self, wire: WireSession) -> Result<Accepted<SessionMessage>, Rejection> {
        if wire.session_id.is_none() {
            self.findings.add(Reason::NoIdentity, "session_id", || "a session message needs session_id".into());
        }
        let kind = wire.kind.parse().unwrap_or_else(|()| {
            self.findings.add(Reason::UnknownSessionKind, "kind", || {
                format!("kind {:?} is none of start, heartbeat, end", wire.kind)
            });
            SessionKind::Heartbeat
        });
        self.identities([
            ("session_id", &wire.session_id),
            ("user_id", &wire.user_id),
            ("anonymous_id", &wire.anonymous_id),
        ]);
        self.texts([
            ("device_type", &wire.device_type),
            ("browser", &wire.browser),
            ("os", &wire.os),
            ("country", &wire.country),
            ("city", &wire.city),
            ("referrer", &wire.referrer),
            ("landing_page", &wire.landing_page),
            ("exit_page", &wire.exit_page),
        ]);
        let (id, id_supplied) = self.id(Kind::Session, wire.id);
        let time = self.time(wire.timestamp.as_deref());
        self.findings.into_result()?;
        Ok(Accepted {
            record: SessionMessage {
                id,
                session_id: wire.session_id.unwrap_or_default(),
                kind,
                timestamp: time.timestamp,
                user_id: wire.user_id,
                anonymous_id: wire.anonymous_id,
                device_type: wire.device_type,
                browser: wire.browser,
                os: wire.os,
                country: wire.country,
                city: wire.city,
                referrer: wire.referrer,
                landing_page: wire.landing_page,
                exit_page: wire.exit_page,
            },
            supplied: time.supplied.with(Supplied::ID, id_supplied),
            untimely: time.untimely,
        })
    }

    /// Returns the id as it is stored, and whether the server supplied it.
    fn id(&mut self, kind: Kind, sent: Option<String>) -> (String, bool) {
        let Some(mut id) = sent else { return (self.origin.id(kind), true) };
        let max = self.limits.max_id_chars;
        if id.len() > max || !id.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            self.findings.add(Reason::InvalidId, "id", || format!("id must be 1 to {max} printable ASCII characters"));
        }
        if is_hyphenated_uuid(&id) {
            id.make_ascii_lowercase();
        }
        (id, false)
    }

    fn name(&mut self, field: &str, name: &str) {
        if name.chars().any(char::is_control) || name.trim().is_empty() {
            self.findings.add(Reason::InvalidName, field, || format!("{field} is blank or has control characters"));
        }
        self.length(Reason::NameTooLong, field, name, self.limits.max_name_chars);
    }

    fn metric_name(&mut self, name: &str) {
        let mut chars = name.chars();
        let valid = chars.next().is_some_and(|first| first.is_ascii_alphabetic())
            && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/'));
        if !valid {
            self.findings.add(Reason::InvalidName, "name", || {
                "name must be a letter followed by letters, digits or _ . - /".into()
            });
        }
        self.length(Reason::NameTooLong, "name", name, self.limits.max_metric_name_chars);
    }

    fn length(&mut self, reason: Reason, field: &str, text: &str, max_chars: usize) {
        let chars = text.chars().count();
        if chars > max_chars {
            self.findings.add(reason, field, || format!("{field} has {chars} characters; {max_chars} are allowed"));
        }
    }

    fn identities<const N: usize>(&mut self, fields: [(&str, &Option<String>); N]) {
        for (field, text) in fields {
            let Some(text) = text else { continue };
            if PLACEHOLDERS.iter().any(|placeholder| placeholder.eq_ignore_ascii_case(text)) {
                self.findings.add(Reason::DisallowedIdentity, field, || {
                    format!("{field} {text:?} is a placeholder, not an identity; leave the field out")
                });
            }
            self.length(Reason::StringTooLong, field, text, self.limits.max_name_chars);
            self.null_character(field, text);
        }
    }

    fn texts<const N: usize>(&mut self, fields: [(&str, &Option<String>); N]) {
        for (field, text) in fields {
            if let Some(text) = text {
                self.null_character(field, text);
            }
        }
    }

    fn null_character(&mut self, field: &str, text: &str) {
        if text.contains('\0') {
            self.findings.add(Reason::NullCharacter, field, || format!("{field} contains U+0000"));
        }
    }

    fn value(&mut self, metric_type: MetricType, value: f64) {
        if !value.is_finite() || value.abs() > MAX_ABS_VALUE {
            self.findings.add(Reason::ValueOutOfRange, "value", || "value is beyond ±1e300".into());
        }
        if value < 0.0 && metric_type == MetricType::Timer {
            self.findings.add(Reason::ValueOutOfRange, "value", || "a timer's value must not be negative".into());
        }
        if value < 0.0 && metric_type == MetricType::Counter {
            self.findings.add(Reason::NegativeCounter, "value", || "a counter's value must not be negative".into());
        }
    }

    fn json(&mut self, field: &str, map: Option<&Map<String, Value>>) {
        if let Some(map) = map {
            json::check(field, map, self.limits, &mut self.findings);
        }
    }

    fn tags(&mut self, tags: &JsonObject) {
        json::check_tags(tags, self.limits, &mut self.findings);
    }

    fn time(&self, sent: Option<&str>) -> Time {
        let recv = self.origin.recv;
        let Some(text) = sent else {
            return Time { timestamp: recv, supplied: Supplied::TIMESTAMP, untimely: None };
        };
        let reject = |reason, error| Some(Rejection::field(reason, "timestamp", error));
        let (timestamp, untimely) = match Timestamp::parse(text) {
            Err(error) => (recv, reject(Reason::InvalidTimestamp, format!("timestamp {text:?} {error}"))),
            Ok(timestamp) => (timestamp, self.untimely(timestamp).and_then(|(reason, error)| reject(reason, error))),
        };
        Time { timestamp, supplied: Supplied::default(), untimely }
    }

    fn untimely(&self, timestamp: Timestamp) -> Option<(Reason, String)> {
        let recv = self.origin.recv;
        let after_recv_ms = timestamp.as_millis() - recv.as_millis();
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        if after_recv_ms > millis(self.limits.max_future) {
            let error = format!("timestamp {timestamp} is more than limits.max_future after the server's time {recv}");
            return Some((Reason::TimestampInFuture, error));
        }
        if self.limits.max_age.is_some_and(|max_age| -after_recv_ms > millis(max_age)) {
            let error = format!("timestamp {timestamp} is more than limits.max_age before the server's time {recv}");
            return Some((Reason::TimestampTooOld, error));
        }
        None
    }
}

struct Time {
    /// The parsed timestamp. `recv` if the message has no timestamp, or if its timestamp cannot be parsed.
    timestamp: Timestamp,
    supplied: Supplied,
    untimely: Option<Rejection>,
}

fn is_hyphenated_uuid(id: &str) -> bool {
    id.len() == 36
        && id.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}
