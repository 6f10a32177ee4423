//! Dashboard numbers that change only because time passes.

use serde_json::json;
use streamgauge::judge::Delivery;

use super::{START_MS, Store, runtime};

const CONFIG: &str = "[[widgets]]\nid = 'w'\nmetrics = { per_minute = 'events.per_minute', rate = 'metric.m.rate' }\n";

fn delivery(stream_sequence: u64, subject: &str, after_ms: i64, mut message: serde_json::Value) -> Delivery {
    let timestamp = chrono::DateTime::from_timestamp_millis(START_MS + after_ms).unwrap();
    message["timestamp"] = timestamp.to_rfc3339().into();
    let (payload, recv_ns) = (message.to_string().into(), (START_MS + 10 * 86_400_000) * 1_000_000);
    Delivery { subject: subject.into(), payload, size_bytes: 0, stream_sequence, recv_ns }
}

/// The heartbeats move T, but neither number counts them. Each rate then covers more minutes. One hour later there is
/// no rate.
#[test]
fn rates_change_with_the_minute() {
    let runtime = runtime();
    let mut store = Store::with_config(&runtime, CONFIG);
    let shown = |store: &Store| {
        let sql = "SELECT metric_key || ' ' || value || ' ' || updated_at FROM dashboard_metrics ORDER BY 1";
        store.database().texts(sql)
    };
    let event = json!({"id": "e", "event_type": "t", "event_name": "n"});
    let metric = json!({"id": "m", "name": "m", "value": 120});
    let tick = |sequence, after_ms| {
        let session = json!({"id": format!("{sequence}"), "session_id": "s", "kind": "heartbeat"});
        delivery(sequence, "analytics.sessions", after_ms, session)
    };
    store.write(&[delivery(1, "analytics.events", 0, event), delivery(2, "analytics.metrics", 0, metric)], &[2]);
    let at_first = ["per_minute 1.0 2026-01-31T12:00:00.000Z", "rate 2.0 2026-01-31T12:00:00.000Z"];
    assert_eq!(shown(&store), at_first);
    store.write(&[tick(3, 119_999)], &[1]);
    let a_minute_on = at_first.map(|row| row.replace("12:00:00", "12:01:00"));
    assert_eq!(shown(&store), a_minute_on, "one whole minute has passed");
    store.write(&[tick(4, 600_000)], &[1]);
    let ten = ["per_minute 0.1 2026-01-31T12:10:00.000Z", "rate 0.2 2026-01-31T12:10:00.000Z"];
    assert_eq!(shown(&store), ten);
    store.write(&[tick(5, 3_600_000)], &[1]);
    assert_eq!(shown(&store), [""; 0]);
}
