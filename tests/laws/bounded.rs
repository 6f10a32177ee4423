//! The cost of a message does not grow with the history of its actor.

use std::time::Duration;

use serde_json::{Value, json};
use streamgauge::judge::Delivery;

use super::{START_MS, Store, runtime};

const BATCH: usize = 5_000;
/// How many times longer a batch may take than an earlier one. With a cost that grows with history, it would take
/// about ten times as long.
const MAX_GROWTH: u32 = 4;
const MINUTE_MS: i64 = 60_000;

/// Writes events in batches. Returns how long one part of the writer (`part`) took for each batch.
fn write(store: &mut Store, part: &str, events: impl Iterator<Item = Value>) -> Vec<Duration> {
    let first_seq = store.position().last_seq + 1;
    let deliver = |(at, event): (usize, Value)| Delivery {
        subject: "analytics.events".into(),
        payload: event.to_string().into(),
        size_bytes: 0,
        stream_sequence: first_seq + at as u64,
        recv_ns: (START_MS + 366 * 24 * 60 * MINUTE_MS) * 1_000_000,
    };
    let deliveries: Vec<Delivery> = events.enumerate().map(deliver).collect();
    let took = |batch: &[Delivery]| {
        let batch = store.batch(&store.position(), batch);
        let committed = store.writer.commit(&batch).unwrap();
        committed.timings().parts().iter().find(|(name, _)| *name == part).unwrap().1
    };
    deliveries.chunks(BATCH).map(took).collect()
}

/// Returns the shortest of several times. It leaves out delays from other work on the machine.
fn least(took: &[Duration]) -> Duration {
    took.iter().copied().min().unwrap()
}

fn timestamp(ms: i64) -> String {
    let time = chrono::DateTime::from_timestamp_millis(START_MS + ms).unwrap();
    time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

#[test]
fn a_user_with_60_000_names_of_events_in_a_day() {
    let runtime = runtime();
    let mut store = Store::new(&runtime);
    let event = |n: i64| {
        json!({"id": n.to_string(), "event_type": "t", "event_name": format!("name {}", (n * 7919) % 60_000),
            "user_id": "ada", "timestamp": timestamp(n % MINUTE_MS)})
    };
    let took = write(&mut store, "activity", (0..60_000).map(event));
    println!("{took:?}");
    assert!(least(&took[9..]) <= least(&took[..3]) * MAX_GROWTH, "{took:?}");
    let breakdown: Value =
        serde_json::from_str(&store.database().text("SELECT events_breakdown FROM user_activity", [])).unwrap();
    assert_eq!(breakdown.as_object().unwrap().len(), 101);
    assert_eq!(breakdown["$other"], 60_000 - 100);
}

#[test]
fn an_actor_whose_session_never_pauses() {
    let runtime = runtime();
    let mut store = Store::new(&runtime);
    // An event every ten minutes, for a year. In the middle and at the end comes a batch of late events among the
    // first half.
    let late = |n: i64, minute: i64| (((n * 7919) % 25_000) * 10 + minute) * MINUTE_MS;
    let event = |n: i64| {
        let ms = match n {
            0..25_000 => n * 10 * MINUTE_MS,
            25_000..30_000 => late(n, 1),
            30_000..55_000 => (n - 5_000) * 10 * MINUTE_MS,
            _ => late(n, 2),
        };
        json!({"id": n.to_string(), "event_type": "t", "event_name": "n", "anonymous_id": "ada",
            "timestamp": timestamp(ms)})
    };
    let took = write(&mut store, "sessions", (0..60_000).map(event));
    println!("{took:?}");
    assert!(least(&took[6..11]) <= least(&took[1..5]) * MAX_GROWTH, "in order: {took:?}");
    assert!(took[11] <= took[5] * MAX_GROWTH, "late: {took:?}");
    assert_eq!(store.database().texts("SELECT id FROM analytics_sessions").len(), 1);
}

#[test]
fn a_mean_is_right_where_the_sum_is_beyond_f64() {
    let runtime = runtime();
    let mut store = Store::new(&runtime);
    let usage = |n: i64| {
        json!({"id": n.to_string(), "event_type": "feature", "event_name": "f", "timestamp": timestamp(0),
            "properties": {"duration_ms": 1.7e308}})
    };
    write(&mut store, "features", (0..3).map(usage));
    let shown: f64 = store.database().text("SELECT avg_duration_ms || '' FROM feature_usage", []).parse().unwrap();
    assert!((shown / 1.7e308 - 1.0).abs() < 1e-12, "{shown}");
}

#[test]
fn an_actor_who_repeats_the_first_step_for_ever() {
    let runtime = runtime();
    let funnel = "[[funnels]]\nname = 'f'\nwindow = '1h'\n\
                  steps = [{ name = 'a', event_name = 'a' }, { name = 'b', event_name = 'b' }, { name = 'c', event_name = 'c' }]";
    let mut store = Store::with_config(&runtime, funnel);
    // The events are a minute apart, so the episode never ends. In the middle and at the end comes a batch of late
    // events among the first ones.
    let late = |n: i64, second: i64| ((n * 7919) % 25_000) * MINUTE_MS + second * 1_000;
    let event = |n: i64| {
        let (ms, name) = match n {
            0..25_000 => (n * MINUTE_MS, "a"),
            25_000..30_000 => (late(n, 20), if n % 2 == 0 { "a" } else { "b" }),
            30_000..95_000 => ((n - 5_000) * MINUTE_MS, "a"),
            _ => (late(n, 40), if n % 2 == 0 { "a" } else { "b" }),
        };
        json!({"id": n.to_string(), "event_type": "t", "event_name": name, "user_id": "ada", "timestamp": timestamp(ms)})
    };
    let took = write(&mut store, "funnels", (0..100_000).map(event));
    println!("{took:?}");
    assert!(least(&took[15..19]) <= least(&took[1..5]) * MAX_GROWTH, "in order: {took:?}");
    assert!(took[19] <= took[5] * MAX_GROWTH, "late: {took:?}");
    assert_eq!(store.database().count("funnel_conversions WHERE current_step = 2"), 1);
}
