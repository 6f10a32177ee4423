//! The one connection that writes to a file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::checkpoints::{Checkpoints, Durability, open_kept};
use super::disk::{attachable, folder_of};
use super::pragmas::{BUSY_TIMEOUT, MAX_PREPARED_STATEMENTS, set_live_pragmas};
use crate::store::error::StoreError;

const WARN_BUSY_EVERY: Duration = Duration::from_secs(5);

/// The one connection that writes to a file. When dropped, moves the write-ahead log into the file, as far as readers
/// allow. The write-ahead log of a shadow database stays as it is.
#[derive(Debug)]
pub(in crate::store) struct DatabaseFile {
    connection: Connection,
    /// `None` once the file is dropped or made durable.
    checkpoints: Option<Checkpoints>,
    durability: Durability,
    path: PathBuf,
    stop_waiting: Arc<AtomicBool>,
}

impl DatabaseFile {
    /// Opens a migrated live database.
    ///
    /// With `synchronous = NORMAL` in WAL mode, a power cut may lose the last transactions, but never a part of a
    /// transaction. This is safe here because the position is in the same file: the stream still has the messages
    /// after that position.
    pub(in crate::store) fn open_live(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(MAX_PREPARED_STATEMENTS);
        set_live_pragmas(&connection)?;
        Self::of(connection, path, Durability::Durable)
    }

    /// Takes over a connection that is already set up.
    pub(in crate::store) fn of(
        connection: Connection,
        path: &Path,
        durability: Durability,
    ) -> Result<Self, StoreError> {
        let checkpoints = Some(Checkpoints::start(path, durability)?);
        Ok(Self { connection, checkpoints, durability, path: path.to_owned(), stop_waiting: Arc::default() })
    }

    /// Returns the path of the file.
    pub(in crate::store) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the connection, for reads and for work outside the transaction of a batch.
    pub(in crate::store) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(in crate::store) fn connection_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Returns the flag that ends waiting. While the flag is set, a transaction fails at once if another process
    /// holds SQLite's write lock.
    pub(in crate::store) fn stop_waiting_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop_waiting)
    }

    /// Begins an IMMEDIATE transaction, so that no other process writes between its reads and its writes. Waits while
    /// another process writes.
    pub(in crate::store) fn begin_transaction(&self) -> Result<Transaction<'_>, StoreError> {
        let waiting_since = Instant::now();
        let mut warnings = 0;
        loop {
            // `Transaction::new` would borrow the connection for the whole loop. This one does not, and SQLite refuses
            // a transaction within another one.
            match Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate) {
                Ok(tx) => return Ok(tx),
                Err(error) if is_busy(&error) => {}
                Err(error) => return Err(error.into()),
            }
            if self.stop_waiting.load(Ordering::Relaxed) {
                return Err(StoreError::Busy);
            }
            if waiting_since.elapsed() >= WARN_BUSY_EVERY * (warnings + 1) {
                warnings += 1;
                tracing::warn!(
                    waited_s = waiting_since.elapsed().as_secs(),
                    "another process holds SQLite's write lock; messages wait in the stream until the lock is free"
                );
            }
        }
    }

    /// Moves the write-ahead log into the file if it is long enough. Pages that cannot be moved stay in the log; a
    /// later call tries again.
    pub(in crate::store) fn move_log(&self) {
        let Some(checkpoints) = &self.checkpoints else { return };
        if let Err(error) = checkpoints.after_commit(&self.connection) {
            tracing::warn!("the write-ahead log grows because it cannot be moved into the database: {error}");
        }
    }

    /// Does work while another database is attached under `name`.
    pub(in crate::store) fn attached<T>(
        &self,
        other: &Path,
        name: &str,
        work: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // An earlier DETACH may have failed.
        let _ = self.connection.execute(&format!("DETACH {name}"), []);
        self.connection.execute(&format!("ATTACH ?1 AS {name}"), [attachable(other)?])?;
        let result = work(&self.connection);
        if let Err(error) = self.connection.execute(&format!("DETACH {name}"), []) {
            tracing::warn!("{}: {error}", other.display());
        }
        result
    }

    /// Moves everything that was written into the file itself, and syncs it to the disk.
    ///
    /// # Errors
    /// Fails if the file cannot be written. Fails also if another program reads it: then a part of the data stays in
    /// the write-ahead log.
    pub(in crate::store) fn make_durable(&mut self) -> Result<(), StoreError> {
        // The checkpoint thread would be in the way of the last checkpoint.
        self.checkpoints = None;
        self.durability = Durability::Durable;
        self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        let is_busy: bool = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        let error = |source| StoreError::Io { path: self.path.clone(), source };
        if is_busy {
            let why = "another program reads the file, so part of the data stays in the -wal file beside it; try again";
            return Err(error(std::io::Error::other(why)));
        }
        open_kept(&self.path).and_then(|file| file.sync_all()).map_err(error)?;
        File::open(folder_of(&self.path)).and_then(|folder| folder.sync_all()).map_err(error)
    }
}

impl Drop for DatabaseFile {
    fn drop(&mut self) {
        // The checkpoint thread would hold SQLite's lock.
        self.checkpoints = None;
        // The write-ahead log is removed with the shadow, or is read by the process that continues the shadow.
        if self.durability == Durability::Volatile {
            return;
        }
        if let Err(error) = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::debug!("the write-ahead log stays, and is read at the next start: {error}");
        }
    }
}

/// Runs one transaction on a connection other than the live writer's.
pub(in crate::store) fn transact<T>(
    connection: &Connection,
    body: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let tx = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let value = body(&tx)?;
    tx.commit()?;
    Ok(value)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
