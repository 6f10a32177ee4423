use std::process::Output;

use serde_json::Value;

use crate::laws::people_config::CONFIG;
use crate::support::{Database, NatsServer, Traffic, Worker, exit_of, publish_all, seed, wait_for};

fn verify(worker: &Worker, args: &[&str]) -> (Output, Value) {
    let output = worker.command().args(["verify", "--json"]).args(args).output().unwrap();
    let found = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, found)
}

/// Returns the tables that differ, each with the id of its first row that differs.
fn differing(found: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let tables = found["tables"].as_array().unwrap().iter();
    tables
        .filter(|table| !table["difference"].is_null())
        .map(|table| (text(&table["table"]), text(&table["difference"]["id"])))
        .collect()
}

/// Returns the id of a row in the middle of a table.
fn some_row(database: &Database, table: &str) -> String {
    // A sample consists of users. A session without a user is checked only by the whole comparison.
    let of_users =
        if table == "analytics_sessions" { "WHERE user_id IN (SELECT user_id FROM user_activity)" } else { "" };
    let rows = database.texts(&format!("SELECT id FROM {table} {of_users} ORDER BY id"));
    rows[rows.len() / 2].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_somebody_changed_is_found_in_any_table() {
    let seed = seed();
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("streamgauge.toml"), CONFIG).unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    let mut sent = Traffic::new(seed).take_messages(5_000);
    // Events that the traffic lacks: funnels that somebody goes through, and features.
    for (user, name) in [("f1", "n1"), ("f1", "n2"), ("f1", "n3"), ("f2", "n2")] {
        let event =
            format!(r#"{{"event_type":"feature","event_name":"{name}","user_id":"{user}","session_id":"{user}"}}"#);
        sent.push(("analytics.events".to_owned(), event.into_bytes()));
    }
    worker.applied(publish_all(&jetstream, sent).await).await;
    let database = worker.database();
    let (output, found) = verify(&worker, &[]);
    assert!(output.status.success(), "{found} {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((&found["equal"], &found["as_of"]), (&true.into(), &database.applied().into()));
    assert_eq!(found["tables"].as_array().unwrap().len(), 9);

    // A sample that covers all users and hours that exist.
    let (output, found) = verify(&worker, &["--sample", "3000"]);
    assert!(output.status.success(), "{found} {}", String::from_utf8_lossy(&output.stderr));
    for table in found["tables"].as_array().unwrap() {
        let rows = database.count(table["table"].as_str().unwrap());
        assert!(table["equal_rows"].as_u64().unwrap() > rows / 8, "{table} of {rows}");
    }
    for (table, column) in [
        ("analytics_events", "page_url"),
        ("analytics_sessions", "city"),
        ("dashboard_metrics", "previous_value"),
        ("feature_usage", "success_rate"),
        ("funnel_conversions", "step_timestamps"),
        ("funnels", "description"),
        ("metric_aggregates", "p90"),
        ("metrics", "unit"),
        ("user_activity", "last_seen_at"),
    ] {
        let id = some_row(&database, table);
        let by_hand = database.write();
        let before: rusqlite::types::Value =
            by_hand.query_row(&format!("SELECT {column} FROM {table} WHERE id = ?1"), [&id], |row| row.get(0)).unwrap();
        let update = format!("UPDATE {table} SET {column} = ?2 WHERE id = ?1");
        by_hand.execute(&update, (&id, 0.5)).unwrap();
        let (output, found) = verify(&worker, &[]);
        assert_eq!(output.status.code(), Some(1), "{table}");
        assert_eq!(differing(&found), [(table.to_owned(), id.clone())]);
        if ["analytics_sessions", "user_activity"].contains(&table) {
            let (output, found) = verify(&worker, &["--sample", "3000"]);
            assert_eq!((output.status.code(), differing(&found)), (Some(1), vec![(table.to_owned(), id.clone())]));
        }
        by_hand.execute(&update, (&id, before)).unwrap();
    }
    // One row is missing, and one row is too many.
    let by_hand = database.write();
    let id = database.texts("SELECT min(id) FROM metrics").remove(0);
    by_hand.execute_batch("CREATE TABLE kept AS SELECT * FROM metrics").unwrap();
    by_hand.execute("DELETE FROM metrics WHERE id = ?1", [&id]).unwrap();
    by_hand.execute("INSERT INTO user_activity (id, user_id, date, first_seen_at, last_seen_at) VALUES ('x', 'x', 'x', 'x', 'x')", []).unwrap();
    let (_, found) = verify(&worker, &[]);
    assert_eq!(differing(&found), [("metrics".to_owned(), id), ("user_activity".to_owned(), "x".to_owned())]);
    let text = worker.command().arg("verify").output().unwrap();
    let said = String::from_utf8(text.stdout).unwrap();
    assert!(said.contains("DIFFERS  user_activity: id x: the database has this row"), "{said}");
    by_hand.execute_batch("DELETE FROM user_activity WHERE id = 'x'; INSERT INTO metrics SELECT * FROM kept k WHERE NOT EXISTS (SELECT 1 FROM metrics m WHERE m.id = k.id); DROP TABLE kept").unwrap();
    assert!(verify(&worker, &["--from", "database"]).0.status.success());

    // Another configuration than the database's own gives no difference: `verify` refuses it.
    std::fs::write(folder.path().join("other.toml"), "limits.session_timeout = '1m'").unwrap();
    let other = worker.command().args(["--config", "other.toml", "verify"]).output().unwrap();
    assert_eq!(other.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&other.stderr).contains("another configuration"));
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains(".verify")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_is_verified_while_messages_flow_and_dead_letters_are_applied() {
    let seed = seed();
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("streamgauge.toml"), format!("limits.max_future = '1m'\n{CONFIG}")).unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    let early = |n: u32| {
        format!(
            r#"{{"id":"early{n}","event_type":"track","event_name":"n1","user_id":"u1","timestamp":"2090-01-01T00:00:00Z"}}"#
        )
    };
    let mut messages = Traffic::new(seed).take_messages(80_000);
    messages.extend((0..200).map(|n| ("analytics.events".to_owned(), early(n).into_bytes())));
    messages.extend(Traffic::new(seed ^ 7).take_messages(40_000));
    let publishing = tokio::spawn(async move { publish_all(&jetstream, messages).await });
    let database = worker.database();
    wait_for("some", || database.applied() > 2_000).await;
    let (output, found) = verify(&worker, &[]);
    assert!(output.status.success(), "{found} {}", String::from_utf8_lossy(&output.stderr));
    worker.applied(publishing.await.unwrap()).await;

    // The dead letters lie in the middle of the stream, and are applied at its end.
    worker.stop().await;
    std::fs::write(folder.path().join("streamgauge.toml"), format!("limits.max_future = '36500d'\n{CONFIG}")).unwrap();
    worker.start_reading().await;
    let mut verifying = worker.command().args(["verify"]).spawn().unwrap();
    let retried =
        worker.command().args(["dlq", "retry", "--reason", "timestamp_in_future", "--json"]).output().unwrap();
    assert!(String::from_utf8_lossy(&retried.stdout).contains("\"applied\":200"), "{retried:?}");
    assert!(exit_of(&mut verifying).await.success());
    assert!(verify(&worker, &[]).0.status.success());
    let before = worker.digest();
    let rebuilt = worker.command().args(["rebuild"]).output().unwrap();
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    assert_eq!(worker.digest(), before);
}
