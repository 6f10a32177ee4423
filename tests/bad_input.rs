use std::collections::BTreeMap;

use serde_json::json;

use crate::support::{NatsServer, Worker, event, publish_all};

/// Returns messages: subject suffix, payload, and the reason that the message must get. With `None`, it must be
/// stored.
fn messages() -> Vec<(&'static str, Vec<u8>, Option<&'static str>)> {
    let event_with = |fields: serde_json::Value| {
        let mut message = json!({"event_type": "t", "event_name": "n"});
        message.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        message.to_string().into_bytes()
    };
    vec![
        ("events", b"\xff\xfe".to_vec(), Some("invalid_utf8")),
        ("events", b"".to_vec(), Some("invalid_json")),
        ("events", b"hello".to_vec(), Some("invalid_json")),
        ("events", b"[]".to_vec(), Some("not_an_object")),
        ("events", "[".repeat(60_000).into_bytes(), Some("invalid_json")),
        ("events", "[".repeat(1_000_000).into_bytes(), Some("payload_too_large")),
        ("events", event_with(json!({"event_name": 5})), Some("invalid_type")),
        ("events", event_with(json!({"event_type": null})), Some("missing_field")),
        ("events", event_with(json!({"id": "\n"})), Some("invalid_id")),
        ("events", event_with(json!({"user_id": "null"})), Some("disallowed_identity")),
        ("events", event_with(json!({"event_name": "\u{7}"})), Some("invalid_name")),
        ("events", event_with(json!({"event_name": "x".repeat(129)})), Some("name_too_long")),
        ("events", event_with(json!({"properties": {"a": vec![0; 256]}})), Some("too_many_properties")),
        ("events", event_with(json!({"properties": {"a": {"b": {"c": {"d": {"e": {}}}}}}})), Some("too_deep")),
        ("events", event_with(json!({"properties": {"a": "x".repeat(8193)}})), Some("string_too_long")),
        ("events", event_with(json!({"referrer": "\u{0}"})), Some("null_character")),
        ("events", event_with(json!({"timestamp": "yesterday"})), Some("invalid_timestamp")),
        ("events", event_with(json!({"timestamp": "9999-01-01T00:00:00Z"})), Some("timestamp_in_future")),
        ("events.identify", br#"{"event_name":"n"}"#.to_vec(), Some("no_identity")),
        ("metrics", br#"{"name":"n","value":1,"metric_type":"x"}"#.to_vec(), Some("unknown_metric_type")),
        ("metrics", br#"{"name":"n","value":2e300}"#.to_vec(), Some("value_out_of_range")),
        ("metrics", br#"{"name":"n","value":-1,"metric_type":"counter"}"#.to_vec(), Some("negative_counter")),
        ("sessions", br#"{"session_id":"s","kind":"pause"}"#.to_vec(), Some("unknown_session_kind")),
        ("sessions", br#"{"kind":"start"}"#.to_vec(), Some("no_identity")),
        ("event", event_with(json!({})), Some("unknown_subject")),
        ("events.page.x", br#"{"event_name":"n"}"#.to_vec(), None),
        ("metrics.cpu", br#"{"name":"n","value":"1"}"#.to_vec(), Some("invalid_type")),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_message_gets_its_reason_and_blocks_no_other() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;

    let mut expected = BTreeMap::new();
    let mut traffic = Vec::new();
    for (at, (suffix, payload, reason)) in messages().into_iter().enumerate() {
        expected.insert(at as i64 * 2 + 1, (reason.map(str::to_owned), payload.clone()));
        traffic.push((format!("analytics.{suffix}"), payload));
        // A good message after each one shows that the message before did not block it.
        traffic.push(("analytics.events".into(), event(&format!("good-{at}")).into_bytes()));
    }
    let count = expected.len();
    let last_seq = publish_all(&server.jetstream().await, traffic).await;
    worker.applied(last_seq).await;

    let database = worker.database();
    let connection = database.read();
    let sql = "SELECT reason, payload, subject, error FROM _rejections WHERE epoch = 1 AND stream_seq = ?1";
    let mut statement = connection.prepare(sql).unwrap();
    for (seq, (reason, payload)) in expected {
        let row = statement.query_row([seq], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, String>(3)?))
        });
        match reason {
            None => assert!(row.is_err(), "{seq} is in the ledger: {row:?}"),
            Some(reason) => {
                let (found, kept, error) = row.unwrap();
                assert_eq!(found, reason, "{}", String::from_utf8_lossy(&payload[..payload.len().min(60)]));
                assert!(kept == payload, "{reason}: the ledger keeps the original bytes");
                assert!(error.len() > 10, "{reason}: {error}");
            }
        }
    }
    assert_eq!(database.count("analytics_events WHERE id LIKE 'good-%'"), count as u64);
    assert_eq!(database.text("SELECT event_type FROM analytics_events WHERE event_name = 'n'", []), "page");
    database.assert_account_balances();
}
