use async_nats::jetstream;
use futures::StreamExt;

use crate::support::{NatsServer, Worker, event, publish_all, wait_for};

async fn letters(jetstream: &jetstream::Context, count: usize) -> Vec<jetstream::Message> {
    let stream = jetstream.get_stream("ANALYTICS_DLQ").await.unwrap();
    let consumer = stream.create_consumer(jetstream::consumer::pull::OrderedConfig::default()).await.unwrap();
    let messages = consumer.messages().await.unwrap().take(count).map(Result::unwrap).collect();
    tokio::time::timeout(crate::support::PATIENCE, messages).await.expect("dead letters")
}

fn header<'a>(letter: &'a jetstream::Message, name: &str) -> Option<&'a str> {
    letter.headers.as_ref()?.get(name).map(|value| value.as_str())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_complete_and_a_huge_one_is_cut_only_in_the_stream() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    // Exactly nats-server's default maximum payload.
    let huge = vec![b'x'; 1 << 20];
    let bad = br#"{"event_type":"t","event_name":"n","properties":{"a":{"b":{"c":{"d":{"e":{}}}}}}}"#.to_vec();
    let last_seq = publish_all(
        &jetstream,
        vec![
            ("analytics.events.track".into(), huge.clone()),
            ("analytics.events".into(), bad.clone()),
            ("analytics.whatever".into(), b"{}".to_vec()),
        ],
    )
    .await;
    worker.applied(last_seq).await;

    let letters = letters(&jetstream, 3).await;
    assert_eq!(letters[0].subject.as_str(), "dlq.analytics.events.payload_too_large");
    assert_eq!(header(&letters[0], "Dlq-Truncated"), Some("1048576"));
    assert!(letters[0].payload.len() > 1_000_000 && huge.starts_with(&letters[0].payload));
    let kept = "SELECT cast(length(payload) AS TEXT) FROM _rejections WHERE stream_seq = 1";
    assert_eq!(worker.database().text(kept, []), "1048576");

    assert_eq!(letters[1].subject.as_str(), "dlq.analytics.events.too_deep");
    assert_eq!(letters[1].payload, bad);
    for (name, value) in [
        ("Dlq-Reason", Some("too_deep")),
        ("Dlq-Field", Some("properties.a.b.c.d.e")),
        ("Dlq-Subject", Some("analytics.events")),
        ("Dlq-Stream", Some("ANALYTICS")),
        ("Dlq-Stream-Seq", Some("2")),
        ("Nats-Msg-Id", Some("ANALYTICS:1:2")),
        ("Dlq-Truncated", None),
    ] {
        assert_eq!(header(&letters[1], name), value, "{name}");
    }
    assert!(header(&letters[1], "Dlq-Error").unwrap().contains("level 6"));
    assert!(header(&letters[1], "Dlq-Time").unwrap().ends_with('Z'));
    assert_eq!(letters[2].subject.as_str(), "dlq.analytics.unknown.unknown_subject");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_wait_for_their_stream_and_one_that_fails_blocks_no_other() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    // The stream accepts no message over 10,000 bytes. As long as this is so, the first letter fails.
    let mut config = jetstream.get_stream("ANALYTICS_DLQ").await.unwrap().cached_info().config.clone();
    config.max_message_size = 10_000;
    jetstream.update_stream(config.clone()).await.unwrap();
    let bad = |payload: Vec<u8>| ("analytics.events".to_owned(), payload);
    publish_all(&jetstream, vec![bad(vec![b'x'; 20_000]), bad(b"{".to_vec()), bad(b"[]".to_vec())]).await;
    let database = worker.database();
    wait_for("the others", || database.count("_rejections WHERE published = 1") == 2).await;

    // kill -9 while one letter is not published: the next start publishes it.
    worker.kill();
    config.max_message_size = -1;
    jetstream.update_stream(config).await.unwrap();
    worker.start();
    wait_for("the rest", || database.count("_rejections WHERE published = 0") == 0).await;
    let mut stream = jetstream.get_stream("ANALYTICS_DLQ").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 3);

    // The stream is deleted while the worker runs. The worker creates it again, and ingestion never waits for it.
    jetstream.delete_stream("ANALYTICS_DLQ").await.unwrap();
    let good = ("analytics.events".to_owned(), event("good").into_bytes());
    worker.applied(publish_all(&jetstream, vec![bad(b"null".to_vec()), good]).await).await;
    wait_for("the last one", || database.count("_rejections WHERE published = 0") == 0).await;
    assert_eq!(letters(&jetstream, 1).await[0].subject.as_str(), "dlq.analytics.events.not_an_object");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_never_come_back_as_messages() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let jetstream = server.jetstream().await;
    // An operator's stream that also takes the subjects of the dead letters.
    let subjects = vec!["analytics.>".to_owned(), "dlq.>".to_owned()];
    let config = jetstream::stream::Config { name: "ANALYTICS".into(), subjects, ..Default::default() };
    jetstream.create_stream(config.clone()).await.unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    publish_all(&jetstream, vec![("analytics.events".to_owned(), b"{".to_vec())]).await;
    let letters_wait = "dead letters wait in the database, to be published later";
    wait_for("the first failure", || worker.log().contains(letters_wait)).await;
    let database = worker.database();
    assert_eq!((database.applied(), database.count("_rejections WHERE published = 0")), (1, 1));
    // After the operator repairs the stream, the dead letters go to their own stream.
    let subjects = vec!["analytics.>".to_owned()];
    jetstream.update_stream(jetstream::stream::Config { subjects, ..config }).await.unwrap();
    wait_for("the dead letter", || database.count("_rejections WHERE published = 1") == 1).await;
    assert_eq!(letters(&jetstream, 1).await[0].payload, "{");
    assert_eq!(database.applied(), 1);
}
