use std::process::Output;

use serde_json::{Value, json};

use crate::support::{NatsServer, Worker, event, exit_of, publish_all, wait_for};

const FUTURE: &str = "STREAMGAUGE_LIMITS__MAX_FUTURE";

fn dlq(worker: &Worker, args: &[&str]) -> Output {
    worker.command().arg("dlq").args(args).output().unwrap()
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns an event from a clock that runs far ahead.
fn early(id: &str) -> String {
    json!({"id": id, "event_type": "track", "event_name": "early", "timestamp": "2099-01-01T00:00:00Z", "user_id": "u"})
        .to_string()
}

fn messages(texts: &[(&str, String)]) -> Vec<(String, Vec<u8>)> {
    texts.iter().map(|(subject, text)| ((*subject).to_owned(), text.clone().into_bytes())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_listed_retried_and_dropped() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    let sent = messages(&[
        ("analytics.events.web", early("a")),
        ("analytics.events", "not json".into()),
        ("analytics.events", event("good")),
        ("analytics.metrics", "[]".into()),
        ("analytics.events.web", early("a")),
        ("analytics.events.app", early("b")),
    ]);
    worker.applied(publish_all(&jetstream, sent.clone()).await).await;
    let database = worker.database();
    wait_for("publishing", || database.count("_rejections WHERE published = 0") == 0).await;

    let ids = |args: &[&str]| -> Vec<String> {
        let listed = json_of(&dlq(&worker, &[&["list", "--json"], args].concat()));
        listed.as_array().unwrap().iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&[]), ["1:1", "1:2", "1:4", "1:5", "1:6"]);
    assert_eq!(ids(&["--reason", "timestamp_in_future"]), ["1:1", "1:5", "1:6"]);
    assert_eq!(ids(&["--subject", "analytics.events"]), ["1:2"]);
    assert_eq!(ids(&["--subject", "analytics.events.>", "--limit", "2"]), ["1:1", "1:5"]);
    assert_eq!(ids(&["--since", "2099-01-01T00:00:00Z"]), Vec::<String>::new());
    assert_eq!(ids(&["--until", "2099-01-01T00:00:00Z"]).len(), 5);
    let shown = json_of(&dlq(&worker, &["show", "ANALYTICS:1:2", "--json"]));
    assert_eq!(
        (&shown["reason"], &shown["payload"], &shown["state"]),
        (&"invalid_json".into(), &"not json".into(), &"open".into())
    );
    let text = String::from_utf8(dlq(&worker, &["show", "4"]).stdout).unwrap();
    assert!(text.contains("not_an_object") && text.ends_with("[]\n"), "{text}");
    assert_eq!(dlq(&worker, &["show", "77"]).status.code(), Some(1));
    assert_eq!(dlq(&worker, &["retry"]).status.code(), Some(2), "without a selection, the command does not mean all");
    assert_eq!(dlq(&worker, &["drop", "--json"]).status.code(), Some(2), "--json is not a selection");
    assert_eq!(dlq(&worker, &["list", "--reason", "whatever"]).status.code(), Some(2));

    // The running worker gives the same verdict as before, and nothing is published again.
    let verdict = |args: &[&str]| json_of(&dlq(&worker, &[args, &["--json"]].concat()));
    let none = json!({"applied": 0, "duplicate": 0, "rejected": 1, "dropped": 0});
    assert_eq!(verdict(&["retry", "1:2"]), none);
    assert_eq!(verdict(&["drop", "--reason", "not_an_object"])["dropped"], 1);
    assert_eq!(ids(&["--state", "dropped"]), ["1:4"]);
    // With other limits. Without a worker, the command judges by itself. One dead letter is a copy of another.
    worker.stop().await;
    let mut lenient = Worker::new(folder.path(), &server.url()).env(FUTURE, "100000d");
    let verdict = |args: &[&str]| json_of(&dlq(&lenient, &[args, &["--json"]].concat()));
    assert_eq!(verdict(&["retry", "6"])["applied"], 1);
    lenient.start_reading().await;
    let verdict = |args: &[&str]| json_of(&dlq(&lenient, &[args, &["--json"]].concat()));
    assert_eq!(verdict(&["retry", "--all"]), json!({"applied": 1, "duplicate": 1, "rejected": 1, "dropped": 0}));
    assert_eq!(verdict(&["retry", "1:1", "1:5", "6"])["applied"], 0, "once at most");
    let states = "SELECT stream_seq || ' ' || state FROM _rejections ORDER BY stream_seq";
    assert_eq!(database.texts(states), ["1 applied", "2 open", "4 dropped", "5 duplicate", "6 applied"]);
    assert_eq!(database.count("_control"), 0);
    let mut dead = jetstream.get_stream("ANALYTICS_DLQ").await.unwrap();
    assert_eq!(dead.info().await.unwrap().state.messages, 5);
    let from = "SELECT cast(epoch AS TEXT) || ':' || stream_seq FROM analytics_events WHERE id = 'a'";
    assert_eq!(database.text(from, []), "1:1");

    // Every message is accounted for, also in a rebuilt copy.
    let status = json_of(&lenient.command().args(["status", "--json"]).output().unwrap());
    assert_eq!(status["dead_letters_closed"], json!({"applied": 2, "duplicate": 1, "dropped": 1}));
    database.assert_account_balances();
    assert!(lenient.command().args(["rebuild", "--into", "copy.db"]).status().unwrap().success());
    let copy = crate::support::Database(folder.path().join("copy.db"));
    let counts = "SELECT stored || ' ' || duplicates FROM _positions";
    assert_eq!((copy.texts(counts), database.texts(counts)), (vec!["1 0".into()], vec!["1 0".into()]));

    // The result is the same as if the messages had been accepted at once.
    let other = tempfile::tempdir().unwrap();
    let mut fresh = lenient.twin(other.path());
    fresh.start();
    fresh.applied(6).await;
    assert_eq!(fresh.digest(), lenient.digest());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_dead_letter_is_applied_once_however_often_the_worker_dies() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    let count = 6_000;
    let sent: Vec<_> =
        (0..count).map(|n| ("analytics.events".to_owned(), early(&format!("e{n}")).into_bytes())).collect();
    worker.applied(publish_all(&jetstream, sent).await).await;
    let database = worker.database();
    assert_eq!(database.count("_rejections"), count);
    worker.stop().await;

    let mut worker = Worker::new(folder.path(), &server.url()).env(FUTURE, "100000d");
    worker.start_reading().await;
    let mut asked = worker.command().args(["dlq", "retry", "--all"]).spawn().unwrap();
    // Kills the worker in the middle of the retry, three times.
    for seen in [0, 2_000, 4_000] {
        wait_for("some", || database.count("_rejections WHERE state = 'applied'") > seen).await;
        worker.kill();
        worker.start();
    }
    assert!(exit_of(&mut asked).await.success());
    assert_eq!(database.count("_rejections WHERE state = 'applied' AND retry IS NULL"), count);
    assert_eq!(database.count("analytics_events"), count);
    assert_eq!(database.texts("SELECT cast(event_count AS TEXT) FROM user_activity"), [count.to_string()]);
}
