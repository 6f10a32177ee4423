//! One test for each bug that was mended, named by what was wrong. A bug of one rule has its test beside the rule.

use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::PullConsumer;
use rusqlite::Connection;
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

/// Shadow files had other names. Those that a killed process had left would have stayed on the disk for ever. A rebuild
/// that was under way would not have been recognised, and its command would have got an empty answer. A view that
/// dangles would have stopped the migration.
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
        .execute_batch(
            "UPDATE _groups SET build = 'refresh of-an-earlier-version' WHERE name = 'rollups'; \
             INSERT INTO _control (id, request, asked_at, outcome) VALUES ('asked', '{\"rebuild\":{\"groups\":[\"rollups\"]}}', \
             '2026-01-01T00:00:00.000Z', '{\"build\":\"refresh of-an-earlier-version\"}'); \
             UPDATE metric_aggregates SET count = count + 1 WHERE id = (SELECT min(id) FROM metric_aggregates); \
             CREATE VIEW dangling AS SELECT * FROM dropped_since",
        )
        .unwrap();
    drop(database);
    let beside = |suffix: &str| folder.path().join(format!("streamgauge.db{suffix}"));
    for (suffix, table) in [(".replay", "_replay"), (".rebuild", "_rebuild")] {
        Connection::open(beside(suffix)).unwrap().execute_batch(&format!("CREATE TABLE {table} (id)")).unwrap();
    }

    worker.start_reading().await;
    let database = worker.database();
    wait_for("the rebuild to end", || database.count("_groups WHERE rebuild IS NOT NULL") == 0).await;
    wait_for("the answer", || database.count("_control WHERE state = 'done'") == 1).await;
    let answer = database.text("SELECT outcome FROM _control", []);
    assert!(answer.contains(r#""rows_that_differed":1,"#), "{answer}");
    assert!(worker.stop().await.success());
    assert_eq!(worker.digest(), digest);
    assert!(!beside(".replay").exists() && !beside(".rebuild").exists());
    assert!(!beside(".replay.lock").exists() && !beside(".rebuild.lock").exists());
}

/// A process that died between the install of a shadow and its removal left a file as large as the database. If a
/// command asks for the install of that file once more, it may be a new one, which stays until that is decided.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_that_was_installed_stayed_on_the_disk_after_a_kill() {
    let server = NatsServer::start().await;
    for is_asked_again in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut worker = Worker::new(folder.path(), &server.url());
        worker.start_reading().await;
        assert!(worker.stop().await.success());
        // Such a process leaves the marks of a shadow in both files, and a request that is in place.
        let shadow = folder.path().join("streamgauge.db.shadow");
        std::fs::copy(&worker.database().0, &shadow).unwrap();
        let marks = "CREATE TABLE _shadow (id INTEGER PRIMARY KEY, made_from TEXT NOT NULL, postponed TEXT NOT NULL); \
                     INSERT INTO _shadow VALUES (1, '', '[]')";
        Connection::open(&shadow).unwrap().execute_batch(marks).unwrap();
        let database = worker.database().write();
        database.execute_batch(marks).unwrap();
        let request = json!({ "install": { "file": shadow } }).to_string();
        let sql = "INSERT INTO _control (id, request, asked_at, outcome) VALUES (?1, ?2, ?3, ?4)";
        let in_place = Some(r#"{"is_in_place":true}"#);
        database.execute(sql, ("first", &request, "2026-01-01T00:00:00.000Z", in_place)).unwrap();
        if is_asked_again {
            database.execute(sql, ("second", &request, "2026-01-02T00:00:00.000Z", None::<&str>)).unwrap();
        }
        drop(database);

        worker.start_reading().await;
        let database = worker.database();
        wait_for("the answers", || database.count("_control WHERE state = 'wanted'") == 0).await;
        assert_eq!(database.text("SELECT state FROM _control WHERE id = 'first'", []), "done");
        wait_for("the shadow", || shadow.exists() == is_asked_again).await;
        assert_eq!(database.count("sqlite_master WHERE name = '_shadow'"), 0);
    }
}

/// A start removed every file that was named as the shadows of an earlier version were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_only_named_like_a_former_shadow_was_removed() {
    let folder = tempfile::tempdir().unwrap();
    let beside = |suffix: &str| folder.path().join(format!("streamgauge.db{suffix}"));
    Connection::open(beside(".replay")).unwrap().execute_batch("CREATE TABLE mine (id)").unwrap();
    std::fs::create_dir(beside(".rebuild")).unwrap();
    let server = NatsServer::start().await;
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    assert!(worker.stop().await.success());
    assert!(beside(".replay").is_file() && beside(".rebuild").is_dir());
}

/// A request waits in the database while the worker is exchanged for one of a later version.
#[test]
fn a_request_of_an_earlier_version_could_not_be_read() {
    let request = serde_json::from_value::<Request>(json!({ "replace": { "file": "a.db.shadow" } })).unwrap();
    assert_eq!(request, Request::Install { file: "a.db.shadow".into() });
    let outcome = serde_json::from_value::<RequestOutcome>(json!({ "build": "current 1" })).unwrap();
    assert_eq!(outcome.rebuild.as_deref(), Some("current 1"));
}
