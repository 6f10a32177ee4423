//! Moves what is committed from the write-ahead log into the file, beside the writer.
//!
//! A checkpoint within a commit keeps the writer from its next transaction for as long as the disk takes. A thread of its own
//! moves pages while the writer goes on. The log starts over only where all of it is moved when a transaction begins: once
//! it is long, and little of it is left, the writer moves the rest.

use std::cell::Cell;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::Writer;

/// Pages worth moving: several transactions, so that those which every one of them touches are moved once.
const MANY_PAGES: i64 = 8_000;
/// From here on the log is to start over: 64 MiB.
const LONG_PAGES: i64 = 16_000;
/// So many the writer moves by itself: some milliseconds, and the sync of the file that the thread left to whoever moves the
/// last page. A transaction of a large backlog is longer than this: then the log starts over by `MAX_PAGES` alone.
const FEW_PAGES: i64 = 4_000;
/// Where the writer never finds few: 160 MiB. Then SQLite has the commit move them, as it does by default.
pub(in crate::store) const MAX_PAGES: i64 = 40_000;

/// The thread that moves pages, and whether it does. Dropped, it waits for it.
#[derive(Debug)]
pub(super) struct Checkpoints {
    /// None when dropped.
    wanted: Option<Sender<()>>,
    done: Receiver<()>,
    is_moving: Cell<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    pub(super) fn start(database: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open(database)?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        let (wanted, requests) = channel();
        let (tell, done) = channel();
        let thread = std::thread::Builder::new().name("checkpoints".into()).spawn(move || {
            for () in requests {
                if let Err(error) = checkpoint(&connection, "PASSIVE") {
                    tracing::warn!("the write-ahead log grows, since it cannot be moved into the database: {error}");
                }
                if tell.send(()).is_err() {
                    return;
                }
            }
        });
        let thread = thread.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        Ok(Self { wanted: Some(wanted), done, is_moving: Cell::new(false), thread: Some(thread) })
    }

    /// Has pages moved where there are enough. To be called after commits, on the connection that committed.
    pub(super) fn after_commit(&self, writer: &Connection) -> rusqlite::Result<()> {
        if self.is_moving.get() && self.done.try_recv() == Err(TryRecvError::Empty) {
            return Ok(());
        }
        self.is_moving.set(false);
        let Log { pages, left } = checkpoint(writer, "NOOP")?;
        if pages >= LONG_PAGES && left <= FEW_PAGES {
            checkpoint(writer, "PASSIVE")?;
        } else if left >= MANY_PAGES || pages >= LONG_PAGES {
            self.is_moving.set(self.wanted.as_ref().is_some_and(|wanted| wanted.send(()).is_ok()));
        }
        Ok(())
    }
}

impl Writer {
    /// Has the write-ahead log moved into the file, where it is worth it. What cannot be moved stays, and is tried again.
    pub(super) fn move_log(&self) {
        let Some(checkpoints) = &self.checkpoints else { return };
        if let Err(error) = checkpoints.after_commit(&self.connection) {
            tracing::warn!("the write-ahead log grows, since it cannot be moved into the database: {error}");
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            // It does not panic.
            let _ = thread.join();
        }
    }
}

struct Log {
    pages: i64,
    /// Of these, not in the file yet.
    left: i64,
}

fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<Log> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        let (pages, moved): (i64, i64) = (row.get(1)?, row.get(2)?);
        Ok(Log { pages, left: pages - moved })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_starts_over() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("a.db");
        let writer = Connection::open(&database).unwrap();
        writer
            .execute_batch(
                "PRAGMA page_size = 512; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; \
                 PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (data BLOB)",
            )
            .unwrap();
        let checkpoints = Checkpoints::start(&database).unwrap();
        let (mut longest, mut last, mut starts_over) = (0, 0, 0);
        for _ in 0..200 {
            writer.execute("INSERT INTO t VALUES (zeroblob(200000))", []).unwrap();
            checkpoints.after_commit(&writer).unwrap();
            // A writer that has other things to do than to write zeros.
            if checkpoints.is_moving.replace(false) {
                checkpoints.done.recv().unwrap();
            }
            let Log { pages, .. } = checkpoint(&writer, "NOOP").unwrap();
            longest = longest.max(pages);
            starts_over += u32::from(pages < last);
            last = pages;
        }
        // 80,000 pages came.
        assert!(starts_over >= 3 && longest < LONG_PAGES + MANY_PAGES, "{starts_over} {longest}");
        drop(checkpoints);
        drop(writer);
        assert!(!database.with_extension("db-wal").exists());
    }
}
