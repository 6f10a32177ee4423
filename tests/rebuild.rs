use std::process::{Command, Output};

use crate::laws::people_config::CONFIG;
use crate::support::{Database, NatsServer, Random, Traffic, Worker, publish_all, seed, wait_for};

fn run(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output, said)
}

fn succeed(command: &mut Command) -> String {
    let (output, said) = run(command);
    assert!(output.status.success(), "{said}");
    said
}

/// Returns a worker that has read random traffic, with funnels and widgets, and the last sequence.
async fn busy(server: &NatsServer, folder: &std::path::Path, seed: u64, count: usize) -> (Worker, u64) {
    std::fs::write(folder.join("streamgauge.toml"), CONFIG).unwrap();
    let mut worker = Worker::new(folder, &server.url());
    worker.start_reading().await;
    let last_seq = publish_all(&server.jetstream().await, Traffic::new(seed).take_messages(count)).await;
    worker.applied(last_seq).await;
    (worker, last_seq)
}

/// Asserts that a rebuild keeps the tables, views and triggers of other programs.
fn assert_others_are_carried_over(database: &Database) {
    assert_eq!(
        (database.texts("SELECT text FROM notes"), database.count("forged WHERE event_name = 'forged'")),
        (vec!["mine".to_owned()], 0)
    );
    let by_hand = database.write();
    by_hand.execute_batch("INSERT INTO sqliteish DEFAULT VALUES; INSERT INTO notes VALUES ('more')").unwrap();
    assert_eq!(database.texts("SELECT cast(n AS TEXT) FROM sqliteish"), ["4"]);
    assert_eq!(database.texts("SELECT text FROM noted"), ["more"], "a rebuild fires no trigger of another program");
    assert_eq!(database.texts("SELECT cast(user_version AS TEXT) FROM pragma_user_version"), ["7"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_is_installed_while_the_worker_writes_and_readers_read() {
    let seed = seed();
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (worker, _) = busy(&server, folder.path(), seed, 60_000).await;
    let database = worker.database();
    // Somebody changed rows of several tables, and the states behind them.
    let by_hand = database.write();
    by_hand
        .execute_batch(
            "UPDATE user_activity SET event_count = event_count + 1 WHERE user_id = 'u7'; \
             DELETE FROM metric_aggregates WHERE tags = '{\"u\":\"9\"}'; DELETE FROM _rollup_states; \
             UPDATE analytics_events SET event_name = 'forged' WHERE stream_seq < 20; \
             DELETE FROM analytics_events WHERE stream_seq BETWEEN 100 AND 150; \
             CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('mine'); \
             CREATE TABLE sqliteish (n INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO sqliteish VALUES (3); \
             DELETE FROM sqliteish; CREATE TABLE noted (text TEXT); PRAGMA user_version = 7; \
             CREATE TRIGGER noting AFTER INSERT ON notes BEGIN INSERT INTO noted VALUES (new.text); END; \
             CREATE INDEX notes_text ON notes(text); CREATE VIEW forged AS SELECT * FROM analytics_events",
        )
        .unwrap();
    drop(by_hand);
    // Messages keep arriving and readers keep reading. A reader never sees fewer rows than before.
    let jetstream = server.jetstream().await;
    let more = tokio::spawn(async move { publish_all(&jetstream, Traffic::new(seed ^ 1).take_messages(60_000)).await });
    let watching = {
        let (database, least) = (database.clone(), i64::try_from(database.count("analytics_events")).unwrap());
        let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let ends = std::sync::Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            let (mut reads, mut last) = (0, least);
            let connection = database.read();
            while !ends.load(std::sync::atomic::Ordering::Relaxed) {
                let sql =
                    "SELECT (SELECT count(*) FROM analytics_events), (SELECT sum(event_count) FROM user_activity)";
                let (rows, counted): (i64, i64) =
                    connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
                assert!(
                    rows >= last && counted >= last && counted < rows + 200,
                    "{rows} rows, {counted} counted, after {last}"
                );
                (reads, last) = (reads + 1, rows.min(counted));
            }
            reads
        });
        (done, thread)
    };
    let said = succeed(worker.command().arg("rebuild"));
    assert!(said.contains("in the place of the old one"), "{said}");
    let last_seq = more.await.unwrap();
    worker.applied(last_seq).await;
    watching.0.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(watching.1.join().unwrap() > 10);
    assert!(worker.log().contains("the database was rebuilt"), "{}", worker.log());

    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("streamgauge.toml"), CONFIG).unwrap();
    let mut calm = worker.twin(other.path());
    calm.start();
    calm.applied(last_seq).await;
    assert_eq!(worker.digest(), calm.digest());
    let schema = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT IN ('notes', 'notes_text', 'forged', 'sqliteish', 'noted', 'noting', 'sqlite_sequence') ORDER BY name";
    assert_eq!(database.texts(schema), calm.database().texts(schema));
    assert_others_are_carried_over(&database);
    database.assert_account_balances();
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains(".shadow")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_continues_after_a_kill_and_installs_itself_without_a_worker() {
    let seed = seed();
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (mut worker, last_seq) = busy(&server, folder.path(), seed, 60_000).await;
    let database = worker.database();
    let before = worker.digest();
    worker.stop().await;
    database.write().execute_batch("DELETE FROM analytics_sessions; DELETE FROM _session_states").unwrap();
    let shadow = Database(folder.path().join("streamgauge.db.shadow"));
    let mut random = Random(seed);
    let mut reached = 0;
    loop {
        let mut rebuild = worker.command().arg("rebuild").spawn().unwrap();
        let until = reached + 1 + random.below(20_000);
        wait_for("some of it", || shadow.applied() >= until || rebuild.try_wait().unwrap().is_some()).await;
        let _ = rebuild.kill();
        if rebuild.wait().unwrap().success() {
            break;
        }
        let stands = shadow.applied();
        assert!(stands >= reached || !shadow.0.exists(), "{stands} after {reached}");
        reached = stands;
        if reached >= last_seq {
            succeed(worker.command().arg("rebuild"));
            break;
        }
    }
    assert_eq!(worker.digest(), before);
    let said = succeed(worker.command().args(["rebuild", "--from", "database"]));
    assert!(said.contains("rebuilt: 0 rows differed"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_rows_replace_messages_that_the_stream_no_longer_holds() {
    let seed = seed();
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (mut worker, last_seq) = busy(&server, folder.path(), seed, 20_000).await;
    let jetstream = server.jetstream().await;
    let stream = jetstream.get_stream("ANALYTICS").await.unwrap();
    stream.purge().sequence(5_000).await.unwrap();
    for seq in (6_000..6_500).step_by(3).chain(last_seq - 5..=last_seq) {
        stream.delete_message(seq).await.unwrap();
    }
    let database = worker.database();
    let before = worker.digest();
    database.write().execute_batch("DELETE FROM feature_usage; UPDATE analytics_sessions SET event_count = 0").unwrap();
    succeed(worker.command().arg("rebuild"));
    assert_eq!(worker.digest(), before);

    // Rebuilds into separate files, without a worker: of everything, of a part, and from the stored rows alone.
    worker.stop().await;
    let into = |name: &str, args: &[&str]| {
        let file = Database(folder.path().join(name));
        succeed(worker.command().args(["rebuild", "--into", name]).args(args));
        // The file is complete without a write-ahead log, so a copy of it needs no other file.
        assert!(!folder.path().join(format!("{name}-wal")).exists(), "{name}");
        file
    };
    for (name, args) in [("whole.db", &[][..]), ("rows.db", &["--from", "database"])] {
        let file = into(name, args);
        assert_eq!(worker.digest_of(&file), before, "{name}");
        assert_eq!(file.count("_rejections"), database.count("_rejections"));
        assert_eq!(
            (file.count("_rejections WHERE published = 0"), file.count("_dashboard_outbox"), file.count("_control")),
            (0, 0, 0)
        );
    }
    let part = into("part.db", &["--until", "7000"]);
    let part_of_rows = into("part-of-rows.db", &["--until", "7000", "--from", "database"]);
    assert_eq!((part.applied(), worker.digest_of(&part)), (7_000, worker.digest_of(&part_of_rows)));
    assert!(part.count("analytics_events") < database.count("analytics_events"));
    let (output, said) = run(worker.command().args(["rebuild", "--into", "part.db"]));
    assert_eq!(output.status.code(), Some(1), "{said}");
    // The file is a normal database: a worker continues with it.
    let path = part.0.display().to_string();
    let mut going_on = Worker::new(folder.path(), &server.url());
    going_on.start_with(&["--database", &path]);
    wait_for("the rest", || part.applied() == last_seq - 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_that_would_lose_a_row_refuses_and_says_which() {
    let seed = seed();
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (mut worker, _) = busy(&server, folder.path(), seed, 2_000).await;
    let database = worker.database();
    let strange = "INSERT INTO analytics_events (id, event_type, event_name, timestamp) \
                   VALUES ('by hand', 't', 'n', '2026-01-01T00:00:00.000Z')";
    database.write().execute_batch(strange).unwrap();
    let before = worker.digest();
    for _ in ["with a worker", "without"] {
        let (output, said) = run(worker.command().arg("rebuild"));
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("would lose this row") && said.contains("by hand"), "{said}");
        if worker.is_running() {
            worker.stop().await;
        }
    }
    assert_eq!(worker.digest(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_with_another_page_size_and_a_column_of_another_program() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (mut worker, _) = busy(&server, folder.path(), seed(), 2_000).await;
    worker.stop().await;
    let database = worker.database();
    let pages = "PRAGMA journal_mode = DELETE; PRAGMA page_size = 8192; VACUUM; PRAGMA journal_mode = WAL";
    database.write().execute_batch(pages).unwrap();
    let before = worker.digest();
    succeed(worker.command().arg("rebuild"));
    assert_eq!(worker.digest(), before);
    database
        .write()
        .execute_batch("ALTER TABLE metrics ADD COLUMN note TEXT; UPDATE metrics SET note = 'mine'")
        .unwrap();
    let (output, said) = run(worker.command().arg("rebuild"));
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("column note of metrics"), "{said}");
    succeed(worker.command().args(["rebuild", "--from", "database"]));
    assert_eq!(database.count("metrics WHERE note IS NULL"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_into_a_file_without_a_database_continues_after_a_kill() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (worker, _) = busy(&server, folder.path(), seed(), 60_000).await;
    let file = Database(folder.path().join("file.db"));
    let rebuild = || {
        let mut command = worker.command();
        command.args(["--database", "none.db", "rebuild", "--into", "file.db"]);
        command
    };
    let mut killed = rebuild().spawn().unwrap();
    wait_for("some of it", || file.applied() > 0).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    let stood = file.applied();
    let (output, said) = run(rebuild().args(["--until", "1"]));
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("stands at {stood} already")), "{said}");
    let said = succeed(&mut rebuild());
    assert!(said.contains(&format!("after={stood}")), "{said}");
    assert_eq!(worker.digest_of(&file), worker.digest());
    // The file is finished and no longer belongs to a rebuild, so the command refuses it.
    assert_eq!(run(&mut rebuild()).0.status.code(), Some(1));

    // If another configuration began the file, the rebuild starts again from nothing.
    std::fs::remove_file(&file.0).unwrap();
    let mut killed = rebuild().env("STREAMGAUGE_LIMITS__MAX_NAME_CHARS", "1").spawn().unwrap();
    wait_for("some of it", || file.applied() > 0).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(succeed(&mut rebuild()).contains("after=0"));
    assert_eq!(worker.digest_of(&file), worker.digest());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_with_another_configuration_undoes_nothing() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (mut worker, _) = busy(&server, folder.path(), seed(), 2_000).await;
    worker.stop().await;
    let before = worker.digest();
    let is_refused = |args: &[&str], what: &str| {
        let (output, said) = run(worker.command().args(args));
        assert_eq!(output.status.code(), Some(1), "{args:?} {said}");
        assert!(said.contains(what) && said.contains("--config"), "{args:?} {said}");
        assert_eq!(worker.digest(), before, "{args:?}");
    };
    let file = folder.path().join("streamgauge.toml");
    std::fs::rename(&file, folder.path().join("mine.toml")).unwrap();
    for args in [
        &["rebuild"][..],
        &["rebuild", "--only", "rollups"],
        &["rebuild", "--from", "database"],
        &["dlq", "retry", "--all"],
        &["dlq", "drop", "--all"],
        &["verify"],
        &["verify", "--sample"],
    ] {
        is_refused(args, "funnel ");
    }
    std::fs::write(&file, format!("limits.session_timeout = '1m'\n{CONFIG}")).unwrap();
    is_refused(&["rebuild", "--only", "rollups"], "sessions");
    // The same numbers, but one of them counts something else.
    let other = CONFIG.replace("n1 = 'events.count{event_name=n1}'", "n1 = 'events.count{event_name=n4}'");
    std::fs::write(&file, other).unwrap();
    is_refused(&["dlq", "drop", "--all"], "series ");
    is_refused(&["verify"], "series ");
    succeed(worker.command().args(["--config", "mine.toml", "rebuild", "--only", "rollups"]));
    assert_eq!(worker.digest(), before);
}
