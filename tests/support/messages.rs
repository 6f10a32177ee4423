use std::collections::{BTreeMap, BTreeSet, VecDeque};

use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use serde_json::json;

use super::Random;

const WINDOW: usize = 1_000;

/// Returns a minimal event with this id.
pub fn event(id: &str) -> String {
    json!({"id": id, "event_type": "track", "event_name": "test"}).to_string()
}

/// Publishes messages in order, with pipelined acks and without message ids. Returns the last sequence.
pub async fn publish_all(jetstream: &jetstream::Context, messages: Vec<(String, Vec<u8>)>) -> u64 {
    let mut acks = VecDeque::new();
    let mut last = 0;
    for (subject, payload) in messages {
        let publish = PublishMessage::build().payload(payload.into());
        acks.push_back(jetstream.send_publish(subject, publish).await.unwrap());
        if acks.len() >= WINDOW {
            last = acks.pop_front().unwrap().await.unwrap().sequence;
        }
    }
    for ack in acks {
        last = ack.await.unwrap().sequence;
    }
    last
}

/// What the database must hold after some traffic.
#[derive(Debug, Default)]
pub struct Expected {
    pub events: BTreeSet<String>,
    pub metrics: BTreeSet<String>,
    pub sessions: BTreeSet<String>,
    pub duplicates: u64,
    pub rejected: BTreeMap<&'static str, u64>,
}

/// Random traffic of all kinds: good messages, copies, and bad messages with known reasons.
pub struct Traffic {
    random: Random,
    pub expected: Expected,
}

impl Traffic {
    pub fn new(seed: u64) -> Self {
        Self { random: Random(seed), expected: Expected::default() }
    }

    fn good(&mut self) -> (&'static str, String) {
        let n = self.random.next();
        let id = format!("{n:016x}");
        let user = self.random.below(500);
        match self.random.below(10) {
            0 => {
                self.expected.sessions.insert(id.clone());
                let kind = ["start", "heartbeat", "heartbeat", "end"][usize::try_from(self.random.below(4)).unwrap()];
                let session = json!({"id": id, "session_id": format!("s{}", self.random.below(5_000)), "kind": kind,
                    "user_id": format!("u{user}"), "os": format!("os{}", n % 3)});
                ("sessions", session.to_string())
            }
            1..=2 => {
                self.expected.metrics.insert(id.clone());
                let value = n as f64 / 1e6;
                (
                    "metrics",
                    json!({"id": id, "name": "load", "value": value, "tags": {"u": user.to_string()}}).to_string(),
                )
            }
            _ => {
                self.expected.events.insert(id.clone());
                let session_id = n.is_multiple_of(2).then(|| format!("s{}", self.random.below(5_000)));
                let properties = json!({"n": n, "text": "x".repeat((n % 300) as usize)});
                let event = json!({"id": id, "event_type": "track", "event_name": format!("e{}", n % 30),
                    "user_id": format!("u{user}"), "properties": properties, "session_id": session_id});
                ("events", event.to_string())
            }
        }
    }

    fn bad(&mut self) -> (&'static str, String) {
        let (reason, suffix, payload) = match self.random.below(4) {
            0 => ("invalid_json", "events", "{".to_owned()),
            1 => ("missing_field", "events", "{}".to_owned()),
            2 => ("unknown_subject", "other", "{}".to_owned()),
            _ => ("negative_counter", "metrics", r#"{"name":"n","value":-1,"metric_type":"counter"}"#.to_owned()),
        };
        *self.expected.rejected.entry(reason).or_default() += 1;
        (suffix, payload)
    }
}

/// An endless iterator. 1 message in 50 is bad; 1 good message in 50 comes with a copy.
impl Iterator for Traffic {
    type Item = Vec<(String, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let (suffix, payload) = if self.random.below(50) == 0 { self.bad() } else { self.good() };
        let message = (format!("analytics.{suffix}"), payload.into_bytes());
        let is_good = !matches!(message.1.as_slice(), b"{" | b"{}") && !message.1.starts_with(b"{\"name\":\"n\"");
        if is_good && self.random.below(50) == 0 {
            self.expected.duplicates += 1;
            return Some(vec![message.clone(), message]);
        }
        Some(vec![message])
    }
}

impl Traffic {
    /// Returns `count` messages, or one more if the last one has a copy.
    pub fn take_messages(&mut self, count: usize) -> Vec<(String, Vec<u8>)> {
        let mut messages = Vec::with_capacity(count + 1);
        while messages.len() < count {
            messages.extend(self.next().unwrap_or_default());
        }
        messages
    }

    /// Asserts that the database holds what was published.
    pub fn assert_stored_in(&self, database: &super::Database) {
        let Expected { events, metrics, sessions, duplicates, rejected } = &self.expected;
        for (table, ids) in [("analytics_events", events), ("metrics", metrics), ("_session_messages", sessions)] {
            let stored: BTreeSet<_> = database.texts(&format!("SELECT id FROM {table}")).into_iter().collect();
            assert!(stored == *ids, "{table}: {} rows, {} expected", stored.len(), ids.len());
        }
        for (reason, count) in rejected {
            assert_eq!(database.count(&format!("_rejections WHERE reason = '{reason}'")), *count, "{reason}");
        }
        assert_eq!(database.count("_rejections"), rejected.values().sum::<u64>());
        let counted = database.text("SELECT cast(sum(duplicates) AS TEXT) FROM _positions", []);
        assert_eq!(counted, duplicates.to_string());
        database.assert_account_balances();
    }
}
