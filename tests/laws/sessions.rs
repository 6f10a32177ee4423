//! The table `analytics_sessions`: sessions are a function of their messages.

use proptest::prelude::*;
use serde_json::{Value, json};
use streamgauge::judge::Delivery;

use super::naive_sessions::{recompute, stored};
use super::{START_MS, Store, crash_points, runtime, shuffle};

const MINUTE_MS: i64 = 60_000;
/// The default of `limits.session_timeout`.
const TIMEOUT_MS: i64 = 30 * MINUTE_MS;
/// Times that collide: equal times, both edges of the timeout, and one time ahead of the server's clock.
const TIMES_MS: [i64; 10] = [
    -3 * TIMEOUT_MS,
    -TIMEOUT_MS - 1,
    -TIMEOUT_MS,
    -TIMEOUT_MS + 1,
    -20 * MINUTE_MS,
    -20 * MINUTE_MS + 1,
    -10 * MINUTE_MS,
    -1,
    0,
    5 * MINUTE_MS,
];

/// A message from a world of three sessions and three users.
#[derive(Debug, Clone)]
struct Small {
    /// `None` makes the message a metric, which only moves T.
    session: Option<u8>,
    says: Says,
    time_ms: i64,
    user: Option<u8>,
    /// Each bit says whether the message carries one of the attributes.
    tells: u8,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Says {
    Event,
    Start,
    Heartbeat,
    End,
}

fn small() -> impl Strategy<Value = Small> {
    let session = proptest::option::weighted(0.9, 0..3_u8);
    let says =
        prop_oneof![6 => Just(Says::Event), 2 => Just(Says::Start), 2 => Just(Says::Heartbeat), 1 => Just(Says::End)];
    let time_ms = prop::sample::select(TIMES_MS.as_slice());
    (session, says, time_ms, proptest::option::of(0..3_u8), any::<u8>())
        .prop_map(|(session, says, time_ms, user, tells)| Small { session, says, time_ms, user, tells })
}

impl Small {
    /// Returns the message as a delivery. Its number makes it different from all others.
    fn delivery(&self, number: usize, stream_sequence: u64, recv_ms: i64) -> Delivery {
        let timestamp = chrono::DateTime::from_timestamp_millis(START_MS + self.time_ms).unwrap();
        let told = |bit: u8, what: &str| (self.tells & (1 << bit) != 0).then(|| format!("{what}-{number}"));
        let (subject, mut message) = match (self.session, self.says) {
            (None, _) => ("analytics.metrics", json!({"name": "m", "value": 1})),
            (Some(session), Says::Event) => {
                let context = self.context(&told);
                let event = json!({"event_type": "t", "event_name": "n", "session_id": format!("s{session}"),
                    "context": context, "referrer": told(5, "referrer"), "page_url": told(6, "page")});
                ("analytics.events", event)
            }
            (Some(session), says) => {
                let kind = match says {
                    Says::Start => "start",
                    Says::End => "end",
                    _ => "heartbeat",
                };
                let message = json!({"kind": kind, "session_id": format!("s{session}"),
                    "device_type": told(0, "device"), "browser": told(1, "browser"), "os": told(2, "os"),
                    "country": told(3, "country"), "city": told(4, "city"), "referrer": told(5, "referrer"),
                    "landing_page": told(6, "landing"), "exit_page": told(7, "exit")});
                ("analytics.sessions", message)
            }
        };
        message["id"] = format!("{:03}", (number * 7919) % 1000).into();
        message["timestamp"] = timestamp.to_rfc3339_opts(chrono::SecondsFormat::Millis, true).into();
        if self.session.is_some() {
            message["user_id"] = self.user.map(|user| format!("u{user}")).into();
        }
        let payload = message.to_string().into();
        Delivery { subject: subject.into(), payload, size_bytes: 0, stream_sequence, recv_ns: recv_ms * 1_000_000 }
    }

    /// Returns a context in one of its two forms, also with empty texts and with values that are not texts.
    fn context(&self, told: &impl Fn(u8, &str) -> Option<String>) -> Value {
        let nested = |bit: u8, what: &str, key: &str| match told(bit, what) {
            Some(text) => json!({ key: text }),
            None => json!(bit),
        };
        if self.tells & 128 == 0 {
            json!({"device_type": told(0, "device"), "browser": told(1, "browser"), "os": told(2, "os"),
                "country": told(3, "country"), "city": told(4, "city"), "other": [1, {"os": "no"}]})
        } else {
            json!({"device_type": "", "device": nested(0, "device", "type"), "browser": nested(1, "browser", "name"),
                "os": nested(2, "os", "name"), "country": 1, "geo": {"country": told(3, "country"), "city": told(4, "city")}})
        }
    }
}

/// Returns the messages in the order that `order` gives, each with the next sequence. All are received after the last
/// timestamp that is not ahead of the clock. So the order of arrival carries no information.
fn deliveries(messages: &[Small], order: &[usize]) -> Vec<Delivery> {
    let deliver = |(at, number): (usize, &usize)| {
        let seq = u64::try_from(at).unwrap() + 1;
        messages[*number].delivery(*number, seq, START_MS)
    };
    order.iter().enumerate().map(deliver).collect()
}

fn assert_is_recomputed(store: &Store, timeout_ms: i64) {
    let connection = store.database().read();
    assert_eq!(stored(&connection), recompute(&connection, timeout_ms));
    // L3: each event of a session is counted in that session.
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let counted = count("SELECT coalesce(sum(event_count), 0) FROM analytics_sessions");
    assert_eq!(counted, count("SELECT count(*) FROM analytics_events WHERE session_id IS NOT NULL"));
    assert_eq!(count("SELECT count(*) FROM _session_states"), count("SELECT count(*) FROM analytics_sessions"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// L1, L2 and L3 hold for any order, any split, repeated messages, and transactions that are cut anywhere.
    #[test]
    fn sessions_are_a_function_of_their_messages(
        messages in prop::collection::vec(small(), 1..60),
        repeats in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        seed in any::<u64>(),
        sizes in prop::collection::vec(1..12_usize, 1..8),
        crash_points in prop::collection::vec(0..crash_points().len(), 1..4),
    ) {
        let runtime = runtime();
        let mut order: Vec<usize> = (0..messages.len()).collect();
        let mut whole = Store::new(&runtime);
        whole.write(&deliveries(&messages, &order), &[messages.len()]);
        assert_is_recomputed(&whole, TIMEOUT_MS);

        order.extend(repeats.iter().map(|repeat| repeat.index(messages.len())));
        shuffle(&mut order, seed);
        let mut other = Store::new(&runtime);
        other.write_with_crashes(&deliveries(&messages, &order), &sizes, &crash_points);
        assert_is_recomputed(&other, TIMEOUT_MS);
        prop_assert_eq!(whole.digest(), other.digest());
        prop_assert_eq!(whole.internals(), other.internals());
    }
}

/// Returns one message for each of many sessions. All have different times.
fn many_sessions(count: u64) -> Vec<Delivery> {
    let heartbeat = |n: u64| {
        let timestamp = chrono::DateTime::from_timestamp_millis(START_MS + i64::try_from(n).unwrap()).unwrap();
        let timestamp = timestamp.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let message =
            json!({"id": n.to_string(), "session_id": format!("s{n}"), "kind": "heartbeat", "timestamp": timestamp});
        let payload = message.to_string().into();
        Delivery {
            subject: "analytics.sessions".into(),
            payload,
            size_bytes: 0,
            stream_sequence: n + 1,
            recv_ns: (START_MS + 86_400_000) * 1_000_000,
        }
    };
    (0..count).map(heartbeat).collect()
}

#[test]
fn the_watermark_closes_to_the_millisecond() {
    let runtime = runtime();
    let mut store = Store::new(&runtime);
    let small = |session: Option<u8>, time_ms: i64| Small { session, says: Says::Event, time_ms, user: None, tells: 0 };
    let start_ms = -2 * TIMEOUT_MS;
    // Each message is one batch. At the edge the session is still open. The next step of T closes it.
    let steps = [
        (small(Some(0), start_ms), 1),
        (small(None, start_ms + TIMEOUT_MS), 1),
        (small(None, start_ms + TIMEOUT_MS + 1), 0),
    ];
    for (number, (message, open)) in steps.into_iter().enumerate() {
        let seq = u64::try_from(number).unwrap() + 1;
        store.write(&[message.delivery(number, seq, START_MS)], &[1]);
        assert_eq!(store.database().count("analytics_sessions WHERE ended_at IS NULL"), open, "after message {seq}");
        assert_is_recomputed(&store, TIMEOUT_MS);
    }
}

#[test]
fn a_session_that_goes_on_past_its_first_deadline_is_closed_later() {
    let runtime = runtime();
    let mut store = Store::new(&runtime);
    let small = |session: Option<u8>, time_ms: i64| Small { session, says: Says::Event, time_ms, user: None, tells: 0 };
    let start_ms = -5 * TIMEOUT_MS;
    // Each message is one batch. T passes the deadline of the first activity while the session goes on. Then T passes
    // the deadline of the last activity.
    let steps = [
        (small(Some(0), start_ms), 1),
        (small(Some(0), start_ms + TIMEOUT_MS), 1),
        (small(None, start_ms + TIMEOUT_MS + MINUTE_MS), 1),
        (small(None, start_ms + 3 * TIMEOUT_MS), 0),
    ];
    for (number, (message, open)) in steps.into_iter().enumerate() {
        let seq = u64::try_from(number).unwrap() + 1;
        store.write(&[message.delivery(number, seq, START_MS)], &[1]);
        assert_eq!(store.database().count("analytics_sessions WHERE ended_at IS NULL"), open, "after message {seq}");
        assert_is_recomputed(&store, TIMEOUT_MS);
    }
}

#[test]
fn a_jump_of_the_watermark_closes_many_sessions_at_once() {
    const COUNT: u64 = 20_000;
    let runtime = runtime();
    let mut store = Store::new(&runtime);
    let mut messages = many_sessions(COUNT);
    // The last session that the jump closes. All later ones are still within the timeout, to the millisecond.
    let last_closed = 15_000;
    let mut jump = messages.pop().unwrap();
    let t_ms = START_MS + last_closed + TIMEOUT_MS + 1;
    let timestamp = chrono::DateTime::from_timestamp_millis(t_ms).unwrap().to_rfc3339();
    jump.subject = "analytics.metrics".into();
    jump.payload = json!({"id": "jump", "name": "m", "value": 1, "timestamp": timestamp}).to_string().into();
    store.write(&messages, &[5_000]);
    let database = store.database();
    assert_eq!(database.count("analytics_sessions WHERE ended_at IS NULL"), COUNT - 1);
    store.write(&[jump], &[1]);
    assert_eq!(
        database.count("analytics_sessions WHERE ended_at IS NOT NULL"),
        u64::try_from(last_closed).unwrap() + 1
    );
    assert_is_recomputed(&store, TIMEOUT_MS);
}

#[test]
fn sessions_are_rebuilt_from_raw_rows_for_a_changed_timeout_or_a_file_without_sessions() {
    let runtime = runtime();
    let messages: Vec<Small> = (0..60)
        .map(|n: u8| Small {
            // One session for each time. The message at the last time is a metric.
            session: (n % 10 != 9).then_some(n % 10),
            says: [Says::Event, Says::Start, Says::Heartbeat, Says::Event][usize::from(n % 4)],
            time_ms: TIMES_MS[usize::from(n) % TIMES_MS.len()],
            user: Some(n % 2),
            tells: n,
        })
        .collect();
    let order: Vec<usize> = (0..messages.len()).collect();
    let mut store = Store::new(&runtime);
    store.write(&deliveries(&messages, &order), &[7]);
    let at_thirty_minutes = store.digest();

    let store = store.reopen(&runtime, "limits.session_timeout = '5m'");
    assert_is_recomputed(&store, 5 * MINUTE_MS);
    assert_ne!(store.digest(), at_thirty_minutes);
    let mut fresh = Store::with_config(&runtime, "limits.session_timeout = '5m'");
    fresh.write(&deliveries(&messages, &order), &[60]);
    assert_eq!(store.digest(), fresh.digest());

    // The state of a file that the version before sessions wrote.
    let emptied =
        "DELETE FROM _groups; DELETE FROM _watermark; DELETE FROM _session_states; DELETE FROM analytics_sessions";
    store.database().write().execute_batch(emptied).unwrap();
    let store = store.reopen(&runtime, "limits.session_timeout = '30m'");
    assert_eq!(store.digest(), at_thirty_minutes);
}

#[test]
fn damage_by_another_program_is_repaired_from_the_raw_rows() {
    let runtime = runtime();
    let message = |n: u8| Small {
        session: Some(n % 3),
        says: Says::Event,
        time_ms: TIMES_MS[usize::from(n) % TIMES_MS.len()],
        user: Some(n % 2),
        tells: n,
    };
    let mut store = Store::new(&runtime);
    let mut seq = 0;
    for damage in [
        "UPDATE _session_states SET state = x'01ffffff' WHERE id = 's1'",
        "UPDATE _session_states SET state = 'text' WHERE id = 's1'",
        "DELETE FROM _session_states WHERE id = 's2'",
        "UPDATE _watermark SET t = 'soon'",
        "DELETE FROM analytics_sessions WHERE id = 's0'",
    ] {
        let mut write = |store: &mut Store| {
            let deliveries: Vec<_> =
                (seq..seq + 9).map(|n: u8| message(n).delivery(n.into(), u64::from(n) + 1, START_MS)).collect();
            seq += 9;
            store.write(&deliveries, &[9]);
        };
        write(&mut store);
        store.database().write().execute_batch(damage).unwrap();
        write(&mut store);
        store.writer.rebuild_groups().unwrap();
        assert_is_recomputed(&store, TIMEOUT_MS);
    }

    // At a start: the watermark is missing, and the raw rows contain one that this program would never write.
    let before = store.digest()["analytics_sessions"].clone();
    let damage = "DELETE FROM _watermark; INSERT INTO analytics_events (id, event_type, event_name, session_id) \
                  VALUES ('by hand', 't', 'n', 's1')";
    store.database().write().execute_batch(damage).unwrap();
    let store = store.reopen(&runtime, "limits.session_timeout = '30m'");
    assert_eq!(store.digest()["analytics_sessions"], before);
    assert_eq!(store.database().count("_watermark"), 1);
}
