use async_nats::jetstream;

use crate::support::{NatsServer, Worker, event, http_get, publish_all, wait_for};

const STREAM: &str = "ANALYTICS";

fn events(ids: std::ops::Range<u64>) -> Vec<(String, Vec<u8>)> {
    ids.map(|id| ("analytics.events".to_owned(), event(&format!("id-{id}")).into_bytes())).collect()
}

/// Returns messages without ids. They are counted again in another epoch.
fn nameless(count: usize) -> Vec<(String, Vec<u8>)> {
    vec![("analytics.metrics".to_owned(), br#"{"name":"m","value":1}"#.to_vec()); count]
}

async fn recreate(jetstream: &jetstream::Context) {
    jetstream.delete_stream(STREAM).await.unwrap();
    let subjects = vec!["analytics.>".to_owned()];
    let config = jetstream::stream::Config { name: STREAM.into(), subjects, ..Default::default() };
    jetstream.create_stream(config).await.unwrap();
}

fn gaps(worker: &Worker) -> Vec<String> {
    worker.database().texts("SELECT first_seq || '-' || last_seq || ' ' || reason FROM _gaps ORDER BY first_seq")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_is_a_gap_and_no_stop() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    let stream = jetstream.get_stream(STREAM).await.unwrap();
    worker.applied(publish_all(&jetstream, events(0..10)).await).await;

    // Messages are purged while nobody reads. The next start finds the gap.
    assert!(worker.stop().await.success());
    publish_all(&jetstream, events(10..20)).await;
    stream.purge().await.unwrap();
    worker.start();
    worker.applied(20).await;
    assert_eq!(gaps(&worker), ["11-20 expired_or_purged"]);

    // Messages are purged while the worker is idle, after it has read them. Then new messages come. The purge is no
    // gap.
    worker.kill();
    publish_all(&jetstream, events(20..30)).await;
    worker.start();
    worker.applied(30).await;
    stream.purge().sequence(31).await.unwrap();
    worker.applied(publish_all(&jetstream, events(30..40)).await).await;
    assert_eq!(gaps(&worker).len(), 1, "what was read before it was purged is no gap");

    // Messages are deleted one by one, between others.
    assert!(worker.stop().await.success());
    publish_all(&jetstream, events(40..50)).await;
    for seq in [43, 44, 47] {
        stream.delete_message(seq).await.unwrap();
    }
    worker.start();
    worker.applied(50).await;
    assert_eq!(gaps(&worker), ["11-20 expired_or_purged", "43-44 deleted", "47-47 deleted"]);
    assert!(worker.is_running());
    let status = worker.command().args(["status", "--json"]).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((status["gaps"].as_u64(), status["missing_messages"].as_u64()), (Some(3), Some(13)));
    let metrics = http_get(&worker.http_address().await, "/metrics", "").await.1;
    for line in ["streamgauge_gaps 3", "streamgauge_missing_messages 13"] {
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }
    let labels = r#"stream="ANALYTICS",epoch="1",first_seq="43",last_seq="44",reason="deleted",found_at="#;
    assert!(metrics.lines().any(|line| line.contains(labels) && line.ends_with("} 2")), "{metrics}");
    assert!(worker.command().args(["verify", "--sample"]).output().unwrap().status.success());
    let verified = worker.command().arg("verify").output().unwrap();
    let said = String::from_utf8(verified.stdout).unwrap();
    assert!(
        verified.status.success() && said.contains("3 with 13 messages") && said.contains("43 to 44, deleted"),
        "{said}"
    );
    worker.database().assert_account_balances();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_that_an_idle_worker_could_not_have_read() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    worker.applied(publish_all(&jetstream, events(0..5)).await).await;
    // The stream loses sequences that were never delivered, and no message follows them.
    let stream = jetstream.get_stream(STREAM).await.unwrap();
    let client = async_nats::connect(server.url()).await.unwrap();
    let until = r#"{"pause_until":"2200-01-01T00:00:00Z"}"#;
    client.request("$JS.API.CONSUMER.PAUSE.ANALYTICS.streamgauge", until.into()).await.unwrap();
    publish_all(&jetstream, events(5..9)).await;
    stream.purge().await.unwrap();
    worker.applied(9).await;
    assert_eq!(gaps(&worker), ["6-9 expired_or_purged"]);
    assert!(worker.is_running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_database_begins_where_the_stream_does() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let jetstream = server.jetstream().await;
    let subjects = vec!["analytics.>".to_owned()];
    let config = jetstream::stream::Config { name: STREAM.into(), subjects, ..Default::default() };
    let stream = jetstream.create_stream(config).await.unwrap();
    publish_all(&jetstream, events(0..10)).await;
    stream.purge().sequence(7).await.unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start();
    worker.applied(10).await;
    assert_eq!(gaps(&worker), Vec::<String>::new());
    assert_eq!(worker.database().count("analytics_events"), 4);
    worker.database().assert_account_balances();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recreated_stream_is_refused_until_a_new_epoch_is_named() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    publish_all(&jetstream, events(0..10)).await;
    worker.applied(publish_all(&jetstream, nameless(5)).await).await;

    // The stream is recreated while the worker runs.
    recreate(&jetstream).await;
    assert_eq!(worker.ended().await.code(), Some(1));
    assert!(worker.log().contains("was recreated") && worker.log().contains("--new-epoch"), "{}", worker.log());
    // The worker also refuses the recreated stream at its start.
    publish_all(&jetstream, events(5..15)).await;
    publish_all(&jetstream, nameless(5)).await;
    worker.start();
    assert_eq!(worker.ended().await.code(), Some(1));

    worker.start_with(&["--new-epoch"]);
    let database = worker.database();
    wait_for("epoch 2", || database.count("_positions WHERE epoch = 2 AND last_seq = 15") == 1).await;
    // Rows keep their history. Ids are counted once. A message without an id is another message at another place.
    assert_eq!(database.count("analytics_events"), 15);
    assert_eq!(database.count("analytics_events WHERE epoch = 1"), 10);
    assert_eq!(database.count("metrics"), 10);
    assert_eq!(database.text("SELECT cast(duplicates AS TEXT) FROM _positions WHERE epoch = 2", []), "5");
    database.assert_account_balances();

    // `--new-epoch` without need, for example in the start command of a service, changes nothing.
    assert!(worker.stop().await.success());
    worker.start_with(&["--new-epoch"]);
    let last_seq = publish_all(&jetstream, events(15..20)).await;
    wait_for("the rest", || database.count(&format!("_positions WHERE epoch = 2 AND last_seq = {last_seq}")) == 1)
        .await;
    assert_eq!((database.count("_positions"), database.count("analytics_events")), (2, 20));

    // The flag applied to that stream, and does not apply to the next one.
    recreate(&jetstream).await;
    assert_eq!(worker.ended().await.code(), Some(1));
    assert_eq!(database.count("_positions"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_stream_is_not_created_again_without_the_operator() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    worker.applied(publish_all(&jetstream, events(0..3)).await).await;
    jetstream.delete_stream(STREAM).await.unwrap();
    assert_eq!(worker.ended().await.code(), Some(1));
    assert!(worker.log().contains("was deleted"), "{}", worker.log());
    assert!(jetstream.get_stream(STREAM).await.is_err());

    worker.start_with(&["--new-epoch"]);
    wait_for("a new stream", || worker.log().contains("reading stream")).await;
    publish_all(&jetstream, events(0..4)).await;
    let database = worker.database();
    wait_for("its messages", || database.count("analytics_events") == 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolled_back_stream_is_refused_even_when_it_has_grown_again() {
    let mut server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    worker.applied(publish_all(&server.jetstream().await, events(0..10)).await).await;
    assert!(worker.stop().await.success());
    let earlier = server.copy_store().await;

    worker.start();
    worker.applied(publish_all(&server.jetstream().await, events(10..20)).await).await;
    server.restore_store(earlier.path()).await;
    assert_eq!(worker.ended().await.code(), Some(1));
    assert!(worker.log().contains("was rolled back: it ends at sequence 10"), "{}", worker.log());

    publish_all(&server.jetstream().await, events(20..40)).await;
    worker.start();
    assert_eq!(worker.ended().await.code(), Some(1));
    assert!(worker.log().contains("holds another message at sequence 20"), "{}", worker.log());

    worker.start_with(&["--new-epoch"]);
    let database = worker.database();
    wait_for("epoch 2", || database.count("_positions WHERE epoch = 2 AND last_seq = 30") == 1).await;
    assert_eq!(database.count("analytics_events"), 40);
    database.assert_account_balances();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_drops_what_is_read_is_refused() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let subjects = vec!["analytics.>".to_owned()];
    let retention = jetstream::stream::RetentionPolicy::WorkQueue;
    let config = jetstream::stream::Config { name: STREAM.into(), subjects, retention, ..Default::default() };
    server.jetstream().await.create_stream(config).await.unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start();
    assert_eq!(worker.ended().await.code(), Some(1));
    assert!(worker.log().contains("retention"), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_database_catches_up_by_itself() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    worker.applied(publish_all(&jetstream, events(0..100)).await).await;
    let backup = folder.path().join("backup.db");
    worker.database().read().execute("VACUUM INTO ?1", [backup.to_str()]).unwrap();
    worker.applied(publish_all(&jetstream, events(100..200)).await).await;
    assert!(worker.stop().await.success());

    let restored = tempfile::tempdir().unwrap();
    std::fs::copy(&backup, restored.path().join("streamgauge.db")).unwrap();
    let mut other = Worker::new(restored.path(), &server.url());
    other.start();
    other.applied(200).await;
    let digest = |worker: &Worker| worker.command().args(["digest"]).output().unwrap().stdout;
    assert_eq!(digest(&other), digest(&worker));
}
