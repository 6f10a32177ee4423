//! The activity of people: sessions without a session id, `user_activity`, `feature_usage`, funnels and dashboards.

use proptest::prelude::*;
use serde_json::{Value, json};
use streamgauge::judge::Delivery;
use uuid::Uuid;

use super::naive_sessions::{self, NAMESPACE, assert_same};
use super::people_config::{CONFIG, funnels, numbers, rules};
use super::{
    START_MS, Store, crash_points, naive_activity, naive_dashboard, naive_features, naive_funnels, runtime, shuffle,
};

const MINUTE_MS: i64 = 60_000;
/// The default of `limits.session_timeout`.
const TIMEOUT_MS: i64 = 30 * MINUTE_MS;
/// The midnight after `START_MS`.
const MIDNIGHT_MS: i64 = 12 * 60 * MINUTE_MS;
/// Multiples of the timeout around midnight, some a millisecond off. Late events then extend, begin and bridge
/// sessions.
const TIMES_MS: [i64; 13] = [
    MIDNIGHT_MS - 3 * TIMEOUT_MS,
    MIDNIGHT_MS - 2 * TIMEOUT_MS - 1,
    MIDNIGHT_MS - 2 * TIMEOUT_MS,
    MIDNIGHT_MS - TIMEOUT_MS,
    MIDNIGHT_MS - TIMEOUT_MS + 1,
    MIDNIGHT_MS - 2,
    MIDNIGHT_MS - 1,
    MIDNIGHT_MS,
    MIDNIGHT_MS + TIMEOUT_MS - 1,
    MIDNIGHT_MS + TIMEOUT_MS,
    MIDNIGHT_MS + TIMEOUT_MS + 1,
    MIDNIGHT_MS + 3 * TIMEOUT_MS,
    MIDNIGHT_MS + 4 * TIMEOUT_MS + 2,
];
const USER_AGENTS: [&str; 3] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 \
     Mobile/15E148 Safari/604.1",
    "none that anybody knows",
];

/// A message from a world of three people. Some of them are known by an anonymous id.
#[derive(Debug, Clone)]
pub(super) struct Small {
    time_ms: i64,
    user: Option<u8>,
    anonymous: Option<u8>,
    session: Named,
    is_start: bool,
    is_metric: bool,
    name: u8,
    says: u8,
}

/// Whether and how a message names its session.
#[derive(Debug, Clone, Copy)]
enum Named {
    No,
    /// One of two session ids.
    Yes(u8),
    /// The id that a derived session of that user has or would have. With `is_next`, the next id, which is used if
    /// the first is taken.
    AsUnnamed {
        first_event: u8,
        user: u8,
        is_next: bool,
    },
}

pub(super) fn small() -> impl Strategy<Value = Small> {
    let session = prop_oneof![
        8 => Just(Named::No),
        2 => (0..2_u8).prop_map(Named::Yes),
        1 => (0..30_u8, 0..3_u8, any::<bool>())
            .prop_map(|(first_event, user, is_next)| Named::AsUnnamed { first_event, user, is_next }),
    ];
    let time_ms = prop::sample::select(TIMES_MS.as_slice());
    let (user, anonymous) = (proptest::option::weighted(0.8, 0..3_u8), proptest::option::of(0..2_u8));
    let is = (prop::bool::weighted(0.1), prop::bool::weighted(0.15));
    (time_ms, user, anonymous, session, is, 0..4_u8, any::<u8>()).prop_map(
        |(time_ms, user, anonymous, session, (is_start, is_metric), name, says)| Small {
            time_ms,
            user,
            anonymous,
            session,
            is_start,
            is_metric,
            name,
            says,
        },
    )
}

/// Returns an event of a user. Its number decides its time and its content.
pub(super) fn event_of(number: u8, user: u8) -> Small {
    let (time_ms, says) = (TIMES_MS[usize::from(number) % TIMES_MS.len()], number % 8);
    let (is_start, is_metric, name) = (false, false, number % 4);
    Small { time_ms, user: Some(user), anonymous: None, session: Named::No, is_start, is_metric, name, says }
}

/// Returns the id of a message. The order of ids is not the order of numbers.
fn id(number: usize) -> String {
    format!("{:03}", (number * 7919) % 1000)
}

impl Small {
    fn session_id(&self) -> Option<String> {
        match self.session {
            Named::No => None,
            Named::Yes(session) => Some(format!("s{session}")),
            Named::AsUnnamed { first_event, user, is_next } => {
                let actor = Uuid::new_v5(&NAMESPACE, format!("user|u{user}").as_bytes());
                let first_event = id(first_event.into());
                let first = Uuid::new_v5(&actor, first_event.as_bytes());
                let next = Uuid::new_v5(&first, first_event.as_bytes());
                Some(if is_next { next } else { first }.to_string())
            }
        }
    }

    fn properties(&self) -> Value {
        match self.says % 8 {
            0 => json!({"feature": "export", "duration_ms": 12.5, "success": true}),
            1 => json!({"feature": "export", "duration_ms": 1e300, "success": false}),
            2 => json!({"feature": "search", "duration_ms": 1e-300}),
            3 => json!({"feature": 7, "duration_ms": -1, "success": "yes"}),
            4 => json!({"item": {"kind": "ring"}, "duration_ms": 3}),
            5 => json!({"item": {"kind": " "}}),
            6 => json!({"item": "ring", "feature": "", "success": true}),
            _ => Value::Null,
        }
    }

    fn delivery(&self, number: usize, stream_sequence: u64) -> Delivery {
        let timestamp = chrono::DateTime::from_timestamp_millis(START_MS + self.time_ms).unwrap();
        let person = |kind: &str, number: Option<u8>| number.map(|number| format!("{kind}{number}"));
        let user_agent = USER_AGENTS.get(usize::from(self.says / 64));
        let mut message = json!({"id": id(number), "session_id": self.session_id(), "user_id": person("u", self.user),
            "timestamp": timestamp.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            "anonymous_id": person("a", self.anonymous)});
        let subject = if self.is_metric {
            message["name"] = "m".into();
            message["metric_type"] = ["gauge", "counter"][usize::from(self.says / 8 % 2)].into();
            message["value"] = (f64::from(self.says) / 3.0).into();
            message["tags"] = json!({"k": format!("v{}", self.says % 3), "other": "x"});
            "analytics.metrics"
        } else if self.is_start && self.session_id().is_some() {
            message["kind"] = "start".into();
            "analytics.sessions"
        } else {
            message["event_type"] = ["track", "feature"][usize::from(self.says / 8 % 2)].into();
            message["event_name"] = format!("n{}", self.name).into();
            message["properties"] = self.properties();
            message["context"] = json!({"user_agent": user_agent, "os": (self.says & 32 != 0).then_some("Plan 9")});
            message["page_url"] = format!("/{number}").into();
            "analytics.events"
        };
        let payload = message.to_string().into();
        let recv_ns = (START_MS + 10 * MIDNIGHT_MS) * 1_000_000;
        Delivery { subject: subject.into(), payload, size_bytes: 0, stream_sequence, recv_ns }
    }
}

pub(super) fn deliveries(messages: &[Small], order: &[usize]) -> Vec<Delivery> {
    let deliver = |(at, number): (usize, &usize)| messages[*number].delivery(*number, at as u64 + 1);
    order.iter().enumerate().map(deliver).collect()
}

fn assert_is_recomputed(store: &Store) {
    let connection = store.database().read();
    assert_same(&naive_sessions::stored(&connection), &naive_sessions::recompute(&connection, TIMEOUT_MS));
    naive_activity::assert_is_recomputed(&connection, TIMEOUT_MS);
    assert_same(&naive_features::stored(&connection), &naive_features::recompute(&connection, &rules(), true));
    naive_activity::assert_conserved(&connection);
    assert_same(&naive_funnels::stored(&connection), &naive_funnels::recompute(&connection, &funnels(), TIMEOUT_MS));
    assert_same(&naive_dashboard::stored(&connection), &naive_dashboard::recompute(&connection, &numbers()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// L1, L2 and L3 hold for any order, any split, repeated messages, and transactions that are cut anywhere.
    #[test]
    fn what_people_did_is_a_function_of_their_messages(
        messages in prop::collection::vec(small(), 1..60),
        repeats in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        seed in any::<u64>(),
        sizes in prop::collection::vec(1..12_usize, 1..8),
        crash_points in prop::collection::vec(0..crash_points().len(), 1..4),
    ) {
        let runtime = runtime();
        let mut order: Vec<usize> = (0..messages.len()).collect();
        let mut whole = Store::with_config(&runtime, CONFIG);
        whole.write(&deliveries(&messages, &order), &[messages.len()]);
        assert_is_recomputed(&whole);

        order.extend(repeats.iter().map(|repeat| repeat.index(messages.len())));
        shuffle(&mut order, seed);
        let mut other = Store::with_config(&runtime, CONFIG);
        other.write_with_crashes(&deliveries(&messages, &order), &sizes, &crash_points);
        assert_is_recomputed(&other);
        prop_assert_eq!(whole.digest(), other.digest());
        prop_assert_eq!(whole.internals(), other.internals());
    }
}

/// Returns events of one user on one day: for each name, the given number of events.
fn named_events(names: impl Iterator<Item = (String, u64)>) -> Vec<Delivery> {
    let events = names.flat_map(|(name, count)| (0..count).map(move |_| name.clone()));
    let deliver = |(at, name): (usize, String)| {
        let message = json!({"id": at.to_string(), "event_type": "track", "event_name": name, "user_id": "ada",
            "timestamp": "2026-01-31T08:00:00Z"});
        let recv_ns = START_MS * 1_000_000;
        let payload = message.to_string().into();
        Delivery { subject: "analytics.events".into(), payload, size_bytes: 0, stream_sequence: at as u64 + 1, recv_ns }
    };
    events.enumerate().map(deliver).collect()
}

#[test]
fn the_hundred_most_frequent_names_are_shown_and_the_rest_together() {
    let runtime = runtime();
    // The hundredth name and the next have equal counts. One event has the name that stands for the rest.
    let names =
        || (0..300_u64).map(|n| (format!("n{:03}", (n * 7) % 300), n / 3 % 7 + 1)).chain([("$other".into(), 9)]);
    let mut messages = named_events(names());
    let mut whole = Store::with_config(&runtime, CONFIG);
    whole.write(&messages, &[messages.len()]);
    assert_is_recomputed(&whole);
    shuffle(&mut messages, 7);
    for (at, message) in messages.iter_mut().enumerate() {
        message.stream_sequence = at as u64 + 1;
    }
    let mut other = Store::with_config(&runtime, CONFIG);
    other.write(&messages, &[1, 50, 99]);
    assert_is_recomputed(&other);
    assert_eq!(whole.digest()["user_activity"], other.digest()["user_activity"]);
    assert_eq!(whole.internals(), other.internals());
}
