use std::time::{Duration, Instant};

use crate::support::{NatsServer, Worker, event, http_get as get, publish_all, wait_for};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_follows_nats_and_metrics_count() {
    let mut server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    server.kill();
    worker.start();
    let address = worker.http_address().await;
    assert_eq!(get(&address, "/livez", "").await.0, 200);
    assert_eq!(get(&address, "/readyz", "").await.0, 503);
    server.restart().await;
    wait_for("the worker to read", || worker.log().contains("reading stream")).await;
    assert_eq!(get(&address, "/readyz", "").await, (200, "ok\n".into()));

    let messages = vec![("analytics.events".to_owned(), event("a").into_bytes()); 3];
    worker.applied(publish_all(&server.jetstream().await, messages).await).await;
    let (status, metrics) = get(&address, "/metrics", "").await;
    assert_eq!(status, 200);
    for line in [
        "streamgauge_messages_total{outcome=\"event\"} 1",
        "streamgauge_messages_total{outcome=\"duplicate\"} 2",
        "streamgauge_applied_sequence 3",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    assert!(get(&address, "/version", "").await.1.contains(env!("CARGO_PKG_VERSION")));
    assert_eq!(get(&address, "/nothing", "").await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_guards_the_metrics() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url()).env("STREAMGAUGE_HTTP__TOKEN", "secret");
    worker.start_reading().await;
    let address = worker.http_address().await;
    for (headers, status) in [
        ("", 401),
        ("Authorization: Bearer wrong!\r\n", 401),
        ("Authorization: Bearer secre\r\n", 401),
        ("Authorization: Bearer secret\r\n", 200),
    ] {
        assert_eq!(get(&address, "/metrics", headers).await.0, status, "{headers}");
    }
    assert_eq!(get(&address, "/livez", "").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_finishes_the_batch_in_time() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    let messages = (0..50_000).map(|n| ("analytics.events".to_owned(), event(&format!("e{n}")).into_bytes())).collect();
    let publishing = tokio::spawn(async move { publish_all(&jetstream, messages).await });
    let database = worker.database();
    wait_for("some of it", || database.applied() > 5_000).await;
    let began = Instant::now();
    assert!(worker.stop().await.success());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // The write-ahead log was moved into the database file: the next start has nothing to recover.
    let wal = folder.path().join("streamgauge.db-wal");
    assert!(std::fs::metadata(&wal).map_or(0, |file| file.len()) == 0);
    assert_eq!(database.count("analytics_events"), database.applied());
    let last_seq = publishing.await.unwrap();
    worker.start();
    worker.applied(last_seq).await;
    assert_eq!(database.count("analytics_events"), 50_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_while_the_database_is_locked_comes_in_time_and_loses_nothing() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let other = worker.database().write();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let last_seq =
        publish_all(&server.jetstream().await, vec![("analytics.events".to_owned(), event("a").into_bytes())]).await;
    let began = Instant::now();
    assert!(worker.stop().await.success());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(other);
    worker.start();
    worker.applied(last_seq).await;
    assert_eq!(worker.database().count("analytics_events"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_in_use_is_reported() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut worker = Worker::new(folder.path(), &server.url()).env("STREAMGAUGE_HTTP__LISTEN", &address);
    worker.start();
    assert_eq!(worker.ended().await.code(), Some(1));
    assert!(worker.log().contains("http.listen"), "{}", worker.log());
}
