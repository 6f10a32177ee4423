use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use crate::laws::people_config::CONFIG;
use crate::support::{NatsServer, Traffic, Worker, publish_all, seed, wait_for};

/// Copies a database, in one of several ways, while the worker writes to it.
fn copy(how: &str, from: &Path, to: &Path) {
    match how {
        "VACUUM INTO" => {
            Connection::open(from).unwrap().execute("VACUUM INTO ?1", [to.to_str()]).unwrap();
        }
        "backup API" => {
            let (from, mut to) = (Connection::open(from).unwrap(), Connection::open(to).unwrap());
            let backup = rusqlite::backup::Backup::new(&from, &mut to).unwrap();
            backup.run_to_completion(1_000, Duration::ZERO, None).unwrap();
        }
        // A program that copies pages by itself: the lock keeps all others from writing during the copy.
        "file copy" => {
            let connection = Connection::open(from).unwrap();
            connection.busy_timeout(Duration::from_secs(10)).unwrap();
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
            connection.execute_batch("BEGIN IMMEDIATE").unwrap();
            std::fs::copy(from, to).unwrap();
            connection.execute_batch("ROLLBACK").unwrap();
        }
        _ => unreachable!(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_any_moment_catches_up_to_the_same_digest() {
    let seed = seed();
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("streamgauge.toml"), CONFIG).unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    let mut traffic = Traffic::new(seed);
    let database = worker.database();
    let mut copies = Vec::new();
    for (how, after) in [("VACUUM INTO", 2_000), ("backup API", 17_000), ("file copy", 32_000)] {
        let (messages, jetstream) = (traffic.take_messages(15_000), jetstream.clone());
        tokio::spawn(async move { publish_all(&jetstream, messages).await });
        wait_for("some", || database.applied() > after).await;
        let at = folder.path().join(how.replace(' ', "-"));
        copy(how, &database.0, &at);
        copies.push((how, at));
    }
    wait_for("the rest", || database.applied() >= 45_000).await;
    let last_seq = publish_all(&jetstream, traffic.take_messages(2_000)).await;
    worker.applied(last_seq).await;
    let expected = worker.digest();
    worker.stop().await;

    // Each copy takes the place of the database, as in a restore.
    for (how, copy) in copies {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(folder.path().join(format!("streamgauge.db{suffix}")));
        }
        std::fs::copy(copy, &database.0).unwrap();
        assert!(database.applied() < last_seq, "{how}: nothing to catch up with");
        worker.start();
        worker.applied(last_seq).await;
        assert_eq!(worker.digest(), expected, "{how}");
        database.assert_account_balances();
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_restored_database_cannot_catch_up_with_is_in_the_gap_ledger() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let jetstream = server.jetstream().await;
    let mut traffic = Traffic::new(seed());
    let kept = publish_all(&jetstream, traffic.take_messages(1_000)).await;
    worker.applied(kept).await;
    let backup = folder.path().join("backup.db");
    copy("VACUUM INTO", &worker.database().0, &backup);
    let gone = publish_all(&jetstream, traffic.take_messages(1_000)).await;
    worker.applied(gone).await;
    worker.stop().await;
    jetstream.get_stream("ANALYTICS").await.unwrap().purge().sequence(gone + 1).await.unwrap();
    let last_seq = publish_all(&jetstream, traffic.take_messages(1_000)).await;

    let restored = tempfile::tempdir().unwrap();
    std::fs::copy(&backup, restored.path().join("streamgauge.db")).unwrap();
    let mut other = Worker::new(restored.path(), &server.url());
    other.start();
    other.applied(last_seq).await;
    let database = other.database();
    let gaps = "SELECT first_seq || '-' || last_seq || ' ' || reason FROM _gaps";
    assert_eq!(database.texts(gaps), [format!("{}-{gone} expired_or_purged", kept + 1)]);
    database.assert_account_balances();
    let status = other.command().arg("status").output().unwrap();
    assert!(
        String::from_utf8_lossy(&status.stdout).contains(&format!("{} to {gone}, expired_or_purged, found", kept + 1))
    );
    // The database equals what its messages make, and a rebuild gives the same result.
    let before = other.digest();
    assert!(other.command().arg("verify").output().unwrap().status.success());
    assert!(other.command().args(["verify", "--sample"]).output().unwrap().status.success());
    assert!(other.command().arg("rebuild").output().unwrap().status.success());
    assert_eq!((other.digest(), database.texts(gaps).len()), (before, 1));
}
