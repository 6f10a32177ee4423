//! Moves what is committed from the write-ahead log into the file, beside the writer.
//!
//! A checkpoint within a commit keeps the writer from its next transaction for as long as the disk takes. A thread of its own
//! moves pages while the writer goes on. The log starts over only where all of it is moved when a transaction begins: once
//! it is long, and little of it is left, the writer moves the rest. SQLite then has the disk take the whole file; so the
//! thread has it take what it moved, and the writer waits for the rest alone.

use std::cell::Cell;
use std::fs::File;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;

use super::disk::with_suffix;

/// Pages worth moving: several transactions, so that those which every one of them touches are moved once.
const MANY_PAGES: i64 = 8_000;
/// From here on the log is to start over: 64 MiB.
const LONG_PAGES: i64 = 16_000;
/// So many the writer moves by itself, while messages wait: some milliseconds, and the syncs that SQLite leaves to whoever
/// moves the last page.
const FEW_PAGES: i64 = 500;
/// Where the writer never finds few: 160 MiB. Then SQLite has the commit move them, as it does by default.
pub(in crate::store) const MAX_PAGES: i64 = 40_000;

const _: () = assert!(
    FEW_PAGES < MANY_PAGES && MANY_PAGES < LONG_PAGES && LONG_PAGES < MAX_PAGES,
    "the thread moves pages before the writer has to"
);

const SYNC_EVERY: Duration = Duration::from_millis(50);

/// The thread that moves pages, and whether it does. Dropped, it waits for it.
#[derive(Debug)]
pub(in crate::store) struct Checkpoints {
    /// None when dropped.
    wanted: Option<Sender<()>>,
    done: Receiver<()>,
    is_moving: Cell<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    pub(in crate::store) fn start(database: &Path, durability: Durability) -> rusqlite::Result<Self> {
        let mut mover = PageMover::open(database, durability)?;
        let (wanted, requests) = channel();
        let (tell, done) = channel();
        let thread = std::thread::Builder::new().name("checkpoints".into()).spawn(move || {
            for () in requests {
                if let Err(error) = mover.move_pages() {
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
    pub(in crate::store) fn after_commit(&self, writer: &Connection) -> rusqlite::Result<()> {
        if self.is_moving.get() && self.done.try_recv() == Err(TryRecvError::Empty) {
            return Ok(());
        }
        self.is_moving.set(false);
        let Log { pages, left } = checkpoint(writer, "NOOP")?;
        // The longer the log, the more: a transaction of a backlog is never few pages.
        if pages >= LONG_PAGES && left <= FEW_PAGES + (pages - LONG_PAGES) / 4 {
            checkpoint(writer, "PASSIVE")?;
        } else if left >= MANY_PAGES || pages >= LONG_PAGES {
            self.is_moving.set(self.wanted.as_ref().is_some_and(|wanted| wanted.send(()).is_ok()));
        }
        Ok(())
    }
}

/// What a power cut may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Durability {
    /// The last transactions at most.
    Durable,
    /// Everything: it is built anew then.
    Volatile,
}

/// What the thread has.
struct PageMover {
    connection: Connection,
    database: PathBuf,
    durability: Durability,
    /// The log and the file, once they are needed: to have the disk take what is written.
    files: Option<(File, ManuallyDrop<File>)>,
}

impl PageMover {
    fn open(database: &Path, durability: Durability) -> rusqlite::Result<Self> {
        let connection = Connection::open(database)?;
        let synchronous = if durability == Durability::Durable { "NORMAL" } else { "OFF" };
        connection.pragma_update(None, "synchronous", synchronous)?;
        Ok(Self { connection, database: database.to_owned(), durability, files: None })
    }

    /// Moves pages until few are left, or the writer commits them faster.
    fn move_pages(&mut self) -> rusqlite::Result<()> {
        let mut left_before = i64::MAX;
        loop {
            self.move_once()?;
            let left = checkpoint(&self.connection, "NOOP")?.left;
            if left <= FEW_PAGES || left > left_before / 4 * 3 {
                return Ok(());
            }
            left_before = left;
        }
    }

    fn move_once(&mut self) -> rusqlite::Result<()> {
        if self.durability == Durability::Durable && self.files.is_none() {
            let log = File::open(with_suffix(&self.database, "-wal"));
            self.files = log.and_then(|log| Ok((log, open_kept(&self.database)?))).ok();
        }
        let Some((log, file)) = &self.files else { return checkpoint(&self.connection, "PASSIVE").map(drop) };
        while_synced(&[log, file], || checkpoint(&self.connection, "PASSIVE"))?;
        // Where it fails, whoever moves the last page is told.
        let _ = file.sync_data();
        Ok(())
    }
}

/// A database that stays open: to close it would take away the locks that SQLite has on it in this process (POSIX).
pub(in crate::store) fn open_kept(database: &Path) -> std::io::Result<ManuallyDrop<File>> {
    File::open(database).map(ManuallyDrop::new)
}

/// Does something that writes to files, and has the disk take it meanwhile: whoever has to wait for that waits less.
pub(in crate::store) fn while_synced<T>(files: &[&File], work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let (working, is_done) = channel::<()>();
        let syncing = move || {
            while is_done.recv_timeout(SYNC_EVERY) == Err(RecvTimeoutError::Timeout) {
                for file in files {
                    let _ = file.sync_data();
                }
            }
        };
        // Where there is no thread to be had, it is synced in the end.
        let _ = std::thread::Builder::new().name("syncs".into()).spawn_scoped(scope, syncing);
        let result = work();
        drop(working);
        result
    })
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
        let checkpoints = Checkpoints::start(&database, Durability::Volatile).unwrap();
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
