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

/// The one connection that writes to a file. Dropped, it moves the write-ahead log into the file, as far as readers let
/// it; that of a shadow database it leaves.
#[derive(Debug)]
pub(in crate::store) struct DatabaseFile {
    connection: Connection,
    /// None once it is dropped, or made durable.
    checkpoints: Option<Checkpoints>,
    durability: Durability,
    path: PathBuf,
    stop_waiting: Arc<AtomicBool>,
}

impl DatabaseFile {
    /// Opens a migrated live database.
    ///
    /// `synchronous = NORMAL` in WAL mode may lose the last transactions in a power cut, never a part of one. That is safe
    /// here because the position is in the file: the stream still has what follows it.
    pub(in crate::store) fn open_live(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(MAX_PREPARED_STATEMENTS);
        set_live_pragmas(&connection)?;
        Self::of(connection, path, Durability::Durable)
    }

    /// Takes a connection that is set up.
    pub(in crate::store) fn of(
        connection: Connection,
        path: &Path,
        durability: Durability,
    ) -> Result<Self, StoreError> {
        let checkpoints = Some(Checkpoints::start(path, durability)?);
        Ok(Self { connection, checkpoints, durability, path: path.to_owned(), stop_waiting: Arc::default() })
    }

    /// Its path.
    pub(in crate::store) fn path(&self) -> &Path {
        &self.path
    }

    /// For reads, and for what is no transaction of a batch.
    pub(in crate::store) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(in crate::store) fn connection_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// When set, a transaction that cannot begin because another process holds SQLite's write lock fails at once.
    pub(in crate::store) fn stop_waiting_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop_waiting)
    }

    /// Begins IMMEDIATE, so that what is read inside is what is written on. Waits while another process writes.
    pub(in crate::store) fn begin_transaction(&self) -> Result<Transaction<'_>, StoreError> {
        let waiting_since = Instant::now();
        let mut warnings = 0;
        loop {
            // `unchecked` takes a shared borrow, which a loop that returns needs. A second one inside would fail.
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
                    "another process holds SQLite's write lock; messages wait in the stream until it lets go"
                );
            }
        }
    }

    /// Moves the write-ahead log into the file, where it is worth it. What cannot be moved stays, and is tried again.
    pub(in crate::store) fn move_log(&self) {
        let Some(checkpoints) = &self.checkpoints else { return };
        if let Err(error) = checkpoints.after_commit(&self.connection) {
            tracing::warn!("the write-ahead log grows, since it cannot be moved into the database: {error}");
        }
    }

    /// Does something while another database is attached under a name.
    pub(in crate::store) fn attached<T>(
        &self,
        other: &Path,
        name: &str,
        work: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // Should an earlier one have failed.
        let _ = self.connection.execute(&format!("DETACH {name}"), []);
        self.connection.execute(&format!("ATTACH ?1 AS {name}"), [attachable(other)?])?;
        let result = work(&self.connection);
        if let Err(error) = self.connection.execute(&format!("DETACH {name}"), []) {
            tracing::warn!("{}: {error}", other.display());
        }
        result
    }

    /// What was written is on the disk, and in the file itself.
    ///
    /// # Errors
    /// Where it cannot be written, or somebody reads it: then a part of it stays in its log.
    pub(in crate::store) fn make_durable(&mut self) -> Result<(), StoreError> {
        // It would be in the way of the last checkpoint.
        self.checkpoints = None;
        self.durability = Durability::Durable;
        self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        let is_busy: bool = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        let error = |source| StoreError::Io { path: self.path.clone(), source };
        if is_busy {
            let why = "another program reads it, so a part of it stays in the -wal file beside it; try again";
            return Err(error(std::io::Error::other(why)));
        }
        open_kept(&self.path).and_then(|file| file.sync_all()).map_err(error)?;
        File::open(folder_of(&self.path)).and_then(|folder| folder.sync_all()).map_err(error)
    }
}

impl Drop for DatabaseFile {
    fn drop(&mut self) {
        // It would hold SQLite's lock.
        self.checkpoints = None;
        // Its log goes with it, or whoever goes on with it reads it.
        if self.durability == Durability::Volatile {
            return;
        }
        if let Err(error) = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::debug!("the WAL stays, and is read at the next start: {error}");
        }
    }
}

/// One transaction on a file that is built aside.
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
