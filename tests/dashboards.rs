use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use async_nats::Subscriber;
use async_nats::jetstream::stream::{Config, LastRawMessageErrorKind};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::support::{NatsServer, Random, Worker, publish_all, seed, wait_for};

/// 2026-11-01T08:10:00Z
const START_MS: i64 = 1_793_520_600_000;
const LIVE: &str = r#"
[[widgets]]
id = "live"
max_rate = "0ms"
[widgets.metrics]
events = "events.count"
users = "users.active"
p99 = "metric.latency{endpoint=/search}.p99"
"#;

fn configured(folder: &Path, server: &NatsServer, toml: &str) -> Worker {
    std::fs::write(folder.join("dashboards.toml"), toml).unwrap();
    let file = folder.join("dashboards.toml");
    Worker::new(folder, &server.url()).env("STREAMGAUGE_CONFIG", file.to_str().unwrap())
}

fn event(number: i64, after_ms: i64) -> (String, Vec<u8>) {
    let timestamp = chrono::DateTime::from_timestamp_millis(START_MS + after_ms).unwrap();
    let event = json!({"id": format!("{number}"), "event_type": "track", "event_name": "clicked",
        "user_id": format!("u{}", number % 3), "timestamp": timestamp.to_rfc3339()});
    ("analytics.events".to_owned(), event.to_string().into_bytes())
}

async fn next(messages: &mut Subscriber) -> async_nats::Message {
    tokio::time::timeout(crate::support::PATIENCE, messages.next()).await.expect("a message").unwrap()
}

/// Returns the messages up to the first one in which this key has this value.
async fn until(messages: &mut Subscriber, key: &str, value: &Value) -> Vec<Value> {
    let mut seen = Vec::new();
    loop {
        let body: Value = serde_json::from_slice(&next(messages).await.payload).unwrap();
        seen.push(body.clone());
        if body["metric_key"] == key && body["value"] == *value {
            return seen;
        }
    }
}

/// Returns the value of each key that the bucket holds.
async fn held(server: &NatsServer) -> BTreeMap<String, Value> {
    let jetstream = server.jetstream().await;
    let Ok(mut stream) = jetstream.get_stream("KV_DASHBOARD").await else { return BTreeMap::new() };
    let last = stream.info().await.unwrap().state.last_sequence;
    let mut held = BTreeMap::new();
    for sequence in 1..=last {
        match stream.get_raw_message(sequence).await {
            Ok(message) if !message.payload.is_empty() => {
                let body: Value = serde_json::from_slice(&message.payload).unwrap();
                let key = message.subject.strip_prefix("$KV.DASHBOARD.").unwrap().to_owned();
                held.insert(key, body["value"].clone());
            }
            Ok(_) => {}
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {}
            Err(error) => panic!("{error}"),
        }
    }
    held
}

/// Returns the values that the bucket must hold, by the outbox table.
fn shown(worker: &Worker) -> BTreeMap<String, Value> {
    let connection = worker.database().read();
    let sql = "SELECT widget_id || '.' || metric_key, value FROM _dashboard_outbox WHERE is_gone = 0";
    let mut statement = connection.prepare(sql).unwrap();
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, json!(row.get::<_, Option<f64>>(1)?)));
    statement.query_map([], row).unwrap().map(Result::unwrap).collect()
}

async fn wait_until_published(server: &NatsServer, worker: &Worker) {
    let until = Instant::now() + crate::support::PATIENCE;
    loop {
        let (held, shown) = (held(server).await, shown(worker));
        if held == shown {
            return;
        }
        assert!(Instant::now() < until, "{held:?} is not {shown:?}; {}", worker.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_is_published_the_moment_it_changes_and_a_late_subscriber_reads_the_last() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = configured(folder.path(), &server, LIVE);
    worker.start_reading().await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut messages = client.subscribe("dashboard.live.>").await.unwrap();
    client.flush().await.unwrap();
    let jetstream = server.jetstream().await;

    publish_all(&jetstream, vec![event(0, 0), event(1, 61_000)]).await;
    let seen = until(&mut messages, "events", &json!(2.0)).await;
    let expected = json!({"widget_id": "live", "metric_key": "events", "value": 2.0, "previous_value": 0.0,
        "change_percent": null, "updated_at": "2026-11-01T08:11:00.000Z", "as_of": {"ANALYTICS": 2}});
    assert_eq!(seen.last(), Some(&expected));
    wait_until_published(&server, &worker).await;
    // A number without a sample has no row. The bucket says so with null.
    assert_eq!(worker.database().count("dashboard_metrics WHERE metric_key = 'p99'"), 0);
    assert_eq!(held(&server).await["live.p99"], Value::Null);
    let metric = |value: i32, endpoint: &str| {
        let metric = json!({"name": "latency", "value": value, "tags": {"endpoint": endpoint, "a": "b"},
            "timestamp": "2026-11-01T08:12:00Z"});
        ("analytics.metrics".to_owned(), metric.to_string().into_bytes())
    };
    publish_all(&jetstream, vec![metric(7, "/search"), metric(9, "/other")]).await;
    until(&mut messages, "p99", &json!(7.0)).await;

    // The messages arrive in the order of their revisions.
    publish_all(&jetstream, (2..50).map(|number| event(number, 130_000 + number)).collect()).await;
    let mut last = (0, 0.0);
    while last.1 < 50.0 {
        let message = next(&mut messages).await;
        let body: Value = serde_json::from_slice(&message.payload).unwrap();
        if body["metric_key"] == "events" {
            let revision = message.headers.unwrap().get("Nats-Sequence").unwrap().as_str().parse::<u64>().unwrap();
            let value = body["value"].as_f64().unwrap();
            assert!(revision > last.0 && value > last.1, "{revision} {value} after {last:?}");
            last = (revision, value);
        }
    }
    // The next hour begins: the current value becomes the previous value.
    publish_all(&jetstream, vec![event(50, 3_600_000)]).await;
    let seen = until(&mut messages, "events", &json!(1.0)).await;
    let (before, change) = (&seen.last().unwrap()["previous_value"], &seen.last().unwrap()["change_percent"]);
    assert_eq!((before, change), (&json!(50.0), &json!(-98.0)));
    wait_until_published(&server, &worker).await;
    assert!(worker.stop().await.success());
    assert_eq!(held(&server).await, shown(&worker));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_state_is_published_whatever_dies_between_commit_and_publication() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = configured(folder.path(), &server, LIVE);
    let jetstream = server.jetstream().await;
    // A bucket that accepts nothing: what is committed stays unpublished.
    let sealed = Config {
        name: "KV_DASHBOARD".into(),
        subjects: vec!["$KV.DASHBOARD.>".into()],
        max_messages_per_subject: 1,
        max_message_size: 1,
        ..Config::default()
    };
    jetstream.create_stream(&sealed).await.unwrap();
    worker.start_reading().await;
    let last_seq = publish_all(&jetstream, (0..10).map(|number| event(number, number)).collect()).await;
    worker.applied(last_seq).await;
    wait_for("a refused put", || worker.log().contains("live numbers wait in the database")).await;
    worker.kill();
    assert_eq!(held(&server).await, BTreeMap::new());
    jetstream.delete_stream("KV_DASHBOARD").await.unwrap();
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut messages = client.subscribe("dashboard.live.events").await.unwrap();
    client.flush().await.unwrap();
    worker.start_reading().await;
    until(&mut messages, "events", &json!(10.0)).await;
    wait_until_published(&server, &worker).await;

    // The worker is killed at random moments, eight times.
    let seed = seed();
    let mut random = Random(seed);
    let mut number = 10;
    for _ in 0..8 {
        let count = 1 + i64::try_from(random.below(40)).unwrap();
        publish_all(&jetstream, (number..number + count).map(|number| event(number, number)).collect()).await;
        number += count;
        tokio::time::sleep(Duration::from_millis(random.below(30))).await;
        worker.kill();
        worker.start_reading().await;
    }
    let value = json!(number as f64);
    wait_for("all events", || shown(&worker).get("live.events") == Some(&value)).await;
    wait_until_published(&server, &worker).await;

    // Another program writes to a key. The next value is put nevertheless.
    jetstream.publish("$KV.DASHBOARD.live.events", "{\"value\":7}".into()).await.unwrap().await.unwrap();
    publish_all(&jetstream, vec![event(number, number)]).await;
    number += 1;
    let value = json!(number as f64);
    wait_for("the event", || shown(&worker).get("live.events") == Some(&value)).await;
    wait_until_published(&server, &worker).await;

    // A value that the bucket already holds is not published again: a start alone publishes nothing. If the bucket is
    // deleted, it is filled again.
    assert!(worker.stop().await.success());
    let before = held_revision(&server).await;
    worker.start_reading().await;
    let last_seq = publish_all(&jetstream, vec![event(number, number)]).await;
    worker.applied(last_seq).await;
    wait_until_published(&server, &worker).await;
    let puts = held_revision(&server).await - before;
    assert_eq!(puts, 1, "only the number of events changed");
    jetstream.delete_stream("KV_DASHBOARD").await.unwrap();
    publish_all(&jetstream, vec![event(number + 1, number)]).await;
    let value = json!((number + 2) as f64);
    wait_for("the event", || shown(&worker).get("live.events") == Some(&value)).await;
    wait_until_published(&server, &worker).await;
}

async fn held_revision(server: &NatsServer) -> u64 {
    let mut stream = server.jetstream().await.get_stream("KV_DASHBOARD").await.unwrap();
    stream.info().await.unwrap().state.last_sequence
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_widget_is_published_no_more_often_than_its_rate_and_its_last_state_always() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let toml = LIVE.replace("0ms", "700ms");
    let mut worker = configured(folder.path(), &server, &toml);
    worker.start_reading().await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut messages = client.subscribe("dashboard.live.events").await.unwrap();
    client.flush().await.unwrap();
    let jetstream = server.jetstream().await;
    let began = Instant::now();
    let mut number = 0;
    while began.elapsed() < Duration::from_millis(2_500) {
        publish_all(&jetstream, vec![event(number, number)]).await;
        number += 1;
    }
    let published = until(&mut messages, "events", &json!(number as f64)).await.len();
    let most = began.elapsed().as_millis() / 700 + 2;
    assert!(published as u128 <= most, "{published} messages in {:?}", began.elapsed());
    assert!(published >= 3 && number > 10, "{published} messages of {number} changes");
    wait_until_published(&server, &worker).await;
    // A stop does not wait for the rate.
    let last_seq = publish_all(&jetstream, vec![event(number, number)]).await;
    worker.applied(last_seq).await;
    let last_seq = publish_all(&jetstream, vec![event(number + 1, number)]).await;
    worker.applied(last_seq).await;
    assert!(worker.stop().await.success());
    assert_eq!(held(&server).await, shown(&worker));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_leaves_the_configuration_loses_its_row_and_its_key() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let more =
        "\n[[widgets]]\nid = \"more\"\nperiod = \"1d\"\nmetrics = { clicked = \"events.count{event_name=clicked}\" }\n";
    let mut worker = configured(folder.path(), &server, &format!("{LIVE}{more}"));
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    publish_all(&jetstream, (0..5).map(|number| event(number, number)).collect()).await;
    wait_for("five", || shown(&worker).get("more.clicked") == Some(&json!(5.0))).await;
    wait_until_published(&server, &worker).await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut messages = client.subscribe("dashboard.more.>").await.unwrap();
    client.flush().await.unwrap();

    let file = folder.path().join("dashboards.toml");
    std::fs::write(&file, LIVE).unwrap();
    worker.signal("-HUP");
    let gone = next(&mut messages).await;
    assert_eq!((gone.subject.as_str(), gone.payload.len()), ("dashboard.more.clicked", 0));
    assert_eq!(gone.headers.unwrap().get("KV-Operation").unwrap().as_str(), "DEL");
    assert_eq!(worker.database().count("dashboard_metrics WHERE widget_id = 'more'"), 0);
    assert_eq!(worker.database().count("_groups WHERE name LIKE 'series %clicked%'"), 0);

    // The number comes back over another period, and counts what was stored meanwhile.
    publish_all(&jetstream, vec![event(5, 5)]).await;
    std::fs::write(&file, format!("{LIVE}{}", more.replace("1d", "7d"))).unwrap();
    worker.signal("-HUP");
    until(&mut messages, "clicked", &json!(6.0)).await;
    wait_until_published(&server, &worker).await;
}
