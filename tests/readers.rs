use crate::support::{NatsServer, Worker, event, publish_all, wait_for};

fn events(prefix: &str, count: usize) -> Vec<(String, Vec<u8>)> {
    (0..count).map(|n| ("analytics.events".to_owned(), event(&format!("{prefix}-{n}")).into_bytes())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_writes_to_a_database() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut first = Worker::new(folder.path(), &server.url());
    first.start_reading().await;

    let second = first.command().arg("run").output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let message = String::from_utf8(second.stderr).unwrap();
    assert!(message.contains("is in use by `streamgauge run` (process "), "{message}");
    let migrate = first.command().args(["migrate", "down"]).output().unwrap();
    assert_eq!(migrate.status.code(), Some(1));
    assert!(first.is_running());

    // Another name of the same file means the same database.
    let link = folder.path().join("link.db");
    std::os::unix::fs::symlink(folder.path().join("streamgauge.db"), &link).unwrap();
    let through_link = first.command().env("DATABASE_URL", format!("sqlite://{}", link.display())).arg("run").output();
    assert_eq!(through_link.unwrap().status.code(), Some(1));

    // A symbolic link to a file that does not exist yet also means the target file.
    let dangling = folder.path().join("dangling.db");
    std::os::unix::fs::symlink("not-there.db", &dangling).unwrap();
    let run = |name: &str| {
        let url = format!("sqlite://{}", folder.path().join(name).display());
        first.command().env("DATABASE_URL", url).args(["migrate", "up"]).status().unwrap().success()
    };
    assert!(run("dangling.db"));
    assert!(folder.path().join("not-there.db.lock").exists() && !folder.path().join("dangling.db.lock").exists());

    // The lock ends with the process, however the process ends.
    first.kill();
    first.start_reading().await;
    first.applied(publish_all(&server.jetstream().await, events("a", 10)).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_waits_for_a_command_that_holds_the_lock() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let lock = std::fs::File::create(folder.path().join("streamgauge.db.lock")).unwrap();
    lock.lock().unwrap();
    let holder = r#"{"pid":1,"command":"migrate up","since":"2026-01-01T00:00:00.000Z"}"#;
    std::fs::write(folder.path().join("streamgauge.db.lock"), holder).unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    // A command other than `run` does not wait.
    let refused = worker.command().args(["migrate", "up"]).output().unwrap();
    assert!(String::from_utf8(refused.stderr).unwrap().contains("`streamgauge migrate up` (process 1"));
    worker.start();
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert!(worker.is_running());
    lock.unlock().unwrap();
    wait_for("the worker to read", || worker.log().contains("reading stream")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_databases_through_one_consumer_at_the_same_time() {
    let server = NatsServer::start().await;
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut first = Worker::new(here.path(), &server.url());
    first.start_reading().await;
    let jetstream = server.jetstream().await;
    publish_all(&jetstream, events("a", 10)).await;

    // The second worker is refused, and its error names the first. This holds while idle and under load.
    let mut second = Worker::new(there.path(), &server.url());
    for round in ["b", "c"] {
        second.start();
        if round == "c" {
            publish_all(&jetstream, events(round, 20_000)).await;
        }
        assert_eq!(second.ended().await.code(), Some(1));
        let log = second.log();
        assert!(log.contains("is being read by") && log.contains(here.path().to_str().unwrap()), "{log}");
    }
    let last_seq = publish_all(&jetstream, events("d", 10)).await;
    first.applied(last_seq).await;
    assert_eq!(first.database().count("analytics_events"), 20_020);
    assert!(first.is_running());

    // One worker after the other is allowed: after a stop, and after a kill.
    assert!(first.stop().await.success());
    second.start();
    second.applied(last_seq).await;
    second.kill();
    first.start();
    let last_seq = publish_all(&jetstream, events("e", 10)).await;
    first.applied(last_seq).await;
    assert_eq!(first.database().count("analytics_events"), 20_030);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_that_nobody_here_sent_end_the_process() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    let client = async_nats::connect(server.url()).await.unwrap();
    for round in 0..20 {
        let last_seq = publish_all(&jetstream, events(&format!("r{round}"), 3)).await;
        let database = worker.database();
        wait_for("the messages, or the end", || database.applied() >= last_seq || !worker.is_running()).await;
        if !worker.is_running() {
            break;
        }
        let reset = client.request("$JS.API.CONSUMER.RESET.ANALYTICS.streamgauge", r#"{"seq":1}"#.into());
        reset.await.unwrap();
    }
    assert_eq!(worker.ended().await.code(), Some(1));
    assert!(worker.log().contains("was reset by others again and again"), "{}", worker.log());
    worker.database().assert_account_balances();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_with_another_ack_policy_is_refused() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    assert!(worker.stop().await.success());
    let stream = server.jetstream().await.get_stream("ANALYTICS").await.unwrap();
    stream.delete_consumer("streamgauge").await.unwrap();
    let config = async_nats::jetstream::consumer::pull::Config {
        durable_name: Some("streamgauge".into()),
        ..Default::default()
    };
    stream.create_consumer(config).await.unwrap();
    worker.start();
    assert_eq!(worker.ended().await.code(), Some(1));
    assert!(worker.log().contains("its ack policy is not `all`"), "{}", worker.log());
}

/// The server delivers messages to another client. Nothing breaks: the consumer's sequences show what is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_another_client_takes_from_the_consumer_are_read_nevertheless() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    let thief = async_nats::connect(server.url()).await.unwrap();
    let inbox = thief.new_inbox();
    let mut stolen = thief.subscribe(inbox.clone()).await.unwrap();
    let pull = |batch: usize| {
        let request = format!(r#"{{"batch":{batch},"expires":60000000000}}"#);
        thief.publish_with_reply("$JS.API.CONSUMER.MSG.NEXT.ANALYTICS.streamgauge", inbox.clone(), request.into())
    };
    // First some messages in the middle, then single messages that no later message follows.
    for (round, (steal, publish)) in [(10, 100), (1, 2), (1, 2), (1, 1), (1, 1)].into_iter().enumerate() {
        pull(steal).await.unwrap();
        thief.flush().await.unwrap();
        let last_seq = publish_all(&jetstream, events(&format!("r{round}"), publish)).await;
        worker.applied(last_seq).await;
    }
    use futures::{FutureExt, StreamExt};
    let stolen =
        std::iter::from_fn(|| stolen.next().now_or_never().flatten()).filter(|message| message.reply.is_some());
    assert!(stolen.count() > 0, "nothing was stolen, so nothing was tested");
    assert_eq!(worker.database().count("analytics_events"), 106);
    assert_eq!(worker.database().count("_gaps"), 0);
    assert!(worker.is_running());
}

/// Somebody sets a filter on the consumer while it is read. The hidden messages are in the stream, and are no gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_a_filter_hides_are_no_gap() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    worker.applied(publish_all(&jetstream, events("a", 3)).await).await;
    let stream = jetstream.get_stream("ANALYTICS").await.unwrap();
    let mut config = stream.consumer_info("streamgauge").await.unwrap().config;
    config.filter_subject = "analytics.events".into();
    let filtered = async_nats::jetstream::consumer::pull::Config {
        durable_name: config.durable_name,
        ack_policy: config.ack_policy,
        ack_wait: config.ack_wait,
        max_ack_pending: config.max_ack_pending,
        filter_subject: config.filter_subject,
        metadata: config.metadata,
        ..Default::default()
    };
    stream.update_consumer(filtered.clone()).await.unwrap();
    let metric = ("analytics.metrics".to_owned(), br#"{"name":"m","value":1}"#.to_vec());
    let mut messages = vec![metric.clone(), metric];
    messages.extend(events("b", 1));
    let last_seq = publish_all(&jetstream, messages).await;
    assert_eq!(worker.ended().await.code(), Some(1));
    assert!(worker.log().contains("it filters subjects"), "{}", worker.log());

    let open = async_nats::jetstream::consumer::pull::Config { filter_subject: String::new(), ..filtered };
    stream.update_consumer(open).await.unwrap();
    worker.start();
    worker.applied(last_seq).await;
    assert_eq!((worker.database().count("metrics"), worker.database().count("_gaps")), (2, 0));
}
