//! One test for each bug that was mended, named by what was wrong. A bug of one rule has its test beside the rule.

use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::PullConsumer;
use serde_json::json;
use streamgauge::store::{self, Request, RequestOutcome, StoreError};

use crate::laws::people_config::CONFIG;
use crate::support::{NatsServer, Traffic, Worker, event, publish_all, seed, wait_for};

/// The waits of a stop added up to 5.25 s, without the time that closing the database takes. 5 s are promised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_with_everything_in_its_way_took_more_than_five_seconds() {
    let mut server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let other = worker.database().write();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let jetstream = server.jetstream().await;
    publish_all(&jetstream, vec![("analytics.events".to_owned(), event("a").into_bytes())]).await;
    let mut consumer: PullConsumer = jetstream.get_consumer_from_stream("streamgauge", "ANALYTICS").await.unwrap();
    while consumer.info().await.unwrap().num_ack_pending == 0 {}

    server.pause();
    let began = Instant::now();
    assert!(worker.stop().await.success());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    server.kill();
}

/// A read that panicked was reported as "the writer has stopped".
#[tokio::test]
async fn a_panic_in_a_read_was_reported_as_a_stopped_writer() {
    let read = tokio::spawn(store::blocking(|| -> Result<(), StoreError> { panic!("this test panics on purpose") }));
    assert!(read.await.unwrap_err().is_panic());
}

/// Shadow files had other names. Those that a killed process had left would have stayed on the disk for ever, and a
/// rebuild that was under way would not have been recognised by its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shadow_files_of_an_earlier_version_stayed_on_the_disk() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("streamgauge.toml"), CONFIG).unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let messages = Traffic::new(seed()).take_messages(2_000);
    worker.applied(publish_all(&server.jetstream().await, messages).await).await;
    assert!(worker.stop().await.success());
    let digest = worker.digest();

    let mut newest = 0;
    while worker.database().count("_sqlx_migrations WHERE version >= 20261128000001") > 0 {
        newest += 1;
        assert!(worker.command().args(["migrate", "down"]).status().unwrap().success());
    }
    assert!(newest >= 1);
    let database = worker.database().write();
    database
        .execute_batch("UPDATE _groups SET build = 'refresh of-an-earlier-version' WHERE name = 'rollups'")
        .unwrap();
    assert_eq!(database.changes(), 1);
    drop(database);
    let former = [".replay", ".replay-wal", ".replay.lock", ".rebuild", ".rebuild-shm"]
        .map(|suffix| folder.path().join(format!("streamgauge.db{suffix}")));
    for path in &former {
        std::fs::write(path, "left by an earlier version").unwrap();
    }

    worker.start_reading().await;
    let database = worker.database();
    wait_for("the rebuild to end", || database.count("_groups WHERE rebuild IS NOT NULL") == 0).await;
    assert!(worker.stop().await.success());
    assert_eq!(worker.digest(), digest);
    for path in former {
        assert!(!path.exists(), "{}", path.display());
    }
}

/// A request waits in the database while the worker is exchanged for one of a later version.
#[test]
fn a_request_of_an_earlier_version_could_not_be_read() {
    let request = serde_json::from_value::<Request>(json!({ "replace": { "file": "a.db.shadow" } })).unwrap();
    assert_eq!(request, Request::Install { file: "a.db.shadow".into() });
    let outcome = serde_json::from_value::<RequestOutcome>(json!({ "build": "current 1" })).unwrap();
    assert_eq!(outcome.rebuild.as_deref(), Some("current 1"));
}
