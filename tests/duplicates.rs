use serde_json::json;

use crate::support::{NatsServer, Worker, publish_all};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_change_nothing_and_other_content_is_a_conflict() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    let event = |fields: serde_json::Value| {
        let mut message = json!({"id": "a", "event_type": "track", "event_name": "first"});
        message.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        ("analytics.events".to_owned(), message.to_string().into_bytes())
    };
    let metric = |value: f64| {
        ("analytics.metrics".to_owned(), json!({"id": "a", "name": "m", "value": value}).to_string().into_bytes())
    };
    let duplicates = || worker.database().text("SELECT cast(duplicates AS TEXT) FROM _positions", []);
    let conflicts = || worker.database().count("_rejections WHERE reason = 'duplicate_conflict'");

    // The messages of a round come in one batch or in several. Each round is committed before the next.
    for (messages, duplicates_then, conflicts_then) in [
        (vec![event(json!({})), event(json!({})), metric(1.0)], 1, 0),
        // The first message had no timestamp, so the server supplied one. That timestamp and `sent_at` are not
        // compared.
        (vec![event(json!({"timestamp": "2020-01-01T00:00:00Z", "sent_at": "x"})), metric(1.0)], 3, 0),
        (vec![event(json!({"event_name": "second"})), event(json!({"user_id": "u"})), metric(2.0)], 3, 3),
        // A message with a known id is judged as a duplicate before its time is checked.
        (vec![event(json!({"timestamp": "9999-01-01T00:00:00Z"})), event(json!({"timestamp": "nonsense"}))], 5, 3),
        (vec![event(json!({"timestamp": "9999-01-01T00:00:00Z", "id": "new"}))], 5, 3),
    ] {
        worker.applied(publish_all(&jetstream, messages).await).await;
        assert_eq!((duplicates(), conflicts()), (duplicates_then.to_string(), conflicts_then));
    }
    let database = worker.database();
    // An event and a metric with the same id are two messages.
    assert_eq!((database.count("analytics_events"), database.count("metrics")), (1, 1));
    assert_eq!(database.text("SELECT event_name FROM analytics_events WHERE id = 'a'", []), "first");
    assert_eq!(database.count("_rejections WHERE reason = 'timestamp_in_future'"), 1);
    let error =
        database.text("SELECT error FROM _rejections WHERE reason = 'duplicate_conflict' ORDER BY stream_seq", []);
    assert!(error.contains("event_name differ"), "{error}");
    database.assert_account_balances();
}

/// Anybody may read the public tables. Some programs also write to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_of_another_program_stops_nothing() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let database = worker.database();
    let foreign = "INSERT INTO analytics_events (id, event_type, event_name) VALUES ('foreign', 'track', 'test')";
    database.write().execute(foreign, []).unwrap();
    let message = |id: &str| ("analytics.events".to_owned(), crate::support::event(id).into_bytes());
    worker.applied(publish_all(&server.jetstream().await, vec![message("foreign"), message("ours")]).await).await;
    assert_eq!(database.text("SELECT reason FROM _rejections", []), "duplicate_conflict");
    assert_eq!(database.count("analytics_events WHERE id = 'ours'"), 1);
    assert!(worker.is_running());
}
