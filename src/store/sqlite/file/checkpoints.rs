//! Moves committed pages from the write-ahead log into the file, on a thread beside the writer.
//!
//! A checkpoint within a commit would delay the writer's next transaction until the disk is done. So a second thread
//! moves pages while the writer goes on. The log starts over only if all of it is in the file when a transaction
//! begins. Once the log is long and the thread has moved all but a few of its pages, the writer therefore moves the
//! rest itself. SQLite then syncs the whole file. So the thread syncs the pages that it moved, and the writer waits
//! only for the rest.

use std::cell::Cell;
use std::fs::File;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;

use super::disk::with_suffix;

/// How many pages are worth moving: those of several transactions, so that a page that every transaction touches is
/// moved once.
const MANY_PAGES: i64 = 8_000;
/// From this length on, the log should start over: 64 MiB.
const LONG_PAGES: i64 = 16_000;
/// How many pages the writer moves by itself, while messages wait. This takes some milliseconds, and the syncs that
/// SQLite leaves to the connection that moves the last page.
const FEW_PAGES: i64 = 500;
/// The limit if the writer never finds few pages left: 160 MiB. From here on, SQLite moves pages within the commit,
/// as it does by default.
pub(in crate::store) const MAX_PAGES: i64 = 40_000;

const _: () = assert!(
    FEW_PAGES < MANY_PAGES && MANY_PAGES < LONG_PAGES && LONG_PAGES < MAX_PAGES,
    "the thread moves pages before the writer has to"
);

const SYNC_EVERY: Duration = Duration::from_millis(50);

/// The thread that moves pages, and whether it is moving pages now. When dropped, waits for the thread.
#[derive(Debug)]
pub(in crate::store) struct Checkpoints {
    /// `None` when dropped.
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
                    tracing::warn!("the write-ahead log grows because it cannot be moved into the database: {error}");
                }
                if tell.send(()).is_err() {
                    return;
                }
            }
        });
        let thread = thread.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        Ok(Self { wanted: Some(wanted), done, is_moving: Cell::new(false), thread: Some(thread) })
    }

    /// Starts to move pages if there are enough of them. Call it after a commit, on the connection that committed.
    pub(in crate::store) fn after_commit(&self, writer: &Connection) -> rusqlite::Result<()> {
        if self.is_moving.get() && self.done.try_recv() == Err(TryRecvError::Empty) {
            return Ok(());
        }
        self.is_moving.set(false);
        let Log { pages, left } = checkpoint(writer, "NOOP")?;
        // The longer the log, the more pages the writer moves: a transaction of a backlog never has few pages.
        if pages >= LONG_PAGES && left <= FEW_PAGES + (pages - LONG_PAGES) / 4 {
            checkpoint(writer, "PASSIVE")?;
        } else if left >= MANY_PAGES || pages >= LONG_PAGES {
            self.is_moving.set(self.wanted.as_ref().is_some_and(|wanted| wanted.send(()).is_ok()));
        }
        Ok(())
    }
}

/// What a power cut may destroy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Durability {
    /// At most the last transactions.
    Durable,
    /// Everything: the file is rebuilt then.
    Volatile,
}

/// The state of the thread.
struct PageMover {
    connection: Connection,
    database: PathBuf,
    durability: Durability,
    /// The log and the file, opened when first needed, to sync them.
    files: Option<(File, ManuallyDrop<File>)>,
}

impl PageMover {
    fn open(database: &Path, durability: Durability) -> rusqlite::Result<Self> {
        let connection = Connection::open(database)?;
        let synchronous = if durability == Durability::Durable { "NORMAL" } else { "OFF" };
        connection.pragma_update(None, "synchronous", synchronous)?;
        Ok(Self { connection, database: database.to_owned(), durability, files: None })
    }

    /// Moves pages until few are left, or until the writer commits pages nearly as fast.
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
        // If this sync fails, the connection that moves the last page gets the error.
        let _ = file.sync_data();
        Ok(())
    }
}

/// Opens a database file that is never closed. Closing it would release the locks that SQLite has on the file in this
/// process (POSIX).
pub(in crate::store) fn open_kept(database: &Path) -> std::io::Result<ManuallyDrop<File>> {
    File::open(database).map(ManuallyDrop::new)
}

/// Does work that writes to files, and syncs these files meanwhile, so that the final sync takes less time.
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
        // If no thread can be started, the files are synced only in the end.
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
            // The thread does not panic.
            let _ = thread.join();
        }
    }
}

struct Log {
    pages: i64,
    /// Pages of the log that are not in the file yet.
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
            // Waits for the thread, like a writer that does more than write zeros.
            if checkpoints.is_moving.replace(false) {
                checkpoints.done.recv().unwrap();
            }
            let Log { pages, .. } = checkpoint(&writer, "NOOP").unwrap();
            longest = longest.max(pages);
            starts_over += u32::from(pages < last);
            last = pages;
        }
        // 80,000 pages were written.
        assert!(starts_over >= 3 && longest < LONG_PAGES + MANY_PAGES, "{starts_over} {longest}");
        drop(checkpoints);
        drop(writer);
        assert!(!database.with_extension("db-wal").exists());
    }
}
