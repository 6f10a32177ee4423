use std::time::Duration;

use crate::laws::{naive_activity, naive_funnels, naive_sessions};
use crate::support::{CuttingProxy, NatsServer, Random, Traffic, Worker, exit_of, publish_all, seed, wait_for};

const STREAM: &str = "ANALYTICS";

/// Asserts that a second database, filled from the same stream without any trouble, is the same.
async fn assert_equals_an_undisturbed_run(worker: &Worker, last_seq: u64) {
    let folder = tempfile::tempdir().unwrap();
    let mut calm = worker.twin(folder.path());
    calm.start();
    calm.applied(last_seq).await;
    assert_eq!(worker.digest(), calm.digest());
    for table in ["_session_messages", "_rejections"] {
        let rows = format!("SELECT epoch || ':' || stream_seq FROM {table} ORDER BY 1");
        assert_eq!(worker.database().texts(&rows), calm.database().texts(&rows), "{table}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_at_random_moments_while_200_000_messages_flow() {
    let seed = seed();
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;

    let mut traffic = Traffic::new(seed);
    let messages = traffic.take_messages(200_000);
    let jetstream = server.jetstream().await;
    let publishing = tokio::spawn(async move { publish_all(&jetstream, messages).await });

    let mut random = Random(seed);
    let mut kills = 0;
    while !publishing.is_finished() || kills < 10 {
        tokio::time::sleep(Duration::from_millis(random.below(700))).await;
        worker.kill();
        kills += 1;
        worker.start();
    }
    let last_seq = publishing.await.unwrap();
    worker.applied(last_seq).await;
    println!("{kills} kills");

    traffic.assert_stored_in(&worker.database());
    let database = worker.database().read();
    assert_eq!(naive_sessions::stored(&database), naive_sessions::recompute(&database, 30 * 60_000));
    assert_equals_an_undisturbed_run(&worker, last_seq).await;
    dead_letters_went_out_once(&server, &worker).await;
}

/// Asserts that every row of the ledger is once in the stream of dead letters, however often the worker died.
async fn dead_letters_went_out_once(server: &NatsServer, worker: &Worker) {
    let database = worker.database();
    wait_for("dead letters to be published", || database.count("_rejections WHERE published = 0") == 0).await;
    let jetstream = server.jetstream().await;
    let mut stream = jetstream.get_stream("ANALYTICS_DLQ").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, database.count("_rejections"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_server_that_is_killed_and_restarted() {
    let mut server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let mut traffic = Traffic::new(seed());
    let mut last_seq = 0;
    for round in 0..3 {
        let messages = traffic.take_messages(20_000);
        last_seq = publish_all(&server.jetstream().await, messages).await;
        if round < 2 {
            // Restarts the server while the worker is in the middle of the messages.
            let database = worker.database();
            wait_for("some of it", || database.applied() > last_seq - 19_000).await;
            server.restart().await;
        }
    }
    worker.applied(last_seq).await;
    traffic.assert_stored_in(&worker.database());
    assert_equals_an_undisturbed_run(&worker, last_seq).await;
    assert!(worker.is_running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_every_one_and_a_half_megabytes() {
    let server = NatsServer::start().await;
    let proxy = CuttingProxy::start(server.port(), 1_500_000).await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &proxy.url());
    worker.start_reading().await;
    let mut traffic = Traffic::new(seed());
    let messages = traffic.take_messages(40_000);
    let last_seq = publish_all(&server.jetstream().await, messages).await;
    worker.applied(last_seq).await;
    println!("{} cuts", proxy.cuts());
    assert!(proxy.cuts() >= 5);
    traffic.assert_stored_in(&worker.database());
    assert_equals_an_undisturbed_run(&worker, last_seq).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_another_process_locks_for_10_s() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let other = worker.database().write();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut traffic = Traffic::new(seed());
    let messages = traffic.take_messages(50_000);
    let last_seq = publish_all(&server.jetstream().await, messages).await;
    // The duration matters: it is longer than any busy timeout or heartbeat involved.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(worker.database().applied(), 0);
    other.execute_batch("COMMIT").unwrap();
    worker.applied(last_seq).await;
    assert!(worker.log().contains("another process holds SQLite's write lock"), "{}", worker.log());
    traffic.assert_stored_in(&worker.database());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_is_deleted_under_the_worker() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    let mut traffic = Traffic::new(seed());
    let mut last_seq = 0;
    for _ in 0..5 {
        last_seq = publish_all(&jetstream, traffic.take_messages(3_000)).await;
        jetstream.get_stream(STREAM).await.unwrap().delete_consumer("streamgauge").await.unwrap();
        let stream = jetstream.get_stream(STREAM).await.unwrap();
        let until = tokio::time::Instant::now() + crate::support::PATIENCE;
        while stream.consumer_info("streamgauge").await.is_err() {
            assert!(tokio::time::Instant::now() < until, "the worker did not create the consumer again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    worker.applied(last_seq).await;
    traffic.assert_stored_in(&worker.database());
    assert!(worker.is_running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_through_a_server_that_is_killed() {
    let mut server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let lines = folder.path().join("lines.jsonl");
    // The lines have no ids. The publisher creates ids, so a line that is sent twice counts once.
    let text: String = (0..100_000).map(|n| format!("{{\"event_type\":\"t\",\"event_name\":\"n{n}\"}}\n")).collect();
    std::fs::write(&lines, text).unwrap();
    let mut publisher = worker.command().arg("publish").arg(&lines).spawn().unwrap();
    let database = worker.database();
    wait_for("some of it", || database.applied() > 5_000).await;
    assert!(publisher.try_wait().unwrap().is_none(), "too fast for this test");
    server.restart().await;
    assert!(exit_of(&mut publisher).await.success());
    wait_for("every line", || database.count("analytics_events") == 100_000).await;
    assert_eq!(database.texts("SELECT DISTINCT event_name FROM analytics_events").len(), 100_000);
}

/// Rules that differ from the default.
const RULES: &str = r#"
    [limits]
    session_timeout = "5m"
    [[funnels]]
    name = "users"
    window = "10s"
    steps = [{ name = "one", event_name = ["e1", "e2"] }, { name = "two", event_name = ["e2", "e3", "e4"] }]
    [[funnels]]
    name = "sessions"
    scope = "session"
    steps = [{ name = "one", event_name = ["e1", "e2"] }, { name = "two", event_name = ["e2", "e3", "e4"] }]
"#;

fn funnels() -> Vec<naive_funnels::Funnel> {
    let funnel = |name, is_of_sessions, window_ms| naive_funnels::Funnel {
        name,
        is_of_sessions,
        window_ms,
        reentry: true,
        steps: vec![|event| ["e1", "e2"].contains(&event.name.as_str()), |event| {
            ["e2", "e3", "e4"].contains(&event.name.as_str())
        }],
    };
    vec![funnel("users", false, 10_000), funnel("sessions", true, 7 * 86_400_000)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_change_through_kills_while_messages_flow() {
    let seed = seed();
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let mut traffic = Traffic::new(seed);
    let jetstream = server.jetstream().await;
    let before = publish_all(&jetstream, traffic.take_messages(100_000)).await;
    worker.applied(before).await;
    assert!(worker.stop().await.success());

    let rules = folder.path().join("rules.toml");
    std::fs::write(&rules, RULES).unwrap();
    let mut worker =
        worker.env("STREAMGAUGE_CONFIG", rules.to_str().unwrap()).env("STREAMGAUGE_BATCH__MAX_MESSAGES", "2000");
    let messages = traffic.take_messages(40_000);
    let publishing = tokio::spawn(async move { publish_all(&jetstream, messages).await });
    // The worker is killed during the rebuild. Each time the rebuild continues, and never starts again from nothing.
    let rows_done = |worker: &Worker| {
        let sql = "SELECT rows FROM _shadow_groups";
        let built = rusqlite::Connection::open(worker.database().0.with_extension("db.shadow-groups")).ok()?;
        built.query_row(sql, [], |row| row.get::<_, i64>(0)).ok()
    };
    let mut done = 0;
    for _ in 0..3 {
        worker.start();
        let upto = done;
        wait_for("a step", || rows_done(&worker).is_some_and(|rows| rows > upto)).await;
        worker.kill();
        let rows = rows_done(&worker).unwrap();
        assert!(rows > done);
        done = rows;
    }
    worker.start();
    let last_seq = publishing.await.unwrap();
    worker.applied(last_seq).await;
    let database = worker.database();
    wait_for("the rebuild to be installed", || database.count("_groups WHERE rebuild IS NOT NULL") == 0).await;
    traffic.assert_stored_in(&database);
    let read = database.read();
    assert_eq!(naive_sessions::stored(&read), naive_sessions::recompute(&read, 5 * 60_000));
    naive_activity::assert_is_recomputed(&read, 5 * 60_000);
    let funnels = naive_funnels::recompute(&read, &funnels(), 5 * 60_000);
    assert!(funnels.len() > 1_000);
    assert_eq!(naive_funnels::stored(&read), funnels);
    assert_equals_an_undisturbed_run(&worker, last_seq).await;
}
