use std::collections::{BTreeSet, VecDeque};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use streamgauge::model::{AnalyticsEvent, EventBuilder, MetricBuilder, SessionBuilder};
use streamgauge::nats::{PublishFailure, Publisher, PublisherOptions, Receipt, Unsent};

use crate::support::{Cluster, Database, NatsServer, Worker};

fn event(n: usize) -> AnalyticsEvent {
    EventBuilder::track("published").property("n", n).build()
}

/// How the events of a test ended, by their ids.
#[derive(Default)]
struct Ended {
    acknowledged: BTreeSet<String>,
    handed_back: BTreeSet<String>,
}

impl Ended {
    async fn settle(&mut self, id: String, receipt: Receipt<AnalyticsEvent>) {
        match receipt.await {
            Ok(_) => assert!(self.acknowledged.insert(id)),
            Err(Unsent { message, .. }) => assert!(self.handed_back.insert(message.id)),
        }
    }

    /// Asserts that every acknowledged event is in the database once. All other stored events were sent, but not
    /// acknowledged.
    fn assert_stored_in(&self, database: &Database, count: usize) {
        assert_eq!(self.acknowledged.len() + self.handed_back.len(), count);
        let stored = database.texts("SELECT id FROM analytics_events");
        let distinct: BTreeSet<String> = stored.iter().cloned().collect();
        assert_eq!(stored.len(), distinct.len());
        assert!(self.acknowledged.is_subset(&distinct));
        assert!(distinct.iter().all(|id| self.acknowledged.contains(id) || self.handed_back.contains(id)));
    }
}

/// Publishes events, and calls `trouble` when a third of them has been handed over.
async fn publish(publisher: &Publisher, count: usize, trouble: impl AsyncFnOnce()) -> Ended {
    let (mut ended, mut trouble) = (Ended::default(), Some(trouble));
    let mut receipts = VecDeque::new();
    for n in 0..count {
        if n == count / 3
            && let Some(trouble) = trouble.take()
        {
            trouble().await;
        }
        let event = event(n);
        let id = event.id.clone();
        match publisher.publish(event).await {
            Ok(receipt) => receipts.push_back((id, receipt)),
            Err(unsent) => assert!(ended.handed_back.insert(unsent.message.id)),
        }
        if receipts.len() > 2_000
            && let Some((id, receipt)) = receipts.pop_front()
        {
            ended.settle(id, receipt).await;
        }
    }
    publisher.flush().await;
    for (id, receipt) in receipts {
        ended.settle(id, receipt).await;
    }
    ended
}

async fn last_sequence(url: &str) -> u64 {
    let client = async_nats::connect(url.split(',').collect::<Vec<_>>()).await.unwrap();
    let stream = async_nats::jetstream::new(client).get_stream("ANALYTICS").await.unwrap();
    stream.cached_info().state.last_sequence
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_server_that_is_killed_and_restarted() {
    const COUNT: usize = 30_000;
    let mut server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    // The patience is shorter than the time after which a missing ack is noticed. So messages lost with the
    // connection are sent again when it is back.
    let options = PublisherOptions { patience: Duration::from_secs(4), ..Default::default() };
    let publisher = Publisher::connect(&server.url(), options).await.unwrap();
    let ended = publish(&publisher, COUNT, async || server.restart().await).await;
    assert_eq!(ended.handed_back.len(), 0, "the server came back in time");
    worker.applied(last_sequence(&server.url()).await).await;
    ended.assert_stored_in(&worker.database(), COUNT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_was_lost_with_the_connection_is_sent_again_when_it_is_back() {
    let mut server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    // The patience is shorter than the time after which a missing ack is noticed.
    let options = PublisherOptions { patience: Duration::from_secs(4), ..Default::default() };
    let publisher = Publisher::connect(&server.url(), options).await.unwrap();
    server.pause();
    let lost = publisher.publish(event(1)).await.unwrap();
    server.restart().await;
    let sequence = lost.await.unwrap().sequence;
    worker.applied(sequence).await;
    assert_eq!(worker.database().count("analytics_events"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_cluster_whose_leader_is_killed() {
    const COUNT: usize = 30_000;
    let mut cluster = Cluster::start().await;
    let url = cluster.url();
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &url).env("STREAMGAUGE_STREAM__REPLICAS", "3");
    worker.start_reading().await;
    let publisher = Publisher::connect(&url, PublisherOptions::default()).await.unwrap();
    let ended = publish(&publisher, COUNT, async || {
        let leader = cluster.kill_leader("ANALYTICS").await;
        println!("killed {leader}");
    })
    .await;
    assert_eq!(ended.handed_back.len(), 0, "another node leads in time");
    worker.applied(last_sequence(&url).await).await;
    ended.assert_stored_in(&worker.database(), COUNT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_come_back_hands_everything_back_in_time() {
    let mut server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let options = PublisherOptions { max_in_flight: 10, patience: Duration::from_secs(2), ..Default::default() };
    let publisher = Publisher::connect(&server.url(), options).await.unwrap();
    publisher.publish(event(0)).await.unwrap().await.unwrap();
    server.kill();

    let began = Instant::now();
    let attempts = (1..=30).map(|n| {
        let publisher = publisher.clone();
        async move {
            let event = event(n);
            let result = match publisher.publish(event.clone()).await {
                Ok(receipt) => receipt.await,
                Err(unsent) => Err(unsent),
            };
            let unsent = result.unwrap_err();
            assert_eq!(unsent.message, event, "the event is handed back unchanged");
            unsent.error
        }
    });
    let failures: Vec<_> = futures::stream::iter(attempts).buffer_unordered(30).collect().await;
    assert!(began.elapsed() < Duration::from_millis(3_500), "{:?}", began.elapsed());
    for failure in &failures {
        let is_right = matches!(failure, PublishFailure::NotAcknowledged { .. } | PublishFailure::WindowFull { .. });
        assert!(is_right, "{failure}");
    }
    assert!(failures.iter().any(|failure| matches!(failure, PublishFailure::NotAcknowledged { .. })));

    // The same publisher continues when the server is back.
    server.restart().await;
    let acknowledged = loop {
        if let Ok(receipt) = publisher.publish(event(99)).await
            && let Ok(acknowledged) = receipt.await
        {
            break acknowledged;
        }
        assert!(began.elapsed() < Duration::from_secs(60));
    };
    worker.applied(acknowledged.sequence).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_sent_as_message_ids_and_an_unsendable_message_does_not_block_the_rest() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let publisher = Publisher::connect(&server.url(), PublisherOptions::default()).await.unwrap();

    // On a slow machine a message may take two tries. Then nobody can tell whether it was a duplicate.
    let mut pairs = 0;
    loop {
        pairs += 1;
        let session = SessionBuilder::start("s").id(&format!("same{pairs}")).build();
        let first = publisher.publish(session.clone()).await.unwrap();
        let again = publisher.publish(session).await.unwrap();
        let (first, again) = (first.await.unwrap(), again.await.unwrap());
        assert!(!first.is_duplicate);
        assert_eq!(first.sequence, again.sequence, "the stream knows it by its Nats-Msg-Id");
        if again.is_duplicate {
            break;
        }
        assert!(pairs < 5, "the stream never reported a duplicate");
    }
    let metric = publisher.publish(MetricBuilder::gauge("load", 1.0).id("same1").build()).await.unwrap();
    let large = publisher.publish(EventBuilder::track("x").property("text", "x".repeat(2 << 20)).build()).await;
    let nan = publisher.publish(MetricBuilder::gauge("load", f64::NAN).build()).await;
    let last = publisher.publish(event(1)).await.unwrap();

    assert!(!metric.await.unwrap().is_duplicate, "the same id with another kind is another message");
    assert!(matches!(large.unwrap().await.unwrap_err().error, PublishFailure::TooLarge(_)));
    assert!(matches!(nan.unwrap_err().error, PublishFailure::Invalid(_)));
    let sequence = last.await.unwrap().sequence;
    assert_eq!(sequence, pairs + 2);
    let message = server.jetstream().await.get_stream("ANALYTICS").await.unwrap().get_raw_message(1).await.unwrap();
    assert_eq!(message.headers.get("Nats-Msg-Id").unwrap().as_str(), "sessions:same1");
    worker.applied(sequence).await;
    let database = worker.database();
    assert_eq!((database.count("_rejections"), database.count("analytics_sessions")), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_stream_and_a_message_that_is_too_large_for_it() {
    let server = NatsServer::start().await;
    let jetstream = server.jetstream().await;
    let config = async_nats::jetstream::stream::Config {
        name: "ANALYTICS".into(),
        subjects: vec!["analytics.>".into()],
        max_message_size: 1_000,
        max_messages: 3,
        discard: async_nats::jetstream::stream::DiscardPolicy::New,
        ..Default::default()
    };
    let mut stream = jetstream.create_stream(config).await.unwrap();
    let options = PublisherOptions { patience: Duration::from_secs(2), ..Default::default() };
    let publisher = Publisher::connect(&server.url(), options).await.unwrap();
    let large = EventBuilder::track("x").property("text", "x".repeat(2_000)).build();
    let mut receipts = vec![publisher.publish(large).await.unwrap()];
    for n in 0..5 {
        receipts.push(publisher.publish(event(n)).await.unwrap());
    }
    publisher.flush().await;
    let mut results = Vec::new();
    for receipt in receipts {
        results.push(receipt.await.map_err(|unsent| unsent.error));
    }
    assert!(matches!(results[0], Err(PublishFailure::TooLarge(_))), "{:?}", results[0]);
    assert!(results[1..4].iter().all(Result::is_ok), "{results:?}");
    for full in &results[4..] {
        let Err(error @ PublishFailure::NotAcknowledged { .. }) = full else { panic!("{full:?}") };
        assert!(error.to_string().contains("maximum messages exceeded"), "{error}");
    }
    assert_eq!(stream.info().await.unwrap().state.messages, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_may_carry_user_and_password() {
    let server = NatsServer::start_with("authorization { user: \"w\", password: \"p@ss\" }\n").await;
    let connect = async |who: &str| {
        let url = server.url().replace("://", &format!("://{who}"));
        Publisher::connect(&url, PublisherOptions::default()).await.map(drop).map_err(|error| error.to_string())
    };
    connect("w:p%40ss@").await.unwrap();
    for who in ["", "w:other@", "w@"] {
        assert!(connect(who).await.unwrap_err().contains("authorization violation"), "{who}");
    }
}

/// This test plays the stream, because a real stream cannot be made to lose a single ack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_ack_holds_back_later_messages_until_it_is_sent_again() {
    let server = NatsServer::start().await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut arriving = client.subscribe("analytics.events").await.unwrap();
    client.flush().await.unwrap();
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&arrived);
    tokio::spawn(async move {
        while let Some(message) = arriving.next().await {
            let id = message.headers.unwrap().get("Nats-Msg-Id").unwrap().to_string();
            let sequence = {
                let mut seen = seen.lock().unwrap();
                seen.push(id);
                seen.len() - 1
            };
            if sequence > 0 {
                let ack = format!(r#"{{"stream":"TEST","seq":{sequence}}}"#);
                client.publish(message.reply.unwrap(), ack.into()).await.unwrap();
            }
        }
    });
    let options = PublisherOptions { max_in_flight: 10, ..Default::default() };
    let publisher = Publisher::connect(&server.url(), options).await.unwrap();
    let ended = publish(&publisher, 100, async || {}).await;
    assert_eq!(ended.acknowledged.len(), 100);
    let arrived = arrived.lock().unwrap();
    let again = arrived.iter().skip(1).position(|id| *id == arrived[0]).unwrap();
    assert!((10..30).contains(&again), "{again} other messages were sent before the first was sent again");
    assert_eq!(arrived.len(), 101);
}

/// Runs the examples as a reader of the README does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_run() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let run = |name: &str, arguments: &[&str]| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(["run", "--quiet", "--locked", "--example", name, "--"]);
        let output = cargo.args(arguments).env("NATS_URL", server.url()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run("producer", &[]).contains("sequences "));
    assert!(run("bulk", &["5000"]).starts_with("5000 acknowledged"));
    worker.applied(5_005).await;
    let database = worker.database();
    let session = "SELECT user_id || ' ' || os || ' ' || event_count || ' ' || (ended_at IS NOT NULL) || ' ' || exit_page \
                   FROM analytics_sessions";
    assert_eq!(database.text(session, []), "ada linux 2 1 https://example.com/missions");
    assert_eq!(database.count("analytics_events"), 5_002);
}
