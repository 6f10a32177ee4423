//! Workload W, the same on every machine: seed 1.
//!
//! Events have about 350 bytes, UUIDv7 ids, and 30 names. They come from 20,000 users (Zipf, exponent 1.1). Half of
//! them are in sessions of 10 events. 10 % of the messages are feature usages, and 10 % are metrics over 200 keys. 5
//! % are up to 10 minutes late. Event time advances a second for every 1,000 messages. A variant may change the ids
//! and the users.

use std::fmt::Write as _;

use streamgauge::judge::Delivery;
use streamgauge::model::Kind;
use streamgauge::nats::Outgoing;

use crate::support::Random;

/// 2026-01-01T12:00:00Z
const START_MS: i64 = 1_767_268_800_000;
const ZIPF_EXPONENT: f64 = 1.1;
const EVENT_NAMES: u64 = 30;
const FEATURES: u64 = 20;
const METRIC_NAMES: u64 = 20;
const ENDPOINTS: u64 = 10;
const SESSION_EVENTS: u8 = 10;
const MAX_LATE_MS: u64 = 600_000;

/// The parts of W that a variant changes.
#[derive(Debug, Clone, Copy)]
pub struct Variant {
    pub users: usize,
    /// UUIDv4 instead of UUIDv7, so that ids are in random order.
    pub has_random_ids: bool,
}

pub const W: Variant = Variant { users: 20_000, has_random_ids: false };

/// An endless iterator of messages.
pub struct Workload {
    random: Random,
    variant: Variant,
    /// For each user, the summed weight of this user and all more active ones.
    cumulative: Vec<f64>,
    /// For each user, the current session and how many events it still has.
    sessions: Vec<(u64, u8)>,
    number: i64,
}

impl Workload {
    pub fn new(variant: Variant) -> Self {
        let mut total = 0.0;
        let add = |rank: usize| {
            total += (rank as f64).powf(-ZIPF_EXPONENT);
            total
        };
        let cumulative: Vec<f64> = (1..=variant.users).map(add).collect();
        Self { random: Random(1), cumulative, sessions: vec![(0, 0); variant.users], number: 0, variant }
    }

    /// Returns the next `count` messages, as a publisher sends them.
    pub fn take_outgoing(&mut self, count: usize) -> Vec<Outgoing> {
        self.take(count).collect()
    }

    fn user(&mut self) -> usize {
        let total = self.cumulative.last().copied().unwrap_or_default();
        let point = self.random.next() as f64 / u64::MAX as f64 * total;
        self.cumulative.partition_point(|upto| *upto < point).min(self.cumulative.len() - 1)
    }

    /// Returns when the message happened: now, or some time ago.
    fn timestamp_ms(&mut self) -> i64 {
        let now_ms = START_MS + self.number;
        let late_ms = if self.random.below(20) == 0 { self.random.below(MAX_LATE_MS) } else { 0 };
        now_ms - i64::try_from(late_ms).unwrap()
    }

    /// Returns the session of a user's next event. About every second event is in a session.
    fn session(&mut self, user: usize) -> Option<String> {
        if self.random.below(2) == 0 {
            return None;
        }
        if self.sessions[user].1 == 0 {
            self.sessions[user] = (self.random.next(), SESSION_EVENTS);
        }
        self.sessions[user].1 -= 1;
        let (name, _) = self.sessions[user];
        Some(format!("{:08x}-{:04x}-4000-8000-{user:012x}", name >> 32, name & 0xffff))
    }

    fn metric(&mut self, id: &str, timestamp: &str) -> String {
        let (name, endpoint) = (self.random.below(METRIC_NAMES), self.random.below(ENDPOINTS));
        let metric_type = ["timer", "gauge", "counter", "histogram"][usize::try_from(name % 4).unwrap()];
        let value = self.random.below(1_000_000) as f64 / 1_000.0;
        format!(
            r#"{{"id":"{id}","name":"service.metric.{name}","metric_type":"{metric_type}","value":{value},"timestamp":"{timestamp}","tags":{{"endpoint":"/api/v1/resource/{endpoint}","region":"eu-west"}},"unit":"ms"}}"#
        )
    }

    fn event(&mut self, id: &str, timestamp: &str, is_feature: bool) -> String {
        let user = self.user();
        let mut text = format!(r#"{{"id":"{id}","timestamp":"{timestamp}","user_id":"user-{user}","#);
        if let Some(session) = self.session(user) {
            let _ = write!(text, r#""session_id":"{session}","#);
        }
        let (name, page) = (self.random.below(EVENT_NAMES), self.random.below(500));
        let _ = if is_feature {
            let (feature, duration_ms) = (self.random.below(FEATURES), self.random.below(5_000));
            let success = !self.random.below(10).is_multiple_of(10);
            write!(
                text,
                r#""event_type":"feature","event_name":"feature_used","properties":{{"feature":"feature-{feature}","duration_ms":{duration_ms},"success":{success}}},"#
            )
        } else {
            let price = self.random.below(100_000) as f64 / 100.0;
            write!(
                text,
                r#""event_type":"track","event_name":"event_{name}","properties":{{"plan":"pro","price":{price},"item":"item-{page}"}},"#
            )
        };
        let _ = write!(
            text,
            r#""context":{{"os":"linux","browser":{{"name":"firefox"}},"locale":"en-GB"}},"page_url":"https://example.com/page/{page}"}}"#
        );
        text
    }
}

impl Iterator for Workload {
    type Item = Outgoing;

    fn next(&mut self) -> Option<Outgoing> {
        let timestamp_ms = self.timestamp_ms();
        self.number += 1;
        let id = match self.variant.has_random_ids {
            false => uuid7(timestamp_ms, &mut self.random),
            true => uuid4(&mut self.random),
        };
        let timestamp = chrono::DateTime::from_timestamp_millis(timestamp_ms)?;
        let timestamp = timestamp.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let (kind, payload) = match self.random.below(10) {
            0 => (Kind::Metric, self.metric(&id, &timestamp)),
            share => (Kind::Event, self.event(&id, &timestamp, share == 1)),
        };
        Some(Outgoing { kind, message_id: format!("{kind}:{id}"), payload: payload.into() })
    }
}

fn uuid7(timestamp_ms: i64, random: &mut Random) -> String {
    let (one, other) = (random.next(), random.next());
    let variant = (other >> 48) & 0x3fff | 0x8000;
    format!(
        "{:08x}-{:04x}-7{:03x}-{variant:04x}-{:012x}",
        timestamp_ms >> 16,
        timestamp_ms & 0xffff,
        one & 0xfff,
        other & 0xffff_ffff_ffff
    )
}

fn uuid4(random: &mut Random) -> String {
    let id = u128::from(random.next()) << 64 | u128::from(random.next());
    uuid::Builder::from_random_bytes(id.to_be_bytes()).into_uuid().to_string()
}

/// Returns the message as a stream delivers it.
pub fn delivery(message: &Outgoing, stream_sequence: u64) -> Delivery {
    Delivery {
        subject: format!("analytics.{}", message.kind),
        payload: message.payload.clone(),
        size_bytes: message.payload.len(),
        stream_sequence,
        // Later than any timestamp of the workload.
        recv_ns: (START_MS + 365 * 86_400_000) * 1_000_000,
    }
}
